"""Several processes work on many checkpoints: one that dies takes one checkpoint with it, and a signal stops all."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")

from anemoi_ckpt_migrate.batch.job import Job
from anemoi_ckpt_migrate.batch.migrate_all import migrate_all
from anemoi_ckpt_migrate.batch.pool import Attention, runner
from anemoi_ckpt_migrate.batch.select import Chosen
from anemoi_ckpt_migrate.errors import CannotRead
from tests.support.fleet import Script, eventually, fleet, moved, statuses, unchanged
from tests.support.project import Folder

SCRIPT = """
import signal, sys
from anemoi_ckpt_migrate.batch.job import Job
from anemoi_ckpt_migrate.batch.pool import Attention, runner
from anemoi_ckpt_migrate.batch.select import Selection

if __name__ == "__main__":
    attention = Attention()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, attention.notice)
    job = Job("upgrade", {"target": "head"})
    for each in runner(int(sys.argv[1]))(job, Selection(tuple(sys.argv[2:])).groups(), attention):
        print(each.checkpoint, each.status, flush=True)
"""


@pytest.fixture
def scripts(project: Folder) -> Iterator[list[Script]]:
    started: list[Script] = []
    yield started
    for script in started:
        script.end()


def test_a_process_that_dies_takes_only_its_checkpoint_with_it(project: Folder) -> None:
    bad = {"b": "sigkill", "d": "sigbus", "g": "exits"}
    paths = fleet(project, **{name: bad.get(name, "") for name in "abcdefgh"})
    results = {each.checkpoint: each for each in migrate_all(paths, jobs=2)}
    assert set(results) == set(paths)
    for path in paths:
        assert results[path].status == ("failed" if path[0] in bad else "moved")
        assert moved(path) == (path[0] not in bad)
    said = {name: str(results[f"{name}.ckpt"].error) for name in bad}
    assert "b.ckpt: the process that worked on it died (signal SIGKILL; the system may have run out of" in said["b"]
    assert "signal SIGBUS" in said["d"]
    assert "exit code 3" in said["g"]


def test_the_error_of_a_folder_that_cannot_be_searched_names_it(project: Folder) -> None:
    fleet(project, a="")
    groups = [(Chosen("runs/b", error=CannotRead("it cannot be searched (permission denied)")),), (Chosen("a.ckpt"),)]
    failed, fine = runner(1)(Job("upgrade", {"target": "head"}), groups, Attention())
    assert (failed.status, str(failed.error)) == ("failed", "runs/b: it cannot be searched (permission denied)")
    assert fine.status == "moved"


def test_no_more_processes_than_there_is_work(project: Folder, scripts: list[Script]) -> None:
    paths = fleet(project, a="waits", b="waits")
    scripts.append(Script(project.path, SCRIPT, "20", *paths))
    eventually(lambda: len(list(project.path.glob("begun-*"))) == 2)
    assert len(scripts[0].processes()) <= 5  # two that work, the script, and two of multiprocessing
    (project.path / "go").touch()
    assert sorted(scripts[0].said().splitlines()) == ["a.ckpt moved", "b.ckpt moved"]


def test_the_others_of_its_group_go_on_in_their_order(project: Folder) -> None:
    inner, killed, outer, *others = fleet(project, a="", b="sigkill", c="", d="", e="")
    groups = [tuple(map(Chosen, (inner, killed, outer))), *((Chosen(path),) for path in others)]
    results = list(runner(2)(Job("upgrade", {"target": "head"}), groups, Attention()))
    assert statuses(results) == {
        path: "failed" if path == killed else "moved" for path in (inner, killed, outer, *others)
    }
    assert [each.checkpoint for each in results if each.checkpoint not in others] == [inner, killed, outer]


def test_nothing_waits_behind_a_large_checkpoint(project: Folder) -> None:
    large, *others = fleet(project, a="waits", b="", c="", d="")
    groups = [(Chosen(large, size=1 << 40),), *((Chosen(path, size=1000),) for path in others)]
    results = runner(2)(Job("upgrade", {"target": "head"}), groups, Attention())
    assert [next(results).checkpoint for _ in others] == others
    (project.path / "go").touch()
    assert [each.checkpoint for each in results] == [large]


def test_each_checkpoint_may_end_its_process(project: Folder) -> None:
    paths = fleet(project, a="sigkill", b="exits", c="sigkill", d="sigkill", e="exits")
    assert statuses(migrate_all(paths, jobs=2)) == dict.fromkeys(paths, "failed")
    assert not any(map(moved, paths))


def test_a_signal_to_one_process_interrupts_only_what_it_does(project: Folder) -> None:
    paths = fleet(project, a="", b="sigterm", c="", d="", e="")
    assert statuses(migrate_all(paths, jobs=2)) == {
        path: "interrupted" if path == "b.ckpt" else "moved" for path in paths
    }
    assert not moved("b.ckpt")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_signal_stops_the_run(project: Folder, scripts: list[Script], jobs: int, number: int) -> None:
    paths = fleet(project, a="", b="", c="waits", d="waits", e="", f="")
    script = Script(project.path, SCRIPT, str(jobs), *paths)
    scripts.append(script)
    eventually(lambda: len(list(project.path.glob("begun-*"))) == jobs)
    same = unchanged(["c.ckpt", "d.ckpt", "e.ckpt", "f.ckpt"])
    script.signal(number)
    said = dict(line.split() for line in script.said().splitlines())
    begun = ["c.ckpt", "d.ckpt"][:jobs]
    assert {path for path, status in said.items() if status == "moved"} == {"a.ckpt", "b.ckpt"}
    assert {path for path, status in said.items() if status == "interrupted"} >= set(begun)
    assert same()
    eventually(lambda: not script.processes())
    assert not list(project.path.glob(".*"))  # neither locks nor half of a file


class Soon(Attention):
    """Is stopped after it was looked at so many times."""

    def __init__(self, looks: int) -> None:
        self._looks = looks
        super().__init__()

    @property
    def stopped(self) -> bool:  # type: ignore[override]
        self._looks -= 1
        return self._looks < 0

    @stopped.setter
    def stopped(self, value: bool) -> None:
        pass


@pytest.mark.parametrize("looks", [1, 2, 3])
def test_a_signal_while_the_processes_start(project: Folder, looks: int) -> None:
    paths = fleet(project, a="", b="", c="", d="", e="", f="", g="")
    groups = [(Chosen(path, size=1000),) for path in paths]
    found = statuses(runner(2)(Job("upgrade", {"target": "head"}), groups, Soon(looks)))
    assert set(found.values()) <= {"moved", "interrupted"}
    assert "interrupted" in found.values() or len(found) == len(paths)
    assert all(moved(path) for path in paths if found.get(path) == "moved")
    assert not any(moved(path) for path in paths if path not in found)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_while_they_start(project: Folder, scripts: list[Script], number: int) -> None:
    paths = fleet(project, a="", b="", c="")
    script = Script(project.path, SCRIPT, "2", *paths)
    scripts.append(script)
    eventually(lambda: len(script.processes()) >= 3)  # the script, and two of multiprocessing
    for process in script.processes():  # as a terminal and batch systems do
        os.kill(process, number)
    said = script.said()
    assert "Traceback" not in said
    assert {line.split()[1] for line in said.splitlines()} <= {"moved", "interrupted"}


def test_processes_end_by_themselves_when_that_of_the_call_was_killed(project: Folder, scripts: list[Script]) -> None:
    paths = fleet(project, a="", b="waits", c="waits", d="", e="")
    script = Script(project.path, SCRIPT, "2", *paths)
    scripts.append(script)
    eventually(lambda: len(list(project.path.glob("begun-*"))) == 2)
    script.signal(signal.SIGKILL)
    (project.path / "go").touch()
    eventually(lambda: not script.processes())
    assert [path for path in paths if moved(path)][:3] == ["a.ckpt", "b.ckpt", "c.ckpt"]
    assert not list(project.path.glob(".*"))
    assert set(statuses(migrate_all(paths, jobs=2)).values()) <= {"moved", "same"}
    assert all(map(moved, paths))


def test_a_script_that_starts_itself_again(project: Folder, scripts: list[Script]) -> None:
    paths = fleet(project, a="", b="", c="")
    source = "from anemoi_ckpt_migrate.batch.migrate_all import migrate_all\nprint(list(migrate_all({}, jobs=2)))"
    script = Script(project.path, source.format(paths))
    scripts.append(script)
    last = script.said().splitlines()[-1]
    assert "CannotStart: processes end before they begin (exit code 1); call this from a file, under `if" in last
    assert not any(map(moved, paths))


def test_who_stops_listening_stops_the_processes(project: Folder) -> None:
    paths = fleet(project, a="", b="waits", c="waits", d="")
    results = migrate_all(paths, jobs=2)
    assert next(results).checkpoint == "a.ckpt"
    eventually(lambda: list(Path().glob("begun-*")))
    results.close()  # type: ignore[attr-defined]
    assert not any(map(moved, ["b.ckpt", "c.ckpt", "d.ckpt"]))
    assert not [each for each in Path().glob("begun-*") if os.path.exists(f"/proc/{each.name.partition('-')[2]}")]
