"""Find the record in a checkpoint, take it out before migrations run, and put it back afterwards.

The place depends on the checkpoint:

- A dict that holds a state dict among other things: under the key ``ckpt_migrate``.
- A bare state dict with torch's ``_metadata``: in ``_metadata``, under the same key. `load_state_dict` only looks up
  names of modules there, so a strict load never meets the record.
- Anything else (a plain dict of tensors, a list, a pickled model): in the archive, beside the pickle, as JSON. Only
  this place does not survive `torch.load` followed by `torch.save`.
"""

from __future__ import annotations

import copy
import json
from collections import OrderedDict
from typing import Any

from anemoi_ckpt_migrate.errors import DamagedRecord, NoPlaceForRecord, NowhereToKeep
from anemoi_ckpt_migrate.record.record import Record, Stash, from_data, stash_of, to_data
from anemoi_ckpt_migrate.storage import RECORD_ENTRY, Checkpoint
from anemoi_ckpt_migrate.storage.tensors.refs import ContentNeeded, is_a, is_stored
from anemoi_ckpt_migrate.tree.paths import KEY

ATTACHMENT = RECORD_ENTRY


def take(tree: Any, attachment: bytes | None) -> Record:
    """Take the record out of a tree.

    Parameters
    ----------
    tree : object
        A checkpoint, just loaded; its record is removed.
    attachment : bytes or None
        The content of the archive's entry `ATTACHMENT`.

    Raises
    ------
    DamagedRecord, NewerRecord
        The record cannot be read.
    """
    return find(tree, attachment) or Record()


def find(tree: Any, attachment: bytes | None) -> Record | None:
    """Take the record out of a tree, as `take` does; None if there is none."""
    return _parsed(remove(tree, attachment))


def read(tree: Any) -> Record | None:
    """Return the record in a tree without removing it; None if there is none.

    Raises
    ------
    DamagedRecord, NewerRecord
        The record cannot be read.
    """
    holder = _holder(tree)
    return None if holder is None else _parsed(holder[KEY])


def remove(tree: Any, attachment: bytes | None) -> Any:
    """Remove the raw data of the record from a tree, and return it; None if there is none."""
    holder = _holder(tree)
    found = None if holder is None else holder.pop(KEY)
    if found is None and attachment is not None:
        try:
            found = json.loads(attachment)
            json.dumps(found, ensure_ascii=False).encode()  # JSON may escape halves of pairs, which no text has
        except (ValueError, RecursionError) as error:
            raise DamagedRecord("it is not JSON") from error
    return found


def unrecorded(file: Checkpoint) -> tuple[Any, Stash]:
    """Load a checkpoint anew; return its tree without the record, and its stash."""
    tree = file.load()
    return tree, take_stash(tree, file.attachment(ATTACHMENT))


def take_stash(tree: Any, attachment: bytes | None) -> Stash:
    """Remove the record from a tree, as `take` does, and return its stash; empty if it is damaged or missing."""
    try:
        return stash_of(remove(tree, attachment))
    except DamagedRecord:
        return {}


def put(tree: Any, record: Record) -> dict[str, bytes | None]:
    """Put a record into a tree, or return it for the archive.

    Parameters
    ----------
    tree : object
        A checkpoint without a record; changed in place.
    record : Record
        The record to store.

    Returns
    -------
    dict of str to bytes or None
        The archive's entry `ATTACHMENT`; None if it is not needed.

    Raises
    ------
    NowhereToKeep
        The stash holds values that the archive's entry cannot hold.
    """
    data = to_data(record)
    if is_a(tree, dict) and not is_state_dict(tree):
        tree[KEY] = data
    elif is_a(tree, OrderedDict):
        if not is_a(getattr(tree, "_metadata", None), dict):
            tree._metadata = OrderedDict()  # type: ignore[attr-defined]
        tree._metadata[KEY] = data  # type: ignore[attr-defined]
    else:
        try:
            return {ATTACHMENT: json.dumps(data, indent=1).encode()}
        except (TypeError, ValueError, ContentNeeded):
            raise NowhereToKeep from None
    return {ATTACHMENT: None}


def with_record(tree: Any, record: Record) -> Any:
    """Return a shallow copy of a tree that holds a record, for a caller that saves it without an archive entry.

    A plain dict of tensors becomes an `OrderedDict`, which can hold a record.

    Parameters
    ----------
    tree : object
        A checkpoint, with or without a record; not changed.
    record : Record
        The record to store.

    Raises
    ------
    NoPlaceForRecord
        The tree is not a dict.
    """
    if not is_a(tree, dict):
        raise NoPlaceForRecord(type(tree).__name__)
    copied: Any = copy.copy(tree)
    if is_a(getattr(tree, "_metadata", None), dict):
        copied._metadata = copy.copy(tree._metadata)  # type: ignore[attr-defined]
    remove(copied, None)
    if type(copied) is dict and is_state_dict(copied):
        copied = OrderedDict(copied)
    if put(copied, record) != {ATTACHMENT: None}:
        raise NoPlaceForRecord(type(tree).__name__)
    return copied


def has_place(tree: Any) -> bool:
    """Return whether a tree has a place for any values beside its record: it is a dict, and not one of tensors alone.

    An `OrderedDict` of tensors has one, in its ``_metadata``.
    """
    return is_a(tree, dict) and (is_a(tree, OrderedDict) or not is_state_dict(tree))


def is_state_dict(tree: dict[Any, Any]) -> bool:
    """Return whether a dict is itself a state dict, rather than a dict that holds one."""
    if hasattr(tree, "_metadata"):
        return True
    return all(_fits(value) for key, value in tree.items() if not str(key).endswith("_extra_state"))


def _holder(tree: Any) -> dict[Any, Any] | None:
    """Return the dict that holds the record, if any."""
    metadata = getattr(tree, "_metadata", None) if is_a(tree, dict) else None
    return next((each for each in (tree, metadata) if is_a(each, dict) and KEY in each), None)


def _parsed(data: Any) -> Record | None:
    try:
        return None if data is None else from_data(data)
    except ContentNeeded:
        raise DamagedRecord("it holds a tensor") from None


def _fits(value: Any) -> bool:
    return value is None or is_stored(value) or type(value).__module__.partition(".")[0] == "torch"
