"""Keep the list that another tool writes into a checkpoint up to date while the checkpoint moves."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.errors import DamagedRecord, OtherToolFailed
from anemoi_ckpt_migrate.other_tools import Done, Entry, OtherTool
from anemoi_ckpt_migrate.other_tools.find import code_of, find_tool
from anemoi_ckpt_migrate.other_tools.read_list import history, listed
from anemoi_ckpt_migrate.record import embed
from anemoi_ckpt_migrate.record.record import Applied, MigrationsList, Record, Stash
from anemoi_ckpt_migrate.storage.tensors.refs import is_a
from anemoi_ckpt_migrate.util.dataclass import dataclass, replace

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.runtime import executor
    from anemoi_ckpt_migrate.storage import Checkpoint

_ASIDE = "list of migrations"
"""The stash key of values removed from the list of the built-in tool; no revision has this id."""


@dataclass(frozen=True)
class _Noting:
    """Updates the list after a step.

    Attributes
    ----------
    tool : OtherTool
        The tool that keeps the list.
    seen : MigrationsList
        Information about the list as it was found.
    record : Record
        The record after the step.
    classes : collection of tuple of str
        Module and name of all classes and functions that the checkpoint names.
    """

    tool: OtherTool
    seen: MigrationsList
    record: Record
    classes: Collection[tuple[str, str]]
    is_about_parameters = False
    runs_code = False

    def prepare(self) -> Callable[[executor.RunContext], None]:
        def note(walk: executor.RunContext) -> None:
            with code_of(self.tool):
                self._note(walk.state.tree, walk.state.stash)

        return note

    def _note(self, tree: Any, stash: Stash) -> None:
        """Update the list. Values that were found stay; those that are removed or need another form are stashed."""
        tool, names = self.tool, _names_after(self.record, self.seen)
        aside = f"{_ASIDE} of {self.record.other_tool}" if self.record.other_tool else _ASIDE
        # Entries added since are made anew at each step, in the form of that step's release.
        entries = [
            tool.entry(value)._replace(found=value) for value in (*(tool.find(tree) or ()), *stash.pop(aside, ()))
        ]
        found = {entry.name: entry for entry in entries if entry.name in (self.seen.found or ())}
        lost = [name for name in self.seen.found or () if name not in found]
        if lost:
            raise DamagedRecord(f"it says that {lost[0]} was in the list `{tool.key}`, and the checkpoint lacks that")
        values = {name: entry.found for name, entry in found.items()}
        here = wanted(self.record)
        if names is None:
            left = None
        elif names is self.seen.found:
            left = [values[name] for name in names]
        else:
            left = tool.entries([here[name] for name in names], values, self.classes)
        tool.put(tree, left)
        written = [tool.entry(value).name for value in tool.find(tree) or ()]
        if written != list(names or ()):
            what = f"wrote the list {written}, not {list(names or ())}"
            raise OtherToolFailed(tool.name, type(tool).__module__, what)
        kept = {id(value) for value in left or ()}
        stashed = [values[name] for name in self.seen.found or () if id(values[name]) not in kept]
        if stashed:
            stash[aside] = stashed
        self._note_history(tree, names or (), found | here)

    def _note_history(self, tree: Any, names: Sequence[str], entries: dict[str, Entry]) -> None:
        """Restore the history as it was found, and append the migrations run and rolled back since."""
        if self.seen.done is None or self.tool.history(tree) is None:
            return
        found = self.seen.found or ()
        done = [("rollback", name) for name in reversed(found) if name not in names]
        done += [("migrate", name) for name in names if name not in found]
        self.tool.put_history(tree, self.seen.done, [Done(kind, name, entries[name].signature) for kind, name in done])


def keeping(
    file: Checkpoint,
    tree: Any,
    record: Record,
    actions: Sequence[executor.Action],
    lineages: Sequence[tuple[Applied, ...]],
) -> tuple[list[executor.Action], MigrationsList | None]:
    """Add updates of the list after each step, if the checkpoint has a list or a step is known to the other tool.

    Parameters
    ----------
    file : Checkpoint
        The open checkpoint.
    tree : object
        Its tree.
    record : Record
        Its record.
    actions : sequence of executor.Action
        The action of each step.
    lineages : sequence of tuple of Applied
        The revisions of the checkpoint after each step.

    Returns
    -------
    tuple of list of executor.Action and MigrationsList or None
        The actions, and the information about the list to store in the record.

    Raises
    ------
    DamagedLedger
        The entry for the list holds something else.
    """
    after = [replace(record, lineage=lineage) for lineage in lineages]
    known = record.migrations_list is not None or any(wanted(each) for each in (record, *after))
    if not known or not after or not is_a(tree, dict) or embed.is_state_dict(tree):
        return list(actions), record.migrations_list
    tool = find_tool(record.other_tool)
    seen = record.migrations_list or _seen(tool, tree, record)
    both = [(action, _Noting(tool, seen, each, file.names)) for action, each in zip(actions, after, strict=True)]
    return [one for pair in both for one in pair], replace(seen, noted=_names_after(after[-1], seen))


def wanted(record: Record) -> dict[str, Entry]:
    """Return the entries that the list should have, in order, by name."""
    others = (each for each in record.others if each.known_by == record.other_tool)
    return {
        name: Entry(name, signature, applied.versions or {}, applied.final)
        for applied in (*others, *record.lineage)
        for name, signature in applied.known_as.items()
    }


def _seen(tool: OtherTool, tree: Any, record: Record) -> MigrationsList:
    """Return the information to remember about the list as it is found."""
    entries, done = listed(tool, tree), history(tool, tree)
    names = None if entries is None else tuple(entry.name for entry in entries)
    return MigrationsList(_revisions(record), names, names, None if done is None else len(done))


def _names_after(record: Record, seen: MigrationsList) -> tuple[str, ...] | None:
    """Return the names for the list. At the revisions where the list was found, these are the names found then.

    None if there was no list, and a new one would be empty.
    """
    if set(_revisions(record)) == set(seen.revisions):
        return seen.found
    return tuple(wanted(record)) or (None if seen.found is None else ())


def _revisions(record: Record) -> tuple[str, ...]:
    return tuple(entry.revision for entry in (*record.others, *record.lineage))
