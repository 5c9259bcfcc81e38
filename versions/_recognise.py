"""Tells which release of anemoi-models a training checkpoint is of, by what it holds: nobody stamped it.

Each revision of the chain is asked whether the checkpoint has what it makes. Some cannot be told (a model without edges
has no edge providers, in any release): then the others decide. What has the marks of a later release and lacks those of
an earlier one is refused.
"""

import re
from collections.abc import Callable
from typing import Any

from anemoi_ckpt_migrate import CkptType, Refused, items

INITIAL = "a7d1c04e9b52"


INFERENCE = (
    "this is an inference checkpoint of anemoi-models, a whole pickled model, which only code of the new release can make; "
    "take out its weights with the release that wrote it, upgrade these, and make a new one with the new release, "
    "by the two scripts in docs/anemoi.md (inference checkpoints)"
)


def recognise(ckpt: CkptType) -> str:
    """Return the last revision whose changes the checkpoint has."""
    if type(ckpt).__name__ == "AnemoiModelInterface":
        raise Refused(INFERENCE)
    state_dict = ckpt.get("state_dict") if isinstance(ckpt, dict) else None
    if not isinstance(state_dict, dict) or not isinstance(ckpt.get("hyper_parameters"), dict):
        raise ValueError("this is no training checkpoint of anemoi-models")
    if not any(key.startswith("model.model.") for key in state_dict):
        raise ValueError("this is no training checkpoint of anemoi-models")
    marks = marks_of(list(state_dict), ckpt["hyper_parameters"])
    lacking = next((place for place, (_, _, mark) in enumerate(marks) if mark is False), len(marks))
    later = [what for _, what, mark in marks[lacking:] if mark]
    if later:
        raise ValueError(
            f"it has {later[0]}, and not {marks[lacking][1]}, which came before: it was migrated in part, as "
            "`anemoi-models migration sync` does; take the file from before that, or stamp it with its release"
        )
    return configured([INITIAL, *(revision for revision, _, _ in marks[:lacking])], ckpt["hyper_parameters"])


CONFIGURATIONS = {
    "93d1f60c8a24": ("datamodule", None),
    "7be41c05d9f3": ("hardware", "system"),
    "5c02e97b41ad": ("data.processors", "data.datasets"),
    "81f6a3d0c95b": ("graph.hidden", "model.model.hidden_nodes_name"),
    "2d9c40e7fb16": ("training.multistep_input", "task"),
    "6ea07b3954d2": ("training.training_method", "training.method"),
    "f05d81c2e7a9": ("model.encoder", "model.encoders"),
}
"""What a revision takes out of the configuration, and what it puts there."""


def configured(revisions: list[str], hyper_parameters: Any) -> str:
    """Return the last of the revisions, but for those of the configuration that it has not had.

    Trainers, which make the configuration, and models have releases of their own: what a trainer was behind before the
    last change of the model cannot be told by one place in the chain, and is left as it is.
    """
    while revisions[-1] in CONFIGURATIONS:
        before, after = CONFIGURATIONS[revisions[-1]]
        had = items.get(hyper_parameters, f"config.{before}") is not None
        has = after is not None and items.get(hyper_parameters, f"config.{after}") is not None
        if has or not had:
            break
        revisions.pop()
    return revisions[-1]


def marks_of(keys: list[str], hyper_parameters: dict[str, Any]) -> list[tuple[str, str, "bool | None"]]:
    """Return for each revision what it makes, and whether that is there; None if that cannot be told."""
    indices, graph = hyper_parameters.get("data_indices"), hyper_parameters.get("graph_data")
    several = None if indices is None else isinstance(indices, dict)
    datasets = list(indices) if isinstance(indices, dict) else ["data"]
    one = next(iter(indices.values())) if isinstance(indices, dict) else indices

    def has(pattern: str) -> bool:
        return any(re.search(pattern, key) for key in keys)

    def told(there: str, instead: str) -> "bool | None":
        return True if has(there) else False if has(instead) else None

    def holds(attribute: str) -> "bool | None":
        return None if one is None else attribute in vars(one)

    names = "|".join(map(re.escape, datasets))
    part = r"^model\.model\.[a-z_]+(?:\.[^.]+)?"
    chunk = r"\.proc\.\d+\.blocks\."
    edges = r"_graph_providers?(?:\.[^.]+)?\.trainable"
    # What follows edges has them sorted, whether or not these have trainable parameters.
    followed = rf"{edges}|\.emb_edges\.|\.lin_edge\."
    return [
        ("b3e8f6205d1a", "targets in its data indices", holds("target")),
        ("93d1f60c8a24", "a configuration without data module", None),
        ("c91f4a7be036", "layers numbered through", told(r"processor\.proc\.\d+\.(?!blocks\.|emb_)", chunk)),
        ("4d8e0b62f9a7", "ensembles conditioned once", None),
        ("d52a08f1c7e4", "no truncation data", False if "truncation_data" in hyper_parameters else None),
        ("7be41c05d9f3", "a configuration of the system", None),
        ("e06b93d7f218", "noise conditioning in the injector", conditioned(has)),
        ("f4c7150ea98d", "providers of edges", told(edges, rf"{part}\.(?:edge_inc|trainable\.trainable)$")),
        ("a28e6db4037f", "hyper-parameters by dataset", several),
        (
            "b9054fc3d16e",
            "names by dataset",
            told(rf"^model\.pre_processors\.(?:{names})\.", r"^model\.pre_processors\."),
        ),
        ("5c02e97b41ad", "a configuration by dataset", None),
        (
            "d8f0b7495ec1",
            "one graph for all datasets",
            None if graph is None else several and not isinstance(graph, dict),
        ),
        (
            "c63d812fa07b",
            "node attributes of all datasets together",
            # What does not have the name of a dataset there may be of before there were any.
            False if has(rf"node_attributes\.(?:{names})\.(?:latlons|trainable)_") else None,
        ),
        ("81f6a3d0c95b", "a configuration of hidden nodes", None),
        ("e17ca3592fd0", "model output indices of normalizers", told(r"\._model_output_idx$", r"\._output_idx$")),
        ("f3b9e04d6a85", "lookup tables in its data indices", holds("data_full_name_to_position")),
        ("2d9c40e7fb16", "a configuration of the task", None),
        ("3b7a1e90c5d8", "a configuration that the model takes as it is", None),
        ("a95c2e71d8b4", "inner MLPs", inner(keys)),
        ("bd60f8a3179c", "edge parameters sorted", told(r"\.trainable_layout_version$", followed)),
        ("6ea07b3954d2", "a configuration of the training method", None),
        ("c4e1937d0fa6", "downscale and upscale swapped", swapped(keys, hyper_parameters)),
        ("f05d81c2e7a9", "a configuration of encoders by name", None),
    ]


def inner(keys: list[str]) -> "bool | None":
    """Tell whether MLPs of graph transformers and transformers are inside of others; pointwise ones have no attention."""
    names = set(keys)
    found = {key: ".node_dst_mlp.mlp." in key for key in keys if ".node_dst_mlp." in key}
    for key in keys:
        block = re.fullmatch(r"(.*\.proc\.(?:\d+\.(?:blocks\.\d+\.)?)?)mlp\.(mlp\.)?\d+\.weight", key)
        if block and f"{block[1]}attention.lin_q.weight" in names:
            found[key] = block[2] is not None
    return next(iter(found.values()), None)


def conditioned(has: Callable[[str], bool]) -> "bool | None":
    """Tell by what injects noise, if something does."""
    if not has(r"^model\.model\.noise_injector\.projection\."):
        return None
    return has(r"^model\.model\.noise_injector\._noise_conditioning\.")


def swapped(keys: list[str], hyper_parameters: dict[str, Any]) -> "bool | None":
    """Tell by the configuration, which names encoders by 0.19.0, whether a hierarchical model is of that release."""
    if not any(key.startswith("model.model.downscale.") for key in keys):
        return None
    if items.get(hyper_parameters, "config.model") is None:
        raise ValueError("its configuration cannot be read, by which alone its release is known: stamp it with that")
    return items.get(hyper_parameters, "config.model.encoders") is not None
