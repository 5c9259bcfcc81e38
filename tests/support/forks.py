"""Command lines in processes of their own, forked from one that has everything imported.

To start Python and to import takes some tenths of a second of processor time, and under strace a second; a fork, some
milliseconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from anemoi_ckpt_migrate.cli import entry
from tests.support.project import Ran

ROOT = Path(__file__).parents[2]
HANGS = 120  # seconds after which a process counts as hung, however busy the machine is
PR_SET_PTRACER, PR_SET_PTRACER_ANY = 0x59616D61, ctypes.c_ulong(-1)  # Linux, include/uapi/linux/prctl.h


@dataclass
class Traced(Ran):
    """What a command line did that was watched, and what strace said."""

    strace: str


class Forks:
    """A process that forks one for each command line; one at a time."""

    def __init__(self) -> None:
        self._said = tempfile.TemporaryDirectory(prefix="forks-")
        self._out, self._err = Path(self._said.name, "out"), Path(self._said.name, "err")
        command = [sys.executable, "-m", "tests.support.forks", str(self._out), str(self._err)]
        self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)

    def __enter__(self) -> Forks:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.communicate()
        self._said.cleanup()

    def rehearse(self, folder: Path, *words: object) -> None:
        """Run a command line in the process itself, so that what it imports is there for those that follow."""
        self._tell({"folder": str(folder), "words": [*map(str, words)], "rehearsal": True})
        assert self._answer() == 0, words

    def run(self, folder: Path, *words: object, memory: int = 0, seconds: int = 0) -> Ran:
        """Run a command line in a folder, with so much more memory than Python needs, and processor time; 0: any."""
        self.start(folder, *words, memory=memory, seconds=seconds)
        return self.wait()

    def start(self, folder: Path, *words: object, memory: int = 0, seconds: int = 0, held: bool = False) -> int:
        """Start a command line, and return its process; `held` until the next line."""
        self._tell({"folder": str(folder), "words": [*map(str, words)], "limits": [memory, seconds], "held": held})
        return self._answer()

    def wait(self) -> Ran:
        """Return what the command line did that was started, with minus the signal for an exit code."""
        code = self._answer()
        return Ran(code, self._out.read_text(errors="replace"), self._err.read_text(errors="replace"))

    def traced(self, calls: str, options: Sequence[str], folder: Path, *words: object) -> Traced:
        """Run a command line in a folder, with these calls traced, in the file ``trace`` there; `options` are strace's.

        Raises
        ------
        FileNotFoundError
            There is no strace.
        """
        process = self.start(folder, *words, held=True)
        trace = folder / "trace"
        trace.write_bytes(b"")
        which = ["-e", f"trace=getppid,{calls}", *options]
        command = ["strace", "-f", "-qq", "-o", str(trace), *which, "-p", str(process)]
        try:
            strace = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            while strace.poll() is None and not trace.stat().st_size:
                time.sleep(0.001)
        finally:
            self._tell("go")
            ran = self.wait()
        _, said = strace.communicate()
        return Traced(ran.code, ran.out, ran.err, said)

    def _tell(self, request: object) -> None:
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(request).encode() + b"\n")
        self._server.stdin.flush()

    def _answer(self) -> int:
        assert self._server.stdout is not None
        return int(self._server.stdout.readline())


def serve(out: Path, err: Path) -> None:
    """For each line, which is a command line: fork, say which process it is, and how it ended."""
    while line := sys.stdin.readline():
        request = json.loads(line)
        if "rehearsal" in request:
            print(rehearse(request["folder"], request["words"]), flush=True)
            continue
        ready, tell = os.pipe()
        process = os.fork()
        if not process:
            run(request, out, err, tell)
        os.close(tell)
        os.read(ready, 1)  # a call before that would be in some traces and not in others, and shift the count
        os.close(ready)
        print(process, flush=True)
        print(ended(process), flush=True)


def rehearse(folder: str, words: Sequence[str]) -> int:
    """Run a command line here, which speaks to nobody, and return its exit code."""
    os.chdir(folder)
    sys.argv[1:] = words
    with open(os.devnull, "w") as nobody, contextlib.redirect_stdout(nobody):
        code = entry()
    os.chdir(ROOT)
    return code


def ended(process: int) -> int:
    """Wait for a process, but not for ever, and return its exit code, or minus the signal that ended it."""
    until = time.monotonic() + HANGS
    pause = 0.0005
    while not (found := os.waitpid(process, os.WNOHANG))[0]:
        if time.monotonic() > until:
            os.kill(process, signal.SIGKILL)
        time.sleep(pause := min(2 * pause, 0.01))
    return os.waitstatus_to_exitcode(found[1])


def run(request: Any, out: Path, err: Path, tell: int) -> NoReturn:
    """Run a command line, and end the process; write a byte to `tell` when all is set up."""
    code = 1
    try:
        os.chdir(request["folder"])
        sys.path[0] = request["folder"]  # as with python -m
        for stream, path in ((sys.stdout, out), (sys.stderr, err)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream.fileno())
        if request["held"]:
            ctypes.CDLL(None).prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0)
        os.write(tell, b"1")
        if request["held"]:
            while not select.select([0], [], [], 0.001)[0]:
                os.getppid()  # the first one in the trace tells that strace is there
            os.read(0, 100)
        confine(*request["limits"])
        sys.argv[1:] = request["words"]
        code = entry()
    except SystemExit as stopped:  # argparse
        code = int(stopped.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def confine(memory: int, seconds: int) -> None:
    """Let this process have no more than so much memory and processor time beside what it has; 0: any."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory and sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + memory,) * 2)
    if seconds:
        spent = resource.getrusage(resource.RUSAGE_SELF)
        resource.setrlimit(resource.RLIMIT_CPU, (int(spent.ru_utime + spent.ru_stime) + seconds,) * 2)


if __name__ == "__main__":
    serve(*map(Path, sys.argv[1:]))
