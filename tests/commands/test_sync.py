"""Whatever brings a checkpoint to the heads of the scripts: down first, as far as they do not know what it has, then up.

1700000001_a --- 1700000002_b --- 1700000003_c          imported; `d` is noted in the checkpoint alone
"""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from anemoi_ckpt_migrate import MigrateError, sync  # noqa: E402
from anemoi_ckpt_migrate.other_tools.match_revisions import revision_of  # noqa: E402
from tests.support.migrations_list import (  # noqa: E402
    MigrationMetadata,
    _SerializedRollback,
    anemoi,
    content,
    entry,
    import_chain,
    make,
    name_of,
    noted,
    once,
    script,
    stub,
    undo,
)
from tests.support.project import Folder, backups, digest  # noqa: E402


@pytest.fixture
def chain(project: Folder) -> Folder:
    return import_chain(project)


def test_what_only_the_checkpoint_knows_is_undone(chain: Folder) -> None:
    path = make(chain, [once("a"), once("b"), once("d", undo("d"))], "abd")
    before = digest(path)
    refused = chain.run("sync", path)
    assert refused.code == 3
    assert "runs only with --trust-checkpoint-code; it is a pickle, which cannot be read first" in refused.err
    assert digest(path) == before
    ran = chain.ok("sync", path, "--trust-checkpoint-code", "--json")
    assert [(step["name"], step["direction"]) for step in ran.lines[0]["steps"]] == [
        ("d", "downgrade"),
        ("c", "upgrade"),
    ]
    assert ran.lines[0]["backup"] is not None
    assert content(path)["done"] == "abc"
    assert noted(path) == ["a", "b", "c"]
    assert "sync" in chain.ok("current", "-v", path).out
    assert "nothing to do" in chain.ok("sync", path).out
    assert len(backups(path)) == 1


def test_upgrade_does_not_go_down(chain: Folder) -> None:
    path = make(chain, [once("a"), once("d", undo("d"))], "ad")
    ran = chain.run("upgrade", "head", path)
    assert ran.code == 1
    assert f"{revision_of(name_of('d'))} ({name_of('d')}), which no script here knows" in ran.err
    chain.ok("downgrade", "-1", path, "--trust-checkpoint-code")
    assert (content(path)["done"], noted(path)) == ("a", ["a"])


def test_newer_code_knows_it_again(chain: Folder) -> None:
    """Undone or not: once its script is imported, it is a revision as any other."""
    path = make(chain, [once(letter) for letter in "abc"] + [once("d", undo("d"))], "abcd")
    (chain.path / "seeds" / f"{name_of('d')}.py").write_text(script("d"))
    chain.ok("import-scripts", chain.path / "seeds")
    assert "nothing to do" in chain.ok("sync", path).out


def test_classes_that_moved_go_back_first(chain: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rollback that does nothing is one where all that changed are names."""
    schema = type("Schema", (), {"__module__": "weather.new"})
    for name in ("weather", "weather.new"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["weather.new"].Schema = schema  # type: ignore[attr-defined]
    setup = {"attribute_paths": {"weather.new.Schema": "weather.old.Plan"}, "module_paths": {}}
    path = make(chain, [once("a"), once("b"), once("c"), once("d", stub, setup)], "abc")
    with anemoi(MigrationMetadata, _SerializedRollback):
        tree = torch.load(path, weights_only=False)
        tree["schema"] = schema()
        torch.save(tree, path)
    chain.ok("sync", path, "--trust-checkpoint-code")
    classes = [each["name"] for each in chain.ok("inspect", path, "--json").lines[0]["classes"]]
    assert "weather.old.Plan" in classes
    assert "weather.new.Schema" not in classes


@pytest.mark.parametrize(
    ("extra", "python", "code", "says"),
    [
        (entry("d"), "3.11", 3, "has no rollback"),
        (once("d"), "3.11", 3, "has no rollback"),
        (once("d", undo("d")), None, 3, "has no rollback"),
        (once("d", undo("d")), "3.99", 1, "it is byte code of cpython-3.99"),
        (once("d", stub), "", 1, "the pickled rollback does nothing"),
        ({**once("d"), "rollback": 3}, "3.11", 3, "has no rollback"),
        ({**once("d", undo("d")), "setup_context": {"attribute_paths": {"x": "y"}}}, "", 3, "has no rollback"),
    ],
)
def test_what_nothing_undoes(chain: Folder, extra: Any, python: str | None, code: int, says: str) -> None:
    options = {"python": python} if python != "" else {}
    path = make(chain, [once("a"), once("b"), extra], "abd", **options)  # type: ignore[arg-type]
    before = digest(path)
    ran = chain.run("sync", path, "--trust-checkpoint-code")
    assert ran.code == code
    assert says in ran.err
    assert digest(path) == before
    assert not backups(path)


def test_damaged_pickles(chain: Folder) -> None:
    broken = once("d", undo("d"))
    broken["rollback"].pickled = broken["rollback"].pickled[:-20]
    path = make(chain, [once("a"), broken], "ad")
    ran = chain.run("sync", path, "--trust-checkpoint-code")
    assert ran.code == 1
    assert "the pickled rollback cannot be loaded: it needs a package" in ran.err


# The same without anemoi: a checkpoint that code has moved which is newer, or of another branch.


def add(letter: str) -> dict[str, str]:
    return {
        "migrate": f'ckpt["state_dict"]["{letter}"] = 1',
        "rollback": f'del ckpt["state_dict"]["{letter}"]',
    }


def made(path: Path) -> str:
    found = torch.load(path, weights_only=True)["state_dict"]
    return "".join(name for name in found if len(name) == 1)


def test_the_way_back_that_a_checkpoint_carries(project: Folder) -> None:
    """
    here       a --- b
    elsewhere  a --- b --- c
    """
    project.script("a", None, **add("a"))
    project.script("b", "a", **add("b"))
    last = project.script("c", "b", **add("c"))
    path = project.copy()
    project.ok("upgrade", "head", path)
    last.unlink()
    before = digest(path)
    refused = project.run("sync", path)
    assert refused.code == 3
    assert "read it first with `ckpt-migrate show c --from" in refused.err
    dry = project.ok("sync", path, "--trust-checkpoint-code", "--dry-run")
    assert "downgrade c" in dry.out
    assert digest(path) == before
    result = sync(path, trust_checkpoint_code=True)
    assert (result.start, result.end) == (("c",), ("b",))
    assert made(path) == "ab"


def test_another_order(project: Folder) -> None:
    """
    here       a --- b --- c
    elsewhere  a --- e --- c         which became c after b and without e
    """
    project.script("a", None, **add("a"))
    other = project.script("e", "a", **add("e"))
    project.script("c", "e", **add("c"))
    path = project.copy()
    project.ok("upgrade", "head", path)
    assert made(path) == "aec"
    other.unlink()
    project.script("b", "a", **add("b"))
    project.script("c", "b", **add("c"))
    ran = project.ok("sync", path, "--trust-checkpoint-code", "--json")
    steps = [(step["direction"], step["revision"]) for step in ran.lines[0]["steps"]]
    assert steps == [("downgrade", "c"), ("downgrade", "e"), ("upgrade", "b"), ("upgrade", "c")]
    assert made(path) == "abc"
    project.ok("downgrade", "base", path)
    assert made(path) == ""


def test_operations_need_no_trust(project: Folder) -> None:
    declared = 'from anemoi_ckpt_migrate import op\noperations = [op.Rename("x.weight", "y.weight")]'
    path = project.copy()
    last = project.script("a", None, None, None, top=declared)
    project.ok("upgrade", "head", path)
    last.unlink()
    project.script("b", None, **add("b"))
    project.ok("sync", path)
    assert "x.weight" in torch.load(path, weights_only=True)["state_dict"]
    assert made(path) == "b"


def test_all_heads(project: Folder) -> None:
    for name in ("a", "b"):
        project.script(name, None, **add(name))
    path = project.copy()
    assert sync(path).end == ("a", "b")
    assert sync(path).steps == ()


def test_all_or_nothing(project: Folder) -> None:
    """What fails on the way up leaves the file as it was before the way down."""
    last = project.script("a", None, **add("a"))
    path, other = project.copy(), project.copy(to="other.ckpt")
    project.ok("upgrade", "head", path)
    last.unlink()
    project.script("b", None, add("b")["migrate"], "pass")
    project.script("c", "b", 'raise ValueError("no way") if "optimizer_states" in ckpt else None')
    before = digest(path), digest(other)
    ran = project.run("sync", path, other, "--trust-checkpoint-code", "--json")
    assert ran.code == 1
    assert [line["error"]["type"] for line in ran.lines] == ["MigrationFailed"] * 2
    assert (digest(path), digest(other)) == before
    with pytest.raises(MigrateError, match="no way"):
        sync(other)


def test_barriers(project: Folder) -> None:
    barrier = project.script("a", None, final=True)
    path = project.copy()
    project.ok("stamp", "head", path)
    barrier.unlink()
    project.script("b", None, **add("b"))
    before = digest(path)
    ran = project.run("sync", path)
    assert ran.code == 3
    assert "barrier a" in ran.err
    project.script("c", "b", final=True)
    ran = project.run("sync", project.copy(to="other.ckpt"))
    assert ran.code == 3
    assert "barrier c" in ran.err
    assert digest(path) == before


def test_in_place_and_elsewhere(project: Folder) -> None:
    last = project.script("a", None, **add("a"))
    path = project.copy()
    project.ok("upgrade", "head", path, "--in-place")
    last.unlink()
    project.script("b", None, **add("b"))
    before = digest(path)
    project.ok("sync", path, "--trust-checkpoint-code", "--output", project.path / "new.ckpt")
    assert digest(path) == before
    assert made(project.path / "new.ckpt") == "b"
    project.ok("sync", path, "--trust-checkpoint-code", "--in-place")
    assert made(path) == "b"
