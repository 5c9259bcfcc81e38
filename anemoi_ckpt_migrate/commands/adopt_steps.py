"""The steps of a history: found in the scripts of a project, or written, and proven on examples."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from anemoi_ckpt_migrate.commands import propose_operations
from anemoi_ckpt_migrate.commands.adopt_result import CREATED, KEPT, PROPOSED, AdoptedStep
from anemoi_ckpt_migrate.commands.manifest import update_manifest
from anemoi_ckpt_migrate.commands.revision import GUESSES, revision
from anemoi_ckpt_migrate.errors import DamagedManifest, Refused, UsageError, shown_path
from anemoi_ckpt_migrate.manifests import trace
from anemoi_ckpt_migrate.manifests.drift import drift, gone
from anemoi_ckpt_migrate.manifests.known import known_of
from anemoi_ckpt_migrate.manifests.manifest_file import BASE, Snapshot
from anemoi_ckpt_migrate.project.project import Project, open_project
from anemoi_ckpt_migrate.runtime.verify_rollback import why_skipped
from anemoi_ckpt_migrate.util.dataclass import dataclass, replace
from anemoi_ckpt_migrate.util.text import numbered

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.commands.adopt_examples import Example
    from anemoi_ckpt_migrate.revisions.graph import Graph, Revision
    from anemoi_ckpt_migrate.storage.path_arguments import StrPath

_SHOWN = 5


@dataclass(frozen=True)
class HistoryWriter:
    """Writes scripts and manifests, where they are not there already."""

    given: Project
    model: str
    examples: tuple[Example, ...]
    dry_run: bool
    accept_guesses: bool
    accept_losses: bool
    version_path: StrPath | None

    @property
    def project(self) -> Project:
        """The project with all scripts that are there by now."""
        return self.given if self.dry_run else open_project(self.given.config.path)

    def record_state(self, example: Example, place: tuple[str, ...] | None) -> None:
        """Record the state of an example in the manifest, unless it has that or a later one."""
        if place is None or self.dry_run:
            return
        project = self.project
        known = known_of(project.config)
        there = known.models.get(self.model)
        if there is not None and not gone(project.graph, there):
            state = known.at(self.model, project.graph, place)
            is_known = isinstance(state, Snapshot) and example.is_like(state.items, shapes=not state.sized)
            if is_known and (there.revisions == place or not trace.is_before(project.graph, there, place)):
                return
            if not is_known and there.revisions == place:
                self._check_replaced(example, there)
        update_manifest([self.model], checkpoint=example.path, at=",".join(place) or BASE, project=project)

    def _check_replaced(self, example: Example, there: Snapshot) -> None:
        """Refuse to replace a manifest at the same revisions: it may be right, and the example wrong.

        Exception: it has the state of another example, since the manifest was written before there was a history.
        """
        if any(each.is_like(there.items) for each in self.examples):
            return
        where = ",".join(there.revisions) or BASE
        wrong = example.own.misfit(there.items).sentences()[:_SHOWN]
        way = f"`ckpt-migrate manifest {self.model} --update --from {example.path} --at {where}`"
        raise Refused(
            f"the manifest has another state of {self.model} at {where} ({', '.join(wrong)}); "
            f"if the example is right, {way} records it"
        ).about(example.path)

    def step(
        self, old: Example, new: Example, place: tuple[str, ...] | None, name: str, rev_id: str | None
    ) -> AdoptedStep:
        """Find or write the step from one example to the next.

        Parameters
        ----------
        old, new : Example
            The examples.
        place : tuple of str or None
            The revisions of the earlier one; None if a dry run did not write them.
        name : str
            The name of a new revision.
        rev_id : str or None
            Its id; None for a random one.

        Raises
        ------
        Refused
            Scripts contradict the examples.
        MigrateError
            The script cannot be written, or the two have nothing in common.
        """
        project = self.project
        if place is not None:
            old.check_record(place)
        path = None if place is None else self._existing(project, old, new, place)
        if path is not None:
            new.check_record(path[-1:])
            return self._checked(project, old, new, path, KEPT)
        new.check_record(())
        if place is not None:
            self._check_manifest(project, old, place)
        if self.dry_run:
            return self._proposed(old, new, name)
        head = (place or ("base",))[-1] if len(project.graph) else None
        sides, folder = (old.path, new.path), self.version_path
        made = revision(name, rev_id=rev_id, head=head, version_path=folder, autogenerate=sides, project=project)
        step = self._checked(self.project, old, new, (made.revision,), CREATED)
        others = tuple(each for each in made.warnings if not each.endswith(GUESSES))  # which its doubts say
        return replace(step, warnings=others)

    def _check_manifest(self, project: Project, example: Example, place: tuple[str, ...]) -> None:
        """Check, before a script is written, that the state of an example can be recorded."""
        there = known_of(project.config).models.get(self.model)
        if there is not None and there.revisions == place and not example.is_like(there.items, shapes=not there.sized):
            self._check_replaced(example, there)

    def leads(self, old: Example, new: Example, place: tuple[str, ...]) -> bool:
        """Return whether revisions after a place lead from one example to the next."""
        try:
            return self._existing(self.project, old, new, place) is not None
        except Refused:
            return False

    def _existing(self, project: Project, old: Example, new: Example, place: tuple[str, ...]) -> tuple[str, ...] | None:
        """Return the revisions that lead from one example to the next; None if none follows.

        Raises
        ------
        Refused
            Revisions follow, but none of them leads there.
        """
        graph = project.graph.seen_from(place)
        reasons, failed = [], set[str]()
        for path in _paths(graph, place):
            if failed.isdisjoint(path):
                left, applies = old.differences(project, [graph[each] for each in path], new)
                if not left:
                    return path
                reasons.append((graph[path[-1]], left))
                failed |= set() if applies else {path[-1]}
        where = ", ".join(place) or BASE
        if not reasons:
            after = _after(graph, place)
            if after:
                raise Refused(
                    f"{after[0]} follows {where}, and is a barrier; if {old.path} is above it, give --at {after[0]}"
                )
            return None
        first, left = reasons[0]
        unsure = f"; if {old.path} is not at {where}, name its revision with --at" if not old.record.lineage else ""
        raise Refused(
            f"{shown_path(first.path)} follows {where}, but does not turn {old.path} into {new.path} "
            f"({'; '.join(left[:_SHOWN])}): correct or remove it, and run the same command again{unsure}"
        )

    def _proposed(self, old: Example, new: Example, name: str) -> AdoptedStep:
        """Return the step that would be written."""
        made = propose_operations.generate(old.path, new.path, self.given)
        lines = tuple(line.removesuffix(",") for line in made.lines if not line.startswith("#"))
        loses = any(line.startswith(f"# {propose_operations.LOSES}") for line in made.lines)
        unchecked = propose_operations.count_unchecked(made.lines)
        doubts = tuple(self._doubts(name, unchecked, loses))
        return AdoptedStep(old.path, new.path, name, PROPOSED, (), (), lines, unchecked, loses, doubts, made.warnings)

    def _checked(self, project: Project, old: Example, new: Example, path: tuple[str, ...], done: str) -> AdoptedStep:
        """Return a step whose scripts are there, after they led from one example to the next, and back."""
        graph = project.graph.seen_from(path)
        revisions = [graph[each] for each in path]
        left, _ = old.differences(project, revisions, new) if done == CREATED else ((), True)
        if left:
            raise Refused(
                f"{shown_path(revisions[-1].path)} was written, but does not turn {old.path} into {new.path} yet "
                f"({'; '.join(left[:_SHOWN])}): correct it, and run the same command again"
            )
        unchecked, loses = [_unchecked(each) for each in revisions], [_loses(each) for each in revisions]
        doubts: list[str] = []
        for each, count, loses_some in zip(revisions, unchecked, loses, strict=True):
            doubts += self._doubts(shown_path(each.path), count, loses_some)
        if not any(loses):
            old.prove_rollback(project, revisions)
        operations = tuple(f"op.{one!r}" for each in revisions for one in each.operations or ())
        names, scripts = ", ".join(each.name for each in revisions), tuple(each.path for each in revisions)
        found = AdoptedStep(old.path, new.path, names, done, path, scripts, operations, sum(unchecked), any(loses))
        return replace(found, doubts=tuple(doubts))

    def _doubts(self, script: str, unchecked: int, loses: bool) -> Iterator[str]:
        if unchecked and not self.accept_guesses:
            which = numbered(unchecked, "operation")
            way = "correct the wrong ones, and remove the comments above them, or give --accept-guesses"
            yield f"{script}: {which} to check, which are guesses or add zeros: {way}"
        if loses and not self.accept_losses:
            keep = "set keep=True, or `rollback = None` below `operations`"
            yield f"{script}: it cannot be undone, because it loses values: {keep}, or give --accept-losses"

    def code_differs(self, example: Example, place: tuple[str, ...]) -> Iterator[str]:
        """Compare the last example with the model of the code, and record that if they are the same."""
        project = self.project
        config = project.config
        if self.model not in config.models or self.dry_run:
            return
        try:
            found = drift(config, project.graph, known_of(config), self.model)
        except (UsageError, DamagedManifest) as error:
            yield f"the last example was not compared with the model {self.model} of the code: {error.sentence}"
            return
        if found.heads != place:
            return  # the project has later revisions
        if example.is_like(found.built.items, shapes=not found.built.sized):
            update_manifest([self.model], project=project)  # the code also knows which tensors are buffers
            return
        yield (
            f"{example.path}, the last example, differs from the model {self.model} of the code: if the order of the "
            f"examples is right, `ckpt-migrate revision NAME --autogenerate --model {self.model}` writes the last step"
        )


def _after(graph: Graph, place: tuple[str, ...]) -> list[str]:
    """Return the revisions after a place, in order."""
    above = graph.above(place) if place else {each.id for each in graph}
    return graph.order(above - graph.closure(place))


def _paths(graph: Graph, place: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield the ways from a place to the revisions after it, the shortest first, as far as no barrier is crossed."""
    below = graph.closure(place)
    ways = [tuple(graph.order(graph.closure([each]) - below)) for each in _after(graph, place)]
    for way in sorted(ways, key=len):
        if not any(graph[each].final for each in way):
            yield way


def _unchecked(revision: Revision) -> int:
    """Return how many operations in a script nobody has checked yet."""
    script = Path(revision.path).read_text(encoding="utf-8", errors="replace")
    return propose_operations.count_unchecked(script.splitlines())


def _loses(revision: Revision) -> bool:
    """Return whether a revision cannot be undone, and does not say that this is intended."""
    return not revision.reversible and not why_skipped(revision)
