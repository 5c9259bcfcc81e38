"""Files of `torch.save` as checkpoints."""

from __future__ import annotations

import copy
import io
import os
import sys
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from anemoi_ckpt_migrate.errors import CannotBuild, NotACheckpoint, NotInPlace, SeveralArchives
from anemoi_ckpt_migrate.storage import foreign_formats, legacy_format, zip_archive
from anemoi_ckpt_migrate.storage.atomic_replace import Replacement, Written
from anemoi_ckpt_migrate.storage.checkpoint import Checkpoint
from anemoi_ckpt_migrate.storage.copy_range import Progress
from anemoi_ckpt_migrate.storage.file_info import FileInfo, facts_of, same_attached
from anemoi_ckpt_migrate.storage.in_place import JournalMark, cut, growing, mark
from anemoi_ckpt_migrate.storage.pickle.class_safety import DANGEROUS, meant, standing
from anemoi_ckpt_migrate.storage.pickle.dump import Pickled, dumped, short
from anemoi_ckpt_migrate.storage.pickle.indirect_calls import handed_on
from anemoi_ckpt_migrate.storage.pickle.tree_pickle import TreePickler, TreeUnpickler, protocol_of
from anemoi_ckpt_migrate.storage.shard_sets import check_whole, distributed
from anemoi_ckpt_migrate.storage.size_limits import check_asked, check_room
from anemoi_ckpt_migrate.storage.tensors.deferred import TensorBuilder
from anemoi_ckpt_migrate.storage.tensors.materialize import Source, places_in
from anemoi_ckpt_migrate.storage.zip_writer import Content, Contents, append, changed, write_new

_PICKLE = "data.pkl"
_FORMAT = ".format_version"
_OURS = "ckpt_migrate/"
_PREVIOUS = f"{_OURS}previous.json"  # the end of the file before it was written in place


class TorchCheckpoint(Checkpoint):
    """An open file of `torch.save`, in the zip format or in that of torch before 1.6."""

    def __init__(
        self, path: Path, descriptor: int, before: os.stat_result, length: int, trusted: Collection[str] = ()
    ) -> None:
        super().__init__(path, descriptor, before, length)
        self._trusted = trusted
        with self._stream() as stream:
            if legacy_format.is_legacy(stream):
                self._archive, self._data = legacy_format.read_legacy(stream, length)
            else:
                self._archive = zip_archive.read_archive(stream)
                self._check_start(stream)
                zip_archive.check_read_alike(stream, self._archive)
                self._data = zip_archive.read_entry(stream, self._archive.entries[_PICKLE])
        self._keys: dict[str, None] = {}
        self._names: dict[tuple[str, str], bool] = {}
        self._handed_on: dict[frozenset[tuple[str, str]], bool] = {}
        self._payloads: Any = None
        self._checked: set[str] = set()
        self._reading: Source | None = None
        self._unwritten: dict[str, memoryview] = {}
        self._maker = TensorBuilder(self._first_key(), [])

    @property
    def names(self) -> dict[tuple[str, str], bool]:
        """Modules and names in the pickle of the last tree, and whether they are harmless."""
        called = frozenset(name for name, known in self._names.items() if known and name[1] in ("getattr", "type"))
        if called and called not in self._handed_on:  # this walks through the whole pickle
            self._handed_on[called] = handed_on(self._data, called)
        if called and self._handed_on[called]:
            return {**self._names, **dict.fromkeys(called, False)}
        return self._names

    def facts(self) -> FileInfo:
        """Return facts about the loaded checkpoint in its file."""
        interrupted = self.length < os.fstat(self._descriptor).st_size
        byteorder = self.attachment("byteorder") or b"little"
        return facts_of(self._archive, byteorder, protocol_of(self._data), self._keys, self.length, interrupted)

    @property
    def dead(self) -> int:
        """Number of bytes in the file that no entry uses."""
        return self._archive.dead

    def load(self, trusting: bool = True) -> Any:
        """Return the tree with stand-ins for tensors, without torch. Each call builds a new tree.

        Parameters
        ----------
        trusting : bool
            Whether to build classes of trusted modules for real.

        Raises
        ------
        NotACheckpoint
            The pickle is damaged, or refers to missing payload.
        """
        trusted = self._trusted if trusting else ()
        unpickler = TreeUnpickler(self._data, trusted)
        try:
            tree = self._unpickled(unpickler)
        except NotACheckpoint:
            if not trusted:
                raise
            # A class that looks at tensors while it is built; it will work with real ones.
            touched, unpickler = unpickler.touched, TreeUnpickler(self._data)
            tree = self._unpickled(unpickler)
            unpickler.touched += touched or ["a trusted class"]
        self._touched, self._payloads, self._names = unpickler.touched, None, unpickler.names
        self._maker.renew(self._touched)
        return tree

    def load_content(self) -> Any:
        """Return the tree with real tensors over the file. Each call builds a new tree.

        Raises
        ------
        NotACheckpoint
            As for `load`.
        """
        from anemoi_ckpt_migrate.storage.tensors.torch_content import ContentUnpickler, Payloads

        if (self.attachment("byteorder") or b"little") != sys.byteorder.encode():
            raise NotACheckpoint(f"its tensors are not {sys.byteorder}-endian, so they can be moved but not changed")
        places = places_in(self._archive, self._stream)
        crcs = {name.removeprefix("data/"): entry.crc for name, entry in self._archive.entries.items()}
        ours = self._source().contents() if self._maker.recipes or self._unwritten else {}
        payloads = Payloads(self._descriptor, places, crcs, ours)
        unpickler = ContentUnpickler(self._data, payloads, self._trusted)
        try:
            tree = self._unpickled(unpickler)
        except NotACheckpoint as error:
            if self._trusted:
                raise CannotBuild(short(error.__cause__ or error)) from error.__cause__
            raise
        self._touched, self._payloads = unpickler.touched, payloads
        self._maker.renew(self._touched)
        return tree

    def attachment(self, name: str) -> bytes | None:
        """Return the content of an entry beside the pickle; None if there is no such entry."""
        if name in self.attached:
            return self.attached[name]
        entry = self._archive.entries.get(name)
        if entry is None:
            return self._archive.small.get(name)
        with self._stream() as stream:
            return zip_archive.read_entry(stream, entry)

    def damaged(self, progress: Progress | None = None) -> list[str]:
        """Return the names of damaged entries: their content or header has changed."""
        found = []
        with self._stream() as stream:
            for name, entry in self._archive.entries.items():
                if not zip_archive.is_whole(self._descriptor, entry, zip_archive.payload_offset(stream, entry)):
                    found.append(name)
                if progress is not None:
                    progress(entry.size)
        return found

    def pickled(self, tree: Any) -> Pickled:
        """Pickle a tree that came from this checkpoint.

        Raises
        ------
        Unpicklable
            The tree holds an object that cannot be saved, or that could not be read again.
        TooMuchAsked
            The rollback of operations would create far more bytes than the file has.
        """
        protocol = max(2, protocol_of(self._data))
        pickler, data = dumped(tree, lambda stream: self._pickler(stream, protocol), self._trusted)
        payloads: dict[str, Content] = {}
        if self._payloads is not None:
            payloads |= self._payloads.changed(pickler.keys)
        if made := getattr(pickler, "made", None):
            from anemoi_ckpt_migrate.storage.tensors.torch_content import content_of

            payloads |= {key: content_of(storage) for key, storage in made.items()}
        payloads |= {key: self._source().made(key) for key in pickler.keys if key in self._maker.recipes}
        asked = [len(content) for key, content in payloads.items() if key in self._maker.asked]
        check_asked(sum(asked), self.length)
        return Pickled(data, pickler.keys, payloads, frozenset(pickler.names))

    def draft(self, pickled: Pickled, attachments: Mapping[str, bytes | None]) -> TorchCheckpoint:
        """Return the result of `write` without writing it: you can load, change and compare it."""
        made = copy.copy(self)
        made._data, made.attached = pickled.data, {**self.attached, **attachments}
        content = {key: each for key, each in pickled.payloads.items() if key not in self._maker.recipes}
        made._unwritten = {**self._unwritten, **{key: memoryview(each) for key, each in content.items()}}  # type: ignore[arg-type]
        made._maker = self._maker.forked(made._first_key(), made._unwritten)
        made._reading = made._payloads = None
        return made

    def _check_in_place(self) -> None:
        if not self._archive.is_zip:
            raise NotInPlace(
                "it was saved by torch before 1.6, in a format that cannot grow", "a zip file takes its place"
            )

    def _write_to(
        self,
        new: Replacement,
        pickled: Pickled,
        attachments: Mapping[str, bytes | None],
        target: Path,
        progress: Progress | None,
    ) -> None:
        contents = self._contents(pickled, attachments)
        made = sum(len(content) for content in contents.new.values())
        kept = sum(entry.size for entry in contents.kept)
        check_room(target, made, made + kept)
        write_new(contents, self._descriptor, new.descriptor, progress)

    def write_in_place(self, pickled: Pickled, attachments: Mapping[str, bytes | None]) -> Written:
        """Append the new entries to the file, and leave all others in their place.

        Parameters
        ----------
        pickled, attachments
            As for `write`.

        Raises
        ------
        MigrateError
            Those of `growing`.
        """
        contents, old = self._contents(pickled, attachments), self._mark()
        contents = replace(contents, new={**contents.new, _PREVIOUS: old.to_json()})
        check_whole(self.path)
        made = sum(len(content) for content in contents.new.values())
        check_room(self._target, made, self.length + made)
        with growing(self._target, self._before, old) as descriptor:
            append(contents, self._descriptor, descriptor, self.length)
        return Written(self.path, None)

    def rewrite(self, output: Path | None = None, backup: bool = True, progress: Progress | None = None) -> Written:
        """Write the file anew with all its entries and without gaps. Parameters and errors are those of `write`."""
        # Before torch 1.6, the pickle named storages differently.
        pickled = Pickled(self._data, self._keys) if self._archive.is_zip else self.pickled(self.load())
        return self.write(pickled, {}, output, backup, progress)

    def earlier(self) -> TorchCheckpoint | None:
        """Return the file before it was last written in place; None if it never was, or the earlier state is lost."""
        mark = JournalMark.from_json(self.attachment(_PREVIOUS) or b"")
        if mark is None or mark.length >= self.length or not mark.fits(self._descriptor):
            return None
        try:
            return TorchCheckpoint(self.path, self._descriptor, self._before, mark.length)
        except NotACheckpoint:
            return None

    def whole(self) -> TorchCheckpoint | None:
        """Return the file with all its bytes, as torch reads it despite a journal; None if there are no further bytes.

        Raises
        ------
        NotACheckpoint
            Bytes follow the length in the journal, and the file cannot be read with them.
        """
        length = os.fstat(self._descriptor).st_size
        if length == self.length:
            return None
        return TorchCheckpoint(self.path, self._descriptor, self._before, length, self._trusted)

    def has_what(self, later: Checkpoint) -> bool:
        """Return whether the next state kept all entries that are not torch's own, or rewrote them itself."""
        later = cast(TorchCheckpoint, later)
        end = later._archive.entries[_PREVIOUS].offset
        return same_attached(self._archive, later._archive, _OURS, range(self.length, end))

    def release(self) -> None:
        """Free the memory that only loading needs; `names` stays available."""
        _ = self.names
        self._data = b""

    def cut(self, earlier: Checkpoint) -> Written:
        """Cut the file back, in place, to an earlier state, which `earlier` returned."""
        check_whole(self.path)
        cut(self._target, self._before, cast(TorchCheckpoint, earlier)._mark())
        return Written(self.path, None)

    def _check_start(self, stream: io.BufferedReader) -> None:
        """Refuse a file with other bytes before the archive; torch would read those first.

        A file that was written in place has its first entry later. But then one entry begins at the previous end.
        """
        start, entries = self._archive.start, self._archive.entries
        if foreign_formats.is_tar(stream):
            raise NotACheckpoint(foreign_formats.kind_of_file(stream, self.length))
        if not zip_archive.begins(stream):
            raise NotACheckpoint(
                f"it has {start:,} bytes before its first record, which torch.load would read, and run, as a pickle"
            )
        if not start:
            return
        previous = zip_archive.read_entry(stream, entries[_PREVIOUS]) if _PREVIOUS in entries else b""
        mark = JournalMark.from_json(previous)
        # Of two files written in place, one after the other, the last one looks like one whose beginning was shifted.
        if mark is None or all(entry.offset != mark.length for entry in entries.values()):
            raise SeveralArchives(distributed(os.fspath(self.path.parent)).way)

    def _mark(self) -> JournalMark:
        return mark(self._descriptor, self.length, self._archive.directory)

    def _contents(self, pickled: Pickled, attachments: Mapping[str, bytes | None]) -> Contents:
        small: dict[str, bytes | None] = {_PICKLE: pickled.data, **self._archive.small, **attachments}
        if _FORMAT in self._archive.entries:
            # The sizes alone no longer determine the offsets; 0 makes torch look them up.
            small[_FORMAT] = b"0"
        payloads = {f"data/{key}": payload for key, payload in pickled.payloads.items()}
        gone = [f"data/{key}" for key in self._keys if key not in pickled.keys]
        return changed(self._archive, self._stream, {**small, **payloads}, [*gone, _PREVIOUS])

    def _unpickled(self, unpickler: TreeUnpickler) -> Any:
        try:
            tree = unpickler.load()
        except Exception as error:  # a damaged pickle raises almost anything
            named = ", ".join(".".join(meant(*name)) for name, known in unpickler.names.items() if _runs(*name, known))
            so = f"; it names {named:.200}, which torch.load could use to run any code" if named else ""
            raise NotACheckpoint(f"its data.pkl is damaged or hostile ({short(error)}){so}") from error
        there = self._archive.entries or self._archive.loose
        ours = self._unwritten.keys() | self._maker.recipes.keys()
        missing = [key for key in unpickler.keys if f"data/{key}" not in there and key not in ours]
        if missing:
            raise NotACheckpoint(f"the payload data/{missing[0]} is missing")
        self._keys = unpickler.keys
        return tree

    def _pickler(self, stream: io.BytesIO, protocol: int) -> TreePickler:
        if "torch" not in sys.modules:  # then the tree holds no real tensor either
            return TreePickler(stream, protocol)
        from anemoi_ckpt_migrate.storage.tensors.torch_content import ContentPickler

        return ContentPickler(stream, protocol, self._payloads, max(self._first_key(), self._maker.next_key))

    def _first_key(self) -> int:
        """Return the first number that is not the key of a storage in the file."""
        names = self._archive.entries or self._archive.loose
        keys = [name[5:] for name in names if name.startswith("data/")]
        return max((int(key) for key in (*keys, *self._unwritten) if key.isdigit()), default=-1) + 1

    def _source(self) -> Source:
        """Return the source for new tensors. It is created on demand, because it looks at every entry."""
        if self._reading is None:
            if (self.attachment("byteorder") or b"little") != sys.byteorder.encode() and self._maker.recipes:
                wanted = f"its tensors are not {sys.byteorder}-endian, so they can be moved but not changed"
                raise NotACheckpoint(wanted)
            self._reading = Source(
                self._descriptor, self._archive, self._stream, self._maker, self._checked, self._unwritten
            )
        return self._reading

    def _stream(self) -> io.BufferedReader:
        return zip_archive.window(self._descriptor, self.length)


def _runs(module: str, name: str, known: bool) -> bool:
    return standing(module, name, known) == DANGEROUS
