"""Measure a rename in the metadata of large distributed checkpoints beside the same by hand, and write METADATA.md.

    make bench-formats                   # CHUNKS=100000, and three times as many; 5 runs
    CHUNKS=1000 make bench-formats       # see that it runs

The metadata are of tensors with one chunk, and of tensors with fifty. By hand, that is `read_metadata` of torch, new
names in all three maps, and `pickle.dump`; nothing is checked, and no record is kept. Each row is a process of its own,
and rows run in turns.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from pathlib import Path

from format_project import PROGRAM, RENAME, SCRATCH, write_script
from measuring import Row, bars, in_turns, table

HERE = Path(__file__).parent
CHUNKS, TIMES = int(os.environ.get("CHUNKS") or 100_000), 3
UPGRADE = "`ckpt-migrate upgrade`"
SHAPES = {"one": 1, "fifty": 50}  # chunks of a tensor
MAKE = """
import os, sys, pickle, torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import *
folder, count, chunks, ranks = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), 8
tensors, paths, files, ends = {}, {}, {}, [0] * ranks
for i in range(count):
    name = f"layers.{i}.weight"
    boxes = [ChunkStorageMetadata(torch.Size([c * 128, 0]), torch.Size([128, 1024])) for c in range(chunks)]
    tensors[name] = TensorStorageMetadata(TensorProperties(torch.float32), torch.Size([128 * chunks, 1024]), boxes)
    paths[name] = (name,)
    for c, box in enumerate(boxes):
        rank = (i + c) % ranks
        files[MetadataIndex(name, box.offsets, c)] = _StorageInfo(f"__{rank}_0.distcp", ends[rank], 1000)
        ends[rank] += 1000
os.mkdir(folder)
with open(f"{folder}/.metadata", "wb") as file:
    pickle.dump(Metadata(tensors, paths, files, StorageMeta(folder), "1.0.0"), file)
for rank, end in enumerate(ends):  # the content is not read, but the last archive in each file begins and ends as one
    with open(f"{folder}/__{rank}_0.distcp", "wb") as file:
        file.seek(end - 1000)
        file.write(b"PK\\3\\4" + bytes(1000 - 26) + b"PK\\5\\6" + bytes(18))
"""
BY_HAND = """
import os, pickle, sys
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import MetadataIndex
folder = sys.argv[1]
found = FileSystemReader(folder).read_metadata()
new = lambda name: name.replace("layers.", "blocks.")
found.state_dict_metadata = {new(name): each for name, each in found.state_dict_metadata.items()}
found.planner_data = {new(name): tuple(map(new, path)) for name, path in found.planner_data.items()}
found.storage_data = {
    MetadataIndex(new(index.fqn), index.offset, index.index): place for index, place in found.storage_data.items()
}
with open(f"{folder}/.metadata.new", "wb") as file:
    pickle.dump(found, file)
    file.flush()
    os.fsync(file.fileno())
os.replace(f"{folder}/.metadata.new", f"{folder}/.metadata")
"""
CHECK = """
import pickle, sys
found = pickle.load(open(f"{sys.argv[1]}/.metadata", "rb"))
assert all(name.startswith("blocks.") for name in found.state_dict_metadata)
assert found.state_dict_metadata.keys() == found.planner_data.keys() == {index.fqn for index in found.storage_data}
assert len(found.storage_data) == int(sys.argv[2])
"""


def rows(folder: Path, sizes: dict[str, int]) -> list[Row]:
    """Return what is measured."""
    python = [sys.executable, "-c"]
    old = {name: (folder / name / ".metadata").read_bytes() for name in sizes}

    def restore() -> None:
        """Put the folders back to what torch wrote."""
        for name, metadata in old.items():
            for path in (folder / name).glob(".metadata.bak*"):
                path.unlink()
            (folder / name / ".metadata").write_bytes(metadata)

    found = []
    for name, count in sizes.items():
        what, check = shown(name, count), [*python, CHECK, name, str(count)]
        if count == CHUNKS:  # three times as many would take minutes
            found.append(Row(f"{what}: by hand", [*python, BY_HAND, name], check, restore))
        found.append(Row(f"{what}: {UPGRADE}", [PROGRAM, "upgrade", "head", name], check, restore))
    torch = Row("`import torch.distributed.checkpoint`", [*python, "import torch.distributed.checkpoint"])
    return [torch, Row("`ckpt-migrate heads`", [PROGRAM, "heads"]), *found]


def shown(name: str, count: int) -> str:
    """Return the words for a folder."""
    shape = name.partition("_")[0]
    return f"{count:,} chunks, {shape} a tensor"


def main() -> None:
    """Measure, and write the table."""
    repeat = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    sizes = {f"{shape}_{times}": CHUNKS * times for shape in SHAPES for times in (1, TIMES)}
    with tempfile.TemporaryDirectory(dir=SCRATCH) as scratch:
        folder = Path(scratch)
        os.chdir(folder)
        (folder / "versions").mkdir()
        (folder / "ckpt-migrate.toml").write_text('versions = "versions"\n')
        write_script(folder, RENAME)
        for name, count in sizes.items():
            chunks = SHAPES[name.partition("_")[0]]
            words = [sys.executable, "-c", MAKE, name, str(count // chunks), str(chunks)]
            if os.spawnv(os.P_WAIT, sys.executable, words):
                raise SystemExit("the folder could not be made")
        measured = in_turns(rows(folder, sizes), repeat, folder)
    _, base, *found = measured
    by_name = dict(zip(sizes, (row for row in found if row.name.endswith(UPGRADE)), strict=True))
    limits = []
    for shape in SHAPES:
        small, large = by_name[f"{shape}_1"], by_name[f"{shape}_{TIMES}"]
        what = shown(shape, CHUNKS)
        limits += [
            (f"{what}: seconds", 6, small.time),
            (f"{what}: seconds of processor time", 6, small.processor),
            (f"{TIMES} times as many: times as many seconds of processor time", 3.5, large.processor / small.processor),
            (f"{what}: KB of memory for each", 2, (small.peak - base.peak) * 1024 / CHUNKS),
        ]
    lines = [
        "# Metadata of distributed checkpoints, measured",
        "",
        f"A rename of all tensors; medians of {repeat} runs in turns; {os.cpu_count()} cores, "
        f"Python {platform.python_version()}. By hand: `FileSystemReader.read_metadata`, new names, `pickle.dump`. "
        "The new metadata of both are checked with torch. `make bench-formats` writes this file.",
        "",
        *table(measured),
        "",
        *bars(limits),
        "",
    ]
    (HERE / "METADATA.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
