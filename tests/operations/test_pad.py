"""What a dimension is made larger by: rows for new words, columns for new inputs."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from anemoi_ckpt_migrate import op  # noqa: E402
from tests.support.operations import declare, equal, without_record  # noqa: E402
from tests.support.project import Folder, digest  # noqa: E402
from tests.support.tensors import dtypes, slow, tensor, up_and_down  # noqa: E402


@slow
@given(shape=st.lists(st.integers(0, 4), min_size=1, max_size=3), dtype=dtypes, size=st.integers(1, 3), data=st.data())
def test_what_is_new_lies_between_what_was_there(
    project: Folder, shape: list[int], dtype: Any, size: int, data: Any
) -> None:
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    at = data.draw(st.none() | st.integers(0, shape[dim]))
    value = tensor(shape, dtype)
    after = up_and_down(project, OrderedDict(a=torch.ones(1), w=value), op.Pad("w", size, dim, at, 1))["w"]
    at = shape[dim] if at is None else at
    assert after.shape[dim] == shape[dim] + size
    assert (after.narrow(dim, at, size).float() == 1).all()
    whole = after.view(torch.uint8) if dtype.itemsize == 1 else after
    rest = torch.cat([whole.narrow(dim, 0, at), whole.narrow(dim, at + size, shape[dim] - at)], dim)
    assert equal(rest.view(dtype), value)


class Embedded(torch.nn.Module):
    """Words, and what a linear layer makes of them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(width, 3)

    def forward(self, x: Any) -> Any:
        return self.linear(x)


def trained(model: Any, optimizer: Any, width: int, steps: int) -> None:
    numbers = torch.Generator().manual_seed(steps)
    for _ in range(steps):
        x = torch.randn(5, 7, generator=numbers)[:, :width]
        optimizer.zero_grad()
        (model(x) - 1).square().mean().backward()
        optimizer.step()


OPTIMIZERS = {
    "AdamW": lambda own: torch.optim.AdamW(own, lr=0.1, weight_decay=0.1),
    "AdamW, amsgrad": lambda own: torch.optim.AdamW(own, lr=0.1, amsgrad=True),
    "Adam, foreach": lambda own: torch.optim.Adam(own, lr=0.1, foreach=True),
    "Adam, fused": lambda own: torch.optim.Adam(own, lr=0.1, fused=True),
    "NAdam": lambda own: torch.optim.NAdam(own, lr=0.1),
    "Adamax": lambda own: torch.optim.Adamax(own, lr=0.1),
    "Adagrad": lambda own: torch.optim.Adagrad(own, lr=0.1),
    "Adadelta": lambda own: torch.optim.Adadelta(own, lr=0.1),
    "RMSprop": lambda own: torch.optim.RMSprop(own, lr=0.1, momentum=0.9, centered=True),
}


def saved(project: Folder, model: Any, optimizer: Any) -> Path:
    path = project.path / "x.pt"
    torch.save({"state_dict": model.state_dict(), "optimizer": optimizer.state_dict()}, path)
    return path


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_is_to_be_left_as_it_is_stays_as_it_is_in_training(project: Folder, name: str) -> None:
    """Two inputs more, which the model makes nothing of: it trains on as it would have without them, and goes back."""
    torch.manual_seed(0)
    model = Embedded(5)
    optimizer = OPTIMIZERS[name](model.parameters())
    trained(model, optimizer, 5, 3)
    path = saved(project, model, optimizer)
    declare(project, "a1", 'op.Pad("linear.weight", 2, dim=1, still=True)')
    project.ok("upgrade", "head", path, "--check-rollback")
    tree = without_record(torch.load(path))
    wide = Embedded(7)
    wide.load_state_dict(tree["state_dict"])
    goes_on = OPTIMIZERS[name](wide.parameters())
    goes_on.load_state_dict(tree["optimizer"])
    trained(wide, goes_on, 7, 4)
    trained(model, optimizer, 5, 4)
    assert torch.allclose(wide.linear.weight[:, :5], model.linear.weight, atol=1e-6)
    assert (wide.linear.weight[:, 5:] == 0).all()
    record = torch.load(path)["ckpt_migrate"]
    torch.save({"state_dict": wide.state_dict(), "optimizer": goes_on.state_dict(), "ckpt_migrate": record}, path)
    project.ok("downgrade", "base", path)
    back = torch.load(path)
    assert equal(back["state_dict"]["linear.weight"], wide.linear.weight[:, :5].detach())
    assert back["optimizer"]["state"][0].keys() == optimizer.state_dict()["state"][0].keys()
    for moment, own in back["optimizer"]["state"][0].items():
        assert torch.allclose(own, optimizer.state_dict()["state"][0][moment], atol=1e-6)


def test_what_was_trained_since_is_not_lost_unless_one_says_so(project: Folder) -> None:
    model = Embedded(5)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    trained(model, optimizer, 5, 2)
    path = saved(project, model, optimizer)
    declare(project, "a1", 'op.Pad("linear.weight", 2, dim=1)')
    project.ok("upgrade", "head", path)
    tree = torch.load(path)
    assert (tree["optimizer"]["state"][0]["exp_avg_sq"][:, 5:] == 0).all()
    tree["state_dict"]["linear.weight"] += 1
    torch.save(tree, path)
    before = digest(path)
    refused = project.run("downgrade", "base", path)
    assert (refused.code, digest(path)) == (1, before)
    assert "2 of dimension 1 were added to linear.weight and have changed since" in refused.err
    project.ok("downgrade", "base", path, "--discard-changes")
    assert equal(torch.load(path)["state_dict"]["linear.weight"], tree["state_dict"]["linear.weight"][:, :5])


@pytest.mark.parametrize(
    ("operation", "says"),
    [
        ('op.Pad("w", 0)', "size must be an integer from 1"),
        ('op.Pad("w", 2, fill="x")', "fill must be a number"),
        ('op.Pad("w", 2, dim=5)', "w has the shape [2, 3], but no dimension 5"),
        ('op.Pad("w", 2, at=4)', "w has the shape [2, 3], so dimension 0 has no index 4"),
        ('op.Pad("n", 2, fill=0.5)', "n is int64, which cannot represent 0.5"),
        ('op.Pad("nope", 2)', "there is no nope"),
    ],
)
def test_one_sentence(project: Folder, operation: str, says: str) -> None:
    path = project.path / "x.pt"
    torch.save({"w": torch.ones(2, 3), "n": torch.ones(2, dtype=torch.int64)}, path)
    before = digest(path)
    declare(project, "a1", operation)
    ran = project.run("upgrade", "head", path)
    assert (ran.code, says in ran.err, "Traceback" in ran.err) == (1, True, False), ran.err
    assert digest(path) == before


def test_new_rows_may_be_the_mean_of_the_others(project: Folder) -> None:
    words = torch.randn(5, 3)
    after = up_and_down(project, OrderedDict(w=words), op.Pad("w", 2, init="mean"))["w"]
    assert equal(after, torch.cat([words, words.mean(0, keepdim=True).expand(2, 3)]))
    after = up_and_down(project, OrderedDict(w=words), op.Pad("w", 1, dim=1, at=0, init="mean"))["w"]
    assert equal(after, torch.cat([words.mean(1, keepdim=True), words], 1))


def test_new_rows_may_be_what_torch_initialises(project: Folder) -> None:
    words = torch.randn(500, 30)
    normal = op.Pad("w", 200, init=["normal_", {"std": 0.02}])
    after = up_and_down(project, OrderedDict(w=words), normal)["w"]
    assert equal(after[:500], words)
    assert after[500:].std() == pytest.approx(0.02, rel=0.05)
    assert equal(up_and_down(project, OrderedDict(w=words), normal)["w"], after)  # the same whenever it is made
    other = up_and_down(project, OrderedDict(v=words), op.Pad("v", 200, init=["normal_", {"std": 0.02}]))["v"]
    assert not equal(other[500:], after[500:])  # each parameter has its own


def test_tied_parameters_stay_tied_whatever_their_new_rows_are(project: Folder) -> None:
    words = torch.randn(5, 3)
    after = up_and_down(project, OrderedDict(a=words, b=words), op.Pad(["a", "b"], 2, init="normal_"))
    assert after["a"].data_ptr() == after["b"].data_ptr()


def test_new_rows_that_were_trained_are_not_cut_off_unless_you_say_so(project: Folder) -> None:
    declare(project, "a1", 'op.Pad("w", 2, init="mean")')
    path = project.path / "x.pt"
    torch.save({"state_dict": {"w": torch.randn(5, 3)}}, path)
    project.ok("upgrade", "head", path)
    content = torch.load(path, weights_only=False)
    content["state_dict"]["w"][5:] += 1
    torch.save(content, path)
    before = digest(path)
    ran = project.run("downgrade", "base", path)
    assert "2 of dimension 0 were added to w and have changed since" in ran.err
    assert digest(path) == before
    project.ok("downgrade", "base", path, "--discard-changes")
    assert torch.load(path, weights_only=False)["state_dict"]["w"].shape == (5, 3)


@pytest.mark.parametrize(
    ("written", "said"),
    {
        'op.Pad("w", 2, init="average")': "Pad: init must be one of mean, uniform_",
        'op.Pad("w", 2, init=["mean", {"dim": 1}])': "Pad: init must be one of mean, uniform_",
        'op.Pad("w", 2, fill=1, init="mean")': "Pad: set fill or init, not both",
    }.items(),
)
def test_an_init_that_there_is_not(project: Folder, written: str, said: str) -> None:
    declare(project, "a1", written)
    assert said in project.run("history").err


@pytest.mark.parametrize(
    ("value", "init"), [(torch.arange(3), "mean"), (torch.ones(3), "orthogonal_")], ids=["integers", "one dimension"]
)
def test_an_init_that_makes_nothing_of_the_parameter(project: Folder, value: Any, init: str) -> None:
    declare(project, "a1", f'op.Pad("w", 2, init="{init}")')
    path = project.path / "x.pt"
    torch.save({"state_dict": {"w": value}}, path)
    before = digest(path)
    ran = project.run("upgrade", "head", path)
    assert f"{init} cannot fill w" in ran.err
    assert digest(path) == before
