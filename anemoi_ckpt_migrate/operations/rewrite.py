"""`Rewrite`: a function of the script changes a value: a configuration as plain dicts and lists, or an object."""

from __future__ import annotations

import json
from typing import Any

from anemoi_ckpt_migrate.errors import BadOperation
from anemoi_ckpt_migrate.operations.base import Operation, flag_of, operation, set_fields
from anemoi_ckpt_migrate.operations.object_values import copied, same_value
from anemoi_ckpt_migrate.operations.tree_operation import Run, TreeContext
from anemoi_ckpt_migrate.storage.tensors.refs import is_a
from anemoi_ckpt_migrate.tree import config_objects, paths
from anemoi_ckpt_migrate.tree.paths import NoSuchPath, path_of, shown


@operation
class Rewrite(Run):
    """Replace the value at a path by the result of a function of the script.

    The function takes a configuration, converted to plain dicts and lists, and the checkpoint, which it must not
    change. It returns the new content, which gets the class of the old one. The old value is stashed. A downgrade puts
    it back without running a function, unless the new one has changed since.

    Parameters
    ----------
    migrate, rollback : function or str
        Functions of the script.
    path : str or list
        ``"hyper_parameters.config.model"``.
    optional : bool
        Whether the path may be missing.
    objects : bool
        Whether the function gets the value as it is, whatever its class, and returns any value. It gets a copy, which
        it may change; the tensors in it are the same.

    Examples
    --------
    >>> from anemoi_ckpt_migrate import op
    >>> op.Rewrite("with_names", "without_names", "hyper_parameters.data_indices", objects=True).inverse()
    Rewrite("without_names", rollback="with_names", path=["hyper_parameters", "data_indices"], objects=True)
    """

    noted = ("number", "digest")
    path: tuple[Any, ...] = ()
    optional: bool = False
    objects: bool = False
    number: int | None = None
    digest: str = ""

    def __post_init__(self) -> None:
        if self.rollback is None:
            raise BadOperation("Rewrite needs rollback, so that later changes can be downgraded too")
        super().__post_init__()
        set_fields(self, path=path_of(self, "path", self.path or None))
        flag_of(self, "optional", self.optional)
        flag_of(self, "objects", self.objects)

    @property
    def reaches_parameters(self) -> bool:
        """False: it gets one value."""
        return False

    def inverse(self) -> Operation | None:
        """Return the inverse: the functions exchanged."""
        return None if self.rollback is None else self._back(self.path)

    def on(self, tree: Any, context: TreeContext) -> tuple[Any, list[Operation]]:
        """Rewrite the value."""
        if self.optional and not paths.there(tree, self.path):
            return tree, []
        before = paths.get(tree, self.path)
        path = paths.spelled(tree, self.path)
        parent = paths.parent(tree, path)
        if self.number is not None and (context.discard_changes or self._is_unchanged(before, context.stash)):
            paths.put(parent, path[-1], context.stash[self.number])
            return tree, []
        new = context.run(self.migrate, self._given(before), context.checkpoint)
        if self.objects and same_value(new, before):
            return tree, []
        paths.put(parent, path[-1], new if self.objects else self._alike(new, before))
        if self.number is not None:
            return tree, []
        context.stash.append(config_objects.detached(before, parent))
        number, digest = len(context.stash) - 1, ""
        if self.objects:
            context.stash.append(copied(new))
        else:
            digest = digest_of(config_objects.plain(new))
        return tree, [self._back(path, number, digest)]

    def _back(self, path: tuple[Any, ...], number: int | None = None, digest: str = "") -> Rewrite:
        return Rewrite(self.rollback or "", self.migrate, path, self.optional, self.objects, number, digest)

    def _given(self, value: Any) -> Any:
        return copied(value) if self.objects else config_objects.plain(value)

    def _is_unchanged(self, now: Any, stash: list[Any]) -> bool:
        """Return whether the value is still the result of the function; a copy of that follows the old value."""
        if self.objects:
            return self.number is not None and same_value(now, stash[self.number + 1])
        return digest_of(config_objects.plain(now)) == self.digest

    def _alike(self, new: Any, before: Any) -> Any:
        if not is_a(new, dict):
            raise NoSuchPath(
                f"`{self.migrate}` returned a {type(new).__name__} for {shown(self.path)} instead of a dict"
            )
        made = config_objects.alike(new, before)
        if made is None:
            raise NoSuchPath(f"{shown(self.path)} is a {config_objects.named(before)}; use ConvertItem before")
        return made


def digest_of(value: Any) -> str:
    """Return the SHA-256 checksum of a plain configuration."""
    import hashlib  # only records need it

    return hashlib.sha256(json.dumps(value, default=repr).encode()).hexdigest()
