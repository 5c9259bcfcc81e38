"""Any executor runs the work: none is lost and none is done twice, whatever becomes of the executor."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from anemoi_ckpt_migrate.batch import pool
from anemoi_ckpt_migrate.batch.job import Job
from anemoi_ckpt_migrate.batch.migrate_all import migrate_all
from anemoi_ckpt_migrate.batch.pool import Attention, run_by_executor, run_group
from anemoi_ckpt_migrate.batch.select import Chosen
from anemoi_ckpt_migrate.errors import UsageError
from tests.support.fleet import eventually, fleet, moved, statuses
from tests.support.project import RENAME, Folder, digest


class Here(Executor):
    """Does everything at once, in this thread; `most` calls, after which it takes no more work."""

    def __init__(self, most: int = 1000) -> None:
        self.left = most

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if not self.left:
            raise RuntimeError("cannot schedule new futures after shutdown")
        self.left -= 1
        done: Future[Any] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except BaseException as error:
            done.set_exception(error)
        return done


class CtrlC(Here):
    """Its workers get the signal of the terminal."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_exception(KeyboardInterrupt())
        return done


class Never(Here):
    """Begins nothing."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return Future()


def processes(method: str, count: int = 2, **options: Any) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(count, mp_context=multiprocessing.get_context(method), **options)


EXECUTORS: dict[str, Callable[[], Executor]] = {
    "here": Here,
    "threads": lambda: ThreadPoolExecutor(3),
    "spawn": lambda: processes("spawn"),
    "forkserver": lambda: processes("forkserver"),
}


@pytest.fixture(params=EXECUTORS)
def executor(request: pytest.FixtureRequest, project: Folder) -> Iterator[Executor]:
    with EXECUTORS[request.param]() as made:
        yield made


def test_any_executor_does_the_work(project: Folder, executor: Executor) -> None:
    paths = fleet(project, a="", b="prints", c="", d="prints", e="")
    Path("c.ckpt").chmod(0o444)
    results = {each.checkpoint: each for each in migrate_all([*paths, "none.ckpt"], executor=executor)}
    assert {path: each.status for path, each in results.items()} == {
        **dict.fromkeys(paths, "moved"),
        "c.ckpt": "refused",
        "none.ckpt": "failed",
    }
    assert [path for path in paths if moved(path)] == ["a.ckpt", "b.ckpt", "d.ckpt", "e.ckpt"]
    assert {path for path, each in results.items() if each.printed.startswith("hello\n")} == {"b.ckpt", "d.ckpt"}
    assert str(results["c.ckpt"].error).startswith("c.ckpt: it is read-only")
    assert statuses(migrate_all([*paths[:2], *paths[3:]], executor=executor)) == {
        path: "same" for path in paths if path != "c.ckpt"
    }


def test_an_executor_that_serves_two_calls_sees_new_scripts(project: Folder, executor: Executor) -> None:
    paths = fleet(project, a="", b="", c="")
    assert set(statuses(migrate_all(paths, executor=executor)).values()) == {"moved"}
    project.script("b2", "a1")
    for each in migrate_all(paths, executor=executor):
        assert [step.revision for step in each.result.steps] == ["b2"]


def test_workers_may_be_in_another_folder(project: Folder) -> None:
    paths = fleet(project, a="", b="")
    with processes("spawn", 1, initializer=os.chdir, initargs=("/",)) as executor:
        results = list(migrate_all(paths, executor=executor))
        assert executor.submit(os.getcwd).result() == "/"
    assert [each.checkpoint for each in results] == paths
    assert all(map(moved, paths))


def test_threads_leave_each_other_what_they_print(project: Folder) -> None:
    paths = fleet(project, a="prints", b="waits", c="prints")
    before, limit, folder = sys.stdout, sys.getrecursionlimit(), Path.cwd()
    with ThreadPoolExecutor(3) as executor, contextlib.redirect_stdout(io.StringIO()) as heard:
        results = migrate_all(paths, executor=executor)
        first = next(results)
        eventually(lambda: list(Path().glob("begun-*")))
        print("this is the caller")
        assert not sys.stdout.isatty()
        Path("go").touch()
        printed = {each.checkpoint: each.printed for each in (first, *results)}
    assert heard.getvalue() == "this is the caller\n"
    assert [set(printed[path].split()) for path in paths] == [{"hello"}, set(), {"hello"}]
    assert (sys.stdout, sys.getrecursionlimit(), Path.cwd()) == (before, limit, folder)


def test_a_pool_that_breaks_loses_none(project: Folder) -> None:
    paths = fleet(project, **{f"a{number}": "sigkill" if number == 4 else "" for number in range(9)})
    with processes("forkserver") as executor:
        results = list(migrate_all(paths, executor=executor))
    found = statuses(results)
    assert set(found) == set(paths)
    assert found["a4.ckpt"] == "failed"
    for each in results:
        assert each.status in ("moved", "failed")
        if each.status == "moved":
            assert moved(each.checkpoint)
        else:
            assert "the executor gave no result (BrokenProcessPool: " in str(each.error)
            assert each.exit_code == 1
    assert statuses(migrate_all(paths, jobs=2))["a4.ckpt"] == "failed"
    assert [path for path in paths if not moved(path)] == ["a4.ckpt"]


class Dies(Here):
    """Its workers die of a task in which one checkpoint is."""

    def __init__(self, of: str) -> None:
        super().__init__()
        self.of, self.sizes = of, list[int]()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        group = args[1]
        self.sizes.append(len(group))
        if self.of not in [chosen.path for chosen in group]:
            return super().submit(fn, *args, **kwargs)
        died: Future[Any] = Future()
        died.set_exception(ConnectionError("worker lost. See the logs."))
        return died


def test_small_checkpoints_are_sent_together_but_fail_alone(project: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_ALONE", 2)
    paths = fleet(project, **dict.fromkeys("abcdefghijklmnop", ""))
    groups = [(Chosen(path, size=1 << 40 if path == "i.ckpt" else 1000),) for path in paths]
    executor = Dies(of="m.ckpt")
    results = list(run_by_executor(Job("upgrade", {"target": "head"}), groups, Attention(), executor))
    assert statuses(results) == {path: "failed" if path == "m.ckpt" else "moved" for path in paths}
    assert [str(each.error) for each in results if each.error] == [
        "m.ckpt: the executor gave no result (ConnectionError: worker lost); "
        "the file is the old one or the new one, whole: run it again"
    ]
    assert executor.sizes == [1, 2, 2, 3, 1, 4, 3, 1, 1, 1, 1]


def test_an_executor_that_takes_no_more_work_is_said_of_each(project: Folder) -> None:
    paths = fleet(project, a="", b="", c="", d="")
    results = list(migrate_all(paths, executor=Here(most=2)))
    assert statuses(results) == {"a.ckpt": "moved", "b.ckpt": "moved", "c.ckpt": "failed", "d.ckpt": "failed"}
    assert "(RuntimeError: cannot schedule new futures after shutdown)" in str(results[-1].error)
    assert [path for path in paths if moved(path)] == ["a.ckpt", "b.ckpt"]


def test_a_signal_gives_up_what_has_not_begun(project: Folder) -> None:
    paths = fleet(project, a="", b="")
    attention, groups = Attention(), [(Chosen(path),) for path in paths]
    threading.Timer(0.05, attention.notice, [15]).start()
    results = run_by_executor(Job("upgrade", {"target": "head"}), groups, attention, Never())
    assert statuses(results) == dict.fromkeys(paths, "interrupted")
    results = run_by_executor(Job("upgrade", {"target": "head"}), groups, Attention(), CtrlC())
    assert statuses(results) == dict.fromkeys(paths, "interrupted")


@pytest.mark.parametrize("target", ["+1", "feature@+1", "a1,feature@+1"])
def test_a_target_that_counts_from_the_checkpoint_is_refused(project: Folder, target: str) -> None:
    (path,) = fleet(project, a="")
    before = digest(Path(path))
    with pytest.raises(UsageError, match="name a revision instead"):
        list(migrate_all([path], target, executor=Here()))
    assert digest(Path(path)) == before
    assert statuses(migrate_all([path], "base+1", executor=Here())) == {path: "moved"}


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("current", {}),
        ("stamp", {"target": "a1"}),
        ("upgrade", {"target": "head"}),
        ("upgrade", {"target": "head", "dry_run": True}),
        ("upgrade", {"target": "nowhere"}),
        ("downgrade", {"target": "base"}),
        ("sync", {}),
        ("compact", {}),
    ],
)
def test_results_come_back_from_another_process_as_they_are(
    project: Folder, command: str, options: dict[str, Any]
) -> None:
    project.script("a1", None, **RENAME)
    path = os.fspath(project.copy())
    if command == "downgrade":
        project.ok("upgrade", "head", path)
    job = Job(command, options, needs_project=command not in ("current", "compact"))
    result = run_group(pickle.loads(pickle.dumps(job)), (Chosen(path),))[0]
    again = pickle.loads(pickle.dumps(result))
    assert again.to_data() == result.to_data()
    assert (again.status, again.exit_code, str(again.error)) == (result.status, result.exit_code, str(result.error))
