"""Models that releases of anemoi-models can build, and the configuration that builds each in a given release.

Small ones: a few nodes, edges in no order, 16 channels. A release is told by its number alone, so that nothing of it has
to be there to say what it can do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

RELEASES = ("0.9.4", "0.9.7", "0.10.0", "0.11.0", "0.11.3", "0.12.0", "0.13.0", "0.15.0", "0.16.0", "0.19.0")
LATEST = RELEASES[-1]
BETWEEN = (
    *("0.9.0", "0.9.1", "0.9.2", "0.9.3", "0.9.5", "0.9.6", "0.11.1", "0.11.2"),
    *("0.12.1", "0.13.1", "0.14.0", "0.14.1", "0.15.1", "0.17.0", "0.18.0"),
)
"""Releases whose checkpoints are recognised, and not taken up and trained on as those of the others are."""

CHANNELS = 16
LAYERS = "anemoi.models.layers"
MODELS = "anemoi.models.models"
NODES = {"data": 24, "era": 24, "cerra": 17, "hidden": 10, "middle": 6, "coarse": 4}
VARIABLES = ["lsm", "t", "tp", "u", "z"]
FORCING = {"cerra": ["lsm"]}
DIAGNOSTIC = ["tp"]
FOLLOWING = ("GNN", "GraphTransformer")


@dataclass(frozen=True)
class Variant:
    """What a model is made of."""

    mappers: str = "GraphTransformer"
    processor: str = "GraphTransformer"
    model: str = "AnemoiModelEncProcDec"
    datasets: tuple[str, ...] = ("data",)
    encoders: tuple[str, ...] = ()
    """What encoders and decoders are called, where that is not the name of their dataset."""
    hidden: tuple[str, ...] = ("hidden",)
    nodes: int = 4
    hidden_nodes: int | None = None
    edges: tuple[int, int, int] = (2, 3, 5)
    """Trainable parameters of each edge to the hidden nodes, between these, and back."""
    needless: bool = False
    """Whether the graph has edges that no part of the model follows."""
    options: tuple[tuple[str, Any], ...] = ()
    """Options of all mappers and processors that know them."""
    gate: str = ""
    """The gate of the layers between; an activation before 0.16."""
    bounding: str = "ReluBounding"
    tendencies: bool = False
    target: bool = False
    groups: bool = False
    noise: str = ""
    conditioned: bool = False
    """Whether an ensemble is also given what it skips; before 0.11 it always is."""
    skip: bool = True
    """Whether the processor is skipped too; hierarchical models of up to 0.12 never do, all others always."""
    since: str = RELEASES[0]
    broken: tuple[str, ...] = ()
    """Releases that can build it, and cannot run it."""

    @property
    def follows(self) -> tuple[bool, bool]:
        """Whether mappers and the processor follow edges of the graph."""
        return self.mappers in FOLLOWING or self.needless, self.processor in FOLLOWING or self.needless

    def made_by(self, release: str) -> bool:
        """Return whether a release can build it."""
        return number(self.since) <= number(release) and release not in self.broken


NORMALISED = {
    "_target_": f"{LAYERS}.normalization.ConditionalLayerNorm",
    "normalized_shape": CHANNELS,
    "condition_shape": 4,
}

VARIANTS = {
    "transformer": Variant(processor="Transformer", edges=(2, 0, 5)),
    "transformer-with-edges": Variant(processor="Transformer", edges=(2, 0, 5), needless=True),
    "all-transformer": Variant(mappers="Transformer", processor="Transformer", edges=(0, 0, 0)),
    "all-transformer-with-edges": Variant(
        mappers="Transformer", processor="Transformer", edges=(0, 0, 0), needless=True
    ),
    "pointwise": Variant(processor="PointWiseMLP", edges=(2, 0, 5), since="0.9.7"),
    "qk-norm": Variant(options=(("qk_norm", True),)),
    "qk-norm-transformer": Variant(
        mappers="Transformer", processor="Transformer", edges=(0, 0, 0), options=(("qk_norm", True),)
    ),
    "gated": Variant(gate="SwiGLU", since="0.9.7"),
    "edge-pre-mlp": Variant(options=(("edge_pre_mlp", True),), since="0.11.3"),
    "no-trainables": Variant(nodes=0, edges=(0, 0, 0)),
    "no-trainables-gnn": Variant("GNN", "GNN", nodes=0, edges=(0, 0, 0)),
    "unequal": Variant("GNN", "GNN", edges=(0, 3, 1)),
    "unequal-nodes": Variant(nodes=3, hidden_nodes=5, since="0.15.0"),
    "tendencies": Variant("GNN", "GNN", tendencies=True),
    "target": Variant(target=True, since="0.9.7"),
    "normalized-bounding": Variant(bounding="NormalizedReluBounding"),
    "groups": Variant("GNN", "GNN", groups=True),
    "mixed": Variant("GNN", "Transformer", edges=(2, 0, 5)),
    "hierarchical": Variant(
        "GNN",
        "GNN",
        "AnemoiModelEncProcDecHierarchical",
        hidden=("hidden", "middle", "coarse"),
        skip=False,
        broken=("0.13.0", "0.15.0"),
    ),
    "hierarchical-gt": Variant(
        model="AnemoiModelEncProcDecHierarchical",
        hidden=("hidden", "middle"),
        skip=False,
        broken=("0.13.0", "0.15.0"),
    ),
    "hierarchical-skip": Variant(
        model="AnemoiModelEncProcDecHierarchical", hidden=("hidden", "middle", "coarse"), since="0.13.0"
    ),
    "ensemble": Variant(
        processor="Transformer",
        model="AnemoiEnsModelEncProcDec",
        edges=(2, 0, 5),
        noise="NoiseConditioning",
        since="0.9.7",
        broken=("0.12.0",),
    ),
    "ensemble-injected": Variant(
        model="AnemoiEnsModelEncProcDec", noise="NoiseInjector", since="0.9.7", broken=("0.12.0", "0.19.0")
    ),
    "ensemble-conditioned": Variant(
        processor="Transformer",
        model="AnemoiEnsModelEncProcDec",
        edges=(2, 0, 5),
        noise="NoiseConditioning",
        conditioned=True,
        since="0.9.7",
        broken=("0.11.0", "0.12.0", "0.13.0", "0.15.0", "0.16.0", "0.19.0"),
    ),
    "another-name": Variant(datasets=("era",), since="0.12.0"),
    "another-name-gnn": Variant("GNN", "GNN", datasets=("era",), since="0.12.0"),
    "two-datasets": Variant(datasets=("era", "cerra"), nodes=0, since="0.12.0"),
    "two-datasets-gnn": Variant("GNN", "GNN", datasets=("era", "cerra"), nodes=0, since="0.12.0"),
    "two-datasets-trainable": Variant(datasets=("era", "cerra"), since="0.12.0"),
    "named-encoders": Variant(encoders=("0",), since="0.19.0"),
    "two-named-encoders": Variant(datasets=("era", "cerra"), encoders=("global", "regional"), since="0.19.0"),
}


def number(release: str) -> tuple[int, ...]:
    """Return a release as numbers that can be compared."""
    return tuple(map(int, release.split(".")))


EVERY = tuple(sorted({*RELEASES, *BETWEEN}, key=number))
"""Every release from 0.9.0 on."""


def configuration(variant: Variant, release: str) -> dict[str, Any]:
    """Return the configuration that builds a model in a release."""
    since = number(release)
    config: dict[str, Any] = {
        "data": {"datasets": {name: data(variant, name) for name in variant.datasets}},
        "model": model(variant, release),
        "training": {},
        "graph": {},
    }
    steps = {"multistep_input": 2, "multistep_output": 1}
    if since < number("0.14"):
        config["training"] = steps
    else:
        config |= {"task": steps, "training": {"weight_averaging": None}}
    if since < number("0.13"):
        config["graph"] = {"data": "data", "hidden": level_names(variant)}
    if since < number("0.12"):
        config["data"] = config["data"]["datasets"]["data"]
    return config


def level_names(variant: Variant) -> Any:
    """Return the names of hidden nodes as configurations have them."""
    return list(variant.hidden) if len(variant.hidden) > 1 else variant.hidden[0]


def data(variant: Variant, dataset: str) -> dict[str, Any]:
    """Return what a configuration says of a dataset."""
    normalizer = {"default": "mean-std", "std": ["tp"], "max": ["z"], "none": ["lsm"], "min-max": None}
    return {
        "forcing": FORCING.get(dataset, ["lsm", "z"]),
        "diagnostic": DIAGNOSTIC,
        **({"target": ["u"]} if variant.target else {}),
        "processors": {
            "normalizer": {
                "_target_": "anemoi.models.preprocessing.normalizer.InputNormalizer",
                "config": normalizer,
            }
        },
    }


def model(variant: Variant, release: str) -> dict[str, Any]:
    """Return what a configuration says of a model."""
    since = number(release)
    encoder = part(variant, variant.mappers, "ForwardMapper", release, variant.edges[0])
    decoder = part(variant, variant.mappers, "BackwardMapper", release, variant.edges[2])
    processor = part(variant, variant.processor, "Processor", release, variant.edges[1])
    hidden = variant.nodes if variant.hidden_nodes is None else variant.hidden_nodes
    config: dict[str, Any] = {
        "num_channels": CHANNELS,
        "cpu_offload": False,
        "keep_batch_sharded": True,
        "model": {"_target_": f"{MODELS}.{variant.model}"},
        "layer_kernels": kernels(variant, release, conditioned=False),
        "processor": {**processor, "num_layers": 4, "num_chunks": 2},
        "encoder": {**encoder, "num_chunks": 1},
        "decoder": {**decoder, "num_chunks": 1},
        "trainable_parameters": {"data": variant.nodes, "hidden": hidden},
        "residual": {"_target_": f"{LAYERS}.residual.SkipConnection", "step": -1},
        "bounding": [bounding(variant)],
        "enable_hierarchical_level_processing": True,
        "level_process_num_layers": 2,
        "condition_on_residual": variant.conditioned,
        "noise_injector": noise(variant, release),
    }
    if since >= number("0.13"):
        config["model"] |= {"hidden_nodes_name": level_names(variant), "latent_skip": variant.skip}
    if len(variant.hidden) > 1:
        config["trainable_parameters"] = {
            "data": variant.nodes,
            **dict.fromkeys(variant.hidden, hidden),
            "hidden": hidden,
        }
    if since >= number("0.19"):
        by_dataset(config, variant, hidden)
    return config


def by_dataset(config: dict[str, Any], variant: Variant, hidden: int) -> None:
    """Turn what a configuration says of a model into that of releases with encoders and decoders by name."""
    names = dict(zip(variant.encoders or variant.datasets, variant.datasets, strict=True))
    encoder, decoder = ({**config.pop(kind), "num_channels": CHANNELS} for kind in ("encoder", "decoder"))
    config["encoders"] = {
        name: {"source_datasets": [dataset], "dataset_fusing_strategy": "not_supported", "mapper": encoder}
        for name, dataset in names.items()
    }
    config["decoders"] = {
        name: {"target_datasets": [dataset], "target_node_features": ["encoded_data"], "mapper": decoder}
        for name, dataset in names.items()
    }
    if len(variant.hidden) > 1:  # there the number of channels depends on the level
        config["upscale_mapper"] = {key: value for key, value in encoder.items() if key != "num_channels"}
        config["downscale_mapper"] = {key: value for key, value in decoder.items() if key != "num_channels"}
    else:
        config["processor"]["num_channels"] = CHANNELS
    config["latent_aggregator"] = {"_target_": f"{LAYERS}.aggregator.SumAggregator"}
    del config["trainable_parameters"]
    nodes = dict.fromkeys(variant.datasets, variant.nodes)
    config["node_trainable_parameters"] = {**nodes, **dict.fromkeys(variant.hidden, hidden)}
    for key in ("residual", "bounding"):
        config[key] = {"datasets": dict.fromkeys(variant.datasets, config[key])}


def part(variant: Variant, kind: str, role: str, release: str, trainable: int) -> dict[str, Any]:
    """Return what a configuration says of an encoder, a processor or a decoder."""
    module = "processor" if role == "Processor" else "mapper"
    target = f"{LAYERS}.{module}.{kind}{role}"
    config: dict[str, Any] = {
        "_target_": target,
        "cpu_offload": False,
        "layer_kernels": kernels(variant, release, conditioned=bool(variant.noise) and role == "Processor"),
    }
    if number(release) >= number("0.13"):
        config["gradient_checkpointing"] = True
    if kind in FOLLOWING or (variant.needless and number(release) >= number("0.11.3")):
        config |= {"trainable_size": trainable, "sub_graph_edge_attributes": ["edge_length", "edge_dirs"]}
    if kind == "GNN":
        return {**config, "mlp_extra_layers": 0}
    config["mlp_hidden_ratio"] = 2
    if kind == "PointWiseMLP":
        return {**config, "dropout_p": 0.0}
    config |= {"num_heads": 4, "qk_norm": False}
    if kind == "Transformer":
        config |= {"attention_implementation": "scaled_dot_product_attention", "window_size": None, "dropout_p": 0.0}
        config |= {"softcap": 0, "use_alibi_slopes": False}
    elif number(release) >= number("0.11"):
        config["graph_attention_backend"] = "pyg"
    if variant.gate and number(release) >= number("0.16"):
        config["mlp_implementation"] = variant.gate.lower()
    known = {"edge_pre_mlp"} if kind == "GraphTransformer" else set()
    options = {key: value for key, value in variant.options if key in {"qk_norm", "num_heads", *known}}
    return {**config, **options}


def kernels(variant: Variant, release: str, conditioned: bool) -> dict[str, Any]:
    """Return the layers that a configuration has others built of."""
    norm: dict[str, Any] = {"_target_": "torch.nn.LayerNorm"}
    if conditioned and variant.noise == "NoiseConditioning":
        zero = "w_one_bias_zero_init" if number(release) < number("0.11") else "zero_init"
        norm = {**NORMALISED, zero: True}
    activation: dict[str, Any] = {"_target_": "torch.nn.GELU"}
    if variant.gate and number(release) < number("0.16"):
        activation = {"_target_": f"{LAYERS}.activations.{variant.gate}", "dim": 2 * CHANNELS}
    query = {"_target_": f"{LAYERS}.normalization.AutocastLayerNorm", "bias": False}
    return {
        "LayerNorm": norm,
        "Linear": {"_target_": "torch.nn.Linear"},
        "Activation": activation,
        "QueryNorm": query,
        "KeyNorm": query,
    }


def bounding(variant: Variant) -> dict[str, Any]:
    """Return what a configuration says of the bounds of an output."""
    config: dict[str, Any] = {"_target_": f"{LAYERS}.bounding.{variant.bounding}", "variables": ["tp"]}
    if variant.bounding == "NormalizedReluBounding":
        config |= {"min_val": [0.1], "normalizer": ["mean-std"]}
    return config


def noise(variant: Variant, release: str) -> dict[str, Any]:
    """Return what a configuration says of noise."""
    config = {
        "_target_": f"{LAYERS}.ensemble.{variant.noise or 'NoiseConditioning'}",
        "noise_std": 1,
        "noise_channels_dim": 4,
        "noise_mlp_hidden_dim": 8,
        "layer_kernels": kernels(variant, release, conditioned=False),
    }
    if number(release) >= number("0.11.3"):
        config["num_channels"] = CHANNELS
    return config
