"""Measure folders of torch.distributed.checkpoint beside torch's own load and save, and write DISTRIBUTED.md.

    make bench-formats                   # GIGABYTES=4, or as many as the disk has room for; 5 runs
    GIGABYTES=0.1 make bench-formats     # see that it runs

A rename, a fuse, and a cast of a hundredth of the weights, in a folder of eight files; and a rename among 100,000
chunks. Each row is a process of its own, and rows run in turns. This needs three times GIGABYTES on the disk, and as
much in memory.
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
COPIES, TENSORS, CHUNKS = 3, 200, 100_000
GIGABYTES = gigabytes(COPIES)
CAST = 'op.Cast("layers.0.q", "bfloat16"), op.Cast("layers.0.k", "bfloat16")'
MAKE = """
import sys, warnings, torch
import torch.distributed.checkpoint as dcp
warnings.simplefilter("ignore")
count, numel = int(sys.argv[1]), int(sys.argv[2])
names = [f"layers.{i // 2}.{'qk'[i % 2]}" for i in range(count)]
state = {name: torch.full((numel // 1024, 1024), float(i)) for i, name in enumerate(names)}
dcp.save(state, storage_writer=dcp.FileSystemWriter("ckpt", thread_count=8))
"""
MANY = """
import os, sys, pickle, torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import *
ranks, tensors, paths, files = 8, {}, {}, {}
for i in range(int(sys.argv[1]) // ranks):
    name = f"layers.{i}.weight"
    boxes = [ChunkStorageMetadata(torch.Size([r * 128, 0]), torch.Size([128, 1024])) for r in range(ranks)]
    tensors[name] = TensorStorageMetadata(TensorProperties(torch.float32), torch.Size([128 * ranks, 1024]), boxes)
    paths[name] = (name,)
    for r, box in enumerate(boxes):
        files[MetadataIndex(name, box.offsets, r)] = _StorageInfo(f"__{r}_0.distcp", 1000 * i, 1000)
os.mkdir("many")
with open("many/.metadata", "wb") as file:
    pickle.dump(Metadata(tensors, paths, files, StorageMeta("many"), "1.0.0"), file)
for r in range(ranks):  # the content is not read, but that the last archive in each file begins and ends as one
    with open(f"many/__{r}_0.distcp", "wb") as file:
        file.seek(1000 * i)
        file.write(b"PK\\3\\4" + bytes(1000 - 26) + b"PK\\5\\6" + bytes(18))
"""
BY_TORCH = """
import os, warnings, torch
import torch.distributed.checkpoint as dcp
warnings.simplefilter("ignore")
names = dcp.FileSystemReader("ckpt").read_metadata().state_dict_metadata
state = {name: torch.empty(each.size, dtype=each.properties.dtype) for name, each in names.items()}
dcp.load(state, checkpoint_id="ckpt")
new = {name.replace("layers.", "blocks."): value for name, value in state.items()}
dcp.save(new, storage_writer=dcp.FileSystemWriter("by_torch", thread_count=8))
"""
CHECK = """
import os, pickle, warnings, torch
import torch.distributed.checkpoint as dcp
warnings.simplefilter("ignore")
names = pickle.load(open("ckpt/.metadata", "rb")).state_dict_metadata
state = {name: torch.empty(each.size, dtype=each.properties.dtype) for name, each in names.items()}
dcp.load(state, checkpoint_id="ckpt")
for i in range(TENSORS):
    stem, part = f"STEM.{i // 2}", "qk"[i % 2]
    value = state[f"{stem}.qk"].chunk(2)[i % 2] if f"{stem}.qk" in state else state[f"{stem}.{part}"]
    assert bool((value == i).all()), (stem, part)
made = [name for name in os.listdir("ckpt") if name.startswith("__ckpt_migrate")]
assert len(made) == MADE, made
"""


def rows(folder: Path) -> list[Row]:
    """Return what is measured."""
    python = [sys.executable, "-c"]
    old = {name: (folder / name / ".metadata").read_bytes() for name in ("ckpt", "many")}

    def script(operations: str) -> None:
        """Write the script, and put the folders back to what torch wrote."""
        write_script(folder, operations)
        for name, metadata in old.items():
            for path in [*(folder / name).glob("__ckpt_migrate*"), *(folder / name).glob(".metadata.bak*")]:
                path.unlink()
            (folder / name / ".metadata").write_bytes(metadata)

    def upgrade(what: str, operations: str, stem: str, made: int) -> Row:
        check = CHECK.replace("TENSORS", str(TENSORS)).replace("STEM", stem).replace("MADE", str(made))
        command = [PROGRAM, "upgrade", "head", "ckpt"]
        return Row(f"{what}: `ckpt-migrate upgrade`", command, [*python, check], lambda: script(operations))

    return [
        Row("`cp -r`, and `sync`", ["sh", "-c", "rm -rf copied && cp -r --reflink=never ckpt copied && sync"]),
        upgrade("rename", RENAME, "blocks", 0),
        upgrade("fuse", FUSE, "layers", 0),
        upgrade("cast of two tensors", CAST, "layers", 1),
        Row("rename: `dcp.load` and `dcp.save`", [*python, BY_TORCH], None, lambda: script(RENAME)),
        Row(
            f"rename among {CHUNKS:,} chunks: `ckpt-migrate upgrade`",
            [PROGRAM, "upgrade", "head", "many"],
            None,
            lambda: script(RENAME),
        ),
        Row("`ckpt-migrate current`", [PROGRAM, "current", "ckpt"]),
    ]


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
        for code, words in ((MAKE, [str(TENSORS), str(numel)]), (MANY, [str(CHUNKS)])):
            if os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code, *words]):
                raise SystemExit("the folder could not be made")
        measured = in_turns(rows(folder), repeat, folder)
    _, renamed, fused, _, _, many, current = measured
    limits = [
        ("rename, in seconds", 1, renamed.time),
        ("fuse, in seconds", 1, fused.time),
        (f"rename among {CHUNKS:,} chunks, in seconds of processor time", 15, many.processor),
        ("rename: peak memory above that of `current`, in MB", 64, renamed.peak - current.peak),
    ]
    lines = [
        "# Distributed checkpoints, measured",
        "",
        f"A folder of {GIGABYTES:.3g} GB with {TENSORS} tensors in 8 files; medians of {repeat} runs in turns; "
        f"{os.cpu_count()} cores, Python {platform.python_version()}. "
        "A rename and a fuse make no file of tensors, which is checked.",
        "`make bench-formats` writes this file.",
        "",
        *table(measured),
        "",
        *bars(limits),
        "",
    ]
    (HERE / "DISTRIBUTED.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
