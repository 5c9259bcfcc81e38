"""Scripts read from their lines say what they say when they are parsed."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anemoi_ckpt_migrate.scripts import discover as loader
from anemoi_ckpt_migrate.scripts.parse import read_script
from anemoi_ckpt_migrate.scripts.parse_header import heading
from tests.support.project import Folder

PLAIN = '''"""rename x to y

Revision ID: a
"""

from anemoi_ckpt_migrate import CkptType, MigrationMetadata

revision = "a"
down_revision = ("b", "c")
branch_labels = None
depends_on = 'd'

OLD = "x"
metadata = MigrationMetadata(versions={"migration": "1.0.0"})


def migrate(ckpt: CkptType) -> CkptType:
    """Rename."""
    return ckpt


@staticmethod
def helper(
    one,
):
    pass


# Down again.
def rollback(ckpt: CkptType) -> CkptType:
    return ckpt
'''

# Lines that a script may hold, in any order: sound ones, odd ones, and what hides or breaks others.
LINES = [
    '"""a docstring"""', '"""', "'''", '"""odd \\""" """', '"', "#", "# coding: latin-1", "\\", "", "    pass",
    'revision = "a"', "revision = 'b'", "revision= 'c'", 'revision = "a" "b"', 'revision: str = "d"', "revision = (",
    "down_revision = None", 'down_revision = ("a", "b")', "down_revision = f()", 'down_revision = "é"', ")", "]",
    "x = revision = 3", "x = (1,", "x = [", "x = 1; revision = 'z'", "y = '''", "import os, rollback", "from x import (",
    "from json import loads as migrate", "metadata = MigrationMetadata(final=True)", "metadata = M(versions={'p': '1'})",
    "def migrate(ckpt):", "    return ckpt", "def rollback(ckpt): return ckpt", "async def rollback(ckpt):", "@decorated",
    "class migrate:", "if True:", "    def rollback(ckpt): pass", "rollback = None", "migrate = rollback", "del revision",
    "    rollback = 3", "def other(", "    x='''", "def", "define = 1", "    '''a'''", '    """a"""', '    """a',
    "def migrate_setup(context):", "migrate_setup = None", "print(\nrevision = 3\n)", "print(\ndef rollback(): pass\n)", "\tpass", "\fpass", "branch_labels = {'a'}",
]  # fmt: skip


def both(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    whole, faults = read_script(str(path))
    quick, wrong = read_script(str(path), whole=False)
    if heading(path.read_bytes()) is not None and any("syntax error" in fault.message for fault in faults):
        return  # a quick look does not see what is wrong with functions; `check` does, and running it
    assert (quick, wrong) == (whole, faults)


def test_a_plain_script_is_not_parsed(tmp_path: Path) -> None:
    both(tmp_path / "a.py", PLAIN)
    found = heading(PLAIN.encode())
    assert found is not None
    assert found.functions == {"migrate", "rollback"}
    assert found.lines == {
        "revision": 8, "down_revision": 9, "branch_labels": 10, "depends_on": 11, "metadata": 14, "migrate": 17,
        "rollback": 30,
    }  # fmt: skip


@pytest.mark.parametrize("template", ["revision", "barrier", "merge", "setup"])
def test_what_the_template_makes_is_plain(project: Folder, template: str) -> None:
    if template == "merge":
        project.script("a")
        project.script("b")
    words = {"barrier": ["revision", "--final"], "setup": ["revision", "--with-setup"]}.get(template, [template])
    (made,) = project.ok(*words, "a change", "--json").lines
    found = heading(Path(made["path"]).read_bytes())
    assert (found is None) == (template in ("barrier", "merge"))  # which have no functions
    both(Path(made["path"]), Path(made["path"]).read_text())


@given(st.lists(st.sampled_from(PLAIN.splitlines() + LINES), max_size=14))
def test_any_lines(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    both(tmp_path_factory.getbasetemp() / "any.py", "\n".join(lines) + "\n")


@given(st.data())
def test_a_plain_script_that_is_changed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    lines = PLAIN.splitlines()
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(lines)))
        lines[place : place + data.draw(st.integers(0, 2))] = [data.draw(st.sampled_from(LINES))]
    both(tmp_path_factory.getbasetemp() / "changed.py", "\n".join(lines) + "\n")


def test_large_folders_are_read_from_lines(project: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "MANY", 2)
    project.script("a")
    project.script("b", "a", migrate="broken(")
    assert project.ok("heads").out == "b  change b\n"
    assert project.run("check").code == 1
    refused = project.run("upgrade", "head", project.copy())
    assert (refused.code, "versions/b_change.py" in refused.err, "nothing was changed" in refused.err) == (
        1,
        True,
        True,
    )
