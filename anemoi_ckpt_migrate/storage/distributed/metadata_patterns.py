"""The metadata of a distributed checkpoint, read by patterns: torch spells thousands of entries in the same way.

A regular expression matches the opcodes of a whole entry: all of them, so it reads what `closed_pickle.walk` would, in
a fraction of the time. The walk reads each entry that no pattern matches, as where a frame of the pickle ends. What
does not fit together is `Irregular`, and then the walk has to read the whole: it alone refuses.
"""

from __future__ import annotations

import pickle
import re
import struct
from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple, SupportsIndex

from anemoi_ckpt_migrate.storage.distributed.closed_pickle import (
    DAMAGED,
    SIZE,
    Name,
    Size,
    Struct,
    set_items,
    walk,
)
from anemoi_ckpt_migrate.util.dataclass import dataclass

Box = tuple[Size, Size]
"""The offsets and sizes of a chunk."""


@dataclass(frozen=True)
class Names:
    """The classes of torch whose objects are matched.

    Attributes
    ----------
    whole, tensor, chunk, value, index, place : Name
        ``Metadata``, ``TensorStorageMetadata``, ``ChunkStorageMetadata``, ``BytesStorageMetadata``, ``MetadataIndex``
        and ``_StorageInfo``.
    """

    whole: Name
    tensor: Name
    chunk: Name
    value: Name
    index: Name
    place: Name


class PlainTensor(NamedTuple):
    """A tensor without further attributes.

    Attributes
    ----------
    properties : Struct
        Its properties; tensors that spell them alike share them.
    size : Size
        Its shape.
    boxes : list of Box
        Its chunks.
    others : list of (int, Struct)
        Those that no pattern matched, each with its place among the boxes.
    """

    properties: Struct
    size: Size
    boxes: list[Box]
    others: list[tuple[int, Struct]]


class PlainValue(NamedTuple):
    """A value that is not a tensor, without attributes."""


class Irregular(Exception):
    """The pickle is none of those that the patterns match."""


def read_by_pattern(data: bytes, known: Collection[Name], names: Names) -> dict[str, Any]:
    """Return the attributes of the object in a pickle.

    Parameters
    ----------
    data : bytes
        The pickle.
    known : collection of Name
        The names that it may hold.
    names : Names
        The classes whose objects are matched.

    Returns
    -------
    dict
        As ``read(data, known).state``, where tensors may be `PlainTensor`, other values `PlainValue`, and the map of
        files may have ``(name, offsets)`` as a key and ``(file, start, length)`` as a value.

    Raises
    ------
    Irregular
        It has to be read by `closed_pickle.read`.
    """
    try:
        return _Reader(data, known, names).whole()
    except (pickle.UnpicklingError, *DAMAGED) as error:
        raise Irregular("it is damaged, or spelled in an unknown way") from error


class _Hidden:
    """Stands in the memo for objects that no pickle of torch repeats."""


_HIDDEN = _Hidden()


class _Memo(list[Any]):
    """Objects by their numbers."""

    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        found = super().__getitem__(index)
        if found is _HIDDEN:
            raise Irregular("it repeats a part of an entry")
        return found


_FRAME, _MEMO, _MARK, _SET, _BUILD, _NEWOBJ, _DICT, _APPENDS, _LONG_GET, _SHORT_GET = (
    code[0]
    for code in (
        pickle.FRAME,
        pickle.MEMOIZE,
        pickle.MARK,
        pickle.SETITEMS,
        pickle.BUILD,
        pickle.NEWOBJ,
        pickle.EMPTY_DICT,
        pickle.APPENDS,
        pickle.LONG_BINGET,
        pickle.BINGET,
    )
)
_TUPLES = frozenset(code[0] for code in (pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3, pickle.TUPLE))
# No pattern looks farther than an entry may be long, so hostile bytes cost no more than the walk.
_GET, _TEXT = rb"h.|j....", rb"\x8c(.)([^\x94]{0,255})\x94"
_NUMBER = rb"K.|M..|J....|\x8a\x05.....|\x8a\x06......|\x8a\x07......."
_SMALL = rb"(?:K.|M..|J....)"
_NAME = rb"(?:" + _TEXT + rb"|(" + _GET + rb"))"
_KEY = rb"(?:\x8c.[^\x94]{0,255}\x94|" + _GET + rb"|" + _SMALL + rb")"
_PARTS = re.compile(_TEXT + rb"|(" + _GET + rb")|(" + _SMALL + rb")", re.DOTALL)
_NO_KEYS = 0x84  # opcodes of tuples of one to three objects follow
_FEW = 64  # dimensions of a tensor, and keys of a path
_TRIES = 8
_MOST_PARTS = 6  # of an entry, each walked by itself
_BITS = 1 << 31


def _index(spelled: bytes) -> int:
    """Return the number of an object that is repeated."""
    return spelled[1] if len(spelled) == 2 else int.from_bytes(spelled[1:], "little")


def _number(spelled: bytes) -> int:
    """Return an integer, from its opcode and its argument."""
    if spelled[0] == 0x8A:
        return int.from_bytes(spelled[2:], "little", signed=True)
    found = int.from_bytes(spelled[1:], "little")
    return found if found < _BITS else found - 2 * _BITS


class _Reader:
    """Reads one pickle, from its beginning to its end."""

    def __init__(self, data: bytes, known: Collection[Name], names: Names) -> None:
        self._data, self._known, self._names = data, known, names
        self._at, self._memo = 0, _Memo()
        self._sizes: dict[bytes, tuple[Size, tuple[Any, ...]]] = {}  # by their spelling
        self._properties: dict[bytes, Struct] = {}
        self._numbers: dict[bytes, int] = {}
        self._matches: dict[Name, list[Any]] = {}  # of the patterns of entries, by class
        self._tries: dict[Name, int] = {}

    def whole(self) -> dict[str, Any]:
        """Return the attributes of the object."""
        self._begin()
        tensors = self._map({}, self._tensors, _BUILD, _NEWOBJ)
        found: dict[str, Any] = {"state_dict_metadata": tensors}
        self._skip_frames()
        if self._begins_map("planner_data"):
            found["planner_data"] = self._map({}, self._paths, *_TUPLES)
            self._skip_frames()
        if self._begins_map("storage_data"):
            found["storage_data"] = self._map({}, self._places, _BUILD)
        if self._data[self._at] != _SET:
            set_items(found, self._walked())
        self._at += 1
        self._expect(pickle.BUILD)
        self._expect(pickle.STOP)
        return found

    # The frame of the pickle

    def _begin(self) -> None:
        """Read the beginning, as far as the first entry."""
        self._expect(pickle.PROTO)
        self._at += 1
        self._skip_frames()
        if self._walked(pickle.STACK_GLOBAL[0]) != [self._names.whole]:
            raise Irregular("it begins in another way")
        self._expect(_NEW)
        self._memo += _TWO
        if not self._begins_map("state_dict_metadata"):
            raise Irregular("it begins in another way")

    def _expect(self, spelled: bytes) -> None:
        self._skip_frames()
        if not self._data.startswith(spelled, self._at):
            raise Irregular("it is spelled in another way")
        self._at += len(spelled)

    def _skip_frames(self) -> None:
        while self._data[self._at] == _FRAME:
            self._at += 9

    def _begins_map(self, key: str) -> bool:
        """Return whether an attribute that is a dict with entries follows, and go to its first entry."""
        spelled = pickle.SHORT_BINUNICODE + bytes((len(key),)) + key.encode() + pickle.MEMOIZE
        spelled += pickle.EMPTY_DICT + pickle.MEMOIZE + pickle.MARK
        if not self._data.startswith(spelled, self._at):
            return False
        self._at += len(spelled)
        self._memo += (key, _HIDDEN)
        return True

    def _walked(self, *ends: int, stack: Iterable[Any] = ()) -> list[Any]:
        """Return what the next opcodes make, one by one, of what is on the stack before."""
        before = self._at
        found, self._at = walk(self._data, self._known, self._at, self._memo, ends, stack)
        if self._at == before:
            raise Irregular("an entry ends in another way")
        if ends and self._data[self._at] == _MEMO:
            self._at += 1
            self._memo.append(found[-1])
        self._skip_frames()
        return found

    def _map(self, found: dict[Any, Any], step: Callable[[dict[Any, Any]], None], *ends: int) -> dict[Any, Any]:
        """Return the entries of a dict, of which the first follows.

        Parameters
        ----------
        found : dict
            An empty dict.
        step : callable
            Adds the entries that patterns match, up to one that is spelled in another way.
        ends : int
            The opcodes that end an entry.
        """
        first = len(self._memo)
        while True:
            step(found)
            code = self._data[self._at]
            if code == _FRAME:
                self._at += 9
            elif code == _SET:
                self._at += 1
                self._skip_frames()
                if self._data[self._at] != _MARK:  # there are so many in a batch
                    return found
                self._at += 1
            else:
                items = self._walked(*ends)
                # A key may end like a value, and a frame may stand between an object and its attributes.
                for _ in range(_MOST_PARTS):
                    if len(items) % 2 == 0 and self._data[self._at] != _DICT:
                        break
                    items = self._walked(*ends, stack=items)
                else:
                    raise Irregular("an entry has too many parts")
                set_items(found, items)
                for value in items[1::2]:
                    self._note(value, first)

    # Patterns: each needs the numbers of the names in it, so an entry of its kind has to be walked before

    def _note(self, value: Any, first: int) -> None:
        """Compile the patterns of an entry that was walked, if they were not.

        Parameters
        ----------
        value : object
            The value of the entry.
        first : int
            The length of the memo before the map.
        """
        if type(value) is not Struct or self._tries.get(value.name, 0) >= _TRIES:
            return
        patterns = {
            self._names.tensor: self._tensor_patterns,
            self._names.value: self._value_patterns,
            self._names.place: self._place_patterns,
        }
        if value.name in patterns:
            self._tries[value.name] = self._tries.get(value.name, 0) + 1
            try:
                found = patterns[value.name](lambda each: self._repeated(each, first))
            except ValueError:  # it lacks a part, as a tensor without chunks does
                return
            self._matches[value.name] = [re.compile(each, re.DOTALL).match for each in found]
            self._tries[value.name] = _TRIES

    def _repeated(self, value: Any, first: int) -> bytes:
        """Return the pattern of a name or a text that was spelled before."""
        memo = self._memo
        index = memo.index(value, first) if value in memo[first:] else memo.index(value)
        return re.escape(
            pickle.BINGET + bytes((index,)) if index < 256 else pickle.LONG_BINGET + index.to_bytes(4, "little")
        )

    def _size_pattern(self, repeated: Callable[[Any], bytes]) -> bytes:
        numbers = rb"\)|(?:" + _SMALL + rb"\x85|" + _SMALL * 2 + rb"\x86|" + _SMALL * 3 + rb"\x87|"
        numbers += rb"\(" + _SMALL + b"{4,%d}t)" % _FEW + rb"\x94"
        return rb"(" + repeated(SIZE) + rb"(?:" + numbers + rb")\x85\x94R\x94|" + _GET + rb")"

    def _tensor_patterns(self, repeated: Callable[[Any], bytes]) -> list[bytes]:
        names, size = self._names, self._size_pattern(repeated)
        chunk = repeated(names.chunk) + _ANY_NEW + repeated("offsets") + size + repeated("sizes") + size + rb"ub"
        properties = rb"((?:" + _GET + rb")\)\x81\x94\((?:" + _GET + rb"|[\x88\x89]){0,16}t\x94)b"
        tensor = (
            _NAME + repeated(names.tensor) + _ANY_NEW + repeated("properties") + properties + repeated("size") + size
        )
        tensor += repeated("chunks") + rb"\]\x94(\(?)" + chunk + rb"(aub|eub|)"
        return [tensor, chunk]

    def _value_patterns(self, repeated: Callable[[Any], bytes]) -> list[bytes]:
        return [_NAME + repeated(self._names.value) + rb"\)\x81\x94(?!(?:\x95........)?\})"]

    def _place_patterns(self, repeated: Callable[[Any], bytes]) -> list[bytes]:
        number, size = rb"(" + _NUMBER + rb")", self._size_pattern(repeated)
        index = repeated(self._names.index) + _ANY_NEW + repeated("fqn") + _NAME
        index += repeated("index") + rb"(?:N|" + _SMALL + rb")(?:" + repeated("offset") + size + rb")?ub"
        place = repeated(self._names.place) + _ANY_NEW + repeated("relative_path") + _NAME
        place += repeated("offset") + number + repeated("length") + number + rb"ub"
        return [index + place]

    # Entries

    def _tensors(self, found: dict[Any, Any]) -> None:
        while self._some_tensors(found) or self._some_values(found):
            pass

    def _some_tensors(self, found: dict[Any, Any]) -> bool:
        """Add the tensors that follow, and return whether there were any."""
        before = len(found)
        match = self._match(self._names.tensor)
        memo, data, sizes = self._memo, self._data, self._sizes
        while entry := match(data, self._at):
            length, text, number, properties, size, mark, offset, extent, end = entry.groups()
            if not end and not mark:  # a frame follows
                break
            if text is None:
                name = self._known_text(number)
            elif len(text) == length[0]:
                name = str(text, "utf-8")
                memo.append(name)
            else:
                break
            if name in found:
                raise Irregular("a name is there twice")
            memo += _TWO
            form = self._properties.get(properties) or self._read_properties(properties)
            memo += _TWO
            shape, more = sizes.get(size) or self._size(size)
            memo += more
            memo += _THREE
            first, more = sizes.get(offset) or self._size(offset)
            memo += more
            extent, more = sizes.get(extent) or self._size(extent)
            memo += more
            self._at = entry.end()
            found[name] = PlainTensor(form, shape, [(first, extent)], [])
            if end != (b"eub" if mark else b"aub"):
                if end:
                    raise Irregular("a list ends in another way")
                self._chunks(found[name])
        return len(found) > before

    def _chunks(self, tensor: PlainTensor) -> None:
        """Add all further chunks of a tensor, and go behind it."""
        match, boxes = self._match(self._names.tensor, 1), tensor.boxes
        memo, data, sizes = self._memo, self._data, self._sizes
        while True:
            while chunk := match(data, self._at):
                memo += _TWO
                offset, extent = chunk.groups()
                first, more = sizes.get(offset) or self._size(offset)
                memo += more
                extent, more = sizes.get(extent) or self._size(extent)
                memo += more
                boxes.append((first, extent))
                self._at = chunk.end()
            self._skip_frames()
            if data[self._at] != _APPENDS:
                (chunk,) = self._walked(_BUILD)
                tensor.others.append((len(boxes) + len(tensor.others), chunk))
                continue
            self._at += 1
            self._skip_frames()
            if data[self._at] != _MARK:  # there are so many in a batch
                self._expect(pickle.SETITEMS)
                self._expect(pickle.BUILD)
                return
            self._at += 1

    def _some_values(self, found: dict[Any, Any]) -> bool:
        """Add the values that follow, and return whether there were any."""
        before, match = len(found), self._match(self._names.value)
        while entry := match(self._data, self._at):
            length, text, number = entry.groups()
            if text is not None and len(text) != length[0]:
                break
            name = self._text(text, number)
            if name in found:
                raise Irregular("a name is there twice")
            found[name] = PlainValue()
            self._memo.append(_HIDDEN)
            self._at = entry.end()
        return len(found) > before

    def _paths(self, found: dict[Any, Any]) -> None:
        """Add the paths that follow."""
        while entry := _PATH(self._data, self._at):
            length, text, number, mark, spelled, end = entry.groups()
            if text is not None and len(text) != length[0]:
                break
            parts = _PARTS.findall(spelled)
            if bool(mark) != (end == b"t") or (not mark and len(parts) != end[0] - _NO_KEYS):
                break
            if any(size and size[0] != len(part) for size, part, _, _ in parts):
                break
            name = self._known_text(number) if text is None else self._text(text, number)
            if name in found:
                raise Irregular("a name is there twice")
            path: list[str | int] = []
            for size, part, again, index in parts:
                if again:
                    path.append(self._known_text(again))
                else:
                    path.append(self._text(part, again) if size else _number(index))
            found[name] = tuple(path)
            self._memo.append(_HIDDEN)
            self._at = entry.end()

    def _places(self, found: dict[Any, Any]) -> None:
        """Add the places in files that follow."""
        match, get = self._match(self._names.place), self._numbers.get
        memo, data, sizes = self._memo, self._data, self._sizes
        while entry := match(data, self._at):
            length, text, number, offset, path_length, path, path_number, start, count = entry.groups()
            if (text is not None and len(text) != length[0]) or (path is not None and len(path) != path_length[0]):
                break
            memo += _TWO
            name = self._known_text(number) if text is None else self._text(text, number)
            if offset is not None:
                offset, more = sizes.get(offset) or self._size(offset)
                memo += more
            if (name, offset) in found:
                raise Irregular("a place is there twice")
            memo += _TWO
            file = self._known_text(path_number) if path is None else self._text(path, path_number)
            bytes_there = get(count)
            if bytes_there is None:
                bytes_there = _number(count)
                if len(self._numbers) < _MOST_KEPT:
                    self._numbers[count] = bytes_there
            found[name, offset] = file, _number(start), bytes_there
            self._at = entry.end()

    def _match(self, name: Name, which: int = 0) -> Callable[[bytes, int], re.Match[bytes] | None]:
        """Return what matches an entry of a class; it matches nothing before one was walked."""
        found = self._matches.get(name)
        return _nothing if found is None else found[which]

    # Parts of entries

    def _known_text(self, spelled: bytes) -> str:
        """Return a text that is repeated by its number."""
        found = _item(self._memo, spelled[1] if len(spelled) == 2 else _FROM(spelled, 1)[0])
        if type(found) is not str:
            raise Irregular("a name is no text")
        return found

    def _text(self, text: bytes | None, number: bytes) -> str:
        """Return a text, new or repeated."""
        if text is None:
            return self._known_text(number)
        found = str(text, "utf-8")
        self._memo.append(found)
        return found

    def _size(self, spelled: bytes) -> tuple[Size, tuple[Any, ...]]:
        """Return a size, and what it adds to the memo."""
        if len(spelled) == 2 or (len(spelled) == 5 and spelled[0] == _LONG_GET):
            found = _item(self._memo, _index(spelled))
            if type(found) is not Size:
                raise Irregular("a size is something else")
            return found, ()
        begin = 2 if spelled[0] == _SHORT_GET else 5
        numbers = Size(map(_number, _NUMBERS.findall(spelled, begin)))
        made = numbers, (*(_TWO if numbers else _ONE), numbers)
        if len(self._sizes) < _MOST_KEPT:
            self._sizes[spelled] = made
        return made

    def _read_properties(self, spelled: bytes) -> Struct:
        """Return the properties of a tensor, all parts of which are repeated."""
        name, *state = [
            code == pickle.NEWTRUE if code else self._memo[_index(number)]
            for number, code in _PROPERTIES.findall(spelled)
        ]
        if type(name) is not Name:
            raise Irregular("it makes an object of something else than a class")
        made = self._properties[spelled] = Struct(name, (), tuple(state))
        return made


def _nothing(data: bytes, at: int) -> None:
    """Match nothing."""


_PROPERTIES = re.compile(rb"(" + _GET + rb")(?:\)\x81\x94\()?|([\x88\x89])", re.DOTALL)
_NUMBERS = re.compile(_SMALL, re.DOTALL)
_MOST_KEPT = 1 << 12  # sizes and numbers that are spelled alike
_item, _FROM = list.__getitem__, struct.Struct("<I").unpack_from
_PATH = re.compile(_NAME + rb"(\(?)(" + _KEY + b"{1,%d}" % _FEW + rb")([\x85\x86\x87t])\x94", re.DOTALL).match
_NEW = pickle.EMPTY_TUPLE + pickle.NEWOBJ + pickle.MEMOIZE + pickle.EMPTY_DICT + pickle.MEMOIZE + pickle.MARK
_ANY_NEW = re.escape(_NEW)
_ONE, _TWO, _THREE = (_HIDDEN,), (_HIDDEN,) * 2, (_HIDDEN,) * 3
