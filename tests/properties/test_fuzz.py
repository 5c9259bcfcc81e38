"""Damaged and hostile checkpoints are refused with one sentence, or read and rewritten rightly; see `tests.fuzzing`."""

from __future__ import annotations

import faulthandler
import os
import random
from pathlib import Path

import pytest

from anemoi_ckpt_migrate.errors import NotACheckpoint
from tests import fuzzing

USUAL = 1500
COUNT = max(1, int(os.environ.get("FUZZ_INPUTS", USUAL)))


def test_damaged_and_hostile_checkpoints() -> None:
    """The same inputs in each run; others, and more of them, with FUZZ_INPUTS in the environment."""
    start = 0 if COUNT <= USUAL else random.randrange(1 << 32)
    with fuzzing.Workbench() as workbench:
        hunt = fuzzing.Hunt(workbench, start)
        for _ in hunt.batches(COUNT):
            pass
    print(hunt)
    assert not hunt.findings, "\n\n".join(map(str, hunt.findings))
    assert hunt.tried >= COUNT
    assert hunt.counts["refused"] > COUNT / 10
    assert hunt.counts["rewritten"] > COUNT / 20


def test_sound_checkpoints_are_sound() -> None:
    """What is damaged can be read and rewritten where it is whole, but for the one format that is never read."""
    with fuzzing.Workbench() as workbench:
        tried = {name: workbench.try_out(fuzzing.Recipe(name).build(), tensors=True) for name in fuzzing.seeds()}
    outcomes = {name: found.outcome for name, found in tried.items()}
    assert outcomes == {name: "refused" if name == "tar" else "rewritten" for name in outcomes}, tried


def test_recipes_are_code() -> None:
    """What the report of a failure says can be run."""
    changes = (fuzzing.plant(5, b"]" * 300 + b"N" + b"a" * 300), fuzzing.delete(7, 1))
    recipe = fuzzing.Recipe("plain.pt", changes, (fuzzing.drop(0),), (fuzzing.flip((b"PK", 1, 2), 3),))
    assert len(repr(recipe)) < 300
    assert eval(repr(recipe), vars(fuzzing)).build() == recipe.build() != fuzzing.seeds()["plain.pt"]


# Wrong ways to treat a file, each of which has to be noticed.


def run_something(source: Path, output: Path, tensors: bool) -> str:
    os.system("exit 1")
    return "read"


def run_something_in_silence(source: Path, output: Path, tensors: bool) -> str:
    try:
        eval("1 + 1")
    except Exception:
        return "refused"
    return "read"


def import_something(source: Path, output: Path, tensors: bool) -> str:
    import this  # noqa: F401

    return "read"


def look_something_up(source: Path, output: Path, tensors: bool) -> str:
    import pickle

    return str(pickle.loads(f"c{fuzzing.CANARY}\ncall\n.".encode()))


def write_elsewhere(source: Path, output: Path, tensors: bool) -> str:
    (source.parent.parent / "elsewhere").write_text("x")
    return "read"


def raise_something_else(source: Path, output: Path, tensors: bool) -> str:
    raise KeyError("x")


def leave_the_interpreter(source: Path, output: Path, tensors: bool) -> str:
    raise SystemExit


def change_the_input(source: Path, output: Path, tensors: bool) -> str:
    source.write_bytes(b"x")
    return "read"


def leave_something(source: Path, output: Path, tensors: bool) -> str:
    source.with_name(".left.tmp").touch()
    return "read"


def stumble_over_archives_without_end(source: Path, output: Path, tensors: bool) -> str:
    content = source.read_bytes()
    if content.startswith(b"PK") and b"PK\5\6" not in content:
        raise ValueError
    return "read"


def crash(source: Path, output: Path, tensors: bool) -> str:
    faulthandler._sigsegv()
    return "read"


def crash_sometimes(source: Path, output: Path, tensors: bool) -> str:
    if source.stat().st_size < 100:
        output.write_text("half of it")
        crash(source, output, tensors)
    return fuzzing.journey(source, output, tensors)


def never_end(source: Path, output: Path, tensors: bool) -> str:
    while True:
        pass


def take_all_memory(source: Path, output: Path, tensors: bool) -> str:
    try:
        return str(len(bytearray(1 << 40)))
    except MemoryError as error:
        refused = NotACheckpoint("it is damaged")
        refused.__context__ = error
        fuzzing.check_memory(refused)
        return "refused"


@pytest.mark.parametrize(
    ("walk", "says"),
    [
        (run_something, "something ran: os.system"),
        (run_something_in_silence, "something ran: compile"),
        (import_something, "something ran: import"),
        (look_something_up, "something ran: pickle.find_class"),
        (write_elsewhere, "something ran: open"),
        (raise_something_else, "KeyError"),
        (leave_the_interpreter, "SystemExit"),
        (change_the_input, "the input was changed"),
        (leave_something, "something was left"),
        (crash, "the interpreter died (SIGSEGV)"),
        (never_end, "it took more than 0.5 seconds"),
        (take_all_memory, "it asked for too much memory"),
    ],
)
def test_what_is_wrong_is_noticed(walk: fuzzing.Walk, says: str) -> None:
    with fuzzing.Workbench(walk, seconds=0.5) as workbench:
        for _ in range(2):  # the second time in another process, where the first died
            tried = workbench.try_out(fuzzing.seeds()["plain.pt"], tensors=False)
            assert (tried.outcome, says in f"{tried.what}\n{tried.details}") == ("wrong", True), tried


def test_a_crash_is_one_result_among_others() -> None:
    inputs = [fuzzing.seeds()["plain.pt"], b"x", fuzzing.seeds()["plain.pt"]]
    with fuzzing.Workbench(crash_sometimes) as workbench:
        assert [workbench.try_out(content, True).outcome for content in inputs] == ["rewritten", "wrong", "rewritten"]


def test_a_failure_is_made_small_and_told_once() -> None:
    with fuzzing.Workbench(stumble_over_archives_without_end) as workbench:
        hunt = fuzzing.Hunt(workbench, 0)
        findings = [finding for batch in hunt.batches(300) for finding in batch]
    assert [finding.tried.what for finding in findings] == ["ValueError"]
    assert hunt.counts["wrong"] > 1
    recipe = findings[0].recipe
    assert 1 <= len(recipe.opcodes + recipe.archive + recipe.content) <= 2
