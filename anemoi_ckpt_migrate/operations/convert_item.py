"""Operations that convert a configuration to another class, for example when its own no longer exists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anemoi_ckpt_migrate.errors import BadOperation
from anemoi_ckpt_migrate.operations.base import Operation, names_of, operation, read, set_fields
from anemoi_ckpt_migrate.operations.items import AtEachPlace, AtPath, NoOperation
from anemoi_ckpt_migrate.operations.object_values import same_value
from anemoi_ckpt_migrate.storage.pickle.opaque import Opaque
from anemoi_ckpt_migrate.storage.tensors.refs import is_a
from anemoi_ckpt_migrate.tree import config_objects, paths
from anemoi_ckpt_migrate.tree.paths import NoSuchPath, shown


@operation
class ConvertItem(AtEachPlace):
    """Convert a configuration to another class, with the same content; the old object is stashed for the downgrade.

    Objects that only contain attributes are configurations too: `argparse.Namespace`, `types.SimpleNamespace`,
    dataclasses. Such objects inside it become dicts as well.

    Parameters
    ----------
    path : str or list
        As for `SetItem`.
    to : str
        ``"dict"`` for plain dicts and lists, or ``"omegaconf.DictConfig"``.
    classes : list of str, optional
        Convert only objects of these classes. By default any class is converted, except plain dicts and
        the classes that `to` stands for.
    aliases : dict of str to str, optional
        New keys for the fields of a pydantic model: ``{"target_": "_target_"}``.
    optional : bool
        Whether the value may be missing or of another class.
    """

    path: tuple[Any, ...]
    to: str
    classes: tuple[str, ...] = ()
    aliases: Mapping[str, str] | None = None
    optional: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        set_fields(self, classes=names_of(self, "classes", self.classes, 0))
        if self.to not in _ALREADY:
            raise BadOperation(f'ConvertItem: to must be "dict" or "omegaconf.DictConfig", not {self.to!r:.60}')
        if self.aliases is not None and not isinstance(self.aliases, Mapping):
            raise BadOperation(f"ConvertItem: aliases must be a dict, not {self.aliases!r:.60}")

    def __hash__(self) -> int:
        return hash((self.path, self.to, self.classes))

    def inverse(self) -> Operation | None:
        """Return `NoOperation`: a checkpoint that was never converted needs no rollback."""
        return NoOperation()

    def fits(self, tree: Any, path: tuple[Any, ...]) -> bool:
        """Return whether the value at a path exists and has to be converted."""
        return paths.there(tree, path) and self._is_concerned(paths.get(tree, path))

    def at(self, tree: Any, path: tuple[Any, ...], stash: list[Any]) -> list[Operation]:
        """Convert the value at one place, and return the rollback."""
        before = paths.get(tree, path)
        if not self._is_concerned(before):
            raise NoSuchPath(f"{shown(path)} is a {config_objects.named(before)}")
        made = self.made(before)
        path = paths.spelled(tree, path)
        parent = paths.parent(tree, path)
        paths.put(parent, path[-1], made)
        stash.append(config_objects.detached(before, parent))
        return [RestoreConfig(path, len(stash) - 1, self)]

    def made(self, value: Any) -> Any:
        """Return a configuration, converted."""
        try:
            found = config_objects.plain(value, self.aliases, objects=True)
        except RecursionError:
            raise NoSuchPath(f"a {config_objects.named(value)} that holds itself cannot be a {self.to}") from None
        if self.to == "dict" and is_a(found, (dict, list)):
            return found
        if not is_a(found, dict):
            raise NoSuchPath(f"only its class knows the content of {config_objects.named(value)}")
        if not is_a(value, Opaque):
            raise NoSuchPath("no operation can convert plain dicts to a configuration of OmegaConf")
        return config_objects.dict_config(found, value)

    def _is_concerned(self, value: Any) -> bool:
        name = config_objects.named(value)
        return name in self.classes if self.classes else name not in _ALREADY[self.to]


_ALREADY = {"dict": ("dict", "list"), "omegaconf.DictConfig": ("dict", ".".join(config_objects.DICT_CONFIG))}
"""Classes that are not converted, by target class."""


@operation
class RestoreConfig(AtPath):
    """Put back a configuration that was converted; one that has changed since stays converted."""

    written = False
    path: tuple[Any, ...]
    number: int
    conversion: Any

    def __hash__(self) -> int:
        return hash((self.path, self.number))

    def change(self, tree: Any, stash: list[Any], discard_changes: bool = False) -> list[Operation]:
        """Put the old configuration back."""
        before = stash[self.number]
        then = read(self.conversion)
        made = then.made(before) if isinstance(then, ConvertItem) else None
        if discard_changes or same_value(config_objects.plain(paths.get(tree, self.path)), config_objects.plain(made)):
            paths.put(paths.parent(tree, self.path), self.path[-1], before)
        return []
