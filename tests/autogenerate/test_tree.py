"""What stands around the parameters: NEW's classes, hyper-parameters, options, schedulers and copies are what OLD gets."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import types
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.optim.swa_utils import AveragedModel  # noqa: E402

from anemoi_ckpt_migrate import diff, inspect  # noqa: E402
from tests.support.operations import equal, without_record  # noqa: E402
from tests.support.project import Folder  # noqa: E402


def module(monkeypatch: pytest.MonkeyPatch, name: str, *classes: type) -> Any:
    """Make a module with classes, as the package of a project has them."""
    parents = [name[:at] for at, letter in enumerate(name) if letter == "."]
    for parent in parents:
        monkeypatch.setitem(sys.modules, parent, sys.modules.get(parent) or types.ModuleType(parent))
    made = types.ModuleType(name)
    for kind in classes:
        kind.__module__, kind.__qualname__ = name, kind.__name__
        setattr(made, kind.__name__, kind)
    monkeypatch.setitem(sys.modules, name, made)
    return made


def model(lead: str = "net") -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict({lead: nn.ModuleDict({"first": nn.Linear(4, 5), "second": nn.Linear(5, 3)})})


def training(net: nn.Module, **options: Any) -> tuple[Any, Any]:
    """Return an optimizer after a step, and its scheduler."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, **options)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 30)
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    scheduler.step()
    return optimizer, scheduler


def lightning(path: Path, net: nn.Module, hyper_parameters: Any, **more: Any) -> Path:
    """Save a checkpoint with the keys of Lightning's."""
    optimizer, scheduler = training(net)
    tree = {
        "epoch": 1,
        "global_step": 10,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": net.state_dict(),
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [scheduler.state_dict()],
        "hparams_name": "hparams",
        "hyper_parameters": hyper_parameters,
    }
    torch.save(tree | more, path)
    return path


def operations(project: Folder) -> str:
    [path] = (project.path / "versions").glob("*.py")
    return path.read_text().partition("\noperations = ")[2]


def migrated(project: Folder, old: Path, new: Path, *, rest: bool = False) -> tuple[Any, Any, str]:
    """Write a script, upgrade OLD, and downgrade it again; return what it was at head, NEW, and the operations."""
    before = torch.load(old, weights_only=False)
    ran = project.ok("revision", "refactored", "--autogenerate", old, new)
    assert ("differ" in ran.err or "has none" in ran.err) is rest, ran.err
    project.ok("upgrade", "head", old, "--check-rollback")
    made = without_record(torch.load(old, weights_only=False))
    project.ok("downgrade", "base", old)
    assert equal(without_record(torch.load(old, weights_only=False)), before)
    return made, torch.load(new, weights_only=False), operations(project)


@pytest.fixture
def old(project: Folder) -> Iterator[Path]:
    yield project.path / "old.ckpt"


@pytest.fixture
def new(project: Folder) -> Iterator[Path]:
    yield project.path / "new.ckpt"


def test_hyper_parameters_appear_vanish_and_have_other_names(project: Folder, old: Path, new: Path) -> None:
    lightning(old, model(), {"hidden": 5, "lr": 1e-3, "cache": "/scratch", "depth": 12, "batch_size": 8})
    more = {"dropout": 0.1, "betas": [0.9, 0.99], "name": 'a "b"\n'}
    lightning(new, model("body"), {"hidden_channels": 5, "learning_rate": 2e-3, "depth": 12, "batch_size": 9, **more})
    shown = project.ok("diff", old, new).out
    assert "item moved    hyper_parameters.hidden -> hyper_parameters.hidden_channels  90% certain" in shown
    assert "item dropped  hyper_parameters.cache  70% certain" in shown
    assert "item added    hyper_parameters.dropout  0.1  70% certain" in shown
    found = json.loads(project.ok("diff", old, new, "--json").out)
    assert {item["kind"] for item in found["items"]} == {"item moved", "item dropped", "item added"}
    made, wanted, script = migrated(project, old, new)
    assert 'op.MoveItem("hyper_parameters.hidden", "hyper_parameters.hidden_channels"),' in script
    assert 'op.MoveItem("hyper_parameters.lr", "hyper_parameters.learning_rate"),' in script
    assert 'op.DropItem("hyper_parameters.cache"),' in script
    assert made["hyper_parameters"].keys() == wanted["hyper_parameters"].keys()
    assert made["hyper_parameters"]["hidden_channels"] == 5
    assert made["hyper_parameters"]["learning_rate"] == 1e-3  # OLD's own value
    assert made["hyper_parameters"] | {"learning_rate": 2e-3, "batch_size": 9} == wanted["hyper_parameters"]
    assert list(made["state_dict"]) == list(wanted["state_dict"])
    exact, guesses = script.split("# Guesses:")
    assert "RenamePrefix" in exact
    assert "hyper_parameters" not in exact
    assert guesses.count("% certain: check it.") == 6


def test_values_of_one_run_are_no_difference(project: Folder, old: Path, new: Path) -> None:
    lightning(old, model(), {"lr": 1e-3, "seed": 1, "nested": {"a": 1}})
    lightning(new, model(), {"lr": 1e-2, "seed": 2, "nested": {"a": 2}}, epoch=9, global_step=99)
    assert diff(old, new).explanation.operations == ()
    ran = project.run("revision", "x", "--autogenerate", old, new)
    assert (ran.code, "there is nothing to migrate" in ran.err) == (2, True)


def test_a_level_is_added_and_items_move_between_levels(project: Folder, old: Path, new: Path) -> None:
    devices = {"devices": 4, "accelerator": "gpu"}
    lightning(old, model(), {"config": {"hardware": devices | {"old": 1}, "lr": 0.25}})
    lightning(new, model(), {"config": {"system": {"hw": devices, "seed": 7}, "lr": {"encoder": {"lr": 0.25}}}})
    made, wanted, script = migrated(project, old, new)
    assert 'op.NestItem("hyper_parameters.config.lr", "encoder.lr"),' in script
    assert made["hyper_parameters"] == wanted["hyper_parameters"]


@dataclasses.dataclass
class Config:
    width: int = 5
    lr: float = 1e-3


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """Return the module of a class before and after it moved."""
    before = dataclasses.make_dataclass("Config", [("width", int, 5), ("lr", float, 1e-3)])
    after = dataclasses.make_dataclass("Config", [("width", int, 5), ("lr", float, 1e-3)])
    return module(monkeypatch, "oldpkg_config", before), module(monkeypatch, "newpkg.settings.base", after)


def test_a_class_that_moved(project: Folder, old: Path, new: Path, moved: tuple[Any, Any]) -> None:
    lightning(old, model(), {"config": moved[0].Config(7)})
    lightning(new, model(), {"config": moved[1].Config(9)})
    assert (
        "class moved  oldpkg_config.Config -> newpkg.settings.base.Config  90% certain"
        in project.ok("diff", old, new).out
    )
    made, _, script = migrated(project, old, new)
    assert 'op.MoveClass("oldpkg_config.Config", "newpkg.settings.base.Config"),' in script
    assert made["hyper_parameters"]["config"] == moved[1].Config(7)


def test_a_class_that_has_another_name_is_found_by_its_place(
    project: Folder, old: Path, new: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = [("width", int, 5), ("lr", float, 1e-3)]
    before = module(monkeypatch, "pkgone.config", dataclasses.make_dataclass("ModelConfig", fields))
    after = module(monkeypatch, "pkgtwo.settings", dataclasses.make_dataclass("Settings", fields))
    lightning(old, model(), {"config": before.ModelConfig(7)})
    lightning(new, model(), {"config": after.Settings(9)})
    made, _, script = migrated(project, old, new)
    assert 'op.MoveClass("pkgone.config.ModelConfig", "pkgtwo.settings.Settings"),' in script
    assert "have the same place and the same attributes" in script
    assert made["hyper_parameters"]["config"] == after.Settings(7)


def test_a_module_moved_with_all_its_classes(
    project: Folder, old: Path, new: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("Data", "Model")
    sides = [
        module(monkeypatch, name, *(dataclasses.make_dataclass(each, [("size", int, 1)]) for each in names))
        for name in ("first.config", "second.base.config")
    ]
    for path, side in zip((old, new), sides, strict=True):
        lightning(path, model(), {"data": side.Data(3), "model": side.Model(4), "kind": side.Data})
    made, wanted, script = migrated(project, old, new)
    assert 'op.MoveModule("first.config", "second.base.config"),' in script
    assert "MoveClass" not in script
    assert made["hyper_parameters"] == wanted["hyper_parameters"]


def test_attributes_of_a_dataclass_and_of_a_namespace(
    project: Folder, old: Path, new: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fields are renamed and added as the items of a dict are; no class is imported."""
    one = module(monkeypatch, "fields.one", dataclasses.make_dataclass("Config", [("n_layers", int), ("lr", float)]))
    two = module(
        monkeypatch,
        "fields.two",
        dataclasses.make_dataclass("Config", [("num_layers", int), ("lr", float), ("dropout", float)]),
    )
    lightning(old, model(), {"model": one.Config(12, 0.5)}, args=argparse.Namespace(wd=0.1, resume="last"))
    lightning(new, model(), {"model": two.Config(12, 0.5, 0.1)}, args=argparse.Namespace(weight_decay=0.1))
    made, wanted, script = migrated(project, old, new)
    assert 'op.MoveItem("hyper_parameters.model.n_layers", "hyper_parameters.model.num_layers"),' in script
    assert made["hyper_parameters"] == wanted["hyper_parameters"]
    assert made["args"] == wanted["args"]


def test_a_namespace_becomes_a_dict(project: Folder, old: Path, new: Path) -> None:
    lightning(old, model(), argparse.Namespace(hidden=5, inner=argparse.Namespace(lr=0.1)))
    lightning(new, model(), {"hidden": 5, "inner": {"lr": 0.1}, "extra": None})
    made, wanted, script = migrated(project, old, new)
    assert 'op.ConvertItem("hyper_parameters", "dict", classes=["argparse.Namespace"]),' in script
    assert made["hyper_parameters"] == wanted["hyper_parameters"]


def test_configurations_of_omegaconf(project: Folder, old: Path, new: Path) -> None:
    conf = pytest.importorskip("omegaconf").OmegaConf
    lightning(old, model(), {"cfg": conf.create({"model": {"hidden": 64, "gone": "x y"}, "lr": 0.1})})
    lightning(new, model(), {"cfg": conf.create({"model": {"hidden_dim": 64}, "lr": 0.1, "drop": [1, 2]})})
    made, wanted, _ = migrated(project, old, new)
    assert made["hyper_parameters"]["cfg"] == wanted["hyper_parameters"]["cfg"]


def test_what_no_script_can_hold_is_said(project: Folder, old: Path, new: Path) -> None:
    """A tensor, a number that is not finite, a long list: nothing is proposed, and the difference is named."""
    lightning(old, model(), {"lr": 0.1})
    lightning(new, model("body"), {"lr": 0.1, "scale": torch.ones(2), "most": float("inf"), "long": list(range(999))})
    ran = project.ok("revision", "x", "--autogenerate", old, new)
    said = "hyper_parameters.scale is missing, hyper_parameters.most is missing, hyper_parameters.long is missing"
    assert f"hyper-parameters differ from those of {new}: {said}" in ran.err
    project.ok("upgrade", "head", old, "--check-rollback")


def test_a_value_of_new_becomes_no_code(project: Folder, old: Path, new: Path) -> None:
    evil = 'x"),\n]\nopen("pwned", "w")\n_ = [("'
    lightning(old, model(), {"lr": 0.1})
    lightning(new, model(), {"lr": 0.1, "evil": evil, evil: 1, "deep": {evil: [evil]}})
    made, wanted, _ = migrated(project, old, new)
    assert made["hyper_parameters"] == wanted["hyper_parameters"]
    assert not (project.path / "pwned").exists()


def test_schedulers_and_options(project: Folder, old: Path, new: Path) -> None:
    net = model()
    for path, decay, steps in ((old, 0.01, 30), (new, 0.1, 50)):
        optimizer, _ = training(net, weight_decay=decay)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, steps)
        more = {"optimizer_states": [optimizer.state_dict()], "lr_schedulers": [scheduler.state_dict()]}
        lightning(path, net, {"lr": 0.1}, **more)
    shown = project.ok("diff", old, new).out
    assert "option changed  optimizer_states.0.param_groups.*.weight_decay  0.01 -> 0.1  70% certain" in shown
    assert "option changed  lr_schedulers.0.step_size  30 -> 50  70% certain" in shown
    made, wanted, script = migrated(project, old, new)
    assert 'op.SetItem("optimizer_states.0.param_groups.*.weight_decay", 0.1),' in script
    assert made["lr_schedulers"] == wanted["lr_schedulers"]
    assert made["optimizer_states"][0]["param_groups"] == wanted["optimizer_states"][0]["param_groups"]


def test_schedulers_without_base_rates_are_compared_too(project: Folder, old: Path, new: Path) -> None:
    net = model()
    for path, patience in ((old, 10), (new, 5)):
        optimizer, _ = training(net)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=patience)
        more = {"optimizer_states": [optimizer.state_dict()], "lr_schedulers": [plateau.state_dict()]}
        lightning(path, net, {}, **more)
    assert "option changed  lr_schedulers.0.patience  10 -> 5  70% certain" in project.ok("diff", old, new).out
    made, wanted, script = migrated(project, old, new)
    assert 'op.SetItem("lr_schedulers.0.patience", 5),' in script
    assert made["lr_schedulers"] == wanted["lr_schedulers"]


def test_a_scheduler_or_an_optimizer_of_another_class_is_named(project: Folder, old: Path, new: Path) -> None:
    net = model()
    lightning(old, net, {})
    optimizer = torch.optim.Adagrad(net.parameters(), 0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5)
    more = {"optimizer_states": [optimizer.state_dict()], "lr_schedulers": [scheduler.state_dict()]}
    lightning(new, model("body"), {}, **more)
    ran = project.ok("revision", "x", "--autogenerate", old, new)
    assert "its state is exp_avg, exp_avg_sq, step, but step, sum in" in ran.err
    assert "(its class is Adam or AdamW, but Adagrad there)" in ran.err
    assert (
        "the scheduler at lr_schedulers.0 is of another class: its state is gamma, step_size, but T_max, eta_min"
        in ran.err
    )
    assert "SetItem" not in operations(project)


def averages(net: nn.Module) -> Any:
    average = AveragedModel(net)
    average.update_parameters(net)
    return average


def test_copies_at_another_path_and_with_another_prefix(project: Folder, old: Path, new: Path) -> None:
    """The average of a callback moves, and loses the prefix that a wrapper gave it."""
    one, two = model(), model("body")
    ema = OrderedDict((f"ema_model.{name}", value + 1) for name, value in one.state_dict().items())
    lightning(old, one, {}, callbacks={"EMA": {"weights": ema, "decay": 0.9}})
    copy = OrderedDict((name, value + 1) for name, value in two.state_dict().items())
    lightning(new, two, {}, callbacks={"WeightAverage": {"average": copy}})
    shown = project.ok("diff", old, new).out
    assert "copy moved" in shown
    made, wanted, _ = migrated(project, old, new)
    assert equal(made["callbacks"]["WeightAverage"]["average"], wanted["callbacks"]["WeightAverage"]["average"])


def test_a_copy_that_only_new_has_is_named(project: Folder, old: Path, new: Path) -> None:
    """Strict means all that NEW has: a result without the average does not pass as the same."""
    lightning(old, model(), {})
    two = model("body")
    lightning(new, two, {}, ema=two.state_dict())
    ran = project.ok("revision", "x", "--autogenerate", old, new)
    assert f"{new} has a copy of the parameters at ema; the result has none there" in ran.err


def test_an_average_within_the_state_dict_has_another_prefix(project: Folder, old: Path, new: Path) -> None:
    for path, prefix in ((old, "ema_model."), (new, "model_ema.")):
        states = model().state_dict()
        states |= OrderedDict((prefix + name, value + 1) for name, value in states.items())
        torch.save({"state_dict": states}, path)
    made, wanted, script = migrated(project, old, new)
    assert 'op.RenamePrefix("ema_model.", "model_ema."),' in script
    assert equal(made, wanted)


def test_the_state_dict_and_the_optimizer_are_at_other_keys(project: Folder, old: Path, new: Path) -> None:
    one, two = model(), model("body")
    torch.save({"model": one.state_dict(), "optimizer": training(one)[0].state_dict()}, old)
    torch.save({"state_dict": two.state_dict(), "optim": training(two)[0].state_dict()}, new)
    made, wanted, script = migrated(project, old, new)
    assert 'op.MoveItem("model", "state_dict"),' in script
    assert 'op.MoveItem("optimizer", "optim"),' in script
    assert made.keys() == wanted.keys()
    two.load_state_dict(made["state_dict"])
    training(two)[0].load_state_dict(made["optim"])


def test_a_class_that_is_gone_is_named(project: Folder, old: Path, new: Path, moved: tuple[Any, Any]) -> None:
    """NEW has nothing in its place: the result could not be loaded without the class, and that is said."""
    lightning(old, model(), {"a": 1}, extra=moved[0].Config(7))
    lightning(new, model("body"), {"a": 1})
    ran = project.ok("revision", "x", "--autogenerate", old, new)
    assert f"the result names classes that {new} does not: oldpkg_config.Config" in ran.err
    assert "oldpkg_config.Config" in {name.name for name in inspect(old).names}
