"""A folder becomes a project, once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.project import Folder

PYPROJECT = '# ours\n[project]\nname = "weather-model"\n\n[tool.other]\nx = 1  # keep me\n'


@pytest.fixture
def empty(project: Folder) -> Folder:
    (project.path / "ckpt-migrate.toml").unlink()
    (project.path / "versions").rmdir()
    return project


def content(folder: Path) -> dict[str, str]:
    return {str(path): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_without_a_pyproject(empty: Folder) -> None:
    assert "created  ckpt-migrate.toml" in empty.ok("init").out
    before = content(empty.path)
    assert "created" not in empty.ok("init").out
    assert content(empty.path) == before
    empty.ok("revision", "first")
    assert "first" in empty.ok("heads").out


@pytest.mark.parametrize("text", [PYPROJECT, PYPROJECT.rstrip(), ""])
def test_with_a_pyproject(empty: Folder, text: str) -> None:
    shared = empty.path / "pyproject.toml"
    shared.write_text(text)
    assert "extended pyproject.toml" in empty.ok("init").out
    assert shared.read_text().startswith(text)
    assert ('package = "weather-model"' in shared.read_text().splitlines()) == bool(text)
    before = content(empty.path)
    assert "created" not in empty.ok("init").out
    assert content(empty.path) == before
    assert not (empty.path / "ckpt-migrate.toml").exists()


def test_in_a_folder_to_be_made(empty: Folder) -> None:
    empty.ok("init", "new/project", "--package", "torch")
    assert 'package = "torch"' in (empty.path / "new/project/ckpt-migrate.toml").read_text()
    empty.ok("--config", "new/project", "heads")


def test_what_the_user_wrote_is_kept(empty: Folder) -> None:
    (empty.path / "ckpt-migrate.toml").write_text('versions = "deep/migrations"\n')
    (empty.path / "templates").mkdir()
    (empty.path / "templates/script.py.mako").write_text("mine")
    empty.ok("init")
    assert (empty.path / "deep/migrations").is_dir()
    assert (empty.path / "templates/script.py.mako").read_text() == "mine"


def test_bad_surroundings(empty: Folder) -> None:
    (empty.path / "pyproject.toml").write_text("not [toml")
    ran = empty.run("init")
    assert ran.code == 1
    assert "pyproject.toml cannot be read" in ran.err
    assert sorted(path.name for path in empty.path.iterdir()) == ["pyproject.toml"]
    (empty.path / "file").write_text("")
    ran = empty.run("init", "file")
    assert ran.code == 1
    assert "could not be written to" in ran.err


@pytest.mark.parametrize("content", ["tool = 5", "project = 3", "[project]\nname = 3", '[project]\nname = "a\\nb\\"c"'])
def test_odd_pyprojects(empty: Folder, content: str) -> None:
    (empty.path / "pyproject.toml").write_text(content)
    empty.run("heads")
    if "tool" not in content:
        empty.ok("init")
        empty.ok("heads")


def test_odd_packages(empty: Folder) -> None:
    empty.ok("init", "--package", 'we"ird\\')
    empty.ok("heads")


def test_line_ends_are_kept(empty: Folder) -> None:
    (empty.path / "pyproject.toml").write_bytes(b'[project]\r\nname = "x"\r\n')
    empty.ok("init")
    content = (empty.path / "pyproject.toml").read_bytes()
    assert content.startswith(b'[project]\r\nname = "x"\r\n\r\n[tool.ckpt-migrate]\r\n')
    assert content.count(b"\n") == content.count(b"\r\n")
    empty.ok("heads")


def test_two_configurations_are_one_too_many(empty: Folder) -> None:
    empty.ok("init")
    (empty.path / "pyproject.toml").write_text('[tool.ckpt-migrate]\nversions = "other"\n')
    ran = empty.run("heads")
    assert ran.code == 1
    assert "has two configurations, in pyproject.toml and ckpt-migrate.toml; remove one" in ran.err
