"""hyper-parameters by dataset

anemoi-models 0.12.0 takes several datasets: data indices, statistics, supporting arrays and the graph are dicts, with
one entry for each. Where there was one dataset, its name is "data", or what it was called before it came down here.

Revision ID: a28e6db4037f
Revises: f4c7150ea98d
Create Date: 2026-11-25 00:00:00+00:00
"""

from anemoi_ckpt_migrate import CkptType, MigrationMetadata, Refused

revision = "a28e6db4037f"
down_revision = "f4c7150ea98d"
branch_labels = None
depends_on = None

metadata = MigrationMetadata(versions={"migration": "1.0.0", "anemoi-models": "0.12.0"})

KEPT = "kept_by_anemoi_migrations"
DATASET = "data"
NAMES = ("data_indices", "statistics", "statistics_tendencies", "supporting_arrays", "graph_data")


def migrate(ckpt: CkptType) -> CkptType:
    """Put each under the name of the dataset; there may be none of it."""
    hyper_parameters = ckpt["hyper_parameters"]
    named = any(key.startswith(f"model.model.encoder.{DATASET}.") for key in ckpt["state_dict"])
    if named or isinstance(hyper_parameters.get("data_indices"), dict):
        raise ValueError("this checkpoint is of a later release: stamp it with that")
    kept = ckpt.get(KEPT, {})
    dataset = kept.pop(revision, DATASET)
    if not kept:
        ckpt.pop(KEPT, None)
    for name in NAMES:
        if hyper_parameters.get(name) is not None:
            hyper_parameters[name] = {dataset: hyper_parameters[name]}
    return ckpt


def rollback(ckpt: CkptType) -> CkptType:
    """Take each out again, if there is only one dataset, and remember what it was called."""
    hyper_parameters = ckpt["hyper_parameters"]
    # A graph may be bare, as it was before.
    there = [name for name in NAMES if isinstance(hyper_parameters.get(name), dict) and hyper_parameters[name]]
    datasets = list(dict.fromkeys(dataset for name in there for dataset in hyper_parameters[name])) or [DATASET]
    if len(datasets) > 1:
        raise Refused(
            f"anemoi-models before 0.12.0 has one dataset, and this model has several ({', '.join(datasets)}): "
            "it cannot go back further than 0.12.0"
        )
    for name in there:
        hyper_parameters[name] = hyper_parameters[name][datasets[0]]
    if datasets != [DATASET]:
        ckpt.setdefault(KEPT, {})[revision] = datasets[0]
    return ckpt
