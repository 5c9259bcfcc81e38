"""Optimizers of which it would be wrong to guess which parameter is which: real ones, with one thing changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from tests.support.operations import declare, equal, without_record  # noqa: E402
from tests.support.project import Folder, digest  # noqa: E402


class Three(nn.Module):
    """Three matrices of one shape, and a buffer of integers that has it too."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Parameter(torch.eye(4) * scale) for scale in (1, 2, 3))
        self.register_buffer("n", torch.ones(4, 4, dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.a @ torch.tanh(self.b) @ torch.sin(self.c)


def step(model: nn.Module, optimizer: Any) -> None:
    optimizer.zero_grad()
    model(torch.randn(5, 4, generator=torch.Generator().manual_seed(1))).square().mean().backward()
    optimizer.step()


def trained(path: Path, order: str, named: bool = False) -> Any:
    """Train with the parameters in an order, and save that."""
    model = Three()
    given = [(name, getattr(model, name)) if named else getattr(model, name) for name in order]
    optimizer = torch.optim.AdamW(given, lr=1e-2)
    step(model, optimizer)
    tree = {"state_dict": model.state_dict(), "opt": optimizer.state_dict()}
    torch.save(tree, path)
    return tree


def refused(project: Folder, path: Path, *words: str) -> str:
    before = digest(path)
    ran = project.run("upgrade", *words, path)
    assert (ran.code, digest(path)) == (1, before)
    return ran.err


def twice(tree: Any) -> None:
    tree["opt"]["param_groups"][0]["param_names"][1] = "a"


def no_tensor(tree: Any) -> None:
    tree["state_dict"]["b"] = 3


def other_numbers(tree: Any) -> None:
    del tree["opt"]["param_groups"][0]["param_names"]
    tree["opt"]["param_groups"][0]["params"].reverse()


CHANGES: dict[str, tuple[Callable[[Any], None], str]] = {
    "a parameter twice": (twice, "would have a twice; list them with op.ParameterGroups"),
    "a number for a parameter": (no_tensor, "b, which the optimizer at opt would have, is not a tensor"),
    "numbers backwards": (other_numbers, "does not number its parameters as torch does"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_an_optimizer_that_torch_did_not_save(project: Folder, what: str) -> None:
    path = project.path / "last.ckpt"
    change, says = CHANGES[what]
    tree = trained(path, "abc", named=True)
    declare(project, "a1", 'op.Transpose("a")')
    change(tree)
    torch.save(tree, path)
    assert says in refused(project, path, "head")


@pytest.mark.parametrize("runs", [["head"], ["a1", "head"]], ids=["in one run", "in two"])
def test_nothing_is_added_to_an_order_of_its_own(project: Folder, runs: list[str]) -> None:
    """The optimizer has c, a, b. Without c that looks like the order of the state dict, and is not it."""
    path = project.path / "last.ckpt"
    before = trained(path, "cab")
    declare(project, "a1", 'op.ParameterGroups([["c", "a", "b"]])', 'op.Drop("c", keep=True)')
    declare(project, "a2", 'op.Add("d", [4, 4], "float32")', parents="a1")
    for target in runs[:-1]:
        project.ok("upgrade", target, path)
    assert "has its own order of parameters" in refused(project, path, runs[-1])
    # What the message asks for: a script that moves nothing goes on, and c comes back to the front.
    declare(project, "a2", 'op.Rename("b", "z")', parents="a1")
    for target in runs:
        project.ok("upgrade", target, path)
    project.ok("downgrade", "base", path)
    after = without_record(torch.load(path, weights_only=True))
    assert equal(after["opt"], before["opt"])
    model = Three()
    model.load_state_dict(after["state_dict"])
    optimizer = torch.optim.AdamW([model.c, model.a, model.b], lr=1e-2)
    optimizer.load_state_dict(after["opt"])
    step(model, optimizer)
    straight = Three()
    straight.load_state_dict(before["state_dict"])
    kept = torch.optim.AdamW([straight.c, straight.a, straight.b], lr=1e-2)
    kept.load_state_dict(before["opt"])
    step(straight, kept)
    assert equal(model.state_dict(), straight.state_dict())


@pytest.mark.parametrize("groups", [[["b", "n"]], [["b", "b"]]], ids=["a buffer of integers", "one twice"])
def test_a_record_that_names_what_cannot_be_is_not_believed(project: Folder, groups: Any) -> None:
    path = project.path / "last.ckpt"
    trained(path, "ba")
    declare(project, "a1", 'op.ParameterGroups([["b", "a"]])', 'op.Rename("a", "x")')
    declare(project, "a2", 'op.Transpose("x")', parents="a1")
    project.ok("upgrade", "a1", path)
    tree = torch.load(path, weights_only=True)
    assert tree["ckpt_migrate"]["optimizers"]["opt"]["groups"] == [["b", "x"]]
    tree["ckpt_migrate"]["optimizers"]["opt"]["groups"] = groups
    torch.save(tree, path)
    assert "has moments that may belong to" in refused(project, path, "head")


ANEW = """
def up(ckpt):
    ckpt["state_dict"] = type(ckpt["state_dict"])((k, v + 0) for k, v in ckpt["state_dict"].items())
    return ckpt
"""


@pytest.mark.parametrize("runs", [["head"], ["a1", "head"]], ids=["in one run", "in two"])
def test_what_was_said_is_not_forgotten_for_a_guess(project: Folder, runs: list[str]) -> None:
    """The optimizer has b, a, c; when a function makes all tensors anew, shapes would say a, b, c."""
    path = project.path / "last.ckpt"
    trained(path, "bac")
    said = 'op.ParameterGroups([["b", "a", "c"]])'
    declare(project, "a1", said, 'op.Rename("c", "d")', 'op.SetItem("x", 1)', 'op.Rename("d", "e")')
    declare(project, "a2", 'op.Run("up", "up")', 'op.Transpose("a")', parents="a1", top=ANEW)
    for target in runs[:-1]:
        project.ok("upgrade", target, path)
    assert "list them again after the function" in refused(project, path, runs[-1])
