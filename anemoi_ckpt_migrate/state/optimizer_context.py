"""The context in which an operation is applied to one optimizer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.state.find_parameters import is_tensor
from anemoi_ckpt_migrate.state.infer_optimizer import is_buffer, may_be_parameter, parameters
from anemoi_ckpt_migrate.state.name_patterns import pattern
from anemoi_ckpt_migrate.state.optimizer_groups import Column, columns_of
from anemoi_ckpt_migrate.state.schedulers import Scheduler, schedulers_of
from anemoi_ckpt_migrate.state.tensor_values import Tensors, memory_of

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.state.optimizer_state import State, Trained
    from anemoi_ckpt_migrate.state.ordered_names import Table


class OptimizerContext:
    """The context of one operation on an optimizer.

    Parameters
    ----------
    tree : object
        The checkpoint.
    optimizers : sequence of State
        All optimizers of the checkpoint.
    number : int
        The index of this one.
    main : Table
        The state dict.
    tensors : Tensors
        Operations on tensors.
    stash : sequence of object
        The values that this revision has stashed so far.
    upgrade : bool
        Whether this is an upgrade.
    discard_changes : bool
        Whether a downgrade may discard changes made since the upgrade.

    Attributes
    ----------
    state : State
        The optimizer.
    faults : list of str
        Why the operation cannot be applied; empty if it can.
    new : list of object
        Values that the operation stashes.
    """

    def __init__(
        self,
        tree: Any,
        optimizers: Sequence[State],
        number: int,
        main: Table,
        tensors: Tensors,
        stash: Sequence[Any],
        upgrade: bool,
        discard_changes: bool,
    ) -> None:
        self.state, self.main, self.tensors = optimizers[number], main, tensors
        self.upgrade, self.discard_changes = upgrade, discard_changes
        self.faults: list[str] = []
        self.new: list[Any] = []
        self._tree, self._optimizers, self._number, self._old = tree, optimizers, number, stash

    @property
    def path(self) -> str:
        """The path of the optimizer."""
        return self.state.path

    @property
    def alone(self) -> bool:
        """Whether the checkpoint has no other optimizer."""
        return len(self._optimizers) == 1

    def fault(self, sentence: str) -> None:
        """Note why the operation cannot be applied."""
        self.faults.append(sentence)

    def stash(self, value: Any) -> int:
        """Stash a value, and return its number."""
        self.new.append(value)
        return len(self._old) + len(self.new) - 1

    def stashed(self, number: int) -> Any:
        """Return the stashed value with a number."""
        return self._old[number]

    def copied(self, value: Any) -> Any:
        """Return a copy of a tensor, which changes in place when training goes on; any other value as it is."""
        return self.tensors.make("clone", (), [value]) if is_tensor(value) else value

    def parts(self) -> list[list[Trained]]:
        """Return the parameters of each group, in order."""
        return self.state.trained(self.main)

    def out_of_step(self) -> bool:
        """Whether the optimizer has parameters that the state dict has no longer; only after a fault."""
        return any(each.name not in self.main and not each.foreign for own in self.parts() for each in own)

    def by_name(self) -> dict[str, Trained]:
        """Return the parameters by all their names: in the order of the state dict, foreign ones behind."""
        every = [each for own in self.parts() for each in own]
        own = {each.name: each for each in every}
        tied = {memory_of(self.main[each.name]): each for each in every if each.name in self.main}
        found = {}
        for name in self.main:
            value = self.main[name]
            each = own.get(name) or (tied.get(memory_of(value)) if memory_of(value) is not None else None)
            if each is not None:
                found[name] = each
        return found | {name: each for name, each in own.items() if each.foreign}

    def select(self, text: str, among: Mapping[str, Trained]) -> list[Trained]:
        """Return the parameters that a pattern selects, each once; note a fault if there is none."""
        found = {each.name: each for name, _ in pattern(text).among(among) for each in [among[name]]}
        if found:
            return list(found.values())
        name = pattern(text).fill({})
        if pattern(text).open:
            self.fault(f"no parameter of the optimizer at {self.path} matches {text}")
        elif name in self.main:
            self.fault(f"{name} is not in the optimizer at {self.path}")
        else:
            self.fault(f"there is no {name}{self._near(name)}")
        return []

    def untrained(self, text: str) -> list[str]:
        """Return the names of possible parameters that no optimizer has; note a fault if there is none."""
        trained, name = self.by_name(), pattern(text).fill({})
        if not pattern(text).open:
            if name not in self.main:
                self.fault(f"there is no {name}{self._near(name)}")
            elif name in trained:
                self.fault(f"{name} is in the optimizer at {self.path} already")
            elif is_buffer(name, self.main):
                self.fault(f"{name} is a buffer, and optimizers have no buffers")
            elif not is_tensor(self.main[name]) or not may_be_parameter(self.tensors.dtype(self.main[name])):
                self.fault(f"{name} cannot be trained, because it holds no floating-point numbers")
            else:
                return [name]
            return []
        known = {each for state in self._optimizers for own in state.names(self.main) for each in own}
        seen = {memory_of(self.main[each]) for each in known if each in self.main} - {None}
        found = []
        likely = dict.fromkeys(parameters(self.main, self.tensors))
        for each, _ in pattern(text).among(likely):
            memory = memory_of(self.main[each])
            if each not in known and memory not in seen:
                found.append(each)
                seen |= {memory} - {None}
        if not found:
            self.fault(f"no parameter outside the optimizers matches {text}")
        return found

    def _near(self, name: str) -> str:
        from difflib import get_close_matches

        found = get_close_matches(name, list(self.main)[:5000], 1, 0.75)
        return f"; there is {found[0]}" if found else ""

    def schedulers(self, chosen: Sequence[str] | None) -> list[Scheduler]:
        """Return the schedulers of the optimizer.

        Raises
        ------
        Mismatch
            One cannot follow, or may belong to another optimizer.
        """
        every = [(each.path, each.groups) for each in self._optimizers]
        same = self.tensors.same_values
        return schedulers_of(self._tree, every, self._number, chosen, same, self.upgrade)

    def columns(self, schedulers: Iterable[Scheduler]) -> list[Column]:
        """Return the options of each group, with the entries of schedulers."""
        return columns_of(self.state.groups, schedulers)
