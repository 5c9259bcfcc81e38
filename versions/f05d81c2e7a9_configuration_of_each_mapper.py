"""encoders and decoders by name, in the configuration

anemoi-models 0.19.0 takes several encoders and decoders, each with its datasets, and adds up what encoders make; each part has its
number of channels. What was said once for all datasets is said for each: the skip connection, bounds, the mask of the output.

Revision ID: f05d81c2e7a9
Revises: c4e1937d0fa6
Create Date: 2026-11-25 00:00:00+00:00
"""

from typing import Any

from anemoi_ckpt_migrate import CkptType, MigrationMetadata, Refused, items, op
from anemoi_ckpt_migrate.anemoi.targets import refuse_ended

revision = "f05d81c2e7a9"
down_revision = "c4e1937d0fa6"
branch_labels = None
depends_on = None

metadata = MigrationMetadata(versions={"migration": "1.0.0", "anemoi-models": "0.19.0"})


def known(ckpt: CkptType) -> list[op.Operation]:
    """Refuse models of classes that end here."""
    refuse_ended(ckpt, "0.19.0")
    return []


def known_before(ckpt: CkptType) -> list[op.Operation]:
    """Refuse nothing: what begins here is refused below."""
    return []


operations = [
    op.Derive("known", "known_before"),
    op.At(
        ["hyper_parameters.config", "hyper_parameters.metadata.config"],
        [
            op.Rewrite("by_name", "in_one", "model", optional=True),
        ],
        records={"anemoi-metadata/anemoi.json": "config", "anemoi-metadata/ai-models.json": "config"},
        optional=True,
    ),
]

CONFIG = "hyper_parameters.config"
BY_DATASET = ("residual", "output_mask", "bounding")
ENCODER = {"dataset_fusing_strategy": "not_supported"}
# What decoders were always given of the dataset: what its encoder was given.
DECODER = {"target_node_features": ["encoded_data"]}
AGGREGATOR = {"_target_": "anemoi.models.layers.aggregator.SumAggregator"}


def by_name(model: dict[str, Any], ckpt: CkptType) -> dict[str, Any]:
    """Give each dataset an encoder and a decoder, and say of each what was said of all."""
    names = datasets(ckpt)
    if "encoder" in model and "decoder" in model:
        encoder, decoder = (model.pop(part) for part in ("encoder", "decoder"))
        if hierarchical(model):
            # Swapped, as the names of their parameters: up goes to coarser nodes, as encoders do. Levels differ in channels.
            model["upscale_mapper"], model["downscale_mapper"] = dict(encoder), dict(decoder)
        encoder, decoder = channels(encoder, model), channels(decoder, model)
        model["encoders"] = {name: {"source_datasets": [name], **ENCODER, "mapper": dict(encoder)} for name in names}
        model["decoders"] = {name: {"target_datasets": [name], **DECODER, "mapper": dict(decoder)} for name in names}
        model.setdefault("latent_aggregator", AGGREGATOR)
    if "processor" in model and not hierarchical(model):
        model["processor"] = channels(model["processor"], model)
    for part in BY_DATASET:
        if model.get(part) and not (isinstance(model[part], dict) and "datasets" in model[part]):
            model[part] = {"datasets": {name: model[part] for name in names}}
    if "trainable_parameters" in model:
        by_node(model, names)
    return model


def in_one(model: dict[str, Any], ckpt: CkptType) -> dict[str, Any]:
    """Say of all what is said of each, if it is the same."""
    names = datasets(ckpt)
    for part, kind, keys in (("encoder", "source_datasets", ENCODER), ("decoder", "target_datasets", DECODER)):
        if f"{part}s" in model:
            each = model.pop(f"{part}s")
            refuse_other_names(part, {name: one.get(kind) for name, one in each.items()})
            if any(one.get(key, value) != value for one in each.values() for key, value in keys.items()):
                raise Refused(f"before anemoi-models 0.19.0 no {part} had other than {keys}")
            model[part] = same(f"{part}s", [one["mapper"] for one in each.values()])
    if model.pop("latent_aggregator", AGGREGATOR) != AGGREGATOR:
        raise Refused("before anemoi-models 0.19.0, what several encoders make was added up")
    for mapper, part in (("upscale_mapper", "encoder"), ("downscale_mapper", "decoder")):
        if mapper in model:
            same(f"{part}s and {mapper}", [without_channels(model.pop(mapper)), without_channels(model.get(part, {}))])
    in_one_width(model)
    for part in BY_DATASET:
        if isinstance(model.get(part), dict) and "datasets" in model[part]:
            model[part] = same(part, list(model[part]["datasets"].values()))
    if "node_trainable_parameters" in model or "edge_trainable_parameters" in model:
        by_kind(model, names)
    return model


def datasets(ckpt: CkptType) -> list[str]:
    """Return what datasets are called."""
    return [str(name) for name in items.keys(ckpt, f"{CONFIG}.data.datasets")] or ["data"]


def hierarchical(model: dict[str, Any]) -> bool:
    """Tell whether a model has several levels of hidden nodes."""
    return "Hierarchical" in str(model.get("model", {}).get("_target_"))


def refuse_other_names(part: str, named: dict[str, Any]) -> None:
    """Refuse encoders or decoders that are not called as their one dataset."""
    for name, sources in named.items():
        if sources != [name]:
            raise Refused(
                f"{part} {name!r} is for {', '.join(map(repr, sources or ()))}, and before anemoi-models 0.19.0 each dataset "
                f"has one {part}, under its own name: go on with it in a release from 0.19.0 on"
            )


# How many channels, and trainable parameters.


def channels(part: dict[str, Any], model: dict[str, Any]) -> dict[str, Any]:
    """Say how many channels a part has, which the model said."""
    return {"num_channels": model["num_channels"], **part} if "num_channels" in model else part


def without_channels(part: dict[str, Any]) -> dict[str, Any]:
    """Return what is said of a part, but for how many channels it has."""
    return {key: value for key, value in part.items() if key != "num_channels"}


def in_one_width(model: dict[str, Any]) -> None:
    """Say how many channels the model has, which each part said."""
    parts = [part for part in ("encoder", "processor", "decoder") if "num_channels" in model.get(part, {})]
    if parts:
        model["num_channels"] = same("num_channels", [model[part]["num_channels"] for part in parts])
        model.update({part: without_channels(model[part]) for part in parts})


def by_node(model: dict[str, Any], names: list[str]) -> None:
    """Say how many trainable parameters each kind of nodes has, which was said of all of data and of all hidden ones."""
    sizes = model.pop("trainable_parameters")
    hidden = levels(model)
    nodes = {**dict.fromkeys(hidden, sizes.pop("hidden", None)), **dict.fromkeys(names, sizes.pop("data", None))}
    model["node_trainable_parameters"] = {name: size for name, size in nodes.items() if size is not None}
    edges = {name: size for name, size in sizes.items() if name not in nodes}
    if edges:
        model["edge_trainable_parameters"] = edges


def by_kind(model: dict[str, Any], names: list[str]) -> None:
    """Say of all nodes of data, and of all hidden ones, how many trainable parameters they have, if it is the same."""
    nodes, edges = (model.pop(f"{kind}_trainable_parameters", None) or {} for kind in ("node", "edge"))
    sizes = {"data": [nodes.get(name, 0) for name in names], "hidden": [nodes.get(name, 0) for name in levels(model)]}
    model["trainable_parameters"] = {
        **edges,
        **{kind: same(f"trainable parameters of {kind} nodes", each) for kind, each in sizes.items()},
    }


def levels(model: dict[str, Any]) -> list[str]:
    """Return what hidden nodes are called."""
    named = model.get("model", {}).get("hidden_nodes_name", "hidden")
    return [named] if isinstance(named, str) else list(named)


def same(what: str, values: list[Any]) -> Any:
    """Return what is said of each, if it is the same of all."""
    if any(value != values[0] for value in values):
        raise Refused(f"before anemoi-models 0.19.0 there is one configuration of {what}, and here they differ")
    return values[0]
