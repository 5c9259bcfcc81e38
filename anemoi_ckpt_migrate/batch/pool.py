"""Run a job on many checkpoints: here, in processes of its own, or by an executor.

A process that dies (out of memory, SIGBUS) takes only its own checkpoint with it: another process takes its place.
"""

from __future__ import annotations

import collections
import contextlib
import copy
import functools
import itertools
import multiprocessing
import os
import queue
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Executor, Future
from multiprocessing import connection, forkserver, resource_tracker
from types import FrameType
from typing import Any

from anemoi_ckpt_migrate.batch.job import FAILED, INTERRUPTED, Job, JobResult
from anemoi_ckpt_migrate.batch.select import Chosen
from anemoi_ckpt_migrate.errors import CannotStart, ExecutorFailed, Interrupted, MigrateError, UsageError, WorkerDied
from anemoi_ckpt_migrate.revisions.targets import Relative, parse_several

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that end a run."""
_LOOK = 0.2  # seconds between two looks for a signal
_AHEAD = 2  # checkpoints that a worker has, so that it need not wait for the next one
_READY, _ENDING = "ready", "ending"  # messages of a worker
_ALONE = 64  # tasks of an executor before they get larger by one group, and again by one
_PACKED = 8  # groups of a task at most
_SMALL = 1 << 26  # bytes of a checkpoint that takes no longer than a moment

Group = tuple[Chosen, ...]


class Attention:
    """Interrupts the work on a checkpoint when a signal comes, and refuses everything after that.

    Attributes
    ----------
    number : int
        The signal that came; 0 if none did.
    stopped : bool
        Whether a signal came, or `stop` was called.
    """

    def __init__(self) -> None:
        self.number, self.stopped = 0, False
        self._at_work = False

    def stop(self) -> None:
        """Begin nothing more."""
        self.stopped = True

    def notice(self, number: int, frame: FrameType | None = None) -> None:
        """Handle a signal."""
        self.number, self.stopped = number, True
        if self._at_work:
            self._at_work = False
            raise KeyboardInterrupt

    def run(self, job: Job, chosen: Chosen) -> JobResult:
        """Run a job on a checkpoint, unless a signal came."""
        try:
            self._at_work = True
            if not self.stopped:
                return job.run(chosen)
        except KeyboardInterrupt:
            self.number, self.stopped = self.number or signal.SIGINT, True
        finally:
            self._at_work = False
        return _failed([chosen], Interrupted(), INTERRUPTED)[0]


def run_here(job: Job, groups: Iterable[Group], attention: Attention) -> Iterator[JobResult]:
    """Run a job on checkpoints in this process, one after the other."""
    for group in groups:
        for chosen in group:
            yield attention.run(job, chosen)
            if attention.stopped:
                return


def run_in_processes(job: Job, groups: Iterable[Group], attention: Attention, count: int) -> Iterator[JobResult]:
    """Run a job in several processes, and yield the results in the order in which they are there.

    Parameters
    ----------
    job : Job
        The work.
    groups : iterable of tuple of Chosen
        The checkpoints; those of a group are worked on one after the other.
    count : int
        How many processes at most.
    attention : Attention
        Notices signals. After one, the processes undo what they are doing, and say so.

    Raises
    ------
    CannotStart
        The processes end before they begin; nothing was changed.
    """
    waiting = iter(groups)
    first = list(itertools.islice(waiting, count))
    left, count = _Queue(itertools.chain(first, waiting)), len(first)  # no more processes than there is work
    workers = [_Worker(job, count) for _ in range(count)]
    try:
        while not attention.stopped:
            busy = _fed(workers, left)
            if not busy:
                return
            for ready in connection.wait(list(busy), _LOOK):
                worker = busy[ready]
                result = worker.receive()
                if worker.ended and not any(each.ready for each in workers):
                    raise CannotStart(worker.end)
                if result is not None:
                    yield result
                if worker.ended:
                    worker.close()
                    left.put_back(worker.unfinished)
                    workers[workers.index(worker)] = _Worker(job, count)
        for worker in workers:
            worker.interrupt()
        for worker in workers:
            yield from worker.rest()
    finally:
        for worker in workers:
            worker.close()


def _fed(workers: Iterable[_Worker], left: _Queue) -> dict[Any, _Worker]:
    """Send all processes work, each the first before any the second, and return those that have some."""
    for most in range(1, _AHEAD + 1):
        for worker in workers:
            worker.feed(left, most)
    return {worker.connection: worker for worker in workers if worker.sent}


def run_by_executor(
    job: Job, groups: Iterable[Group], attention: Attention, executor: Executor, ahead: int = 1000
) -> Iterator[JobResult]:
    """Run a job by an executor, perhaps on other machines, and yield the results in the order in which they are there.

    Parameters
    ----------
    job, groups, attention
        As for `run_in_processes`. After a signal, only the work that has not begun is given up.
    executor : Executor
        The executor.
    ahead : int
        How many tasks are submitted before the first of them is done.
    """
    check_repeatable(job)
    done: queue.SimpleQueue[Future[list[JobResult]]] = queue.SimpleQueue()
    running: dict[Future[list[JobResult]], tuple[Group, ...]] = {}
    left = _Tasks(groups)
    try:
        while True:
            while not attention.stopped and len(running) < ahead and (task := left.next()):
                future = _submit(executor, job, task)
                running[future] = task
                future.add_done_callback(done.put)
            if attention.stopped:
                for future in running:
                    future.cancel()
            if not running:
                return
            try:
                future = done.get(timeout=_LOOK)
            except queue.Empty:
                continue
            task = running.pop(future)
            if len(task) > 1 and isinstance(_failure(future), ExecutorFailed) and not attention.stopped:
                left.put_back(task)
            else:
                yield from _results(future, task)
    finally:
        for future in running:
            future.cancel()


class _Tasks:
    """Groups for an executor, many of which are packed into tasks of several; a task that fails is taken apart."""

    def __init__(self, groups: Iterable[Group]) -> None:
        self._groups = iter(groups)
        self._single: collections.deque[Group] = collections.deque()
        self._given = 0

    def next(self) -> tuple[Group, ...]:
        if self._single:
            return (self._single.popleft(),)
        self._given += 1
        task: list[Group] = []
        for group in self._groups:
            if not all(map(_is_small, group)):
                self._single.append(group)
                break
            task.append(group)
            if len(task) >= min(_PACKED, 1 + self._given // _ALONE):
                break
        return tuple(task) if task or not self._single else self.next()

    def put_back(self, task: tuple[Group, ...]) -> None:
        self._single.extend(task)


def _is_small(chosen: Chosen) -> bool:
    """Return whether the work on a checkpoint takes no longer than a moment."""
    return 0 < chosen.size < _SMALL


def _submit(executor: Executor, job: Job, task: tuple[Group, ...]) -> Future[list[JobResult]]:
    """Return the future of a task; it has failed already if the executor takes no more work."""
    try:
        return executor.submit(run_group, job, sum(task, ()))
    except Exception as error:  # of the executor, of any kind
        future: Future[list[JobResult]] = Future()
        future.set_exception(error)
        return future


def _results(future: Future[list[JobResult]], task: tuple[Group, ...]) -> list[JobResult]:
    failure = _failure(future)
    if failure is None:
        return future.result()
    return _failed(sum(task, ()), failure, INTERRUPTED if isinstance(failure, Interrupted) else FAILED)


def _failure(future: Future[list[JobResult]]) -> MigrateError | None:
    """Return why an executor gave no result."""
    error = None if future.cancelled() else future.exception()
    if future.cancelled() or isinstance(error, (CancelledError, KeyboardInterrupt)):  # a worker has Ctrl-C too
        return Interrupted()
    if error is None:
        return None
    said = " ".join(str(error).split()).partition(". ")[0].removesuffix(".")
    return ExecutorFailed(f"{type(error).__name__}: {said}" if said else type(error).__name__)


def check_repeatable(job: Job) -> None:
    """Raise if an executor that runs work again when a worker is lost might move a checkpoint twice."""
    target = str(job.options.get("target", "head"))
    if any(isinstance(getattr(each, "target", each), Relative) for each in parse_several(target)):
        raise UsageError(
            f"the target {target} counts from where a checkpoint is, and an executor may run the work on a checkpoint "
            "again when a worker is lost; name a revision instead"
        )


def run_group(job: Job, group: Group) -> list[JobResult]:
    """Run a job on the checkpoints of a group: a function that an executor can send to another process."""
    return [job.run(chosen) for chosen in group]


def _failed(group: Iterable[Chosen], error: MigrateError, status: str = FAILED) -> list[JobResult]:
    return [JobResult(each.path, status, error=copy.copy(error).about(each.path), size=each.size) for each in group]


class _Queue:
    """Groups that wait for a worker; some come back because a worker died."""

    def __init__(self, groups: Iterable[Group]) -> None:
        self._groups = iter(groups)
        self._again: collections.deque[Group] = collections.deque()

    def next(self) -> Group:
        return self._again.popleft() if self._again else next(self._groups, ())

    def put_back(self, group: Group) -> None:
        self._again.append(group)


class _Worker:
    """A process that works on one checkpoint after the other.

    Attributes
    ----------
    connection : Connection
        To the process.
    sent : deque of Chosen
        The checkpoints that it was sent and has not answered, the one in work first.
    ready : bool
        Whether the process has begun to listen.
    ended : bool
        Whether the process ended before its time: it died, or was told to end.
    """

    def __init__(self, job: Job, count: int) -> None:
        context = _context()
        self.connection, theirs = context.Pipe()
        self.sent: collections.deque[Chosen] = collections.deque()
        self.ready = self.ended = self._interrupted = False
        self._group: collections.deque[Chosen] = collections.deque()  # the rest of it follows what was sent
        self._process = context.Process(target=_work, args=(theirs, job, count), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def unfinished(self) -> Group:
        """The checkpoints that it has not answered, in their order."""
        return (*self.sent, *self._group)

    def feed(self, left: _Queue, most: int) -> None:
        """Send checkpoints until it has so many; nothing waits behind one that may take long."""
        while len(self.sent) < most and all(map(_is_small, self.sent)):
            if not self._group:
                self._group.extend(left.next())
            if not self._group:
                return
            self.sent.append(self._group.popleft())
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it died; receiving will say so
                self.connection.send(self.sent[-1])

    @property
    def end(self) -> str:
        """How the process ended."""
        self._process.join()
        code = self._process.exitcode or 0
        hint = "; the system may have run out of memory" if code == -signal.SIGKILL else ""
        return f"signal {signal.Signals(-code).name}{hint}" if code < 0 else f"exit code {code}"

    def receive(self) -> JobResult | None:
        """Return the next result; None if it is another message. If the process died, blame the checkpoint in work."""
        try:
            received = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.ended = True
            received = self._ended_at(self.sent[0])
        if isinstance(received, JobResult):
            self.sent.popleft()
            return received
        self.ready, self.ended = True, received == _ENDING
        return None

    def _ended_at(self, chosen: Chosen) -> JobResult:
        if self._interrupted and not self.ready:  # the signal came before the process could notice it
            return _failed([chosen], Interrupted(), INTERRUPTED)[0]
        return _failed([chosen], WorkerDied(self.end))[0]

    def interrupt(self) -> None:
        """Let the process undo what it is doing, and begin nothing more."""
        self._interrupted = True
        if self._process.is_alive() and self._process.pid is not None:
            os.kill(self._process.pid, signal.SIGTERM)

    def rest(self) -> Iterator[JobResult]:
        """Yield the results of everything that was sent, after an interruption."""
        while self.sent and not self.ended:
            if (result := self.receive()) is not None:
                yield result
        yield from _failed(self.sent, Interrupted(), INTERRUPTED)
        self.sent.clear()

    def close(self) -> None:
        """Let the process end, and undo what it is doing."""
        if self.sent:
            self.interrupt()
        self.connection.close()
        self._process.join()


def _context() -> Any:
    """Return the way to start processes: not by forking this one, which may have threads."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "anemoi_ckpt_migrate.runtime.session"])
    resource_tracker.ensure_running()  # first, since it unblocks signals
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # Ctrl-C reaches the server too, which inherits this
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    return context


def _work(parent: connection.Connection, job: Job, count: int) -> None:
    """Work on groups that come over a connection until it ends: the main function of a process."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    attention = Attention()
    for number in SIGNALS:
        signal.signal(number, attention.notice)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # those that came since the process began count now
    with contextlib.suppress(EOFError, ConnectionResetError, BrokenPipeError):  # the parent ended
        parent.send(_READY)
        while True:
            chosen = parent.recv()
            if attention.number:
                parent.send(_ENDING)
                return
            parent.send(attention.run(job, chosen))


Runner = Callable[[Job, Iterable[Group], Attention], Iterator[JobResult]]
"""Runs a job on groups of checkpoints, until a signal comes."""


def runner(jobs: int = 1, executor: Executor | None = None) -> Runner:
    """Return the way to run a job: by an executor, in several processes, or here.

    Parameters
    ----------
    jobs : int
        The number of processes; 0 for as many as this process has processors.
    executor : Executor, optional
        An executor, which is used instead.
    """
    if executor is not None:
        return functools.partial(run_by_executor, executor=executor)
    count = jobs or len(os.sched_getaffinity(0))
    return run_here if count == 1 else functools.partial(run_in_processes, count=count)
