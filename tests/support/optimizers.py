"""What the tests of optimizers that change share: a checkpoint of a run, and the same change made by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.support.operations import Old, batches, equal, train, without_record
from tests.support.project import Folder, digest

Optimizer = torch.optim.Optimizer
Make = Callable[[nn.Module], Optimizer]


def saved(path: Path, model: nn.Module, *optimizers: Optimizer, schedulers: Sequence[Any] = (), **more: Any) -> Any:
    """Save a checkpoint as Lightning does, and return it as torch loads it."""
    states = [optimizer.state_dict() for optimizer in optimizers]
    tree = {"state_dict": model.state_dict(), "optimizer_states": states}
    tree["lr_schedulers"] = [scheduler.state_dict() for scheduler in schedulers]
    torch.save(tree | more, path)
    return load(path)


def load(path: Path) -> Any:
    return without_record(torch.load(path, weights_only=True))


def upgraded(project: Folder, path: Path) -> Any:
    """Upgrade a checkpoint, prove the rollback, and return it as torch loads it."""
    project.ok("upgrade", "head", path, "--check-rollback", "--no-backup")
    return load(path)


def taken_back(project: Folder, path: Path, before: Any) -> None:
    """See that a downgrade restores a checkpoint bit for bit."""
    project.ok("downgrade", "base", path, "--no-backup")
    assert equal(load(path), before)


def refused(project: Folder, path: Path) -> str:
    """See that an upgrade is refused and changes no byte; return the message."""
    before = digest(path)
    ran = project.run("upgrade", "head", path)
    assert ran.code != 0
    assert digest(path) == before
    return ran.err


def resumed(tree: Any, make: Make, number: int = 0) -> tuple[nn.Module, Optimizer]:
    """Load a checkpoint into a new model and a new optimizer, strictly."""
    torch.manual_seed(7)
    model = Old()
    model.load_state_dict(tree["state_dict"])
    optimizer = make(model)
    optimizer.load_state_dict(tree["optimizer_states"][number])
    return model, optimizer


def by_hand(
    model: nn.Module,
    optimizer: Optimizer,
    make: Make,
    options: Sequence[Mapping[str, Any]],
    state: Callable[[dict[str, Any]], dict[str, Any] | None] = lambda state: state,
) -> tuple[nn.Module, Optimizer]:
    """Change the optimizer of a run in memory.

    Parameters
    ----------
    model, optimizer : torch.nn.Module, Optimizer
        The run, which is left as it is.
    make : callable
        Makes the new optimizer for a model.
    options : sequence of mapping
        For each new group, all of its options.
    state : callable
        Returns the new state of a parameter, given a copy of the old one.
    """
    copy = deepcopy(model)
    twin = dict(zip(model.parameters(), copy.parameters(), strict=True))
    new = make(copy)
    for old, own in optimizer.state.items():
        if any(twin[old] is each for group in new.param_groups for each in group["params"]):
            found = state(deepcopy(dict(own)))
            if found is not None:
                new.state[twin[old]] = found
    for group, own_options in zip(new.param_groups, options, strict=True):
        group.update(own_options)
    return copy, new


def same_after_two_steps(one: tuple[nn.Module, Optimizer], other: tuple[nn.Module, Optimizer]) -> None:
    """Train two runs for two steps, and see that weights, states and options are equal bit for bit."""
    assert_states(one[1], other[1])
    for run in (one, other):
        train(*run, batches(2, seed=9))
    assert equal(one[0].state_dict(), other[0].state_dict())
    assert_states(one[1], other[1])


def assert_states(one: Optimizer, other: Optimizer) -> None:
    mine, its = one.state_dict(), other.state_dict()
    assert sorted(mine["state"]) == sorted(its["state"])
    for number, state in mine["state"].items():
        assert sorted(state) == sorted(its["state"][number])
        assert all(equal(value, its["state"][number][key]) for key, value in state.items()), (number, state)
    for group, other_group in zip(mine["param_groups"], its["param_groups"], strict=True):
        assert {**group, "param_names": 0} == {**other_group, "param_names": 0}


def options_of(optimizer: Optimizer, number: int = 0, **given: Any) -> dict[str, Any]:
    """Return the options of a group, apart from its parameters."""
    group = optimizer.param_groups[number]
    return {key: value for key, value in group.items() if key not in ("params", "param_names")} | given
