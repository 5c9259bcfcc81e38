"""The chain of anemoi-models, on real checkpoints of its releases, and on small ones of what these do not have.

The real ones are made with the classes of each release; ``ideal_*.json`` beside them says what a state dict of release
0.19.0 has to hold to give the same output, found without any migration. No class of them can be imported here.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import pickle
import shutil
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import anemoi_ckpt_migrate  # noqa: E402
from tests.conftest import Folder  # noqa: E402
from tests.operating import equal  # noqa: E402

CHAIN = Path(anemoi_ckpt_migrate.__file__).parent / "chains" / "anemoi" / "versions"
REAL = Path(os.environ.get("ANEMOI_CHECKPOINTS") or Path(__file__).parents[2] / "shared" / "anemoi")
RELEASES = ("0.9.4", "0.9.7", "0.10.0", "0.11.0", "0.11.3", "0.12.0", "0.13.0", "0.15.0", "0.16.0")
KINDS = ("gt", "gnn")
BUFFERS = ("_norm_mul", "_norm_add", "_input_idx", "_output_idx", "_model_output_idx", "edge_inc")

real = pytest.mark.skipif(not (REAL / "README.md").exists(), reason="the real checkpoints are not here")
each = pytest.mark.parametrize(("release", "kind"), [(release, kind) for release in RELEASES for kind in KINDS])


@pytest.fixture
def anemoi(project: Folder) -> Folder:
    """A project whose scripts are the chain."""
    (project.path / "ckpt-migrate.toml").write_text(f'versions = "{CHAIN}"\npackage = "anemoi-models"\n')
    return project


class Foreign:
    """An object of a class that is not here: how it was made, and what it holds."""

    name = ""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        made = object.__new__(cls)
        made.parts = [cls.name, list(args), kwargs, [], {}]
        return made

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, *args: Any) -> Any:
        return Foreign("called", self, *args)

    def __setstate__(self, state: Any) -> None:
        self.parts.append(state)

    def append(self, item: Any) -> None:
        self.parts[3].append(item)

    def extend(self, items: Any) -> None:
        self.parts[3].extend(items)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.parts[4][key] = value


class Foreigners:
    """A pickle module that imports torch and what Python has, and nothing else."""

    load, Pickler = pickle.load, pickle.Pickler

    class Unpickler(pickle.Unpickler):
        classes: dict[str, type] = {}

        def find_class(self, module: str, name: str) -> Any:
            if module.partition(".")[0] in ("torch", "collections", "builtins", "__builtin__", "_codecs"):
                return super().find_class(module, name)
            full = f"{module}.{name}"
            return self.classes.setdefault(full, type(name, (Foreign,), {"name": full}))


def read(path: Path) -> Any:
    """Load a checkpoint with torch, without the record; objects of classes that are not here become lists."""
    tree = torch.load(path, weights_only=False, pickle_module=Foreigners)
    tree.pop("ckpt_migrate", None)
    return plain(tree, {})


def plain(value: Any, seen: dict[int, Any]) -> Any:
    """Turn objects into lists; what was there before is named by its number, so that a cycle ends."""
    if not isinstance(value, (Foreign, dict, list, tuple, type)):
        return value
    if isinstance(value, type):
        return getattr(value, "name", str(value))
    if id(value) in seen:
        return seen[id(value)]
    seen[id(value)] = f"object {len(seen)}"
    if isinstance(value, Foreign):
        return [plain(part, seen) for part in value.parts]
    if isinstance(value, OrderedDict):
        made = OrderedDict((key, plain(inner, seen)) for key, inner in value.items())
        made._metadata = getattr(value, "_metadata", None)  # type: ignore[attr-defined]
        return made
    if isinstance(value, dict):
        # The order of keys is nobody's business here; but the numbers above follow it.
        return {key: plain(value[key], seen) for key in sorted(value, key=repr)}
    return [plain(inner, seen) for inner in value]


def described(state_dict: Any) -> dict[str, list[Any]]:
    """Describe parameters as ``ideal_*.json`` does."""
    return {
        key: [list(value.shape), str(value.dtype).removeprefix("torch."), hashlib.sha256(value.contiguous().numpy().tobytes()).hexdigest()]
        for key, value in state_dict.items()
    }


def parameters(state_dict: Any) -> list[str]:
    """Return the parameters in order, tied ones once, as ``model.parameters()`` gives them."""
    seen, found = set(), []
    for key, value in state_dict.items():
        leaf = key.rpartition(".")[2]
        memory = (value.untyped_storage().data_ptr(), value.storage_offset())
        if leaf in BUFFERS or leaf == "trainable_layout_version" or leaf.startswith("latlons_") or memory in seen:
            continue
        seen.add(memory)
        found.append(key)
    return found


def stamped(anemoi: Folder, release: str, kind: str) -> Path:
    """Copy a real checkpoint, and say what it is."""
    path = Path(shutil.copy(REAL / f"{release}_{kind}.ckpt", anemoi.path))
    path.chmod(0o644)
    anemoi.ok("stamp", f"anemoi-models=={release}", path, "--no-backup")
    return path


@real
def test_nothing_of_anemoi_is_here() -> None:
    for name in ("anemoi.models", "torch_geometric", "omegaconf"):
        assert importlib.util.find_spec(name.partition(".")[0]) is None


@real
@each
def test_up_to_what_is_ideal_and_back(anemoi: Folder, release: str, kind: str) -> None:
    path = stamped(anemoi, release, kind)
    before = read(path)
    anemoi.ok("upgrade", "head", path, "--no-backup", "--check-rollback")
    ideal = json.loads((REAL / f"ideal_{release}_{kind}.json").read_text())
    assert described(read(path)["state_dict"]) == ideal
    anemoi.ok("downgrade", f"anemoi-models=={release}", path, "--no-backup")
    assert equal(read(path), before)
