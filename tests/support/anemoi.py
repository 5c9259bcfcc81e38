"""Shared by tests: anemoi."""

from __future__ import annotations

import os
import pickle
import sys
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any, ClassVar

import pytest

torch = pytest.importorskip("torch")
REAL = Path(os.environ.get("ANEMOI_CHECKPOINTS") or "nowhere")  # `make test-anemoi CHECKPOINTS=DIR`
KINDS = ("gt", "gnn")


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
        classes: ClassVar[dict[str, type]] = {}

        def find_class(self, module: str, name: str) -> Any:
            if module.partition(".")[0] in ("torch", "collections", "builtins", "__builtin__", "_codecs"):
                return super().find_class(module, name)
            full = f"{module}.{name}"
            return self.classes.setdefault(full, type(name, (Foreign,), {"name": full}))


def read(path: Path) -> Any:
    """Load a checkpoint with torch, without the record; objects of classes that are not here become lists."""
    tree = torch.load(path, weights_only=False, pickle_module=Foreigners)
    tree.pop("ckpt_migrate", None)
    return plain(tree)


def plain(value: Any, above: tuple[int, ...] = ()) -> Any:
    """Turn objects into lists; what holds itself is named by how far above it stands."""
    if isinstance(value, type):
        return getattr(value, "name", str(value))
    if not isinstance(value, (Foreign, dict, list, tuple)):
        return value
    if id(value) in above:
        return f"{above[::-1].index(id(value))} above"
    above = (*above, id(value))
    if isinstance(value, OrderedDict):
        made = OrderedDict((key, plain(inner, above)) for key, inner in value.items())
        made._metadata = getattr(value, "_metadata", None)  # type: ignore[attr-defined]
        return made
    if isinstance(value, dict):
        return {key: plain(value[key], above) for key in sorted(value, key=repr)}
    return [plain(inner, above) for inner in (value.parts if isinstance(value, Foreign) else value)]


class HeteroData:
    """Stands for that of torch_geometric while a checkpoint is saved."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


def collection(names: list[str], forcing: list[str], diagnostic: list[str]) -> Any:
    """Make data indices as 0.9.4 has them; what the tensors hold does not matter."""

    def index(includes: list[str], excludes: list[str], known: list[str], kind: str) -> Any:
        only, removed = torch.zeros(len(includes)).int(), torch.zeros(len(excludes)).int()
        pair = {"forcing": only, "diagnostic": removed} if kind == "in" else {"forcing": removed, "diagnostic": only}
        return HeteroData(
            includes=includes,
            excludes=excludes,
            name_to_index={name: number for number, name in enumerate(known)},
            _only=only,
            _removed=removed,
            **pair,
        )

    given, out = [n for n in names if n not in diagnostic], [n for n in names if n not in forcing]
    return HeteroData(
        name_to_index={name: number for number, name in enumerate(names)},
        forcing=forcing,
        diagnostic=diagnostic,
        data=HeteroData(
            _forcing=forcing,
            _diagnostic=diagnostic,
            input=index(forcing, diagnostic, names, "in"),
            output=index(diagnostic, forcing, names, "out"),
        ),
        model=HeteroData(
            _forcing=forcing,
            _diagnostic=diagnostic,
            input=index(forcing, [], given, "in"),
            output=index(diagnostic, [], out, "out"),
        ),
    )


def remembers(value: Any) -> dict[str, Any]:
    """Have an optimizer remember of a parameter what it is."""
    return {"step": torch.tensor(3.0), "exp_avg": value.clone(), "exp_avg_sq": value * 2, "max_exp_avg_sq": value * 3}


def save(tree: Any, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Save a checkpoint, with classes of a module that nobody can import afterwards."""
    module = types.ModuleType("torch_geometric_of_nobody")
    module.HeteroData = HeteroData  # type: ignore[attr-defined]
    with monkeypatch.context() as patched:
        patched.setattr(HeteroData, "__module__", module.__name__)
        patched.setitem(sys.modules, module.__name__, module)
        torch.save(tree, path)
