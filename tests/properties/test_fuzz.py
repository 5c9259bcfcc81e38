"""Damaged and hostile checkpoints are refused with one sentence, or read and rewritten rightly; see `tests.fuzzing`."""

from __future__ import annotations

import faulthandler
import os
import random
from pathlib import Path

import pytest

from anemoi_ckpt_migrate.errors import NotACheckpoint
from tests import fuzzing

USUAL = 200
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
    tried = {part for kind in hunt.kinds for part in kind.partition(": ")[0].split(" and ")}
    assert tried >= {"pickle", "archive", "bytes", "record", "beside", "prefix"}
    assert {"record: rewritten", "record: refused", "beside: rewritten", "beside: refused"} <= {*hunt.kinds}
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


def test_recipes_of_all_kinds_are_code() -> None:
    undo = fuzzing.undo_with(0, (("MoveClass", (("old", "classes: my"), ("new", "classes: os"))),), ())
    attack = fuzzing.Attack("with operations", (undo, fuzzing.put_in(7, "odd: deep list")), None, ("downgrade", "base"))
    placed = fuzzing.Placed("plain.pt", (("output.ckpt", "fifo"),), ("sync",), links=False)
    for recipe in (attack, placed, fuzzing.Prefixed("plain.pt", ("text", "plain.pt"), True, ("sync",))):
        again = eval(repr(recipe), vars(fuzzing))
        assert (again.build(), again.walk, again.beside) == (recipe.build(), recipe.walk, recipe.beside)


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


def write_through(source: Path, output: Path, tensors: bool) -> str:
    output.write_text("x")
    return "read"


def remove_what_is_in_the_way(source: Path, output: Path, tensors: bool) -> str:
    output.unlink()
    return "read"


def replace_it(source: Path, output: Path, tensors: bool) -> str:
    os.replace(source, output)
    source.touch()
    return "read"


@pytest.mark.parametrize(
    ("walk", "way", "says"),
    [
        (write_through, "link", "something ran: open"),
        (write_through, "dangling", "something ran: open"),
        (write_through, "hard link", "a victim was touched"),
        (remove_what_is_in_the_way, "link", "what stood at # was replaced or removed"),
        (remove_what_is_in_the_way, "fifo", "what stood at # was replaced or removed"),
        (replace_it, "other content", "what stood at # was replaced or removed"),
    ],
)
def test_what_is_wrong_with_files_beside_is_noticed(walk: fuzzing.Walk, way: str, says: str) -> None:
    with fuzzing.Workbench(walk) as workbench:
        tried = workbench.try_out(b"x", tensors=False, beside=(("output.ckpt", way),))
    assert (tried.outcome, says in tried.what) == ("wrong", True), tried


@pytest.mark.parametrize(
    ("code", "prints", "says"),
    [
        (5, "", "ended with"),
        (1, "Traceback (most recent call last)", "ended with"),
        (1, "x" * 6000, "the error is too long"),
        (1, "\x1b[31m", "could steer a terminal"),
        (0, "", "did not refuse"),
    ],
)
def test_what_is_wrong_with_a_command_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, prints: str, says: str
) -> None:
    (tmp_path / "input.ckpt").touch()
    monkeypatch.setattr(fuzzing.commands, "run", lambda *words: (code, "", prints))
    with pytest.raises(fuzzing.Wrong, match=says):
        fuzzing.Command(("sync",), refused=True)(tmp_path / "input.ckpt", tmp_path / "output.ckpt", False)


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
        hunt = fuzzing.Hunt(workbench, 2)
        findings = [finding for batch in hunt.batches(600) for finding in batch]
    assert [finding.tried.what for finding in findings] == ["ValueError"]
    assert hunt.counts["wrong"] > 1
    recipe = findings[0].recipe
    assert isinstance(recipe, fuzzing.Recipe)
    assert 1 <= len(recipe.opcodes + recipe.archive + recipe.content) <= 2
