"""The way back: from the script on disk, else from what the checkpoint carries, if trusted."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from anemoi_ckpt_migrate.record import embed
from anemoi_ckpt_migrate.record.record import to_data
from anemoi_ckpt_migrate.runtime.carried_code import PYTHON
from anemoi_ckpt_migrate.storage import open_checkpoint
from tests.support.project import RENAME, Folder, digest, load, names


class Marker:
    """Pickles to a call that leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.write_text, (self.path, "unpickled")


def rewrite_record(checkpoint: Path, **undo: str | None) -> None:
    """Change what a checkpoint carries, as a stranger might."""
    with open_checkpoint(checkpoint) as file:
        tree = file.load()
        data = to_data(embed.take(tree, None))
        data["lineage"][0]["undo"] |= undo
        tree[embed.KEY] = data
        file.write(file.pickled(tree), {}, backup=False)


def test_the_script_on_disk_is_preferred(project: Folder) -> None:
    script = project.script("a1", None, **RENAME)
    checkpoint = project.copy()
    project.ok("upgrade", "head", checkpoint)
    script.write_text(script.read_text().replace("def rollback(ckpt):", 'def rollback(ckpt):\n    ckpt["by"] = "disk"'))
    ran = project.ok("downgrade", "-1", checkpoint)
    assert "the script of a1 (change a1) has changed since it was applied" in ran.err
    with open_checkpoint(checkpoint) as file:
        assert file.load()["by"] == "disk"


def test_carried_code_runs_only_if_trusted(project: Folder) -> None:
    script = project.script("a1", None, **RENAME)
    checkpoint = project.copy()
    project.ok("upgrade", "head", checkpoint)
    script.unlink()
    before = digest(checkpoint)
    for options in ([], ["--dry-run"]):
        ran = project.run("downgrade", "base", checkpoint, *options)
        assert ran.code == 3
        assert f"`ckpt-migrate show a1 --from {checkpoint}`" in ran.err
        assert digest(checkpoint) == before
    assert RENAME["rollback"] in project.ok("show", "a1", "--from", checkpoint).out
    ran = project.ok("downgrade", "base", checkpoint, "--trust-checkpoint-code")
    assert "(code from the checkpoint)" in ran.out
    assert "x.weight" in names(checkpoint)


def test_what_the_script_uses_goes_by_value(project: Folder) -> None:
    top = "import json\nOLD, NEW = 'x.weight', 'y.weight'\ndef move(d, a, b):\n    d[b] = d.pop(json.loads(json.dumps(a)))\n"
    script = project.script(
        "a1", None, 'move(ckpt["state_dict"], OLD, NEW)', 'move(ckpt["state_dict"], NEW, OLD)', top=top
    )
    checkpoint = project.copy()
    project.ok("upgrade", "head", checkpoint)
    script.unlink()
    rewrite_record(checkpoint, source="raise RuntimeError('the pickled function is enough')")
    project.ok("downgrade", "base", checkpoint, "--trust-checkpoint-code")
    assert "x.weight" in names(checkpoint)


@pytest.mark.parametrize("python", ["cpython-3.9", "cpython-3.99", "pypy-3.11"])
def test_a_function_of_another_python_is_never_unpickled(project: Folder, python: str) -> None:
    import pickle

    script = project.script("a1", None, **RENAME)
    checkpoint, trap = project.copy(), project.path / "trap"
    project.ok("upgrade", "head", checkpoint)
    script.unlink()
    poison = base64.b64encode(pickle.dumps(Marker(trap))).decode()
    rewrite_record(checkpoint, pickle=poison, python=python)
    project.ok("downgrade", "base", checkpoint, "--trust-checkpoint-code")
    assert not trap.exists()
    assert "x.weight" in names(checkpoint)


def test_nothing_a_checkpoint_carries_runs_by_itself(project: Folder) -> None:
    import pickle

    script = project.script("a1", None, **RENAME)
    checkpoint, trap = project.copy(), project.path / "trap"
    project.ok("upgrade", "head", checkpoint)
    poison = base64.b64encode(pickle.dumps(Marker(trap))).decode()
    source = f"open({str(trap)!r}, 'w')\n{script.read_text()}"
    rewrite_record(checkpoint, pickle=poison, python=PYTHON, source=source)
    project.ok("show", "a1", "--from", checkpoint)
    project.ok("history", checkpoint)
    project.ok("current", checkpoint)
    project.ok("downgrade", "base", checkpoint)  # the script on disk does it
    assert not trap.exists()


def test_an_irreversible_step_is_known_before_the_first_one_runs(project: Folder) -> None:
    project.script("a1", None)
    project.script("a2", "a1", rollback=None)
    project.script("a3", "a2", rollback='raise RuntimeError("ran")')
    checkpoint = project.copy()
    assert "upgrade a2  change a2  (irreversible)" in project.ok("upgrade", "head", checkpoint).out
    before = digest(checkpoint)
    for target in ("base", "a1", "-3"):
        ran = project.run("downgrade", target, checkpoint)
        assert ran.code == 3
        assert "a2 has no rollback; run `downgrade -1` to undo the revisions after it" in ran.err
    assert digest(checkpoint) == before


def test_of_several_steps_without_a_rollback_the_last_one_stops_first(project: Folder) -> None:
    """a1 - a2 - a3 - a4 - a5        a2 and a4 have none"""
    for number in range(1, 6):
        parent = f"a{number - 1}" if number > 1 else None
        project.script(f"a{number}", parent, rollback=None if number in (2, 4) else "pass")
    checkpoint = project.copy()
    project.ok("upgrade", "head", checkpoint)
    ran = project.run("downgrade", "base", checkpoint)
    assert (ran.code, "a4, a2 have no rollback; run `downgrade -1` to undo the revisions after it" in ran.err) == (
        3,
        True,
    )
    project.ok("downgrade", "-1", checkpoint)


def test_no_number_of_steps_is_named_that_would_undo_another_branch(project: Folder) -> None:
    r"""
    a - c - d       c has no rollback
     \
      - b           applied last
    """
    for rev, parent in (("a", None), ("c", "a"), ("d", "c"), ("b", "a")):
        project.script(rev, parent, rollback=None if rev == "c" else "pass")
    checkpoint = project.copy()
    project.ok("upgrade", "d", checkpoint)
    project.ok("upgrade", "b", checkpoint)
    ran = project.run("downgrade", "d@a", checkpoint)
    assert (ran.code, "c has no rollback; use a backup" in ran.err) == (3, True)


def test_code_that_never_saw_operations_goes_down_without_trust(project: Folder) -> None:
    """The command that the message names asks for no more trust than it takes: none, for data."""
    script = project.script("a1", None)
    text = script.read_text().partition("\ndef ")[0].replace("import Migr", "import op, Migr")
    script.write_text(f'{text}\noperations = [op.SetItem("new", 1)]\n')
    checkpoint = project.copy()
    project.ok("upgrade", "head", checkpoint)
    script.unlink()
    ran = project.run("upgrade", "head", checkpoint)
    assert ran.code == 1
    assert "undo with `ckpt-migrate downgrade -1 CKPT`, or" in ran.err
    project.ok("downgrade", "-1", checkpoint)
    assert "new" not in load(checkpoint)


def test_code_that_never_saw_a_revision_still_goes_down(project: Folder) -> None:
    """Newer code applied a1 - a2 - a3; the code here knows a1."""
    for revision, parent in (("a1", None), ("a2", "a1"), ("a3", "a2")):
        project.script(revision, parent, f'ckpt["{revision}"] = 1', f'del ckpt["{revision}"]')
    checkpoint = project.copy()
    project.ok("upgrade", "head", checkpoint)
    for revision in ("a2", "a3"):
        (project.path / "versions" / f"{revision}_change.py").unlink()
    ran = project.run("upgrade", "head", checkpoint)
    assert ran.code == 1
    assert "the checkpoint has a2, a3, which no script here knows; use the project that wrote it, undo with" in ran.err
    assert "`ckpt-migrate downgrade -2 CKPT --trust-checkpoint-code`" in ran.err
    history = project.ok("history", checkpoint).out
    assert "* a3  change a3  <- a2  (the checkpoint is here, no script here)" in history
    ran = project.ok("downgrade", "head", checkpoint, "--trust-checkpoint-code", "--json")
    assert ran.lines[0]["to"] == ["a1"]
    assert "already at a1" in project.ok("upgrade", "head", checkpoint).out
