"""Chains that installed packages bring, and several of them side by side in one checkpoint.

the project       a1 --- a2
chain "weather"   aaaa00000001 --- aaaa00000002        one checkpoint, one record
chain "climate"   bbbb00000001
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import pytest

import anemoi_ckpt_migrate as cm
from anemoi_ckpt_migrate import MigrateError, open_chain, upgrade
from anemoi_ckpt_migrate.commands.read_record import read_record
from tests.support.chains import make, script, tree
from tests.support.project import Folder, digest


def publish(site: Path, package: str, entry: str, scripts: dict[str, str]) -> None:
    """Lay out a package as an installer does."""
    folder = site / package / "ckpts"
    folder.mkdir(parents=True)
    (site / package / "__init__.py").write_text("")
    (folder / "__init__.py").write_text("raise RuntimeError('a chain is never imported')")
    for name, text in scripts.items():
        (folder / f"{name}.py").write_text(text)
    info = site / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[ckpt_migrate.chains]\n{entry}\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = tmp_path / "site"
    found.mkdir()
    monkeypatch.syspath_prepend(found)
    for package in ("weathermodels", "climatemodels", "brokenmodels", "others"):  # of the test before
        monkeypatch.delitem(sys.modules, package, raising=False)
    one, two = "aaaa00000001", "aaaa00000002"
    scripts = {f"{one}_a": script(one, None, "a", "b"), f"{two}_b": script(two, one, "b", "c")}
    publish(found, "weathermodels", "weather = weathermodels.ckpts", scripts)
    other = {"bbbb00000001_x": script("bbbb00000001", None, "x", "y")}
    publish(found, "climatemodels", "climate = climatemodels.ckpts", other)
    return found


def project_script(project: Folder) -> None:
    (project.path / "versions" / "a1_p.py").write_text(script("a1", None, "p", "q"))


def test_chains_and_a_project_live_side_by_side(site: Path, project: Folder) -> None:
    checkpoint = make(project)
    before = tree(checkpoint)
    project_script(project)
    project.ok("upgrade", "head", checkpoint)
    project.ok("--chain", "weather", "upgrade", "head", checkpoint)
    project.ok("upgrade", "head", checkpoint, "--chain", "climate")
    assert tree(checkpoint) == {"q": 3, "c": 1, "y": 2}
    assert "a1" in project.ok("current", checkpoint).out
    assert "aaaa00000002" in project.ok("--chain", "weather", "current", checkpoint).out
    assert project.run("--chain", "weather", "current", "--check-heads", checkpoint).code == 0
    record = read_record(checkpoint)
    assert record is not None
    assert record.heads == ("a1", "aaaa00000002", "bbbb00000001")
    seen = project.ok("inspect", checkpoint).out  # which sees all
    assert all(head in seen for head in record.heads)
    assert "MoveItem" in project.ok("show", "bbbb", "--from", checkpoint).out
    project.ok("--chain", "weather", "downgrade", "-1", checkpoint)
    assert tree(checkpoint) == {"q": 3, "b": 1, "y": 2}
    project.ok("downgrade", "base", checkpoint)
    assert "bbbb00000001" in project.ok("--chain", "climate", "history", checkpoint).out
    project.ok("--chain", "climate", "downgrade", "base", checkpoint)
    project.ok("--chain", "weather", "downgrade", "base", checkpoint)
    assert tree(checkpoint) == before


def test_in_place_too(site: Path, project: Folder) -> None:
    """What one chain did is not undone by going back to bytes of before another one did something."""
    checkpoint = make(project)
    project.ok("--chain", "weather", "upgrade", "head", checkpoint, "--in-place")
    project.ok("--chain", "climate", "upgrade", "head", checkpoint, "--in-place")
    project.ok("--chain", "weather", "downgrade", "base", checkpoint, "--in-place")
    assert tree(checkpoint) == {"p": 3, "a": 1, "y": 2}
    assert "bbbb00000001" in project.ok("--chain", "climate", "current", checkpoint).out


def test_a_damaged_record_is_stamped_for_the_chain(site: Path, project: Folder) -> None:
    """The record that takes its place belongs to the chain that `stamp` was run for."""
    checkpoint = make(project, {"a": 1, "x": 2, "p": 3, "ckpt_migrate": "no record"})
    assert project.run("--chain", "weather", "current", checkpoint).code == 1
    project.ok("--chain", "weather", "stamp", "head", checkpoint)
    assert "aaaa00000002" in project.ok("--chain", "weather", "current", checkpoint).out
    assert "base" in project.ok("--chain", "climate", "current", checkpoint).out


def test_stamp_and_proof_know_only_their_chain(site: Path, project: Folder) -> None:
    checkpoint = make(project)
    project.ok("--chain", "climate", "upgrade", "head", checkpoint, "--check-rollback")
    project.ok("--chain", "weather", "stamp", "head", checkpoint)
    project.ok("--chain", "weather", "stamp", "base", checkpoint)
    project.ok("--chain", "weather", "stamp", "head", checkpoint, "--purge")
    record = read_record(checkpoint)
    assert record is not None
    assert [(entry.revision, entry.chain) for entry in record.lineage] == [
        ("bbbb00000001", "climate"),
        ("aaaa00000001", "weather"),
        ("aaaa00000002", "weather"),
    ]


def test_from_python(site: Path, project: Folder) -> None:
    checkpoint = make(project)
    chain = open_chain("weather")
    assert [revision.id for revision in chain.graph] == ["aaaa00000001", "aaaa00000002"]
    assert upgrade(checkpoint, project=chain).end == ("aaaa00000002",)
    with pytest.raises(MigrateError, match="no installed package has a chain 'wether'; the chains are"):
        open_chain("wether")


WRITES_SCRIPTS = {
    "adopt",
    "edit",
    "import_scripts",
    "merge",
    "rebase",
    "release",
    "revision",
    "squash",
    "update_manifest",
    "write_head_file",
}


def test_each_function_takes_a_chain() -> None:
    """All that take a project, but for those that make or change scripts: a published chain is read-only."""
    pytest.importorskip("lightning.pytorch")
    public = {name: getattr(cm, name) for name in [*cm.__all__, "StampingCallback"]}
    taking = {
        name: set(inspect.signature(each).parameters)
        for name, each in public.items()
        if (callable(each) and name[0].islower()) or name in ("Stamper", "StampingCallback")
    }
    with_project = {name for name, parameters in taking.items() if "project" in parameters}
    assert with_project - {name for name, parameters in taking.items() if "chain" in parameters} == WRITES_SCRIPTS


def test_each_of_them_from_python(site: Path, project: Folder) -> None:
    checkpoint = make(project)
    assert [head.revision for head in cm.heads(chain="weather")] == ["aaaa00000002"]
    assert cm.branches(chain="weather").labelled == ()
    assert cm.show("head", chain="weather").revision == "aaaa00000002"
    assert cm.manifest(chain="weather") == []
    assert cm.upgrade(checkpoint, chain="weather").end == ("aaaa00000002",)
    assert [head.revision for head in cm.current(checkpoint, chain="weather").heads] == ["aaaa00000002"]
    assert cm.current(checkpoint, chain="climate").heads == ()
    assert [entry.applied for entry in cm.history(checkpoint, chain="weather").entries] == [True, True]
    assert "aaaa00000002" in cm.draw("mermaid", chain="weather")
    assert cm.check([checkpoint], chain="weather").problems == ()
    assert cm.prove_rollback(checkpoint, "base", chain="weather").skipped == ()
    assert cm.inspect(checkpoint, chain="weather").checkpoint == str(checkpoint)
    assert cm.downgrade(checkpoint, "-1", chain="weather").end == ("aaaa00000001",)
    assert cm.sync(checkpoint, chain="weather").end == ("aaaa00000002",)
    assert cm.stamp(checkpoint, "base", chain="weather").end == ()
    assert [each.status for each in cm.migrate_all([checkpoint], chain="climate")] == ["moved"]


def test_diff_takes_the_path_of_the_state_dict_from_a_chain(site: Path, project: Folder) -> None:
    checkpoint = project.copy()
    (site / "weathermodels" / "ckpts" / "ckpt-migrate.toml").write_text('versions = "."\nparameters = "nowhere"\n')
    assert cm.diff(checkpoint, checkpoint).explanation.operations == ()
    with pytest.raises(MigrateError, match="nowhere"):
        cm.diff(checkpoint, checkpoint, chain="weather")


def test_a_project_and_a_chain_are_too_many(site: Path, project: Folder) -> None:
    checkpoint = make(project)
    before = digest(checkpoint)
    for call in (cm.upgrade, cm.current, cm.inspect):
        with pytest.raises(MigrateError, match="give either `project` or `chain`"):
            call(checkpoint, project=project.path, chain="weather")
    assert digest(checkpoint) == before


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--chain", "nowhere", "heads"], 2, "no installed package has a chain 'nowhere'; the chains are"),
        (["--chain", "weather", "--config", ".", "heads"], 2, "give either --chain or --config"),
        (["--chain", "weather", "revision", "x"], 2, "a published chain is read-only"),
        (["--chain", "weather", "release"], 2, "a published chain is read-only"),
        (["--chain", "weather", "heads", "--write"], 2, "a published chain is read-only"),
        (["--chain", "broken", "heads"], 1, "the chain broken cannot be loaded: brokenmodels.ckpts"),
        (["--chain", "module", "heads"], 1, "the chain module should be in json.decoder, which is not an installed package"),
    ],
)  # fmt: skip
def test_what_cannot_be(site: Path, project: Folder, words: list[str], code: int, says: str) -> None:
    (site / "brokenmodels").mkdir()
    (site / "brokenmodels" / "__init__.py").write_text("1 / 0")
    (site / "brokenmodels-1.0.dist-info").mkdir()
    (site / "brokenmodels-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: b\nVersion: 1.0\n")
    points = "[ckpt_migrate.chains]\nbroken = brokenmodels.ckpts\nmodule = json.decoder\n"
    (site / "brokenmodels-1.0.dist-info" / "entry_points.txt").write_text(points)
    ran = project.run(*words)
    assert ran.code == code
    assert says in ran.err


def test_two_of_one_name(site: Path, project: Folder) -> None:
    publish(site, "others", "weather = others.ckpts", {})
    ran = project.run("--chain", "weather", "heads")
    assert ran.code == 1
    assert "two chains are called weather" in ran.err


def test_a_faulty_chain_changes_nothing(site: Path, project: Folder) -> None:
    checkpoint = make(project)
    before = digest(checkpoint)
    (site / "weathermodels" / "ckpts" / "aaaa00000003_x.py").write_text("revision =")
    ran = project.run("--chain", "weather", "upgrade", "head", checkpoint)
    assert ran.code == 1
    assert "aaaa00000003_x.py" in ran.err
    assert digest(checkpoint) == before
