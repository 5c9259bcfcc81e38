"""diff and autogenerate, on checkpoints of real refactorings: what is written turns OLD into NEW."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from anemoi_ckpt_migrate import diff  # noqa: E402
from tests.conftest import Folder, digest  # noqa: E402
from tests.refactorings import REFACTORINGS, decoder  # noqa: E402


def pair(project: Folder, old: Any, new: Any) -> tuple[Path, Path]:
    paths = project.path / "old.pt", project.path / "new.pt"
    for path, states in zip(paths, (old, new), strict=True):
        torch.save({"state_dict": states}, path)
    return paths


def facts(path: Path) -> list[Any]:
    return [(name, value.shape, value.dtype) for name, value in torch.load(path)["state_dict"].items()]


@pytest.mark.parametrize("trained", [False, True], ids=["same weights", "other weights"])
@pytest.mark.parametrize("name", REFACTORINGS)
def test_what_is_written_turns_one_into_the_other(project: Folder, name: str, trained: bool) -> None:
    """With the same weights, content decides; with others, names, shapes and order do."""
    old, new = REFACTORINGS[name]()
    if trained:
        new = OrderedDict((n, torch.randn_like(v) if v.is_floating_point() else v) for n, v in new.items())
    paths = pair(project, old, new)
    ran = project.ok("revision", "new names", "--autogenerate", *paths)
    assert "not explained" not in ran.err
    project.ok("upgrade", "head", paths[0])
    assert facts(paths[0]) == facts(paths[1])
    same = {"LoRA merged away", "block inserted"}  # what was added is not known
    if not trained and name not in same:
        made, wanted = (torch.load(path)["state_dict"] for path in paths)
        assert all(torch.equal(made[key], wanted[key]) for key in wanted)


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
    )
    states = OrderedDict(a=torch.zeros(1), w=torch.zeros(2))
    torch.save({"state_dict": states}, project.path / "old.pt")
    found = diff(project.path / "old.pt", "models:build")
    assert not found.contents
    assert {name for change in found.changes for name in change.new} == {"0.weight", "0.bias", "1.weight", "1.bias"}
    for name, says in (
        ("models:broken", "models:broken failed with RuntimeError: no such thing"),
        ("models:text", "models:text is no function that returns a model: it returned a str"),
        ("models:none", "is no function that returns a model"),
        ("nowhere.at_all:x", "is no function that returns a model: No module named 'nowhere'"),
        ("missing.pt", "missing.pt"),
    ):
        ran = project.run("diff", "old.pt", name)
        assert ran.code in (1, 2)
        assert says in ran.err


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
    assert "has next to nothing to do with" in ran.err
    assert not list((project.path / "versions").iterdir())
    assert digest(paths[0]) == before


def test_guesses_are_marked(project: Folder) -> None:
    """Two of one shape, both renamed to names that say nothing: the script says so."""
    old = OrderedDict(alpha=torch.randn(3, 3), beta=torch.randn(3, 3), c=torch.randn(2))
    new = OrderedDict(x1=torch.randn(3, 3), x2=torch.randn(3, 3), c=torch.randn(2))
    paths = pair(project, old, new)
    ran = project.ok("revision", "x", "--autogenerate", *paths)
    assert "are guesses, and say so in the script" in ran.err
    text = next((project.path / "versions").iterdir()).read_text()
    assert "% certain: look at it." in text
