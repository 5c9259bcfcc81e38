"""The command that compares two checkpoints, or a checkpoint and a model: diff."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anemoi_ckpt_migrate import recorder
from anemoi_ckpt_migrate.checkpoints import Checkpoint, open_checkpoint
from anemoi_ckpt_migrate.checkpoints.recipes import Mismatch
from anemoi_ckpt_migrate.checkpoints.tensors import is_stored
from anemoi_ckpt_migrate.commands.arguments import StrPath, naming
from anemoi_ckpt_migrate.commands.project import Project
from anemoi_ckpt_migrate.config import find_config
from anemoi_ckpt_migrate.differences.explaining import Change, Explanation, explain
from anemoi_ckpt_migrate.differences.items import Item
from anemoi_ckpt_migrate.errors import MigrateError, NoConfiguration, UsageError
from anemoi_ckpt_migrate.operations.places import find_main
from anemoi_ckpt_migrate.operations.table import Table
from anemoi_ckpt_migrate.operations.tensors import Tensors

_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


@dataclass(frozen=True)
class Diff:
    """What lies between two checkpoints, or a checkpoint and a model.

    Attributes
    ----------
    old, new : str
        The two, as they were named.
    explanation : Explanation
        What became of what, and operations that do it.
    contents : bool
        Whether contents were compared; a model has none.
    """

    old: str
    new: str
    explanation: Explanation
    contents: bool

    @property
    def changes(self) -> tuple[Change, ...]:
        """What became of each parameter."""
        return self.explanation.changes

    def to_data(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {
            "old": self.old,
            "new": self.new,
            "contents": self.contents,
            "related": self.explanation.related,
            "changes": [{**vars(change)} for change in self.explanation.changes],
            "operations": [
                {**guess.operation.to_data(), "confidence": guess.confidence, "alternatives": list(guess.alternatives)}
                for guess in self.explanation.operations
            ],
        }


@dataclass(frozen=True)
class Side:
    """One of the two.

    Attributes
    ----------
    items : list of Item
        Its parameters.
    file : Checkpoint or None
        The open file; None for a model.
    table : Table or None
        The tensors of the file.
    """

    items: list[Item]
    file: Checkpoint | None = None
    table: Table | None = None


def diff(old: StrPath, new: StrPath, *, project: Project | StrPath | None = None) -> Diff:
    """Compare the parameters of two checkpoints, or of a checkpoint and a model.

    Contents are compared by their CRCs, where both are checkpoints: what the file says of itself, so that little of it
    is read. What may have been put together of others is computed, one tensor at a time.

    Parameters
    ----------
    old : path
        A checkpoint.
    new : path
        A checkpoint; or ``package.module:factory``, a function without arguments that returns a model. It is called
        with torch's default device being ``meta``, so that no memory is needed for the weights.
    project : Project or path, optional
        Whose configuration says where the state dict is; by default that of the current folder, if there is one.

    Raises
    ------
    MigrateError
        One of the two cannot be read, or holds no state dict; the factory does not return a model.
    """
    with sides(old, new, project) as (one, other, explanation):
        contents = one.file is not None and other.file is not None
        return Diff(os.fspath(old), os.fspath(new), explanation, contents)


@contextlib.contextmanager
def sides(old: StrPath, new: StrPath, project: Project | StrPath | None) -> Iterator[tuple[Side, Side, Explanation]]:
    """Open both, and explain what lies between them; errors as of `diff`."""
    path = _parameters(project)
    is_model = _is_factory(new)
    with _checkpoint(old, path, not is_model) as one:
        if is_model:
            other = _model(os.fspath(new))
            yield one, other, explain(one.items, other.items)
            return
        with _checkpoint(new, path, True) as other:
            yield one, other, explain(one.items, other.items, _Contents(one, other))


def _parameters(project: Project | StrPath | None) -> str | None:
    if isinstance(project, Project):
        return project.config.parameters
    try:
        return find_config(None if project is None else Path(project)).parameters
    except NoConfiguration:
        if project is not None:
            raise
        return None


def _is_factory(text: StrPath) -> bool:
    return isinstance(text, str) and not os.path.exists(text) and _FACTORY.fullmatch(text) is not None


@contextlib.contextmanager
def _checkpoint(path: StrPath, parameters: str | None, contents: bool) -> Iterator[Side]:
    with naming(path), open_checkpoint(path) as file:
        tree = file.load()
        recorder.remove(tree, None)
        place = find_main(tree, parameters)
        if isinstance(place, str):
            raise MigrateError(place)
        table = place.table()
        tensors = Tensors(file.maker, file.same)
        items = []
        for name in table:
            try:
                shape, dtype = tensors.shape(table[name]), tensors.dtype(table[name])
            except Mismatch:
                continue  # no tensor, or one that can only be moved
            items.append(Item(name, shape, dtype, file.digest(table[name]) if contents else None))
        yield Side(items, file, table)


def _model(text: str) -> Side:
    from anemoi_ckpt_migrate.checkpoints.computing import described

    module, _, name = text.partition(":")
    before = list(sys.path)
    sys.path.insert(0, os.getcwd())
    try:
        return Side([Item(*facts) for facts in described(module, name)])
    except (ImportError, AttributeError, TypeError) as error:
        raise UsageError(f"{text} is no function that returns a model: {error}") from error
    except Exception as error:  # the code is the user's
        raise UsageError(f"{text} failed with {type(error).__name__}: {error}") from error
    finally:
        sys.path[:] = before


class _Contents:
    """Answers questions about the content of parameters of two files."""

    def __init__(self, old: Side, new: Side) -> None:
        self._old, self._new = old, new

    def same(self, kind: str, args: tuple[Any, ...], old: Sequence[str], new: str) -> bool:
        """Tell whether what is made of old parameters is the new one, bit by bit."""
        one, other = self._old, self._new
        if one.file is None or other.file is None or one.table is None or other.table is None:
            return False
        try:
            made = one.file.maker.make(kind, args, [one.table[name] for name in old])
        except Mismatch:
            return False
        wanted = other.table[new]
        shapes = (tuple(made.shape), tuple(wanted.shape)) if is_stored(wanted) else ((), (0,))
        if shapes[0] != shapes[1]:
            return False
        return one.file.same(made, other.file.content(wanted))
