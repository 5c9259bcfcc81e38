"""lookup tables in data indices

The data indices of anemoi-models 0.14.0 hold tables from names to positions and back, and where the model's output
stands in the data's. All of it follows from what was there.

Revision ID: f3b9e04d6a85
Revises: e17ca3592fd0
Create Date: 2026-11-25 00:00:00+00:00
"""

from typing import Any

from anemoi_ckpt_migrate import CkptType, MigrationMetadata, op

revision = "f3b9e04d6a85"
down_revision = "e17ca3592fd0"
branch_labels = None
depends_on = None

metadata = MigrationMetadata(versions={"migration": "1.0.0", "anemoi-models": "0.14.0"})

OF_INDEX = ("full_index_to_name", "ordered_names", "name_to_position")
OF_COLLECTION = (
    "data_full_ordered_names",
    "data_full_name_to_position",
    "data_output_positions_in_data_full",
    "model_output_positions_in_data_full",
    "model_output_positions_in_data_output",
    "model_output_in_data_output_is_identity",
    "model_output_in_data_output_is_contiguous",
    "model_output_in_data_output_contiguous_start",
    "model_output_in_data_output_contiguous_length",
)


operations = [
    op.Rewrite("with_tables", "without_tables", "hyper_parameters.data_indices", optional=True, objects=True),
]


def with_tables(found: Any, ckpt: CkptType) -> Any:
    """Make the tables."""
    for collection in collections(found):
        if hasattr(collection, OF_COLLECTION[0]):
            raise ValueError("these data indices are of a later release: stamp the checkpoint with that")
        for index in indices(collection):
            names = {number: name for name, number in index.name_to_index.items()}
            ordered = [names[number] for number in sorted(names) if names[number] in set(index.includes)]
            tables = (names, ordered, {name: place for place, name in enumerate(ordered)})
            for name, table in zip(OF_INDEX, tables, strict=True):
                setattr(index, name, table)
        for name, value in zip(OF_COLLECTION, positions(collection), strict=True):
            setattr(collection, name, value)
    return found


def without_tables(found: Any, ckpt: CkptType) -> Any:
    """Take them away."""
    for collection in collections(found):
        for name in OF_COLLECTION:
            delattr(collection, name)
        for index in indices(collection):
            for name in OF_INDEX:
                delattr(index, name)
    return found


def collections(found: Any) -> list[Any]:
    """Return the data indices of all datasets."""
    return list(found.values()) if isinstance(found, dict) else [] if found is None else [found]


def indices(collection: Any) -> list[Any]:
    """Return the four indices of a dataset."""
    return [getattr(part, side) for part in (collection.data, collection.model) for side in ("input", "output")]


def positions(collection: Any) -> tuple[Any, ...]:
    """Return where the variables of the outputs stand among all, and those of the model among those of the data."""
    full = sorted(collection.name_to_index, key=collection.name_to_index.__getitem__)
    place = {name: number for number, name in enumerate(full)}
    data, model = collection.data.output, collection.model.output
    inside = [data.name_to_position[name] for name in model.ordered_names]
    start = inside[0] if inside else 0
    together = inside == list(range(start, start + len(inside)))
    return (
        full,
        place,
        [place[name] for name in data.ordered_names],
        [place[name] for name in model.ordered_names],
        inside,
        inside == list(range(len(data.ordered_names))),
        together,
        start if together else 0,
        len(inside) if together else 0,
    )
