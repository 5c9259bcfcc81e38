"""What the tests share: projects of scripts, copies of real checkpoints, the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.support.project import RENAME, Folder

if TYPE_CHECKING:
    from tests.support.forks import Forks
    from tests.support.ranks import Ranks

# The tests run side by side, on small tensors: threads of torch would only wait for each other. It has not been imported
# yet; the processes that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What Python has compiled is kept, as `make test` has it, also where the environment says otherwise: the tests start
# Python again and again, and each start would compile all modules, and each worker all tests.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# No deadline: the machine may be busy. Each run draws other examples; `make properties` tries more at once.
settings.register_profile("default", deadline=None, max_examples=int(os.environ.get("HYPOTHESIS_MAX_EXAMPLES", "50")))
settings.load_profile("default")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Folder:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "versions").mkdir()
    (tmp_path / "ckpt-migrate.toml").write_text('package = "pkg"\n')
    return Folder(tmp_path, capsys)


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """Where command lines are run in processes of their own, without the start of Python for each."""
    from tests.support.forks import Forks

    folder = Folder(tmp_path_factory.mktemp("forks"), None)
    (folder.path / "versions").mkdir()
    (folder.path / "ckpt-migrate.toml").touch()
    folder.script("a1", None, **RENAME)
    checkpoint = folder.copy()
    with Forks() as found:
        for line in ("current", "inspect", "upgrade head", "downgrade base", "upgrade head --in-place"):
            found.rehearse(folder.path, *line.split(), checkpoint)
        yield found


@pytest.fixture(scope="session")
def forks_with_torch() -> Iterator[Forks]:
    """The same for what imports torch: a process that has it takes longer to fork."""
    from tests.support.forks import Forks

    with Forks() as found:
        yield found


@pytest.fixture(scope="session")
def ranks() -> Iterator[Ranks]:
    """Where several processes are run that train or save together, without the imports of each."""
    from tests.support.ranks import Ranks

    with Ranks() as found:
        yield found
