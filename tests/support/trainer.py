"""Shared by tests: small models of transformers, and folders as its Trainer and accelerate write them.

`saved` needs neither: the same files, by torch and safetensors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.trainer_pt_utils import get_parameter_names

WIDTH = 8
DECAY = ["q.weight", "k.weight", "v.weight", "spare.weight", "out.weight"]
NO_DECAY = ["q.bias", "k.bias", "v.bias", "spare.bias", "norm.weight", "norm.bias", "out.bias"]
GROUPS = f"op.ParameterGroups({[DECAY, NO_DECAY]})"
FUSED = 'op.Fuse(["q.{i}", "k.{i}", "v.{i}"], "qkv.{i}")'
CHANGES = (
    FUSED,
    'op.RenamePrefix("out.", "proj.")',
    'op.Drop("spare.weight", keep=True)',
    'op.Drop("spare.bias", keep=True)',
)
"""From `Old` to `New`."""
# Source: `Trainer.get_decay_parameter_names` of transformers (5.24).
_NO_DECAY = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]


class Config(PretrainedConfig):
    model_type = "small"


class Old(PreTrainedModel):
    """Attention in three layers, a norm, and a layer that will be dropped."""

    config_class = Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.q = nn.Linear(WIDTH, WIDTH)
        self.k = nn.Linear(WIDTH, WIDTH)
        self.v = nn.Linear(WIDTH, WIDTH)
        self.spare = nn.Linear(WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.post_init()

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        y = self.out(self.norm(torch.sigmoid(self.q(x)) * self.k(x) + self.v(x) + self.spare(x)))
        return _answer(y, labels)


class New(PreTrainedModel):
    """One layer for the three, and none to spare."""

    config_class = Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.proj = nn.Linear(WIDTH, WIDTH)
        self.post_init()

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        q, k, v = self.qkv(x).chunk(3, -1)
        return _answer(self.proj(self.norm(torch.sigmoid(q) * k + v)), labels)


def _answer(y: torch.Tensor, labels: torch.Tensor | None) -> dict[str, torch.Tensor]:
    return {"logits": y} if labels is None else {"loss": (y - labels).square().mean(), "logits": y}


def model(kind: type[Any] = Old, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return kind(Config())


def batches(count: int, seed: int = 1) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [{each: torch.randn(WIDTH, generator=generator) for each in ("x", "labels")} for _ in range(count)]


def optimizer_of(model: Any, groups: int = 2) -> Any:
    """AdamW with the groups of the Trainer, or with one for all."""
    if groups == 1:
        return torch.optim.AdamW(model.parameters(), lr=0.01)
    decayed = get_parameter_names(model, [nn.LayerNorm], _NO_DECAY)
    sides: tuple[list[Any], list[Any]] = ([], [])
    for name, value in model.named_parameters():
        sides[name not in decayed].append(value)
    options = ({"weight_decay": 0.1}, {"weight_decay": 0.0})
    return torch.optim.AdamW([{"params": own, **option} for own, option in zip(sides, options, strict=True)], lr=0.01)


def trained(model: Any, optimizer: Any, steps: Sequence[dict[str, torch.Tensor]], scheduler: Any = None) -> None:
    for batch in steps:
        model(**{name: value[None] for name, value in batch.items()})["loss"].backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        optimizer.zero_grad()


def saved(folder: Path, weights: str = "safetensors", ending: str = "pt", groups: int = 2) -> Path:
    """Train `Old` for two steps, and save all as a trainer does.

    Parameters
    ----------
    weights : str
        ``safetensors`` or ``bin``; with ``sharded`` before it, in several files.
    ending : str
        ``pt`` as the Trainer, ``bin`` as accelerate.
    """
    made = model()
    optimizer = optimizer_of(made, groups)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer)
    trained(made, optimizer, batches(2), scheduler)
    folder.mkdir(parents=True)
    made.config.save_pretrained(folder)
    content = {name: value.contiguous() for name, value in made.state_dict().items()}
    names = list(content)
    halves = [names[:7], names[7:]] if weights.startswith("sharded") else [names]
    last = weights.removeprefix("sharded ")
    stem = "model" if last == "safetensors" else "pytorch_model"
    files = [
        f"{stem}-{n + 1:05}-of-{len(halves):05}.{last}" if len(halves) > 1 else f"{stem}.{last}"
        for n in range(len(halves))
    ]
    for file, own in zip(files, halves, strict=True):
        part = {name: content[name] for name in own}
        if last == "bin":
            torch.save(part, folder / file)
        else:
            from safetensors.torch import save_file

            save_file(part, folder / file, metadata={"format": "pt"})
    if len(halves) > 1:
        where = {name: file for file, own in zip(files, halves, strict=True) for name in own}
        total = sum(value.nbytes for value in content.values())
        (folder / f"{stem}.{last}.index.json").write_text(
            json.dumps({"metadata": {"total_size": total}, "weight_map": where})
        )
    torch.save(optimizer.state_dict(), folder / f"optimizer.{ending}")
    torch.save(scheduler.state_dict(), folder / f"scheduler.{ending}")
    if ending == "pt":
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": 2, "log_history": []}, indent=2) + "\n")
        torch.save({"python": None}, folder / "rng_state.pth")
        torch.save({"learning_rate": 0.01}, folder / "training_args.bin")
    else:
        torch.save({"sampler": 1}, folder / "sampler.bin")
        (folder / "random_states_0.pkl").write_bytes(b"\x80\x04N.")
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """All weights of a folder."""
    from safetensors.torch import load_file

    found: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*model*.safetensors")):
        found |= load_file(file)
    for file in sorted(folder.glob("pytorch_model*.bin")):
        found |= torch.load(file, weights_only=True)
    return found


def optimizer_in(folder: Path) -> Any:
    (file,) = folder.glob("optimizer.*")
    return torch.load(file, weights_only=True)


def same(one: Any, other: Any) -> bool:
    """Whether two trees are equal, bit for bit."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(each, other[key]) for key, each in one.items())
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def fused(values: dict[str, Any], join: Callable[[list[Any]], Any] = torch.cat) -> dict[str, Any]:
    """By hand: values of parameters by name, from those of `Old` to those of `New`."""
    made = {f"qkv.{leaf}": join([values[f"{part}.{leaf}"] for part in "qkv"]) for leaf in ("weight", "bias")}
    made |= {name: values[name] for name in ("norm.weight", "norm.bias")}
    return made | {f"proj.{leaf}": values[f"out.{leaf}"] for leaf in ("weight", "bias")}


def by_hand(content: dict[str, Any]) -> dict[str, Any]:
    """By hand: the state of the Trainer's optimizer, from that of `Old` to that of `New`."""
    named = dict(zip([*DECAY, *NO_DECAY], content["state"].values(), strict=True))

    def join(parts: list[Any]) -> Any:
        return {
            key: torch.cat([part[key] for part in parts]) if parts[0][key].ndim else parts[0][key] for key in parts[0]
        }

    new = fused(named, join)
    order = ["qkv.weight", "proj.weight", "qkv.bias", "norm.weight", "norm.bias", "proj.bias"]
    groups = [
        {**group, "params": params}
        for group, params in zip(content["param_groups"], ([0, 1], [2, 3, 4, 5]), strict=True)
    ]
    return {"state": {place: new[name] for place, name in enumerate(order)}, "param_groups": groups}


def content_of(folder: Path) -> Iterator[tuple[str, bytes]]:
    """All files of a folder, and of the folders in it, with their content."""
    return ((str(each.relative_to(folder)), each.read_bytes()) for each in sorted(folder.rglob("*")) if each.is_file())
