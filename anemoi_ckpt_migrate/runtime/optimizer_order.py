"""Compare the order of parameters in optimizers with that of a model.

torch loads the state of an optimizer by position. If the model has its parameters in another order, the moments of one
parameter go to another, and nothing fails where their shapes are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from anemoi_ckpt_migrate.state.find_parameters import find_main, find_optimizers, is_tensor
from anemoi_ckpt_migrate.state.infer_optimizer import Unknown
from anemoi_ckpt_migrate.state.optimizer_state import State
from anemoi_ckpt_migrate.state.tensor_values import Tensors, memory_of
from anemoi_ckpt_migrate.storage.tensors.refs import is_a
from anemoi_ckpt_migrate.util.dataclass import dataclass

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.record.record import Order, Record
    from anemoi_ckpt_migrate.revisions.graph import Graph
    from anemoi_ckpt_migrate.state.ordered_names import Table


@dataclass(frozen=True)
class WrongOrder:
    """An optimizer that numbers its parameters in another order than the model.

    Attributes
    ----------
    path : str
        Its path in the tree.
    number : int or None
        The first number with another parameter; None if it is not known which parameters it has.
    own, expected : str
        The parameter that has this number in the checkpoint, and that of the model; without a number, the first names
        in the state dict that differ.
    """

    path: str
    number: int | None
    own: str
    expected: str

    @property
    def sentence(self) -> str:
        """The difference, and what comes of it."""
        if self.number is None:
            return (
                f"{self.own} has the place of {self.expected} in the model, and the order in the optimizer at "
                f"{self.path} is unknown: if it is that of the state dict, moments go to other parameters"
            )
        return (
            f"number {self.number} of the optimizer at {self.path} is {self.own}, and {self.expected} in the model, so "
            "moments would go to other parameters"
        )


class Group(NamedTuple):
    """A group of an optimizer.

    Attributes
    ----------
    names : list of str
        The parameters at its positions.
    follows : bool
        Whether they follow the order of the state dict, as those of the model would; else the group has its own order.
    """

    names: list[str]
    follows: bool


@dataclass(frozen=True)
class OptimizerOrders:
    """The orders of parameters in the optimizers of a checkpoint.

    Attributes
    ----------
    main : Table
        The state dict.
    groups : dict of str to list of Group, or None
        By the path of each optimizer that has moments and only numbers its parameters; None if these are not known.
    """

    main: Table
    groups: Mapping[str, Sequence[Group] | None]

    def wrong(self, expected: Sequence[str]) -> Iterator[WrongOrder]:
        """Compare with the order of parameters in a model, and yield each optimizer that has another one."""
        place = _places(self.main, expected)
        own = [name for name in self.main if name in place]
        pairs = zip(own, sorted(own, key=place.__getitem__), strict=True)
        moved = next((pair for pair in pairs if pair[0] != pair[1]), None)
        for path, groups in self.groups.items():
            if groups is None:
                if moved is not None:
                    yield WrongOrder(path, None, *moved)
                continue
            found = _first_wrong(groups, place)
            if found is not None:
                yield WrongOrder(path, *found)


def orders_of(
    tree: Any, parameters: str | None, tensors: Tensors, noted: Mapping[str, Order], certain: bool = True
) -> OptimizerOrders | None:
    """Return the orders of parameters in the optimizers of a checkpoint; None without parameters.

    Parameters
    ----------
    tree : object
        The checkpoint.
    parameters : str or None
        The configured path of the state dict.
    tensors : Tensors
        Operations on its tensors.
    noted : mapping of str to Order
        The orders in the record.
    certain : bool
        Whether the optimizers follow the order of the state dict. After a function has changed one, they may not.
    """
    place = find_main(tree, parameters)
    if isinstance(place, str):
        return None
    main = place.table()
    groups: dict[str, Sequence[Group] | None] = {}
    for path, content in find_optimizers(tree):
        state = State(path, content, tensors)
        if not state.by_name and any(_states(content).values()):
            groups[path] = _named(state, main, tensors, noted.get(path), certain)
    return OptimizerOrders(main, groups)


def followed(
    before: OptimizerOrders | None, old: Any, after: OptimizerOrders | None, new: Any
) -> OptimizerOrders | None:
    """Return the orders after functions have run, by the tensors that they left as they were.

    A function that removes a name from a state dict and adds it anew moves it to the end, and leaves the optimizer,
    which is right. So neither the old nor the new order of the state dict tells that of the optimizer.

    Parameters
    ----------
    before, after : OptimizerOrders or None
        The orders before and after, as far as they are known.
    old, new : object
        The two checkpoints, both with stand-ins for tensors.
    """
    if before is None or after is None:
        return after
    olds, news = dict(find_optimizers(old)), dict(find_optimizers(new))
    called = {memory_of(after.main[name]): name for name in reversed(list(after.main))}
    groups = dict(after.groups)
    for path, known in groups.items():
        earlier = before.groups.get(path)
        if known is None and earlier is not None and _states(olds[path]) == _states(news[path]):
            groups[path] = _renamed(earlier, lambda name: called.get(memory_of(before.main[name])))
    return OptimizerOrders(after.main, groups)


def _renamed(groups: Sequence[Group], new: Callable[[str], str | None]) -> list[Group] | None:
    """Return groups with new names; None if one has none."""
    found = []
    for group in groups:
        names = [name for name in map(new, group.names) if name is not None]
        if len(names) < len(group.names):
            return None
        found.append(Group(names, group.follows))
    return found


def is_certain(record: Record, graph: Graph) -> bool:
    """Return whether no function can have changed the order of a state dict alone, as far as the log tells.

    A function that removes a name and adds it anew moves it to the end, while the optimizer stays right.
    """
    plain = {entry.revision for entry in record.lineage if entry.undo is not None and entry.undo.operations is not None}
    plain |= {revision.id for revision in graph if revision.operations is not None}
    return all(step in plain for entry in record.log if entry.command != "stamp" for step in entry.steps)


def operations(own: Sequence[str], expected: Sequence[str]) -> tuple[str, ...]:
    """Return the operations, as in a script, that bring parameters into the order of a model."""
    from anemoi_ckpt_migrate.autogenerate.reorder import reorders

    wanted = [name for name in expected if name in set(own)]
    names = [name for name in own if name in set(wanted)]
    return tuple(f"op.{operation!r}" for operation in reorders(names, wanted))


def _named(state: State, main: Table, tensors: Tensors, noted: Order | None, certain: bool) -> list[Group] | None:
    if not certain and noted is None and state.called() is None:
        return None
    try:
        state.name_slots(main, tensors, noted=noted)
    except Unknown:
        return None
    return [Group(*each) for each in state.groups_in_order()]


def _places(main: Table, expected: Sequence[str]) -> dict[str, int]:
    """Return the place of each name in the model; tied names have the first of theirs, as optimizers list them once."""
    first: dict[Any, int] = {}
    index = {name: at for at, name in enumerate(expected)}
    for name in main:
        memory = memory_of(main[name]) if is_tensor(main[name]) else None
        if memory is not None and name in index:
            first[memory] = min(index[name], first.get(memory, index[name]))
    return {name: first.get(memory_of(main[name]), at) for name, at in index.items() if name in main}


def _first_wrong(groups: Sequence[Group], place: Mapping[str, int]) -> tuple[int, str, str] | None:
    """Return the first number with another parameter than in the model, and both parameters."""
    number = 0
    for own, follows in groups:
        known = follows and all(name in place for name in own)
        for name, expected in zip(own, sorted(own, key=place.__getitem__) if known else own, strict=True):
            if name != expected:
                return number, name, expected
            number += 1
    return None


def _states(content: Any) -> Any:
    """Return the moments of each position by their memory, to compare them; empty dicts without moments."""
    found = {}
    for key, state in content["state"].items():
        memories = [(name, memory_of(value)) for name, value in state.items()] if is_a(state, dict) else []
        found[key] = {name: memory for name, memory in memories if memory is not None and name != "step"}
    return found
