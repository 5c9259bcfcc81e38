"""Examples of the states of a model: checkpoints that are read, compared, and tried on in memory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.errors import CannotApply, MigrationFailed, Refused, UsageError
from anemoi_ckpt_migrate.manifests import build_model
from anemoi_ckpt_migrate.manifests.checkpoint_parameters import CheckpointParameters, own_of
from anemoi_ckpt_migrate.record import embed
from anemoi_ckpt_migrate.runtime import step_actions, verify_rollback
from anemoi_ckpt_migrate.runtime.executor import Executor, Settings
from anemoi_ckpt_migrate.runtime.recognise import recognised
from anemoi_ckpt_migrate.storage import Checkpoint, open_checkpoint
from anemoi_ckpt_migrate.storage.path_arguments import StrPath, annotate_errors
from anemoi_ckpt_migrate.util.dataclass import dataclass, replace

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.autogenerate.parameter_info import Item
    from anemoi_ckpt_migrate.project.project import Project
    from anemoi_ckpt_migrate.record.record import Record
    from anemoi_ckpt_migrate.revisions.graph import Revision


@dataclass(frozen=True)
class Example:
    """A checkpoint that stands for a state of the model.

    Attributes
    ----------
    path : str
        The checkpoint.
    own : CheckpointParameters
        Its parameters.
    record : Record
        Its record, or one derived from it; empty if there is none.
    is_ordered : bool
        Whether the order of its parameters counts.
    """

    path: str
    own: CheckpointParameters
    record: Record
    is_ordered: bool

    def is_like(self, items: Iterable[Item], shapes: bool = True, ordered: bool = True) -> bool:
        """Return whether its parameters have these names, shapes and dtypes, in this order."""
        found = self.own.misfit(items, shapes)
        if not (ordered and self.is_ordered):
            found = replace(found, moved=False)
        return (found if shapes else replace(found, recast=())).exact

    def check_record(self, place: tuple[str, ...]) -> None:
        """Refuse the example if its record says that it is elsewhere.

        Raises
        ------
        Refused
            It does.
        """
        heads = self.record.heads
        if self.record.lineage and heads != place:
            raise Refused(
                f"its record has {', '.join(heads)}, but its place here is {', '.join(place) or 'a new revision'}; "
                "give another example of that state, or discard the record with `ckpt-migrate stamp --purge base CKPT`"
            ).about(self.path)

    @contextlib.contextmanager
    def opened(self, project: Project) -> Iterator[tuple[Checkpoint, Any]]:
        """Open the checkpoint, and return it with its tree, without a record. All errors name it."""
        with annotate_errors(self.path), open_checkpoint(self.path, project.config.trusted) as file:
            yield file, embed.unrecorded(file)[0]

    def differences(
        self, project: Project, revisions: Sequence[Revision], wanted: Example
    ) -> tuple[tuple[str, ...], bool]:
        """Apply revisions in memory, and return how the result differs from another example.

        Parameters
        ----------
        project : Project
            The project of the scripts.
        revisions : sequence of Revision
            The revisions, in order.
        wanted : Example
            The example that should result. The order of its parameters does not count.

        Returns
        -------
        tuple of str and bool
            A sentence for each difference, and whether the revisions can be applied.
        """
        with self.opened(project) as (file, tree):
            actions = [step_actions.up(each) for each in revisions]
            try:
                outcome = Executor(file, actions, self._settings(project)).run(tree, {})
            except (CannotApply, MigrationFailed) as error:
                return (error.sentence,), False
            found = own_of(file, outcome.tree, project.config.parameters, outcome.content)
        if found is None:
            return ("the parameters of the model cannot be found in the result",), True
        return tuple(replace(found.misfit(wanted.own.items), moved=False).sentences()), True

    def prove_rollback(self, project: Project, revisions: Sequence[Revision]) -> None:
        """Apply revisions in memory, undo them, and compare the result with the example.

        Raises
        ------
        NotProven, NoWayBack
            The result differs, or a revision loses data of this checkpoint.
        """
        graph = project.graph.seen_from(each.id for each in revisions)
        with self.opened(project) as (file, _):
            verify_rollback.prove(file, graph, self.record, revisions, self._settings(project))

    def _settings(self, project: Project) -> Settings:
        return Settings(project.config.parameters, optimizers=self.record.optimizers)


def read_example(path: StrPath, project: Project) -> Example:
    """Read the parameters and the record of a checkpoint.

    Raises
    ------
    UsageError
        It is a model.
    Refused
        Its parameters cannot be found.
    MigrateError
        It cannot be read.
    """
    if build_model.is_factory(path):
        way = "`ckpt-migrate revision NAME --autogenerate` writes the step to the model of the code afterwards"
        raise UsageError(f"{path} is a model, and the examples must be checkpoints; {way}")
    config = project.config
    with annotate_errors(path), open_checkpoint(path, config.trusted) as file:
        tree = file.load()
        record = embed.take(tree, file.attachment(embed.ATTACHMENT)).of_chain(config.chain, config.other_tool)
        own = own_of(file, tree, config.parameters)
        if own is None:
            raise Refused("the parameters of the model cannot be found in it; set `parameters` in the configuration")
        _, record, _ = recognised(project, file, tree, record)
        return Example(os.fspath(path), own, record, file.is_ordered)


def check_different(examples: Sequence[Example]) -> None:
    """Check that no two examples have the same parameters.

    Raises
    ------
    UsageError
        Two have.
    """
    for one, other in combinations(examples, 2):
        if one.is_like(other.own.items, ordered=other.is_ordered):
            raise UsageError(
                f"{one.path} and {other.path} are in the same state: their parameters have the same names, shapes and "
                "dtypes, in the same order; leave out one of them"
            )
