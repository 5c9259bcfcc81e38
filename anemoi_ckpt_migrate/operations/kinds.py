"""The kinds of operations by name. A module is imported when one of its kinds is first met: most scripts use few."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_MODULES = {
    "add_drop": "Add Drop RemoveAdded RestoreParameters",
    "at": "At RestoreEntry",
    "cast": "Cast CastBack RestoreCast",
    "change_optimizer": "ChangeOptimizer RestoreStates",
    "classes": "DropClass MoveClass MoveModule",
    "convert_item": "ConvertItem RestoreConfig",
    "crop": "Crop RestoreCropped",
    "derive": "Derive",
    "find_hints": "MissingPrefix ParameterLocations",
    "fuse": "Fuse Split Stack Unstack",
    "item_moves": "CopyItem MapItem NestItem UnnestItem",
    "items": "DropItem MoveItem NoOperation RestoreItem SetItem UnsetItem",
    "missing_classes": "PutPlaceholders ReplacePlaceholders",
    "module_metadata": "RestoreModules",
    "pad": "Pad Unpad",
    "parameter_groups": "OptimizerPrefix ParameterGroups PerCopy",
    "regroup": "Regroup",
    "rename": "AddPrefix Rename RenameEach RenamePrefix RenameRegex Reorder StripPrefix",
    "reshape": "Interleave Permute PermuteForRope Reshape Transpose",
    "rewrite": "Rewrite",
    "setup": "MoveNames",
    "tied_weights": "Tie",
    "train": "RestoreTrained Train Untrain",
    "tree_operation": "Run",
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names.split()}
_KNOWN: dict[str, type[Any]] = {}


def register(kind: type[Any]) -> None:
    """Make a kind known by its name."""
    _KNOWN[kind.__name__] = kind


def kind_of(name: str) -> type[Any] | None:
    """Return the kind of a name; None if there is none."""
    if name not in _KNOWN and name in _HOMES:
        import_module(f"{__package__}.{_HOMES[name]}")
    return _KNOWN.get(name)


def all_kinds() -> dict[str, type[Any]]:
    """Return all kinds, by name."""
    for name in _HOMES:
        kind_of(name)
    return dict(_KNOWN)
