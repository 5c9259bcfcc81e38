"""Parameters leave an optimizer and enter it; those of other modules are carried along."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from tests.support.operations import Old, batches, declare, equal, train, trained  # noqa: E402
from tests.support.optimizers import (  # noqa: E402
    by_hand,
    load,
    options_of,
    refused,
    resumed,
    same_after_two_steps,
    saved,
    taken_back,
    upgraded,
)
from tests.support.project import Folder  # noqa: E402

KINDS: dict[str, Any] = {
    "SGD": lambda given: torch.optim.SGD(given, lr=0.1),
    "SGD, momentum": lambda given: torch.optim.SGD(given, lr=0.1, momentum=0.9, dampening=0.5),
    "Adam": lambda given: torch.optim.Adam(given, lr=1e-2),
    "AdamW, amsgrad, foreach": lambda given: torch.optim.AdamW(given, lr=1e-2, amsgrad=True, foreach=True),
    "AdamW, fused": lambda given: torch.optim.AdamW(given, lr=1e-2, fused=True),
    "NAdam": lambda given: torch.optim.NAdam(given, lr=1e-2),
    "RAdam": lambda given: torch.optim.RAdam(given, lr=1e-2),
    "RMSprop": lambda given: torch.optim.RMSprop(given, lr=1e-3, momentum=0.5, centered=True),
    "Adagrad": lambda given: torch.optim.Adagrad(given, lr=1e-2),
}


def made(kind: str, *without: str) -> Any:
    """Return a function that makes an optimizer with all parameters but some."""
    return lambda model: KINDS[kind](
        [(name, value) for name, value in model.named_parameters() if not name.startswith(without or ("-",))]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_frozen_parameters_leave(project: Folder, kind: str) -> None:
    path = project.path / "last.ckpt"
    model, optimizer = trained(made(kind))
    before = saved(path, model, optimizer)
    declare(project, "a1", 'op.Untrain(["k.*", "norm.bias"])')
    tree = upgraded(project, path)
    assert equal(tree["state_dict"], before["state_dict"])
    make = made(kind, "k", "norm.bias")
    same_after_two_steps(resumed(tree, make), by_hand(model, optimizer, make, [options_of(optimizer)]))
    taken_back(project, path, before)


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_enter_as_in_a_new_optimizer(project: Folder, kind: str) -> None:
    path = project.path / "last.ckpt"
    model, optimizer = trained(made(kind, "k", "norm.bias"))
    before = saved(path, model, optimizer)
    declare(project, "a1", 'op.Train(["k.*", "norm.bias"])')
    tree = upgraded(project, path)
    new = len(tree["optimizer_states"][0]["state"]) - len(before["optimizer_states"][0]["state"])
    assert new == (3 if kind == "Adagrad" else 0)  # which makes no state later
    make = made(kind)
    same_after_two_steps(resumed(tree, make), by_hand(model, optimizer, make, [options_of(optimizer)]))
    taken_back(project, path, before)


def test_moments_come_back_after_training_without_them(project: Folder) -> None:
    """The others have gone on; those that were frozen are as they were."""
    path = project.path / "last.ckpt"
    model, optimizer = trained(made("Adam"))
    saved(path, model, optimizer)
    declare(project, "a1", 'op.Untrain("k.*")').read_text()
    project.ok("upgrade", "head", path, "--no-backup")
    tree = torch.load(path, weights_only=True)
    model, short = resumed(tree, made("Adam", "k"))
    train(model, short, batches(2, seed=3))
    torch.save(tree | {"state_dict": model.state_dict(), "optimizer_states": [short.state_dict()]}, path)
    project.ok("downgrade", "base", path, "--no-backup")
    state = load(path)["optimizer_states"][0]
    assert [state["state"][number]["step"].item() for number in range(6)] == [6, 6, 4, 4, 6, 6]
    assert equal(state["state"][2]["exp_avg"], list(optimizer.state.values())[2]["exp_avg"])


def test_an_order_of_its_own_comes_back(project: Folder) -> None:
    """The file only numbers its parameters: the record has their order."""

    def make(model: nn.Module) -> Any:
        return torch.optim.Adam([model.out.weight, model.q.weight, model.k.weight], lr=1e-2)

    path = project.path / "last.ckpt"
    before = saved(path, *trained(make))
    groups = 'op.ParameterGroups([["out.weight", "q.weight", "k.weight"]])'
    declare(project, "a1", groups, 'op.Untrain("out.weight")')
    declare(project, "a2", 'op.Rename("q.weight", "z")', parents="a1")
    upgraded(project, path)
    taken_back(project, path, before)
    declare(project, "a1", groups, 'op.Train("v.weight")')
    assert "group 0 of the optimizer at optimizer_states.0 has its own order of parameters; give" in refused(
        project, path
    )
    # What the message asks for:
    own = '[["out.weight", "v.weight", "q.weight", "k.weight"]]'
    declare(project, "a1", groups, 'op.Regroup([["*"]])', 'op.Train("v.weight")', f"op.Regroup({own})")
    state = upgraded(project, path)["optimizer_states"][0]
    assert sorted(state["state"]) == [0, 2, 3]
    assert equal(state["state"][0], before["optimizer_states"][0]["state"][0])
    taken_back(project, path, before)


def test_a_second_group_is_entered_by_number(project: Folder) -> None:
    def make(model: nn.Module) -> Any:
        groups = [[("q.weight", model.q.weight)], [("out.weight", model.out.weight)]]
        return torch.optim.SGD([{"params": own} for own in groups], lr=0.1)

    path = project.path / "last.ckpt"
    before = saved(path, *trained(make))
    declare(project, "a1", 'op.Train("norm.*", group=1)')
    groups = upgraded(project, path)["optimizer_states"][0]["param_groups"]
    assert [group["param_names"] for group in groups] == [["q.weight"], ["norm.weight", "norm.bias", "out.weight"]]
    taken_back(project, path, before)


def test_two_optimizers(project: Folder) -> None:
    """A pattern selects no parameter that another optimizer has."""
    torch.manual_seed(0)
    model = Old()
    one = torch.optim.Adam([(f"q.{name}", each) for name, each in model.q.named_parameters()])
    other = torch.optim.SGD([(f"k.{name}", each) for name, each in model.k.named_parameters()], lr=0.1, momentum=0.9)
    train(model, one, batches(1))
    train(model, other, batches(1))
    path = project.path / "last.ckpt"
    before = saved(path, model, one, other)
    declare(project, "a1", 'op.Train("*.bias", optimizer=1)', 'op.Untrain("q.bias")')
    after = [state["param_groups"][0]["param_names"] for state in upgraded(project, path)["optimizer_states"]]
    assert after == [["q.weight"], ["k.weight", "k.bias", "v.bias", "norm.bias", "out.bias"]]
    taken_back(project, path, before)


@pytest.mark.parametrize(
    ("operation", "says"),
    [
        ('op.Untrain("k.*")', "no parameter of the optimizer at optimizer_states.0 matches k.*"),
        ('op.Untrain("k.bias")', "k.bias is not in the optimizer at optimizer_states.0"),
        ('op.Untrain("k.bios")', "there is no k.bios"),
        ("op.Untrain([])", "names must be a list of 1 names or more"),
        ('op.Untrain("q.bias", 2)', "the checkpoint has no optimizer 2, only 1"),
        ('op.Train("q.bias")', "q.bias is in the optimizer at optimizer_states.0 already"),
        ('op.Train("q.*")', "no parameter outside the optimizers matches q.*"),
        ('op.Train("k.bios")', "there is no k.bios"),
        ('op.Train("norm.running_mean")', "norm.running_mean is a buffer, and optimizers have no buffers"),
        ('op.Train("k.*", group=1)', "the optimizer at optimizer_states.0 has 1 groups, but no group 1"),
        ('op.Train("k.*", group=True)', "group must be an integer from 0"),
        ('op.Train("k.*", options={})', "Train takes names, group, optimizer, not options"),
    ],
)
def test_what_cannot_leave_or_enter(project: Folder, operation: str, says: str) -> None:
    path = project.path / "last.ckpt"
    saved(path, *trained(made("Adam", "k")))
    declare(project, "a1", operation)
    assert says in refused(project, path)


def test_integers_are_not_trained(project: Folder) -> None:
    path = project.path / "last.ckpt"
    model, optimizer = trained(made("Adam", "k"))
    tree = saved(path, model, optimizer)
    tree["state_dict"]["table"] = torch.arange(3)
    torch.save(tree, path)
    declare(project, "a1", 'op.Train("table")')
    assert "table cannot be trained, because it holds no floating-point numbers" in refused(project, path)


def test_an_optimizer_of_shards_is_refused(project: Folder) -> None:
    """Each process of ZeRO has a flat part of all parameters."""
    path = project.path / "last.ckpt"
    flat = {"step": 3, "exp_avg": torch.ones(99), "exp_avg_sq": torch.ones(99)}
    optimizer = {"state": {0: flat}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    torch.save({"module": Old().state_dict(), "optimizer": {"base_optimizer_state": optimizer}}, path)
    declare(project, "a1", 'op.Untrain("k.*")')
    assert "the 1 parameters of the optimizer at optimizer.base_optimizer_state do not match" in refused(project, path)


class Loss(nn.Module):
    """Weights of a loss, which the state dict of the model does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(8)), nn.Parameter(torch.zeros(8))


def with_loss(model: nn.Module, loss: nn.Module | None = None, kind: Any = torch.optim.Adam) -> Any:
    loss = loss or Loss()
    weights = [value for name, value in model.named_parameters() if name.startswith("q")]
    return kind([{"params": [*weights, loss.scale]}, {"params": [loss.shift, *model.out.parameters()]}], lr=1e-2)


def trained_with_loss() -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model, loss = Old(), Loss()
    optimizer = with_loss(model, loss)
    for x in batches(3):
        optimizer.zero_grad()
        (model(x) * loss.scale + loss.shift).square().mean().backward()
        optimizer.step()
    return model, optimizer


FOREIGN = 'op.ParameterGroups([["q.*", "loss.scale"], ["loss.shift", "out.*"]], foreign=["loss.scale", "loss.shift"])'


def test_parameters_of_no_state_dict_are_carried_along(project: Folder) -> None:
    path = project.path / "last.ckpt"
    before = saved(path, *trained_with_loss())
    names = ["q.weight", "q.bias", "loss.scale", "loss.shift", "out.weight", "out.bias"]
    old = dict(zip(names, before["optimizer_states"][0]["state"].values(), strict=True))
    declare(project, "a1", 'op.Split("q.weight", ["a.weight", "b.weight"])')
    assert "list them with op.ParameterGroups" in refused(project, path)

    operations = ['op.Split("q.weight", ["a.weight", "b.weight"])', 'op.AddPrefix("net.")', 'op.Train("net.norm.*", 1)']
    declare(project, "a1", FOREIGN, *operations)
    state = upgraded(project, path)["optimizer_states"][0]
    assert [group["params"] for group in state["param_groups"]] == [[0, 1, 2, 3], [4, 5, 6, 7, 8]]
    assert equal(state["state"][3], old["loss.scale"])  # behind the others, as before
    assert equal(state["state"][4], old["loss.shift"])  # before the others, as before
    assert sorted(state["state"]) == [0, 1, 2, 3, 4, 7, 8]

    # Later scripts know them from the record, and may sort them or take them out by name.
    declare(project, "a2", 'op.Regroup([["*"]])', 'op.Untrain("loss.shift")', parents="a1")
    state = upgraded(project, path)["optimizer_states"][0]
    assert [group["params"] for group in state["param_groups"]] == [[0, 1, 2, 3, 4, 5, 6, 7]]
    assert equal(state["state"][7], old["loss.scale"])
    taken_back(project, path, before)


def test_foreign_parameters_may_have_names_of_their_own(project: Folder) -> None:
    """The optimizer has names, some of which the state dict does not have."""
    model, loss = Old(), Loss()
    named = [*model.q.named_parameters("q"), *loss.named_parameters("loss"), *model.out.named_parameters("out")]
    optimizer = torch.optim.Adam([{"params": named}], lr=1e-2)
    path = project.path / "last.ckpt"
    before = saved(path, model, optimizer)
    declare(project, "a1", 'op.Rename("q.bias", "z")')
    assert "names loss.scale, which the state dict does not have" in refused(project, path)
    groups = 'op.ParameterGroups([["q.*", "scale", "shift", "out.*"]], foreign=["scale", "shift"])'
    declare(project, "a1", groups, 'op.Rename("q.bias", "z")', 'op.Untrain("shift")')
    (group,) = upgraded(project, path)["optimizer_states"][0]["param_groups"]
    assert group["param_names"] == ["q.weight", "z", "loss.scale", "out.weight", "out.bias"]
    taken_back(project, path, before)


@pytest.mark.parametrize(
    ("operation", "says"),
    [
        ('op.ParameterGroups([["q.*"], ["out.*"]], foreign=["loss.scale"])', "groups must list loss.scale, which is f"),
        ('op.ParameterGroups([["q.*", "x*"], ["out.*"]], foreign=["x*"])', "foreign must list names, and x* is a pat"),
        ('op.ParameterGroups([["q.*", "k.bias"], ["out.*"]], foreign=["k.bias"])', "calls k.bias foreign, but the stat"),
        ('op.ParameterGroups([["q.*"], ["out.*"]])', "lists 2 for it; use foreign=[...] for parameters that the state"),
    ],
)  # fmt: skip
def test_what_is_not_foreign(project: Folder, operation: str, says: str) -> None:
    path = project.path / "last.ckpt"
    saved(path, *trained_with_loss())
    declare(project, "a1", operation, 'op.Rename("q.bias", "z")')
    assert says in refused(project, path)


def test_a_parameter_amid_the_others_fixes_their_order(project: Folder) -> None:
    path = project.path / "last.ckpt"
    model, loss = Old(), Loss()
    optimizer = torch.optim.Adam([model.q.weight, loss.scale, model.k.weight], lr=1e-2)
    before = saved(path, model, optimizer)
    groups = 'op.ParameterGroups([["q.weight", "s", "k.weight"]], foreign=["s"])'
    declare(project, "a1", groups, 'op.Train("v.weight")')
    assert "has its own order of parameters" in refused(project, path)
    declare(project, "a1", groups, 'op.Rename("q.weight", "z")', 'op.Drop("k.weight", keep=True)')
    (group,) = upgraded(project, path)["optimizer_states"][0]["param_groups"]
    assert group["params"] == [0, 1]
    taken_back(project, path, before)


@pytest.mark.parametrize(
    "operations",
    [
        ('op.Untrain("k.*")', 'op.Drop("k.*", keep=True)'),
        ('op.Untrain("*.bias")', 'op.Fuse(["q.bias", "k.bias"], "qk")', 'op.Rename("v.bias", "z")'),
        ('op.Rename("k.bias", "z")', 'op.Untrain("z")', 'op.RenamePrefix("z", "y")', 'op.Train("y")'),
        ('op.Add("new", [3], buffer=True)', 'op.Train("new")', 'op.Pad("new", 2)'),
        ('op.Regroup([["*.bias"], ["*"]])', 'op.Drop("k.*", keep=True)', 'op.Regroup([["*"]])', 'op.Add("new", [3])'),
        ('op.Untrain("k.*")', 'op.Run("same", "same")', 'op.Train("k.bias")', 'op.SetItem("ema.extra", 1)'),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_among_other_operations(project: Folder, operations: tuple[str, ...], named: bool) -> None:
    """Copies of the weights follow what changes the model, and are left alone by what changes the optimizer."""
    path = project.path / "last.ckpt"
    model, optimizer = trained(
        lambda model: torch.optim.Adam(model.named_parameters() if named else model.parameters())
    )
    ema = {name: value * 0.5 for name, value in model.state_dict().items()}
    before = saved(path, model, optimizer, ema=ema)
    top = "def same(ckpt):\n    return ckpt\n"
    declare(project, "a1", *(each.replace('"same"', "same") for each in operations), top=top)
    tree = upgraded(project, path)
    assert [name for name in tree["ema"] if name != "extra"] == list(tree["state_dict"])
    taken_back(project, path, before)


def test_a_stamped_revision_is_undone_as_far_as_it_says(project: Folder) -> None:
    path = project.path / "last.ckpt"
    saved(path, *trained(made("Adam")))
    declare(project, "a1", 'op.Train("k.*")')
    project.ok("stamp", "head", path)
    project.ok("downgrade", "base", path, "--no-backup")
    assert len(load(path)["optimizer_states"][0]["param_groups"][0]["params"]) == 8
    declare(project, "a1", 'op.Untrain("k.*")')
    project.ok("stamp", "head", path)
    assert "stamped, not applied" in project.run("downgrade", "base", path).err
