"""Operations that move names of classes and modules: together, into each other, onto each other, and back.

pkg.yolo.utils.Box  --MoveModule--> pkg.utils.Box
pkg.yolo.train.Loss --MoveClass---> pkg.utils.NewLoss
"""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from anemoi_ckpt_migrate.storage import open_checkpoint  # noqa: E402
from anemoi_ckpt_migrate.tree.class_names import names_in  # noqa: E402
from tests.support.operations import declare  # noqa: E402
from tests.support.project import Folder, digest  # noqa: E402


def saved(monkeypatch: pytest.MonkeyPatch, **classes: str) -> Path:
    """Save a checkpoint with an object of each of some classes, which are gone afterwards."""
    tree = {"state_dict": {"a": torch.ones(3)}}
    with monkeypatch.context() as then:
        for key, name in classes.items():
            module, _, last = name.rpartition(".")
            for part in range(module.count(".") + 1):
                outer = ".".join(module.split(".")[: part + 1])
                then.setitem(sys.modules, outer, sys.modules.get(outer) or types.ModuleType(outer))
            if not hasattr(sys.modules[module], last):
                setattr(sys.modules[module], last, type(last, (), {"__module__": module}))
            tree[key] = getattr(sys.modules[module], last)()
        torch.save(tree, "x.pt")
    return Path("x.pt")


def named(path: Path) -> list[str]:
    with open_checkpoint(path) as opened:
        return sorted({".".join(name.pickled_name) for name in names_in(opened.load())})


BOX, LOSS = "pkg.yolo.utils.Box", "pkg.yolo.train.Loss"
MODULE, CLASS = 'op.MoveModule("pkg.yolo.utils", "pkg.utils")', f'op.MoveClass("{LOSS}", "pkg.utils.NewLoss")'
MOVES = {
    "the class first": ([CLASS, MODULE], [BOX, LOSS], ["pkg.utils.Box", "pkg.utils.NewLoss"]),
    "the module first": ([MODULE, CLASS], [BOX, LOSS], ["pkg.utils.Box", "pkg.utils.NewLoss"]),
    "two modules into one": (
        ['op.MoveModule("a", "c")', 'op.MoveModule("b", "c")'],
        ["a.A", "b.B", "b.deep.D"],
        ["c.A", "c.B", "c.deep.D"],
    ),
    "into the module above": (['op.MoveModule("pkg.yolo", "pkg")'], [BOX, "pkg.own.O"], ["pkg.own.O", "pkg.utils.Box"]),
    "into a module below": (
        ['op.MoveModule("pkg", "pkg.old")'],
        ["pkg.A", "pkg.old.B"],
        ["pkg.old.A", "pkg.old.old.B"],
    ),
    "on along a chain": (
        ['op.MoveModule("b", "c")', 'op.MoveModule("a", "b")'],
        ["a.A", "b.B"],
        ["b.A", "c.B"],
    ),
    "two classes change places": (
        ['op.MoveClass("a.A", "a.Z")', 'op.MoveClass("a.B", "a.A")', 'op.MoveClass("a.Z", "a.B")'],
        ["a.A", "a.B"],
        ["a.A", "a.B"],
    ),
}


@pytest.mark.parametrize("case", MOVES)
def test_moves_and_the_way_back(project: Folder, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    operations, before, after = MOVES[case]
    checkpoint = saved(monkeypatch, **{f"k{number}": name for number, name in enumerate(before)})
    declare(project, "a1", *operations)
    project.ok("upgrade", "head", checkpoint, "--check-rollback", "--no-backup")
    assert named(checkpoint) == after
    project.ok("downgrade", "base", checkpoint, "--no-backup")
    assert named(checkpoint) == sorted(before)


@pytest.mark.parametrize("operation", ['op.MoveClass("a.A", "b.A")', 'op.MoveModule("a", "b")'])
def test_two_classes_that_become_one_cannot_be_told_apart_again(
    project: Folder, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    checkpoint = saved(monkeypatch, one="a.A", other="b.A")
    before = digest(checkpoint)
    declare(project, "a1", operation)
    refused = project.run("upgrade", "head", checkpoint, "--check-rollback")
    assert refused.code == 3
    assert "the checkpoint had both a.A and b.A, which now have one name" in refused.err
    assert digest(checkpoint) == before
    assert "cannot be undone here: the checkpoint had both a.A and b.A" in project.ok("upgrade", "head", checkpoint).err
    assert named(checkpoint) == ["b.A"]
    assert project.run("downgrade", "base", checkpoint).code == 3
    assert named(checkpoint) == ["b.A"]


@pytest.mark.parametrize(
    "operation", ['op.MoveClass("a.A", "b.A")', 'op.MoveModule("a", "b")', 'op.MoveNames([["a.A", "b.A"]])']
)
def test_what_the_revision_put_aside_before_comes_back_as_it_was(
    project: Folder, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    """drop "one" --> move the class of "one" and "two" --> drop "two" --> and all the way back"""
    checkpoint = saved(monkeypatch, one="a.A", two="a.A")
    declare(project, "a1", 'op.DropItem("one")', operation, 'op.DropItem("two")')
    project.ok("upgrade", "head", checkpoint, "--check-rollback", "--no-backup")
    assert named(checkpoint) == []
    project.ok("downgrade", "base", checkpoint, "--no-backup")
    assert named(checkpoint) == ["a.A"]
