"""The chain of anemoi-models, on real checkpoints of its releases, and on small ones of what these do not have.

The real ones are made with the classes of each release; ``ideal_*.json`` beside them says what a state dict of release
0.19.0 has to hold to give the same output, found without any migration. No class of them can be imported here.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import pickle
import re
import shutil
from collections import OrderedDict
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar

import pytest
from packaging.version import Version

torch = pytest.importorskip("torch")

from tests.conftest import Folder  # noqa: E402
from tests.operating import equal  # noqa: E402

CHAIN = Path(str(resources.files("anemoi_ckpt_migrate.versions")))
REAL = Path(os.environ.get("ANEMOI_CHECKPOINTS") or Path(__file__).parents[2] / "shared" / "anemoi")
RELEASES = ("0.9.4", "0.9.7", "0.10.0", "0.11.0", "0.11.3", "0.12.0", "0.13.0", "0.15.0", "0.16.0")
KINDS = ("gt", "gnn")
BUFFERS = ("_norm_mul", "_norm_add", "_input_idx", "_output_idx", "_model_output_idx", "edge_inc")

real = pytest.mark.skipif(not (REAL / "README.md").exists(), reason="the real checkpoints are not here")
each = pytest.mark.parametrize(("release", "kind"), [(release, kind) for release in RELEASES for kind in KINDS])


@pytest.fixture
def anemoi(project: Folder) -> Folder:
    """A project whose scripts are the chain."""
    (project.path / "ckpt-migrate.toml").write_text(f'versions = "{CHAIN}"\npackage = "anemoi-models"\n')
    return project


class Foreign:
    """An object of a class that is not here: how it was made, and what it holds."""

    name = ""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        made = object.__new__(cls)
        made.parts = [cls.name, list(args), kwargs, [], {}]
        return made

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, *args: Any) -> Any:
        return Foreign("called", self, *args)

    def __setstate__(self, state: Any) -> None:
        self.parts.append(state)

    def append(self, item: Any) -> None:
        self.parts[3].append(item)

    def extend(self, items: Any) -> None:
        self.parts[3].extend(items)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.parts[4][key] = value


class Foreigners:
    """A pickle module that imports torch and what Python has, and nothing else."""

    load, Pickler = pickle.load, pickle.Pickler

    class Unpickler(pickle.Unpickler):
        classes: ClassVar[dict[str, type]] = {}

        def find_class(self, module: str, name: str) -> Any:
            if module.partition(".")[0] in ("torch", "collections", "builtins", "__builtin__", "_codecs"):
                return super().find_class(module, name)
            full = f"{module}.{name}"
            return self.classes.setdefault(full, type(name, (Foreign,), {"name": full}))


def read(path: Path) -> Any:
    """Load a checkpoint with torch, without the record; objects of classes that are not here become lists."""
    tree = torch.load(path, weights_only=False, pickle_module=Foreigners)
    tree.pop("ckpt_migrate", None)
    return plain(tree)


def plain(value: Any, above: tuple[int, ...] = ()) -> Any:
    """Turn objects into lists; what holds itself is named by how far above it stands."""
    if isinstance(value, type):
        return getattr(value, "name", str(value))
    if not isinstance(value, (Foreign, dict, list, tuple)):
        return value
    if id(value) in above:
        return f"{above[::-1].index(id(value))} above"
    above = (*above, id(value))
    if isinstance(value, OrderedDict):
        made = OrderedDict((key, plain(inner, above)) for key, inner in value.items())
        made._metadata = getattr(value, "_metadata", None)  # type: ignore[attr-defined]
        return made
    if isinstance(value, dict):
        return {key: plain(value[key], above) for key in sorted(value, key=repr)}
    return [plain(inner, above) for inner in (value.parts if isinstance(value, Foreign) else value)]


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
    path = Path(shutil.copy(REAL / f"{release}_{kind}.ckpt", anemoi.path))
    path.chmod(0o644)
    anemoi.ok("stamp", f"anemoi-models=={release}", path, "--no-backup")
    return path


@real
def test_nothing_of_anemoi_is_here() -> None:
    for name in ("anemoi.models", "torch_geometric", "omegaconf"):
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
    assert equal(again, before)


def shallow(value: Any) -> Any:
    """Leave the configuration out, which no revision here is about."""
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
@pytest.mark.parametrize("release", ["0.11.3", "0.12.0", "0.13.0", "0.15.0", "0.16.0", "0.19.0"])
def test_a_later_checkpoint_that_is_not_stamped_is_refused(anemoi: Folder, release: str) -> None:
    path = Path(shutil.copy(REAL / f"{release}_gt.ckpt", anemoi.path))
    path.chmod(0o644)
    refused = anemoi.run("upgrade", "head", path)
    assert refused.code == 1
    assert "are of a later release: stamp the checkpoint with that" in refused.err
    assert "nothing was changed" in refused.err


@real
def test_a_dry_run_and_check(anemoi: Folder) -> None:
    path = stamped(anemoi, "0.9.7", "gnn")
    anemoi.ok("upgrade", "head", path, "--dry-run")
    anemoi.ok("check")
    anemoi.ok("check", path, "--rollback")
