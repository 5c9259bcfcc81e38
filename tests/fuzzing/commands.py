"""Commands that are run on an input, in a project of the user's; what the checkpoint says must not count there."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import importlib.util
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from unittest import mock

from anemoi_ckpt_migrate import cli, inspect
from anemoi_ckpt_migrate.errors import ERROR, PENDING, REFUSED, MigrateError, OutOfMemory
from tests.fuzzing.journey import Wrong
from tests.fuzzing.objects import CANARY

KNOWN, STRANGE = "project", "strangers"  # a project that has the scripts of the checkpoints, and one that has others
OUTPUT = "OUTPUT"  # stands for a file that is to be written elsewhere
LONGEST = 5000  # characters that an error has at most
LARGEST = 64 << 20  # bytes of a file that is written, of inputs of some kilobytes

# What its author did not declare must not run, though it stands in the script.
_TOP = f"""
from os import system

def plant(ckpt, *more):
    import {CANARY}
    {CANARY}.call()
    return ckpt

def double(ckpt, *more):
    ckpt["doubled"] = True
    return ckpt

def halve(ckpt, *more):
    ckpt.pop("doubled", None)
    return ckpt
"""
_FUNCTIONS = """
def migrate(ckpt):
    ckpt["by"] = "the script"
    return ckpt

def rollback(ckpt):
    del ckpt["by"]
    return ckpt
"""
# New values are computed with torch, where it is there.
_COMPUTED = {"a1": ', op.Add("y.new", shape=[2, 3], dtype="float32", fill=1.0)', "a2": ', op.Pad("y.bias", 9)'}
_MORE = _COMPUTED if importlib.util.find_spec("torch") else dict.fromkeys(_COMPUTED, "")
SCRIPTS = {
    "a1": f'operations = [op.RenamePrefix("x.", "y."){_MORE["a1"]}]',
    "a2": f'operations = [op.Run(double, halve), op.SetItem("note", 1){_MORE["a2"]}]',
    "a3": _FUNCTIONS,
    "a4": 'operations = [op.SetItem("later", 1)]',
}


def write_projects(folder: Path) -> None:
    """Write the two projects."""
    for name, scripts in {KNOWN: SCRIPTS, STRANGE: {"b1": SCRIPTS["a4"]}}.items():
        versions = folder / name / "versions"
        versions.mkdir(parents=True)
        (folder / name / "ckpt-migrate.toml").write_text('package = "pkg"\n')
        parent = None
        for revision, body in scripts.items():
            text = f'"""change {revision}"""\nfrom anemoi_ckpt_migrate import MigrationMetadata, op\n\n'
            text += f'revision = "{revision}"\ndown_revision = {parent!r}\n'
            text += f'metadata = MigrationMetadata(versions={{"migration": "1.0.0"}})\n{_TOP}\n{body}\n'
            (versions / f"{revision}_change.py").write_text(text)
            parent = revision


def run(*words: str) -> tuple[int, str, str]:
    """Run a command line; return its exit code and what it said."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = cli.main(list(words))
    return code, out.getvalue(), err.getvalue()


@dataclass(frozen=True)
class Command:
    """A walk: a command that is run on the input.

    Attributes
    ----------
    words : tuple of str
        The command line without the file; `OUTPUT` in it is where to write.
    project : str
        `KNOWN` or `STRANGE`.
    refused : bool
        Whether only a refusal is right.
    locks, links : bool
        Whether the file system has locks, and hard links.
    """

    words: tuple[str, ...]
    project: str = KNOWN
    refused: bool = False
    locks: bool = True
    links: bool = True

    writes: ClassVar[bool] = True  # the input, if all goes well

    def __call__(self, source: Path, output: Path, tensors: bool) -> str:
        """Run it; return how far it went.

        Raises
        ------
        Wrong
            What is promised of every command does not hold.
        """
        before, was_there = source.read_bytes(), os.path.lexists(output)
        dangerous = _dangerous(source)
        words = [str(output) if word == OUTPUT else word for word in self.words]
        with self._file_system():
            code, out, err = run("-c", str(source.parent.parent / self.project), *words, str(source))
        self._check_said(code, out, err)
        changed = source.read_bytes() != before
        made = not was_there and output.exists()
        if code in (ERROR, REFUSED):
            if changed or made:
                raise Wrong(f"{self.words[0]} ended with an error and wrote")
            return "refused"
        if self.refused:
            raise Wrong(f"{self.words[0]} did not refuse it")
        for path in [source] * changed + [output] * made:
            if path.stat().st_size > LARGEST:
                raise Wrong(f"{self.words[0]} made a large file of a small one")
            if added := _dangerous(path) - dangerous:
                raise Wrong(f"{self.words[0]} added dangerous names: {added}")
        return "rewritten" if changed or made else "read"

    def _check_said(self, code: int, out: str, err: str) -> None:
        said = f"{self.words[0]} ended with {code}: {err[-LONGEST:]}"
        if code not in (0, ERROR, REFUSED, PENDING) or "Traceback" in err:
            raise Wrong(said)
        if str(OutOfMemory()) in err or os.strerror(errno.EFBIG) in err:
            raise Wrong(f"it asked for too much: {said}")
        if len(err) > LONGEST:
            raise Wrong(f"the error is too long: {said}")
        if not (out + err).replace("\n", "").isprintable():
            raise Wrong(f"what is printed could steer a terminal: {said}")

    @contextlib.contextmanager
    def _file_system(self) -> Iterator[None]:
        with contextlib.ExitStack() as patches:
            if not self.locks:
                refusal = OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
                patches.enter_context(mock.patch.object(fcntl, "flock", side_effect=refusal))
            if not self.links:
                refusal = OSError(errno.EPERM, os.strerror(errno.EPERM))
                patches.enter_context(mock.patch.object(os, "link", side_effect=refusal))
            yield


def _dangerous(path: Path) -> set[str]:
    try:
        return {name.name for name in inspect(path).names if name.standing == "dangerous"}
    except MigrateError:
        return set()


def writing() -> list[tuple[str, ...]]:
    """Return the commands that write."""
    words = """
    upgrade head|upgrade head --in-place|upgrade head --no-backup|upgrade head -o OUTPUT|upgrade head --dry-run
    downgrade base|downgrade base --in-place|stamp head|stamp head --in-place|stamp head -o OUTPUT|stamp --purge head
    sync|sync --in-place|compact|compact -o OUTPUT
    """
    return [tuple(each.split()) for each in words.replace("\n", "|").split("|") if each.strip()]


def reading() -> list[tuple[str, ...]]:
    """Return the commands that only read."""
    words = "inspect|current|history|show a1 --from|check --rollback|downgrade base --dry-run|sync --dry-run"
    return [tuple(each.split()) for each in words.split("|")]
