"""hyper-parameters by dataset

anemoi-models 0.12.0 takes several datasets: data indices, statistics, supporting arrays and the graph are dicts, with
one entry for each. Where there was one dataset, its name is "data".

Revision ID: a28e6db4037f
Revises: f4c7150ea98d
Create Date: 2026-11-25 00:00:00+00:00
"""

from anemoi_ckpt_migrate import CkptType, MigrationMetadata

revision = "a28e6db4037f"
down_revision = "f4c7150ea98d"
branch_labels = None
depends_on = None

metadata = MigrationMetadata(versions={"migration": "1.0.0", "anemoi-models": "0.12.0"})

DATASET = "data"
NAMES = ("data_indices", "statistics", "statistics_tendencies", "supporting_arrays", "graph_data")


def migrate(ckpt: CkptType) -> CkptType:
    """Put each under the name of the dataset; there may be none of it."""
    hyper_parameters = ckpt["hyper_parameters"]
    named = any(key.startswith(f"model.model.encoder.{DATASET}.") for key in ckpt["state_dict"])
    if named or isinstance(hyper_parameters.get("data_indices"), dict):
        raise ValueError("this checkpoint is of a later release: stamp it with that")
    for name in NAMES:
        if hyper_parameters.get(name) is not None:
            hyper_parameters[name] = {DATASET: hyper_parameters[name]}
    return ckpt


def rollback(ckpt: CkptType) -> CkptType:
    """Take each out again, if there is only one dataset."""
    hyper_parameters = ckpt["hyper_parameters"]
    for name in NAMES:
        if hyper_parameters.get(name) is not None:
            if list(hyper_parameters[name]) != [DATASET]:
                raise ValueError(
                    f"before 0.12.0 there was one dataset, and {name} has {', '.join(hyper_parameters[name])}"
                )
            hyper_parameters[name] = hyper_parameters[name][DATASET]
    return ckpt
