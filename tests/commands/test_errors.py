"""Errors go to other processes and back as what they are."""

from __future__ import annotations

import copy
import importlib
import inspect
import os
import pickle
import pkgutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, get_type_hints

import pytest

pytest.importorskip("torch")

import anemoi_ckpt_migrate as cm
from anemoi_ckpt_migrate import errors
from anemoi_ckpt_migrate.errors import Fault, MigrateError, OperationFault
from tests.support.project import RENAME, Folder


def kinds(kind: type[MigrateError] = MigrateError) -> Iterator[type[MigrateError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from kinds(below)


for module in pkgutil.walk_packages(cm.__path__, f"{cm.__name__}."):
    if not module.name.endswith(("__main__", "callbacks")):
        importlib.import_module(module.name)
KINDS = sorted({kind for kind in kinds() if kind.__module__.startswith(cm.__name__)}, key=lambda kind: kind.__name__)

EXAMPLES: dict[Any, Any] = {
    str: "a thing",
    int: 3,
    bool: True,
    object: 7,
    Sequence[str]: ("a1", "b2"),
    Sequence[int]: (2, 3),
    Sequence[Fault]: (Fault("a.py", 3, "is wrong"),),
    Sequence[OperationFault]: (OperationFault("a.py", "Rename('x', 'y')", "there is no x"),),
    str | None: "a thing",
    int | None: 3,
}


def example(kind: type[MigrateError]) -> MigrateError:
    """Make an error of a kind, by the types of its arguments."""
    wanted = get_type_hints(kind.__init__)
    arguments = inspect.signature(kind).parameters
    return kind(*(EXAMPLES[wanted[name]] for name in arguments))


def test_the_kinds_are_all_there() -> None:
    assert {getattr(errors, name) for name in errors.__all__ if isinstance(getattr(errors, name), type)} >= set(KINDS)
    assert len(KINDS) > 50


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_survives_pickling_and_copying(kind: type[MigrateError], protocol: int) -> None:
    error = example(kind).about("runs/last.ckpt")
    for again in (pickle.loads(pickle.dumps(error, protocol)), copy.copy(error), copy.deepcopy(error)):
        assert (type(again), str(again), again.exit_code) == (kind, str(error), error.exit_code)
        assert (again.args, vars(again)) == (error.args, vars(error))


def upgraded(path: str) -> cm.Result:
    return cm.upgrade(path, "head", backup=False)


def test_one_bad_file_does_not_break_a_pool_of_processes(project: Folder) -> None:
    project.script("a1", None, **RENAME)
    paths = [project.copy(to=name) for name in ("a.ckpt", "b.ckpt", "c.ckpt")]
    paths[1].chmod(0o444)
    said = []
    with ProcessPoolExecutor(1) as pool:
        for future in [pool.submit(upgraded, os.fspath(path)) for path in paths]:
            try:
                said.append(type(future.result()).__name__)
            except cm.MigrateError as error:
                said.append(type(error).__name__)
                assert Path(error.checkpoint or "").name == "b.ckpt"
    assert said == ["Result", "ReadOnly", "Result"]
