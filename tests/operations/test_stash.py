"""What operations have to give back as it was: copies, ties, kinds of tensors, items; and what they refuse to lose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from anemoi_ckpt_migrate import MigrateError, upgrade  # noqa: E402
from tests.support.operations import declare, equal, without_record  # noqa: E402
from tests.support.project import Folder, digest  # noqa: E402

LOOK = """
def look(ckpt):
    for value in ckpt["state_dict"].values():
        value.sum()
    return ckpt

def back(ckpt):
    return ckpt
"""


def saved(project: Folder, tree: Any) -> Path:
    path = project.path / "x.pt"
    torch.save(tree, path)
    return path


def load(path: Path) -> Any:
    return without_record(torch.load(path, weights_only=False))


def there_and_back(project: Folder, tree: Any) -> Any:
    """Go up and down, compare, and return what was up there."""
    path = saved(project, tree)
    before = load(path)
    project.ok("upgrade", "head", path)
    above = load(path)
    project.ok("downgrade", "base", path)
    assert equal(load(path), before)
    return above


class TestCopies:
    def test_what_was_not_done_to_a_copy_is_not_undone_there(self, project: Folder) -> None:
        """The average has had the precision that the weights are given now."""
        weight = torch.randn(3)
        declare(project, "a1", 'op.Cast("*", "float32")')
        tree = {"state_dict": {"w": weight.bfloat16()}, "ema": {"w": weight}}
        assert there_and_back(project, tree)["ema"]["w"].dtype == torch.float32

    def test_an_order_that_a_copy_had_already(self, project: Folder) -> None:
        declare(project, "a1", 'op.Reorder(["b", "a"])')
        a, b = torch.ones(2), torch.zeros(2)
        there_and_back(project, {"state_dict": {"a": a, "b": b}, "ema": {"b": b.clone(), "a": a.clone()}})

    def test_what_a_copy_alone_would_lose(self, project: Folder) -> None:
        path = saved(project, {"state_dict": {"w": torch.ones(2).bfloat16()}, "ema": {"w": torch.ones(2).double()}})
        declare(project, "a1", 'op.Cast("*", "float32")')
        project.ok("upgrade", "head", path)
        ran = project.run("downgrade", "base", path)
        assert ran.code == 3
        assert "a1 has no rollback" in ran.err

    def test_a_copy_that_came_later_has_nothing_put_aside(self, project: Folder) -> None:
        path = saved(project, {"state_dict": {"v": torch.ones(2), "w": torch.ones(3)}})
        declare(project, "a1", 'op.Drop("v", keep=True)')
        project.ok("upgrade", "head", path)
        tree = torch.load(path)
        torch.save({**tree, "ema": {"w": torch.ones(3)}}, path)
        ran = project.run("downgrade", "base", path)
        assert ran.code == 1
        assert "nothing was stashed for ema: at the upgrade it was no copy, or at another path" in ran.err


class TestTensors:
    @pytest.mark.parametrize("first", ["", 'op.Run("look", "back")'])
    def test_ties_hold_when_tensors_are_real(self, project: Folder, first: str) -> None:
        weight = torch.randn(4, 3)
        names = [first] if first else []
        declare(project, "a1", *names, 'op.Transpose(["emb", "head"])', 'op.Run("look", "back")', top=LOOK)
        path = saved(project, {"state_dict": {"emb": weight, "head": weight}})
        project.ok("upgrade", "head", path)
        states = torch.load(path)["state_dict"]
        assert states["emb"].data_ptr() == states["head"].data_ptr()
        assert torch.equal(states["emb"], weight.t())
        project.ok("downgrade", "base", path)
        states = torch.load(path)["state_dict"]
        assert states["emb"].data_ptr() == states["head"].data_ptr()

    def test_parameters_stay_parameters_when_they_are_real(self, project: Folder) -> None:
        model = torch.nn.Linear(3, 4)
        declare(project, "a1", 'op.Transpose("weight")', 'op.Run("look", "back")', top=LOOK)
        above = there_and_back(project, {"state_dict": model.state_dict(keep_vars=True)})
        assert type(above["state_dict"]["weight"]) is torch.nn.Parameter
        assert above["state_dict"]["weight"].requires_grad

    @pytest.mark.parametrize("look", [(), ('op.Run("look", "back")',)])
    def test_frozen_ones_are_not_joined_with_others(self, project: Folder, look: tuple[str, ...]) -> None:
        """The way back would make all of them frozen, or none."""
        states = {name: torch.nn.Parameter(torch.ones(2), requires_grad=name == "a") for name in "ab"}
        path = saved(project, {"state_dict": states})
        before = digest(path)
        declare(project, "a1", *look, 'op.Fuse(["a", "b"], "c")', top=LOOK)
        ran = project.run("upgrade", "head", path)
        assert ran.code == 1
        assert "parameters and plain tensors (or different requires_grad) cannot be combined" in ran.err
        assert digest(path) == before
        declare(project, "a1", *look, 'op.Cast("*", "float64")', top=LOOK)
        assert not there_and_back(project, {"state_dict": states})["state_dict"]["b"].requires_grad

    def test_what_was_added_can_be_looked_at(self, project: Folder) -> None:
        declare(project, "a1", 'op.Add("s", [2], fill=3)', 'op.Add("t", [3, 2], init="kaiming_uniform_")')
        declare(project, "a2", 'op.Run("look", "back")', parents="a1", top=LOOK)
        above = there_and_back(project, {"state_dict": {"w": torch.ones(2)}})
        assert above["state_dict"]["s"].tolist() == [3, 3]

    @pytest.mark.parametrize("made", ["conj", "negative"])
    def test_conjugates_are_refused(self, project: Folder, made: str) -> None:
        """torch saves the memory, and that it is to be read as the conjugate of itself."""
        value = torch.randn(4, 3, dtype=torch.cfloat).conj()
        path = saved(project, {"state_dict": {"w": value if made == "conj" else value.imag, "v": torch.ones(2, 2)}})
        before = digest(path)
        declare(project, "a1", 'op.Transpose("w")')
        ran = project.run("upgrade", "head", path)
        assert ran.code == 1
        assert digest(path) == before
        declare(project, "a1", 'op.Rename("w", "u")')
        project.ok("upgrade", "head", path)
        project.ok("downgrade", "base", path)
        found = torch.load(path)["state_dict"]["w"]
        assert torch.equal(found, value if made == "conj" else value.imag)

    def test_what_is_made_of_nothing_lives_where_the_others_did(self, project: Folder) -> None:
        """A checkpoint of a GPU: torch names the device of each storage in the pickle."""
        from anemoi_ckpt_migrate.storage import open_checkpoint
        from anemoi_ckpt_migrate.storage.tensors.deferred import storage_of

        path = saved(project, {"state_dict": {"a": torch.ones(2), "b": torch.zeros(3)}})
        with open_checkpoint(path) as file:
            tree = file.load()
            for tensor in tree["state_dict"].values():
                storage_of(tensor).location = "cuda:0"
            file.write(file.pickled(tree), {}, backup=False)
        declare(project, "a1", 'op.Add("s", [2])')
        project.ok("upgrade", "head", path)
        with open_checkpoint(path) as file:
            assert {storage_of(each).location for each in file.load()["state_dict"].values()} == {"cuda:0"}

    def test_zero_has_a_sign(self, project: Folder) -> None:
        declare(project, "a1", 'op.Add("z", [2], fill=-0.0)')
        above = there_and_back(project, {"state_dict": {"w": torch.ones(2)}})
        assert above["state_dict"]["z"].signbit().all()

    def test_damage_is_not_given_a_right_checksum(self, project: Folder) -> None:
        """A part of a damaged tensor would be written with the CRC of what it has become."""
        weight = torch.arange(4000.0)
        path = saved(project, {"state_dict": {"w": weight}})
        data = bytearray(path.read_bytes())
        at = bytes(data).index(weight.numpy().tobytes()) + 99
        data[at] ^= 1
        path.write_bytes(data)
        declare(project, "a1", 'op.Split("w", ["a", "b"])')
        ran = project.run("upgrade", "head", path)
        assert ran.code == 1
        assert "data/0 is damaged (wrong checksum)" in ran.err
        assert path.read_bytes() == bytes(data)


@pytest.mark.parametrize(
    ("operation", "says"),
    [
        ('op.Add("a", [2], dtype="uint8", fill=300)', "uint8 cannot represent 300"),
        ('op.Add("a", [2], dtype="uint8", fill=-1)', "uint8 cannot represent -1"),
        ('op.Add("a", [2], dtype="int32", fill=0.5)', "int32 cannot represent 0.5"),
        ('op.Add("a", [2], dtype="float16", fill=1e30)', "float16 cannot represent 1e+30"),
        (f'op.Add("a", [2], fill=1{"0" * 400})', "float32 cannot represent 10000"),
        ('op.Add("a", [2], init="nonsense_")', "init must be one of uniform_"),
        ('op.Add("a", [2], init="kaiming_uniform_")', "kaiming_uniform_ cannot make the shape [2]"),
        ('op.SetItem("ckpt_migrate", 1)', "ckpt_migrate is the place of the record of the checkpoint"),
        ('op.MoveItem("h", "ckpt_migrate")', "ckpt_migrate is the place of the record of the checkpoint"),
    ],
)
def test_what_makes_no_sense_is_said_when_the_script_is_read(project: Folder, operation: str, says: str) -> None:
    path = saved(project, {"state_dict": {"w": torch.ones(2)}, "h": 1})
    declare(project, "a1", operation)
    ran = project.run("upgrade", "head", path)
    assert ran.code == 1
    assert says in ran.err


def test_what_torch_refuses_to_make(project: Folder) -> None:
    """Found only when the file is written, which then does not happen."""
    path = saved(project, {"state_dict": {"w": torch.ones(2)}})
    before = digest(path)
    declare(project, "a1", 'op.Add("a", [2, 2], init=["normal_", {"nonsense": 1}])')
    for words in ([], ["--in-place"]):
        ran = project.run("upgrade", "head", path, *words)
        assert ran.code == 1
        assert "torch cannot make a tensor of shape [2, 2] and dtype float32 (init)" in ran.err
        assert digest(path) == before


class TestItems:
    def test_keys_that_are_numbers_come_back_as_numbers(self, project: Folder) -> None:
        declare(project, "a1", 'op.DropItem("h.0")', 'op.MoveItem("h.1", "one")', 'op.SetItem("h.2", "x")')
        above = there_and_back(project, {"w": {"w": torch.ones(2)}, "h": {0: "a", 1: "b", 2: "c", "0": "d"}})
        assert above["h"] == {0: "a", 2: "x"}
        assert above["one"] == "b"

    def test_a_tuple_that_was_set(self, project: Folder) -> None:
        declare(project, "a1", 'op.SetItem("hp.betas", (0.9, [1, {"a": 2}]))')
        there_and_back(project, {"hp": {"n": 1}, "w": {"w": torch.ones(1)}})

    def test_what_was_set_and_is_gone_since(self, project: Folder) -> None:
        path = saved(project, {"hp": {"n": 1}, "w": {"w": torch.ones(1)}})
        declare(project, "a1", 'op.SetItem("hp.n", 5)', 'op.SetItem("hp.m", 5)')
        project.ok("upgrade", "head", path)
        torch.save({**torch.load(path), "hp": {}}, path)
        assert project.run("downgrade", "base", path).code == 1
        project.ok("downgrade", "base", path, "--discard-changes")
        assert load(path)["hp"] == {"n": 1}

    def test_out_of_a_list(self, project: Folder) -> None:
        declare(project, "a1", 'op.MoveItem("xs.0", "first")')
        assert there_and_back(project, {"w": {"w": torch.ones(2)}, "xs": [1, 2, 3]})["xs"] == [2, 3]

    def test_nothing_is_moved_into_itself(self, project: Folder) -> None:
        path = saved(project, {"h": {"a": 1}, "w": {"w": torch.ones(1)}})
        declare(project, "a1", 'op.MoveItem("h", "h.new")')
        ran = project.run("upgrade", "head", path)
        assert ran.code == 1
        assert "h cannot be moved into itself" in ran.err

    @pytest.mark.parametrize("operation", ['op.DropItem("hp.n")', 'op.SetItem("hp.n", 5)', 'op.SetItem("hp.m", 5)'])
    def test_what_changed_since_is_not_lost_without_being_asked(self, project: Folder, operation: str) -> None:
        path = saved(project, {"hp": {"n": 1}, "w": {"w": torch.ones(1)}})
        declare(project, "a1", operation)
        project.ok("upgrade", "head", path)
        tree = torch.load(path)
        tree["hp"] |= {"n": 7} if "m" not in tree["hp"] else {"m": 7}
        torch.save(tree, path)
        before = digest(path)
        ran = project.run("downgrade", "base", path)
        assert ran.code == 1
        assert "--discard-changes" in ran.err
        assert digest(path) == before
        project.ok("downgrade", "base", path, "--discard-changes")
        assert load(path)["hp"] == {"n": 1}


class TestRecords:
    """
    a1 --- a2 --- a3
    """

    def project_of_three(self, project: Folder) -> Path:
        path = saved(project, {"state_dict": {"a": torch.ones(2), "m": torch.ones(2)}, "hp": {"n": 1}})
        declare(project, "a1", 'op.Rename("a", "b")')
        declare(project, "a2", 'op.Drop("m", keep=True)', 'op.SetItem("hp.n", 2)', parents="a1")
        declare(project, "a3", 'op.Rename("b", "c")', parents="a2")
        return path

    def test_a_stamp_keeps_what_undoes_what_was_applied(self, project: Folder) -> None:
        """The code of a3 was used for training already: a stamp says so, and a2 can still be undone."""
        path = self.project_of_three(project)
        before = load(path)
        project.ok("upgrade", "a2", path)
        tree = torch.load(path)
        tree["state_dict"]["c"] = tree["state_dict"].pop("b")
        torch.save(tree, path)
        project.ok("stamp", "a3", path)
        project.ok("downgrade", "base", path)
        assert equal(load(path), before)

    def test_a_stamp_forgets_what_was_put_aside_for_what_is_no_longer_there(self, project: Folder) -> None:
        path = self.project_of_three(project)
        project.ok("upgrade", "head", path)
        assert torch.load(path)["ckpt_migrate"]["stash"]
        project.ok("stamp", "base", path)
        assert "stash" not in torch.load(path)["ckpt_migrate"]

    @pytest.mark.parametrize(
        "damage",
        [
            lambda record: record.pop("stash"),
            lambda record: record["stash"]["a2"].clear(),
            lambda record: record["lineage"][1]["undo"]["operations"].append({"op": "Rename"}),
            lambda record: record["lineage"][1]["undo"]["operations"].append({"op": "RestoreParameters", "items": [1]}),
            lambda record: record["lineage"][1]["undo"]["operations"].append({"op": "RestoreParameters", "items": [["x", 99, 1]]}),
            lambda record: record["lineage"][1]["undo"]["operations"].append({"op": "RestoreItem", "path": "z"}),
            lambda record: record["lineage"][1]["undo"]["operations"].append({"op": "RestoreCast", "items": 3, "dtype": 3}),
            lambda record: record["lineage"][1]["undo"]["operations"].append({"op": "RemoveAdded", "added": 3, "names": 3}),
            lambda record: record["lineage"][1]["undo"]["operations"].append({"op": "PerCopy", "operations": 3}),
        ],
    )  # fmt: skip
    def test_a_record_that_somebody_edited(self, project: Folder, damage: Any) -> None:
        path = self.project_of_three(project)
        project.ok("upgrade", "head", path)
        tree = torch.load(path)
        damage(tree["ckpt_migrate"])
        torch.save(tree, path)
        before = digest(path)
        ran = project.run("downgrade", "base", path)
        assert ran.code in (1, 3, 4), ran.err
        assert "Traceback" not in ran.err
        assert digest(path) == before

    def test_a_plain_dict_has_no_place_for_what_is_kept(self, project: Folder) -> None:
        """From Python too, where torch is there and asks stand-ins for their class."""
        path = saved(project, {"a": torch.ones(2), "v": torch.ones(2)})
        before = digest(path)
        declare(project, "a1", 'op.Drop("v", keep=True)')
        for words in ([], ["--dry-run"], ["--check-rollback"]):
            ran = project.run("upgrade", "head", path, *words)
            assert ran.code == 3
            assert "a bare state dict or a pickled model has none" in ran.err
        with pytest.raises(MigrateError, match="need a place in the checkpoint"):
            upgrade(path, project=project.path)
        assert digest(path) == before

    def test_the_record_stays_plain_data(self, project: Folder) -> None:
        path = self.project_of_three(project)
        project.ok("upgrade", "head", path)
        record = torch.load(path, weights_only=True)["ckpt_migrate"]
        record.pop("stash")
        assert json.loads(json.dumps(record)) == record


def test_what_was_stamped_carries_inverses(project: Folder) -> None:
    """As far as the script tells them: of a drop, nothing is known."""
    declare(project, "a1", 'op.Drop("mask")')
    declare(project, "b2", 'op.Rename("x.weight", "y.weight")', parents="a1")
    torch.save({"state_dict": {"y.weight": torch.ones(2)}, "epoch": 1}, "new.ckpt")
    project.ok("stamp", "head", "new.ckpt")
    for script in (project.path / "versions").glob("*.py"):
        script.unlink()
    project.ok("downgrade", "-1", "new.ckpt")
    assert list(torch.load("new.ckpt")["state_dict"]) == ["x.weight"]
    before = digest(Path("new.ckpt"))
    refused = project.run("downgrade", "-1", "new.ckpt")
    assert (refused.code, "a1 has no rollback" in refused.err) == (3, True)
    assert digest(Path("new.ckpt")) == before


def test_parts_of_other_sizes_are_cut_again_as_the_script_says(project: Folder) -> None:
    """Grouped queries: what was stamped was never seen apart, so the script has to say how much each part has."""
    parts = {"q": torch.arange(16.0).view(8, 2), "k": torch.ones(2, 2), "v": torch.zeros(2, 2)}
    declare(project, "a", 'op.Fuse(["q", "k", "v"], "qkv", sizes=[8, 2, 2])')
    torch.save({"state_dict": {"qkv": torch.cat(list(parts.values()))}}, "new.pt")
    project.ok("stamp", "a", "new.pt")
    project.ok("downgrade", "base", "new.pt")
    assert equal(torch.load("new.pt")["state_dict"], parts)
    torch.save({"state_dict": {"q": torch.ones(4, 2), "k": torch.ones(4, 2), "v": torch.zeros(4, 2)}}, "wide.pt")
    before = torch.load("wide.pt")
    project.ok("upgrade", "a", "wide.pt", "--check-rollback")  # what is applied is cut again as it was
    project.ok("downgrade", "base", "wide.pt")
    assert equal(torch.load("wide.pt")["state_dict"], before["state_dict"])
    torch.save({"state_dict": {"qkv": torch.ones(15, 2)}}, "odd.pt")
    project.ok("stamp", "a", "odd.pt")
    ran = project.run("downgrade", "base", "odd.pt")
    assert ran.code == 1
    assert "its sizes [8, 2, 2] add up to 12, not to 15" in ran.err
    declare(project, "b", 'op.Fuse(["x", "y"], "z", sizes=[1])', parents="a")
    assert "Fuse: 2 sources need as many sizes, not 1" in project.run("check").out
