"""The sum of many results, and how it is shown."""

from __future__ import annotations

import gc
import os
import pty
import subprocess
import sys
import tracemalloc
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anemoi_ckpt_migrate import errors
from anemoi_ckpt_migrate.batch.job import FAILED, JobResult
from anemoi_ckpt_migrate.batch.report_lines import result_line
from anemoi_ckpt_migrate.batch.summary import Move, Summary, mask
from anemoi_ckpt_migrate.console.summary_table import print_summary, summary_line
from anemoi_ckpt_migrate.errors import MigrateError
from anemoi_ckpt_migrate.util.text import lasted
from tests.support.reports import result, run


def summed(results: Iterable[str | JobResult], command: str | None = "upgrade") -> Summary:
    summary = Summary(command)
    for each in results:
        summary.add(result_line(result(each) if isinstance(each, str) else each))
    return summary


def refused(checkpoint: str, error: MigrateError) -> JobResult:
    return result(f"{checkpoint}: refused", error=error)


# Sums


def test_each_status_is_counted() -> None:
    summary = summed(
        ["a: base -> a1", "b: base -> a1", "c: a1", "d: unrelated", "e: refused", "f: failed", "g: interrupted"]
    )
    summary.add_unreached("h")
    assert summary.counts == {
        "moved": 2,
        "same": 1,
        "unrelated": 1,
        "refused": 1,
        "failed": 1,
        "interrupted": 1,
        "unreached": 1,
    }
    assert (summary.total, summary.size, summary.seconds) == (8, 60, 3.5)


def test_moves_are_counted_by_where_from_and_where_to() -> None:
    summary = summed(["a: base -> c3", "b: b2 -> c3", "c: b2 -> c3", "d: b2+x9 -> c3", "e: c3"])
    assert summary.moves == [Move(("b2",), ("c3",), 2), Move((), ("c3",), 1), Move(("b2", "x9"), ("c3",), 1)]


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ((), 0),
        (("a: base -> a1", "b: a1", "c: unrelated"), 0),
        (("a: base -> a1", "b: refused"), 3),
        (("a: refused", "b: failed"), 1),
        (("a: interrupted",), 1),
    ],
)
def test_the_exit_code_is_that_of_the_most_serious_result(lines: tuple[str, ...], code: int) -> None:
    assert summed(lines).exit_code == code


def test_the_exit_code_for_a_folder_that_is_no_checkpoint() -> None:
    assert summed(["a: refused", refused("runs", errors.NoCheckpointInFolder())]).exit_code == 2


def test_the_data_of_a_summary() -> None:
    assert summed(["a: base -> a1", "b: refused"]).to_data() == {
        "command": "upgrade",
        "checkpoints": 2,
        "moved": 1,
        "same": 0,
        "unrelated": 0,
        "refused": 1,
        "failed": 0,
        "interrupted": 0,
        "unreached": 0,
        "planned": 0,
        "moves": [{"from": [], "to": ["a1"], "count": 1}],
        "reasons": [
            {
                "status": "refused",
                "type": "ReadOnly",
                "reason": "it is read-only; allow writing with …, or write elsewhere with --output",
                "example": "b",
                "message": errors.ReadOnly().sentence,
                "count": 1,
            }
        ],
        "warnings": [],
        "bytes": 20,
        "seconds": 1.0,
        "elapsed": None,
    }


# Reasons

SAME_REASONS = [
    (errors.Damaged(["data/7"]), errors.Damaged(["archive/data/12"])),
    (
        errors.NotAtBase("m", ["a.weight is missing"], "a"),
        errors.NotAtBase("m", ["x.w is missing", "y.w is missing"], "b"),
    ),
    (errors.HasRecord(["3f2a9c1b7d10"]), errors.HasRecord(["91be07d2c4aa"])),
    (errors.NoRoom(1_000_000, 5, "the disk"), errors.NoRoom(22, 11, "the disk")),
    (errors.CannotRead("x y.ckpt has no end"), errors.CannotRead("b has no end")),
]


@pytest.mark.parametrize(("first", "second"), SAME_REASONS, ids=lambda error: type(error).__name__)
def test_sentences_that_differ_in_names_and_numbers_are_one_reason(first: MigrateError, second: MigrateError) -> None:
    (reason,) = summed([refused("x y.ckpt", first), refused("b", second)]).reasons
    assert (reason.count, reason.example, reason.message) == (2, "x y.ckpt", first.sentence)


def test_sentences_that_say_something_else_are_several_reasons() -> None:
    several = [
        errors.CannotRead("it cannot be read (permission denied)"),
        errors.CannotRead("it cannot be read (no such file or directory)"),
        errors.CannotWrite("it cannot be read (permission denied)"),
    ]
    summary = summed(JobResult("a", FAILED, error=error) for error in [*several, several[0]])
    assert [(reason.type, reason.count) for reason in summary.reasons] == [
        ("CannotRead", 2),
        ("CannotRead", 1),
        ("CannotWrite", 1),
    ]


def test_reasons_are_those_of_a_status_and_the_frequent_ones_come_first() -> None:
    summary = summed(
        ["a: failed", refused("e", errors.NotAtBase("m", [], "e")), "b: refused", "c: refused", "d: unrelated"]
    )
    assert [(reason.status, reason.count) for reason in summary.reasons] == [
        ("unrelated", 1),
        ("refused", 2),
        ("refused", 1),
        ("failed", 1),
    ]


@pytest.mark.parametrize(
    ("sentence", "masked"),
    [
        ("the key 'x.weight' is missing", "the key … is missing"),
        ('the key "it\'s" is missing', "the key … is missing"),
        ("the model's parameters and the file's differ", "the model's parameters and the file's differ"),
        ("runs/a/last.ckpt is in the way of /b/c", "… is in the way of …"),
        ("encoder.weight is missing, decoder.bias is missing, and 5 more", "… is missing"),
        ("it needs 1,000,000 bytes, but there are 17", "it needs … bytes, but there are …"),
        ("it is at 3f2a9c1b7d10, 91be07d2c4aa", "it is at …"),
        ("my model is in the way", "… is in the way"),
    ],
)
def test_changing_parts_of_a_sentence_are_masked(sentence: str, masked: str) -> None:
    assert mask(sentence, "my model") == masked


@given(st.text())
def test_any_sentence_can_be_masked(sentence: str) -> None:
    assert len(mask(sentence, "a b")) <= len(sentence)


def test_warnings_are_grouped_as_reasons_are() -> None:
    warned = [result(f"{name}: base -> a1", f"{name} was written by torch {len(name)}.1") for name in ("a", "bc", "d")]
    (warning,) = summed(warned).warnings
    assert (warning.count, warning.message, warning.example) == (3, "a was written by torch 1.1", "a")


# Many


def test_ten_times_as_many_results_take_no_more_memory() -> None:
    summary, sizes = Summary("upgrade"), []
    tracemalloc.start()
    try:
        for number in range(10_000):
            name = f"runs/{number}/last.ckpt"
            line = f"{name}: refused" if number % 2 else f"{name}: r{number} -> head"
            error = errors.CannotRead("x" * (number % 300)) if number % 2 else None
            summary.add(result_line(result(line, f"{name}: odd", error=error)))
            if number in (999, 9_999):
                gc.collect()
                sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert sizes[1] < 2 * sizes[0]
    assert sum(move.count for move in summary.moves) == sum(reason.count for reason in summary.reasons) == 5_000
    assert len(summary.moves) < 300
    assert len(summary.reasons) < 300


# Text


def test_the_line_of_a_run() -> None:
    summary = summed(["a: base -> a1"] * 2 + ["b: a1", "c: refused"])
    assert summary_line(summary) == "2 upgraded, 1 already there, 1 refused, 40 B in 2.0 s"
    summary.elapsed = 242
    summary.counts["moved"] = 9998
    assert summary_line(summary) == "9,998 upgraded, 1 already there, 1 refused, 40 B in 4 min 2 s"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("downgrade", "1 downgraded"),
        ("stamp", "1 stamped"),
        ("compact", "1 compacted"),
        ("sync", "1 moved"),
        (None, "1 moved"),
    ],
)
def test_the_line_uses_the_word_of_the_command(command: str | None, words: str) -> None:
    assert summary_line(summed(["a: base -> a1"], command)).startswith(words)


def test_the_line_of_a_dry_run_says_so() -> None:
    summary = summed([result("a: base -> a1", dry_run=True), "b: a1"])
    assert summary_line(summary) == "1 upgraded (dry run), 1 already there, 20 B in 1.0 s"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (9.94, "9.9 s"), (59.6, "1 min 0 s"), (242, "4 min 2 s"), (3725, "1 h 2 min"), (90061, "1 d 1 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert lasted(seconds) == text


def test_the_table_in_a_pipe_has_one_line_for_each_fact(capsys: pytest.CaptureFixture[str]) -> None:
    long = "/".join(["a folder"] * 100)
    print_summary(summed(["a: base -> c3", "b: b2+x9 -> c3", "c: c3", f"{long}: refused", "d: refused"]))
    assert capsys.readouterr().out == (
        "upgraded       1  base -> c3\n"
        "upgraded       1  b2, x9 -> c3\n"
        "already there  1\n"
        "refused        2  it is read-only; allow writing with `chmod u+w`, or write elsewhere with --output\n"
        f"                  for example {long}\n"
        "2 upgraded, 1 already there, 2 refused, 50 B in 2.5 s\n"
    )


def test_the_table_names_the_only_one_and_counts_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    print_summary(summed([*(f"{number}: r{number} -> head" for number in range(13)), "bad\x1b[31m: failed"]))
    *moves, rest, reason, example, _ = capsys.readouterr().out.splitlines()
    assert len(moves) == 10
    assert rest == "upgraded  3  3 more kinds, which --json lists"
    assert reason == "failed    1  it cannot be read (permission denied)"
    assert example.strip() == "bad\\x1b[31m"


def test_the_summary_of_nothing_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_summary(summed([]))
    assert capsys.readouterr().out == "0 checkpoints, 0 B in 0.0 s\n"


def test_the_table_fits_a_terminal(tmp_path: Path) -> None:
    name = "long/" * 30
    run(tmp_path / "report.jsonl", f"{name}: refused")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "anemoi_ckpt_migrate", "report", str(tmp_path / "report.jsonl")]
    environment = {**os.environ, "COLUMNS": "60", "TERM": "xterm"}
    with subprocess.Popen(command, stdout=theirs, env=environment) as ran:
        os.close(theirs)
        ran.wait()
        shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert "\x1b[33mrefused" in shown
    assert max(map(len, shown.replace("\x1b[33m", "").replace("\x1b[0m", "").splitlines())) <= 60
    assert name in "".join(shown.split())
