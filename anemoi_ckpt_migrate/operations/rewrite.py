"""`Rewrite`: a function of the script changes a configuration in the form of plain dicts and lists."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from anemoi_ckpt_migrate.errors import BadOperation
from anemoi_ckpt_migrate.operations.base import Operation, flag_of, operation, set_fields
from anemoi_ckpt_migrate.operations.tree_operation import Run, TreeContext
from anemoi_ckpt_migrate.storage.tensors.refs import is_a
from anemoi_ckpt_migrate.tree import config_objects, paths
from anemoi_ckpt_migrate.tree.paths import NoSuchPath, path_of, shown


@operation
class Rewrite(Run):
    """Replace the configuration at a path by the result of a function of the script.

    The function takes the configuration, converted to plain dicts and lists, and the checkpoint, which it must not
    change. It returns the new content, which gets the class of the old one. The old value is stashed. A downgrade puts
    it back without running a function, unless the configuration has changed since.

    Parameters
    ----------
    migrate, rollback : function or str
        Functions of the script.
    path : str or list
        ``"hyper_parameters.config.model"``.
    optional : bool
        Whether the path may be missing.
    """

    noted = ("number", "digest")
    path: tuple[Any, ...] = ()
    optional: bool = False
    number: int | None = None
    digest: str = ""

    def __post_init__(self) -> None:
        if self.rollback is None:
            raise BadOperation("Rewrite needs rollback, so that later changes can be downgraded too")
        super().__post_init__()
        set_fields(self, path=path_of(self, "path", self.path or None))
        flag_of(self, "optional", self.optional)

    def inverse(self) -> Operation | None:
        """Return the inverse: the functions exchanged."""
        return None if self.rollback is None else Rewrite(self.rollback, self.migrate, self.path, self.optional)

    def on(self, tree: Any, means: TreeContext) -> tuple[Any, list[Operation]]:
        """Rewrite the configuration."""
        if self.optional and not paths.there(tree, self.path):
            return tree, []
        before = paths.get(tree, self.path)
        path, now = paths.spelled(tree, self.path), config_objects.plain(before)
        parent = paths.parent(tree, path)
        if self.number is not None and (means.forced or digest_of(now) == self.digest):
            paths.put(parent, path[-1], means.stash[self.number])
            return tree, []
        new = means.run(self.migrate, now, means.checkpoint)
        paths.put(parent, path[-1], self._alike(new, before))
        if self.number is not None or self.rollback is None:
            return tree, []
        means.stash.append(config_objects.detached(before, parent))
        digest = digest_of(config_objects.plain(new))
        return tree, [Rewrite(self.rollback, self.migrate, path, self.optional, len(means.stash) - 1, digest)]

    def _alike(self, new: Any, before: Any) -> Any:
        if not is_a(new, dict):
            raise NoSuchPath(f"{self.migrate} returned a {type(new).__name__} for {shown(self.path)}, not a dict")
        made = config_objects.alike(new, before)
        if made is None:
            raise NoSuchPath(f"{shown(self.path)} is a {config_objects.named(before)}; use ConvertItem before")
        return made


def digest_of(value: Any) -> str:
    """Return the SHA-256 checksum of a plain configuration."""
    return hashlib.sha256(json.dumps(value, default=repr).encode()).hexdigest()
