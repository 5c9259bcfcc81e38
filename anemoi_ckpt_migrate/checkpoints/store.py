"""The checkpoint store: a torch file as a tree, and a tree as a torch file."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anemoi_ckpt_migrate.checkpoints import archive as zipped
from anemoi_ckpt_migrate.checkpoints.copying import BLOCK, Progress, copy_range, write_at
from anemoi_ckpt_migrate.checkpoints.pickles import TreePickler, TreeUnpickler, protocol_of
from anemoi_ckpt_migrate.checkpoints.publish import Replacement, opened, replacement
from anemoi_ckpt_migrate.checkpoints.tensors import is_stored
from anemoi_ckpt_migrate.errors import NotACheckpoint, Unpicklable

_PICKLE = "data.pkl"
_FORMAT = ".format_version"
_WORTH_SHARING = 64 * BLOCK
_FRAMES = 6000


@dataclass(frozen=True)
class Written:
    """Where a checkpoint was written.

    Attributes
    ----------
    path : Path
        The new file.
    backup : Path or None
        The old one.
    """

    path: Path
    backup: Path | None


@dataclass(frozen=True)
class Pickled:
    """A tree, ready to be written.

    Attributes
    ----------
    data : bytes
        The pickle.
    keys : mapping of str to None
        Keys of the storages that it refers to.
    payloads : mapping of str to memoryview
        Content of those storages that the old file does not have in this form.
    """

    data: bytes
    keys: Mapping[str, None]
    payloads: Mapping[str, memoryview] = field(default_factory=dict)


class Checkpoint:
    """An open checkpoint file.

    Attributes
    ----------
    path : Path
        As the user named it.
    """

    def __init__(
        self, path: Path, descriptor: int, before: os.stat_result, archive: zipped.Archive, data: bytes
    ) -> None:
        self.path = path
        self._descriptor, self._archive, self._data = descriptor, archive, data
        self._before, self._target = before, Path(os.path.realpath(path))
        self._keys: dict[str, None] = {}
        self._touched: list[str] = []
        self._payloads: Any = None

    @property
    def touched(self) -> list[str]:
        """What was asked for the content of a tensor in the last tree that was loaded: stand-ins, by class."""
        return self._touched

    def load(self) -> Any:
        """Return the tree with stand-ins for tensors: a new one each time, without torch.

        Raises
        ------
        NotACheckpoint
            The pickle is damaged, or refers to payload that the file does not have.
        """
        unpickler = TreeUnpickler(self._data)
        tree = self._unpickled(unpickler)
        self._touched, self._payloads = unpickler.touched, None
        return tree

    def load_content(self) -> Any:
        """Return the tree with real tensors over the file: a new one each time.

        Raises
        ------
        NotACheckpoint
            As for `load`.
        """
        from anemoi_ckpt_migrate.checkpoints.content import ContentUnpickler, Payloads

        if (self.attachment("byteorder") or b"little") != sys.byteorder.encode():
            raise NotACheckpoint(f"the content of its tensors is not {sys.byteorder}-endian, so they can only be moved")
        with self._stream() as stream:
            places = {
                name.removeprefix("data/"): (zipped.payload_offset(stream, record), record.size)
                for name, record in self._archive.records.items()
                if name.startswith("data/")
            }
        payloads = Payloads(self._descriptor, places)
        unpickler = ContentUnpickler(self._data, payloads)
        tree = self._unpickled(unpickler)
        self._touched, self._payloads = unpickler.touched, payloads
        return tree

    def attachment(self, name: str) -> bytes | None:
        """Return the content of a record of the archive beside the pickle, if there is one."""
        record = self._archive.records.get(name)
        if record is None:
            return None
        with self._stream() as stream:
            return zipped.read_record(stream, record)

    def pickled(self, tree: Any) -> Pickled:
        """Turn a tree that came from this checkpoint into bytes.

        Raises
        ------
        Unpicklable
            It holds something that cannot be saved.
        """
        protocol = max(2, protocol_of(self._data))
        stream = io.BytesIO()
        pickler = self._pickler(stream, protocol)
        with _deep_recursion():
            try:
                pickler.dump(tree)
            except RecursionError as error:
                raise Unpicklable("the checkpoint", "it is nested too deeply") from error
            except Exception as error:  # reducers of any class may raise anything
                found = _culprit(tree, lambda part: self._pickler(io.BytesIO(), protocol).dump(part))
                where, culprit = found or ("", error)
                raise Unpicklable(f"ckpt{where}", _short(culprit)) from error
        payloads: dict[str, memoryview] = {}
        if self._payloads is not None:
            payloads |= self._payloads.changed(pickler.keys)
        if made := getattr(pickler, "made", None):
            from anemoi_ckpt_migrate.checkpoints.content import content_of

            payloads |= {key: content_of(storage) for key, storage in made.items()}
        return Pickled(stream.getvalue(), pickler.keys, payloads)

    def write(
        self,
        pickled: Pickled,
        attachments: Mapping[str, bytes | None],
        output: Path | None = None,
        backup: bool = True,
        progress: Progress | None = None,
    ) -> Written:
        """Write a changed checkpoint, whole or not at all.

        Parameters
        ----------
        pickled : Pickled
            The new tree, from `pickled`.
        attachments : mapping of str to bytes or None
            Records beside the pickle that are to be written (None: left out). All others stay as they are.
        output : Path, optional
            Where to write; nothing may stand there. Without it the file itself is replaced.
        backup : bool
            Keep the old file beside the new one.
        progress : callable, optional
            Told how many bytes were copied, from time to time.

        Raises
        ------
        CannotWrite
            The system did not take the file; everything is as it was.
        """
        with self._replacement(output) as new:
            self._fill(new, pickled, attachments, progress)
            kept = new.publish(backup)
        if kept is not None and not self.path.is_symlink():
            kept = self.path.with_name(kept.name)  # as the user names the folder
        return Written(output or self.path, kept)

    def copy(self, output: Path, progress: Progress | None = None) -> Written:
        """Copy the file as it is to `output`, where nothing may stand.

        Raises
        ------
        CannotWrite
            As for `write`.
        """
        with self._replacement(output) as new:
            copy_range(self._descriptor, new.descriptor, 0, os.fstat(self._descriptor).st_size, 0, progress)
            new.publish(backup=False)
        return Written(output, None)

    def _replacement(self, output: Path | None) -> contextlib.AbstractContextManager[Replacement]:
        if output is None:
            return replacement(self._target, self._descriptor, self._before)
        return replacement(Path(os.path.realpath(output)), self._descriptor, None)

    def _fill(
        self,
        new: Replacement,
        pickled: Pickled,
        attachments: Mapping[str, bytes | None],
        progress: Progress | None,
    ) -> None:
        kept = dict(self._archive.records)
        small: dict[str, bytes | None] = {_PICKLE: pickled.data, **attachments}
        if _FORMAT in kept:
            # Offsets can no longer be computed from the sizes alone; 0 makes torch look them up.
            small[_FORMAT] = b"0"
        gone = [f"data/{key}" for key in self._keys if key not in pickled.keys]
        for name in [*small, *gone, *(f"data/{key}" for key in pickled.payloads)]:
            kept.pop(name, None)
        offset, entries = 0, []

        def add(name: str, content: bytes | memoryview) -> None:
            nonlocal offset
            entry, offset = self._add(new.descriptor, name, content, offset)
            entries.append(entry)

        for name, content in small.items():
            if content is not None:
                add(name, content)
        for start, end, members in zipped.runs(kept.values()):
            # Payload stays aligned; and what is worth it can share its blocks with the old file.
            offset += (start - offset) % (BLOCK if end - start > _WORTH_SHARING else zipped.ALIGNMENT)
            copy_range(self._descriptor, new.descriptor, start, end, offset, progress)
            entries += [zipped.moved(record, offset - start) for record in members]
            offset += end - start
        for key, payload in pickled.payloads.items():
            add(f"data/{key}", payload)
        write_at(new.descriptor, zipped.directory(entries, offset), offset)

    def _add(self, target: int, name: str, content: bytes | memoryview, offset: int) -> tuple[zipped.Record, int]:
        full = f"{self._archive.root}/{name}"
        record = zipped.new_record(full, offset, content)
        header = zipped.local_header(full, offset, len(content), record.crc)
        write_at(target, header, offset)
        write_at(target, content, offset + len(header))
        return record, offset + len(header) + len(content)

    def _unpickled(self, unpickler: TreeUnpickler) -> Any:
        try:
            tree = unpickler.load()
        except Exception as error:  # a damaged pickle raises almost anything
            raise NotACheckpoint(f"its data.pkl is damaged or hostile ({_short(error)})") from error
        missing = [key for key in unpickler.keys if f"data/{key}" not in self._archive.records]
        if missing:
            raise NotACheckpoint(f"the payload data/{missing[0]} is missing")
        self._keys = unpickler.keys
        return tree

    def _pickler(self, stream: io.BytesIO, protocol: int) -> TreePickler:
        if "torch" not in sys.modules:  # then there is no real tensor in the tree either
            return TreePickler(stream, protocol)
        from anemoi_ckpt_migrate.checkpoints.content import ContentPickler

        numbers = [int(name[5:]) for name in self._archive.records if name.startswith("data/") and name[5:].isdigit()]
        return ContentPickler(stream, protocol, self._payloads, max(numbers, default=-1) + 1)

    def _stream(self) -> io.BufferedReader:
        return os.fdopen(os.dup(self._descriptor), "rb")


@contextlib.contextmanager
def open_checkpoint(path: str | os.PathLike[str]) -> Iterator[Checkpoint]:
    """Open a checkpoint file. Reads its table of contents and its pickle, no payload.

    Raises
    ------
    CannotRead
        The file cannot be opened.
    NotACheckpoint
        It is none that can be read.
    """
    with opened(Path(path)) as descriptor, os.fdopen(os.dup(descriptor), "rb") as stream:
        before = os.fstat(descriptor)
        found = zipped.read_archive(stream)
        data = zipped.read_record(stream, found.records[_PICKLE])
        yield Checkpoint(Path(path), descriptor, before, found, data)


def _culprit(
    tree: Any, dump: Callable[[Any], None], seen: frozenset[int] = frozenset()
) -> tuple[str, Exception] | None:
    """Find the innermost part of a tree that cannot be pickled, as a path from the tree, and why."""
    try:
        dump(tree)
    except Exception as error:
        seen = seen | {id(tree)}
        for place, child in _children(tree):
            found = None if id(child) in seen else _culprit(child, dump, seen)
            if found is not None:
                return f"{place}{found[0]}", found[1]
        return "", error
    return None


def _children(tree: Any) -> list[tuple[str, Any]]:
    if is_stored(tree):
        return []
    if isinstance(tree, dict):
        return [(f"[{key!r}]", value) for key, value in tree.items()]
    if isinstance(tree, (list, tuple)):
        return [(f"[{index}]", value) for index, value in enumerate(tree)]
    return []


@contextlib.contextmanager
def _deep_recursion() -> Iterator[None]:
    """Allow as deep a nesting as torch's own pickler manages; ours needs several frames for each level."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, _FRAMES))
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


def _short(error: Exception) -> str:
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
