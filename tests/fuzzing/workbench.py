"""Trying inputs out in a process of its own, which may crash, and must not do anything else."""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import types
import warnings
from pathlib import Path
from typing import Any

# Imported when it is first needed; then it must not look like the import of a file.
from anemoi_ckpt_migrate.storage import folder_exchange as folder_exchange
from tests.fuzzing.commands import write_projects
from tests.fuzzing.journey import Tried, Walk, Wrong, journey
from tests.fuzzing.objects import CANARY
from tests.fuzzing.places import OTHER, SOURCE, Beside, Place

SECONDS = 10  # of processor time for one input; a file of a few kilobytes needs some milliseconds
HANGING = 240  # seconds, after which something waits for what never comes
MEMORY = 512 << 20  # bytes above what the process has before the first input
FILE = 1 << 30  # bytes of one file that is written
# Events that Python tells audit hooks about.
RUNS = """
os.system os.exec os.posix_spawn os.fork os.forkpty os.kill subprocess.Popen pty.spawn builtins.input builtins.breakpoint
socket.connect socket.bind webbrowser.open pickle.find_class function.__new__ ctypes.dlopen ctypes.string_at
"""
CHANGES = """
os.remove os.rename os.rmdir os.mkdir os.link os.symlink os.chmod os.chown os.truncate shutil.rmtree shutil.move
"""
FOLLOWING = ("os.chmod", "os.chown", "os.truncate")  # those of them that change where a link leads


class Traps:
    """Notices what a file must not bring about, and prevents it. Does nothing but in a ``with`` block.

    Parameters
    ----------
    folder : Path
        The only one in which files may be changed.
    """

    def __init__(self, folder: Path) -> None:
        self.sprung: list[str] = []
        self._active, self._folder = False, os.path.realpath(folder)
        self._runs, self._changes = frozenset(RUNS.split()), frozenset(CHANGES.split())
        # Torch is of the tool itself, also where it is not installed.
        self._known = {name.partition(".")[0] for name in sys.modules} | {"torch"}
        sys.modules[CANARY] = _Canary(CANARY, self)
        sys.addaudithook(self._notice)

    def __enter__(self) -> None:
        self.sprung.clear()
        self._active = True

    def __exit__(self, *_: object) -> None:
        self._active = False

    def spring(self, what: str) -> None:
        if self._active:
            self._active = False  # while it is told where
            self.sprung.append(f"{what}\n{''.join(traceback.format_stack(limit=15))}")
            self._active = True
            raise PermissionError(what)

    def _notice(self, event: str, args: tuple[Any, ...]) -> None:
        if not self._active:
            return
        if event in self._runs or (event == "import" and args[0].partition(".")[0] not in self._known):
            self.spring(f"{event} {args[:2]!r}")
        elif event in ("exec", "compile"):
            name = getattr(args[0], "co_filename", None) if event == "exec" else args[1]
            if name == "<string>" and not _is_importing():
                self.spring(event)
        elif (
            event == "open"
            and not isinstance(args[0], int)
            and _is_writing(*args[1:])
            and self._is_outside(args[0], bool(args[2] & os.O_NOFOLLOW))
        ):
            self.spring(f"open {args[0]!r}")
        elif event in self._changes and self._is_outside(args[0], event not in FOLLOWING):
            self.spring(f"{event} {args!r}")

    def _is_outside(self, path: Any, itself: bool) -> bool:
        """Tell whether a path leads elsewhere; `itself` if a symbolic link at its end is not followed."""
        if isinstance(path, int):
            return False
        folder, name = os.path.split(os.path.abspath(os.fsdecode(path)))
        real = os.path.join(os.path.realpath(folder), name)
        return os.path.dirname(real if itself else os.path.realpath(real)) != self._folder


def _is_importing() -> bool:
    """Tell whether a module is being imported, which is noticed itself if it must not be: classes are made of text."""
    frame = sys._getframe()
    while frame := frame.f_back:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
    return False


def _is_writing(mode: str | None, flags: int) -> bool:
    return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)) or any(
        letter in "wax+" for letter in mode or ""
    )


class _Canary(types.ModuleType):
    """A module that notices when something in it is looked up."""

    def __init__(self, name: str, traps: Traps) -> None:
        super().__init__(name)
        self._traps = traps

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("__"):
            self._traps.spring(f"{CANARY}.{name} was looked up")
        raise AttributeError(name)


def try_out(walk: Walk, traps: Traps, place: Place, content: bytes, tensors: bool, beside: Beside) -> Tried:
    """Try an input out, here."""
    source, output = place.folder / SOURCE, place.folder / OTHER
    place.clear()
    source.write_bytes(content)
    place.put(beside)
    writes = getattr(walk, "writes", False)
    try:
        try:
            with traps:
                outcome = walk(source, output, tensors)
        finally:
            if traps.sprung:  # which tells more than what it led to
                raise Wrong(f"something ran: {traps.sprung[0]}")
        place.check()
        if not writes and source.read_bytes() != content:
            raise Wrong("the input was changed")
        locks = (
            set() if getattr(walk, "locks", True) else {f".{SOURCE}.lock", f".{OTHER}.lock"}
        )  # who lost takes none away
        backups = {path.name for path in place.folder.glob(f"{SOURCE}.bak*")} if writes else set()
        expected = {source.name, output.name, *backups, *locks, *(name for name, _ in beside)}
        if left := {path.name for path in place.folder.iterdir()} - expected:
            raise Wrong(f"something was left: {sorted(left)}")
    except BaseException as error:
        return Tried("wrong", _sign(error), traceback.format_exc(limit=-30))
    return Tried(outcome)


def _sign(error: BaseException) -> str:
    """Say what went wrong and where, in words that are the same each time it does."""
    if isinstance(error, Wrong):
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        return re.sub(r"\d+|'[^']*'", "#", f"{error}{cause}".partition("\n")[0])[:150]
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "anemoi_ckpt_migrate" in frame.filename]
    return f"{type(error).__name__} in {own[-1].name}" if own else type(error).__name__


def serve(connection: Any, folder: Path, walk: Walk, seconds: float) -> None:
    """Try out what comes over a connection, until it is closed."""
    # Done already, unless another test started the server of forks, which then imports other things first.
    from tests.fuzzing import rehearsal as rehearsal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore")
    os.chdir(folder)  # where there is no project
    os.fsync = lambda descriptor: None  # type: ignore[assignment]  # what is on the disk after a power cut is not asked
    sys.dont_write_bytecode = True  # a module that is imported late is no file that was written
    with (folder.parent / "crash").open("w") as crash:
        faulthandler.enable(crash)
        faulthandler.register(signal.SIGPROF, crash, chain=True)  # which then ends the process
        _limit_memory()
        traps, place = Traps(folder), Place(folder)
        with contextlib.suppress(EOFError):
            while True:
                content, tensors, other, beside = connection.recv()
                signal.setitimer(signal.ITIMER_PROF, seconds)  # ends the process, whatever it is doing
                tried = try_out(other or walk, traps, place, content, tensors, beside)
                signal.setitimer(signal.ITIMER_PROF, 0)
                connection.send(tried)


def _limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE, resource.RLIM_INFINITY))
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:  # there is none but on Linux
        return
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, resource.RLIM_INFINITY))


class Workbench:
    """A process that tries inputs out; another one when it died.

    Parameters
    ----------
    walk : callable
        What is done with each input.
    seconds : float
        Processor time for one.
    """

    def __init__(self, walk: Walk = journey, seconds: float = SECONDS) -> None:
        # Forked from one process that has everything imported, and no threads.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.fuzzing", "tests.fuzzing.rehearsal"])
        self._walk, self._seconds = walk, seconds
        self._folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        (self._folder / "work").mkdir()
        write_projects(self._folder)
        self._process: Any = None

    def __enter__(self) -> Workbench:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        shutil.rmtree(self._folder)

    def try_out(self, content: bytes, tensors: bool, walk: Walk | None = None, beside: Beside = ()) -> Tried:
        """Try an input out; `walk` is what is done with it if that is another thing, `beside` what is put there."""
        if self._process is None:
            self._start()
        try:
            self._connection.send((content, tensors, walk, beside))
            if self._connection.poll(HANGING):
                return self._connection.recv()
        except (EOFError, ConnectionError):
            pass
        return self._died()

    def _start(self) -> None:
        Place(self._folder / "work").clear()  # of the one that died
        self._connection, other = self._context.Pipe()
        args = (other, self._folder / "work", self._walk, self._seconds)
        self._process = self._context.Process(target=serve, args=args, daemon=True)
        self._process.start()
        other.close()

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._connection.close()
            self._process = None

    def _died(self) -> Tried:
        self._process.join(1)
        code = self._process.exitcode
        self._stop()
        crash = self._folder / "crash"
        where = crash.read_text() if crash.exists() else ""
        if code is None:
            return Tried("wrong", f"it hung for {HANGING} seconds", where, slow=True)
        if code == -signal.SIGPROF:
            return Tried("wrong", f"it took more than {self._seconds} seconds of processor time", where, slow=True)
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return Tried("wrong", f"the interpreter died ({name})", where)
