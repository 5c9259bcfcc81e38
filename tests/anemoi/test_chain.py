"""The chain of anemoi-models, on real checkpoints of its releases, and on small ones of what these do not have.

The real ones are made with the classes of each release; ``ideal_*.json`` beside them says what a state dict of release
0.19.0 has to hold to give the same output, found without any migration. No class of them can be imported here.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import runpy
import shutil
from collections import OrderedDict
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

from tests.support.anemoi import (
    KINDS,
    REAL,
    Foreigners,
    HeteroData,
    collection,
    plain,
    read,
    remembers,
    save,
    torch,
)
from tests.support.operations import equal
from tests.support.project import Folder, digest

CHAIN = Path(str(resources.files("anemoi_ckpt_migrate.versions")))
RELEASES = ("0.9.4", "0.9.7", "0.10.0", "0.11.0", "0.11.3", "0.12.0", "0.13.0", "0.15.0", "0.16.0")
BUFFERS = ("_norm_mul", "_norm_add", "_input_idx", "_output_idx", "_model_output_idx", "edge_inc")

real = pytest.mark.skipif(not (REAL / "README.md").exists(), reason="the real checkpoints are not here")
each = pytest.mark.parametrize(("release", "kind"), [(release, kind) for release in RELEASES for kind in KINDS])


@pytest.fixture
def anemoi(project: Folder) -> Folder:
    """A project whose scripts are the chain."""
    (project.path / "ckpt-migrate.toml").write_text(f'versions = "{CHAIN}"\npackage = "anemoi-models"\n')
    return project


def described(state_dict: Any) -> dict[str, list[Any]]:
    """Describe parameters as ``ideal_*.json`` does."""
    return {
        key: [
            list(value.shape),
            str(value.dtype).removeprefix("torch."),
            hashlib.sha256(value.contiguous().numpy().tobytes()).hexdigest(),
        ]
        for key, value in state_dict.items()
    }


def parameters(state_dict: Any) -> list[str]:
    """Return the parameters in order, tied ones once, as ``model.parameters()`` gives them."""
    seen, found = set(), []
    for key, value in state_dict.items():
        leaf = key.rpartition(".")[2]
        memory = (value.untyped_storage().data_ptr(), value.storage_offset())
        if leaf in BUFFERS or leaf == "trainable_layout_version" or leaf.startswith("latlons_") or memory in seen:
            continue
        seen.add(memory)
        found.append(key)
    return found


def stamped(anemoi: Folder, release: str, kind: str) -> Path:
    """Copy a real checkpoint, and say what it is."""
    path = copied(anemoi, release, kind)
    anemoi.ok("stamp", f"anemoi-models=={release}", path, "--no-backup")
    return path


@real
def test_nothing_of_anemoi_is_here() -> None:
    for name in ("anemoi.models", "torch_geometric"):
        assert importlib.util.find_spec(name.partition(".")[0]) is None


@real
@each
def test_up_to_what_is_ideal_and_back(anemoi: Folder, release: str, kind: str) -> None:
    path = stamped(anemoi, release, kind)
    before = read(path)
    anemoi.ok("upgrade", "head", path, "--no-backup", "--check-rollback")
    ideal = json.loads((REAL / f"ideal_{release}_{kind}.json").read_text())
    assert described(read(path)["state_dict"]) == ideal
    anemoi.ok("downgrade", f"anemoi-models=={release}", path, "--no-backup")
    assert equal(read(path), before)


@real
@each
def test_the_optimizer_follows(anemoi: Folder, release: str, kind: str) -> None:
    """Its positions are those of the new model's parameters, and moments of edges are sorted as the edges are."""
    path = stamped(anemoi, release, kind)
    old = read(path)
    anemoi.ok("upgrade", "head", path, "--no-backup")
    new = read(path)
    latest = parameters(read(REAL / f"0.19.0_{kind}.ckpt")["state_dict"])
    names, old_names = parameters(new["state_dict"]), parameters(old["state_dict"])
    assert names == latest
    (after,), (before,) = new["optimizer_states"], old["optimizer_states"]
    assert after["param_groups"] == before["param_groups"]
    assert sorted(after["state"]) == list(range(len(names)))
    rows = edges_in_order(path)
    moved = set()
    for position, name in enumerate(names):
        was = old_names.index(next(each for each in old_names if renamed(each, release) == name))
        moved |= {name} if was != position else set()
        for moment in ("exp_avg", "exp_avg_sq", "step"):
            value = before["state"][was][moment]
            if moment != "step":
                assert value.shape == new["state_dict"][name].shape
                value = value[rows[name]] if name in rows and Version(release) < Version("0.16") else value
            assert equal(after["state"][position][moment], value), (name, moment)
    assert len(rows) == 3
    assert bool(moved) == (kind == "gnn" and Version(release) < Version("0.11.3"))


def renamed(name: str, release: str) -> str:
    """Say what a parameter of a real checkpoint is called in 0.19.0: two chunks of two layers, one dataset."""
    found = re.fullmatch(r"(model\.model\.processor\.proc\.)(\d+)\.blocks\.(\d+)\.(.*)", name)
    name = f"{found[1]}{2 * int(found[2]) + int(found[3])}.{found[4]}" if found else name
    name = re.sub(
        r"^(model\.model\.\w+coder|model\.model\.processor)\.trainable\.", r"\1_graph_provider.trainable.", name
    )
    if Version(release) < Version("0.12"):
        name = re.sub(r"^(model\.model\.\w+coder(?:_graph_provider)?)\.", r"\1.data.", name)
    if Version(release) < Version("0.16"):
        name = re.sub(r"\.node_dst_mlp\.", ".node_dst_mlp.mlp.", name)
    return name.replace("node_attributes.data.", "node_attributes.")


def edges_in_order(path: Path) -> dict[str, Any]:
    """Return for each trainable parameter of edges the order in which they are sorted, from the graph as it is kept."""
    graph = torch.load(path, weights_only=False, pickle_module=Foreigners)["hyper_parameters"]["graph_data"]
    stores = {key: store.parts[-1]["_mapping"] for key, store in graph.parts[-1]["_edge_store_dict"].items()}
    return {
        f"model.model.{part}.trainable.trainable": torch.sort(stores[ends]["edge_index"][1], stable=True).indices
        for part, ends in (
            ("encoder_graph_provider.data", ("data", "to", "hidden")),
            ("processor_graph_provider", ("hidden", "to", "hidden")),
            ("decoder_graph_provider.data", ("hidden", "to", "data")),
        )
    }


@real
@each
def test_hyper_parameters_are_those_of_the_latest(anemoi: Folder, release: str, kind: str) -> None:
    path = stamped(anemoi, release, kind)
    anemoi.ok("upgrade", "head", path, "--no-backup")
    found, latest = (read(each)["hyper_parameters"] for each in (path, REAL / f"0.19.0_{kind}.ckpt"))
    assert set(found) == set(latest)
    for name in ("graph_data", "statistics", "statistics_tendencies", "supporting_arrays"):
        assert equal(found[name], latest[name]), name
    one, other = (each["data_indices"]["data"][-1] for each in (found, latest))
    assert equal({**one, "config": None}, {**other, "config": None})


@real
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("release", RELEASES)
def test_a_later_model_becomes_one_of_an_earlier_release(anemoi: Folder, release: str, kind: str) -> None:
    """What was never there before follows from the graph and the configuration: the same names, shapes and order."""
    path = stamped(anemoi, "0.19.0", kind)
    before = read(path)
    anemoi.ok("downgrade", f"anemoi-models=={release}", path, "--no-backup")
    found, wanted = read(path), read(REAL / f"{release}_{kind}.ckpt")
    shapes = [
        [(key, value.shape, value.dtype) for key, value in each["state_dict"].items()] for each in (found, wanted)
    ]
    assert shapes[0] == shapes[1]
    moments = [
        [value["exp_avg"].shape for _, value in sorted(each["optimizer_states"][0]["state"].items())]
        for each in (found, wanted)
    ]
    assert moments[0] == moments[1]
    for name in ("data_indices", "graph_data", "statistics", "supporting_arrays"):
        one, other = (shallow(each["hyper_parameters"][name]) for each in (found, wanted))
        assert equal(one, other), name
    assert set(found["hyper_parameters"]) == set(wanted["hyper_parameters"])
    sizes = {key: value for key, value in found["state_dict"].items() if key.endswith("edge_inc")}
    assert all(equal(value, wanted["state_dict"][key]) for key, value in sizes.items())
    anemoi.ok("upgrade", "head", path, "--no-backup")
    again = read(path)
    again.pop("kept_by_anemoi_migrations", None)  # what goes back to where it came from now
    own, came = ({**each, "hyper_parameters": shallow(each["hyper_parameters"])} for each in (again, before))
    assert equal(own, came)
    one, other = (settings(each["hyper_parameters"]["config"]) for each in (again, before))
    left = {key: value for key, value in one.items() if value != {} and key not in other}
    assert {key: one[key] for key in other} == other
    assert left in ({}, {"training.weight_averaging": None})


def settings(config: Any, under: str = "") -> dict[str, Any]:
    """Return what a configuration says, with the whole name of each."""
    inner = bare(config)
    if not isinstance(inner, dict) or not inner:
        # What is said of no dataset is said of "data", and written so by some templates of 0.19.0.
        return {"model.bounding.datasets.data" if under == "model.bounding" else under: inner}
    pairs = ((f"{under}.{key}" if under else str(key), value) for key, value in inner.items())
    return {name: each for key, value in pairs for name, each in settings(value, key).items()}


def bare(config: Any) -> Any:
    """Return what is of the class of the configuration as a dict, in lists too."""
    if isinstance(config, list):
        return config[4] if config[:1] == ["anemoi.utils.config.DotDict"] else list(map(bare, config))
    return config


DEFAULTS = ("mlp_implementation", "gradient_checkpointing", "shard_strategy", "graph_attention_backend", "edge_pre_mlp")


@real
@each
def test_the_configuration_follows(anemoi: Folder, release: str, kind: str) -> None:
    """What the model is built from is what 0.19.0 wrote itself, but for what it takes by default."""
    path = stamped(anemoi, release, kind)
    anemoi.ok("upgrade", "head", path, "--no-backup")
    found = settings(read(path)["hyper_parameters"]["config"])
    wanted = settings(read(REAL / f"0.19.0_{kind}.ckpt")["hyper_parameters"]["config"])
    parts = ("model.", "data.", "task.")
    concerned = {
        key
        for key in wanted
        if key.startswith(parts) and wanted[key] and not key.endswith((*DEFAULTS, "model.compile"))
    }
    assert concerned - set(found) <= {
        "model.encoders.data.mapper.mlp_hidden_ratio",
        "model.decoders.data.mapper.mlp_hidden_ratio",
        "model.processor.mlp_hidden_ratio",
    }
    loose = {"task.timestep", "task.validation_rollout"}
    assert all(found[key] == wanted[key] for key in concerned & set(found) - loose)
    gone = (
        "hardware.accelerator",
        "datamodule",
        "model.encoder.",
        "training.model_task",
        "training.lr.",
        "graph.hidden",
    )
    assert not [key for key in found if key.startswith(gone)]
    assert found["system.hardware.num_nodes"] == 1
    assert found["training.method._target_"] == "anemoi.training.train.methods.SingleTraining"
    assert found["training.optimization.lr"] == 6.25e-05


def shallow(value: Any) -> Any:
    """Leave the configuration out."""
    if isinstance(value, list):
        return [shallow(each) for each in value]
    return {key: shallow(each) for key, each in value.items() if key != "config"} if isinstance(value, dict) else value


@real
def test_what_is_tied_stays_tied(anemoi: Folder) -> None:
    path = stamped(anemoi, "0.9.4", "gt")
    anemoi.ok("upgrade", "head", path, "--no-backup")
    state_dict = read(path)["state_dict"]
    tied = [key for key in state_dict if ".layer_norm_attention_dest." in key]
    assert len(tied) == 4
    for key in tied:
        other = state_dict[key.replace("_dest.", ".")]
        assert state_dict[key].untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


@real
def test_nothing_has_to_be_said_of_the_first_release(anemoi: Folder) -> None:
    for kind in KINDS:
        path = Path(shutil.copy(REAL / f"0.9.4_{kind}.ckpt", anemoi.path))
        path.chmod(0o644)
        before = read(path)
        anemoi.ok("upgrade", "anemoi@head", path, "--no-backup", "--check-rollback")
        anemoi.ok("downgrade", "base", path, "--no-backup")
        assert equal(read(path), before)


@real
@each
def test_nobody_has_to_stamp_anything(project: Folder, release: str, kind: str) -> None:
    """By its name, from anywhere; a checkpoint is recognised by what it holds."""
    path = copied(project, release, kind)
    before = read(path)
    ran = project.ok("--chain", "anemoi", "upgrade", "head", path, "--no-backup")
    assert release in ("0.9.4", "0.16.0") or "by its content it is taken to be at" in ran.err  # 0.16.0 is as 0.19.0
    ideal = json.loads((REAL / f"ideal_{release}_{kind}.json").read_text())
    assert described(read(path)["state_dict"]) == ideal
    log = json.loads(project.ok("--chain", "anemoi", "current", path, "--json").out)["log"]
    starts = [entry["to"][0] for entry in log if entry["command"] == "recognise"]
    if log:
        project.ok("--chain", "anemoi", "downgrade", starts[0] if release != "0.9.4" else "base", path)
    assert equal(read(path), before)


@real
def test_releases_can_be_named(project: Folder) -> None:
    path = copied(project, "0.19.0", "gt")
    before = read(path)
    project.ok("--chain", "anemoi", "downgrade", "anemoi-models==0.12.0", path)
    project.ok("--chain", "anemoi", "upgrade", "head", path)
    again = read(path)
    again.pop("kept_by_anemoi_migrations", None)
    own, came = ({**each, "hyper_parameters": shallow(each["hyper_parameters"])} for each in (again, before))
    assert equal(own, came)
    project.ok("--chain", "anemoi", "stamp", "anemoi-models==0.16.0", path)


@real
@pytest.mark.parametrize("kind", KINDS)
def test_the_latest_is_at_head(project: Folder, kind: str) -> None:
    path = copied(project, "0.19.0", kind)
    assert "nothing to do" in project.ok("--chain", "anemoi", "upgrade", "head", path).out


def copied(project: Folder, release: str, kind: str) -> Path:
    path = Path(shutil.copy(REAL / f"{release}_{kind}.ckpt", project.path))
    path.chmod(0o644)
    return path


@real
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda tree: tree["migrations"].reverse(), "contradicts the scripts"),
        (lambda tree: tree["migrations"].pop(1), "contradicts the scripts"),
        (
            lambda tree: tree["migrations"].append({"name": "1999999999_new_thing"}),
            "(1999999999_new_thing), which no script here knows",
        ),
        (
            lambda tree: [
                tree["state_dict"].pop(key) for key in list(tree["state_dict"]) if key.endswith("._model_output_idx")
            ],
            "it has lookup tables in its data indices, and not model output indices of normalizers, which came before",
        ),
        (lambda tree: tree.pop("hyper_parameters"), "this is no training checkpoint of anemoi-models"),
    ],
)
def test_what_no_release_saves_is_refused(project: Folder, spoil: Any, says: str) -> None:
    """A list of migrations in another order, one of a later release, and what upstream's own tool leaves behind."""
    from anemoi_ckpt_migrate.storage import open_checkpoint

    path = copied(project, "0.19.0", "gt")
    with open_checkpoint(path) as file:
        tree = file.load()
        spoil(tree)
        file.write(file.pickled(tree), {}, backup=False)
    before = digest(path)
    ran = project.run("--chain", "anemoi", "upgrade", "head", path)
    assert ran.code == 1
    assert says in ran.err
    assert digest(path) == before


@real
def test_a_script_that_was_renamed_upstream_is_known(project: Folder) -> None:
    from anemoi_ckpt_migrate.storage import open_checkpoint

    path = copied(project, "0.19.0", "gt")
    with open_checkpoint(path) as file:
        tree = file.load()
        tree["migrations"][0]["name"] = "1700000000_initial"
        file.write(file.pickled(tree), {}, backup=False)
    project.ok("--chain", "anemoi", "upgrade", "head", path)


@real
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("release", RELEASES)
def test_the_list_of_migrations_is_that_of_the_release(project: Folder, release: str, kind: str) -> None:
    """Up: as the latest release notes it. Down: what that release noted; and it comes back as it was."""
    path, latest = copied(project, release, kind), read(REAL / f"0.19.0_{kind}.ckpt")["migrations"]
    before = read(path)["migrations"]
    project.ok("--chain", "anemoi", "upgrade", "head", path, "--no-backup")
    after = read(path)["migrations"]
    # The digest of a script that changed since is that of then, where it was noted.
    assert [{**each, "signature": ""} for each in after] == [{**each, "signature": ""} for each in latest]
    assert [each["signature"] for each in after[: len(before)]] == [each["signature"] for each in before]
    project.ok("--chain", "anemoi", "downgrade", "base", path, "--no-backup")
    assert read(path)["migrations"] == []
    path = copied(project, "0.19.0", kind)
    project.ok("--chain", "anemoi", "downgrade", f"anemoi-models=={release}", path, "--no-backup")
    found = read(path)["migrations"]
    expected = before or latest[:1]  # 0.9.4 forgot to note it
    assert [(each["name"], each["metadata"]) for each in found] == [
        (each["name"], each["metadata"]) for each in expected
    ]
    assert all(each.keys() >= expected[0].keys() for each in found)
    project.ok("--chain", "anemoi", "upgrade", "head", path, "--no-backup")
    assert read(path)["migrations"] == latest


@real
def test_a_dry_run_and_check(anemoi: Folder) -> None:
    path = stamped(anemoi, "0.9.7", "gnn")
    anemoi.ok("upgrade", "head", path, "--dry-run")
    anemoi.ok("check")
    anemoi.ok("check", path, "--rollback")


# Models that the real checkpoints are none of: names as the sources of the releases give them, with small tensors.
# What an optimizer remembers of a parameter is the parameter itself, so that afterwards it is told what goes where.

NODES = {"data": 7, "hidden": 4}
EDGES = {("data", "hidden"): 9, ("hidden", "hidden"): 8, ("hidden", "data"): 11}
LEVELS = {"data": 7, "fine": 5, "middle": 4, "coarse": 3}
LEVEL_EDGES = {
    ("data", "fine"): 9,
    ("fine", "fine"): 8,
    ("middle", "middle"): 7,
    ("fine", "middle"): 6,
    ("middle", "coarse"): 5,
    ("coarse", "coarse"): 4,
    ("coarse", "middle"): 3,
    ("middle", "fine"): 10,
    ("fine", "data"): 11,
}

GT = """
    encoder.edge_inc | -
    encoder.proc.layer_norm_attention.weight | encoder.data.proc.layer_norm_attention.weight
    encoder.proc.layer_norm_attention_dest.weight | encoder.data.proc.layer_norm_attention_dest.weight
    encoder.proc.lin_edge.weight | encoder.data.proc.lin_edge.weight
    encoder.proc.node_dst_mlp.0.weight | encoder.data.proc.node_dst_mlp.mlp.0.weight
    encoder.proc.node_src_mlp.2.weight | encoder.data.proc.node_src_mlp.mlp.2.weight
    processor.edge_inc | -
    processor.proc.0.blocks.0.lin_edge.weight | processor.proc.0.lin_edge.weight
    processor.proc.0.blocks.1.lin_edge.weight | processor.proc.1.lin_edge.weight
    processor.proc.1.blocks.0.lin_edge.weight | processor.proc.2.lin_edge.weight
    processor.proc.1.blocks.1.node_dst_mlp.0.weight | processor.proc.3.node_dst_mlp.mlp.0.weight
    decoder.edge_inc | -
    decoder.proc.lin_edge.weight | decoder.data.proc.lin_edge.weight
"""
GNN = """
    encoder.edge_inc | -
    encoder.emb_edges.mlp.0.weight | encoder.data.emb_edges.mlp.0.weight
    encoder.proc.node_mlp.mlp.0.weight | encoder.data.proc.node_mlp.mlp.0.weight
    encoder.proc.conv.edge_mlp.mlp.0.weight | encoder.data.proc.conv.edge_mlp.mlp.0.weight
    processor.edge_inc | -
    processor.proc.0.emb_edges.mlp.0.weight | processor.proc.0.emb_edges.mlp.0.weight
    processor.proc.0.blocks.0.conv.edge_mlp.mlp.0.weight | processor.proc.0.conv.edge_mlp.mlp.0.weight
    processor.proc.1.blocks.0.conv.edge_mlp.mlp.0.weight | processor.proc.1.conv.edge_mlp.mlp.0.weight
    decoder.edge_inc | -
    decoder.emb_edges.mlp.0.weight | decoder.data.emb_edges.mlp.0.weight
    decoder.proc.conv.edge_mlp.mlp.0.weight | decoder.data.proc.conv.edge_mlp.mlp.0.weight
"""
TRANSFORMER_PROCESSOR = """
    encoder.edge_inc | -
    encoder.trainable.trainable | encoder_graph_provider.data.trainable.trainable
    encoder.proc.lin_edge.weight | encoder.data.proc.lin_edge.weight
    encoder.proc.node_dst_mlp.0.weight | encoder.data.proc.node_dst_mlp.mlp.0.weight
    processor.proc.0.blocks.0.layer_norm_attention.weight | processor.proc.0.layer_norm_attention.weight
    processor.proc.0.blocks.0.attention.lin_q.weight | processor.proc.0.attention.lin_q.weight
    processor.proc.0.blocks.0.mlp.0.weight | processor.proc.0.mlp.mlp.0.weight
    processor.proc.0.blocks.0.mlp.2.bias | processor.proc.0.mlp.mlp.2.bias
    processor.proc.1.blocks.0.attention.lin_q.weight | processor.proc.1.attention.lin_q.weight
    processor.proc.1.blocks.0.mlp.0.weight | processor.proc.1.mlp.mlp.0.weight
    decoder.edge_inc | -
    decoder.trainable.trainable | decoder_graph_provider.data.trainable.trainable
    decoder.proc.lin_edge.weight | decoder.data.proc.lin_edge.weight
"""
ALL_TRANSFORMER = """
    encoder.proc.attention.lin_q.weight | encoder.data.proc.attention.lin_q.weight
    encoder.proc.mlp.0.weight | encoder.data.proc.mlp.mlp.0.weight
    encoder.proc.layer_norm_mpl.weight | encoder.data.proc.layer_norm_mpl.weight
    processor.proc.0.blocks.0.attention.lin_q.weight | processor.proc.0.attention.lin_q.weight
    processor.proc.0.blocks.0.mlp.0.weight | processor.proc.0.mlp.mlp.0.weight
    decoder.proc.attention.lin_q.weight | decoder.data.proc.attention.lin_q.weight
    decoder.proc.mlp.2.weight | decoder.data.proc.mlp.mlp.2.weight
"""
POINTWISE = """
    encoder.edge_inc | -
    encoder.proc.lin_edge.weight | encoder.data.proc.lin_edge.weight
    processor.proc.0.blocks.0.mlp.0.weight | processor.proc.0.mlp.0.weight
    processor.proc.0.blocks.1.mlp.0.weight | processor.proc.1.mlp.0.weight
    decoder.edge_inc | -
    decoder.proc.lin_edge.weight | decoder.data.proc.lin_edge.weight
"""
ENSEMBLE = """
    noise_injector.noise_mlp.0.weight | noise_injector._noise_conditioning.noise_mlp.0.weight
    noise_injector.projection.weight | noise_injector.projection.weight
    encoder.proc.attention.lin_q.weight | encoder.data.proc.attention.lin_q.weight
    decoder.proc.attention.lin_q.weight | decoder.data.proc.attention.lin_q.weight
    boundings.0.norm_min_val | boundings.data.0.norm_min_val
"""
CONDITIONED = """
    noise_injector.noise_mlp.0.weight | noise_injector.noise_mlp.0.weight
    encoder.proc.attention.lin_q.weight | encoder.data.proc.attention.lin_q.weight
    decoder.proc.attention.lin_q.weight | decoder.data.proc.attention.lin_q.weight
"""
# In the old order; where the new one differs, its numbers stand behind.
HIERARCHICAL = """
    encoder.edge_inc | -
    encoder.emb_edges.mlp.0.weight | encoder.data.emb_edges.mlp.0.weight
    encoder.trainable.trainable | encoder_graph_provider.data.trainable.trainable
    encoder.proc.conv.edge_mlp.mlp.0.weight | encoder.data.proc.conv.edge_mlp.mlp.0.weight
    down_level_processor.fine.edge_inc | -
    down_level_processor.fine.trainable.trainable | down_level_processor_graph_providers.fine.trainable.trainable
    down_level_processor.fine.proc.0.blocks.0.conv.edge_mlp.mlp.0.weight | down_level_processor.fine.proc.0.conv.edge_mlp.mlp.0.weight
    down_level_processor.middle.edge_inc | -
    down_level_processor.middle.trainable.trainable | down_level_processor_graph_providers.middle.trainable.trainable
    down_level_processor.middle.proc.1.blocks.0.conv.edge_mlp.mlp.0.weight | down_level_processor.middle.proc.1.conv.edge_mlp.mlp.0.weight
    processor.edge_inc | -
    processor.trainable.trainable | processor_graph_provider.trainable.trainable
    processor.proc.0.blocks.0.conv.edge_mlp.mlp.0.weight | processor.proc.0.conv.edge_mlp.mlp.0.weight
    downscale.fine.edge_inc | -
    downscale.fine.emb_edges.mlp.0.weight | upscale.fine.emb_edges.mlp.0.weight
    downscale.fine.trainable.trainable | upscale_graph_providers.fine.trainable.trainable
    downscale.fine.proc.conv.edge_mlp.mlp.0.weight | upscale.fine.proc.conv.edge_mlp.mlp.0.weight
    downscale.middle.edge_inc | -
    downscale.middle.emb_edges.mlp.0.weight | upscale.middle.emb_edges.mlp.0.weight
    downscale.middle.trainable.trainable | upscale_graph_providers.middle.trainable.trainable
    downscale.middle.proc.conv.edge_mlp.mlp.0.weight | upscale.middle.proc.conv.edge_mlp.mlp.0.weight
    upscale.middle.edge_inc | -
    upscale.middle.trainable.trainable | downscale_graph_providers.fine.trainable.trainable
    upscale.middle.proc.conv.edge_mlp.mlp.0.weight | downscale.fine.proc.conv.edge_mlp.mlp.0.weight
    upscale.coarse.edge_inc | -
    upscale.coarse.trainable.trainable | downscale_graph_providers.middle.trainable.trainable
    upscale.coarse.proc.conv.edge_mlp.mlp.0.weight | downscale.middle.proc.conv.edge_mlp.mlp.0.weight
    decoder.edge_inc | -
    decoder.trainable.trainable | decoder_graph_provider.data.trainable.trainable
    decoder.proc.conv.edge_mlp.mlp.0.weight | decoder.data.proc.conv.edge_mlp.mlp.0.weight
"""
HIERARCHICAL_ORDER = [1, 0, 2, 4, 6, 3, 5, 7, 8, 9, 11, 12, 14, 10, 13, 16, 18, 15, 17, 19, 20]
WITH_EDGES = ["encoder_graph_provider.data", "processor_graph_provider", "decoder_graph_provider.data"]


def graph(nodes: dict[str, int], edges: dict[tuple[str, str], int]) -> Any:
    generator = torch.Generator().manual_seed(7)

    def ends(count: int, many: int) -> Any:
        return torch.randint(0, count, (many,), generator=generator)

    return HeteroData(
        _node_store_dict={name: HeteroData(_mapping={"x": torch.zeros(count, 2)}) for name, count in nodes.items()},
        _edge_store_dict={
            (one, "to", other): HeteroData(
                _mapping={"edge_index": torch.stack([ends(nodes[one], many), ends(nodes[other], many)])}
            )
            for (one, other), many in edges.items()
        },
    )


def pairs(text: str) -> list[tuple[str, str]]:
    found = [line.strip().split(" | ") for line in text.strip().splitlines()]
    return [(f"model.model.{old}", f"model.model.{new}" if new != "-" else "") for old, new in found]


def small(
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    nodes: dict[str, int] = NODES,
    edges: dict[tuple[str, str], int] = EDGES,
    **changes: Any,
) -> Any:
    """Save a checkpoint with the names on the left, and return its tree."""
    generator = torch.Generator().manual_seed(len(text))
    state_dict: Any = OrderedDict()
    for lead in ("pre", "post"):
        state_dict[f"model.{lead}_processors.processors.normalizer._norm_mul"] = torch.rand(5, generator=generator)
        state_dict[f"model.{lead}_processors.processors.normalizer._output_idx"] = torch.tensor([0, 1, 4]).int()
    for name, count in nodes.items():
        state_dict[f"model.model.node_attributes.latlons_{name}"] = torch.rand(count, 4, generator=generator)
    for name in nodes:
        lead = "model.model.node_attributes.trainable_tensors"
        state_dict[f"{lead}.{name}.trainable"] = torch.rand(nodes[name], 3, generator=generator)
    for old, _ in pairs(text):
        rows = (edges_of(old, nodes, edges), 2) if old.endswith("trainable.trainable") else (2, 3)
        state_dict[old] = torch.rand(rows, generator=generator)
        if old.endswith("edge_inc"):
            one, other = ends_of(old, nodes)
            state_dict[old] = torch.tensor([[nodes[one]], [nodes[other]]])
        if "layer_norm_attention_dest" in old:
            state_dict[old] = state_dict[old.replace("_dest.", ".")]
    names = parameters(state_dict)
    state = {number: remembers(state_dict[name]) for number, name in enumerate(names)}
    tree = {
        "state_dict": state_dict,
        "optimizer_states": [{"state": state, "param_groups": [{"lr": 1.0, "params": list(range(len(names)))}]}],
        "hyper_parameters": {
            "config": {"model": {"processor": {"num_chunks": 2}}},
            "graph_data": graph(nodes, edges),
            "data_indices": collection(["a", "b", "f", "g", "d"], ["f", "g"], ["d"]),
            "statistics": {"mean": [1.0]},
            "statistics_tendencies": None,
        },
        **changes,
    }
    save(tree, path, monkeypatch)
    return tree


def ends_of(name: str, nodes: dict[str, int]) -> tuple[str, str]:
    """Return between which nodes the edges of a part go."""
    _, *hidden = nodes
    _, _, part, level, *_ = name.replace("_graph_provider.", ".").split(".")
    level_up = {"downscale": 1, "upscale": -1}
    if part in level_up:
        return level, hidden[hidden.index(level) + level_up[part]]
    if part.endswith("level_processor"):
        return level, level
    return {"encoder": ("data", hidden[0]), "decoder": (hidden[0], "data")}.get(part, (hidden[-1], hidden[-1]))


def edges_of(name: str, nodes: dict[str, int], edges: dict[tuple[str, str], int]) -> int:
    return edges[ends_of(name, nodes)]


def sorted_rows(name: str, tree: Any, nodes: dict[str, int]) -> Any:
    one, other = ends_of(name, nodes)
    edges = tree["hyper_parameters"]["graph_data"]._edge_store_dict[one, "to", other]._mapping["edge_index"]
    return torch.sort(edges[1], stable=True).indices


SMALL = {
    "gt without trainable parameters": (GT, NODES, EDGES, WITH_EDGES),
    "gnn without trainable parameters": (GNN, NODES, EDGES, WITH_EDGES),
    "transformer processor": (
        TRANSFORMER_PROCESSOR,
        NODES,
        {ends: count for ends, count in EDGES.items() if ends != ("hidden", "hidden")},
        ["encoder_graph_provider.data", "decoder_graph_provider.data"],
    ),
    "all transformer": (ALL_TRANSFORMER, NODES, {}, []),
    "pointwise": (POINTWISE, NODES, {("data", "hidden"): 9}, ["encoder_graph_provider.data"]),
    "ensemble": (ENSEMBLE, NODES, {}, []),
    "conditioned by noise": (CONDITIONED, NODES, {}, []),
    "hierarchical": (
        HIERARCHICAL,
        LEVELS,
        LEVEL_EDGES,
        [
            *WITH_EDGES,
            *(
                f"{kind}_graph_providers.{level}"
                for kind in ("down_level_processor", "downscale", "upscale")
                for level in ("fine", "middle")
            ),
        ],
    ),
}


@pytest.mark.parametrize("name", SMALL)
def test_small_models(anemoi: Folder, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    text, nodes, edges, providers = SMALL[name]
    path = anemoi.path / "small.ckpt"
    tree = small(path, monkeypatch, text, nodes, edges)
    start = "base"
    if text in (ENSEMBLE, CONDITIONED):  # whose input changes at 0.11.0
        anemoi.ok("upgrade", "anemoi-models==0.10.0", path, "--no-backup")
        start = "anemoi-models==0.11.0"
        anemoi.ok("stamp", start, path, "--no-backup")
    before = read(path)
    anemoi.ok("upgrade", "head", path, "--no-backup", "--check-rollback")
    after = read(path)
    found = {key for key in after["state_dict"] if key.startswith("model.model.") and "node_attributes" not in key}
    versions = {f"model.model.{provider}.trainable_layout_version" for provider in providers}
    assert found == {new for _, new in pairs(text) if new} | versions
    for old, new in pairs(text):
        if new:
            value = tree["state_dict"][old]
            value = value[sorted_rows(old, tree, nodes)] if old.endswith("trainable.trainable") else value
            assert equal(after["state_dict"][new], value), new
    check_optimizer(after)
    if name == "hierarchical":
        old_names = parameters(tree["state_dict"])
        new_of = dict(pairs(text))
        own = [new_of[each] for each in old_names if each in new_of]
        assert [each for each in parameters(after["state_dict"]) if each in own] == [own[n] for n in HIERARCHICAL_ORDER]
    anemoi.ok("downgrade", start, path, "--no-backup")
    assert equal(read(path), before)


def check_optimizer(tree: Any, names: list[str] | None = None) -> None:
    """Check that what is remembered at each position is the parameter that belongs there."""
    names = parameters(tree["state_dict"]) if names is None else names
    (optimizer,) = tree["optimizer_states"]
    assert optimizer["param_groups"][0]["params"] == list(range(len(names)))
    assert sorted(optimizer["state"]) == list(range(len(names)))
    for position, name in enumerate(names):
        wanted = remembers(tree["state_dict"][name])
        assert all(equal(optimizer["state"][position][each], wanted[each]) for each in wanted), name


TRAINABLE = GNN.replace(
    "    encoder.proc.node",
    "    encoder.trainable.trainable | encoder_graph_provider.data.trainable.trainable\n    encoder.proc.node",
).replace(
    "    processor.proc.0.emb",
    "    processor.trainable.trainable | processor_graph_provider.trainable.trainable\n    processor.proc.0.emb",
)
"""Message passing with trainable parameters in the encoder and the processor."""


def test_averages_follow(anemoi: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an average replaced is kept beside it, under the same names."""
    path = anemoi.path / "averaged.ckpt"
    tree = small(path, monkeypatch, TRAINABLE)
    tree["current_model_state"] = OrderedDict((key, value + 1) for key, value in tree["state_dict"].items())
    save(tree, path, monkeypatch)
    before = read(path)
    anemoi.ok("upgrade", "head", path, "--no-backup", "--check-rollback")
    after = read(path)
    average, replaced = after["state_dict"], after["current_model_state"]
    assert list(average) == list(replaced)
    for key, value in average.items():
        whole = key.endswith(("trainable_layout_version", "_model_output_idx"))
        assert equal(replaced[key], value + (0 if key.endswith("layout_version") else 1)) or whole, key
    anemoi.ok("downgrade", "base", path, "--no-backup")
    assert equal(read(path), before)


def test_a_frozen_encoder(anemoi: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The optimizer has what is not frozen; which parameters these are, shapes tell."""
    path = anemoi.path / "frozen.ckpt"
    tree = small(
        path, monkeypatch, TRAINABLE.replace("decoder.proc", "decoder.trainable.trainable | x\n    decoder.proc", 1)
    )
    state_dict = tree["state_dict"]
    names = [name for name in parameters(state_dict) if ".encoder." not in name]
    for number, name in enumerate(names):
        if not name.endswith("trainable"):
            state_dict[name] = torch.rand(2, number + 4)
    tree["optimizer_states"] = [
        {
            "state": {number: remembers(state_dict[name]) for number, name in enumerate(names)},
            "param_groups": [{"params": list(range(len(names)))}],
        }
    ]
    save(tree, path, monkeypatch)
    before = read(path)
    anemoi.ok("upgrade", "head", path, "--no-backup", "--check-rollback")
    after = read(path)
    check_optimizer(after, [name for name in parameters(after["state_dict"]) if ".encoder" not in name])
    anemoi.ok("downgrade", "base", path, "--no-backup")
    assert equal(read(path), before)


def test_one_that_may_be_several_parameters_is_refused(anemoi: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    path = anemoi.path / "frozen.ckpt"
    tree = small(path, monkeypatch, TRAINABLE)
    (optimizer,) = tree["optimizer_states"]
    last = optimizer["param_groups"][0]["params"].pop()
    del optimizer["state"][last]
    save(tree, path, monkeypatch)
    refused = anemoi.run("upgrade", "head", path)
    assert refused.code == 1
    assert "the optimizer has not all parameters, and it cannot be told which of them it has" in refused.err
    optimizer["param_groups"] = [{"params": list(range(5))}, {"params": list(range(5, last))}]
    save(tree, path, monkeypatch)
    refused = anemoi.run("upgrade", "head", path)
    assert "the optimizer has several groups of parameters, and it is not known which is where" in refused.err


def test_groups_that_shapes_tell_apart(anemoi: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """An optimizer that has trainable parameters of nodes and edges in a group of their own."""
    path = anemoi.path / "groups.ckpt"
    tree = small(path, monkeypatch, TRAINABLE)
    state_dict = tree["state_dict"]
    tree["optimizer_states"] = [grouped(state_dict)]
    save(tree, path, monkeypatch)
    before = read(path)
    anemoi.ok("upgrade", "head", path, "--no-backup", "--check-rollback")
    after = read(path)
    assert equal(after["optimizer_states"], [plain(grouped(after["state_dict"]))])
    anemoi.ok("downgrade", "base", path, "--no-backup")
    assert equal(read(path), before)


def grouped(state_dict: Any) -> Any:
    """Make an optimizer with two groups, which remembers of a parameter what it is."""
    names = parameters(state_dict)
    own = [name for name in names if name.endswith("trainable")]
    order = [*own, *(name for name in names if name not in own)]
    numbers = list(range(len(order)))
    return {
        "state": {number: remembers(state_dict[name]) for number, name in enumerate(order)},
        "param_groups": [{"params": numbers[: len(own)]}, {"params": numbers[len(own) :]}],
    }


WEIGHT = "model.model.encoder.emb_nodes_src.weight"
# Two steps of a, b, f, g; the last a and b again, skipped; attributes of nodes and the step.
INPUT, SKIPPED, REST = 8, 2, 8


def ensemble(path: Path, monkeypatch: pytest.MonkeyPatch, **model: Any) -> Any:
    """Save a small ensemble, and return its tree."""
    tree = small(path, monkeypatch, CONDITIONED + f"    {WEIGHT.removeprefix('model.model.')} | -")
    weight = torch.rand(4, INPUT + SKIPPED + REST)
    position = parameters(tree["state_dict"]).index(WEIGHT)
    moments = weight.clone()
    moments[:, INPUT : INPUT + SKIPPED] = moments[:, 4:6]  # where gradients are the same, so is what is remembered
    tree["state_dict"][WEIGHT] = weight
    tree["optimizer_states"][0]["state"][position] = remembers(moments)
    tree["hyper_parameters"]["config"]["model"] |= model
    tree["hyper_parameters"]["config"]["training"] = {"multistep_input": 2}
    save(tree, path, monkeypatch)
    return tree


def test_ensembles_are_given_once_what_they_skip(anemoi: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    path = anemoi.path / "small.ckpt"
    weight = ensemble(path, monkeypatch)["state_dict"][WEIGHT]
    before = read(path)
    ran = anemoi.ok("upgrade", "anemoi-models==0.11.0", path, "--no-backup", "--check-rollback")
    assert "it trains on with one weight where there were two" in " ".join(ran.err.split())
    after = read(path)
    x, rest = torch.rand(INPUT), torch.rand(REST)
    out = after["state_dict"][WEIGHT] @ torch.cat([x, rest])
    assert torch.allclose(out, weight @ torch.cat([x, x[4:6], rest]))
    assert after["hyper_parameters"]["config"]["model"]["condition_on_residual"] is False
    anemoi.ok("downgrade", "base", path, "--no-backup")
    assert equal(read(path), before)


def test_ensembles_that_stay_conditioned(anemoi: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    path = anemoi.path / "small.ckpt"
    weight = ensemble(path, monkeypatch, condition_on_residual=True)["state_dict"][WEIGHT]
    before = read(path)
    anemoi.ok("upgrade", "anemoi-models==0.11.0", path, "--no-backup", "--check-rollback")
    x, skipped, rest = weight.split([INPUT, SKIPPED, REST], dim=1)
    assert equal(read(path)["state_dict"][WEIGHT], torch.cat([x, rest, skipped], dim=1))
    anemoi.ok("downgrade", "base", path, "--no-backup")
    assert equal(read(path), before)


def test_ensembles_that_were_trained_since(anemoi: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Back, they make of their input what they do now."""
    script = runpy.run_path(str(CHAIN / "4d8e0b62f9a7_ensembles_conditioned_once.py"))
    tree = ensemble(anemoi.path / "small.ckpt", monkeypatch)
    tree["hyper_parameters"]["data_indices"].prognostic = ["a", "b"]
    with pytest.warns(UserWarning, match="one weight where there were two"):
        script["migrate"](tree)
    tree["state_dict"][WEIGHT] += torch.rand(4, INPUT + REST)
    x, rest = torch.rand(INPUT), torch.rand(REST)
    out = tree["state_dict"][WEIGHT] @ torch.cat([x, rest])
    script["rollback"](tree)
    assert torch.allclose(out, tree["state_dict"][WEIGHT] @ torch.cat([x, x[4:6], rest]), atol=1e-5)


@pytest.mark.parametrize("what", ["truncation", "steps", "shapes"])
def test_ensembles_whose_input_is_not_known(anemoi: Folder, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    path = anemoi.path / "small.ckpt"
    tree = ensemble(path, monkeypatch)
    if what == "truncation":
        tree["hyper_parameters"]["truncation_data"] = {"down": torch.ones(2, 2)}
        says = "it is an ensemble model with a truncation"
    elif what == "steps":
        del tree["hyper_parameters"]["config"]["training"]
        says = "does not say of how many steps (multistep_input)"
    else:
        tree["state_dict"]["model.model.encoder.proc.other.weight"] = torch.ones(4, INPUT + SKIPPED + REST)
        says = "what the optimizer remembers of model.model.encoder.proc.other.weight cannot be told"
    save(tree, path, monkeypatch)
    kept = digest(path)
    ran = anemoi.run("upgrade", "head", path)
    assert (ran.code, says in ran.err, digest(path)) == (3, True, kept), ran.err


@pytest.mark.parametrize("since", ["0.11.0", "0.11.3"])
def test_what_injects_noise_tells_the_release(project: Folder, monkeypatch: pytest.MonkeyPatch, since: str) -> None:
    path = project.path / "small.ckpt"
    tree = small(path, monkeypatch, ENSEMBLE)
    del tree["optimizer_states"]
    tree["hyper_parameters"]["data_indices"] = None
    noise = [(old, new) for old, new in pairs(ENSEMBLE) if ".noise_injector.noise_mlp." in old]
    if since == "0.11.3":
        tree["state_dict"] = OrderedDict(
            (dict(noise).get(key, key), value) for key, value in tree["state_dict"].items()
        )
    save(tree, path, monkeypatch)
    project.ok("--chain", "anemoi", "upgrade", "anemoi-models==0.11.3", path, "--no-backup")
    assert {new for _, new in noise} < set(read(path)["state_dict"])


def test_a_graph_in_a_dict(anemoi: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint of 0.15 whose graph is still kept by dataset, as one may be that another tool brought there."""
    text = """
        encoder_graph_provider.data.trainable.trainable | encoder_graph_provider.data.trainable.trainable
        encoder.data.proc.lin_edge.weight | encoder.data.proc.lin_edge.weight
        processor_graph_provider.trainable.trainable | processor_graph_provider.trainable.trainable
        processor.proc.0.lin_edge.weight | processor.proc.0.lin_edge.weight
        decoder_graph_provider.data.trainable.trainable | decoder_graph_provider.data.trainable.trainable
        decoder.data.proc.lin_edge.weight | decoder.data.proc.lin_edge.weight
    """
    path = anemoi.path / "small.ckpt"
    tree = small(path, monkeypatch, text)
    bare = tree["hyper_parameters"]["graph_data"]
    for kept in (bare, {"data": bare}):
        tree["hyper_parameters"]["graph_data"] = kept
        save(tree, path, monkeypatch)
        before = read(path)
        anemoi.ok("stamp", "anemoi-models==0.15.0", path, "--no-backup")
        anemoi.ok("upgrade", "head", path, "--no-backup", "--check-rollback")
        after = read(path)
        for name, _ in pairs(text):
            value = tree["state_dict"][name]
            one, other = ends_of(name, NODES)
            rows = torch.sort(bare._edge_store_dict[one, "to", other]._mapping["edge_index"][1], stable=True).indices
            value = value[rows] if name.endswith("trainable.trainable") else value
            assert equal(after["state_dict"][name], value)
        check_optimizer(after)
        anemoi.ok("downgrade", "anemoi-models==0.15.0", path, "--no-backup")
        assert equal(read(path), before)


@pytest.mark.parametrize("what", ["another graph", "no graph", "two levels"])
def test_edges_that_cannot_be_sorted(anemoi: Folder, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    path = anemoi.path / "small.ckpt"
    tree = small(path, monkeypatch, TRAINABLE)
    hyper_parameters = tree["hyper_parameters"]
    if what == "another graph":
        hyper_parameters["graph_data"] = graph(NODES, {**EDGES, ("data", "hidden"): 5})
        says = "encoder_graph_provider.data.trainable.trainable has 9 rows, and the graph 5 such edges"
    elif what == "no graph":
        del hyper_parameters["graph_data"]
        says = "the checkpoint holds no graph (graph_data), by which edges could be sorted"
    else:
        hyper_parameters["graph_data"] = graph({**NODES, "more": 3}, EDGES)
        says = "the graph has nodes hidden, more, and it is not known which of them are hidden ones"
    save(tree, path, monkeypatch)
    refused = anemoi.run("upgrade", "head", path)
    assert (refused.code, says in refused.err) == (1, True), refused.err


def test_a_gate_is_refused(anemoi: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    path = anemoi.path / "small.ckpt"
    small(path, monkeypatch, GT.replace("node_dst_mlp.0.weight", "node_dst_mlp.1.projection.weight"))
    refused = anemoi.run("upgrade", "head", path)
    assert refused.code == 3
    assert "belongs to an activation with a gate, which releases from 0.16.0 on do not have" in refused.err
    anemoi.ok("upgrade", "anemoi-models==0.15.0", path)


def test_what_is_no_checkpoint_of_anemoi_models_is_refused(anemoi: Folder) -> None:
    path = anemoi.path / "other.ckpt"
    torch.save({"state_dict": {"weight": torch.ones(2)}, "hyper_parameters": {}}, path)
    refused = anemoi.run("upgrade", "head", path)
    assert "this is no training checkpoint of anemoi-models" in refused.err


def test_targets_are_not_put_out(anemoi: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a model of 0.13 with a target variable, and tendencies."""
    path = anemoi.path / "small.ckpt"
    tree = small(path, monkeypatch, ALL_TRANSFORMER)
    indices = collection(["a", "t", "b", "f", "d"], ["f"], ["d"])
    indices.data.output.includes = ["a", "b", "d", "t"]
    indices.model.output.name_to_index = {"a": 0, "b": 1, "d": 2}
    indices.model.output.includes = ["a", "b", "d"]
    tree["hyper_parameters"]["data_indices"] = {"data": indices}
    state_dict = OrderedDict((new or old, tree["state_dict"][old]) for old, new in pairs(ALL_TRANSFORMER))
    lead = "model.pre_processors{}.data.processors.anything."
    for kind in ("", "_tendencies"):
        state_dict[f"{lead.format(kind)}_output_idx"] = torch.tensor([0, 1, 2, 4]).int()
        state_dict[f"{lead.format(kind)}_norm_mul"] = torch.ones(5)
    tree["state_dict"] = state_dict
    del tree["optimizer_states"]
    save(tree, path, monkeypatch)
    before = read(path)
    anemoi.ok("stamp", "anemoi-models==0.13.0", path, "--no-backup")
    anemoi.ok("upgrade", "anemoi-models==0.15.0", path, "--no-backup", "--check-rollback")
    after = read(path)
    for kind in ("", "_tendencies"):
        found = after["state_dict"][f"{lead.format(kind)}_model_output_idx"]
        assert equal(found, torch.tensor([0, 2, 4]).int())
    made = after["hyper_parameters"]["data_indices"]["data"][-1]
    assert made["model_output_positions_in_data_output"] == [0, 2, 3]
    assert made["model_output_in_data_output_is_contiguous"] is False
    assert made["data_output_positions_in_data_full"] == [0, 1, 2, 4]
    anemoi.ok("downgrade", "anemoi-models==0.13.0", path, "--no-backup")
    assert equal(read(path), before)


def test_tendencies_are_named_by_dataset_too(anemoi: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    path = anemoi.path / "small.ckpt"
    tree = small(path, monkeypatch, GNN)
    tree["state_dict"]["model.pre_processors_tendencies.processors.normalizer._output_idx"] = torch.tensor(
        [0, 1, 4]
    ).int()
    tree["hyper_parameters"]["statistics_tendencies"] = {"mean": [2.0]}
    tree["hyper_parameters"]["truncation_data"] = {"down": torch.ones(2)}
    save(tree, path, monkeypatch)
    before = read(path)
    anemoi.ok("upgrade", "head", path, "--no-backup", "--check-rollback")
    after = read(path)
    lead = "model.pre_processors_tendencies.data.processors.normalizer."
    assert {f"{lead}_output_idx", f"{lead}_model_output_idx"} < set(after["state_dict"])
    assert after["hyper_parameters"]["statistics_tendencies"] == {"data": {"mean": [2.0]}}
    assert "truncation_data" not in after["hyper_parameters"]
    anemoi.ok("downgrade", "base", path, "--no-backup")
    assert equal(read(path), before)
