"""An optimizer becomes one of another class: state of the same meaning is carried over, the rest starts anew."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.optim import SGD, Adam, AdamW, NAdam, RAdam  # noqa: E402

from anemoi_ckpt_migrate.state.optimizer_classes import DEFAULTS  # noqa: E402
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


def made(kind: Any, **options: Any) -> Any:
    return lambda model: kind(model.named_parameters(), **options)


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_options_are_those_of_torch(name: str) -> None:
    optimizer = getattr(torch.optim, name)([nn.Parameter(torch.zeros(1))])
    assert optimizer.defaults == DEFAULTS[name]


MOMENTS = ("step", "exp_avg", "exp_avg_sq")
OLD = {"lr": 1e-2, "weight_decay": 0.05}  # all have these
CHANGES: dict[str, tuple[Any, Any, Any, tuple[str, ...], tuple[str, ...]]] = {
    # what it was, what it becomes, the options given, the options and the state that are carried over
    "Adam to AdamW": (made(Adam, **OLD, betas=(0.8, 0.99)), AdamW, {}, ("lr", "betas", "weight_decay"), MOMENTS),
    "AdamW to Adam": (made(AdamW, **OLD, eps=1e-6), Adam, {}, ("lr", "weight_decay", "eps"), MOMENTS),
    "AdamW to AdamW, fused": (made(AdamW, **OLD), AdamW, {"fused": True}, ("lr", "weight_decay"), MOMENTS),
    "fused to foreach": (
        made(Adam, **OLD, fused=True), Adam, {"fused": False, "foreach": True}, ("lr", "weight_decay"), MOMENTS,
    ),
    "Adam, amsgrad, to AdamW": (
        made(Adam, **OLD, amsgrad=True), AdamW, {}, ("lr", "weight_decay", "amsgrad"), (*MOMENTS, "max_exp_avg_sq"),
    ),
    "Adam without amsgrad": (made(Adam, **OLD, amsgrad=True), Adam, {"amsgrad": False}, ("lr", "weight_decay"), MOMENTS),
    "Adam to RAdam": (made(Adam, **OLD, amsgrad=True), RAdam, {}, ("lr", "weight_decay"), MOMENTS),
    "RAdam to AdamW": (made(RAdam, **OLD, foreach=True), AdamW, {}, ("lr", "weight_decay", "foreach"), MOMENTS),
    "NAdam to Adam": (made(NAdam, **OLD, momentum_decay=0.1), Adam, {}, ("lr", "weight_decay"), MOMENTS),
    "NAdam to RAdam": (
        made(NAdam, **OLD, decoupled_weight_decay=True), RAdam, {},
        ("lr", "weight_decay", "decoupled_weight_decay"), MOMENTS,
    ),
    "SGD to momentum": (made(SGD, **OLD), SGD, {"momentum": 0.9}, ("lr", "weight_decay"), ()),
    "momentum to SGD": (made(SGD, **OLD, momentum=0.9), SGD, {"momentum": 0}, ("lr", "weight_decay"), ()),
    "momentum to nesterov": (
        made(SGD, **OLD, momentum=0.9), SGD, {"nesterov": True, "fused": True},
        ("lr", "weight_decay", "momentum"), ("momentum_buffer",),
    ),
    "momentum to AdamW": (made(SGD, **OLD, momentum=0.9, maximize=True), AdamW, {"weight_decay": 0.1}, ("lr", "maximize"), ()),
    "SGD to Adam": (made(SGD, **OLD), Adam, {"lr": 1e-3, "betas": [0.8, 0.9]}, ("weight_decay",), ()),
    "Adam to momentum": (made(Adam, **OLD), SGD, {"momentum": 0.9, "lr": 0.1}, ("weight_decay",), ()),
    "NAdam to SGD": (made(NAdam, **OLD), SGD, {}, ("lr", "weight_decay"), ()),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_carried_over(project: Folder, change: str) -> None:
    old, kind, given, options, keys = CHANGES[change]
    path = project.path / "last.ckpt"
    model, optimizer = trained(old)
    before = saved(path, model, optimizer)
    declare(project, "a1", f"op.ChangeOptimizer({kind.__name__!r}, {given})")
    tree = upgraded(project, path)
    of_torch = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    expected = DEFAULTS[kind.__name__] | {name: optimizer.param_groups[0][name] for name in options} | of_torch
    make = made(kind)
    hand = by_hand(model, optimizer, make, [expected], lambda state: {key: state[key] for key in keys} or None)
    same_after_two_steps(resumed(tree, make), hand)
    taken_back(project, path, before)


def test_nadam_gets_the_counter_that_it_would_have(project: Folder) -> None:
    path = project.path / "last.ckpt"
    before = saved(path, *trained(made(Adam, lr=1e-2)))
    declare(project, "a1", 'op.ChangeOptimizer("NAdam", {"momentum_decay": 0.01})')
    state = upgraded(project, path)["optimizer_states"][0]["state"]
    _, real = trained(made(NAdam, momentum_decay=0.01))
    counters = [each["mu_product"] for each in real.state_dict()["state"].values()]
    assert all(equal(each["mu_product"], counter) for each, counter in zip(state.values(), counters, strict=True))
    taken_back(project, path, before)


@pytest.mark.parametrize("step", [0, 1, 7, 300, 5000])
def test_the_counter_is_computed_as_torch_does(step: int) -> None:
    from anemoi_ckpt_migrate.storage.tensors.nadam import momentum_product

    weight = nn.Parameter(torch.ones(1))
    weight.grad = torch.ones(1)
    optimizer = NAdam([weight], betas=(0.99, 0.999), momentum_decay=0.02, foreach=False)
    for _ in range(step):
        optimizer.step()
    real = optimizer.state[weight]["mu_product"].item() if step else 1.0
    assert momentum_product(step, 0.99, 0.02) == real


def test_amsgrad_begins_with_zeros(project: Folder) -> None:
    path = project.path / "last.ckpt"
    model, optimizer = trained(made(Adam))
    before = saved(path, model, optimizer)
    declare(project, "a1", 'op.ChangeOptimizer("AdamW", {"amsgrad": True})')
    tree = upgraded(project, path)
    expected = DEFAULTS["AdamW"] | options_of(optimizer, amsgrad=True, decoupled_weight_decay=True)
    make = made(AdamW, amsgrad=True)

    def with_largest(state: dict[str, Any]) -> dict[str, Any]:
        return state | {"max_exp_avg_sq": torch.zeros_like(state["exp_avg_sq"])}

    same_after_two_steps(resumed(tree, make), by_hand(model, optimizer, make, [expected], with_largest))
    taken_back(project, path, before)


def test_the_way_back_after_training_on(project: Folder) -> None:
    """Moments go on; NAdam's counter is that of its steps; the momentum of SGD is the old one."""
    path = project.path / "last.ckpt"
    for kind, options, to in ((NAdam, {}, AdamW), (SGD, {"lr": 0.1, "momentum": 0.9}, Adam)):
        _, optimizer = trained(made(kind, **options))
        saved(path, _, optimizer)
        old = deepcopy(optimizer.state_dict()["state"][0])
        declare(project, "a1", f"op.ChangeOptimizer({to.__name__!r})")
        project.ok("upgrade", "head", path, "--no-backup")
        tree = torch.load(path, weights_only=True)
        model, new = resumed(tree, made(to))
        train(model, new, batches(2, seed=3))
        torch.save(tree | {"state_dict": model.state_dict(), "optimizer_states": [new.state_dict()]}, path)
        project.ok("downgrade", "base", path, "--no-backup")
        model, back = resumed(load(path), made(kind, **options))
        state = deepcopy(back.state_dict()["state"][0])
        train(model, back, batches(1))
        if kind is SGD:
            assert equal(state["momentum_buffer"], old["momentum_buffer"])
            continue
        assert state["step"].item() == 6
        assert equal(state["exp_avg"], new.state_dict()["state"][0]["exp_avg"])
        assert state["mu_product"].item() < old["mu_product"].item()


def test_groups_keep_their_own_options(project: Folder) -> None:
    def groups(kind: Any, **options: Any) -> Any:
        return lambda model: kind(
            [{"params": list(model.q.named_parameters("q")), "lr": 0.2, "note": "q"}, {"params": list(model.k.named_parameters("k"))}],
            **options,
        )  # fmt: skip

    path = project.path / "last.ckpt"
    before = saved(path, *trained(groups(SGD, lr=0.1, weight_decay=0.01)))
    declare(project, "a1", 'op.ChangeOptimizer("AdamW", {"eps": 1e-6})')
    found = upgraded(project, path)["optimizer_states"][0]["param_groups"]
    assert [(each["lr"], each["weight_decay"], each["eps"]) for each in found] == [(0.2, 0.01, 1e-6), (0.1, 0.01, 1e-6)]
    assert found[0]["note"] == "q"
    assert all("momentum" not in each for each in found)
    taken_back(project, path, before)


@pytest.mark.parametrize(
    ("kind", "operation", "says"),
    [
        (Adam, 'op.ChangeOptimizer("Adafactor")', "Adafactor cannot be made: only Adam, AdamW, NAdam, RAdam, SGD can be"),
        (Adam, 'op.ChangeOptimizer("Adafactor")', "it has only the sums of rows and columns of the second moments"),
        (Adam, 'op.ChangeOptimizer("Lion")', "Lion cannot be made: only Adam, AdamW, NAdam, RAdam, SGD can be changed"),
        (Adam, "op.ChangeOptimizer(3)", "to must be a name, not 3"),
        (Adam, 'op.ChangeOptimizer("SGD", {"betas": [0, 1]})', "SGD has no option betas; it has lr, momentum, dampening"),
        (Adam, 'op.ChangeOptimizer("AdamW", [1])', "defaults must be a dict of options, not [1]"),
        (Adam, 'op.ChangeOptimizer("AdamW", {"lr": True})', "lr must be a number, not True"),
        (Adam, 'op.ChangeOptimizer("AdamW", {"fused": True, "foreach": True})', "fused and foreach cannot both be True"),
        (torch.optim.Adafactor, 'op.ChangeOptimizer("AdamW")', "seems to be Adafactor, and only Adam, AdamW"),
        (torch.optim.RMSprop, 'op.ChangeOptimizer("Adam")', "the optimizer at optimizer_states.0 seems to be RMSprop, and"),
        (torch.optim.Adamax, 'op.ChangeOptimizer("Adam")', "seems to be Adamax, and only"),
        (torch.optim.Adadelta, 'op.ChangeOptimizer("Adam")', "seems to be Adadelta, and only"),
        (torch.optim.Adagrad, 'op.ChangeOptimizer("Adam")', "seems to be Adagrad, and only"),
        (torch.optim.Rprop, 'op.ChangeOptimizer("Adam")', "the optimizer at optimizer_states.0 seems to be Rprop, and"),
    ],
)  # fmt: skip
def test_what_cannot_be_changed(project: Folder, kind: Any, operation: str, says: str) -> None:
    path = project.path / "last.ckpt"
    saved(path, *trained(made(kind)))
    declare(project, "a1", operation)
    assert says in refused(project, path)


def test_an_optimizer_with_moments_of_its_own_is_refused(project: Folder) -> None:
    """AdaBelief and the like have the options of Adam."""
    path = project.path / "last.ckpt"
    tree = saved(path, *trained(made(Adam)))
    for state in tree["optimizer_states"][0]["state"].values():
        state["exp_avg_var"] = state.pop("exp_avg_sq")
    torch.save(tree, path)
    declare(project, "a1", 'op.ChangeOptimizer("AdamW")')
    assert "is unknown (it has exp_avg_var for each parameter), and only Adam" in refused(project, path)


def test_what_has_never_had_a_gradient_starts_anew(project: Folder) -> None:
    path = project.path / "last.ckpt"
    torch.manual_seed(0)
    model = Old()
    model.k.requires_grad_(False)
    optimizer = NAdam(model.named_parameters())
    train(model, optimizer, batches(2))
    before = saved(path, model, optimizer)
    declare(project, "a1", 'op.ChangeOptimizer("Adam")')
    after = upgraded(project, path)
    assert sorted(after["optimizer_states"][0]["state"]) == [0, 1, 4, 5, 6, 7, 8, 9]
    taken_back(project, path, before)
