"""Command lines in processes that strace watches, forked from one that has imported everything.

A process of its own for each costs a second to start and to trace until it writes; a fork, some milliseconds.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from anemoi_ckpt_migrate.cli import entry

PR_SET_PTRACER, PR_SET_PTRACER_ANY = 0x59616D61, ctypes.c_ulong(-1)  # Linux, include/uapi/linux/prctl.h


@dataclass
class Traced:
    """A command line that was watched: its exit code or minus the signal, what it said, and what strace said."""

    code: int
    err: str
    strace: str


class Forks:
    """A process that forks one for each command line.

    Parameters
    ----------
    words : sequence of object
        A command line like those that follow; it is run first, in the process itself, so that all is imported.
    folder : Path
        Where it is run.
    """

    def __init__(self, *words: object, folder: Path) -> None:
        command = [sys.executable, __file__, *map(str, words)]
        self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder)

    def __enter__(self) -> Forks:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.communicate()

    def traced(self, calls: str, options: Sequence[str], folder: Path, *words: object) -> Traced:
        """Run a command line in a folder, with these calls traced, in the file ``trace`` there; `options` are strace's.

        Raises
        ------
        FileNotFoundError
            There is no strace.
        """
        process = self._ask([str(folder), *map(str, words)])
        trace = folder / "trace"
        trace.write_bytes(b"")
        which = ["-e", f"trace=getppid,{calls}", *options]
        command = ["strace", "-f", "-qq", "-o", str(trace), *which, "-p", str(process)]
        try:
            strace = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            while strace.poll() is None and not trace.stat().st_size:
                time.sleep(0.001)
        finally:
            code = self._ask("go")
        _, said = strace.communicate()
        return Traced(code, (folder / "err").read_text(), said)

    def _ask(self, request: object) -> int:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())


def serve() -> None:
    """For each line, a folder and a command line: fork, say which process it is, and how it ended."""
    while line := sys.stdin.readline():
        folder, *words = json.loads(line)
        ready, tell = os.pipe()
        process = os.fork()
        if not process:
            run(Path(folder), words, tell)
        os.close(tell)
        os.read(ready, 1)  # a call before that would be in some traces and not in others, and shift the count
        os.close(ready)
        print(process, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


def run(folder: Path, words: Sequence[str], tell: int) -> NoReturn:
    """Write a byte to `tell` when all is set up, wait for a line, run a command line, and end the process."""
    code = 1
    try:
        ctypes.CDLL(None).prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0)
        os.chdir(folder)
        for stream, name in ((sys.stdout, "out"), (sys.stderr, "err")):
            os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream.fileno())
        os.write(tell, b"1")
        while not select.select([0], [], [], 0.001)[0]:
            os.getppid()  # the first one in the trace tells that strace is there
        os.read(0, 100)
        sys.argv[1:] = words
        code = entry()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    replies = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the first command line speaks to nobody
    assert entry() == 0
    os.dup2(replies, 1)
    serve()
