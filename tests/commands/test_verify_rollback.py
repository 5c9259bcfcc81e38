"""The proof of a way back, and what it finds: everything that a program could tell from the file before and after.

before --migrate--> (pickled, loaded) --rollback--> after       before == after ?
"""

from __future__ import annotations

import collections
import pathlib
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
import numpy as np  # noqa: E402

from anemoi_ckpt_migrate import prove_rollback  # noqa: E402
from tests.support.operations import declare  # noqa: E402
from tests.support.project import Folder, digest  # noqa: E402


def scripted(project: Folder, migrate: str, rollback: str) -> None:
    body = "revision = 'a1'\ndown_revision = None\nimport torch\nfrom anemoi_ckpt_migrate import MigrationMetadata\n"
    body += 'metadata = MigrationMetadata(versions={"migration": "1.0.0"})\n'
    for name, line in (("migrate", migrate), ("rollback", rollback)):
        body += f"\ndef {name}(ckpt):\n    {line}\n    return ckpt\n"
    (project.path / "versions" / "a1_change.py").write_text(f'"""change a1"""\n{body}')


def tree() -> dict[str, Any]:
    torch.manual_seed(0)
    weight = torch.randn(4, 3)
    shared = [1]
    return {
        "sd": {"a": weight, "tied": weight, "f": torch.nn.Parameter(torch.ones(2), requires_grad=False)},
        "x": 0.0,
        "z": complex(1, 0),
        "n": float("nan"),
        "by": {0: "zero", 1: "one"},
        "set": {1, 2},
        "p": shared,
        "q": shared,
        "o": collections.OrderedDict(a=1, b=2),
    }


@pytest.mark.parametrize(
    ("rollback", "says"),
    [
        ("ckpt['x'] = -0.0", "x: it was 0.0, and is -0.0"),
        ("ckpt['x'] = 0", "x: it was a float, and is a int"),
        ("ckpt['z'] = complex(1, -0.0)", "z: it was (1+0j), and is (1-0j)"),
        ("ckpt['n'] = -ckpt['n']", "n: it was nan, and is nan"),
        ("ckpt['by'] = {False: 'zero', 1: 'one'}", "by: the key 0 is now False"),
        ("ckpt['set'] = {1.0, 2}", "set: it was {1, 2}, and is {1.0, 2}"),
        ("ckpt['q'] = list(ckpt['q'])", "q: it is now the same object as another list"),
        ("ckpt['o'].move_to_end('a')", "o: the order of its keys differs: a was number 1, now b is"),
        ("ckpt['sd']['tied'] = ckpt['sd']['a'].clone()", "sd.tied: it shares its memory with another tensor"),
        ("ckpt['sd']['a'][0, 0] += 1", "sd.a: its values differ"),
        ("ckpt['sd']['a'] = ckpt['sd']['a'].double()", "sd.a: its dtype was float32, and is float64"),
        ("ckpt['sd']['f'].requires_grad_(True)", "sd.f: it was False, and is True"),
        ("ckpt['sd']['f'] = ckpt['sd']['f'].data", "sd.f: it was a parameter, and is a tensor"),
        ("ckpt['sd']['a'].requires_grad_(True)", "sd.a: its requires_grad was False, and is True"),
        ("ckpt['sd']['a'] = ckpt['sd']['a'].to_sparse()", "sd.a: it was a tensor, and is a sparse tensor"),
        ("ckpt['sd']['a'] = ckpt['sd']['a'].to('meta')", "sd.a: it was a tensor, and is a meta tensor"),
        ("ckpt['new'] = 1", "the checkpoint: new was not there"),
    ],
)  # fmt: skip
def test_a_rollback_that_is_not_quite_one(project: Folder, rollback: str, says: str) -> None:
    checkpoint = project.path / "x.pt"
    torch.save(tree(), checkpoint)
    before = digest(checkpoint)
    scripted(project, "pass", rollback)
    ran = project.run("upgrade", "head", checkpoint, "--check-rollback")
    assert ran.code == 3
    assert says in ran.err
    assert digest(checkpoint) == before


def test_nothing_done_is_proven(project: Folder) -> None:
    checkpoint = project.path / "x.pt"
    content = tree() | {"path": pathlib.Path("/x"), "array": np.arange(3), "sparse": torch.eye(2).to_sparse()}
    content["conjugate"] = torch.randn(2, dtype=torch.cfloat).conj()
    torch.save(content, checkpoint)
    scripted(project, "ckpt['sd']['a'].mul_(2)", "ckpt['sd']['a'].div_(2)")
    project.ok("upgrade", "head", checkpoint, "--check-rollback")
    assert "proven" in project.ok("current", "-v", checkpoint).out


@pytest.mark.parametrize("made", ["pathlib.Path('/x/y')", "torch.float32", "torch.device('cpu')", "range(3)"])
def test_what_is_in_between_is_what_the_file_will_hold(project: Folder, made: str) -> None:
    """In one process, the rollback would see the very object; in another it sees what was pickled of it."""
    checkpoint = project.path / "x.pt"
    torch.save({"sd": {"w": torch.ones(2)}, "hp": {"p": "/x/y"}}, checkpoint)
    scripted(project, f"import pathlib; ckpt['hp']['t'] = {made}", "ckpt['text'] = str(ckpt['hp'].pop('t'))")
    ran = project.run("upgrade", "head", checkpoint, "--check-rollback")
    assert ran.code in (1, 3)
    assert "Traceback" not in ran.err


def test_items_that_only_a_class_knows_are_not_taken_for_none(project: Folder) -> None:
    checkpoint = project.path / "x.pt"
    torch.save({"sd": {"w": torch.ones(2)}, "array": np.arange(3)}, checkpoint)
    before = digest(checkpoint)
    scripted(project, "ckpt['list'] = [int(x) for x in ckpt.pop('array')]", "pass")
    ran = project.run("upgrade", "head", checkpoint)
    assert ran.code == 1
    assert "knows whether it has items: add its module to `trusted`" in ran.err
    assert digest(checkpoint) == before


CLASSES = """
import dataclasses

@dataclasses.dataclass
class Data:
    x: object
    w: object = None

class Plain:
    def __eq__(self, other):
        return True
"""


@pytest.mark.parametrize("cls", ["Data", "Plain"])
def test_objects_of_trusted_classes(project: Folder, cls: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are compared by what would be pickled of them, not by what their class calls equal."""
    (project.path / "mycfg.py").write_text(CLASSES)
    monkeypatch.syspath_prepend(project.path)
    import importlib

    mycfg = importlib.import_module("mycfg")
    config = project.path / "ckpt-migrate.toml"
    config.write_text(config.read_text() + '\ntrusted = ["mycfg"]\n')
    checkpoint = project.path / "x.pt"
    value = mycfg.Data(1, torch.ones(2)) if cls == "Data" else mycfg.Plain()
    vars(value)["x"] = 1
    torch.save({"sd": {"w": torch.ones(2)}, "cfg": value}, checkpoint)
    scripted(project, "pass", "pass")
    project.ok("upgrade", "head", checkpoint, "--check-rollback", "--output", project.path / "y.pt")
    scripted(project, "pass", "ckpt['cfg'].x = True")
    ran = project.run("upgrade", "head", checkpoint, "--check-rollback")
    assert ran.code == 3
    assert "it was a int, and is a bool" in ran.err
    monkeypatch.delitem(__import__("sys").modules, "mycfg")


def test_a_dry_run_proves_too(project: Folder) -> None:
    checkpoint = project.path / "x.pt"
    torch.save(tree(), checkpoint)
    scripted(project, "pass", "ckpt['x'] = 1")
    assert project.run("upgrade", "head", checkpoint, "--dry-run", "--check-rollback").code == 3
    assert project.run("upgrade", "head", checkpoint, "--dry-run").code == 0


def test_from_python(project: Folder) -> None:
    checkpoint = project.path / "x.pt"
    torch.save({"state_dict": {"a": torch.ones(2, 3)}}, checkpoint)
    declare(project, "a1", 'op.Transpose("a")')
    declare(project, "a2", 'op.Cast("a", "float64")', parents="a1")
    before: Path = checkpoint
    assert prove_rollback(before, project=project.path).up == ("a1", "a2")


def test_parameters_that_are_stacked_and_what_functions_make(project: Folder) -> None:
    """Kinds of tensors are given back too, with a function that makes tensors in the middle."""
    checkpoint = project.path / "x.pt"
    states = {f"e.{n}.w": torch.nn.Parameter(torch.randn(2, 3)) for n in range(3)}
    torch.save({"state_dict": states}, checkpoint)
    top = "\ndef double(ckpt):\n    for name, value in ckpt['state_dict'].items():\n"
    top += "        ckpt['state_dict'][name] = type(value)(value.data * 2)\n    return ckpt\n"
    top += top.replace("double", "halve").replace("* 2", "/ 2")
    declare(project, "a1", 'op.Stack("e.{i}.w", "e.w")', 'op.Run("double", "halve")', 'op.Transpose("e.w")', top=top)
    declare(project, "a2", 'op.Rename("e.w", "w")', parents="a1")
    project.ok("upgrade", "head", checkpoint, "--check-rollback")
    assert type(torch.load(checkpoint, weights_only=False)["state_dict"]["w"]) is torch.nn.Parameter
