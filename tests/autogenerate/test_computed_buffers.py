"""Buffers that are computed again: dropped and kept if they are small, and said to be lost if they are not."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from tests.support.diff import pair  # noqa: E402
from tests.support.operations import equal, without_record  # noqa: E402
from tests.support.project import Folder  # noqa: E402

BUFFERS = {
    "rotary_emb.inv_freq": torch.arange(8.0),
    "attn.mask": torch.ones(4, 4).tril().bool(),
    "attn.bias": torch.ones(1, 1, 4, 4).tril().bool(),
    "embeddings.position_ids": torch.arange(9)[None],
    "norm.num_batches_tracked": torch.tensor(3),
    "attn.relative_position_index": torch.arange(4),
}


def script(project: Folder) -> str:
    [path] = (project.path / "versions").glob("*.py")
    return path.read_text().partition("\noperations = ")[2]


def states(**more: Any) -> dict[str, Any]:
    return {"a.weight": torch.randn(30, 4), "b.weight": torch.randn(4, 4), **more}


@pytest.mark.parametrize("name", BUFFERS)
def test_a_small_one_is_kept_so_that_the_way_back_is_exact(project: Folder, name: str) -> None:
    old = states()
    paths = pair(project, old | {name: BUFFERS[name]}, old)
    before = torch.load(paths[0])
    ran = project.ok("revision", "no buffer", "--autogenerate", *paths)
    assert "lose" not in ran.err
    assert f'op.Drop("{name}", keep=True),' in script(project)
    project.ok("check")
    project.ok("upgrade", "head", paths[0], "--check-rollback")
    assert list(torch.load(paths[0])["state_dict"]) == list(old)
    project.ok("downgrade", "base", paths[0])
    assert equal(without_record(torch.load(paths[0])), before)


def test_large_ones_and_weights_are_said_to_be_lost(project: Folder) -> None:
    old = states()
    more = {"attn.mask": torch.ones(1100, 1100).tril().bool(), "head.weight": torch.randn(3, 3)}
    paths = pair(project, old | more, old)
    ran = project.ok("revision", "no buffer", "--autogenerate", *paths)
    assert "the script loses values: attn.mask is dropped, head.weight is dropped" in ran.err
    assert "keep=True)," not in script(project)
    assert project.run("check").code == 4


@pytest.mark.parametrize("kind", [dict, OrderedDict])
def test_tensors_alone_have_a_place_for_values_only_in_torch_s_own_state_dict(project: Folder, kind: type) -> None:
    """What the script advises can be done: nothing is kept where there is no place for it."""
    old, more = states(), {"attn.mask": torch.ones(4, 4).bool(), "w": torch.randn(9, 2)}
    paths = [project.path / "old.pt", project.path / "new.pt"]
    for path, tensors in zip(paths, (old | more, old | {"w": more["w"][:7]}), strict=True):
        torch.save(kind(tensors), path)
    ran = project.ok("revision", "no buffer", "--autogenerate", *paths)
    if kind is dict:
        assert "the checkpoint has no place for them; set `rollback = None` below `operations`" in ran.err
        assert 'op.Crop("w", 2, keep=False),' in script(project)
        assert "keep=True" not in script(project)
    else:
        assert 'op.Drop("attn.mask", keep=True),' in script(project)
    project.ok("upgrade", "head", paths[0])
    made = torch.load(paths[0])
    assert equal(made["w"], more["w"][:7])


def test_exact_operations_come_before_guesses(project: Folder) -> None:
    """A buffer is dropped for sure; one of two names is a guess, and its doubt takes one line."""
    old = states(alpha=torch.randn(3, 3), beta=torch.randn(3, 3), mask=torch.ones(4).bool())
    new = states(x1=torch.randn(3, 3), x2=torch.randn(3, 3))
    paths = pair(project, old, new)
    project.ok("revision", "x", "--autogenerate", *paths)
    lines = [line.strip() for line in script(project).splitlines()[1:-1]]
    assert lines[:2] == ['op.Drop("mask", keep=True),', "# Guesses:"]
    assert lines[2] == "# 33% certain: check it. alpha may now be x1 or x2"
    assert sum(line.startswith("# 33% certain: check it.") for line in lines) == 3
    assert sum("Adds zeros" in line for line in lines) == 1
    project.ok("upgrade", "head", paths[0])
    assert list(torch.load(paths[0])["state_dict"]) == list(new)


def test_other_weights_are_no_doubt(project: Folder) -> None:
    """Every value differs after another training; the script does not say so of each parameter."""
    old = {f"h.{i}.{n}.weight": torch.randn(4, 4) for i in range(5) for n in ("q", "k")}
    paths = pair(project, old, {name.replace("h.", "layers."): torch.randn(4, 4) for name in old})
    project.ok("revision", "x", "--autogenerate", *paths)
    assert "values differ" not in script(project)
    assert Path(paths[0]).exists()
