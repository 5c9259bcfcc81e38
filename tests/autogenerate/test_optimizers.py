"""NEW's optimizer is what OLD gets: its parameters, groups, options and class, as operations that training confirms."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict  # noqa: E402
from torch.optim import SGD, Adagrad, Adam, AdamW, NAdam, RMSprop  # noqa: E402
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR  # noqa: E402
from torch.optim.swa_utils import AveragedModel  # noqa: E402

from tests.support.operations import equal, trained  # noqa: E402
from tests.support.optimizers import (  # noqa: E402
    assert_states,
    by_hand,
    load,
    options_of,
    resumed,
    same_after_two_steps,
    saved,
    taken_back,
    upgraded,
)
from tests.support.project import Folder  # noqa: E402

Test = Callable[[str], bool]
Make = Callable[[nn.Module], Any]


def one_group(model: nn.Module) -> Any:
    return AdamW(model.parameters(), lr=1e-2, weight_decay=0.01)


def groups_by(test: Test, named: bool = True, kind: Any = AdamW, **second: Any) -> Make:
    """Return a function that makes an optimizer of two groups: those that pass a test come second."""

    def make(model: nn.Module) -> Any:
        parts = [[(n, p) for n, p in model.named_parameters() if test(n) is passes] for passes in (False, True)]
        groups = [own if named else [value for _, value in own] for own in parts]
        return kind([{"params": groups[0]}, {"params": groups[1], **(second or {"weight_decay": 0.0})}], lr=1e-2)

    return make


def is_bias(name: str) -> bool:
    return name.endswith("bias")


def is_bias_or_norm(name: str) -> bool:
    return is_bias(name) or "norm" in name


def only(test: Test) -> Make:
    return lambda model: AdamW([(n, p) for n, p in model.named_parameters() if test(n)], lr=1e-2, weight_decay=0.01)


def compared(project: Folder, old: Path, new: Path) -> Any:
    return json.loads(project.ok("diff", old, new, "--json").out)


def generated(project: Folder, old: Path, new: Path) -> list[str]:
    """Write a script from two checkpoints, see that nothing remains to be explained, and return its lines."""
    ran = project.ok("revision", "refactored", "--autogenerate", old, new)
    assert not any(word in ran.err for word in ("differ", "does not apply", "has none", "not explained")), ran.err
    assert compared(project, old, new)["rest"] == []
    [path] = (project.path / "versions").glob("*.py")
    listed = path.read_text().partition("\noperations = [\n")[2].partition("\n]\n")[0]
    return [line.strip() for line in listed.splitlines()]


def files(project: Folder, before: Make, after: Make) -> tuple[Path, Path, Any, Any, Any]:
    """Save a run, and another run with the optimizer that it is to have; return also the first run and its file."""
    old, new = project.path / "old.ckpt", project.path / "new.ckpt"
    model, optimizer = trained(before)
    tree = saved(old, model, optimizer)
    saved(new, *trained(after, seed=1))
    return old, new, model, optimizer, tree


@pytest.mark.parametrize(
    ("after", "lines"),
    [
        (groups_by(is_bias), ['op.Regroup([["*"], ["*.bias"]], options=[{}, {"weight_decay": 0.0}]),']),
        (
            groups_by(is_bias, named=False),
            [
                "# 80% certain: check it.",
                'op.Regroup([["*"], ["*.bias"]], options=[{}, {"weight_decay": 0.0}]),',
            ],
        ),
        (
            groups_by(is_bias_or_norm, named=False),
            [
                'op.Regroup([["*"], ["*.bias", "norm.weight"]], options=[{}, {"weight_decay": 0.0}], in_order=True),',
            ],
        ),
        (
            groups_by(lambda name: name.startswith("out."), lr=1e-3),
            [
                "# 70% certain: check it. another run may have other values",
                'op.Regroup([["*"], ["out.*"]], options=[{}, {"lr": 0.001}]),',
            ],
        ),
        (
            lambda model: AdamW([*list(model.named_parameters())[-2:], *list(model.named_parameters())[:-2]], lr=1e-2),
            ['op.Regroup([["out.*", "q.*", "k.*", "v.*", "norm.*"]]),'],
        ),
    ],
)
def test_other_groups(project: Folder, after: Make, lines: list[str]) -> None:
    """Names tell the groups, or shapes; where both fail, the usual ways to make them are tried, as a guess."""
    old, new, model, optimizer, before = files(project, one_group, after)
    assert [line.replace("'", '"') for line in generated(project, old, new)] == lines
    tree = upgraded(project, old)
    wanted = after(model)
    expected = [
        options_of(optimizer, weight_decay=group["weight_decay"], lr=group["lr"]) for group in wanted.param_groups
    ]
    same_after_two_steps(resumed(tree, after), by_hand(model, optimizer, after, expected))
    taken_back(project, old, before)


def test_groups_become_one_and_the_options_that_differed_are_those_of_new(project: Folder) -> None:
    old, new, model, optimizer, before = files(project, groups_by(is_bias), one_group)
    assert generated(project, old, new) == ["op.Regroup([[\"*\"]], options=[{'weight_decay': 0.01}]),"]
    same_after_two_steps(
        resumed(upgraded(project, old), one_group), by_hand(model, optimizer, one_group, [options_of(optimizer)])
    )
    taken_back(project, old, before)


def test_parameters_leave_and_enter(project: Folder) -> None:
    """The first layers are frozen; the norm is trained again, and starts as the optimizer starts it."""
    has_no_norm, has_no_layers = (lambda name: "norm" not in name), (lambda name: name[0] not in "qk")
    old, new, model, optimizer, before = files(project, only(has_no_norm), only(has_no_layers))
    assert generated(project, old, new) == ['op.Untrain(["q.*", "k.*"]),', 'op.Train(["norm.*"]),']
    shown = project.ok("diff", old, new).out
    assert "untrained  optimizer_states.0  q.*, k.*\ntrained    optimizer_states.0  norm.*\n" in shown
    run = resumed(upgraded(project, old), only(has_no_layers))
    same_after_two_steps(run, by_hand(model, optimizer, only(has_no_layers), [options_of(optimizer)]))
    taken_back(project, old, before)


def test_parameters_enter_the_groups_that_stay(project: Folder) -> None:
    def without_norm(model: nn.Module) -> Any:
        optimizer = groups_by(is_bias)(model)
        for group in optimizer.param_groups:
            keep = ["norm" not in name for name in group["param_names"]]
            for key in ("params", "param_names"):
                group[key] = [each for each, kept in zip(group[key], keep, strict=True) if kept]
        return optimizer

    old, new, model, optimizer, before = files(project, without_norm, groups_by(is_bias))
    assert generated(project, old, new) == ['op.Train(["norm.weight"]),', 'op.Train(["norm.bias"], group=1),']
    expected = [options_of(optimizer), options_of(optimizer, 1)]
    same_after_two_steps(
        resumed(upgraded(project, old), groups_by(is_bias)), by_hand(model, optimizer, groups_by(is_bias), expected)
    )
    taken_back(project, old, before)


def fresh(state: dict[str, Any]) -> None:
    return None


def with_product(state: dict[str, Any]) -> dict[str, Any]:
    """Return the state of NAdam: the product of its momenta, as four steps make it."""
    product = torch.ones(())
    for step in range(1, 5):
        product *= 0.9 * (1.0 - 0.5 * (0.96 ** (step * 0.004)))
    return {"step": state["step"], "mu_product": product, **{key: state[key] for key in ("exp_avg", "exp_avg_sq")}}


@pytest.mark.parametrize(
    ("after", "line", "state"),
    [
        (
            lambda model: Adam(model.parameters(), lr=1e-2),
            'op.ChangeOptimizer("Adam", defaults={"weight_decay": 0}),',
            dict,
        ),
        (
            lambda model: SGD(model.parameters(), lr=0.1, momentum=0.9),
            'op.ChangeOptimizer("SGD", defaults={"momentum": 0.9, "weight_decay": 0, "lr": 0.1}),',
            fresh,
        ),
        (
            lambda model: NAdam(model.parameters(), lr=1e-2, weight_decay=0.01),
            'op.ChangeOptimizer("NAdam"),',
            with_product,
        ),
        (
            lambda model: AdamW(model.parameters(), lr=1e-2, amsgrad=True),
            'op.ChangeOptimizer("AdamW", defaults={"amsgrad": True}),',
            lambda state: {**state, "max_exp_avg_sq": torch.zeros_like(state["exp_avg_sq"])},
        ),
    ],
)
def test_another_class(project: Folder, after: Make, line: str, state: Any) -> None:
    old, new, model, optimizer, before = files(project, one_group, after)
    assert generated(project, old, new)[-1].replace("'", '"') == line
    [group] = after(model).param_groups
    expected = [{key: value for key, value in group.items() if key != "params"}]
    same_after_two_steps(resumed(upgraded(project, old), after), by_hand(model, optimizer, after, expected, state))
    taken_back(project, old, before)


@pytest.mark.parametrize("kind", [Adagrad, RMSprop])
def test_a_class_that_no_operation_makes_is_named(project: Folder, kind: Any) -> None:
    old, new, *_ = files(project, one_group, lambda model: kind(model.parameters(), lr=1e-2))
    found = compared(project, old, new)
    assert found["operations"] == []
    assert f"(its class is Adam or AdamW, but {kind.__name__} there)" in found["rest"][0]


def test_where_nothing_tells_adam_and_adamw_apart_nothing_is_said(project: Folder) -> None:
    """Older releases of torch do not write whether the decay is decoupled."""
    old, new, *_ = files(project, one_group, lambda model: Adam(model.parameters(), lr=1e-2, weight_decay=0.01))
    for path in (old, new):
        tree = torch.load(path)
        del tree["optimizer_states"][0]["param_groups"][0]["decoupled_weight_decay"]
        torch.save(tree, path)
    found = compared(project, old, new)
    assert found["operations"] == found["rest"] == []


def test_options_that_differ_are_guesses_behind_the_exact_groups(project: Folder) -> None:
    def after(model: nn.Module) -> Any:
        optimizer = groups_by(is_bias)(model)
        for group in optimizer.param_groups:
            group["eps"] = 1e-6
        return optimizer

    old, new, model, optimizer, before = files(project, one_group, after)
    assert generated(project, old, new) == [
        'op.Regroup([["*"], ["*.bias"]], options=[{}, {\'weight_decay\': 0.0}]),',
        "# Guesses:",
        "# 70% certain: check it. another run may have other values",
        'op.SetItem("optimizer_states.0.param_groups.*.eps", 1e-06),',
    ]
    expected = [options_of(optimizer, weight_decay=decay, eps=1e-6) for decay in (0.01, 0.0)]
    same_after_two_steps(resumed(upgraded(project, old), after), by_hand(model, optimizer, after, expected))
    taken_back(project, old, before)


class Model(nn.Module):
    """An encoder and a head, under names of choice."""

    def __init__(self, encoder: str = "encoder", head: str = "head", classes: int = 3) -> None:
        super().__init__()
        self.add_module(encoder, nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 6)))
        self.add_module(head, nn.Linear(6, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for each in self.children():
            x = each(x)
        return x


def steps(model: nn.Module, *optimizers: Any, count: int = 2) -> None:
    generator = torch.Generator().manual_seed(5)
    for _ in range(count):
        for optimizer in optimizers:
            optimizer.zero_grad()
        model(torch.randn(7, 4, generator=generator)).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()


def run(make: Callable[[], tuple[nn.Module, list[Any]]], seed: int = 0) -> tuple[nn.Module, list[Any]]:
    torch.manual_seed(seed)
    model, optimizers = make()
    steps(model, *optimizers, count=3)
    return model, optimizers


def goes_on(tree: Any, make: Callable[[], tuple[nn.Module, list[Any]]]) -> tuple[nn.Module, list[Any]]:
    """Load a checkpoint strictly, and train for two steps."""
    model, optimizers = make()
    model.load_state_dict(tree["state_dict"])
    for optimizer, content in zip(optimizers, tree["optimizer_states"], strict=True):
        optimizer.load_state_dict(content)
    steps(model, *optimizers)
    return model, optimizers


def by_names(
    one: tuple[nn.Module, list[Any]],
    make: Callable[[], tuple[nn.Module, list[Any]]],
    names: Callable[[str], str] = lambda name: name,
) -> tuple[nn.Module, list[Any]]:
    """Return another model and other optimizers with what a run has under the same names, and train for two steps."""
    model, optimizers = make()
    mine = {names(name): value for name, value in one[0].named_parameters()}
    every = {value: state for optimizer in one[1] for value, state in optimizer.state.items()}
    for name, value in model.named_parameters():
        if name in mine:
            value.data.copy_(mine[name].data)
        else:
            value.data.zero_()
        for optimizer in optimizers:
            own = [each for group in optimizer.param_groups for each in group["params"]]
            if any(value is each for each in own) and mine.get(name) in every:
                optimizer.state[value] = deepcopy(every[mine[name]])
    steps(model, *optimizers)
    return model, optimizers


def same(one: tuple[nn.Module, list[Any]], other: tuple[nn.Module, list[Any]]) -> None:
    assert equal(one[0].state_dict(), other[0].state_dict())
    for mine, its in zip(one[1], other[1], strict=True):
        for group in mine.param_groups:
            group.pop("initial_lr", None)  # of a scheduler, which the other run has not
        assert_states(mine, its)


def plain() -> tuple[nn.Module, list[Any]]:
    model = Model()
    return model, [AdamW(model.parameters(), lr=1e-3)]


def test_renamed_and_regrouped_at_once_with_an_average_beside(project: Folder) -> None:
    def after() -> tuple[nn.Module, list[Any]]:
        model = Model("backbone")
        return model, [groups_by(is_bias)(model)]

    def before() -> tuple[nn.Module, list[Any]]:
        model = Model()
        return model, [one_group(model)]

    old, new = project.path / "old.ckpt", project.path / "new.ckpt"
    first, second = run(before), run(after, 1)
    tree = saved(old, first[0], *first[1], ema=AveragedModel(first[0]).state_dict())
    saved(new, second[0], *second[1], ema=AveragedModel(second[0]).state_dict())
    assert generated(project, old, new) == [
        'op.RenamePrefix("encoder.", "backbone."),',
        'op.Regroup([["*"], ["*.bias"]], options=[{}, {\'weight_decay\': 0.0}]),',
    ]
    made = upgraded(project, old)
    same(goes_on(made, after), by_names(first, after, lambda name: name.replace("encoder.", "backbone.")))
    AveragedModel(after()[0]).load_state_dict(made["ema"])
    taken_back(project, old, tree)


def test_a_frozen_encoder_and_a_new_head(project: Folder) -> None:
    def after() -> tuple[nn.Module, list[Any]]:
        model = Model(head="classifier", classes=5)
        model.encoder.requires_grad_(False)
        return model, [AdamW(model.classifier.parameters(), lr=1e-3)]

    old, new = project.path / "old.ckpt", project.path / "new.ckpt"
    first, second = run(plain), run(after, 1)
    tree = saved(old, first[0], *first[1])
    saved(new, second[0], *second[1])
    lines = generated(project, old, new)
    assert lines[-1] == 'op.Untrain(["encoder.*"]),'
    [script] = (project.path / "versions").glob("*.py")
    script.write_text(script.read_text().replace('op.Drop("head.*")', 'op.Drop("head.*", keep=True)'))
    made = upgraded(project, old)
    same(goes_on(made, after), by_names(first, after))
    taken_back(project, old, tree)


def test_two_optimizers_and_each_takes_its_scheduler_along(project: Folder) -> None:
    """The learning rates do not tell whose schedulers they are: that is a guess, and is marked."""

    def make(split: bool) -> tuple[nn.Module, list[Any]]:
        model = Model()
        parts = [[(n, p) for n, p in model.named_parameters() if n.startswith(lead)] for lead in ("encoder", "head")]
        if not split:
            return model, [AdamW(own, lr=1e-3) for own in parts]
        groups = [[[each for each in own if is_bias(each[0]) is bias] for bias in (False, True)] for own in parts]
        return model, [AdamW([{"params": one}, {"params": two, "weight_decay": 0.0}], lr=1e-3) for one, two in groups]

    old, new = project.path / "old.ckpt", project.path / "new.ckpt"
    runs = [run(lambda split=split: make(split)) for split in (False, True)]
    trees = [
        saved(path, model, *optimizers, schedulers=[StepLR(each, 5) for each in optimizers])
        for path, (model, optimizers) in zip((old, new), runs, strict=True)
    ]
    lines = generated(project, old, new)
    assert lines[0] == "# 70% certain: check it. the scheduler may be that of another optimizer"
    assert [line.rpartition("schedulers=")[2] for line in lines if line.startswith("op.")] == [
        '["lr_schedulers.0"]),',
        '["lr_schedulers.1"]),',
    ]
    made = upgraded(project, old)
    assert [each["base_lrs"] for each in made["lr_schedulers"]] == [[1e-3, 1e-3]] * 2
    same(goes_on(made, lambda: make(True)), by_names(runs[0], lambda: make(True)))
    taken_back(project, old, trees[0])


def test_a_parameter_goes_from_one_optimizer_to_another(project: Folder) -> None:
    def make(leads: tuple[str, ...]) -> tuple[nn.Module, list[Any]]:
        model = Model()
        parts = [
            [(n, p) for n, p in model.named_parameters() if n.startswith(leads) is first] for first in (True, False)
        ]
        return model, [AdamW(parts[0], lr=1e-3), SGD(parts[1], lr=1e-2, momentum=0.9)]

    old, new = project.path / "old.ckpt", project.path / "new.ckpt"
    leads: tuple[tuple[str, ...], ...] = (("encoder.",), ("encoder.0.",))
    first, second = (run(lambda each=each: make(each)) for each in leads)
    tree = saved(old, first[0], *first[1])
    saved(new, second[0], *second[1])
    assert generated(project, old, new) == [
        'op.Untrain(["encoder.1.*", "encoder.2.*"]),',
        'op.Train(["*"], optimizer=1),',
    ]
    made = upgraded(project, old)
    assert sorted(made["optimizer_states"][1]["state"]) == [4, 5]
    goes_on(made, lambda: make(leads[1]))
    taken_back(project, old, tree)


def test_schedules_follow_groups_of_other_learning_rates(project: Folder) -> None:
    def make(split: bool) -> tuple[nn.Module, list[Any]]:
        model = Model()
        named = list(model.named_parameters())
        groups = [{"params": named[:6]}, {"params": named[6:], "lr": 1e-4}] if split else [{"params": named}]
        return model, [AdamW(groups, lr=1e-3)]

    old, new = project.path / "old.ckpt", project.path / "new.ckpt"
    for path, split in ((old, False), (new, True)):
        model, [optimizer] = run(lambda split=split: make(split))
        schedulers = [StepLR(optimizer, 1, gamma=0.5), ReduceLROnPlateau(optimizer)]
        for _ in range(1 + 2 * split):
            optimizer.step()
            schedulers[0].step()
        saved(path, model, optimizer, schedulers=schedulers)
    before = load(old)
    assert generated(project, old, new)[-1] == (
        'op.Regroup([["*"], ["head.*"]], options=[{}, {\'initial_lr\': 0.0001}]),'
    )
    made = upgraded(project, old)
    assert [group["lr"] for group in made["optimizer_states"][0]["param_groups"]] == pytest.approx([5e-4, 5e-5])
    assert made["lr_schedulers"][0]["base_lrs"] == pytest.approx([1e-3, 1e-4])
    assert made["lr_schedulers"][1]["min_lrs"] == [0, 0]
    _, [optimizer] = goes_on(made, lambda: make(True))
    StepLR(optimizer, 1, gamma=0.5).load_state_dict(made["lr_schedulers"][0])
    taken_back(project, old, before)


@pytest.mark.parametrize("flat", [False, True])
def test_states_by_name(project: Folder, flat: bool) -> None:
    """As FSDP and torch's distributed checkpoints have them, also flattened: the head alone is trained on, by NAdam."""

    def save(path: Path, kind: Any, lead: str) -> None:
        def make() -> tuple[nn.Module, list[Any]]:
            model = Model()
            for name, value in model.named_parameters():
                value.requires_grad_(name.startswith(lead))
            return model, [kind([value for value in model.parameters() if value.requires_grad], lr=1e-3)]

        model, [optimizer] = run(make)
        options = StateDictOptions(flatten_optimizer_state_dict=flat)
        torch.save(
            {"state_dict": model.state_dict(), "optim": get_optimizer_state_dict(model, optimizer, options=options)},
            path,
        )

    old, new = project.path / "old.ckpt", project.path / "new.ckpt"
    save(old, AdamW, "")
    save(new, NAdam, "head.")
    before, wanted = load(old), load(new)
    lines = [line for line in generated(project, old, new) if line.startswith("op.")]
    assert lines == ['op.Untrain(["encoder.*"]),', "op.ChangeOptimizer(\"NAdam\", defaults={'weight_decay': 0}),"]
    made = upgraded(project, old)
    if flat:
        assert sorted(made["optim"]) == sorted(wanted["optim"])
    else:
        assert sorted(made["optim"]["state"]) == sorted(wanted["optim"]["state"])
        assert made["optim"]["param_groups"] == wanted["optim"]["param_groups"]
    taken_back(project, old, before)


@pytest.mark.parametrize(
    ("trains", "line"),
    [(is_bias, 'op.Untrain(["*.weight"]),'), (lambda name: name[0] not in "qv", 'op.Untrain(["q.*", "v.*"]),')],
)
def test_parameters_that_leave_without_names(project: Folder, trains: Test, line: str) -> None:
    """Biases alone are a usual choice, and a guess; of layers that look alike nobody can tell which are left."""

    def after(model: nn.Module) -> Any:
        return AdamW([value for name, value in model.named_parameters() if trains(name)], lr=1e-2, weight_decay=0.01)

    old, new, model, optimizer, before = files(project, one_group, after)
    if not trains("norm.weight"):
        assert generated(project, old, new) == ["# 80% certain: check it.", line]
        same_after_two_steps(
            resumed(upgraded(project, old), after), by_hand(model, optimizer, after, [options_of(optimizer)])
        )
        taken_back(project, old, before)
    else:
        found = compared(project, old, new)
        assert found["operations"] == []
        assert "it has 1 group of 10 parameters, but 1 group of 6 parameters" in found["rest"][0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"params": [[1]]},
        {"param_names": 5},
        {"lr": "fast", 7: 1},
        {"betas": None, "lr": float("nan")},
    ],
)
def test_odd_groups_end_in_no_traceback(project: Folder, wrong: dict[Any, Any]) -> None:
    """They are compared as far as they can be, whichever side has them."""
    old, new, *_ = files(project, one_group, lambda model: NAdam(model.parameters()))
    for path, state in ((old, {}), (new, {0: 5})):
        tree = load(path)
        tree["optimizer_states"][0]["param_groups"][0].update(wrong)
        tree["optimizer_states"][0]["state"].update(state)
        torch.save(tree, project.path / f"odd-{path.name}")
    for one, two in ((old, "odd-new.ckpt"), ("odd-old.ckpt", new), ("odd-old.ckpt", "odd-new.ckpt")):
        assert project.ok("diff", one, two).err == ""


def test_json_tells_what_changes_in_the_optimizer(project: Folder) -> None:
    old, new, *_ = files(project, one_group, groups_by(is_bias))
    found = compared(project, old, new)
    assert found["items"] == [
        {
            "kind": "regrouped",
            "old": "optimizer_states.0",
            "new": "optimizer_states.0",
            "detail": "1 group of 10 -> 2 groups of 5 and 5",
            "confidence": 1.0,
        }
    ]
    assert [each["op"] for each in found["operations"]] == ["Regroup"]
    assert found["rest"] == []
