"""A fault at every system call of a write, injected by strace into a process that does nothing else."""

from __future__ import annotations

import collections
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.forks import Forks, Traced

CALLS = (
    "openat,flock,fchmod,fchown,fsetxattr,pwrite64,copy_file_range,sendfile,ioctl,sync_file_range,ftruncate,mkdir,rmdir,"
    "fsync,link,linkat,rename,renameat,renameat2,unlink,unlinkat,symlink"
)
KILL, FULL = "signal=KILL", ("error=ENOSPC", "error=EDQUOT")


class Call(NamedTuple):
    """A system call of a command.

    Attributes
    ----------
    name : str
        What is called.
    number : int
        Which of the calls of this name it is, as strace counts them.
    writes : bool
        Whether it may need room on the disk.
    changes : bool
        Whether it may change what other processes see; to sync does not.
    """

    name: str
    number: int
    writes: bool
    changes: bool


def sound(forks: Forks, folder: Path, *words: object) -> list[Call]:
    """Run a command without a fault, and return its calls; skip the test where there is no strace."""
    try:
        ran = forks.traced(CALLS, (), folder, *words)
    except FileNotFoundError:
        pytest.skip("there is no strace here")
    if "ptrace" in ran.strace:
        pytest.skip("strace may not trace here")
    assert ran.code == 0, ran.err
    return list(_calls(folder / "trace"))


def _calls(trace: Path) -> Iterator[Call]:
    """Give each call of a write: from the opening of the lock on."""
    counts: collections.Counter[str] = collections.Counter()
    begun = False
    for line in trace.read_text().splitlines():
        match = re.match(r"\d+ +(\w+)\(", line)
        if not match:
            continue
        counts[match[1]] += 1
        begun |= ".lock" in line
        if begun and not (match[1] == "openat" and ".py" in line):
            opens_to_read = match[1] == "openat" and not re.search("O_WRONLY|O_RDWR|O_CREAT", line)
            writes = match[1] != "flock" and not opens_to_read
            yield Call(match[1], counts[match[1]], writes, writes and match[1] != "fsync")


def struck(calls: list[Call], fault: str) -> list[Call]:
    """Return the calls at which a fault makes a difference.

    A process that is killed before a call that changes nothing leaves what it leaves when it is killed before the next
    call. A full disk refuses nothing that only reads. All else may fail at each call.
    """
    if fault == KILL:
        return [call for call in calls if call.changes or call is calls[-1]]
    return [call for call in calls if call.writes or fault not in FULL]


def strike(forks: Forks, call: Call, fault: str, folder: Path, *words: object) -> Traced:
    """Run a command with a fault at one of its calls."""
    ran = forks.traced(CALLS, ("-e", f"inject={call.name}:{fault}:when={call.number}"), folder, *words)
    assert "Traceback" not in ran.err, ran.err
    if fault != KILL:
        assert "(INJECTED)" in (folder / "trace").read_text()
    return ran
