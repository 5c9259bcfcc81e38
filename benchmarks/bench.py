"""Measure the main job beside what one would use instead, and write RESULTS.md beside this file.

    make bench

Everything is measured in one run, in turns, and reported as medians and ratios. Peak memory is the largest resident
set of the process, page cache that it maps included.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
TOOL = [sys.executable, "-m", "anemoi_ckpt_migrate"]
TENSORS, MANY = 64, 100_000

SCRIPT = '''"""rename every key"""
revision = "a1"
down_revision = None


def migrate(ckpt):
    ckpt["state_dict"] = {f"model.{key}": value for key, value in ckpt["state_dict"].items()}
    return ckpt


def rollback(ckpt):
    ckpt["state_dict"] = {key[6:]: value for key, value in ckpt["state_dict"].items()}
    return ckpt
'''

MAKE = """
import sys, torch
path, tensors, numel = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.save({"state_dict": {f"layer{i}.weight": torch.full((numel,), float(i)) for i in range(tensors)}}, path)
"""

BY_HAND = """
import os, sys, torch
path = sys.argv[1]
ckpt = torch.load(path, mmap=True, weights_only=True)
ckpt["state_dict"] = {f"model.{key}": value for key, value in ckpt["state_dict"].items()}
with open(path + ".new", "wb") as file:
    torch.save(ckpt, file)
    file.flush()
    os.fsync(file.fileno())
os.unlink(path + ".new")
"""

CHECK = """
import sys, torch
state = torch.load(sys.argv[1], mmap=True, weights_only=True)["state_dict"]
assert len(state) == int(sys.argv[2])
for i, (key, value) in enumerate(state.items()):
    assert key == f"layer{i}.weight" and value[0] == value[-1] == i, key
"""


@dataclass
class Row:
    """What is measured, and what was."""

    name: str
    run: Callable[[], list[str]]
    seconds: list[float] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)

    def measure(self) -> None:
        """Run once."""
        command = self.run()
        os.sync()
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        self.seconds.append(time.perf_counter() - start)
        self.peaks.append(usage.ru_maxrss)
        if status:
            raise SystemExit(f"{self.name} failed: {command}")


def main() -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        checkpoint = prepare(folder, args.gigabytes)
        os.chdir(folder)
        rows = rewriting(checkpoint, TENSORS, args.repeat), starting(checkpoint, 3 * args.repeat)
        many = make(folder / "many.ckpt", MANY, 8)
        text = report(*rows, rewriting(many, MANY, args.repeat), checkpoint, args)
    (HERE / "RESULTS.md").write_text(text)
    print(text)


def prepare(folder: Path, gigabytes: float) -> Path:
    """Make a project and a checkpoint."""
    (folder / "versions").mkdir()
    (folder / "ckpt-migrate.toml").touch()
    (folder / "versions" / "a1.py").write_text(SCRIPT)
    checkpoint = folder / "last.ckpt"
    return make(checkpoint, TENSORS, int(gigabytes * 1e9 / 4 / TENSORS))


def make(checkpoint: Path, tensors: int, numel: int) -> Path:
    """Save a checkpoint of so many tensors of so many elements."""
    subprocess.run([sys.executable, "-c", MAKE, str(checkpoint), str(tensors), str(numel)], check=True)
    return checkpoint


def rewriting(checkpoint: Path, tensors: int, repeat: int) -> list[Row]:
    """Measure what rewrites the file. The reference comes first."""
    copy = checkpoint.with_suffix(".copy")

    def cleaned(*command: str) -> list[str]:
        copy.unlink(missing_ok=True)
        for backup in checkpoint.parent.glob("*.bak*"):
            backup.unlink()
        return list(command)

    path = str(checkpoint)
    rows = [
        Row("`cp` + fsync", lambda: cleaned("sh", "-c", f"cp {path} {copy} && sync {copy}")),
        Row("`upgrade head`, all keys renamed", lambda: cleaned(*TOOL, "upgrade", "head", path)),
        Row("`downgrade base`, all keys renamed back", lambda: cleaned(*TOOL, "downgrade", "base", path)),
        Row(
            "by hand: `torch.load(mmap=True)`, `torch.save`, fsync",
            lambda: cleaned(sys.executable, "-c", BY_HAND, path),
        ),
    ]
    for _ in range(repeat):
        for row in rows:
            row.measure()
    cleaned()
    subprocess.run([sys.executable, "-c", CHECK, path, str(tensors)], check=True)
    return rows


def starting(checkpoint: Path, repeat: int) -> list[Row]:
    """Measure what only starts up and reads. The reference comes first."""
    path = str(checkpoint)
    rows = [
        Row("`python -c pass`", lambda: [sys.executable, "-c", "pass"]),
        Row("`ckpt-migrate --help`", lambda: [*TOOL, "--help"]),
        Row("`ckpt-migrate current CKPT`", lambda: [*TOOL, "current", path]),
        Row("`ckpt-migrate heads`", lambda: [*TOOL, "heads"]),
        Row("`python -c 'import torch'`", lambda: [sys.executable, "-c", "import torch"]),
    ]
    for _ in range(repeat):
        for row in rows[:-1]:
            row.measure()
    for _ in range(3):
        rows[-1].measure()
    return rows


def report(moving: list[Row], reading: list[Row], many: list[Row], checkpoint: Path, args: argparse.Namespace) -> str:
    """Write the tables."""
    import torch

    system = f"{os.cpu_count()} cores, Linux {platform.release()}"
    system += f", Python {platform.python_version()}, torch {torch.__version__}"
    kind = subprocess.run(["stat", "-f", "-c", "%T", str(checkpoint)], capture_output=True, text=True).stdout.strip()
    size = f"{checkpoint.stat().st_size / 1e9:.2f} GB in {TENSORS} tensors"
    lines = [
        "# Results",
        "",
        f"`make bench`, {datetime.date.today()}: {system}; {kind}, warm page cache;",
        f"medians of {args.repeat} runs in turns.",
        "",
        f"## Rewriting a checkpoint of {size}",
        "",
        *table(moving),
        "",
        f"## Rewriting a checkpoint of {MANY:,} small tensors",
        "",
        *table(many),
        "",
        f"## Starting up, medians of {3 * args.repeat} runs",
        "",
        *table(reading),
        "",
    ]
    return "\n".join(lines)


def table(rows: list[Row]) -> list[str]:
    """Format one table; times are also given as multiples of the first row."""
    lines = ["| | seconds | fastest to slowest | times the first | peak memory |", "|---|---|---|---|---|"]
    reference = statistics.median(rows[0].seconds)
    for row in rows:
        middle = statistics.median(row.seconds)
        spread = f"{min(row.seconds):.3f} to {max(row.seconds):.3f}"
        peak = f"{statistics.median(row.peaks) / 1024:.0f} MB"
        lines.append(f"| {row.name} | {middle:.3f} | {spread} | {middle / reference:.2f} | {peak} |")
    return lines


if __name__ == "__main__":
    main()
