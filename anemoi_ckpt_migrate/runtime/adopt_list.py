"""Convert the migrations that another tool listed in a checkpoint into a record."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.errors import LedgerConflict
from anemoi_ckpt_migrate.other_tools import Entry, OtherTool, match_revisions
from anemoi_ckpt_migrate.other_tools.find import code_of, find_tool
from anemoi_ckpt_migrate.other_tools.read_list import listed
from anemoi_ckpt_migrate.record.record import Applied, Record
from anemoi_ckpt_migrate.revisions import planner
from anemoi_ckpt_migrate.revisions.planner import Plan
from anemoi_ckpt_migrate.runtime.record_entries import log_entry, stamped_entry
from anemoi_ckpt_migrate.runtime.update_list import wanted
from anemoi_ckpt_migrate.util.dataclass import replace

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.project.project import Project
    from anemoi_ckpt_migrate.revisions.graph import Graph


def noted(project: Project, tree: Any) -> tuple[Entry, ...]:
    """Return the migrations that another tool listed in a checkpoint; empty if no script stands for such migrations.

    Raises
    ------
    DamagedLedger
        The entry for the list holds something else.
    """
    return (listed(find_tool(project.config.other_tool), tree) or ()) if project.graph.known_as else ()


def adopted(
    project: Project, tree: Any, record: Record, entries: Sequence[Entry], recognised: str | None = None
) -> tuple[Record, str]:
    """Return a record for a checkpoint that has none, or none of this chain.

    Parameters
    ----------
    project : Project
        The project that holds the scripts.
    tree : object
        The checkpoint.
    record : Record
        The record, as this chain sees it: it holds other chains alone, if any.
    entries : sequence of Entry
        The migrations listed in the checkpoint.
    recognised : str, optional
        The revision that its contents match; takes precedence over the list.

    Returns
    -------
    tuple of Record and str
        The record, and a sentence for the user that explains how it was derived.

    Raises
    ------
    LedgerConflict
        The list does not match the scripts.
    """
    # The checkpoint may be older than a squash, so look at the single revisions.
    graph, parameters = project.graph.opened(), project.config.parameters
    tool = find_tool(project.config.other_tool)
    told = match_revisions.adopt(graph, entries, tool.key, whole=recognised is None)
    revision = recognised or told.revision
    if revision is None:
        return record, ""
    revision = revision if revision in graph else graph.standing(revision)
    lineage = [
        replace(stamped_entry(each, parameters), known_as=match_revisions.noted_as(each, told.known))
        for each in planner.lineage_of(graph, [revision])
    ]
    for entry in told.extra:
        lineage.append(_foreign(tool, tree, entry, lineage[-1].revision))
    end, others = (lineage[-1].revision,), bool(record.log)
    done = log_entry("recognise" if recognised else "adopt", "", Plan((), end, ()))
    record = replace(record, heads=end, lineage=tuple(lineage), log=(*record.log, done))
    without = "it has no record of this chain" if others else "it has no record"
    return record, f"{without}; {_said(graph, revision, lineage, told, recognised is not None)}"


def check_noted(project: Project, record: Record, entries: Sequence[Entry]) -> None:
    """Check that the list of a checkpoint has not changed since the last run.

    Raises
    ------
    LedgerConflict
        The list has changed.
    """
    if record.migrations_list is None or not project.graph.known_as:
        return
    names, left = tuple(entry.name for entry in entries), record.migrations_list.noted or ()
    if names not in (left, tuple(wanted(record))):
        raise LedgerConflict(names, left, find_tool(project.config.other_tool).key, recorded=True)


def _said(
    graph: Graph, revision: str, lineage: Sequence[Applied], told: match_revisions.Adopted, by_content: bool
) -> str:
    teller = "its content" if by_content else "its list of migrations"
    said = f"by {teller} it is taken to be at {revision} ({graph[revision].name})"
    has = {name for entry in lineage for name in entry.known_as}
    more = [entry.name for name, entry in told.known.items() if entry.name not in has]
    if more:
        said += f"; ignoring {', '.join(more)}, also in its list of migrations"
    if told.extra:
        said += f"; it also has {', '.join(entry.name for entry in told.extra)}, which no script here knows"
    return said


def _foreign(tool: OtherTool, tree: Any, entry: Entry, parent: str) -> Applied:
    """Describe a migration that no script knows, as a foreign revision."""
    with code_of(tool):
        undo = tool.undo(tree, entry)
    return Applied(
        match_revisions.revision_of(entry.name),
        (parent,),
        name=re.sub(r"^\d+_", "", entry.name).replace("_", " "),
        signature=entry.signature,
        versions=entry.versions,
        final=entry.final,
        undo=undo,
        known_as={entry.name: entry.signature},
    )
