"""What a script says about the classes and modules that a checkpoint names: which moved, and which are gone."""

from __future__ import annotations

from anemoi_ckpt_migrate.errors import BadOperation


class MigrationContext:
    """Notes what a script says about the names in a pickle. Nothing is imported, and nothing in `sys.modules` changes.

    It acts on every class and function that the checkpoint names, before `migrate` sees it: for all objects, wherever
    they are. What a checkpoint does not name is no error. A class is spelled ``pkg.mod.Class``, one within a class
    ``pkg.mod:Outer.Inner``. What is said of a class holds for the classes within it, what is said of a module for the
    modules below it; what is said more exactly wins: of a class before that of its module.

    Attributes
    ----------
    moved_attributes, moved_modules : dict of str to str
        Where each was, and where it is in the end: moves that follow each other are one.
    deleted : list of str
        What is gone: ``pkg.mod.Class``, ``pkg.mod.*`` for all that is in a module itself, ``pkg.mod.**`` for that and
        all that is in modules below.
    """

    def __init__(self) -> None:
        self.moved_attributes: dict[str, str] = {}
        self.moved_modules: dict[str, str] = {}
        self.deleted: list[str] = []

    def move_attribute(self, path_start: str, path_end: str) -> None:
        """Say that a class or function has another name, or is in another module.

        Parameters
        ----------
        path_start, path_end : str
            Where it was, as ``pkg.mod.Class``, and where it is.

        Raises
        ------
        BadOperation
            It is no such name, was moved already, or is deleted too.
        """
        start, end = (_checked("move_attribute", path, "pkg.mod.Class") for path in (path_start, path_end))
        self._move("move_attribute", self.moved_attributes, start, end)

    def move_module(self, path_start: str, path_end: str) -> None:
        """Say that a module, with all below it, has another name.

        Parameters
        ----------
        path_start, path_end : str
            Where it was, as ``pkg.mod``, and where it is.

        Raises
        ------
        BadOperation
            As for `move_attribute`.
        """
        start, end = (_checked("move_module", path, "pkg.mod", 1) for path in (path_start, path_end))
        for moved in (self.moved_attributes, self.moved_modules):
            for other, to in moved.items():
                if to.startswith((f"{start}.", f"{start}:")):
                    moved[other] = end + to[len(start) :]  # it was said to be in it by now, and goes with it
        self._move("move_module", self.moved_modules, start, end)

    def delete_attribute(self, path: str) -> None:
        """Say that a class or function is gone.

        `migrate` finds objects of it as they were, and may look at them, replace them or take them out: see
        `pickled_state`. What it leaves becomes a placeholder that any Python loads, and comes back on the way down.

        Parameters
        ----------
        path : str
            As ``pkg.mod.Class``; ``pkg.mod.*`` for all that is in a module.

        Raises
        ------
        BadOperation
            It is no such name, is deleted already, or is moved too.
        """
        named = path[:-2] if isinstance(path, str) and path.endswith(".*") else path
        whole = named is not path
        _checked("delete_attribute", named, "pkg.mod.Class or pkg.mod.*", 1 if whole else 2)
        self._delete("delete_attribute", path)

    def delete_module(self, path: str) -> None:
        """Say that a module is gone, with all that was in it and below it; otherwise as `delete_attribute`.

        Parameters
        ----------
        path : str
            As ``pkg.mod``.

        Raises
        ------
        BadOperation
            As for `delete_attribute`.
        """
        self._delete("delete_module", f"{_checked('delete_module', path, 'pkg.mod', 1)}.**")

    def _move(self, call: str, moved: dict[str, str], start: str, end: str) -> None:
        pattern = ".**" if moved is self.moved_modules else ""
        if start == end:
            raise BadOperation(f"{call}: {start} is moved to where it is")
        if start in moved:
            raise BadOperation(f"{call}: {start} is moved twice, to {moved[start]} and to {end}")
        for path in (start, end):
            if f"{path}{pattern}" in self.deleted:
                raise BadOperation(f"{call}: {path} is said to be gone, and cannot be moved or moved to")
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
            raise BadOperation(f"{call}: {path} is moved, or moved to, and cannot be gone")
        self.deleted.append(pattern)


def _checked(call: str, path: object, example: str, least: int = 2) -> str:
    """Return a name, which has to be a dotted one."""
    if isinstance(path, str):
        module, colon, name = path.partition(":")
        parts = [*module.split("."), *(name.split(".") if colon else ())]
        if all(part.isidentifier() for part in parts) and len(parts) >= least and not (colon and least == 1):
            return path
    raise BadOperation(f"{call}: a name must be dotted, as {example}, not {path!r:.60}")
