"""Random changes of a random optimizer, one after the other, against the same changes of torch's own objects."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import nn  # noqa: E402

from anemoi_ckpt_migrate.state.optimizer_classes import DEFAULTS  # noqa: E402
from tests.support.operations import Old, declare, trained  # noqa: E402
from tests.support.optimizers import options_of, resumed, same_after_two_steps, saved, taken_back, upgraded  # noqa: E402
from tests.support.project import Folder  # noqa: E402

NAMES = [name for name, _ in Old().named_parameters()]
KINDS = {"SGD": {"momentum": 0.9}, "Adam": {}, "AdamW": {}, "RAdam": {}}


class Run:
    """An optimizer, taken apart: names and options of its groups, and the state of each parameter."""

    def __init__(self, kind: str, groups: list[list[str]]) -> None:
        self.kind, self.groups = kind, groups
        self.model, optimizer = trained(self.made)
        self.options = [options_of(optimizer, number) for number in range(len(groups))]
        by_name = dict(self.model.named_parameters())
        self.states = {name: optimizer.state[by_name[name]] for group in groups for name in group}
        self.optimizer = optimizer

    def made(self, model: nn.Module) -> Any:
        by_name = dict(model.named_parameters())
        groups = [{"params": [by_name[name] for name in group]} for group in self.groups]
        return getattr(torch.optim, self.kind)(groups, **KINDS[self.kind])

    def named(self) -> Any:
        """Save the names with the state, as `named_parameters()` has it."""
        for group, names in zip(self.optimizer.param_groups, self.groups, strict=True):
            group["param_names"] = list(names)
        return self.optimizer

    def by_hand(self) -> tuple[nn.Module, Any]:
        model = deepcopy(self.model)
        optimizer = self.made(model)
        by_name = dict(model.named_parameters())
        optimizer.state.update({by_name[name]: deepcopy(dict(state)) for name, state in self.states.items()})
        for group, options in zip(optimizer.param_groups, self.options, strict=True):
            group.update(options)
        return model, optimizer


def untrain(run: Run, data: Any) -> str:
    every = [name for group in run.groups for name in group]
    gone = data.draw(st.lists(st.sampled_from(every), unique=True, min_size=1, max_size=max(1, len(every) - 1)))
    run.groups = [[name for name in group if name not in gone] for group in run.groups]
    run.states = {name: state for name, state in run.states.items() if name not in gone}
    return f"op.Untrain({gone})"


def train(run: Run, data: Any) -> str:
    free = [name for name in NAMES if not any(name in group for group in run.groups)]
    if not free:
        return untrain(run, data)
    new = data.draw(st.lists(st.sampled_from(free), unique=True, min_size=1))
    number = data.draw(st.integers(0, len(run.groups) - 1))
    run.groups[number] = sorted([*run.groups[number], *new], key=NAMES.index)
    return f"op.Train({new}, group={number})"


def regroup(run: Run, data: Any) -> str:
    every = sorted((name for group in run.groups for name in group), key=NAMES.index)
    count = data.draw(st.integers(1, 3))
    places = data.draw(st.lists(st.integers(0, count - 1), min_size=len(every), max_size=len(every)))
    groups = [[name for name, place in zip(every, places, strict=True) if place == number] for number in range(count)]
    given = {"lr": data.draw(st.sampled_from([0.1, 0.01])), "weight_decay": data.draw(st.sampled_from([0, 0.1]))}
    home = {name: number for number, group in enumerate(run.groups) for name in group}
    run.options = [run.options[home[group[0]] if group else 0] | given for group in groups]
    run.groups = groups
    return f"op.Regroup({groups}, options={[given] * count})"


def change(run: Run, data: Any) -> str:
    before, run.kind = run.kind, data.draw(st.sampled_from(sorted(KINDS)))
    if "SGD" in (before, run.kind) and before != run.kind:
        run.states = {}
    gone = () if "RAdam" == before == run.kind else ("decoupled_weight_decay",)
    new = DEFAULTS[run.kind]
    run.options = [
        new | {key: value for key, value in each.items() if key in new and key not in gone} | KINDS[run.kind]
        for each in run.options
    ]
    return f"op.ChangeOptimizer({run.kind!r}, {KINDS[run.kind]})"


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=max(8, settings().max_examples // 6)
)
@given(data=st.data())
def test_several_changes(project: Folder, data: Any) -> None:
    names = data.draw(
        st.lists(st.sampled_from(NAMES), unique=True, min_size=2).map(lambda own: sorted(own, key=NAMES.index))
    )
    cut = data.draw(st.integers(0, len(names)))
    run = Run(data.draw(st.sampled_from(sorted(KINDS))), [names[:cut], names[cut:]])
    path = project.path / "last.ckpt"
    before = saved(path, run.model, run.named())
    steps = data.draw(st.lists(st.sampled_from([untrain, train, regroup, change]), min_size=1, max_size=4))
    operations = []
    for step in steps:
        if sum(map(len, run.groups)) > 1 or step is not untrain:
            operations.append(step(run, data))
    half = data.draw(st.integers(0, len(operations)))
    declare(project, "a1", *operations[:half])
    declare(project, "a2", *operations[half:], parents="a1")
    tree = upgraded(project, path)
    same_after_two_steps(resumed(tree, run.made), run.by_hand())
    taken_back(project, path, before)
