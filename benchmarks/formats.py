"""Measure safetensors files beside `cp` and beside the library's own load and save, and write FORMATS.md.

    make bench-formats

A rename and a fuse of neighbours, on one file. Each row is a process of its own, and rows
run in turns. This needs five times GIGABYTES on the disk, and twice in memory.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from pathlib import Path

from measuring import Row, bars, in_turns, table

HERE = Path(__file__).parent
PROGRAM = str(Path(sys.executable).parent / "ckpt-migrate")
GIGABYTES, TENSORS = float(os.environ.get("GIGABYTES", "1")), 200
REVISION = '''"""change"""

from anemoi_ckpt_migrate import MigrationMetadata, op

revision = "{name}"
down_revision = None
metadata = MigrationMetadata(versions={{"migration": "1.0.0"}})
operations = [{operations}]
'''
RENAME = 'op.RenamePrefix("layers.", "blocks.")'
FUSE = 'op.Fuse(["layers.{i}.q", "layers.{i}.k"], "layers.{i}.qk")'
MAKE = """
import sys, torch
from safetensors.torch import save_file
count, numel = int(sys.argv[1]), int(sys.argv[2])
names = [f"layers.{i // 2}.{'qk'[i % 2]}" for i in range(count)]
state = {name: torch.full((numel // 1024, 1024), float(i)) for i, name in enumerate(names)}
save_file(state, "model.safetensors")
"""
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

    def script(operations: str) -> None:
        name = "aa0000000001"
        (folder / "ours.safetensors").unlink(missing_ok=True)
        (folder / "versions" / f"{name}_change.py").write_text(REVISION.format(name=name, operations=operations))

    return [
        Row("`cp`, and `sync`", ["sh", "-c", "cp --reflink=never model.safetensors cp.new && sync"]),
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


def main() -> None:
    """Measure, and write the table."""
    repeat = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as scratch:
        folder = Path(scratch)
        os.chdir(folder)
        (folder / "versions").mkdir()
        (folder / "ckpt-migrate.toml").write_text('versions = "versions"\n')
        numel = int(GIGABYTES * 2**30 / TENSORS / 4096) * 1024
        if os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", MAKE, str(TENSORS), str(numel)]):
            raise SystemExit("the file could not be made")
        copied, renamed, library, fused, current = in_turns(rows(folder), repeat, folder)
    header = 64 + 3 * 0.03
    limits = [
        ("rename, times `cp` and `sync`", 1.15, renamed.time / copied.time),
        ("fuse of neighbours, times `cp` and `sync`", 1.15, fused.time / copied.time),
        ("rename: peak memory above that of `current`, in MB", header, renamed.peak - current.peak),
    ]
    lines = [
        "# Safetensors files, measured",
        "",
        f"One file of {GIGABYTES:g} GB with {TENSORS} tensors; medians of {repeat} runs in turns; "
        f"{os.cpu_count()} cores, Python {platform.python_version()}.",
        "`make bench-formats` writes this file.",
        "",
        *table([copied, renamed, library, fused, current]),
        "",
        *bars(limits),
        "",
    ]
    (HERE / "FORMATS.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
