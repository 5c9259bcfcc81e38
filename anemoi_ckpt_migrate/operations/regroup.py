"""The operation that gives an optimizer other groups."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.errors import BadOperation
from anemoi_ckpt_migrate.operations.base import Operation, integer_of, integers_of, names_of, operation, set_fields
from anemoi_ckpt_migrate.operations.optimizer_operation import OptimizerOperation, options_of
from anemoi_ckpt_migrate.state.find_parameters import is_tensor
from anemoi_ckpt_migrate.state.name_patterns import literals, pattern
from anemoi_ckpt_migrate.state.optimizer_state import Trained
from anemoi_ckpt_migrate.storage.tensors.shape_rules import Mismatch

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.state.optimizer_context import OptimizerContext
    from anemoi_ckpt_migrate.state.optimizer_groups import Column
    from anemoi_ckpt_migrate.state.schedulers import Scheduler

Parts = list[list[Trained]]

_REST = "*"  # the pattern for all that is left


@operation
class Regroup(OptimizerOperation):
    """Sort the parameters of an optimizer into other groups.

    A new group takes the options of the old group of its first parameter, and the entries of learning rate schedulers
    for that group. Old groups that become one must agree in all that `options` does not give.

    Parameters
    ----------
    groups : sequence of sequence of str
        For each new group, names or patterns in its order. A name that several patterns select belongs to the first.
        ``"*"`` stands for all that no other pattern selects: ``[["*"], ["*.bias", "norm.*"]]``. Each parameter of the
        optimizer must be in one group.
    options : sequence of dict
        For each new group, the options that change, such as ``{"weight_decay": 0.0}``; ``{}`` for none.
    optimizer : int
        The index of the optimizer, from 0, if there are several.
    schedulers : sequence of str, optional
        The paths of the schedulers that follow, if the checkpoint has several optimizers with the same learning rates;
        an empty list for none.
    own_order : sequence of int
        As in `ParameterGroups`; in records only.
    kept : int, optional
        The number of the stashed differences between the old groups and the new ones; in records only.

    Examples
    --------
    >>> Regroup([["*.weight"], ["*"]], options=[{"weight_decay": 0.01}, {"weight_decay": 0.0}])
    Regroup([["*.weight"], ["*"]], options=[{'weight_decay': 0.01}, {'weight_decay': 0.0}])
    """

    noted = ("own_order", "kept")
    groups: tuple[tuple[str, ...], ...]
    options: tuple[dict[str, Any], ...] = ()
    optimizer: int = 0
    schedulers: tuple[str, ...] | None = None
    own_order: tuple[int, ...] = ()
    kept: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        wrong = not isinstance(self.groups, (tuple, list)) or any(isinstance(group, str) for group in self.groups)
        if wrong or not self.groups:
            raise BadOperation("Regroup: groups must be a list of lists of names, one for each group")
        set_fields(self, groups=tuple(names_of(self, "groups", group, 0) for group in self.groups))
        listed: set[str] = set()
        for name in (name for group in self.groups for name in group):
            if name in listed:
                raise BadOperation(f"Regroup: {name} is in two groups")
            listed.add(name)
        if not isinstance(self.options, (tuple, list)):
            raise BadOperation(
                f"Regroup: options must be a list of dicts, one for each group, not {self.options!r:.60}"
            )
        if self.options and len(self.options) != len(self.groups):
            raise BadOperation(f"Regroup: there are {len(self.groups)} groups, but options for {len(self.options)}")
        set_fields(self, options=tuple(options_of(self, "options", each) for each in self.options))
        if self.schedulers is not None:
            set_fields(self, schedulers=names_of(self, "schedulers", self.schedulers, 0))
        set_fields(self, own_order=integers_of(self, "own_order", self.own_order))
        if self.kept is not None:
            integer_of(self, "kept", self.kept, 0)

    def __hash__(self) -> int:
        return hash(json.dumps(self.to_data(), sort_keys=True, default=str))

    def change(self, context: OptimizerContext) -> list[Operation]:
        """Sort the parameters, and return the rollback."""
        from anemoi_ckpt_migrate.state.optimizer_classes import BY_SCHEDULERS
        from anemoi_ckpt_migrate.state.optimizer_groups import regrouped, restored

        parts = self._sorted(context)
        if context.faults:
            return []
        given = self.options or tuple({} for _ in parts)
        known = {*BY_SCHEDULERS, *(key for group in context.state.groups for key in group)}
        for name in (name for options in given for name in options if name not in known):
            context.fault(
                f"no group of the optimizer at {context.path} has the option {name}; use op.SetItem for one of your own"
            )
        sources = [list(dict.fromkeys(each.slot.group for each in own)) for own in parts]
        told = None if self.kept is None else context.stashed(self.kept)
        schedulers = self._followers(context, sources, given, told)
        columns, same = context.columns(schedulers), context.tensors.same_values
        if not columns:
            raise Mismatch(f"the optimizer at {context.path} has no groups")
        if told is None:
            new = regrouped(columns, sources, given, same)
        else:
            new = restored(columns, sources, told, same, context.discard_changes)
        return [regroup(context, schedulers, columns, new, parts, self.own_order, self.schedulers, self.optimizer)]

    def _sorted(self, context: OptimizerContext) -> Parts:
        among = context.by_name()
        taken: dict[str, int] = {}
        selected: dict[str, list[Trained]] = {}
        listed = [(number, text) for number, texts in enumerate(self.groups) for text in texts]
        for number, text in sorted(listed, key=lambda each: each[1] == _REST):
            found = context.select(text, among)
            left = [each for each in found if each.name not in taken]
            if found and not left:
                where = f"{found[0].name} is in group {taken[found[0].name]} already"
                context.fault(f"{where}, so {text} selects nothing" if pattern(text).open else where)
            selected[text] = left
            taken.update((each.name, number) for each in left)
        parts = [[each for text in texts for each in selected[text]] for texts in self.groups]
        rest = list(dict.fromkeys(each.name for each in among.values() if each.name not in taken))
        if rest and not context.faults:
            more = f", and neither are {len(rest) - 1} more" if len(rest) > 1 else ""
            context.fault(f"{rest[0]} is in no group{more}; the optimizer at {context.path} has it")
        return parts

    def _followers(
        self, context: OptimizerContext, sources: Sequence[Sequence[int]], given: Sequence[Any], told: Any
    ) -> list[Scheduler]:
        """Return the schedulers that follow; none if nothing changes that they have."""
        rates = any({"lr", "initial_lr"} & options.keys() for options in given)
        if told is not None:
            rates = any(path or name in ("lr", "initial_lr") for _, own in told for path, name, *_ in own)
        same = [list(own) for own in sources] == [[number] for number in range(len(context.state.groups))]
        return context.schedulers(self.schedulers) if rates or not same else []


def regroup(
    context: OptimizerContext,
    schedulers: Sequence[Scheduler],
    columns: Sequence[Column],
    new: Sequence[Column],
    parts: Parts,
    own_order: Sequence[int] | None,
    chosen: tuple[str, ...] | None,
    optimizer: int,
) -> Regroup:
    """Give an optimizer other groups, and return the rollback.

    Parameters
    ----------
    context : OptimizerContext
        The context.
    schedulers : sequence of Scheduler
        Those that follow.
    columns, new : sequence of dict
        The columns of the old groups and of the new ones.
    parts : list of list of Trained
        The parameters of the new groups.
    own_order : sequence of int, optional
        As in `State.rearrange`.
    chosen : tuple of str, optional
        The paths of schedulers that the script gives.
    optimizer : int
        The index of the optimizer.
    """
    from anemoi_ckpt_migrate.state.optimizer_groups import differences, group_of, write_lists

    before = context.parts()
    then = {each.name: number for number, own in enumerate(parts) for each in own}
    back = [list(dict.fromkeys(then[each.name] for each in own)) for own in before]
    told = differences(columns, new, back, context.tensors.same_values)
    for difference in (each for _, own in told or () for each in own):
        difference[2:] = [list(map(context.copied, held)) for held in difference[2:]]
    paths = None if context.alone and chosen is None else tuple(each.path for each in schedulers)
    if paths is not None:
        paths = tuple(path for path in paths if not any(path.startswith(f"{other}.") for other in paths))
    undo = Regroup(
        tuple(literals(each.name for each in own) for own in before),
        (),
        optimizer,
        paths,
        context.state.own_order(context.main),
        None if told is None else context.stash(told),
    )
    seen: list[Any] = []
    for column in new:
        for key, value in column.items():
            if is_tensor(value) and any(value is each for each in seen):
                column[key] = context.copied(value)  # a learning rate that groups share would change in both
        seen += column.values()
    context.state.rearrange(context.main, list(map(group_of, new)), parts, own_order)
    write_lists(schedulers, new)
    return undo
