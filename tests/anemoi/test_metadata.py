"""The configuration in the metadata of Anemoi's checkpoints is what the chain makes of that which the model is built from.

It stands in `hyper_parameters.metadata`, and in JSON that anemoi-utils writes into the archive.
"""

from __future__ import annotations

import copy
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

torch = pytest.importorskip("torch")

from anemoi_ckpt_migrate import items  # noqa: E402
from anemoi_ckpt_migrate.storage import open_checkpoint  # noqa: E402
from tests.anemoi import test_chain as chain  # noqa: E402
from tests.support.project import Folder, digest  # noqa: E402

anemoi = chain.anemoi
PLACES = ("hyper_parameters.config", "hyper_parameters.metadata.config")
RECORDS = ("anemoi.json", "ai-models.json")  # as anemoi-utils calls it, and as it did
GRAPH_TRANSFORMER = "anemoi.models.layers.mapper.GraphTransformer"
CONFIG = {
    "data": {"forcing": ["f"], "diagnostic": ["d"], "timestep": "6h", "processors": {"normalizer": {"_target_": "n"}}},
    "dataloader": {
        "training": {"dataset": "/d.zarr", "start": 1990, "end": 2000},
        "validation": {"dataset": "/d.zarr", "start": 2001, "end": None},
        "validation_rollout": 1,
        "grid_indices": {"_target_": "full"},
    },
    "datamodule": {"_target_": "one"},
    "diagnostics": {"plot": {"enabled": False}, "profiler": False},
    "hardware": {
        "num_nodes": 1,
        "paths": {"data": "/in", "graph": "/graphs", "truncation": "/t", "output": "/out"},
        "files": {"dataset": "d.zarr", "graph": "g.pt", "truncation": "t.npz", "checkpoint": {"every_n_epochs": "e"}},
    },
    "graph": {"data": "data", "hidden": "hidden", "nodes": {"data": {}, "hidden": {}}},
    "model": {
        "model": {"_target_": "anemoi.models.models.AnemoiModelEncProcDec", "_convert_": "all"},
        "num_channels": 16,
        "processor": {"num_chunks": 2},
        "encoder": {"_target_": f"{GRAPH_TRANSFORMER}ForwardMapper"},
        "decoder": {"_target_": f"{GRAPH_TRANSFORMER}BackwardMapper"},
        "trainable_parameters": {"data": 8, "hidden": 4, "data2hidden": 2, "hidden2data": 2, "hidden2hidden": 2},
        "bounding": [{"_target_": "relu"}],
    },
    "training": {
        "model_task": "anemoi.training.train.tasks.GraphForecaster",
        "multistep_input": 2,
        "optimizer": {"zero": False, "kwargs": {"betas": [0.9, 0.95]}},
        "rollout": {"start": 1, "epoch_increment": 0, "max": 12},
        "lr": {"rate": 6.25e-05, "min": 3e-07, "iterations": 300000, "warmup": 1000},
        "swa": {"enabled": False},
        "training_loss": {"_target_": "mse"},
    },
}


def written(path: Path, config: Any, record: str) -> str:
    """Write metadata into the archive of a checkpoint, as anemoi-utils does, and return the text."""
    with zipfile.ZipFile(path, "a") as archive:
        root = archive.namelist()[0].partition("/")[0]
        arrays = {"mask": {"path": f"{root}/anemoi-metadata/mask.numpy", "shape": [2], "dtype": "bool"}}
        text = json.dumps({"version": "2.0", "config": config, "seed": 1, "supporting_arrays_paths": arrays})
        archive.writestr(f"{root}/anemoi-metadata/mask.numpy", b"\0\1")
        archive.writestr(f"{root}/anemoi-metadata/{record}", text)
    return text


def attached(path: Path, record: str) -> str:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        names = [name for name in archive.namelist() if "/anemoi-metadata/" in name]
        assert len(names) == 2
        text = next(archive.read(name) for name in names if name.endswith(record)).decode()
        assert archive.read(json.loads(text)["supporting_arrays_paths"]["mask"]["path"]) == b"\0\1"
        return text


def configurations(path: Path, record: str) -> list[Any]:
    """Return the configuration as it stands at each place."""
    with open_checkpoint(path) as opened:
        tree = opened.load()
    found = [items.plain(items.get(tree, place)) for place in PLACES]
    return [*found, json.loads(attached(path, record))["config"]]


def check_up_and_down(anemoi: Folder, path: Path, record: str, text: str, start: str) -> Any:
    """Check that all three are the same, at head and at releases on the way down, and return what they are at head."""
    before = configurations(path, record)
    anemoi.ok("upgrade", "head", path, "--no-backup", "--check-rollback")
    latest, *others = configurations(path, record)
    assert others == [latest, latest]
    assert (attached(path, record) == text) == (latest == before[0])
    for release in ("0.15.0", "0.12.0", "0.11.0", start):
        if Version(release) >= Version(start):
            anemoi.ok("downgrade", f"anemoi-models=={release}", path, "--no-backup")
            first, *others = configurations(path, record)
            assert others == [first, first]
    assert json.dumps(configurations(path, record)) == json.dumps(before)  # keys stand where they stood
    assert attached(path, record) == text
    return latest


def checkpoint(anemoi: Folder, monkeypatch: pytest.MonkeyPatch, config: Any = CONFIG, metadata: Any = None) -> Path:
    path = anemoi.path / "small.ckpt"
    text = chain.SMALL["gt without trainable parameters"][0]
    hyper_parameters = chain.small(path, monkeypatch, text)["hyper_parameters"]
    both = {"config": copy.deepcopy(config), "metadata": {"seed": 1, "config": metadata or copy.deepcopy(config)}}
    chain.small(path, monkeypatch, text, hyper_parameters={**hyper_parameters, **both})
    return path


@pytest.mark.parametrize("record", RECORDS)
def test_it_follows_and_goes_back(anemoi: Folder, monkeypatch: pytest.MonkeyPatch, record: str) -> None:
    path = checkpoint(anemoi, monkeypatch)
    text = written(path, CONFIG, record)
    found = check_up_and_down(anemoi, path, record, text, "0.9.4")
    assert found["system"]["input"]["truncation"] == "/t/t.npz"
    assert found["model"]["encoders"]["data"]["mapper"]["num_channels"] == 16
    assert found["model"]["node_trainable_parameters"] == {"data": 4, "hidden": 4}
    assert found["task"] == {
        "multistep_input": 2,
        "multistep_output": 1,
        "timestep": "6h",
        "rollout": {"start": 1, "epoch_increment": 0, "maximum": 12},
        "validation_rollout": 1,
        "_target_": "anemoi.training.tasks.Forecaster",
    }
    assert found["training"]["method"] == {"_target_": "anemoi.training.train.methods.SingleTraining"}


def test_it_is_said_once_what_a_user_should_know(anemoi: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    path = checkpoint(anemoi, monkeypatch)
    written(path, CONFIG, RECORDS[0])
    assert anemoi.ok("upgrade", "head", path, "--no-backup").err.count("the model has a truncation") == 1


def test_in_place(anemoi: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    path = checkpoint(anemoi, monkeypatch)
    written(path, CONFIG, RECORDS[0])
    old = digest(path)
    anemoi.ok("upgrade", "head", path, "--in-place")
    latest, *others = configurations(path, RECORDS[0])
    assert others == [latest, latest]
    assert "no rollback had to run" in anemoi.ok("downgrade", "base", path, "--in-place").out
    assert digest(path) == old


def test_metadata_that_say_nothing_stay_as_they_are(anemoi: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    path = checkpoint(anemoi, monkeypatch, metadata={"placeholder": True})
    text = written(path, {"placeholder": True}, RECORDS[0])
    anemoi.ok("upgrade", "head", path, "--no-backup", "--check-rollback")
    assert configurations(path, RECORDS[0])[1:] == [{"placeholder": True}, {"placeholder": True}]
    assert attached(path, RECORDS[0]) == text


def test_metadata_that_cannot_be_read_are_refused(anemoi: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    path = checkpoint(anemoi, monkeypatch)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{archive.namelist()[0].partition('/')[0]}/anemoi-metadata/anemoi.json", "{'a': 1}")
    old = digest(path)
    refused = anemoi.run("upgrade", "head", path)
    assert (refused.code, digest(path)) == (1, old)
    assert "record anemoi-metadata/anemoi.json of the archive cannot be read as JSON" in refused.err
    assert "replace it, or remove it" in refused.err


def with_metadata(anemoi: Folder, release: str, kind: str) -> tuple[Path, str]:
    """Copy a real checkpoint, and give it metadata as trainers write them: of plain data, as JSON too."""
    path = Path(shutil.copy(chain.REAL / f"{release}_{kind}.ckpt", anemoi.path))
    path.chmod(0o644)
    with open_checkpoint(path) as opened:
        tree = opened.load()
        config = items.plain(items.get(tree, PLACES[0]))
        items.put(tree, PLACES[1], copy.deepcopy(config))
        opened.write(opened.pickled(tree), {}, backup=False)
    return path, written(path, config, RECORDS[0])


@chain.real
@chain.each
def test_real_checkpoints(anemoi: Folder, release: str, kind: str) -> None:
    path, text = with_metadata(anemoi, release, kind)
    check_up_and_down(anemoi, path, RECORDS[0], text, release)


@chain.real
@pytest.mark.parametrize("kind", chain.KINDS)
def test_one_of_the_latest_release_goes_down(anemoi: Folder, kind: str) -> None:
    """By the plain inverses, and up again to what it was."""
    path, _ = with_metadata(anemoi, "0.19.0", kind)
    before = configurations(path, RECORDS[0])
    for release in ("0.15.0", "0.12.0", "0.9.4"):
        anemoi.ok("downgrade", f"anemoi-models=={release}", path, "--no-backup")
        first, *others = configurations(path, RECORDS[0])
        assert others == [first, first]
    anemoi.ok("upgrade", "head", path, "--no-backup")
    first, *others = configurations(path, RECORDS[0])
    assert others == [first, first]
    assert first["model"]["encoders"] == before[0]["model"]["encoders"]
