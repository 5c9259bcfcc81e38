"""What a checkpoint remembers, as plain data: its heads, how it got there, what undoes it, what was done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from anemoi_ckpt_migrate.errors import DamagedRecord, NewerRecord

FORMAT = 1


@dataclass(frozen=True)
class Undo:
    """What undoes a revision, for code that does not have its script.

    Attributes
    ----------
    source : str
        The whole script.
    python : str or None
        The Python that made `pickle`, as ``"cpython-3.11"``; no other may load it.
    pickle : str or None
        The rollback, by value, as cloudpickle makes it; base64.
    """

    source: str
    python: str | None = None
    pickle: str | None = None


@dataclass(frozen=True)
class Applied:
    """A revision that a checkpoint has.

    Attributes
    ----------
    revision, name, signature : str
        As in `graph.Revision`.
    parents, depends_on : tuple of str
        As in `graph.Revision`.
    versions : mapping of str to str
        As in `graph.Revision`.
    final : bool
        Whether it is a barrier.
    undo : Undo or None
        What undoes it; None where nothing does.
    """

    revision: str
    parents: tuple[str, ...] = ()
    depends_on: tuple[str, ...] = ()
    name: str = ""
    signature: str = ""
    versions: Mapping[str, str] | None = None
    final: bool = False
    undo: Undo | None = None


@dataclass(frozen=True)
class LogEntry:
    """Something that was done to a checkpoint.

    Attributes
    ----------
    time : str
        UTC, ISO 8601.
    command, target : str
        ``upgrade``, ``downgrade`` or ``stamp``, and the target as it was given.
    start, end : tuple of str
        Heads before and after.
    steps : tuple of str
        Revisions in the order in which they were applied or undone.
    tool : str
        Version of this tool.
    """

    time: str
    command: str
    target: str
    start: tuple[str, ...]
    end: tuple[str, ...]
    steps: tuple[str, ...]
    tool: str


@dataclass(frozen=True)
class Record:
    """The record of a checkpoint. Empty for one that was never stamped: that is at base.

    Attributes
    ----------
    heads : tuple of str
        The revisions that it is at, sorted.
    lineage : tuple of Applied
        In the order in which they were applied, from the barrier that the checkpoint was made after, if any.
    log : tuple of LogEntry
        Everything that was done, oldest first.
    """

    heads: tuple[str, ...] = ()
    lineage: tuple[Applied, ...] = ()
    log: tuple[LogEntry, ...] = ()

    def logged(self, entry: LogEntry, lineage: tuple[Applied, ...]) -> Record:
        """Return the record after something was done."""
        return replace(self, heads=entry.end, lineage=lineage, log=(*self.log, entry))


def to_data(record: Record) -> dict[str, Any]:
    """Turn a record into dicts, lists, strings, booleans and None."""
    return {
        "format": FORMAT,
        "heads": list(record.heads),
        "lineage": [_applied_to_data(entry) for entry in record.lineage],
        "log": [_log_to_data(entry) for entry in record.log],
    }


def from_data(data: Any) -> Record:
    """Turn plain data back into a record.

    Raises
    ------
    DamagedRecord, NewerRecord
        It is none; it is one of a format to come.
    """
    fields = _Fields(data, "record")
    version = fields.get("format", int)
    if version > FORMAT:
        raise NewerRecord(version, FORMAT)
    record = Record(
        fields.words("heads"),
        tuple(_applied_from_data(entry) for entry in fields.get("lineage", list)),
        tuple(_log_from_data(entry) for entry in fields.get("log", list)),
    )
    _check(record)
    return record


def _applied_to_data(entry: Applied) -> dict[str, Any]:
    undo = entry.undo
    return {
        "revision": entry.revision,
        "parents": list(entry.parents),
        "depends_on": list(entry.depends_on),
        "name": entry.name,
        "signature": entry.signature,
        "versions": dict(entry.versions or {}),
        "final": entry.final,
        "undo": None if undo is None else {"source": undo.source, "python": undo.python, "pickle": undo.pickle},
    }


def _log_to_data(entry: LogEntry) -> dict[str, Any]:
    return {
        "time": entry.time,
        "command": entry.command,
        "target": entry.target,
        "from": list(entry.start),
        "to": list(entry.end),
        "steps": list(entry.steps),
        "tool": entry.tool,
    }


def _applied_from_data(data: Any) -> Applied:
    fields = _Fields(data, "lineage")
    versions = fields.get("versions", dict)
    if not all(isinstance(word, str) for pair in versions.items() for word in pair):
        raise DamagedRecord("versions are not text")
    undo = None
    if data.get("undo") is not None:
        inner = _Fields(data["undo"], "undo")
        undo = Undo(inner.get("source", str), inner.maybe("python"), inner.maybe("pickle"))
    return Applied(
        fields.get("revision", str),
        fields.words("parents"),
        fields.words("depends_on"),
        fields.get("name", str),
        fields.get("signature", str),
        versions,
        fields.get("final", bool),
        undo,
    )


def _log_from_data(data: Any) -> LogEntry:
    fields = _Fields(data, "log")
    words = [fields.get(name, str) for name in ("time", "command", "target")]
    lists = [fields.words(name) for name in ("from", "to", "steps")]
    return LogEntry(words[0], words[1], words[2], lists[0], lists[1], lists[2], fields.get("tool", str))


def _check(record: Record) -> None:
    """Check what planning relies on: known heads, and nobody after their children."""
    ids = [entry.revision for entry in record.lineage]
    if len(set(ids)) != len(ids):
        raise DamagedRecord("a revision stands twice in the lineage")
    unknown = [head for head in record.heads if head not in ids]
    if unknown:
        raise DamagedRecord(f"head {unknown[0]} is not in the lineage")
    place = {revision: index for index, revision in enumerate(ids)}
    for entry in record.lineage:
        for parent in (*entry.parents, *entry.depends_on):
            if place.get(parent, -1) > place[entry.revision]:
                raise DamagedRecord(f"{entry.revision} stands before its parent {parent} in the lineage")


class _Fields:
    """Typed look-ups in data that somebody may have damaged."""

    def __init__(self, data: Any, place: str) -> None:
        if not isinstance(data, dict):
            raise DamagedRecord(f"{place} is no dict")
        self._data, self._place = data, place

    def get(self, name: str, kind: type) -> Any:
        value = self._data.get(name)
        if not isinstance(value, kind):
            raise DamagedRecord(f"{name} in {self._place} is no {kind.__name__}")
        return value

    def maybe(self, name: str) -> str | None:
        return None if self._data.get(name) is None else str(self.get(name, str))

    def words(self, name: str) -> tuple[str, ...]:
        values = self.get(name, list)
        if not all(isinstance(value, str) for value in values):
            raise DamagedRecord(f"{name} in {self._place} is no list of text")
        return tuple(values)
