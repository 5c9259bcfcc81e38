"""Operations that a migration script may declare: ``from anemoi_ckpt_migrate import op``.

>>> from anemoi_ckpt_migrate import op
>>> op.Fuse(["h.{i}.q", "h.{i}.k", "h.{i}.v"], "h.{i}.qkv").inverse()
Split("h.{i}.qkv", ["h.{i}.q", "h.{i}.k", "h.{i}.v"])
"""

from anemoi_ckpt_migrate.operations import modules  # noqa: F401  (what only records hold is to be known too)
from anemoi_ckpt_migrate.operations.base import Operation
from anemoi_ckpt_migrate.operations.casting import Cast
from anemoi_ckpt_migrate.operations.classes import DropClass, MoveClass, MoveModule
from anemoi_ckpt_migrate.operations.converting import ConvertItem
from anemoi_ckpt_migrate.operations.deriving import Derive
from anemoi_ckpt_migrate.operations.groups import ParameterGroups
from anemoi_ckpt_migrate.operations.items import DropItem, MoveItem, SetItem
from anemoi_ckpt_migrate.operations.joining import Fuse, Split, Stack, Unstack
from anemoi_ckpt_migrate.operations.naming import AddPrefix, Rename, RenamePrefix, RenameRegex, Reorder, StripPrefix
from anemoi_ckpt_migrate.operations.placeholders import PutPlaceholders
from anemoi_ckpt_migrate.operations.presence import Add, Drop
from anemoi_ckpt_migrate.operations.rearranging import CopyItem, MapItem, NestItem, UnnestItem
from anemoi_ckpt_migrate.operations.rewriting import Rewrite
from anemoi_ckpt_migrate.operations.setups import MoveNames
from anemoi_ckpt_migrate.operations.structure import Run
from anemoi_ckpt_migrate.operations.turning import Interleave, Permute, PermuteForRope, Reshape, Transpose
from anemoi_ckpt_migrate.operations.widening import Pad
from anemoi_ckpt_migrate.operations.within import At

__all__ = [
    "Add",
    "AddPrefix",
    "At",
    "Cast",
    "ConvertItem",
    "CopyItem",
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
    "Rename",
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
    "Transpose",
    "UnnestItem",
    "Unstack",
]
