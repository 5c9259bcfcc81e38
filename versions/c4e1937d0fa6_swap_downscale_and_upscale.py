"""swap downscale and upscale

Hierarchical models of anemoi-models 0.19.0 call ``upscale`` what leads to a coarser level, which was ``downscale``,
under the same name of the level; and ``downscale`` what leads to a finer one, under the name of the level that it leads
to, which was ``upscale`` under the name of the level that it comes from. Their order stays. Other models have no such
names.

Revision ID: c4e1937d0fa6
Revises: 6ea07b3954d2
Create Date: 2026-11-25 00:00:00+00:00
"""

from collections.abc import Callable

from anemoi_ckpt_migrate import CkptType, MigrationMetadata, op

revision = "c4e1937d0fa6"
down_revision = "6ea07b3954d2"
branch_labels = None
depends_on = None

metadata = MigrationMetadata(versions={"migration": "1.0.0", "anemoi-models": "0.19.0"})

MODEL = "model.model."
DOWN = ("downscale", "downscale_graph_providers")
UP = ("upscale", "upscale_graph_providers")


operations = [
    op.Derive("to_coarser_is_up", "to_coarser_is_down"),
]


def to_coarser_is_up(ckpt: CkptType) -> list[op.Operation]:
    """Swap the names."""
    down = levels(ckpt, DOWN[0])
    last = [level for level in levels(ckpt, UP[0]) if level not in down]
    hidden = [*down, *last]
    finer = dict(zip(hidden[1:], hidden, strict=False))
    return renamed(ckpt, lambda kind, level: (swapped(kind), level if kind in DOWN else finer[level]))


def to_coarser_is_down(ckpt: CkptType) -> list[op.Operation]:
    """Swap them back; the coarsest level is none of those that the names are of, and the graph tells it."""
    fine = levels(ckpt, UP[0])
    if not fine:
        return []
    data = {*levels(ckpt, "encoder"), *levels(ckpt, "decoder"), "data"}
    graph = ckpt["hyper_parameters"]["graph_data"]
    last = [name for name in graph._node_store_dict if name not in data and name not in fine]
    if len(last) != 1:
        raise ValueError(f"one level of the graph has to be the coarsest, not {', '.join(last) or 'none'}")
    coarser = dict(zip(fine, [*fine[1:], *last], strict=True))
    return renamed(ckpt, lambda kind, level: (swapped(kind), level if kind in UP else coarser[level]))


def levels(ckpt: CkptType, kind: str) -> list[str]:
    """Return what a part has one of each for, in order."""
    lead = f"{MODEL}{kind}."
    return list(dict.fromkeys(key[len(lead) :].split(".")[0] for key in ckpt["state_dict"] if key.startswith(lead)))


def swapped(kind: str) -> str:
    """Return the name of the other kind."""
    return dict(zip((*DOWN, *UP), (*UP, *DOWN), strict=True))[kind]


def renamed(ckpt: CkptType, new: Callable[[str, str], tuple[str, str]]) -> list[op.Operation]:
    """Rename what such parts hold, all at once: some take the names of others."""
    names = {}
    for key in ckpt["state_dict"]:
        parts = key.split(".")
        if key.startswith(MODEL) and parts[2] in (*DOWN, *UP):
            names[key] = ".".join([*parts[:2], *new(parts[2], parts[3]), *parts[4:]])
    return [op.RenameEach(names)]
