"""The chain of anemoi-models on small checkpoints of several datasets, or of one that is not called data."""

from __future__ import annotations

import sys
import types
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from tests.anemoi.running import is_as_before  # noqa: E402
from tests.support.anemoi import HeteroData, collection, read, remembers, save  # noqa: E402
from tests.support.project import Folder, digest  # noqa: E402

MODEL = "model.model."
ATTRIBUTES = f"{MODEL}node_attributes."
NODES = {"era": 7, "cerra": 5, "data": 6, "hidden": 4, "coarse": 3}


def graph(data: dict[str, str], hidden: tuple[str, ...] = ("hidden",)) -> Any:
    """Make a graph of nodes of data, by what they are called, and of hidden ones."""
    made = HeteroData(_edge_attr_cls="edges")
    nodes = {**data, **{level: level for level in hidden}}
    links = [(level, level) for level in hidden]
    links += [pair for name in data for pair in ((name, hidden[0]), (hidden[0], name))]
    ends = {(one, "to", other): (nodes[one], nodes[other]) for one, other in links}
    made._global_store = HeteroData(_mapping={}, _parent=made)
    made._node_store_dict = {
        name: HeteroData(_mapping={"x": torch.zeros(NODES[kind], 2)}, _key=name, _parent=made)
        for name, kind in nodes.items()
    }
    made._edge_store_dict = {
        key: HeteroData(_mapping={"edge_index": index(*kinds)}, _key=key, _parent=made) for key, kinds in ends.items()
    }
    return made


def index(one: str, other: str) -> Any:
    """Return edges between two groups of nodes, in no order."""
    numbers = torch.Generator().manual_seed(len(one + other))
    return torch.stack([torch.randint(0, NODES[kind], (9,), generator=numbers) for kind in (one, other)])


def names_of(datasets: tuple[str, ...], width: int, levels: tuple[str, ...], shared: bool) -> Iterator[tuple[str, Any]]:
    """Go through names of 0.12, or of 0.13 where node attributes are shared, and the shapes of what they stand for."""
    for name in datasets:
        yield f"model.pre_processors.{name}.processors.normalizer._norm_mul", (5,)
    if shared:
        nodes = {**{name: name for name in datasets}, **{level: level for level in levels}}
        groups = {"": nodes}
    else:
        groups = {f"{name}.": {"data": name, **{level: level for level in levels}} for name in datasets}
    for lead, nodes in groups.items():
        yield from ((f"{ATTRIBUTES}{lead}latlons_{own}", (NODES[kind], 4)) for own, kind in nodes.items())
        found = {own: (NODES[kind], width) for own, kind in nodes.items() if width}
        yield from ((f"{ATTRIBUTES}{lead}trainable_tensors.{own}.trainable", shape) for own, shape in found.items())
    for part in ("encoder", "decoder"):
        yield from ((f"{MODEL}{part}_graph_provider.{name}.trainable.trainable", (9, 2)) for name in datasets)
        for name in datasets:
            if part == "encoder":
                yield f"{MODEL}encoder.{name}.emb_nodes_dst.weight", (6, 4 + width)
            yield f"{MODEL}{part}.{name}.proc.lin_edge.weight", (3, 2)
        if part == "encoder":
            yield f"{MODEL}processor_graph_provider.trainable.trainable", (9, 2)
            yield f"{MODEL}processor.proc.0.lin_edge.weight", (3, 2)


def parameters(state_dict: Any) -> list[str]:
    """Return what is no buffer."""
    buffers = ("latlons_", "_norm_mul", "_output_idx", "trainable_layout_version")
    return [name for name in state_dict if not any(buffer in name for buffer in buffers)]


def configuration(datasets: tuple[str, ...], width: int, shared: bool) -> Any:
    """Return what a configuration says of the data, of the model and of the graph."""
    model: dict[str, Any] = {
        "model": {"_target_": "anemoi.models.models.AnemoiModelEncProcDec"},
        "num_channels": 6,
        "encoder": {"trainable_size": 2},
        "processor": {"num_chunks": 1},
        "decoder": {"trainable_size": 2},
        "residual": {"step": -1},
        "trainable_parameters": {"data": width, "hidden": width, "data2hidden": 2},
    }
    graph: dict[str, Any] = {} if shared else {"data": "data", "hidden": "hidden"}
    if shared:
        model["model"] |= {"hidden_nodes_name": "hidden", "latent_skip": True}
    each = {"forcing": ["f", "g"], "diagnostic": ["d"], "processors": {}}
    return {"data": {"datasets": dict.fromkeys(datasets, each)}, "model": model, "graph": graph}


def made(
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *datasets: str,
    width: int = 0,
    levels: tuple[str, ...] = ("hidden",),
    shared: bool = False,
) -> Any:
    """Save a checkpoint of 0.12, or of 0.13, and return its tree; hidden nodes lie where those of the first dataset do."""
    generator = torch.Generator().manual_seed(3)
    state_dict: Any = OrderedDict()
    for name, shape in names_of(datasets, width, levels, shared):
        state_dict[name] = torch.rand(shape, generator=generator)
        first = name.replace(f"{ATTRIBUTES}{datasets[-1]}.", f"{ATTRIBUTES}{datasets[0]}.")
        if "latlons" in name and not name.endswith("_data"):
            state_dict[name] = state_dict[first].clone()
    names = parameters(state_dict)
    variables = ["a", "b", "f", "g", "d"]
    one = graph({name: name for name in datasets}, levels)
    tree = {
        "state_dict": state_dict,
        "optimizer_states": [
            {
                "state": {number: remembers(state_dict[name]) for number, name in enumerate(names)},
                "param_groups": [{"lr": 1.0, "params": list(range(len(names)))}],
            }
        ],
        "hyper_parameters": {
            "config": configuration(datasets, width, shared),
            "graph_data": one if shared else {name: graph({"data": name}, levels) for name in datasets},
            "data_indices": {name: collection(variables, ["f", "g"], ["d"]) for name in datasets},
            "statistics": {name: {"mean": [1.0]} for name in datasets},
        },
    }
    save(tree, path, monkeypatch)
    return tree


def move(project: Folder, path: Path, *words: str) -> Any:
    """Take a checkpoint somewhere, and return what it holds then."""
    project.ok("--chain", "anemoi", *words, path, "--no-backup")
    return read(path)


def stamped(project: Folder, path: Path, release: str) -> Any:
    return move(project, path, "stamp", f"anemoi-models=={release}")


def node_names(tree: Any) -> list[str]:
    """Return what nodes of the graph are called; objects of classes that are not here are read as lists."""
    graph = tree["hyper_parameters"]["graph_data"]
    return sorted(graph[-1]["_node_store_dict"])


@pytest.mark.parametrize("datasets", [("era",), ("era", "cerra")])
@pytest.mark.parametrize("width", [0, 3])
def test_datasets_share_what_they_had_of_their_own(
    project: Folder, monkeypatch: pytest.MonkeyPatch, datasets: tuple[str, ...], width: int
) -> None:
    path = project.path / "small.ckpt"
    tree = made(path, monkeypatch, *datasets, width=width)
    before = stamped(project, path, "0.12.0")
    after = move(project, path, "upgrade", "head", "--check-rollback")
    old, new = tree["state_dict"], after["state_dict"]
    assert {name for name in new if name.startswith(f"{ATTRIBUTES}latlons_")} == {
        f"{ATTRIBUTES}latlons_{nodes}" for nodes in (*datasets, "hidden")
    }
    assert node_names(after) == sorted((*datasets, "hidden"))
    for name in datasets:
        assert new[f"{ATTRIBUTES}latlons_{name}"].equal(old[f"{ATTRIBUTES}{name}.latlons_data"])
    model = after["hyper_parameters"]["config"]["model"]
    assert model["node_trainable_parameters"] == {**dict.fromkeys(datasets, width), "hidden": width * len(datasets)}
    assert (list(model["encoders"]), model["model"]["hidden_nodes_name"]) == (sorted(datasets), "hidden")
    move(project, path, "downgrade", "anemoi-models==0.12.0")
    assert is_as_before(path, before)


@pytest.mark.parametrize("width", [3, 4])
def test_each_encoder_makes_nothing_of_the_parameters_of_others(
    project: Folder, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    """Nor mistakes the optimizer coordinates for parameters, which have four columns too."""
    path = project.path / "small.ckpt"
    old = made(path, monkeypatch, "era", "cerra", width=width)["state_dict"]
    stamped(project, path, "0.12.0")
    after = move(project, path, "upgrade", "anemoi-models==0.13.0")
    new = after["state_dict"]
    moments = remembered_by_name(after)
    hidden = f"{ATTRIBUTES}trainable_tensors.hidden.trainable"
    own = [old[f"{ATTRIBUTES}{name}.trainable_tensors.hidden.trainable"] for name in ("era", "cerra")]
    assert new[hidden].equal(torch.cat(own, 1))
    embeddings = [f"{MODEL}encoder.{name}.emb_nodes_dst.weight" for name in ("era", "cerra")]
    for number, key in enumerate(embeddings):
        mine = [*range(4), *range(4 + width * number, 4 + width * (number + 1))]
        others = [column for column in range(4 + 2 * width) if column not in mine]
        assert new[key][:, mine].equal(old[key])
        assert (new[key][:, others] == 0).all()
        assert moments[key]["exp_avg"][:, mine].equal(old[key])
        assert (moments[key]["exp_avg"][:, others] == 0).all()
        assert moments[key]["exp_avg_sq"][:, others].isinf().all()  # Adam divides by its root: they stay
    for key in moments.keys() - embeddings:
        assert moments[key]["exp_avg"].equal(new[key]), key


def remembered_by_name(tree: Any) -> dict[str, Any]:
    """Return what the optimizer remembers of each parameter."""
    names = parameters(tree["state_dict"])
    (optimizer,) = tree["optimizer_states"]
    assert sorted(optimizer["state"]) == optimizer["param_groups"][0]["params"] == list(range(len(names)))
    return {name: optimizer["state"][number] for number, name in enumerate(names)}


def test_what_was_trained_since_goes_back(project: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as encoders still make nothing of the parameters of others."""
    path = project.path / "small.ckpt"
    made(path, monkeypatch, "era", "cerra", width=3)
    stamped(project, path, "0.12.0")
    project.ok("--chain", "anemoi", "upgrade", "head", path, "--no-backup")
    changed(path, monkeypatch, f"{ATTRIBUTES}trainable_tensors.hidden.trainable", 9.0)
    back = move(project, path, "downgrade", "anemoi-models==0.12.0")["state_dict"]
    for name in ("era", "cerra"):
        assert (back[f"{ATTRIBUTES}{name}.trainable_tensors.hidden.trainable"] == 9).all()
    project.ok("--chain", "anemoi", "upgrade", "head", path, "--no-backup")
    changed(path, monkeypatch, f"{MODEL}encoder.era.emb_nodes_dst.weight", 9.0)
    before = digest(path)
    refused = project.run("--chain", "anemoi", "downgrade", "anemoi-models==0.12.0", path)
    assert (refused.code, digest(path)) == (1, before)
    assert "3 of dimension 1 were added to model.model.encoder.era.emb_nodes_dst.weight and have changed since" in (
        refused.err
    )


def changed(path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: float) -> None:
    """Save a checkpoint with other weights, as training does."""
    module = types.ModuleType("torch_geometric_of_nobody")
    module.HeteroData = HeteroData  # type: ignore[attr-defined]
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, module.__name__, module)
        tree = torch.load(path, weights_only=False)
    tree["state_dict"][name].fill_(value)
    save(tree, path, monkeypatch)


@pytest.mark.parametrize("datasets", [("era",), ("era", "cerra")])
def test_what_never_was_of_0_12_goes_there(
    project: Folder, monkeypatch: pytest.MonkeyPatch, datasets: tuple[str, ...]
) -> None:
    """Each dataset gets a graph, and coordinates of hidden nodes; what is left in one place is that of 0.13.0."""
    path = project.path / "small.ckpt"
    new = made(path, monkeypatch, *datasets, shared=True)["state_dict"]
    before = stamped(project, path, "0.13.0")
    after = move(project, path, "downgrade", "anemoi-models==0.12.0")
    old = after["state_dict"]
    for name in datasets:
        assert old[f"{ATTRIBUTES}{name}.latlons_data"].equal(new[f"{ATTRIBUTES}latlons_{name}"])
        assert old[f"{ATTRIBUTES}{name}.latlons_hidden"].equal(new[f"{ATTRIBUTES}latlons_hidden"])
        stores = after["hyper_parameters"]["graph_data"][name][-1]
        assert list(stores["_node_store_dict"]) == ["data", "hidden"]
        ends = [("data", "to", "hidden"), ("hidden", "to", "data"), ("hidden", "to", "hidden")]
        assert sorted(stores["_edge_store_dict"]) == ends
    assert after["hyper_parameters"]["config"]["graph"] == {"data": "data", "hidden": "hidden"}
    assert set(old) == {name for name, _ in names_of(datasets, 0, ("hidden",), False)}
    again = move(project, path, "upgrade", "anemoi-models==0.13.0")
    assert again["hyper_parameters"]["config"]["model"] == before["hyper_parameters"]["config"]["model"]
    assert again["state_dict"].keys() == before["state_dict"].keys()
    assert node_names(again) == node_names(before)


def test_the_only_dataset_keeps_its_name(project: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before 0.12 it has none; what it was called is remembered."""
    path = project.path / "small.ckpt"
    made(path, monkeypatch, "era", width=3)
    before = stamped(project, path, "0.12.0")
    after = move(project, path, "downgrade", "anemoi-models==0.11.3")
    assert not [name for name in after["state_dict"] if "era" in name]
    assert {f"{ATTRIBUTES}latlons_data", f"{MODEL}encoder.proc.lin_edge.weight"} < set(after["state_dict"])
    assert after["hyper_parameters"]["statistics"] == {"mean": [1.0]}
    assert set(after["hyper_parameters"]["config"]["data"]) > {"forcing", "diagnostic", "processors"}
    again = move(project, path, "upgrade", "anemoi-models==0.12.0")
    assert again["state_dict"].keys() == before["state_dict"].keys()
    for what in ("statistics", "config"):
        assert again["hyper_parameters"][what] == before["hyper_parameters"][what]


def refused(project: Folder, path: Path, *words: str) -> str:
    """Return why something is refused, which leaves every byte where it was."""
    before = digest(path)
    ran = project.run("--chain", "anemoi", *words, path)
    assert (ran.code, digest(path), "Traceback" in ran.err) == (3, before, False), ran.err
    return ran.err


def test_several_datasets_go_no_further_back_than_0_12(project: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    path = project.path / "small.ckpt"
    made(path, monkeypatch, "era", "cerra")
    stamped(project, path, "0.12.0")
    said = refused(project, path, "downgrade", "anemoi-models==0.11.3")
    assert "one dataset, and this model has several (era, cerra): it cannot go back further than 0.12.0" in said


@pytest.mark.parametrize(
    ("datasets", "says"),
    [
        (("era", "cerra"), "and in this model era, cerra share them: it cannot go back further than 0.13.0"),
        (("era",), "and this model has 3, 2 for era, hidden: it cannot go back further than 0.13.0"),
    ],
)
def test_what_0_12_does_not_have_does_not_go_there(
    project: Folder, monkeypatch: pytest.MonkeyPatch, datasets: tuple[str, ...], says: str
) -> None:
    path = project.path / "small.ckpt"
    tree = made(path, monkeypatch, *datasets, width=3, shared=True)
    if len(datasets) == 1:
        hidden = f"{ATTRIBUTES}trainable_tensors.hidden.trainable"
        tree["state_dict"][hidden] = tree["state_dict"][hidden][:, :2].clone()
        del tree["optimizer_states"]
        save(tree, path, monkeypatch)
    stamped(project, path, "0.13.0")
    assert says in refused(project, path, "downgrade", "anemoi-models==0.12.0")


def test_hidden_nodes_have_to_lie_in_one_place(project: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    path = project.path / "small.ckpt"
    tree = made(path, monkeypatch, "era", "cerra")
    tree["state_dict"][f"{ATTRIBUTES}cerra.latlons_hidden"] += 1
    save(tree, path, monkeypatch)
    stamped(project, path, "0.12.0")
    assert "hidden nodes lie elsewhere for cerra than for other datasets" in refused(project, path, "upgrade", "head")


def test_of_several_levels_it_is_not_known_whose_parameters_are_whose(
    project: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = project.path / "small.ckpt"
    made(path, monkeypatch, "era", "cerra", width=3, levels=("hidden", "coarse"))
    stamped(project, path, "0.12.0")
    said = refused(project, path, "upgrade", "head")
    assert "each of several datasets (era, cerra) has trainable parameters of hidden nodes of several levels" in said
