"""`check --rollback`: up and back down, down and up again, and what of it cannot be tried.

a1 -> a2 -> [checkpoint] -> a3 -> a4       a2, a1 down and up again; a3, a4 up and down again
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import anemoi_ckpt_migrate as cm  # noqa: E402
from tests.support.operations import declare  # noqa: E402
from tests.support.project import Folder, digest  # noqa: E402

UP, DOWN = "ckpt['epoch'] += 1", "ckpt['epoch'] -= 1"
BROKEN = "raise ValueError('no way back')"


@pytest.fixture
def line(project: Folder) -> Folder:
    """Four revisions of functions, and a checkpoint."""
    for number in range(1, 5):
        project.script(f"a{number}", f"a{number - 1}" if number > 1 else None, UP, DOWN)
    torch.save({"state_dict": {"w": torch.ones(2)}, "epoch": 0}, project.path / "x.pt")
    return project


def at(project: Folder, target: str) -> Path:
    path = project.path / "x.pt"
    if target != "base":
        project.ok("upgrade", target, path, "--no-backup")
    return path


def irreversible(project: Folder, revision: str, parent: str) -> None:
    """Have a script say that it cannot be undone."""
    script = project.script(revision, parent, UP, None)
    script.write_text(script.read_text() + "\nrollback = None\n")


@pytest.mark.parametrize(
    ("target", "up", "down"),
    [
        ("base", ("a1", "a2", "a3", "a4"), ()),
        ("a2", ("a3", "a4"), ("a2", "a1")),
        ("head", (), ("a4", "a3", "a2", "a1")),
    ],
)
def test_both_ways_from_anywhere(line: Folder, target: str, up: tuple[str, ...], down: tuple[str, ...]) -> None:
    path = at(line, target)
    before = digest(path)
    proof = cm.prove_rollback(path)
    assert (proof.up, proof.down, proof.skipped) == (up, down, ())
    assert line.ok("check", "--rollback", path).out == "4 revisions and 1 checkpoint: no problems\n"
    assert digest(path) == before


@pytest.mark.parametrize("target", ["base", "a2", "head"])
@pytest.mark.parametrize(
    ("rollback", "says"),
    [
        (BROKEN, "`rollback` failed with ValueError: no way back"),
        ("pass", "the rollback of a3 is not the inverse of its migration: epoch"),
    ],
)
def test_a_way_back_that_is_none_is_found_from_anywhere(line: Folder, target: str, rollback: str, says: str) -> None:
    path = at(line, target)
    line.script("a3", "a2", UP, rollback)
    ran = line.run("check", "--rollback", path)
    assert ran.code == 1
    assert says in ran.out


@pytest.mark.parametrize(
    ("target", "up", "down", "skipped"),
    [
        ("base", ("a1", "a2", "a4"), (), {"a3": "it is declared irreversible"}),
        ("a2", ("a4",), ("a2", "a1"), {"a3": "it is declared irreversible"}),
        (
            "head",
            (),
            ("a4",),
            {"a3": "it is declared irreversible", "a2": "a3 is above", "a1": "a3 is above"},
        ),
    ],
)
def test_what_is_declared_irreversible_is_skipped_and_named(
    line: Folder, target: str, up: tuple[str, ...], down: tuple[str, ...], skipped: dict[str, str]
) -> None:
    irreversible(line, "a3", "a2")
    path = at(line, target)
    proof = cm.prove_rollback(path)
    assert (proof.up, proof.down) == (up, down)
    assert {each.revision: each.why for each in proof.skipped} == skipped
    out = line.ok("check", "--rollback", path).out
    assert "x.pt: not tested: a3 (change a3): it is declared irreversible" in out
    checked = json.loads(line.ok("check", "--rollback", path, "--json").out)
    assert [each["revision"] for each in checked["proofs"][0]["skipped"]] == list(skipped)


@pytest.mark.parametrize("broken", ["a2", "a4"])
def test_the_others_are_tried_all_the_same(line: Folder, broken: str) -> None:
    irreversible(line, "a3", "a2")
    line.script(broken, f"a{int(broken[1]) - 1}", UP, "pass")
    ran = line.run("check", "--rollback", at(line, "base"))
    assert ran.code == 1
    assert f"the rollback of {broken} is not the inverse" in ran.out


@pytest.mark.parametrize("target", ["base", "head"])
def test_what_loses_something_and_does_not_say_so_is_a_problem(project: Folder, target: str) -> None:
    torch.save({"state_dict": {"w": torch.ones(2), "v": torch.ones(2)}, "epoch": 0}, "x.pt")
    declare(project, "a1", 'op.Drop("w")')
    ran = project.run("check", "--rollback", at(project, target))
    assert ran.code == 1
    assert "a1 cannot be undone" in ran.out


def test_an_upgrade_that_wants_the_proof_of_it_all_is_refused(line: Folder) -> None:
    irreversible(line, "a3", "a2")
    path = at(line, "base")
    ran = line.run("upgrade", "head", path, "--check-rollback")
    assert ran.code == 3
    assert "a3 cannot be undone" in ran.err


def test_as_far_as_barriers(line: Folder) -> None:
    """a1, a2 -> [a3: a barrier] -> a4"""
    line.script("a3", "a2", final=True)
    path = at(line, "base")
    out = line.ok("check", "--rollback", path).out
    assert "x.pt: not tested: a3 (change a3), a4 (change a4): it is a barrier, or above one" in out
    line.ok("stamp", "a3", path, "--no-backup")
    out = line.ok("check", "--rollback", path).out
    assert "x.pt: not tested: a3 (change a3): it is a barrier" in out
    assert cm.prove_rollback(path).up == ("a4",)


def test_several_heads(line: Folder) -> None:
    """a2 -> a3 -> a4, and a2 -> b1 -> b2"""
    config = line.path / "ckpt-migrate.toml"
    config.write_text(config.read_text() + "several_heads = true\n")
    line.script("b1", "a2", UP, DOWN)
    line.script("b2", "b1", UP, DOWN)
    proof = cm.prove_rollback(at(line, "b1"))
    assert set(proof.up) == {"a3", "a4", "b2"}
    assert proof.down == ("b1", "a2", "a1")
    line.script("b2", "b1", UP, "pass")
    assert line.run("check", "--rollback", at(line, "heads")).code == 1


def test_nothing_to_be_tried(project: Folder) -> None:
    torch.save({"state_dict": {"w": torch.ones(2)}, "epoch": 0}, "x.pt")
    assert (
        "x.pt: no rollback was tested, because it has no revisions and there are none to apply\n"
        in project.ok("check", "--rollback", "x.pt").out
    )
    declare(project, "a1", 'op.Drop("w", keep=True)')
    project.ok("stamp", "head", "x.pt", "--no-backup")
    out = project.ok("check", "--rollback", "x.pt").out
    assert "not tested: a1 (change a1): it was stamped, not applied" in out
    assert "x.pt: no rollback was tested\n" in out


def test_operations_go_down_with_what_the_record_carries(project: Folder) -> None:
    torch.save({"state_dict": {"w": torch.ones(2), "v": torch.ones(3)}, "epoch": 0}, "x.pt")
    declare(project, "a1", 'op.Drop("w", keep=True)', 'op.Rename("v", "u")')
    declare(project, "a2", 'op.Add("n", [2])', 'op.SetItem("epoch", 7)', parents="a1")
    project.ok("upgrade", "head", "x.pt", "--no-backup")
    assert cm.prove_rollback("x.pt").down == ("a2", "a1")
    assert project.ok("check", "--rollback", "x.pt").out == "2 revisions and 1 checkpoint: no problems\n"
    trained = torch.load("x.pt", weights_only=True)
    trained["epoch"] = 8
    torch.save(trained, "x.pt")
    ran = project.run("check", "--rollback", "x.pt")  # as a downgrade would be refused
    assert ran.code == 1
    assert "epoch has changed since it was set" in ran.out
