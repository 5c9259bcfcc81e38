"""The result of writing a history down: the states of a model, and the steps between them."""

from __future__ import annotations

from typing import Any

from anemoi_ckpt_migrate.manifests.manifest_file import BASE
from anemoi_ckpt_migrate.util.dataclass import dataclass

CREATED, KEPT, PROPOSED = "created", "kept", "proposed"


@dataclass(frozen=True)
class AdoptedState:
    """A state of the model.

    Attributes
    ----------
    checkpoint : str
        Its example.
    revisions : tuple of str or None
        The revisions where the model has it; empty for base, None if a dry run did not write them.
    parameters : int
        The number of its parameters.
    """

    checkpoint: str
    revisions: tuple[str, ...] | None
    parameters: int

    @property
    def place(self) -> str:
        """The revisions as text."""
        return "new" if self.revisions is None else ", ".join(self.revisions) or BASE

    def to_data(self) -> dict[str, Any]:
        """Return the data that ``--json`` prints."""
        revisions = None if self.revisions is None else list(self.revisions)
        return {"checkpoint": self.checkpoint, "revisions": revisions, "parameters": self.parameters}


@dataclass(frozen=True)
class AdoptedStep:
    """The way from one state to the next.

    Attributes
    ----------
    old, new : str
        The examples of both states.
    name : str
        The name of the revision.
    done : str
        ``created``; ``kept`` if a script did it already; ``proposed`` in a dry run.
    revisions, paths : tuple of str
        The revisions, usually one, and their scripts; empty in a dry run.
    operations : tuple of str
        Their operations, as lines of a script.
    unchecked : int
        The number of operations that are guesses, or add zeros, and that nobody has checked: the comments above them
        are still in the script.
    loses : bool
        Whether values are lost, and no script states that this is intended.
    doubts : tuple of str
        What to do before checkpoints are stamped; empty if nothing.
    warnings : tuple of str
        Other notes for the author.
    """

    old: str
    new: str
    name: str
    done: str
    revisions: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    operations: tuple[str, ...] = ()
    unchecked: int = 0
    loses: bool = False
    doubts: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def to_data(self) -> dict[str, Any]:
        """Return the data that ``--json`` prints."""
        data = {name: value for name, value in vars(self).items() if name != "warnings"}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in data.items()}


@dataclass(frozen=True)
class AdoptedHistory:
    """The states of a model, and the revisions between them.

    Attributes
    ----------
    model : str
        The name of the model in the manifest.
    states : tuple of AdoptedState
        The states, the oldest first.
    steps : tuple of AdoptedStep
        The steps between them.
    config : str
        The configuration of the project.
    warnings : tuple of str
        Notes about the whole.
    """

    model: str
    states: tuple[AdoptedState, ...]
    steps: tuple[AdoptedStep, ...]
    config: str
    warnings: tuple[str, ...] = ()

    @property
    def doubts(self) -> tuple[str, ...]:
        """What to do before checkpoints are stamped."""
        return tuple(doubt for step in self.steps for doubt in step.doubts)

    @property
    def written(self) -> bool:
        """Whether all of it is written down."""
        return all(state.revisions is not None for state in self.states)

    def to_data(self) -> dict[str, Any]:
        """Return the data that ``--json`` prints."""
        return {
            "model": self.model,
            "config": self.config,
            "states": [state.to_data() for state in self.states],
            "steps": [step.to_data() for step in self.steps],
            "written": self.written,
            "doubts": list(self.doubts),
        }
