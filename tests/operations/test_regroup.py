"""One group becomes several, or several become one: the optimizer goes on as one that was regrouped in memory."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
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

DECAY = 'op.Regroup([["*.weight"], ["*"]], options=[{"weight_decay": 0.01}, {"weight_decay": 0.0}])'


def one_group(model: nn.Module) -> Any:
    return torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.01)


def decay_and_none(model: nn.Module) -> Any:
    weights = [(name, value) for name, value in model.named_parameters() if name.endswith("weight")]
    others = [(name, value) for name, value in model.named_parameters() if not name.endswith("weight")]
    return torch.optim.AdamW([{"params": weights}, {"params": others, "weight_decay": 0.0}], lr=1e-2, weight_decay=0.01)


def test_one_group_becomes_decay_and_no_decay(project: Folder) -> None:
    path = project.path / "last.ckpt"
    model, optimizer = trained(one_group)
    before = saved(path, model, optimizer)
    declare(project, "a1", DECAY)
    tree = upgraded(project, path)
    expected = [options_of(optimizer, weight_decay=0.01), options_of(optimizer, weight_decay=0.0)]
    same_after_two_steps(resumed(tree, decay_and_none), by_hand(model, optimizer, decay_and_none, expected))
    taken_back(project, path, before)


def test_and_back_to_one(project: Folder) -> None:
    path = project.path / "last.ckpt"
    model, optimizer = trained(decay_and_none)
    before = saved(path, model, optimizer)
    declare(project, "a1", 'op.Regroup([["*"]], options=[{"weight_decay": 0.02}])')
    tree = upgraded(project, path)
    expected = [options_of(optimizer, weight_decay=0.02)]
    same_after_two_steps(resumed(tree, one_group), by_hand(model, optimizer, one_group, expected))
    taken_back(project, path, before)


def test_the_way_back_needs_no_script_and_keeps_what_training_has_changed(project: Folder) -> None:
    """The learning rate has gone down since, and stays there."""
    path = project.path / "last.ckpt"
    model, optimizer = trained(one_group)
    saved(path, model, optimizer)
    script = declare(project, "a1", DECAY)
    project.ok("upgrade", "head", path, "--no-backup")
    tree = torch.load(path, weights_only=True)
    model, optimizer = resumed(tree, decay_and_none)
    train(model, optimizer, batches(2, seed=3))
    for group in optimizer.param_groups:
        group["lr"] = 1e-4
    tree |= {"state_dict": model.state_dict(), "optimizer_states": [optimizer.state_dict()]}
    torch.save(tree, path)
    script.unlink()
    project.ok("downgrade", "base", path, "--no-backup")
    expected = [options_of(optimizer, weight_decay=0.01)]
    same_after_two_steps(resumed(load(path), one_group), by_hand(model, optimizer, one_group, expected))


def test_an_option_that_has_changed_since_is_not_overwritten_unasked(project: Folder) -> None:
    path = project.path / "last.ckpt"
    saved(path, *trained(decay_and_none))
    declare(project, "a1", 'op.Regroup([["*"]], options=[{"weight_decay": 0.02}])')
    project.ok("upgrade", "head", path, "--no-backup")
    tree = torch.load(path, weights_only=True)
    tree["optimizer_states"][0]["param_groups"][0]["weight_decay"] = 0.5
    torch.save(tree, path)
    ran = project.run("downgrade", "base", path)
    assert ran.code == 1
    assert "weight_decay of the optimizer's groups has changed since; --discard-changes takes the old value" in ran.err
    project.ok("downgrade", "base", path, "--discard-changes")
    decays = [group["weight_decay"] for group in load(path)["optimizer_states"][0]["param_groups"]]
    assert decays == [0.01, 0.0]


@pytest.mark.parametrize(
    ("operation", "says"),
    [
        ('op.Regroup([["*.weight"]])', "q.bias is in no group, and neither are 4 more; the optimizer at optimizer_sta"),
        ('op.Regroup([["q.*"], ["q.bia*"], ["*"]])', "q.bias is in group 0 already, so q.bia* selects nothing"),
        ('op.Regroup([["*"], ["*"]])', "* is in two groups"),
        ('op.Regroup([["*.bias"], ["q.bias"], ["*"]])', "q.bias is in group 0 already"),
        ('op.Regroup([["q.bias"], ["q.bias", "*"]])', "q.bias is in two groups"),
        ('op.Regroup([["q.wait"], ["*"]])', "there is no q.wait"),
        ('op.Regroup([["x.*"], ["*"]])', "no parameter of the optimizer at optimizer_states.0 matches x.*"),
        ('op.Regroup([["norm.running_mean"], ["*"]])', "norm.running_mean is not in the optimizer at optimizer_states.0"),
        ('op.Regroup([["*"]])', "groups 0 and 1 of the optimizer differ in weight_decay (0.01 and 0.0); choose one with"),
        ('op.Regroup([["*.bias"], ["*.weight"]], options=[{"weight_decy": 0.1}, {}])', "has the option weight_decy; use"),
        ('op.Regroup([["*"]], options=[{}, {}])', "there are 1 groups, but options for 2"),
        ('op.Regroup([["*"]], options={"lr": 1})', "options must be a list of dicts, one for each group"),
        ('op.Regroup([["*"]], options=["lr"])', "options must be a dict of options, not 'lr'"),
        ('op.Regroup([["*"]], options=[{"params": [0]}])', "params is not an option"),
        ('op.Regroup([["*"]], options=[{"lr": "1e-3"}])', "lr must be a number, not '1e-3'"),
        ('op.Regroup(["*"])', "groups must be a list of lists of names"),
        ("op.Regroup([])", "groups must be a list of lists of names"),
        ('op.Regroup([["*"]], kept=0)', "kept is for records only"),
        ('op.Regroup([["*"]], optimizer=1)', "the checkpoint has no optimizer 1, only 1"),
        ('op.Regroup([["*"]], optimizer=-1)', "optimizer must be an integer from 0"),
    ],
)  # fmt: skip
def test_a_wrong_list_is_refused(project: Folder, operation: str, says: str) -> None:
    path = project.path / "last.ckpt"
    saved(path, *trained(decay_and_none))
    declare(project, "a1", operation)
    assert says in refused(project, path)


def test_an_option_of_ones_own_is_set_as_an_item(project: Folder) -> None:
    """What the refusal says."""
    path = project.path / "last.ckpt"
    before = saved(path, *trained(one_group))
    place = "optimizer_states.0.param_groups"
    items = [f'op.SetItem("{place}.{number}.name", "{name}")' for number, name in enumerate(["decay", "none"])]
    declare(project, "a1", DECAY, *items)
    groups = upgraded(project, path)["optimizer_states"][0]["param_groups"]
    assert [group["name"] for group in groups] == ["decay", "none"]
    taken_back(project, path, before)


def test_a_file_of_weights_alone_has_nothing_to_regroup(project: Folder) -> None:
    path = project.path / "weights.pt"
    torch.save({"state_dict": Old().state_dict()}, path)
    before = load(path)
    declare(project, "a1", DECAY, 'op.Untrain("q.*")', 'op.Train("q.*")', 'op.ChangeOptimizer("SGD")')
    assert equal(upgraded(project, path), before)
    taken_back(project, path, before)


def test_a_star_stands_for_the_rest(project: Folder) -> None:
    """Decay comes first, and biases and norms are left out of it, as most libraries do it."""
    path = project.path / "last.ckpt"
    before = saved(path, *trained(lambda model: torch.optim.SGD(model.named_parameters(), lr=0.1)))
    declare(project, "a1", 'op.Regroup([["*"], ["*.bias", "norm.*"]])')
    groups = upgraded(project, path)["optimizer_states"][0]["param_groups"]
    assert [group["param_names"] for group in groups] == [
        ["q.weight", "k.weight", "v.weight", "out.weight"],
        ["q.bias", "k.bias", "v.bias", "norm.bias", "out.bias", "norm.weight"],
    ]
    taken_back(project, path, before)


def test_other_operations_go_on_with_the_new_groups(project: Folder) -> None:
    """Parts of a fused layer that were in two groups are fused once they are in one."""
    path = project.path / "last.ckpt"
    model, optimizer = trained(decay_and_none)
    before = saved(path, model, optimizer)
    fuse = 'op.Fuse(["q.{i}", "k.{i}", "v.{i}"], "qkv.{i}")'
    declare(
        project, "a1", 'op.Regroup([["*"]], options=[{"weight_decay": 0}])', fuse, 'op.Regroup([["*.bias"], ["*"]])'
    )
    after = upgraded(project, path)
    groups = after["optimizer_states"][0]["param_groups"]
    assert [group["params"] for group in groups] == [[0, 1, 2], [3, 4, 5]]
    moment = after["optimizer_states"][0]["state"][0]["exp_avg"]
    states = [optimizer.state[layer.bias]["exp_avg"] for layer in (model.q, model.k, model.v)]  # type: ignore[union-attr]
    assert equal(moment, torch.cat(states))
    taken_back(project, path, before)


def test_tied_parameters_go_by_any_of_their_names(project: Folder) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
            self.c.weight = self.a.weight

    model = Tied()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sum(each.square().sum() for each in model.parameters()).backward()  # type: ignore[union-attr]
    optimizer.step()
    path = project.path / "last.ckpt"
    before = saved(path, model, optimizer)
    declare(project, "a1", 'op.Regroup([["c.weight"], ["*"]])')
    state = upgraded(project, path)["optimizer_states"][0]
    assert [group["params"] for group in state["param_groups"]] == [[0], [1, 2, 3, 4]]
    assert equal(state["state"][0]["momentum_buffer"], optimizer.state[model.a.weight]["momentum_buffer"])
    taken_back(project, path, before)
    declare(project, "a1", 'op.Regroup([["a.weight"], ["c.weight", "*"]])')
    assert "a.weight is in group 0 already" in refused(project, path)


KINDS: dict[str, Any] = {
    "SGD": lambda groups: torch.optim.SGD(groups, lr=0.1),
    "SGD, momentum": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9),
    "Adam": lambda groups: torch.optim.Adam(groups, lr=1e-2, foreach=True),
    "AdamW": lambda groups: torch.optim.AdamW(groups, lr=1e-2, amsgrad=True),
    "AdamW, fused": lambda groups: torch.optim.AdamW(groups, lr=1e-2, fused=True),
    "NAdam": lambda groups: torch.optim.NAdam(groups, lr=1e-2),
    "RMSprop": lambda groups: torch.optim.RMSprop(groups, lr=1e-3, momentum=0.5, centered=True),
    "Adagrad": lambda groups: torch.optim.Adagrad(groups, lr=1e-2),
}
NAMES = [name for name, _ in Old().named_parameters()]


@st.composite
def partitions(draw: st.DrawFn, names: list[str]) -> list[list[str]]:
    """Draw an order of names, cut into groups, some of which may be empty."""
    order = draw(st.permutations(names)) if draw(st.booleans()) else names
    cuts = sorted(draw(st.lists(st.integers(0, len(order)), max_size=2)))
    return [list(order[start:end]) for start, end in zip([0, *cuts], [*cuts, len(order)], strict=True)]


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=max(8, settings().max_examples // 6)
)
@given(data=st.data())
def test_any_groups_become_any_others(project: Folder, data: Any) -> None:
    """A random optimizer with random groups and orders, some parameters frozen: as by hand, and back bit for bit."""
    kind, names = data.draw(st.sampled_from(sorted(KINDS))), data.draw(st.booleans())
    trainable = data.draw(st.lists(st.sampled_from(NAMES), unique=True, min_size=1))
    old, new = data.draw(partitions(trainable)), data.draw(partitions(trainable))
    if names:  # torch takes no empty group beside those with names
        old, new = ([group for group in each if group] for each in (old, new))
    rates = data.draw(st.lists(st.sampled_from([1e-2, 1e-3]), min_size=len(old), max_size=len(old)))
    given_rates = data.draw(st.lists(st.sampled_from([1e-3, 5e-4]), min_size=len(new), max_size=len(new)))

    def make(model: nn.Module, groups: Any = old, lrs: Any = rates) -> Any:
        known = dict(model.named_parameters())
        own = [[(name, known[name]) if names else known[name] for name in group] for group in groups]
        return KINDS[kind]([{"params": params, "lr": lr} for params, lr in zip(own, lrs, strict=True)])

    path = project.path / "last.ckpt"
    model, optimizer = trained(make)
    before = saved(path, model, optimizer)
    options = [{"lr": lr} for lr in given_rates]
    declare(project, "a1", f"op.ParameterGroups({old})", f"op.Regroup({new}, options={options})")
    tree = upgraded(project, path)
    makes = lambda model: make(model, new, given_rates)  # noqa: E731
    hand = by_hand(model, optimizer, makes, [options_of(optimizer, lr=lr) for lr in given_rates])
    same_after_two_steps(resumed(tree, makes), hand)
    taken_back(project, path, before)


def test_groups_do_not_share_a_learning_rate_in_a_tensor(project: Folder) -> None:
    """A scheduler changes it in place."""

    def capturable(model: nn.Module) -> Any:
        return torch.optim.AdamW(model.named_parameters(), lr=torch.tensor(1e-2), foreach=False)

    path = project.path / "last.ckpt"
    before = saved(path, *trained(capturable))
    declare(project, "a1", DECAY)
    one, other = (group["lr"] for group in upgraded(project, path)["optimizer_states"][0]["param_groups"])
    assert equal(one, other)
    assert one.data_ptr() != other.data_ptr()
    taken_back(project, path, before)
    declare(project, "a1", 'op.Regroup([["*.weight"], ["*"]], options=[{"lr": 0.5}, {}])')
    one, other = (group["lr"] for group in upgraded(project, path)["optimizer_states"][0]["param_groups"])
    assert (one, other.item()) == (0.5, pytest.approx(1e-2))
    taken_back(project, path, before)


@pytest.mark.parametrize("rates", [(0.1, 0.2), (0.1, 0.1)])
def test_groups_with_learning_rates_in_tensors_become_one(project: Folder, rates: tuple[float, float]) -> None:
    """They are compared by their content."""

    def two(model: nn.Module) -> Any:
        layers = zip((model.q, model.k), rates, strict=True)
        groups = [{"params": list(layer.parameters()), "lr": torch.tensor(lr)} for layer, lr in layers]  # type: ignore[union-attr]
        return torch.optim.Adam(groups, foreach=False)

    path = project.path / "last.ckpt"
    before = saved(path, *trained(two))
    declare(project, "a1", 'op.ParameterGroups([["q.*"], ["k.*"]])', 'op.Regroup([["*"]])')
    if rates[0] != rates[1]:
        assert "groups 0 and 1 of the optimizer differ in lr (" in refused(project, path)
        declare(project, "a1", 'op.ParameterGroups([["q.*"], ["k.*"]])', 'op.Regroup([["*"]], options=[{"lr": 0.1}])')
    (group,) = upgraded(project, path)["optimizer_states"][0]["param_groups"]
    assert float(group["lr"]) == pytest.approx(0.1)
    taken_back(project, path, before)
