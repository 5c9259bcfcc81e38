"""State dicts and copies of models in wrappers: DistributedDataParallel, torch.compile, AveragedModel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.optim.swa_utils import AveragedModel  # noqa: E402

from tests.support.operations import declare, equal, without_record  # noqa: E402
from tests.support.project import Folder, digest  # noqa: E402


class Parallel(nn.Module):
    """Calls the model what DistributedDataParallel does, without a process group."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


class Compiled(nn.Module):
    """Calls the model what torch.compile does, without a compiler."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._orig_mod = module


class Lightning(nn.Module):
    """A module of Lightning that holds the model and its average."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.ema_model = model, averaged(model)


def averaged(model: nn.Module) -> Any:
    average = AveragedModel(model)
    average.update_parameters(model)
    return average


def plain() -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict({"q": nn.Linear(3, 3), "k": nn.Linear(3, 3), "out": nn.Linear(3, 2)})


def saved(path: Path, model: nn.Module, average: nn.Module) -> dict[str, Any]:
    torch.save({"model": model.state_dict(), "model_ema": average.state_dict(), "epoch": 1}, path)
    return load(path)


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def goes_up_and_back(project: Folder, path: Path, before: Any, *operations: str) -> Any:
    """Go up and down again; return what there was in between."""
    declare(project, "a1", *operations)
    project.ok("upgrade", "head", path, "--check-rollback")
    after = load(path)
    project.ok("downgrade", "base", path)
    assert equal(without_record(load(path)), before)
    return after


@pytest.mark.parametrize(
    "operation",
    ['op.StripPrefix("module.")', 'op.StripPrefix("module.", anywhere=True)', r'op.RenameRegex(r"^module\.", "")'],
)
def test_an_average_keeps_the_wrapper_of_its_own(project: Folder, operation: str) -> None:
    """module.q | module.q, n_averaged: only the first is DistributedDataParallel's."""
    path, model = project.path / "last.pt", plain()
    before = saved(path, Parallel(model), averaged(model))
    after = goes_up_and_back(project, path, before, operation)
    assert list(after["model"]) == list(model.state_dict())
    AveragedModel(plain()).load_state_dict(after["model_ema"])
    assert equal(after["model_ema"], before["model_ema"])


def test_an_average_has_the_wrapper_that_all_get(project: Folder) -> None:
    """q | module.q, n_averaged -> module.q | module.q, n_averaged: a wrapper for the model, not for its average."""
    path, model = project.path / "last.pt", plain()
    before = saved(path, model, averaged(model))
    after = goes_up_and_back(project, path, before, 'op.AddPrefix("model.")')
    nn.ModuleDict({"model": plain()}).load_state_dict(after["model"])
    AveragedModel(nn.ModuleDict({"model": plain()})).load_state_dict(after["model_ema"])


@pytest.mark.parametrize(("wrap", "prefix"), [(Parallel, "module."), (Compiled, "_orig_mod.")])
def test_an_average_of_what_is_wrapped_loses_the_inner_wrapper(project: Folder, wrap: Any, prefix: str) -> None:
    """module.q | module.module.q, n_averaged: the average is one of the wrapped model."""
    path, model = project.path / "last.pt", wrap(plain())
    before = saved(path, model, averaged(model))
    after = goes_up_and_back(project, path, before, f'op.StripPrefix("{prefix}")')
    plain().load_state_dict(after["model"])
    AveragedModel(plain()).load_state_dict(after["model_ema"])


@pytest.mark.parametrize("wrap", [Parallel, Compiled])
def test_names_behind_wrappers_follow(project: Folder, wrap: Any) -> None:
    """The average has its own wrapper and lacks that of the model: q and k become one in both."""
    path, model = project.path / "last.pt", plain()
    lead = next(iter(wrap(model).state_dict())).removesuffix("q.weight")
    before = saved(path, wrap(model), averaged(model))
    after = goes_up_and_back(project, path, before, f'op.Fuse(["{lead}q.{{i}}", "{lead}k.{{i}}"], "{lead}qk.{{i}}")')
    assert f"{lead}qk.weight" in after["model"]
    assert list(after["model_ema"])[:3] == ["n_averaged", "module.qk.weight", "module.qk.bias"]


def test_an_average_inside_the_state_dict_keeps_its_wrapper(project: Folder) -> None:
    """Lightning: model.module.q, ema_model.module.q, ema_model.n_averaged, in one dict."""
    path = project.path / "last.ckpt"
    model = Lightning(plain())
    model.model = Parallel(model.model)
    torch.save({"state_dict": model.state_dict()}, path)
    after = goes_up_and_back(project, path, load(path), 'op.StripPrefix("module.", anywhere=True)')
    Lightning(plain()).load_state_dict(after["state_dict"])


def test_a_wrapper_around_an_average_is_not_taken_for_another(project: Folder) -> None:
    """module.q | module.module.q, module.n_averaged: it may be the outer wrapper that goes too; nothing is written."""
    path, model = project.path / "last.pt", plain()
    before = saved(path, Parallel(model), Parallel(averaged(model)))
    was = digest(path)
    declare(project, "a1", 'op.StripPrefix("module.")')
    ran = project.run("upgrade", "head", path)
    assert (ran.code, digest(path)) == (1, was)
    assert "in model_ema, names begin with module.module., but those of the state dict with module." in ran.err
    assert "op.Run" in ran.err

    top = "def strip(ckpt):\n"
    top += (
        "    names = {name: name.replace('module.', '', 1) for key in ('model', 'model_ema') for name in ckpt[key]}\n"
    )
    top += "    for key in ('model', 'model_ema'):\n"
    top += "        for name in list(ckpt[key]):\n            ckpt[key][names[name]] = ckpt[key].pop(name)\n    return ckpt\n"
    declare(project, "a1", "op.Run(strip)", top=top)
    project.ok("upgrade", "head", path)
    assert list(load(path)["model_ema"]) == list(averaged(model).state_dict())

    torch.save(before, path)  # what is behind the wrappers is known all the same
    after = goes_up_and_back(project, path, before, 'op.RenamePrefix("module.out.", "module.head.")')
    assert list(after["model_ema"])[-1] == "module.module.head.bias"


OTHERWISE = {
    "in another order": (Parallel(Compiled(plain())), Compiled(Parallel(plain()))),
    "in the middle": (nn.ModuleDict({"net": Compiled(plain())}), nn.ModuleDict({"net": plain()})),
    "in an average": (Compiled(Parallel(plain())), averaged(Compiled(plain()))),
}


@pytest.mark.parametrize("kind", OTHERWISE)
def test_wrappers_at_other_places_are_refused_until_they_are_gone(project: Folder, kind: str) -> None:
    """module._orig_mod.q | _orig_mod.module.q: no operation passes the copy over in silence; the way out works."""
    path = project.path / "last.pt"
    before = saved(path, *OTHERWISE[kind])
    was, first = digest(path), next(iter(before["model"]))
    refused = [f'op.Rename("{first}", "new")', f'op.Drop("{first}", keep=True)', f'op.StripPrefix("{first[:4]}")']
    for operation in refused:
        declare(project, "a1", operation)
        ran = project.run("upgrade", "head", path)
        assert (ran.code, digest(path)) == (1, was)
        assert "in model_ema seems to be" in ran.err
        assert ran.err.count("seems to be") == 1
    assert "before other operations, strip them in both with " in ran.err
    ways_out = ran.err.split("in both with ")[1].split("; nothing was changed")[0].split(" and ")
    operations = [*ways_out, 'op.RenameRegex(r"\\bout\\b", "head")', 'op.Drop("*head.bias", keep=True)']
    after = goes_up_and_back(project, path, before, *operations)
    assert [name for name in after["model"] if "head" in name] in (["head.weight"], ["net.head.weight"])
    assert [name.removeprefix("module.") for name in after["model_ema"] if name != "n_averaged"] == list(after["model"])


def test_what_only_looks_wrapped_is_no_copy(project: Folder) -> None:
    """Another model, some of whose names are the same without wrappers, has nothing to do with it."""
    path = project.path / "last.pt"
    other = nn.ModuleDict({"q": nn.Linear(5, 5), "k": Compiled(nn.Linear(3, 3)), "out": nn.Linear(5, 5)})
    before = saved(path, plain(), other)
    after = goes_up_and_back(project, path, before, 'op.RenamePrefix("k.", "key.")')
    assert equal(after["model_ema"], before["model_ema"])
