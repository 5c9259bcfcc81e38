"""Shared by tests: distributed checkpoints, saved and loaded by torch in one process or in several with gloo."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

from tests.support.operations import New, Old, batches, equal, train
from tests.support.ranks import Ranks


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-2, foreach=False)


def make(kind: type[nn.Module] = Old, seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = kind()
    return model, adamw(model)


def state(model: nn.Module, optimizer: torch.optim.Optimizer, flat: bool = False) -> dict[str, Any]:
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    weights, moments = get_state_dict(model, optimizer, options=options)
    return {"model": weights, "optimizer": moments, "epoch": 3, "note": ("as saved", 1)}


def save(content: Any, folder: Path, **options: Any) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(content, checkpoint_id=folder, **options)
    return folder


def save_trained(folder: Path, flat: bool = False) -> Path:
    """Save a model and its optimizer after some steps, from one process."""
    model, optimizer = make()
    train(model, optimizer, batches(4))
    return save(state(model, optimizer, flat), folder)


def as_one_file(folder: Path) -> Any:
    """Return the content, as torch's own converter writes it into one file."""
    file = folder.with_name(f"{folder.name}.as_one_file.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp_to_torch_save(folder, file)
    return torch.load(file, weights_only=False)


def load_into(folder: Path, kind: type[nn.Module], flat: bool = False) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Load a folder into a new model and its optimizer, strictly, as training that resumes does."""
    model, optimizer = make(kind, seed=1)
    content = state(model, optimizer, flat)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.load(content, checkpoint_id=folder)
    options = StateDictOptions(flatten_optimizer_state_dict=flat, strict=True)
    set_state_dict(
        model,
        optimizer,
        model_state_dict=content["model"],
        optim_state_dict=content["optimizer"],
        options=options,
    )
    return model, optimizer


def data_files(folder: Path) -> dict[str, tuple[str, int, int]]:
    """Return the digest, the inode and the time of change of each file of tensors that torch wrote."""
    return {
        path.name: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_ino, path.stat().st_mtime_ns)
        for path in folder.glob("__*_*.distcp")
        if "ckpt_migrate" not in path.name
    }


def new_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("__ckpt_migrate_*"))


def run_ranks(ranks: Ranks, count: int, what: str, folder: Path) -> None:
    """Run one of the functions below on several processes, which speak to each other by gloo."""
    ranks.run(count, "tests.support.distributed:on_rank", what, folder, folder=folder.parent)


def on_rank(what: str, folder: str) -> None:
    """Run it, as one of them."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    _RUNS[what](Path(folder))
    dist.destroy_process_group()


def _sharded(kind: type[nn.Module], seed: int, columns: bool = False) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Return a model whose weights are spread over all processes: by rows (FSDP2), or by columns (as DTensors)."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Shard, distribute_tensor

    torch.manual_seed(seed)
    model, mesh = kind(), init_device_mesh("cpu", (dist.get_world_size(),))
    if columns:
        for module in model.modules():
            if isinstance(module, nn.Linear):
                weight = distribute_tensor(module.weight.detach(), mesh, [Shard(1)])
                module.weight = nn.Parameter(weight)
    else:
        fully_shard(model, mesh=mesh)
    return model, adamw(model)


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, value: float = 0.5) -> None:
    """Change all weights and moments without a forward pass, the same on all processes."""
    for number, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, value + number)
    optimizer.step()


def save_rows(folder: Path) -> None:
    model, optimizer = _sharded(Old, 0)
    _step(model, optimizer)
    save(state(model, optimizer), folder)


def save_columns(folder: Path) -> None:
    model, optimizer = _sharded(Old, 0, columns=True)
    _step(model, optimizer)
    save(state(model, optimizer), folder)


def save_uneven(folder: Path) -> None:
    """Save tensors of which the last process has less than the others, or nothing."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    tensors = {"one": torch.ones(1, 2), "three": torch.arange(6.0).reshape(3, 2), "none": torch.ones(0, 2)}
    save({name: distribute_tensor(value, mesh, [Shard(0)]) for name, value in tensors.items()}, folder)


def load_new(folder: Path) -> None:
    """Load a migrated folder into the new model, spread over the processes, and save it as one process would see it."""
    model, optimizer = _sharded(New, 1)
    content = state(model, optimizer)
    dcp.load(content, checkpoint_id=folder)
    set_state_dict(model, optimizer, model_state_dict=content["model"], optim_state_dict=content["optimizer"])
    options = StateDictOptions(full_state_dict=True)
    weights, moments = get_state_dict(model, optimizer, options=options)
    if dist.get_rank() == 0:
        torch.save({"model": weights, "optimizer": moments}, folder.with_name(f"{folder.name}.loaded.pt"))


_RUNS: dict[str, Callable[[Path], None]] = {
    each.__name__: each for each in (save_rows, save_columns, save_uneven, load_new)
}


def equal_unordered(one: Any, other: Any) -> bool:
    """Compare two trees; the order of keys does not count."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal_unordered(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal_unordered, one, other))
    return equal(one, other)


def run_lightning(ranks: Ranks, folder: Path, *words: object) -> None:
    ranks.run(2, "tests.support.distributed_lightning:main", folder, *words, folder=folder.parent)
