"""Shared by tests: migrations list."""

from __future__ import annotations

import ast
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from anemoi_ckpt_migrate.anemoi.digests import digests
from anemoi_ckpt_migrate.other_tools.match_revisions import signature
from tests.support.project import Folder

torch = pytest.importorskip("torch")

VERSIONS = {"a": "0.9.4", "b": "0.11.0", "c": "0.13.0"}
PYTHON = ".".join(map(str, sys.version_info[:2]))


@dataclass
class MigrationMetadata:
    """As anemoi-models has it, as far as a pickle goes."""

    versions: dict[str, str] = field(default_factory=dict)
    final: bool = False


class _SerializedRollback:
    """As anemoi-models had it: a function, pickled by value."""

    def __init__(self, pickled: bytes) -> None:
        self.pickled = pickled

    def __reduce__(self) -> Any:
        return type(self), (self.pickled,)


@contextmanager
def anemoi(*classes: type) -> Iterator[None]:
    """Have classes be in the module where anemoi-models has them, for as long as something is pickled or loaded."""
    names = ["anemoi", "anemoi.models", "anemoi.models.migrations", "anemoi.models.migrations.migrator"]
    for name in names:
        sys.modules[name] = types.ModuleType(name)
    for one in classes:
        one.__module__ = names[-1]
        setattr(sys.modules[names[-1]], one.__name__, one)
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


def script(letter: str) -> str:
    return f"""from anemoi.models.migrations import CkptType, MigrationMetadata

metadata = MigrationMetadata(versions={{"migration": "1.0.0", "anemoi-models": "{VERSIONS.get(letter, "0.20.0")}"}})


def migrate(ckpt: CkptType) -> CkptType:
    ckpt["done"] += "{letter}"
    return ckpt


def rollback(ckpt: CkptType) -> CkptType:
    ckpt["done"] = ckpt["done"].removesuffix("{letter}")
    return ckpt
"""


def name_of(letter: str) -> str:
    return f"170000000{'abcdefg'.index(letter) + 1}_{letter}"


def entry(letter: str, **more: Any) -> dict[str, Any]:
    """Return what anemoi-models notes of a script."""
    metadata = MigrationMetadata({"migration": "1.0.0", "anemoi-models": VERSIONS.get(letter, "0.20.0")})
    digest = signature(digests(ast.parse(script(letter))))
    return {"name": name_of(letter), "metadata": metadata, "signature": digest, **more}


def once(letter: str, rollback: Callable[..., Any] | None = None, setup: Any = None) -> dict[str, Any]:
    """Return what anemoi-models before 0.13.0 noted of a script: with what undoes it."""
    import cloudpickle

    pickled = None if rollback is None else _SerializedRollback(cloudpickle.dumps(rollback))
    return entry(letter, rollback=pickled, setup_context=setup)


def undo(letter: str) -> Callable[..., Any]:
    """Return a rollback that no module has."""
    found: dict[str, Any] = {}
    exec(script(letter).split("\n\n\n", 2)[2].replace("CkptType", "dict"), found)
    function: Callable[..., Any] = found["rollback"]
    return function


def stub(ckpt: Any) -> Any:
    return ckpt


ABSENT = object()


def make(project: Folder, noted: Any, done: str = "", history: Any = None, python: str | None = PYTHON) -> Path:
    """Save a training checkpoint with a list of migrations."""
    metadata: dict[str, Any] = {"migrations": {"history": history}} if history is not None else {}
    if python is not None:
        metadata["provenance_training"] = {"python": python}
    tree = {"state_dict": {"x": torch.ones(3)}, "done": done, "hyper_parameters": {"metadata": metadata}}
    tree |= {"pytorch-lightning_version": "2.5"} | ({} if noted is ABSENT else {"migrations": noted})
    path = project.path / "last.ckpt"
    with anemoi(MigrationMetadata, _SerializedRollback):
        torch.save(tree, path)
    return path


def read(path: Path) -> Any:
    """Load a checkpoint as code of anemoi-models does; without our record."""
    with anemoi(MigrationMetadata, _SerializedRollback):
        tree = torch.load(path, weights_only=False)
    tree.pop("ckpt_migrate", None)
    return tree


def content(path: Path) -> Any:
    """Return all that can be compared."""
    tree = read(path)
    for each in tree.get("migrations", ()):
        if each.get("rollback") is not None:
            each["rollback"] = each["rollback"].pickled
    tree["state_dict"] = {name: value.tolist() for name, value in tree["state_dict"].items()}
    return tree


def noted(path: Path) -> list[str]:
    return [each["name"][-1] for each in read(path)["migrations"]]


def import_chain(project: Folder) -> Folder:
    """Import three scripts of the other tool into a project."""
    seeds = project.path / "seeds"
    seeds.mkdir()
    for letter in "abc":
        (seeds / f"{name_of(letter)}.py").write_text(script(letter))
    project.ok("import-scripts", seeds)
    return project
