"""Map the positions in an optimizer's state to parameters, and back to positions.

torch's optimizers save their state by position: parameters are numbered through all groups, in the order in which they
were given (`torch.optim.Optimizer.state_dict`). The order is known if the groups have ``param_names`` (torch 2.6), or
if the script declares it. Otherwise it is derived from the state dict, if only one result is possible: the parameters
of each group stand in the order of the state dict, and their shapes match the moments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from anemoi_ckpt_migrate.record.record import Order
from anemoi_ckpt_migrate.state.find_parameters import is_tensor
from anemoi_ckpt_migrate.state.infer_optimizer import (
    SAY,
    SAY_NAMES,
    Unknown,
    from_shapes,
    from_shapes_alone,
    is_buffer,
    may_be_parameter,
    moment_shape,
    parameters,
    plain_shape,
)
from anemoi_ckpt_migrate.state.name_patterns import pattern
from anemoi_ckpt_migrate.state.optimizer_slots import Slot, Slots
from anemoi_ckpt_migrate.state.ordered_names import Table
from anemoi_ckpt_migrate.state.tensor_values import Tensors, memory_of
from anemoi_ckpt_migrate.storage.tensors.refs import is_a
from anemoi_ckpt_migrate.tree.optimizer_formats import flattened, is_flattened, strays, unflattened
from anemoi_ckpt_migrate.util.dataclass import dataclass, replace
from anemoi_ckpt_migrate.util.text import first_repeated


class OrderDeclaration(Protocol):
    """The order of an optimizer's parameters, as declared in a script."""

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """Names or patterns of each group."""

    @property
    def exclude(self) -> tuple[str, ...]:
        """Names or patterns of parameters in no group."""

    @property
    def own_order(self) -> tuple[int, ...]:
        """Groups that do not follow the order of the state dict."""

    @property
    def foreign(self) -> tuple[str, ...]:
        """Names in `groups` of parameters that the state dict does not have."""


@dataclass(frozen=True, eq=False)
class Trained:
    """A parameter of an optimizer.

    Attributes
    ----------
    name : str
        Its name in the state dict; for a foreign one, the name that a script or a record gives it.
    slot : Slot
        Its state.
    foreign : bool
        Whether the state dict does not have it.
    own : object
        The optimizer's own name of a foreign one; None if it only numbers them.
    leads : bool
        Whether a foreign one stands before all others of its group, and not behind.
    """

    name: str
    slot: Slot
    foreign: bool = False
    own: Any = None
    leads: bool = False


class StateOrder(NamedTuple):
    """Whether the order of a state dict tells that of the model.

    Attributes
    ----------
    is_kept : bool
        Whether the files keep the order of the model.
    is_known : bool
        Whether the state dict in the tree has it.
    """

    is_kept: bool
    is_known: bool


IN_ORDER = StateOrder(True, True)
"""The state dict has the order of the model, in the files too."""


class OptimizerSnapshot(NamedTuple):
    """The known parameters of an optimizer, kept while functions change the tree.

    Attributes
    ----------
    content : dict
        The saved optimizer state.
    places : list of list of (str, object, object)
        For each position of each group, the name of the parameter, its tensor, and its state. The tensor identifies the
        parameter even after a renaming; a foreign one has none.
    declared : bool
        Whether a script declared the order, which shapes may contradict.
    """

    content: dict[Any, Any]
    places: list[list[tuple[str, Any, Any]]]
    declared: bool


class State:
    """The state of an optimizer, by the names of parameters.

    Parameters
    ----------
    path : str
        Its path in the tree.
    content : dict
        The saved optimizer state.
    tensors : Tensors
        Operations on tensors.
    order : StateOrder
        Whether the order of the state dict tells that of the model. If the files do not keep it, it is made to agree
        with the optimizer.

    Attributes
    ----------
    slots : Slots
        Operations on the slots.
    table : Table
        A `Slot` for each parameter, in the order of the optimizer.
    declared : bool
        Whether a script declared the parameters.
    """

    def __init__(self, path: str, content: dict[Any, Any], tensors: Tensors, order: StateOrder = IN_ORDER) -> None:
        self.path, self._source, self._content, self._order = path, content, content, order
        self.is_flattened = is_flattened(content)
        if self.is_flattened:
            self._content = unflattened(content, tensors.same_values)
        self.groups: list[dict[Any, Any]] = self._content["param_groups"]
        self.slots = Slots(tensors, self.groups, self.is_flattened)
        self.by_name = any(is_a(each, str) for group in self.groups for each in group["params"])
        self.table = Table()
        self.declared = False
        positions = {position for group in self.groups for position in group["params"]}
        # State that belongs to no parameter: torch lets an optimizer keep any keys there.
        self._rest = {key: value for key, value in self._content["state"].items() if key not in positions}
        self._in_order: list[bool] = []
        self._written: Sequence[Sequence[str]] = ()

    def name_slots(
        self,
        main: Table,
        tensors: Tensors,
        declared: OrderDeclaration | None = None,
        known: OptimizerSnapshot | None = None,
        noted: Order | None = None,
    ) -> None:
        """Identify the parameter at each position.

        Parameters
        ----------
        main : Table
            The state dict.
        tensors : Tensors
            Operations on its tensors.
        declared : OrderDeclaration, optional
            The declaration of the script.
        known : OptimizerSnapshot, optional
            The parameters known before the tree was changed.
        noted : Order, optional
            The order in the record; used only if there is no other source, and if it fits.

        Raises
        ------
        Unknown
            The parameters cannot be identified.
        """
        names = self._names(main, tensors, declared, known, noted)
        if (twice := first_repeated(name for own in names for name in own)) is not None:
            raise Unknown(f"the optimizer at {self.path} would have {twice} twice; {SAY}")
        if not self._order.is_kept:
            self._check_moments(names, main, tensors)
        believed = noted is not None and known is None and declared is None and names == noted.groups
        called = self.called()
        items = []
        for number, (group, own) in enumerate(zip(self.groups, names, strict=True)):
            for index, (position, name) in enumerate(zip(group["params"], own, strict=True)):
                state = self._content["state"].get(position)
                if name not in main:
                    slot = Slot(number, moment_shape(state, tensors) or (), state)
                    items.append(Trained(name, slot, True, called and called[number][index]))
                    continue
                value = main[name]
                if not is_tensor(value):
                    raise Unknown(f"{name}, which the optimizer at {self.path} would have, is not a tensor; {SAY}")
                shape = plain_shape(value, tensors) or ()  # without a shape, nothing is made from it
                items.append(Trained(name, Slot(number, shape, state)))
        if not self._order.is_kept:
            main.arrange([each.name for each in items if not each.foreign])
        self.slots.set_prefix(self._own_prefix(names, main))
        parts = [[each for each in items if each.slot.group == number] for number in range(len(self.groups))]
        self._written = names
        self.declared = declared is not None or believed or (known is not None and known.declared)
        own_order: Sequence[int] = () if declared is None else declared.own_order
        own_order = noted.own_order if noted is not None and believed else own_order
        self.table = Table(self._laid_out(parts))
        self._in_order = self._ordered(main, parts, own_order)

    def _laid_out(self, parts: Sequence[Sequence[Trained]]) -> list[tuple[str | None, Any]]:
        """Return the items of the table; a foreign parameter has no name there, so no operation selects it."""
        items: list[tuple[str | None, Any]] = []
        for own in parts:
            first = next((index for index, each in enumerate(own) if not each.foreign), len(own))
            for index, each in enumerate(own):
                items.append((None, replace(each, leads=index < first)) if each.foreign else (each.name, each.slot))
        self.slots.set_models({each.slot.group: each.slot for own in parts for each in own[::-1] if each.slot.state})
        return items

    def _ordered(self, main: Table, parts: Sequence[Sequence[Trained]], own_order: Sequence[int]) -> list[bool]:
        place = _order(main)
        return [_is_ordered(own, place) and number not in own_order for number, own in enumerate(parts)]

    def _names(
        self,
        main: Table,
        tensors: Tensors,
        declared: OrderDeclaration | None,
        known: OptimizerSnapshot | None,
        noted: Order | None,
    ) -> Sequence[Sequence[str]]:
        if self.is_flattened and (of_none := strays(self._source)):
            raise Unknown(
                f"the optimizer at {self.path} has {of_none[0]}, which belongs to no parameter in param_groups; "
                "use op.Run to fix it"
            )
        numbers = [position for group in self.groups for position in group["params"]]
        numbered = all(is_a(number, int) for number in numbers) and numbers == list(range(len(numbers)))
        if not self.by_name and (not numbered or any(is_a(key, int) for key in self._rest)):
            raise Unknown(
                f"the optimizer at {self.path} does not number its parameters as torch does; use op.Run to fix it"
            )
        if declared is not None:
            return self._declared(declared, main, tensors)
        followed = None if known is None else self._followed(known, main)
        if followed is not None:
            return followed
        called = self.called()
        if called is not None:
            return self._checked(called, main)
        if known is not None and known.declared:
            raise Unknown(
                f"a function changed the parameters of the optimizer at {self.path}; "
                "list them again after the function, with op.ParameterGroups([[...]])"
            )
        shapes = self._moments(tensors)
        if noted is not None and _fits(noted, shapes, main, tensors):
            return noted.groups
        infer = from_shapes if self._order.is_known else from_shapes_alone
        return infer(self.path, main, tensors, shapes)

    def _moments(self, tensors: Tensors) -> list[list[Any]]:
        """Return the shape of each parameter, in each group, by its moments; None if they do not show it."""
        states = self._content["state"]
        return [[moment_shape(states.get(key), tensors) for key in group["params"]] for group in self.groups]

    def _check_moments(self, names: Sequence[Sequence[str]], main: Table, tensors: Tensors) -> None:
        """Refuse names whose shapes contradict the moments: nothing else tells that they are in a wrong order."""
        moments = (shape for own in self._moments(tensors) for shape in own)
        for name, moment in zip((name for own in names for name in own), moments, strict=False):
            shape = plain_shape(main.get(name), tensors) if is_tensor(main.get(name)) else None
            if None not in (moment, shape) and moment != shape:
                raise Unknown(
                    f"the optimizer at {self.path} has moments of the shape {list(moment)} for {name}, which has the "
                    f"shape {list(shape or ())}; {SAY_NAMES}"
                )

    def called(self) -> list[list[Any]] | None:
        """Return the optimizer's own names of the parameters in each group; None if it only numbers them."""
        if self.by_name:
            return [list(group["params"]) for group in self.groups]
        if all(is_a(group.get("param_names"), (list, tuple)) for group in self.groups):
            return [list(group["param_names"]) for group in self.groups]
        return None

    def _checked(self, called: Sequence[Sequence[Any]], main: Table) -> Sequence[Sequence[str]]:
        """Return the state dict's names for the optimizer's own; the optimizer may cover only a part of the model."""
        every = [name for own in called for name in own]
        whole = all(is_a(name, str) for name in every) and [len(own) for own in called] == self._counts()
        first = every[0] if every and whole else ""
        prefixes = [name.removesuffix(first) for name in main if name.endswith(first)] if first else [""]
        fit = [prefix for prefix in prefixes if _is_prefix(prefix) and all(f"{prefix}{name}" in main for name in every)]
        if not whole or not fit:
            lost = next((name for name in every if name not in main), "?")
            raise Unknown(
                f"the optimizer at {self.path} names {lost}, which the state dict does not have; {SAY}; foreign=[...] "
                "there lists those of other modules, such as a loss"
            )
        if len(fit) > 1 and "" not in fit:
            raise Unknown(f"{first} of the optimizer at {self.path} may be {fit[0]}{first} or {fit[1]}{first}; {SAY}")
        prefix = "" if "" in fit else fit[0]
        return [[f"{prefix}{name}" for name in own] for own in called]

    def _counts(self) -> list[int]:
        return [len(group["params"]) for group in self.groups]

    def _own_prefix(self, names: Sequence[Sequence[str]], main: Table) -> str:
        """Return the prefix of the optimizer's own names in the state dict."""
        called = [name for group in self.called() or () for name in group]
        every = [name for group in names for name in group]
        own = [name for name, full in zip(called, every, strict=False) if full in main]
        full = [name for name in every if name in main]
        prefix = full[0].removesuffix(str(own[0])) if own and full else ""
        if not own or full == [f"{prefix}{name}" for name in own]:
            return prefix
        if self.by_name:
            raise Unknown(
                f"the optimizer at {self.path} uses the name {own[0]} for {full[0]} of the state dict, so its "
                "new name is unknown; use op.Run to change both"
            )
        return ""  # names beside numbers are only informative

    def follow_prefix(self, before: Sequence[str]) -> str | None:
        """Update the prefix of its own names after a change of all names; return the old prefix if it changed.

        Raises
        ------
        Unknown
            The optimizer's own names cannot be derived.
        """
        prefix, now = self.slots.prefix, list(self.table)
        strays = [name for name in now if not name.startswith(prefix)]
        if not strays:
            return None
        own = [name.removeprefix(prefix) for name in before]
        new = now[0].removesuffix(own[0]) if own else prefix
        if not _is_prefix(new) or now != [f"{new}{name}" for name in own]:
            raise Unknown(
                f"the optimizer at {self.path} leaves {prefix} out of its names, so its name for {strays[0]} is "
                "unknown; change that prefix for all names at once"
            )
        self.slots.set_prefix(new)
        return prefix

    def _declared(self, declared: OrderDeclaration, main: Table, tensors: Tensors) -> Sequence[Sequence[str]]:
        if len(declared.groups) != len(self.groups):
            raise Unknown(
                f"the optimizer at {self.path} has {len(self.groups)} groups, but ParameterGroups lists "
                f"{len(declared.groups)}"
            )
        foreign = {text: pattern(text).fill({}) for text in declared.foreign}
        if (known := next((name for name in foreign.values() if name in main), None)) is not None:
            raise Unknown(f"ParameterGroups calls {known} foreign, but the state dict has it")
        excluded, taken = _excluded(declared.exclude, main), set[Any]()
        likely = {name: main[name] for name in parameters(main, tensors)}
        found: list[list[str]] = []
        for texts, group in zip(declared.groups, self.groups, strict=True):
            own: list[str] = []
            for text in texts:
                before = len(own)
                for name in _selected(text, main, likely, foreign):
                    # An optimizer lists tied parameters once.
                    memory = name if name not in main else memory_of(main[name]) or name
                    if name not in excluded and memory not in taken:
                        own.append(name)
                        taken.add(memory)
                self._check_order(text, own[before:])
            wanted = len(group["params"])
            if len(own) != wanted:
                more = "; use exclude=[...] for names that it does not have"
                if len(own) < wanted:
                    more = "; use foreign=[...] for parameters that the state dict does not have"
                raise Unknown(
                    f"group {len(found)} of the optimizer at {self.path} has {wanted} parameters, "
                    f"but ParameterGroups lists {len(own)} for it{more}"
                )
            found.append(own)
        return found

    def _check_order(self, text: str, names: Sequence[str]) -> None:
        """Refuse a pattern for several parameters whose order is unknown."""
        if len(names) > 1 and not self._order.is_known:
            raise Unknown(
                f"ParameterGroups lists {text}, which selects {names[0]} and {names[1]}, but the files do not keep the "
                f"order of the model; {SAY_NAMES}"
            )

    def holds(self, content: dict[Any, Any]) -> bool:
        """Return whether it was made from this dict (the same object)."""
        return self._source is content

    def known(self, main: Table) -> OptimizerSnapshot:
        """Return its parameters as they are written, to identify them again when names have changed."""
        places = [
            [
                (each.name, None if each.foreign else main[each.name], each.slot.state)
                for each in own
                if each.foreign or each.name in main
            ]
            for own in self.trained(main)
        ]
        return OptimizerSnapshot(self._source, places, self.declared)

    def _followed(self, known: OptimizerSnapshot, main: Table) -> list[list[str]] | None:
        """Return the current names of known parameters; None if any of them or their states changed or is missing."""
        called: dict[int, str] = {}
        for name in main:
            called.setdefault(id(main[name]), name)
        found: list[list[str]] = []
        if len(known.places) != len(self.groups):
            return None
        for places, group in zip(known.places, self.groups, strict=True):
            states = [self._content["state"].get(position) for position in group["params"]]
            if len(states) != len(places):
                return None
            own = []
            for (name, value, state), now in zip(places, states, strict=True):
                if state is not now or (name in main if value is None else id(value) not in called):
                    return None
                is_same = value is None or (name in main and main[name] is value)
                own.append(name if is_same else called[id(value)])
            found.append(own)
        return found

    def state_of(self, position: Any) -> Any:
        """Return the state at a position or of a name of its own, as it was read; None if there is none."""
        return self._content["state"].get(position)

    def is_stale(self, main: Table) -> bool:
        """Return whether the state in the tree is outdated, or not in the order of the state dict."""
        return self.table.changed or self.names(main) != [list(own) for own in self._written]

    def write(self, main: Table) -> None:
        """Write the state into the tree, and number the parameters in the order of the state dict."""
        state: dict[Any, Any] = {}
        number = 0
        for group, own in zip(self.groups, self.trained(main), strict=True):
            called = [each.own if each.foreign else each.name.removeprefix(self.slots.prefix) for each in own]
            keys: list[Any] = called if self.by_name else list(range(number, number + len(own)))
            number += len(own)
            group["params"] = keys
            if "param_names" in group:
                group["param_names"] = list(called)
            state |= {key: each.slot.state for key, each in zip(keys, own, strict=True) if each.slot.state is not None}
        self._content["state"] = _like(self._content["state"], state | self._rest)
        if self.is_flattened:
            flat = flattened(self._content)
            self._source.clear()
            self._source.update(flat)

    def groups_in_order(self) -> list[tuple[list[str], bool]]:
        """Return for each group the names at its positions, and whether these follow the order of the state dict."""
        return [(list(own), follows) for own, follows in zip(self._written, self._in_order, strict=True)]

    def keeps_order(self) -> bool:
        """Return whether the parameters of each group stand in the order of the state dict."""
        return all(self._in_order)

    def keeps_order_of(self, group: int) -> bool:
        """Return whether the parameters of a group stand in the order of the state dict."""
        return self._in_order[group]

    def order_lost(self) -> str:
        """Return a sentence that explains why no parameter can be moved or added in this optimizer."""
        return (
            f"the optimizer at {self.path} has its own order of parameters, so the place of this one in it is unknown"
        )

    def is_ordered_by_group(self) -> bool:
        """Return whether the order is known within each group only: the files do not keep that of the model."""
        return not self._order.is_kept

    def group(self, name: str) -> int | None:
        """Return the group of a parameter; None if it is not in the optimizer."""
        return self.table[name].group if name in self.table else None

    def beside_others(self, name: str) -> str:
        """Return a sentence that explains why no parameter can be placed beside one of another group."""
        return (
            f"the files do not keep the order of the model, so the neighbours of {name} are known only in its "
            f"group of the optimizer at {self.path}; name parameters of one group at a time"
        )

    def names(self, main: Table) -> list[list[str]]:
        """Return the names in each group, in the order in which they are written."""
        return [[each.name for each in own] for own in self.trained(main)]

    def trained(self, main: Table) -> list[list[Trained]]:
        """Return the parameters of each group, in the order in which they are written."""
        place = _order(main)
        found: list[list[Trained]] = [[] for _ in self.groups]
        for name, value in self.table.everything():
            each = value if name is None else Trained(name, value)
            found[each.slot.group].append(each)
        in_order = [*self._in_order, *[True] * len(self.groups)]  # a downgrade may bring groups back
        for own, ordered in zip(found, in_order, strict=False):
            if ordered:
                own.sort(key=lambda each: (len(main), -1)[each.leads] if each.foreign else place(each.name))
        return found

    def rearrange(
        self,
        main: Table,
        groups: Sequence[dict[Any, Any]],
        parts: Sequence[Sequence[Trained]],
        own_order: Sequence[int] | None = None,
    ) -> None:
        """Replace the groups and their parameters.

        Parameters
        ----------
        main : Table
            The state dict.
        groups : sequence of dict
            The options of the new groups.
        parts : sequence of sequence of Trained
            The parameters of each, in order.
        own_order : sequence of int, optional
            Groups that do not follow the order of the state dict, even if they happen to match it. Without it, each
            group keeps its kind of order.
        """
        parts = [
            [replace(each, slot=replace(each.slot, group=number)) for each in own] for number, own in enumerate(parts)
        ]
        in_order = [*self._in_order, *[True] * len(parts)][: len(parts)]
        self._in_order = in_order if own_order is None else self._ordered(main, parts, own_order)
        self.groups[:] = groups
        self.table.refill(self._laid_out(parts))

    def own_order(self, main: Table) -> tuple[int, ...]:
        """Return groups with an order of their own that now happens to match the state dict."""
        ordered = self._ordered(main, self.trained(main), ())
        return tuple(
            number for number, (now, then) in enumerate(zip(ordered, self._in_order, strict=False)) if now and not then
        )

    def foreign(self, main: Table) -> tuple[str, ...]:
        """Return the names of its parameters that the state dict does not have."""
        return tuple(each.name for own in self.trained(main) for each in own if each.foreign)

    def order(self, main: Table) -> Order:
        """Return the parameters and their order once the state is written, for the record."""
        return Order(tuple(map(tuple, self.names(main))), self.own_order(main), self.foreign(main))

    def needs_names(self, main: Table, tensors: Tensors) -> bool:
        """Return whether the shapes, and the order if the files keep it, would not yield the same parameters again."""
        if self.own_order(main) or self.foreign(main):
            return True
        if self.called() is not None:
            return False
        groups = self.names(main)
        shapes = [[moment_shape(self.table[name].state, tensors) for name in own] for own in groups]
        try:
            infer = from_shapes if self._order.is_kept else from_shapes_alone
            return infer(self.path, main, tensors, shapes) != groups
        except Unknown:
            return True


def known_of(state: State, known: Sequence[OptimizerSnapshot], every: Sequence[State]) -> OptimizerSnapshot | None:
    """Return the known parameters of an optimizer; for a new one, the declared parameters of a removed one."""
    own = [each for each in known if state.holds(each.content)]
    said = (each for each in known if each.declared and not any(other.holds(each.content) for other in every))
    return own[0] if own else next(said, None)


def _excluded(texts: Sequence[str], main: Table) -> set[str]:
    """Return the names that a declaration excludes from an optimizer."""
    found = set[str]()
    for text in texts:
        names = [text] if text in main else [name for name, _ in pattern(text).among(main)]
        if not names:
            raise Unknown(f"ParameterGroups excludes {text}, which the state dict does not have")
        found.update(names)
    return found


def _selected(text: str, main: Table, likely: Mapping[str, Any], foreign: Mapping[str, str]) -> list[str]:
    """Return the names that a text selects: a name selects anything except buffers, a pattern only parameters."""
    if text in foreign:
        return [foreign[text]]
    if text not in main and pattern(text).open:
        return [name for name, _ in pattern(text).among(likely)]
    name = text if text in main else pattern(text).fill({})
    if is_buffer(name, main):
        raise Unknown(f"ParameterGroups lists {name}, which is a buffer, and optimizers have no buffers")
    return [name] if name in main else []


def _fits(noted: Order, shapes: Sequence[Sequence[Any]], main: Table, tensors: Tensors) -> bool:
    """Return whether these parameters fit an optimizer: same count, no duplicates, shapes that match the moments."""
    every = [name for own in noted.groups for name in own]
    if [len(own) for own in noted.groups] != [len(own) for own in shapes] or len(set(every)) != len(every):
        return False
    moments = [shape for own in shapes for shape in own]
    return all(
        name not in main if name in noted.foreign else _may_have(name, shape, main, tensors)
        for name, shape in zip(every, moments, strict=True)
    )


def _is_ordered(own: Sequence[Trained], place: Callable[[str], int]) -> bool:
    """Return whether the parameters of a group stand in the order of the state dict, foreign ones before or behind."""
    known = [index for index, each in enumerate(own) if not each.foreign]
    places = [place(own[index].name) for index in known]
    return places == sorted(places) and (not known or known == list(range(known[0], known[-1] + 1)))


def _may_have(name: str, moment: Any, main: Table, tensors: Tensors) -> bool:
    value = main.get(name)
    if not is_tensor(value) or not may_be_parameter(tensors.dtype(value)):
        return False
    return moment is None or moment == plain_shape(value, tensors)


def _is_prefix(text: str) -> bool:
    return not text or text.endswith(".")


def _order(main: Table) -> Callable[[str], int]:
    """Return a function that gives the position of a name among the parameters; tied names get the first position."""
    order: dict[Any, int] = {}
    for index, name in enumerate(main):
        order.setdefault(memory_of(main[name]) or name, index)
    return lambda name: order[memory_of(main[name]) or name] if name in main else len(order)


def _like(before: Mapping[Any, Any], after: dict[Any, Any]) -> Any:
    """Return a dict with the type of another."""
    made = type(before)() if type(before) is not dict else {}
    made.update(after)  # type: ignore[attr-defined]
    return made
