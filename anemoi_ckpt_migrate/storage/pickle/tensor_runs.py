"""Runs of tensors in a pickle: keys and tensors of a dict that follow each other, all spelled alike.

A large model has a hundred thousand tensors, and the pickle spells each of them in some forty opcodes. They are alike
but for a few numbers, so a regular expression reads many of them at once. Nothing is taken for granted: lengths of
texts, numbers of remembered objects and names of functions are compared with what they must be. All else is left to
the scan, opcode by opcode.
"""

from __future__ import annotations

import functools
import pickle
import re
import struct
import sys
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import chain
from typing import Any, NamedTuple

from anemoi_ckpt_migrate.storage.pickle.tensor_opcodes import WORD
from anemoi_ckpt_migrate.util.dataclass import dataclass

TEXT, HEIGHT = 1, -4
"""Heights, as `scan` counts: of a text; of a tensor, which is a call with arguments, one of them a named storage."""
VISITED, SHARED = (1 << 100) - 1, 1 << 200
"""Parts of a weight, as `scan` counts: the objects that a comparison visits, and whether the object is shared."""
REBUILD, HOOKS = ("torch._utils", "_rebuild_tensor_v2"), ("collections", "OrderedDict")
"""What the spelling of a tensor names: the function, and the class of the empty hooks."""

_INTEGER, _GET, _PUT = rb"(?:K.|M..|J....)", rb"(h.|j....)", rb"(?:r(....))?"
_NUMBERS = rb"(\)|%b\x85|%b{2}\x86|%b{3}\x87|\(%b{4,8}t)" % ((_INTEGER,) * 4)
# Texts without zeros and brackets. Names are long, so the longest match is tried first; keys are short.
_NAME, _KEY = rb"X(....)([^\x00(]{1,1000})r(....)", rb"X(....)([^\x00(]{1,20}?)"
_FEW, _MOST = 4, 1 << 12
"""The tensors read at once: more and more, as long as all of them are spelled as they must be."""
_SPELLED = pickle.BINUNICODE
_AT_ONCE = 6  # 64 bytes of a text weigh as much as an object


class PartOfTensor(Exception):
    """A pickle refers to a part of a tensor in a run: the pickle has to be read opcode by opcode."""


class Known(NamedTuple):
    """An object that a pickle remembered earlier.

    Attributes
    ----------
    value : str or (str, str) or None
        A short text, or the module and name of a class or function; None for anything else.
    height, weight : int
        As `scan` counts.
    """

    value: Any
    height: int
    weight: int


class StoredTensors(NamedTuple):
    """Descriptions of tensors, each a sequence.

    Attributes
    ----------
    kinds, storages, locations, counts : sequence
        Of the storages, the classes (as module and name), keys, devices, and numbers of elements.
    offsets, sizes, strides, grads : sequence
        The other arguments of the function that builds them.
    """

    kinds: Sequence[tuple[str, str]]
    storages: Sequence[str]
    locations: Sequence[str]
    counts: Sequence[int]
    offsets: Sequence[int]
    sizes: Sequence[tuple[int, ...]]
    strides: Sequence[tuple[int, ...]]
    grads: Sequence[bool]

    def part(self, begin: int, stop: int) -> StoredTensors:
        """Return the descriptions of some of them."""
        return StoredTensors(*(column[begin:stop] for column in self))  # type: ignore[arg-type]


@dataclass
class TensorRun:
    """Tensors with their keys. All sequences are by tensor, if not said otherwise.

    Attributes
    ----------
    first : int
        The number under which the pickle remembers the first object in the run.
    tensors : StoredTensors
        The tensors.
    codes : sequence of bytes
        Opcodes for the key and, by an external object named None, the tensor.
    key_numbers : sequence of int
        The numbers of the keys that are spelled here, fewer perhaps than tensors.
    storage_numbers, numbers : sequence of int
        The numbers of the keys of the storages, if these are remembered, and of the tensors.
    heights, weights : list of int
        As `scan` counts, of key and tensor in turn.
    """

    first: int
    tensors: StoredTensors
    codes: Sequence[bytes]
    key_numbers: Sequence[int]
    storage_numbers: Sequence[int]
    numbers: Sequence[int]
    heights: list[int]
    weights: list[int]

    @functools.cached_property
    def remembered(self) -> dict[int, tuple[int, int]]:
        """Heights and weights of keys, keys of storages, and tensors, by number."""
        found = dict.fromkeys(self.storage_numbers, (TEXT, 1 | SHARED))
        of_keys, of_tensors = ([each | SHARED for each in self.weights[first::2]] for first in (0, 1))
        if self.key_numbers:  # of keys that were known before, the weights are known too
            spelled = [weight for weight, code in zip(of_keys, self.codes, strict=True) if code.startswith(_SPELLED)]
            found |= {number: (TEXT, weight) for number, weight in zip(self.key_numbers, spelled, strict=True)}
        return found | {number: (HEIGHT, weight) for number, weight in zip(self.numbers, of_tensors, strict=True)}

    def code(self, begin: int, stop: int, fetched: Collection[int]) -> bytes:
        """Return the opcodes of some tensors, after those for keys of storages that other parts of the pickle get."""
        given = fetched and self.storage_numbers
        keys = zip(self.storage_numbers[begin:stop], self.tensors.storages[begin:stop], strict=True) if given else ()
        spelled = [_spelled(key, number) for number, key in keys if number in fetched]
        return b"".join([*spelled, *self.codes[begin:stop]])


def _spelled(key: str, number: int) -> bytes:
    """Spell a text that is only to be remembered."""
    encoded = key.encode("utf-8", "surrogatepass")
    return b"X%b%br%b0" % (struct.pack("<I", len(encoded)), encoded, struct.pack("<I", number))


class Segment(NamedTuple):
    """A part of a run with nothing between its tensors.

    Attributes
    ----------
    run : TensorRun
        The run.
    begin, stop : int
        Its first tensor in the run, and the one after its last.
    start, end : int
        Its place in the pickle, in bytes.
    first, after : int
        The number of the first object that the pickle remembers in it, and the one after the last.
    """

    run: TensorRun
    begin: int
    stop: int
    start: int
    end: int
    first: int
    after: int


class TensorRuns:
    """The runs in a pickle, found where they begin.

    Parameters
    ----------
    data : bytes
        The pickle.
    known : callable
        Returns the object that the pickle remembered under a number; raises KeyError if there is none.

    Attributes
    ----------
    segments : list of Segment
        Those that `take` returned.
    runs : list of TensorRun
        Their runs.
    """

    def __init__(self, data: bytes, known: Callable[[int], Known]) -> None:
        self._data, self._known, self._most = data, known, _FEW
        self._found: dict[int, Segment] = {}
        self._firsts: list[int] = []
        self._closed = False
        self.segments: list[Segment] = []
        self.runs: list[TensorRun] = []

    def close(self) -> None:
        """Take no more tensors."""
        self._closed = True

    def take(self, at: int, number: int) -> Segment | None:
        """Return the tensors from the key at a place on; None if there are none, or they are spelled otherwise.

        Parameters
        ----------
        at : int
            The place where the opcode of a key begins.
        number : int
            The number of the next object to be remembered.
        """
        if self._closed:
            return None
        if at not in self._found:
            self._read(at, number)
        segment = self._found.pop(at, None)
        if segment is None or segment.first != number:
            return None
        self.segments.append(segment)
        return segment

    def remembered(self, number: int) -> tuple[int, int]:
        """Return height and weight of an object that is remembered in a run.

        Raises
        ------
        KeyError
            No run remembers anything under this number.
        PartOfTensor
            It is neither a key nor a tensor.
        """
        place = bisect_right(self._firsts, number) - 1
        if place < 0 or number > self.runs[place].numbers[-1]:
            raise KeyError(number)
        found = self.runs[place].remembered.get(number)
        if found is None:
            raise PartOfTensor
        return found

    def _read(self, at: int, number: int) -> None:
        """Read the next tensors, up to the first that is spelled otherwise."""
        while True:
            items, ends = [], [at]
            for _ in range(self._most):
                item = _item().match(self._data, ends[-1])
                if item is None:
                    break
                items.append(item.groups(b""))
                ends.append(item.end())
            if items and self._note(ends, number, _Columns(*zip(*items, strict=True))):
                self._most = min(4 * self._most, _MOST)
                return
            if len(items) <= _FEW:
                return
            self._most = _FEW  # the expression took something else for a tensor, but seldom the next one

    def _note(self, ends: list[int], number: int, columns: _Columns) -> bool:
        """Note the segments of items, if these are spelled as they must be."""
        run = None if columns.before[0] else _run_of(columns, number, self._known)
        if run is None:
            return False
        self._firsts.append(run.first)
        self.runs.append(run)
        begins = [place for place, before in enumerate(columns.before) if before or not place]
        for begin, stop in zip(begins, [*begins[1:], len(run.numbers)], strict=True):
            start = ends[begin] + len(columns.before[begin])
            first = _unpacked([columns.first_put(begin)])[0]
            self._found[start] = Segment(run, begin, stop, start, ends[stop], first, run.numbers[stop - 1] + 1)
        return True


@functools.cache
def _item() -> re.Pattern[bytes]:
    """Return the expression for a key and a tensor; compiling it takes as long as a small pickle."""
    return re.compile(
        # Before the key, the next batch of 1000 items; or the next dict, as an optimizer has one for each parameter.
        rb"(u(?:%b}r(....))?\()?(?:%b|%b)" % (_INTEGER, _NAME, _GET)
        + rb"%b\(\(%b%b%b%b%b(%b)t%bQ" % (_GET, _GET, _GET, _KEY, _PUT, _GET, _INTEGER, _PUT)
        + rb"(%b)%b%b%b%b([\x88\x89])" % (_INTEGER, _NUMBERS, _PUT, _NUMBERS, _PUT)
        + rb"%b\)R%bt%bR%b" % (_GET, _PUT, _PUT, _PUT),
        re.DOTALL,
    )


def begins(data: bytes, at: int) -> bool:
    """Return whether a tensor may begin at a place of a pickle: it gets a function, and begins two tuples."""
    return data[at + 2 : at + 4] == b"((" or data[at + 5 : at + 7] == b"(("


class _Columns(NamedTuple):
    """The groups of the expression, each for all items."""

    before: tuple[bytes, ...]
    puts_dict: tuple[bytes, ...]
    key_lengths: tuple[bytes, ...]
    keys: tuple[bytes, ...]
    puts_key: tuple[bytes, ...]
    gets_key: tuple[bytes, ...]
    functions: tuple[bytes, ...]
    words: tuple[bytes, ...]
    kinds: tuple[bytes, ...]
    storage_lengths: tuple[bytes, ...]
    storages: tuple[bytes, ...]
    puts_storage: tuple[bytes, ...]
    locations: tuple[bytes, ...]
    counts: tuple[bytes, ...]
    puts_name: tuple[bytes, ...]
    offsets: tuple[bytes, ...]
    sizes: tuple[bytes, ...]
    puts_size: tuple[bytes, ...]
    strides: tuple[bytes, ...]
    puts_stride: tuple[bytes, ...]
    grads: tuple[bytes, ...]
    hooks: tuple[bytes, ...]
    puts_hooks: tuple[bytes, ...]
    puts_args: tuple[bytes, ...]
    puts: tuple[bytes, ...]

    def first_put(self, item: int) -> bytes:
        """Return the first number in an item, after that of a new dict."""
        puts = (self.puts_key, self.puts_storage, self.puts_name, self.puts_size, self.puts_stride, self.puts_hooks)
        return next(filter(None, (column[item] for column in (*puts, self.puts_args, self.puts))))

    def names(self) -> tuple[tuple[bytes, ...], ...]:
        """Return the opcodes that get functions, words, hooks, classes of storages, and devices."""
        return self.functions, self.words, self.hooks, self.kinds, self.locations

    def are_as_long_as_said(self) -> bool:
        """Return whether the texts are as long as the pickle says."""
        return _have_lengths(self.keys, self.key_lengths) and _have_lengths(self.storages, self.storage_lengths)

    def are_numbered_from(self, number: int) -> bool:
        """Return whether all that is remembered has the next numbers, one by one, and each tensor is remembered."""
        puts = (
            *(self.puts_dict, self.puts_key, self.puts_storage, self.puts_name, self.puts_size),
            *(self.puts_stride, self.puts_hooks, self.puts_args, self.puts),
        )
        found = b"".join(chain.from_iterable(zip(*puts, strict=True)))
        count = len(found) // 4
        return all(self.puts) and found == struct.pack(f"<{count}I", *range(number, number + count))


def _run_of(columns: _Columns, number: int, known: Callable[[int], Known]) -> TensorRun | None:
    """Return the run of some items; None if not all are spelled as they must be."""
    if not (columns.are_numbered_from(number) and columns.are_as_long_as_said()):
        return None
    try:
        got = [_got(codes, known) for codes in columns.names()]
        keys = _got(columns.gets_key, known)
    except KeyError:
        return None
    functions, words, hooks, kinds, locations = got
    if not all(each.weight & VISITED == 1 for one in got for each in one.values()):
        return None
    if [{each.value for each in one.values()} for one in (functions, words, hooks)] != [{REBUILD}, {WORD}, {HOOKS}]:
        return None
    if [{type(each.value) for each in one.values()} for one in (kinds, locations)] != [{tuple}, {str}]:
        return None
    integers = _Integers()
    tuples = _Tuples(integers)
    counts = [integers[code] for code in columns.counts]
    remembered = _unpacked(columns.puts_storage)
    if min(counts) < 0 or len(remembered) not in (0, len(counts)):
        return None
    sizes, strides = [tuples[code] for code in columns.sizes], [tuples[code] for code in columns.strides]
    weights = [0] * (2 * len(sizes))
    weights[1::2] = [_WEIGHTS[len(size) + len(stride)] for size, stride in zip(sizes, strides, strict=True)]
    heights = [TEXT, HEIGHT] * len(sizes)
    if keys:
        heights[::2] = [keys[code].height if code else TEXT for code in columns.gets_key]
    spells = zip(columns.gets_key, columns.keys, strict=True)
    weights[::2] = [keys[code].weight if code else 1 + (len(key) >> _AT_ONCE) for code, key in spells]
    named = zip(columns.gets_key, columns.key_lengths, columns.keys, columns.puts_key, columns.puts, strict=True)
    return TensorRun(
        first=number,
        tensors=StoredTensors(
            kinds=[kinds[code].value for code in columns.kinds],
            storages=[key.decode("utf-8", "surrogatepass") for key in columns.storages],
            locations=[sys.intern(locations[code].value) for code in columns.locations],
            counts=counts,
            offsets=[integers[code] for code in columns.offsets],
            sizes=sizes,
            strides=strides,
            grads=[code == pickle.NEWTRUE for code in columns.grads],
        ),
        codes=[
            b"%bNQr%b" % (code, put) if code else b"X%b%br%bNQr%b" % (length, key, put_key, put)
            for code, length, key, put_key, put in named
        ],
        key_numbers=_unpacked(columns.puts_key),
        storage_numbers=remembered,
        numbers=_unpacked(columns.puts),
        heights=heights,
        weights=weights,
    )


# The objects that a comparison of a tensor visits: 17 beside its sizes and strides. Some are always shared.
_WEIGHTS = [17 + numbers | SHARED for numbers in range(17)]


class _Integers(dict[bytes, int]):
    """Integers by the opcodes that spell them."""

    def __missing__(self, code: bytes) -> int:
        self[code] = number = int.from_bytes(code[1:], "little", signed=code[:1] == pickle.BININT)
        return number


class _Tuples(dict[bytes, tuple[int, ...]]):
    """Tuples of integers by the opcodes that spell them; those that are spelled alike are one object."""

    def __init__(self, integers: _Integers) -> None:
        super().__init__()
        self._integers = integers

    def __missing__(self, code: bytes) -> tuple[int, ...]:
        self[code] = made = tuple(self._integers[each] for each in _EACH.findall(code.removeprefix(b"(")))
        return made


_EACH = re.compile(_INTEGER, re.DOTALL)


def _got(codes: Iterable[bytes], known: Callable[[int], Known]) -> dict[bytes, Known]:
    """Return the objects that opcodes get."""
    return {code: known(int.from_bytes(code[1:], "little")) for code in set(codes) if code}


def _unpacked(numbers: Sequence[bytes]) -> tuple[int, ...]:
    packed = b"".join(numbers)
    return struct.unpack(f"<{len(packed) // 4}I", packed)


def _have_lengths(texts: Sequence[bytes], lengths: Sequence[bytes]) -> bool:
    return _unpacked(lengths) == tuple(map(len, filter(None, texts)))
