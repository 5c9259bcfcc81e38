"""The checkpoints of a call: names, folders, patterns, lists; what is left out; parts."""

from __future__ import annotations

import io
import os
import shutil
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from anemoi_ckpt_migrate.batch.select import Selection, is_pattern, parse_part, read_list  # noqa: E402
from anemoi_ckpt_migrate.errors import CannotRead, CannotWrite, NoneFound, UsageError  # noqa: E402
from tests.support import huggingface as hf  # noqa: E402
from tests.support.fleets import chosen, model, written  # noqa: E402


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three runs; the current folder is the one above."""
    monkeypatch.chdir(tmp_path)
    for name in ("a/last.ckpt", "a/step-1.pt", "b/last.ckpt", "b/old/last.ckpt", "c[1]/x.ckpt"):
        model(tmp_path / "runs" / name)
    return tmp_path / "runs"


@pytest.mark.usefixtures("runs")
def test_names_are_taken_as_they_are() -> None:
    assert chosen("runs/a/last.ckpt", "nowhere.ckpt", "runs/c[1]/x.ckpt") == [
        "runs/a/last.ckpt",
        "nowhere.ckpt",
        "runs/c[1]/x.ckpt",
    ]
    assert all(each.named for group in Selection(("nowhere.ckpt", "runs/a/last.ckpt")).groups() for each in group)


@pytest.mark.usefixtures("runs")
def test_a_folder_means_everything_below_it_only_if_you_say_so() -> None:
    assert chosen("runs") == ["runs"]
    below = ["runs/a/last.ckpt", "runs/a/step-1.pt", "runs/b/last.ckpt", "runs/b/old/last.ckpt", "runs/c[1]/x.ckpt"]
    assert chosen("runs", recursive=True) == below
    assert chosen("runs/", recursive=True) == below
    assert not any(each.named for group in Selection(("runs",), recursive=True).groups() for each in group)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("runs/*/last.ckpt", ["a/last.ckpt", "b/last.ckpt"]),
        ("runs/*/last*", ["a/last.ckpt", "b/last.ckpt"]),
        ("runs/**/last.ckpt", ["a/last.ckpt", "b/last.ckpt", "b/old/last.ckpt"]),
        ("runs/**/**/last.ckpt", ["a/last.ckpt", "b/last.ckpt", "b/old/last.ckpt"]),
        ("runs/b/**", ["b/last.ckpt", "b/old/last.ckpt"]),
        ("./runs//[ab]/./*.p?", ["a/step-1.pt"]),
        ("runs/c[[]1]/*.ckpt", ["c[1]/x.ckpt"]),
        ("**/step-?.pt", ["a/step-1.pt"]),
    ],
)
def test_patterns(runs: Path, pattern: str, expected: list[str]) -> None:
    assert [os.path.relpath(path, runs) for path in chosen(pattern)] == expected
    assert [os.path.relpath(path, runs) for path in chosen(f"{runs.parent}/{pattern.removeprefix('./')}")] == expected


@pytest.mark.usefixtures("runs")
def test_a_pattern_for_folders() -> None:
    """Without -r, it means the checkpoints that are folders; with -r, everything below the folders that fit."""
    hf.made(Path("runs/hf-1"))
    assert chosen("runs/*") == ["runs/hf-1"]
    assert chosen("runs/[ah]*", recursive=True) == ["runs/a/last.ckpt", "runs/a/step-1.pt", "runs/hf-1"]


def test_a_pattern_does_not_mean_the_folder_before_it(runs: Path) -> None:
    hf.made(runs / "hf")
    assert chosen("runs/hf/*", allow_empty=True) == []
    assert chosen("runs/hf/**") == ["runs/hf"]


@pytest.mark.usefixtures("runs")
def test_a_name_that_exists_is_no_pattern() -> None:
    assert not is_pattern("runs/c[1]")
    assert chosen("runs/c[1]", recursive=True) == ["runs/c[1]/x.ckpt"]


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize("where", [("nowhere/*.ckpt",), ("runs/**/*.safetensors",), ("empty",), ()])
def test_none_found_is_an_error_unless_you_allow_it(where: tuple[str, ...]) -> None:
    Path("empty").mkdir()
    with pytest.raises(NoneFound, match=r"no checkpoint was found in .*; if that is no error, give --allow-empty"):
        chosen(*where, recursive=True)
    assert chosen(*where, recursive=True, allow_empty=True) == []


def test_overlapping_arguments_count_once(runs: Path) -> None:
    every = sorted(chosen("runs", recursive=True))
    for arguments in (["runs", "runs/a"], ["runs/a", "runs"], ["runs", "runs"], ["runs/a/last.ckpt", "runs", "runs/a"]):
        assert sorted(chosen(*arguments, recursive=True)) == every
    assert sorted(map(os.path.abspath, chosen("runs", runs, recursive=True))) == sorted(map(os.path.abspath, every))


@pytest.mark.usefixtures("runs")
def test_a_name_among_folders_stays_a_name() -> None:
    """Also if the walk passes the file by, because it does not look like a checkpoint."""
    written(Path("runs/x.json"), b"{}")
    selection = Selection(("runs", "runs/a/last.ckpt", "runs/x.json"), recursive=True)
    named = [each.path for group in selection.groups() for each in group if each.named]
    assert sorted(named) == ["runs/a/last.ckpt", "runs/x.json"]


@pytest.mark.usefixtures("runs")
def test_further_names_of_the_same_file_say_so() -> None:
    Path("link.ckpt").symlink_to("runs/a/last.ckpt")
    names = ("runs/a/last.ckpt", "link.ckpt", "runs/a/../a/last.ckpt", "runs/a/last.ckpt")
    found = [each for group in Selection(names).groups() for each in group]
    assert [(each.path, each.same_as) for each in found] == [
        ("runs/a/last.ckpt", ""),
        ("link.ckpt", "runs/a/last.ckpt"),
        ("runs/a/../a/last.ckpt", "runs/a/last.ckpt"),
    ]


def test_a_checkpoint_in_the_folder_of_another_is_in_its_group(runs: Path) -> None:
    """Inner first, and not at the same time; also if you name them, in any order."""
    hf.made(runs / "hf")
    hf.made(runs / "hf" / "checkpoint-500")
    model(runs / "hf" / "checkpoint-500" / "x.ckpt")
    inner_first = ("runs/hf/checkpoint-500/x.ckpt", "runs/hf/checkpoint-500", "runs/hf")
    for selection in (
        Selection(("runs/hf",), recursive=True),
        Selection(("runs", "runs/hf/checkpoint-500"), recursive=True, exclude=("[abc]*.ckpt", "a", "b", "c*]")),
        Selection(inner_first[::-1]),
        Selection((inner_first[1], inner_first[2], inner_first[0])),
    ):
        (group,) = selection.groups()
        assert tuple(each.path for each in group) == inner_first
        assert [each.inside for each in group] == [True, True, False]


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("*.pt", ["a/last.ckpt", "b/last.ckpt", "b/old/last.ckpt", "c[1]/x.ckpt"]),
        ("old", ["a/last.ckpt", "a/step-1.pt", "b/last.ckpt", "c[1]/x.ckpt"]),
        ("old/", ["a/last.ckpt", "a/step-1.pt", "b/last.ckpt", "c[1]/x.ckpt"]),
        ("b/*", ["a/last.ckpt", "a/step-1.pt", "c[1]/x.ckpt"]),
        ("runs/b", ["a/last.ckpt", "a/step-1.pt", "c[1]/x.ckpt"]),
        ("./runs/b", ["a/last.ckpt", "a/step-1.pt", "c[1]/x.ckpt"]),
        ("last.*", ["a/step-1.pt", "c[1]/x.ckpt"]),
    ],
)
def test_excluded_names_and_folders(pattern: str, left: list[str]) -> None:
    assert [os.path.relpath(path, "runs") for path in chosen("runs", recursive=True, exclude=(pattern,))] == left


@pytest.mark.usefixtures("runs")
def test_arguments_may_be_excluded_too() -> None:
    """As where the shell expands runs/*."""
    assert chosen("runs/a", "runs/b", recursive=True, exclude=("a",)) == ["runs/b/last.ckpt", "runs/b/old/last.ckpt"]
    assert chosen("runs/a/last.ckpt", "runs/a/step-1.pt", exclude=("*.pt",)) == ["runs/a/last.ckpt"]
    assert len(chosen(".", recursive=True, exclude=(".*",))) == 5


def test_an_excluded_folder_is_not_searched(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir, searched = os.scandir, []
    monkeypatch.setattr(os, "scandir", lambda path: searched.append(os.path.basename(path)) or scandir(path))
    chosen("runs", recursive=True, exclude=("b",))
    assert searched == ["runs", "a", "c[1]"]


@pytest.mark.usefixtures("runs")
def test_included_files_count_as_named() -> None:
    written(Path("runs/weights.dat"), b"x")
    selection = Selection(("runs",), recursive=True, include=("a/*", "*.dat"))
    named = [each.path for group in selection.groups() for each in group if each.named]
    assert named == ["runs/weights.dat", "runs/a/last.ckpt", "runs/a/step-1.pt"]


def test_newer_files_and_folders(runs: Path) -> None:
    for path in (*runs.rglob("*.ckpt"), *runs.rglob("*.pt"), *hf.made(runs / "hf").iterdir()):
        os.utime(path, (1000, 1000))
    os.utime(runs / "a" / "last.ckpt", (1, 2000))
    os.utime(runs / "hf" / hf.SHARDS[1], (1, 2000))
    assert chosen("runs", recursive=True, newer_than=1000) == ["runs/hf", "runs/a/last.ckpt"][::-1]
    assert chosen("runs/a/last.ckpt", "runs/b/last.ckpt", "runs/hf", newer_than=1000) == ["runs/a/last.ckpt", "runs/hf"]


def test_a_list_in_a_file_or_from_standard_input(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"runs/a/last.ckpt\n\n#not a comment.ckpt\n runs/b/last.ckpt \nruns/*/last.ckpt"
    names = ["runs/a/last.ckpt", "#not a comment.ckpt", " runs/b/last.ckpt ", "runs/*/last.ckpt"]
    Path("list").write_bytes(content)
    assert chosen(from_file="list") == names
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert chosen(from_file="-") == names
    Path("list").write_bytes(b"a\nb.ckpt\0\xff.ckpt\0")
    assert chosen(from_file="list", null=True) == ["a\nb.ckpt", os.fsdecode(b"\xff.ckpt")]


@pytest.mark.usefixtures("runs")
def test_folders_in_a_list_are_searched_with_the_others() -> None:
    Path("list").write_text("runs/a\nruns/b/last.ckpt\n")
    assert sorted(chosen("runs/b/old", from_file="list", recursive=True)) == [
        "runs/a/last.ckpt",
        "runs/a/step-1.pt",
        "runs/b/last.ckpt",
        "runs/b/old/last.ckpt",
    ]


def test_a_list_from_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model(tmp_path / "really\r")
    Path("list").write_bytes(b"\xef\xbb\xbfa.ckpt\r\nb.ckpt\r\nreally\r\n")
    assert read_list("list") == ["a.ckpt", "b.ckpt", "really\r"]


def test_lists_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(CannotRead, match="the list cannot be read \\(no such file or directory\\)"):
        read_list(str(tmp_path / "nowhere"))
    with pytest.raises(CannotRead, match="is a directory"):
        read_list(str(tmp_path))
    (tmp_path / "list").write_bytes(b"a.ckpt\0b.ckpt\0")
    with pytest.raises(UsageError, match=r"has NUL bytes.*--null"):
        read_list(str(tmp_path / "list"))


@pytest.mark.usefixtures("runs")
def test_a_hundred_thousand_names() -> None:
    Path("list").write_text("".join(f"runs/a/{number}.ckpt\n" for number in range(100_000)))
    groups = list(Selection(from_file="list").groups())
    assert len(groups) == 100_000
    assert groups[-1][0].path == "runs/a/99999.ckpt"


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/", "/4", "1/0", "-1/4", "a/b", "1/4/5", ""])
def test_what_is_no_part(text: str) -> None:
    with pytest.raises(UsageError, match="is not a part; give K/N with K from 1 to N"):
        parse_part(text)


def test_a_part_is_read() -> None:
    assert parse_part("2/8") == (2, 8)


NAMES = st.lists(
    st.text(st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1, max_size=20).filter(
        lambda name: not name.startswith(".") and len(name.encode()) < 100 and not name.startswith("..")
    ),
    unique=True,
    min_size=1,
    max_size=30,
)


@given(NAMES, st.integers(1, 7))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_parts_share_everything_and_overlap_nowhere(tmp_path: Path, names: list[str], count: int) -> None:
    """Also if the tree lies elsewhere."""
    top = tmp_path / "one" / "runs"
    shutil.rmtree(tmp_path / "one", ignore_errors=True)
    shutil.rmtree(tmp_path / "other", ignore_errors=True)
    for number, name in enumerate(names):
        written(top / str(number % 3) / f"{name}.ckpt")
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    for given_paths in ((str(top),), (str(top), str(top / "0")), (str(top / "1"), str(top), str(top / "0"))):
        if not all(map(os.path.isdir, given_paths)):
            continue
        parts = [
            chosen(*given_paths, recursive=True, part=(part, count), allow_empty=True) for part in range(1, count + 1)
        ]
        assert sorted(path for part in parts for path in part) == sorted(chosen(*given_paths, recursive=True))
    here = chosen(top, recursive=True, part=(1, count), allow_empty=True)
    there = chosen(tmp_path / "other" / "runs", recursive=True, part=(1, count), allow_empty=True)
    assert [os.path.relpath(path, top) for path in here] == [
        os.path.relpath(path, tmp_path / "other" / "runs") for path in there
    ]


def test_parts_are_about_equal_where_the_shell_expands_a_pattern(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each folder has a file of the same name, so that the path below the folder tells nothing."""
    monkeypatch.chdir(tmp_path)
    folders = [f"runs/{number:03}" for number in range(200)]
    for folder in folders:
        written(Path(folder, "last.ckpt"))
    sizes = [len(chosen(*folders, recursive=True, part=(part, 4))) for part in (1, 2, 3, 4)]
    assert sum(sizes) == 200
    assert min(sizes) > 25


def test_a_part_without_checkpoints_is_no_error(runs: Path) -> None:
    parts = [chosen("runs/a/last.ckpt", part=(part, 50)) for part in range(1, 51)]
    assert sorted(map(len, parts)) == [0] * 49 + [1]


def test_the_places_below_the_output(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below the folder or pattern if there is only one, else as given."""

    def places(*paths: object, **options: object) -> list[str]:
        selection = Selection(tuple(map(str, paths)), output="out", **options)  # type: ignore[arg-type]
        return [each.relative for group in selection.groups() for each in group]

    assert places("runs/a", recursive=True) == ["last.ckpt", "step-1.pt"]
    assert places(runs / "a", recursive=True) == ["last.ckpt", "step-1.pt"]
    assert places("runs/*/last.ckpt") == ["a/last.ckpt", "b/last.ckpt"]
    assert places("runs/a", "runs/b/old", recursive=True) == [
        "runs/a/last.ckpt",
        "runs/a/step-1.pt",
        "runs/b/old/last.ckpt",
    ]
    assert places("runs/a/last.ckpt") == ["runs/a/last.ckpt"]
    monkeypatch.chdir(runs / "b")
    assert places("../a/last.ckpt") == [f"{runs}/a/last.ckpt".lstrip("/")]
    assert places(hf.made(runs / "hf"), recursive=True) == ["hf"]


def test_the_output_is_not_searched(runs: Path) -> None:
    model(runs / "out" / "a" / "last.ckpt")
    (runs / "link").symlink_to("out")
    every = chosen("runs", recursive=True, output="runs/out")
    assert every == chosen("runs", recursive=True, exclude=("out", "link"))
    with pytest.raises(UsageError, match=r"--output runs/\.\./runs is a folder to search; write to another one"):
        chosen("runs", recursive=True, output="runs/../runs")


def test_two_checkpoints_for_one_place(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    path = str(runs / "a" / "last.ckpt").lstrip("/")
    model(runs.parent / "other.ckpt")
    (one,), (other,) = Selection((path, f"{runs}/b/last.ckpt"), output="/out").groups()
    assert (one.error, other.error) == (None, None)
    monkeypatch.chdir(runs.parent)
    inner = model(Path(*runs.parts[1:], "a", "last.ckpt"))
    (one,), (other,) = Selection((str(inner), f"{runs}/a/last.ckpt"), output="/out").groups()
    assert one.error is None
    assert isinstance(other.error, CannotWrite)
    assert "its place in --output is that of" in str(other.error)


@pytest.mark.usefixtures("runs")
def test_backups_below_folders() -> None:
    model(Path("runs/a/last.ckpt.bak"))
    model(Path("runs/b/old/last.ckpt.bak2"))
    selection = Selection(("runs",), recursive=True, exclude=("old",))
    assert [entry.relative for entry in selection.backups()] == ["a/last.ckpt.bak"]
