"""The operation that turns an optimizer into one of another class, as far as their states have the same meaning."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.errors import BadOperation
from anemoi_ckpt_migrate.operations.base import Operation, name_of, names_of, operation, set_fields
from anemoi_ckpt_migrate.operations.optimizer_operation import OptimizerOperation, options_of
from anemoi_ckpt_migrate.operations.regroup import regroup
from anemoi_ckpt_migrate.storage.tensors.shape_rules import Mismatch
from anemoi_ckpt_migrate.util.dataclass import replace

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.state.optimizer_context import OptimizerContext
    from anemoi_ckpt_migrate.state.optimizer_groups import Column
    from anemoi_ckpt_migrate.state.optimizer_state import Trained

_CYCLES = ("", "base_momentum")


@operation
class ChangeOptimizer(OptimizerOperation):
    """Turn an optimizer of torch into one of another class, or change its options.

    Adam, AdamW, NAdam and RAdam share their moments and steps. Between these and SGD, each parameter starts anew. The
    page on operations has a table.

    Parameters
    ----------
    to : str
        The new class: ``"Adam"``, ``"AdamW"``, ``"NAdam"``, ``"RAdam"`` or ``"SGD"``.
    defaults : dict
        Options of the new class, for all groups. Others are carried over where both classes have them, and else get
        the default of torch.
    optimizer : int
        The index of the optimizer, from 0, if there are several.
    schedulers : sequence of str, optional
        As in `Regroup`.
    """

    to: str
    defaults: Any = None
    optimizer: int = 0
    schedulers: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        from anemoi_ckpt_migrate.state import optimizer_classes as classes

        name = name_of(self, "to", self.to).removeprefix("torch.optim.")
        if name not in classes.DEFAULTS:
            raise BadOperation(f"ChangeOptimizer: {name} cannot be made: {classes.refusal(name)}")
        given = options_of(self, "defaults", {} if self.defaults is None else self.defaults)
        known = classes.DEFAULTS[name]
        for option in given:
            if option not in known and option not in classes.BY_SCHEDULERS:
                raise BadOperation(f"ChangeOptimizer: {name} has no option {option}; it has {', '.join(known)}")
        set_fields(self, to=name, defaults=given or None)
        if self.schedulers is not None:
            set_fields(self, schedulers=names_of(self, "schedulers", self.schedulers, 0))

    def __hash__(self) -> int:
        return hash(json.dumps(self.to_data(), sort_keys=True, default=str))

    def change(self, context: OptimizerContext) -> list[Operation]:
        """Change options and state, and return the rollback."""
        from anemoi_ckpt_migrate.state import optimizer_classes as classes

        state, parts = context.state, context.parts()
        every = [each for own in parts for each in own]
        source = classes.class_of(state.path, state.groups, [each.slot.state for each in every])
        rates = {"lr", "initial_lr"} & (self.defaults or {}).keys()
        schedulers = context.schedulers(self.schedulers) if rates else []
        columns = context.columns(schedulers)
        new = [self._column(column, source) for column in columns]
        made, kept = [], []
        for each in every:
            options = _options(new[each.slot.group])
            content = _converted(context, each, self.to, options, {})
            made.append(replace(each, slot=replace(each.slot, state=content)))
            kept.append(_left(context, each.slot.state, content))
        renewed = [[each for each in made if each.slot.group == number] for number in range(len(parts))]
        back = regroup(context, schedulers, columns, new, renewed, None, self.schedulers, self.optimizer)
        names = tuple(each.name for each in made)
        return [back, RestoreStates(source, names, context.stash(kept), self.optimizer)]

    def _column(self, column: Column, source: str) -> Column:
        """Return the column of a group with the options of the new class."""
        from anemoi_ckpt_migrate.state import optimizer_classes as classes
        from anemoi_ckpt_migrate.state.optimizer_groups import with_options

        if _CYCLES in column and (source == "SGD") is not (self.to == "SGD"):
            raise Mismatch("a scheduler cycles the momentum of the optimizer, and cannot follow to another kind of it")
        options = classes.new_options(self.to, source, _options(column), {})
        whole: Column = {("", name): value for name, value in options.items()}
        whole |= {key: value for key, value in column.items() if key[0]}
        found = with_options(whole, self.defaults or {})
        if found.get(("", "fused")) is True and found.get(("", "foreach")) is True:
            raise Mismatch("fused and foreach cannot both be True; give one of them in defaults")
        return found


def _options(column: Column) -> dict[Any, Any]:
    return {name: value for (path, name), value in column.items() if not path}


def _converted(
    context: OptimizerContext, each: Trained, to: str, options: Mapping[Any, Any], stashed: Mapping[str, Any]
) -> dict[Any, Any] | None:
    """Return the state of a parameter for another class; None if it starts anew."""
    from anemoi_ckpt_migrate.state import optimizer_classes as classes

    tensors, before = context.tensors, each.slot.state or {}
    keys = classes.carried(to, options)
    carried = {key: value for key, value in before.items() if key in keys} | dict(stashed)

    def like(value: Any) -> Any:
        return tensors.make("fill", (tensors.shape(value), tensors.dtype(value), 0), [])

    try:
        found = carried | classes.added(to, options, carried, tensors.make, like)
        if not found and context.state.is_flattened and keys:  # torch's loader makes no state there
            found = _fresh(context, each, to, options)
    except KeyError as error:
        raise Mismatch(f"the optimizer at {context.path} has no {error.args[0]} for {each.name}") from None
    return found or None


def _fresh(context: OptimizerContext, each: Trained, to: str, options: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the state of a parameter that starts anew, as torch's optimizers make it."""
    make = context.tensors.make
    if each.foreign:
        raise Mismatch(f"the initial state of {each.name} is unknown, because the state dict does not have it")
    shape, dtype = each.slot.shape, context.tensors.dtype(context.main[each.name])
    if to == "SGD":
        if options["dampening"]:
            raise Mismatch(f"the initial momentum of {each.name} is unknown with dampening")
        return {"momentum_buffer": make("fill", (shape, dtype, 0), [])}
    moments = ["exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if options.get("amsgrad") else [])]
    found = {"step": make("fill", ((), "float32", 0), [])}
    if to == "NAdam":
        found["mu_product"] = make("fill", ((), "float32", 1), [])
    return found | {key: make("fill", (shape, dtype, 0), []) for key in moments}


def _left(
    context: OptimizerContext, before: Mapping[Any, Any] | None, after: Mapping[Any, Any] | None
) -> dict[str, Any] | None:
    """Return what the way back needs: the keys in order, and the values that are not carried over."""
    if before is None:
        return None
    after = after or {}
    gone = {key: value for key, value in before.items() if key not in after or after[key] is not value}
    step = {"step": context.copied(before["step"])} if "mu_product" in gone and "step" in before else {}
    return {"keys": list(before), "gone": gone, **step}


@operation
class RestoreStates(OptimizerOperation):
    """Turn the state of an optimizer back into that of its old class, with the entries that were stashed."""

    written = False
    source: str
    names: tuple[str, ...]
    kept: int
    optimizer: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        set_fields(self, names=names_of(self, "names", self.names, 0))

    def change(self, context: OptimizerContext) -> list[Operation]:
        """Turn it back. The options of the groups are those of the old class already."""
        kept: Sequence[Any] = context.stashed(self.kept)
        known = dict(zip(self.names, kept, strict=True))
        parts = []
        for own in context.parts():
            back = []
            for each in own:
                options = context.state.groups[each.slot.group]
                content = self._restored(context, each, options, known.get(each.name))
                back.append(replace(each, slot=replace(each.slot, state=content)))
            parts.append(back)
        context.state.rearrange(context.main, list(context.state.groups), parts)
        return []

    def _restored(
        self, context: OptimizerContext, each: Trained, options: Mapping[Any, Any], kept: Any
    ) -> dict[Any, Any] | None:
        if kept is None:
            return _converted(context, each, self.source, options, {})
        gone, now = dict(kept["gone"]), each.slot.state or {}
        if "step" in kept and "step" in now and not context.tensors.same_values(kept["step"], now["step"]):
            del gone["mu_product"]  # the optimizer went on since: it is computed anew
        found = _converted(context, each, self.source, options, gone) or {}
        order = [key for key in kept["keys"] if key in found]
        return {key: found[key] for key in (*order, *found)}
