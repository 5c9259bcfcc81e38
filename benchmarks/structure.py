"""Measure what many small tensors cost, beside the same by hand, and write STRUCTURE.md.

    make bench-structure                        # TENSORS=100000, and a tenth, a third and three times as many; 3 runs
    TENSORS=1000 make bench-structure           # see that it runs

By hand, that is `torch.load(mmap=True)`, new names or `torch.cat` or `torch.split`, and `torch.save`; nothing is
checked, and no record is kept. Each row is a process of its own, with its imports, and rows run in turns. Ratios are of
processor time, since payload is small and a disk is not what is measured.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from format_project import NAME, PROGRAM, REVISION, SCRATCH
from measuring import Row, bars, in_turns

HERE = Path(__file__).parent
TENSORS = int(os.environ.get("TENSORS") or 100_000)
SIZES = [TENSORS // 10, TENSORS * 3 // 10, TENSORS, 3 * TENSORS]
RENAME, FUSE = "rename", "fuse"
OPERATIONS = {
    RENAME: 'op.RenamePrefix("experts.{i}.{j}.", "layers.{i}.{j}.")',
    FUSE: 'op.Fuse(["experts.{i}.{j}.up", "experts.{i}.{j}.gate"], "experts.{i}.{j}.both")',
}
MAKE = """
import sys, torch
names = [f"experts.{i // 256}.{i % 256}.{part}" for i in range(int(sys.argv[2]) // 2) for part in ("up", "gate")]
torch.save({"state_dict": {name: torch.randn(4, 4) for name in names}, "epoch": 3}, sys.argv[1])
"""
BY_HAND = """
import sys, torch
checkpoint = torch.load(sys.argv[2], mmap=True)
old = checkpoint["state_dict"]
if sys.argv[1] == "rename":
    new = {name.replace("experts.", "layers."): tensor for name, tensor in old.items()}
elif sys.argv[1] == "fuse":
    new = {}
    for name in old:
        if name.endswith(".up"):
            base = name.removesuffix(".up")
            new[f"{base}.both"] = torch.cat([old[name], old[f"{base}.gate"]])
else:
    new = {}
    for name, tensor in old.items():
        base = name.removesuffix(".both")
        up, gate = torch.split(tensor, 4)
        new |= {f"{base}.up": up.clone(), f"{base}.gate": gate.clone()}
checkpoint["state_dict"] = new
torch.save(checkpoint, sys.argv[3])
"""
CHECK = """
import sys, torch
old, new = (torch.load(path)["state_dict"] for path in sys.argv[2:4])
if sys.argv[1] == "rename":
    assert list(new) == [name.replace("experts.", "layers.") for name in old]
    assert all(torch.equal(one, other) for one, other in zip(old.values(), new.values()))
elif sys.argv[1] == "fuse":
    for name, tensor in new.items():
        base = name.removesuffix(".both")
        assert torch.equal(tensor, torch.cat([old[f"{base}.up"], old[f"{base}.gate"]]))
    assert 2 * len(new) == len(old)
else:
    assert list(new) == list(old) and all(torch.equal(tensor, new[name]) for name, tensor in old.items())
"""


def copied(source: Path, target: Path) -> Callable[[], object]:
    """Return what puts a file back to what it was."""
    return lambda: shutil.copyfile(source, target)


def rows(folder: Path, count: int) -> dict[str, Row]:
    """Return what is measured for a number of tensors, by what it is."""
    python = [sys.executable, "-c"]
    made = folder / f"{count}.ckpt"
    subprocess.run([*python, MAKE, made, str(count)], check=True)
    found = {}
    for what in OPERATIONS:
        project, work = folder / what, folder / what / f"{count}.ckpt"
        up, back = folder / f"{what}_{count}.ckpt", f"{what}, downgrade"
        program = ["sh", "-c", f'cd "{project}" && exec "{PROGRAM}" "$@"', "sh"]
        check = [*python, CHECK, what, str(made), str(work)]
        found[what] = Row(what, [*program, "upgrade", "head", work.name, "--no-backup"], check, copied(made, work))
        shutil.copyfile(made, work)
        subprocess.run(found[what].command, check=True, stdout=subprocess.DEVNULL)
        work.rename(up)
        check = [*python, CHECK, "back", str(made), str(work)]
        found[back] = Row(back, [*program, "downgrade", "base", work.name, "--no-backup"], check, copied(up, work))
        if what == RENAME:
            for command in ("current", "inspect"):
                found[command] = Row(command, [*program, command, work.name], before=copied(up, work))
        if count == TENSORS:  # three times as many would take minutes
            by_hand = [*python, BY_HAND, what, str(made), str(folder / "by_hand.ckpt")]
            found[f"{what}, by hand"] = Row(f"{what}, by hand", by_hand)
            if what == FUSE:
                split = [*python, BY_HAND, "split", str(up), str(folder / "by_hand.ckpt")]
                found[f"{back}, by hand"] = Row(f"{back}, by hand", split)
    return found


def main() -> None:
    """Measure, and write the table."""
    repeat = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    with tempfile.TemporaryDirectory(dir=SCRATCH) as scratch:
        folder = Path(scratch)
        for what, operations in OPERATIONS.items():
            (folder / what / "versions").mkdir(parents=True)
            (folder / what / "ckpt-migrate.toml").write_text('versions = "versions"\n')
            script = folder / what / "versions" / f"{NAME}_change.py"
            script.write_text(REVISION.format(name=NAME, operations=operations))
        measured = {count: rows(folder, count) for count in SIZES}
        in_turns([row for found in measured.values() for row in found.values()], repeat, folder)
    own = [name for name in measured[TENSORS] if not name.endswith("by hand")]
    lines = ["| seconds of processor time | " + " | ".join(f"{count:,}" for count in SIZES) + " |"]
    lines.append("|---" * (len(SIZES) + 1) + "|")
    for name in measured[TENSORS]:
        cells = [shown(measured[count].get(name)) for count in SIZES]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    text = [
        "# Many small tensors, measured",
        "",
        f"Medians of {repeat} runs in turns, with fastest and slowest; {os.cpu_count()} cores, "
        f"Python {platform.python_version()}. By hand: `torch.load(mmap=True)`, new names, `torch.cat` or "
        "`torch.split`, `torch.save`. Results are checked with torch. `make bench-structure` writes this file.",
        "",
        *lines,
        "",
        *bars(limits(measured, own)),
        "",
    ]
    (HERE / "STRUCTURE.md").write_text("\n".join(text))
    print("\n".join(text))


def shown(row: Row | None) -> str:
    """Format the processor time and the peak memory of a row."""
    if row is None:
        return ""
    return f"{row.processor:.2f} ({min(row.busy):.2f} to {max(row.busy):.2f}), {row.peak:.0f} MB"


def limits(measured: dict[int, dict[str, Row]], own: list[str]) -> list[tuple[str, float, float]]:
    """Return what was to be reached."""
    found = []
    at, most = measured[TENSORS], measured[3 * TENSORS]
    for name in own:
        if name == "current":
            found += [(f"current of {count:,}: seconds", 0.3, measured[count][name].time) for count in SIZES]
            continue
        by_hand = at.get(f"{name}, by hand") or at[f"{RENAME}, by hand"]
        limit = 0.15 if name == "inspect" else 0.2
        found.append((f"{name} of {TENSORS:,}: times by hand", limit, at[name].processor / by_hand.processor))
        found.append((f"{name}: three times as many, times as long", 3.5, most[name].processor / at[name].processor))
        if name != "inspect":
            more = (most[name].peak - at[name].peak) * 1024 / (2 * TENSORS)
            found.append((f"{name}: KB of memory a tensor more", 2, more))
    return found


if __name__ == "__main__":
    main()
