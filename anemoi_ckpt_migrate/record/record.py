"""The record of a checkpoint, as plain data: its heads, applied revisions, their rollbacks, and a log."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from anemoi_ckpt_migrate.errors import DamagedRecord, NewerRecord
from anemoi_ckpt_migrate.record.encode import decode, encode
from anemoi_ckpt_migrate.storage.backup_facts import BackupFacts
from anemoi_ckpt_migrate.util.dataclass import dataclass, field, replace
from anemoi_ckpt_migrate.util.lazy_regex import lazy_regex

FORMAT = 1
"""The format that this version writes, and the newest that it reads."""

_KEYS = ("format", "heads", "lineage", "log", "stash", "migrations_list", "other_lists", "optimizers")

_DIGEST = lazy_regex(r"[0-9a-f]{64}")

Stash = dict[str, list[Any]]
"""Values that operations removed from a checkpoint, by revision: tensors, and any other values of the tree."""


@dataclass(frozen=True)
class Undo:
    """The rollback of a revision, for code that does not have its script.

    Attributes
    ----------
    source : str
        The whole script; empty if the rollback needs none of its functions.
    python : str or None
        The Python that made `pickle`, as ``"cpython-3.11"``; no other may load it.
    pickle : str or None
        The rollback function, pickled by value with cloudpickle; base64.
    operations : tuple of dict, or None
        Operations as plain data that undo the revision on this checkpoint. None for a revision of functions.
    parameters : str or None
        The path of the state dict for the operations, if configured.
    lost : str or None
        Why there is no rollback, although the script might have had one.
    """

    source: str
    python: str | None = None
    pickle: str | None = None
    operations: tuple[Mapping[str, Any], ...] | None = None
    parameters: str | None = None
    lost: str | None = None


@dataclass(frozen=True)
class Applied:
    """A revision that is applied to a checkpoint.

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
        The rollback; None if there is none.
    chain : str
        The published chain that the revision belongs to; empty for a revision of a project.
    known_as : mapping of str to str
        The migrations of another tool that the revision stands for, in order, with the signature listed for each.
    known_by : str
        That tool; empty for the built-in one.
    """

    revision: str
    parents: tuple[str, ...] = ()
    depends_on: tuple[str, ...] = ()
    name: str = ""
    signature: str = ""
    versions: Mapping[str, str] | None = None
    final: bool = False
    undo: Undo | None = None
    chain: str = ""
    known_as: Mapping[str, str] = field(default_factory=dict)
    known_by: str = ""


@dataclass(frozen=True)
class LogEntry:
    """A command that ran on a checkpoint.

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
        The version of this tool.
    proven : bool
        Whether the rollback was verified too.
    backup : BackupFacts or None
        The file or folder that the command replaced and kept; None if it kept none.
    outputs : mapping or None
        Facts about the comparison of outputs, as plain data; None if there was none.
    """

    time: str
    command: str
    target: str
    start: tuple[str, ...]
    end: tuple[str, ...]
    steps: tuple[str, ...]
    tool: str
    proven: bool = False
    backup: BackupFacts | None = None
    outputs: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class MigrationsList:
    """Information about the list of migrations that another tool keeps in a checkpoint.

    Attributes
    ----------
    revisions : tuple of str
        The revisions of the checkpoint when the list was first seen.
    found : tuple of str or None
        The names in the list at that time; None if there was no list.
    noted : tuple of str or None
        The names in the list after the last run.
    done : int or None
        The length of the history beside the list; None if there was none.
    """

    revisions: tuple[str, ...]
    found: tuple[str, ...] | None
    noted: tuple[str, ...] | None
    done: int | None = None


@dataclass(frozen=True)
class Order:
    """The parameters of an optimizer, in order, where nothing else in the checkpoint tells.

    This is only a claim: anyone can write a record, and the optimizer may have changed since.

    Attributes
    ----------
    groups : tuple of tuple of str
        For each group, the names of its parameters in the state dict.
    own_order : tuple of int
        Groups that do not follow the order of the state dict, even if they happen to match it now.
    foreign : tuple of str
        Names in `groups` that stand for parameters which the state dict does not have.
    """

    groups: tuple[tuple[str, ...], ...]
    own_order: tuple[int, ...] = ()
    foreign: tuple[str, ...] = ()


@dataclass(frozen=True)
class Record:
    """The record of a checkpoint. Empty for an unstamped checkpoint, which is at base.

    Attributes
    ----------
    heads : tuple of str
        The current revisions, sorted.
    lineage : tuple of Applied
        Applied revisions, in order, from the barrier after which the checkpoint was made, if any.
    log : tuple of LogEntry
        All commands, oldest first.
    stash : dict of str to list
        Values that operations removed, by revision. The only part that is not plain data.
    others : tuple of Applied
        Revisions of other chains, in order; this chain ignores them.
    other_heads : tuple of str
        Heads of the other chains.
    chain : str
        The name of this chain; empty for the chain of a project.
    other_tool : str
        The other tool whose migrations this chain follows; empty for the built-in one.
    migrations_list : MigrationsList or None
        The list of that tool, once seen.
    other_lists : mapping of str to MigrationsList
        The lists of further tools, which other chains follow.
    optimizers : mapping of str to Order
        The parameters of optimizers, by path.
    extra : mapping of str to object
        Keys that this version does not know, as plain data; written back unchanged.
    """

    heads: tuple[str, ...] = ()
    lineage: tuple[Applied, ...] = ()
    log: tuple[LogEntry, ...] = ()
    stash: Stash = field(default_factory=dict, compare=False)
    others: tuple[Applied, ...] = ()
    other_heads: tuple[str, ...] = ()
    chain: str = ""
    other_tool: str = ""
    migrations_list: MigrationsList | None = field(default=None, compare=False)
    other_lists: Mapping[str, MigrationsList] = field(default_factory=dict, compare=False)
    optimizers: Mapping[str, Order] = field(default_factory=dict, compare=False)
    extra: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def of_chain(self, chain: str, other_tool: str = "") -> Record:
        """Return the record as one chain sees it: what belongs to other chains moves to `others`.

        The other tool that the chain follows has to be given where `of_all` is to return a record to store.
        """
        own = tuple(entry for entry in self.lineage if entry.chain == chain)
        ids = {entry.revision for entry in own}
        heads = tuple(head for head in self.heads if head in ids)
        others = tuple(entry for entry in self.lineage if entry.chain != chain)
        other_heads = tuple(head for head in self.heads if head not in ids)
        found = replace(self, heads=heads, lineage=own, others=others, other_heads=other_heads, chain=chain)
        return found._following(other_tool)

    def logs_any(self, *known: Container[str]) -> bool:
        """Return whether the log may tell of revisions: an entry names no chain, but all except `stamp base` name some.

        Parameters
        ----------
        *known : container of str
            Ids of the revisions.

        Returns
        -------
        bool
            True also for an entry that names none, because it may be of any chain.
        """
        named = [{*entry.start, *entry.end, *entry.steps} for entry in self.log]
        return any(not ids or any(each in some for each in ids for some in known) for ids in named)

    def of_all(self) -> Record:
        """Return the record of all chains together: the reverse of `of_chain`."""
        own = self.lineage
        if self.chain or self.other_tool:
            own = tuple(replace(each, chain=self.chain, known_by=self.other_tool or each.known_by) for each in own)
        heads = tuple(sorted((*self.heads, *self.other_heads)))
        found = replace(self, heads=heads, lineage=(*self.others, *own), others=(), other_heads=(), chain="")
        return found._following("")

    def _following(self, other_tool: str) -> Record:
        if other_tool == self.other_tool:
            return self
        lists = dict(self.other_lists)
        if self.migrations_list is not None:
            lists[self.other_tool] = self.migrations_list
        own = lists.pop(other_tool, None)
        return replace(self, other_tool=other_tool, migrations_list=own, other_lists=lists)

    def logged(self, entry: LogEntry, lineage: tuple[Applied, ...]) -> Record:
        """Return the record after a command."""
        return replace(self, heads=entry.end, lineage=lineage, log=(*self.log, entry))


def to_data(record: Record) -> dict[str, Any]:
    """Turn a record into dicts, lists, strings, booleans and None."""
    whole = record.of_all()
    return {
        **record.extra,
        "format": FORMAT,
        "heads": list(whole.heads),
        "lineage": [_applied_to_data(entry) for entry in whole.lineage],
        "log": [_log_to_data(entry) for entry in record.log],
        **({"stash": record.stash} if record.stash else {}),
        **(
            {}
            if whole.migrations_list is None
            else {"migrations_list": _migrations_list_to_data(whole.migrations_list)}
        ),
        **({"other_lists": _other_lists_to_data(whole.other_lists)} if whole.other_lists else {}),
        **({"optimizers": _optimizers_to_data(record.optimizers)} if record.optimizers else {}),
    }


def from_data(data: Any) -> Record:
    """Turn plain data back into a record.

    Raises
    ------
    DamagedRecord, NewerRecord
        The data is no record; its format is newer than this version.
    """
    fields = _Fields(data, "record")
    version = fields.get("format", int)
    if version > FORMAT:
        raise NewerRecord(version, FORMAT)
    record = Record(
        fields.words("heads"),
        tuple(_applied_from_data(entry) for entry in fields.get("lineage", list)),
        tuple(_log_from_data(entry) for entry in fields.get("log", list)),
        stash_of(data),
        migrations_list=None
        if data.get("migrations_list") is None
        else _migrations_list_from_data(data["migrations_list"]),
        other_lists=_other_lists_from_data(data.get("other_lists", {})),
        optimizers=_optimizers_from_data(data.get("optimizers", {})),
        extra=_extra_of(data),
    )
    _check(record)
    return record


def _extra_of(data: dict[Any, Any]) -> dict[str, Any]:
    """Return the keys that this version does not know. A newer version may need them, so they are kept."""
    extra = {key: value for key, value in data.items() if key not in _KEYS}
    if not all(isinstance(key, str) for key in extra):
        raise DamagedRecord("one of its keys is not text")
    _Weighing("its extra keys").check(list(extra.values()))
    return extra


def stash_of(data: Any) -> Stash:
    """Return the stash in the data of a record.

    Raises
    ------
    DamagedRecord
        The stash is not a dict of lists.
    """
    stash = data.get("stash", {}) if isinstance(data, dict) else {}
    if not isinstance(stash, dict) or not all(isinstance(values, list) for values in stash.values()):
        raise DamagedRecord("its stash is not a list for each revision")
    return stash


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
        "undo": None if undo is None else _undo_to_data(undo),
        **({"chain": entry.chain} if entry.chain else {}),
        **({"known_as": dict(entry.known_as)} if entry.known_as else {}),
        **({"known_by": entry.known_by} if entry.known_as and entry.known_by else {}),
    }


def _undo_to_data(undo: Undo) -> dict[str, Any]:
    found: dict[str, Any] = {"source": undo.source, "python": undo.python, "pickle": undo.pickle}
    if undo.operations is not None:
        found |= {"operations": [encode(dict(each)) for each in undo.operations], "parameters": undo.parameters}
    return found | ({} if undo.lost is None else {"lost": undo.lost})


def _migrations_list_to_data(migrations_list: MigrationsList) -> dict[str, Any]:
    found, noted = (None if names is None else list(names) for names in (migrations_list.found, migrations_list.noted))
    return {"revisions": list(migrations_list.revisions), "found": found, "noted": noted, "done": migrations_list.done}


def _other_lists_to_data(lists: Mapping[str, MigrationsList]) -> dict[str, Any]:
    return {tool: _migrations_list_to_data(each) for tool, each in lists.items()}


def _optimizers_to_data(optimizers: Mapping[str, Order]) -> dict[str, Any]:
    return {path: _order_to_data(order) for path, order in optimizers.items()}


def _order_to_data(order: Order) -> dict[str, Any]:
    found = {"groups": [list(group) for group in order.groups], "own_order": list(order.own_order)}
    return found | ({"foreign": list(order.foreign)} if order.foreign else {})


def _log_to_data(entry: LogEntry) -> dict[str, Any]:
    return {
        "time": entry.time,
        "command": entry.command,
        "target": entry.target,
        "from": list(entry.start),
        "to": list(entry.end),
        "steps": list(entry.steps),
        "tool": entry.tool,
        **({"proven": True} if entry.proven else {}),
        **({} if entry.backup is None else {"backup": _backup_to_data(entry.backup)}),
        **({} if entry.outputs is None else {"outputs": dict(entry.outputs)}),
    }


def _backup_to_data(backup: BackupFacts) -> dict[str, Any]:
    found: dict[str, Any] = {"number": backup.number, "size": backup.size, "modified": backup.modified}
    return found | ({"files": backup.files} if backup.files else {})


def _applied_from_data(data: Any) -> Applied:
    fields = _Fields(data, "lineage")
    versions, known_as = fields.texts("versions"), {}
    if data.get("known_as") is not None:
        known_as = fields.texts("known_as")
    undo = None
    if data.get("undo") is not None:
        undo = _undo_from_data(data["undo"])
    return Applied(
        fields.get("revision", str),
        fields.words("parents"),
        fields.words("depends_on"),
        fields.get("name", str),
        fields.get("signature", str),
        versions,
        fields.get("final", bool),
        undo,
        fields.maybe("chain") or "",
        known_as,
        fields.maybe("known_by") or "",
    )


def _undo_from_data(data: Any) -> Undo:
    fields = _Fields(data, "undo")
    operations = None
    if data.get("operations") is not None:
        operations = tuple(fields.get("operations", list))
        if not all(isinstance(each, dict) for each in operations):
            raise DamagedRecord("operations in undo are not dicts")
        _Weighing("operations in undo").check(list(operations))
        operations = tuple(map(decode, operations))
    python, pickled, path, lost = (fields.maybe(name) for name in ("python", "pickle", "parameters", "lost"))
    return Undo(fields.get("source", str), python, pickled, operations, path, lost)


def _migrations_list_from_data(data: Any) -> MigrationsList:
    fields = _Fields(data, "migrations_list")
    found, noted = (None if data.get(name) is None else fields.words(name) for name in ("found", "noted"))
    done = None if data.get("done") is None else fields.get("done", int)
    return MigrationsList(fields.words("revisions"), found, noted, done)


def _other_lists_from_data(data: Any) -> dict[str, MigrationsList]:
    if not isinstance(data, dict) or not all(isinstance(tool, str) for tool in data):
        raise DamagedRecord("other_lists are no dict by tool")
    return {tool: _migrations_list_from_data(each) for tool, each in data.items()}


def _optimizers_from_data(data: Any) -> dict[str, Order]:
    if not isinstance(data, dict) or not all(isinstance(path, str) for path in data):
        raise DamagedRecord("optimizers are not a dict by path")
    return {path: _order_from_data(order) for path, order in data.items()}


def _order_from_data(data: Any) -> Order:
    fields = _Fields(data, "optimizers")
    groups, own_order = fields.get("groups", list), fields.get("own_order", list)
    if not all(isinstance(group, list) and all(isinstance(name, str) for name in group) for group in groups):
        raise DamagedRecord("groups in optimizers are not lists of text")
    if not all(type(number) is int for number in own_order):
        raise DamagedRecord("own_order in optimizers is not a list of numbers")
    foreign = fields.words("foreign") if "foreign" in data else ()
    return Order(tuple(map(tuple, groups)), tuple(own_order), foreign)


def _log_from_data(data: Any) -> LogEntry:
    fields = _Fields(data, "log")
    words = [fields.get(name, str) for name in ("time", "command", "target")]
    lists = [fields.words(name) for name in ("from", "to", "steps")]
    proven = data.get("proven") is True
    backup = None if data.get("backup") is None else _backup_from_data(data["backup"])
    outputs = None if data.get("outputs") is None else _plain(fields, "outputs")
    (time, command, target), (start, end, steps) = words, lists
    return LogEntry(time, command, target, start, end, steps, fields.get("tool", str), proven, backup, outputs)


def _plain(fields: _Fields, name: str) -> dict[str, Any]:
    """Return a dict of plain data."""
    found: dict[str, Any] = fields.get(name, dict)
    _Weighing(name).check([found])
    return found


def _backup_from_data(data: Any) -> BackupFacts:
    fields = _Fields(data, "backup")
    number, size, modified = (fields.get(name, int) for name in ("number", "size", "modified"))
    files = fields.maybe("files") or ""
    if files and not _DIGEST.fullmatch(files):
        raise DamagedRecord("files in backup is not a digest")
    return BackupFacts(number, size, modified, files)


def _check(record: Record) -> None:
    """Check the assumptions of planning: heads are in the lineage, and parents stand before their children."""
    ids = [entry.revision for entry in record.lineage]
    if len(set(ids)) != len(ids):
        raise DamagedRecord("a revision is twice in the lineage")
    unknown = [head for head in record.heads if head not in ids]
    if unknown:
        raise DamagedRecord(f"head {unknown[0]} is not in the lineage")
    place = {revision: index for index, revision in enumerate(ids)}
    for entry in record.lineage:
        for parent in (*entry.parents, *entry.depends_on):
            if place.get(parent, -1) > place[entry.revision]:
                raise DamagedRecord(f"{entry.revision} comes before its parent {parent} in the lineage")


_DEEPEST, _MOST, _SHARED = 100, 1_000_000, 4


class _Weighing:
    """Checks that data is plain, not nested deeply, and does not repeat shared data too often.

    A few bytes can refer to the same list in many places, and each place is written out or compared. The total with all
    repetitions is limited to `_MOST`, or `_SHARED` times the data itself if that is more.
    """

    def __init__(self, place: str) -> None:
        self._place = place
        self._weights: dict[int, int] = {}  # with all contents, counted each time they occur
        self._own = 0  # everything, counted once

    def check(self, data: list[Any]) -> None:
        """Raise `DamagedRecord` if a check fails."""
        if self._weight(data, 0) > max(_MOST, _SHARED * self._own):
            raise DamagedRecord(f"{self._place} repeat the same data too often")

    def _weight(self, value: Any, depth: int) -> int:
        kind = type(value)
        if depth > _DEEPEST:
            raise DamagedRecord(f"{self._place} are nested too deeply")
        if kind in (str, bytes):
            return self._counted(value, 1 + len(value) // 16)
        if value is None or kind in (bool, int, float, complex):
            return self._counted(value, 1)
        if kind not in (dict, list, tuple, set, frozenset):
            raise DamagedRecord(f"{self._place} hold a {kind.__name__}, which is not plain data")
        if id(value) not in self._weights:
            held = [*value.keys(), *value.values()] if kind is dict else list(value)
            self._own += 1
            self._weights[id(value)] = 1 + sum(self._weight(each, depth + 1) for each in held)
        return self._weights[id(value)]

    def _counted(self, value: Any, weight: int) -> int:
        if id(value) not in self._weights:
            self._weights[id(value)] = weight
            self._own += weight
        return weight


class _Fields:
    """Typed look-ups in data that may be damaged."""

    def __init__(self, data: Any, place: str) -> None:
        if not isinstance(data, dict):
            raise DamagedRecord(f"{place} is not a dict")
        self._data, self._place = data, place

    def get(self, name: str, kind: type) -> Any:
        value = self._data.get(name)
        if not isinstance(value, kind):
            raise DamagedRecord(f"{name} in {self._place} is not of type {kind.__name__}")
        return value

    def maybe(self, name: str) -> str | None:
        return None if self._data.get(name) is None else str(self.get(name, str))

    def texts(self, name: str) -> dict[str, str]:
        values: dict[str, str] = self.get(name, dict)
        if not all(isinstance(word, str) for pair in values.items() for word in pair):
            raise DamagedRecord(f"{name} are not text")
        return values

    def words(self, name: str) -> tuple[str, ...]:
        values = self.get(name, list)
        if not all(isinstance(value, str) for value in values):
            raise DamagedRecord(f"{name} in {self._place} is not a list of text")
        return tuple(values)
