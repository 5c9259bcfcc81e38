"""Several names at once, names that may be missing, and buffers with given values."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from anemoi_ckpt_migrate import op  # noqa: E402
from anemoi_ckpt_migrate.errors import BadOperation  # noqa: E402
from anemoi_ckpt_migrate.operations.base import from_data  # noqa: E402
from tests.support.operations import declare, equal, without_record  # noqa: E402
from tests.support.project import Folder, digest  # noqa: E402
from tests.support.tensors import slow, up_and_down  # noqa: E402

NAMES = ["a.weight", "b.weight", "c.weight", "d.weight"]


def weights(names: list[str]) -> OrderedDict[str, Any]:
    return OrderedDict((name, torch.full((2, 3), float(number))) for number, name in enumerate(names))


def saved(project: Folder, tree: Any) -> Path:
    path = project.path / "x.pt"
    torch.save(tree, path)
    return path


def read(path: Path) -> Any:
    return without_record(torch.load(path, weights_only=True))


class TestAtOnce:
    @slow
    @given(new=st.permutations([*NAMES, "e.weight"]))
    def test_names_change_places(self, project: Folder, new: list[str]) -> None:
        before = weights(NAMES)
        after = up_and_down(project, before, op.RenameEach(dict(zip(NAMES, new, strict=False))))
        assert list(after) == new[: len(NAMES)]
        assert all(equal(*pair) for pair in zip(after.values(), before.values(), strict=True))

    def test_the_optimizer_and_averages_follow(self, project: Folder) -> None:
        model = weights(NAMES)
        optimizer = torch.optim.Adam([torch.nn.Parameter(value) for value in model.values()])
        for number, parameter in enumerate(optimizer.param_groups[0]["params"]):
            parameter.grad = torch.full((2, 3), float(number + 1))
        optimizer.step()
        tree = {"state_dict": model, "ema": OrderedDict(model), "optimizer": optimizer.state_dict()}
        path = saved(project, tree)
        before = read(path)
        declare(project, "a1", 'op.RenameEach({"a.weight": "b.weight", "b.weight": "a.weight"})')
        project.ok("upgrade", "head", path, "--check-rollback")
        after = read(path)
        names = ["b.weight", "a.weight", "c.weight", "d.weight"]
        assert (list(after["state_dict"]), list(after["ema"])) == (names, names)
        assert equal(after["optimizer"], before["optimizer"])  # the positions are what they were
        project.ok("downgrade", "base", path)
        assert equal(read(path), before)

    def test_one_that_was_stamped(self, project: Folder) -> None:
        path = saved(project, {"state_dict": weights(["b.weight", "a.weight"])})
        declare(project, "a1", 'op.RenameEach({"a.weight": "b.weight", "b.weight": "a.weight"})')
        project.ok("stamp", "head", path)
        project.ok("downgrade", "base", path)
        assert list(read(path)["state_dict"]) == ["a.weight", "b.weight"]

    def test_none_at_all(self, project: Folder) -> None:
        assert list(up_and_down(project, weights(NAMES), op.RenameEach({}))) == NAMES

    @pytest.mark.parametrize(
        ("operation", "says"),
        [
            ('op.RenameEach({"a.weight": "b.weight"})', "b.weight would be added, but exists already"),
            ('op.RenameEach({"a.bias": "x.bias"})', "there is no a.bias"),
        ],
    )
    def test_what_does_not_fit(self, project: Folder, operation: str, says: str) -> None:
        path = saved(project, {"state_dict": weights(NAMES)})
        before = digest(path)
        declare(project, "a1", operation)
        ran = project.run("upgrade", "head", path)
        assert (ran.code, says in ran.err, digest(path)) == (1, True, before), ran.err

    @pytest.mark.parametrize(
        ("names", "says"),
        [
            ([("a", "x"), ("a", "y")], "names has a twice"),
            ([("a", "x"), ("b", "x")], "names has x twice"),
            ("a", "names must be a dict of old and new names"),
            ({"a": 1}, "names must be a dict of old and new names"),
        ],
    )
    def test_what_makes_no_sense(self, names: Any, says: str) -> None:
        with pytest.raises(BadOperation, match=says):
            op.RenameEach(names)


class TestOptional:
    RENAMES = (
        'op.Rename("{i}.bias", "{i}.shift", optional=True)',
        'op.RenamePrefix("encoder.", "model.encoder.", optional=True)',
        r'op.RenameRegex(r"norm_(\d)", r"norms.\1", optional=True)',
    )
    THERE: ClassVar[Any] = OrderedDict((name, torch.ones(2)) for name in ("encoder.w", "norm_1.w", "q.bias", "q.w"))

    def test_what_is_there_is_renamed(self, project: Folder) -> None:
        after = up_and_down(project, self.THERE, *self.RENAMES)
        assert list(after) == ["model.encoder.w", "norms.1.w", "q.shift", "q.w"]

    def test_what_is_not_there_is_no_fault(self, project: Folder) -> None:
        assert list(up_and_down(project, weights(NAMES), *self.RENAMES)) == NAMES

    @pytest.mark.parametrize("operation", RENAMES)
    def test_without_it_is_one(self, project: Folder, operation: str) -> None:
        path = saved(project, {"state_dict": weights(NAMES)})
        declare(project, "a1", operation.replace(", optional=True", ""))
        ran = project.run("upgrade", "head", path)
        assert ran.code == 1
        assert "no name" in ran.err

    def test_names_still_must_be_free(self, project: Folder) -> None:
        path = saved(project, {"state_dict": weights(["a.w", "b.w"])})
        declare(project, "a1", 'op.RenamePrefix("a.", "b.", optional=True)')
        assert "b.w would be added, but exists already" in project.run("upgrade", "head", path).err

    def test_one_that_was_stamped(self, project: Folder) -> None:
        path = saved(project, {"state_dict": weights(["model.encoder.w", "other.w"])})
        declare(project, "a1", *self.RENAMES[:2])
        project.ok("stamp", "head", path)
        project.ok("downgrade", "base", path)
        assert list(read(path)["state_dict"]) == ["encoder.w", "other.w"]


class TestValues:
    """What `Add` adds may have a value for each element."""

    @slow
    @given(
        shape=st.lists(st.integers(0, 3), max_size=3),
        dtype=st.sampled_from(["float32", "float64", "bfloat16", "int64", "int8", "bool"]),
        data=st.data(),
    )
    def test_each_element(self, project: Folder, shape: list[int], dtype: str, data: Any) -> None:
        count = torch.Size(shape).numel()
        numbers = st.booleans() if dtype == "bool" else st.integers(-8, 8)
        fill = data.draw(st.lists(numbers, min_size=count, max_size=count))
        after = up_and_down(project, weights(NAMES), op.Add("new", shape, dtype, fill, after=NAMES[1], buffer=True))
        assert list(after) == [*NAMES[:2], "new", *NAMES[2:]]
        assert equal(after["new"], torch.tensor(fill, dtype=getattr(torch, dtype)).reshape(shape))

    def test_what_changed_since_is_not_lost_without_being_asked(self, project: Folder) -> None:
        path = saved(project, {"state_dict": weights(NAMES)})
        declare(project, "a1", 'op.Add("new", [2], "int64", [3, 4], buffer=True)')
        project.ok("upgrade", "head", path)
        tree = torch.load(path, weights_only=True)
        tree["state_dict"]["new"][1] = 5
        torch.save(tree, path)
        assert "new has changed since it was added" in project.run("downgrade", "base", path).err
        project.ok("downgrade", "base", path, "--discard-changes")
        assert list(read(path)["state_dict"]) == NAMES

    @pytest.mark.parametrize(
        ("fill", "says"),
        [
            ([1, 2, 3], r"\[2, 1\] has 2 elements, but fill has 3"),
            ([1, "x"], "fill must be a number, or a list of numbers"),
            ("x", "fill must be a number, or a list of numbers"),
            ([1, 400], "int8 cannot represent 400"),
            ([[1], [2]], "fill must be a number, or a list of numbers"),
        ],
    )
    def test_what_makes_no_sense(self, fill: Any, says: str) -> None:
        with pytest.raises(BadOperation, match=says):
            op.Add("new", [2, 1], "int8", fill)

    def test_it_is_data(self) -> None:
        made = op.Add("new", [2], "int64", [3, 4])
        assert from_data(made.to_data()) == made
        assert repr(made) == 'Add("new", [2], dtype="int64", fill=[3, 4])'
