"""current, history, heads, show: what they print, for people and for programs."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.project import RENAME, Folder


@pytest.fixture
def chain(project: Folder) -> Folder:
    """a1 - a2 - F - a4        F: a barrier; a2 is irreversible"""
    project.script("a1", None, **RENAME, name="rename x to y")
    project.script("a2", "a1", rollback=None, name="drop the head")
    project.script("F", "a2", final=True, name="new attention", version="2.0")
    project.script("a4", "F", name="after that")
    return project


def test_history(chain: Folder) -> None:
    assert chain.ok("history").out.splitlines() == [
        "a4  after that  <- F  (head)",
        "F   new attention  <- a2  (barrier)",
        "a2  drop the head  <- a1  (irreversible)",
        "a1  rename x to y  <- base",
    ]
    assert chain.ok("history", "--json").lines[0][2] == {
        "revision": "a2",
        "name": "drop the head",
        "parents": ["a1"],
        "head": False,
        "final": False,
        "reversible": False,
        "known": True,
        "applied": None,
        "here": False,
        "depends_on": [],
        "labels": [],
        "path": str(chain.path / "versions" / "a2_change.py"),
        "versions": {"migration": "1.0.0"},
        "sets_up": False,
        "recognised": False,
        "checkpoints": None,
    }


def test_history_of_a_checkpoint(chain: Folder) -> None:
    checkpoint = chain.copy()
    chain.ok("upgrade", "a1", checkpoint)
    marks = [line[:2] for line in chain.ok("history", checkpoint).out.splitlines()]
    assert marks == ["  ", "  ", "  ", "* "]


def test_heads(chain: Folder) -> None:
    assert chain.ok("heads").out == "a4  after that\n"
    chain.script("b2", "a1", name="a branch")
    assert chain.ok("heads", "--json").lines == [
        [
            {"revision": "a4", "name": "after that", "labels": [], "final": False},
            {"revision": "b2", "name": "a branch", "labels": [], "final": False},
        ]
    ]


def test_an_empty_project(project: Folder) -> None:
    assert project.ok("heads").out == project.ok("history").out == "there are no revisions yet\n"
    assert project.ok("heads", "--json").lines == [[]]
    assert "already at base" in project.ok("upgrade", "head", project.copy()).out
    assert project.run("show", "head").code == 2


def test_current(chain: Folder) -> None:
    checkpoint, other = chain.copy(), chain.copy(to="other.ckpt")
    assert chain.ok("current", checkpoint).out == f"{checkpoint}: base, without a record (not at head)\n"
    chain.ok("upgrade", "a1", checkpoint)
    chain.ok("stamp", "head", other)
    ran = chain.ok("current", checkpoint, other)
    assert ran.out.splitlines() == [
        f"{checkpoint}: a1  rename x to y (not at head)",
        f"{other}: a4  after that (head)",
    ]
    (found, _) = chain.ok("current", checkpoint, other, "--json").lines
    assert (found["recorded"], found["at_head"], len(found["log"])) == (True, False, 1)
    assert found["heads"] == [{"revision": "a1", "name": "rename x to y", "labels": [], "final": False}]
    ran = chain.run("current", chain.path / "missing", checkpoint)
    assert ran.code == 1
    assert "a1  rename" in ran.out


def test_current_looks_past_faulty_scripts(chain: Folder) -> None:
    checkpoint = chain.copy()
    chain.ok("upgrade", "a1", checkpoint)
    (chain.path / "versions" / "bad.py").write_text("(")
    ran = chain.ok("current", checkpoint)
    assert ran.out == f"{checkpoint}: a1  rename x to y\n"
    assert "some scripts have errors" in ran.err


def test_show(chain: Folder) -> None:
    lines = chain.ok("show", "F").out.splitlines()
    assert lines[:6] == [
        "revision  F  (barrier)",
        "name      new attention",
        "parents   a2",
        "versions  migration 1.0.0, pkg 2.0",
        "rollback  none: no checkpoint crosses a barrier",
        "from      versions/F_change.py",
    ]
    assert '"""new attention"""' in lines
    assert chain.ok("show", "head", "--json").lines[0]["revision"] == "a4"
    assert chain.run("show", "zz").code == 1


def test_show_from_a_checkpoint(chain: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = chain.copy()
    chain.ok("upgrade", "a2", checkpoint)
    monkeypatch.chdir("/")  # needs no project
    out = chain.ok("show", "a1", "--from", checkpoint).out
    assert "rollback  in the checkpoint, with the source below; if that fails, cpython-3" in out
    assert RENAME["rollback"] in out
    out = chain.ok("show", "head", "--from", checkpoint).out
    assert "rollback  none: irreversible" in out
    assert "the checkpoint has no source of it" in out
    ran = chain.run("show", "zz", "--from", checkpoint)
    assert ran.code == 1
    assert str(checkpoint) in ran.err


def test_current_reads_kilobytes_of_a_large_file(project: Folder) -> None:
    torch = pytest.importorskip("torch")
    checkpoint = project.path / "large.ckpt"
    torch.save({"state_dict": {f"layer{i}": torch.zeros(1_000_000) for i in range(25)}}, checkpoint)
    command = [sys.executable, "-m", "anemoi_ckpt_migrate", "current", str(checkpoint)]
    trace = project.path / "trace"
    try:
        subprocess.run(["strace", "-f", "-P", checkpoint, "-o", trace, *command], check=True, capture_output=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("strace does not run here")
    calls = [line for line in trace.read_text().splitlines() if "read" in line.split("(")[0]]
    read = sum(int(line.rpartition("= ")[2].split()[0]) for line in calls)
    assert checkpoint.stat().st_size > 100_000_000
    assert 0 < read < 64 * 1024


def test_output_that_nobody_reads_is_no_error(chain: Folder) -> None:
    command = f"{sys.executable} -m anemoi_ckpt_migrate history | true"
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert ran.stderr == ""


def test_a_polite_kill_leaves_nothing_behind(chain: Folder) -> None:
    chain.script("a1", None, "import os, signal; os.kill(os.getpid(), signal.SIGTERM)")
    checkpoint = chain.copy()
    before = sorted(path.name for path in chain.path.iterdir())
    command = [sys.executable, "-m", "anemoi_ckpt_migrate", "upgrade", "a1", str(checkpoint)]
    ran = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"})
    assert ran.returncode == 143, ran.stderr
    assert sorted(path.name for path in chain.path.iterdir()) == before


def test_the_man_page_knows_every_command() -> None:
    manpage = pytest.importorskip("argparse_manpage.manpage")
    from anemoi_ckpt_migrate.cli import build_parser

    page = str(manpage.Manpage(build_parser(), format="pretty"))
    for command in ("init", "revision", "upgrade", "downgrade", "current", "history", "heads", "show", "stamp"):
        assert f"ckpt\\-migrate {command}" in page
    assert "trust" in page
