"""What recording revisions costs a training run. Writes TRAINING.md.

    python benchmarks/training.py [MEGABYTES]

The chain is that of anemoi-models. One process makes a `Stamper`, the first thing that it does after importing torch,
and saves a checkpoint of so many megabytes over and over, with the record and without, in turns.
"""

from __future__ import annotations

import io
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from anemoi_ckpt_migrate import Stamper, open_chain

HERE = Path(__file__).parent
SAVES, STAMPS = 7, 1000


def seconds(do: Callable[[], object]) -> float:
    """Return how long something takes."""
    start = time.perf_counter()
    do()
    return time.perf_counter() - start


def save(checkpoint: object) -> int:
    """Save a checkpoint to memory, as Lightning does, and return how many bytes it has."""
    stream = io.BytesIO()
    torch.save(checkpoint, stream)
    return stream.tell()


def main() -> None:
    """Measure, and write the table."""
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    made = seconds(lambda: Stamper(chain="anemoi"))
    stamper = Stamper(chain="anemoi")
    weights = {f"layer.{i}.weight": torch.randn(1 << 18) for i in range(megabytes)}
    plain = {"state_dict": weights, "epoch": 1}
    stamping = statistics.median(seconds(lambda: stamper.stamped(plain)) for _ in range(STAMPS))
    both: tuple[list[float], list[float]] = ([], [])
    for _ in range(SAVES):
        for times, make in zip(both, (lambda: plain, lambda: stamper.stamped(plain)), strict=True):
            times.append(seconds(lambda make=make: save(make())))  # type: ignore[misc]
    bytes_more = save(stamper.stamped(plain)) - save(plain)
    rows = [
        ('once, when training starts: `Stamper(chain="anemoi")`', f"{made:.2f} s"),
        ("at each save: `stamped`", f"{stamping * 1e6:.0f} microseconds"),
        ("`torch.save` to memory without a record", spread(both[0])),
        ("`torch.save` to memory with the record", spread(both[1])),
        ("the file grows by", f"{bytes_more / 1000:.0f} kB"),
    ]
    count = len(open_chain("anemoi").graph)
    python = sys.version.split()[0]
    text = f"""# What recording revisions costs a run

`make bench-training`; the chain of anemoi-models, {count} revisions; a checkpoint of {megabytes} MB. Python
{python}, torch {torch.__version__}. Medians of {STAMPS} stamps, and of {SAVES} saves in turns, in parentheses the
fastest and the slowest.

| | |
|---|---|
"""
    text += "".join(f"| {what} | {measured} |\n" for what, measured in rows)
    (HERE / "TRAINING.md").write_text(text)


def spread(times: list[float]) -> str:
    """Show a median, the fastest and the slowest."""
    return f"{statistics.median(times):.2f} s ({min(times):.2f} to {max(times):.2f})"


if __name__ == "__main__":
    main()
