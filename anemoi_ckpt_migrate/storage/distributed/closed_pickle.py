"""Pickles of a closed set of classes: read without the unpickler, and written without the pickler.

The metadata of a distributed checkpoint is one pickle of many small objects. All its classes are known, so a loop over
its opcodes is enough. It builds containers, texts, numbers and `Struct`; it imports and calls nothing, and refuses any
other class by its name. So no limit on hashes, lengths or the memo is needed, and it is faster than a scan.
"""

from __future__ import annotations

import functools
import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple, NoReturn

_DEEPEST = 200  # nesting of an object
_SMALL = 1 << 60  # integers below it have a hash of their own
_LONGEST = 2000  # characters of a name
_UTF8 = "utf-8"
_INT, _UINT, _FLOAT = (struct.Struct(kind).unpack_from for kind in ("<i", "<I", ">d"))


class Name(NamedTuple):
    """A class, function or constant, by its name."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


SIZE, ORDERED = Name("torch", "Size"), Name("collections", "OrderedDict")


class Size(tuple[int, ...]):
    """A `torch.Size`."""

    __slots__ = ()


class Struct:
    """An object of a class that is not imported.

    Attributes
    ----------
    name : Name
        The class, or the function that makes the object.
    args : tuple
        Its arguments.
    state : object
        The state that is set afterwards; None if there is none.
    called : bool
        Whether the class is called, instead of its ``__new__``.
    """

    __slots__ = ("args", "called", "name", "state")

    def __init__(self, name: Name, args: tuple[Any, ...] = (), state: Any = None, called: bool = False) -> None:
        self.name, self.args, self.state, self.called = name, args, state, called

    def __repr__(self) -> str:
        return f"<{self.name}>"


class ForeignName(pickle.UnpicklingError):
    """The pickle names something outside the closed set.

    Attributes
    ----------
    name : Name
        The name.
    """

    def __init__(self, name: Name) -> None:
        self.name = name
        super().__init__(f"it names {name!s:.200}")


def read(data: bytes, known: Collection[Name]) -> Any:
    """Return the object in a pickle.

    Parameters
    ----------
    data : bytes
        The pickle.
    known : collection of Name
        The names that it may hold.

    Raises
    ------
    ForeignName
        It holds another name.
    pickle.UnpicklingError
        It is cut off, is no pickle, or is spelled in another way than Python's own pickler does.
    """
    try:
        return walk(data, known)[0][0]
    except DAMAGED as error:
        raise pickle.UnpicklingError("it is cut off, or spelled in an unknown way") from error


DAMAGED = (IndexError, KeyError, ValueError, TypeError, AttributeError, RecursionError, struct.error)
"""What following a damaged pickle raises, beside `pickle.UnpicklingError`."""


_MEMOIZE, _LONG_BINGET, _BINGET, _BININT1, _MARK, _EMPTY_TUPLE = (
    code[0]
    for code in (pickle.MEMOIZE, pickle.LONG_BINGET, pickle.BINGET, pickle.BININT1, pickle.MARK, pickle.EMPTY_TUPLE)
)
_BUILD, _TUPLE2, _SETITEMS, _BININT2, _SHORT_BINUNICODE, _TUPLE, _APPENDS = (
    code[0]
    for code in (
        pickle.BUILD,
        pickle.TUPLE2,
        pickle.SETITEMS,
        pickle.BININT2,
        pickle.SHORT_BINUNICODE,
        pickle.TUPLE,
        pickle.APPENDS,
    )
)
_BINPUT, _LONG_BINPUT, _STACK_GLOBAL, _GLOBAL, _STOP = (
    code[0] for code in (pickle.BINPUT, pickle.LONG_BINPUT, pickle.STACK_GLOBAL, pickle.GLOBAL, pickle.STOP)
)
_BEGINNING = pickle.NEWOBJ + pickle.MEMOIZE + pickle.EMPTY_DICT + pickle.MEMOIZE + pickle.MARK
_SIZE = pickle.MEMOIZE + pickle.TUPLE1 + pickle.MEMOIZE + pickle.REDUCE + pickle.MEMOIZE


def walk(  # noqa: C901  (one branch per frequent opcode)
    data: bytes,
    known: Collection[Name],
    at: int = 0,
    memo: list[Any] | None = None,
    ends: Collection[int] | None = None,
    stack: Iterable[Any] = (),
) -> tuple[list[Any], int]:
    """Follow the opcodes, the frequent ones first: for them, calls would cost more than the branches.

    Reading beyond the end gives nothing, and then there is no next opcode. The beginning of an object, its end, and a
    size of two dimensions are always spelled alike; each of them is done at once.

    Parameters
    ----------
    data, known
        As for `read`.
    at : int
        The first opcode to follow.
    memo : list
        The objects that have numbers, to which new ones are added; by default none.
    ends : collection of int, optional
        For a part of a pickle: opcodes outside any mark behind which it stops. It always stops before items are set of
        something in front of the part. By default it goes to the end of the pickle.
    stack : iterable of object
        The objects on the stack before.

    Returns
    -------
    tuple of list and int
        The objects on the stack, and the place behind the last opcode.
    """
    stack, outer, memo = list(stack), list[list[Any]](), [] if memo is None else memo
    push, remember, follows, is_part, ends = stack.append, memo.append, data.startswith, ends is not None, ends or ()
    on_stack, arguments = _ON_STACK, _ARGUMENTS
    while True:
        code = data[at]
        at += 1
        if code == _MEMOIZE:
            remember(stack[-1])
        elif code == _LONG_BINGET:
            push(memo[_UINT(data, at)[0]])
            at += 4
        elif code == _BINGET:
            push(memo[data[at]])
            at += 1
        elif code == _BININT1:
            push(data[at])
            at += 1
        elif code == _MARK:
            outer.append(stack)
            stack = []
            push = stack.append
        elif code == _EMPTY_TUPLE:
            if not follows(_BEGINNING, at):
                push(())
                continue
            at += len(_BEGINNING)
            made, attributes = Struct(stack.pop()), dict[Any, Any]()
            if type(made.name) is not Name:
                _refuse("it makes an object of something else than a class")
            stack += (made, attributes)
            memo += (made, attributes)
            outer.append(stack)
            stack = []
            push = stack.append
        elif code == _TUPLE2:
            second = stack.pop()
            pair = stack[-1], second
            if not follows(_SIZE, at):
                stack[-1] = pair
                if code in ends and not outer:
                    return stack, at
                continue
            at += len(_SIZE)
            if stack[-2] != SIZE:
                _refuse("it calls something else than a class")
            stack[-2:] = [_made(SIZE, (pair,))]
            memo += (pair, (pair,), stack[-1])
        elif code == _SETITEMS:
            if is_part and not outer:
                return stack, at - 1
            items, stack = stack, outer.pop()
            push = stack.append
            set_items(stack[-1], items)
            if data[at] == _BUILD:
                at += 1
                _build(stack)
                if _BUILD in ends and not outer:
                    return stack, at
        elif code == _BININT2:
            push(data[at] | data[at + 1] << 8)
            at += 2
        elif code == _SHORT_BINUNICODE:
            end = at + 1 + data[at]
            push(str(data[at + 1 : end], _UTF8))
            at = end
        elif code == _TUPLE:
            items, stack = stack, outer.pop()
            push = stack.append
            push(tuple(items))
            if code in ends and not outer:
                return stack, at
        elif code in on_stack:
            on_stack[code](stack)
            if code in ends and not outer:
                return stack, at
        elif code in arguments:
            value, at = arguments[code](data, at)
            push(value)
        elif code == _APPENDS:
            items, stack = stack, outer.pop()
            push = stack.append
            _list(stack[-1]).extend(items)
        elif code in (_BINPUT, _LONG_BINPUT):
            index, at = (data[at], at + 1) if code == _BINPUT else (_UINT(data, at)[0], at + 4)
            _put(memo, index, stack[-1])
        elif code in _SKIPPED:
            at += _SKIPPED[code]
        elif code in (_STACK_GLOBAL, _GLOBAL):
            name, at = _global(data, at) if code == _GLOBAL else (_stack_global(stack), at)
            if name not in known:
                raise ForeignName(name)
            push(name)
            if code in ends and not outer:
                return stack, at
        elif code == _STOP:
            if len(stack) != 1 or outer or is_part:
                _refuse("it does not end with one object")
            return stack, at
        else:
            _refuse(f"it holds the opcode {code:#x}, which torch does not write there")


# Opcodes that change the top of the stack


def _new_object(stack: list[Any]) -> None:
    args, name = stack.pop(), stack.pop()
    if type(args) is not tuple or type(name) is not Name:
        _refuse("it makes an object of something else than a class")
    stack.append(Struct(name, args))


def _build(stack: list[Any]) -> None:
    state = stack.pop()
    target = stack[-1]
    if type(target) is not Struct or target.state is not None:
        _refuse("it sets the state of an object twice, or of something else")
    target.state = state


def _reduce(stack: list[Any]) -> None:
    args, name = stack.pop(), stack.pop()
    if type(args) is not tuple or type(name) is not Name:
        _refuse("it calls something else than a class")
    stack.append(_made(name, args))


def _tuple1(stack: list[Any]) -> None:
    stack[-1] = (stack[-1],)


def _tuple3(stack: list[Any]) -> None:
    stack[-3:] = [tuple(stack[-3:])]


def _append(stack: list[Any]) -> None:
    item = stack.pop()
    _list(stack[-1]).append(item)


def _set_item(stack: list[Any]) -> None:
    value, key = stack.pop(), stack.pop()
    set_items(stack[-1], [key, value])


_ON_STACK: dict[int, Callable[[list[Any]], None]] = {
    pickle.NEWFALSE[0]: lambda stack: stack.append(False),
    pickle.NEWTRUE[0]: lambda stack: stack.append(True),
    pickle.NONE[0]: lambda stack: stack.append(None),
    pickle.EMPTY_LIST[0]: lambda stack: stack.append([]),
    pickle.EMPTY_DICT[0]: lambda stack: stack.append({}),
    pickle.TUPLE1[0]: _tuple1,
    pickle.TUPLE3[0]: _tuple3,
    pickle.NEWOBJ[0]: _new_object,
    pickle.BUILD[0]: _build,
    pickle.REDUCE[0]: _reduce,
    pickle.APPEND[0]: _append,
    pickle.SETITEM[0]: _set_item,
}

# Opcodes with an argument: each gives the value, and the place behind it


def _long_text(data: bytes, at: int) -> tuple[str, int]:
    end = at + 4 + _UINT(data, at)[0]
    return str(data[at + 4 : end], _UTF8), end


def _long(data: bytes, at: int) -> tuple[int, int]:
    end = at + 1 + data[at]
    return int.from_bytes(data[at + 1 : end], "little", signed=True), end


def _short_bytes(data: bytes, at: int) -> tuple[bytes, int]:
    end = at + 1 + data[at]
    return data[at + 1 : end], end


def _long_bytes(data: bytes, at: int) -> tuple[bytes, int]:
    end = at + 4 + _UINT(data, at)[0]
    return data[at + 4 : end], end


_ARGUMENTS: dict[int, Callable[[bytes, int], tuple[Any, int]]] = {
    pickle.BININT[0]: lambda data, at: (_INT(data, at)[0], at + 4),
    pickle.BINFLOAT[0]: lambda data, at: (_FLOAT(data, at)[0], at + 8),
    pickle.LONG1[0]: _long,
    pickle.BINUNICODE[0]: _long_text,
    pickle.SHORT_BINBYTES[0]: _short_bytes,
    pickle.BINBYTES[0]: _long_bytes,
}
_SKIPPED = {pickle.PROTO[0]: 1, pickle.FRAME[0]: 8}
"""Bytes after opcodes that say nothing about the object."""


def _global(data: bytes, at: int) -> tuple[Name, int]:
    module, spelled, _ = data[at : at + _LONGEST].split(b"\n", 2)
    return Name(str(module, _UTF8), str(spelled, _UTF8)), at + len(module) + len(spelled) + 2


def _stack_global(stack: list[Any]) -> Name:
    name = stack.pop()
    return Name(_text(stack.pop()), _text(name))


def _put(memo: list[Any], index: int, value: Any) -> None:
    """Remember an object under a number: picklers count."""
    if index != len(memo):
        _refuse("it numbers an object out of turn")
    memo.append(value)


def _refuse(why: str) -> NoReturn:
    raise pickle.UnpicklingError(why)


def _text(value: Any) -> str:
    if type(value) is not str:
        _refuse("it names a class in an unknown way")
    return value


def _list(value: Any) -> list[Any]:
    if type(value) is not list:
        _refuse("it appends to something else than a list")
    return value


def set_items(target: Any, items: list[Any]) -> None:
    """Set keys and values, one after the other, of a dict that a pickle makes."""
    if type(target) is not dict and type(target) is not OrderedDict:
        _refuse("it sets items of something else than a dict")
    keys = items[::2]  # not yet hashed
    if not _TEXT.issuperset(map(type, keys)) and not all(_is_key(key) for key in keys):
        _refuse("a key in it is neither a text nor an index")
    count = len(target) + len(keys)
    target.update(zip(keys, items[1::2], strict=True))
    if len(target) != count:
        _refuse("a dict in it holds a key twice")


def _is_key(key: Any) -> bool:
    return type(key) in (str, Struct) or (type(key) is int and -_SMALL < key < _SMALL)


_TEXT, _INTEGER = {str}, {int}


def _made(name: Name, args: tuple[Any, ...]) -> Any:
    if name == SIZE:
        if len(args) != 1 or type(args[0]) is not tuple or not _INTEGER.issuperset(map(type, args[0])):
            _refuse("a size in it is not made of numbers")
        return Size(args[0])
    if name == ORDERED and not args:
        return OrderedDict()
    return Struct(name, args, called=True)


class Piece:
    """Opcodes that are written thousands of times.

    Parameters
    ----------
    parts : str, Name or bytes
        Texts, names, and opcodes without arguments between them.

    Attributes
    ----------
    known : bytes
        All of it, once its texts and names are repeated by their numbers; empty before.
    numbers : int
        The count of objects that it then numbers.
    """

    __slots__ = ("known", "numbers", "parts")

    def __init__(self, *parts: str | Name | bytes) -> None:
        self.parts, self.known = parts, b""
        self.numbers = sum(_numbered(part) for part in parts if isinstance(part, bytes))


def _numbered(opcodes: bytes) -> int:
    """Return how many objects opcodes without arguments number."""
    return opcodes.count(pickle.MEMOIZE)


class Writer:
    """Writes a pickle of protocol 4 as Python's pickler does. Texts and sizes are written once, and repeated by number.

    Attributes
    ----------
    out : bytearray
        The pickle so far.
    """

    def __init__(self) -> None:
        self.out = bytearray(pickle.PROTO + b"\4")
        self._count = 0  # of objects with a number
        self._texts: dict[str, int] = {}
        self._names: dict[Name, int] = {}
        self._sizes: dict[tuple[int, ...], int] = {}
        self._objects: dict[int, tuple[int, Any]] = {}  # mutable ones by id, kept alive
        self._depth = 0

    def finished(self) -> bytes:
        """Return the pickle."""
        self.out += pickle.STOP
        return bytes(self.out)

    def piece(self, piece: Piece) -> None:
        """Write a piece."""
        if piece.known:
            self.out += piece.known
            self._count += piece.numbers
            return
        begin, before = len(self.out), self._count
        for part in piece.parts:
            if isinstance(part, str):
                self.text(part)
            elif isinstance(part, Name):
                self.name(part)
            else:
                self.out += part
                self._count += _numbered(part)
        if self._count == before + piece.numbers:  # all else is repeated, as it will be from here on
            piece.known = bytes(self.out[begin:])

    def text(self, value: str) -> None:
        """Write a text."""
        known = self._texts.get(value)
        if known is not None:
            self.out += repeated(known)
            return
        encoded = value.encode(_UTF8)
        if len(encoded) < 256:
            self.out += b"\x8c%c%b\x94" % (len(encoded), encoded)
        else:
            self.out += pickle.BINUNICODE + _UINT_BYTES(len(encoded)) + encoded + pickle.MEMOIZE
        self._texts[value] = self._count
        self._count += 1

    def name(self, value: Name) -> None:
        """Write a name."""
        if value in self._names:
            self.out += repeated(self._names[value])
            return
        self.text(value.module)
        self.text(value.name)
        self.out += pickle.STACK_GLOBAL + pickle.MEMOIZE
        self._names[value] = self._number()

    def size(self, value: tuple[int, ...]) -> None:
        """Write a `torch.Size`."""
        known = self._sizes.get(value)
        if known is not None:
            self.out += repeated(known)
            return
        self.name(SIZE)
        self.parts(value)
        self.out += pickle.TUPLE1 + pickle.MEMOIZE + pickle.REDUCE + pickle.MEMOIZE
        self._number()
        self._sizes[value] = self._number()

    def integer(self, value: int) -> None:
        """Write an integer."""
        self.out += spelled_integer(value)

    def parts(self, value: tuple[Any, ...]) -> None:
        """Write a tuple that nothing repeats."""
        self._tuple(value)
        if value:
            self.out += pickle.MEMOIZE
            self._count += 1

    def _tuple(self, value: tuple[Any, ...]) -> None:
        if len(value) > 3:
            self.out += pickle.MARK
        for item in value:
            self.value(item)
        self.out += _TUPLES.get(len(value), pickle.TUPLE)

    def mapping(self, value: Mapping[Any, Any]) -> None:
        """Write a dict."""
        self.out += pickle.EMPTY_DICT
        if value:
            self.out += pickle.MARK
            for key, item in value.items():
                self.value(key)
                self.value(item)
            self.out += pickle.SETITEMS

    def value(self, value: Any) -> None:
        """Write any object that `read` returns."""
        write = _WRITERS.get(type(value))
        if write is None:
            raise ValueError(f"a {type(value).__name__} has no place in the metadata")
        write(self, value)

    def _number(self) -> int:
        """Return the number of the next object."""
        self._count += 1
        return self._count - 1

    def _object(self, value: Any, write: Callable[[], None]) -> None:
        """Write an object that may stand in several places, but not in itself."""
        if id(value) in self._objects:
            self.out += repeated(self._objects[id(value)][0])
            return
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ValueError("the metadata is nested too deeply")
        write()
        self._depth -= 1
        self.out += pickle.MEMOIZE
        self._objects[id(value)] = self._number(), value

    def _list(self, value: list[Any]) -> None:
        self.out += pickle.EMPTY_LIST
        if value:
            self.out += pickle.MARK
            for item in value:
                self.value(item)
            self.out += pickle.APPENDS

    def _ordered(self, value: Mapping[Any, Any]) -> None:
        self.name(ORDERED)
        self.out += pickle.EMPTY_TUPLE + pickle.REDUCE + pickle.MARK
        for key, item in value.items():
            self.value(key)
            self.value(item)
        self.out += pickle.SETITEMS

    def _struct(self, value: Struct) -> None:
        self.name(value.name)
        self._tuple(value.args)
        self.out += pickle.REDUCE if value.called else pickle.NEWOBJ
        if value.state is not None:
            self.value(value.state)
            self.out += pickle.BUILD

    def _bytes(self, value: bytes) -> None:
        self.out += pickle.BINBYTES + struct.pack("<I", len(value)) + value

    def _float(self, value: float) -> None:
        self.out += pickle.BINFLOAT + struct.pack(">d", value)

    def _constant(self, value: bool | None) -> None:
        self.out += {None: pickle.NONE, True: pickle.NEWTRUE, False: pickle.NEWFALSE}[value]


def repeated(number: int) -> bytes:
    """Return the opcode that repeats an object by its number."""
    return _GETS[number] if number < 256 else b"j" + _UINT_BYTES(number)


@functools.lru_cache(1 << 10)
def spelled_integer(value: int) -> bytes:
    """Return the opcode of an integer."""
    if 0 <= value < 256:
        return pickle.BININT1 + bytes((value,))
    if 0 <= value < 1 << 16:
        return pickle.BININT2 + value.to_bytes(2, "little")
    if -(1 << 31) <= value < 1 << 31:
        return pickle.BININT + value.to_bytes(4, "little", signed=True)
    encoded = value.to_bytes((value.bit_length() >> 3) + 1, "little", signed=True)
    if len(encoded) > 255:
        raise ValueError("an integer is too large")
    return pickle.LONG1 + bytes((len(encoded),)) + encoded


_GETS = [pickle.BINGET + bytes((number,)) for number in range(256)]
_UINT_BYTES = struct.Struct("<I").pack
_TUPLES = dict(enumerate((pickle.EMPTY_TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3)))
"""Opcodes for tuples, by the number of their items."""
_WRITERS: dict[type, Callable[[Writer, Any], None]] = {
    str: Writer.text,
    int: Writer.integer,
    float: Writer._float,
    bool: Writer._constant,
    type(None): Writer._constant,
    bytes: Writer._bytes,
    Name: Writer.name,
    Size: Writer.size,
    tuple: lambda self, value: self._object(value, lambda: self._tuple(value)),
    list: lambda self, value: self._object(value, lambda: self._list(value)),
    dict: lambda self, value: self._object(value, lambda: self.mapping(value)),
    OrderedDict: lambda self, value: self._object(value, lambda: self._ordered(value)),
    Struct: lambda self, value: self._object(value, lambda: self._struct(value)),
}
