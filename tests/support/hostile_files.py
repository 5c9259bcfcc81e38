"""Hostile files: each calls one callable of ``data/dangerous_callables.txt`` when it is loaded, spelled in many ways.

Nothing here is ever loaded. Were it loaded, it would do nothing: the argument is the word "true".
"""

from __future__ import annotations

import _compat_pickle
import hashlib
import io
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.support.project import DATA

PROTO2, PROTO4 = b"\x80\x02", b"\x80\x04"


@dataclass(frozen=True)
class Gadget:
    """A callable with which a pickle does harm.

    Attributes
    ----------
    module, name : str
        As Python imports it.
    source : str
        Which public list has it.
    """

    module: str
    name: str
    source: str

    @property
    def digest(self) -> int:
        """A number that only depends on the name."""
        return int(hashlib.sha256(f"{self.module}.{self.name}".encode()).hexdigest(), 16)

    @property
    def half(self) -> str:
        """Whether detection may be tuned on it, or is only reported."""
        return ("tune", "report")[self.digest % 2]


def gadgets() -> list[Gadget]:
    """Return the callables of the list."""
    lines = (DATA / "dangerous_callables.txt").read_text().splitlines()
    return [Gadget(*line.split()) for line in lines if not line.startswith("#")]


def text(value: str) -> bytes:
    """Spell a text."""
    spelled = value.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(spelled)) + spelled


TRUE = text("true") + pickle.TUPLE1 + pickle.REDUCE


def as_line(module: str, name: str) -> bytes:
    """Spell a name as a line."""
    return f"c{module}\n{name}\n".encode()


def from_stack(module: str, name: str) -> bytes:
    """Spell a name as protocol 4 does."""
    return text(module) + text(name) + pickle.STACK_GLOBAL


def from_memo(module: str, name: str) -> bytes:
    """Spell a name as protocol 4 does, out of words that were remembered, and overwritten, before."""
    words = (
        text("collections")
        + b"q\x07"
        + text(module)
        + b"q\x07"
        + text("OrderedDict")
        + b"q\x08"
        + text(name)
        + b"q\x08"
    )
    return words + 4 * pickle.POP + b"h\x07h\x08" + pickle.STACK_GLOBAL


def member(module: str, name: str) -> bytes:
    """Spell a name as a chain of `getattr`, the first part a line."""
    first, *rest = name.split(".")
    found = as_line(module, first)
    for part in rest:
        found = as_line("__builtin__", "getattr") + found + text(part) + pickle.TUPLE2 + pickle.REDUCE
    return found


# Each gives the opcodes that leave one object on the stack, where the callable was called.


def _called(gadget: Gadget) -> bytes:
    return as_line(gadget.module, gadget.name) + TRUE


def _text_protocol(gadget: Gadget) -> bytes:
    return as_line(gadget.module, gadget.name) + b"(S'true'\ntR"


def _inst(gadget: Gadget) -> bytes:
    return f"(S'true'\ni{gadget.module}\n{gadget.name}\n".encode()


def _obj(gadget: Gadget) -> bytes:
    return b"(" + as_line(gadget.module, gadget.name) + text("true") + pickle.OBJ


def _newobj_ex(gadget: Gadget) -> bytes:
    name = from_stack(gadget.module, gadget.name)
    return name + text("true") + pickle.TUPLE1 + pickle.EMPTY_DICT + pickle.NEWOBJ_EX


def _from_stack(gadget: Gadget) -> bytes:
    return from_stack(gadget.module, gadget.name) + TRUE


def _from_memo(gadget: Gadget) -> bytes:
    return from_memo(gadget.module, gadget.name) + TRUE


def _member(gadget: Gadget) -> bytes:
    return member(gadget.module, gadget.name) + TRUE


def _through_torch(gadget: Gadget) -> bytes:
    return from_stack("torch.storage", f"torch.{gadget.module}.{gadget.name}") + TRUE


def _partial(gadget: Gadget) -> bytes:
    made = as_line("functools", "partial") + member(gadget.module, gadget.name) + text("true")
    return made + pickle.TUPLE2 + pickle.REDUCE + pickle.EMPTY_TUPLE + pickle.REDUCE


def _mapped(gadget: Gadget) -> bytes:
    one = pickle.EMPTY_LIST + text("true") + pickle.APPEND
    made = as_line("itertools", "imap") + member(gadget.module, gadget.name) + one + pickle.TUPLE2 + pickle.REDUCE
    return as_line("collections", "deque") + made + pickle.TUPLE1 + pickle.REDUCE


def _setter(gadget: Gadget) -> bytes:
    layer = as_line("torch.nn.modules.linear", "Identity") + pickle.EMPTY_TUPLE + pickle.NEWOBJ + b"q\x09"
    call = member(gadget.module, gadget.name) + b"h\x09" + text("true") + pickle.TUPLE2 + pickle.REDUCE + pickle.POP
    return layer + call


def _python2(gadget: Gadget) -> bytes:
    return as_line(*python2(gadget.module, gadget.name)) + TRUE


def python2(module: str, name: str) -> tuple[str, str]:
    """Return how Python 2 called something; as it is called today where that is the same."""
    names = {new: old for old, new in _compat_pickle.NAME_MAPPING.items()}
    modules = {new: old for old, new in _compat_pickle.IMPORT_MAPPING.items()}
    return names.get((module, name), (modules.get(module, module), name))


SPELLINGS: dict[str, tuple[bytes, Callable[[Gadget], bytes]]] = {
    "line": (PROTO2, _called),
    "text": (b"", _text_protocol),
    "INST": (b"", _inst),
    "OBJ": (PROTO2, _obj),
    "Python 2": (PROTO2, _python2),
    "partial": (PROTO2, _partial),
    "map": (PROTO2, _mapped),
    "setter": (PROTO2, _setter),
    "getattr": (PROTO2, _member),
    "stack": (PROTO4, _from_stack),
    "memo": (PROTO4, _from_memo),
    "NEWOBJ_EX": (PROTO4, _newobj_ex),
    "through torch": (PROTO4, _through_torch),
}
_DOTTED = ("getattr", "partial", "map", "setter", "stack", "memo", "through torch")  # which can spell a dotted name


def spellings(gadget: Gadget) -> Iterator[str]:
    """Give the spellings that a callable is tried in: two of those that are possible, chosen by its name."""
    possible = [each for each in SPELLINGS if "." not in gadget.name or each in _DOTTED]
    if python2(gadget.module, gadget.name) == (gadget.module, gadget.name) and "Python 2" in possible:
        possible.remove("Python 2")
    if "." not in gadget.name:
        possible.remove("getattr")
    at = gadget.digest // 2
    yield possible[at % len(possible)]
    yield possible[(at + 1 + at // 64 % (len(possible) - 1)) % len(possible)]


def pickled(gadget: Gadget, spelling: str) -> bytes:
    """Return a pickle that holds plain data, and calls the callable."""
    start, call = SPELLINGS[spelling]
    if start == b"":
        return b"(dS'state_dict'\n" + call(gadget) + b"s."
    return start + pickle.EMPTY_DICT + text("state_dict") + call(gadget) + pickle.SETITEM + pickle.STOP


def archive(data: bytes, **others: bytes) -> bytes:
    """Return a file of torch around a pickle."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as opened:
        for name, content in {"data.pkl": data, "byteorder": b"little", "version": b"3\n", **others}.items():
            opened.writestr(f"archive/{name}", content)
    return stream.getvalue()
