"""What somebody else put beside a checkpoint beforehand, under the names of the files that the tool makes there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from hypothesis import strategies as st

from tests.fuzzing.changes import drawn, picked
from tests.fuzzing.commands import Command, writing
from tests.fuzzing.journey import Wrong
from tests.fuzzing.recipes import seeds

PRECIOUS = b"precious content of another file\n"
SOURCE, OTHER = "input.ckpt", "output.ckpt"
NAMES = [
    *(f".{SOURCE}.lock", f".{SOURCE}.lock.held", f".{SOURCE}.0123abcd.tmp", f"{SOURCE}.journal"),
    *(f"{SOURCE}.bak", f"{SOURCE}.bak1", OTHER, f".{OTHER}.lock", f".{OTHER}.lock.held", f".{OTHER}.0123abcd.tmp"),
]
Beside = tuple[tuple[str, str], ...]  # names beside the input, and what stands there: keys of `WAYS`
# What can stand at a path: each is given that, and the folder of the victims.
WAYS: dict[str, Callable[[Path, Path], None]] = {
    "link": lambda path, victims: path.symlink_to(victims / "precious"),
    "relative link": lambda path, victims: path.symlink_to(Path("..", victims.name, "precious")),
    "dangling": lambda path, victims: path.symlink_to(victims / "nowhere"),
    "link to a folder": lambda path, victims: path.symlink_to(victims),
    "link to itself": lambda path, victims: path.symlink_to(path.name),
    "link to the input": lambda path, victims: path.symlink_to(SOURCE),
    "hard link": lambda path, victims: os.link(victims / "precious", path),
    "fifo": lambda path, victims: os.mkfifo(path),
    "folder": lambda path, victims: path.mkdir(),
    "full folder": lambda path, victims: Path(shutil.copytree(victims, path)).touch(),
    "other content": lambda path, victims: Path(shutil.copy(victims / "precious", path)).touch(),
    "nothing in it": lambda path, victims: path.touch(),
}


@dataclass(frozen=True)
class Placed:
    """A recipe: a sound checkpoint, what stands beside it, and a command. Its `repr` is the code that makes it.

    Attributes
    ----------
    sound : str
        A name in `seeds`.
    beside : tuple of (str, str)
        Names beside the input, and what stands there: a key of `WAYS`.
    words : tuple of str
        A command that writes.
    locks, links : bool
        As in `Command`.
    """

    sound: str
    beside: Beside
    words: tuple[str, ...]
    locks: bool = True
    links: bool = True

    kind: ClassVar[str] = "beside"
    tensors: ClassVar[bool] = False

    @property
    def walk(self) -> Command:
        """What is done with the input."""
        return Command(self.words, locks=self.locks, links=self.links)

    def build(self) -> bytes:
        """Make the file."""
        return seeds()[self.sound]


def placed() -> st.SearchStrategy[Placed]:
    """Draw such recipes."""
    thing = st.tuples(picked(NAMES), picked(sorted(WAYS)))
    things = st.lists(thing, min_size=1, max_size=3, unique_by=lambda each: each[0]).map(tuple)
    usually = st.sampled_from([True, True, True, False])
    return drawn(Placed, picked(["training.ckpt", "plain.pt", "grown"]), things, picked(WORDS), usually, usually)


WORDS = [*writing(), ("recover",)]


class Place:
    """A folder with victims beside it, in which things are put, and which is looked at afterwards.

    Parameters
    ----------
    folder : Path
        Where the input is to be.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._victims = folder, folder.parent / "victims"
        self._looks: dict[str, tuple[int, int, str]] = {}

    def clear(self) -> None:
        """Take away what is left of the last input, and what was done to the victims."""
        for path in self.folder.iterdir():
            _remove(path)
        if self._victims.exists():
            shutil.rmtree(self._victims)
        self._looks.clear()

    def put(self, beside: Beside) -> None:
        """Put things there."""
        if beside:
            (self._victims / "inner").mkdir(parents=True)
            for path in (self._victims / "precious", self._victims / "inner" / "precious"):
                path.write_bytes(PRECIOUS)
        for name, way in beside:
            WAYS[way](self.folder / name, self._victims)
            if way != "nothing in it" and not (name.endswith(".tmp") and way in _REGULAR):
                self._looks[name] = _look(self.folder / name)

    def check(self) -> None:
        """Check that nobody touched them.

        Raises
        ------
        Wrong
            Something is not as it was.
        """
        for name, look in self._looks.items():
            path = self.folder / name
            if not os.path.lexists(path) or _look(path) != look:
                raise Wrong(f"what stood at {name!r} was replaced or removed")
        if self._victims.exists():
            _check_victims(self._victims)
        for name in self._looks:
            if name != SOURCE and (self.folder / name / "inner").is_dir():
                _check_victims(self.folder / name)


_REGULAR = ("hard link", "other content", "nothing in it")  # a half-written file looks so, and is tidied up


def _check_victims(folder: Path) -> None:
    found = {str(path.relative_to(folder)): path.is_file() and path.read_bytes() for path in folder.rglob("*")}
    if found != {"precious": PRECIOUS, "inner": False, "inner/precious": PRECIOUS}:
        raise Wrong(f"a victim was touched: {found!r:.500}")


def _look(path: Path) -> tuple[int, int, str]:
    """Return what stands at a path, a link not followed: the inode, the kind, and where a link leads."""
    found = path.lstat()
    return found.st_ino, found.st_mode, os.readlink(path) if path.is_symlink() else ""


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
