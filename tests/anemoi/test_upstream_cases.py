"""What the tests of anemoi-models state about its migrations, as facts about ours: the same, or different by design.

The page for those who come from anemoi-models has them as a table (`docs/coming-from-anemoi.md`). Where the releases are here
(`make test-anemoi`), their own code is asked too. The scripts, of which e is a barrier:

    a --- b --- c --- d --- e (final) --- f
"""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import anemoi_ckpt_migrate as cm  # noqa: E402
from anemoi_ckpt_migrate import errors  # noqa: E402
from tests.anemoi.running import THERE, run  # noqa: E402
from tests.anemoi.test_chain import CHAIN, NODES, graph, small  # noqa: E402
from tests.support.anemoi import read, save  # noqa: E402
from tests.support.migrations_list import import_chain, make, noted, once, stub, undo  # noqa: E402
from tests.support.migrations_list import read as read_list  # noqa: E402
from tests.support.project import Folder, digest  # noqa: E402

HEAD = "from anemoi.models.migrations import CkptType, MigrationMetadata\n\n"


def script(letter: str, after_end: bool) -> str:
    """Return the text of a script, as `anemoi-models migration create` makes it."""
    final = letter == "e"
    versions = f'{{"migration": "1.0.0", "anemoi-models": "{"0.9" if after_end else "0.8"}"}}'
    text = f"{HEAD}metadata = MigrationMetadata(versions={versions}, final={final})\n"
    if final:
        return text
    for function, line in (("migrate", f'ckpt["{letter}"] = True'), ("rollback", f'del ckpt["{letter}"]')):
        text += f"\n\ndef {function}(ckpt: CkptType) -> CkptType:\n    {line}\n    return ckpt\n"
    return text


def name(letter: str) -> str:
    return f"170000000{'abcdef'.index(letter) + 1}_{letter}"


class Scripts:
    """A folder of scripts, and a project that took them over."""

    def __init__(self, project: Folder, letters: str) -> None:
        self.project, self.folder = project, project.path / "scripts"
        self.folder.mkdir()
        (self.folder / "__init__.py").write_text("")
        for letter in letters:
            (self.folder / f"{name(letter)}.py").write_text(script(letter, letter >= "e"))
        (project.path / "ckpt-migrate.toml").write_text('package = "anemoi-models"\n')
        project.ok("import-scripts", self.folder)

    def checkpoint(self, noted: str, **content: Any) -> Path:
        """Save a checkpoint whose list has some of the scripts."""
        metadata = {
            letter: {"versions": {"migration": "1.0.0", "anemoi-models": "0.9"}, "final": letter == "e"}
            for letter in "abcdef"
        }
        listed = [
            {
                "name": name(letter),
                "metadata": metadata[letter],
                "signature": name(letter),
                "rollback": None,
                "setup_context": None,
            }
            for letter in noted
        ]
        tree = {"pytorch-lightning_version": "", "hyper_parameters": {"metadata": {}}, "migrations": listed, **content}
        torch.save(tree, self.project.path / "last.ckpt")
        return self.project.path / "last.ckpt"

    def forget(self, letters: str) -> None:
        """Take scripts away, as on a branch that does not have them."""
        for letter in letters:
            (path,) = (self.project.path / "versions").glob(f"*_{letter}.py")
            path.unlink()

    def upstream(self, release: str, path: Path) -> list[str] | str:
        """Return the contents that a release's own `sync` comes to, or the name of its error."""
        found: list[str] | str = json.loads(run("upstream_sync.py", [release], self.folder, path))
        return found


def content(path: Path) -> list[str]:
    """Return the letters in a checkpoint, and those in its list after a colon."""
    tree = torch.load(path, weights_only=False)
    listed = "".join(each["name"][-1] for each in tree["migrations"])
    return [*sorted(key for key in tree if len(key) == 1), f":{listed}"]


# A checkpoint and the scripts.

AGREE = {
    "all of them": ("abcd", "", {}, ["a", "b", "c", "d", ":abcd"]),
    "those that it lacks": ("abcd", "a", {"a": True}, ["a", "b", "c", "d", ":abcd"]),
    "those after the last barrier": ("abcdef", "e", {}, ["f", ":ef"]),
    "none": ("abcd", "abcd", {}, [":abcd"]),
}


@pytest.mark.parametrize("case", AGREE)
def test_what_is_run(project: Folder, case: str) -> None:
    letters, noted, contents, expected = AGREE[case]
    scripts = Scripts(project, letters)
    path = scripts.checkpoint(noted, **contents)
    for release in ("0.11.3", "0.12.0", "0.16.0", "0.19.0") if THERE else ():
        assert scripts.upstream(release, path) == expected
    cm.sync(path)
    assert content(path) == expected


def test_too_old(project: Folder) -> None:
    """A checkpoint from before a barrier: refused, with the release in which it ended."""
    scripts = Scripts(project, "abcdef")
    path = scripts.checkpoint("")
    before = digest(path)
    for release in ("0.11.3", "0.19.0") if THERE else ():
        assert scripts.upstream(release, path) == "IncompatibleCheckpointException"
    with pytest.raises(errors.BarrierInTheWay) as refused:
        cm.sync(path)
    assert (refused.value.version, digest(path)) == ("0.9", before)


def test_a_migration_that_no_script_knows(project: Folder) -> None:
    """`upgrade` refuses it, as releases since 0.13 do; `sync` undoes it, as those before did, if the code is trusted."""
    known = Scripts(project, "abcd")
    path = known.checkpoint("")
    cm.upgrade(path)
    known.forget("cd")
    with pytest.raises(errors.UnknownRecorded):
        cm.upgrade(path)
    with pytest.raises(errors.UntrustedCode):
        cm.sync(path)
    cm.sync(path, trust_checkpoint_code=True)
    assert content(path) == ["a", "b", ":ab"]


@pytest.mark.skipif(not THERE, reason="anemoi-models is not here")
def test_a_migration_that_no_script_knows_upstream(project: Folder) -> None:
    """Since 0.13 there is no rollback to run."""
    scripts = Scripts(project, "abcd")
    path = scripts.checkpoint("abcd", a=True, b=True, c=True, d=True)
    for letter in "cd":
        (scripts.folder / f"{name(letter)}.py").unlink()
    for release in ("0.13.0", "0.16.0", "0.19.0"):
        assert scripts.upstream(release, path) == "IncompatibleCheckpointException"


def pickled_rollback(project: Folder, rollback: Any) -> Path:
    """Save a checkpoint as 0.11.3 does, with a migration whose rollback, a pickled function, is in it."""
    import_chain(project)
    return make(project, [once(letter, undo(letter)) for letter in "abc"] + [once("d", rollback)], done="abcd")


def test_a_pickled_rollback(project: Folder) -> None:
    """It runs, as in 0.11.3, only if the code is trusted."""
    path = pickled_rollback(project, undo("d"))
    with pytest.raises(errors.UntrustedCode):
        cm.sync(path)
    cm.sync(path, trust_checkpoint_code=True)
    assert (noted(path), read_list(path)["done"]) == (["a", "b", "c"], "abc")


def test_a_pickled_rollback_that_does_nothing(project: Folder) -> None:
    """0.11.3 takes it for one that undid its migration; here it is refused, since such a stub undoes nothing."""
    path = pickled_rollback(project, stub)
    before = digest(path)
    with pytest.raises(errors.MigrateError, match="does nothing"):
        cm.sync(path, trust_checkpoint_code=True)
    assert digest(path) == before


def test_back_to_the_last_barrier(project: Folder) -> None:
    """A rollback stops at a barrier, and keeps its entry."""
    scripts = Scripts(project, "abcdef")
    path = scripts.checkpoint("e")
    cm.sync(path)
    scripts.forget("f")
    cm.sync(path, trust_checkpoint_code=True)
    assert content(path) == [":e"]
    with pytest.raises(errors.MigrateError):
        cm.downgrade(path, "base")
    assert content(path) == [":e"]


def test_registering(project: Folder) -> None:
    """A new checkpoint is at head, of itself, with the list as it was: `stamped` leaves the list to the tool that owns it."""
    scripts = Scripts(project, "abcdef")
    tree = torch.load(scripts.checkpoint("ef"), weights_only=False)
    path = project.path / "new.ckpt"
    torch.save(cm.stamped(tree), path)
    current = cm.current(path)
    assert ([head.name for head in current.heads], current.at_head, content(path)) == (["f"], True, [":ef"])


def test_a_checkpoint_without_a_list(project: Folder) -> None:
    """Differs: releases refuse it, ours takes it as if the list were empty, and writes one."""
    scripts = Scripts(project, "abcd")
    path = scripts.checkpoint("")
    tree = torch.load(path, weights_only=False)
    del tree["migrations"]
    torch.save(tree, path)
    for release in ("0.11.3", "0.19.0") if THERE else ():
        assert scripts.upstream(release, path) == "IncompatibleCheckpointException"
    cm.sync(path)
    assert content(path) == ["a", "b", "c", "d", ":abcd"]


# The order of scripts, when two branches meet: there, names are changed (`fix-order`); here, what a script follows.


def order() -> list[str]:
    graph = cm.open_project().graph
    return list(graph.order(revision.id for revision in graph))


def test_in_order(project: Folder) -> None:
    for new, parent in zip("1234", [None, *"123"], strict=True):
        project.script(new, parent)
    assert cm.check().problems == ()
    assert order() == ["1", "2", "3", "4"]


def test_new_scripts_around_one_of_the_main_branch(project: Folder) -> None:
    """1 and 3 are new; 2 came in between."""
    project.script("0")
    project.script("1", "0")
    project.script("3", "1")
    project.script("2", "0")
    (problem,) = cm.check().problems
    assert "`ckpt-migrate rebase " in problem.message
    cm.rebase("1", "2")
    assert cm.check().problems == ()
    assert order() == ["0", "2", "1", "3"]


def test_new_scripts_between_two_of_the_main_branch(project: Folder) -> None:
    """2 and 3 are new, and go behind 4 together."""
    project.script("1")
    project.script("2", "1")
    project.script("3", "2")
    project.script("4", "1")
    cm.rebase("2", "4")
    assert cm.check().problems == ()
    assert order() == ["1", "4", "2", "3"]


# Parameters of edges, in the order of their destinations.

DESTINATIONS = {("data", "hidden"): [1, 0, 1, 0], ("hidden", "hidden"): [2, 2, 0], ("hidden", "data"): [0, 1]}
ROWS = {("data", "hidden"): [1, 3, 0, 2], ("hidden", "hidden"): [2, 0, 1], ("hidden", "data"): [0, 1]}
TRAINED = """
    encoder_graph_provider.data.trainable.trainable | encoder_graph_provider.data.trainable.trainable
    encoder.data.proc.lin_edge.weight | encoder.data.proc.lin_edge.weight
    processor_graph_provider.trainable.trainable | processor_graph_provider.trainable.trainable
    processor.proc.0.lin_edge.weight | processor.proc.0.lin_edge.weight
    decoder_graph_provider.data.trainable.trainable | decoder_graph_provider.data.trainable.trainable
    decoder.data.proc.lin_edge.weight | decoder.data.proc.lin_edge.weight
"""
UNTRAINED = "\n".join(line for line in TRAINED.splitlines() if "trainable" not in line)
PROVIDERS = {
    ("data", "hidden"): "encoder_graph_provider.data",
    ("hidden", "hidden"): "processor_graph_provider",
    ("hidden", "data"): "decoder_graph_provider.data",
}


@pytest.fixture
def chain(project: Folder) -> Folder:
    """A project whose scripts are the chain of anemoi-models."""
    (project.path / "ckpt-migrate.toml").write_text(f'versions = "{CHAIN}"\npackage = "anemoi-models"\n')
    return project


def model(path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> Any:
    """Save a checkpoint of 0.15 whose edges lead where the table says."""
    counts = {ends: len(places) for ends, places in DESTINATIONS.items()}
    tree = small(path, monkeypatch, text, edges=counts)
    kept = graph(NODES, counts)
    for ends, places in DESTINATIONS.items():
        mapping = kept._edge_store_dict[ends[0], "to", ends[1]]._mapping
        mapping["edge_index"] = torch.stack([torch.zeros(len(places)).long(), torch.tensor(places)])
    tree["hyper_parameters"]["graph_data"] = kept
    save(tree, path, monkeypatch)
    return tree


def test_edges_are_sorted_and_the_layout_is_noted(chain: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what the optimizer remembers of them, which upstream's migration leaves in the old order."""
    path = chain.path / "small.ckpt"
    before = model(path, monkeypatch, TRAINED)["state_dict"]
    chain.ok("stamp", "anemoi-models==0.15.0", path)
    chain.ok("upgrade", "bd60f8a3179c", path)
    after = read(path)
    for ends, provider in PROVIDERS.items():
        rows = after["state_dict"][f"model.model.{provider}.trainable.trainable"]
        assert torch.equal(rows, before[f"model.model.{provider}.trainable.trainable"][ROWS[ends]])
        assert after["state_dict"][f"model.model.{provider}.trainable_layout_version"].item() == 1
        (moments,) = [
            moments
            for moments in after["optimizer_states"][0]["state"].values()
            if torch.equal(moments["exp_avg"], rows)
        ]
        assert torch.equal(moments["exp_avg_sq"], rows * 2)


def test_edges_without_trainable_parameters_get_a_layout_all_the_same(
    chain: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = chain.path / "small.ckpt"
    model(path, monkeypatch, UNTRAINED)
    chain.ok("stamp", "anemoi-models==0.15.0", path)
    chain.ok("upgrade", "bd60f8a3179c", path)
    names = read(path)["state_dict"]
    assert {f"model.model.{provider}.trainable_layout_version" for provider in PROVIDERS.values()} <= set(names)
    assert not [each for each in names if each.endswith("graph_provider.trainable.trainable")]


def test_edges_that_are_sorted_are_not_sorted_again(chain: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Upstream skips such a provider; here the checkpoint is recognised, and refused under the stamp of an earlier release."""
    path = chain.path / "small.ckpt"
    model(path, monkeypatch, TRAINED)
    chain.ok("stamp", "anemoi-models==0.15.0", path)
    chain.ok("upgrade", "bd60f8a3179c", path)
    chain.ok("stamp", "--purge", "anemoi-models==0.15.0", path)
    before = digest(path)
    refused = chain.run("upgrade", "bd60f8a3179c", path)
    assert (refused.code, digest(path)) == (1, before)
    assert "this checkpoint is of a later release: stamp it with that" in refused.err


# Setups: the names in a pickle, before anything is loaded.

SETUPS = {
    'delete_attribute("oldweather.config.Config")': {"oldweather.config.Other", "oldweather.graphs.Graph"},
    'delete_attribute("oldweather.config.*")': {"oldweather.graphs.Graph"},
    'delete_module("oldweather.config")': {"oldweather.graphs.Graph"},
    'move_attribute("oldweather.config.Config", "oldweather.graphs.Settings")': {
        "oldweather.graphs.Settings",
        "oldweather.config.Other",
        "oldweather.graphs.Graph",
    },
    'move_module("oldweather.config", "oldweather.settings")': {
        "oldweather.settings.Config",
        "oldweather.settings.Other",
        "oldweather.graphs.Graph",
    },
}


@pytest.mark.parametrize("setup", SETUPS)
def test_setups(project: Folder, monkeypatch: pytest.MonkeyPatch, setup: str) -> None:
    """Which classes a checkpoint names afterwards; a rollback names them as before. There, names stay in the file's pickle."""
    modules = {name: types.ModuleType(f"oldweather.{name}") for name in ("config", "graphs")}
    tree: dict[str, Any] = {"state_dict": {"x": torch.ones(1)}}
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "oldweather", types.ModuleType("oldweather"))
        for module, each in (("config", "Config"), ("config", "Other"), ("graphs", "Graph")):
            made = type(each, (), {"__module__": f"oldweather.{module}"})
            setattr(modules[module], each, made)
            patched.setitem(sys.modules, f"oldweather.{module}", modules[module])
            tree[each] = made()
        torch.save(tree, project.path / "last.ckpt")
    path = project.path / "last.ckpt"
    before = weather(path)
    text = f"def migrate_setup(context):\n    context.{setup}\n"
    project.script("a", migrate=None, rollback=None, top=text)
    project.ok("upgrade", "head", path)
    assert weather(path) == SETUPS[setup]
    project.ok("downgrade", "base", path)
    assert weather(path) == before


def weather(path: Path) -> set[str]:
    """Return the classes that the pickle names, of a package that nobody has."""
    return {each.name for each in cm.inspect(path).names if each.name.startswith("oldweather.")}
