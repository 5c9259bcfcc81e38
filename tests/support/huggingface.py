"""Shared by tests: small folders of Hugging Face, written with the library of safetensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.project import Folder

INDEX = "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def made(folder: Path) -> Path:
    """Make a folder: x.weight in the first shard, z.weight in the second, a config, a README, and a folder in it."""
    import torch
    from safetensors.torch import save_file

    parts = {SHARDS[0]: {"x.weight": torch.arange(12.0)}, SHARDS[1]: {"z.weight": torch.arange(6.0)}}
    folder.mkdir(parents=True)
    for name, tensors in parts.items():
        save_file(tensors, folder / name, metadata={"format": "pt"})
    files = {name: shard for shard, tensors in parts.items() for name in tensors}
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 72}, "weight_map": files}))
    (folder / "config.json").write_text('{"model_type": "none"}')
    (folder / "README.md").write_text("# A model\n")
    (folder / "runs").mkdir()
    (folder / "runs" / "events.log").write_text("step 1\n")
    return folder


def tensors_in(folder: Path) -> dict[str, Any]:
    """Return all tensors of a folder; its index must name exactly these."""
    from safetensors.torch import load_file

    files = json.loads((folder / INDEX).read_bytes())["weight_map"]
    found = {}
    for shard in sorted(folder.glob("*.safetensors")):
        for name, value in load_file(shard).items():
            assert files.pop(name) == shard.name
            found[name] = value
    assert files == {}
    return found


def content(folder: Path) -> dict[str, bytes]:
    """Return the content of all files of a folder, and of the folders in it."""
    return {str(each.relative_to(folder)): each.read_bytes() for each in sorted(folder.rglob("*")) if each.is_file()}


def rename(project: Folder) -> None:
    """Write the script x.weight -> y.weight."""
    project.script("a1", None, 'ckpt["y.weight"] = ckpt.pop("x.weight")', 'ckpt["x.weight"] = ckpt.pop("y.weight")')
