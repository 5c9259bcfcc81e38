"""encoders and decoders by name, in the configuration

anemoi-models 0.19.0 takes several encoders and decoders, each with its datasets, and adds up what encoders make; each part has its
number of channels. What was said once for all datasets is said for each: the skip connection, bounds, the mask of the output.

Revision ID: f05d81c2e7a9
Revises: c4e1937d0fa6
Create Date: 2026-11-25 00:00:00+00:00
"""

from typing import Any

from anemoi_ckpt_migrate import CkptType, MigrationMetadata, items, op

revision = "f05d81c2e7a9"
down_revision = "c4e1937d0fa6"
branch_labels = None
depends_on = None

metadata = MigrationMetadata(versions={"migration": "1.0.0", "anemoi-models": "0.19.0"})

operations = [
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
    names = items.keys(ckpt, f"{CONFIG}.data.datasets") or ["data"]
    if "encoder" in model and "decoder" in model:
        parts = [channels(model.pop(part), model) for part in ("encoder", "decoder")]
        model["encoders"] = {name: {"source_datasets": [name], **ENCODER, "mapper": dict(parts[0])} for name in names}
        model["decoders"] = {name: {"target_datasets": [name], **DECODER, "mapper": dict(parts[1])} for name in names}
        model.setdefault("latent_aggregator", AGGREGATOR)
        if "Hierarchical" in str(model.get("model", {}).get("_target_")):
            # Swapped, as the names of their parameters: up goes to coarser nodes, as encoders do.
            model["upscale_mapper"], model["downscale_mapper"] = map(dict, parts)
    if "processor" in model:
        channels(model["processor"], model)
    for part in BY_DATASET:
        if model.get(part) and not (isinstance(model[part], dict) and "datasets" in model[part]):
            model[part] = {"datasets": {name: model[part] for name in names}}
    if "trainable_parameters" in model:
        by_nodes(model, names)
    return model


def in_one(model: dict[str, Any], ckpt: CkptType) -> dict[str, Any]:
    """Say of all what is said of each, if it is the same."""
    for part, keys in (("encoder", ENCODER), ("decoder", DECODER)):
        if f"{part}s" in model:
            each = list(model.pop(f"{part}s").values())
            mapper = same(f"{part}s", [one["mapper"] for one in each])
            for key, value in keys.items():
                if any(one.get(key, value) != value for one in each):
                    raise ValueError(f"before 0.19.0 no {part} had {key} other than {value}")
            model[part] = mapper
    if model.pop("latent_aggregator", AGGREGATOR) != AGGREGATOR:
        raise ValueError("before 0.19.0, what several encoders make was added up")
    for part in ("upscale_mapper", "downscale_mapper"):
        model.pop(part, None)
    for part in BY_DATASET:
        if isinstance(model.get(part), dict) and "datasets" in model[part]:
            model[part] = same(part, list(model[part]["datasets"].values()))
    if "node_trainable_parameters" in model or "edge_trainable_parameters" in model:
        by_kind(model, items.keys(ckpt, f"{CONFIG}.data.datasets") or ["data"])
    return model


def channels(part: dict[str, Any], model: dict[str, Any]) -> dict[str, Any]:
    """Say how many channels a part has, which the model said."""
    if "num_channels" in model:
        part.setdefault("num_channels", model["num_channels"])
    return part


def same(what: str, values: list[Any]) -> Any:
    """Return what is said of each dataset, if it is the same of all."""
    if any(value != values[0] for value in values):
        raise ValueError(f"before 0.19.0 all datasets had the same {what} in the configuration, and here they differ")
    return values[0]


def by_nodes(model: dict[str, Any], names: list[str]) -> None:
    """Say of each group of nodes what was said of those of all datasets, and of all hidden ones."""
    sizes = model.pop("trainable_parameters")
    found = kinds(model, names)
    nodes = {name: sizes[kind] for kind, own in found.items() if kind in sizes for name in own}
    model["node_trainable_parameters"] = nodes
    model["edge_trainable_parameters"] = {key: size for key, size in sizes.items() if key not in {*found, *nodes}}


def by_kind(model: dict[str, Any], names: list[str]) -> None:
    """Say it of all, if it is the same."""
    nodes, edges = (model.pop(f"{kind}_trainable_parameters", {}) for kind in ("node", "edge"))
    found = {kind: [nodes[name] for name in own if name in nodes] for kind, own in kinds(model, names).items()}
    sizes = {kind: same(f"trainable parameters of {kind} nodes", each) for kind, each in found.items() if each}
    model["trainable_parameters"] = {**sizes, **edges}


def kinds(model: dict[str, Any], names: list[str]) -> dict[str, list[str]]:
    """Return what nodes of datasets are called, and hidden ones."""
    hidden = model.get("model", {}).get("hidden_nodes_name", "hidden")
    return {"data": names, "hidden": hidden if isinstance(hidden, list) else [hidden]}
