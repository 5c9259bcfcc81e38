"""Many checkpoints in one call.

runs/
  a/first.ckpt        at base: moves
  a/second.ckpt       at base: moves
  b/third.ckpt        at head already
  b/notes.txt         no checkpoint
  b/broken.ckpt       cut off: fails
  data.pt             tensors of something else: left alone
"""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from anemoi_ckpt_migrate.batch.migrate_all import migrate_all
from anemoi_ckpt_migrate.storage import size_limits
from tests.support.project import Folder, backups, digest, leftovers, names

OPERATIONS = '''"""rename the layer"""

from anemoi_ckpt_migrate import op

revision = "a1"
down_revision = None
operations = [op.Rename("x.weight", "y.weight")]
'''


@pytest.fixture
def runs(project: Folder) -> Path:
    (project.path / "versions" / "a1_rename.py").write_text(OPERATIONS)
    folder = project.path / "runs"
    for name in ("a/first.ckpt", "a/second.ckpt", "b/third.ckpt", "b/broken.ckpt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        project.copy(to=f"runs/{name}")
    project.ok("upgrade", "head", folder / "b/third.ckpt", "--no-backup")
    whole = (folder / "b/broken.ckpt").read_bytes()
    (folder / "b/broken.ckpt").write_bytes(whole[: len(whole) // 2])
    (folder / "b/notes.txt").write_text("the best run so far")
    project.copy("list.pt", to="runs/data.pt")
    return folder.relative_to(project.path)


def content(folder: Path) -> dict[str, str]:
    return {os.fspath(path.relative_to(folder)): digest(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def test_everything_below_a_folder(project: Folder, runs: Path) -> None:
    untouched = {name: digest(runs / name) for name in ("data.pt", "b/third.ckpt", "b/broken.ckpt", "b/notes.txt")}
    ran = project.run("upgrade", "head", "-r", runs)
    assert ran.code == 1  # one is broken; that stops none of the others
    assert "runs/b/broken.ckpt: it starts as a torch checkpoint, but its end is missing" in ran.err
    assert ran.out.splitlines()[-1].startswith("2 upgraded, 1 already there, 1 unrelated, 1 failed, ")
    assert "y.weight" in names(runs / "a/first.ckpt")
    assert "y.weight" in names(runs / "a/second.ckpt")
    assert {name: digest(runs / name) for name in untouched} == untouched


@pytest.mark.parametrize("option", [(), ("-q",), ("-v",), ("-j", 2), ("--report", "report.jsonl")])
def test_the_output_for_a_single_name_is_the_result_itself(
    project: Folder, runs: Path, option: tuple[str, ...]
) -> None:
    project.ok("upgrade", "head", runs / "a/first.ckpt", "--output", "new.ckpt", *option)
    assert "y.weight" in names(Path("new.ckpt"))
    assert "x.weight" in names(runs / "a/first.ckpt")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("upgrade", "head", "-r", ""), "a CKPT is empty; give a path, or leave it out"),
        (("upgrade", "head", "-r", "runs", "--report", ""), "--report is empty; give it a value, or leave it out"),
        (("upgrade", "head", "-r", "runs", "--output", ""), "--output is empty; give it a value, or leave it out"),
        (("upgrade", "head", "--from-file", ""), "--from-file is empty; give it a value, or leave it out"),
        (
            ("upgrade", "head", "-r", "runs", "--output", "versions/a1_rename.py"),
            "a1_rename.py is no folder, which the",
        ),
        (("check", "-r"), "CKPT is missing: give a checkpoint, a folder with --recursive, or a list with --from-file"),
    ],
)
def test_usage_that_makes_no_sense(project: Folder, runs: Path, words: tuple[str, ...], message: str) -> None:
    before = content(runs)
    ran = project.run(*words)
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert message in ran.err
    assert content(runs) == before


def test_check_of_scripts_only_takes_the_options_for_many(project: Folder, runs: Path) -> None:
    assert project.ok("check", "-q", "-j", 2).out == project.ok("check").out


def test_one_is_no_plural_and_none_is_said(project: Folder, runs: Path) -> None:
    ran = project.run("check", "-r", runs / "a", "--exclude", "second.ckpt")
    assert ran.out.splitlines()[-1] == "1 checkpoint, 0 without problems, 1 problem"
    ran = project.run("current", "-r", runs / "a", "--exclude", "second.ckpt")
    assert ran.out.splitlines()[-1].startswith("1 checkpoint (")
    ran = project.ok("upgrade", "head", "-r", runs / "a", "--exclude", "*", "--allow-empty")
    assert ran.out.startswith("0 checkpoints, 0 B in ")


@pytest.mark.parametrize("jobs", [1, 2])
def test_arguments_that_fit_no_checkpoint_are_said_once(project: Folder, runs: Path, jobs: int) -> None:
    ran = project.run("clean", "-r", runs, "-j", jobs)
    assert (ran.code, ran.err.count("tell which backups may go")) == (2, 1)


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_output_that_is_closed(project: Folder, runs: Path, closed: str) -> None:
    command = f"{sys.executable} -m anemoi_ckpt_migrate upgrade head -r {runs} {closed}"
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert ran.returncode == 1  # one is broken
    assert "Traceback" not in ran.stderr
    assert "y.weight" in names(runs / "a/first.ckpt")
    assert "y.weight" in names(runs / "a/second.ckpt")


def test_a_second_call_finds_nothing_to_do(project: Folder, runs: Path) -> None:
    project.run("upgrade", "head", "-r", runs)
    before = content(runs)
    ran = project.run("upgrade", "head", "-r", runs)
    assert ran.out.splitlines()[-1].startswith("3 already there, 1 unrelated, 1 failed, ")
    assert content(runs) == before


@pytest.mark.parametrize("words", [[], ["--dry-run"], ["--check-rollback"], ["--in-place"]])
def test_operations_tell_whether_a_checkpoint_is_of_the_project(
    project: Folder, runs: Path, words: Sequence[str]
) -> None:
    other = runs / "c/other.ckpt"
    other.parent.mkdir()
    torch = pytest.importorskip("torch")
    torch.save({"state_dict": {"other.weight": torch.ones(2)}}, other)
    other.chmod(0o444)  # so that an upgrade would be refused
    before = digest(other)
    ran = project.run("upgrade", "head", "-r", runs / "a", runs / "c", *words, "--json")
    said = {line["checkpoint"]: line for line in ran.lines}
    assert (ran.code, said["runs/a/first.ckpt"]["to"]) == (0, ["a1"])
    assert said["runs/c/other.ckpt"]["status"] == "unrelated"
    assert "operations do not fit it" in said["runs/c/other.ckpt"]["error"]["message"]
    assert digest(other) == before


def test_a_call_reads_each_script_once(project: Folder, runs: Path) -> None:
    """One that changes while a call works does the same to all of its checkpoints; the next call reads it anew."""
    script = project.path / "versions" / "a1_rename.py"
    done = migrate_all([runs / "a/first.ckpt", runs / "b/third.ckpt", runs / "a/second.ckpt"])
    next(done)
    script.write_text(OPERATIONS.replace("y.weight", "z.weight"))
    assert [each.result.warnings for each in done] == [(), ()]
    assert "y.weight" in names(runs / "a/second.ckpt")
    (each,) = migrate_all([runs / "b/third.ckpt"])
    assert "has changed since it was applied" in each.result.warnings[0]


def test_as_many_at_once_as_you_like(project: Folder, runs: Path) -> None:
    ran = project.run("upgrade", "head", "-r", runs, "-j", 2, "--json")
    said = {line["checkpoint"]: line for line in ran.lines}
    assert set(said) == {
        f"runs/{name}" for name in ("a/first.ckpt", "a/second.ckpt", "b/third.ckpt", "b/broken.ckpt", "data.pt")
    }
    assert said["runs/a/first.ckpt"]["to"] == ["a1"]
    assert said["runs/b/broken.ckpt"]["error"]["type"] == "NotACheckpoint"
    assert said["runs/data.pt"]["status"] == "unrelated"
    assert "y.weight" in names(runs / "a/second.ckpt")


@pytest.mark.parametrize(
    ("words", "moved"),
    [
        (["runs/a/*.ckpt"], ["a/first.ckpt", "a/second.ckpt"]),
        (["runs/**/[fs]*.ckpt"], ["a/first.ckpt", "a/second.ckpt"]),
        (["-r", "runs", "--exclude", "second*", "--exclude", "b"], ["a/first.ckpt"]),
        (["-r", "runs/a", "--exclude", "first.ckpt"], ["a/second.ckpt"]),
        (["-r", "runs/a", "--newer-than", "2000-01-01"], ["a/first.ckpt", "a/second.ckpt"]),
        (["-r", "runs/a", "--newer-than", "2999-01-01", "--allow-empty"], []),
        (["--from-file", "list"], ["a/first.ckpt", "a/second.ckpt"]),
        (["--from-file", "nulls", "--null"], ["a/second.ckpt"]),
        (["runs/a/first.ckpt", "--from-file", "nulls", "--null"], ["a/first.ckpt", "a/second.ckpt"]),
    ],
)
def test_which_checkpoints(project: Folder, runs: Path, words: Sequence[str], moved: Sequence[str]) -> None:
    Path("list").write_text("runs/a/first.ckpt\nruns/a/second.ckpt\n")
    Path("nulls").write_bytes(b"runs/a/second.ckpt\0")
    before = content(runs)
    project.ok("upgrade", "head", *words, "--no-backup")
    after = content(runs)
    assert [name for name in after if after[name] != before.get(name)] == list(moved)


def test_a_list_from_standard_input(project: Folder, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"runs/a/second.ckpt\n")))
    project.ok("upgrade", "head", "--from-file", "-")
    assert "y.weight" in names(runs / "a/second.ckpt")
    assert "x.weight" in names(runs / "a/first.ckpt")


def test_an_included_file_counts_as_named(project: Folder, runs: Path) -> None:
    ran = project.run("upgrade", "head", "-r", runs, "--include", "data.*", "--exclude", "broken*")
    assert ran.code == 1
    assert "runs/data.pt: " in ran.err


def test_parts_make_up_the_whole(project: Folder, runs: Path) -> None:
    moved = []
    for part in ("1/3", "2/3", "3/3"):
        ran = project.run("upgrade", "head", "-r", runs, "--part", part, "--json", "--exclude", "broken*")
        moved += [line["checkpoint"] for line in ran.lines if line.get("steps")]
    assert sorted(moved) == ["runs/a/first.ckpt", "runs/a/second.ckpt"]


def test_results_in_another_folder(project: Folder, runs: Path) -> None:
    before = content(runs)
    project.ok("upgrade", "head", "-r", runs, "--exclude", "broken*", "--output", "out")
    assert content(runs) == before
    assert sorted(content(Path("out"))) == ["a/first.ckpt", "a/second.ckpt", "b/third.ckpt"]
    assert "y.weight" in names(Path("out/a/first.ckpt"))
    there = content(Path("out"))
    project.ok("upgrade", "head", "-r", runs, "--exclude", "broken*", "--output", "out")
    assert content(Path("out")) == there


def test_more_than_a_few_names_get_a_summary(project: Folder, runs: Path) -> None:
    copies = [project.copy(to=f"c{number}.ckpt") for number in range(21)]
    ran = project.ok("upgrade", "head", *copies)
    assert "21  base -> a1" in ran.out
    assert ran.out.splitlines()[-1].startswith("21 upgraded, ")
    assert "c7.ckpt" not in ran.out


def test_each_result_if_you_want_it(project: Folder, runs: Path) -> None:
    ran = project.run("upgrade", "head", "-r", runs, "-v")
    assert "runs/a/first.ckpt: base -> a1\n  upgrade a1  rename the layer\n" in ran.out
    assert "runs/data.pt: it has no record" in ran.out


def test_failures_and_one_line_if_you_want_it_short(project: Folder, runs: Path) -> None:
    ran = project.run("upgrade", "head", "-r", runs, "-q")
    assert len(ran.out.splitlines()) == 1
    assert len(ran.err.splitlines()) == 1


def test_a_report_tells_the_rest(project: Folder, runs: Path) -> None:
    project.run("upgrade", "head", "-r", runs, "--report", "report.jsonl")
    ran = project.run("report", "report.jsonl", "--left")
    assert (ran.code, ran.out) == (1, "runs/b/broken.ckpt\n")
    Path("left").write_text(ran.out)
    project.copy(to="runs/b/broken.ckpt")  # somebody mends it
    project.ok("upgrade", "head", "--from-file", "left", "--report", "report.jsonl")
    assert project.ok("report", "report.jsonl", "--left").out == ""


def test_where_they_stand(project: Folder, runs: Path) -> None:
    project.run("upgrade", "head", "runs/a/first.ckpt")
    ran = project.run("current", "-r", runs)
    assert ran.code == 1  # the broken one
    row = next(line.split() for line in ran.out.splitlines() if line.startswith("a1"))
    assert row[:8] == ["a1", "rename", "the", "layer", "(head)", "torch", "zip", "2"]
    assert "1 backup (" in ran.out
    checked = project.run("check", "-r", runs, "--exclude", "broken*")
    assert checked.code == 4
    assert "4 checkpoints, 2 without problems, 1 problem, 1 unrelated" in checked.out
    listed = project.run("history", runs, "--recursive")
    assert "a1  rename the layer  <- base  (2 checkpoints, head)" in listed.out


def test_looking_inside(project: Folder, runs: Path) -> None:
    ran = project.run("inspect", "-r", runs, "--json")
    assert {line["checkpoint"] for line in ran.lines if "format" in line} == {
        "runs/a/first.ckpt",
        "runs/a/second.ckpt",
        "runs/b/third.ckpt",
        "runs/data.pt",
    }
    assert "torch zip" in project.run("inspect", "-r", runs).out


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["-r", "empty"], 1, "no checkpoint was found in empty; if that is no error, give --allow-empty"),
        (["nothing/*.ckpt"], 1, "no checkpoint was found in nothing/*.ckpt"),
        (["empty"], 2, "it is a directory, not a checkpoint; give --recursive for all checkpoints below it"),
        ([], 2, "CKPT is missing: give a checkpoint, a folder with --recursive, or a list with --from-file"),
        (["-r", "runs", "--part", "3/2"], 2, "'3/2' is not a part"),
        (["-r", "runs", "--newer-than", "soon"], 2, "'soon' is no time"),
        (["-r", "runs", "-q", "-v"], 2, "--quiet prints less and --verbose more: leave out one"),
        (["-r", "runs", "-j", "many"], 2, "'many' is not a number of processes"),
        (["runs/a/first.ckpt", "--null"], 2, "--null is about the list of --from-file"),
        (["--from-file", "nowhere"], 1, "nowhere: the list cannot be read"),
        (["-r", "runs", "--report", "notes"], 2, "notes: "),
        (["-r", "runs", "--output", "runs"], 2, "--output"),
    ],
)
def test_bad_input(project: Folder, runs: Path, words: Sequence[str], code: int, says: str) -> None:
    Path("empty").mkdir()
    Path("notes").write_text("not a report\n")
    before = content(project.path)
    ran = project.run("upgrade", "head", *words)
    assert ran.code == code
    assert says in ran.err
    assert content(project.path) == before


def test_a_bad_target_is_one_error(project: Folder, runs: Path) -> None:
    for target, code in (("head+", 2), ("nowhere", 1)):
        ran = project.run("upgrade", target, "-r", runs)
        assert ran.code == code
        assert ran.err.count("error: ") == 1
        assert ran.out == ""


def test_a_full_disk_stops_early(project: Folder, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = content(runs)
    monkeypatch.setattr(os, "fsync", full)
    ran = project.run("upgrade", "head", "-r", runs, "--exclude", "broken*")
    assert ran.code == 1
    assert "stopped because the disk is full, with 3 left, whose copies need up to " in ran.err
    assert content(runs) == before


def test_a_file_too_large_for_this_process_stops_no_other(
    project: Folder, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(size_limits, "_largest_file", lambda: 10)
    ran = project.run("upgrade", "head", "-r", runs / "a")
    assert ran.code == 1
    assert ran.out.splitlines()[-1].startswith("2 failed, ")


def test_check_of_a_folder_names_the_option(project: Folder, runs: Path) -> None:
    ran = project.run("check", runs / "a")
    assert (ran.code, "give --recursive for all checkpoints below it" in ran.err) == (2, True)


SLOW = '''"""slow"""

import pathlib, time

revision = "a2"
down_revision = "a1"


def migrate(ckpt):
    pathlib.Path("begun").write_text("")
    time.sleep(0.05)
    return ckpt
'''


def migrate_many(project: Folder, jobs: int) -> subprocess.Popen[str]:
    """Begin a run over 40 checkpoints, each of which takes a while."""
    (project.path / "versions" / "a1_rename.py").write_text(OPERATIONS)
    (project.path / "versions" / "a2_slow.py").write_text(SLOW)
    for number in range(40):
        (project.path / "many").mkdir(exist_ok=True)
        project.copy(to=f"many/{number}.ckpt")
    words = ["upgrade", "head", "-r", "many", "-j", str(jobs), "--no-backup", "--report", "report.jsonl"]
    began = subprocess.Popen(
        [sys.executable, "-m", "anemoi_ckpt_migrate", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not Path("begun").exists():
        assert began.poll() is None, began.communicate()
        time.sleep(0.01)
    return began


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_interruption_says_what_is_left(project: Folder, jobs: int) -> None:
    began = migrate_many(project, jobs)
    time.sleep(0.3)
    began.send_signal(signal.SIGINT)
    _, err = began.communicate(timeout=60)
    assert began.returncode == 130, err
    left = int(err.split("interrupted with ")[1].split()[0])
    moved = [path for path in Path("many").iterdir() if "y.weight" in names(path)]
    # a signal may come after a checkpoint has its new name, but before its result is there: it counts as left
    assert 0 < 40 - left <= len(moved) <= 40 - left + jobs < 40
    assert leftovers(Path("many")) == []
    project.ok("upgrade", "head", "-r", "many", "--no-backup", "--report", "report.jsonl")
    assert all("y.weight" in names(path) for path in Path("many").iterdir())
    assert project.ok("report", "report.jsonl", "--left").out == ""


@pytest.mark.parametrize("jobs", [1, 2])
def test_killed_at_any_time_and_run_again(project: Folder, jobs: int) -> None:
    for wait in (0.0, 0.2, 0.4):
        began = migrate_many(project, jobs)
        time.sleep(wait)
        os.killpg(began.pid, signal.SIGKILL)
        began.communicate(timeout=60)
        listed = project.run("report", "report.jsonl", "--left").out.splitlines()
        assert all(f"many/{path.name}" in listed for path in Path("many").glob("*.ckpt") if "x.weight" in names(path))
        project.ok("upgrade", "head", "-r", "many", "--no-backup", "--report", "report.jsonl")
        assert sorted(path.name for path in Path("many").iterdir()) == sorted(f"{number}.ckpt" for number in range(40))
        assert all("y.weight" in names(path) for path in Path("many").iterdir())
        assert project.ok("report", "report.jsonl", "--left").out == ""
        for path in [*Path("many").iterdir(), Path("begun"), Path("report.jsonl")]:
            path.unlink()


def test_a_report_is_json(project: Folder, runs: Path) -> None:
    project.run("upgrade", "head", "-r", runs, "--report", "report.jsonl")
    lines = [json.loads(line) for line in Path("report.jsonl").read_text().splitlines()]
    assert lines[0]["command"] == "upgrade"
    assert {line["status"] for line in lines if "status" in line} == {"moved", "same", "unrelated", "failed"}
    assert backups(runs / "a/first.ckpt")
