"""Results in another folder, which a further call fills up."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from anemoi_ckpt_migrate.batch.migrate_all import migrate_all  # noqa: E402
from anemoi_ckpt_migrate.batch.select import Selection  # noqa: E402
from tests.support import huggingface as hf  # noqa: E402
from tests.support.fleets import model, saved, statuses  # noqa: E402
from tests.support.operations import declare  # noqa: E402
from tests.support.project import Folder, digest, names  # noqa: E402


@pytest.fixture
def runs(project: Folder) -> Path:
    declare(project, "a", 'op.Rename("x.weight", "y.weight")')
    for name in ("a/last.ckpt", "a/step.ckpt", "b/last.ckpt"):
        model(project.path / "runs" / name)
    saved(project.path / "runs" / "b" / "dataset.pt", {"features": torch.ones(3)})
    return project.path / "runs"


def run(folder: Path, *words: str, output: str = "out", **options: Any) -> dict[str, str]:
    return statuses(migrate_all(Selection((str(folder),), recursive=True), *words, output=output, **options), folder)


MOVED = {"a/last.ckpt": "moved", "a/step.ckpt": "moved", "b/last.ckpt": "moved", "b/dataset.pt": "unrelated"}
SAME = {name: status.replace("moved", "same") for name, status in MOVED.items()}


def content(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): digest(path) for path in folder.rglob("*") if path.is_file()}


def test_the_output_mirrors_the_folder(runs: Path) -> None:
    before = content(runs)
    assert run(runs) == MOVED
    assert content(runs) == before
    assert set(content(Path("out"))) == {"a/last.ckpt", "a/step.ckpt", "b/last.ckpt"}
    assert names(Path("out/b/last.ckpt")) == ["y.weight"]


def test_a_further_call_does_only_what_is_left(runs: Path) -> None:
    run(runs)
    Path("out/a/step.ckpt").unlink()
    model(runs / "c" / "new.ckpt")
    before = content(Path("out"))
    assert run(runs) == SAME | {"a/step.ckpt": "moved", "c/new.ckpt": "moved"}
    after = content(Path("out"))
    assert {name: after[name] for name in before} == before
    assert run(runs) == SAME | {"c/new.ckpt": "same"}
    assert content(Path("out")) == after


def test_the_output_may_lie_in_the_folder(runs: Path) -> None:
    assert run(runs, output=str(runs / "out")) == MOVED
    assert run(runs, output=str(runs / "out")) == SAME


def test_checkpoints_that_are_at_the_target_are_copied(runs: Path) -> None:
    list(migrate_all(Selection((str(runs),), recursive=True), backup=False))
    assert run(runs) == SAME
    assert content(Path("out")).keys() == {"a/last.ckpt", "a/step.ckpt", "b/last.ckpt"}
    assert names(Path("out/b/last.ckpt")) == ["y.weight"]


@pytest.mark.parametrize("kind", ["text", "another revision", "folder"])
def test_something_else_at_a_place_stays(project: Folder, runs: Path, kind: str) -> None:
    place = Path("out/a/last.ckpt")
    place.parent.mkdir(parents=True)
    if kind == "text":
        place.write_text("mine")
    elif kind == "folder":
        place.mkdir()
        (place / "mine").touch()
    else:
        shutil.copy(runs / "a" / "last.ckpt", place)
    before = content(Path("out"))
    results = {Path(each.checkpoint).relative_to(runs).as_posix(): each for each in _results(runs)}
    assert {name: each.status for name, each in results.items()} == MOVED | {"a/last.ckpt": "failed"}
    assert str(results["a/last.ckpt"].error) == (
        f"{runs}/a/last.ckpt: out/a/last.ckpt exists already, and is something else; remove it, or write elsewhere"
    )
    after = content(Path("out"))
    assert {name: after[name] for name in before} == before


def _results(runs: Path) -> Any:
    return migrate_all(Selection((str(runs),), recursive=True), output="out")


def test_a_dry_run_makes_nothing(runs: Path) -> None:
    assert run(runs, dry_run=True) == MOVED
    assert not Path("out").exists()
    run(runs)
    assert run(runs, dry_run=True) == SAME


def test_the_other_commands(runs: Path) -> None:
    run(runs, output="first")
    first = Path("first").absolute()
    expected = {name: status for name, status in MOVED.items() if status == "moved"}
    assert run(first, "base", command="downgrade", output="second") == expected
    assert names(Path("second/a/last.ckpt")) == ["x.weight"]
    same = dict.fromkeys(expected, "same")
    assert run(first, "base", command="downgrade", output="second") == same
    assert run(Path("second").absolute(), command="sync", output="third") == expected
    assert run(Path("second").absolute(), command="sync", output="third") == same
    assert run(Path("second").absolute(), "a", command="stamp", output="fourth") == expected
    assert run(Path("second").absolute(), "a", command="stamp", output="fourth") == same


def test_a_folder_in_the_folder_of_another(project: Folder) -> None:
    """The copy of the outer one has a copy of the inner one, which is migrated there."""
    declare(project, "a", 'op.Rename("x.weight", "y.weight")')
    folder = project.path / "runs" / "hf"
    hf.made(folder)
    hf.made(folder / "checkpoint-500")
    before = content(folder)
    for status in ("moved", "same"):
        assert run(project.path / "runs") == {"hf": status, "hf/checkpoint-500": status}
        assert set(hf.tensors_in(Path("out/hf"))) == {"y.weight", "z.weight"}
        assert set(hf.tensors_in(Path("out/hf/checkpoint-500"))) == {"y.weight", "z.weight"}
    assert content(folder) == before
    assert not [name for name in content(Path("out")) if ".bak" in name]


def test_a_folder_that_is_itself_the_checkpoint(project: Folder) -> None:
    declare(project, "a", 'op.Rename("x.weight", "y.weight")')
    hf.made(project.path / "hf")
    assert run(project.path / "hf") == {".": "moved"}
    assert set(hf.tensors_in(Path("out/hf"))) == {"y.weight", "z.weight"}


def test_a_temporary_name_of_an_interrupted_run_is_removed(runs: Path) -> None:
    """The file had its name already, and the temporary one still."""
    run(runs)
    Path("out/a/.last.ckpt.0123abcd.tmp").hardlink_to("out/a/last.ckpt")
    assert run(runs) == SAME
    assert not list(Path("out").rglob("*.tmp"))
