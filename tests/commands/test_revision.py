"""revision and merge: where a new script goes, what it is called, what it says."""

from __future__ import annotations

import os
import re
import stat
import sys
from pathlib import Path

import pytest

import anemoi_ckpt_migrate as cm
from anemoi_ckpt_migrate.errors import ConfigurationError
from tests.support.project import Folder


@pytest.fixture
def branched(project: Folder) -> Folder:
    r"""
    a - b
     \
      - c
    """
    project.script("a")
    project.script("b", "a")
    project.script("c", "a", top='branch_labels = "side"')
    return project


def made(project: Folder, *words: object) -> tuple[Path, str]:
    """Run a command that makes a script, and return it with its text."""
    path = Path(project.ok(*words, "--json").lines[0]["path"])
    return path, path.read_text()


def facts(project: Folder, rev: str) -> dict[str, object]:
    found = project.ok("show", rev, "--json").lines[0]
    return {name: found[name] for name in ("parents", "depends_on", "labels")}


def test_with_several_heads_one_is_to_be_named(branched: Folder) -> None:
    refused = branched.run("revision", "next")
    assert refused.code == 2
    assert "there are 2 heads: b, c; choose one with --head" in refused.err
    made(branched, "revision", "next", "--head", "b", "--rev-id", "d")
    made(branched, "revision", "more", "--head", "side@head", "--rev-id", "e")
    assert facts(branched, "d") == {"parents": ["b"], "depends_on": [], "labels": []}
    assert facts(branched, "e") == {"parents": ["c"], "depends_on": [], "labels": ["side"]}


def test_a_new_root_with_a_label_and_a_dependency(branched: Folder) -> None:
    _, text = made(
        branched, "revision", "graphs", "--head", "base", "--rev-id", "x", "--branch-label", "graphs",
        "--branch-label", "g2", "--depends-on", "b", "--depends-on", "side@head",
    )  # fmt: skip
    assert 'down_revision = None\nbranch_labels = ("graphs", "g2")\ndepends_on = ("b", "c")\n' in text
    assert facts(branched, "x") == {"parents": [], "depends_on": ["b", "c"], "labels": ["g2", "graphs"]}


def test_a_branch_begins_only_where_it_is_asked_for(branched: Folder) -> None:
    refused = branched.run("revision", "next", "--head", "a")
    assert refused.code == 2
    assert (
        "a new revision follows a head, but a is not one: b, c follows it; --splice begins a new branch" in refused.err
    )
    made(branched, "revision", "next", "--head", "a", "--splice", "--rev-id", "d")
    assert facts(branched, "d")["parents"] == ["a"]


def test_merge_joins_heads_and_both_ways_lead_through_it(branched: Folder) -> None:
    path, text = made(branched, "merge", "join the two", "--rev-id", "m")
    assert 'down_revision = ("b", "c")' in text
    assert path.name == "m_join_the_two.py"
    checkpoint = branched.copy()
    assert branched.ok("upgrade", "head", checkpoint, "--json").lines[0]["to"] == ["m"]
    assert branched.ok("downgrade", "-1", checkpoint, "--json").lines[0]["to"] == ["b", "c"]


def test_merge_of_some_of_the_heads(branched: Folder) -> None:
    branched.script("d", "a")
    made(branched, "merge", "b", "side@head", "join two of three", "--rev-id", "m", "--branch-label", "trunk")
    assert facts(branched, "m") == {"parents": ["b", "c"], "depends_on": [], "labels": ["side", "trunk"]}
    assert [head.revision for head in cm.heads()] == ["d", "m"]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("merge", "b", "join"), 2, "there is only b to merge; a merge needs two heads or more"),
        (("merge", "a", "b", "join"), 2, "a merge joins heads, but a is not one: b, c follows it"),
        (("merge", "b", "zz", "join"), 1, "no revision is called 'zz'"),
        (("revision", "x", "--head", "heads"), 2, "the target means several revisions: b, c; name exactly one"),
        (("revision", "x", "--head", "zz"), 1, "no revision is called 'zz'"),
        (("revision", "x", "--head", "b", "--branch-label", "side"), 2, "the label side is already used by"),
        (("revision", "x", "--head", "b", "--branch-label", "heads"), 2, "it has a meaning as a target"),
        (("revision", "x", "--head", "b", "--branch-label", "a@b"), 2, "cannot be a label: use letters"),
        (("revision", "x", "--head", "b", "--branch-label", "a"), 2, "it is the id of a revision"),
        (("revision", "x", "--head", "b", "--rev-id", "side"), 2, "it is the id of a squashed revision, or a label"),
        (("revision", "x", "--head", "b", "--rev-id", "current"), 2, "it has a meaning as a target"),
        (("revision", "x", "--head", "b", "--depends-on", "base"), 2, "the target means no revision"),
        (
            ("revision", "x", "--head", "b", "--version-path", "other"),
            2,
            "other is not a folder of scripts of this project",
        ),
    ],
)
def test_bad_input(branched: Folder, words: tuple[str, ...], code: int, says: str) -> None:
    before = sorted(branched.path.rglob("*"))
    refused = branched.run(*words)
    assert (refused.code, says in refused.err) == (code, True), refused.err
    assert sorted(branched.path.rglob("*")) == before


# --- the configuration ---


def configured(project: Folder, text: str) -> None:
    (project.path / "ckpt-migrate.toml").write_text(text)


def test_several_folders(project: Folder) -> None:
    configured(project, 'versions = ["versions", "more/versions"]')
    (project.path / "more" / "versions").mkdir(parents=True)
    refused = project.run("revision", "first")
    assert (refused.code, "there are 2 folders of scripts; choose one with --version-path" in refused.err) == (2, True)
    first, _ = made(project, "revision", "first", "--version-path", "more/versions", "--rev-id", "a")
    second, _ = made(project, "revision", "second")  # where its parent is
    assert first.parent == second.parent == project.path / "more" / "versions"
    assert len(cm.history().entries) == 2
    project.ok("init")
    (project.path / "more" / "versions" / "twin.py").write_text(first.read_text())
    assert "revision a has the same id as" in project.run("heads").err


def test_folders_below(project: Folder) -> None:
    project.script("a")
    (project.path / "versions" / "2026" / "11").mkdir(parents=True)
    (project.path / "versions" / "_old").mkdir()
    script = (project.path / "versions" / "a_change.py").read_text()
    below = script.replace("'a'", "'b'").replace("down_revision = None", 'down_revision = "a"')
    (project.path / "versions" / "2026" / "11" / "b.py").write_text(below)
    (project.path / "versions" / "_old" / "b.py").write_text(below)
    assert [head.revision for head in cm.heads()] == ["a"]
    configured(project, 'versions = ["versions", "versions/2026"]\nrecursive = true')
    assert [head.revision for head in cm.heads()] == ["b"]  # and no script is read twice
    path, _ = made(project, "revision", "next", "--version-path", "versions/2026/11")
    assert path.parent.name == "11"


def test_file_names(project: Folder) -> None:
    pattern = "%(year)d/%(month).2d/%(epoch)d_%(rev)s_%(slug)s"
    configured(project, f'recursive = true\nslug_length = 12\ntimezone = "Asia/Tokyo"\nfile_template = "{pattern}"')
    path, text = made(project, "revision", "Rename the fürst of x to y", "--rev-id", "a")
    assert re.fullmatch(r"versions/20\d\d/\d\d/\d{10}_a_rename_the_f\.py", str(path.relative_to(project.path)))
    assert re.search(r"Create Date: 20\d\d-.*\+09:00", text)
    assert cm.heads()[0].path == str(path)


@pytest.mark.parametrize(
    ("zone", "offset"),
    [("utc", r"\+00:00"), ("est5edt", "-0[45]:00"), ("asia/tokyo", r"\+09:00"), ("ETC/gmt-2", r"\+02:00")],
)
def test_time_zones_in_any_case(project: Folder, zone: str, offset: str) -> None:
    configured(project, f'timezone = "{zone}"')
    _, text = made(project, "revision", "one")
    assert re.search(rf"Create Date: 20\d\d-.*{offset}", text)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("recursive = 1", "recursive must be true or false, not 1"),
        ("versions = []", "versions must be a string, or a list of strings, not []"),
        ('versions = [""]', "versions must be a string, or a list of strings"),
        ("slug_length = 0", "slug_length must be a number of letters from 1 to 200, not 0"),
        ("slug_length = true", "slug_length must be a number of letters"),
        (
            'timezone = "Mars/Olympus"',
            "timezone must be the name of a time zone, such as \"Europe/Berlin\", not 'Mars/Olympus'",
        ),
        ('timezone = "../etc"', "timezone must be the name of a time zone"),
        ('timezone = "local"', "timezone must be the name of a time zone"),
        ('timezone = "+02:00"', "timezone must be the name of a time zone"),
        ('timezone = ""', "timezone must be the name of a time zone"),
        ("timezone = 3", "timezone must be the name of a time zone"),
        (
            'file_template = "%(revision)s"',
            'file_template must be a pattern such as "%(rev)s_%(slug)s", of rev, slug, epoch',
        ),
        ('file_template = "../%(rev)s"', "file_template must be a pattern"),
        ('file_template = "_%(rev)s"', "file_template must be a pattern"),
        ('file_template = "%(rev"', "file_template must be a pattern"),
        ("file_template = 3", "file_template must be a pattern"),
        (
            'file_template = "%(year)d/%(rev)s"',
            "file_template names folders, which needs recursive = true",
        ),
        ("head_file = 'HEAD'", "head_file must be true or false"),
        ("several_heads = 2", "several_heads must be true or false"),
        ("trusted = 'os'", "trusted must be a list of names of modules"),
        ("head = 1", "unknown key 'head'; the keys are versions, recursive, template"),
    ],
)
def test_faulty_configurations(project: Folder, line: str, says: str) -> None:
    configured(project, line)
    refused = project.run("heads")
    assert refused.code == 1
    assert f"ckpt-migrate.toml: {says}" in refused.err
    with pytest.raises(ConfigurationError):
        cm.heads()


def test_edit_opens_the_script(project: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    script = project.script("a")
    editor = project.path / "editor"
    editor.write_text(f'#!{sys.executable}\nimport sys\nopen(sys.argv[-1], "a").write(chr(10) + sys.argv[1])\n')
    editor.chmod(editor.stat().st_mode | stat.S_IXUSR)
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.delenv("EDITOR", raising=False)
    assert "no editor is set; set VISUAL or EDITOR" in project.run("edit", "a").err
    monkeypatch.setenv("EDITOR", f"{editor} '# edited'")
    project.ok("edit")
    assert script.read_text().endswith("# edited")
    monkeypatch.setenv("VISUAL", f"{editor} 'def broken('")
    refused = project.run("edit", "a")
    assert (refused.code, "syntax error" in refused.err) == (1, True)
    monkeypatch.setenv("VISUAL", os.fspath(project.path / "nobody"))
    script.write_text(script.read_text().removesuffix("\ndef broken("))
    assert "could not be started (No such file or directory)" in project.run("edit", "a").err
    monkeypatch.setenv("VISUAL", "false")
    assert "the editor false ended with exit code 1" in project.run("edit", "a").err
