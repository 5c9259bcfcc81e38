"""The report that a run over many checkpoints writes."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anemoi_ckpt_migrate._version import __version__
from anemoi_ckpt_migrate.batch.report_file import report_file
from anemoi_ckpt_migrate.batch.report_lines import read_lines
from anemoi_ckpt_migrate.batch.select import Selection
from anemoi_ckpt_migrate.errors import Busy, CannotRead, CannotWrite, DamagedReport, NotAReport
from tests.support.reports import result, run

HEADER = {"command": "upgrade", "target": "head", "given": {"paths": ["runs"]}}
names = st.binary(min_size=1, max_size=30).filter(lambda name: b"\0" not in name).map(os.fsdecode)


@pytest.fixture
def report(tmp_path: Path) -> Path:
    return tmp_path / "report.jsonl"


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def kinds(path: Path) -> list[str]:
    return [kind for kind, _ in read_lines(os.fspath(path))]


def checkpoints(path: Path) -> list[str]:
    return [line["checkpoint"] for kind, line in read_lines(os.fspath(path)) if kind == "checkpoint"]


# The lines


def test_the_first_line_tells_which_run_it_was(report: Path) -> None:
    with report_file(report, {**HEADER, "part": (2, 8)}):
        pass
    (header,) = lines(report)
    assert (header["ckpt-migrate report"], header["version"], header["part"]) == (1, __version__, [2, 8])
    assert (header["command"], header["target"], header["given"]) == ("upgrade", "head", {"paths": ["runs"]})
    assert (header["folder"], header["time"][-6:]) == (os.getcwd(), "+00:00")


def test_a_line_tells_the_result_for_a_checkpoint(report: Path) -> None:
    with report_file(report, HEADER) as opened:
        opened.add(result("a.ckpt: base -> c3+d4", "a warning"))
        opened.add(result("b.ckpt: refused"))
    moved, refused = ({**line, "after": 0} for line in lines(report)[1:])
    assert moved == {
        "checkpoint": "a.ckpt",
        "status": "moved",
        "from": [],
        "to": ["c3", "d4"],
        "steps": [],
        "written": None,
        "backup": None,
        "dry_run": False,
        "warnings": ["a warning"],
        "error": None,
        "size": 10,
        "seconds": 0.5,
        "after": 0,
    }
    assert (refused["status"], refused["from"]) == ("refused", None)
    assert refused["error"]["type"] == "ReadOnly"
    assert (refused["error"]["exit_code"], refused["error"]["message"][:15]) == (3, "it is read-only")


def test_a_line_is_in_the_file_at_once(report: Path) -> None:
    with report_file(report, HEADER) as opened:
        opened.add(result("a.ckpt: refused"))
        assert checkpoints(report) == ["a.ckpt"]


def test_checkpoints_are_noted_while_they_are_found(report: Path) -> None:
    paths = [f"{number}.ckpt" for number in range(1000)]
    with report_file(report, HEADER) as opened:
        for number, _ in enumerate(opened.watch(Selection(tuple(paths)).groups()), 1):
            noted = [line["found"] for line in lines(report)[1:]]
            assert number - sum(map(len, noted)) < 256
    *found, every = lines(report)[1:]
    assert [path for line in found for path in line["found"]] == paths
    assert every == {"found_all": 1000}


def test_a_run_that_fails_notes_all_that_it_found_but_not_that_this_is_all(report: Path) -> None:
    with pytest.raises(KeyboardInterrupt), report_file(report, HEADER) as opened:
        for _ in opened.watch(Selection(("a.ckpt", "b.ckpt", "c.ckpt")).groups()):
            opened.add(result("a.ckpt: base -> a1"))
            raise KeyboardInterrupt
    assert kinds(report) == ["ckpt-migrate report", "checkpoint", "found"]


def test_a_killed_run_leaves_all_lines_that_it_wrote(report: Path) -> None:
    code = (
        "import os, signal\n"
        "from anemoi_ckpt_migrate.batch.report_file import report_file\n"
        "from tests.support.reports import result\n"
        f"with report_file({os.fspath(report)!r}, {HEADER!r}) as opened:\n"
        "    for name in 'abc':\n"
        "        opened.add(result(f'{name}.ckpt: base -> a1'))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=False)
    assert ran.returncode == -signal.SIGKILL
    assert checkpoints(report) == ["a.ckpt", "b.ckpt", "c.ckpt"]
    run(report, "d.ckpt: base -> a1")
    assert checkpoints(report) == ["a.ckpt", "b.ckpt", "c.ckpt", "d.ckpt"]
    assert os.listdir(report.parent) == ["report.jsonl"]


# Names


@given(st.lists(names, max_size=5))
def test_every_name_of_a_file_comes_back_the_same(found: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "report.jsonl")
        with report_file(path, HEADER) as opened:
            opened.found(found)
            for name in found:
                opened.add(result(f"{name}: base -> a1"))
        assert path.read_bytes().isascii()
        assert len(lines(path)) == 1 + len(found) + bool(found)
        assert checkpoints(path) == found
        assert [name for kind, line in read_lines(str(path)) if kind == "found" for name in line["found"]] == found


# A report that is there already


def test_another_run_is_added_to_a_report(report: Path) -> None:
    run(report, "a.ckpt: failed")
    run(report, "a.ckpt: base -> a1")
    assert kinds(report) == 2 * ["ckpt-migrate report", "found", "found_all", "checkpoint"]


@given(st.lists(names, min_size=1, max_size=4), st.integers(0, 10_000))
def test_of_a_report_that_is_cut_anywhere_all_whole_lines_are_kept(found: list[str], at: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "report.jsonl")
        run(path, *(f"{name}: base -> a1" for name in found))
        content = path.read_bytes()
        cut = content[: at % len(content)]
        path.write_bytes(cut)
        run(path, "last.ckpt: base -> a1")
        whole = cut[: cut.rfind(b"\n") + 1]
        assert path.read_bytes().startswith(whole)
        assert len(lines(path)) == whole.count(b"\n") + 4
        assert checkpoints(path) == [*found[: whole.count(b'"checkpoint": ')], "last.ckpt"]


def test_zeros_that_a_power_cut_left_at_the_end_are_cut_off(report: Path) -> None:
    run(report, "a.ckpt: base -> a1")
    whole = report.read_bytes()
    report.write_bytes(whole + bytes(100_000))
    run(report, "b.ckpt: base -> a1")
    assert report.read_bytes().startswith(whole + b"{")
    assert checkpoints(report) == ["a.ckpt", "b.ckpt"]


@pytest.mark.parametrize("content", [b"PK\3\4 a checkpoint", b"\n", b"{}\n", b'{"checkpoint": "a.ckpt"}\n', bytes(9)])
def test_a_file_that_is_no_report_is_refused_and_stays_as_it_is(report: Path, content: bytes) -> None:
    report.write_bytes(content)
    with pytest.raises(NotAReport, match="holds something else than a report") as refused, report_file(report, HEADER):
        pass
    assert (refused.value.exit_code, refused.value.checkpoint) == (2, str(report))
    assert report.read_bytes() == content


def test_a_report_of_a_newer_version_is_refused_and_stays_as_it_is(report: Path) -> None:
    content = b'{"ckpt-migrate report": 2, "lines": "others"}\n{"half'
    report.write_bytes(content)
    with pytest.raises(NotAReport, match="format 2, this version reads 1: upgrade ckpt-migrate"):
        run(report)
    with pytest.raises(NotAReport, match="format 2, this version reads 1: upgrade ckpt-migrate"):
        kinds(report)
    assert report.read_bytes() == content


def test_a_link_is_not_followed(report: Path) -> None:
    aim = report.with_name("notes.txt")
    aim.touch()
    for target in (aim, "nowhere"):
        report.symlink_to(target)
        with pytest.raises(NotAReport, match="symbolic link"):
            run(report)
        report.unlink()
    assert (aim.read_bytes(), os.listdir(report.parent)) == (b"", ["notes.txt"])


def test_a_report_goes_to_a_plain_file(report: Path) -> None:
    os.mkfifo(report)
    for path in (report, report.parent, Path("/dev/null")):
        with pytest.raises(NotAReport, match="no plain file"):
            run(path)


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    path = tmp_path / "no" / "report.jsonl"
    with pytest.raises(CannotWrite, match=r"report\.jsonl: .*no such file or directory.*nothing was begun"):
        run(path)


# Trouble meanwhile


def test_of_two_runs_with_the_same_report_the_second_is_refused(report: Path) -> None:
    with report_file(report, HEADER) as opened:
        with pytest.raises(Busy, match=r"report\.jsonl: another ckpt-migrate"):
            run(report, "b.ckpt: base -> a1")
        opened.add(result("a.ckpt: base -> a1"))
    assert checkpoints(report) == ["a.ckpt"]
    run(report, "b.ckpt: base -> a1")
    assert checkpoints(report) == ["a.ckpt", "b.ckpt"]


def test_a_full_disk_ends_the_run_and_leaves_whole_lines(report: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    done: list[str] = []
    with pytest.raises(CannotWrite) as failed, report_file(report, HEADER) as opened:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
        try:
            for number in range(100):
                done.append(opened.add(result(f"{number}.ckpt: base -> a1"))["checkpoint"])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(failed.value) == (
        f"{report}: the report cannot be written (file too large), so the run stopped; make room or give another "
        "name, and run it again"
    )
    assert failed.value.exit_code == 1
    assert 1 < len(done) < 20
    assert checkpoints(report) == done
    assert report.read_bytes().endswith(b"}\n")


def test_a_signal_in_the_middle_of_a_line_leaves_whole_lines(report: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write

    def half(descriptor: int, line: memoryview) -> int:
        write(descriptor, line[: len(line) // 2])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), report_file(report, HEADER) as opened:
        opened.add(result("a.ckpt: base -> a1"))
        opened.found(["a.ckpt", "b.ckpt"])
        monkeypatch.setattr(os, "write", half)
        try:
            opened.add(result("b.ckpt: base -> a1"))
        finally:
            monkeypatch.undo()
    assert kinds(report) == ["ckpt-migrate report", "checkpoint", "found"]


# Reading


def test_a_last_line_that_is_still_being_written_is_left_out(report: Path) -> None:
    run(report, "a.ckpt: base -> a1", "b.ckpt: base -> a1")
    report.write_bytes(report.read_bytes()[:-10])
    assert checkpoints(report) == ["a.ckpt"]


DAMAGED = [
    b"half of a li",
    b"[" * 100_000,
    b"3",
    b"[]",
    b"{}",
    b"\xff",
    b'{"found": ["a.ckpt", 3]}',
    b'{"found": ["a\\u0000.ckpt"]}',
    b'{"found": ["a\\ud800.ckpt"]}',
    b'{"found_all": "many"}',
    b'{"checkpoint": "a.ckpt"}',
]


@pytest.mark.parametrize("line", DAMAGED, ids=lambda line: line[:30].decode(errors="replace"))
def test_a_damaged_line_is_named(report: Path, line: bytes) -> None:
    run(report, "a.ckpt: base -> a1")
    content = report.read_bytes().splitlines(keepends=True)
    report.write_bytes(b"".join([*content[:2], line + b"\n", *content[2:]]))
    with pytest.raises(DamagedReport, match=r"report\.jsonl: line 3 of the report is damaged") as damaged:
        kinds(report)
    assert damaged.value.exit_code == 1


WRONG: list[dict[str, Any]] = [
    {"checkpoint": ""},
    {"checkpoint": 3},
    {"status": "lost"},
    {"status": []},
    {"from": "a1"},
    {"to": [None]},
    {"warnings": None},
    {"error": {"type": "ReadOnly"}},
    {"error": "it is read-only"},
    {"size": -1},
    {"seconds": float("nan")},
    {"after": float("inf")},
    {"dry_run": "no"},
]


@pytest.mark.parametrize("field", WRONG, ids=str)
def test_a_result_with_a_field_of_another_kind_is_damaged(report: Path, field: dict[str, Any]) -> None:
    run(report, "a.ckpt: base -> a1")
    *before, last = lines(report)
    report.write_text("".join(json.dumps(line) + "\n" for line in [*before, {**last, **field}]))
    with pytest.raises(DamagedReport, match="line 4"):
        kinds(report)


@pytest.mark.parametrize(
    "field", [{"time": "noon"}, {"time": "2026-01-01"}, {"part": [3, 2]}, {"part": [0, 2]}, {"folder": None}], ids=str
)
def test_a_header_with_a_field_of_another_kind_is_damaged(report: Path, field: dict[str, Any]) -> None:
    run(report, "a.ckpt: base -> a1")
    first, *others = lines(report)
    report.write_text("".join(json.dumps(line) + "\n" for line in [{**first, **field}, *others]))
    with pytest.raises(DamagedReport, match="line 1"):
        kinds(report)


def test_what_a_later_version_adds_is_ignored(report: Path) -> None:
    run(report, "a.ckpt: base -> a1")
    report.write_text("".join(json.dumps({**line, "more": 1}) + "\n" for line in lines(report)))
    assert checkpoints(report) == ["a.ckpt"]


def test_a_file_that_is_no_report_cannot_be_read(report: Path) -> None:
    with pytest.raises(CannotRead, match=r"report\.jsonl: the report cannot be read \(no such file or directory\)"):
        kinds(report)
    report.write_bytes(b"{}\n")
    with pytest.raises(NotAReport, match="no report; give files that --report wrote"):
        kinds(report)
