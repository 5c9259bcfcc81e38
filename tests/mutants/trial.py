"""Run tests on a copy of the project in which one module is changed. The working tree is only read."""

from __future__ import annotations

import contextlib
import importlib
import os
import resource
import shutil
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).parents[2]
COPIED = ("anemoi_ckpt_migrate", "tests", "versions", "templates", "docs", "pyproject.toml", "setup.cfg", "README.md")
PRELOADED = (
    "torch",
    "hypothesis.strategies",
    "networkx",
    "rich.tree",
    "packaging.specifiers",
    "cloudpickle",
    "mako.template",
)
LARGEST = 1 << 32  # bytes that a test may write into a file, or have as its data


@dataclass(frozen=True)
class Outcome:
    """How tests ended.

    Attributes
    ----------
    passed : bool
        Whether all of them passed. A run that was stopped did not pass.
    seconds : float
        The time of the processor.
    """

    passed: bool
    seconds: float


class Copy:
    """A copy of the project.

    Parameters
    ----------
    folder : Path
        An empty folder, for the copy and for the files of tests.
    """

    def __init__(self, folder: Path) -> None:
        self._root, self._files = folder / "project", folder / "files"
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, self._root / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, self._root / name)
        for name in PRELOADED:  # each run is a fork of this process, and need not import them
            with contextlib.suppress(ImportError):
                importlib.import_module(name)

    def run(self, module: str, source: str, tests: Sequence[str], seconds: float) -> Outcome:
        """Run tests with another source of a module, until one fails.

        Parameters
        ----------
        module : str
            Its path in the project.
        source : str
            The source.
        tests : sequence of str
            As for pytest.
        seconds : float
            The time of the processor after which a process is stopped. After five times as long by the clock, and a
            minute, all are.
        """
        path = self._root / module
        kept = path.read_text()
        path.write_text(source)
        process = os.fork()
        if not process:
            self._test(tests, seconds)
        try:
            _, status, usage = os.wait4(process, 0)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process, signal.SIGKILL)  # with what it started and left
            path.write_text(kept)
        code = os.waitstatus_to_exitcode(status)
        if code in (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED):
            raise FileNotFoundError(f"{', '.join(tests)}: one of them does not exist")
        return Outcome(code == pytest.ExitCode.OK, usage.ru_utime + usage.ru_stime)

    def _test(self, tests: Sequence[str], seconds: float) -> NoReturn:
        code = 1
        try:
            os.setpgid(0, 0)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1,) * 2)
            for limit in (resource.RLIMIT_DATA, resource.RLIMIT_FSIZE):
                resource.setrlimit(limit, (LARGEST, LARGEST))
            signal.alarm(5 * int(seconds) + 60)
            for stream in (sys.stdout, sys.stderr):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            os.chdir(self._root)
            sys.path[:] = [str(self._root), *(place for place in sys.path if place and Path(place) != ROOT)]
            for name in [name for name in sys.modules if name.split(".")[0] in ("tests", "anemoi_ckpt_migrate")]:
                del sys.modules[name]
            sys.dont_write_bytecode = True  # of two changes within a second the second would find the code of the first
            os.environ |= {"PYTHONPATH": str(self._root), "PYTHONDONTWRITEBYTECODE": "1"}
            options = ["-x", "-p", "no:cacheprovider", "--hypothesis-seed=0", f"--basetemp={self._files}"]
            code = int(pytest.main([*options, *tests]))
        finally:
            os._exit(code)
