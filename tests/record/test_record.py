"""The record: plain data, where a strict load never meets it, and still there after torch.load and torch.save."""

from __future__ import annotations

import json
import re

import pytest

from anemoi_ckpt_migrate.record.record import FORMAT
from tests.support.project import RENAME, Folder, digest

torch = pytest.importorskip("torch")

from tests.support.operations import declare  # noqa: E402

MOVE = 'ckpt["y.weight"] = ckpt.pop("x.weight")'
BACK = 'ckpt["x.weight"] = ckpt.pop("y.weight")'


@pytest.fixture
def renaming(project: Folder) -> Folder:
    project.script("a1", None, 'd = ckpt.get("state_dict", ckpt)\nd["y.weight"] = d.pop("x.weight")',
                   'd = ckpt.get("state_dict", ckpt)\nd["x.weight"] = d.pop("y.weight")', version="1.0")  # fmt: skip
    return project


def test_in_a_training_checkpoint_it_is_an_entry_of_plain_data(renaming: Folder) -> None:
    checkpoint = renaming.copy()
    renaming.ok("upgrade", "head", checkpoint)
    record = torch.load(checkpoint, weights_only=True)["ckpt_migrate"]
    assert record["format"] == FORMAT
    assert record["heads"] == ["a1"]
    (entry,) = record["lineage"]
    assert entry["versions"] == {"migration": "1.0.0", "pkg": "1.0"}
    assert (entry["revision"], entry["parents"], entry["name"], entry["final"]) == ("a1", [], "change a1", False)
    assert re.fullmatch("[0-9a-f]{64}", entry["signature"])
    assert "def rollback" in entry["undo"]["source"]
    (log,) = record["log"]
    kept = (checkpoint.with_name("training.ckpt.bak")).stat()
    assert log.pop("backup") == {"number": 0, "size": kept.st_size, "modified": kept.st_mtime_ns}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", log.pop("time"))
    assert log == {
        "command": "upgrade",
        "target": "head",
        "from": [],
        "to": ["a1"],
        "steps": ["a1"],
        "tool": log["tool"],
    }
    assert plain(record)


def plain(data: object) -> bool:
    if isinstance(data, dict):
        return type(data) is dict and all(map(plain, [*data, *data.values()]))
    if isinstance(data, list):
        return all(map(plain, data))
    return type(data) in (str, int, float, bool, type(None), bytes)


def test_the_log_only_grows(renaming: Folder) -> None:
    checkpoint = renaming.copy()
    for words in (("upgrade", "head"), ("stamp", "base"), ("stamp", "head"), ("downgrade", "-1")):
        renaming.ok(*words, checkpoint)
    log = renaming.ok("current", checkpoint, "--json").lines[0]["log"]
    assert [(entry["command"], entry["target"], entry["to"]) for entry in log] == [
        ("upgrade", "head", ["a1"]),
        ("stamp", "base", []),
        ("stamp", "head", ["a1"]),
        ("downgrade", "-1", []),
    ]


@pytest.mark.parametrize("name", ["training.ckpt", "state_dict.pt"])
def test_it_survives_torch_load_and_torch_save(renaming: Folder, name: str) -> None:
    checkpoint = renaming.copy(name)
    renaming.ok("upgrade", "head", checkpoint)
    torch.save(torch.load(checkpoint, weights_only=True), checkpoint)
    assert renaming.ok("current", checkpoint, "--json").lines[0]["heads"][0]["revision"] == "a1"
    renaming.ok("downgrade", "base", checkpoint)


@pytest.mark.parametrize("name", ["state_dict.pt", "plain.pt"])
def test_a_strict_load_of_a_bare_state_dict_never_meets_it(renaming: Folder, name: str) -> None:
    from tests.data.make import Model

    checkpoint = renaming.copy(name)
    old = torch.load(checkpoint, weights_only=True)
    renaming.ok("upgrade", "head", checkpoint)
    for weights_only in (True, False):
        loaded = torch.load(checkpoint, weights_only=weights_only)
        assert type(loaded) is type(old)
        model = Model()
        model.y = model.x
        del model.x
        wanted = {key.replace("y.bias", "x.bias"): value for key, value in model.state_dict().items()}
        assert sorted(loaded) == sorted(wanted)
        if name == "state_dict.pt":
            # torch looks up the version of each module there, and nothing else.
            assert set(loaded._metadata) == {*old._metadata, "ckpt_migrate"}
            assert loaded._metadata["norm"] == {"version": 2}
    assert renaming.ok("current", checkpoint, "--json").lines[0]["heads"][0]["revision"] == "a1"
    renaming.ok("downgrade", "base", checkpoint)
    Model().load_state_dict(torch.load(checkpoint, weights_only=True), strict=True)


@pytest.mark.parametrize("make", [dict, __import__("collections").OrderedDict])
@pytest.mark.parametrize("kind", ["empty", "none", "attribute", "subclass", "quantized"])
def test_a_bare_state_dict_of_odd_values_is_one(project: Folder, make: type, kind: str) -> None:
    odd = torch.ones(2)
    odd.units = "K"
    values = {"none": None, "attribute": odd, "subclass": torch.nn.Parameter(odd),
              "quantized": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8)}  # fmt: skip
    state = make() if kind == "empty" else make({"weight": torch.ones(1), "odd": values[kind]})
    project.script("a1", None)
    checkpoint = project.path / "bare.pt"
    torch.save(state, checkpoint)
    project.ok("upgrade", "head", checkpoint)
    assert list(torch.load(checkpoint, weights_only=False)) == list(state)
    assert "already at a1" in project.ok("upgrade", "head", checkpoint).out


def test_scripts_never_see_it(project: Folder) -> None:
    look = (
        'assert "ckpt_migrate" not in ckpt, "seen"\nassert "ckpt_migrate" not in getattr(ckpt, "_metadata", {}), "seen"'
    )
    for revision, parent in (("a1", None), ("a2", "a1")):
        project.script(revision, parent, look, look)
    for name in ("training.ckpt", "state_dict.pt", "plain.pt"):
        checkpoint = project.copy(name)
        for words in (("upgrade", "+1"), ("upgrade", "+1"), ("downgrade", "-1"), ("downgrade", "-1")):
            project.ok(*words, checkpoint)


def test_it_moves_with_the_shape_of_the_checkpoint(project: Folder) -> None:
    """A bare state dict becomes a training checkpoint, and a bare state dict again."""
    project.script("a1", None, 'ckpt = {"state_dict": ckpt}', 'ckpt = ckpt["state_dict"]')
    for name in ("state_dict.pt", "plain.pt"):
        checkpoint = project.copy(name)
        project.ok("upgrade", "head", checkpoint)
        assert list(torch.load(checkpoint)) == ["state_dict", "ckpt_migrate"]
        assert "already at a1" in project.ok("upgrade", "head", checkpoint).out
        project.ok("downgrade", "base", checkpoint)
        assert "ckpt_migrate" not in torch.load(checkpoint)
        assert "already at base" in project.ok("downgrade", "base", checkpoint).out


def test_a_list_of_tensors_has_one_too(project: Folder) -> None:
    project.script("a1", None, "ckpt.reverse()", "ckpt.reverse()")
    checkpoint = project.copy("list.pt")
    before = torch.load(checkpoint)
    project.ok("upgrade", "head", checkpoint)
    after = torch.load(checkpoint, weights_only=True)
    assert all(torch.equal(one, other) for one, other in zip(after, reversed(before), strict=True))
    project.ok("downgrade", "-1", checkpoint)


def test_a_changed_script_is_named(renaming: Folder) -> None:
    checkpoint = renaming.copy()
    renaming.ok("upgrade", "head", checkpoint)
    script = renaming.path / "versions" / "a1_change.py"
    text = script.read_text()
    script.write_text(f"# a comment\n{text}\n\n")
    assert renaming.ok("current", checkpoint).err == ""
    script.write_text(text.replace('"y.weight"', '"z.weight"'))
    renaming.script("a2", "a1")
    for words in (["current"], ["history"], ["upgrade", "head", "--dry-run"], ["upgrade", "head"]):
        ran = renaming.ok(*words, checkpoint)
        assert "the script of a1 (change a1) has changed since it was applied" in ran.err
        assert "versions/a1_change.py" in ran.err


def test_a_stamp_accepts_a_changed_script(renaming: Folder) -> None:
    checkpoint = renaming.copy()
    renaming.ok("upgrade", "head", checkpoint)
    script = renaming.path / "versions" / "a1_change.py"
    script.write_text(script.read_text().replace('"y.weight"', '"z.weight"'))
    assert "already at a1, record written again (dry run" in renaming.ok("stamp", "head", checkpoint, "-n").out
    ran = renaming.ok("stamp", "head", checkpoint)
    assert "already at a1, record written again\n  the old file is kept as" in ran.out
    assert renaming.ok("current", checkpoint).err == ""
    assert "already at a1, nothing to do" in renaming.ok("stamp", "head", checkpoint).out


def test_the_record_does_not_say_where_scripts_lie(renaming: Folder) -> None:
    checkpoint = renaming.copy()
    renaming.ok("upgrade", "head", checkpoint)
    import base64

    undo = torch.load(checkpoint)["ckpt_migrate"]["lineage"][0]["undo"]
    assert str(renaming.path).encode() not in base64.b64decode(undo["pickle"])


def test_what_a_stranger_put_under_our_key_is_not_overwritten(project: Folder) -> None:
    project.script("a1", None, **RENAME)
    checkpoint = project.path / "x.ckpt"
    torch.save({"state_dict": {"x.weight": torch.ones(1)}, "ckpt_migrate": "theirs"}, checkpoint)
    ran = project.run("upgrade", "head", checkpoint)
    assert ran.code == 1
    assert "record is not a dict" in ran.err


def test_keys_of_a_later_version_survive(renaming: Folder) -> None:
    checkpoint = renaming.copy()
    renaming.ok("upgrade", "head", checkpoint)
    tree = torch.load(checkpoint, weights_only=True)
    later = {"structure": "sha256:0a1b", "set": {"members": ["a.pt", "b.pt"]}}
    tree["ckpt_migrate"] |= later
    torch.save(tree, checkpoint)
    renaming.ok("downgrade", "base", checkpoint)
    record = torch.load(checkpoint, weights_only=True)["ckpt_migrate"]
    assert {key: record[key] for key in later} == later


def test_a_key_that_is_no_plain_data_is_damage(renaming: Folder) -> None:
    checkpoint = renaming.copy()
    renaming.ok("upgrade", "head", checkpoint)
    tree = torch.load(checkpoint, weights_only=True)
    tree["ckpt_migrate"]["later"] = torch.zeros(2)
    torch.save(tree, checkpoint)
    before = digest(checkpoint)
    ran = renaming.run("downgrade", "base", checkpoint)
    assert ran.code != 0
    assert "not plain data" in ran.err
    assert digest(checkpoint) == before


def test_only_the_stash_is_no_json(project: Folder) -> None:
    """Operations may put sets, bytes, and dicts with numbers as keys into a checkpoint; their record is JSON."""
    checkpoint = project.copy()
    old = {"epochs": {3: 1.5}, "tags": {"ema"}, "raw": b"x", "size": (1, 2), "scale": 1j}
    tree = torch.load(checkpoint, weights_only=True)
    torch.save(tree | {"notes": old}, checkpoint)
    declare(project, "a1", 'op.SetItem("notes", {7: 1e400, "c": (1, 2)})')
    project.ok("upgrade", "head", checkpoint)
    record = torch.load(checkpoint, weights_only=False)["ckpt_migrate"]
    record.pop("stash", None)
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    project.ok("downgrade", "base", checkpoint)
    assert torch.load(checkpoint, weights_only=False)["notes"] == old
