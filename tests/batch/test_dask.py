"""A Dask cluster runs the work: a real scheduler and workers, each a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("distributed")

import dask
from distributed import Client

from anemoi_ckpt_migrate import __version__
from anemoi_ckpt_migrate.batch import dask_cluster
from anemoi_ckpt_migrate.batch.dask_cluster import check_workers, dask_executor
from anemoi_ckpt_migrate.batch.migrate_all import migrate_all
from anemoi_ckpt_migrate.errors import NoCluster, NoClusterLibrary
from tests.support.fleet import HANGS, eventually, fleet, moved, statuses
from tests.support.project import Folder


class Cluster:
    """A scheduler and workers on this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = str(folder / "scheduler.json")
        self._started: list[subprocess.Popen[bytes]] = []
        self._start("scheduler", "--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0")
        eventually(lambda: os.path.exists(self.file))

    def worker(self, *first: Path) -> subprocess.Popen[bytes]:
        """Start a worker, which looks for packages in these folders first."""
        options = ["--nthreads", "1", "--no-nanny", "--local-directory", str(self.folder)]
        return self._start("worker", *options, path=os.pathsep.join(map(str, first)))

    def end(self, first: int = 0) -> None:
        """End the scheduler and all workers, or only those that were started after the first ones."""
        while len(self._started) > first:
            process = self._started.pop()
            process.kill()
            process.wait(HANGS)

    def _start(self, what: str, *options: str, path: str = "") -> subprocess.Popen[bytes]:
        module = ["-m", f"distributed.cli.dask_{what}"]
        command = [sys.executable, *module, "--scheduler-file", self.file, "--no-dashboard", *options]
        with open(self.folder / "log", "ab") as log:
            environment = {**os.environ, "PYTHONPATH": path}
            process = subprocess.Popen(command, cwd=self.folder, env=environment, stdout=log, stderr=log)
        self._started.append(process)
        return process


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    started = Cluster(tmp_path_factory.mktemp("cluster"))
    yield started
    started.end()


@pytest.fixture
def cluster(scheduler: Cluster) -> Iterator[Cluster]:
    yield scheduler
    scheduler.end(1)
    with Client(scheduler_file=scheduler.file) as client:
        eventually(lambda: not client.scheduler_info()["workers"])


def test_everything_is_migrated_although_a_worker_is_killed(project: Folder, cluster: Cluster) -> None:
    paths = fleet(project, **{f"a{number}": "waits" if number == 3 else "" for number in range(12)})
    workers = {process.pid: process for process in (cluster.worker(), cluster.worker())}
    with Client(scheduler_file=cluster.file) as client:
        client.wait_for_workers(2, timeout=HANGS)
        with dask_executor(cluster.file, needed=["ckpt-migrate.toml"]) as executor:
            results = migrate_all([*paths, "none.ckpt"], executor=executor)
            first = next(results)
            eventually(lambda: list(Path().glob("begun-*")))
            (at_work,) = Path().glob("begun-*")
            workers[int(at_work.name.partition("-")[2])].send_signal(signal.SIGKILL)
            Path("go").touch()
            found = statuses([first, *results])
        assert len(client.scheduler_info()["workers"]) == 1
    # What was done, but was lost with the worker before it was known, is looked at again: there is nothing left to do.
    assert found.pop("none.ckpt") == "failed"
    assert set(found) == set(paths)
    assert set(found.values()) <= {"moved", "same"}
    assert found["a3.ckpt"] == "moved"
    assert all(map(moved, paths))
    assert sorted(Path().glob("*.bak*")) == sorted(Path(f"{path}.bak") for path in paths)
    assert not list(Path().glob(".*"))


def test_workers_are_checked_before_anything_begins(project: Folder, cluster: Cluster, tmp_path: Path) -> None:
    older, foreign = tmp_path / "older", tmp_path / "foreign"
    for folder in (older, foreign):
        (folder / "anemoi_ckpt_migrate").mkdir(parents=True)
    (older / "anemoi_ckpt_migrate" / "__init__.py").touch()
    (older / "anemoi_ckpt_migrate" / "_version.py").write_text('__version__ = "0.0.7"\n')
    (foreign / "anemoi_ckpt_migrate" / "__init__.py").write_text('raise ImportError("that is another package")')
    cluster.worker()
    with Client(scheduler_file=cluster.file) as client:
        for folder, said in (
            (older, "has ckpt-migrate 0.0.7"),
            (foreign, "cannot import ckpt-migrate .that is another package"),
        ):
            worker = cluster.worker(folder)
            eventually(lambda: len(client.scheduler_info()["workers"]) == 2)
            with pytest.raises(NoCluster, match=rf"{said}.*; install version {__version__} there"):
                check_workers(client, "it", [])
            worker.kill()
            eventually(lambda: len(client.scheduler_info()["workers"]) == 1)
        missing = str(tmp_path / "elsewhere" / "ckpt-migrate.toml")
        with pytest.raises(NoCluster, match=r"does not see .*/elsewhere/ckpt-migrate.toml; workers need the same file"):
            check_workers(client, "it", [str(tmp_path), missing])
        check_workers(client, "it", [str(tmp_path)])


def test_a_cluster_is_started_here(project: Folder) -> None:
    *paths, killed = fleet(project, a="", b="prints", c="sigkill")
    once = dask.config.set({"distributed.scheduler.allowed-failures": 0})
    with once, dask_executor("local", 1) as executor:
        results = {each.checkpoint: each for each in migrate_all(paths, executor=executor)}
        (failed,) = migrate_all([killed], executor=executor)
    assert {path: each.status for path, each in results.items()} == {"a.ckpt": "moved", "b.ckpt": "moved"}
    assert results["b.ckpt"].printed.startswith("hello\n")
    assert (failed.checkpoint, failed.status) == (killed, "failed")
    assert "(KilledWorker: Attempted to run task " in str(failed.error)


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("tcp://127.0.0.1:1", "no scheduler answers there"),
        ("carrier://pigeon:1", "no scheduler answers there .unknown address scheme 'carrier'"),
        ("node7", "that is neither a file nor an address such as tcp://host:8786"),
        ("ckpt-migrate.toml", "that file is not one that a scheduler wrote"),
    ],
)
def test_a_cluster_that_is_not_there(project: Folder, monkeypatch: pytest.MonkeyPatch, address: str, why: str) -> None:
    monkeypatch.setattr(dask_cluster, "_CONNECTING", 0.5)
    with (
        pytest.raises(NoCluster, match=f"the Dask cluster at {address} cannot be used: {why}"),
        dask_executor(address),
    ):
        raise AssertionError


def test_a_cluster_without_workers(project: Folder, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_cluster, "_FIRST_WORKER", 0.5)
    with pytest.raises(NoCluster, match=r"no workers for 0.5 seconds; start some"), dask_executor(cluster.file):
        raise AssertionError


def test_without_the_library(project: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(NoClusterLibrary, match=r"pip install 'ckpt-migrate.dask.'"), dask_executor("local"):
        raise AssertionError
