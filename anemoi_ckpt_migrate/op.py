"""Operations that a migration script may declare: ``from anemoi_ckpt_migrate import op``.

>>> from anemoi_ckpt_migrate import op
>>> op.Fuse(["h.{i}.q", "h.{i}.k", "h.{i}.v"], "h.{i}.qkv").inverse()
Split("h.{i}.qkv", ["h.{i}.q", "h.{i}.k", "h.{i}.v"])
"""

from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.operations.base import Operation
from anemoi_ckpt_migrate.operations.kinds import kind_of

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.operations.add_drop import Add, Drop
    from anemoi_ckpt_migrate.operations.at import At
    from anemoi_ckpt_migrate.operations.cast import Cast
    from anemoi_ckpt_migrate.operations.change_optimizer import ChangeOptimizer
    from anemoi_ckpt_migrate.operations.classes import DropClass, MoveClass, MoveModule
    from anemoi_ckpt_migrate.operations.convert_item import ConvertItem
    from anemoi_ckpt_migrate.operations.crop import Crop
    from anemoi_ckpt_migrate.operations.derive import Derive
    from anemoi_ckpt_migrate.operations.fuse import Fuse, Split, Stack, Unstack
    from anemoi_ckpt_migrate.operations.item_moves import CopyItem, MapItem, NestItem, UnnestItem
    from anemoi_ckpt_migrate.operations.items import DropItem, MoveItem, SetItem
    from anemoi_ckpt_migrate.operations.missing_classes import PutPlaceholders
    from anemoi_ckpt_migrate.operations.pad import Pad
    from anemoi_ckpt_migrate.operations.parameter_groups import ParameterGroups
    from anemoi_ckpt_migrate.operations.regroup import Regroup
    from anemoi_ckpt_migrate.operations.rename import (
        AddPrefix,
        Rename,
        RenameEach,
        RenamePrefix,
        RenameRegex,
        Reorder,
        StripPrefix,
    )
    from anemoi_ckpt_migrate.operations.reshape import Interleave, Permute, PermuteForRope, Reshape, Transpose
    from anemoi_ckpt_migrate.operations.rewrite import Rewrite
    from anemoi_ckpt_migrate.operations.setup import MoveNames
    from anemoi_ckpt_migrate.operations.train import Train, Untrain
    from anemoi_ckpt_migrate.operations.tree_operation import Run

__all__ = [
    "Add",
    "AddPrefix",
    "At",
    "Cast",
    "ChangeOptimizer",
    "ConvertItem",
    "CopyItem",
    "Crop",
    "Derive",
    "Drop",
    "DropClass",
    "DropItem",
    "Fuse",
    "Interleave",
    "MapItem",
    "MoveClass",
    "MoveItem",
    "MoveModule",
    "MoveNames",
    "NestItem",
    "Operation",
    "Pad",
    "ParameterGroups",
    "Permute",
    "PermuteForRope",
    "PutPlaceholders",
    "Regroup",
    "Rename",
    "RenameEach",
    "RenamePrefix",
    "RenameRegex",
    "Reorder",
    "Reshape",
    "Rewrite",
    "Run",
    "SetItem",
    "Split",
    "Stack",
    "StripPrefix",
    "Train",
    "Transpose",
    "UnnestItem",
    "Unstack",
    "Untrain",
]


def __getattr__(name: str) -> Any:
    """Import an operation when it is first asked for (PEP 562)."""
    found = kind_of(name) if name in __all__ else None
    if found is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return found


def __dir__() -> list[str]:
    return __all__
