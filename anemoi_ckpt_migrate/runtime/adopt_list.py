"""Convert the migrations that another tool listed in a checkpoint into a record."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from anemoi_ckpt_migrate.anemoi import match_revisions, migrations_list
from anemoi_ckpt_migrate.errors import BadOperation, LedgerConflict
from anemoi_ckpt_migrate.op import Run
from anemoi_ckpt_migrate.operations.base import Operation
from anemoi_ckpt_migrate.operations.setup import MoveNames
from anemoi_ckpt_migrate.project.project import Project
from anemoi_ckpt_migrate.record.record import Applied, Record, Undo
from anemoi_ckpt_migrate.revisions import planner
from anemoi_ckpt_migrate.revisions.graph import Graph
from anemoi_ckpt_migrate.revisions.planner import Plan
from anemoi_ckpt_migrate.runtime import step_actions
from anemoi_ckpt_migrate.runtime.session import log_entry


def noted(graph: Graph, tree: Any) -> tuple[migrations_list.Entry, ...]:
    """Return the migrations that another tool listed in a checkpoint; empty if no script stands for such migrations.

    Raises
    ------
    DamagedLedger
        The entry for the list holds something else.
    """
    return (migrations_list.read(tree) or ()) if graph.known_as else ()


def adopted(
    project: Project, tree: Any, record: Record, entries: Sequence[migrations_list.Entry], recognised: str | None = None
) -> tuple[Record, str]:
    """Return a record for a checkpoint that has none.

    Parameters
    ----------
    project : Project
        The project that holds the scripts.
    tree : object
        The checkpoint.
    record : Record
        The empty record, as its chain sees it.
    entries : sequence of ledger.Entry
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
    told = match_revisions.adopt(graph, entries, whole=recognised is None)
    revision = recognised or told.revision
    if revision is None:
        return record, ""
    revision = revision if revision in graph else graph.standing(revision)
    lineage = [
        replace(step_actions.told(each, parameters), known_as=match_revisions.noted_as(each, told.known))
        for each in planner.lineage_of(graph, [revision])
    ]
    for entry in told.extra:
        lineage.append(_foreign(tree, entry, lineage[-1].revision))
    end = (lineage[-1].revision,)
    done = log_entry("recognise" if recognised else "adopt", "", Plan((), end, ()))
    record = replace(record, heads=end, lineage=tuple(lineage), log=(*record.log, done))
    return record, f"it has no record; {_said(graph, revision, lineage, told, recognised is not None)}"


def check_noted(graph: Graph, record: Record, entries: Sequence[migrations_list.Entry]) -> None:
    """Check that the list of a checkpoint has not changed since the last run.

    Raises
    ------
    LedgerConflict
        The list has changed.
    """
    if record.migrations_list is None or not graph.known_as:
        return
    names, left = tuple(entry.name for entry in entries), record.migrations_list.noted or ()
    if names not in (left, tuple(migrations_list.wanted(record))):
        raise LedgerConflict(names, left, recorded=True)


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


def _foreign(tree: Any, entry: migrations_list.Entry, parent: str) -> Applied:
    """Describe a migration that no script knows, as a foreign revision."""
    return Applied(
        migrations_list.revision_of(entry.name),
        (parent,),
        name=re.sub(r"^\d+_", "", entry.name).replace("_", " "),
        signature=entry.signature,
        versions=entry.versions,
        final=entry.final,
        undo=_undo(tree, entry),
        known_as={entry.name: entry.signature},
    )


def _undo(tree: Any, entry: migrations_list.Entry) -> Undo:
    """Return the rollback that is listed with a foreign migration."""
    if entry.rollback is None:
        return Undo("", lost="its entry has no rollback")
    python = migrations_list.python_of(tree, entry.rollback)
    if python is None:
        return Undo("", lost="the Python that pickled its rollback is unknown, and another one could crash")
    try:
        names = MoveNames(tuple(entry.moved_classes.items()), tuple(entry.moved_modules.items()))
    except BadOperation as error:
        return Undo("", lost=f"its setup has an invalid name: {error.sentence}")
    # Move names back first, because the rollback comes from code that knows the old names.
    operations: list[Operation] = [names] if names.classes or names.modules else []
    operations.append(Run("rollback"))
    pickled = base64.b64encode(entry.rollback).decode()
    return Undo("", f"cpython-{python}", pickled, tuple(operation.to_data() for operation in operations))
