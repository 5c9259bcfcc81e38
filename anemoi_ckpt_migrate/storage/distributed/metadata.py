"""The metadata of a distributed checkpoint (``.metadata``): read with distrust, and written.

torch pickles one object with three maps: the tensors and other values by name, the path of each name in the tree, and
the file and range of each chunk. All three are read as one, because a name that changes has to change in each of them.
Everything else in the object is kept as it is. Source: ``torch/distributed/checkpoint``, torch 2.13.
"""

from __future__ import annotations

import functools
import math
import pickle
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn

from anemoi_ckpt_migrate.errors import NotACheckpoint
from anemoi_ckpt_migrate.storage.distributed import chunks as algebra
from anemoi_ckpt_migrate.storage.distributed.closed_pickle import ForeignName, Name, Size, Struct, read
from anemoi_ckpt_migrate.storage.distributed.metadata_patterns import (
    Irregular,
    Names,
    PlainTensor,
    PlainValue,
    read_by_pattern,
)
from anemoi_ckpt_migrate.storage.shard_sets import METADATA
from anemoi_ckpt_migrate.storage.tensors.deferred import SIZES
from anemoi_ckpt_migrate.util.dataclass import dataclass
from anemoi_ckpt_migrate.util.gc_pause import paused as gc_paused

_CHECKPOINT, _SHARDS = "torch.distributed.checkpoint", "torch.distributed._shard.sharded_tensor.metadata"
_OBJECT, _TENSOR, _CHUNK, _BYTES, _INDEX = (
    Name(f"{_CHECKPOINT}.metadata", name)
    for name in ("Metadata", "TensorStorageMetadata", "ChunkStorageMetadata", "BytesStorageMetadata", "MetadataIndex")
)
_PLACE = Name(f"{_CHECKPOINT}.filesystem", "_StorageInfo")
_PROPERTIES = Name(f"{_CHECKPOINT}.metadata", "TensorProperties")
_LAYOUT, _FORMAT = Name("torch.serialization", "_get_layout"), Name(f"{_CHECKPOINT}.metadata", "_MEM_FORMAT_ENCODING")
_PATHS = ("PosixPath", "WindowsPath", "Path", "PurePosixPath", "PureWindowsPath")
KNOWN = frozenset(
    {_OBJECT, _TENSOR, _CHUNK, _BYTES, _INDEX, _PLACE, _PROPERTIES, _LAYOUT, _FORMAT}
    | {Name(f"{_CHECKPOINT}.metadata", "StorageMeta"), Name("torch", "Size"), Name("collections", "OrderedDict")}
    | {Name(_SHARDS, name) for name in ("TensorProperties", "MEM_FORMAT_ENCODING")}  # before torch 2.3
    | {Name(module, name) for module in ("pathlib", "pathlib._local") for name in _PATHS}
    | {Name("torch", dtype) for dtype in SIZES}
)
"""The names that a metadata file may hold."""
_LARGEST = 1 << 50  # elements of a tensor, and bytes of a file
_DEEPEST = 100  # keys of a path
_MOST_KEPT = 1 << 12  # kinds of tensors
NAMES = Names(_OBJECT, _TENSOR, _CHUNK, _BYTES, _INDEX, _PLACE)
"""The classes of the objects in the three maps."""
_NOTHING: Mapping[str, Any] = MappingProxyType({})

Path = tuple[str | int, ...]
"""The keys and indices that lead to a value of the tree."""


def named(path: Path) -> str:
    """Return the name of a value, from its path."""
    try:
        return ".".join(path)  # type: ignore[arg-type]
    except TypeError:  # an index is among the keys
        return ".".join(map(str, path))


class Place(NamedTuple):
    """The bytes of a chunk or another value.

    Attributes
    ----------
    file : str
        The file, relative to the folder.
    start, length : int
        The range in bytes.
    more : mapping
        Further attributes.
    """

    file: str
    start: int
    length: int
    more: Mapping[str, Any] = _NOTHING

    @property
    def transforms(self) -> tuple[str, ...]:
        """The names of the ways in which the bytes were transformed, as by compression."""
        return tuple(self.more.get("transform_descriptors") or ())


class Chunk(NamedTuple):
    """A part of a tensor.

    Attributes
    ----------
    offsets, sizes : tuple of int
        Its place in the tensor, and its shape.
    place : Place
        Its bytes.
    more : mapping
        Further attributes.
    """

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    place: Place
    more: Mapping[str, Any] = _NOTHING


class TensorEntry(NamedTuple):
    """A tensor.

    Attributes
    ----------
    properties : Struct
        Its dtype, layout and so on, as torch keeps them.
    shape : tuple of int
        Its shape.
    chunks : tuple of Chunk
        Its parts.
    more : mapping
        Further attributes.
    """

    properties: Struct
    shape: tuple[int, ...]
    chunks: tuple[Chunk, ...]
    more: Mapping[str, Any] = _NOTHING

    @property
    def dtype(self) -> str:
        """Its dtype, without ``torch.``."""
        return str(self.properties.state[0].name)


class ValueEntry(NamedTuple):
    """A value that is not a tensor, stored as `torch.save` writes it.

    Attributes
    ----------
    place : Place
        Its bytes.
    more : mapping
        Further attributes.
    """

    place: Place
    more: Mapping[str, Any] = _NOTHING


Entry = TensorEntry | ValueEntry


@dataclass(frozen=True)
class Metadata:
    """The metadata of a distributed checkpoint.

    Attributes
    ----------
    entries : dict of str to TensorEntry or ValueEntry
        Tensors and other values, by name.
    paths : dict of str to tuple, or None
        The path of each name in the tree; None if the names are the keys of the tree.
    more : dict of str to object
        Further attributes of the object, unread.
    """

    entries: dict[str, Entry]
    paths: dict[str, Path] | None
    more: dict[str, Any]


def read_metadata(data: bytes) -> Metadata:
    """Read the content of a metadata file.

    Raises
    ------
    NotACheckpoint
        It is damaged or hostile: it names a class that torch does not put there, or its maps contradict each other.
    """
    with gc_paused():
        try:
            return _Reading(read_by_pattern(data, KNOWN, NAMES)).metadata()
        except (Irregular, NotACheckpoint):
            pass  # whether it is to be refused, and why, is told by what reads it object by object
        try:
            found = read(data, KNOWN)
        except ForeignName as error:
            raise NotACheckpoint(
                f"its {METADATA} names {error.name!s:.200}, which is no part of the metadata of a distributed "
                "checkpoint; torch would import it, and may run it"
            ) from error
        except pickle.UnpicklingError as error:
            raise NotACheckpoint(f"its {METADATA} is damaged or hostile ({error})") from error
        return _Reading(_state(found, _OBJECT, "the object")).metadata()


class _Reading:
    """Turns the attributes of the pickled object into the metadata; everything is checked: anyone can write it."""

    def __init__(self, attributes: Mapping[str, Any]) -> None:
        self._fields = dict(attributes)
        self._filled: set[Any] = set()  # shapes and chunks of tensors that were found to be right
        self._known_forms: dict[int, Struct] = {}  # properties that were found to be right, by id

    def metadata(self) -> Metadata:
        tensors, paths = self._fields.pop("state_dict_metadata", None), self._fields.pop("planner_data", None)
        places = self._places(self._fields.pop("storage_data", None))
        if not _is_dict(tensors):
            _refuse("it has no map of tensors")
        entries = {name: self._entry(name, each, places) for name, each in tensors.items()}
        if places:
            name, _ = next(iter(places))
            known = f"a chunk of {name:.200} that the tensor does not have" if name in entries else f"{name:.200}"
            _refuse(f"its map of files names {known}")
        if paths is not None:
            paths = self._paths(paths, entries)
        return Metadata(entries, paths, self._fields)

    def _places(self, storage: Any) -> dict[tuple[str, tuple[int, ...] | None], Place]:
        """Return the place of each chunk, by name and offsets."""
        if not _is_dict(storage):
            _refuse("it has no map of files")
        found: dict[tuple[str, tuple[int, ...] | None], Place] = {}
        for index, place in storage.items():
            if type(index) is type(place) is tuple:
                found[index] = _made_place(index[0], *place)
                continue
            key = _state(index, _INDEX, "an index of a chunk")
            name, offset = key.get("fqn"), key.get("offset")
            if type(name) is not str or (offset is not None and type(offset) is not Size):
                _refuse("an index of a chunk has no name, or no offsets")
            found[name, offset] = _place(name, place)
        if len(found) < len(storage):
            _refuse("two chunks have the same name and offsets")
        return found

    def _entry(self, name: Any, value: Any, places: dict[tuple[str, tuple[int, ...] | None], Place]) -> Entry:
        if type(name) is not str:
            _refuse("the name of a tensor is no text")
        if type(value) is PlainTensor:
            return self._plain_tensor(name, value, places)
        if type(value) is PlainValue:
            value = Struct(_BYTES)
        if type(value) is not Struct or value.name not in (_TENSOR, _BYTES):
            _refuse(f"{name:.200} is neither a tensor nor another value")
        if value.name == _BYTES:
            place = places.pop((name, None), None)
            if place is None:
                _refuse(f"no file holds {name:.200}")
            return ValueEntry(place, _state(value, _BYTES, name))
        return self._tensor(name, dict(_state(value, _TENSOR, name)), places)

    def _plain_tensor(
        self, name: str, value: PlainTensor, places: dict[tuple[str, tuple[int, ...] | None], Place]
    ) -> TensorEntry:
        """Return a tensor as `_tensor` does; thousands have the same properties, shapes and chunks."""
        properties, size, boxes, others = value
        if others:
            found = [(*each, _NOTHING) for each in boxes]
            for at, chunk in others:
                found.insert(at, _box(name, chunk))
            if any(more for _, _, more in found):
                fields = {"properties": properties, "size": size, "chunks": [_struct(*each) for each in found]}
                return self._tensor(name, fields, places)
            boxes = [(offsets, sizes) for offsets, sizes, _ in found]
        if id(properties) not in self._known_forms:
            _check_properties(name, properties)
            self._known_forms[id(properties)] = properties
        kind = size, *boxes
        if kind not in self._filled:
            _check_size(name, size)
            for offsets, sizes in boxes:
                _checked_box(name, offsets, sizes)
            _check_filled(name, size, boxes)
            if len(self._filled) < _MOST_KEPT:
                self._filled.add(kind)
        try:
            chunks = [Chunk(offsets, sizes, places.pop((name, offsets))) for offsets, sizes in boxes]
        except KeyError:
            _refuse(f"no file holds a chunk of {name:.200}, or it is listed twice")
        return TensorEntry(properties, size, tuple(chunks))

    def _tensor(
        self, name: str, fields: dict[str, Any], places: dict[tuple[str, tuple[int, ...] | None], Place]
    ) -> TensorEntry:
        properties, size, listed = (fields.pop(each, None) for each in ("properties", "size", "chunks"))
        _check_properties(name, properties)
        if type(size) is not Size or type(listed) is not list:
            _refuse(f"{name:.200} has no shape, or no chunks")
        _check_size(name, size)
        boxes = [_box(name, each) for each in listed]
        _check_filled(name, size, [(offsets, sizes) for offsets, sizes, _ in boxes])
        found = []
        for offsets, sizes, more in boxes:
            place = places.get((name, offsets))
            if place is None:
                _refuse(f"no file holds the chunk of {name:.200} at {list(offsets)}")
            found.append(Chunk(offsets, sizes, place, more))
        for offsets, _, _ in boxes:  # a chunk may be listed twice
            places.pop((name, offsets), None)
        return TensorEntry(properties, size, tuple(found), fields)

    def _paths(self, paths: Any, entries: Mapping[str, Entry]) -> dict[str, Path]:
        if not _is_dict(paths) or not all(type(path) is tuple and 0 < len(path) < _DEEPEST for path in paths.values()):
            _refuse("it holds the plan of another planner than torch's own")
        apart = entries.keys() ^ paths.keys()
        for name in [each for each in (*entries, *paths) if each in apart] if apart else ():
            _refuse(f"its map of tensors and its map of paths do not both name {name!s:.200}")
        for name, path in paths.items():
            if not _TEXTS.issuperset(map(type, path)) and not all(map(_is_key, path)):
                _refuse(f"the path of {name:.200} is not made of keys and indices")
            if named(path) != name:
                _refuse(f"the path of {name:.200} leads to {named(path):.200}")
        return dict(paths)


def _is_key(value: Any) -> bool:
    return type(value) is str or (type(value) is int and 0 <= value < _LARGEST)


def _refuse(why: str) -> NoReturn:
    raise NotACheckpoint(f"its {METADATA} is damaged or hostile ({why})")


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)


def _state(value: Any, name: Name, what: str) -> Mapping[str, Any]:
    """Return the attributes of an object of a class."""
    if type(value) is not Struct or value.name != name or value.args or value.called:
        _refuse(f"{what:.200} is no {name.name}")
    if value.state is None:
        return _NOTHING
    if type(value.state) is not dict or not _TEXTS.issuperset(map(type, value.state)):
        _refuse(f"the attributes of {what:.200} are spelled in an unknown way")
    state: Mapping[str, Any] = value.state
    return state


_TEXTS, _INTEGERS = {str}, {int}


def _place(name: str, value: Any) -> Place:
    fields = dict(_state(value, _PLACE, name))
    file, start, length = (fields.pop(each, None) for each in ("relative_path", "offset", "length"))
    place = _made_place(name, file, start, length)
    transforms = fields.get("transform_descriptors")
    if transforms is not None and not (type(transforms) in (list, tuple) and _TEXTS.issuperset(map(type, transforms))):
        _refuse(f"the bytes of {name:.200} are transformed in an unknown way")
    return place._replace(more=fields) if fields else place


def _made_place(name: str, file: Any, start: Any, length: Any) -> Place:
    if type(file) is not str or not is_inside(file):
        _refuse(f"the file of {name:.200} is {file!r:.200}, which is not in the folder")
    if not (type(start) is type(length) is int and 0 <= start <= _LARGEST and 0 <= length <= _LARGEST):
        _refuse(f"the bytes of {name:.200} lie in an impossible place")
    return Place(file, start, length)


@functools.cache
def is_inside(file: str) -> bool:
    """Return whether a relative path stays in its folder, by its text alone."""
    path = PurePosixPath(file)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and file.isprintable()


def _box(name: str, value: Any) -> tuple[Size, Size, Mapping[str, Any]]:
    fields = _state(value, _CHUNK, f"a chunk of {name:.200}")
    offsets, sizes = fields.get("offsets"), fields.get("sizes")
    offsets, sizes = _checked_box(name, offsets, sizes)
    more = _NOTHING if len(fields) == 2 else {k: v for k, v in fields.items() if k not in ("offsets", "sizes")}
    return offsets, sizes, more


def _struct(offsets: Size, sizes: Size, more: Mapping[str, Any]) -> Struct:
    """Return a chunk as it was pickled."""
    return Struct(_CHUNK, (), {"offsets": offsets, "sizes": sizes, **more})


def _check_size(name: str, size: Size) -> None:
    _check_numbers(name, size)
    if math.prod(max(each, 1) for each in size) > _LARGEST:
        _refuse(f"{name:.200} is larger than any tensor")


def _checked_box(name: str, offsets: Any, sizes: Any) -> tuple[Size, Size]:
    if type(offsets) is not Size or type(sizes) is not Size or len(offsets) != len(sizes):
        _refuse(f"a chunk of {name:.200} has no offsets, or no sizes")
    _check_numbers(name, offsets)
    _check_numbers(name, sizes)
    return offsets, sizes


def _check_filled(name: str, size: Size, boxes: Iterable[tuple[Size, Size]]) -> None:
    if not algebra.covers(size, dict.fromkeys(boxes)):
        _refuse(f"the chunks of {name:.200} overlap, leave a gap, or reach beyond its shape {list(size)}")


def _check_numbers(name: str, numbers: Iterable[int]) -> None:
    for each in numbers:
        if not 0 <= each <= _LARGEST:
            _refuse(f"a size or an offset of {name:.200} is impossible")


def _check_properties(name: str, value: Any) -> None:
    known = type(value) is Struct and value.name.name == _PROPERTIES.name and type(value.state) is tuple
    dtype = value.state[0] if known and value.state else None
    if type(dtype) is not Name or dtype.module != "torch" or dtype.name not in SIZES:
        _refuse(f"{name:.200} has no dtype")


def places_of(entry: Entry) -> list[Place]:
    """Return the places of all chunks of a tensor, or of another value."""
    return [entry.place] if isinstance(entry, ValueEntry) else [chunk.place for chunk in entry.chunks]


def with_dtype(properties: Struct | None, dtype: str) -> Struct:
    """Return the properties of a new tensor: those of another, or torch's defaults, with a dtype."""
    if properties is None:
        return properties_from({"dtype": dtype})
    return Struct(properties.name, (), (Name("torch", dtype), *properties.state[1:]))


def properties_to_data(properties: Struct) -> dict[str, Any]:
    """Return the properties of a tensor as plain data: its dtype, and all that differs from torch's defaults."""
    dtype, *rest = properties.state
    found = {"dtype": dtype.name}
    for (field, default), value in zip(_DEFAULTS.items(), rest, strict=False):
        plain = value.args[0] if type(value) is Struct and len(value.args) == 1 else value
        if type(plain) is type(default) and plain != default:
            found[field] = plain
    return found


def properties_from(data: Mapping[str, Any]) -> Struct:
    """Return the properties of a tensor from plain data.

    Raises
    ------
    ValueError
        The data is damaged.
    """
    dtype = data.get("dtype")
    fields = {field: data.get(field, default) for field, default in _DEFAULTS.items()}
    if dtype not in SIZES or any(type(fields[field]) is not type(default) for field, default in _DEFAULTS.items()):
        raise ValueError("the properties of a stashed tensor are damaged")
    layout, requires_grad, memory_format, pin_memory = fields.values()
    state = (
        Name("torch", dtype),
        Struct(_LAYOUT, (layout,), called=True),
        requires_grad,
        Struct(_FORMAT, (memory_format,), called=True),
        pin_memory,
    )
    return Struct(_PROPERTIES, (), state)


_DEFAULTS = {"layout": "torch.strided", "requires_grad": False, "memory_format": 0, "pin_memory": False}
"""Properties beside the dtype, in torch's order, with its defaults."""


def is_strided(entry: TensorEntry) -> bool:
    """Return whether a tensor is an ordinary one, not a sparse one for example."""
    return "layout" not in properties_to_data(entry.properties)
