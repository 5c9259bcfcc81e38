"""How many operations explain real refactorings, with the same weights and with others. Writes REFACTORINGS.md.

    python benchmarks/refactorings.py

The refactorings are those of `tests/support/refactorings.py`. Fully explained means that the script that
`--autogenerate` wrote,
run on OLD, gives exactly NEW's names, shapes, dtypes and order; with the same weights also its values, but where
something was added.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections import OrderedDict
from pathlib import Path

import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from anemoi_ckpt_migrate import diff, init, revision, upgrade  # noqa: E402
from tests.support.refactorings import REFACTORINGS, States  # noqa: E402


def facts(states: States) -> list[object]:
    """Return what is compared."""
    return [(name, value.shape, value.dtype) for name, value in states.items()]


def explained(old: States, new: States, folder: Path) -> tuple[int, int, bool, bool]:
    """Return how many operations there are, how many are guesses, and whether facts and values are those of NEW."""
    os.chdir(folder)
    init(folder)
    for name, states in (("old.pt", old), ("new.pt", new)):
        torch.save({"state_dict": states}, name)
    found = diff("old.pt", "new.pt").explanation.operations
    revision("refactored", autogenerate=("old.pt", "new.pt"))
    upgrade("old.pt", "head")
    made, wanted = (torch.load(name)["state_dict"] for name in ("old.pt", "new.pt"))
    right = facts(made) == facts(wanted)
    values = right and all(torch.equal(made[name], wanted[name]) for name in wanted)
    return len(found), sum(guess.confidence < 1 for guess in found), right, values


def main() -> None:
    """Measure, and write the table."""
    rows = []
    for name, make in REFACTORINGS.items():
        old, new = make()
        other = OrderedDict((n, torch.randn_like(v) if v.is_floating_point() else v) for n, v in new.items())
        with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
            rows.append((name, len(old), len(new), explained(old, new, Path(one)), explained(old, other, Path(two))))
    full = [sum(row[place][2] for row in rows) for place in (3, 4)]
    text = f"""# Refactorings, explained

`python benchmarks/refactorings.py`: {full[0]} of {len(rows)} are explained fully with the same weights, {full[1]} with
other weights (names, shapes, dtypes and order). What a name stands for, and what fully means: see there.

| refactoring | parameters | operations, same weights | values too | operations, other weights | of these guesses |
|---|---|---|---|---|---|
"""
    for name, before, after, same, other in rows:
        counts = [str(count) if right else f"{count}, not fully" for count, _, right, _ in (same, other)]
        values = "yes" if same[3] else "no"
        text += f"| {name} | {before} -> {after} | {counts[0]} | {values} | {counts[1]} | {other[1]} |\n"
    (HERE / "REFACTORINGS.md").write_text(text)


if __name__ == "__main__":
    main()
