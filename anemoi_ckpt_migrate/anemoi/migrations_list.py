"""Read the list ``migrations`` that anemoi-models keeps in a checkpoint, and update it as anemoi-models would.

anemoi-models decides from the list whether it can use a checkpoint. An entry is a dict with ``name``, ``metadata`` and
``signature``. Before 0.13.0 it also had ``rollback``, a function pickled by value, and ``setup_context``, which lists
moved classes; code of that time requires both. Beside the list there may be a history of executed migrations, in the
metadata of ``hyper_parameters``.
"""

from __future__ import annotations

import base64
import copy
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from anemoi_ckpt_migrate.errors import BadOperation, DamagedLedger, Fault
from anemoi_ckpt_migrate.other_tools import Done, Entry, ForeignScript, OtherTool, Undo
from anemoi_ckpt_migrate.revisions import releases
from anemoi_ckpt_migrate.storage.pickle.opaque import Opaque, instance
from anemoi_ckpt_migrate.storage.tensors.refs import is_a, is_stored
from anemoi_ckpt_migrate.util.lazy_regex import lazy_regex

_HISTORY = ("hyper_parameters", "metadata", "migrations", "history")
_PACKAGE, _WITHOUT_ROLLBACKS = "anemoi-models", "0.13"
_METADATA = ("anemoi.models.migrations.migrator", "MigrationMetadata")
_ONCE = ("rollback", "setup_context")
_PYTHON = lazy_regex(rb"\bpython(3\.\d+)\b")


class AnemoiModels(OtherTool):
    """The migrations of anemoi-models."""

    name = "anemoi-models"
    key = "migrations"

    def entry(self, found: Any) -> Entry:
        """Read an entry."""
        name = _text(found, "name")
        if not name:
            raise DamagedLedger("one of its entries has no name", self.key)
        metadata = found.get("metadata")
        versions = _inside(metadata, "versions")
        texts = {key: value for key, value in versions.items() if is_a(value, str)} if is_a(versions, dict) else {}
        return Entry(name, _text(found, "signature"), texts, _inside(metadata, "final") is True)

    def entries(
        self, wanted: Sequence[Entry], found: Mapping[str, Any], classes: Collection[tuple[str, str]]
    ) -> list[Any]:
        """Return entries in the form of their release: those found, and new ones for the others."""
        example = next((entry.get("metadata") for entry in found.values()), None)
        if example is None:
            # Metadata may be an instance of a class of anemoi only if the checkpoint names others too.
            own_classes = any(module.partition(".")[0] == "anemoi" for module, _ in classes)
            example = instance(*_METADATA, {}) if own_classes else {}
        made = [found.get(entry.name) or _made(entry, example) for entry in wanted]
        newest = wanted[-1].versions if wanted else {}
        if releases.is_before(newest.get(_PACKAGE, ""), _WITHOUT_ROLLBACKS):
            return [entry if all(map(entry.__contains__, _ONCE)) else {**entry, **_without(entry)} for entry in made]
        return made

    def history(self, tree: Any) -> tuple[Done, ...] | None:
        """Return the history beside the list."""
        found = _history(tree)[1]
        if found is None:
            return None
        return tuple(Done(_text(each, "type"), _text(each, "name"), _text(each, "signature")) for each in found)

    def put_history(self, tree: Any, kept: int, more: Sequence[Done]) -> None:
        """Cut the history to its first entries, and add more."""
        holder, history = _history(tree)
        new = [{"type": done.kind, "name": done.name, "signature": done.signature} for done in more]
        holder[_HISTORY[-1]] = [*(history or ())[:kept], *new]

    def undo(self, tree: Any, entry: Entry) -> Undo:
        """Return the rollback in an entry. Until 0.13, that is a function pickled by value."""
        from anemoi_ckpt_migrate.op import Run  # not needed to read the list
        from anemoi_ckpt_migrate.operations.setup import MoveNames

        rollback = _rollback(entry.found.get("rollback"))
        if rollback is None:
            return super().undo(tree, entry)
        python = _python_of(tree, rollback)
        if python is None:
            return Undo("", lost="the Python that pickled its rollback is unknown, and another one could crash")
        setup = entry.found.get("setup_context")
        classes, modules = (_moved(setup, key) for key in ("attribute_paths", "module_paths"))
        try:
            names = MoveNames(tuple(classes.items()), tuple(modules.items()))
        except BadOperation as error:
            return Undo("", lost=f"its setup has an invalid name: {error.sentence}")
        # Move names back first, because the rollback comes from code that knows the old names.
        operations = (names, Run("rollback")) if names.classes or names.modules else (Run("rollback"),)
        pickled = base64.b64encode(rollback).decode()
        return Undo("", f"cpython-{python}", pickled, tuple(operation.to_data() for operation in operations))

    def script(self, path: str) -> tuple[ForeignScript | None, list[Fault]]:
        """Read one of its scripts."""
        from anemoi_ckpt_migrate.anemoi.convert_script import read_foreign

        return read_foreign(path)


def _python_of(tree: Any, rollback: bytes) -> str | None:
    """Return the Python that pickled a rollback, as ``"3.11"``: that of the training, or one named in the pickle.

    None if there is no such information, or it is contradictory.
    """
    metadata = _inside(_inside(tree, "hyper_parameters"), "metadata")
    said = _inside(_inside(metadata, "provenance_training"), "python")
    found = {match.decode() for match in _PYTHON.findall(rollback)}
    if is_a(said, str):
        found.add(".".join(said.split(".")[:2]))
    return found.pop() if len(found) == 1 else None


def _made(entry: Entry, example: Any) -> dict[str, Any]:
    return {"name": entry.name, "metadata": _metadata(example, entry), "signature": entry.signature}


def _without(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: entry.get(key) for key in _ONCE}


def _metadata(example: Any, entry: Entry) -> Any:
    """Return metadata in the form of an example: its readers expect attributes unless it is a dict."""
    versions, final = dict(entry.versions), entry.final
    if is_a(example, dict):
        return {"versions": versions, "final": final}
    made = copy.deepcopy(example)
    if is_a(made, Opaque):
        made.__opaque_parts__.state = {"versions": versions, "final": final}
    else:
        made.versions, made.final = versions, final
    return made


def _text(found: Any, key: str) -> str:
    value = found.get(key) if is_a(found, dict) else None
    return value if is_a(value, str) else ""


def _rollback(found: Any) -> bytes | None:
    args = found.__opaque_parts__.args if is_a(found, Opaque) else (getattr(found, "_rollback_bytes", None),)
    return args[0] if len(args) == 1 and is_a(args[0], bytes) else None


def _moved(setup: Any, key: str) -> dict[str, str]:
    pairs = setup.get(key) if is_a(setup, dict) else None
    if not is_a(pairs, dict) or not all(is_a(word, str) for pair in pairs.items() for word in pair):
        return {}
    return dict(pairs)


def _history(tree: Any) -> tuple[Any, list[Any] | None]:
    """Return the container of the history, and the history."""
    holder = tree
    for key in _HISTORY[:-1]:
        holder = _inside(holder, key)
    found = _inside(holder, _HISTORY[-1])
    return holder, found if is_a(found, list) else None


def _inside(holder: Any, key: str) -> Any:
    """Return an item of a dict, or an attribute of an object whose class is not imported; None if there is none."""
    if is_a(holder, dict):
        return holder.get(key)
    return None if is_stored(holder) else getattr(holder, key, None)  # on a stand-in, this would request content
