"""All kinds of operations, imported so that they are known by name."""

from __future__ import annotations

from anemoi_ckpt_migrate.operations.base import Operation, from_data, make
from anemoi_ckpt_migrate.operations.casting import Cast
from anemoi_ckpt_migrate.operations.groups import ParameterGroups
from anemoi_ckpt_migrate.operations.joining import Fuse, Split, Stack, Unstack
from anemoi_ckpt_migrate.operations.modules import ModulesBack
from anemoi_ckpt_migrate.operations.naming import (
    AddPrefix,
    Rename,
    RenameEach,
    RenamePrefix,
    RenameRegex,
    Reorder,
    StripPrefix,
)
from anemoi_ckpt_migrate.operations.presence import Add, Drop
from anemoi_ckpt_migrate.operations.structure import DropClass, DropItem, MoveClass, MoveItem, MoveModule, Run, SetItem
from anemoi_ckpt_migrate.operations.turning import Interleave, Permute, PermuteForRope, Reshape, Transpose

__all__ = [
    "Add",
    "AddPrefix",
    "Cast",
    "Drop",
    "DropClass",
    "DropItem",
    "Fuse",
    "Interleave",
    "ModulesBack",
    "MoveClass",
    "MoveItem",
    "MoveModule",
    "Operation",
    "ParameterGroups",
    "Permute",
    "PermuteForRope",
    "Rename",
    "RenameEach",
    "RenamePrefix",
    "RenameRegex",
    "Reorder",
    "Reshape",
    "Run",
    "SetItem",
    "Split",
    "Stack",
    "StripPrefix",
    "Transpose",
    "Unstack",
    "from_data",
    "make",
]
