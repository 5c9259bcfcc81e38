"""The project of the benchmarks of formats: a script, and as much data as the disk has room for."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

PROGRAM = str(Path(sys.executable).parent / "ckpt-migrate")
SCRATCH = os.environ.get("BENCH_DIR") or tempfile.gettempdir()
NAME = "aa0000000001"
REVISION = '''"""change"""

from anemoi_ckpt_migrate import MigrationMetadata, op

revision = "{name}"
down_revision = None
metadata = MigrationMetadata(versions={{"migration": "1.0.0"}})
operations = [{operations}]
'''
RENAME = 'op.RenamePrefix("layers.", "blocks.")'
FUSE = 'op.Fuse(["layers.{i}.q", "layers.{i}.k"], "layers.{i}.qk")'


def gigabytes(copies: int) -> float:
    """Return the size of a checkpoint to measure: GIGABYTES, or 4, or less if the disk has no room for the copies."""
    room = shutil.disk_usage(SCRATCH).free / 2**30 / (copies + 1)
    return float(os.environ.get("GIGABYTES") or min(4, room))


def write_script(folder: Path, operations: str) -> None:
    """Write the script of the operations."""
    (folder / "versions" / f"{NAME}_change.py").write_text(REVISION.format(name=NAME, operations=operations))


def check_room(copies: int) -> None:
    """Stop if the disk has no room for the copies."""
    needed = copies * gigabytes(copies)
    if needed > shutil.disk_usage(SCRATCH).free / 2**30:
        raise SystemExit(f"this needs {needed:g} GB in {SCRATCH}: set GIGABYTES, or BENCH_DIR to another disk")
