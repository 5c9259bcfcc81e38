"""The checkpoint store: a torch file as a tree, and a tree as a torch file."""

from __future__ import annotations

import contextlib
import copy
import io
import os
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from anemoi_ckpt_migrate.errors import CannotBuild, Damaged, NotACheckpoint, NotInPlace, SeveralArchives
from anemoi_ckpt_migrate.storage import foreign_formats, legacy_format
from anemoi_ckpt_migrate.storage import zip_archive as zipped
from anemoi_ckpt_migrate.storage.atomic_replace import Replacement, Written, check_writable, opened, replacement
from anemoi_ckpt_migrate.storage.copy_range import Progress, copy_range
from anemoi_ckpt_migrate.storage.file_info import Facts, facts_of, same_attached
from anemoi_ckpt_migrate.storage.in_place import Mark, check_own, cut, growing, mark, whole_length
from anemoi_ckpt_migrate.storage.pickle.class_safety import DANGEROUS, meant, standing
from anemoi_ckpt_migrate.storage.pickle.dump import Pickled, dumped, short
from anemoi_ckpt_migrate.storage.pickle.indirect_calls import handed_on
from anemoi_ckpt_migrate.storage.pickle.tree_pickle import TreePickler, TreeUnpickler, protocol_of
from anemoi_ckpt_migrate.storage.shard_sets import check_whole, distributed
from anemoi_ckpt_migrate.storage.size_limits import check_asked, check_room
from anemoi_ckpt_migrate.storage.tensors.deferred import Maker, plain_of
from anemoi_ckpt_migrate.storage.tensors.materialize import Source, places_in
from anemoi_ckpt_migrate.storage.tensors.refs import StoredTensor, is_stored
from anemoi_ckpt_migrate.storage.zip_writer import Content, Contents, append, changed, write_new

_PICKLE = "data.pkl"
_FORMAT = ".format_version"
_OURS = "ckpt_migrate/"
_PREVIOUS = f"{_OURS}previous.json"  # where the file ended before it was written in place


class Checkpoint:
    """An open checkpoint file.

    Attributes
    ----------
    path : Path
        As the user named it.
    length : int
        How much of the file is the checkpoint, in bytes.
    attached : dict of str to bytes or None
        What a draft has beside the pickle, instead of what the file has there.
    """

    def __init__(
        self, path: Path, descriptor: int, before: os.stat_result, length: int, trusted: Collection[str] = ()
    ) -> None:
        self.path, self.length, self._trusted = path, length, trusted
        self._descriptor, self._before, self._target = descriptor, before, Path(os.path.realpath(path))
        with self._stream() as stream:
            if legacy_format.is_legacy(stream):
                self._archive, self._data = legacy_format.read_legacy(stream, length)
            else:
                self._archive = zipped.read_archive(stream)
                self._check_start(stream)
                zipped.check_read_alike(stream, self._archive)
                self._data = zipped.read_record(stream, self._archive.records[_PICKLE])
        self._keys: dict[str, None] = {}
        self._touched: list[str] = []
        self._names: dict[tuple[str, str], bool] = {}
        self._handed_on: dict[frozenset[tuple[str, str]], bool] = {}
        self._payloads: Any = None
        self._checked: set[str] = set()
        self._reading: Source | None = None
        self.attached: dict[str, bytes | None] = {}
        self._unwritten: dict[str, memoryview] = {}
        self._maker = Maker(self._first_key(), [])

    @property
    def names(self) -> dict[tuple[str, str], bool]:
        """Modules and names that the pickle gave to the last tree, and whether what they stand for is harmless."""
        called = frozenset(name for name, known in self._names.items() if known and name[1] in ("getattr", "type"))
        if called and called not in self._handed_on:  # all of the pickle is walked through for this
            self._handed_on[called] = handed_on(self._data, called)
        if called and self._handed_on[called]:
            return {**self._names, **dict.fromkeys(called, False)}
        return self._names

    def facts(self) -> Facts:
        """Tell how the checkpoint that was loaded lies in its file."""
        interrupted = self.length < os.fstat(self._descriptor).st_size
        byteorder = self.attachment("byteorder") or b"little"
        return facts_of(self._archive, byteorder, protocol_of(self._data), self._keys, self.length, interrupted)

    @property
    def dead(self) -> int:
        """How many bytes of the file no record uses."""
        return self._archive.dead

    @property
    def touched(self) -> list[str]:
        """What was asked for the content of a tensor in the last tree that was loaded: stand-ins, by class."""
        return self._touched

    def load(self, trusting: bool = True) -> Any:
        """Return the tree with stand-ins for tensors: a new one each time, without torch.

        Parameters
        ----------
        trusting : bool
            Whether classes of trusted modules are built for real.

        Raises
        ------
        NotACheckpoint
            The pickle is damaged, or refers to payload that the file does not have.
        """
        trusted = self._trusted if trusting else ()
        unpickler = TreeUnpickler(self._data, trusted)
        try:
            tree = self._unpickled(unpickler)
        except NotACheckpoint:
            if not trusted:
                raise
            # A class that looks at tensors while it is built: it will be, when there are real ones.
            touched, unpickler = unpickler.touched, TreeUnpickler(self._data)
            tree = self._unpickled(unpickler)
            unpickler.touched += touched or ["a trusted class"]
        self._touched, self._payloads, self._names = unpickler.touched, None, unpickler.names
        self._maker.renew(self._touched)
        return tree

    def load_content(self) -> Any:
        """Return the tree with real tensors over the file: a new one each time.

        Raises
        ------
        NotACheckpoint
            As for `load`.
        """
        from anemoi_ckpt_migrate.storage.tensors.torch_content import ContentUnpickler, Payloads

        if (self.attachment("byteorder") or b"little") != sys.byteorder.encode():
            raise NotACheckpoint(f"the content of its tensors is not {sys.byteorder}-endian, so they can only be moved")
        places = places_in(self._archive, self._stream)
        crcs = {name.removeprefix("data/"): record.crc for name, record in self._archive.records.items()}
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

    @property
    def maker(self) -> Maker:
        """What makes tensors for the tree that was last loaded; they come about when that is written.

        It remembers what it made for earlier trees of the file too, so that these can be compared with one another.
        """
        return self._maker

    def same(self, one: Any, other: Any, there: Checkpoint | None = None) -> bool:
        """Tell whether two tensors, of the file or to be made, have the same content; shape and dtype are equal.

        Parameters
        ----------
        one, other : StoredTensor or torch.Tensor
            The tensors.
        there : Checkpoint, optional
            Another draft of the file, if the second is one of that.

        Raises
        ------
        Damaged
            What the file holds is not what was written.
        """
        sides = ((self, one), (there or self, other))
        extents = [home.maker.extents(plain_of(each)) if is_stored(each) else None for home, each in sides]
        if extents[0] is not None and extents[1] is not None:
            same = self._source().same(extents[0], extents[1])
            if same is not None:
                return same
        from anemoi_ckpt_migrate.storage.tensors.evaluate import equal

        return equal(*(home.content(each) if is_stored(each) else each for home, each in sides))

    def content(self, tensor: StoredTensor) -> Any:
        """Return the real tensor that a stand-in describes, over the file or just made; torch is imported."""
        return self._source().tensor(plain_of(tensor))

    def digest(self, tensor: StoredTensor) -> str:
        """Return the CRC-32 of the content of a tensor, and its dtype: read from the directory where it is there."""
        return self._source().digest(plain_of(tensor))

    def attachment(self, name: str) -> bytes | None:
        """Return the content of a record of the archive beside the pickle, if there is one."""
        if name in self.attached:
            return self.attached[name]
        record = self._archive.records.get(name)
        if record is None:
            return self._archive.small.get(name)
        with self._stream() as stream:
            return zipped.read_record(stream, record)

    def verify(self, progress: Progress | None = None) -> None:
        """Read all that the file holds, and compare it with its CRCs.

        Raises
        ------
        Damaged
            Records are not what was written; all of them are named.
        """
        damaged = self.damaged(progress)
        if damaged:
            raise Damaged(damaged)

    def damaged(self, progress: Progress | None = None) -> list[str]:
        """Return the names of the records whose content, or header, is not what was written."""
        found = []
        with self._stream() as stream:
            for name, record in self._archive.records.items():
                if not zipped.is_whole(self._descriptor, record, zipped.payload_offset(stream, record)):
                    found.append(name)
                if progress is not None:
                    progress(record.size)
        return found

    def check_writable(self, in_place: bool) -> None:
        """Refuse early what writing would refuse.

        Raises
        ------
        ReadOnly, HasOtherNames
            The file is protected; or has other names, under which it would change too.
        """
        if in_place and not self._archive.is_zip:
            raise NotInPlace
        if in_place:
            check_own(self._target)
        else:
            check_writable(self._target)

    def pickled(self, tree: Any) -> Pickled:
        """Turn a tree that came from this checkpoint into bytes.

        Raises
        ------
        Unpicklable
            It holds something that cannot be saved.
        TooMuchAsked
            To undo operations, far more would have to be made than the file has.
        """
        pickler, data = dumped(tree, lambda stream: self._pickler(stream, max(2, protocol_of(self._data))))
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

    def draft(self, pickled: Pickled, attachments: Mapping[str, bytes | None]) -> Checkpoint:
        """Return what `write` would make of the file, without writing it: to be loaded, changed, and compared."""
        made = copy.copy(self)
        made._data, made.attached = pickled.data, {**self.attached, **attachments}
        content = {key: each for key, each in pickled.payloads.items() if key not in self._maker.recipes}
        made._unwritten = {**self._unwritten, **{key: memoryview(each) for key, each in content.items()}}  # type: ignore[arg-type]
        made._maker = self._maker.forked(made._first_key(), made._unwritten)
        made._reading = made._payloads = None
        return made

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
        contents = self._contents(pickled, attachments)
        made = sum(len(content) for content in contents.new.values())
        kept = sum(record.size for record in contents.kept)
        check_room(self._target if output is None else Path(os.path.realpath(output)), made, made + kept)
        with self._replacement(output) as new:
            write_new(contents, self._descriptor, new.descriptor, progress)
            return self._published(new, output, backup)

    def write_in_place(self, pickled: Pickled, attachments: Mapping[str, bytes | None]) -> Written:
        """Write what is new behind the file, and leave all the rest where it is.

        Parameters
        ----------
        pickled, attachments
            As for `write`.

        Raises
        ------
        MigrateError
            As `growing` says.
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
        """Write the file anew with all its records, and nothing between them. As `write`."""
        # Before torch 1.6 storages were named otherwise in the pickle.
        pickled = Pickled(self._data, self._keys) if self._archive.is_zip else self.pickled(self.load())
        return self.write(pickled, {}, output, backup, progress)

    def earlier(self) -> Checkpoint | None:
        """Return the file as it was before it was last written in place; None if it was not, or that is gone."""
        mark = Mark.from_json(self.attachment(_PREVIOUS) or b"")
        if mark is None or mark.length >= self.length or not mark.fits(self._descriptor):
            return None
        try:
            return Checkpoint(self.path, self._descriptor, self._before, mark.length)
        except NotACheckpoint:
            return None

    def whole(self) -> Checkpoint | None:
        """Return the file with all its bytes, as torch reads it whatever a journal says; None if it is no other.

        Raises
        ------
        NotACheckpoint
            It goes on behind what the journal says, and cannot be read so.
        """
        length = os.fstat(self._descriptor).st_size
        if length == self.length:
            return None
        return Checkpoint(self.path, self._descriptor, self._before, length, self._trusted)

    def has_what(self, later: Checkpoint) -> bool:
        """Tell whether the next state has what others put beside the pickle, but for what was written with that."""
        end = later._archive.records[_PREVIOUS].offset
        return same_attached(self._archive, later._archive, _OURS, range(self.length, end))

    def release(self) -> None:
        """Give back what is only needed to load it; its names can be asked for still."""
        _ = self.names
        self._data = b""

    def cut(self, earlier: Checkpoint) -> Written:
        """Cut the file back, in place, to what it was: an object that `earlier` returned."""
        check_whole(self.path)
        cut(self._target, self._before, earlier._mark())
        return Written(self.path, None)

    def copy(self, output: Path | None, backup: bool = True, progress: Progress | None = None) -> Written:
        """Copy the file as it is: to `output`, where nothing may stand, or (an earlier one) in the place of the new.

        Raises
        ------
        CannotWrite
            As for `write`.
        """
        with self._replacement(output) as new:
            copy_range(self._descriptor, new.descriptor, 0, self.length, 0, progress)
            return self._published(new, output, backup)

    def _check_start(self, stream: io.BufferedReader) -> None:
        """Refuse a file in which anything stands before the archive; torch would read that first.

        A file that was written in place has its first record later on. But then one begins where the file ended before.
        """
        start, records = self._archive.start, self._archive.records
        if foreign_formats.is_tar(stream):
            raise NotACheckpoint(foreign_formats.kind_of_file(stream, self.length))
        if not zipped.begins(stream):
            raise NotACheckpoint(
                f"{start:,} bytes stand before its first record, and torch.load would read, and run, those as a pickle"
            )
        if not start:
            return
        if _PREVIOUS not in records:
            raise SeveralArchives(distributed(os.fspath(self.path.parent)).way)
        mark = Mark.from_json(zipped.read_record(stream, records[_PREVIOUS]))
        if mark is None or all(record.offset != mark.length for record in records.values()):
            raise NotACheckpoint(
                f"it was written in place, and is damaged: of the {start:,} bytes before its first record, some are "
                "missing or do not belong there"
            )

    def _published(self, new: Replacement, output: Path | None, backup: bool) -> Written:
        kept = new.publish(backup)
        if kept is not None and not self.path.is_symlink():
            kept = self.path.with_name(kept.name)  # as the user names the folder
        return Written(output or self.path, kept)

    def _mark(self) -> Mark:
        return mark(self._descriptor, self.length, self._archive.directory)

    def _replacement(self, output: Path | None) -> contextlib.AbstractContextManager[Replacement]:
        check_whole(self.path)
        if output is None:
            return replacement(self._target, self._descriptor, self._before)
        return replacement(Path(os.path.realpath(output)), self._descriptor, None)

    def _contents(self, pickled: Pickled, attachments: Mapping[str, bytes | None]) -> Contents:
        small: dict[str, bytes | None] = {_PICKLE: pickled.data, **self._archive.small, **attachments}
        if _FORMAT in self._archive.records:
            # Offsets can no longer be computed from the sizes alone; 0 makes torch look them up.
            small[_FORMAT] = b"0"
        payloads = {f"data/{key}": payload for key, payload in pickled.payloads.items()}
        gone = [f"data/{key}" for key in self._keys if key not in pickled.keys]
        return changed(self._archive, self._stream, {**small, **payloads}, [*gone, _PREVIOUS])

    def _unpickled(self, unpickler: TreeUnpickler) -> Any:
        try:
            tree = unpickler.load()
        except Exception as error:  # a damaged pickle raises almost anything
            named = ", ".join(".".join(meant(*name)) for name, known in unpickler.names.items() if _runs(*name, known))
            so = f"; it names {named:.200}, with which torch.load could run anything" if named else ""
            raise NotACheckpoint(f"its data.pkl is damaged or hostile ({short(error)}){so}") from error
        there = self._archive.records or self._archive.loose
        ours = self._unwritten.keys() | self._maker.recipes.keys()
        missing = [key for key in unpickler.keys if f"data/{key}" not in there and key not in ours]
        if missing:
            raise NotACheckpoint(f"the payload data/{missing[0]} is missing")
        self._keys = unpickler.keys
        return tree

    def _pickler(self, stream: io.BytesIO, protocol: int) -> TreePickler:
        if "torch" not in sys.modules:  # then there is no real tensor in the tree either
            return TreePickler(stream, protocol)
        from anemoi_ckpt_migrate.storage.tensors.torch_content import ContentPickler

        return ContentPickler(stream, protocol, self._payloads, max(self._first_key(), self._maker.next_key))

    def _first_key(self) -> int:
        """Return the first number that names no storage of the file."""
        names = self._archive.records or self._archive.loose
        keys = [name[5:] for name in names if name.startswith("data/")]
        return max((int(key) for key in (*keys, *self._unwritten) if key.isdigit()), default=-1) + 1

    def _source(self) -> Source:
        """Return what tensors are made from; asked for only where some are, for it looks at every record."""
        if self._reading is None:
            if (self.attachment("byteorder") or b"little") != sys.byteorder.encode() and self._maker.recipes:
                wanted = f"the content of its tensors is not {sys.byteorder}-endian, so they can only be moved"
                raise NotACheckpoint(wanted)
            self._reading = Source(
                self._descriptor, self._archive, self._stream, self._maker, self._checked, self._unwritten
            )
        return self._reading

    def _stream(self) -> io.BufferedReader:
        return zipped.window(self._descriptor, self.length)


def _runs(module: str, name: str, known: bool) -> bool:
    return standing(module, name, known) == DANGEROUS


@contextlib.contextmanager
def open_checkpoint(path: str | os.PathLike[str], trusted: Collection[str] = ()) -> Iterator[Checkpoint]:
    """Open a checkpoint file. Reads its table of contents and its pickle, no payload.

    Parameters
    ----------
    path : path
        The file.
    trusted : collection of str
        Modules whose classes are built for real where they can be imported.

    Raises
    ------
    CannotRead
        The file cannot be opened.
    NotACheckpoint
        It is none that can be read.
    """
    with opened(Path(path)) as descriptor:
        before = os.fstat(descriptor)
        length = whole_length(Path(os.path.realpath(path)), descriptor)
        yield Checkpoint(Path(path), descriptor, before, length, trusted)
