"""Files of `torch.save` as checkpoints."""

from __future__ import annotations

import io
import json
import os
import sys
import zlib
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, cast

from anemoi_ckpt_migrate.errors import CannotBuild, NotACheckpoint, NotInPlace, SeveralArchives
from anemoi_ckpt_migrate.storage import foreign_formats, legacy_format, zip_archive
from anemoi_ckpt_migrate.storage.atomic_replace import Written
from anemoi_ckpt_migrate.storage.file_info import FileInfo, facts_of, same_attached
from anemoi_ckpt_migrate.storage.in_place import JournalMark, changing, cut, mark
from anemoi_ckpt_migrate.storage.pickle.class_safety import DANGEROUS, meant, standing
from anemoi_ckpt_migrate.storage.pickle.dump import Pickled, dumped, made_content, short
from anemoi_ckpt_migrate.storage.pickle.indirect_calls import callers, handed_on
from anemoi_ckpt_migrate.storage.pickle.tree_pickle import TreePickler, TreeUnpickler, protocol_of
from anemoi_ckpt_migrate.storage.record_copy import COPY_ENTRY, parsed, spelled
from anemoi_ckpt_migrate.storage.safetensors_magic import is_named_so
from anemoi_ckpt_migrate.storage.shard_sets import check_whole, distributed
from anemoi_ckpt_migrate.storage.single_file import NewFile, SingleFile
from anemoi_ckpt_migrate.storage.size_limits import check_room
from anemoi_ckpt_migrate.storage.zip_writer import Contents, append, changed, write_new
from anemoi_ckpt_migrate.util.dataclass import replace

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.storage.checkpoint import Checkpoint
    from anemoi_ckpt_migrate.storage.copy_range import Progress
    from anemoi_ckpt_migrate.storage.pickle.scan import Scanned
    from anemoi_ckpt_migrate.storage.url import Location
    from anemoi_ckpt_migrate.storage.zip_archive import Archive

_PICKLE = "data.pkl"
_SHORT = 1 << 20  # bytes of a pickle of which it is remembered what the scan found; of others, that takes much memory
_FORMAT = ".format_version"
_OURS = "ckpt_migrate/"
_PREVIOUS = f"{_OURS}previous.json"  # the end of the file before it was written in place


class TorchCheckpoint(SingleFile):
    """An open file of `torch.save`, in the zip format or in that of torch before 1.6."""

    def __init__(
        self, path: Location, descriptor: int, before: os.stat_result, length: int, trusted: Collection[str] = ()
    ) -> None:
        super().__init__(path, descriptor, before, length)
        self._trusted = trusted
        self._keys: dict[str, None] = {}
        self._scanned: tuple[bytes, Scanned] | None = None  # the pickle that was scanned last, and what was found
        self._names: dict[tuple[str, str], bool] = {}
        self._handed_on: dict[frozenset[tuple[str, str]], bool] = {}

    def _read_archive(self) -> Archive:
        """Read the table of contents, and the pickle of the tree."""
        with self._stream() as stream:
            if legacy_format.is_legacy(stream):
                archive, self._data = legacy_format.read_legacy(stream, self.length)
                return archive
            archive = zip_archive.read_archive(stream)
            self._check_start(stream, archive)
            zip_archive.check_read_alike(stream, archive)
            self._data = zip_archive.read_entry(stream, archive.entries[_PICKLE])
            return archive

    def _adopt(self, pickled: Pickled) -> None:
        self._data = pickled.data

    def fits(self, name: str) -> bool:
        """Return whether the name is not that of a safetensors file."""
        return not is_named_so(name)

    @property
    def names(self) -> dict[tuple[str, str], bool]:
        """Modules and names in the pickle of the last tree, and whether they are harmless."""
        called = callers(self._names)
        if called and called not in self._handed_on:  # this walks through the whole pickle
            self._handed_on[called] = handed_on(self._data, called)
        if called and self._handed_on[called]:
            return {**self._names, **dict.fromkeys(called, False)}
        return self._names

    def facts(self) -> FileInfo:
        """Return facts about the loaded checkpoint in its file."""
        interrupted = self.length < os.fstat(self._descriptor).st_size
        return facts_of(self._archive, self.byteorder, protocol_of(self._data), self._keys, self.length, interrupted)

    @property
    def copies_record(self) -> bool:  # type: ignore[override]
        """Whether a copy of the record stands beside the tree: in a zip archive."""
        return self._archive.is_zip

    @property
    def record_copy(self) -> Any:
        """The copy of the record beside the tree, as JSON has it; None if there is none for this very tree."""
        entry = self._archive.entries.get(COPY_ENTRY)
        if entry is None:
            return None
        with self._stream() as stream:
            found = parsed(zip_archive.read_entry(stream, entry), zlib.crc32(self._data), self.length)
        return None if found is None else found.record

    @property
    def dead(self) -> int:
        """Number of bytes in the file that no entry uses."""
        return self._archive.dead

    def load(self, trusting: bool = True) -> Any:
        """Return the tree with stand-ins, as every format does; a pickle that refers to missing payload is damaged."""
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
        """Return the tree with real tensors over the file."""
        from anemoi_ckpt_migrate.storage.tensors.torch_content import ContentUnpickler

        payloads = self._open_payloads()
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

    def pickled(self, tree: Any, copy_shared: bool = False) -> Pickled:
        """Pickle a tree, in which tensors may share memory. What could not be read again is refused too."""
        protocol = max(2, protocol_of(self._data))
        pickler, data = dumped(tree, lambda stream: self._pickler(stream, protocol), self._trusted)
        contents = self._contents_of(pickler.keys, made_content(pickler))
        return Pickled(data, pickler.keys, contents, frozenset(pickler.names))

    def _check_in_place(self) -> None:
        if not self._archive.is_zip:
            raise NotInPlace(
                "it was saved by torch before 1.6, in a format that cannot grow", "a zip file takes its place"
            )

    def _new_file(self, pickled: Pickled, attachments: Mapping[str, bytes | None]) -> NewFile:
        contents = self._contents(pickled, attachments)
        made = sum(len(content) for content in contents.new.values())
        kept = sum(entry.size for entry in contents.kept)
        return NewFile(made, made + kept, lambda new, progress: write_new(contents, self._files, new, progress))

    def write_in_place(self, pickled: Pickled, attachments: Mapping[str, bytes | None]) -> Written:
        """Append the new entries to the file, and leave all others in their place.

        Parameters
        ----------
        pickled, attachments
            As for `write`.

        Raises
        ------
        MigrateError
            Those of `changing`.
        """
        contents, old = self._contents(pickled, attachments, in_place=True), self._mark()
        contents = replace(contents, new={**contents.new, _PREVIOUS: old.to_json()})
        check_whole(self.path)
        made = sum(len(content) for content in contents.new.values())
        check_room(self._target, made, self.length + made)
        with changing(self._target, self._before, old) as descriptor:
            append(contents, self._files, descriptor, self.length)
        return Written(self.path, None)

    def rewrite(
        self,
        output: Location | None = None,
        backup: bool = True,
        progress: Progress | None = None,
        copy: bytes | None = None,
    ) -> Written:
        """Write the file anew with all its entries and without gaps. Parameters are those of the other formats."""
        # Before torch 1.6, the pickle named storages differently.
        pickled = Pickled(self._data, self._keys) if self._archive.is_zip else self.pickled(self.load())
        return self.write(pickled, {} if copy is None else {COPY_ENTRY: copy}, output, backup, progress)

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
        self._data, self._scanned = b"", None
        super().release()

    def cut(self, earlier: Checkpoint) -> Written:
        """Cut the file back, in place, to an earlier state, which `earlier` returned."""
        check_whole(self.path)
        cut(self._target, self._before, cast(TorchCheckpoint, earlier)._mark())
        return Written(self.path, None)

    def _check_start(self, stream: io.BufferedReader, archive: Archive) -> None:
        """Refuse a file with other bytes before the archive; torch would read those first.

        A file that was written in place has its first entry later. But then one entry begins at the previous end.
        """
        start, entries = archive.start, archive.entries
        if foreign_formats.is_tar(stream):
            raise foreign_formats.refusal_of_file(stream, self.length)
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

    def _contents(self, pickled: Pickled, attachments: Mapping[str, bytes | None], in_place: bool = False) -> Contents:
        small: dict[str, bytes | None] = {_PICKLE: pickled.data, **self._archive.small, **attachments}
        if _FORMAT in self._archive.entries:
            # The sizes alone no longer determine the offsets; 0 makes torch look them up.
            small[_FORMAT] = b"0"
        payloads = {f"data/{key}": payload for key, payload in pickled.payloads.items()}
        gone = [f"data/{key}" for key in self._keys if key not in pickled.keys]
        given = small.pop(COPY_ENTRY, None)
        copy = self.record_copy if given is None and pickled.data == self._data else json.loads(given or b"null")
        gone += [_PREVIOUS, COPY_ENTRY]
        contents = changed(self._archive, self._stream, {**small, **payloads}, gone)
        if copy is None:
            return contents
        dead = 0
        if in_place:
            with self._stream() as stream:
                dead = zip_archive.dead_beside(stream, contents.kept, self.length)
        last = {COPY_ENTRY: spelled(copy, pickled.data, dead)}
        return replace(contents, new={**contents.new, **last}, last=(_PICKLE, COPY_ENTRY))

    def _unpickled(self, unpickler: TreeUnpickler) -> Any:
        if self._scanned is not None and self._scanned[0] is self._data:
            unpickler.scanned = self._scanned[1]
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
        self._keys, self._scanned = unpickler.keys, None
        if unpickler.scanned is not None and len(self._data) <= _SHORT:
            self._scanned = self._data, unpickler.scanned
        return tree

    def _pickler(self, stream: io.BytesIO, protocol: int) -> TreePickler:
        if "torch" not in sys.modules:  # then the tree holds no real tensor either
            return TreePickler(stream, protocol)
        from anemoi_ckpt_migrate.storage.tensors.torch_content import ContentPickler

        return ContentPickler(stream, protocol, self._payloads, max(self._first_key(), self._maker.next_key))


def _runs(module: str, name: str, known: bool) -> bool:
    return standing(module, name, known) == DANGEROUS
