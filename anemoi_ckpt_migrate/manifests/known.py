"""The known states of the models of a project, from its manifests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from anemoi_ckpt_migrate.errors import UsageError
from anemoi_ckpt_migrate.manifests import build_model, manifest_file, trace
from anemoi_ckpt_migrate.manifests.manifest_file import Snapshot
from anemoi_ckpt_migrate.manifests.trace import UnknownState
from anemoi_ckpt_migrate.project.config import Config
from anemoi_ckpt_migrate.revisions.graph import Graph
from anemoi_ckpt_migrate.tree import items
from anemoi_ckpt_migrate.util.dataclass import dataclass


@dataclass(frozen=True)
class ModelHistory:
    """The known states of the models of a project.

    Attributes
    ----------
    models : dict of str to Snapshot
        The manifest.
    bridges : list of dict
        Manifests of earlier revisions.
    """

    models: dict[str, Snapshot]
    bridges: list[dict[str, Snapshot]]

    def of(self, name: str) -> list[Snapshot]:
        """Return the known states of a model, the manifest first."""
        earlier = [each[name] for each in self.bridges if name in each]
        return [self.models[name], *earlier] if name in self.models else earlier

    def at(self, name: str, graph: Graph, revisions: Iterable[str]) -> Snapshot | UnknownState:
        """Return the state of a model at revisions, or the reason why it is unknown."""
        return trace.derived(graph, self.of(name), revisions)


def known_of(config: Config) -> ModelHistory:
    """Read the known states of the models of a project; raises the errors of `manifests.read`."""
    folder = config.versions[0]
    return ModelHistory(manifest_file.read(folder), manifest_file.read_bridges(folder))


def heads_of(graph: Graph, snapshot: Snapshot | None) -> tuple[str, ...]:
    """Return the heads that descend from the snapshot's revisions; all heads if there is no snapshot."""
    if snapshot is None or not snapshot.revisions:
        return graph.heads
    standing = [revision if revision in graph else graph.standing(revision) for revision in snapshot.revisions]
    return tuple(head for head in graph.heads if head in graph.above(standing))


def known_of_checkpoint(known: ModelHistory, name: str, config: Config, graph: Graph, tree: Any) -> list[Snapshot]:
    """Return the known states of a model for a checkpoint, built from its own hyper-parameters if sizes depend on them.

    The built model belongs to the heads, as the code does, even if the manifest is older.

    Raises
    ------
    UsageError
        The model cannot be built from these hyper-parameters.
    """
    snapshot = known.models.get(name)
    if snapshot is None or not snapshot.sized:
        return known.of(name)
    if name not in config.models:
        raise UsageError(f"its sizes depend on hyper-parameters, but {config.path} names no function that makes it")
    found = items.plain(items.get(tree, config.hyper_parameters))
    if not isinstance(found, dict):
        raise UsageError(f"there are no hyper-parameters at {config.hyper_parameters}")
    built = build_model.built(config.models[name], found, config.folder)
    return [Snapshot(heads_of(graph, snapshot), built.items, True)]
