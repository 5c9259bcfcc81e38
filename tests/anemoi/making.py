"""Makes training checkpoints with the classes of one release of anemoi-models, and goes on with those that it gets.

Run with the release on the path (PYTHONPATH), by an interpreter that has what the release needs::

    python making.py make RELEASE DIR VARIANT...           # DIR/RELEASE_VARIANT.ckpt and what it puts out
    python making.py continue RELEASE FILE VARIANT FILE VARIANT...

Beside a checkpoint, ``.output.pt`` holds what its model puts out, and ``.later.ckpt`` is that of one step of training later.
Nothing of ckpt-migrate is imported here.
"""

from __future__ import annotations

import sys
import types
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from rebuilding import plain
from variants import NODES, VARIABLES, VARIANTS, Variant, configuration, number

BATCH, STEPS = 2, 2


def generator(*words: str) -> torch.Generator:
    """Return random numbers that depend on words alone."""
    return torch.Generator().manual_seed(
        sum(position * byte for position, byte in enumerate("".join(words).encode(), 1))
    )


# What a model is made from.


def graph(variant: Variant, nodes: dict[str, str]) -> Any:
    """Return a graph of nodes of data, under some name, and of hidden ones."""
    from torch_geometric.data import HeteroData

    made, hidden = HeteroData(), variant.hidden
    for name, kind in {**nodes, **{level: level for level in hidden}}.items():
        made[name].x = torch.rand(NODES[kind], 2, generator=generator(kind)) * 3 - 1.5
        made[name].node_type = "AnemoiDatasetNodes" if name in nodes else "TriNodes"
        made[name].area_weight = torch.rand(NODES[kind], 1, generator=generator(kind, "area"))
    mapped, processed = variant.follows
    links = [(level, level) for level in hidden] if processed else []
    if mapped:
        links += [pair for one in pairwise(hidden) for pair in (one, one[::-1])]
        links += [pair for name in nodes for pair in ((name, hidden[0]), (hidden[0], name))]
    for one, other in links:
        kinds = nodes.get(one, one), nodes.get(other, other)
        count = 3 * max(NODES[kind] for kind in kinds)
        numbers = generator(*kinds)
        ends = [torch.randint(0, NODES[kind], (count,), generator=numbers) for kind in kinds]
        edges = made[(one, "to", other)]
        edges.edge_index = torch.stack(ends)
        edges.edge_type = "KNNEdges"
        edges.edge_length = torch.rand(count, 1, generator=numbers)
        edges.edge_dirs = torch.rand(count, 2, generator=numbers) - 0.5
    return made


def graphs(variant: Variant, release: str) -> Any:
    """Return the graph as a release keeps it: one of one dataset, one of each dataset, or one of all."""
    if number(release) >= number("0.13"):
        return graph(variant, {name: name for name in variant.datasets})
    each = {name: graph(variant, {"data": name}) for name in variant.datasets}
    return each if number(release) >= number("0.12") else each["data"]


def statistics(dataset: str) -> dict[str, Any]:
    """Return what is known of the values of a dataset."""
    shape = (len(VARIABLES),)
    numbers = generator(dataset, "statistics")
    mean, spread = (torch.rand(shape, generator=numbers).double().numpy() for _ in range(2))
    return {
        "mean": mean,
        "stdev": spread + 0.5,
        "minimum": mean - spread - 1,
        "maximum": mean + spread + 1,
    }


def indices(config: Any, release: str, datasets: tuple[str, ...]) -> Any:
    """Return the data indices as a release keeps them."""
    from anemoi.models.data_indices.collection import IndexCollection
    from omegaconf import OmegaConf

    names = {name: place for place, name in enumerate(VARIABLES)}
    if number(release) < number("0.12"):
        return IndexCollection(OmegaConf.create(config), names)
    each = config["data"]["datasets"]
    return {name: IndexCollection(OmegaConf.create(each[name]), names) for name in datasets}


def hyper_parameters(variant: Variant, release: str) -> dict[str, Any]:
    """Return what a model of a release is made from."""
    config = configuration(variant, release)
    known = {name: statistics(name) for name in variant.datasets}
    tendencies = {name: statistics(f"{name} tendencies") for name in variant.datasets} if variant.tendencies else None
    arrays: dict[str, Any] = {name: {} for name in variant.datasets}
    if number(release) < number("0.12"):
        known, arrays = known["data"], arrays["data"]
        tendencies = None if tendencies is None else tendencies["data"]
    made = {
        "config": in_class(config, release),
        "graph_data": graphs(variant, release),
        "statistics": known,
        "statistics_tendencies": tendencies,
        "data_indices": indices(config, release, variant.datasets),
        "metadata": {
            "version": release,
            "metadata_inference": {
                name: {"timesteps": {"relative_date_indices_training": [0, 1, 2]}} for name in variant.datasets
            },
        },
        "supporting_arrays": arrays,
    }
    if number(release) < number("0.9.2"):
        del made["statistics_tendencies"]
    return {**made, "truncation_data": {}} if number(release) < number("0.11") else made


def in_class(config: dict[str, Any], release: str) -> Any:
    """Return a configuration in the class that a release is given it in."""
    from anemoi.utils.config import DotDict
    from omegaconf import OmegaConf

    return OmegaConf.create(config) if number(release) >= number("0.13") else DotDict(config)


class Training(torch.nn.Module):
    """Stands for what trains a model, whose attribute it is."""

    def __init__(self, variant: Variant, release: str, made_from: dict[str, Any]) -> None:
        from anemoi.models.interface import AnemoiModelInterface

        super().__init__()
        steps = {"n_step_input": STEPS, "n_step_output": 1} if number(release) >= number("0.14") else {}
        self.model = AnemoiModelInterface(**made_from, **steps)
        self.variant, self.release = variant, release

    def put_out(self) -> dict[str, torch.Tensor]:
        """Return what the model makes of inputs that depend on nothing."""
        each = self.model.data_indices
        each = each if isinstance(each, dict) else {"data": each}
        given = {
            name: torch.randn(BATCH, STEPS, 1, NODES[name], len(own.model.input), generator=generator(name, "input"))
            for name, own in each.items()
        }
        torch.manual_seed(7)
        step = {"fcstep": 1} if self.variant.noise else {}
        if number(self.release) < number("0.12"):
            return {"data": self.model.model(given["data"], **step).flatten(1, -3)}
        return {name: value.flatten(1, -3) for name, value in self.model.model(given, **step).items()}


# What training does.


def optimizer(training: Training) -> torch.optim.Optimizer:
    """Return what trains: parameters in order, or in two groups."""
    parameters = list(training.parameters())
    if not training.variant.groups:
        return torch.optim.AdamW(parameters, lr=0.01, eps=1e-4)
    groups = [[each for each in parameters if (each.ndim > 1) == wide] for wide in (True, False)]
    return torch.optim.AdamW(
        [{"params": groups[0], "weight_decay": 0.1}, {"params": groups[1], "weight_decay": 0.0}], lr=0.01, eps=1e-4
    )


def step(training: Training, trains: torch.optim.Optimizer) -> None:
    """Train for one step."""
    training.train()
    trains.zero_grad()
    sum((value - 0.3).square().mean() for value in training.put_out().values()).backward()
    trains.step()


def make(variant: Variant, release: str, path: Path) -> None:
    """Save a checkpoint after one step of training, with weights none of which is as it was first made."""
    made_from = hyper_parameters(variant, release)
    training = Training(variant, release, made_from)
    numbers = generator(path.stem)
    with torch.no_grad():
        for name, parameter in training.named_parameters():
            spread = 0.3 if parameter.ndim == 1 or "trainable" in name else 0.2
            parameter += spread * torch.randn(parameter.shape, generator=numbers)
    trains = optimizer(training)
    step(training, trains)
    checkpoint = {
        "epoch": 0,
        "global_step": 1,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {},
        "loops": {},
        "callbacks": {},
        "optimizer_states": [],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": made_from,
    }
    if number(release) >= number("0.9.4"):  # before, anemoi-models had no migrations
        from anemoi.models.migrations import Migrator

        Migrator().register_migrations(checkpoint)  # as the training of the release does
    save(checkpoint, training, trains, path)
    go_on(checkpoint, training, trains, path)


def save(checkpoint: dict[str, Any], training: Training, trains: torch.optim.Optimizer, path: Path) -> None:
    """Save a checkpoint with the state that a model has now."""
    torch.save({**checkpoint, "state_dict": training.state_dict(), "optimizer_states": [trains.state_dict()]}, path)


def go_on(checkpoint: dict[str, Any], training: Training, trains: torch.optim.Optimizer, path: Path) -> None:
    """Save what a model puts out, and what a checkpoint of it is one step later."""
    training.eval()
    with torch.no_grad():
        torch.save(training.put_out(), path.with_suffix(".output.pt"))
    step(training, trains)
    save(checkpoint, training, trains, path.with_suffix(".later.ckpt"))


def load(variant: Variant, release: str, path: Path) -> None:
    """Load a checkpoint, strictly, into the model of this release that its configuration says, and go on with it."""
    from anemoi.models.migrations import migrator

    if not hasattr(migrator, "_SerializedRollback"):  # what releases up to 0.12 put into checkpoints
        migrator._SerializedRollback = bytes
    checkpoint = torch.load(path, weights_only=False)
    kept, own = checkpoint["hyper_parameters"], hyper_parameters(variant, release)
    made_from = {name: own[name] if name == "metadata" else kept[name] for name in own}
    # Left to users: options that releases before 0.12 do not know, and attributes of edges that no part follows.
    known = number(release) >= number("0.12") and not variant.needless
    made_from["config"] = in_class(plain(kept["config"]), release) if known else own["config"]
    training = Training(variant, release, made_from)
    training.load_state_dict(checkpoint["state_dict"], strict=True)
    trains = optimizer(training)
    trains.load_state_dict(checkpoint["optimizer_states"][0])
    go_on({"hyper_parameters": kept}, training, trains, path)


def without_triton() -> None:
    """Have a release that imports triton, and does not need it here, find an empty one."""
    import torch._dynamo  # noqa: F401
    import torch_geometric.data  # noqa: F401 - both look for it too, and have to find none

    triton, language = types.ModuleType("triton"), types.ModuleType("triton.language")
    triton.jit = lambda function: function  # type: ignore[attr-defined]
    language.constexpr = int  # type: ignore[attr-defined]
    triton.language = language  # type: ignore[attr-defined]
    sys.modules.update({"triton": triton, "triton.language": language})


def main(what: str, release: str, *words: str) -> None:
    """Do what the command line says."""
    torch.set_num_threads(1)
    if release in ("0.11.0", "0.11.1", "0.11.2"):
        without_triton()
    if what == "make":
        for name in words[1:]:
            make(VARIANTS[name], release, Path(words[0]) / f"{release}_{name}.ckpt")
    else:
        for path, name in zip(words[::2], words[1::2], strict=True):
            load(VARIANTS[name], release, Path(path))


if __name__ == "__main__":
    main(*sys.argv[1:])
