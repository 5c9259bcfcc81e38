"""Operations by which parameters leave an optimizer, and enter it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.operations.base import Operation, integer_of, names_of, operation, set_fields
from anemoi_ckpt_migrate.operations.optimizer_operation import OptimizerOperation
from anemoi_ckpt_migrate.state.name_patterns import literals
from anemoi_ckpt_migrate.state.optimizer_state import Trained
from anemoi_ckpt_migrate.storage.tensors.shape_rules import Mismatch

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.state.optimizer_context import OptimizerContext
    from anemoi_ckpt_migrate.state.optimizer_slots import Slot


@operation
class Untrain(OptimizerOperation):
    """Take parameters out of an optimizer: they are frozen, or have become buffers.

    The model keeps them. Their moments are stashed for the downgrade. A group without any parameters stays; `Regroup`
    can leave it out.

    Parameters
    ----------
    names : str or sequence of str
        Names or patterns; also names that `ParameterGroups` calls foreign.
    optimizer : int
        The index of the optimizer, from 0, if there are several.
    """

    names: tuple[str, ...]
    optimizer: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        set_fields(self, names=names_of(self, "names", self.names))

    def change(self, context: OptimizerContext) -> list[Operation]:
        """Take them out, and return the rollback."""
        among = context.by_name()
        gone = {each.name for text in self.names for each in context.select(text, among)}
        if context.faults:
            return []
        items = []
        parts = context.parts()
        for own in parts:
            before: str | None = None
            for each in own:
                if each.name in gone:
                    items.append((each.name, context.stash(_kept(context, each)), before))
                before = each.name
        left = [[each for each in own if each.name not in gone] for own in parts]
        context.state.rearrange(context.main, list(context.state.groups), left)
        return [RestoreTrained(tuple(items), self.optimizer)]


def _kept(context: OptimizerContext, each: Trained) -> dict[str, Any]:
    return {"slot": context.state.slots.keep(each.slot), "foreign": each.foreign, "own": each.own}


@operation
class RestoreTrained(OptimizerOperation):
    """Put back parameters that `Untrain` took out, with their moments, each at its old position."""

    written = False
    items: tuple[tuple[str, int, str | None], ...]
    optimizer: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        set_fields(self, items=tuple((name, number, before) for name, number, before in self.items))

    def change(self, context: OptimizerContext) -> list[Operation]:
        """Put them back."""
        back = []
        for name, number, before in self.items:
            kept = context.stashed(number)
            slot = context.state.slots.kept(kept["slot"])
            if slot is None:
                raise Mismatch(f"no state of {name} was stashed")
            back.append((Trained(name, slot, bool(kept["foreign"]), kept["own"]), before))
        parts = context.parts()  # only now: a group may have come back
        among = context.by_name()
        for each, before in back:
            if each.name in among:
                context.fault(f"{each.name} is in the optimizer at {context.path} already")
            elif each.foreign is (each.name in context.main):
                context.fault(f"the state dict {'has' if each.foreign else 'lacks'} {each.name}")
            elif not each.foreign and context.tensors.shape(context.main[each.name]) != each.slot.shape:
                context.fault(f"{each.name} had the shape {list(each.slot.shape)} in the optimizer at {context.path}")
            own = parts[each.slot.group]
            names = [other.name for other in own]
            own.insert(names.index(before) + 1 if before in names else 0 if before is None else len(own), each)
        if not context.faults:
            context.state.rearrange(context.main, list(context.state.groups), parts)
        return []


@operation
class Train(OptimizerOperation):
    """Put parameters into an optimizer: they are trained from now on, and start as in a new optimizer.

    Parameters
    ----------
    names : str or sequence of str
        Names or patterns. A pattern selects possible parameters that no optimizer has.
    group : int
        The group that they enter. `Regroup` makes new groups.
    optimizer : int
        The index of the optimizer, from 0, if there are several.
    """

    names: tuple[str, ...]
    group: int = 0
    optimizer: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        set_fields(self, names=names_of(self, "names", self.names))
        integer_of(self, "group", self.group, 0)

    def inverse(self) -> Operation | None:
        """Return the operation that takes them out again."""
        return Untrain(self.names, self.optimizer)

    def change(self, context: OptimizerContext) -> list[Operation]:
        """Put them in, and return the rollback."""
        state, count = context.state, len(context.state.groups)
        if self.group >= count:
            raise Mismatch(f"the optimizer at {state.path} has {count} groups, but no group {self.group}")
        if not state.keeps_order_of(self.group):
            raise Mismatch(
                f"group {self.group} of the optimizer at {state.path} has its own order of parameters; give it that of "
                "the state dict with op.Regroup first, and its own again behind"
            )
        names = list(dict.fromkeys(name for text in self.names for name in context.untrained(text)))
        if context.faults:
            return []
        new = [Trained(name, self._slot(context, name)) for name in names]
        parts = context.parts()
        parts[self.group] = _with(parts[self.group], new)
        state.rearrange(context.main, list(state.groups), parts)
        return [Untrain(literals(names), self.optimizer)]

    def _slot(self, context: OptimizerContext, name: str) -> Slot:
        shape = context.tensors.shape(context.main[name])
        return context.state.slots.make("fill", (shape, self.group), [])


def _with(own: list[Trained], new: list[Trained]) -> list[Trained]:
    """Return the parameters of a group with new ones, before the foreign ones at its end."""
    end = len(own)
    while end and own[end - 1].foreign and not own[end - 1].leads:
        end -= 1
    return [*own[:end], *new, *own[end:]]
