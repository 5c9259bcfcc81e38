"""Bytes before the first record of an archive, and several archives in one file: torch reads another part than we do."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar

from hypothesis import strategies as st

from tests.fuzzing.changes import Entry, Zip, drawn, picked
from tests.fuzzing.commands import Command, reading, writing
from tests.fuzzing.objects import CANARY
from tests.fuzzing.recipes import _apart, seeds

_CALL = f"c{CANARY}\ncall\n".encode()


@functools.cache
def prefixes() -> dict[str, bytes]:
    """Return what may stand in front, by name: sound checkpoints too."""
    return {
        "pickle of protocol 0": _CALL + b"(S'true'\ntR.",
        "pickle of protocol 2": b"\x80\x02" + _CALL + b"X\x04\0\0\0true\x85R.",
        "pickle of protocol 4": b"\x80\x04\x95\x0b\0\0\0\0\0\0\0}X\x01\0\0\0aK\x01s.",
        "text": b"#!/usr/bin/env python3\n",
        "one byte": b"x",
        "zeros": bytes(64),
        "many zeros": bytes(1 << 16),
        "signature": b"PK\3\4",
        "end of an archive": Zip([]).build(),
        "small archive": Zip([Entry(b"archive/data.pkl", b"\x80\x02}.")]).build(),
        "record": Zip([Entry(b"archive/data.pkl", b"\x80\x02}.")]).build().partition(b"PK\1\2")[0],
        "cut off": seeds()["plain.pt"][:1000],
        **seeds(),
    }


@dataclass(frozen=True)
class Prefixed:
    """A recipe: a sound archive, what stands before it, and a command. Its `repr` is the code that makes it.

    Attributes
    ----------
    sound : str
        A name in `seeds`, of a zip archive.
    before : tuple of str
        Names in `prefixes`.
    moved : bool
        Whether the offsets in the archive move along.
    words : tuple of str
        A command.
    """

    sound: str
    before: tuple[str, ...]
    moved: bool
    words: tuple[str, ...]

    kind: ClassVar[str] = "prefix"
    tensors: ClassVar[bool] = False
    beside: ClassVar[tuple[tuple[str, str], ...]] = ()

    @property
    def walk(self) -> Command:
        """What is done with the input: no command may take it.

        A file that was written in place begins with the old one, so such a file cannot be told from one with that before it.
        """
        is_as_written = self.moved and self.sound == "grown" and self.before == ("training.ckpt",)
        return Command(self.words, refused=not is_as_written)

    def build(self) -> bytes:
        """Make the file."""
        before, content = b"".join(prefixes()[name] for name in self.before), seeds()[self.sound]
        if not self.moved:
            return before + content
        archive = _apart(content)
        archive.before = before
        return bytes(archive.build())


def prefixed() -> st.SearchStrategy[Prefixed]:
    """Draw such recipes."""
    archives = sorted(name for name, content in seeds().items() if content.startswith(b"PK"))
    before = st.lists(picked(sorted(prefixes())), min_size=1, max_size=3).map(tuple)
    words = [*writing(), *(each for each in reading() if each[0] != "check")]
    return drawn(Prefixed, picked(archives), before, st.booleans(), picked(words))
