"""The two sides of a comparison: a checkpoint, and another checkpoint or a model."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.autogenerate.explain import Explanation, explain
from anemoi_ckpt_migrate.autogenerate.explain_optimizers import explain_optimizers
from anemoi_ckpt_migrate.autogenerate.explain_tree import explain_tree
from anemoi_ckpt_migrate.commands.applied_operations import Results
from anemoi_ckpt_migrate.errors import MigrateError, UsageError
from anemoi_ckpt_migrate.manifests import build_model
from anemoi_ckpt_migrate.manifests.checkpoint_parameters import items_of
from anemoi_ckpt_migrate.project.project import Project, config_of
from anemoi_ckpt_migrate.record import embed
from anemoi_ckpt_migrate.state.find_parameters import find_main, find_optimizers
from anemoi_ckpt_migrate.state.tensor_values import Tensors
from anemoi_ckpt_migrate.storage import Checkpoint, open_checkpoint
from anemoi_ckpt_migrate.storage.path_arguments import StrPath, annotate_errors
from anemoi_ckpt_migrate.storage.tensors.refs import is_stored
from anemoi_ckpt_migrate.storage.tensors.shape_rules import Mismatch
from anemoi_ckpt_migrate.util import gc_pause
from anemoi_ckpt_migrate.util.dataclass import dataclass

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.autogenerate.parameter_info import Item, Step
    from anemoi_ckpt_migrate.state.ordered_names import Table


@dataclass(frozen=True)
class Side:
    """One side of a comparison.

    Attributes
    ----------
    shown : str
        Its name, as the user gave it.
    items : list of Item
        Its parameters.
    left_out : list of str
        The parameters that cannot be compared.
    file : Checkpoint or None
        The open file; None for a model.
    table : Table or None
        The tensors of the file.
    tree : object
        The tree of the file, without its record.
    keeps : bool
        Whether the file has a place for values that an operation stashes.
    results : Results or None
        What operations make of the file.
    """

    shown: str
    items: list[Item]
    left_out: tuple[str, ...] = ()
    file: Checkpoint | None = None
    table: Table | None = None
    tree: Any = None
    keeps: bool = True
    results: Results | None = None

    @property
    def is_ordered(self) -> bool:
        """Whether the order of the parameters counts."""
        return self.file is None or self.file.is_ordered


@contextlib.contextmanager
def sides(old: StrPath, new: StrPath, project: Project | StrPath | None) -> Iterator[tuple[Side, Side, Explanation]]:
    """Open both sides and explain their differences; errors as of `diff`. Meanwhile no garbage is collected."""
    if build_model.is_factory(old):
        raise UsageError(f"{old} is a model; only the second argument can be one, the first must be a checkpoint")
    path = parameters_of(project)
    is_model = build_model.is_factory(new)
    with gc_pause.paused(), _checkpoint(old, path, not is_model) as one:
        if is_model:
            text = os.fspath(new)
            other = Side(text, list(build_model.built(text).items))
            yield one, other, explain(one.items, other.items, ordered=one.is_ordered, keeps=one.keeps)
            return
        with _checkpoint(new, path, True) as other:
            ordered = one.is_ordered and other.is_ordered
            found = explain(one.items, other.items, _Contents(one, other), ordered, one.keeps)
            found = found.with_tree(explain_tree(one.tree, other.tree, path, found.names))
            yield one, other, _with_optimizers(one, other, found)


def _with_optimizers(one: Side, other: Side, found: Explanation) -> Explanation:
    """Add the operations on optimizers: these are compared once all other operations are applied.

    If they rest on a guess, they come behind it, and are no surer than it. They are left out if they do not apply: the
    differences that remain are reported in any case.
    """
    if one.results is None or other.results is None:
        return found
    if not find_optimizers(one.tree) or not find_optimizers(other.tree):
        return found
    result = one.results.after([guess.operation for guess in found.operations])
    mine, its = (None if each.state.faults else each.parameters for each in (result, other.results.after(())))
    if mine is None or its is None:
        return found
    of_names = [guess.confidence for guess in found.operations if guess.operation.on_parameters]
    every = [guess.confidence for guess in found.operations]
    limits = dict.fromkeys(min(each, default=1.0) for each in (of_names, every))
    for by_place, limit in product((False, True), limits):
        more = explain_optimizers(mine, its, by_place).at_most(limit)
        whole = found.with_tree(more)
        if not more.operations or not one.results.after([each.operation for each in whole.operations]).state.faults:
            return whole
    return found


def parameters_of(project: Project | StrPath | None) -> str | None:
    """Return the path of the state dict that a project configures; None if it has to be found."""
    config = config_of(project)
    return None if config is None else config.parameters


@contextlib.contextmanager
def _checkpoint(path: StrPath, parameters: str | None, contents: bool) -> Iterator[Side]:
    with contextlib.ExitStack() as stack:
        with annotate_errors(path):
            file = stack.enter_context(open_checkpoint(path))
            tree, _ = embed.unrecorded(file)
            place = find_main(tree, parameters)
            if isinstance(place, str):
                raise MigrateError(place)
            table = place.table()
            items, left_out = items_of(table, Tensors(file.maker, file.same), file if contents else None)
        results = Results(file, tree, parameters)
        yield Side(os.fspath(path), items, tuple(left_out), file, table, tree, embed.has_place(tree), results)


class _Contents:
    """Compares the contents of parameters of two files."""

    def __init__(self, old: Side, new: Side) -> None:
        self._old, self._new = old, new

    def same(self, kind: str, args: tuple[Any, ...], old: Sequence[str], new: str, steps: Sequence[Step] = ()) -> bool:
        """Return whether a recipe for old parameters, and further steps, give exactly the new parameter, bit by bit."""
        one, other = self._old, self._new
        if one.file is None or other.file is None or one.table is None or other.table is None:
            return False
        try:
            made = one.file.maker.make(kind, args, [one.table[name] for name in old])
            for step, arg in steps:
                made = one.file.maker.make(step, (arg,), [made])
        except Mismatch:
            return False
        return _is(one.file, one.shown, made, other.file, other.shown, other.table[new])

    def holds(self, new: str, starts: Sequence[int], old: str) -> bool:
        """Return whether a larger new parameter contains an old one, at a start index in each dimension."""
        return _holds(self._new, new, starts, self._old, old)

    def is_part(self, new: str, starts: Sequence[int], old: str) -> bool:
        """Return whether a smaller new parameter is the part of an old one that begins at these indices."""
        return _holds(self._old, old, starts, self._new, new)


def _holds(one: Side, larger: str, starts: Sequence[int], other: Side, smaller: str) -> bool:
    """Return whether a parameter of one side holds one of the other side, at a start index in each dimension."""
    if one.file is None or other.file is None or one.table is None or other.table is None:
        return False
    wanted = other.table[smaller]
    try:
        made = one.table[larger]
        for dim, (start, size) in enumerate(zip(starts, wanted.shape, strict=True)):
            made = one.file.maker.make("narrow", (dim, start, size), [made])
    except Mismatch:
        return False
    return _is(one.file, one.shown, made, other.file, other.shown, wanted)


def _is(file: Checkpoint, shown: str, made: Any, other: Checkpoint, other_shown: str, wanted: Any) -> bool:
    """Return whether a tensor made from one file has the content of a stored tensor of another file."""
    if not is_stored(wanted) or tuple(made.shape) != tuple(wanted.shape):
        return False
    with annotate_errors(other_shown):
        content = other.content(wanted)
    with annotate_errors(shown):
        return file.same(made, content)
