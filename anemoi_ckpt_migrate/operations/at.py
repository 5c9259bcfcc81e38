"""`At`: apply operations at several places of the tree, and of JSON entries beside the pickle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from anemoi_ckpt_migrate.errors import BadOperation
from anemoi_ckpt_migrate.operations.base import Operation, flag_of, name_of, operation, read, set_fields
from anemoi_ckpt_migrate.operations.derive import Derive
from anemoi_ckpt_migrate.operations.items import AtPath, NoOperation
from anemoi_ckpt_migrate.operations.tree_operation import Run, TreeContext, TreeOperation
from anemoi_ckpt_migrate.state.archive_json import NotJson
from anemoi_ckpt_migrate.tree import paths
from anemoi_ckpt_migrate.tree.paths import KEY, NoSuchPath, Path, path_of, shown


@operation
class At(TreeOperation):
    """Apply operations at several places, as if the value at each place were the checkpoint.

    Parameters
    ----------
    paths : list of str or list
        The places in the tree, each as for `SetItem`: ``["hyper_parameters.config", "metadata.config"]``.
    operations : list of Operation
        The operations, with paths relative to the place: operations on items, `Rewrite`, whose function gets the whole
        checkpoint too, and `Run`, whose function gets the value at the place.
    records : dict of str to str or list, optional
        Places in JSON entries of the zip, beside the pickle: the name of the entry, without the top folder of the zip,
        and the path in it (``""`` for the whole entry): ``{"anemoi-metadata/anemoi.json": "config"}``.
    optional : bool
        Whether some of the places may be missing.
    """

    paths: tuple[Path, ...]
    operations: tuple[Operation, ...]
    records: Mapping[str, Path] | None = None
    optional: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.paths, str) or not isinstance(self.paths, (tuple, list)):
            raise BadOperation(f"At: paths must be a list of paths, not {self.paths!r:.60}")
        records = {} if self.records is None else self.records
        if not isinstance(records, Mapping):
            raise BadOperation(f"At: records must be a dict of names and paths, not {records!r:.60}")
        set_fields(
            self,
            paths=tuple(path_of(self, "paths", path) for path in self.paths),
            operations=_nested(self.operations),
            records={_record_of(self, name): _inner(self, path) for name, path in records.items()} or None,
        )
        flag_of(self, "optional", self.optional)
        if not self.paths and not self.records:
            raise BadOperation("At needs a place: paths, or records")

    def __hash__(self) -> int:
        return hash((self.paths, self.operations, repr(self.records)))

    @property
    def reversible(self) -> bool:
        """Whether all its operations are reversible."""
        return all(each.reversible for each in self.operations)

    def inverse(self) -> Operation | None:
        """Return an `At` with the inverse operations, if all have one; otherwise None."""
        back = [each.inverse() for each in reversed(self.operations)]
        known = tuple(each for each in back if each is not None)
        return None if None in back else At(self.paths, known, self.records, self.optional)

    def check_written(self) -> None:
        """Check the operations."""
        for each in self.operations:
            if not each.written:
                raise BadOperation(f"At: {type(each).__name__} is for records only")
            each.check_written()

    def leaves(self) -> Iterator[Operation]:
        """Iterate over the operations."""
        yield from self.operations

    def on(self, tree: Any, context: TreeContext) -> tuple[Any, list[Operation]]:
        """Apply the operations at each place, in the order of `paths` and then of `records`."""
        undo: list[Operation] = []
        for path in self.paths:
            places = [place for place in paths.matching(tree, path) if not self._passes(paths.there(tree, place), path)]
            self._passes(bool(places), path)
            for place in places:
                back = self._below(tree, place, context, shown(place))
                undo[:0] = [At((paths.spelled(tree, place),), tuple(back), optional=self.optional)] if back else []
        for name, path in (self.records or {}).items():
            undo[:0] = self._in_record(name, path, context)
        return tree, undo

    def _passes(self, there: bool, path: Sequence[Any]) -> bool:
        """Return whether a missing place is skipped; raise an error unless that is allowed."""
        if not there and not self.optional:
            raise NoSuchPath(f"there is no {shown(path)}")
        return not there

    def _below(self, tree: Any, path: Path, context: TreeContext, where: str) -> list[Operation]:
        """Apply the operations at one place, and return the rollback there."""
        value, undo = paths.get(tree, path), list[Operation]()
        for each in self.operations:
            try:
                new, back = each.carry_out(value, context)  # type: ignore[attr-defined]
            except NoSuchPath as error:
                raise NoSuchPath(f"at {where}, {error}") from None
            if new is not value:
                paths.put(paths.parent(tree, path), path[-1], new)
                value = new
            undo[:0] = back
        return undo

    def _in_record(self, name: str, path: Path, context: TreeContext) -> list[Operation]:
        """Apply the operations in a JSON entry, which is rewritten if they change it."""
        try:
            document = context.attached.document(name)
            if document is None:
                self._passes(False, [f"record {name} in the archive"])
                return []
            before, whole = document.text, (0, *path)
            if self._passes(paths.there(document.holder, whole), [f"{shown(path)} in record {name}"]):
                return []
            back = self._below(document.holder, whole, context, f"{shown(path) or 'all'} of record {name}")
            new = document.rewritten()
        except NotJson as error:
            raise NoSuchPath(str(error)) from None
        if new != before:
            context.attached.write(name, new)
        if not back:
            return []
        context.stash.append(_difference(before, new))
        return [RestoreEntry(name, path, tuple(back), len(context.stash) - 1, _digest(new.encode()))]


@operation
class RestoreEntry(TreeOperation):
    """Restore the old bytes of a zip entry; if it has changed since, undo the operations in it instead."""

    written = False
    record: str
    path: tuple[Any, ...]
    operations: tuple[Operation, ...]
    number: int
    digest: str

    def __post_init__(self) -> None:
        _record_of(self, self.record)
        set_fields(self, path=_inner(self, self.path), operations=_nested(self.operations))

    def leaves(self) -> Iterator[Operation]:
        """Iterate over the operations that undo the change in an entry that has changed since."""
        yield from self.operations

    def on(self, tree: Any, context: TreeContext) -> tuple[Any, list[Operation]]:
        """Restore the entry; if it no longer exists, do nothing."""
        try:
            content = context.attached.content(self.record)
            if content is None:
                return tree, []
            same = _digest(content) == self.digest
            if same:
                context.attached.put(self.record, _before(content.decode(), context.stash[self.number]))
        except NotJson as error:
            raise NoSuchPath(str(error)) from None
        if not same:
            At((), self.operations, {self.record: self.path}, optional=True).on(tree, context)
        return tree, []


def _nested(operations: Any) -> tuple[Operation, ...]:
    """Read the operations nested in another one."""
    if not isinstance(operations, (tuple, list)) or not operations:
        raise BadOperation(f"At: operations must be a list of operations, not {operations!r:.60}")
    found = tuple(map(read, operations))
    right = [each for each in found if isinstance(each, (AtPath, NoOperation, Run)) and not isinstance(each, Derive)]
    wrong = next((each for each in found if each not in right), None)
    if wrong is not None:
        raise BadOperation(f"At: {type(wrong).__name__} does not change items; put it outside of At")
    return found


def _record_of(kind: Operation, name: Any) -> str:
    found = name_of(kind, "the name of a record", name)
    if found.partition("/")[0] == KEY:
        raise BadOperation(f"{type(kind).__name__}: {found} is the place of the record of the checkpoint")
    return found


def _inner(kind: Operation, path: Any) -> Path:
    """Read a path that may be empty."""
    return path_of(kind, "the path in a record", path) if path else ()


def _difference(old: str, new: str) -> list[Any]:
    """Return the length of the common start, the old text after it, and the length of the common end."""
    start = _alike(old, new)
    end = _alike(old[start:][::-1], new[start:][::-1])
    return [start, old[start : len(old) - end], end]


def _before(new: str, difference: Any) -> str:
    """Return the old text, from the new one and the result of `_difference`.

    Raises
    ------
    ValueError
        The difference belongs to another text.
    """
    if type(difference) is not list or [type(each) for each in difference] != [int, str, int]:
        raise ValueError("the stashed value is no part of a text")
    start, end = difference[0], difference[2]
    text: str = difference[1]
    if min(start, end) < 0 or start + end > len(new):
        raise ValueError("the stashed text is of another record")
    return new[:start] + text + new[len(new) - end :]


def _alike(one: str, other: str) -> int:
    """Return the length of the common start, by bisection, since texts may be long."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return low


def _digest(content: bytes) -> str:
    import hashlib  # only records need it

    return hashlib.sha256(content).hexdigest()
