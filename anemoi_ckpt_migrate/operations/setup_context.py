"""Declarations of a script about classes and modules in a checkpoint: moved ones and removed ones."""

from __future__ import annotations

from anemoi_ckpt_migrate.errors import BadOperation


class MigrationContext:
    """Collects the names that a script moves or removes. Nothing is imported, and `sys.modules` does not change.

    The declarations apply to every class and function that the checkpoint names, in all objects, before `migrate` gets
    it. Names that the checkpoint does not contain are no error. Spell a class ``pkg.mod.Class``, and a nested class
    ``pkg.mod:Outer.Inner``. A declaration about a class includes its nested classes, one about a module includes its
    submodules. The more specific declaration wins: one about a class before one about its module.

    Attributes
    ----------
    moved_attributes, moved_modules : dict of str to str
        The final name for each old name: successive moves count as one.
    deleted : list of str
        Removed names: ``pkg.mod.Class``, ``pkg.mod.*`` for everything in the module itself, ``pkg.mod.**`` for the
        module with its submodules.
    """

    def __init__(self) -> None:
        self.moved_attributes: dict[str, str] = {}
        self.moved_modules: dict[str, str] = {}
        self.deleted: list[str] = []

    def move_attribute(self, path_start: str, path_end: str) -> None:
        """Declare that a class or function was renamed or moved to another module.

        Parameters
        ----------
        path_start, path_end : str
            The old and the new name, as ``pkg.mod.Class``.

        Raises
        ------
        BadOperation
            A name is invalid, was moved already, or is deleted too.
        """
        start, end = (_checked("move_attribute", path, "pkg.mod.Class") for path in (path_start, path_end))
        self._move("move_attribute", self.moved_attributes, start, end)

    def move_module(self, path_start: str, path_end: str) -> None:
        """Declare that a module was renamed, with its submodules.

        Parameters
        ----------
        path_start, path_end : str
            The old and the new name, as ``pkg.mod``.

        Raises
        ------
        BadOperation
            As for `move_attribute`.
        """
        start, end = (_checked("move_module", path, "pkg.mod", 1) for path in (path_start, path_end))
        for moved in (self.moved_attributes, self.moved_modules):
            for other, to in moved.items():
                if to.startswith((f"{start}.", f"{start}:")):
                    moved[other] = end + to[len(start) :]  # an earlier move ended in this module, and moves along
        self._move("move_module", self.moved_modules, start, end)

    def delete_attribute(self, path: str) -> None:
        """Declare that a class or function was removed.

        `migrate` gets its objects unchanged, and may read, replace or remove them: see `pickled_state`. Each remaining
        object becomes a placeholder that any Python loads, and a downgrade restores it.

        Parameters
        ----------
        path : str
            A name as ``pkg.mod.Class``, or ``pkg.mod.*`` for everything in a module.

        Raises
        ------
        BadOperation
            The name is invalid, deleted already, or moved too.
        """
        named = path[:-2] if isinstance(path, str) and path.endswith(".*") else path
        whole = named is not path
        _checked("delete_attribute", named, "pkg.mod.Class or pkg.mod.*", 1 if whole else 2)
        self._delete("delete_attribute", path)

    def delete_module(self, path: str) -> None:
        """Declare that a module was removed, with its submodules and all their names; otherwise as `delete_attribute`.

        Parameters
        ----------
        path : str
            A name as ``pkg.mod``.

        Raises
        ------
        BadOperation
            As for `delete_attribute`.
        """
        self._delete("delete_module", f"{_checked('delete_module', path, 'pkg.mod', 1)}.**")

    def _move(self, call: str, moved: dict[str, str], start: str, end: str) -> None:
        pattern = ".**" if moved is self.moved_modules else ""
        if start == end:
            raise BadOperation(f"{call}: {start} is moved to its own place")
        if start in moved:
            raise BadOperation(f"{call}: {start} is moved twice, to {moved[start]} and to {end}")
        for path in (start, end):
            if f"{path}{pattern}" in self.deleted:
                raise BadOperation(f"{call}: {path} is deleted, so it cannot be moved or be the target of a move")
        for other, to in moved.items():
            if to == start:
                moved[other] = end
        moved[start] = end

    def _delete(self, call: str, pattern: str) -> None:
        path = pattern.removesuffix(".**")
        if pattern in self.deleted:
            raise BadOperation(f"{call}: {path} is deleted twice")
        moved = self.moved_modules if path != pattern else self.moved_attributes
        if path in moved or path in moved.values():
            raise BadOperation(f"{call}: {path} is moved or the target of a move, so it cannot be deleted")
        self.deleted.append(pattern)


def _checked(call: str, path: object, example: str, least: int = 2) -> str:
    """Return a name, which must be dotted."""
    if isinstance(path, str):
        module, colon, name = path.partition(":")
        parts = [*module.split("."), *(name.split(".") if colon else ())]
        if all(part.isidentifier() for part in parts) and len(parts) >= least and not (colon and least == 1):
            return path
    raise BadOperation(f"{call}: a name must be dotted, such as {example}, not {path!r:.60}")
