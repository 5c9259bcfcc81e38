"""`op.At`: the same at several places of the tree, and in JSON that lies in the archive beside the pickle."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
omegaconf = pytest.importorskip("omegaconf")

from anemoi_ckpt_migrate import op  # noqa: E402
from anemoi_ckpt_migrate.errors import BadOperation  # noqa: E402
from anemoi_ckpt_migrate.operations.base import from_data  # noqa: E402
from anemoi_ckpt_migrate.state import archive_json  # noqa: E402
from tests.support.operations import declare  # noqa: E402
from tests.support.project import Folder, digest  # noqa: E402

RECORD = "metadata/about.json"
CONFIG = {"hardware": {"gpus": 4, "paths": {"data": "/d"}}, "lr": 1e-05, "profiler": False, "layers": [1, {"a": None}]}
CHANGES = (
    'op.MoveItem("hardware.gpus", "system.gpus", optional=True), op.DropItem("profiler", optional=True), '
    'op.SetItem("layers.1.b", [2.5, "é"], optional=True)'
)
MOVED = {"hardware": {"paths": {"data": "/d"}}, "lr": 1e-05, "layers": [1, {"a": None, "b": [2.5, "é"]}]}
MOVED["system"] = {"gpus": 4}
EVERYWHERE = f'op.At(["hp.config", "metadata.config"], [{CHANGES}], records={{"{RECORD}": "config"}}, optional=True)'
IN_RECORD = f'op.At([], [{CHANGES}], records={{"{RECORD}": "config"}})'


def about(**more: Any) -> dict[str, Any]:
    return {"version": "1.0", "café": ["°C", 0.1, float("nan")], "config": CONFIG, "seed": 2**70, **more}


def save(folder: Folder, text: str | bytes | None = None, config: Any = CONFIG, **more: Any) -> Path:
    """Save a checkpoint, and write a record into its archive, as anemoi-utils does."""
    path = folder.path / "x.ckpt"
    torch.save({"state_dict": {"w": torch.ones(2)}, "hp": {"config": config}, **more}, path)
    if text is not None:
        add(path, text)
    return path


def add(path: Path, text: str | bytes, name: str = RECORD) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        root = archive.namelist()[0].partition("/")[0]
        archive.writestr(f"{root}/{name}", text)


def record(path: Path, name: str = RECORD) -> bytes:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        (found,) = (each for each in archive.namelist() if each.endswith(f"/{name}"))
        return archive.read(found)


def replace(path: Path, text: str) -> None:
    """Write the archive anew with another record, as `anemoi.utils.checkpoints.replace_metadata` does."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(path.with_name("new"), "w") as new:
        for name in old.namelist():
            new.writestr(name, text if name.endswith(RECORD) else old.read(name))
    path.with_name("new").rename(path)


def test_several_places_at_once(project: Folder) -> None:
    config = omegaconf.OmegaConf.create({**CONFIG, "link": "${system.gpus}"})
    path = save(project, json.dumps(about()), config, metadata={"config": CONFIG, "seed": 1})
    declare(project, "a1", EVERYWHERE)
    project.ok("upgrade", "head", path, "--check-rollback")
    tree = torch.load(path, weights_only=False)
    assert isinstance(tree["hp"]["config"], omegaconf.DictConfig)
    assert tree["hp"]["config"].link == 4
    assert omegaconf.OmegaConf.to_container(tree["hp"]["config"]) == {**MOVED, "link": "${system.gpus}"}
    assert tree["metadata"] == {"config": MOVED, "seed": 1}
    assert json.loads(record(path))["config"] == MOVED
    project.ok("downgrade", "base", path)
    tree = torch.load(path, weights_only=False)
    assert tree["hp"]["config"] == config
    assert list(tree["metadata"]["config"]) == list(CONFIG)
    assert tree["metadata"] == {"config": CONFIG, "seed": 1}
    assert record(path) == json.dumps(about()).encode()


def test_where_there_is_nothing(project: Folder) -> None:
    """Metadata that say little, no record, a checkpoint that is a model: what is optional may stay away."""
    path = save(project, metadata={"config": {"placeholder": True}})
    declare(project, "a1", EVERYWHERE)
    project.ok("upgrade", "head", path)
    tree = torch.load(path, weights_only=True)
    assert (tree["hp"]["config"], tree["metadata"]) == (MOVED, {"config": {"placeholder": True}})
    project.ok("downgrade", "base", path)
    assert torch.load(path, weights_only=True)["hp"]["config"] == CONFIG


LAYOUTS: dict[str, tuple[dict[str, Any], str]] = {
    "as Python writes it": ({}, ""),
    "with its letters": ({"ensure_ascii": False}, " "),
    "in lines": ({"indent": 4}, "\n"),
    "with tabs": ({"indent": "\t", "ensure_ascii": False}, "\n"),
    "in lines, as of old": ({"indent": 1, "separators": (", ", ": ")}, "\n\n"),
    "without spaces": ({"separators": (",", ":")}, ""),
}
ODD = {
    "spaces anywhere": json.dumps(about()).replace('"lr": 1e-05', '"lr":0.00001').replace("{", "{ ") + "  \n\n",
    "half of a pair": json.dumps(about(half="\ud800")).replace("\\u00b0", "°"),
}


@pytest.mark.parametrize("way", [[], ["--in-place"], ["--check-rollback", "--no-backup"]])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_record_keeps_its_layout(project: Folder, layout: str, way: list[str]) -> None:
    how, end = LAYOUTS[layout]
    path = save(project, json.dumps(about(), **how) + end)
    add(path, b"\0\xff" * 50, "metadata/mask.numpy")
    declare(project, "a1", IN_RECORD)
    project.ok("upgrade", "head", path, *way)
    assert record(path).decode() == json.dumps(about(config=MOVED), **how) + end
    assert torch.load(path, weights_only=True)["state_dict"]["w"].tolist() == [1, 1]
    project.ok("downgrade", "base", path, *[word for word in way if word != "--check-rollback"])
    assert record(path).decode() == json.dumps(about(), **how) + end
    assert record(path, "metadata/mask.numpy") == b"\0\xff" * 50


@pytest.mark.parametrize("layout", ODD)
def test_one_that_nobody_lays_out_keeps_its_content(project: Folder, layout: str) -> None:
    path = save(project, ODD[layout])
    declare(project, "a1", IN_RECORD)
    project.ok("upgrade", "head", path)
    assert json.dumps(json.loads(record(path))) == json.dumps({**json.loads(ODD[layout]), "config": MOVED})
    project.ok("downgrade", "base", path)
    assert record(path).decode() == ODD[layout]


def test_in_place_the_bytes_of_before_are_gone_back_to(project: Folder) -> None:
    path = save(project, json.dumps(about()))
    old = digest(path)
    declare(project, "a1", IN_RECORD)
    declare(project, "a2", 'op.SetItem("epoch", 1)', parents="a1")
    declare(project, "a3", f'op.At([], [op.DropItem("seed")], records={{"{RECORD}": ""}})', parents="a2")
    for revision in ("a1", "a2", "a3"):
        project.ok("upgrade", revision, path, "--in-place")
    assert "seed" not in json.loads(record(path))
    assert "no rollback had to run" in project.ok("downgrade", "a2", path, "--in-place").out
    assert json.loads(record(path))["config"] == MOVED
    assert "no rollback had to run" in project.ok("downgrade", "base", path, "--in-place").out
    assert digest(path) == old


@pytest.mark.parametrize("way", [["--in-place"], []])
def test_what_others_wrote_since_is_not_cut_off(project: Folder, way: list[str]) -> None:
    path = save(project, json.dumps(about()))
    declare(project, "a1", IN_RECORD)
    project.ok("upgrade", "head", path, "--in-place")
    add(path, b"more", "metadata/more.txt")
    assert "no rollback had to run" not in project.ok("downgrade", "base", path, *way).out
    assert (record(path), record(path, "metadata/more.txt")) == (json.dumps(about()).encode(), b"more")


def test_dry_runs_and_proofs_write_nothing(project: Folder) -> None:
    path = save(project, json.dumps(about()))
    old = digest(path)
    declare(project, "a1", EVERYWHERE)
    declare(project, "a2", f'op.At([], [op.DropItem("seed")], records={{"{RECORD}": ""}})', parents="a1")
    project.ok("upgrade", "head", path, "--dry-run", "--check-rollback")
    project.ok("check", "--rollback", path)
    assert digest(path) == old


def test_the_checkpoint_carries_the_way_back(project: Folder) -> None:
    path = save(project, json.dumps(about()), metadata={"config": CONFIG})
    for script in (declare(project, "a1", EVERYWHERE), declare(project, "a2", 'op.SetItem("x", 1)', parents="a1")):
        project.ok("upgrade", "head", path)
        assert script.exists()
    assert "At(" in project.ok("show", "a1", "--from", path).out
    for script in (project.path / "versions").glob("*.py"):
        script.unlink()
    project.ok("downgrade", "base", path)
    assert record(path) == json.dumps(about()).encode()
    assert torch.load(path, weights_only=True)["metadata"]["config"] == CONFIG


def test_what_changed_since_keeps_what_is_new(project: Folder) -> None:
    path = save(project, json.dumps(about()))
    declare(project, "a1", IN_RECORD)
    project.ok("upgrade", "head", path)
    found = json.loads(record(path))
    replace(path, json.dumps({**found, "config": {**found["config"], "system": {"gpus": 8}}, "uuid": "u"}, indent=1))
    project.ok("downgrade", "base", path)
    config = {**CONFIG, "hardware": {"gpus": 8, "paths": {"data": "/d"}}}
    assert record(path).decode() == json.dumps({**about(config=config), "uuid": "u"}, indent=1)


def test_what_would_be_lost_is_refused(project: Folder) -> None:
    path = save(project, json.dumps(about()))
    declare(project, "a1", IN_RECORD)
    project.ok("upgrade", "head", path)
    text = record(path).decode().replace("2.5", "3.5")
    replace(path, text)
    old = digest(path)
    refused = project.run("downgrade", "base", path)
    assert refused.code == 1
    assert f"at config of record {RECORD}, layers.1.b has changed since it was set" in refused.err
    assert digest(path) == old
    project.ok("downgrade", "base", path, "--discard-changes")
    assert record(path) == json.dumps(about()).encode()


def test_a_record_that_is_gone_since(project: Folder) -> None:
    """As after `torch.load` and `torch.save`."""
    path = save(project, json.dumps(about()))
    declare(project, "a1", EVERYWHERE)
    project.ok("upgrade", "head", path)
    torch.save(torch.load(path, weights_only=True), path)
    project.ok("downgrade", "base", path)
    assert torch.load(path, weights_only=True)["hp"]["config"] == CONFIG


def test_a_pickled_model(project: Folder) -> None:
    """Nothing but text is put aside of a record, for which there is a place."""
    path = project.path / "model.pt"
    torch.save(torch.nn.Linear(2, 2), path)
    add(path, json.dumps(about()))
    declare(project, "a1", IN_RECORD)
    project.ok("upgrade", "head", path)
    assert json.loads(record(path))["config"]["system"] == {"gpus": 4}
    project.ok("downgrade", "base", path)
    assert record(path) == json.dumps(about()).encode()


def test_stamped_not_migrated(project: Folder) -> None:
    path = save(project, json.dumps(about(config=MOVED)), MOVED)
    changes = CHANGES.partition(', op.SetItem("layers')[0]
    declare(project, "a1", EVERYWHERE.replace(CHANGES, changes))
    project.ok("stamp", "head", path)
    project.ok("downgrade", "base", path)
    tree = torch.load(path, weights_only=True)
    assert tree["hp"]["config"]["hardware"] == json.loads(record(path))["config"]["hardware"] == {
        "gpus": 4,
        "paths": {"data": "/d"},
    }  # fmt: skip


FUNCTIONS = """
def double(part):
    part["lr"] *= 2
    return {**part, "doubled": True}

def halve(part):
    part["lr"] /= 2
    del part["doubled"]
    return part

def with_epoch(layers, ckpt):
    return {"all": layers, "epoch": ckpt["epoch"]}

def without_epoch(layers, ckpt):
    return layers["all"]
"""
CALLS = (
    'op.At(["hp.config"], [op.Run(double, "halve"), op.Rewrite(with_epoch, without_epoch, "hardware")], '
    f'records={{"{RECORD}": "config"}})'
)


@pytest.mark.parametrize("changed", [False, True])
def test_functions(project: Folder, changed: bool) -> None:
    """A function is given what stands there; the one of `Rewrite`, the whole checkpoint beside it."""
    path = save(project, json.dumps(about()), epoch=3)
    declare(project, "a1", CALLS, top=FUNCTIONS)
    project.ok("check")
    project.ok("upgrade", "head", path, "--check-rollback")
    new = {**CONFIG, "lr": 2e-05, "doubled": True, "hardware": {"all": CONFIG["hardware"], "epoch": 3}}
    assert torch.load(path, weights_only=True)["hp"]["config"] == new
    assert json.loads(record(path))["config"] == new
    config = {**CONFIG}
    if changed:
        replace(path, record(path).decode().replace("/d", "/e"))
        config["hardware"] = {"gpus": 4, "paths": {"data": "/e"}}
    (project.path / "versions" / "a1_change.py").unlink()
    refused = project.run("downgrade", "base", path)
    assert (refused.code, "--trust-checkpoint-code" in refused.err) == (3, True)
    project.ok("downgrade", "base", path, "--trust-checkpoint-code")
    assert torch.load(path, weights_only=True)["hp"]["config"] == CONFIG
    assert record(path).decode() == json.dumps(about(config=config))


def test_functions_that_are_not_there(project: Folder) -> None:
    declare(project, "a1", 'op.At(["a"], [op.Run("gone")])')
    assert "`gone` is not a function" in project.run("check").out


def test_no_way_back(project: Folder) -> None:
    path = save(project, json.dumps(about()))
    declare(project, "a1", 'op.At(["hp.config"], [op.Run("double")])', top=FUNCTIONS)
    project.ok("upgrade", "head", path)
    assert torch.load(path, weights_only=True)["hp"]["config"]["doubled"]
    assert project.run("downgrade", "base", path).code == 3


BAD = {
    "no JSON": ("{", f"record {RECORD} of the archive cannot be read as JSON (Expecting", ""),
    "another encoding": (json.dumps(about()).encode("utf-16"), "cannot be read as JSON ('utf-8' codec", ""),
    "two values": ('{"config": {"a": 1, "a": 2}}', "an object has two values with the same name", ""),
    "too large a number": ('{"config": {"a": 1e999}}', "1e999 is too large a number", ""),
    "too deep": ("[" * 100_000 + "]" * 100_000, "cannot be read as JSON", ""),
    "no such place": ('{"config": []}', f"there is no config.deep in record {RECORD}", '"config.deep"'),
    "no such record": (None, f"there is no record {RECORD} in the archive", ""),
    "no such item": ("{}", f"at all of record {RECORD}, there is no a", '""'),
}


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_changed_is_refused(project: Folder, what: str) -> None:
    text, says, place = BAD[what]
    path = save(project, text)
    old = digest(path)
    declare(project, "a1", f'op.At([], [op.DropItem("a")], {{"{RECORD}": {place or repr("config")}}})')
    for way in ([], ["--dry-run"], ["--in-place"]):
        refused = project.run("upgrade", "head", path, *way)
        assert (refused.code, says in refused.err) == (1, True), refused.err
        assert "x.ckpt" in refused.err
        assert digest(path) == old


def test_what_is_damaged(project: Folder) -> None:
    path = save(project, json.dumps(about()))
    path.write_bytes(path.read_bytes().replace(b'"profiler"', b'"Profiler"'))
    old = digest(path)
    declare(project, "a1", IN_RECORD)
    refused = project.run("upgrade", "head", path)
    assert (refused.code, digest(path)) == (1, old)
    assert f"{RECORD} is damaged" in refused.err


def test_what_is_too_large(project: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_json, "MOST", 100)
    path = save(project, json.dumps(about()))
    declare(project, "a1", IN_RECORD)
    refused = project.run("upgrade", "head", path)
    assert refused.code == 1
    assert "bytes; at most 100 are read as JSON" in refused.err


@pytest.mark.parametrize("value", ["{1, 2}", "'\\ud800'", "part"])
def test_what_a_function_leaves_has_to_be_json(project: Folder, value: str) -> None:
    path = save(project, json.dumps(about(), ensure_ascii=False))
    old = digest(path)
    top = f"def spoil(part):\n    part['x'] = {value}\n    return part\n"
    declare(project, "a1", f'op.At([], [op.Run("spoil")], records={{"{RECORD}": ""}})', top=top)
    refused = project.run("upgrade", "head", path)
    assert (refused.code, "of the archive is not JSON" in refused.err) == (1, True), refused.err
    assert digest(path) == old


@pytest.mark.parametrize(
    ("operation", "says"),
    [
        ('op.At(["a"], [op.Rename("x", "y")])', "Rename does not change items; put it outside of At"),
        ('op.At(["a"], [op.MoveClass("a.A", "b.B")])', "MoveClass does not change items"),
        ('op.At(["a"], [op.At(["b"], [op.DropItem("c")])])', "At does not change items"),
        ('op.At(["a"], [])', "operations must be a list of operations"),
        ('op.At("a", [op.DropItem("c")])', "paths must be a list of paths"),
        ('op.At([""], [op.DropItem("c")])', "paths must be a path"),
        ('op.At([], [op.DropItem("c")])', "At needs a place: paths, or records"),
        ('op.At([], [op.DropItem("c")], ["a.json"])', "records must be a dict of names and paths"),
        (
            'op.At([], [op.DropItem("c")], {"ckpt_migrate/record.json": ""})',
            "the place of the record of the checkpoint",
        ),
        ('op.At(["a"], [op.RestoreItem("c", 0, None, True)])', "RestoreItem is an unknown operation"),
        ('op.At(["a"], [op.DropItem(c)])', "operations must be literal calls"),
    ],
)
def test_what_makes_no_sense(project: Folder, operation: str, says: str) -> None:
    declare(project, "a1", operation)
    ran = project.run("check")
    assert (ran.code, says in ran.out) == (1, True), ran.out


def test_it_is_data() -> None:
    made = op.At([["a", "b.c"], "d"], [op.SetItem("x", [1], overwrite=False), op.Run("f", "g")], {"r.json": ""})
    assert from_data(json.loads(json.dumps(made.to_data()))) == made
    assert repr(made).startswith('At([["a", "b.c"], ["d"]], [SetItem(["x"], [1], overwrite=False), Run("f"')
    assert hash(made) == hash(from_data(made.to_data()))
    with pytest.raises(BadOperation, match="needs operations"):
        from_data({"op": "At", "paths": ["a"]})
