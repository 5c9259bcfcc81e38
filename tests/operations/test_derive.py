"""Operations that a function of the script says, where names alone do not tell which there are to be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from tests.support.operations import declare, equal, without_record  # noqa: E402
from tests.support.project import Folder, digest  # noqa: E402

FUSED = """
def fused(ckpt):
    heads = ckpt["config"]["heads"]
    return [op.Fuse([f"{head}.w" for head in heads], "w", dim=1)] if len(heads) > 1 else [op.Rename(f"{heads[0]}.w", "w")]


def parted(ckpt):
    heads = ckpt["config"]["heads"]
    return [op.Split("w", [f"{head}.w" for head in heads], dim=1)] if len(heads) > 1 else [op.Rename("w", f"{heads[0]}.w")]
"""
DERIVE = "op.Derive(fused, parted)"


def saved(project: Folder, *heads: str) -> Path:
    """Save a model with some heads, after a step of training."""
    path = project.path / "heads.pt"
    model = torch.nn.ModuleDict({head: torch.nn.Linear(2, 3, bias=False) for head in heads})
    state_dict = {f"{head}.w": model[head].weight for head in heads}
    optimizer = torch.optim.Adam(state_dict.values())
    sum((weight * number).sum() for number, weight in enumerate(state_dict.values(), 1)).backward()
    optimizer.step()
    state = {name: weight.detach() for name, weight in state_dict.items()}
    torch.save({"state_dict": state, "optimizer": optimizer.state_dict(), "config": {"heads": list(heads)}}, path)
    return path


def read(path: Path) -> Any:
    return without_record(torch.load(path, weights_only=True))


@pytest.mark.parametrize("heads", [("only",), ("era", "cerra")])
def test_what_is_done_depends_on_the_checkpoint(project: Folder, heads: tuple[str, ...]) -> None:
    path = saved(project, *heads)
    before = read(path)
    declare(project, "a1", DERIVE, top=FUSED)
    project.ok("upgrade", "head", path, "--check-rollback")
    after = read(path)
    assert equal(after["state_dict"]["w"], torch.cat(list(before["state_dict"].values()), 1))
    moments = [each["exp_avg"] for each in before["optimizer"]["state"].values()]
    assert equal(after["optimizer"]["state"][0]["exp_avg"], torch.cat(moments, 1))
    project.ok("downgrade", "base", path)
    assert equal(read(path), before)


def test_the_way_back_is_data(project: Folder) -> None:
    """Code that has never seen the script takes the checkpoint back, and no function runs."""
    path = saved(project, "era", "cerra")
    before = read(path)
    script = declare(project, "a1", DERIVE, top=FUSED)
    project.ok("upgrade", "head", path)
    script.unlink()
    project.ok("downgrade", "base", path)
    assert equal(read(path), before)


def test_one_that_was_stamped(project: Folder) -> None:
    path = saved(project, "era", "cerra")
    before = read(path)
    declare(project, "a1", DERIVE, top=FUSED)
    project.ok("upgrade", "head", path)
    torch.save(read(path), path)  # without its record
    project.ok("stamp", "head", path)
    project.ok("downgrade", "base", path)
    assert equal(read(path), before)


@pytest.mark.parametrize(
    ("operation", "body", "says"),
    [
        ("op.Derive(fused)", "return []", "Derive needs rollback"),
        ("op.Derive(fused, fused)", "return ckpt", "`fused` returned a dict instead of a list of operations"),
        ("op.Derive(fused, fused)", "return None", "`fused` returned a NoneType instead of a list of operations"),
        ("op.Derive(fused, fused)", "return ['w']", "fused returned 'w', which is not allowed there"),
        ("op.Derive(fused, fused)", "return [op.Run(fused)]", "which is not allowed there"),
        ("op.Derive(fused, fused)", "return [op.Drop('nope', keep=True)]", "there is no nope"),
        ("op.Derive(fused, fused)", "return [op.Drop(3)]", "Drop: keys must be a name"),
        ("op.Derive(fused, fused)", "raise ValueError('there are no heads')", "there are no heads"),
    ],
)
def test_one_sentence(project: Folder, operation: str, body: str, says: str) -> None:
    path = saved(project, "only")
    before = digest(path)
    declare(project, "a1", operation, top=f"def fused(ckpt):\n    {body}\n")
    ran = project.run("upgrade", "head", path)
    assert (ran.code, says in ran.err, "Traceback" in ran.err) == (1, True, False), ran.err
    assert digest(path) == before


def test_it_may_look_at_what_is_in_tensors(project: Folder) -> None:
    path = saved(project, "era", "cerra")
    top = """
def largest(ckpt):
    weights = ckpt["state_dict"]
    return [op.Rename(max(weights, key=lambda name: weights[name].sum().item()), "x")]


def smallest(ckpt):
    raise NotImplementedError
"""
    before = read(path)
    declare(project, "a1", "op.Derive(largest, smallest)", "op.Rename('x', 'y')", top=top)
    project.ok("upgrade", "head", path, "--check-rollback")
    largest = max(before["state_dict"].values(), key=lambda weight: weight.sum().item())
    assert equal(read(path)["state_dict"]["y"], largest)


def test_check_looks_for_the_functions(project: Folder) -> None:
    declare(project, "a1", "op.Derive('fused', 'nope')", top=FUSED)
    ran = project.run("check")
    assert "`nope` is not a function" in ran.err + ran.out
