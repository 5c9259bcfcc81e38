"""The result of `check`: problems of scripts, models and checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.errors import ERROR, PENDING, shown_path
from anemoi_ckpt_migrate.util.dataclass import asdict, dataclass

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.commands.prove_rollback import Proof
    from anemoi_ckpt_migrate.runtime.output_options import OutputProof, RecordedOutputs


@dataclass(frozen=True)
class Problem:
    """A problem that `check` found.

    Attributes
    ----------
    kind : str
        ``script``: a script cannot be used. ``heads``: there are several heads. ``head file``, ``released``,
        ``rollback``, ``checkpoint``, ``model``, ``outputs``: this part is not in order.
        ``order``: an optimizer numbers its parameters in another order than the model.
    message : str
        The problem, and the way out.
    path : str or None
        The file with the problem.
    line : int or None
        The line in the file, if known.
    pending : bool
        Whether nothing is broken and only work is left to do.
    details : tuple of str
        Further lines: the operations that would turn the model of the manifest into the model of the code, or bring
        the parameters of a checkpoint into the order of its model.
    """

    kind: str
    message: str
    path: str | None = None
    line: int | None = None
    pending: bool = True
    details: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the message, preceded by its place."""
        place = f"{shown_path(self.path)}{f':{self.line}' if self.line else ''}: " if self.path else ""
        return place + self.message


@dataclass(frozen=True)
class Checked:
    """The result of `check`.

    Attributes
    ----------
    revisions, checkpoints, models : int
        The numbers of checked revisions, checkpoints and models.
    problems : tuple of Problem
        All problems.
    proofs : tuple of Proof
        For each checkpoint whose rollbacks hold: the rollbacks that were tried, and those that were skipped.
    outputs : tuple of OutputProof
        For each checkpoint whose outputs stay the same: how much they differ.
    recorded : tuple of RecordedOutputs
        The outputs that were recorded.
    notes : tuple of str
        Facts that are no problems, each with the checkpoint that it is about.
    """

    revisions: int
    checkpoints: int
    problems: tuple[Problem, ...]
    models: int = 0
    proofs: tuple[Proof, ...] = ()
    outputs: tuple[OutputProof, ...] = ()
    recorded: tuple[RecordedOutputs, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """The exit code of the command line: 1 if anything is broken, 4 if work is left to do."""
        if not all(problem.pending for problem in self.problems):
            return ERROR
        return PENDING if self.problems else 0

    def to_data(self) -> dict[str, Any]:
        """Return the data that ``--json`` prints."""
        proofs = [{**asdict(each), "skipped": [each._asdict() for each in each.skipped]} for each in self.proofs]
        return {**asdict(self), "problems": [asdict(problem) for problem in self.problems], "proofs": proofs}
