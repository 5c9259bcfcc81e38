"""The command that merges reports: one run after the other, and parts of a run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anemoi_ckpt_migrate import report
from anemoi_ckpt_migrate.batch.job import STATUSES
from anemoi_ckpt_migrate.batch.select import read_list
from tests.support.project import Folder
from tests.support.reports import run

ONE, TWO = "one.jsonl", "two.jsonl"
LEFT = ("failed", "refused", "interrupted")


@pytest.fixture(autouse=True)
def current(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def counts(*reports: str) -> dict[str, int]:
    return {status: count for status, count in report(reports).summary.counts.items() if count}


def listed(folder: Folder, *words: str) -> list[str]:
    return folder.run("report", "--left", *words).out.splitlines()


# One run after the other


def test_the_results_of_a_run(project: Folder) -> None:
    run(ONE, "a.ckpt: base -> a1", "b.ckpt: a1")
    ran = project.ok("report", ONE)
    first, second, last = ran.out.splitlines()
    assert first.split() == ["upgraded", "1", "base", "->", "a1"]
    assert second.split() == ["already", "there", "1"]
    assert last.startswith("1 upgraded, 1 already there, 20 B in ")
    assert ran.err == ""


def test_the_last_result_for_a_checkpoint_counts() -> None:
    run(ONE, "a.ckpt: base -> a1", "b.ckpt: refused", "c.ckpt: failed")
    run(ONE, "a.ckpt: a1", "b.ckpt: base -> a1", "c.ckpt: failed")
    assert counts(ONE) == {"moved": 1, "same": 1, "failed": 1}
    assert report([ONE]).runs == 2


@pytest.mark.parametrize("reports", [(ONE, TWO), (TWO, ONE)])
def test_the_last_result_is_that_of_the_later_run_in_any_order_of_the_reports(reports: tuple[str, ...]) -> None:
    run(ONE, "a.ckpt: failed")
    run(TWO, "a.ckpt: base -> a1")
    assert counts(*reports) == {"moved": 1}


def test_a_checkpoint_that_a_later_run_found_and_did_not_reach_is_left() -> None:
    run(ONE, "a.ckpt: base -> a1", "b.ckpt: base -> a1")
    run(ONE, "a.ckpt: a1 -> b2", found=["b.ckpt", "c.ckpt"])
    merged = report([ONE])
    assert counts(ONE) == {"moved": 1, "unreached": 2}
    assert (merged.left, merged.exit_code) == (("b.ckpt", "c.ckpt"), 1)


def test_the_same_checkpoint_under_several_spellings_is_one() -> None:
    run(ONE, "./runs//a.ckpt: failed", f"{os.getcwd()}/b.ckpt: failed", "s3://bucket/c.ckpt: failed")
    run(ONE, "runs/a.ckpt: base -> a1", "b.ckpt: base -> a1", "s3://bucket/c.ckpt: base -> a1")
    assert counts(ONE) == {"moved": 3}


def test_a_report_can_be_read_while_a_run_still_writes() -> None:
    run(ONE, "a.ckpt: base -> a1", found=["b.ckpt"])
    path = Path(ONE)
    path.write_bytes(path.read_bytes() + b'{"checkpoint": "b.c')
    assert report([ONE]).left == ("b.ckpt",)


def test_times_of_runs_side_by_side_are_counted_once() -> None:
    for path, second in ((ONE, 0), (TWO, 1), ("three.jsonl", 100)):
        run(path, "a.ckpt: base -> a1", time=f"2026-01-01T00:00:00.{second:06}+00:00", given=path)
        lines = Path(path).read_text().splitlines()
        lines[-1] = json.dumps({**json.loads(lines[-1]), "after": 60})
        Path(path).write_text("\n".join(lines) + "\n")
    assert report([ONE, TWO, "three.jsonl"]).summary.elapsed == pytest.approx(60.0001)


# What is left


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        (("a.ckpt: base -> a1", "b.ckpt: a1", "c.ckpt: unrelated"), 0),
        (("a.ckpt: base -> a1", "b.ckpt: refused"), 3),
        (("a.ckpt: refused", "b.ckpt: failed"), 1),
        (("a.ckpt: refused", "b.ckpt: interrupted"), 1),
    ],
)
def test_the_exit_code_tells_whether_something_is_left(project: Folder, lines: tuple[str, ...], code: int) -> None:
    run(ONE, *lines)
    for words in ([], ["--json"], ["--left"]):
        assert project.run("report", ONE, *words).code == code


def test_what_is_left_is_listed_for_from_file(project: Folder) -> None:
    run(
        ONE,
        "a.ckpt: base -> a1",
        "b.ckpt: failed",
        "c.ckpt: refused",
        "d.ckpt: unrelated",
        "e.ckpt: a1",
        found=["f.ckpt"],
    )
    run(ONE, "b.ckpt: base -> a1", "g.ckpt: interrupted")
    ran = project.run("report", "--left", ONE)
    Path("left.txt").write_text(ran.out)
    assert sorted(read_list("left.txt")) == ["c.ckpt", "f.ckpt", "g.ckpt"]
    assert ran.err == ""


def test_what_was_only_planned_is_left(project: Folder) -> None:
    run(ONE, "a.ckpt: base -> a1", "b.ckpt: a1", dry_run=True)
    ran = project.run("report", ONE)
    assert (ran.code, ran.out.splitlines()[-1].partition(", ")[0]) == (4, "1 upgraded (dry run)")
    assert listed(project, ONE) == ["a.ckpt"]
    run(ONE, "a.ckpt: base -> a1")
    assert (listed(project, ONE), project.run("report", ONE).code) == ([], 0)


def test_paths_lead_to_the_folder_of_the_run(project: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    run(ONE, "a.ckpt: failed", "/data/b.ckpt: failed", "s3://bucket/c.ckpt: failed")
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    left = [str(project.path / "a.ckpt"), "/data/b.ckpt", "s3://bucket/c.ckpt"]
    assert listed(project, f"../{ONE}") == left


def test_a_name_with_a_line_break_needs_null(project: Folder) -> None:
    run(ONE, "a\nb.ckpt: failed", "c.ckpt: failed")
    ran = project.run("report", "--left", ONE)
    assert (ran.code, ran.out) == (2, "")
    assert "the name 'a\\nb.ckpt' has a line break; give --null, here and with --from-file" in ran.err
    assert project.run("report", "--left", "--null", ONE).out == "a\nb.ckpt\0c.ckpt\0"


def test_null_needs_left(project: Folder) -> None:
    run(ONE, "a.ckpt: failed")
    ran = project.run("report", "--null", ONE)
    assert (ran.code, ran.err.count("--null needs --left")) == (2, 1)


def test_a_name_that_is_no_text_comes_back_the_same() -> None:
    name = os.fsdecode(b"\xff\n \xe4.ckpt")
    run(ONE, f"{name}: failed")
    command = [sys.executable, "-m", "anemoi_ckpt_migrate", "report", ONE]
    left = subprocess.run([*command, "--left", "--null"], capture_output=True, check=False)
    Path("left").write_bytes(left.stdout)
    assert read_list("left", null=True) == [name]
    table = subprocess.run(command, capture_output=True, check=False, text=True)
    assert "\\udcff\\n \\udce4.ckpt" in table.stdout
    data = subprocess.run([*command, "--json"], capture_output=True, check=False, text=True)
    assert json.loads(data.stdout)["left"] == [name]


def test_the_data_of_a_report(project: Folder) -> None:
    run(ONE, "a.ckpt: base -> a1", "b.ckpt: refused", part=(1, 2))
    (data,) = project.run("report", "--json", ONE).lines
    summary = data.pop("summary")
    assert data == {
        "reports": [ONE],
        "runs": 1,
        "unfinished": 0,
        "missing_parts": [{"count": 2, "parts": "2"}],
        "left": ["b.ckpt"],
    }
    assert (summary["command"], summary["moved"], summary["refused"]) == ("upgrade", 1, 1)


def test_the_python_of_the_page_on_fleets(capsys: pytest.CaptureFixture[str]) -> None:
    page = Path(__file__).parents[2] / "docs" / "fleets.md"
    if not page.exists():
        pytest.skip("the sources are not here")
    (code,) = (each for each in re.findall(r"```python\n(.*?)```", page.read_text(), re.S) if "report(" in each)
    run("upgrade.jsonl", "a.ckpt: base -> a1", "b.ckpt: failed")
    exec(code, {})
    assert capsys.readouterr().out == "1 moved, 1 left\n"


# Parts, and runs that were not finished


def parts(*numbers: int, of: int, **header: Any) -> list[str]:
    for number in numbers:
        run(f"{number}.jsonl", f"{number}.ckpt: base -> a1", part=(number, of), **header)
    return [f"{number}.jsonl" for number in numbers]


def test_the_reports_of_all_parts_are_the_report_of_the_whole(project: Folder) -> None:
    ran = project.ok("report", *parts(2, 1, 3, of=3))
    assert ran.out.splitlines()[-1].startswith("3 upgraded, 30 B in ")
    assert ran.err == ""


@pytest.mark.parametrize(
    ("there", "count", "missing"),
    [((2,), 2, "1"), ((1, 4), 8, "2-3,5-8"), ((1, 2, 4), 4, "3"), ((3,), 10**15, f"1-2,4-{10**15}")],
)
@pytest.mark.parametrize("words", [[], ["--left"]])
def test_missing_parts_are_named(
    project: Folder, words: list[str], there: tuple[int, ...], count: int, missing: str
) -> None:
    ran = project.run("report", *parts(*there, of=count), *words)
    assert ran.code == 1
    assert ran.err == f"ckpt-migrate: warning: there is no report of these parts of {count}: {missing}\n"


def test_parts_of_another_run_do_not_fill_in() -> None:
    reports = parts(1, of=2) + parts(2, of=2, target="base")
    assert [each.parts for each in report(reports).missing_parts] == ["2", "1"]


def test_a_run_that_did_not_find_everything_has_to_be_run_again(project: Folder) -> None:
    run(ONE, "a.ckpt: base -> a1", all_found=False)
    ran = project.run("report", ONE)
    assert (ran.code, ran.err) == (
        1,
        "ckpt-migrate: warning: 1 run ended before all checkpoints were found, so there may be more; run the same "
        "command again\n",
    )
    run(TWO, "a.ckpt: a1", given={"paths": ["others"]})
    assert report([ONE, TWO]).unfinished == 1
    run(ONE, "a.ckpt: a1")
    assert report([ONE, TWO]).unfinished == 0
    assert project.ok("report", ONE, TWO).err == ""


# Bad input


def test_a_file_that_is_no_report_is_refused(project: Folder) -> None:
    checkpoint = project.copy()
    run(ONE, "a.ckpt: a1")
    ran = project.run("report", ONE, checkpoint)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == "ckpt-migrate: error: " + f"{checkpoint}: it is no report; give files that --report wrote\n"


def test_a_damaged_line_and_a_missing_file_are_named(project: Folder) -> None:
    run(ONE, "a.ckpt: a1")
    content = Path(ONE).read_text().replace('"status"', '"state"')
    Path(ONE).write_text(content)
    ran = project.run("report", ONE)
    assert (ran.code, ran.err) == (
        1,
        "ckpt-migrate: error: one.jsonl: line 4 of the report is damaged; remove the line, or restore the file\n",
    )
    ran = project.run("report", "none.jsonl")
    assert (ran.code, ran.err) == (
        1,
        "ckpt-migrate: error: none.jsonl: the report cannot be read (no such file or directory)\n",
    )


def test_a_report_without_a_whole_line_tells_nothing(project: Folder) -> None:
    run(ONE)
    Path(ONE).write_bytes(Path(ONE).read_bytes()[:40])
    ran = project.run("report", ONE)
    assert (ran.out, ran.code) == ("0 checkpoints, 0 B in 0.0 s\n", 0)


# Any runs

_names = st.sampled_from(["a.ckpt", "b.ckpt", "c.ckpt"])
_ran = st.dictionaries(_names, st.sampled_from(["base -> a1", "a1", "unrelated", *LEFT]))
_runs = st.lists(st.tuples(_ran, st.sets(_names), st.sampled_from([ONE, TWO])), min_size=1, max_size=4)


@given(_runs)
def test_any_runs_are_merged_as_if_one_looked_at_them_in_turn(runs: list[tuple[dict[str, str], set[str], str]]) -> None:
    last: dict[str, str] = {}
    for results, found, path in runs:
        run(path, *(f"{name}: {status}" for name, status in results.items()), found=sorted(found))
        last.update(dict.fromkeys(found, "unreached"))
        last.update(results)
    paths = sorted({path for _, _, path in runs})
    try:
        merged = report(paths)
    finally:
        for path in paths:
            Path(path).unlink()
    assert merged.summary.total == len(last)
    assert sorted(merged.left) == sorted(name for name, status in last.items() if status in (*LEFT, "unreached"))
    known = {"base -> a1": "moved", "a1": "same"}
    for status in (*STATUSES, "unreached"):
        expected = [name for name, each in last.items() if known.get(each, each) == status]
        assert merged.summary.counts[status] == len(expected)
