"""What keeps moments right where a guess, or a copy that looks alike, would be wrong."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from tests.support.operations import declare  # noqa: E402
from tests.support.project import Folder  # noqa: E402


class Shampoo:
    """What an optimizer of one's own may keep of a parameter."""


def optimizer(names: str = "ab", groups: int = 1, **more: Any) -> dict[str, Any]:
    """Make the state of an optimizer; each moment says whose it is."""
    state = {
        number: {
            "step": torch.tensor(3.0),
            "exp_avg": torch.full((4, 4), 10.0 * number),
            "exp_avg_sq": torch.ones(4, 4),
        }
        for number in range(len(names))
    }
    every = list(range(len(names)))
    shared = [every[number::groups] for number in range(groups)] if groups == 1 else [every[:1], every[1:]]
    return {"state": state, "param_groups": [{"lr": 0.1, "params": own, **more} for own in shared]}


def save(path: Path, opt: Any, names: str = "ab") -> None:
    weights = OrderedDict((name, torch.full((4, 4), float(number))) for number, name in enumerate(names))
    torch.save({"state_dict": weights, "opt": opt}, path)


def load(path: Path) -> Any:
    return torch.load(path, weights_only=False)


def refused(project: Folder, path: Path) -> str:
    before = path.read_bytes()
    ran = project.run("upgrade", "head", path)
    assert (ran.code, path.read_bytes()) == (1, before)
    assert "Traceback" not in ran.err
    return ran.err


@pytest.fixture
def path(project: Folder) -> Path:
    return project.path / "last.ckpt"


@pytest.mark.parametrize(("said", "count"), [('[["a"], ["b"]]', 2), ("[]", 0)])
def test_another_number_of_groups_is_declared(project: Folder, path: Path, said: str, count: int) -> None:
    save(path, optimizer())
    declare(project, "a1", f"op.ParameterGroups({said})", 'op.Transpose("a")')
    assert f"has 1 groups, but ParameterGroups lists {count}" in refused(project, path)


@pytest.mark.parametrize(
    "change",
    [
        "state[0], state[1] = state[1], state[0]",
        "state[0] = dict(state[0])",
        'ckpt["opt"]["param_groups"].append({"lr": 1, "params": []})',
        'ckpt["opt"]["param_groups"][0]["params"].pop(); del state[2]',
    ],
    ids=["exchanged", "replaced", "a group more", "a parameter less"],
)
def test_a_function_replaces_the_state_of_an_optimizer(project: Folder, path: Path, change: str) -> None:
    """Whose moments they are then is not known: of three matrices of one shape, in an order that was declared."""
    save(path, optimizer("cab"), "abc")
    top = f'def up(ckpt):\n    state = ckpt["opt"]["state"]\n    {change}\n    return ckpt\n'
    said = 'op.ParameterGroups([["c", "a", "b"]])'
    declare(project, "a1", said, 'op.Run("up", "up")', 'op.Transpose("a")', top=top)
    assert "list them again after the function" in refused(project, path)


SQUARES = {"exp_avg_sq": True, "max_exp_avg_sq": True, "square_avg": True, "sum": True, "exp_inf": True,
           "exp_avg": False, "momentum_buffer": False}  # fmt: skip


@pytest.mark.parametrize("still", [True, False])
def test_new_elements_are_still_only_if_you_say_so(project: Folder, path: Path, still: bool) -> None:
    """Steps are divided by squares: infinite ones leave an element as it is. All else begins at zero."""
    opt = optimizer()
    opt["state"][0] |= {name: torch.ones(4, 4) for name in SQUARES}
    save(path, opt)
    declare(project, "a1", f'op.Pad("a", 1, fill={0 if still else 7}, still={still})')
    project.ok("upgrade", "head", path, "--check-rollback")
    state = load(path)["opt"]["state"][0]
    for name, is_square in SQUARES.items():
        assert state[name].shape == (5, 4)
        assert (state[name][:4] == 1).all()
        assert (state[name][4] == (torch.inf if still and is_square else 0)).all(), name


def test_state_of_a_class_of_ones_own_is_left_to_a_function(project: Folder, path: Path) -> None:
    opt = optimizer()
    opt["state"][0]["factors"] = Shampoo()
    save(path, opt)
    declare(project, "a1", 'op.Transpose("a")')
    says = "the optimizer's factors is a tests.state.test_optimizers_guarded.Shampoo, which only op.Run can change"
    assert says in refused(project, path)
    declare(project, "a1", 'op.Rename("a", "z")')  # needs no more than to move it
    project.ok("upgrade", "head", path)
    assert isinstance(load(path)["opt"]["state"][0]["factors"], Shampoo)


def test_ordered_state_stays_ordered(project: Folder, path: Path) -> None:
    """The state of all parameters, that of each, and what is in it."""
    opt = optimizer()
    opt["state"] = OrderedDict((number, OrderedDict(own)) for number, own in opt["state"].items())
    opt["state"][0]["more"] = OrderedDict(last=torch.ones(4, 4))
    save(path, opt)
    declare(project, "a1", 'op.Transpose("a")')
    project.ok("upgrade", "head", path, "--check-rollback")
    state = load(path)["opt"]["state"]
    assert {type(each) for each in (state, state[0], state[1], state[0]["more"])} == {OrderedDict}


@pytest.mark.parametrize("dampening", [0, 0.5])
def test_a_fresh_momentum_with_dampening(project: Folder, path: Path, dampening: float) -> None:
    """torch starts with the first gradient, undamped, so that a momentum of zero would be another."""
    flat = {f"state.{name}.momentum_buffer": torch.ones(4, 4) for name in "ab"}
    flat |= {f"param_groups.{name}.{key}": value for name in "ab" for key, value in
             {"lr": 0.1, "momentum": 0.9, "dampening": dampening}.items()}  # fmt: skip
    save(path, flat)
    declare(project, "a1", 'op.Add("c", [3])')
    if dampening:
        assert "the initial momentum_buffer of a new parameter is unknown" in refused(project, path)
    else:
        project.ok("upgrade", "head", path, "--check-rollback")
        assert (load(path)["opt"]["state.c.momentum_buffer"] == torch.zeros(3)).all()


MIXED = {
    "a tensor for one of them": ({"x": torch.ones(4, 4)}, {"x": 1.0}, "x is a tensor for only some of them"),
    "numbers that differ": ({"x": 1.0}, {"x": 2.0}, "x differs between them"),
    "counters that differ": ({"x": torch.tensor(1)}, {"x": torch.tensor(2)}, "x differs between them"),
    "another key": ({"x": 1}, {"y": 1}, "state differs between them"),
    "another kind": ({"x": [1]}, {"x": (1,)}, "x differs between them"),
    "of one alone": ({}, None, "has moments for some of them and none for others"),
}


@pytest.mark.parametrize("what", MIXED)
def test_parameters_whose_state_does_not_fit_together(project: Folder, path: Path, what: str) -> None:
    opt = optimizer()
    one, other, says = MIXED[what]
    opt["state"][0] |= one
    if other is None:
        del opt["state"][1]
    else:
        opt["state"][1] |= other
    save(path, opt)
    declare(project, "a1", 'op.ParameterGroups([["a", "b"]])', 'op.Fuse(["a", "b"], "ab")')
    assert says in refused(project, path)


@pytest.mark.parametrize(
    ("group", "says"),
    [
        ("", "has 2 groups; choose one"),
        (", group=2", "has 2 groups, but no group 2"),
        (", group=1", ""),
    ],
)
def test_what_is_added_belongs_to_a_group_that_there_is(project: Folder, path: Path, group: str, says: str) -> None:
    save(path, optimizer(groups=2))
    declare(project, "a1", 'op.ParameterGroups([["a"], ["b"]])', f'op.Add("c", [3]{group})')
    if says:
        assert says in refused(project, path)
    else:
        project.ok("upgrade", "head", path)
        assert [each["params"] for each in load(path)["opt"]["param_groups"]] == [[0], [1, 2]]


def test_the_same_counter_is_not_shared_by_two(project: Folder, path: Path) -> None:
    """Both would increase it."""
    save(path, optimizer())
    declare(project, "a1", 'op.ParameterGroups([["a", "b"]])', 'op.Split("a", ["c", "d"])')
    project.ok("upgrade", "head", path)
    state = load(path)["opt"]["state"]
    assert state[0]["step"].data_ptr() != state[1]["step"].data_ptr()


@pytest.mark.parametrize("groups", ['"a"', '["a", "b"]', "3"])
def test_groups_are_lists_of_names(project: Folder, path: Path, groups: str) -> None:
    save(path, optimizer())
    declare(project, "a1", f"op.ParameterGroups({groups})", 'op.Transpose("a")')
    assert "groups must be a list of lists of names, one for each group" in refused(project, path)
