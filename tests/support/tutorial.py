"""Pages of the manual that are played, such as the tutorial: their files are written, their diffs applied, their command lines run.

`python -m tests.support.tutorial` writes what the commands print into the pages; read what has changed before you commit it.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import runpy
import shlex
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from anemoi_ckpt_migrate import cli

PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"
ADOPT = PAGE.with_name("adopt.md")
_FENCED = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
_CHANGING = {
    "TIME": re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d+)?(?:\+00:00|Z)?"),
    "VERSION": re.compile(r"(?<=by ckpt-migrate )\S+"),
}
_LOSS = re.compile(r"(?<=loss )\d+\.\d+")


@dataclass(frozen=True)
class Block:
    """A fenced block of the page."""

    kind: str
    title: str
    text: str

    def commands(self) -> list[tuple[str, str]]:
        """Return the command lines of a console, each with what it prints."""
        parts = re.split(r"^\$ (.*)\n", self.text, flags=re.MULTILINE)
        assert not parts[0], f"a console begins with a command: {parts[0]}"
        return list(zip(parts[1::2], parts[2::2], strict=True))


def blocks(page: str) -> list[Block]:
    """Return the fenced blocks of a page."""
    return [_block(match) for match in _FENCED.finditer(page)]


def _block(match: re.Match[str]) -> Block:
    return Block(match[1], match[2] or "", match[3])


class Normal:
    """What is printed, without what differs from run to run. Losses become letters: where two are equal shows."""

    def __init__(self) -> None:
        self._losses: dict[str, str] = {}

    def __call__(self, text: str) -> str:
        for name, found in _CHANGING.items():
            text = found.sub(name, text)
        return _LOSS.sub(lambda loss: self._losses.setdefault(loss.group(), f"LOSS {len(self._losses)}"), text)


class Player:
    """A folder in which a page is played.

    `ckpt-migrate` and the training script run in this process, as importing torch takes longer than all else.

    Attributes
    ----------
    folder : Path
        Which.
    code : int
        What the last command exited with.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.code = 0

    def play(self, block: Block) -> str:
        """Do what a block says, and return the block as it is to be."""
        if block.kind == "console":
            return "".join(f"$ {command}\n{self.run(command)}" for command, _ in block.commands())
        if block.kind == "diff":
            self._git_apply(block.text)
        elif block.title:
            path = self.folder / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
        return block.text

    def run(self, line: str) -> str:
        """Run a command line as a shell does, and return what it prints."""
        first, pipe, rest = line.partition(" | ")
        words = shlex.split(first.removesuffix(" 2>&1"), comments=True)
        if words[0] == "ckpt-migrate":
            printed = self._inside(lambda: cli.main(words[1:]), [])
        elif words[0] == "python":
            printed = self._inside(lambda: _script(self.folder / words[1]), words[1:])
        else:
            return self._shell(line)
        return self._shell(rest, printed) if pipe else printed

    def _inside(self, run: Callable[[], int], argv: list[str]) -> str:
        out = io.StringIO()
        with _at(self.folder, argv), contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            try:
                self.code = run()
            except SystemExit as stopped:
                self.code = int(stopped.code or 0)
        return out.getvalue()

    def _shell(self, line: str, given: str = "") -> str:
        done = subprocess.run(
            ["bash", "-c", f"(exit {self.code})\n{line}"],
            cwd=self.folder,
            env=_environment(),
            input=given,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.code = done.returncode
        return done.stdout

    def _git_apply(self, diff: str) -> None:
        printed = self._shell("git apply -", diff)
        assert not self.code, f"{printed}{diff}"


def _script(path: Path) -> int:
    try:
        runpy.run_path(os.fspath(path), run_name="__main__")
    except Exception:
        traceback.print_exc()
        return 1
    return 0


@contextlib.contextmanager
def _at(folder: Path, argv: list[str]) -> Iterator[None]:
    """Let this process look like a new one in a folder: code of before is forgotten, and none is cached."""
    before = Path.cwd(), list(sys.path), sys.argv, sys.dont_write_bytecode
    os.chdir(folder)
    sys.path.insert(0, os.fspath(folder))
    sys.argv, sys.dont_write_bytecode = argv, True
    sys.modules.pop("model", None)
    try:
        yield
    finally:
        sys.modules.pop("model", None)
        os.chdir(before[0])
        sys.path[:], sys.argv, sys.dont_write_bytecode = before[1:]


def _environment() -> dict[str, str]:
    """Return an environment in which git is nobody's in particular."""
    name = {f"GIT_{who}_{what}": "reader" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    others = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    return {**others, **name, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull, "LC_ALL": "C"}


def main() -> None:
    """Write what the commands print into the pages, where it is something else now."""
    for page in (PAGE, ADOPT):
        _write(page)


def _write(page: Path) -> None:
    shown, printed = Normal(), Normal()
    with tempfile.TemporaryDirectory() as folder:
        player = Player(Path(folder))

        def played(match: re.Match[str]) -> str:
            block = _block(match)
            text = player.play(block)
            return match[0] if printed(text) == shown(block.text) else match[0].replace(block.text, text)

        page.write_text(_FENCED.sub(played, page.read_text()))


if __name__ == "__main__":
    main()
