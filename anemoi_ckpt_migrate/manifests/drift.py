"""Compare the models of a project with its manifest and its revisions."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

from anemoi_ckpt_migrate.autogenerate.wording import together
from anemoi_ckpt_migrate.errors import DamagedManifest, UsageError
from anemoi_ckpt_migrate.manifests import build_model, manifest_file, trace
from anemoi_ckpt_migrate.manifests.build_model import Built
from anemoi_ckpt_migrate.manifests.known import ModelHistory, heads_of
from anemoi_ckpt_migrate.manifests.manifest_file import Snapshot
from anemoi_ckpt_migrate.manifests.trace import UnknownState
from anemoi_ckpt_migrate.project.config import Config
from anemoi_ckpt_migrate.revisions.graph import Graph
from anemoi_ckpt_migrate.util.dataclass import dataclass

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.autogenerate.explain import Explanation, ProposedOperation


@dataclass(frozen=True)
class Drift:
    """A model compared with its manifest.

    Attributes
    ----------
    name : str
        The model.
    heads : tuple of str
        The current revisions of the model: the heads that descend from the revisions of the manifest.
    expected : Snapshot, UnknownState or None
        Its parameters at these heads by the manifest, or the reason why they are unknown; None without an entry.
    built : Built
        The model as built now.
    explanation : Explanation or None
        The difference between the two; None if they are equal, or the expected state is unknown.
    """

    name: str
    heads: tuple[str, ...]
    expected: Snapshot | UnknownState | None
    built: Built
    explanation: Explanation | None = None

    @property
    def as_expected(self) -> bool:
        """Whether the model matches the manifest."""
        return isinstance(self.expected, Snapshot) and self.explanation is None

    @property
    def trouble(self) -> str:
        """The problem and its solution; empty if there is no problem."""
        quoted = shlex.quote(self.name)
        update = f"`ckpt-migrate manifest {quoted} --update`"
        if self.expected is None:
            return f"the manifest does not have the model {self.name} yet: {update} adds it"
        if isinstance(self.expected, UnknownState):
            gap = self.expected
            if not gap.fits:
                return f"the revision {gap.revision} does not fit the model {self.name}: {gap.why}"
            since = f"the model {self.name} after {gap.revision} is unknown, because {gap.why}"
            return f"{since}: if the current code is right, {update} records it"
        if self.explanation is None:
            return ""
        autogenerate = f"`ckpt-migrate revision NAME --autogenerate --model {quoted}` writes one"
        moved = self._moved
        if moved is not None:
            return (
                f"the parameters of the model {self.name} are in another order than in the manifest ({moved[1]} has "
                f"the place of {moved[0]}), and no revision reorders them, so the moments of optimizers, which are "
                f"stored by position, would go to other parameters: {autogenerate}; if no checkpoint has such an "
                f"optimizer, {update} records the change"
            )
        told = f"the model {self.name} differs from the manifest, and no revision explains the change"
        return f"{told}: {autogenerate}; if old checkpoints need no migration, {update} records the change"

    @property
    def _moved(self) -> tuple[str, str] | None:
        """The first names that differ, if nothing but the order of parameters changed; buffers do not count."""
        if not isinstance(self.expected, Snapshot) or set(self.expected.items) != set(self.built.items):
            return None
        parameters = {item.name for item in self.built.items if not item.buffer}
        both = self.expected.items, self.built.items
        old, new = ([item.name for item in items if item.name in parameters] for items in both)
        return next((pair for pair in zip(old, new, strict=True) if pair[0] != pair[1]), None)

    @property
    def operations(self) -> tuple[str, ...]:
        """The operations that lead from the expected to the actual model, as lines of a script."""
        guesses = () if self.explanation is None else self.explanation.operations
        lost = () if self.explanation is None else together(self.explanation.losses)
        said = (f"# loses values: {', '.join(lost)}",) if lost else ()
        return (*(f"op.{guess.operation!r}{_doubt(guess)}" for guess in guesses), *said)

    @property
    def snapshot(self) -> Snapshot:
        """The entry for the model in an updated manifest."""
        return Snapshot(self.heads, self.built.items, self.built.sized)


def _doubt(guess: ProposedOperation) -> str:
    return f"  # {guess.confidence:.0%} certain" if guess.confidence < 1 else ""


def configured(config: Config, name: str | None = None) -> list[str]:
    """Return the names of a project's models, or check that it has one.

    Raises
    ------
    UsageError
        The project has no models, or none with that name.
    """
    way = 'gt = "package.module:function" under [tool.ckpt-migrate.models] names a function that makes it'
    if not config.models:
        raise UsageError(f"{config.path} configures no models; {way}")
    if name is not None and name not in config.models:
        raise UsageError(f"{config.path} configures no model {name!r}, only {', '.join(sorted(config.models))}")
    return sorted(config.models) if name is None else [name]


def drift(
    config: Config, graph: Graph, known: ModelHistory, name: str, parents: tuple[str, ...] | None = None
) -> Drift:
    """Build a model, and compare it with its manifest.

    Parameters
    ----------
    name : str
        A model that the project configures.
    parents : tuple of str, optional
        The start of a separate branch for this model. Used if the revisions since the manifest do not fit the model.

    Raises
    ------
    UsageError
        The model cannot be built.
    DamagedManifest
        The manifest is about revisions that do not exist.
    """
    snapshot = known.models.get(name)
    if snapshot is not None and gone(graph, snapshot):
        path = os.fspath(config.versions[0] / manifest_file.NAME)
        raise DamagedManifest(path, f"it is about {', '.join(gone(graph, snapshot))}, which no script here has")
    heads = heads_of(graph, snapshot)
    expected = None if snapshot is None else trace.derived(graph, known.of(name), heads)
    if parents is not None and isinstance(expected, UnknownState) and not expected.fits:
        heads, expected = parents, trace.derived(graph, known.of(name), parents)
    made = build_model.built(config.models[name], folder=config.folder)
    between = None
    if isinstance(expected, Snapshot) and expected.items != made.items:
        from anemoi_ckpt_migrate.autogenerate.explain import explain  # only a model that changed needs it

        between = explain(expected.items, made.items)
    return Drift(name, heads, expected, made, between)


def gone(graph: Graph, snapshot: Snapshot) -> list[str]:
    """Return the revisions of a snapshot that no script has any more."""
    return [revision for revision in snapshot.revisions if revision not in graph and revision not in graph.replaced]
