"""The executor of a Dask cluster, one that runs already or one that is started here."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pkgutil
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING

from anemoi_ckpt_migrate._version import __version__
from anemoi_ckpt_migrate.errors import NoCluster, NoClusterLibrary

if TYPE_CHECKING:
    from distributed import Client

LOCAL = "local"
"""The address that stands for a cluster to be started here."""
_CONNECTING, _FIRST_WORKER = 5, 30  # seconds
_LEAVES_SIGINT = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"  # of a terminal, to the main process
_VERSION = "anemoi_ckpt_migrate._version:__version__"


@contextlib.contextmanager
def dask_executor(address: str, jobs: int = 0, needed: Sequence[str] = ()) -> Iterator[Executor]:
    """Connect to a Dask cluster, and return its executor when every worker has been checked.

    Parameters
    ----------
    address : str
        The address of the scheduler (``tcp://host:8786``), the file that it wrote (``--scheduler-file``), or ``local``
        for a cluster on this machine, which ends with the context.
    jobs : int
        The number of processes of a local cluster; 0 for as many as there are processors.
    needed : sequence of str
        Files and folders that each worker has to see, beside the current folder: the configuration, for example.

    Raises
    ------
    NoClusterLibrary
        Dask is not installed.
    NoCluster
        The scheduler cannot be reached or has no workers, or a worker does not have this version of the package, or
        does not see the files.

    Examples
    --------
    >>> with dask_executor("tcp://login1:8786") as executor:
    ...     for each in migrate_all(["a.ckpt", "b.ckpt"], executor=executor):
    ...         print(each.checkpoint, each.status)
    """
    try:
        import distributed  # noqa: F401
    except ImportError as error:
        raise NoClusterLibrary("the library `distributed`") from error
    with _quiet(), contextlib.ExitStack() as opened:
        client = opened.enter_context(_local(jobs, opened) if address == LOCAL else _connected(address))
        check_workers(client, address, [os.getcwd(), *map(os.path.abspath, needed)])
        yield client.get_executor(pure=False)


def check_workers(client: Client, address: str, needed: Sequence[str]) -> None:
    """Check that each worker has this version of the package, and sees files and folders.

    Parameters
    ----------
    client : distributed.Client
        The client of the cluster.
    address : str
        What messages call the cluster.
    needed : sequence of str
        Absolute paths.

    Raises
    ------
    NoCluster
        There are no workers, or one of them lacks something.
    """
    try:
        client.wait_for_workers(1, timeout=_FIRST_WORKER)
    except TimeoutError:
        why = f"it has had no workers for {_FIRST_WORKER} seconds; start some, and run the command again"
        raise NoCluster(address, why) from None
    for worker, found in client.run(pkgutil.resolve_name, _VERSION, on_error="return").items():
        if found != __version__:
            has = f"has ckpt-migrate {found}" if isinstance(found, str) else f"cannot import ckpt-migrate ({found})"
            raise NoCluster(address, f"its worker {worker} {has}; install version {__version__} there")
    for worker, missing in client.run(_missing, list(needed)).items():
        if missing:
            why = (
                f"its worker {worker} does not see {missing[0]}; workers need the same file system under the same paths"
            )
            raise NoCluster(address, why)


def _missing(paths: Sequence[str]) -> list[str]:
    return [path for path in paths if not os.path.exists(path)]


def _local(jobs: int, opened: contextlib.ExitStack) -> Client:
    """Start a cluster on this machine."""
    import dask
    from distributed import Client, LocalCluster

    # One task at a time on each worker: if it kills the worker, no other counts as suspicious.
    opened.enter_context(dask.config.set({"distributed.scheduler.worker-saturation": 1.0}))
    count = jobs or len(os.sched_getaffinity(0))
    cluster = LocalCluster(
        n_workers=count,
        threads_per_worker=1,
        processes=True,
        scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
        silence_logs=logging.CRITICAL,
        preload=[_LEAVES_SIGINT],
    )
    return Client(opened.enter_context(cluster))


def _connected(address: str) -> Client:
    """Connect to a scheduler that runs."""
    from distributed import Client

    found = _read_address(address)
    try:
        return Client(found, timeout=_CONNECTING)
    except Exception as error:  # whatever answers there may send anything
        why = f"no scheduler answers there ({' '.join(str(error).split()) or type(error).__name__:.200})"
        raise NoCluster(address, why) from error


def _read_address(address: str) -> str:
    """Return an address, or the one that a scheduler wrote to its file."""
    if not os.path.exists(address):
        if ":" in address:
            return address
        raise NoCluster(address, "that is neither a file nor an address such as tcp://host:8786")
    try:
        with open(address, encoding="utf-8") as stream:
            return str(json.load(stream)["address"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NoCluster(address, "that file is not one that a scheduler wrote") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Let Dask log only what is critical: failures are part of the results."""
    loggers = [logging.getLogger(name) for name in ("distributed", "asyncio", "tornado")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
