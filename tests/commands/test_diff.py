"""diff and autogenerate, on checkpoints of real refactorings: what is written turns OLD into NEW."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest

from anemoi_ckpt_migrate import diff
from tests.support.diff import pair, torch
from tests.support.project import Folder, digest
from tests.support.refactoring_proof import prove
from tests.support.refactorings import REFACTORINGS, decoder


@pytest.mark.parametrize("other", [False, True], ids=["same weights", "other weights"])
@pytest.mark.parametrize("name", REFACTORINGS)
def test_what_is_written_turns_one_into_the_other(project: Folder, name: str, other: bool) -> None:
    """With the same weights, content decides; with others, names, shapes and order do, so values may be mistaken."""
    proof = prove(REFACTORINGS[name], other)
    assert proof.explained
    assert proof.back
    assert other or (proof.values and proof.trains and not proof.guesses)


def test_the_table_folds_blocks(project: Folder) -> None:
    paths = pair(project, *REFACTORINGS["attention fused"]())
    ran = project.ok("diff", *paths)
    assert (
        "fused  h.{0..11}.attn.q.weight, h.{0..11}.attn.k.weight, h.{0..11}.attn.v.weight -> h.{0..11}.attn.qkv.weight"
        in ran.out
    )
    assert "3 x [16, 16] -> [48, 16]; 12 times" in ran.out
    found = json.loads(project.ok("diff", *paths, "--json").out)
    assert {change["kind"] for change in found["changes"]} == {"same", "fused"}
    assert [operation["op"] for operation in found["operations"]] == ["Fuse", "Fuse"]


def test_a_model_has_no_content(project: Folder) -> None:
    """It is built where weights need no memory, from the current folder."""
    (project.path / "models.py").write_text(
        "from torch import nn\n\ndef build():\n    return nn.Sequential(nn.Linear(4, 10**6), nn.Linear(10**6, 2))\n"
        "\ndef broken():\n    raise RuntimeError('no such thing')\n\ndef text():\n    return 'x'\n"
        "\ndef leaving():\n    raise SystemExit(5)\n\ndef sized(width):\n    return nn.Linear(width, 1)\n"
        "\ndef empty():\n    return nn.Identity()\n\ndef talking():\n    print('HELLO')\n    return build()\n"
    )
    states = OrderedDict(a=torch.zeros(1), w=torch.zeros(2))
    torch.save({"state_dict": states}, project.path / "old.pt")
    found = diff(project.path / "old.pt", "models:build")
    assert not found.contents
    assert {name for change in found.changes for name in change.new} == {"0.weight", "0.bias", "1.weight", "1.bias"}
    for name, says in (
        ("models:broken", "models:broken failed with RuntimeError: no such thing"),
        ("models:text", "models:text returns a strinstead of a torch.nn.Module"),
        ("models:leaving", "models:leaving failed with SystemExit: 5"),
        ("models:sized", "models:sized cannot be called without arguments: missing a required argument: 'width'"),
        ("models:empty", "models:empty returns a model without any parameters"),
        ("models:none", "models has no function none"),
        ("models:nn", "models has no function nn"),
        ("nowhere.at_all:x", "nowhere.at_all cannot be imported: ModuleNotFoundError: No module named 'nowhere'"),
        ("missing.pt", "missing.pt"),
    ):
        ran = project.run("diff", "old.pt", name)
        assert ran.code in (1, 2)
        assert says in ran.err
        assert "old.pt:" not in ran.err
    ran = project.run("diff", "models:build", "old.pt")
    assert ran.code == 2
    assert "models:build is a model; only the second argument can be one" in ran.err
    assert json.loads(project.ok("diff", "--json", "old.pt", "models:talking").out)["contents"] is False


def test_nothing_to_write_or_nothing_in_common(project: Folder) -> None:
    old = decoder(2)
    paths = pair(project, old, old)
    before = digest(paths[0])
    ran = project.run("revision", "x", "--autogenerate", *paths)
    assert ran.code == 2
    assert "have the same parameters: there is nothing to migrate" in ran.err
    torch.save({"state_dict": OrderedDict((f"z{n}", torch.randn(n + 1, 77)) for n in range(9))}, paths[1])
    ran = project.run("revision", "x", "--autogenerate", *paths)
    assert ran.code == 3
    assert "has almost nothing in common with" in ran.err
    assert not list((project.path / "versions").iterdir())
    assert digest(paths[0]) == before


def test_guesses_are_marked(project: Folder) -> None:
    """Two of one shape, both renamed to names that say nothing: the script says so."""
    old = OrderedDict(alpha=torch.randn(3, 3), beta=torch.randn(3, 3), c=torch.randn(2))
    new = OrderedDict(x1=torch.randn(3, 3), x2=torch.randn(3, 3), c=torch.randn(2))
    paths = pair(project, old, new)
    ran = project.ok("revision", "x", "--autogenerate", *paths)
    assert "are guesses; comments in the script mark them" in ran.err
    text = next((project.path / "versions").iterdir()).read_text()
    assert "% certain: check it." in text


def test_what_is_added_says_what_nobody_knows_of_it(project: Folder) -> None:
    """Neither what is in it, nor whether an optimizer has it, can be told by names and shapes."""
    paths = pair(project, {"w": torch.zeros(3, 4)}, {"w": torch.zeros(3, 4), "scale": torch.ones(5)})
    made = project.ok("revision", "x", "--autogenerate", *paths)
    comment, line = Path(made.out.split()[1]).read_text().splitlines()[-3:-1]
    assert line.strip() == 'op.Add("scale", [5]),'
    assert "Adds zeros; use `fill` or `init` for other values. A buffer needs buffer=True." in comment


JOINED = ("attention fused", "attention split", "experts stacked", "grouped queries fused")


@pytest.mark.parametrize("name", JOINED)
def test_other_weights_are_joined_as_the_same_ones_are(project: Folder, name: str) -> None:
    """What names say, and no shape contradicts, is not turned about only because nothing can prove it."""
    old, new = REFACTORINGS[name]()
    with_content = [str(guess.operation) for guess in diff(*pair(project, old, new)).explanation.operations]
    others = OrderedDict((n, torch.randn_like(v) if v.is_floating_point() else v) for n, v in new.items())
    guesses = diff(*pair(project, old, others)).explanation.operations
    assert [str(guess.operation) for guess in guesses] == with_content
    assert all(guess.confidence < 1 for guess in guesses)


def attention(width: int, *names: str, bias: float = 1.0) -> dict[str, Any]:
    found = {f"{name}.weight": torch.randn(width, width) for name in names}
    return found | {f"{name}.bias": bias * torch.randn(width) for name in names}


def test_fused_and_turned_or_cast_at_once_is_proven(project: Folder) -> None:
    """The content of what is made in two steps is asked for too."""
    old = attention(4, "q", "k", "v") | {"rest.weight": torch.randn(4, 9)}
    parts = [old[f"{name}.weight"] for name in "qkv"]
    for made in (torch.cat(parts).half(), torch.cat([part.t() for part in parts], 1).contiguous()):
        new = {"qkv.weight": made, "qkv.bias": torch.cat([old[f"{n}.bias"] for n in "qkv"]), "rest.weight": made[:1]}
        new["rest.weight"] = old["rest.weight"]
        found = diff(*pair(project, old, new))
        assert {change.kind: change.confidence for change in found.changes} == {"fused": 1.0, "same": 1.0}


def test_parts_that_are_alike_in_one_block_are_told_by_the_others(project: Folder) -> None:
    """In the first block two biases are zeros, so that two orders fit there; in the second, one does."""
    old: dict[str, Any] = {}
    for block, scale in ((0, 0.0), (1, 1.0)):
        old |= {f"h.{block}.{n}": value for n, value in attention(4, "q", "k", "v", bias=scale).items()}
    new = {
        f"h.{block}.all.{leaf}": torch.cat([old[f"h.{block}.{name}.{leaf}"] for name in "vqk"])
        for block in (0, 1)
        for leaf in ("weight", "bias")
    }
    paths = pair(project, old, new)
    project.ok("revision", "x", "--autogenerate", *paths)
    project.ok("upgrade", "head", paths[0])
    made = torch.load(paths[0])["state_dict"]
    assert all(torch.equal(made[name], new[name]) for name in new)


def test_a_table_that_never_changes_proves_nothing_of_the_rest(project: Folder) -> None:
    """Positions are the same after any training; what is not found must be marked all the same."""

    def states(block: str, up: str) -> dict[str, Any]:
        found = {"rotary.inv_freq": torch.arange(8.0)}
        for number in range(3):
            found |= {f"{block}.{number}.{up}.weight": torch.randn(8, 4), f"{block}.{number}.norm": torch.randn(4)}
        return found

    paths = pair(project, states("layers", "linear1"), states("blocks", "up"))
    found = diff(*paths)
    assert {change.kind for change in found.changes if "weight" in (*change.old, *change.new)[0]} == {"renamed"}
    fewer = {name: torch.randn_like(value) for name, value in states("layers", "linear1").items() if ".2." not in name}
    fewer["rotary.inv_freq"] = torch.arange(8.0)
    found = diff(*pair(project, states("layers", "linear1"), fewer))
    assert all(guess.confidence < 1 for guess in found.explanation.operations)


def test_names_of_a_checkpoint_become_no_code(project: Folder) -> None:
    """A name with a line break, as an alternative in a comment, would go on as a line of the script."""
    evil = 'x\n    op.Run("pwn"),\n]\n\ndef pwn(ckpt):\n    open("pwned", "w").close()\n    return ckpt\n\n_ = [\n    #'
    same = {"same": torch.randn(99)}
    old = {evil: torch.randn(7), "other": torch.randn(7), **same}
    paths = pair(project, old, {"a": torch.randn(7), "b": torch.randn(7), **same})
    project.ok("revision", "x", "--autogenerate", *paths)
    project.ok("upgrade", "head", paths[0])
    assert list(torch.load(paths[0])["state_dict"]) == ["a", "b", "same"]
    assert not (project.path / "pwned").exists()


def test_what_is_not_dense_is_said_to_be_left_out(project: Folder) -> None:
    old = {"w": torch.eye(3).to_sparse(), "b": torch.randn(3)}
    paths = pair(project, old, {"w": old["w"], "c": old["b"]})
    assert "not compared, because they are not dense tensors: w in" in project.ok("diff", *paths).out
    assert "w of" in project.ok("revision", "x", "--autogenerate", *paths).err
    project.ok("upgrade", "head", paths[0])
    assert set(torch.load(paths[0])["state_dict"]) == {"w", "c"}


def test_other_values_alone_are_nothing_to_migrate(project: Folder) -> None:
    paths = pair(project, {"w": torch.randn(3, 3)}, {"w": torch.randn(3, 3)})
    ran = project.run("revision", "x", "--autogenerate", *paths)
    assert ran.code == 2
    assert "have the same parameters, but other values, which no operation explains" in ran.err


def test_diff_needs_no_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": torch.ones(2)}, "old.pt")
    torch.save({"b": torch.ones(2)}, "new.pt")
    assert [str(guess.operation) for guess in diff("old.pt", "new.pt").explanation.operations] == ['Rename("a", "b")']
