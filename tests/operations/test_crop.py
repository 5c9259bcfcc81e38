"""A dimension is made shorter; the removed elements and their moments are stashed, and come back."""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Callable
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
@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=3), dtype=dtypes, data=st.data())
def test_the_rest_stays_in_order(project: Folder, shape: list[int], dtype: Any, data: Any) -> None:
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    size = data.draw(st.integers(1, shape[dim]))
    at = data.draw(st.none() | st.integers(0, shape[dim] - size))
    value = tensor(shape, dtype)
    after = up_and_down(project, OrderedDict(a=torch.ones(1), w=value), op.Crop("w", size, dim, at))["w"]
    at = shape[dim] - size if at is None else at
    stays = [index for index in range(shape[dim]) if not at <= index < at + size]
    raw = value.view(torch.uint8) if dtype.itemsize == 1 else value
    assert equal(after, raw.index_select(dim, torch.tensor(stays, dtype=torch.int64)).view(dtype))


OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "AdamW": lambda own: torch.optim.AdamW(own, lr=0.1),
    "Adam, amsgrad": lambda own: torch.optim.Adam(own, lr=0.1, amsgrad=True),
    "NAdam": lambda own: torch.optim.NAdam(own, lr=0.1),
    "SGD, momentum": lambda own: torch.optim.SGD(own, lr=0.1, momentum=0.9),
    "SGD": lambda own: torch.optim.SGD(own, lr=0.1),
    "RMSprop": lambda own: torch.optim.RMSprop(own, lr=0.1, momentum=0.9, centered=True),
}


class Words(torch.nn.Module):
    """Rows of an embedding; those of words that do not occur have gradients of zero."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(count, 4)
        self.out = torch.nn.Linear(4, 2)

    def forward(self, x: Any) -> Any:
        return self.out(self.embedding(x))


def trained(model: Any, optimizer: Any, steps: int, seed: int, most: int) -> None:
    numbers = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randint(0, most, (9,), generator=numbers)).square().mean().backward()
        optimizer.step()


def saved(path: Path, model: Any, optimizer: Any, **more: Any) -> Path:
    torch.save({"state_dict": model.state_dict(), "optimizer": optimizer.state_dict(), **more}, path)
    return path


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_continues_without_the_rows_and_they_come_back(project: Folder, name: str) -> None:
    """Seven words become five; two steps later, the downgrade puts back the two with their moments."""
    torch.manual_seed(0)
    model = Words(7)
    optimizer = OPTIMIZERS[name](model.parameters())
    trained(model, optimizer, 3, seed=1, most=7)
    path = saved(project.path / "x.pt", model, optimizer)
    before = torch.load(path)
    declare(project, "a1", 'op.Crop("embedding.weight", 2)')
    project.ok("upgrade", "head", path, "--check-rollback")
    tree = torch.load(path)
    record = tree["ckpt_migrate"]
    small = Words(5)
    small.load_state_dict(tree["state_dict"])
    continued = OPTIMIZERS[name](small.parameters())
    continued.load_state_dict(tree["optimizer"])
    trained(small, continued, 2, seed=2, most=5)
    trained(model, optimizer, 2, seed=2, most=5)
    assert equal(small.embedding.weight.data, model.embedding.weight.data[:5])
    project.ok("downgrade", "base", path)
    assert equal(without_record(torch.load(path)), before)
    saved(path, small, continued, ckpt_migrate=record)
    project.ok("downgrade", "base", path)
    back = torch.load(path)
    assert equal(back["state_dict"]["embedding.weight"][:5], small.embedding.weight.data)
    assert equal(back["state_dict"]["embedding.weight"][5:], before["state_dict"]["embedding.weight"][5:])
    for key, value in back["optimizer"]["state"].get(0, {}).items():
        now, then = continued.state_dict()["state"][0][key], before["optimizer"]["state"][0][key]
        if torch.is_tensor(value) and value.ndim:
            assert equal(value, torch.cat([now, then[5:]]))
        else:
            assert equal(value, now)
    Words(7).load_state_dict(back["state_dict"])
    OPTIMIZERS[name](Words(7).parameters()).load_state_dict(back["optimizer"])


def test_an_average_has_its_own_rows(project: Folder) -> None:
    """Each copy gets back what was removed from it, and a copy without the parameter is left alone."""
    words = OrderedDict(w=torch.randn(6, 3), b=torch.randn(2))
    average = OrderedDict((name, value + 1) for name, value in words.items())
    path = project.path / "x.pt"
    torch.save({"state_dict": words, "ema": average, "other": {"b": torch.randn(2)}}, path)
    before = torch.load(path)
    declare(project, "a1", 'op.Crop("w", 2, at=1)', 'op.Rename("w", "v")')
    project.ok("upgrade", "head", path, "--check-rollback")
    assert equal(torch.load(path)["ema"]["v"], average["w"][[0, 3, 4, 5]])
    project.ok("downgrade", "base", path)
    assert equal(without_record(torch.load(path)), before)


def test_tied_parameters_stay_tied(project: Folder) -> None:
    words = torch.randn(5, 3)
    after = up_and_down(project, OrderedDict(a=words, b=words), op.Crop(["a", "b"], 2, 0, 0))
    assert after["a"].data_ptr() == after["b"].data_ptr()
    assert equal(after["a"], words[2:])


def test_a_new_optimizer_starts_without_moments(project: Folder) -> None:
    """The optimizer was made anew since: the rows come back, and it has no state for any of them."""
    model = Words(7)
    optimizer = torch.optim.Adam(model.parameters())
    trained(model, optimizer, 1, seed=1, most=7)
    path = saved(project.path / "x.pt", model, optimizer)
    before = torch.load(path)
    declare(project, "a1", 'op.Crop("embedding.weight", 2)')
    project.ok("upgrade", "head", path)
    tree = torch.load(path)
    small = Words(5)
    tree["optimizer"] = torch.optim.Adam(small.parameters()).state_dict()
    torch.save(tree, path)
    project.ok("downgrade", "base", path)
    back = torch.load(path)
    assert equal(back["state_dict"], before["state_dict"])
    assert back["optimizer"]["state"] == {}


def test_without_keep_they_are_lost_and_that_is_said(project: Folder) -> None:
    declare(project, "a1", 'op.Crop("w", 2, keep=False)')
    assert project.run("check").code == 4
    path = project.path / "x.pt"
    torch.save({"state_dict": {"w": torch.randn(5, 3)}}, path)
    ran = project.ok("upgrade", "head", path)
    assert "2 of dimension 0 of w are removed" in ran.err
    assert project.run("downgrade", "base", path).code == 3


@pytest.mark.parametrize(
    ("operation", "says"),
    [
        ('op.Crop("w", 0)', "size must be an integer from 1"),
        ('op.Crop("w", 2, keep=1)', "keep must be True or False"),
        ('op.Crop("w", 2, dim=5)', "w has the shape [2, 3], but no dimension 5"),
        ('op.Crop("w", 3)', "w has the shape [2, 3], so dimension 0 has no 3 entries to remove"),
        ('op.Crop("w", 2, 1, at=2)', "w has the shape [2, 3], so dimension 1 has no index 2 to 3"),
        ('op.Crop("nope", 2)', "there is no nope"),
    ],
)
def test_one_sentence(project: Folder, operation: str, says: str) -> None:
    path = project.path / "x.pt"
    torch.save({"w": torch.ones(2, 3)}, path)
    before = digest(path)
    declare(project, "a1", operation)
    ran = project.run("upgrade", "head", path)
    assert (ran.code, says in ran.err, "Traceback" in ran.err) == (1, True, False), ran.err
    assert digest(path) == before


def test_a_parameter_that_was_dropped_or_changed_since(project: Folder) -> None:
    """The rows have no place any more: the downgrade is refused, and every byte stays."""
    declare(project, "a1", 'op.Crop("w", 2)')
    path = project.path / "x.pt"
    for change, says in (
        (lambda states: states.pop("w"), "there is no w"),
        (lambda states: states.update(w=torch.ones(3, 4)), "the elements removed from w cannot be restored"),
    ):
        torch.save({"state_dict": {"w": torch.randn(5, 3), "b": torch.ones(2)}}, path)
        project.ok("upgrade", "head", path)
        tree = torch.load(path)
        change(tree["state_dict"])
        torch.save(tree, path)
        before = digest(path)
        ran = project.run("downgrade", "base", path)
        assert (ran.code, says in ran.err, digest(path) == before) == (1, True, True), ran.err


def test_the_record_holds_it_as_data(project: Folder) -> None:
    """Code without the script can undo it."""
    script = declare(project, "a1", 'op.Crop("w", 2, dim=1)')
    path = project.path / "x.pt"
    torch.save({"state_dict": {"w": torch.randn(2, 5)}}, path)
    before = torch.load(path)
    project.ok("upgrade", "head", path)
    shown = json.loads(project.ok("show", "a1", "--from", path, "--json").out)
    assert "RestoreCropped" in json.dumps(shown)
    script.unlink()
    project.ok("downgrade", "base", path)
    assert equal(without_record(torch.load(path)), before)


class Positions(torch.nn.Module):
    """A table of positions before a layer."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.wpe = torch.nn.Embedding(length, 8)
        self.out = torch.nn.Linear(8, 2)

    def forward(self, x: Any) -> Any:
        return self.out(self.wpe(x))


def test_the_page_s_example_of_interpolated_positions(project: Folder) -> None:
    """The script of docs/operations.md, as it stands there: training goes on, and the downgrade is exact."""
    page = Path(__file__).parents[2] / "docs" / "operations.md"
    if not page.exists():
        pytest.skip("the sources are not here")
    [code] = [each for each in re.findall(r"```python\n(.*?)```", page.read_text(), re.S) if "interpolate(" in each]
    script = declare(project, "a1")
    script.write_text(script.read_text().replace("operations = [\n]\n", code))
    model = Positions(16)
    optimizer = torch.optim.AdamW(model.parameters())
    trained(model, optimizer, 2, seed=1, most=16)
    path = saved(project.path / "x.pt", model, optimizer)
    before = torch.load(path)
    project.ok("upgrade", "head", path, "--check-rollback")
    tree = without_record(torch.load(path))
    longer = Positions(32)
    longer.load_state_dict(tree["state_dict"])
    ends = [table[[0, -1]] for table in (longer.wpe.weight.detach(), before["state_dict"]["wpe.weight"])]
    assert torch.allclose(*ends)
    assert (longer.wpe.weight != 0).any(1).all()
    continued = torch.optim.AdamW(longer.parameters())
    continued.load_state_dict(tree["optimizer"])
    trained(longer, continued, 1, seed=2, most=32)
    project.ok("downgrade", "base", path)
    assert equal(without_record(torch.load(path)), before)
