"""Training records its revisions when it saves, goes on from what it loads, and upgrades that if asked."""

from __future__ import annotations

import importlib
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest

import anemoi_ckpt_migrate as cm
from anemoi_ckpt_migrate.errors import (
    BarrierInTheWay,
    CannotWrite,
    DamagedRecord,
    FaultyScripts,
    NoConfiguration,
    NotAtTarget,
    SeveralHeads,
    UnknownRecorded,
    UnknownTarget,
    UsageError,
)
from tests.support.project import RENAME, Folder, digest

torch = pytest.importorskip("torch")

from tests.support.operations import declare  # noqa: E402
from tests.support.training import forget_scripts, log_of  # noqa: E402


class Layer(torch.nn.Module):  # type: ignore[misc, name-defined]
    """One layer, which was called x, then y, and is called z."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.add_module(name, torch.nn.Linear(2, 2, bias=False))


def saved(path: Path, checkpoint: Any) -> Path:
    torch.save(checkpoint, path)
    return path


def old(folder: Path, name: str = "old.ckpt") -> Path:
    """A checkpoint of before any revision."""
    return saved(folder / name, {"state_dict": Layer("x").state_dict(), "epoch": 3})


# A loop of one's own


def test_a_loop(named: Folder) -> None:
    stamper = cm.Stamper()
    layer = Layer("z")
    optimizer = torch.optim.SGD(layer.parameters())
    checkpoint = named.path / "last.ckpt"
    for epoch in range(2):
        tree = {"state_dict": layer.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
        torch.save(stamper.stamped(tree), checkpoint)
        assert list(tree) == ["state_dict", "optimizer", "epoch"]  # it is a copy that has the record
    assert "b  change b (head)" in named.ok("current", checkpoint, "--check-heads").out
    assert log_of(named, checkpoint) == ["stamp head b"]
    assert torch.load(checkpoint, weights_only=True)["epoch"] == 1
    history = named.ok("history", checkpoint, "--json").lines[0]
    assert [(entry["revision"], entry["applied"]) for entry in history] == [("b", True), ("a", True)]


def test_the_file_carries_its_way_back(named: Folder) -> None:
    """Older code has never seen the scripts. Operations are data; functions are code, which has to be trusted."""
    torch.save(cm.stamped({"state_dict": Layer("z").state_dict(), "epoch": 1}), named.path / "last.ckpt")
    forget_scripts(named)
    shown = named.ok("show", "a", "--from", "last.ckpt", "--json").lines[0]
    assert (shown["pickled_by"] is not None, "def rollback" in shown["source"]) == (True, True)
    named.ok("downgrade", "-1", "last.ckpt")
    assert list(torch.load("last.ckpt")["state_dict"]) == ["y.weight"]
    assert named.run("downgrade", "-1", "last.ckpt").code == 3
    named.ok("downgrade", "-1", "last.ckpt", "--trust-checkpoint-code")
    assert list(torch.load("last.ckpt")["state_dict"]) == ["x.weight"]


@pytest.mark.parametrize("plain", [False, True])
def test_a_bare_state_dict_has_no_key_too_many(named: Folder, plain: bool) -> None:
    state = Layer("z").state_dict()
    stamped = cm.stamped(dict(state) if plain else state)
    assert not hasattr(state, "_metadata") or "ckpt_migrate" not in state._metadata
    checkpoint = saved(named.path / "weights.pt", stamped)
    loaded = torch.load(checkpoint, weights_only=True)
    assert list(loaded) == ["z.weight"]
    Layer("z").load_state_dict(loaded, strict=True)
    assert "b  change b (head)" in named.ok("current", checkpoint).out


def test_what_a_run_is_does_not_change_while_it_goes_on(named: Folder) -> None:
    """Somebody pulls a new revision into the folder of a job that runs, and breaks another script."""
    stamper = cm.Stamper()
    named.script("c", "b")
    (named.path / "versions" / "a_change.py").write_text("revision = (")
    checkpoint = saved(named.path / "last.ckpt", stamper.stamped({"state_dict": {}, "epoch": 1}))
    named.script("a", None, **RENAME)
    current = named.ok("current", checkpoint, "--json").lines[0]
    assert ([head["revision"] for head in current["heads"]], current["at_head"]) == (["b"], False)


def test_a_script_that_cannot_run_here_goes_as_source(named: Folder) -> None:
    named.script("a", None, **RENAME, top="import gone_since_long")
    (entry, _) = cm.stamped({"epoch": 1, "model": {}})["ckpt_migrate"]["lineage"]
    assert ("def rollback" in entry["undo"]["source"], entry["undo"]["pickle"]) == (True, None)


def test_other_processes_get_a_copy(named: Folder) -> None:
    """As where one process starts those that train."""
    copied = pickle.loads(pickle.dumps(cm.Stamper()))
    assert copied.stamped({"epoch": 1, "model": {}})["ckpt_migrate"]["heads"] == ["b"]


def test_from_the_barrier_on(named: Folder) -> None:
    named.script("F", "b", final=True)
    named.script("g", "F")
    checkpoint = saved(named.path / "last.ckpt", cm.stamped({"state_dict": {}, "epoch": 1}))
    refused = named.run("downgrade", "base", checkpoint)
    assert (refused.code, "barrier F" in refused.err) == (3, True)


# A run that goes on


def test_a_run_goes_on_from_a_migrated_file(named: Folder) -> None:
    """Log, lineage, and what was put aside are kept, whether the loaded dict is filled anew or another is made."""
    declare(named, "c", 'op.Drop("mask", keep=True)', parents="b")
    tree = {"state_dict": {**Layer("x").state_dict(), "mask": torch.ones(3)}, "epoch": 1}
    checkpoint = saved(named.path / "last.ckpt", tree)
    named.ok("upgrade", "head", checkpoint)
    before = log_of(named, checkpoint)
    stamper = cm.Stamper()
    loaded = torch.load(checkpoint)
    stamper.resume(loaded)
    assert "ckpt_migrate" in loaded
    state = Layer("z").state_dict()
    first = saved(named.path / "first.ckpt", stamper.stamped({"state_dict": state, "epoch": 2}))
    second = saved(named.path / "second.ckpt", cm.stamped({**loaded, "state_dict": state, "epoch": 2}))
    third = saved(named.path / "third.ckpt", cm.stamped({"state_dict": state, "epoch": 2}, resumed=loaded))
    forget_scripts(named)
    for each in (first, second, third):
        assert log_of(named, each) == before == ["upgrade head c"]
        named.ok("downgrade", "base", each, "--trust-checkpoint-code")
        back = torch.load(each)
        assert (set(back["state_dict"]), back["epoch"]) == ({"x.weight", "mask"}, 2)
        assert torch.equal(back["state_dict"]["x.weight"], state["z.weight"])
        assert torch.equal(back["state_dict"]["mask"], torch.ones(3))


def test_a_file_of_newer_code_is_refused_before_anything_is_trained(named: Folder) -> None:
    newer = torch.load(saved(named.path / "newer.ckpt", cm.stamped({"state_dict": {}, "epoch": 1})))
    (named.path / "versions" / "b_change.py").unlink()
    stamper = cm.Stamper()
    with pytest.raises(UnknownRecorded, match="has b, which no script here knows; use the project that wrote it"):
        stamper.resume(newer)
    assert stamper.stamped({"epoch": 1, "model": {}})["ckpt_migrate"]["heads"] == ["a"]


def test_a_file_of_older_code_is_refused(named: Folder) -> None:
    """Its weights may be loaded without a word, and would be saved as what they are not."""
    checkpoint = old(named.path)
    named.ok("upgrade", "a", checkpoint)
    with pytest.raises(NotAtTarget, match=r"lacks b, which your code has; .*`ckpt-migrate upgrade head CKPT`") as no:
        cm.Stamper().resume(torch.load(checkpoint))
    assert (no.value.missing, no.value.beyond, no.value.exit_code) == (("b",), (), 3)
    named.script("F", "b", final=True)
    with pytest.raises(BarrierInTheWay):
        cm.Stamper().resume(torch.load(checkpoint))


def test_code_of_an_earlier_release(named: Folder) -> None:
    """The scripts may know more than the code that runs: those of a chain that a package brings, for example."""
    named.script("c", "b", version="1.2")
    named.script("d", "c", version="2.0")
    stamper = cm.Stamper("pkg==1.5")
    first = saved(named.path / "first.ckpt", stamper.stamped({"state_dict": {}, "epoch": 1}))
    assert log_of(named, first) == ["stamp pkg==1.5 c"]
    stamper.resume(torch.load(first))
    later = cm.stamped({"state_dict": {}, "epoch": 1})
    with pytest.raises(NotAtTarget, match=r"has d, which your code lacks; .*`ckpt-migrate downgrade pkg==1.5 CKPT`"):
        stamper.resume(later)


DEPENDING = 'depends_on = "m1"\n'


@pytest.mark.parametrize("target", ["d2", "d1+1"])
def test_more_of_a_branch_that_the_code_only_depends_on(project: Folder, target: str) -> None:
    """d1 depends on m1, so code at d2 has m1; a checkpoint may have m2 too.

    d1 -> d2
    : (depends on)
    m1 -> m2
    """
    project.script("m1")
    project.script("m2", "m1")
    project.script("d1", top=DEPENDING)
    project.script("d2", "d1")
    project.script("d3", "d2")
    torch.save({"state_dict": {}, "epoch": 1}, "both.ckpt")
    project.ok("upgrade", "d2", "both.ckpt")
    project.ok("upgrade", "m2", "both.ckpt")
    both = torch.load("both.ckpt")
    again = cm.stamped({"state_dict": {}, "epoch": 2}, target, resumed=both)
    assert again["ckpt_migrate"]["heads"] == both["ckpt_migrate"]["heads"] == ["d2", "m2"]
    with pytest.raises(NotAtTarget, match="has d2, which your code lacks"):
        cm.stamped({"state_dict": {}, "epoch": 2}, "d1", resumed=both)


def test_what_is_depended_on_is_recorded_as_stamping_records_it(project: Folder) -> None:
    """d1 needs m1, which is a head all the same: heads are told by parents, in whichever way they are recorded."""
    project.script("m1")
    project.script("d1", top=DEPENDING)
    torch.save({"state_dict": {}, "epoch": 1}, "told.ckpt")
    project.ok("stamp", "d1", "told.ckpt")
    told = torch.load("told.ckpt")["ckpt_migrate"]["heads"]
    assert cm.stamped({"state_dict": {}, "epoch": 1}, "d1")["ckpt_migrate"]["heads"] == told == ["d1", "m1"]


def test_a_release_has_all_its_heads(project: Folder) -> None:
    """m2 came after the release, though d1, which depends on m1, is in it."""
    project.script("m1", version="1.0")
    project.script("m2", "m1", version="2.0")
    project.script("d1", version="1.0", top=DEPENDING)
    later = cm.stamped({"state_dict": {}, "epoch": 1}, "heads")
    with pytest.raises(NotAtTarget, match="has m2, which your code lacks"):
        cm.Stamper("pkg==1.5").resume(later)


def test_a_file_without_a_record_is_taken_for_one_of_this_code(named: Folder, caplog: pytest.LogCaptureFixture) -> None:
    stamper = cm.Stamper()
    stamper.resume(torch.load(old(named.path)))
    assert "has no record and is taken to be at head" in caplog.text
    assert stamper.stamped({"epoch": 1, "model": {}})["ckpt_migrate"]["heads"] == ["b"]


def test_a_damaged_record_is_no_traceback_later(named: Folder) -> None:
    with pytest.raises(DamagedRecord):
        cm.Stamper().resume({"epoch": 1, "ckpt_migrate": {"format": 1}})


def test_chains_beside_the_project(named: Folder) -> None:
    checkpoint = saved(
        named.path / "last.ckpt", cm.stamped({"state_dict": {}, "epoch": 1}, project=named.path, chain=["anemoi"])
    )
    assert "b  change b (head)" in named.ok("current", checkpoint).out
    shown = named.ok("--chain", "anemoi", "current", checkpoint, "--json").lines[0]
    assert shown["at_head"] is True
    again = cm.stamped({"state_dict": {}, "epoch": 2}, chain="anemoi", resumed=torch.load(checkpoint))
    assert again["ckpt_migrate"] == torch.load(checkpoint)["ckpt_migrate"]
    alone = cm.stamped({"state_dict": {}, "epoch": 2}, chain="anemoi")["ckpt_migrate"]
    assert {entry["chain"] for entry in alone["lineage"]} == {"anemoi"}


# What goes wrong does so at the start, and never when a run saves


def test_what_is_wrong_ends_a_run_before_it_begins(
    project: Folder, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.script("a", None)
    project.script("b", "a")
    project.script("c", "a")
    with pytest.raises(SeveralHeads, match="there are 2 heads: b, c; write"):
        cm.Stamper()
    assert cm.Stamper("heads").stamped({"epoch": 1, "model": {}})["ckpt_migrate"]["heads"] == ["b", "c"]
    with pytest.raises(UnknownTarget):
        cm.Stamper("nowhere")
    with pytest.raises(UsageError, match="stamp takes head"):
        cm.Stamper("+1")
    with pytest.raises(UsageError, match="no installed package has a chain 'nothing'"):
        cm.Stamper(chain="nothing")
    project.script("d", "missing")
    with pytest.raises(FaultyScripts):
        cm.Stamper()
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    with pytest.raises(NoConfiguration):
        cm.Stamper()


class Odd(dict):  # type: ignore[type-arg]
    def __copy__(self) -> None:
        raise RuntimeError("not today")


@pytest.mark.parametrize(
    ("checkpoint", "says"),
    [
        ([1, 2], "a list in memory has no place for a record"),
        ({"ckpt_migrate": "mine", "epoch": 1}, "the migration record in the checkpoint is damaged"),
        (Odd(epoch=1, model={}), "not today"),
    ],
)
def test_no_epoch_is_lost(named: Folder, caplog: pytest.LogCaptureFixture, checkpoint: Any, says: str) -> None:
    assert cm.Stamper().stamped(checkpoint) is checkpoint
    assert "the checkpoint is saved without a record of its revisions: " in caplog.text
    assert says in caplog.text


def test_keys_of_any_kind(named: Folder) -> None:
    tree = {("layer", 1): {"weight": torch.ones(1)}, 2: None, "epoch": 1}
    checkpoint = saved(named.path / "odd.ckpt", cm.stamped(tree))
    assert list(torch.load(checkpoint)) == [("layer", 1), 2, "epoch", "ckpt_migrate"]
    assert "b  change b (head)" in named.ok("current", checkpoint).out
    bare = cm.stamped({("layer", 1): torch.ones(1)})
    assert (list(bare), "ckpt_migrate" in bare._metadata) == ([("layer", 1)], True)


# Loaded as if it had been upgraded


def test_load(named: Folder, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    checkpoint = old(named.path)
    before = digest(checkpoint)
    loaded = cm.load(checkpoint, weights_only=True, mmap=True)
    assert (list(loaded["state_dict"]), loaded["ckpt_migrate"]["heads"]) == (["z.weight"], ["b"])
    assert torch.equal(loaded["state_dict"]["z.weight"], torch.load(checkpoint)["state_dict"]["x.weight"])
    assert list(cm.load(checkpoint, "a")["state_dict"]) == ["y.weight"]
    assert (digest(checkpoint), list(temporary.iterdir())) == (before, [])
    cm.Stamper().resume(loaded)

    with cm.upgraded(checkpoint) as path:
        assert (path.name, path != checkpoint) == ("old.ckpt", True)
        named.ok("current", path, "--check-heads")
    assert not path.exists()
    named.ok("upgrade", "head", checkpoint)
    with cm.upgraded(checkpoint) as path:
        assert path == checkpoint  # nothing to do, nothing is copied


def test_load_of_a_file_whose_classes_are_gone(
    named: Folder, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("code")
    (folder / "code_of_then.py").write_text("class Config:\n    width = 2\n")
    monkeypatch.syspath_prepend(folder)
    config = importlib.import_module("code_of_then").Config()
    tree = {"state_dict": Layer("x").state_dict(), "hyper_parameters": {"config": config}}
    checkpoint = saved(named.path / "last.ckpt", tree)
    (folder / "code_of_then.py").rename(folder / "code_of_now.py")
    monkeypatch.delitem(sys.modules, "code_of_then")
    with pytest.raises(ModuleNotFoundError):
        torch.load(checkpoint, weights_only=False)
    declare(named, "c", 'op.MoveModule("code_of_then", "code_of_now")', parents="b")
    loaded = cm.load(checkpoint, weights_only=False)
    assert loaded["hyper_parameters"]["config"].width == 2


def test_load_of_what_cannot_be_upgraded(named: Folder) -> None:
    checkpoint = old(named.path)
    before = digest(checkpoint)
    named.script("F", "b", final=True)
    with pytest.raises(BarrierInTheWay, match=r"old\.ckpt: barrier F"):
        cm.load(checkpoint)
    with pytest.raises(cm.MigrateError, match=r"missing\.ckpt"):
        cm.load(named.path / "missing.ckpt")
    assert digest(checkpoint) == before


def test_load_where_no_copy_can_be_written(named: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = old(named.path)
    monkeypatch.setattr("tempfile.tempdir", str(named.path / "missing"))
    with pytest.raises(CannotWrite, match=r"old\.ckpt: the upgraded copy could not be written .*; .* set TMPDIR"):
        cm.load(checkpoint)
    named.ok("upgrade", "head", checkpoint)
    cm.load(checkpoint)  # needs none


def test_load_with_chains_names_the_file(named: Folder) -> None:
    """The second chain meets the copy that the first has made; what it refuses is the file."""
    checkpoint = old(named.path)
    with pytest.raises(cm.MigrateError) as refused:
        cm.load(checkpoint, project=named.path, chain="anemoi")
    assert refused.value.checkpoint == str(checkpoint)
