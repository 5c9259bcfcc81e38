"""The result of a command that moves or stamps a checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.util.dataclass import dataclass

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.revisions.planner import Step
    from anemoi_ckpt_migrate.runtime.added_names import NewName
    from anemoi_ckpt_migrate.runtime.output_options import OutputProof


@dataclass(frozen=True)
class Result:
    """The result of a run on a checkpoint, or of a plan with `dry_run`.

    Attributes
    ----------
    checkpoint : str
        The file.
    start, end : tuple of str
        Its heads before and after.
    steps : tuple of Step
        The steps that ran, in order.
    written, backup : str or None
        The new file, and where the old one is kept.
    dry_run : bool
        Whether the run only planned and wrote nothing.
    warnings : tuple of str
        Notes for the user.
    recorded : bool
        Whether the record changes, even if the heads do not: `stamp` stores the current state of the scripts.
    restored : bool
        Whether the previous bytes, still in the file, were restored without running a rollback.
    names : tuple of NewName
        Classes and functions that the new pickle names, and the old one does not. With `dry_run`, only names that
        operations add; names that functions add are not known.
    outputs : OutputProof or None
        The comparison of outputs, if you asked for one and there was something to compare.
    """

    checkpoint: str
    start: tuple[str, ...]
    end: tuple[str, ...]
    steps: tuple[Step, ...] = ()
    written: str | None = None
    backup: str | None = None
    dry_run: bool = False
    warnings: tuple[str, ...] = ()
    recorded: bool = False
    restored: bool = False
    names: tuple[NewName, ...] = ()
    outputs: OutputProof | None = None

    @property
    def changes(self) -> bool:
        """Whether the checkpoint was written anew, or would have been without `dry_run`."""
        return bool(self.steps) or self.recorded

    def to_data(self) -> dict[str, Any]:
        """Return the data that ``--json`` prints."""
        return {
            "checkpoint": self.checkpoint,
            "from": list(self.start),
            "to": list(self.end),
            "steps": [{"revision": s.revision, "name": s.name, "direction": s.direction} for s in self.steps],
            "written": self.written,
            "backup": self.backup,
            "dry_run": self.dry_run,
            "new_names": [name._asdict() for name in self.names],
            **({} if self.outputs is None else {"outputs": self.outputs.facts}),
        }
