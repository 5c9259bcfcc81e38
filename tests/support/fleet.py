"""Shared by tests: many checkpoints, one of which ends, stops or delays the process that migrates it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from anemoi_ckpt_migrate.batch.job import JobResult
from tests.support.project import Folder, digest, names

# What the script does to a checkpoint, by the word in it.
_TOP = """
import mmap, os, pathlib, signal, tempfile, time

def sigkill():
    os.kill(os.getpid(), signal.SIGKILL)

def sigterm():
    os.kill(os.getpid(), signal.SIGTERM)

def sigbus():
    with tempfile.TemporaryFile() as file:
        file.truncate(mmap.PAGESIZE)
        mapped = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        file.truncate(0)
        mapped[0]

def exits():
    os._exit(3)

def prints():
    print("hello")

def waits():
    pathlib.Path(f"begun-{os.getpid()}").touch()
    while not os.path.exists("go"):
        time.sleep(0.01)
"""
HANGS = 120  # seconds after which something counts as hung, however busy the machine is


def fleet(project: Folder, **words: str) -> list[str]:
    """Write a script and checkpoints, each with a word for what the script does to it; return their paths."""
    import torch

    act = 'globals().get(ckpt["word"], str)()\n'
    project.script(
        "a1",
        None,
        f'{act}ckpt["state_dict"]["y"] = ckpt["state_dict"].pop("x")',
        'ckpt["state_dict"]["x"] = ckpt["state_dict"].pop("y")',
        top=_TOP,
    )
    for name, word in words.items():
        torch.save({"state_dict": {"x": torch.ones(3)}, "word": word}, project.path / f"{name}.ckpt")
    return [f"{name}.ckpt" for name in words]


def moved(path: str | Path) -> bool:
    """Return whether a checkpoint of `fleet` is a whole one after its migration; else it is a whole one before."""
    found = names(Path(path))
    assert found in (["x"], ["y"])
    return found == ["y"]


def statuses(results: Iterable[JobResult]) -> dict[str, str]:
    """Return the status of each checkpoint; none may be there twice."""
    listed = list(results)
    found = {each.checkpoint: each.status for each in listed}
    assert len(found) == len(listed)
    return found


def eventually(what: Callable[[], object]) -> None:
    """Wait until something is true."""
    until = time.monotonic() + HANGS
    while not what():
        assert time.monotonic() < until
        time.sleep(0.01)


class Script:
    """A Python script that runs in a folder, in a session of its own, to which all of its processes belong."""

    def __init__(self, folder: Path, source: str, *arguments: str) -> None:
        (folder / "script.py").write_text(source)
        command = [sys.executable, "script.py", *arguments]
        self._process = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )

    def signal(self, number: int) -> None:
        """Send a signal to the process of the script, and to no other."""
        self._process.send_signal(number)

    def said(self) -> str:
        """Return what it printed, when it and all processes that print to the same place have ended."""
        return self._process.communicate(timeout=HANGS)[0]

    def processes(self) -> list[int]:
        """Return the processes of its session that run."""
        return [int(each) for each in os.listdir("/proc") if each.isdigit() and self._is_ours(int(each))]

    def end(self) -> None:
        """Kill what is left."""
        for process in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self._process.wait()

    def _is_ours(self, process: int) -> bool:
        try:
            state, _, _, session = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            return False
        return int(session) == self._process.pid and state != "Z"


def unchanged(paths: Iterable[str]) -> Callable[[], bool]:
    """Return a function that tells whether files are as they are now."""
    before = {path: digest(Path(path)) for path in paths}
    return lambda: all(digest(Path(path)) == known for path, known in before.items())
