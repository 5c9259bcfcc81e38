"""The surface of an open checkpoint, whatever its format: a tree of stand-ins, and the files behind it."""

from __future__ import annotations

import copy
import io
import itertools
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from anemoi_ckpt_migrate.errors import Damaged, NotACheckpoint, NotInPlace
from anemoi_ckpt_migrate.storage import zip_archive
from anemoi_ckpt_migrate.storage.size_limits import check_asked
from anemoi_ckpt_migrate.storage.tensors.deferred import SIZES, TensorBuilder, known_dtype, plain_of, storage_of
from anemoi_ckpt_migrate.storage.tensors.materialize import Places, Source, places_in
from anemoi_ckpt_migrate.storage.tensors.refs import StoredTensor, is_stored
from anemoi_ckpt_migrate.storage.url import Location, Url, real_path
from anemoi_ckpt_migrate.util.dataclass import dataclass

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.storage.atomic_replace import Written
    from anemoi_ckpt_migrate.storage.copy_range import Progress
    from anemoi_ckpt_migrate.storage.file_info import FileInfo
    from anemoi_ckpt_migrate.storage.members import Members
    from anemoi_ckpt_migrate.storage.pickle.dump import Pickled
    from anemoi_ckpt_migrate.storage.zip_archive import Archive
    from anemoi_ckpt_migrate.storage.zip_writer import Content

RECORD_ENTRY = "ckpt_migrate/record.json"
"""The entry beside the tree that holds the record, where the tree has no place for it."""


class StoredAt(NamedTuple):
    """The place of the elements of a tensor.

    Attributes
    ----------
    key : str
        The key of the storage.
    offset : int
        The first element there.
    """

    key: str
    offset: int


@dataclass(frozen=True)
class FolderOptions:
    """Options of writing that concern folders of Hugging Face only.

    Attributes
    ----------
    hard_link : bool
        Share files that do not change with the backup, although whoever truncates the one then truncates the other.
    max_shard_size : int or None
        The most bytes of tensors in a file; by default, as many as in the largest old one.
    """

    hard_link: bool = False
    max_shard_size: int | None = None


FOLDER = FolderOptions()
"""The default options."""


class Checkpoint(ABC):
    """An open checkpoint: a file, or a folder of files. Each format is a subclass.

    Parameters
    ----------
    path : Path or Url
        The place as the user named it.
    files : Members
        The open files with the content of its tensors.
    length : int
        The number of bytes of the checkpoint.

    Attributes
    ----------
    path, length
        As above.
    attached : dict of str to bytes or None
        Entries of a draft beside the tree, which replace those of the file.
    is_of_torch : bool
        Whether `torch.load` reads the format.
    is_ordered : bool
        Whether the order of the tensors counts, because a model or an optimizer may number them by it.
    keeps_order : bool
        Whether a model's tensors are in the model's order, by which an optimizer numbers its parameters.
    shares_memory : bool
        Whether tensors that share memory still do when the checkpoint is read again, also those in its record.
    record_is_text : bool
        Whether the record is text, so that tensors in it have to be spelled; elsewhere it holds tensors.
    copies_record : bool
        Whether a copy of the record stands beside the tree: the entry `COPY_ENTRY`.
    """

    is_of_torch = is_ordered = keeps_order = shares_memory = True
    record_is_text = copies_record = False

    def __init__(self, path: Location, files: Members, length: int) -> None:
        self.path, self.length, self._files = path, length, files
        self._place = real_path(path)
        self._archive = self._read_archive()
        self._touched: list[str] = []
        self._checked: set[str] = set()
        self._payloads: Any = None  # the content of the last tree, if it has real tensors
        self._reading: Source | None = None
        self._unwritten: dict[str, memoryview] = {}  # content of a draft that is not in the file
        self._maker = TensorBuilder(self._first_key(), [])
        self.attached: dict[str, bytes | None] = {}

    @abstractmethod
    def _read_archive(self) -> Archive:
        """Read the table of contents, and check it.

        Raises
        ------
        NotACheckpoint
            The file is damaged.
        """

    # The tree

    @property
    @abstractmethod
    def names(self) -> dict[tuple[str, str], bool]:
        """Modules and names in the last tree, and whether they are harmless."""

    @abstractmethod
    def load(self, trusting: bool = True) -> Any:
        """Return the tree with stand-ins for tensors, without torch. Each call builds a new tree.

        Parameters
        ----------
        trusting : bool
            Whether to build classes of trusted modules for real.

        Raises
        ------
        NotACheckpoint
            The file is damaged.
        """

    @abstractmethod
    def load_content(self) -> Any:
        """Return the tree with real tensors over the file. Each call builds a new tree.

        Raises
        ------
        NotACheckpoint
            As for `load`.
        """

    @abstractmethod
    def pickled(self, tree: Any, copy_shared: bool = False) -> Pickled:
        """Turn a tree that came from this checkpoint into the form in which it is written.

        Parameters
        ----------
        tree : object
            The tree.
        copy_shared : bool
            Write tensors that share memory one by one, if the format cannot share it.

        Raises
        ------
        Unpicklable
            The tree holds an object that the format cannot hold.
        TooMuchAsked
            The rollback of operations would create far more bytes than the file has.
        """

    def draft(self, pickled: Pickled, attachments: Mapping[str, bytes | None]) -> Checkpoint:
        """Return the result of `write` without writing it: you can load, change and compare it."""
        made = copy.copy(self)
        made._adopt(pickled)
        made.attached = {**self.attached, **attachments}
        content = {key: each for key, each in pickled.payloads.items() if key not in self._maker.recipes}
        made._unwritten = {**self._unwritten, **{key: memoryview(each) for key, each in content.items()}}  # type: ignore[arg-type]
        made._maker = self._maker.forked(made._first_key(), made._unwritten)
        made._reading = made._payloads = None
        return made

    @abstractmethod
    def _adopt(self, pickled: Pickled) -> None:
        """Take a tree to write in place of that of the file."""

    def attachment(self, name: str) -> bytes | None:
        """Return the content of an entry beside the tree; None if there is no such entry."""
        if name in self.attached:
            return self.attached[name]
        entry = self._archive.entries.get(name)
        if entry is None:
            return self._archive.small.get(name)
        with self._stream() as stream:
            return zip_archive.read_entry(stream, entry)

    @property
    def record_copy(self) -> Any:
        """The copy of the record beside the tree, as JSON has it; None if there is none for this very tree."""
        return None

    @property
    def byteorder(self) -> str:
        """The order of the bytes of its tensors: ``little`` or ``big``."""
        return (self.attachment("byteorder") or b"little").decode("ascii", "replace")

    @property
    def touched(self) -> list[str]:
        """Classes of the stand-ins in the last loaded tree that were asked for the content of a tensor."""
        return self._touched

    @property
    def maker(self) -> TensorBuilder:
        """The maker of new tensors for the last loaded tree; they are computed when the tree is written.

        It also remembers tensors of earlier trees of the file, so that you can compare them.
        """
        return self._maker

    def same(self, one: Any, other: Any, there: Checkpoint | None = None) -> bool:
        """Return whether two tensors have the same content; their shape and dtype must be equal.

        Parameters
        ----------
        one, other : StoredTensor or torch.Tensor
            The tensors, from the file or to be made.
        there : Checkpoint, optional
            Another draft of the file, if the second tensor belongs to it.

        Raises
        ------
        Damaged
            The content in the file does not match its checksum.
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
        """Return the real tensor for a stand-in, over the file or newly made; imports torch."""
        return self._source().tensor(plain_of(tensor))

    def count_of(self, tensor: Any) -> int:
        """Return the number of bytes of a tensor, of the file or real."""
        if is_stored(tensor):
            return int(tensor.numel()) * SIZES[known_dtype(plain_of(tensor))]
        return int(tensor.nbytes)

    def name_of(self, tensor: Any) -> str:
        """Return words that tell which tensor one is, of the file or real."""
        return f"a tensor of shape {list(tensor.shape)}"

    def bytes_of(self, tensor: Any) -> tuple[str, tuple[int, ...], bytes]:
        """Return the dtype and shape of a tensor, of the file or real, and its bytes: its elements in order.

        Raises
        ------
        Damaged
            The content in the file does not match its checksum.
        """
        if is_stored(tensor):
            plain = plain_of(tensor)
            return known_dtype(plain), tuple(plain.shape), self._source().read(plain)
        from anemoi_ckpt_migrate.storage.tensors.torch_content import content_of

        content = tensor.detach().cpu().contiguous().clone()
        dtype = str(content.dtype).removeprefix("torch.")
        return dtype, tuple(content.shape), bytes(content_of(content.untyped_storage()))

    def kept_as(self, tensor: Any) -> tuple[str, tuple[int, ...], bytes | StoredAt]:
        """Return a tensor as a record of text spells it: its dtype and shape, and its bytes or their place.

        Raises
        ------
        Damaged
            The content in the file does not match its checksum.
        """
        return self.bytes_of(tensor)

    def held(self, dtype: str, shape: tuple[int, ...], content: bytes | StoredAt) -> StoredTensor:
        """Return the stand-in of a tensor that a record of text spells.

        Raises
        ------
        ValueError
            The place of its bytes does not exist.
        """
        if isinstance(content, StoredAt):
            raise ValueError(f"the storage {content.key} is missing")
        made = self._maker.outside(dtype, shape)
        self._unwritten[storage_of(made).key] = memoryview(bytearray(content))  # torch warns of memory to read only
        self._reading = None
        return made

    def digest(self, tensor: StoredTensor) -> str:
        """Return the CRC-32 of a tensor's content, and its dtype; the CRC comes from the directory if it is there."""
        return self._source().digest(plain_of(tensor))

    def _source(self) -> Source:
        """Return the source for new tensors. It is created on demand, because it looks at every entry."""
        if self._reading is None:
            if self._maker.recipes:
                self._check_byteorder()
            self._reading = Source(self._files, self._places(), self._maker, self._checked, self._unwritten)
        return self._reading

    def _open_payloads(self) -> Any:
        """Return the content of all tensors, mapped from the file; imports torch."""
        from anemoi_ckpt_migrate.storage.tensors.torch_content import Payloads

        self._check_byteorder()
        ours = self._source().contents() if self._maker.recipes or self._unwritten else {}
        return Payloads(self._files, self._places(), ours)

    def _places(self) -> Places:
        """Return the place of each storage; a format that looks for them when they are needed adds to it later."""
        return places_in(self._archive, self._stream)

    def _check_byteorder(self) -> None:
        if self.byteorder != sys.byteorder:
            raise NotACheckpoint(f"its tensors are not {sys.byteorder}-endian, so they can be moved but not changed")

    def _contents_of(self, keys: Mapping[str, None], new: Mapping[str, Content]) -> dict[str, Content]:
        """Return the content of storages to write that the file lacks or holds differently.

        Parameters
        ----------
        keys : mapping of str to None
            All storages to write.
        new : mapping of str to memoryview
            Content of real tensors that a function made.

        Raises
        ------
        TooMuchAsked
            The rollback of operations would create far more bytes than the file has.
        """
        found: dict[str, Content] = {key: each for key, each in self._unwritten.items() if key in keys}
        found |= {} if self._payloads is None else self._payloads.changed(keys)
        found |= new
        found |= {key: self._source().made(key) for key in keys if key in self._maker.recipes}
        check_asked(sum(len(each) for key, each in found.items() if key in self._maker.asked), self.length)
        return found

    def _first_key(self) -> int:
        """Return the first number that is not the key of a storage in the file."""
        names = self._archive.entries or self._archive.loose
        keys = itertools.chain((name[5:] for name in names if name.startswith("data/")), self._unwritten)
        return max((int(key) for key in keys if key.isdigit()), default=-1) + 1

    def _stream(self) -> io.BufferedReader:
        first = self._files.all[0]
        return zip_archive.window(first.descriptor, first.length)

    # The files

    @property
    def _target(self) -> Path:
        """The real path of a local checkpoint."""
        if isinstance(self._place, Url):
            raise NotInPlace(f"{self._place} is no local file", "a new object takes its place")
        return self._place

    def _as_named(self, kept: Location) -> Location:
        """Return the path of a backup with the folder name of the user."""
        named_so = self.path.name == self._target.name and not self.path.is_symlink()
        return self.path.with_name(kept.name) if named_so else kept

    @property
    def replaces(self) -> Path | None:
        """The local file or folder that writing replaces, and of which it keeps a backup; None for one in a store."""
        return None if isinstance(self._place, Url) else self._place

    @property
    def most_kept(self) -> int | None:
        """The most bytes of tensors that a record of text may hold; None if they lie in a file of their own."""
        return None

    @abstractmethod
    def facts(self) -> FileInfo:
        """Return facts about the loaded checkpoint in its file."""

    @property
    def dead(self) -> int:
        """Number of bytes in the file that nothing uses."""
        return 0

    def verify(self, progress: Progress | None = None) -> None:
        """Read all entries of the file, and compare them with their CRCs.

        Raises
        ------
        Damaged
            Some entries are damaged; the error names all of them.
        """
        damaged = self.damaged(progress)
        if damaged:
            raise Damaged(damaged)

    @abstractmethod
    def damaged(self, progress: Progress | None = None) -> list[str]:
        """Return the names of damaged entries: their content or header has changed."""

    @abstractmethod
    def check_writable(self, in_place: bool) -> None:
        """Refuse early a checkpoint that writing would refuse.

        Raises
        ------
        ReadOnly, HasOtherNames, NotInPlace
            It is protected; it has other names, which would change too; its format cannot be written in place.
        """

    @abstractmethod
    def write(
        self,
        pickled: Pickled,
        attachments: Mapping[str, bytes | None],
        output: Location | None = None,
        backup: bool = True,
        progress: Progress | None = None,
        folder: FolderOptions = FOLDER,
    ) -> Written:
        """Write a changed checkpoint, whole or not at all.

        Parameters
        ----------
        pickled : Pickled
            The new tree, from `pickled`.
        attachments : mapping of str to bytes or None
            Entries to write beside the pickle; None removes one. All others stay as they are.
        output : Path or Url, optional
            Where to write; nothing may exist there. Without it, the checkpoint itself is replaced.
        backup : bool
            Keep the old checkpoint beside the new one.
        progress : callable, optional
            Called with the number of bytes copied, from time to time.
        folder : FolderOptions
            For folders only.

        Raises
        ------
        CannotWrite
            The system refused; everything is unchanged.
        """

    def write_in_place(self, pickled: Pickled, attachments: Mapping[str, bytes | None]) -> Written:
        """Write a changed checkpoint into its file. Parameters are those of `write`.

        Raises
        ------
        NotInPlace
            The format cannot be written in place; `check_writable` refuses that first, with its reason.
        """
        raise NotInPlace("its format cannot be written in place", "a new checkpoint takes its place")

    def rewrite(
        self,
        output: Location | None = None,
        backup: bool = True,
        progress: Progress | None = None,
        copy: bytes | None = None,
    ) -> Written:
        """Write it anew with all its entries and without gaps. Other parameters, and errors, are those of `write`.

        Parameters
        ----------
        copy : bytes, optional
            The record for the copy beside the tree, if the old copy is wrong.
        """
        return self.write(self.pickled(self.load()), {}, output, backup, progress)

    @abstractmethod
    def copy(self, output: Location | None, backup: bool = True, progress: Progress | None = None) -> Written:
        """Copy the checkpoint unchanged to `output`, where nothing may exist; or an earlier state over the current one.

        Raises
        ------
        CannotWrite
            As for `write`.
        """

    def release(self) -> None:
        """Free the memory that only loading needs; `names` stays available."""
        self._reading = self._payloads = None

    # Earlier states in the file, for formats that can be written in place

    def earlier(self) -> Checkpoint | None:
        """Return the file before it was last written in place; None if it never was, or the earlier state is lost."""
        return None

    def whole(self) -> Checkpoint | None:
        """Return the file with all its bytes, despite a journal; None if there are no further bytes.

        Raises
        ------
        NotACheckpoint
            Bytes follow the length in the journal, and the file cannot be read with them.
        """
        return None

    def has_what(self, later: Checkpoint) -> bool:
        """Return whether the next state kept all entries that are not the format's own, or rewrote them itself."""
        return False

    def cut(self, earlier: Checkpoint) -> Written:
        """Cut the file back, in place, to an earlier state, which `earlier` returned."""
        raise NotImplementedError
