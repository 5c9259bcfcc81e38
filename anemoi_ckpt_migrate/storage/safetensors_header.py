"""The header of a safetensors file: read with distrust, and written.

A file begins with the length of the header (8 bytes, little-endian). The header is JSON: for each tensor its dtype, its
shape, and the first and last byte of its content behind the header; texts by name under ``__metadata__``. Source: the
documentation of safetensors ("Format"), and what its loader refuses (version 0.8).
"""

from __future__ import annotations

import dataclasses
import json
import math
from array import array
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from anemoi_ckpt_migrate.errors import NotACheckpoint
from anemoi_ckpt_migrate.storage.descriptor import read_at
from anemoi_ckpt_migrate.storage.tensors.deferred import SIZES
from anemoi_ckpt_migrate.util.dataclass import dataclass
from anemoi_ckpt_migrate.util.lazy_regex import lazy_regex
from anemoi_ckpt_migrate.util.text import first_repeated

METADATA = "__metadata__"
ALIGNMENT, BLOCK = 8, 4096
LONGEST = 100_000_000  # bytes of a header; the library reads no longer one
_LENGTH = 8  # bytes of the length before the header
_ROOM = 8  # a new header gets a block of room, and this part of its length
_SPACES = lazy_regex(r"[ \t\n\r]*")

DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "F16": "float16",
    "BF16": "bfloat16",
    "U32": "uint32",
    "I32": "int32",
    "F32": "float32",
    "U64": "uint64",
    "I64": "int64",
    "F64": "float64",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}
"""Dtypes of safetensors, with those of torch."""
SPELLED = {torch: own for own, torch in DTYPES.items()}
"""Dtypes of torch, with those of safetensors."""


_Form = tuple[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True, slots=True)  # there is one for each tensor
class HeaderEntry:
    """A tensor in a header.

    Attributes
    ----------
    name : str
        Its name.
    dtype : str
        Its dtype, as torch calls it.
    shape : tuple of int
        Its shape.
    start : int
        The first byte of its content. For a header that was read, counted from the start of the file; for one to be
        written, from the end of the header.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def size(self) -> int:
        """The number of its bytes."""
        return math.prod(self.shape) * SIZES[self.dtype]

    @property
    def end(self) -> int:
        """The byte after its content."""
        return self.start + self.size


class HeaderEntries:
    """The tensors of a header that was read, in the order of their content: columns, as many tensors take much memory.

    Parameters
    ----------
    names : list of str
        Their names.
    forms : list of tuple
        The dtype and the shape of each; equal ones are one object.
    starts : array of int
        The first byte of each, counted from the start of the file.
    """

    __slots__ = ("_forms", "_starts", "names")

    def __init__(self, names: list[str], forms: list[_Form], starts: array[int]) -> None:
        self.names, self._forms, self._starts = names, forms, starts

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, number: int) -> HeaderEntry:
        return HeaderEntry(self.names[number], *self._forms[number], self._starts[number])

    def __iter__(self) -> Iterator[HeaderEntry]:
        return map(self.__getitem__, range(len(self.names)))

    def in_order(self) -> HeaderEntries:
        """Return the tensors in the order of their places."""
        ends = array("Q", (entry.end for entry in self))
        starts = self._starts
        order = sorted(range(len(self)), key=lambda number: (starts[number], ends[number]))
        if all(map(int.__eq__, order, range(len(order)))):
            return self
        names, forms = [self.names[each] for each in order], [self._forms[each] for each in order]
        return HeaderEntries(names, forms, array("Q", (starts[each] for each in order)))


@dataclass(frozen=True)
class Header:
    """The header of a file.

    Attributes
    ----------
    entries : HeaderEntries
        The tensors, in the order of their content.
    metadata : dict of str to str
        The texts under ``__metadata__``.
    begin : int
        The number of its bytes: the content of the tensors begins there.
    """

    entries: HeaderEntries
    metadata: dict[str, str]
    begin: int


RESERVED = (METADATA, "ckpt_migrate")
"""Names that no tensor may have: the texts of the format, and the place of the record in a tree."""


def read_header(descriptor: int, length: int, start: bytes = b"") -> Header:
    """Read the header of an open file.

    Parameters
    ----------
    descriptor : int
        The file.
    length : int
        Its length, in bytes.
    start : bytes
        The header, if the file is to be read as if it began with these bytes; empty to read it from the file.

    Raises
    ------
    NotACheckpoint
        The file is damaged or hostile: it says something that the library refuses, or that two readers would read in
        two ways.
    """
    size = int.from_bytes((start or read_at(descriptor, _LENGTH, 0))[:_LENGTH], "little")
    if size > LONGEST:
        raise _wrong(f"its header of {size:,} bytes is longer than the {LONGEST:,} that safetensors reads")
    try:
        text = (start[_LENGTH : _LENGTH + size] if start else read_at(descriptor, size, _LENGTH)).decode()
        found, metadata = _parsed(text, _LENGTH + size)
        del text
    except NotACheckpoint:
        raise
    except (ValueError, RecursionError) as error:
        raise _wrong(f"its header is not JSON ({str(error) or 'nested too deeply':.80})") from error
    entries = found.in_order()
    end = _LENGTH + size
    for entry in entries:
        if entry.start != end:
            what = "overlap" if entry.start < end else "leave a gap"
            raise _wrong(f"the bytes of {_short(entry.name)} and those before them {what}")
        end = entry.end
    if end != length:
        raise _wrong(
            f"its header describes {end:,} bytes, and it has {length:,}"
            + (" (was it cut off?)" if end > length else "")
        )
    return Header(entries, metadata, _LENGTH + size)


def header_text(entries: Iterable[HeaderEntry], metadata: Mapping[str, str]) -> bytearray:
    """Return the text of a header, without the length before it and without spaces behind it.

    Parameters
    ----------
    entries : iterable of HeaderEntry
        The tensors. Their places are counted from the end of the header.
    metadata : mapping of str to str
        Texts by name.

    Raises
    ------
    ValueError
        The header is longer than the library reads.
    """
    text, spelled = bytearray(b"{"), json.JSONEncoder(ensure_ascii=False).encode
    if metadata:
        texts = json.dumps(dict(metadata), separators=(",", ":"), ensure_ascii=False)
        text += f'"{METADATA}":{texts},'.encode()
    for each in entries:  # one by one: a dict of all would take many times the length of the header
        shape = ",".join(map(str, each.shape))
        place = f'"dtype":"{SPELLED[each.dtype]}","shape":[{shape}],"data_offsets":[{each.start},{each.end}]'
        text += f"{spelled(each.name)}:{{{place}}},".encode()
    text[-1:] = b"}" if len(text) > 1 else b"{}"
    if len(text) > LONGEST:
        raise ValueError(f"a header of {len(text):,} bytes is longer than the {LONGEST:,} that safetensors reads")
    return text


def begin_of(text: bytearray, like: int = 0) -> int:
    """Return the byte at which the content of a new file begins.

    Parameters
    ----------
    text : bytearray
        The text of its header.
    like : int
        Where the content of the old file begins. The new content begins at the same byte of a block, so that both files
        can share blocks, and behind some room: then later changes of the header fit in place. 0 for content that is too
        short for that.
    """
    least = _LENGTH + len(text)
    if like:
        roomy = least + len(text) // _ROOM + BLOCK
        roomy += (like - roomy) % BLOCK if like % ALIGNMENT == 0 else -roomy % ALIGNMENT
        if roomy <= LONGEST:
            return roomy
    return least + -least % ALIGNMENT


def header_parts(text: bytearray, begin: int) -> tuple[tuple[bytes | memoryview, int], ...]:
    """Return the parts of a header up to a byte, each with its place: the length, the text, and spaces."""
    size = begin - _LENGTH
    end = _LENGTH + len(text)
    return (size.to_bytes(_LENGTH, "little"), 0), (memoryview(text), _LENGTH), (b" " * (begin - end), end)


def _parsed(text: str, begin: int) -> tuple[HeaderEntries, dict[str, str]]:
    """Return the checked entries of a header, with places counted from the start of the file; and its texts."""
    names, forms, starts = list[str](), list[_Form](), array("Q")
    known: set[str] = set()
    texts: list[Any] = []
    alike, escapes = dict[_Form, _Form](), "\\u" in text
    for name, value in _pairs(text):
        if name in known:
            raise _wrong(f"its header names {_short(name)} twice")
        known.add(name)
        if escapes and not is_text(json.dumps([name, value], ensure_ascii=False)):
            raise _wrong("its header has characters that are not Unicode (a half of a pair)")
        if name == METADATA:
            texts.append(value)
            continue
        if name in RESERVED:
            raise _wrong(f"a tensor is called {name}, which is the place of the record")
        form, start = _form(name, value)
        names.append(name)
        forms.append(alike.setdefault(form, form))
        starts.append(begin + start)
    metadata = {} if texts in ([], [None]) else texts[0]
    if not isinstance(metadata, dict) or not all(isinstance(each, str) for each in metadata.values()):
        raise _wrong(f"{METADATA} in its header holds something else than texts by name")
    return HeaderEntries(names, forms, starts), metadata


def _pairs(text: str) -> Iterator[tuple[str, Any]]:
    """Yield the keys of a JSON object, each with its value: one by one, as all of them would take much memory.

    Raises
    ------
    ValueError
        It is no JSON object.
    NotACheckpoint
        A key stands twice in a value.
    """
    decode = json.JSONDecoder(object_pairs_hook=_without_repetition, parse_int=_size).raw_decode

    def after(at: int, wanted: str) -> int:
        """Skip spaces and a character."""
        at = _spaces(text, at)
        if text[at : at + 1] != wanted:
            raise json.JSONDecodeError(f"expecting {wanted}", text, at)
        return at + 1

    at = _spaces(text, after(0, "{"))
    more = text[at : at + 1] != "}"
    while more:
        at = after(at, '"')
        name, at = decode(text, at - 1)
        value, at = decode(text, _spaces(text, after(at, ":")))
        yield name, value
        at = _spaces(text, at)
        more = text[at : at + 1] != "}"
        at = after(at, ",") if more else at
    if _spaces(text, after(at, "}")) != len(text):
        raise json.JSONDecodeError("more data behind the object", text, at + 1)


def _spaces(text: str, at: int) -> int:
    """Return the first place from there on that holds no space."""
    found = _SPACES.match(text, at)
    return at if found is None else found.end()


def _form(name: str, data: Any) -> tuple[_Form, int]:
    """Return the checked dtype and shape of an entry, and its place counted from the end of the header."""
    shown = _short(name)
    if not isinstance(data, dict) or data.keys() != {"dtype", "shape", "data_offsets"}:
        raise _wrong(f"{shown} has other fields than dtype, shape and data_offsets")
    dtype, shape, place = data["dtype"], data["shape"], data["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise _wrong(f"{shown} has the dtype {dtype!r:.40}, which this version does not know")
    if not _are_sizes(shape) or not _are_sizes(place) or len(place) != 2:
        raise _wrong(f"the shape or the place of {shown} is no list of sizes")
    size = _product((*shape, SIZES[DTYPES[dtype]]), shown)
    if place[1] - place[0] != size:
        raise _wrong(f"{shown} needs {size:,} bytes, and its place in the file has {place[1] - place[0]:,}")
    return (DTYPES[dtype], tuple(shape)), place[0]


def _size(text: str) -> int:
    """Read a number; a size has no sign, not even ``-0``."""
    if text.startswith("-"):
        raise ValueError(f"{text:.40} is no size")
    return int(text)


def _product(sizes: Iterable[int], shown: str) -> int:
    """Multiply sizes as the library does: in 64 bits, whatever comes after a product that is too large."""
    found = 1
    for size in sizes:
        found *= size
        if found >= 1 << 64:
            raise _wrong(f"{shown} has more bytes than any tensor")
    return found


def _are_sizes(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= 64
        and all(type(each) is int and 0 <= each < 1 << 63 for each in value)
    )


def is_text(text: str) -> bool:
    """Return whether a text can be written as UTF-8: Python's own texts may hold halves of pairs."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a dict, but refuse a key that stands twice: the library takes the last one without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _wrong(f"its header names {_short(str(first_repeated(key for key, _ in pairs)))} twice")
    return found


def _short(name: str) -> str:
    return name if len(name) <= 80 else f"{name[:77]}..."


def _wrong(sentence: str) -> NotACheckpoint:
    return NotACheckpoint(f"it is a safetensors file, but damaged or hostile: {sentence}")
