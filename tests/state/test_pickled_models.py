"""Operations on whole pickled models, as `torch.save(model)` writes them: names follow from modules, and lead back there."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from tests.support.operations import FUSING, New, Old, batches, declare, equal, trained  # noqa: E402
from tests.support.project import Folder, digest  # noqa: E402


class Tied(nn.Module):
    """One module of two names, a weight of two modules, a buffer that is not saved, and one that is no module at all."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(4, 3), nn.Linear(3, 4, bias=False)
        self.head.weight = self.embed.weight
        self.one = nn.Sequential(nn.Linear(3, 3), nn.Dropout(), nn.Linear(3, 3, bias=False))
        self.same = self.one
        self.nothing = None
        self.register_module("gone", None)
        self.register_buffer("passing", torch.ones(2), persistent=False)
        self.register_buffer("count", torch.tensor(3))


def saved(project: Folder, tree: Any) -> Path:
    path = project.path / "model.pt"
    torch.save(tree, path)
    return path


def moved(project: Folder, path: Path) -> Any:
    """Bring a file up, with the way back proven, and return what torch makes of it."""
    project.ok("upgrade", "head", path, "--no-backup", "--check-rollback")
    return torch.load(path, weights_only=False)


def back(project: Folder, path: Path) -> Any:
    project.ok("downgrade", "base", path, "--no-backup")
    return torch.load(path, weights_only=False)


def outputs(model: Any) -> list[Any]:
    with torch.no_grad():
        return [model.eval()(x) for x in batches(2)]


def test_a_model_of_the_old_code_becomes_one_of_the_new(project: Folder) -> None:
    """Parameters, classes, and what modules say of themselves: operations for each."""
    model, _ = trained(lambda model: torch.optim.AdamW(model.parameters()))
    before = outputs(model)
    path = saved(project, model)
    declare(
        project,
        "a1",
        *FUSING,
        'op.SetItem("_modules.qkv.out_features", 24)',
        'op.MoveClass("tests.support.operations.Old", "tests.support.operations.New")',
    )
    after = moved(project, path)
    assert type(after) is New
    assert list(after.state_dict()) == list(New().state_dict())
    assert list(map(type, after.parameters())) == [nn.Parameter] * 6
    assert equal(outputs(after), before)
    assert after.qkv.out_features == 24
    New().load_state_dict(after.state_dict())
    restored = back(project, path)
    assert type(restored) is Old
    assert equal(restored.state_dict(), model.state_dict())
    assert [name for name, _ in restored.named_modules()] == [name for name, _ in model.named_modules()]
    assert equal(outputs(restored), before)


def test_no_code_is_run_and_no_torch_imported(project: Folder) -> None:
    import subprocess
    import sys

    path = saved(project, Old())
    declare(
        project, "a1", 'op.RenamePrefix("out.", "proj.")', 'op.Drop("norm.*")', 'op.Fuse(["q.{i}", "k.{i}"], "qk.{i}")'
    )
    code = "import sys; from anemoi_ckpt_migrate import upgrade; upgrade('model.pt'); print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=project.path)
    assert ran.stdout.strip() == "False"
    assert "proj.weight" in torch.load(path, weights_only=False).state_dict()


@pytest.mark.parametrize(
    ("operation", "names"),
    [
        ('op.Rename("count", "number")', {"count": "number"}),
        ('op.RenamePrefix("embed.", "tokens.")', {"embed.weight": "tokens.weight"}),
        (r'op.RenameRegex(r"(one|same)[.]0[.]weight", r"\1.0.w")', {}),
        ('op.Cast(["embed.weight", "head.weight"], "float64")', {}),
        ('op.Add("scale", [3], fill=2.0)', {}),
        ('op.Add("embed.bias", [4], after="embed.weight")', {}),
        ('op.Add("steps", [], dtype="int64", buffer=True)', {}),
    ],
)
def test_there_and_back(project: Folder, operation: str, names: dict[str, str]) -> None:
    model = Tied()
    path = saved(project, model)
    declare(project, "a1", operation)
    after = moved(project, path)
    assert (
        after.embed.weight is after.head.weight if hasattr(after, "embed") else after.tokens.weight is after.head.weight
    )
    assert after.one is after.same
    assert not set(names) & set(after.state_dict())
    assert set(names.values()) <= set(after.state_dict())
    assert (after.gone, after.nothing, after.passing.tolist()) == (None, None, [1, 1])
    if "Add" in operation and "buffer" not in operation:
        assert len(list(after.parameters())) == len(list(model.parameters())) + 1
    if "buffer=True" in operation:
        assert "steps" in dict(after.named_buffers())
    restored = back(project, path)
    assert equal(restored.state_dict(), model.state_dict())
    assert repr(restored) == repr(model)
    assert list(restored._buffers) == list(model._buffers)


def test_what_has_no_parameters_goes_with_what_it_is_in(project: Folder) -> None:
    """The dropout of a block is in the block."""
    path = saved(
        project, nn.ModuleDict({"block": nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.25)), "z": nn.Linear(2, 2)})
    )
    declare(project, "a1", 'op.RenamePrefix("block.", "layer.")')
    after = moved(project, path)
    assert list(after) == ["layer", "z"]
    assert after.layer[1].p == 0.25


def test_one_module_becomes_several(project: Folder) -> None:
    model = nn.ModuleDict({"qkv": nn.Linear(4, 6), "out": nn.Linear(2, 2)})
    path = saved(project, model)
    declare(project, "a1", 'op.Split("qkv.{i}", ["q.{i}", "k.{i}", "v.{i}"])')
    after = moved(project, path)
    assert equal([after.q.weight, after.k.weight, after.v.weight], list(model.qkv.weight.chunk(3)))
    assert len({id(after.q), id(after.k), id(after.v)}) == 3
    restored = back(project, path)
    assert list(restored) == ["qkv", "out"]
    assert equal(restored.state_dict(), model.state_dict())


def test_inside_a_checkpoint_with_an_average_and_an_optimizer(project: Folder) -> None:
    """As some trainers save it: the model, a copy of it that is averaged, and what the optimizer remembers."""
    model, optimizer = trained(lambda model: torch.optim.AdamW(model.parameters()))
    ema = Old()
    ema.load_state_dict(
        {name: value * 2 if value.is_floating_point() else value for name, value in model.state_dict().items()}
    )
    path = saved(project, {"epoch": 3, "model": model, "ema": ema, "optimizer": optimizer.state_dict()})
    declare(project, "a1", *FUSING)
    after = moved(project, path)
    names = list(New().state_dict())
    assert (list(after["model"].state_dict()), list(after["ema"].state_dict())) == (names, names)
    assert equal(after["ema"].qkv.weight, torch.cat([ema.q.weight, ema.k.weight, ema.v.weight]))
    state = after["optimizer"]["state"]
    shapes = [tuple(each.shape) for each in after["model"].parameters()]
    assert [tuple(state[at]["exp_avg"].shape) for at in range(len(shapes))] == shapes
    restored = back(project, path)
    assert equal(restored["model"].state_dict(), model.state_dict())
    assert equal(restored["ema"].state_dict(), ema.state_dict())
    assert equal(restored["optimizer"], optimizer.state_dict())


def test_models_beside_a_state_dict_are_left_alone(project: Folder) -> None:
    """Hyper-parameters may hold one, which is anybody's."""
    model = Old()
    path = saved(project, {"state_dict": model.state_dict(), "hyper_parameters": {"net": copy.deepcopy(model)}})
    declare(project, "a1", *FUSING)
    after = moved(project, path)
    assert list(after["state_dict"]) == list(New().state_dict())
    assert list(after["hyper_parameters"]["net"].state_dict()) == list(model.state_dict())


def test_functions_beside_operations_get_the_modules(project: Folder) -> None:
    model = Old()
    path = saved(project, model)
    top = "def spread(ckpt):\n    weight = ckpt.proj.weight\n    weight.mul_(2)\n    return ckpt\n"
    top += "def shrink(ckpt):\n    ckpt.proj.weight.div_(2)\n    return ckpt\n"
    top = top.replace("ckpt.proj.weight", 'ckpt._modules["proj"]._parameters["weight"].data')
    declare(project, "a1", FUSING[1], "op.Run(spread, shrink)", FUSING[0], top=top)
    after = moved(project, path)
    assert equal(after.proj.weight, model.out.weight * 2)
    assert [name for name, _ in after.named_parameters()] == [name for name, _ in New().named_parameters()]
    assert list(after.state_dict()) == list(New().state_dict())
    assert equal(back(project, path).state_dict(), model.state_dict())


@pytest.mark.parametrize(
    ("operations", "says"),
    [
        (['op.RenamePrefix("embed.", "parts.embed.")'], "has no module parts for parts.embed"),
        (['op.Add("nowhere.weight", [2])'], "has no module nowhere for nowhere.weight"),
        (['op.Rename("one.0.weight", "one.0.w")'], "one.0 and same.0 are one module"),
        (['op.Rename("count", "passing")'], "already has a passing, which is not a parameter"),
        (['op.Rename("count", "one")'], "already has a one, which is not a parameter"),
        (
            [
                'op.Rename("one.0.weight", "aside")',
                'op.Rename("embed.weight", "one.0.weight")',
                'op.Rename("aside", "embed.weight")',
            ],
            "are one module",
        ),
    ],
)
def test_what_does_not_fit_into_the_modules(project: Folder, operations: list[str], says: str) -> None:
    path = saved(project, Tied())
    old = digest(path)
    declare(project, "a1", *operations)
    refused = project.run("upgrade", "head", path)
    assert (refused.code, digest(path)) == (1, old)
    assert says in refused.err, refused.err
    assert project.run("upgrade", "head", path, "--dry-run").code == 1


def test_modules_are_not_swapped(project: Folder) -> None:
    """Their parameters would be, and what else they say of themselves would not."""
    path = saved(project, nn.ModuleDict({"a": nn.Linear(2, 3), "b": nn.Linear(3, 3)}))
    declare(
        project,
        "a1",
        'op.RenamePrefix("a.", "aside.")',
        'op.RenamePrefix("b.", "a.")',
        'op.RenamePrefix("aside.", "b.")',
    )
    refused = project.run("upgrade", "head", path)
    assert refused.code == 1
    assert "this would replace the module" in refused.err


def test_what_is_put_aside_has_no_place_beside_a_bare_model(project: Folder) -> None:
    path = saved(project, Old())
    old = digest(path)
    declare(project, "a1", 'op.Drop("norm.*", keep=True)')
    refused = project.run("upgrade", "head", path)
    assert (refused.code, digest(path)) == (3, old)
    assert "a pickled model" in refused.err
    path = saved(project, {"model": Old()})
    after = moved(project, path)["model"]
    assert "norm.weight" not in after.state_dict()
    assert "norm.weight" in back(project, path)["model"].state_dict()


def test_an_order_that_the_modules_do_not_have(project: Folder) -> None:
    model, optimizer = trained(lambda model: torch.optim.AdamW(model.parameters()))
    path = saved(project, {"model": model, "optimizer": optimizer.state_dict()})
    declare(project, "a1", 'op.Reorder(["out.*", "q.*"])')
    refused = project.run("upgrade", "head", path)
    assert refused.code == 1
    assert "the order of parameters in the pickled model would no longer match" in refused.err


def test_a_model_that_holds_itself_is_none(project: Folder) -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    model._modules["self"] = model
    path = saved(project, model)
    old = digest(path)
    declare(project, "a1", FUSING[1])
    refused = project.run("upgrade", "head", path)
    assert (refused.code, digest(path)) == (1, old)
    assert "not a dict with a state dict" in refused.err


def test_two_are_compared(project: Folder) -> None:
    model = Old()
    path = saved(project, model)
    declare(project, "a1", *FUSING)
    moved(project, path)
    torch.save(model, project.path / "old.pt")
    shown = project.ok("diff", "old.pt", path).out
    assert 'op.Fuse(["q.weight", "k.weight", "v.weight"], "qkv.weight")' in shown
    assert "op.Rename" in shown
