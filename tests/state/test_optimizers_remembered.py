"""What one run knows of an optimizer, the next one knows: the record says it, and is believed if it fits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from anemoi_ckpt_migrate import Stamper  # noqa: E402
from tests.support.operations import declare, equal, without_record  # noqa: E402
from tests.support.project import Folder, digest  # noqa: E402


class Scale(nn.Module):
    """A buffer of floating point, which no optimizer has."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("by", torch.ones(4))


class Shift(nn.Module):
    """A parameter of the same shape."""

    def __init__(self) -> None:
        super().__init__()
        self.by = nn.Parameter(torch.zeros(4))


class Scaled(nn.Module):
    """A layer, a buffer, and a parameter that looks like it, if wanted."""

    def __init__(self, shifted: bool = False) -> None:
        super().__init__()
        self.first, self.scale = nn.Linear(4, 4, bias=False), Scale()
        self.shift = Shift() if shifted else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x) * self.scale.by + (0 if self.shift is None else self.shift.by)


def step(model: nn.Module, optimizer: Any) -> None:
    optimizer.zero_grad()
    model(torch.randn(5, 4, generator=torch.Generator().manual_seed(1))).square().mean().backward()
    optimizer.step()


def saved(path: Path, model: nn.Module, optimizer: Any) -> Any:
    torch.save({"state_dict": model.state_dict(), "opt": optimizer.state_dict()}, path)
    return load(path)


def trained(path: Path) -> Any:
    torch.manual_seed(0)
    model = Scaled()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    step(model, optimizer)
    return saved(path, model, optimizer)


def load(path: Path) -> Any:
    return torch.load(path, weights_only=True)


def three_steps(project: Folder) -> None:
    """A parameter is added; from there on, shapes do not tell it from the buffer."""
    declare(project, "a1", 'op.Add("shift.by", [4])')
    declare(project, "a2", 'op.Transpose("first.weight")', parents="a1")
    declare(project, "a3", 'op.Rename("shift.by", "move.by")', parents="a2")


def test_in_one_go_and_one_by_one(project: Folder) -> None:
    three_steps(project)
    one, other = project.path / "one.ckpt", project.path / "other.ckpt"
    before = trained(one)
    trained(other)
    project.ok("upgrade", "head", one)
    for target in ("a1", "a2", "a3"):
        project.ok("upgrade", target, other, "--check-rollback")
    assert equal(without_record(load(one)), without_record(load(other)))
    for target in ("a2", "a1", "base"):
        project.ok("downgrade", target, other)
    assert equal(without_record(load(other)), before)
    project.ok("downgrade", "base", one)
    assert equal(without_record(load(one)), before)


def test_up_down_and_up_again(project: Folder) -> None:
    three_steps(project)
    path = project.path / "last.ckpt"
    before = trained(path)
    project.ok("upgrade", "head", path)
    top = without_record(load(path))
    for target in ("a2", "a1"):
        project.ok("downgrade", target, path)
        project.ok("upgrade", "head", path)
        assert equal(without_record(load(path)), top)
    project.ok("downgrade", "base", path)
    assert equal(without_record(load(path)), before)


def test_training_goes_on_in_between(project: Folder) -> None:
    """a1, trained on and saved with a record, a2: the moments are those of the run."""
    three_steps(project)
    path = project.path / "last.ckpt"
    trained(path)
    project.ok("upgrade", "a1", path)
    tree = load(path)
    model = Scaled(shifted=True)
    model.load_state_dict(tree["state_dict"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    optimizer.load_state_dict(tree["opt"])
    step(model, optimizer)
    stamper = Stamper("a1", project=project.path)
    stamper.resume(tree)
    torch.save(stamper.stamped({"state_dict": model.state_dict(), "opt": optimizer.state_dict()}), path)
    project.ok("upgrade", "head", path, "--check-rollback")
    after, state = load(path), optimizer.state_dict()["state"]
    assert torch.equal(after["opt"]["state"][0]["exp_avg"], state[0]["exp_avg"].T)
    assert torch.equal(after["opt"]["state"][1]["exp_avg"], state[1]["exp_avg"])
    assert list(after["state_dict"]) == ["first.weight", "scale.by", "move.by"]


def out_of_order(path: Path) -> Any:
    """Save an optimizer that was given its parameters in an order of its own, which no shape shows."""
    weights = {"a": torch.zeros(3, 3), "b": torch.ones(3, 3)}
    state = {place: {"exp_avg": weights[name] + 100} for place, name in enumerate("ba")}
    torch.save({"state_dict": weights, "opt": {"state": state, "param_groups": [{"params": [0, 1]}]}}, path)
    return load(path)


def test_what_a_script_said_holds_for_later_runs(project: Folder) -> None:
    """b, a: a guess by shapes would be a, b, and wrong."""
    path = project.path / "last.ckpt"
    before = out_of_order(path)
    declare(project, "a1", 'op.ParameterGroups([["b", "a"]])', 'op.Rename("b", "c")')
    declare(project, "a2", 'op.Fuse(["a", "c"], "both")', parents="a1")
    project.ok("upgrade", "a1", path)
    project.ok("upgrade", "a2", path, "--check-rollback")
    after = load(path)
    assert torch.equal(after["opt"]["state"][0]["exp_avg"], after["state_dict"]["both"] + 100)
    project.ok("downgrade", "base", path)
    assert equal(without_record(load(path)), before)


SWAP = """
def swap(ckpt):
    weights = ckpt["state_dict"]
    weights["a"], weights["c"] = weights["c"], weights["a"]
    return ckpt
"""


@pytest.mark.parametrize("alone", [False, True])
def test_a_function_changes_names_in_between(project: Folder, alone: bool) -> None:
    """a <-> c, by hand: whose moments these are is known by the tensors, in a run of its own too."""
    path = project.path / "last.ckpt"
    out_of_order(path)
    declare(project, "a1", 'op.ParameterGroups([["b", "a"]])', 'op.Rename("b", "c")')
    declare(project, "a2", "op.Run(swap, swap)", parents="a1", top=SWAP)
    declare(project, "a3", 'op.Fuse(["a", "c"], "both")', parents="a2")
    for target in ("a1", "a2", "a3") if alone else ("a2", "a3"):
        project.ok("upgrade", target, path)
    after = load(path)
    assert torch.equal(after["opt"]["state"][0]["exp_avg"], after["state_dict"]["both"] + 100)


WRONG: dict[str, Callable[[dict[str, Any]], None]] = {
    "another name": lambda order: order.update(groups=[["first.weight", "nothing"]]),
    "a name twice": lambda order: order.update(groups=[["first.weight", "first.weight"]]),
    "another shape": lambda order: order.update(groups=[["shift.by", "first.weight"]]),
    "too few": lambda order: order.update(groups=[["first.weight"]]),
    "too many": lambda order: order.update(groups=[["first.weight", "scale.by", "shift.by"]]),
    "more groups": lambda order: order.update(groups=[["first.weight"], ["shift.by"]]),
    "none": lambda order: order.update(groups=[]),
}


def damaged(project: Folder, change: Callable[[dict[str, Any]], None]) -> Path:
    """Upgrade a checkpoint, and change what its record says of optimizers."""
    three_steps(project)
    path = project.path / "last.ckpt"
    trained(path)
    project.ok("upgrade", "a1", path)
    tree = load(path)
    change(tree["ckpt_migrate"])
    torch.save(tree, path)
    return path


DOUBT = "has moments that may belong to shift.by or to scale.by; list them with op.ParameterGroups"
NO_ORDERS = [3, ["opt"], {"opt": 3}, {"opt": {"groups": [["a", 1]], "own_order": []}}, {"opt": {"groups": [[]]}}]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        *(
            pytest.param(lambda record, kind=kind: WRONG[kind](record["optimizers"]["opt"]), DOUBT, id=kind)
            for kind in WRONG
        ),
        *(
            pytest.param(lambda record, value=value: record.update(optimizers=value), "optimizers", id=str(value))
            for value in NO_ORDERS
        ),
    ],
)
def test_what_does_not_fit_is_not_believed(
    project: Folder, change: Callable[[dict[str, Any]], None], says: str
) -> None:
    """Anybody can write a record: without one that fits, it is asked for as if there were none."""
    path = damaged(project, change)
    before = digest(path)
    ran = project.run("upgrade", "head", path)
    assert (ran.code, digest(path), says in ran.err) == (1, before, True), ran.err
    if says == DOUBT:
        groups = 'op.ParameterGroups([["first.weight", "shift.by"]])'
        declare(project, "a2", groups, 'op.Transpose("first.weight")', parents="a1")
        project.ok("upgrade", "head", path, "--check-rollback")


@pytest.mark.parametrize("own_order", [[0], [7, -1]])
def test_an_order_of_its_own_that_nothing_has_does_no_harm(project: Folder, own_order: list[int]) -> None:
    path = damaged(project, lambda record: record["optimizers"]["opt"].update(own_order=own_order))
    project.ok("upgrade", "head", path, "--check-rollback")


def test_what_the_checkpoint_tells_itself_is_not_written_down(project: Folder) -> None:
    path = project.path / "last.ckpt"
    model = nn.Linear(4, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    saved(path, model, optimizer)
    declare(project, "a1", 'op.Transpose("weight")')
    project.ok("upgrade", "head", path)
    assert "optimizers" not in load(path)["ckpt_migrate"]
