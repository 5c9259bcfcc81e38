"""edge providers

anemoi-models 0.11.3 gives each mapper and processor a provider of edges, which has the trainable parameters of these,
and makes the number of nodes (``edge_inc``) itself. So the parameters stand elsewhere, and with them their moments in
the optimizer: before the encoder, processor or decoder; behind all of a kind at the levels of hierarchical models.

Models without edges (transformers) or without trainable parameters have no such names.

Revision ID: f4c7150ea98d
Revises: e06b93d7f218
Create Date: 2026-11-25 00:00:00+00:00
"""

import re
from typing import Any

from anemoi_ckpt_migrate import CkptType, MigrationMetadata, Refused, op

revision = "f4c7150ea98d"
down_revision = "e06b93d7f218"
branch_labels = None
depends_on = None

metadata = MigrationMetadata(versions={"migration": "1.0.0", "anemoi-models": "0.11.3"})
known_as = {
    "1763479918_refactor_mapper": {
        "3.9": "43a4c8d84dbe88bd0ce2c0855e8984be2464053fbc92c9b1b6a896746999c4b3",
        "3.12": "30e15e3e9681cdf4512584d887838d877e01fa7bb84b8a72a70f099257eb7112",
        "3.13": "ba704c34ccbf0aaca868e8979527d202ab11a732fab23dd0d9a7b45dd6b325eb",
    },
}

MODEL = "model.model."
# Parts that have edges: one of a kind, or one for each level.
SINGLE = r"(encoder|processor|decoder)"
LEVELS = r"(downscale|upscale|down_level_processor|up_level_processor)"
PART = re.compile(rf"model\.model\.(?:{SINGLE}|{LEVELS}\.([^.]+))\.")
PROVIDER = re.compile(rf"model\.model\.(?:{SINGLE}_graph_provider|{LEVELS}_graph_providers\.([^.]+))\.")
TRAINABLE = "trainable.trainable"
SIZES = "edge_inc"
HAS_EDGES = re.compile(r"\.(?:lin_edge|edge_mlp)\.")
BUFFERS = {"_norm_mul", "_norm_add", "_input_idx", "_output_idx", "norm_min_val", SIZES}


operations = [
    op.Derive("of_providers", "of_parts"),
]


def of_providers(ckpt: CkptType) -> list[op.Operation]:
    """Move trainable parameters to the providers, and put the number of nodes aside."""
    if any(PROVIDER.match(key) for key in ckpt["state_dict"]):
        raise ValueError("this checkpoint is of a later release: stamp it with that")
    sizes = [key for key in ckpt["state_dict"] if leaf(PART, key) == SIZES]
    pairs = provided([key for key in ckpt["state_dict"] if key not in sizes])
    dropped = [op.Drop(sizes, keep=True)] if sizes else []
    return [*dropped, *rearranged(ckpt, pairs)]


def of_parts(ckpt: CkptType) -> list[op.Operation]:
    """Move trainable parameters back, and have the number of nodes saved again."""
    new = next((key for key in ckpt["state_dict"] if ".edge_pre_mlp." in key), None)
    if new is not None:
        raise Refused(f"{new} belongs to an option (edge_pre_mlp) that releases before 0.11.3 do not have")
    pairs = unprovided(list(ckpt["state_dict"]))
    return [*rearranged(ckpt, pairs), *added_sizes(ckpt, [name for _, name in pairs])]


def rearranged(ckpt: CkptType, pairs: list[tuple[str, str]]) -> list[op.Operation]:
    """Give names other names and another order, which the optimizer follows."""
    before = parameters(ckpt["state_dict"])
    names = {old: new for old, new in pairs if old != new}
    if not names:
        return []
    told = []
    if [old for old, _ in pairs if old in before] != list(before):
        optimizers = ckpt.get("optimizer_states", [])
        told = [op.ParameterGroups(remembered(each, before), number) for number, each in enumerate(optimizers)]
    return [*told, op.RenameEach(names), op.Reorder([new for _, new in pairs])]


def added_sizes(ckpt: CkptType, names: list[str]) -> list[op.Operation]:
    """Add the numbers of nodes, first in their parts."""
    sizes, pairs = sizes_by_graph(ckpt), [(name, name) for name in names]
    for key in sizes:
        pairs.insert(first(pairs, key.removesuffix(SIZES)), (key, key))
    order, added = [name for name, _ in pairs], []
    for place, key in enumerate(order):
        if key in sizes:
            where: dict[str, Any] = {"after": order[place - 1]} if place else {"index": 0}
            added.append(op.Add(key, [2, 1], "int64", sizes[key], buffer=True, **where))
    return list(added)


# What is called what, and stands where.


def leaf(kind: "re.Pattern[str]", key: str) -> str:
    """Return what follows the name of a part in a name."""
    found = kind.match(key)
    return "" if found is None else key[found.end() :]


def provided(keys: list[str]) -> list[tuple[str, str]]:
    """Return names and what they become, in the new order."""
    moved = {key: key for key in keys if leaf(PART, key) == TRAINABLE}
    pairs = [(key, key) for key in keys if key not in moved]
    for key in moved:
        single, kind, level = found_in(PART, key)
        if single:
            new, place = f"{MODEL}{single}_graph_provider.{TRAINABLE}", first(pairs, f"{MODEL}{single}.")
        else:
            new = f"{MODEL}{kind}_graph_providers.{level}.{TRAINABLE}"
            place = max(behind(pairs, f"{MODEL}{kind}."), behind(pairs, f"{MODEL}{kind}_graph_providers."))
        pairs.insert(place, (key, new))
    return pairs


def unprovided(keys: list[str]) -> list[tuple[str, str]]:
    """Return names and what they were called, in the old order: behind the embedding of edges, or first in its part."""
    moved = [key for key in keys if leaf(PROVIDER, key) == TRAINABLE]
    pairs = [(key, key) for key in keys if key not in moved]
    for key in moved:
        single, kind, level = found_in(PROVIDER, key)
        part = f"{MODEL}{single}." if single else f"{MODEL}{kind}.{level}."
        place = behind(pairs, f"{part}emb_edges.") or first(pairs, part)
        pairs.insert(place, (key, f"{part}{TRAINABLE}"))
    return pairs


def found_in(kind: "re.Pattern[str]", key: str) -> tuple[str, str, str]:
    """Return the single part, or the kind of part and the level, that a name is about."""
    found = kind.match(key)
    if found is None:
        raise ValueError(f"{key} is about no part that has edges")
    return found[1] or "", found[2] or "", found[3] or ""


def first(pairs: list[tuple[str, str]], lead: str) -> int:
    """Return the place of the first name that begins with something; the end if there is none."""
    return next((place for place, (_, new) in enumerate(pairs) if new.startswith(lead)), len(pairs))


def behind(pairs: list[tuple[str, str]], lead: str) -> int:
    """Return the place behind the last name that begins with something; 0 if there is none."""
    return max((place + 1 for place, (_, new) in enumerate(pairs) if new.startswith(lead)), default=0)


def sizes_by_graph(ckpt: CkptType) -> dict[str, list[int]]:
    """Return the numbers of nodes for parts that have edges."""
    names = list(ckpt["state_dict"])
    graph = ckpt["hyper_parameters"]["graph_data"]
    made: dict[str, list[int]] = {}
    for key in names:
        part = PART.match(key)
        if part is not None and HAS_EDGES.search(key) and f"{part[0]}{SIZES}" not in made:
            made[f"{part[0]}{SIZES}"] = [
                graph._node_store_dict[name]._mapping["x"].shape[0] for name in ends(part, names, graph)
            ]
    return made


def ends(part: "re.Match[str]", names: list[str], graph: Any) -> tuple[str, str]:
    """Return between which nodes the edges of a part go."""
    down = list(dict.fromkeys(name.split(".")[3] for name in names if name.startswith(f"{MODEL}downscale.")))
    hidden = [name for name in graph._node_store_dict if name != "data"]
    hidden = [*down, *(name for name in hidden if name not in down)]
    if len(hidden) != (len(down) + 1 if down else 1):
        raise ValueError(f"the graph has nodes {', '.join(hidden)}, and it is not known which of them are hidden ones")
    single, kind, level = part[1], part[2], part[3]
    if single:
        return {"encoder": ("data", hidden[0]), "decoder": (hidden[0], "data")}.get(single, (hidden[-1], hidden[-1]))
    step = {"downscale": 1, "upscale": -1}.get(kind, 0)
    return level, hidden[hidden.index(level) + step]


# What the optimizer remembers.


def parameters(state_dict: dict[str, Any]) -> dict[str, Any]:
    """Return what of a state dict is a parameter of the model, in order; what is one under two names, once."""
    found = {}
    for key, value in state_dict.items():
        last = key.rpartition(".")[2]
        tied = key.replace(".layer_norm_attention_dest.", ".layer_norm_attention.")
        buffer = last in BUFFERS or last.startswith("latlons_")
        if key.startswith("model.") and not buffer and (tied == key or tied not in state_dict):
            found[key] = value
    return found


def remembered(optimizer: Any, before: dict[str, Any]) -> list[list[str]]:
    """Return which parameters the groups of an optimizer have: all, or those that are not frozen, as shapes tell."""
    groups, state = optimizer["param_groups"], optimizer["state"]
    numbers = [position for group in groups for position in group["params"]]
    wanted = [[shape(state.get(position)) for position in group["params"]] for group in groups]
    shapes = [set(own) for own in wanted]
    if numbers != list(range(len(numbers))) or sum(map(len, shapes)) != len(set().union(*shapes)):
        raise ValueError("the optimizer has several groups of parameters, and it is not known which is where")
    every = [(key, tuple(value.shape)) for key, value in before.items()]
    found = []
    for own, known in zip(wanted, shapes, strict=True):
        there = [pair for pair in every if len(groups) == 1 or pair[1] in known]
        left, right = matched(own, there), matched(own[::-1], there[::-1])[::-1]
        if left != right or len(left) != len(own):
            raise ValueError("the optimizer has not all parameters, and it cannot be told which of them it has")
        found.append(left)
    return found


def shape(moments: Any) -> "tuple[int, ...] | None":
    """Return the shape of the parameter that moments are of; None if they do not tell."""
    found = {tuple(value.shape) for value in (moments or {}).values() if hasattr(value, "shape")} - {()}
    return found.pop() if len(found) == 1 else None


def matched(wanted: list[Any], there: list[tuple[str, tuple[int, ...]]]) -> list[str]:
    """Return the first names whose shapes fit, in order."""
    found: list[str] = []
    for key, own in there:
        if len(found) < len(wanted) and wanted[len(found)] in (None, own):
            found.append(key)
    return found
