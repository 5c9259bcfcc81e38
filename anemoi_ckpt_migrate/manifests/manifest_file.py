"""The manifest: the parameters of the models at a revision, in a file that version control can merge."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from anemoi_ckpt_migrate.autogenerate.parameter_info import Item
from anemoi_ckpt_migrate.errors import CannotWrite, DamagedManifest, NewerManifest
from anemoi_ckpt_migrate.util.dataclass import dataclass
from anemoi_ckpt_migrate.util.text import first_repeated

NAME = "manifest.json"
BRIDGES = "manifests"
"""A folder beside the manifest, for manifests of earlier revisions that no operations lead back to."""
BASE = "base"
FORMAT = 1


@dataclass(frozen=True)
class Snapshot:
    """The state of a model at a revision.

    Attributes
    ----------
    revisions : tuple of str
        The head; several if there are several, none for base.
    items : tuple of Item
        Names, shapes and dtypes of its state dict, in order.
    sized : bool
        Whether it depends on hyper-parameters, so that checkpoints may have other shapes.
    """

    revisions: tuple[str, ...]
    items: tuple[Item, ...]
    sized: bool = False


Models = Mapping[str, Snapshot]
"""Snapshots by the names of models."""


def read(folder: Path) -> dict[str, Snapshot]:
    """Read the manifest of a folder of scripts; empty if there is none.

    Raises
    ------
    DamagedManifest
        The manifest is invalid, for instance after a merge or an edit by hand.
    NewerManifest
        A later version of this package wrote it.
    """
    return _read(folder / NAME)


def read_bridges(folder: Path) -> list[dict[str, Snapshot]]:
    """Read the manifests of earlier revisions; raises the errors of `read`."""
    return [_read(path) for path in _bridges(folder)]


def bridges_about(folder: Path, revisions: Collection[str]) -> list[Path]:
    """Return the manifests of earlier revisions that are about one of these; raises the errors of `read`."""
    return [
        path
        for path in _bridges(folder)
        if any(revision in revisions for one in _read(path).values() for revision in one.revisions)
    ]


def write(folder: Path, models: Models) -> Path:
    """Write the manifest, and return its path.

    Raises
    ------
    CannotWrite
        The file system refuses.
    """
    return _write(folder / NAME, models)


def write_bridge(folder: Path, name: str, snapshot: Snapshot) -> Path:
    """Add the state of a model to the manifest of an earlier revision; raises the errors of `read` and `write`."""
    path = folder / BRIDGES / f"{'+'.join(snapshot.revisions) or BASE}.json"
    return _write(path, {**_read(path), name: snapshot})


def remove(paths: Iterable[Path]) -> None:
    """Remove manifests of earlier revisions; raises the errors of `write`."""
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise CannotWrite(
                f"the manifest {path} could not be removed ({error.strerror}); remove it, because its revisions moved"
            ) from error


def spelled(models: Models) -> str:
    """Return the text of a manifest: sorted, one parameter per line."""
    parts = [f"    {json.dumps(name)}: {_spelled(models[name])}" for name in sorted(models)]
    return f'{{\n  "format": {FORMAT},\n  "models": {{\n' + ",\n".join(parts) + "\n  }\n}\n"


def parsed(text: str, shown: str, earlier: bool = False) -> dict[str, Snapshot]:
    """Parse the text of a manifest; raises the errors of `read`."""
    try:
        data = json.loads(text, object_pairs_hook=_once)
        if isinstance(data, dict) and isinstance(data.get("format"), int) and data["format"] > FORMAT:
            raise NewerManifest(shown, data["format"], FORMAT)
        if data["format"] != FORMAT:
            raise ValueError("it has no known format")
        return {str(name): _snapshot(name, found) for name, found in data["models"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedManifest(shown, _wrong(text, error), earlier) from error


def _wrong(text: str, error: Exception) -> str:
    """Describe the error in the text of a manifest in a user's terms."""
    if "<<<<<<<" in text:
        return "it has conflict markers of version control"
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return str(error) if isinstance(error, ValueError) else "it does not have the structure of a manifest"


def _bridges(folder: Path) -> list[Path]:
    return sorted((folder / BRIDGES).glob("*.json"))


def _read(path: Path) -> dict[str, Snapshot]:
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors add a byte order mark
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DamagedManifest(
            os.fspath(path), getattr(error, "strerror", None) or str(error), _is_bridge(path)
        ) from error
    return parsed(text, os.fspath(path), _is_bridge(path))


def _is_bridge(path: Path) -> bool:
    return path.name != NAME


def _write(path: Path, models: Models) -> Path:
    new = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(exist_ok=True)
        new.write_text(spelled(models), encoding="utf-8")
        new.replace(path)
    except OSError as error:
        raise CannotWrite(f"the manifest {path} could not be written ({error.strerror})") from error
    return path


def _spelled(snapshot: Snapshot) -> str:
    afters = [None, *(item.name for item in snapshot.items)]
    facts = {
        item.name: {"after": after, **_buffer(item), "dtype": item.dtype, "shape": item.shape}
        for item, after in zip(snapshot.items, afters, strict=False)
    }
    lines = [f"        {json.dumps(name)}: {json.dumps(facts[name])}" for name in sorted(facts)]
    head = f'{{\n      "revisions": {json.dumps(list(snapshot.revisions))},\n'
    sized = '      "sized": true,\n' if snapshot.sized else ""
    return f'{head}{sized}      "parameters": {{\n' + ",\n".join(lines) + "\n      }\n    }"


def _buffer(item: Item) -> dict[str, bool]:
    return {"buffer": True} if item.buffer else {}


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"{first_repeated(name for name, _ in pairs)} is in it twice")
    return found


def _snapshot(model: str, data: Any) -> Snapshot:
    revisions, sized = data["revisions"], data.get("sized", False)
    if not isinstance(revisions, list) or not all(isinstance(one, str) for one in revisions) or sized not in (0, 1):
        raise ValueError(f"{model} has no list of revisions")
    facts = {name: (_item(name, fact), fact["after"]) for name, fact in data["parameters"].items()}
    return Snapshot(tuple(revisions), tuple(_ordered(model, facts)), bool(sized))


def _item(name: str, fact: Any) -> Item:
    shape, dtype = fact["shape"], fact["dtype"]
    if not isinstance(dtype, str) or not isinstance(shape, list):
        raise ValueError(f"{name} has no shape and dtype")
    if not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError(f"{name} cannot have the shape {shape}")
    return Item(name, tuple(shape), dtype, buffer=fact.get("buffer") is True)


def _ordered(model: str, facts: Mapping[str, tuple[Item, Any]]) -> list[Item]:
    """Return the parameters in order, each after the one that it names as its predecessor."""
    followers: dict[str | None, Item] = {}
    for one, after in facts.values():
        if after in followers:
            where = f"after {after}" if after is not None else "first"
            raise ValueError(f"{followers[after].name} and {one.name} both come {where} in {model}")
        followers[after] = one
    found: list[Item] = []
    item: Item | None = followers.get(None)
    while item is not None and len(found) < len(facts):
        found.append(item)
        item = followers.get(item.name)
    if len(found) < len(facts):
        lost = next(name for name in facts if all(name != each.name for each in found))
        raise ValueError(f"{lost} comes after a name that {model} does not have")
    return found
