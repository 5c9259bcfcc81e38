"""Several processes that train or save together, forked from one that has torch, and what they need, imported.

To import torch, its distributed package and Lightning takes seconds of processor time; a fork, some milliseconds.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

ROOT = Path(__file__).parents[2]
HANGS = 300  # seconds after which processes count as hung, however busy the machine is


class Ranks:
    """A process that forks others, which find each other as those that ``torchrun`` starts do."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.support.ranks"]
        self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.communicate()

    def run(self, ranks: int, function: str, *args: object, folder: Path) -> None:
        """Call a function of a module, ``"module:name"``, with texts, on so many processes, in a folder."""
        request = {"ranks": ranks, "function": function, "args": [*map(str, args)], "folder": str(folder)}
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(request).encode() + b"\n")
        self._server.stdin.flush()
        codes = json.loads(self._server.stdout.readline())
        said = [(folder / f"rank{rank}.err").read_text(errors="replace") for rank in range(ranks)]
        assert codes == [0] * ranks, "\n".join(said)
        for rank in range(ranks):
            (folder / f"rank{rank}.err").unlink()


def serve() -> None:
    """For each line, which is a request: fork its processes, and say how they ended."""
    replies = os.dup(1)
    os.dup2(2, 1)  # what they print is no reply
    while line := sys.stdin.readline():
        request = json.loads(line)
        module, _, name = request["function"].partition(":")
        function = getattr(importlib.import_module(module), name)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        processes = []
        for rank in range(request["ranks"]):
            processes.append(os.fork())
            if not processes[-1]:
                run(function, request, rank, port)
        os.write(replies, json.dumps(ended(processes)).encode() + b"\n")


def run(function: Any, request: Any, rank: int, port: int) -> NoReturn:
    """Call the function as one of the processes, and end this one."""
    code = 1
    try:
        os.chdir(request["folder"])
        said = os.open(f"rank{rank}.err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(said, 2)
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(request["ranks"])}
        os.environ |= {**address, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        function(*request["args"])
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(processes: list[int]) -> list[int]:
    """Wait for processes, but not for ever, and return their exit codes; none waits for one that failed."""
    until, codes = time.monotonic() + HANGS, dict[int, int]()
    while len(codes) < len(processes):
        for process in processes:
            if process in codes:
                continue
            found, status = os.waitpid(process, os.WNOHANG)
            if found:
                codes[process] = os.waitstatus_to_exitcode(status)
            elif any(codes.values()) or time.monotonic() > until:
                os.kill(process, signal.SIGKILL)
        time.sleep(0.01)
    return [codes[process] for process in processes]


if __name__ == "__main__":
    serve()
