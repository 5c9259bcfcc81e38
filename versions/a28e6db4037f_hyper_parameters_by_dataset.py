"""hyper-parameters by dataset

anemoi-models 0.12.0 takes several datasets: data indices, statistics, supporting arrays and the graph are dicts, with
one entry for each. Where there was one dataset, its name is "data", or what it was called before it came down here.

Revision ID: a28e6db4037f
Revises: f4c7150ea98d
Create Date: 2026-11-25 00:00:00+00:00
"""

from anemoi_ckpt_migrate import CkptType, MigrationMetadata, Refused, op

revision = "a28e6db4037f"
down_revision = "f4c7150ea98d"
branch_labels = None
depends_on = None

metadata = MigrationMetadata(versions={"migration": "1.0.0", "anemoi-models": "0.12.0"})

NAME = "name_of_the_dataset"
"""Where a checkpoint that came down from 0.12.0 holds what its dataset was called, if that is not "data"."""
DATASET = "data"
BY_DATASET = ("data_indices", "statistics", "statistics_tendencies", "supporting_arrays", "graph_data")

operations = [
    op.Derive("by_dataset", "of_one"),
]


def by_dataset(ckpt: CkptType) -> list[op.Operation]:
    """Put each under the name of the dataset; there may be none of it."""
    hyper_parameters = ckpt["hyper_parameters"]
    named = any(key.startswith(f"model.model.encoder.{DATASET}.") for key in ckpt["state_dict"])
    if named or isinstance(hyper_parameters.get("data_indices"), dict):
        raise ValueError("this checkpoint is of a later release: stamp it with that")
    dataset = ckpt.get(NAME, DATASET)
    there = [each for each in BY_DATASET if hyper_parameters.get(each) is not None]
    return [
        *(op.NestItem(["hyper_parameters", each], [dataset]) for each in there),
        op.DropItem(NAME, optional=True),
    ]


def of_one(ckpt: CkptType) -> list[op.Operation]:
    """Take each out again, if there is only one dataset, and remember what it was called."""
    hyper_parameters = ckpt["hyper_parameters"]
    # A graph may be bare, as it was before.
    there = [each for each in BY_DATASET if isinstance(hyper_parameters.get(each), dict) and hyper_parameters[each]]
    datasets = list(dict.fromkeys(dataset for each in there for dataset in hyper_parameters[each])) or [DATASET]
    if len(datasets) > 1:
        raise Refused(
            f"anemoi-models before 0.12.0 has one dataset, and this model has several ({', '.join(datasets)}): "
            "it cannot go back further than 0.12.0"
        )
    remembered = [op.SetItem(NAME, datasets[0])] if datasets != [DATASET] else []
    return [*(op.UnnestItem(["hyper_parameters", each], datasets) for each in there), *remembered]
