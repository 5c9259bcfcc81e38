"""What can be changed: the bytes of a file, its archive, its pickle."""

from __future__ import annotations

import dataclasses
import functools
import pickletools
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

# Changes.


@dataclass(frozen=True)
class Change:
    """One change of something, waiting for it. Its `repr` is the code that makes it."""

    function: Callable[..., None]
    args: tuple[Any, ...]

    def __call__(self, thing: Any) -> None:
        self.function(thing, *self.args)

    def __repr__(self) -> str:
        return f"{self.function.__name__}({', '.join(map(_spelled, self.args))})"


def change(function: Callable[..., None]) -> Callable[..., Change]:
    """Let a function wait for its first argument: what it is to change."""
    return lambda *args: Change(function, args)


def drawn(make: Callable[..., Any], *args: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Draw the arguments of a function; unlike `builds`, which finds out about further ones."""
    return st.tuples(*args).map(lambda values: make(*values))


def picked(values: Iterable[Any]) -> st.SearchStrategy[Any]:
    """Draw one of some values; unlike `sampled_from`, which spells all of them out when something is wrong."""
    known = list(values)
    return st.integers(0, len(known) - 1).map(lambda number: known[number])


def _spelled(value: Any) -> str:
    """Spell a value as code, and what it repeats only once."""
    if not isinstance(value, bytes) or len(value) < 200:
        return repr(value)
    pieces, at = [], 0
    for match in re.finditer(rb"(.{1,24}?)\1{15,}", value, re.DOTALL):
        pieces += [repr(value[at : match.start()]), f"{match[1]!r} * {len(match[0]) // len(match[1])}"]
        at = match.end()
    return " + ".join([*pieces, repr(value[at:])])


# Level one: the bytes of the file. A place is given as a landmark, which of its occurrences, and how far beyond it.

Place = tuple[bytes, int, int]
LANDMARKS = (b"PK\3\4", b"PK\1\2", b"PK\5\6", b"PK\6\6", b"PK\6\7", b"PK\7\x08", b"\x80\x02", b"data.pkl", b"storage")


def _find(content: bytes | bytearray, place: Place) -> int:
    landmark, number, distance = place
    found = [match.start() for match in re.finditer(re.escape(landmark), content)] if landmark else []
    start = found[number % len(found)] if found else 0
    return (start + distance) % max(1, len(content))


@change
def flip(content: bytearray, place: Place, bit: int) -> None:
    if content:
        content[_find(content, place)] ^= 1 << bit


@change
def overwrite(content: bytearray, place: Place, data: bytes) -> None:
    at = _find(content, place)
    content[at : at + len(data)] = data


@change
def insert(content: bytearray, place: Place, data: bytes) -> None:
    at = _find(content, place)
    content[at:at] = data


@change
def remove(content: bytearray, place: Place, count: int) -> None:
    at = _find(content, place)
    del content[at : at + count]


@change
def cut(content: bytearray, place: Place) -> None:
    del content[_find(content, place) :]


@change
def repeat(content: bytearray, place: Place, count: int, to: Place) -> None:
    at, target = _find(content, place), _find(content, to)
    content[target:target] = content[at : at + count]


@change
def splice(content: bytearray, place: Place, other: str, start: Place, count: int) -> None:
    from tests.fuzzing.recipes import seeds  # recipes are made of what is here

    source = seeds()[other]
    at, begin = _find(content, place), _find(source, start)
    content[at:at] = source[begin : begin + count]


# Level two: the archive, put together again with what its headers claim.

Layout = tuple[tuple[str, int], ...]  # fields of a header, and how many bytes each has


def _layout(text: str) -> Layout:
    return tuple((name, int(size)) for name, _, size in (field.rpartition(" ") for field in text.split(", ")))


_LOCAL = _layout(
    "signature 4, needed 2, flags 2, method 2, time 2, date 2, crc 4, packed 4, size 4, name length 2, extra length 2"
)
_CENTRAL = _layout(
    "signature 4, made by 2, needed 2, flags 2, method 2, time 2, date 2, crc 4, packed 4, size 4, name length 2, "
    "extra length 2, comment length 2, disk 2, internal 2, external 4, offset 4"
)
_END = _layout("signature 4, disk 2, first disk 2, here 2, count 2, length 4, offset 4, comment length 2")


@dataclass
class Entry:
    """A record of an archive; `local` and `central` hold by how much its two headers lie."""

    name: bytes
    content: bytes
    flags: int = 0x800
    method: int = 0
    extra: bytes = b""
    onto: int | None = None
    local: dict[str, int] = field(default_factory=dict)
    central: dict[str, int] = field(default_factory=dict)


@dataclass
class Zip:
    """A zip archive in parts; `end` holds by how much its last header lies."""

    entries: list[Entry]
    before: bytes = b""
    comment: bytes = b""
    end: dict[str, int] = field(default_factory=dict)

    def pick(self, number: int) -> Entry:
        return self.entries[number % len(self.entries)]

    @property
    def root(self) -> bytes:
        return self.entries[0].name.partition(b"/")[0]

    def pickle(self) -> Entry:
        return next(entry for entry in self.entries if entry.name.endswith(b"data.pkl"))

    def build(self) -> bytes:
        """Put the file together."""
        content, fields = bytearray(self.before), []
        for entry in self.entries:
            fields.append(_fields(entry) | {"offset": len(content)})
            content += _header(_LOCAL, {**fields[-1], "signature": 0x04034B50}, entry.local)
            content += entry.name + entry.extra + _stored(entry)
        start = len(content)
        for entry, known in zip(self.entries, fields, strict=True):
            offset = known["offset"] if entry.onto is None else fields[entry.onto % len(fields)]["offset"]
            content += _header(_CENTRAL, {**known, "signature": 0x02014B50, "offset": offset}, entry.central)
            content += entry.name + entry.extra
        count = {"here": len(fields), "count": len(fields)}
        last = {"signature": 0x06054B50, "length": len(content) - start, "offset": start, **count}
        content += _header(_END, {**last, "comment length": len(self.comment)}, self.end) + self.comment
        return bytes(content)


def _fields(entry: Entry) -> dict[str, int]:
    sizes = {"packed": len(_stored(entry)), "size": len(entry.content), "crc": zlib.crc32(entry.content)}
    lengths = {"name length": len(entry.name), "extra length": len(entry.extra)}
    return {"flags": entry.flags, "method": entry.method, **sizes, **lengths}


def _stored(entry: Entry) -> bytes:
    if entry.method != zipfile.ZIP_DEFLATED:
        return entry.content
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    return deflater.compress(entry.content) + deflater.flush()


def _header(layout: Layout, fields: dict[str, int], lies: dict[str, int]) -> bytes:
    values = [(fields.get(name, 0) + lies.get(name, 0), size) for name, size in layout]
    return b"".join((value % (1 << 8 * size)).to_bytes(size, "little") for value, size in values)


@change
def drop(archive: Zip, number: int) -> None:
    archive.entries.remove(archive.pick(number))


@change
def double(archive: Zip, number: int, to: int, content: bytes | None) -> None:
    entry = archive.pick(number)
    other = dataclasses.replace(entry, content=entry.content if content is None else content)
    archive.entries.insert(to % len(archive.entries), other)


@change
def move(archive: Zip, number: int, to: int) -> None:
    entry = archive.pick(number)
    archive.entries.remove(entry)
    archive.entries.insert(to % (len(archive.entries) + 1), entry)


@change
def rename(archive: Zip, number: int, name: bytes, flags: int) -> None:
    """`ROOT` in the name stands for the folder that all records lie in."""
    entry = archive.pick(number)
    entry.name, entry.flags = name.replace(b"ROOT", archive.root), flags


@change
def add(archive: Zip, name: bytes, content: bytes) -> None:
    archive.entries.append(Entry(name.replace(b"ROOT", archive.root), content))


@change
def refill(archive: Zip, number: int, content: bytes) -> None:
    archive.pick(number).content = content


@change
def lie(archive: Zip, number: int, header: str, name: str, by: int) -> None:
    """`header` is "local", "central" or "both"."""
    entry = archive.pick(number)
    for which in ("local", "central"):
        if header in (which, "both"):
            getattr(entry, which)[name] = by


@change
def lie_at_the_end(archive: Zip, name: str, by: int) -> None:
    archive.end[name] = by


@change
def deflate(archive: Zip, number: int) -> None:
    archive.pick(number).method = zipfile.ZIP_DEFLATED


@change
def encrypt(archive: Zip, number: int) -> None:
    archive.pick(number).flags |= 1


@change
def overlap(archive: Zip, number: int, other: int) -> None:
    """The directory places one record where another lies."""
    archive.pick(number).onto = other


@change
def exchange_contents(archive: Zip, number: int, other: int) -> None:
    one, two = archive.pick(number), archive.pick(other)
    one.content, two.content = two.content, one.content


@change
def extra_field(archive: Zip, number: int, kind: int, data: bytes) -> None:
    archive.pick(number).extra += struct.pack("<HH", kind, len(data)) + data


@change
def surround(archive: Zip, before: bytes, comment: bytes) -> None:
    archive.before, archive.comment = before, comment


# Level three: the pickle, as a list of opcodes with what belongs to each.

Opcodes = list[bytes]
_LEAVES = frozenset(b"NK\x88\x89JMX)]}GUh")  # opcodes that put one object on the stack and need none


def _at(opcodes: Opcodes, number: int) -> int:
    return number % max(1, len(opcodes))


@change
def delete(opcodes: Opcodes, number: int, count: int) -> None:
    at = _at(opcodes, number)
    del opcodes[at : at + count]


@change
def duplicate(opcodes: Opcodes, number: int, count: int, to: int) -> None:
    at = _at(opcodes, number)
    opcodes[_at(opcodes, to) : _at(opcodes, to)] = opcodes[at : at + count]


@change
def exchange(opcodes: Opcodes, one: int, two: int) -> None:
    one, two = _at(opcodes, one), _at(opcodes, two)
    opcodes[one], opcodes[two] = opcodes[two], opcodes[one]


@change
def put(opcodes: Opcodes, number: int, data: bytes) -> None:
    opcodes.insert(_at(opcodes, number), data)


@change
def replace(opcodes: Opcodes, number: int, data: bytes) -> None:
    opcodes[_at(opcodes, number)] = data


@change
def plant(opcodes: Opcodes, number: int, data: bytes) -> None:
    """Replace an object by another, which leaves the pickle well-formed."""
    leaves = [at for at, opcode in enumerate(opcodes) if opcode[0] in _LEAVES]
    opcodes[leaves[number % len(leaves)] if leaves else 0] = data


@change
def spoil(opcodes: Opcodes, number: int, at: int, bit: int) -> None:
    """Flip a bit of an opcode or of its argument."""
    data = bytearray(opcodes[_at(opcodes, number)])
    data[at % len(data)] ^= 1 << bit
    opcodes[_at(opcodes, number)] = bytes(data)


@change
def claim(opcodes: Opcodes, number: int, data: bytes) -> None:
    """Overwrite the beginning of an argument: the length of a text, the number of an object."""
    opcode = opcodes[_at(opcodes, number)]
    opcodes[_at(opcodes, number)] = opcode[:1] + data[: len(opcode) - 1] + opcode[1 + len(data) :]


@change
def graft(opcodes: Opcodes, number: int, other: str, start: int, count: int) -> None:
    from tests.fuzzing.recipes import pickles_of  # recipes are made of what is here

    source = opcodes_of(pickles_of(other)[0])
    opcodes[_at(opcodes, number) : _at(opcodes, number)] = source[_at(source, start) :][:count]


@functools.cache
def _opcodes_of(data: bytes) -> tuple[bytes, ...]:
    found, at = [], 0
    while at < len(data):
        try:
            starts = [at + start for _, _, start in pickletools.genops(data[at:])]
        except Exception:  # no further pickle: the bytes of tensors, say
            break
        ends = [*starts[1:], starts[-1] + 1]
        found += [data[start:end] for start, end in zip(starts, ends, strict=True)]
        at = ends[-1]
    return (*found, data[at:]) if at < len(data) else tuple(found)


def opcodes_of(data: bytes) -> Opcodes:
    """Take one pickle, or several in a row, apart; what follows them stays in one piece."""
    return list(_opcodes_of(data))
