"""Check a pickle before it is loaded: it must not ask for more than its own length.

The unpickler of the standard library trusts lengths and memo indices, and hashing a deeply nested tuple crashes the
interpreter. This scan walks the opcodes and keeps only the height and weight of each object on a stack. Tensors
that are spelled alike, of which a model has many, are taken together (`tensor_runs`).
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import NamedTuple

from anemoi_ckpt_migrate.storage.pickle.tensor_runs import (
    SHARED,
    TEXT,
    VISITED,
    Known,
    PartOfTensor,
    Segment,
    StoredTensors,
    TensorRuns,
    begins,
)

DEEPEST = 10_000
"""Maximal nesting of objects. It is far more than torch's own pickler can write."""
_APART = 1000
"""How far the number of an object may be beyond the number of those before it."""
# The height of objects that hold no others; of an integer, the larger number of the place where its bytes start. An
# object that holds others is one below the lowest of them.
_LEAF = 0

# The effect of an opcode; beside it in the table, the number of its bytes, lines or objects.
_PUSH, _PUSH_COUNTED, _PUSH_LINES, _MARK = 1, 2, 3, 4  # push an object that holds none: fixed bytes; a length; lines
_PUT, _PUT_NEXT, _PUT_TEXT, _GET, _GET_TEXT = 5, 6, 7, 8, 9
_JOIN, _JOIN_TO_MARK, _INTO, _INTO_TO_MARK = 10, 11, 12, 13  # join several into one; put several into one below
_SKIP, _POP, _POP_MARK, _DUP, _STOP = 14, 15, 16, 17, 18
_INTEGER, _PUSH_LONG = 19, 20  # push an integer: fixed bytes; a length
_FROZENSET = pickle.FROZENSET[0]
# For opcodes that fill or make containers with hashed keys: the distance from one hashed object to the next.
_HASHED = {code[0]: 2 for code in (pickle.SETITEM, pickle.SETITEMS, pickle.DICT)}
_HASHED |= {code[0]: 1 for code in (pickle.ADDITEMS, pickle.FROZENSET)}
_UNHASHABLE = {code[0] for code in (pickle.LIST, pickle.DICT)}
_BUILD, _UNICODE, _GLOBAL = pickle.BUILD[0], pickle.BINUNICODE[0], pickle.GLOBAL[0]
_SHORT = 60  # the longest text, in bytes, that may name a device
_AT_ONCE = 6  # 64 bytes of text or of an integer cost as much to hash or compare as an object
_HEAVY = 1 << 40  # more than a hash may visit in any file
# A weight has three fields: the objects that a comparison visits; how many of them a hash does not visit, because a
# frozenset remembers its own; whether the object is shared.
_REMEMBERED = 100

_TABLE: dict[tuple[int, int], str] = {
    (_PUSH, 0): "NONE NEWTRUE NEWFALSE EMPTY_TUPLE EMPTY_LIST EMPTY_DICT EMPTY_SET",
    (_INTEGER, 1): "BININT1",
    (_INTEGER, 2): "BININT2",
    (_INTEGER, 4): "BININT",
    (_PUSH, 8): "BINFLOAT",
    (_PUSH_COUNTED, 1): "SHORT_BINSTRING SHORT_BINUNICODE SHORT_BINBYTES",
    (_PUSH_COUNTED, 4): "BINSTRING BINUNICODE BINBYTES",
    (_PUSH_LONG, 1): "LONG1",
    (_PUSH_LONG, 4): "LONG4",
    (_PUSH_COUNTED, 8): "BINUNICODE8 BINBYTES8 BYTEARRAY8",
    (_PUSH_LINES, 1): "FLOAT INT LONG STRING UNICODE PERSID",
    (_PUSH_LINES, 2): "GLOBAL",
    (_MARK, 0): "MARK",
    (_PUT, 1): "BINPUT",
    (_PUT, 4): "LONG_BINPUT",
    (_PUT_NEXT, 0): "MEMOIZE",
    (_PUT_TEXT, 1): "PUT",
    (_GET, 1): "BINGET",
    (_GET, 4): "LONG_BINGET",
    (_GET_TEXT, 1): "GET",
    (_JOIN, 1): "TUPLE1 BINPERSID",
    (_JOIN, 2): "TUPLE2 REDUCE NEWOBJ STACK_GLOBAL",
    (_JOIN, 3): "TUPLE3 NEWOBJ_EX",
    (_JOIN_TO_MARK, 0): "TUPLE LIST DICT FROZENSET OBJ",
    (_JOIN_TO_MARK, 2): "INST",
    (_INTO, 1): "APPEND BUILD",
    (_INTO, 2): "SETITEM",
    (_INTO_TO_MARK, 0): "APPENDS SETITEMS ADDITEMS",
    (_SKIP, 1): "PROTO",
    (_SKIP, 8): "FRAME",
    (_POP, 0): "POP",
    (_POP_MARK, 0): "POP_MARK",
    (_DUP, 0): "DUP",
    (_STOP, 0): "STOP",
}
_CODES = {getattr(pickle, name)[0]: what for what, names in _TABLE.items() for name in names.split()}
_OPCODES = [_CODES.get(code, (0, 0)) for code in range(256)]


class Scanned(NamedTuple):
    """Facts about a pickle before it is loaded.

    Attributes
    ----------
    length : int
        Its length, in bytes: other pickles may follow.
    shares_state : bool
        Whether the state of an object is shared, or holds shared objects, and may thus be copied often.
    collisions : int
        The number of objects visited if all keys whose hashes a file may choose had the same hash.
    tensors : sequence of (StoredTensors, int, int)
        Tensors that were taken together: their descriptions, the first of these, and the one after the last.
    rest : bytes
        The pickle with an external object, named None, in place of each of those tensors; empty if there are none.
    """

    length: int
    shares_state: bool
    collisions: int
    tensors: Sequence[tuple[StoredTensors, int, int]] = ()
    rest: bytes = b""


class _Memo(dict[int, tuple[int, int, int]]):
    """Remembered objects, by number: their height and weight, and the place after the opcode that remembers them.

    Attributes
    ----------
    runs : TensorRuns
        Tensors that are taken together.
    taken : int
        The number of objects that are remembered in those.
    fetched : set of int
        The numbers of those to which the pickle refers.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.runs, self.taken, self.fetched = TensorRuns(data, self._known), 0, set[int]()
        self._data, self._starts = data, dict[int, int]()

    def note_place(self, start: int, end: int) -> None:
        """Note the place of a name or of a short text: tensors may refer to it."""
        self._starts[end] = start

    def put(self, number: int) -> None:
        """Check a number that is not the next one. After one beyond, no tensors are taken: theirs might be the same."""
        following = len(self) + self.taken
        if not 0 <= number <= following + _APART:
            raise pickle.UnpicklingError("it numbers an object beyond all its objects")
        if self.taken and number < following and number not in self:
            raise PartOfTensor
        if number > following:
            self.runs.close()

    def rest(self, length: int) -> bytes:
        """Return a pickle of this length without the tensors that were taken together; empty if there are none."""
        pieces, at = [], 0
        for run, begin, stop, start, end, *_ in self.runs.segments:
            pieces += [self._data[at:start], run.code(begin, stop, self.fetched)]
            at = end
        return b"".join([*pieces, self._data[at:length]]) if pieces else b""

    def __missing__(self, number: int) -> tuple[int, int, int]:
        if number >= len(self) + self.taken:
            raise KeyError(number)
        height, weight = self.runs.remembered(number)
        self.fetched.add(number)
        return height, weight, 0

    def _known(self, number: int) -> Known:
        height, weight, place = self[number]
        end = place - 1
        start = self._starts.get(end)
        if start is None:
            return Known(None, height, weight)
        spelled = self._data[start:end]
        if height == TEXT:
            return Known(spelled.decode("utf-8", "surrogatepass"), height, weight)
        module, name, _ = spelled.decode("utf-8").split("\n")
        return Known((module, name), height, weight)


def scan(data: bytes) -> Scanned:
    """Check a pickle.

    Raises
    ------
    pickle.UnpicklingError
        It is cut off, not a pickle, or asks for too much.
    """
    try:
        try:
            return _walk(data)
        except PartOfTensor:
            return _walk(data, take=False)
    except (IndexError, KeyError, ValueError):
        raise pickle.UnpicklingError("it is cut off, or refers to an object that it does not have") from None


def _walk(data: bytes, take: bool = True) -> Scanned:  # noqa: C901  (one branch per frequent opcode; calls would cost more)
    """Follow the opcodes."""
    # For each object on the stack: its height, and the number of objects that its hash visits; with `SHARED` if it was
    # memoized, or holds a memoized object.
    opcodes, stack, sizes, marks, memo, taken = _OPCODES, [0], [1], [0], _Memo(data), 0
    hashes, keys, at, size, shares_state = _Hashes(len(data)), _Keys(data), 0, len(data), False
    while at < size:
        code = data[at]
        kind, count = opcodes[code]
        at += 1
        if kind == _GET:
            end = at + count
            if take and begins(data, end) and (run := memo.runs.take(at - 1, len(memo) + taken)):
                at, taken = _take(run, stack, sizes, memo)
                continue
            height, weight, _ = memo[int.from_bytes(data[at:end], "little")]
            stack.append(height)
            sizes.append(weight)
            at = end
        elif kind == _PUT:
            index = int.from_bytes(data[at : at + count], "little")
            if index != len(memo) + taken:
                memo.put(index)
            memo[index] = stack[-1], sizes[-1] | SHARED, at
            at += count
        elif kind == _INTEGER:
            stack.append(at)
            sizes.append(1)
            at += count
        elif kind == _PUSH:
            stack.append(_LEAF)
            sizes.append(1)
            at += count
        elif kind == _PUSH_COUNTED:
            length = int.from_bytes(data[at : at + count], "little")
            end = at + count + length
            if (
                take
                and code == _UNICODE
                and begins(data, end + 5)
                and (run := memo.runs.take(at - 1, len(memo) + taken))
            ):
                at, taken = _take(run, stack, sizes, memo)
                continue
            if code == _UNICODE and length <= _SHORT:
                memo.note_place(at + count, end)
            stack.append(TEXT)
            sizes.append(1 + (length >> _AT_ONCE))
            at = end
        elif kind == _MARK:
            marks.append(len(stack))
        elif kind in (_JOIN_TO_MARK, _INTO_TO_MARK, _JOIN, _INTO):
            base = marks.pop() if kind in (_JOIN_TO_MARK, _INTO_TO_MARK) else len(stack) - count
            if code in _HASHED:
                weights = sizes[base :: _HASHED[code]]
                hashes.take_keys(weights, code)
                keys.note(stack[base :: _HASHED[code]], weights)
            height = min(stack[base:], default=0) - 1
            if height > 0:
                height = _LEAF
            weight = sum(sizes[base:])
            shares = weight >= SHARED
            weight = 1 if code in _UNHASHABLE else _joined(weight, code)
            weight |= shares * SHARED
            shares_state |= shares and code == _BUILD
            if height < -DEEPEST:
                raise pickle.UnpicklingError(f"it is nested more than {DEEPEST} levels deep")
            del stack[base:], sizes[base:]
            if kind in (_INTO, _INTO_TO_MARK):
                stack[-1] = min(stack[-1], height)
            else:
                stack.append(height)
                sizes.append(weight)
                at = _past_lines(data, at, count) if kind == _JOIN_TO_MARK else at
        elif kind == _PUSH_LONG:
            length = int.from_bytes(data[at : at + count], "little")
            stack.append(_LEAF)
            sizes.append(1 + (length >> _AT_ONCE))
            at += count + length
        elif kind == _PUT_NEXT:
            if taken:
                raise PartOfTensor  # the unpickler numbers what it has, not what the pickle names
            take = False
            memo[len(memo)] = stack[-1], sizes[-1] | SHARED, at
        elif kind == _STOP:
            tensors = [(segment.run.tensors, segment.begin, segment.stop) for segment in memo.runs.segments]
            return Scanned(at, shares_state, keys.number * keys.weight, tensors, memo.rest(at))
        else:
            at = _walk_rare(code, data, at, stack, sizes, marks, memo)
    raise pickle.UnpicklingError("it is cut off")


def _walk_rare(
    code: int, data: bytes, at: int, stack: list[int], sizes: list[int], marks: list[int], memo: _Memo
) -> int:
    """Follow an opcode that a checkpoint has seldom or never, and return the place after it."""
    kind, count = _OPCODES[code]
    if kind == _PUSH_LINES:
        end = _past_lines(data, at, count)
        if code == _GLOBAL:
            memo.note_place(at, end)
        stack.append(_LEAF)
        sizes.append(1 + ((end - at) >> _AT_ONCE))
        return end
    if kind in (_PUT_TEXT, _GET_TEXT):
        end = data.index(b"\n", at)
        index = int(data[at : min(end, at + 20)])
        if kind == _PUT_TEXT:
            memo.put(index)
            memo[index] = stack[-1], sizes[-1] | SHARED, at
        else:
            stack.append(memo[index][0])
            sizes.append(memo[index][1])
        return end + 1
    if kind == _SKIP:
        return at + count
    if kind == _POP and marks[-1] == len(stack):
        marks.pop()
    elif kind == _POP:
        stack.pop()
        sizes.pop()
    elif kind == _POP_MARK:
        base = marks.pop()
        del stack[base:], sizes[base:]
    elif kind == _DUP:
        sizes[-1] |= SHARED
        stack.append(stack[-1])
        sizes.append(sizes[-1])
    else:
        raise pickle.UnpicklingError(f"it holds the opcode {code:#x}, which no checkpoint has")
    return at


def _joined(weight: int, code: int) -> int:
    """Return the weight of an object that holds others, from the sum of their weights."""
    visited = 1 + (weight & VISITED)
    if visited >= _HEAVY:
        return _HEAVY
    if code == _FROZENSET:
        return visited | (visited - 1) << _REMEMBERED
    return visited | weight & (VISITED << _REMEMBERED)


class _Hashes:
    """A limit on the cost of hashing: each object a few times."""

    def __init__(self, length: int) -> None:
        self._left = self._most = 10 * length + 1000

    def take_keys(self, weights: list[int], code: int) -> None:
        """Count the objects that are visited when an opcode hashes keys.

        Members of a frozenset are hashed. Those of equal hash are compared, each with a heavier one, so the heaviest
        counts as hashed. Who visits all of it later shall not visit far more objects than the pickle has.
        """
        visited = sum(weights) & VISITED
        if code == _FROZENSET and visited <= self._most:
            heaviest = max(weights, key=lambda weight: weight & VISITED, default=0)
            visited -= heaviest >> _REMEMBERED & VISITED
        self._left -= visited
        if self._left < 0:
            raise pickle.UnpicklingError("a key in it is far larger than the pickle itself")


class _Keys:
    """The keys whose hashes a file may choose: no texts, and no integers that follow each other."""

    def __init__(self, data: bytes) -> None:
        self._data, self._next = data, 0
        self.number = self.weight = 0

    def note(self, heights: list[int], weights: list[int]) -> None:
        """Note keys of one container."""
        if heights.count(TEXT) == len(heights):
            return
        for height, weight in zip(heights, weights, strict=True):
            if height != TEXT and not (height > TEXT and self._follows(height)):
                self.number += 1
                self.weight += weight & VISITED

    def _follows(self, at: int) -> bool:
        """Return whether the integer at a place is the one after the last."""
        length = _OPCODES[self._data[at - 1]][1]
        number = int.from_bytes(self._data[at : at + length], "little", signed=length == 4)
        follows, self._next = number == self._next, number + 1
        return follows


def _take(run: Segment, stack: list[int], sizes: list[int], memo: _Memo) -> tuple[int, int]:
    """Put the keys and tensors of a run on the stack; return the place after them, and the number of objects taken."""
    memo.taken += run.after - run.first
    stack += run.run.heights[2 * run.begin : 2 * run.stop]
    sizes += run.run.weights[2 * run.begin : 2 * run.stop]
    return run.end, memo.taken


def _past_lines(data: bytes, at: int, count: int) -> int:
    for _ in range(count):
        at = data.index(b"\n", at) + 1
    return at
