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
NEVER_SKIPPED = "never_skipped_by_anemoi_migrations"


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
    listed = registered(ckpt)
    # What it holds decides; its list of migrations tells where that says nothing, behind the last thing that it holds.
    sure = max((place for place, (_, _, mark) in enumerate(marks) if mark), default=-1)
    told = [
        in_list(revision, listed) if mark is None and place > sure else mark
        for place, (revision, _, mark) in enumerate(marks)
    ]
    lacking = next((place for place, mark in enumerate(told) if mark is False), len(marks))
    later = [what for _, what, mark in marks[lacking:] if mark]
    if later:
        raise ValueError(
            f"it has {later[0]}, and not {marks[lacking][1]}, which came before: it was migrated in part, as "
            "`anemoi-models migration sync` does; take the file from before that, or stamp it with its release"
        )
    every = [INITIAL, *(revision for revision, _, _ in marks)]
    unknown = {revision for (revision, _, _), mark in zip(marks, told, strict=True) if mark is None}
    had = without_release(every[: lacking + 1], every, unknown)
    had = without_release(configured(had, ckpt["hyper_parameters"]), every, unknown)
    refuse_unprocessed(had[-1], every, ckpt)
    return had[-1]


RELEASED = (
    ("93d1f60c8a24",),
    ("c91f4a7be036", "4d8e0b62f9a7", "d52a08f1c7e4", "7be41c05d9f3"),
    ("a28e6db4037f", "b9054fc3d16e", "5c02e97b41ad"),
    ("d8f0b7495ec1", "c63d812fa07b", "81f6a3d0c95b"),
    ("e17ca3592fd0", "f3b9e04d6a85", "2d9c40e7fb16"),
    ("a95c2e71d8b4", "bd60f8a3179c", "6ea07b3954d2"),
    ("c4e1937d0fa6", "f05d81c2e7a9"),
)
"""Which revisions came with one release."""

LISTED = {
    "93d1f60c8a24": "1762857427_deprecate_eda",
    "c91f4a7be036": "1762857428_chunking_fix",
    "7be41c05d9f3": "1763479917_hardware_schema_update",
    "f4c7150ea98d": "1763479918_refactor_mapper",
    "b9054fc3d16e": "1767108147_move_to_multiple_datasets",
    "c63d812fa07b": "1773048851_fuse_multiple_perdataset_graphs",
    "3b7a1e90c5d8": "1776237003_rename_swa_to_weight_averaging",
    "a95c2e71d8b4": "1778688800_glu_mlp_implementation",
    "bd60f8a3179c": "1779202136_trainable_edge_perm_fix",
}
"""What a revision is called in the list of migrations that anemoi-models keeps."""


def registered(ckpt: CkptType) -> set[str]:
    """Return the names in its list of migrations; none, if it says nothing (0.9.4 to 0.9.5 kept empty ones)."""
    listed = ckpt.get("migrations")
    entries = listed if isinstance(listed, list) else []
    return {str(entry.get("name")) for entry in entries if isinstance(entry, dict)}


def in_list(revision: str, listed: set[str]) -> "bool | None":
    """Tell by its list of migrations whether it had a revision; None if the list does not tell."""
    return LISTED[revision] in listed if listed and revision in LISTED else None


def without_release(had: list[str], every: list[str], unknown: set[str]) -> list[str]:
    """Leave out the last revisions, if nothing tells of them and the next one, which it lacks, came with their release."""
    while len(had) < len(every) and had[-1] in unknown:
        if not any(had[-1] in release and every[len(had)] in release for release in RELEASED):
            break
        had = had[:-1]
    return had


def refuse_unprocessed(revision: str, every: list[str], ckpt: CkptType) -> None:
    """Refuse models of 0.13 to 0.15 whose latent space is not skipped: there, what their processor makes is lost."""
    made_by = every[every.index("81f6a3d0c95b") : every.index("bd60f8a3179c")]
    skips = items.get(ckpt["hyper_parameters"], "config.model.model.latent_skip")
    if revision in made_by and skips is False and NEVER_SKIPPED not in ckpt:
        raise Refused(
            "its latent_skip is False, and releases 0.13 to 0.15 leave the processor out of such models: from 0.16.0 on it "
            "counts, with weights that were never trained, so the output would be another; to go on all the same, "
            "stamp it with its release (for 0.13 `anemoi-models==0.13.0`, and so on)"
        )


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


def configured(revisions: list[str], hyper_parameters: Any) -> list[str]:
    """Return the revisions, but for the last of those of the configuration that it has not had.

    Trainers, which make the configuration, and models have releases of their own: what a trainer was behind before the
    last change of the model cannot be told by one place in the chain, and is left as it is.
    """
    while revisions[-1] in CONFIGURATIONS:
        before, after = CONFIGURATIONS[revisions[-1]]
        had = items.get(hyper_parameters, f"config.{before}") is not None
        has = after is not None and items.get(hyper_parameters, f"config.{after}") is not None
        if has or not had:
            break
        revisions = revisions[:-1]
    return revisions


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
        ("3b7a1e90c5d8", "a configuration that the model takes as it is", taken_as_it_is(hyper_parameters)),
        ("a95c2e71d8b4", "inner MLPs", inner(keys)),
        ("bd60f8a3179c", "edge parameters sorted", told(r"\.trainable_layout_version$", followed)),
        ("6ea07b3954d2", "a configuration of the training method", None),
        ("c4e1937d0fa6", "downscale and upscale swapped", swapped(keys, hyper_parameters)),
        ("f05d81c2e7a9", "a configuration of encoders by name", None),
    ]


def taken_as_it_is(hyper_parameters: dict[str, Any]) -> "bool | None":
    """Tell by the configuration, which until 0.15.0 had the model be given plain dicts if it was validated."""
    return False if items.get(hyper_parameters, "config.model.model._convert_") == "all" else None


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
