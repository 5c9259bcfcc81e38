"""Scripts of anemoi-models' own migration command, taken over as a chain of revisions.

1700000001_first --- 1700000002_rename_x_to_y --- 1700000003_stub
"""

from __future__ import annotations

import ast
import hashlib
import os
import re
import sys
from pathlib import Path

import pytest

from anemoi_ckpt_migrate import MigrateError, import_scripts, open_project
from anemoi_ckpt_migrate.anemoi.digests import digests
from anemoi_ckpt_migrate.other_tools.match_revisions import signature
from tests.support.project import Folder, digest, names

LICENCE = "# (C) Somebody.\n# All of this stays.\n\n"
IMPORTS = "from anemoi.models.migrations import CkptType\nfrom anemoi.models.migrations import MigrationMetadata\n"
NOTHING = 'def migrate(ckpt: CkptType) -> CkptType:\n    """Migrate."""\n    return ckpt\n'
STUB = 'def rollback(ckpt: CkptType) -> CkptType:\n    """Roll back."""\n    return ckpt\n'
RENAME = """def migrate(ckpt: CkptType) -> CkptType:
    # in place
    return _moved(ckpt, "x.", "y.")
"""
BACK = 'def rollback(ckpt: CkptType) -> CkptType:\n    return _moved(ckpt, "y.", "x.")\n'
HELPER = """def _moved(ckpt, old, new):
    state_dict = ckpt["state_dict"]
    for key in list(state_dict):
        state_dict[key.replace(old, new)] = state_dict.pop(key)
    return ckpt
"""


def seed(*functions: str, version: str = "0.9.4", more: str = "", imports: str = IMPORTS) -> str:
    """Return the text of a script as that command makes it."""
    versions = f'        "migration": "1.0.0",\n        "anemoi-models": "{version}",\n'
    metadata = f"# DO NOT CHANGE -->\nmetadata = MigrationMetadata(\n    versions={{\n{versions}    }},\n{more})\n"
    return (
        LICENCE + imports + "\n" + metadata + "# <-- END DO NOT CHANGE\n" + "".join(f"\n\n{each}" for each in functions)
    )


@pytest.fixture
def seeds(project: Folder) -> Path:
    """A folder of such scripts, beside a project without any."""
    folder = project.path / "seeds"
    folder.mkdir()
    (folder / "__init__.py").write_text("1 / 0")
    (folder / "1700000001_first.py").write_text(seed(NOTHING, STUB))
    (folder / "1700000002_rename_x_to_y.py").write_text(seed(HELPER, RENAME, BACK, version="0.11.0"))
    (folder / "1700000003_stub.py").write_text(
        seed(RENAME.replace('"x.", "y."', '"y.", "z."'), STUB, HELPER, version="0.12.0")
    )
    return folder


def made(project: Folder, name: str) -> str:
    (path,) = (project.path / "versions").glob(f"*_{name}.py")
    return path.read_text()


def test_a_folder_becomes_a_chain(project: Folder, seeds: Path) -> None:
    ran = project.ok("import-scripts", seeds)
    assert [line.split()[0] for line in ran.out.splitlines()] == ["created"] * 3
    graph = open_project().graph
    first, second, third = graph.order(revision.id for revision in graph)
    assert (graph[first].parents, graph[second].parents, graph[third].parents) == ((), (first,), (second,))
    assert graph[second].name == "rename x to y"
    assert graph[second].versions == {"migration": "1.0.0", "anemoi-models": "0.11.0"}
    assert "1700000002_rename_x_to_y" in graph[second].known_as
    # The id follows from the name, so it is the same everywhere.
    assert second == hashlib.sha256(b"1700000002_rename_x_to_y").hexdigest()[:12]
    assert "Create Date: 2023-11-14" in made(project, "rename_x_to_y")
    project.ok("check")


def test_it_works(project: Folder, seeds: Path) -> None:
    project.ok("import-scripts", seeds)
    checkpoint = project.copy()
    before = names(checkpoint)
    project.ok("upgrade", "1700000002_rename_x_to_y", checkpoint)  # what it was called means it too
    assert names(checkpoint) == [name.replace("x.", "y.") for name in before]
    project.ok("downgrade", "base", checkpoint)
    assert names(checkpoint) == before


def test_the_text_stays(project: Folder, seeds: Path) -> None:
    """All lines are those of before, but for the imports and what says where the script stands."""
    project.ok("import-scripts", seeds)
    old = (seeds / "1700000002_rename_x_to_y.py").read_text().splitlines()
    new = made(project, "rename_x_to_y").splitlines()
    assert [line for line in old if line not in new] == IMPORTS.splitlines()
    assert new[: len(LICENCE.splitlines())] == LICENCE.splitlines()


def test_a_rollback_that_does_nothing_is_none(project: Folder, seeds: Path) -> None:
    ran = project.ok("import-scripts", seeds)
    assert re.findall(r"warning: (\S+): its rollback does nothing", ran.err) == ["1700000003_stub"]
    assert "rollback = None" in made(project, "stub")
    assert "def rollback" in made(project, "first")  # there is nothing to undo
    listed = project.ok("history").out.splitlines()
    assert ["irreversible" in line for line in listed] == [True, False, False]
    checkpoint = project.copy()
    project.ok("upgrade", "head", checkpoint)
    assert project.run("downgrade", "-1", checkpoint).code == 3


def test_barriers(project: Folder, seeds: Path) -> None:
    barrier = seed(more="    final=True,\n", version="1.0.0", imports=IMPORTS.splitlines()[1] + "\n")
    (seeds / "1700000004_new_layout.py").write_text(barrier)
    project.ok("import-scripts", seeds)
    assert "barrier" in project.ok("history").out.splitlines()[0]
    assert project.run("upgrade", "head", project.copy()).code == 3


def test_a_setup_is_carried_over(project: Folder, seeds: Path) -> None:
    setup = 'def migrate_setup(context: MigrationContext) -> None:\n    context.move_module("a.b", "a.c")\n'
    imports = "from anemoi.models.migrations import CkptType, MigrationContext, MigrationMetadata\n"
    (seeds / "1700000004_moved.py").write_text(seed(setup, NOTHING, STUB, imports=imports))
    project.ok("import-scripts", seeds)
    assert "from anemoi_ckpt_migrate import CkptType, MigrationContext, MigrationMetadata\n" in made(project, "moved")
    assert "(head, setup)" in project.ok("history").out
    project.ok("upgrade", "head", project.copy())


def test_a_second_time_only_what_is_new_is_added(project: Folder, seeds: Path) -> None:
    project.ok("import-scripts", seeds)
    before = {path: digest(path) for path in (project.path / "versions").iterdir()}
    (seeds / "1700000004_more.py").write_text(seed(NOTHING, version="0.13.0"))
    ran = project.ok("import-scripts", seeds, "--json")
    assert [script["done"] for script in ran.lines[0]["scripts"]] == ["kept"] * 3 + ["created"]
    assert {path: digest(path) for path in before} == before
    assert open_project().graph["".join(open_project().graph.heads)].name == "more"
    assert "rollback = None" in made(project, "more")


def test_what_changed_since_is_said(project: Folder, seeds: Path) -> None:
    project.ok("import-scripts", seeds)
    path = seeds / "1700000003_stub.py"
    path.write_text("# A comment is no change.\n" + path.read_text())
    assert project.ok("import-scripts", seeds).err == ""
    path.write_text(path.read_text().replace('"z."', '"w."'))
    before = made(project, "stub")
    ran = project.ok("import-scripts", seeds)
    assert "1700000003_stub: it has changed since it was imported" in ran.err
    assert made(project, "stub") == before


def test_a_script_of_another_name_is_known_again(project: Folder, seeds: Path) -> None:
    project.ok("import-scripts", seeds)
    (seeds / "1700000003_stub.py").rename(seeds / "1700000009_stub.py")
    ran = project.ok("import-scripts", seeds)
    assert "1700000009_stub: it was called 1700000003_stub when it was imported" in ran.err
    assert len(list((project.path / "versions").iterdir())) == 3


def test_scripts_that_are_not_released(project: Folder, seeds: Path) -> None:
    """A placeholder stands for the version until the release, which is no change of the script."""
    path = seeds / "1700000004_next.py"
    path.write_text(seed(NOTHING, STUB, version="%NEXT_ANEMOI_MODELS_VERSION%"))
    assert "it was not released: write the version when it is" in project.ok("import-scripts", seeds).err
    path.write_text(seed(NOTHING, STUB, version="0.20.0"))
    ran = project.ok("import-scripts", seeds)
    assert "1700000004_next: it was released with 0.20.0 since" in ran.err
    (seeds / "1700000005_given.py").write_text(seed(NOTHING, version="%NEXT_ANEMOI_MODELS_VERSION%"))
    project.ok("import-scripts", seeds, "--next-version", "0.21.0")
    assert '"anemoi-models": "0.21.0"' in made(project, "given")


def test_they_follow_the_head(project: Folder, seeds: Path) -> None:
    project.script("a1")
    result = import_scripts(seeds)
    assert open_project().graph[result.scripts[0].revision].parents == ("a1",)
    project.script("b1")
    (seeds / "1700000004_more.py").write_text(seed(NOTHING))
    with pytest.raises(MigrateError, match="there are 2 heads"):
        import_scripts(seeds)


def test_names_that_are_left_are_said(project: Folder, seeds: Path) -> None:
    imports = "from anemoi.models.migrations import CkptType, MigrationMetadata, Migrator\n"
    (seeds / "1700000004_more.py").write_text(seed(NOTHING, imports=imports))
    ran = project.ok("import-scripts", seeds)
    assert "it imports anemoi.models.migrations.Migrator, which must be installed when it runs" in ran.err
    text = made(project, "more")
    assert (
        "from anemoi_ckpt_migrate import CkptType, MigrationMetadata\nfrom anemoi.models.migrations import Migrator\n"
        in text
    )


def test_docstrings_and_encodings(project: Folder, seeds: Path) -> None:
    text = '# -*- coding: latin-1 -*-\nr"""Über \\alpha."""\n' + seed(NOTHING, STUB)
    (seeds / "1700000004_über.py").write_bytes(text.encode("latin-1"))
    project.ok("import-scripts", seeds)
    (path,) = (project.path / "versions").glob("*_uber.py")
    said = ast.get_docstring(ast.parse(path.read_bytes()))
    assert said is not None
    assert said.startswith("über\n\nÜber \\alpha.\n\nRevision ID: ")


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("1700000004_x", "def f(", "1700000004_x.py:1: syntax error"),
        ("1700000004_x", "x = 1\n", "it does not set `metadata = MigrationMetadata(...)` once"),
        ("1700000004_x", seed(NOTHING, "operations = []\n"), "it sets operations, which has another meaning"),
        ("1700000004_x", seed(NOTHING, more="    final=True,\n"), "a barrier (final=True) cannot have migrate"),
        ("1700000004_x", seed(), "no migrate function"),
        ("1700000004_x", seed(NOTHING, version='" + "'), "versions of metadata must be a literal"),
        ("1700000000_x", seed(NOTHING), "1700000000_x is new and comes before 1700000001_first"),
    ],
)
def test_refused(project: Folder, seeds: Path, name: str, text: str, says: str) -> None:
    project.ok("import-scripts", seeds)
    before = sorted(os.listdir("versions"))
    (seeds / f"{name}.py").write_text(text)
    ran = project.run("import-scripts", seeds)
    assert ran.code == (3 if "comes before" in says else 1)
    assert says in ran.err
    assert sorted(os.listdir("versions")) == before


def test_no_folder(project: Folder) -> None:
    ran = project.run("import-scripts", "nowhere")
    assert (ran.code, "the folder nowhere cannot be read" in ran.err) == (1, True)
    ran = project.run("import-scripts", project.path / "versions")
    assert (ran.code, "holds no scripts" in ran.err) == (1, True)


def test_all_or_none(project: Folder, seeds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last = hashlib.sha256(b"1700000003_stub").hexdigest()[:12]
    in_the_way = project.path / "versions" / f"{last}_stub.py"
    in_the_way.mkdir()
    ran = project.run("import-scripts", seeds)
    assert ran.code == 1
    assert "could not be written" in ran.err
    assert list((project.path / "versions").iterdir()) == [in_the_way]


def test_squashing_keeps_the_names(project: Folder, seeds: Path) -> None:
    project.ok("import-scripts", seeds)
    checkpoint = project.copy()
    project.ok("upgrade", "head", checkpoint)
    project.ok("squash", "base+1:base+3", "all of it")
    (revision,) = open_project().graph
    assert list(revision.known_as) == ["1700000001_first", "1700000002_rename_x_to_y", "1700000003_stub"]
    assert project.ok("import-scripts", seeds).out.count("kept") == 3


def test_digests_are_those_of_every_python() -> None:
    text = (
        seed(HELPER, RENAME, BACK) + "\n\nclass A:\n    b: int = f'{A!r:>3}'\n\n    async def c(self, *, d=None): ...\n"
    )
    found = digests(ast.parse(text))
    own = hashlib.sha256(ast.dump(ast.parse(text)).encode()).hexdigest()
    assert signature(found) == own == found[{10: "3.9", 11: "3.9", 12: "3.12"}.get(sys.version_info[1], "3.13")]
    assert found == {  # as each of them makes it
        "3.9": "24d428b7d52788e9110e44d127c3d39ca3884e7fcfce645d3e0829a60f838579",
        "3.12": "4d1ce51ab2b476288782b1e329c0fbb4868acb104c0b1d895a2e5c9a4df5a2fd",
        "3.13": "ea1d4ce75783661c341d3591099fa69094391dcb6f8865a46510aed8e0cba110",
    }
