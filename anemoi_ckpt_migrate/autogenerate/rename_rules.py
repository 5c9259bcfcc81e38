"""Rename rules: candidate operations that explain one rename, and their effect on other names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

from anemoi_ckpt_migrate.autogenerate.name_similarity import Edit, Parts, edits, parts_of
from anemoi_ckpt_migrate.autogenerate.select_patterns import PLACES
from anemoi_ckpt_migrate.operations.base import Operation, make
from anemoi_ckpt_migrate.state.name_patterns import pattern
from anemoi_ckpt_migrate.util.dataclass import dataclass

_DIGITS = re.compile(r"\d+")
_GENERIC = re.compile(r"\\\d|\\d|\\g<\d>")
_BOUND = re.compile(r"\\b")
_IN_WORD = re.compile(r"[A-Za-z_]+\d[A-Za-z_\d]*|\d+[A-Za-z_][A-Za-z_\d]*")
_MOST_EDITS = 6


@dataclass(frozen=True)
class Rule:
    """One rename operation.

    Attributes
    ----------
    kind : str
        The name of the operation.
    args : tuple
        Its arguments.
    rank : int
        Its complexity. Simpler rules rank lower.
    where, key : str
        The index entry that lists the names it may rename: ``start``, ``name``, ``part`` or ``all``, and a text.
    """

    kind: str
    args: tuple[str | bool, ...]
    rank: int
    where: str
    key: str = ""

    @property
    def operation(self) -> Operation:
        """The operation."""
        return make(self.kind, self.args, {})

    @property
    def order(self) -> tuple[int, int, str]:
        """The sort key among rules with the same effect."""
        return (self.rank, sum(len(str(arg)) for arg in self.args), str(self.args))

    @property
    def open(self) -> bool:
        """Whether it may rename names that its index entry does not list."""
        return self.kind == "RenameRegex" or any("{" in str(arg) for arg in self.args)

    @property
    def text(self) -> str:
        """A text that all names have which it renames; empty if none is known."""
        if self.kind != "RenameRegex":
            return ""
        core = str(self.args[0]).removeprefix(r"\b").removesuffix("$").removesuffix(r"\b")
        text = re.sub(r"\\(.)", r"\1", core)
        return text if re.escape(text) == core else ""

    @property
    def generic(self) -> bool:
        """Whether it mentions no number."""
        return not any(_DIGITS.search(_GENERIC.sub("", str(arg))) for arg in self.args)

    @property
    def generic_but_in_words(self) -> bool:
        """Whether it mentions numbers only within words, such as fc1."""
        texts = (_BOUND.sub(".", _GENERIC.sub("", str(arg))) for arg in self.args)
        return not any(_DIGITS.search(without_words(text)) for text in texts)

    def renaming(self) -> Callable[[str], str | None]:
        """Return a function that renames as the operation does: a name gives the new name, or None if it stays."""
        return _renaming(self.kind, self.args)


@lru_cache(maxsize=1 << 14)
def _renaming(kind: str, args: tuple[str, ...]) -> Callable[[str], str | None]:
    if kind == "AddPrefix":
        return lambda name: args[0] + name
    if kind == "StripPrefix":
        begin = re.compile(rf"(?:^|(?<=\.)){re.escape(args[0])}" if len(args) > 1 else rf"^{re.escape(args[0])}(?=.)")
        return lambda name: begin.sub("", name) if begin.search(name) else None
    if kind == "RenameRegex":
        search = re.compile(args[0])
        return lambda name: _changed(search.sub(args[1], name), name)
    if "{" not in args[0]:
        if kind == "Rename":
            return lambda name: args[1] if name == args[0] else None
        return lambda name: args[1] + name[len(args[0]) :] if name.startswith(args[0]) else None
    old, new = pattern(args[0]), pattern(args[1])
    if kind == "Rename":
        return lambda name: None if (bound := old.bind(name)) is None else new.fill(bound)

    def renamed(name: str) -> str | None:
        found = old.regex.match(name)
        return None if found is None else new.fill(found.groupdict()) + name[found.end() :]

    return renamed


def _changed(new: str, old: str) -> str | None:
    return None if new == old else new


def numbers_in(text: str) -> list[str]:
    """Return all numbers in a text."""
    return _DIGITS.findall(text)


def without_words(text: str) -> str:
    """Return a text without the words that have numbers, such as fc1."""
    return _IN_WORD.sub("", text)


def rounded(text: str) -> str:
    """Return a text with each number replaced by 0, as the index stores it."""
    return _DIGITS.sub("0", text)


def keys_of(name: str) -> set[tuple[str, str]]:
    """Return the index entries of a name with its own numbers: itself, and its beginnings that have a number."""
    number = _DIGITS.search(name)
    if number is None:
        return set()
    found, at = {("name", name)}, name.find(".", number.start())
    while at >= 0:
        found.add(("start", name[: at + 1]))
        at = name.find(".", at + 1)
    return found


@lru_cache(maxsize=1 << 12)
def shared_keys_of(text: str) -> frozenset[tuple[str, str]]:
    """Return the index entries that names share if they differ only by numbers, of the name with each number 0."""
    parts = text.split(".")
    starts = (("start", f"{'.'.join(parts[:count])}.") for count in range(1, len(parts)))
    return frozenset({("all", ""), ("name", text), *starts, *(("part", part) for part in parts)})


def rules(old: str, new: str, literal: bool = False, wide: bool = True) -> Iterator[Rule]:
    """Yield rules that bring one name nearer to another.

    Parameters
    ----------
    old, new : str
        The names.
    literal : bool
        Whether the rules are for this name only, with its numbers taken literally.
    wide : bool
        Whether to include rules that may also rename names with little in common.
    """
    one, other = parts_of(old), parts_of(new)
    found = edits(one, other)
    if literal:
        yield Rule("Rename", (old, new), 3, "name", old)
    if len(found) > _MOST_EDITS:
        found = (Edit(found[0].old_start, found[-1].old_end, found[0].new_start, found[-1].new_end),)
    for first in range(len(found)):
        for last in range(first, len(found)):
            edit = Edit(found[first].old_start, found[last].old_end, found[first].new_start, found[last].new_end)
            yield from _starts(one, other, edit, literal)
            if wide:
                yield from _anywhere(one, other, edit)
        if wide:
            yield from _inside(one, other, found[first])


def _starts(one: Parts, other: Parts, edit: Edit, literal: bool) -> Iterator[Rule]:
    """Yield rules about the beginning of a name: up to the edit, one or two parts beyond it, or the whole name."""
    gone, come = one[edit.old_start : edit.old_end], other[edit.new_start : edit.new_end]
    if edit.old_end == 0:
        yield Rule("AddPrefix", (".".join(come) + ".",), 0, "all")
    elif edit.old_start == 0 and not come and edit.old_end < len(one):
        prefix = ".".join(gone) + "."
        yield Rule("StripPrefix", (prefix,), 0, "start", prefix)
    for end in sorted({edit.old_end, edit.old_end + 1, edit.old_end + 2, len(one)}):
        before = one[:end]
        after = (*one[: edit.old_start], *come, *one[edit.old_end : end])
        if not 0 < end <= len(one) or not after:
            continue
        (start, target), opened = _opened(before, after, literal)
        key = rounded(".".join(before)) if opened else ".".join(before)
        if end < len(one):
            yield Rule("RenamePrefix", (start + ".", target + "."), 2 + opened, "start", key + ".")
        else:
            yield Rule("Rename", (start, target), 2 + opened, "name", key)


def _opened(before: Parts, after: Parts, literal: bool) -> tuple[tuple[str, str], bool]:
    """Return patterns for two names, and whether they have placeholders, which replace the numbers they share."""
    one, other = ".".join(before), ".".join(after)
    if not literal and _numbers(before) == _numbers(after):
        one, other = _with_places(before), _with_places(after)
    elif not literal:  # numbers that changed stay literal, those before the change become placeholders
        same = 0
        while same < min(len(before), len(after)) and before[same] == after[same]:
            same += 1
        one, other = _with_places(before, same), _with_places(after, same)
    return (one, other), "{" in one


def _numbers(parts: Parts) -> list[str]:
    return [part for part in parts if part.isdigit()] if all(map(_whole, parts)) else _DIGITS.findall(".".join(parts))


def _whole(part: str) -> bool:
    return part.isdigit() or not any(letter.isdigit() for letter in part)


def _with_places(parts: Parts, end: int | None = None) -> str:
    letters = iter(PLACES)
    done = []
    for place, part in enumerate(parts):
        letter = next(letters, None) if part.isdigit() and (end is None or place < end) else None
        done.append(f"{{{letter}}}" if letter else part)
    return ".".join(done)


def _anywhere(one: Parts, other: Parts, edit: Edit) -> Iterator[Rule]:
    """Yield rules about parts at any place in a name, alone or with their neighbours."""
    come = other[edit.new_start : edit.new_end]
    if not come and edit.old_end < len(one):
        text = ".".join(one[edit.old_start : edit.old_end]) + "."
        yield Rule("StripPrefix", (text, True), 1, "part", rounded(one[edit.old_start]))
    for left, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
        start, end = edit.old_start - left, edit.old_end + right
        if start < 0 or end > len(one) or start >= end:
            continue
        before = one[start:end]
        after = (*one[start : edit.old_start], *come, *one[edit.old_end : end])
        if not after:
            continue
        rank = 6 + left + right
        key = rounded(before[0])
        search, replacement = _expressions(before, after)
        if end == len(one) and start > 0:
            dotted = (rf"\.{search}$", f".{replacement}")
            yield Rule("RenameRegex", dotted, rank, "part", key)
        yield Rule("RenameRegex", (rf"\b{search}\b", replacement), rank, "part", key)


def _expressions(before: Parts, after: Parts) -> tuple[str, str]:
    """Return a regular expression and its replacement. It matches any numbers if both names have the same ones."""
    search, replacement = re.escape(".".join(before)), ".".join(after).replace("\\", r"\\")
    numbers = _DIGITS.findall(".".join(before))
    if numbers and numbers == _DIGITS.findall(".".join(after)) and len(numbers) < 10:
        count = iter(range(1, 10))
        search = _DIGITS.sub(lambda _: r"(\d+)", search)
        replacement = _DIGITS.sub(lambda _: rf"\g<{next(count)}>", replacement)
        replacement = re.sub(r"\\g<(\d)>(?!\d)", r"\\\1", replacement)
    return search, replacement


def _inside(one: Parts, other: Parts, edit: Edit) -> Iterator[Rule]:
    """Yield rules about words within a part: q_proj and k_proj become q_projection and k_projection."""
    if edit.old_end - edit.old_start != 1 or edit.new_end - edit.new_start != 1:
        return
    words, others = one[edit.old_start].split("_"), other[edit.new_start].split("_")
    found = edits(tuple(words), tuple(others))
    if len(words) < 2 or len(found) != 1:
        return
    begin, end, start, stop = found[0]
    gone, come = _escaped(words[begin:end]), "_".join(others[start:stop])
    if not gone or not come or any(word.isdigit() for word in (*words[begin:end], *others[start:stop])):
        return
    left, right = (r"_" if begin else r"\b"), (r"_" if end < len(words) else r"\b")
    replaced = ("_" if begin else "") + come + ("_" if end < len(words) else "")
    yield Rule("RenameRegex", (f"{left}{gone}{right}", replaced), 9, "all")


def _escaped(words: Sequence[str]) -> str:
    return re.escape("_".join(words))
