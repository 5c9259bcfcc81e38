"""Operations on a large checkpoint, beside what a user would do instead. Writes OPERATIONS.md.

    python benchmarks/operations.py [GIGABYTES] [RUNS]

Peak memory is anonymous memory (RssAnon), sampled every few milliseconds: pages of the mapped file are not counted.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

WIDTH = 2048
HERE = Path(__file__).parent
MIGRATE = [sys.executable, "-m", "anemoi_ckpt_migrate"]

MAKE = """
import sys, torch
from collections import OrderedDict
layers, width = int(sys.argv[1]), int(sys.argv[2])
names = (f"h.{i}.attn.{n}.weight" for i in range(layers) for n in "qkv")
torch.save({"state_dict": OrderedDict((name, torch.randn(width, width)) for name in names)}, sys.argv[3])
"""
BY_HAND = """
import os, torch
from collections import OrderedDict
ckpt = torch.load("big.pt", mmap=True)
old, new = ckpt["state_dict"], OrderedDict()
for i in range(len(old) // 3):
    new[f"h.{i}.attn.qkv.weight"] = torch.cat([old[f"h.{i}.attn.{n}.weight"] for n in "qkv"])
ckpt["state_dict"] = new
torch.save(ckpt, "new.pt")
with open("new.pt") as file:
    os.fsync(file)
os.replace("new.pt", "big.pt")
"""
FUSE = '["h.{i}.attn.q.weight", "h.{i}.attn.k.weight", "h.{i}.attn.v.weight"], "h.{i}.attn.qkv.weight"'
SCRIPTS = {
    "fuse": (None, f"op.Fuse({FUSE})"),
    "turn": ("fuse", 'op.Transpose("*.qkv.weight")'),
}


def script(folder: Path, revision: str, parent: str | None, operation: str) -> None:
    """Write a script of one operation."""
    (folder / "versions" / f"{revision}.py").write_text(
        f'"""{revision}"""\nfrom anemoi_ckpt_migrate import MigrationMetadata, op\n\nrevision = {revision!r}\n'
        f"down_revision = {parent!r}\nmetadata = MigrationMetadata()\noperations = [{operation}]\n"
    )


def measured(command: list[str]) -> tuple[float, float]:
    """Run a command; return seconds, and megabytes of anonymous memory at the peak."""
    os.sync()
    start, peak = time.perf_counter(), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        try:
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        except OSError:
            break
        peak = max([peak, *(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))])
        time.sleep(0.003)
    if process.wait():
        raise SystemExit(f"failed: {command}")
    return time.perf_counter() - start, peak / 1024


def main() -> None:
    """Measure, and write the table."""
    gigabytes, runs = float((sys.argv[1:] or ["4"])[0]), int((sys.argv[2:] or ["3"])[0])
    layers = max(1, round(gigabytes * (1 << 30) / (3 * WIDTH * WIDTH * 4)))
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as name:
        os.chdir(name)
        folder = Path(name)
        (folder / "versions").mkdir()
        (folder / "ckpt-migrate.toml").write_text("")
        for revision, (parent, operation) in SCRIPTS.items():
            script(folder, revision, parent, operation)
        subprocess.run([sys.executable, "-c", MAKE, str(layers), str(WIDTH), "big.pt"], check=True)
        size = (folder / "big.pt").stat().st_size
        rows: dict[str, list[tuple[float, float]]] = {}

        def row(title: str, command: list[str], after: Callable[[], object] = lambda: None) -> None:
            rows.setdefault(title, []).append(measured(command))
            print(f"{rows[title][-1][0]:7.2f} s {rows[title][-1][1]:6.0f} MB  {title}", file=sys.stderr)
            after()

        for _ in range(runs):
            row("`cp` and fsync", ["sh", "-c", "cp big.pt copy.pt && sync copy.pt"], Path("copy.pt").unlink)
            row("`import torch`", [sys.executable, "-c", "import torch"])
            row("fuse every q, k, v", [*MIGRATE, "upgrade", "fuse", "big.pt", "--no-backup"])
            row("transpose every result", [*MIGRATE, "upgrade", "turn", "big.pt", "--no-backup"])
            row("transpose back", [*MIGRATE, "downgrade", "fuse", "big.pt", "--no-backup"])
            row("split again", [*MIGRATE, "downgrade", "base", "big.pt", "--no-backup"])
            row(
                "fuse, rollback verified first",
                [*MIGRATE, "upgrade", "fuse", "big.pt", "--no-backup", "--check-rollback"],
            )
            row("split again", [*MIGRATE, "downgrade", "base", "big.pt", "--no-backup"])
            row("fuse by hand: torch.load(mmap), cat, save, fsync", [sys.executable, "-c", BY_HAND])
            subprocess.run([sys.executable, "-c", MAKE, str(layers), str(WIDTH), "big.pt"], check=True)
        (HERE / "OPERATIONS.md").write_text(table(rows, size, layers, runs))


def table(rows: dict[str, list[tuple[float, float]]], size: int, layers: int, runs: int) -> str:
    """Show what was measured."""
    copied = statistics.median(seconds for seconds, _ in rows["`cp` and fsync"])
    largest = 3 * WIDTH * WIDTH * 4 / (1 << 20)
    text = f"""# Operations, measured

`make bench-operations`; {size / 1e9:.1f} GB, {3 * layers} tensors of {WIDTH} x {WIDTH}; medians of {runs}, the
fastest and the slowest in parentheses.
The largest result has {largest:.0f} MB.

| | s | x `cp` and fsync | MB anonymous |
|---|---|---|---|
"""
    for title, found in rows.items():
        seconds = [each for each, _ in found]
        middle = statistics.median(seconds)
        peak = max(each for _, each in found)
        spread = f"{middle:.2f} ({min(seconds):.2f} to {max(seconds):.2f})"
        text += f"| {title} | {spread} | {middle / copied:.2f} | {peak:.0f} |\n"
    return text


if __name__ == "__main__":
    main()
