"""Casts before and behind what joins and parts parameters, with moments of the same dtype or of another.

    x (2, 3) --Cast--> x (2, 3) --.
                                  +--Fuse--> one (4, 3) --Split--> x, y ...
    y (2, 3) ---------------------'

Moments keep the dtype that they have: what is joined is of one dtype in the state dict, and in each kind of moments.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from tests.support.operations import declare, equal, without_record  # noqa: E402
from tests.support.project import Folder, digest  # noqa: E402

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
KINDS = ("exp_avg", "exp_avg_sq")


def saved(path: Path, weights: dict[str, Any], moments: list[Any]) -> Any:
    """Save parameters of some dtypes, and moments of some: both are numbers that every dtype has."""
    state = {
        place: {"step": torch.tensor(2.0)} | {kind: (value.float() + 1).to(dtype) for kind in KINDS}
        for place, (value, dtype) in enumerate(zip(weights.values(), moments, strict=True))
    }
    groups = [{"lr": 0.1, "params": list(range(len(weights)))}]
    torch.save({"state_dict": weights, "opt": {"state": state, "param_groups": groups}}, path)
    return load(path)


def load(path: Path) -> Any:
    return torch.load(path, weights_only=True)


def numbers(begin: int, *shape: int, dtype: Any = torch.float32) -> Any:
    return (torch.arange(torch.Size(shape).numel()) % 64 + begin).view(shape).to(dtype)


def test_what_was_cast_can_be_joined(project: Folder) -> None:
    """x bfloat16, y float32, moments float32: x becomes float32, and one of both."""
    path = project.path / "last.ckpt"
    weights = {"x": numbers(1, 2, 3, dtype=torch.bfloat16), "y": numbers(9, 2, 3)}
    before = saved(path, weights, [torch.float32, torch.float32])
    declare(project, "a1", 'op.Cast("x", "float32")', 'op.Fuse(["x", "y"], "one")')
    project.ok("upgrade", "head", path, "--check-rollback")
    after = load(path)
    assert torch.equal(after["state_dict"]["one"], torch.cat([weights["x"].float(), weights["y"]]))
    assert torch.equal(after["opt"]["state"][0]["exp_avg"], after["state_dict"]["one"] + 1)
    project.ok("downgrade", "base", path)
    assert equal(without_record(load(path)), before)


@pytest.mark.parametrize("parting", ['op.Unstack("s", ["x", "y"])', 'op.Split("s", ["x", "y"])'])
def test_a_part_that_was_cast_comes_back(project: Folder, parting: str) -> None:
    """s -> x, y; then x is cast and kept: on the way back both are of one dtype again, and the moments always were."""
    path = project.path / "last.ckpt"
    before = saved(path, {"s": numbers(1, 2, 3), "t": numbers(7, 5)}, [torch.float32, torch.float32])
    declare(project, "a1", parting)
    declare(project, "a2", 'op.Cast("x", "float16", keep=True)', parents="a1")
    project.ok("upgrade", "head", path, "--check-rollback")
    project.ok("downgrade", "base", path)
    assert equal(without_record(load(path)), before)


def test_moments_of_two_dtypes_are_not_joined(project: Folder) -> None:
    """The parameters agree by now; what the optimizer has of them does not, and one of it would be changed."""
    path = project.path / "last.ckpt"
    weights = {"x": numbers(1, 2, 3, dtype=torch.bfloat16), "y": numbers(9, 2, 3)}
    saved(path, weights, [torch.bfloat16, torch.float32])
    before = digest(path)
    declare(project, "a1", 'op.Cast("x", "float32")', 'op.Fuse(["x", "y"], "one")')
    ran = project.run("upgrade", "head", path)
    assert (ran.code, digest(path)) == (1, before)
    assert "in the optimizer's exp_avg, their dtypes differ: bfloat16 and float32" in ran.err


class Walk:
    """A random sequence of operations on parameters of one shape, and whether anything forbids it.

    Attributes
    ----------
    names : dict of str to (str, str, int)
        The dtype of each parameter, that of its moments, and how many of the first ones are in it.
    operations : list of str
        In order.
    fits : bool
        Whether all that is joined is of one dtype.
    """

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.dtypes = self.chance.sample(list(DTYPES), 2)
        moment = self.chance.choice([*DTYPES, None, None])  # None: that of the parameter, as torch makes them
        self.names: dict[str, tuple[str, str, int]] = {}
        for name in "abcd":
            dtype = self.chance.choice(self.dtypes)
            self.names[name] = (dtype, moment or dtype, 1)
        self.first = dict(self.names)
        self.operations: list[str] = []
        self.fits = True
        for number in range(6):
            self.chance.choice([self.cast, self.cast, self.join, self.join, self.part])(f"n{number}")

    def cast(self, new: str) -> None:
        name, dtype = self.chance.choice(list(self.names)), self.chance.choice(self.dtypes)
        _, moment, count = self.names[name]
        self.names[name] = (dtype, moment, count)
        self.operations.append(f"op.Cast({name!r}, {dtype!r}, keep=True)")

    def join(self, new: str) -> None:
        alike = [name for name in self.names if self.names[name][2] == 1]
        if len(alike) < 2 or not self.fits:
            return
        # Mostly what fits: else most walks would end here.
        first = self.chance.choice(alike)
        others = [name for name in alike if name != first]
        fitting = [name for name in others if self.names[name][:2] == self.names[first][:2]]
        if not fitting and self.chance.random() < 0.7:
            return
        second = self.chance.choice(fitting if fitting and self.chance.random() < 0.95 else others)
        self.fits = self.names[first][:2] == self.names[second][:2]
        dtype, moment, _ = self.names.pop(first)
        del self.names[second]
        self.names[new] = (dtype, moment, 2)
        self.operations.append(f"op.{self.chance.choice(['Fuse', 'Stack'])}([{first!r}, {second!r}], {new!r})")

    def part(self, new: str) -> None:
        joined = [name for name in self.names if self.names[name][2] == 2]
        if not joined or not self.fits:
            return
        name = self.chance.choice(joined)
        dtype, moment, _ = self.names.pop(name)
        stacked = any(each.startswith("op.Stack") and each.endswith(f"{name!r})") for each in self.operations)
        self.names |= {f"{new}_{part}": (dtype, moment, 1) for part in range(2)}
        kind = "Unstack" if stacked else "Split"
        self.operations.append(f"op.{kind}({name!r}, [{f'{new}_0'!r}, {f'{new}_1'!r}])")


@pytest.mark.parametrize("seed", range(40))
def test_any_sequence_goes_up_and_down_or_is_refused_for_a_reason(project: Folder, seed: int) -> None:
    path, walk = project.path / "last.ckpt", Walk(seed)
    weights = {
        name: numbers(20 * place, 2, 3, dtype=DTYPES[dtype])
        for place, (name, (dtype, _, _)) in enumerate(walk.first.items())
    }
    before = saved(path, weights, [DTYPES[moment] for _, moment, _ in walk.first.values()])
    was = digest(path)
    parents = None
    for number, operation in enumerate(walk.operations):
        declare(project, f"a{number}", operation, parents=parents)
        parents = f"a{number}"
    if not walk.fits:
        ran = project.run("upgrade", "head", path)
        assert (ran.code, digest(path)) == (1, was)
        assert "dtypes differ" in ran.err
        return
    project.ok("upgrade", "head", path)
    after = load(path)
    state = after["opt"]["state"]
    for place, (name, value) in enumerate(after["state_dict"].items()):
        dtype, moment, _ = walk.names[name]
        assert value.dtype == DTYPES[dtype]
        assert state[place]["exp_avg"].dtype == DTYPES[moment]
        assert torch.equal(state[place]["exp_avg"].float(), value.float() + 1)
    project.ok("downgrade", "base", path)
    assert equal(without_record(load(path)), before)
