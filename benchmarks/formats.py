"""Measure safetensors files beside `cp` and beside the library's own load and save, and write FORMATS.md.

    make bench-formats                   # GIGABYTES=4, or as many as the disk has room for; 5 runs
    GIGABYTES=0.1 make bench-formats     # see that it runs

A rename in place and as a new file, and a fuse of neighbours, on one file. Each row is a process of its own, and rows
run in turns. This needs six times GIGABYTES on the disk, and twice in memory.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from pathlib import Path

from format_project import FUSE, PROGRAM, RENAME, SCRATCH, check_room, gigabytes, write_script
from measuring import Row, bars, in_turns, table

HERE = Path(__file__).parent
COPIES, TENSORS, MANY = 6, 200, 300_000
GIGABYTES = gigabytes(COPIES)
MAKE = """
import sys, torch
from safetensors.torch import save_file
count, numel = int(sys.argv[1]), int(sys.argv[2])
names = [f"layers.{i // 2}.{'qk'[i % 2]}" for i in range(count)]
state = {name: torch.full((numel // 1024, 1024), float(i)) for i, name in enumerate(names)}
save_file(state, "model.safetensors")
"""
MAKE_MANY = """
import json, sys
count, entries = int(sys.argv[1]), {}
for i in range(count):
    name = f"layers.{i // 10}.mlp.experts.{i % 10}.weight"
    entries[name] = {"dtype": "F32", "shape": [4, 4], "data_offsets": [64 * i, 64 * i + 64]}
text = json.dumps(entries, separators=(",", ":")).encode()
text += b" " * (-len(text) % 8)
with open("many.safetensors", "wb") as file:
    file.write(len(text).to_bytes(8, "little") + text + bytes(64 * count))
"""
ONE_SYNC = "dd if=model.safetensors of=sync.new bs=64K count=1 conv=notrunc,fsync status=none"
BY_LIBRARY = """
import os
from safetensors.torch import load_file, save_file
state = load_file("model.safetensors")
save_file({name.replace("layers.", "blocks."): value for name, value in state.items()}, "library.new")
os.sync()
"""
CHECK = """
import torch
from safetensors.torch import load_file
old, new = load_file("model.safetensors"), load_file("ours.safetensors")
for name, value in old.items():
    stem, _, part = name.rpartition(".")
    fused = None if RENAMED else new[f"{stem}.qk"].chunk(2)["qk".index(part)]
    assert torch.equal(value, new[name.replace("layers.", "blocks.")] if RENAMED else fused)
"""


def rows(folder: Path) -> list[Row]:
    """Return what is measured."""
    upgrade = [PROGRAM, "upgrade", "head", "model.safetensors", "--output", "ours.safetensors"]
    python = [sys.executable, "-c"]
    place = "place.safetensors"

    def script(operations: str) -> None:
        (folder / "ours.safetensors").unlink(missing_ok=True)
        write_script(folder, operations)

    def back() -> None:
        script(RENAME)
        run(PROGRAM, "downgrade", "base", place, "--in-place")

    return [
        Row("`cp`, and `sync`", ["sh", "-c", "cp --reflink=never model.safetensors cp.new && sync"]),
        Row("start-up: `ckpt-migrate upgrade --dry-run`", [PROGRAM, "upgrade", "head", place, "--dry-run"], None, back),
        Row("two writes of 64 KiB, each with fsync", ["sh", "-c", f"{ONE_SYNC} && {ONE_SYNC}"]),
        Row(
            "rename in place: `ckpt-migrate upgrade --in-place`",
            [PROGRAM, "upgrade", "head", place, "--in-place"],
            [*python, CHECK.replace("RENAMED", "True").replace("ours.safetensors", place)],
            back,
        ),
        Row(
            "rename: `ckpt-migrate upgrade`",
            upgrade,
            [*python, CHECK.replace("RENAMED", "True")],
            lambda: script(RENAME),
        ),
        Row("rename: `load_file` and `save_file`", [*python, BY_LIBRARY]),
        Row(
            "fuse: `ckpt-migrate upgrade`", upgrade, [*python, CHECK.replace("RENAMED", "False")], lambda: script(FUSE)
        ),
        Row("`ckpt-migrate current`", [PROGRAM, "current", "model.safetensors"]),
    ]


def many(folder: Path, repeat: int) -> list[str]:
    """Measure a header of MANY tensors, and return the table; `place.safetensors` and the scripts are overwritten."""
    # In another process: the peak memory of a child begins with that of its parent.
    run(sys.executable, "-c", MAKE_MANY, str(MANY))
    write_script(folder, RENAME)
    start = [PROGRAM, "upgrade", "head", "model.safetensors", "--dry-run"]
    upgrade = [PROGRAM, "upgrade", "head", "many.safetensors", "--output", "many.new.safetensors"]

    def without() -> None:
        (folder / "many.new.safetensors").unlink(missing_ok=True)

    def upgraded() -> None:
        without()
        run(*upgrade)

    back = [PROGRAM, "downgrade", "base", "many.new.safetensors", "--in-place"]
    measured = in_turns(
        [
            Row("start-up: `ckpt-migrate upgrade --dry-run` of the small header", start),
            Row("`ckpt-migrate current`", [PROGRAM, "current", "many.safetensors"]),
            Row("rename: `ckpt-migrate upgrade`", upgrade, None, without),
            Row("back in place: `ckpt-migrate downgrade --in-place`", back, None, upgraded),
        ],
        repeat,
        folder,
    )
    length = int.from_bytes((folder / "many.safetensors").open("rb").read(8), "little") / 2**20
    rows = [
        f"| {row.name} | {row.processor:.2f} | {row.peak:.0f} MB | {(row.peak - measured[0].peak - 64) / length:.1f} |"
        for row in measured[1:]
    ]
    return [
        f"One header of {length:.1f} MB with {MANY:,} tensors of 64 bytes; medians of {repeat} runs in turns.",
        "The bar is 64 MB and 3 headers beyond start-up. Reading holds it; a change does not: each tensor is an "
        "object of the tree, with a name before and one after.",
        "",
        "| | processor seconds | peak memory | headers beyond start-up and 64 MB |",
        "|---|---|---|---|",
        *rows,
    ]


def run(*command: str) -> None:
    """Run a command that has to succeed."""
    if os.spawnv(os.P_WAIT, command[0], command):
        raise SystemExit(f"{command} failed")


def main() -> None:
    """Measure, and write the table."""
    repeat = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    check_room(COPIES)
    with tempfile.TemporaryDirectory(dir=SCRATCH) as scratch:
        folder = Path(scratch)
        os.chdir(folder)
        (folder / "versions").mkdir()
        (folder / "ckpt-migrate.toml").write_text('versions = "versions"\n')
        numel = int(GIGABYTES * 2**30 / TENSORS / 4096) * 1024
        run(sys.executable, "-c", MAKE, str(TENSORS), str(numel))
        # A file of the library has no room in its header; a new file of ours has some.
        write_script(folder, RENAME)
        run(PROGRAM, "upgrade", "head", "model.safetensors", "--output", "place.safetensors")
        measured = in_turns(rows(folder), repeat, folder)
        headers = many(folder, min(repeat, 3))
    copied, start, synced, in_place, renamed, _, fused, current = measured
    peak = 64 + 3 * 0.03
    limits = [
        (
            "rename in place: seconds beyond start-up, which plans and tries it, and two writes with fsync",
            0.1,
            in_place.time - start.time - synced.time,
        ),
        ("rename less start-up, times `cp` and `sync`", 1.15, (renamed.time - start.time) / copied.time),
        ("fuse of neighbours less start-up, times `cp` and `sync`", 1.15, (fused.time - start.time) / copied.time),
        ("rename: peak memory above that of `current`, in MB", peak, renamed.peak - current.peak),
        ("rename in place: peak memory above that of `current`, in MB", peak, in_place.peak - current.peak),
    ]
    lines = [
        "# Safetensors files, measured",
        "",
        f"One file of {GIGABYTES:.3g} GB with {TENSORS} tensors; medians of {repeat} runs in turns; "
        f"{os.cpu_count()} cores, Python {platform.python_version()}.",
        "`make bench-formats` writes this file.",
        "",
        *table(measured),
        "",
        *bars(limits),
        "",
        *headers,
        "",
    ]
    (HERE / "FORMATS.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
