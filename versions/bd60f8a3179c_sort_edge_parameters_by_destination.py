"""sort edge parameters by destination

The providers of anemoi-models 0.16.0 sort edges by the node that they lead to, edges to one node in the order in which
they stand in the graph. The trainable parameters of edges, one row for each, are saved in that order too, and
``trainable_layout_version`` says so. What the optimizer remembers of a row goes with it.

A model has the version, and no parameters, where these are switched off; it has neither where the graph has no such
edges, as for transformers.

These are functions, because the order of the rows is as long as the graph has edges, too long for a record, and follows from the graph.

Revision ID: bd60f8a3179c
Revises: a95c2e71d8b4
Create Date: 2026-11-25 00:00:00+00:00
"""

import re
from typing import Any

from anemoi_ckpt_migrate import CkptType, MigrationMetadata

revision = "bd60f8a3179c"
down_revision = "a95c2e71d8b4"
branch_labels = None
depends_on = None

metadata = MigrationMetadata(versions={"migration": "1.0.0", "anemoi-models": "0.16.0"})
# Releases 0.16.0 and 0.17.0 have another text of it, which does the same.
known_as = {
    "1779202136_trainable_edge_perm_fix": {
        "3.9": "cb50507d506d892d95c954aba2c5e1b9933b58a1263494d0e804265a91855708",
        "3.12": "82e57596dcc217ee93666866b2e79c34505bf512e2da562e5d5dc00cedd40f1f",
        "3.13": "f768c58cbe9f1237cc8430bbbb6c6850ae2c5906dc6d9e98413d525f1743aaee",
        "0.16.0 under 3.9": "794588aa3293a008310212f81c061c990fb1fe321ee0dfa26ff1c5f8551adae0",
        "0.16.0 under 3.12": "e6f9d6babe015cbd99d73c28536196afdcd7a26432566fa16c3a185a9e50dfca",
        "0.16.0 under 3.13": "9cf6643651376676c7bf79b0e01dbaa08b2fa9dd94fe0336f7728028c42baa0d",
    },
}

MODEL = "model.model."
VERSION = "trainable_layout_version"
TRAINABLE = "trainable.trainable"
PART = re.compile(
    r"model\.model\.(?:(processor)|(encoder|decoder)\.([^.]+)"
    r"|(downscale|upscale|down_level_processor|up_level_processor)\.([^.]+))\."
)
BUFFERS = {"_norm_mul", "_norm_add", "_input_idx", "_output_idx", "_model_output_idx", "norm_min_val", VERSION}


def migrate(ckpt: CkptType) -> CkptType:
    """Sort them, and note it."""
    import torch

    if any(key.endswith(f".{VERSION}") for key in ckpt["state_dict"]):
        raise ValueError("this checkpoint is of a later release: stamp it with that")
    for provider, edges in providers(ckpt).items():
        order = edges[1].sort(stable=True).indices
        reorder(ckpt, f"{provider}{TRAINABLE}", order)
        for copy in copies(ckpt):
            add(copy, provider, torch.tensor(1))
    return ckpt


def rollback(ckpt: CkptType) -> CkptType:
    """Have them stand in the order of the graph again."""
    for provider, edges in providers(ckpt).items():
        for copy in copies(ckpt):
            copy.pop(f"{provider}{VERSION}", None)
        order = edges[1].sort(stable=True).indices
        reorder(ckpt, f"{provider}{TRAINABLE}", order.sort().indices)
    return ckpt


def copies(ckpt: CkptType) -> list[dict[str, Any]]:
    """Return the state dict, and copies of it."""
    names = list(ckpt["state_dict"])
    return [value for value in ckpt.values() if isinstance(value, dict) and list(value) == names]


def add(copy: dict[str, Any], provider: str, value: Any) -> None:
    """Add the version of a provider where a model has it: before what is trained, or where the provider is."""
    items = list(copy.items())
    items.insert(place(list(copy), provider), (f"{provider}{VERSION}", value))
    copy.clear()
    copy.update(items)


def place(names: list[str], provider: str) -> int:
    """Return where a provider is: before the parts that it is for, or behind them at the levels of hierarchical models."""
    if f"{provider}{TRAINABLE}" in names:
        return names.index(f"{provider}{TRAINABLE}")
    kind = provider.removeprefix(MODEL).partition("_graph_provider")[0]
    own = [number for number, name in enumerate(names) if name.startswith(f"{MODEL}{kind}.")]
    if f"{kind}_graph_providers." not in provider:
        return own[0]
    before = [number for number, name in enumerate(names) if name.startswith(f"{MODEL}{kind}_graph_providers.")]
    return max(own + before) + 1


# Where edges are.


def providers(ckpt: CkptType) -> dict[str, Any]:
    """Return the edges of each provider of the model that has some."""
    names = list(ckpt["state_dict"])
    graph = ckpt["hyper_parameters"].get("graph_data")
    graphs = graph if isinstance(graph, dict) else {None: graph}
    found: dict[str, Any] = {}
    for part in filter(None, map(PART.match, names)):
        provider = provider_of(part)
        if provider not in found:
            own = graphs.get(part[3], next(iter(graphs.values())))
            if own is None:
                raise ValueError("the checkpoint holds no graph (graph_data), by which edges could be sorted")
            store = own._edge_store_dict.get(ends(part, names, own))
            found[provider] = None if store is None else store._mapping.get("edge_index")
    for key in names:
        provider = key.removesuffix(TRAINABLE)
        if provider != key and found.get(provider) is None and "node_attributes" not in key:
            raise ValueError(f"the graph has no edges for {key}")
    return {provider: edges for provider, edges in found.items() if edges is not None}


def provider_of(part: "re.Match[str]") -> str:
    """Return what the provider of a part is called."""
    if part[1]:
        return f"{MODEL}{part[1]}_graph_provider."
    if part[2]:
        return f"{MODEL}{part[2]}_graph_provider.{part[3]}."
    return f"{MODEL}{part[4]}_graph_providers.{part[5]}."


def ends(part: "re.Match[str]", names: list[str], graph: Any) -> tuple[str, str, str]:
    """Return between which nodes the edges of a part go, as the graph has them.

    Nodes are those of datasets and hidden ones. Hierarchical models have several of these, from the finest, each with
    a way down but for the coarsest.
    """
    inner = [name.split(".")[3] for name in names if name.startswith(f"{MODEL}downscale.")]
    down = list(dict.fromkeys(inner))
    data = {"data", *(name.split(".")[3] for name in names if name.startswith(f"{MODEL}encoder."))}
    hidden = [*down, *(name for name in graph._node_store_dict if name not in data and name not in down)]
    if len(hidden) != (len(down) + 1 if down else 1):
        raise ValueError(f"the graph has nodes {', '.join(hidden)}, and it is not known which of them are hidden ones")
    if part[1]:
        return hidden[-1], "to", hidden[-1]
    if part[2]:
        own = part[3] if part[3] in graph._node_store_dict else "data"
        return (own, "to", hidden[0]) if part[2] == "encoder" else (hidden[0], "to", own)
    step = {"downscale": 1, "upscale": -1}.get(part[4], 0)
    return part[5], "to", hidden[hidden.index(part[5]) + step]


# What is to be sorted.


def reorder(ckpt: CkptType, key: str, order: Any) -> None:
    """Put the rows of a parameter in an order, and those of what optimizers remember of it, where there is one."""
    before = ckpt["state_dict"]
    if key not in before:
        return
    rows = tuple(before[key].shape)
    if rows[0] != len(order):
        raise ValueError(f"{key} has {rows[0]} rows, and the graph {len(order)} such edges")
    if order.tolist() == list(range(len(order))):
        return
    for optimizer in ckpt.get("optimizer_states", []):
        moments = optimizer["state"].get(position(optimizer, before, key), {})
        for name, value in moments.items():
            if name != "step" and tuple(getattr(value, "shape", ())) == rows:
                moments[name] = value[order]
    for copy in copies(ckpt):
        copy[key] = copy[key][order]


def position(optimizer: Any, before: dict[str, Any], key: str) -> "int | None":
    """Return at which position an optimizer has a parameter; None if it is frozen."""
    names = [name for own in remembered(optimizer, parameters(before)) for name in own]
    return names.index(key) if key in names else None


def remembered(optimizer: Any, before: dict[str, Any]) -> list[list[str]]:
    """Return which parameters the groups of an optimizer have: all, or those that are not frozen, as shapes tell."""
    groups, state = optimizer["param_groups"], optimizer["state"]
    numbers = [position for group in groups for position in group["params"]]
    wanted = [[shape(state.get(position)) for position in group["params"]] for group in groups]
    shapes = [set(own) for own in wanted]
    if numbers != list(range(len(numbers))) or sum(map(len, shapes)) != len(set().union(*shapes)):
        raise ValueError("the optimizer has several groups of parameters, and it is not known which is where")
    every = [(key, tuple(value.shape)) for key, value in before.items()]
    found = []
    for own, known in zip(wanted, shapes, strict=True):
        there = [pair for pair in every if len(groups) == 1 or pair[1] in known]
        left, right = matched(own, there), matched(own[::-1], there[::-1])[::-1]
        if left != right or len(left) != len(own):
            raise ValueError("the optimizer has not all parameters, and it cannot be told which of them it has")
        found.append(left)
    return found


def parameters(state_dict: dict[str, Any]) -> dict[str, Any]:
    """Return what of a state dict is a parameter of the model, in order; what is one under two names, once."""
    found = {}
    for key, value in state_dict.items():
        leaf = key.rpartition(".")[2]
        tied = key.replace(".layer_norm_attention_dest.", ".layer_norm_attention.")
        buffer = leaf in BUFFERS or leaf.startswith("latlons_")
        if key.startswith("model.") and not buffer and (tied == key or tied not in state_dict):
            found[key] = value
    return found


def shape(moments: Any) -> "tuple[int, ...] | None":
    """Return the shape of the parameter that moments are of; None if they do not tell."""
    found = {tuple(value.shape) for value in (moments or {}).values() if hasattr(value, "shape")} - {()}
    return found.pop() if len(found) == 1 else None


def matched(wanted: list[Any], there: list[tuple[str, tuple[int, ...]]]) -> list[str]:
    """Return the first names whose shapes fit, in order."""
    found: list[str] = []
    for key, own in there:
        if len(found) < len(wanted) and wanted[len(found)] in (None, own):
            found.append(key)
    return found
