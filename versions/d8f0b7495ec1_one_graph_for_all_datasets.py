"""one graph for all datasets

anemoi-models 0.13.0 has one graph, with nodes for each dataset under its name, where 0.12 had a graph for each, with
nodes called "data". Hidden nodes are those of the first: the model demands that all have the same. With one dataset
that is called "data" the graphs are the same.

Revision ID: d8f0b7495ec1
Revises: 5c02e97b41ad
Create Date: 2026-11-25 00:00:00+00:00
"""

from typing import Any

from anemoi_ckpt_migrate import CkptType, MigrationMetadata, op

revision = "d8f0b7495ec1"
down_revision = "5c02e97b41ad"
branch_labels = None
depends_on = None

metadata = MigrationMetadata(versions={"migration": "1.0.0", "anemoi-models": "0.13.0"})

DATASET = "data"

operations = [
    op.Rewrite("in_one", "for_each", "hyper_parameters.graph_data", optional=True, objects=True),
]


def in_one(graphs: Any, ckpt: CkptType) -> Any:
    """Join the graphs; a checkpoint that came from before 0.12 may have a bare one."""
    return joined(graphs, datasets(ckpt)) if isinstance(graphs, dict) else graphs


def for_each(graph: Any, ckpt: CkptType) -> Any:
    """Return a graph for each dataset again, with parts of the one."""
    return None if graph is None else parted(graph, datasets(ckpt))


def datasets(ckpt: CkptType) -> list[str]:
    """Return the names of the datasets."""
    indices = ckpt["hyper_parameters"].get("data_indices")
    return list(indices) if isinstance(indices, dict) else [DATASET]


def joined(graphs: dict[str, Any], names: list[str]) -> Any:
    """Return one graph, with the nodes and edges of all, and the hidden ones of the first."""
    if list(graphs) != names:
        raise ValueError(f"the datasets are {', '.join(names)}, and there are graphs for {', '.join(graphs)}")
    if names == [DATASET]:
        return graphs[DATASET]
    nodes: dict[Any, Any] = {}
    edges: dict[Any, Any] = {}
    for name, graph in graphs.items():
        if DATASET not in graph._node_store_dict:
            raise ValueError(f"the graph of {name} has no nodes that are called {DATASET!r}")
        nodes[name] = graph._node_store_dict[DATASET]
        for ends, store in graph._edge_store_dict.items():
            edges.setdefault(tuple(name if end == DATASET else end for end in ends), store)
    first = graphs[names[0]]
    hidden = {key: store for key, store in first._node_store_dict.items() if key != DATASET}
    return like(first, {**nodes, **hidden}, edges)


def parted(graph: Any, names: list[str]) -> dict[str, Any]:
    """Return a graph for each dataset, with the hidden nodes in each."""
    return {name: graph if names == [DATASET] else part(graph, name, {*names} - {name}) for name in names}


def part(graph: Any, name: str, others: set[str]) -> Any:
    """Return what of a graph is about one dataset, whose nodes are called data then."""
    called = {name: DATASET}
    nodes = {called.get(key, key): store for key, store in graph._node_store_dict.items() if key not in others}
    edges = {
        tuple(called.get(end, end) for end in ends): store
        for ends, store in graph._edge_store_dict.items()
        if not others.intersection(ends)
    }
    return like(graph, nodes, edges)


def like(graph: Any, nodes: dict[Any, Any], edges: dict[Any, Any]) -> Any:
    """Return a graph like another, of other nodes and edges, whose content is shared."""
    made = copied(graph)
    vars(made).update(
        _global_store=copied(graph._global_store, _parent=made),
        _node_store_dict={key: copied(store, _key=key, _parent=made) for key, store in nodes.items()},
        _edge_store_dict={key: copied(store, _key=key, _parent=made) for key, store in edges.items()},
    )
    return made


def copied(thing: Any, **changes: Any) -> Any:
    """Return an object of the same class with other attributes; no code of its class runs where it is not imported."""
    made = type(thing).__new__(type(thing))
    getattr(made, "__setstate__", vars(made).update)({**vars(thing), **changes})
    return made
