"""The command that shows and writes the manifest of models: manifest."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.errors import DamagedManifest, Refused, UsageError
from anemoi_ckpt_migrate.manifests import manifest_file, trace
from anemoi_ckpt_migrate.manifests.checkpoint_parameters import own_of
from anemoi_ckpt_migrate.manifests.drift import Drift, configured, drift, gone
from anemoi_ckpt_migrate.manifests.known import ModelHistory, known_of
from anemoi_ckpt_migrate.manifests.manifest_file import Snapshot
from anemoi_ckpt_migrate.manifests.trace import UnknownState
from anemoi_ckpt_migrate.project.project import Project, resolve_project
from anemoi_ckpt_migrate.record import embed
from anemoi_ckpt_migrate.record.record import Record
from anemoi_ckpt_migrate.revisions import resolve, targets
from anemoi_ckpt_migrate.revisions.expand_squashed import expand_squashed_for
from anemoi_ckpt_migrate.storage import open_checkpoint
from anemoi_ckpt_migrate.storage.path_arguments import StrPath, annotate_errors
from anemoi_ckpt_migrate.util.dataclass import dataclass

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.project.config import Config
    from anemoi_ckpt_migrate.revisions.graph import Graph


@dataclass(frozen=True)
class Manifest:
    """The state of a model at a revision.

    Attributes
    ----------
    model : str
        Its name.
    snapshot : Snapshot
        Its parameters, and the revisions where it has them.
    written : str or None
        The file that was written; None if none was.
    changes : tuple of str
        Changes that were written down without a migration, as the operations that would make them.
    """

    model: str
    snapshot: Snapshot
    written: str | None = None
    changes: tuple[str, ...] = ()

    def to_data(self) -> dict[str, Any]:
        """Return the data that ``--json`` prints."""
        items = self.snapshot.items
        return {
            "model": self.model,
            "revisions": list(self.snapshot.revisions),
            "sized": self.snapshot.sized,
            "parameters": [{"name": item.name, "shape": list(item.shape), "dtype": item.dtype} for item in items],
            "written": self.written,
            "changes": list(self.changes),
        }


def manifest(
    models: Sequence[str] = (),
    *,
    at: str | None = None,
    project: Project | StrPath | None = None,
    chain: str | None = None,
) -> list[Manifest]:
    """Return the state of models at a revision.

    Parameters
    ----------
    models : sequence of str
        Their names; by default all models of the manifest.
    at : str, optional
        A revision, or ``base``; by default the revisions of the manifest. At another revision, the state is derived
        from the manifest through the operations of the revisions in between.
    project : Project or path, optional
        The project; by default that of the current folder.
    chain : str, optional
        The chain of an installed package to use in place of a project.

    Raises
    ------
    UsageError
        The manifest has no such model.
    Refused
        The state there is unknown, because functions lie in between. The message tells how far it is known.
    UnknownTarget, AmbiguousTarget, DamagedManifest, NewerManifest
        There is no such revision, or the manifest cannot be read.
    """
    found = resolve_project(project, chain)
    known = known_of(found.config)
    for name in models:
        if name not in known.models:
            there = f"its models are {', '.join(sorted(known.models))}" if known.models else "it has no models yet"
            way = "`ckpt-migrate manifest --update` adds the configured models"
            raise UsageError(f"the manifest has no model {name!r}; {there}; {way}")
    wanted = models or sorted(known.models)
    if at is None:
        return [Manifest(name, known.models[name]) for name in wanted]
    revisions = resolved(found, at)
    return [Manifest(name, _at(found.graph, known, name, revisions)) for name in wanted]


def update_manifest(
    models: Sequence[str] = (),
    *,
    checkpoint: StrPath | None = None,
    at: str | None = None,
    project: Project | StrPath | None = None,
) -> list[Manifest]:
    """Write the manifest of models: the first time, or when a change needs no migration.

    The old manifest of an earlier revision is kept beside the new one if no operations lead back to it.

    Parameters
    ----------
    models : sequence of str
        Their names; by default all configured models.
    checkpoint : path, optional
        The checkpoint to take one model from, instead of the function that makes it. The state belongs to the
        checkpoint's revisions.
    at : str, optional
        The revision of the checkpoint, if it has no record. For a revision earlier than that of the
        manifest, a separate manifest is added.
    project : Project or path, optional
        The project; by default that of the current folder.

    Raises
    ------
    UsageError
        There is no such model, it cannot be built, or arguments do not go together.
    Refused
        The checkpoint is at another revision, at an unknown one, or its parameters cannot be found.
    MigrateError
        The manifest or the checkpoint cannot be read, or the manifest cannot be written.
    """
    found = resolve_project(project)
    if checkpoint is None and at is not None:
        raise UsageError("--at needs --from with a checkpoint at that revision: the code has the model at head only")
    if checkpoint is not None:
        if len(models) != 1:
            raise UsageError("--from takes one MODEL: name the model of the checkpoint")
        return [_taken(found, _standing(found.graph, known_of(found.config)), models[0], checkpoint, at)]
    try:
        known = known_of(found.config)
    except DamagedManifest as error:
        if models or error.earlier:
            raise
        known = ModelHistory({}, [])  # the whole manifest is rewritten
    names = [one for name in models for one in configured(found.config, name)] or configured(found.config)
    known = _standing(found.graph, known)
    return write_manifest(
        found.config, found.graph, known, [drift(found.config, found.graph, known, name) for name in names]
    )


def write_manifest(config: Config, graph: Graph, known: ModelHistory, drifts: Sequence[Drift]) -> list[Manifest]:
    """Write the manifest of compared models; errors as of `update_manifest`."""
    for each in drifts:
        _bridge(config, graph, known, each.name, each.snapshot)
    path = os.fspath(manifest_file.write(config.versions[0], {**known.models, **{d.name: d.snapshot for d in drifts}}))
    return [Manifest(each.name, each.snapshot, path, each.operations) for each in drifts]


def _standing(graph: Graph, known: ModelHistory) -> ModelHistory:
    """Leave out models at revisions that no script has any more."""
    return ModelHistory({name: one for name, one in known.models.items() if not gone(graph, one)}, known.bridges)


def _bridge(config: Config, graph: Graph, known: ModelHistory, name: str, new: Snapshot) -> None:
    """Keep the old manifest of a model if it cannot be derived from the new one."""
    old = known.models.get(name)
    if old is None or old.revisions == new.revisions:
        return
    again = trace.derived(graph, [new], old.revisions)
    if isinstance(again, UnknownState) or not trace.same(again, old):
        manifest_file.write_bridge(config.versions[0], name, old)


def _taken(project: Project, known: ModelHistory, name: str, checkpoint: StrPath, at: str | None) -> Manifest:
    """Write the manifest of a model from a checkpoint."""
    config, graph = project.config, project.graph
    with annotate_errors(checkpoint), open_checkpoint(checkpoint, config.trusted) as file:
        tree = file.load()
        record = embed.take(tree, file.attachment(embed.ATTACHMENT)).of_chain(config.chain)
        own = own_of(file, tree, config.parameters)
        if own is None:
            raise Refused("the parameters of the model cannot be found in it; set `parameters` in the configuration")
        told = record.heads if record.lineage else None
        revisions = told if at is None else resolved(project, at)
        if revisions is None:
            raise Refused("it has no record: give its revision with --at")
        if told is not None and revisions != told:
            raise Refused(f"it is at {', '.join(told)}, not at {', '.join(revisions) or 'base'}")
        # Files without the order of the model give none: `model_order` takes names in alphabetical order as unordered.
        own_items = own.items if file.keeps_order else sorted(own.items, key=lambda item: item.name)
    old = known.models.get(name)
    snapshot = Snapshot(tuple(revisions), tuple(own_items), old.sized if old is not None else False)
    if old is None or trace.is_before(graph, old, revisions):
        _bridge(config, graph, known, name, snapshot)
        path = manifest_file.write(config.versions[0], {**known.models, name: snapshot})
    else:
        path = manifest_file.write_bridge(config.versions[0], name, snapshot)
    return Manifest(name, snapshot, os.fspath(path))


def resolved(project: Project, at: str) -> tuple[str, ...]:
    """Return the revisions that a target means; it may also name a revision that was squashed.

    Raises
    ------
    UnknownTarget, AmbiguousTarget
        There is no such revision.
    """
    target, package = targets.parse(at), project.config.package
    return tuple(resolve.resolve(expand_squashed_for(project.graph, Record(), [target], package), target, package))


def _at(graph: Graph, known: ModelHistory, name: str, revisions: Sequence[str]) -> Snapshot:
    state = known.at(name, graph, revisions)
    if isinstance(state, Snapshot):
        return state
    where = ", ".join(revisions) or "base"
    if not state.revision:
        raise Refused(f"the model {name} at {where} is unknown: {state.why}")
    far = "back to" if state.back else "before"
    title = f"{state.revision} ({graph.opened()[state.revision].name})"
    then = f" --at {where} --from CKPT` takes it from a checkpoint at that revision"
    way = f"`ckpt-migrate manifest {name} --update{then if state.back else '` takes it from the current code'}"
    raise Refused(f"the model {name} at {where} is unknown, only {far} {title}, because {state.why}; {way}")
