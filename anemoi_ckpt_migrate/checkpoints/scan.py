"""A pickle looked over before it is loaded: nothing in it may ask for more than its own length.

The unpickler of the standard library trusts lengths and memo indices, and a tuple nested deeply enough crashes the
interpreter when it is hashed. Here the opcodes are walked with no more than the depth of each object on a stack.
"""

from __future__ import annotations

import pickle

DEEPEST = 10_000
"""How deeply objects may be nested. Far beyond what torch's own pickler manages to write."""

# What an opcode does, and beside it the number of bytes, lines or objects that go with it.
_PUSH, _PUSH_COUNTED, _PUSH_LINES, _MARK = 1, 2, 3, 4  # something without depth: so many bytes; a length; lines
_PUT, _PUT_NEXT, _PUT_TEXT, _GET, _GET_TEXT = 5, 6, 7, 8, 9
_JOIN, _JOIN_TO_MARK, _INTO, _INTO_TO_MARK = 10, 11, 12, 13  # make one of several; put some into the one below
_SKIP, _POP, _POP_MARK, _DUP, _STOP = 14, 15, 16, 17, 18

_TABLE: dict[tuple[int, int], str] = {
    (_PUSH, 0): "NONE NEWTRUE NEWFALSE EMPTY_TUPLE EMPTY_LIST EMPTY_DICT EMPTY_SET",
    (_PUSH, 1): "BININT1",
    (_PUSH, 2): "BININT2",
    (_PUSH, 4): "BININT",
    (_PUSH, 8): "BINFLOAT",
    (_PUSH_COUNTED, 1): "SHORT_BINSTRING SHORT_BINUNICODE SHORT_BINBYTES LONG1",
    (_PUSH_COUNTED, 4): "BINSTRING BINUNICODE BINBYTES LONG4",
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


def scan(data: bytes) -> int:
    """Look a pickle over, and return how long it is, in bytes: others may follow it.

    Raises
    ------
    pickle.UnpicklingError
        It is cut off, no pickle, or asks for too much.
    """
    try:
        return _walk(data)
    except (IndexError, KeyError, ValueError):
        raise pickle.UnpicklingError("it is cut off, or refers to what it does not have") from None


def _walk(data: bytes) -> int:  # noqa: C901  (one opcode after the other; calls would cost more than they do)
    opcodes, stack, marks, memo = _OPCODES, [0], [0], dict[int, int]()
    at, size = 0, len(data)
    while at < size:
        kind, count = opcodes[data[at]]
        at += 1
        if kind == _PUSH:
            stack.append(0)
            at += count
        elif kind == _GET:
            stack.append(memo[int.from_bytes(data[at : at + count], "little")])
            at += count
        elif kind == _PUT:
            index = int.from_bytes(data[at : at + count], "little")
            memo[_reasonable(index, size)] = stack[-1]
            at += count
        elif kind == _PUSH_COUNTED:
            stack.append(0)
            at += count + int.from_bytes(data[at : at + count], "little")
        elif kind == _MARK:
            marks.append(len(stack))
        elif kind in (_JOIN_TO_MARK, _INTO_TO_MARK):
            base = marks.pop()
            depth = 1 + max(stack[base:], default=0)
            del stack[base:]
            at = _past_lines(data, at, count)
            _add(stack, depth, into=kind == _INTO_TO_MARK)
        elif kind in (_JOIN, _INTO):
            depth = 1 + max(stack[-count:])
            del stack[-count:]
            _add(stack, depth, into=kind == _INTO)
        elif kind == _PUSH_LINES:
            stack.append(0)
            at = _past_lines(data, at, count)
        elif kind == _SKIP:
            at += count
        elif kind == _PUT_NEXT:
            memo[len(memo)] = stack[-1]
        elif kind in (_PUT_TEXT, _GET_TEXT):
            end = data.index(b"\n", at)
            index = _reasonable(int(data[at : min(end, at + 20)]), size)
            memo[index] = stack[-1] if kind == _PUT_TEXT else memo[index]
            if kind == _GET_TEXT:
                stack.append(memo[index])
            at = end + 1
        elif kind == _POP and marks[-1] == len(stack):
            marks.pop()
        elif kind == _POP:
            stack.pop()
        elif kind == _POP_MARK:
            del stack[marks.pop() :]
        elif kind == _DUP:
            stack.append(stack[-1])
        elif kind == _STOP:
            return at
        else:
            raise pickle.UnpicklingError(f"it holds the opcode {data[at - 1]:#x}, which no checkpoint has")
    raise pickle.UnpicklingError("it is cut off")


def _add(stack: list[int], depth: int, into: bool) -> None:
    """Put something of some depth on the stack, or into what lies on top of it."""
    if depth > DEEPEST:
        raise pickle.UnpicklingError(f"it is nested more than {DEEPEST} levels deep")
    if into:
        stack[-1] = max(stack[-1], depth)
    else:
        stack.append(depth)


def _reasonable(index: int, size: int) -> int:
    """Check the number under which an object is to be remembered: the unpickler makes room for all below it."""
    if not 0 <= index <= size:
        raise pickle.UnpicklingError("it numbers an object beyond all that it has")
    return index


def _past_lines(data: bytes, at: int, count: int) -> int:
    for _ in range(count):
        at = data.index(b"\n", at) + 1
    return at
