"""Values that operations lose are said, and asked consent for; parameters that grow lose none."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.optim.swa_utils import AveragedModel  # noqa: E402

from tests.support.diff import pair  # noqa: E402
from tests.support.models import Models, begun  # noqa: E402
from tests.support.operations import declare, equal, without_record  # noqa: E402
from tests.support.project import Folder, digest  # noqa: E402


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Models:
    return begun(tmp_path, monkeypatch, capsys)


def words(count: int, **more: str) -> dict[str, str]:
    """Return a model of nothing but what depends on the size of the vocabulary."""
    return {"embed": f"nn.Embedding({count}, 4)", **more, "head": f"nn.Linear(4, {count})"}


def operations(project: Folder) -> str:
    """Return the operations of the one script that there is."""
    [path] = (project.path / "versions").glob("*.py")
    return path.read_text().partition("\noperations = ")[2]


@pytest.mark.parametrize("between", [{}, {"middle": "nn.Linear(4, 4)"}], ids=["mostly embedding", "with a layer"])
def test_a_vocabulary_grows(models: Models, between: dict[str, str]) -> None:
    """50 words become 60: rows of the embedding, rows of the head and its bias; none of the old ones is lost."""
    models.code(words(50, **between))
    models.ok("manifest", "--update")
    old = torch.load(models.save("old.pt"))
    models.code(words(60, **between))
    ran = models.run("check", "--model")
    assert (ran.code, "op.Pad(" in ran.out, "lost" in ran.out) == (4, True, False)
    models.ok("revision", "more words", "--autogenerate")
    assert "Drop" not in operations(models)
    models.ok("check")
    models.ok("upgrade", "head", "old.pt", "--check-rollback")
    new = torch.load(models.path / "old.pt")
    for name, before in old["state_dict"].items():
        after = new["state_dict"][name]
        assert torch.equal(after[: len(before)], before)
        assert after.shape == ((60, *before.shape[1:]) if len(before) == 50 else before.shape)
        assert not after[len(before) :].any()
    model, [state] = nn.ModuleDict({"embed": nn.Embedding(60, 4)}), new["optimizer_states"]
    assert [tuple(each["exp_avg"].shape) for each in state["state"].values()] == [
        tuple(value.shape) for value in new["state_dict"].values()
    ]
    assert not state["state"][0]["exp_avg"][50:].any()
    model.embed.load_state_dict({"weight": new["state_dict"]["embed.weight"]})
    models.ok("downgrade", "base", "old.pt")
    assert all(
        torch.equal(value, old["state_dict"][name]) for name, value in torch.load("old.pt")["state_dict"].items()
    )


@pytest.mark.parametrize(
    ("shape", "written"),
    [
        ((7, 3), 'op.Pad("w", 2)'),
        ((5, 6), 'op.Pad("w", 3, dim=1)'),
        ((7, 6), 'op.Pad("w", 2),'),
        ((4, 3), 'op.Crop("w", 1),'),
        ((5, 1), 'op.Crop("w", 2, dim=1),'),
        ((7, 2), 'op.Crop("w", 1, dim=1),'),
    ],
    ids=["rows", "columns", "both", "fewer rows", "fewer columns", "more of one, fewer of the other"],
)
def test_rows_columns_or_both(project: Folder, shape: tuple[int, int], written: str) -> None:
    paths = pair(project, {"w": torch.randn(5, 3), "b": torch.ones(9)}, {"w": torch.randn(shape), "b": torch.ones(9)})
    project.ok("revision", "larger", "--autogenerate", *paths)
    assert written in operations(project)
    old = torch.load(paths[0])["state_dict"]["w"]
    project.ok("upgrade", "head", paths[0])
    new = torch.load(paths[0])["state_dict"]["w"]
    assert new.shape == shape
    assert torch.equal(new[:5, :3], old[: shape[0], : shape[1]])
    project.ok("downgrade", "base", paths[0])
    assert torch.equal(torch.load(paths[0])["state_dict"]["w"], old)


def test_contents_tell_where_the_old_values_stand(project: Folder) -> None:
    """What is new came first: nothing is a guess."""
    old = OrderedDict(w=torch.randn(5, 3), other=torch.randn(50))
    new = OrderedDict(w=torch.cat([torch.randn(2, 3), old["w"]]), other=old["other"])
    ran = project.ok("revision", "larger", "--autogenerate", *pair(project, old, new))
    assert 'op.Pad("w", 2, at=0)' in operations(project)
    assert "guess" not in ran.err


def test_one_that_grew_and_was_renamed_with_its_module(project: Folder) -> None:
    old = {"net.embed.weight": torch.randn(50, 4), "net.norm.weight": torch.randn(4), "net.norm.bias": torch.randn(4)}
    new = {name.replace("net.", "model."): value.clone() for name, value in old.items()}
    new["model.embed.weight"] = torch.cat([old["net.embed.weight"], torch.randn(10, 4)])
    paths = pair(project, old, new)
    project.ok("revision", "larger", "--autogenerate", *paths)
    assert "Drop" not in operations(project)
    project.ok("upgrade", "head", paths[0])
    assert torch.equal(torch.load(paths[0])["state_dict"]["model.embed.weight"][:50], old["net.embed.weight"])


def test_one_of_another_shape_is_lost_and_that_is_said(project: Folder) -> None:
    paths = pair(
        project,
        {"w": torch.randn(5, 3), "b": torch.randn(60), "gone": torch.ones(2)},
        {"w": torch.randn(4, 3, 2), "b": torch.randn(60)},
    )
    ran = project.run("diff", *paths)
    assert f"the operations would lose values of {paths[0]}: w is dropped, gone is dropped" in ran.err
    assert json.loads(project.ok("diff", *paths, "--json").out)["losses"] == ["w is dropped", "gone is dropped"]
    ran = project.ok("revision", "smaller", "--autogenerate", *paths)
    assert "the script loses values: " in ran.err
    assert "until then `check` fails" in ran.err
    assert "# Loses values: set keep=True, or `rollback = None` below the list." in operations(project)
    ran = project.run("check")
    assert (ran.code, "(smaller) cannot be undone: op.Drop(" in ran.out) == (4, True)


def test_a_narrower_dtype_loses_values_too(project: Folder) -> None:
    old = {"w": torch.randn(5, 3)}
    paths = pair(project, old, {"w": old["w"].half()})
    assert "w is cast from float32 to float16" in project.ok("diff", *paths).err
    assert "w is cast from float32 to float16" in project.ok("revision", "half", "--autogenerate", *paths).err
    assert project.run("check").code == 4
    assert "cannot be undone here: w is cast from float32 to float16" in project.ok("upgrade", "head", paths[0]).err
    assert not project.ok("diff", *paths[::-1]).err


LOSING = {
    'op.Drop("w")': "give it keep=True",
    'op.Cast("w", "float16")': "give it keep=True",
    'op.At(["x"], [op.Run("change")])': "give it a rollback",
    'op.Run("change")': "give it a rollback",
}


@pytest.mark.parametrize("operation", LOSING)
def test_check_asks_for_a_consent(project: Folder, operation: str) -> None:
    top = "\ndef change(ckpt):\n    return ckpt\n"
    path = declare(project, "a1", operation, top=top)
    ran = project.run("check")
    assert ran.code == 4
    assert ran.out.startswith(f"versions/a1_change.py:{_line(path)}: a1 (change a1) cannot be undone: op.")
    assert f"{LOSING[operation]}, or set `rollback = None` below `operations`" in ran.out
    path.write_text(path.read_text() + "rollback = None\n")
    assert "no problems" in project.ok("check").out
    assert "irreversible" in project.ok("history").out


def _line(path: Path) -> int:
    return path.read_text().splitlines().index("operations = [") + 1


@pytest.mark.parametrize("operation", ['op.Drop("w", keep=True)', 'op.Cast("w", "float16", keep=True)'])
def test_what_is_put_aside_needs_no_consent(project: Folder, operation: str) -> None:
    declare(project, "a1", operation)
    project.ok("check")


def test_consent_can_be_given_after_a_release(project: Folder) -> None:
    """It changes nothing that the script does: neither `check` nor checkpoints that have it mind."""
    path = declare(project, "a1", 'op.Drop("w")')
    checkpoint = project.path / "x.pt"
    torch.save({"state_dict": {"w": torch.ones(1), "v": torch.ones(1)}}, checkpoint)
    project.ok("release")
    assert "cannot be undone here: w is dropped" in project.ok("upgrade", "head", checkpoint).err
    path.write_text(path.read_text() + "rollback = None\n")
    project.ok("check")
    assert not project.ok("current", checkpoint).err


def test_upgrade_says_nothing_of_a_loss_that_is_intended(project: Folder) -> None:
    path = declare(project, "a1", 'op.Drop("w")')
    path.write_text(path.read_text() + "rollback = None\n")
    checkpoint = project.path / "x.pt"
    torch.save({"state_dict": {"w": torch.ones(1), "v": torch.ones(1)}}, checkpoint)
    ran = project.ok("upgrade", "head", checkpoint)
    assert not ran.err
    assert "upgrade a1  change a1  (irreversible)" in ran.out


def test_one_script_for_several_gives_their_consent(project: Folder) -> None:
    for number, name in enumerate("vw", 1):
        path = declare(project, f"a{number}", f'op.Drop("{name}")', parents=f"a{number - 1}" if number > 1 else None)
        path.write_text(path.read_text() + "rollback = None\n")
    made = json.loads(project.ok("squash", "a1:a2", "both", "--rev-id", "S", "--json").out)
    assert "rollback = None  # a1 and a2 cannot be undone" in Path(made["path"]).read_text()
    project.ok("check")


def wrapped(model: nn.Module) -> dict[str, Any]:
    return {f"module.{name}": value for name, value in model.state_dict().items()}


def averaged(project: Folder) -> tuple[Path, Path]:
    """Save a model from its wrapper and without it; the average is one of the bare model each time."""
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    average = AveragedModel(model)
    average.update_parameters(model)
    paths = project.path / "old.pt", project.path / "new.pt"
    for path, states in zip(paths, (wrapped(model), model.state_dict()), strict=True):
        torch.save({"model": states, "ema": average.state_dict()}, path)
    return paths


def test_copies_are_compared_with_those_of_the_new_checkpoint(project: Folder) -> None:
    """Whatever the operations make of the average: it is what NEW has, or it is said that it is not."""
    old, new = averaged(project)
    said = "ema would differ from that of" in project.ok("revision", "unwrap", "--autogenerate", old, new).err
    project.ok("upgrade", "head", old)
    assert said is (list(torch.load(old)["ema"]) != list(torch.load(new)["ema"]))


def test_a_copy_that_is_called_otherwise_in_the_new_checkpoint(project: Folder) -> None:
    states = {"a.weight": torch.randn(3, 3), "b.weight": torch.randn(3)}
    renamed = {name.replace("a.", "c."): value for name, value in states.items()}
    for name, model, ema in (("old", states, states), ("new", renamed, states)):
        torch.save({"state_dict": model, "ema": {key: value + 1 for key, value in ema.items()}}, f"{name}.pt")
    said = "ema would differ from that of new.pt: a.weight is missing, c.weight is left over"
    assert said in project.ok("diff", "old.pt", "new.pt").out
    assert said in project.ok("revision", "x", "--autogenerate", "old.pt", "new.pt").err
    torch.save({"state_dict": renamed, "ema": renamed}, "new.pt")
    assert "ema" not in project.ok("diff", "old.pt", "new.pt").out


Groups = Callable[[list[nn.Parameter]], Iterable[Any]]
SPLIT: Groups = lambda own: [{"params": own[:1]}, {"params": own[1:], "weight_decay": 0.0}]  # noqa: E731


def optimized(path: str, groups: Groups, kind: Any = torch.optim.AdamW, **options: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    optimizer = kind(groups(list(model.parameters())), **options)
    model(torch.randn(5, 4)).square().sum().backward()
    optimizer.step()
    torch.save({"state_dict": model.state_dict(), "optimizer": optimizer.state_dict()}, path)


OPTIMIZERS: dict[str, tuple[dict[str, Any], str]] = {
    "groups": ({"groups": SPLIT}, "it has 1 group of 4 parameters, but 2 groups of 1 and 3 parameters in new.pt"),
    "fewer": ({"groups": lambda own: own[:2]}, "it has 1 group of 4 parameters, but 1 group of 2 parameters in new.pt"),
    "kind": ({"kind": torch.optim.Adagrad}, "its state is exp_avg, exp_avg_sq, step, but step, sum in new.pt"),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_that_changed_is_mentioned(project: Folder, name: str) -> None:
    """The parameters are the same; torch would refuse the old optimizer, or go on with other options."""
    options, said = OPTIMIZERS[name]
    optimized("old.pt", lambda own: own)
    optimized("new.pt", **{"groups": lambda own: own, **options})
    before = digest(project.path / "old.pt")
    ran = project.run("revision", "x", "--autogenerate", "old.pt", "new.pt")
    assert ran.code == 2
    assert "the optimizer at optimizer differs: " in ran.err
    assert said in ran.err
    assert "`ckpt-migrate revision NAME` makes a script with functions" in ran.err
    assert not list((project.path / "versions").glob("*.py"))
    ran = project.ok("diff", "old.pt", "new.pt")
    assert said in ran.out
    assert any(
        said in sentence for sentence in json.loads(project.ok("diff", "old.pt", "new.pt", "--json").out)["rest"]
    )
    assert digest(project.path / "old.pt") == before


def test_options_that_changed_are_set(project: Folder) -> None:
    """All groups have another decay, one has other betas: guesses, because another run may choose other options."""
    optimized("old.pt", SPLIT)
    optimized("new.pt", lambda own: [{"params": own[:1]}, {"params": own[1:], "betas": (0.8, 0.99)}], weight_decay=0.5)
    before = torch.load("old.pt")
    ran = project.ok("diff", "old.pt", "new.pt")
    assert "option changed  optimizer.param_groups.1.betas  (0.9, 0.999) -> (0.8, 0.99)  70% certain" in ran.out
    project.ok("revision", "x", "--autogenerate", "old.pt", "new.pt")
    assert 'op.SetItem("optimizer.param_groups.1.betas", (0.8, 0.99)),' in operations(project)
    assert 'op.SetItem("optimizer.param_groups.*.weight_decay", 0.5),' in operations(project)
    project.ok("upgrade", "head", "old.pt", "--check-rollback")
    groups = [torch.load(path)["optimizer"]["param_groups"] for path in ("old.pt", "new.pt")]
    assert groups[0] == groups[1]
    project.ok("downgrade", "base", "old.pt")
    assert equal(without_record(torch.load("old.pt")), before)


def test_another_learning_rate_is_nothing_to_mention(project: Folder) -> None:
    optimized("old.pt", SPLIT)
    optimized("new.pt", SPLIT, lr=0.5)
    assert "optimizer" not in project.ok("diff", "old.pt", "new.pt").out
    assert "there is nothing to migrate" in project.run("revision", "x", "--autogenerate", "old.pt", "new.pt").err


def test_contents_tell_which_rows_went(project: Folder) -> None:
    """The first two went: nothing is a guess, and the way back has them."""
    old = OrderedDict(w=torch.randn(5, 3), other=torch.randn(50))
    paths = pair(project, old, OrderedDict(w=old["w"][2:].clone(), other=old["other"]))
    ran = project.ok("revision", "smaller", "--autogenerate", *paths)
    assert "guess" not in ran.err
    assert 'op.Crop("w", 2, at=0)' in operations(project)
    project.ok("check")
    project.ok("upgrade", "head", paths[0], "--check-rollback")
    assert torch.equal(torch.load(paths[0])["state_dict"]["w"], old["w"][2:])
    project.ok("downgrade", "base", paths[0])
    assert torch.equal(torch.load(paths[0])["state_dict"]["w"], old["w"])
