"""Verify rollbacks: upgrade and downgrade the actual checkpoint in memory, and compare it with the original."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from anemoi_ckpt_migrate.errors import NotProven, NoWayBack
from anemoi_ckpt_migrate.record import embed
from anemoi_ckpt_migrate.record.record import Applied, Record
from anemoi_ckpt_migrate.runtime import record_entries, step_actions, trust
from anemoi_ckpt_migrate.runtime.executor import Action, Executor, Outcome, Settings
from anemoi_ckpt_migrate.tree.first_difference import Difference, first_difference
from anemoi_ckpt_migrate.util.dataclass import replace

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.revisions.graph import Graph, Revision
    from anemoi_ckpt_migrate.storage import Checkpoint
    from anemoi_ckpt_migrate.storage.tensors.refs import StoredTensor


class Skipped(NamedTuple):
    """A revision whose rollback was not verified.

    Attributes
    ----------
    revision, name : str
        The id and the name of the revision.
    why : str
        The reason.
    """

    revision: str
    name: str
    why: str


def check_reversible(revisions: Iterable[Revision], but_declared: bool = False) -> None:
    """Check that each of these revisions has a rollback.

    Parameters
    ----------
    revisions : iterable of Revision
        The revisions.
    but_declared : bool
        Whether revisions that are declared irreversible may lack one.

    Raises
    ------
    NoWayBack
        A revision has no rollback.
    """
    for revision in revisions:
        if not revision.reversible and not (but_declared and why_skipped(revision)):
            raise NoWayBack(revision.id, f"{revision.name} has no rollback to check")


def prove(file: Checkpoint, graph: Graph, record: Record, revisions: Sequence[Revision], settings: Settings) -> None:
    """Check on a checkpoint that the rollbacks of revisions are the inverses of their migrations; writes nothing.

    Irreversible revisions are applied, and the stretches between them are verified.

    Parameters
    ----------
    file : Checkpoint
        The checkpoint to which the revisions are to be applied.
    graph : Graph
        The graph that contains them.
    record : Record
        The record of the checkpoint.
    revisions : sequence of Revision
        In the order in which they are applied.
    settings : Settings
        Settings for operations.

    Raises
    ------
    NotProven
        A rollback is not the inverse; the error names the revision and the first difference.
    NoWayBack
        A revision loses data of this checkpoint.
    """
    end = 0
    for reversible, stretch in groupby(revisions, lambda revision: revision.reversible):
        start, end = end, end + len(list(stretch))
        if not reversible:
            continue
        wrong = _difference(file, graph, record, revisions[:end], end - start, settings)
        if wrong is None:
            continue
        # Finding the revision costs more, so do it only on failure: undo each one alone, compare with the one before.
        for count in range(start + 1, end + 1):
            own = _difference(file, graph, record, revisions[:count], 1, settings)
            if own is not None:
                raise NotProven(revisions[count - 1].id, own.where, own.what)
        raise NotProven(revisions[start].id, wrong.where, wrong.what)


def prove_down(
    file: Checkpoint, graph: Graph, record: Record, configured: str | None
) -> tuple[tuple[str, ...], tuple[Skipped, ...]]:
    """Downgrade a checkpoint from its revision, upgrade it again, and compare it with the original.

    Parameters
    ----------
    file, graph, record
        As for `prove`.
    configured : str or None
        The configured path of the state dict.

    Returns
    -------
    tuple of str, tuple of Skipped
        The revisions that were undone and applied again, and those that were skipped: the first irreversible one and
        all below it.

    Raises
    ------
    NotProven, NoWayBack
        As for `prove`.
    """
    undone, why = list[Applied](), ""
    for entry in reversed(record.lineage):
        why = _stuck(graph, entry)
        if why:
            break
        undone.append(entry)
    trust.check_own_code(graph, undone, file.path)
    ids = [entry.revision for entry in undone]
    settings = Settings(step_actions.parameters_of(undone, configured), optimizers=record.optimizers)
    wrong = _gone_and_back(file, graph, undone, settings)
    if wrong is not None:
        for count in range(1, len(undone)):
            own = _gone_and_back(file, graph, undone[:count], settings)
            if own is not None:
                raise NotProven(ids[count - 1], own.where, own.what)
        raise NotProven(ids[-1], wrong.where, wrong.what)
    left = [graph[entry.revision] for entry in reversed(record.lineage)][len(undone) :]
    reasons = [why, *[f"{each.id} is above" for each in left[:1] for _ in left[1:]]]
    return tuple(ids), tuple(Skipped(each.id, each.name, why) for each, why in zip(left, reasons, strict=False))


def why_skipped(revision: Revision) -> str:
    """Return why the script of a revision rules out a rollback; empty if it does not."""
    if revision.final:
        return "it is a barrier"
    return "it is declared irreversible" if _is_declared_irreversible(revision) else ""


def _is_declared_irreversible(revision: Revision) -> bool:
    """Return whether the script declares itself irreversible. Operations that lose data are no such declaration."""
    declared = revision.declared and (revision.operations is None or "rollback" in revision.lines)
    return declared and not revision.reversible


def _stuck(graph: Graph, entry: Applied) -> str:
    """Return why a checkpoint cannot be downgraded past a revision; empty if it can."""
    why = why_skipped(graph[entry.revision]) or ("it is a barrier" if entry.final else "")
    if why:
        return why
    check_reversible([graph[entry.revision]])
    if entry.undo is not None and entry.undo.lost:
        raise NoWayBack(entry.revision, entry.undo.lost)
    try:
        step_actions.down(graph, entry)
    except NoWayBack as error:
        return error.why
    return ""


def _gone_and_back(file: Checkpoint, graph: Graph, undone: Sequence[Applied], settings: Settings) -> Difference | None:
    """Undo some revisions, apply them again, and compare with the original."""
    down = [step_actions.down(graph, entry) for entry in undone]
    up = [step_actions.up(graph[entry.revision]) for entry in reversed(undone)]
    before = _draft(file, [], settings, _nothing)
    run = Executor(file, down, settings)
    outcome = run.run(*embed.unrecorded(file))
    below = file.draft(*run.content(outcome, _stash_alone(outcome)))
    again = Settings(settings.parameters, optimizers=outcome.optimizers)
    return _compared(before, _draft(below, up, again, _nothing))


def _difference(
    file: Checkpoint,
    graph: Graph,
    record: Record,
    revisions: Sequence[Revision],
    back: int,
    settings: Settings,
) -> Difference | None:
    """Apply all revisions, undo the last `back` of them, and compare with applying only the others.

    The intermediate state is pickled and loaded, as between a real upgrade and downgrade.
    """
    up = [step_actions.up(revision) for revision in revisions]
    expected = _draft(file, up[: len(revisions) - back], settings)
    entries = record_entries.applied(revisions)

    def upgraded_record(outcome: Outcome) -> Record:
        lineage = record_entries.with_undo(entries, graph, outcome.undone, settings.parameters)
        whole = (*record.lineage, *lineage)
        return replace(record, lineage=whole, stash=outcome.stash, optimizers=outcome.optimizers)

    upgraded = _draft(file, up, settings, upgraded_record)
    held = embed.take(upgraded.load(), upgraded.attachment(embed.ATTACHMENT))
    lineage = held.of_chain(record.chain).lineage
    for entry in reversed(lineage[-back:]):
        if entry.undo is not None and entry.undo.lost:
            raise NoWayBack(entry.revision, entry.undo.lost)
    down = [step_actions.down(graph, entry) for entry in reversed(lineage[-back:])]
    return _compared(expected, _draft(upgraded, down, replace(settings, optimizers=held.optimizers)))


def _compared(expected: Checkpoint, found: Checkpoint) -> Difference | None:
    def same(one: StoredTensor, other: StoredTensor) -> bool:
        return expected.same(one, other, found)

    wrong = first_difference(expected.load(trusting=False), found.load(trusting=False), same)
    return wrong or _beside(expected, found)


def _beside(expected: Checkpoint, found: Checkpoint) -> Difference | None:
    """Compare rewritten entries beside the pickle, except our own, which holds the history."""
    for name in sorted({*expected.attached, *found.attached} - {embed.ATTACHMENT}):
        if expected.attachment(name) != found.attachment(name):
            return Difference(f"record {name} of the archive", "its bytes differ")
    return None


def _stash_alone(outcome: Outcome) -> Record:
    """Return the part of a record that is compared: the stash, without the history."""
    return Record(stash=outcome.stash)


def _nothing(outcome: Outcome) -> Record:
    """Return an empty record for the comparison after a downgrade and upgrade, because the stash is rebuilt."""
    return Record()


def _draft(
    file: Checkpoint,
    actions: Sequence[Action],
    settings: Settings,
    record_of: Callable[[Outcome], Record] = _stash_alone,
) -> Checkpoint:
    """Run actions, and return the result as a draft of a file, with a record made from the outcome."""
    run = Executor(file, actions, settings)
    outcome = run.run(*embed.unrecorded(file))
    return file.draft(*run.content(outcome, record_of(outcome)))
