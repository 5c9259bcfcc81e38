"""one graph for all datasets

anemoi-models 0.13.0 has one graph, with nodes for each dataset, where 0.12 had a graph for each. With one dataset,
called "data" as its nodes are, they are the same. Graphs of several datasets cannot be joined without knowing which of
their hidden nodes are to be kept: such a checkpoint is refused.

Revision ID: d8f0b7495ec1
Revises: 5c02e97b41ad
Create Date: 2026-11-25 00:00:00+00:00
"""

from anemoi_ckpt_migrate import CkptType, MigrationMetadata

revision = "d8f0b7495ec1"
down_revision = "5c02e97b41ad"
branch_labels = None
depends_on = None

metadata = MigrationMetadata(versions={"migration": "1.0.0", "anemoi-models": "0.13.0"})

KEPT = "kept_by_anemoi_migrations"
DATASET = "data"
MODULE = "model.model.node_attributes."


def migrate(ckpt: CkptType) -> CkptType:
    """Take the graph out of the dict, if it is in one: a checkpoint that came from before 0.12 may have it bare."""
    datasets = {key[len(MODULE) :].split(".")[0] for key in ckpt["state_dict"] if key.startswith(MODULE)}
    if datasets != {DATASET}:
        raise ValueError(f"there has to be one dataset, called {DATASET!r}, not {', '.join(sorted(datasets))}")
    graph = ckpt["hyper_parameters"].get("graph_data")
    in_dict = isinstance(graph, dict)
    if in_dict:
        ckpt["hyper_parameters"]["graph_data"] = graph[DATASET]
    ckpt.setdefault(KEPT, {})[revision] = in_dict
    return ckpt


def rollback(ckpt: CkptType) -> CkptType:
    """Put it back into a dict."""
    kept = ckpt.get(KEPT, {})
    in_dict = kept.pop(revision, ckpt["hyper_parameters"].get("graph_data") is not None)
    if not kept:
        ckpt.pop(KEPT, None)
    encoder = "model.model.encoder."
    datasets = {key[len(encoder) :].split(".")[0] for key in ckpt["state_dict"] if key.startswith(encoder)}
    if datasets != {DATASET}:
        raise ValueError(f"there has to be one dataset, called {DATASET!r}, not {', '.join(sorted(datasets))}")
    if in_dict:
        ckpt["hyper_parameters"]["graph_data"] = {DATASET: ckpt["hyper_parameters"]["graph_data"]}
    return ckpt
