"""Read the list ``migrations`` that anemoi-models keeps in a checkpoint, and update it as anemoi-models would.

anemoi-models decides from the list whether it can use a checkpoint. An entry is a dict with ``name``, ``metadata`` and
``signature``. Before 0.13.0 it also had ``rollback``, a function pickled by value, and ``setup_context``, which lists
moved classes; code of that time requires both. Beside the list there may be a history of executed migrations, in the
metadata of ``hyper_parameters``.
"""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from anemoi_ckpt_migrate.errors import DamagedLedger
from anemoi_ckpt_migrate.record.record import Applied, MigrationsList, Record, Stash
from anemoi_ckpt_migrate.revisions import releases
from anemoi_ckpt_migrate.storage.pickle.opaque import Opaque, instance
from anemoi_ckpt_migrate.storage.tensors.refs import is_a, is_stored

KEY = "migrations"
HISTORY = ("hyper_parameters", "metadata", "migrations", "history")
_PACKAGE, _WITHOUT_ROLLBACKS = "anemoi-models", "0.13"
_METADATA = ("anemoi.models.migrations.migrator", "MigrationMetadata")
ASIDE = "list of migrations"
"""The stash key of removed entries of the list; no revision has this id."""
_ONCE = ("rollback", "setup_context")
_PYTHON = re.compile(rb"\bpython(3\.\d+)\b")


class Entry(NamedTuple):
    """A migration that is listed in a checkpoint.

    Attributes
    ----------
    name, signature : str
        Its name, and the digest of its script.
    versions : dict of str to str
        The versions in its metadata.
    final : bool
        Whether it is a barrier.
    rollback : bytes or None
        The rollback: a function, pickled by value. Nothing of it runs here.
    moved_classes, moved_modules : dict of str to str
        Classes and modules that its setup moved: from new names to old ones.
    """

    name: str
    signature: str = ""
    versions: Mapping[str, str] = {}
    final: bool = False
    rollback: bytes | None = None
    moved_classes: Mapping[str, str] = {}
    moved_modules: Mapping[str, str] = {}


class Done(NamedTuple):
    """An entry of the history beside the list.

    Attributes
    ----------
    kind : str
        ``migrate`` or ``rollback``.
    name, signature : str
        The name and signature of the migration.
    """

    kind: str
    name: str
    signature: str


def revision_of(name: str) -> str:
    """Return the id of the revision for a migration, derived from its name so that it is the same everywhere."""
    return hashlib.sha256(name.encode()).hexdigest()[:12]


def read(tree: Any) -> tuple[Entry, ...] | None:
    """Return the migrations listed in a checkpoint; None if there is no list.

    Raises
    ------
    DamagedLedger
        The entry for the list holds something else.
    """
    found = tree.get(KEY) if is_a(tree, dict) else None
    if found is None:
        return None
    if not is_a(found, list):
        raise DamagedLedger(f"it is a {type(found).__name__}")
    entries = tuple(map(_entry, found))
    names = [entry.name for entry in entries]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DamagedLedger(f"{twice} is in it twice")
    return entries


def found_history(tree: Any) -> tuple[Done, ...]:
    """Return the entries of the history beside the list; empty if there is no history. Skips invalid entries."""
    found = [(_text(each, "type"), _text(each, "name"), _text(each, "signature")) for each in _history(tree)[1] or ()]
    return tuple(Done(*each) for each in found if all(each[:2]))


def python_of(tree: Any, rollback: bytes) -> str | None:
    """Return the Python that pickled a rollback, as ``"3.11"``: that of the training, or one named in the pickle.

    None if there is no such information, or it is contradictory.
    """
    metadata = _inside(_inside(tree, "hyper_parameters"), "metadata")
    said = _inside(_inside(metadata, "provenance_training"), "python")
    found = {match.decode() for match in _PYTHON.findall(rollback)}
    if is_a(said, str):
        found.add(".".join(said.split(".")[:2]))
    return found.pop() if len(found) == 1 else None


def found_in(tree: Any, record: Record) -> MigrationsList:
    """Return the information to remember about the list as it is found.

    Raises
    ------
    DamagedLedger
        The entry for the list holds something else.
    """
    entries, history = read(tree), _history(tree)[1]
    names = None if entries is None else tuple(entry.name for entry in entries)
    return MigrationsList(_revisions(record), names, names, None if history is None else len(history))


def wanted(record: Record) -> dict[str, tuple[str, Applied]]:
    """Return the names that the list should have, in order, with their signatures and revisions."""
    applied = (*record.others, *record.lineage)
    return {name: (signature, entry) for entry in applied for name, signature in entry.known_as.items()}


def names_after(record: Record, ledger: MigrationsList) -> tuple[str, ...] | None:
    """Return the names for the list. At the revisions where the list was found, these are the names found then.

    None if there was no list, and a new one would be empty.
    """
    if set(_revisions(record)) == set(ledger.revisions):
        return ledger.found
    return tuple(wanted(record)) or (None if ledger.found is None else ())


def keep_up(tree: Any, stash: Stash, ledger: MigrationsList, record: Record, own_classes: bool) -> None:
    """Update the list to the current revisions of a checkpoint, as its release would have written it.

    Entries that were found stay unchanged; entries that are removed or need another form are stashed.

    Parameters
    ----------
    tree : object
        The checkpoint; changed in place.
    stash : dict of str to list
        Its stash; changed in place.
    ledger : MigrationsList
        Information about the list as it was found.
    record : Record
        The current record.
    own_classes : bool
        Whether the checkpoint names classes of anemoi, so that metadata may be an instance of one too.
    """
    names = names_after(record, ledger)
    # Entries added since are made anew at each step, in the form of that step's release.
    entries = [*(tree.get(KEY) or ()), *stash.pop(ASIDE, ())]
    there = {entry["name"]: entry for entry in entries if entry["name"] in (ledger.found or ())}
    if names is None:
        tree.pop(KEY, None)
    else:
        as_found = names is ledger.found
        tree[KEY] = _noted(names, there, {} if as_found else wanted(record), own_classes)
    left = tree.get(KEY) or ()
    aside = [there[name] for name in ledger.found or () if not any(there[name] is entry for entry in left)]
    if aside:
        stash[ASIDE] = aside
    signatures = {name: _text(entry, "signature") for name, entry in there.items()}
    signatures |= {name: signature for name, (signature, _) in wanted(record).items()}
    _keep_history(tree, ledger, names or (), signatures)


def _revisions(record: Record) -> tuple[str, ...]:
    return tuple(entry.revision for entry in (*record.others, *record.lineage))


def _noted(
    names: Sequence[str], there: Mapping[str, Any], asked: Mapping[str, tuple[str, Applied]], own_classes: bool
) -> list[Any]:
    """Return entries for some names: existing ones, and new ones for missing names, in the form of their release."""
    example = next((entry.get("metadata") for entry in there.values()), None)
    if example is None:
        example = instance(*_METADATA, {}) if own_classes else {}
    made = [there.get(name) or _made(name, *asked[name], example) for name in names]
    newest = asked[names[-1]][1].versions or {} if names and asked else {}
    if releases.is_before(newest.get(_PACKAGE, ""), _WITHOUT_ROLLBACKS):
        return [entry if all(map(entry.__contains__, _ONCE)) else {**entry, **_without(entry)} for entry in made]
    return made


def _made(name: str, signature: str, applied: Applied, example: Any) -> dict[str, Any]:
    return {"name": name, "metadata": _metadata(example, applied), "signature": signature}


def _without(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: entry.get(key) for key in _ONCE}


def _metadata(example: Any, applied: Applied) -> Any:
    """Return metadata in the form of an example: its readers expect attributes unless it is a dict."""
    versions, final = dict(applied.versions or {}), applied.final
    if is_a(example, dict):
        return {"versions": versions, "final": final}
    made = copy.deepcopy(example)
    if is_a(made, Opaque):
        made.__opaque_parts__.state = {"versions": versions, "final": final}
    else:
        made.versions, made.final = versions, final
    return made


def _keep_history(tree: Any, ledger: MigrationsList, names: Sequence[str], signatures: Mapping[str, str]) -> None:
    """Restore the history as it was found, and append the migrations run and rolled back since."""
    holder, history = _history(tree)
    if history is None or ledger.done is None:
        return
    found = ledger.found or ()
    done = [("rollback", name) for name in reversed(found) if name not in names]
    done += [("migrate", name) for name in names if name not in found]
    new = [{"type": kind, "name": name, "signature": signatures[name]} for kind, name in done]
    holder["history"] = [*history[: ledger.done], *new]


def _entry(found: Any) -> Entry:
    name = _text(found, "name")
    if not name:
        raise DamagedLedger("one of its entries has no name")
    metadata = found.get("metadata")
    versions = _inside(metadata, "versions")
    texts = {key: value for key, value in versions.items() if is_a(value, str)} if is_a(versions, dict) else {}
    setup = found.get("setup_context")
    return Entry(
        name,
        _text(found, "signature"),
        texts,
        _inside(metadata, "final") is True,
        _rollback(found.get("rollback")),
        _moved(setup, "attribute_paths"),
        _moved(setup, "module_paths"),
    )


def _text(found: Any, key: str) -> str:
    value = found.get(key) if is_a(found, dict) else None
    return value if is_a(value, str) else ""


def _rollback(found: Any) -> bytes | None:
    args = found.__opaque_parts__.args if is_a(found, Opaque) else (getattr(found, "_rollback_bytes", None),)
    return args[0] if len(args) == 1 and is_a(args[0], bytes) else None


def _moved(setup: Any, key: str) -> dict[str, str]:
    pairs = setup.get(key) if is_a(setup, dict) else None
    if not is_a(pairs, dict) or not all(is_a(word, str) for pair in pairs.items() for word in pair):
        return {}
    return dict(pairs)


def _history(tree: Any) -> tuple[Any, list[Any] | None]:
    """Return the container of the history, and the history."""
    holder = tree
    for key in HISTORY[:-1]:
        holder = _inside(holder, key)
    found = _inside(holder, HISTORY[-1])
    return holder, found if is_a(found, list) else None


def _inside(holder: Any, key: str) -> Any:
    """Return an item of a dict, or an attribute of an object whose class is not imported; None if there is none."""
    if is_a(holder, dict):
        return holder.get(key)
    return None if is_stored(holder) else getattr(holder, key, None)  # on a stand-in, this would request content
