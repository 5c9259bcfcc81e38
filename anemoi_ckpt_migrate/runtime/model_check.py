"""Compare the parameters of a checkpoint with those expected at its revision, before or after a run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.errors import NotAsExpected, NotAtBase, OtherOrder, UsageError
from anemoi_ckpt_migrate.manifests import trace
from anemoi_ckpt_migrate.manifests.checkpoint_parameters import CheckpointParameters, own_of
from anemoi_ckpt_migrate.manifests.compare import StateDictDiff, misfit
from anemoi_ckpt_migrate.manifests.known import ModelHistory, heads_of, known_of, known_of_checkpoint
from anemoi_ckpt_migrate.manifests.manifest_file import Snapshot
from anemoi_ckpt_migrate.manifests.trace import UnknownState
from anemoi_ckpt_migrate.record import embed
from anemoi_ckpt_migrate.record.record import Record
from anemoi_ckpt_migrate.state.tensor_values import Tensors
from anemoi_ckpt_migrate.storage.tensors.refs import is_a
from anemoi_ckpt_migrate.tree import config_objects, items
from anemoi_ckpt_migrate.tree.walk import Path, walk
from anemoi_ckpt_migrate.util.dataclass import dataclass, field

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.project.config import Config
    from anemoi_ckpt_migrate.project.project import Project
    from anemoi_ckpt_migrate.revisions.graph import Graph
    from anemoi_ckpt_migrate.runtime.executor import Outcome
    from anemoi_ckpt_migrate.runtime.optimizer_order import OptimizerOrders, WrongOrder
    from anemoi_ckpt_migrate.storage import Checkpoint


@dataclass(frozen=True)
class Verdict:
    """The comparison of a checkpoint with the models of a project.

    Attributes
    ----------
    model : str
        The matching model, or else the nearest one; empty if none is known.
    misfit : StateDictDiff
        The differences from that model.
    unknown : bool
        Whether the checkpoint may be another model, whose parameters at this revision are unknown.
    notes : list of str
        Reasons for that, where the user can act on them.
    order : tuple of str
        The names of the matching model, in order; empty if none matches.
    """

    model: str
    misfit: StateDictDiff
    unknown: bool
    notes: list[str]
    order: tuple[str, ...] = ()

    @property
    def refused(self) -> bool:
        """Whether the checkpoint certainly matches none of the models."""
        return bool(self.model) and self.misfit.count > 0 and not self.unknown


@dataclass(frozen=True)
class ModelOrder:
    """A checkpoint whose parameters are in another order than those of its model.

    Attributes
    ----------
    model : str
        The model.
    optimizers : tuple of WrongOrder
        The optimizers whose moments would, or may, go to other parameters.
    operations : tuple of str
        The operations, as in a script, that bring the parameters into the order of the model.
    """

    model: str
    optimizers: tuple[WrongOrder, ...]
    operations: tuple[str, ...]


@dataclass(frozen=True)
class ModelCheck:
    """Checks that a checkpoint matches its expected model, as far as that is known. Reads the manifest once.

    Attributes
    ----------
    project : Project
        The project that holds the models.
    graph : Graph
        The revisions, as seen from the checkpoint.
    revisions : tuple of str
        The revisions that the run leads to.
    file : Checkpoint
        The open checkpoint.
    wanted : bool
        Whether to check at all.
    record : Record
        The record of the checkpoint before the run.
    runs_code : bool
        Whether the run calls functions.
    """

    project: Project
    graph: Graph
    revisions: tuple[str, ...]
    file: Checkpoint
    wanted: bool
    record: Record = field(default_factory=Record)
    runs_code: bool = False

    @cached_property
    def known(self) -> ModelHistory:
        """The known states of the models."""
        return known_of(self.project.config)

    def before(self, tree: Any, record: Record) -> None:
        """Check that a checkpoint without a record may be at base.

        Raises
        ------
        NotAtBase
            The checkpoint certainly matches no model at base.
        """
        if not self.wanted or record.lineage or record.log:
            return
        verdict = self._verdict(self.project.graph, (), tree)
        if verdict is not None and verdict.refused:
            wrong = verdict.misfit
            raise NotAtBase(verdict.model, wrong.sentences(), os.fspath(self.file.path), wrong.only_sizes)

    def misses(self, tree: Any, revisions: Sequence[str]) -> bool:
        """Return whether a checkpoint certainly matches no model at revisions."""
        verdict = self._verdict(self.project.graph, revisions, tree)
        return verdict is not None and verdict.refused

    def result(self, outcome: Outcome) -> list[str]:
        """Check the result of a run.

        Returns
        -------
        list of str
            Notes for the user.

        Raises
        ------
        NotAsExpected
            The result does not match the expected model.
        OtherOrder
            An optimizer would have the moments of other parameters.
        """
        tree = outcome.tree
        verdict = self._verdict(self.graph, self.revisions, tree, outcome.content) if self.wanted else None
        if verdict is None:
            return []
        if verdict.refused:
            wrong, place = verdict.misfit, ", ".join(self.revisions) or "base"
            raise NotAsExpected(verdict.model, place, wrong.sentences(), wrong.only_sizes)
        return [*verdict.notes, *self._order_notes(verdict, outcome)]

    def order_of(self, tree: Any) -> ModelOrder | None:
        """Compare the order of parameters in a checkpoint, as it is, with that of the model at its revisions.

        Returns
        -------
        ModelOrder or None
            The difference; None if the order is the model's, does not count in the format, or no model matches.
        """
        verdict = self._verdict(self.graph, self.revisions, tree)
        if verdict is None or not verdict.order or not verdict.misfit.moved or not self.file.is_ordered:
            return None
        from anemoi_ckpt_migrate.runtime import optimizer_order

        tensors, certain = Tensors(self.file.maker, self.file.same), optimizer_order.is_certain(self.record, self.graph)
        parameters = self.project.config.parameters
        orders = optimizer_order.orders_of(tree, parameters, tensors, self.record.optimizers, certain)
        if orders is None:
            return None
        operations = optimizer_order.operations(list(orders.main), verdict.order)
        return ModelOrder(verdict.model, tuple(orders.wrong(verdict.order)), operations)

    def _order_notes(self, verdict: Verdict, outcome: Outcome) -> list[str]:
        """Return notes about optimizers whose order is not known; raise if the order of one is known to be wrong."""
        if not verdict.order or not verdict.misfit.moved or not self.file.is_ordered:
            return []
        from anemoi_ckpt_migrate.runtime import optimizer_order

        orders = self._orders(outcome)
        found = [] if orders is None else list(orders.wrong(verdict.order))
        wrong = [each for each in found if each.number is not None]
        if orders is not None and wrong:
            place = ", ".join(self.revisions) or "base"
            operations = optimizer_order.operations(list(orders.main), verdict.order)
            raise OtherOrder(verdict.model, place, wrong[0].sentence, operations)
        moved = f"the order of the parameters differs from that of the model {verdict.model}"
        return [f"{moved}: {each.sentence}" for each in found]

    def _orders(self, outcome: Outcome) -> OptimizerOrders | None:
        """Return the orders of parameters in the optimizers of the result."""
        from anemoi_ckpt_migrate.runtime import optimizer_order

        file, parameters = self.file, self.project.config.parameters
        before_is_certain = optimizer_order.is_certain(self.record, self.graph)
        certain = before_is_certain and not self.runs_code
        tensors = Tensors(file.maker, file.same, outcome.content)
        after = optimizer_order.orders_of(outcome.tree, parameters, tensors, outcome.optimizers, certain)
        if certain or not before_is_certain or outcome.content:
            return after
        old = embed.unrecorded(file)[0]
        tensors = Tensors(file.maker, file.same)
        before = optimizer_order.orders_of(old, parameters, tensors, self.record.optimizers)
        return optimizer_order.followed(before, old, after, outcome.tree)

    def _verdict(self, graph: Graph, revisions: Sequence[str], tree: Any, content: bool = False) -> Verdict | None:
        config = self.project.config
        own = own_of(self.file, tree, config.parameters, content) if self.known.models else None
        return None if own is None else compared(self.known, config, graph, revisions, own, tree)


def compared(
    known: ModelHistory, config: Config, graph: Graph, revisions: Sequence[str], own: CheckpointParameters, tree: Any
) -> Verdict:
    """Compare the parameters of a checkpoint with the models of a project at revisions."""
    nearest: tuple[str, StateDictDiff] | None = None
    unknown, notes = False, []
    moved: Verdict | None = None
    for name, snapshot in known.models.items():
        try:
            # The current code may not understand hyper-parameters of earlier revisions.
            now = Snapshot(heads_of(graph, snapshot), ())
            early = snapshot.sized and not trace.is_before(graph, now, revisions)
            snapshots = [] if early else known_of_checkpoint(known, name, config, graph, tree)
        except UsageError as error:
            unknown = True
            notes.append(f"it was not compared with the model {name}: {error.sentence}")
            continue
        expected = trace.derived(graph, snapshots, revisions)
        if isinstance(expected, UnknownState):
            unknown = True
            continue
        found = misfit_of(own, graph, snapshots, expected)
        if not found.count:
            fit = Verdict(name, found, False, [], tuple(item.name for item in expected.items))
            if not found.moved:
                return fit
            moved = moved or fit
            continue
        odd = _not_plain(items.get(tree, config.hyper_parameters)) if snapshot.sized else ""
        if odd:
            unknown = True
            notes.append(f"it was not compared with the model {name}: {config.hyper_parameters}{odd} is not plain data")
        elif nearest is None or found.count < nearest[1].count:
            nearest = name, found
    return moved or Verdict(*(nearest or ("", StateDictDiff())), unknown, notes)


def _not_plain(tree: Any) -> str:
    """Return the path of the first value that is not plain data: an instance of a class, or an interpolation."""
    for path, value in walk(tree, _content):
        is_container = is_a(value, (dict, list, tuple)) or config_objects.content(value) is not None
        is_plain = value is None or (is_a(value, (str, int, float, bool)) and "${" not in str(value))
        if not is_container and not is_plain:
            return "".join(f".{key}" for key in path)
    return ""


def _content(path: Path, value: Any) -> Iterable[tuple[Any, Any]]:
    if config_objects.content(value) is not None:
        value = config_objects.plain(value)
    if is_a(value, dict):
        return list(value.items())
    return enumerate(value) if is_a(value, (list, tuple)) else ()


def misfit_of(own: CheckpointParameters, graph: Graph, known: Sequence[Snapshot], expected: Snapshot) -> StateDictDiff:
    """Return the differences from the expected parameters; none if the parameters match at revisions further ahead."""
    found = own.misfit(expected.items)
    if found.exact or own.left_out:
        return found
    both = trace.ahead(graph, known, expected.revisions, own.items)
    later = None if both is None else misfit(*both)
    return found if later is None or later.count else later
