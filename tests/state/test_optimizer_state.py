"""Which parameter is at which position of an optimizer: small ones, each moment is its parameter plus 100."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from tests.support.operations import declare, equal, without_record  # noqa: E402
from tests.support.project import Folder, digest  # noqa: E402


@pytest.fixture
def path(project: Folder) -> Path:
    return project.path / "last.ckpt"


def load(path: Path) -> Any:
    return torch.load(path, weights_only=True)


def weights(**names: float) -> OrderedDict[str, Any]:
    """Matrices of one shape; ``net__a`` is called ``net.a``."""
    return OrderedDict((name.replace("__", "."), torch.full((2, 3), float(value))) for name, value in names.items())


def moments(*values: float) -> dict[Any, Any]:
    return {place: {"exp_avg": torch.full((2, 3), value + 100.0)} for place, value in enumerate(values)}


def saved(path: Path, state_dict: Any, state: dict[Any, Any], *groups: dict[str, Any]) -> Any:
    torch.save({"state_dict": state_dict, "opt": {"state": state, "param_groups": list(groups)}}, path)
    return load(path)


def moments_by_name(tree: Any, *names: str) -> dict[Any, float]:
    """Check that each moment is its parameter plus 100, and return the moments' values by their keys."""
    state = tree["opt"]["state"]
    keys = [key for group in tree["opt"]["param_groups"] for key in group["params"]]
    assert len(keys) == len(names)
    for key, name in zip(keys, names, strict=True):
        if key in state:
            assert torch.equal(state[key]["exp_avg"], tree["state_dict"][name] + 100)
    return {key: value["exp_avg"].flatten()[0].item() for key, value in state.items()}


def up(project: Folder, path: Path, *operations: str, top: str = "") -> Any:
    """Upgrade, see that a downgrade restores everything, and return what the upgrade made."""
    before = load(path)
    declare(project, "a1", *operations, top=top)
    project.ok("upgrade", "head", path, "--check-rollback", "--no-backup")
    after = load(path)
    project.ok("downgrade", "base", path, "--no-backup")
    assert equal(without_record(load(path)), before)
    return after


def refused(project: Folder, path: Path, *operations: str, top: str = "") -> str:
    declare(project, "a1", *operations, top=top)
    before = digest(path)
    ran = project.run("upgrade", "head", path)
    assert (ran.code, digest(path)) == (1, before)
    return ran.err


def test_what_is_said_has_to_fit_the_groups(project: Folder, path: Path) -> None:
    saved(path, weights(a=1, b=2, c=3), moments(2, 1), {"params": [0]}, {"params": [1]})
    for groups, says in (
        ('[["b", "a"]]', "the optimizer at opt has 2 groups, but ParameterGroups lists 1"),
        ('[["b"], ["a"], ["c"]]', "the optimizer at opt has 2 groups, but ParameterGroups lists 3"),
        (
            '[["b"], []]',
            "group 1 of the optimizer at opt has 1 parameters, but ParameterGroups lists 0 for it; use foreign=[...] for",
        ),
        ('[["b"], ["a", "c"]]', "lists 2 for it; use exclude=[...] for names that it does not have"),
        ('[["b"], ["z"]]', "group 1 of the optimizer at opt has 1 parameters, but ParameterGroups lists 0 for it"),
        ('[["b"], ["b", "a"]]', ""),  # the second time it is not counted
    ):
        operations = (f"op.ParameterGroups({groups})", 'op.Rename("b", "z")')
        if not says:
            assert moments_by_name(up(project, path, *operations), "z", "a") == {0: 102, 1: 101}
            continue
        assert says in refused(project, path, *operations), groups


def test_tied_parameters_are_one_to_an_optimizer(project: Folder, path: Path) -> None:
    """a and b share their memory: the first name counts, and says where it stands."""
    tied = weights(a=1, b=1, c=3)
    tied["b"] = tied["a"]
    saved(path, tied, moments(1, 3), {"params": [0, 1]})
    after = up(project, path, 'op.ParameterGroups([["*"]])', 'op.Rename("c", "z")')
    assert moments_by_name(after, "a", "z") == {0: 101, 1: 103}


def test_names_that_an_optimizer_has_beside_numbers_only_tell(project: Folder, path: Path) -> None:
    """It calls w1 what is called a; the script says so, and from there on it calls it a."""
    saved(path, weights(a=1, b=2), moments(2, 1), {"params": [0, 1], "param_names": ["w2", "w1"]})
    err = refused(project, path, 'op.Rename("a", "z")')
    assert "the optimizer at opt names w2, which the state dict does not have" in err
    declare(project, "a1", 'op.ParameterGroups([["b", "a"]])', 'op.Rename("a", "z")')
    project.ok("upgrade", "head", path)
    tree = load(path)
    assert tree["opt"]["param_groups"] == [{"params": [0, 1], "param_names": ["b", "z"]}]
    moments_by_name(tree, "b", "z")


def test_names_by_which_an_optimizer_knows_its_state_have_to_fit(project: Folder, path: Path) -> None:
    state = dict(zip(["w2", "w1"], moments(2, 1).values(), strict=True))
    saved(path, weights(a=1, b=2), state, {"params": ["w2", "w1"]})
    err = refused(project, path, 'op.ParameterGroups([["b", "a"]])', 'op.Rename("a", "z")')
    assert "the optimizer at opt uses the name w2 for b of the state dict" in err
    assert "use op.Run to change both" in err


@pytest.mark.parametrize(
    "group",
    [
        {"params": [0, 1], "param_names": ["a"]},
        {"params": [0, 1], "param_names": ["a", 3]},
        {"params": [0, 1], "param_names": ["a", "nothing"]},
    ],
)
def test_names_of_which_one_is_wrong(project: Folder, path: Path, group: Any) -> None:
    saved(path, weights(a=1, b=2), moments(1, 2), group)
    assert "which the state dict does not have; list them with op.ParameterGroups" in refused(
        project, path, 'op.Transpose("a")'
    )


def test_a_name_in_full_wins_over_one_behind_a_prefix(project: Folder, path: Path) -> None:
    """The optimizer says a and b, which the state dict has, and which a copy has behind net. too."""
    group = {"params": [0, 1], "param_names": ["a", "b"]}
    saved(path, weights(net__a=3, net__b=4, a=1, b=2), moments(1, 2), group)
    after = up(project, path, 'op.Rename("a", "z")', 'op.Transpose("net.a")')
    assert moments_by_name(after, "z", "b") == {0: 101, 1: 102}
    assert after["opt"]["param_groups"][0]["param_names"] == ["z", "b"]


def test_a_prefix_ends_with_a_dot(project: Folder, path: Path) -> None:
    """xa is no part of x."""
    group = {"params": [0, 1], "param_names": ["a", "b"]}
    saved(path, weights(xa=1, xb=2), moments(1, 2), group)
    assert "names a, which the state dict does not have" in refused(project, path, 'op.Rename("xa", "z")')


def test_a_flattened_optimizer_with_state_of_no_parameter(project: Folder, path: Path) -> None:
    state = {"state.a.exp_avg": torch.full((2, 3), 101.0), "param_groups.a.lr": 0.1}
    torch.save({"state_dict": weights(a=1, b=2), "opt": state | {"state.b.exp_avg": torch.ones(2, 3)}}, path)
    err = refused(project, path, 'op.Rename("a", "z")')
    assert "the optimizer at opt has state.b.exp_avg, which belongs to no parameter in param_groups" in err
    torch.save({"state_dict": weights(a=1, b=2), "opt": state}, path)
    after = up(project, path, 'op.Rename("a", "z")')["opt"]
    assert {name: float(value if isinstance(value, float) else value[0, 0]) for name, value in after.items()} == {
        "state.z.exp_avg": 101, "param_groups.z.lr": 0.1,
    }  # fmt: skip


ANEW = """
def up(ckpt):
    opt = ckpt["opt"]
    opt["state"] = {key: dict(value) for key, value in opt["state"].items()}
    return ckpt

def fewer(ckpt):
    ckpt["opt"]["state"].pop(1)
    ckpt["opt"]["param_groups"][0]["params"].pop()
    return ckpt

def more(ckpt):
    ckpt["opt"]["param_groups"].append({"params": []})
    return ckpt
"""


@pytest.mark.parametrize("function", ["up", "fewer", "more"])
def test_what_a_function_makes_anew_has_to_be_said_anew(project: Folder, path: Path, function: str) -> None:
    """b, a was said; shapes alone would give a, b."""
    said = 'op.ParameterGroups([["b", "a"]])'
    saved(path, weights(a=1, b=2), moments(2, 1), {"params": [0, 1]})
    operations = (said, 'op.Transpose("a")', f'op.Run("{function}", "{function}")', 'op.Transpose("b")')
    assert "list them again after the function" in refused(project, path, *operations, top=ANEW)
    if function == "up":
        declare(project, "a1", *operations[:3], said, *operations[3:], top=ANEW)
        project.ok("upgrade", "head", path)
        moments_by_name(load(path), "b", "a")


def test_parameters_without_moments_yet(project: Folder, path: Path) -> None:
    """b was never trained: it has no state, and keeps its position."""
    state = moments(1, 2, 3)
    del state[1]
    saved(path, weights(a=1, b=2, c=3), state, {"params": [0, 1, 2]})
    after = up(project, path, 'op.Reorder(["c", "b", "a"])')
    assert moments_by_name(after, "c", "b", "a") == {0: 103, 2: 101}


def test_positions_go_on_through_all_groups(project: Folder, path: Path) -> None:
    """Each group keeps its parameters, in the order of the state dict, which changes."""
    saved(
        path, weights(a=1, b=2, c=3, d=4), moments(1, 3, 2, 4), {"params": [0, 1], "lr": 1}, {"params": [2, 3], "lr": 2}
    )
    operations = ('op.ParameterGroups([["a", "c"], ["b", "d"]])', 'op.Reorder(["d", "c", "b", "a"])')
    after = up(project, path, *operations)
    assert after["opt"]["param_groups"] == [{"params": [0, 1], "lr": 1}, {"params": [2, 3], "lr": 2}]
    assert moments_by_name(after, "c", "a", "d", "b") == {0: 103, 1: 101, 2: 104, 3: 102}


def test_what_an_optimizer_keeps_beside_its_parameters_stays(project: Folder, path: Path) -> None:
    saved(path, weights(a=1, b=2), {**moments(1, 2), "seed": 7}, {"params": [0, 1]})
    after = up(project, path, 'op.Reorder(["b", "a"])', 'op.Rename("a", "z")')
    assert after["opt"]["state"].pop("seed") == 7
    assert moments_by_name(after, "b", "z") == {0: 102, 1: 101}
