"""Scripts are read without being run, and everything that is wrong with any of them is said at once."""

from __future__ import annotations

import ast

import pytest

from tests.support.project import Folder, load, names

GOOD = 'revision = "{0}"\ndown_revision = None\ndef migrate(ckpt):\n    return ckpt\n'


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("down_revision = None\n", 1, 'no revision: set `revision = "..."` at the top level'),
        ("revision = 12\n", 1, "revision must be letters, digits, dots and underscores, not 12"),
        ('revision = "a-b"\n', 1, "not 'a-b'"),
        ('\nrevision = "head"\n', 2, "not 'head'"),
        ('revision = "x" + str(1)\n', 1, "revision must be a literal"),
        ('revision = "x"\ndown_revision = 3\n', 2, "down_revision must be None, a string or a tuple of strings, not 3"),
        ('revision = "x"\ndown_revision = ("a", 1)\n', 2, "down_revision must be None, a string or a tuple"),
        ('revision = "x"\ndown_revision = ("ok", "ok")\n', 2, "down_revision names a revision twice"),
        ('revision = "x"\ndown_revision = f()\n', 2, "down_revision must be a literal"),
        ('revision = "x"\ndown_revision = "nobody"\n', 2, "down_revision names nobody, which no script has"),
        ('revision = "x"\ndepends_on = ["nobody"]\n', 2, "depends_on names nobody, which no script has"),
        ('revision = "x"\nbranch_labels = {1}\n', 2, "branch_labels must be None, a string or a tuple of strings"),
        ('revision = "x"\ndef migrate(c): pass\n', 1, "no down_revision: set it to the parent of this revision"),
        ('revision = "x"\nmetadata = MigrationMetadata(verzions={})\n', 2, "takes versions and final, not verzions"),
        ('revision = "x"\nmetadata = {}\n', 2, "metadata must be MigrationMetadata(...)"),
        ('revision = "x"\nmetadata = MigrationMetadata(versions=v())\n', 2, "versions of metadata must be a literal"),
        ('revision = "x"\nmetadata = MigrationMetadata({"a": 1})\n', 2, "must be a dict of strings, not {'a': 1}"),
        ('revision = "x"\nmetadata = MigrationMetadata(versions={["a"]: "b"})\n', 2, "must be a literal"),
        ('revision = "_x"\n', 1, "not '_x'"),
        ('revision = "x"\nmetadata = MigrationMetadata(final="yes")\n', 2, "final of metadata must be True or False"),
        (
            'revision = "x"\nmetadata = M(final=True)\n\ndef migrate(c): pass\n',
            4,
            "a barrier (final=True) cannot have migrate",
        ),
        ('revision = "x"\nmetadata = M(final=True)\nrollback = f\n', 3, "a barrier (final=True) cannot have rollback"),
        (
            'revision = "x"\nmetadata = M()\n',
            2,
            "no migrate function and no operations; write one, or make it a barrier",
        ),
        ('revision = "x"\nmigrate = 3\n', 2, "migrate must be a function, not 3"),
        ('revision = "x"\nasync def migrate(c): pass\n', 2, "migrate must not be async"),
        ('revision = "x"\ndef migrate(c:\n', 2, "syntax error"),
        ("revision = 'x'\0", 1, "source code string cannot contain null bytes"),
        ("revision = 'x'\n\xff", 2, "syntax error"),
        ('revision = "ok"\n', 1, "revision ok has the same id as"),
        ('revision = "x"\ndown_revision = "x"\n', 2, "revision x is part of a cycle: it needs x"),
    ],
)
def test_faults(project: Folder, text: str, line: int, says: str) -> None:
    (project.path / "versions" / "ok.py").write_text(GOOD.format("ok"))
    if not any(word in text for word in ("migrate", "M(", "\0")) and "(c:" not in text:
        text += "def migrate(ckpt):\n    return ckpt\n"
    (project.path / "versions" / "wrong.py").write_bytes(text.encode("latin-1"))
    ran = project.run("heads")
    assert ran.code == 1
    assert f"versions/wrong.py:{line}: " in ran.err
    assert says in ran.err


def test_all_faults_at_once(project: Folder) -> None:
    (project.path / "versions" / "c3_syntax.py").write_text("def broken(:\n")
    project.script("a1", "c3")  # its parent cannot be read, which is reported already
    project.script("b2", "zz")
    project.script("d4", "e5")
    project.script("e5", "d4")
    ran = project.run("history")
    lines = [line.strip() for line in ran.err.splitlines()]
    assert lines[0] == "ckpt-migrate: error: 3 faults in the migration scripts:"
    assert [line.partition(":")[0] for line in lines[1:]] == [
        f"versions/{name}" for name in ("b2_change.py", "c3_syntax.py", "d4_change.py")
    ]


def test_reading_runs_nothing(project: Folder) -> None:
    project.script("a1", None, top='raise SystemExit("this script was run")')
    for words in (["heads"], ["history"], ["show", "a1"], ["revision", "next"]):
        project.ok(*words)
    project.ok("upgrade", "+1", project.copy(), "--dry-run")
    project.ok("stamp", "a1", project.copy())


def test_a_script_may_use_what_its_python_offers(project: Folder) -> None:
    top = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Move:\n    old: str\n    new: str\n"
        "    def run(self, d):\n        d[self.new] = d.pop(self.old)\n"
    )
    path = project.path / "versions" / "a1.py"
    body = f'{top}\nrevision = "a1"\ndown_revision = None\n'
    body += 'def migrate(ckpt):\n    Move("epoch", "age").run(ckpt)\n    return ckpt\n'
    body += 'def rollback(ckpt):\n    Move("age", "epoch").run(ckpt)\n    return ckpt\n'
    path.write_text(body)
    checkpoint = project.copy()
    project.ok("upgrade", "head", checkpoint)
    path.unlink()
    project.ok("downgrade", "base", checkpoint, "--trust-checkpoint-code")


def test_other_files_are_left_alone(project: Folder) -> None:
    project.script("a1", None)
    for name in ("__init__.py", "_helpers.py", ".hidden.py", "notes.txt"):
        (project.path / "versions" / name).write_text("not a script (")
    assert len(project.ok("heads", "--json").lines[0]) == 1


@pytest.mark.parametrize(
    "name",
    ['say "hi"', 'three """ quotes', "back\\slash", "ends in \\", "Ümlaute & Ω", "a/b", "'", "x" * 200, "${x} <%x> ##"],
)
def test_any_name_makes_a_script_that_says_it(project: Folder, name: str) -> None:
    path = project.path / project.ok("revision", name).out.split(maxsplit=1)[1].strip()
    tree = ast.parse(path.read_text())
    assert (ast.get_docstring(tree) or "").splitlines()[0] == name
    assert project.ok("heads", "--json").lines[0][0]["name"] == name
    assert path.parent == project.path / "versions"
    project.ok("upgrade", "head", project.copy())


def test_a_new_script_says_who_it_is(project: Folder) -> None:
    (project.path / "ckpt-migrate.toml").write_text('package = "networkx"\n')
    project.script("a1", None)
    path = project.path / project.ok("revision", "two", "--rev-id", "b2").out.split()[1]
    assert path.name == "b2_two.py"
    text = path.read_text()
    import networkx

    assert f'"networkx": "{networkx.__version__}"' in text
    assert "Revision ID: b2\nRevises: a1\nCreate Date: 20" in text
    assert "from anemoi_ckpt_migrate import CkptType, MigrationMetadata" in text
    assert "def rollback" not in text.replace("`def rollback", "")
    shown = project.ok("show", "b2", "--json").lines[0]
    assert (shown["parents"], shown["reversible"], shown["source"]) == (["a1"], False, text)


def test_a_package_that_is_not_here_is_said(project: Folder) -> None:
    ran = project.ok("revision", "x")
    assert "pkg is not installed here, so the script does not note its version" in ran.err


def test_the_project_may_change_its_template(project: Folder) -> None:
    project.ok("init")
    template = project.path / "templates" / "script.py.mako"
    template.write_text(template.read_text() + "# reviewed by us: ${revision}\n")
    path = project.path / project.ok("revision", "x", "--rev-id", "a1").out.split()[1]
    assert "# reviewed by us: a1" in path.read_text()
    template.write_text("${nothing_of_that_name}")
    ran = project.run("revision", "y")
    assert ran.code == 1
    assert "the template of new scripts failed with NameError" in ran.err


@pytest.mark.parametrize("start", [b"\xef\xbb\xbf", b"# -*- coding: latin-1 -*-\n# caf\xe9\n"])
@pytest.mark.parametrize("ends", [b"\n", b"\r\n"])
def test_encodings_and_line_ends(project: Folder, start: bytes, ends: bytes) -> None:
    script = project.script("a1", None, 'ckpt["new"] = """a\nb"""', 'del ckpt["new"]')
    script.write_bytes(start + script.read_bytes().replace(b"\n", ends))
    checkpoint, stamped = project.copy(), project.copy(to="stamped.ckpt")
    project.ok("show", "a1")
    project.ok("upgrade", "head", checkpoint)
    project.ok("upgrade", "head", checkpoint, "-o", stamped.with_name("other.ckpt"))
    script.unlink()
    project.ok("downgrade", "base", checkpoint, "--trust-checkpoint-code")


def test_what_a_function_leaves_in_its_module_does_not_meet_it_again(project: Folder) -> None:
    """The first walk stops where a tensor is wanted; the second starts afresh, scripts included."""
    pytest.importorskip("torch")
    body = 'sd = ckpt["state_dict"]\nsd[NAMES.pop("x.bias")] = sd.pop("x.bias")\nnext(ONCE)\nsd["norm.bias"].add_(1)'
    back = 'ckpt["names"] = dict(NAMES)'
    script = project.script("a1", None, body, back, top='NAMES = {"x.bias": "y.bias"}\nONCE = iter([1])')
    checkpoint = project.copy()
    project.ok("upgrade", "head", checkpoint)
    assert "y.bias" in names(checkpoint)
    script.unlink()
    project.ok("downgrade", "base", checkpoint, "--trust-checkpoint-code")
    assert load(checkpoint)["names"] == {"x.bias": "y.bias"}


@pytest.mark.parametrize("name", ["_x", ".x", "..", "-x"])
def test_ids_whose_scripts_would_not_be_found(project: Folder, name: str) -> None:
    ran = project.run("revision", f"--rev-id={name}", "foo")
    assert ran.code == 2
    assert "cannot be a revision id" in ran.err
    assert list((project.path / "versions").iterdir()) == []
