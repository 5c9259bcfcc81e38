"""Pieces of pickles that put one object on the stack, as Hypothesis draws them."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Sequence

from hypothesis import strategies as st

from tests.fuzzing.changes import drawn, picked

CANARY = "a_canary"  # a module whose every use is noticed
# What a pickle may hold: pieces of pickles that put one object on the stack.


def _text(text: str) -> bytes:
    encoded = text.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def _name(name: str) -> bytes:
    return f"c{name}\n".replace(" ", "\n").encode()


def _name4(name: str) -> bytes:
    module, _, inner = name.partition(" ")
    return _text(module) + _text(inner) + b"\x93"


def _number(number: int) -> bytes:
    encoded = pickle.encode_long(number)
    if len(encoded) < 256:
        return b"\x8a" + bytes([len(encoded)]) + encoded
    return b"\x8b" + struct.pack("<I", len(encoded)) + encoded


def _tuple(items: Sequence[bytes]) -> bytes:
    return b"(" + b"".join(items) + b"t"


def _nested(depth: int, how: tuple[bytes, bytes, bytes]) -> bytes:
    opening, middle, closing = how
    return opening * depth + middle + closing * depth


def _colliding(count: int, how: tuple[bytes, bytes, bytes]) -> bytes:
    """Spell keys of one hash: tuples of -1 and -2."""
    opening, between, closing = how
    parts = b"J\xff\xff\xff\xff", b"J\xfe\xff\xff\xff"
    keys = (_tuple([parts[number >> place & 1] for place in range(13)]) for number in range(count))
    return opening + b"".join(key + between for key in keys) + closing


COLLISIONS = [
    (b"}(", b"N", b"u"),
    (b"}", b"Ns", b""),
    (b"(", b"N", b"d"),
    (b"\x8f(", b"", b"\x90"),
    (b"(", b"", b"\x91"),
    (b"c__builtin__\nset\n](", b"", b"e\x85R"),
    (b"ccollections\nOrderedDict\n)R(", b"N", b"u"),
    (b"csome\nname\n)\x81(", b"N", b"u"),
]


HARMFUL = f"""
{CANARY} call,{CANARY} Class,{CANARY}.inner call,{CANARY} Class.method,os system,posix system,subprocess Popen,os abort
subprocess call,pty spawn,os _exit,sys exit,builtins eval,builtins exec,__builtin__ eval,builtins getattr,builtins open
builtins setattr,builtins __import__,importlib import_module,runpy run_path,antigravity x,this x,pickle loads
torch.storage _load_from_bytes,torch load,torch.hub load,torch._utils _import_dotted_name,ctypes string_at
types FunctionType,types CodeType,operator methodcaller,operator attrgetter
"""
TENSORS = """
torch._utils _rebuild_tensor,torch._utils _rebuild_tensor_v2,torch._utils _rebuild_tensor_v3
torch._utils _rebuild_parameter,torch._utils _rebuild_parameter_with_state,torch._utils _rebuild_sparse_tensor
torch._utils _rebuild_qtensor,torch._utils _rebuild_nested_tensor,torch._utils _rebuild_meta_tensor_no_storage
torch._utils _rebuild_wrapper_subclass,torch._utils _rebuild_device_tensor_from_numpy,torch._utils _rebuild_other
torch._tensor _rebuild_from_type_v2
"""
KNOWN = """
torch.serialization _get_layout,torch Size,torch Tensor,torch float32,torch per_tensor_affine,torch device
torch FloatStorage,torch.storage UntypedStorage,torch.storage TypedStorage,torch.nn.parameter Parameter
torch.nn.modules.linear Linear,collections OrderedDict,collections defaultdict,collections Counter,collections deque
copyreg _reconstructor,copy_reg _reconstructor,copyreg __newobj__,functools partial,_codecs encode,builtins bytearray
builtins bytes,builtins set,builtins frozenset,builtins complex,builtins slice,builtins range,builtins object
builtins dict,builtins list,builtins tuple,builtins type,builtins int,builtins str,builtins bool,__builtin__ set
__builtin__ object,datetime datetime,datetime date,datetime time,datetime timedelta,datetime timezone
pathlib PosixPath,uuid UUID,fractions Fraction,argparse Namespace,some.module Some.Class, ,a , a,a.b .,\u00e9 \u00fc
a __class__,a __reduce_ex__,a __slots__,a mro,a\0b c\0d
"""
STATES = ["__class__", "__dict__", "__reduce_ex__", "__setstate__", "__slots__", "__opaque_parts__", "append", "a", ""]
HUGE = [
    *(1 << bits for bits in (31, 32, 40, 63, 200, 2030, 16_000)),
    *((1 << bits) - 1 for bits in (31, 63)),
    *(-1 << bits for bits in (0, 31, 63)),
]
NESTINGS = [
    (b"]", b"N", b"a"),
    (b"", b")", b"\x85"),
    (b"}K\x01", b"N", b"s"),
    (b"\x8f(", b")", b"\x90"),
    (b"(", b"N", b"t"),
    (b"(", b")", b"\x91"),
    (b"csome\nClass\n", b")", b"\x85R"),
    (b"csome\nClass\n)R", b"N", b"b"),
    (b"ccollections\nOrderedDict\n)RK\x01", b"N", b"s"),
    (b"", b")", b"\x85q\x00h\x00\x86"),
    (b"", b"]", b"2\x86\x85"),
    (b"", b"csome\nname\n", b")R"),
    (b"c__builtin__\nfrozenset\n(", b"K\x01", b"l\x85R"),
    (b"(((((((((", b"N", b"ttttttttt"),
]
INTEGERS = st.one_of(st.integers(-2, 70), picked(HUGE))
NUMBERS = st.one_of(st.integers(0, 255).map(lambda number: bytes((0x4B, number))), INTEGERS.map(_number))
TEXTS = st.one_of(
    picked(["a", "0", "1", "cpu", "cuda:0", "storage", "module", "state_dict", "latin1", "\ud800", "x" * 300]),
    picked(STATES),
    st.text(max_size=3),
).map(_text)
SPELLED = (
    b"N ) ] } \x8f \x88 \x89 I01\n I00\n I-7\n L99999999999999L\n F1e400\n Fnan\n G\x7f\xf8\0\0\0\0\0\1 G\x80\0\0\0\0\0\0\0 "
    b"S'text'\n Vtext\n V\\ud800\n T\2\0\0\0ab C\2\0\xff B\1\0\0\0x \x8e\1\0\0\0\0\0\0\0x \x96\2\0\0\0\0\0\0\0ab \x8a\0 "
    b"\x8d\1\0\0\0\0\0\0\0a \x8c\1a (l (d (t \x8b\4\0\0\0\1\2\3\4 N\x94 Nq\xff"
)
MISSPELLED = (
    b"F\n S'\xff'\n S'\n V\\\n U\2\xff\xfe \x8b\xff\xff\xff\x7f \x8b\0\0\0\x80 h\0 h\xff j\xff\xff\xff\x7f g0\n g-1\n g\n "
    b"X\xff\xff\xff\xff X\xff\xff\xff\x7f \x8d\xff\xff\xff\xff\xff\xff\xff\xff \x96\xff\xff\xff\xff\xff\xff\xff\x7f "
    b"\x96\0\0\0\0\1\0\0\0 \x8e\xff\xff\xff\xff\xff\xff\xff\xff B\xff\xff\xff\x7f P0\n P('storage')\n \x97 \x98 \x82\1 "
    b"\x83\1\0 \x84\1\0\0\0 Nr\xff\xff\xff\x7f Np99999999999\n Np-1\n N\x95\xff\xff\xff\xff\xff\xff\xff\xff "
    b"N\x95\1\0\0\0\0\0\0\0 \x80\5N \x80\xffN (0N N2 (1N 0 1 (N . \0 \xff \x8a\xff I" + b"9" * 5000 + b"\n"
)


def _listed(names: str) -> list[str]:
    return names.strip("\n").replace("\n", ",").split(",")


LEAVES = st.one_of(NUMBERS, TEXTS, picked(SPELLED.split(b" ")))
AWKWARD = " |a | a|a\nos system|a b\n(X|a\n|a b\n|\n \n|a\r b\r|\ud800 b|a \ud800|a.b.c d.e.f|a b..c|a .b"
NAMES = st.one_of(
    drawn(
        lambda spell, name: spell(name),
        picked([_name, _name, _name4]),
        picked(_listed(HARMFUL)) | picked(_listed(KNOWN + TENSORS)),
    ),
    picked(AWKWARD.split("|")).map(_name4),
)
DEPTHS = picked([2, 30, 60, 500, 1100, 3000, 9_999, 10_001, 60_000])


def _call(function: bytes, args: bytes, form: int) -> bytes:
    if form == 1 and function[:1] == b"c":
        return b"(" + args + b"i" + function[1:]
    return (
        function + args + b"R",
        b"(" + function + args + b"o",
        function + args + b"\x81",
        function + args + b"}\x92",
        function + args + _tuple([]) + b"\x92",
        function + args + b"R0N",
        function + args + b"R2\x86",
        function + args + b"Rq\xf3h\xf3\x86",
    )[form - 2 if form > 1 else 0]


def _filled(container: bytes, key: bytes, value: bytes, form: int) -> bytes:
    return (
        container
        + (
            key + value + b"s",
            b"(" + key + value + b"u",
            value + b"a",
            b"(" + key + value + b"e",
            value + b"b",
            b"(" + key + value + b"\x90",
            b"N}" + key + value + b"s\x86b",
            b"}" + key + value + b"s}" + key + value + b"s\x86b",
            b"2" + value + b"a",
        )[form]
    )


@st.composite
def _tensors(draw: st.DrawFn) -> bytes:
    kind = _name(
        draw(picked(["torch FloatStorage", "torch ByteStorage", "torch.storage UntypedStorage", *_listed(KNOWN)]))
    )
    key = _text(draw(picked(["0", "1", "2", "99", "../version", ""])))
    place = _text(draw(picked(["cpu", "cuda:0", "meta", "nowhere", ""])))
    stored = _tuple([_text(draw(picked(["storage"] * 9 + ["module"]))), kind, key, place, draw(NUMBERS)]) + b"Q"
    shapes = st.lists(NUMBERS, max_size=3).map(_tuple)
    args = [stored, draw(NUMBERS), draw(shapes), draw(shapes), draw(picked([b"\x88", b"\x89", b"N"]))]
    args += draw(st.lists(st.one_of(st.just(_name("collections OrderedDict") + b")R"), LEAVES, NAMES), max_size=3))
    function = draw(picked(["torch._utils _rebuild_tensor_v2", *_listed(TENSORS)]))
    return _name(function) + _tuple(args) + b"R"


def _larger(inner: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    several = st.lists(inner, max_size=4)
    return st.one_of(
        several.map(_tuple),
        several.map(lambda items: b"](" + b"".join(items) + b"e"),
        several.map(lambda items: b"\x8f(" + b"".join(items) + b"\x90"),
        several.map(lambda items: b"(" + b"".join(items) + b"\x91"),
        drawn(lambda items: b"}(" + b"".join(items * 2) + b"u", several),
        drawn(_call, NAMES, several.map(_tuple), st.integers(0, 9)),
        drawn(_filled, inner, inner, inner, st.integers(0, 8)),
        *[drawn(_filled, drawn(_call, NAMES, several.map(_tuple), st.just(0)), TEXTS, inner, st.integers(0, 8))] * 2,
        drawn(lambda one, two: _name("builtins getattr") + _tuple([one, two]) + b"R", inner, TEXTS),
        drawn(lambda one, two: _name(f"{CANARY} set") + _tuple([one + b"q\xf0", two]) + b"R0h\xf0", inner, inner),
        drawn(lambda one: one + b"q\xf1h\xf1h\xf1\x87", inner),
        drawn(lambda one: b"]q\xf2(" + one + b"h\xf2e", inner),
    )


OBJECTS = st.one_of(
    NAMES,
    drawn(_nested, DEPTHS, picked(NESTINGS)),
    drawn(_colliding, picked([20, 300, 6000]), picked(COLLISIONS)),
    picked(MISSPELLED.split(b" ")),
    drawn(lambda items: _tuple(items) + b"Q", st.lists(LEAVES | NAMES, max_size=6)),
    *[_tensors()] * 2,
    *[st.recursive(LEAVES | NAMES | _tensors(), _larger, max_leaves=8)] * 6,
)
