"""share node attributes between datasets

anemoi-models 0.13.0 has one graph for all datasets, so that node attributes are no longer kept by dataset.

Where there were several datasets, each had trainable parameters of the hidden nodes of its own, which its encoder alone
saw. Now they lie side by side, and every encoder sees those of all: the embedding of each has zeros for those of the
others, which Adam leaves as they are, so that the model puts out what it did and trains on as it would have.

Revision ID: c63d812fa07b
Revises: d8f0b7495ec1
Create Date: 2026-11-25 00:00:00+00:00
"""

import re
from typing import Any

from anemoi_ckpt_migrate import CkptType, MigrationMetadata, Refused, op

revision = "c63d812fa07b"
down_revision = "d8f0b7495ec1"
branch_labels = None
depends_on = None

metadata = MigrationMetadata(versions={"migration": "1.0.0", "anemoi-models": "0.13.0"})
known_as = {
    "1773048851_fuse_multiple_perdataset_graphs": {
        "3.9": "cac75ef0852908408a1452274556dfa2e74ebfe07f2bcbbb9f4ac994310fd3cf",
        "3.12": "70c84b19cbeb75c087330f94c374117ded013668153dc030fa2b0e0d17ea7dbf",
        "3.13": "2fb1a657d9632cae0c1410feed96686eb31e0a2a8b1bd08df35fe8d5c677fe65",
    },
}

DATASET = "data"
PLACE = "model.model.node_attributes."
COORDINATES = re.compile(r"model\.model\.node_attributes\.([^.]+)\.latlons_(.+)")
EMBEDDINGS = ("emb_nodes_dst.weight", "emb_nodes_dst.mlp.0.weight")
BUFFERS = {"_norm_mul", "_norm_add", "_input_idx", "_output_idx", "norm_min_val"}

operations = [
    op.Derive("share_one", "part_one"),
    op.Run("share_coordinates", "part_coordinates"),
    op.Derive("share_parameters", "part_parameters"),
]


def datasets(ckpt: CkptType) -> list[str]:
    """Return the names of the datasets."""
    indices = ckpt["hyper_parameters"].get("data_indices")
    return list(indices) if isinstance(indices, dict) else [DATASET]


def copies(ckpt: CkptType) -> list[dict[str, Any]]:
    """Return the state dict, and copies of it."""
    names = list(ckpt["state_dict"])
    return [value for value in ckpt.values() if isinstance(value, dict) and list(value) == names]


def share_one(ckpt: CkptType) -> list[op.Operation]:
    """Leave the name of the only dataset out, if its nodes are called as it is."""
    named = any(key.startswith(f"{PLACE}{DATASET}.") for key in ckpt["state_dict"])
    return [op.RenamePrefix(f"{PLACE}{DATASET}.", PLACE)] if named and datasets(ckpt) == [DATASET] else []


def part_one(ckpt: CkptType) -> list[op.Operation]:
    """Put it in again."""
    there = any(key.startswith(PLACE) for key in ckpt["state_dict"])
    return [op.RenamePrefix(PLACE, f"{PLACE}{DATASET}.")] if there and datasets(ckpt) == [DATASET] else []


# Coordinates of several, or of one that is called otherwise, which no optimizer has.


def share_coordinates(ckpt: CkptType) -> CkptType:
    """Call those of a dataset by its name, and keep those of hidden nodes once."""
    for copy in copies(ckpt):
        shared: dict[str, Any] = {}
        for key, value in copy.items():
            found = COORDINATES.fullmatch(key)
            new = key if found is None else f"{PLACE}latlons_{found[1] if found[2] == DATASET else found[2]}"
            if found and new in shared and not shared[new].equal(value):
                raise Refused(
                    f"{found[2]} nodes lie elsewhere for {found[1]} than for other datasets, and from 0.13.0 on "
                    "anemoi-models has the same for all"
                )
            shared.setdefault(new, value)
        copy.clear()
        copy.update(datasets_first(shared, datasets(ckpt)))
    return ckpt


def datasets_first(copy: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Have the nodes of several datasets stand before hidden ones, as those of their graph do."""
    lead = f"{PLACE}latlons_"
    there = [key for key in copy if key.startswith(lead)]
    own_first = iter(sorted(there, key=lambda key: len(names) > 1 and key.removeprefix(lead) not in names))
    keys = [next(own_first) if key in there else key for key in copy]
    return {key: copy[key] for key in keys}


def part_coordinates(ckpt: CkptType) -> CkptType:
    """Give each dataset its own again, and those of hidden nodes."""
    names, lead = datasets(ckpt), f"{PLACE}latlons_"
    for copy in copies(ckpt) if names != [DATASET] else []:
        nodes = [key.removeprefix(lead) for key in copy if key.startswith(lead)]
        order = [DATASET if each == names[0] else each for each in nodes if each not in names[1:]]
        # Each before its own trainable parameters, if it has some.
        starts = {next((key for key in copy if key.startswith(f"{PLACE}{name}.")), lead + name): name for name in names}
        parted: dict[str, Any] = {}
        for key, value in copy.items():
            if key in starts:
                name = starts[key]
                own = {each: copy[lead + (name if each == DATASET else each)] for each in order}
                own = {each: one.clone() if each != DATASET and name != names[0] else one for each, one in own.items()}
                parted |= {f"{PLACE}{name}.latlons_{each}": one for each, one in own.items()}
            if not key.startswith(lead):
                parted[key] = value
        copy.clear()
        copy.update(parted)
    return ckpt


# Trainable parameters.


def share_parameters(ckpt: CkptType) -> list[op.Operation]:
    """Call those of a dataset by its name, and put those of hidden nodes side by side."""
    names, hidden = datasets(ckpt), hidden_nodes(ckpt)
    found = [(own(name, DATASET), shared(name)) for name in names]
    found += [(own(names[0], level), shared(level)) for level in hidden if len(names) == 1]
    renamed = [op.Rename(old, new) for old, new in found if old in ckpt["state_dict"]]
    if len(names) > 1 and any(own(names[0], level) in ckpt["state_dict"] for level in hidden):
        if len(hidden) > 1:
            raise Refused(
                f"each of several datasets ({', '.join(names)}) has trainable parameters of hidden nodes of several "
                f"levels ({', '.join(hidden)}), which models of anemoi-models from 0.13.0 on do not have"
            )
        return [*told(ckpt), *renamed, *side_by_side(ckpt, names, hidden[0])]
    return renamed


def side_by_side(ckpt: CkptType, names: list[str], level: str) -> list[op.Operation]:
    """Put parameters of hidden nodes side by side, and have each encoder make nothing of those of others."""
    keys = [own(name, level) for name in names]
    width = ckpt["state_dict"][keys[0]].shape[1]
    found: list[op.Operation] = [op.Fuse(keys, shared(level), dim=1)]
    for number, name in enumerate(names):
        for key in (f"model.model.encoder.{name}.{leaf}" for leaf in EMBEDDINGS):
            if key in ckpt["state_dict"]:
                columns = ckpt["state_dict"][key].shape[1]
                new = {columns: (len(names) - 1 - number) * width, columns - width: number * width}
                found += [op.Pad(key, size, dim=1, at=at, still=True) for at, size in new.items() if size]
    return [*found, op.Reorder([*map(shared, names), shared(level)])]


def told(ckpt: CkptType) -> list[op.Operation]:
    """Say which parameters an optimizer has that has all of them, in one group: shapes may not tell these from buffers."""
    names = parameters(ckpt["state_dict"])
    return [
        op.ParameterGroups([names], number)
        for number, optimizer in enumerate(ckpt.get("optimizer_states", []))
        if [len(group["params"]) for group in optimizer["param_groups"]] == [len(names)]
    ]


def parameters(state_dict: dict[str, Any]) -> list[str]:
    """Return what of a state dict is a parameter of the model; what is one under two names, once."""
    found = []
    for key in state_dict:
        leaf = key.rpartition(".")[2]
        tied = key.replace(".layer_norm_attention_dest.", ".layer_norm_attention.")
        buffer = leaf in BUFFERS or leaf.startswith("latlons_")
        if key.startswith("model.") and not buffer and (tied == key or tied not in state_dict):
            found.append(key)
    return found


def part_parameters(ckpt: CkptType) -> list[op.Operation]:
    """Give each dataset its own again."""
    names, hidden, state_dict = datasets(ckpt), hidden_nodes(ckpt), ckpt["state_dict"]
    nodes = [*names, *hidden]
    sizes = [state_dict[shared(each)].shape[1] if shared(each) in state_dict else 0 for each in nodes]
    if len(set(sizes)) > 1:
        raise Refused(
            "anemoi-models before 0.13.0 has the same number of trainable parameters for all nodes, and this model has "
            f"{', '.join(map(str, sizes))} for {', '.join(nodes)}: it cannot go back further than 0.13.0"
        )
    if len(names) > 1 and any(sizes):
        raise Refused(
            "anemoi-models before 0.13.0 has trainable parameters of hidden nodes for each dataset, and in this model "
            f"{', '.join(names)} share them: it cannot go back further than 0.13.0"
        )
    found = [(shared(name), own(name, DATASET)) for name in names] if names != [DATASET] else []
    found += [(shared(level), own(names[0], level)) for level in hidden if names != [DATASET]]
    return [op.Rename(old, new) for old, new in found if old in state_dict]


def hidden_nodes(ckpt: CkptType) -> list[str]:
    """Return what hidden nodes are called: nodes that are no dataset's, while coordinates are shared."""
    lead = f"{PLACE}latlons_"
    nodes = [key.removeprefix(lead) for key in ckpt["state_dict"] if key.startswith(lead)]
    return [each for each in nodes if each not in datasets(ckpt)]


def own(dataset: str, nodes: str) -> str:
    """Return what the trainable parameters of nodes are called that are a dataset's own."""
    return f"{PLACE}{dataset}.trainable_tensors.{nodes}.trainable"


def shared(nodes: str) -> str:
    """Return what they are called that all datasets share."""
    return f"{PLACE}trainable_tensors.{nodes}.trainable"
