"""The order of a model's parameters, for a checkpoint whose files do not keep it.

The optimizer of a trainer numbers its parameters in the order of the model, and files of safetensors sort them by name.
The manifest knows the order at each revision.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.manifests.checkpoint_parameters import CheckpointParameters, own_of
from anemoi_ckpt_migrate.manifests.known import known_of
from anemoi_ckpt_migrate.manifests.manifest_file import Snapshot

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.project.config import Config
    from anemoi_ckpt_migrate.revisions.graph import Graph
    from anemoi_ckpt_migrate.storage import Checkpoint


def known_order(file: Checkpoint, tree: Any, config: Config, graph: Graph, revisions: Sequence[str]) -> tuple[str, ...]:
    """Return the names of a checkpoint's parameters in the order of its model; none if that is not known.

    Parameters
    ----------
    file : Checkpoint
        The open checkpoint.
    tree : object
        Its tree, without the record.
    config : Config
        The configuration of the project.
    graph : Graph
        The revisions.
    revisions : sequence of str
        The revisions of the checkpoint.
    """
    known = known_of(config)
    own = own_of(file, tree, config.parameters) if known.models or known.bridges else None
    if own is None:
        return ()
    names = dict.fromkeys([*known.models, *(name for each in known.bridges for name in each)])
    states = (known.at(name, graph, revisions) for name in names)
    found = {_order(own, state) for state in states if isinstance(state, Snapshot)} - {()}
    return found.pop() if len(found) == 1 else ()


def _order(own: CheckpointParameters, state: Snapshot) -> tuple[str, ...]:
    """Return the names of a checkpoint in the order of a model; none if they are not those of the model."""
    order = [item.name for item in state.items]
    if len(order) > 1 and order == sorted(order):
        return ()  # a manifest that was taken from files without order is sorted by name
    found = own.misfit(state.items, shapes=not state.sized)
    if found.extra or found.reshaped:
        return ()
    # Of tied parameters, the model counts the first, and the files hold one under any of their names.
    shapes = {item.name: item.shape for item in state.items}
    held = {item.name for item in own.items} | own.left_out
    for place, name in enumerate(order):
        if name not in held and any(each in held and shapes[each] == shapes[name] for each in order[place:]):
            return ()
    return tuple(name for name in order if name in held)
