"""What is measured, and how it is shown."""

from __future__ import annotations

import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

LEFTOVERS = "*.bak*", "*.copy", "*.new"


@dataclass
class Row:
    """What is measured, and what was."""

    name: str
    command: list[str]
    check: list[str] | None = None  # a command that fails where the work was not done
    before: Callable[[], object] = lambda: None
    seconds: list[float] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)

    @property
    def processor(self) -> float:
        """The median of the processor time, in seconds."""
        return statistics.median(self.busy)

    @property
    def time(self) -> float:
        """The median, in seconds."""
        return statistics.median(self.seconds)

    @property
    def peak(self) -> float:
        """The median, in megabytes."""
        return statistics.median(self.peaks) / 1024

    def measure(self) -> None:
        """Run once."""
        self.before()
        os.sync()  # nobody pays for what others wrote
        start = time.perf_counter()
        process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        self.seconds.append(time.perf_counter() - start)
        self.peaks.append(usage.ru_maxrss)
        self.busy.append(usage.ru_utime + usage.ru_stime)
        if status:
            raise SystemExit(f"{self.name} failed: {self.command}")
        print(f"{self.seconds[-1]:8.3f} s  {self.name}", file=sys.stderr)

    def verify(self) -> None:
        """Make sure that it did what it is measured for."""
        if self.check and subprocess.run(self.check).returncode:
            raise SystemExit(f"{self.name} did not do its work")

    def less(self, other: Row) -> Row:
        """Take the time of another row off."""
        return replace(self, name=f"the same, less {other.name}", seconds=[s - other.time for s in self.seconds])


def in_turns(rows: list[Row], repeat: int, folder: Path) -> list[Row]:
    """Measure all rows so many times, and verify each of them in the last turn."""
    for turn in range(repeat):
        for row in rows:
            for leftover in (path for pattern in LEFTOVERS for path in folder.glob(pattern)):
                leftover.unlink()
            row.measure()
            if turn == repeat - 1:
                row.verify()
    return rows


def says(word: str, *command: str) -> list[str]:
    """Give the command that fails unless this one prints the word."""
    return ["sh", "-c", f"{shlex.join(command)} | grep -q {shlex.quote(word)}"]


def table(rows: list[Row]) -> list[str]:
    """Format one table; times are also given as multiples of the first row."""
    lines = ["| | seconds | fastest to slowest | times the first | peak memory |", "|---|---|---|---|---|"]
    for row in rows:
        spread = f"{min(row.seconds):.3f} to {max(row.seconds):.3f}"
        ratio = row.time / rows[0].time
        lines.append(f"| {row.name} | {row.time:.3f} | {spread} | {ratio:.2f} | {row.peak:.0f} MB |")
    return lines


def beside(rows: list[Row]) -> list[str]:
    """Format a table in which memory is given as a multiple of the first row too."""
    lines = ["| | seconds | times the first | peak memory | times the first |", "|---|---|---|---|---|"]
    for row in rows:
        times, memory = row.time / rows[0].time, row.peak / rows[0].peak
        lines.append(f"| {row.name} | {row.time:.3f} | {times:.1f} | {row.peak:.0f} MB | {memory:.1f} |")
    return lines


def bars(measured: list[tuple[str, float, float]]) -> list[str]:
    """Format what was to be reached: in words, at most how much, and how much it is."""
    lines = ["| | at most | measured | held |", "|---|---|---|---|"]
    for words, limit, value in measured:
        lines.append(f"| {words} | {limit:g} | {value:.2f} | {'yes' if value <= limit else '**no**'} |")
    return lines
