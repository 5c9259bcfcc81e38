"""The command that compares two checkpoints, or a checkpoint and a model: diff."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.commands.diff_sides import parameters_of, sides
from anemoi_ckpt_migrate.commands.remaining_differences import remainder
from anemoi_ckpt_migrate.project.project import project_or_chain
from anemoi_ckpt_migrate.util.dataclass import dataclass

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.autogenerate.explain import Change, Explanation
    from anemoi_ckpt_migrate.project.project import Project
    from anemoi_ckpt_migrate.storage.path_arguments import StrPath


@dataclass(frozen=True)
class Diff:
    """The differences between two checkpoints, or a checkpoint and a model.

    Attributes
    ----------
    old, new : str
        The two, as the user named them.
    explanation : Explanation
        The change of each parameter, and operations that make these changes.
    contents : bool
        Whether contents were compared; a model has no contents.
    left_out : tuple of str
        Tensors of either side that were not compared, because they are not dense or of a special class.
    rest : tuple of str
        Differences that remain after the operations: in parameters, copies of them, and optimizers.
    """

    old: str
    new: str
    explanation: Explanation
    contents: bool
    left_out: tuple[str, ...] = ()
    rest: tuple[str, ...] = ()

    @property
    def changes(self) -> tuple[Change, ...]:
        """The change of each parameter."""
        return self.explanation.changes

    def to_data(self) -> dict[str, Any]:
        """Return the data that ``--json`` prints."""
        return {
            "old": self.old,
            "new": self.new,
            "contents": self.contents,
            "left_out": list(self.left_out),
            "losses": list(self.explanation.losses),
            "rest": list(self.rest),
            "related": self.explanation.related,
            "changes": [{**vars(change)} for change in self.explanation.changes],
            "items": [{**vars(change)} for change in self.explanation.items],
            "operations": [
                {**guess.operation.to_data(), "confidence": guess.confidence, "alternatives": list(guess.alternatives)}
                for guess in self.explanation.operations
            ],
        }


def diff(old: StrPath, new: StrPath, *, project: Project | StrPath | None = None, chain: str | None = None) -> Diff:
    """Compare the parameters of two checkpoints, or of a checkpoint and a model.

    Between two checkpoints, contents are compared by the CRCs stored in the files, so that little is read. Parameters
    that may be composed of others are computed, one tensor at a time.

    Parameters
    ----------
    old : path
        A checkpoint.
    new : path
        A checkpoint; or ``package.module:factory``, a function without arguments that returns a model. It is called
        with ``meta`` as torch's default device, so that the weights need no memory.
    project : Project or path, optional
        The project whose configuration names the path of the state dict; by default that of the current folder, if any.
    chain : str, optional
        The chain of an installed package to use in place of a project.

    Raises
    ------
    MigrateError
        One of the two cannot be read, or holds no state dict; the factory does not return a model.
    """
    project = project_or_chain(project, chain)
    with sides(old, new, project) as (one, other, explanation):
        contents = one.file is not None and other.file is not None
        left_out = tuple(f"{name} in {side.shown}" for side in (one, other) for name in side.left_out)
        operations = [guess.operation for guess in explanation.operations]
        rest = remainder(one, other, operations, parameters_of(project))
        return Diff(os.fspath(old), os.fspath(new), explanation, contents, left_out, rest)
