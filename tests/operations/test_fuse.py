"""Fuse, split, stack, unstack: what the record holds of them, what undoes them, and what is refused."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest

from anemoi_ckpt_migrate import op
from anemoi_ckpt_migrate.errors import BadOperation
from anemoi_ckpt_migrate.operations.base import Operation, from_data
from tests.support.project import Folder, digest

torch = pytest.importorskip("torch")

from tests.support.operations import declare, equal, without_record  # noqa: E402

Q, K, V = [2, 3], [2, 3], [4, 3]


def state(**shapes: list[int]) -> dict[str, Any]:
    """A checkpoint with tensors of these shapes; ``h_0_q`` is called ``h.0.q``."""
    generator = torch.Generator().manual_seed(0)
    tensors = ((name.replace("_", "."), torch.randn(shape, generator=generator)) for name, shape in shapes.items())
    return {"state_dict": OrderedDict(tensors)}


def recorded(project: Folder, tree: Any, operation: Operation) -> list[dict[str, Any]]:
    """Apply an operation, see that its rollback restores everything, and return what the record held of it."""
    path = project.path / "x.ckpt"
    torch.save(tree, path)
    declare(project, "a1", f"op.{operation!r}")
    project.ok("upgrade", "head", path, "--no-backup")
    found: list[dict[str, Any]] = torch.load(path)["ckpt_migrate"]["lineage"][0]["undo"]["operations"]
    project.ok("downgrade", "base", path, "--no-backup")
    assert equal(without_record(torch.load(path)), tree)
    return found


def refused(project: Folder, tree: Any, *operations: Operation) -> str:
    """See that operations are refused, with every byte where it was, and return what is said."""
    path = project.path / "x.ckpt"
    torch.save(tree, path)
    before = digest(path)
    declare(project, "a1", *(f"op.{one!r}" for one in operations))
    ran = project.run("upgrade", "head", path)
    assert (ran.code, digest(path)) == (1, before)
    return ran.err


FUSE = op.Fuse(["h.{i}.q", "h.{i}.v"], "h.{i}.qv")
SPLIT = op.Split("h.{i}.w", ["h.{i}.a", "h.{i}.b"])


def test_layers_that_are_alike_are_recorded_as_one(project: Folder) -> None:
    tree = state(h_0_q=Q, h_0_v=V, h_1_q=Q, h_1_v=V)
    assert recorded(project, tree, FUSE) == [
        {"op": "Split", "source": "h.{i}.qv", "targets": ["h.{i}.q", "h.{i}.v"], "sizes": [2, 4]}
    ]
    tree = state(h_0_w=V, h_1_w=V)
    assert recorded(project, tree, SPLIT) == [{"op": "Fuse", "sources": ["h.{i}.a", "h.{i}.b"], "target": "h.{i}.w"}]


@pytest.mark.parametrize(
    ("tree", "targets"),
    [
        (state(h_0_q=Q, h_0_v=V), ["h.0.qv"]),
        (state(h_0_q=Q, h_0_v=V, h_1_q=V, h_1_v=Q), ["h.1.qv", "h.0.qv"]),  # of other sizes
        (state(h_0_q=Q, h_0_v=V, h_1_q=Q, h_1_k=K, h_1_v=V), ["h.1.qv", "h.0.qv"]),  # with something in between
        (state(h_0_q=Q, h_0_v=V, h_1_q=Q, h_1_v=V, h_2_qv=Q), ["h.1.qv", "h.0.qv"]),  # beside one that was there
    ],
)
def test_layers_that_differ_are_recorded_one_by_one(project: Folder, tree: Any, targets: list[str]) -> None:
    assert [one["source"] for one in recorded(project, tree, FUSE)] == targets


@pytest.mark.parametrize(
    ("tree", "targets"),
    [
        (state(h_0_w=V), ["h.0.w"]),
        (state(h_0_w=V, h_1_w=V, h_2_b=Q), ["h.1.w", "h.0.w"]),  # beside a part that was there
    ],
)
def test_parts_of_layers_that_differ_are_recorded_one_by_one(project: Folder, tree: Any, targets: list[str]) -> None:
    assert [one["target"] for one in recorded(project, tree, SPLIT)] == targets


def test_a_counted_stack_is_recorded_by_names(project: Folder) -> None:
    """Which numbers there were, the pattern alone does not tell."""
    tree = state(e_0=Q, e_1=Q, x_0=Q)
    assert recorded(project, tree, op.Stack("e.{i}", "e")) == [
        {"op": "Unstack", "source": "e", "targets": ["e.0", "e.1"]}
    ]
    tree = state(h_0_q=Q, h_0_k=K, h_1_q=Q, h_1_k=K)
    assert recorded(project, tree, op.Stack(["h.{i}.q", "h.{i}.k"], "h.{i}.qk", 1)) == [
        {"op": "Unstack", "source": "h.{i}.qk", "targets": ["h.{i}.q", "h.{i}.k"], "dim": 1}
    ]


@pytest.mark.parametrize(
    ("operation", "says"),
    [
        (op.Fuse(["q", "long"], "w"), "q and long cannot fuse into w: their shapes do not fit along dimension 0"),
        (op.Fuse(["q", "k", "v", "long"], "w"), "q, k, v and long cannot fuse"),
        (op.Fuse(["q", "k", "v", "z", "long"], "w"), "q, k, 2 more and long cannot fuse"),
        (op.Stack("q", "w", 9), "): q cannot stack into w"),
        (op.Split("q", ["a", "b"], 2), "q has the shape [2, 3], but no dimension 2"),
        (op.Split("q", ["a", "b"], -3), "q has the shape [2, 3], but no dimension -3"),
        (
            op.Split("q", ["a", "b"], 1),
            "q of the shape [2, 3] cannot be split: 3 is not a multiple of 2; set sizes=",
        ),
        (op.Split("q", ["a", "b"], 1, [1, 1]), "its sizes [1, 1] add up to 2, not to 3"),
        (op.Unstack("q", ["a", "b", "c"]), "dimension 0 has 2, but there are 3 targets"),
        (op.Unstack("q", ["a", "b"], 1), "dimension 1 has 3, but there are 2 targets"),
        (op.Split("q", ["a", "k"]), "k would be added, but exists already"),
        (op.Fuse(["q", "k"], "v"), "v would be added, but exists already"),
        (op.Split("nothing", ["a", "b"]), "there is no nothing"),
    ],
)
def test_what_does_not_fit_is_refused(project: Folder, operation: Operation, says: str) -> None:
    """The second operation is about what the first would have made, so one fault is told."""
    made = operation.to_data().get("target") or operation.to_data()["targets"][0]
    err = refused(project, state(q=Q, k=K, v=V, z=Q, long=[2, 5]), operation, op.Transpose(made))
    assert says in err
    assert "2 operations" not in err


def test_the_first_and_the_last_dimension(project: Folder) -> None:
    tree = state(q=[4, 6])
    for dim in (-2, -1, 0, 1):
        assert recorded(project, tree, op.Split("q", ["a", "b"], dim))[0].get("dim", 0) == dim


@pytest.mark.parametrize(
    ("operation", "inverse"),
    [
        (op.Fuse(["q", "k"], "qk", 1), op.Split("qk", ["q", "k"], 1)),
        (op.Fuse(["q", "v"], "qv", 0, [2, 4]), op.Split("qv", ["q", "v"], 0, [2, 4])),
        (op.Fuse("e.{i}", "e"), None),  # nobody knows how many there were
        (op.Split("qk", ["q", "k"], 1), op.Fuse(["q", "k"], "qk", 1)),
        (op.Split("qk", ["q", "k"], 0, [2, 2]), op.Fuse(["q", "k"], "qk")),
        (op.Split("qv", ["q", "v"], 0, [2, 4]), op.Fuse(["q", "v"], "qv", 0, [2, 4])),
        (op.Split("{a}{b}.w", ["{a}{b}.q", "{a}{b}.k"]), None),  # a name can be read in two ways
        (op.Stack(["q", "k"], "qk", 1), op.Unstack("qk", ["q", "k"], 1)),
        (op.Stack("e.{i}", "e"), op.Unstack("e", "e.{i}")),
        (op.Stack("e.{i}.{j}", "e"), None),  # two numbers
        (op.Stack(["e.{i}.q", "e.{i}.k"], "e"), None),  # two for each number
        (op.Unstack("e", "e.{i}", 1), op.Stack("e.{i}", "e", 1)),
    ],
)
def test_what_undoes_it_where_nobody_saw_it_applied(operation: Operation, inverse: Operation | None) -> None:
    assert operation.inverse() == inverse


@pytest.mark.parametrize(
    ("operation", "says"),
    [
        ('op.Fuse("h.{i}.q", "h.{i}.w")', "h.{i}.q is one source, but two are needed"),
        ('op.Fuse(["q", "k"], "{i}.w")', "{i}.w has a placeholder that no source has"),
        ('op.Unstack("q", ["{i}", "k"])', "{i} has a placeholder that q does not have"),
        ('op.Unstack("q", "{i}.{j}")', "{i}.{j} has a placeholder that q does not have"),
        ('op.Fuse(["q", "k"], "w", "0")', "dim must be an integer"),
        ('op.Split("q", ["a", "b"], sizes=[1, 2, 3])', "2 targets need as many sizes, not 3"),
        ('op.Split("q", ["a", "b"], sizes=[])', "2 targets need as many sizes, not 0"),
        ('op.Split("q", ["a", "b"], places=[["a", None], ["b", "a"]])', "places is for records only"),
    ],
)
def test_what_makes_no_sense_is_refused_when_the_script_is_read(project: Folder, operation: str, says: str) -> None:
    declare(project, "a1", operation)
    ran = project.run("heads")
    assert (ran.code, says in ran.err) == (1, True), ran.err


@pytest.mark.parametrize(
    "operation",
    [op.Split("a", ["x", "y"]), op.Unstack("a", "x.{i}"), op.Fuse(["a", "c"], "x"), op.Stack(["a", "c"], "x")],
)
def test_one_of_two_tied_parameters_stays_what_the_optimizer_knows(project: Folder, operation: Operation) -> None:
    """a and b are one parameter: the optimizer has one momentum for both."""
    tied, other = (torch.nn.Parameter(torch.ones(4, 3)) for _ in range(2))
    optimizer = torch.optim.SGD([tied, other], momentum=0.9)
    (tied.sum() + other.sum()).backward()
    optimizer.step()
    weights = OrderedDict(a=tied.detach(), b=tied.detach(), c=other.detach())
    err = refused(project, {"state_dict": weights, "opt": optimizer.state_dict()}, operation)
    assert "a shares its memory with b, and the optimizer has one state for both" in err


def test_one_source_can_be_stacked(project: Folder) -> None:
    """A new dimension of size 1."""
    assert recorded(project, state(q=Q), op.Stack("q", "w")) == [{"op": "Unstack", "source": "w", "targets": ["q"]}]


@pytest.mark.parametrize("places", ["ab", 3, ["a"], [["a"]], [["a", None, "b"]], [[1, "a"]], [{"a": "b"}]])
def test_a_record_with_places_that_are_none_is_refused(places: Any) -> None:
    data = {"op": "Split", "source": "w", "targets": ["a", "b"], "places": places}
    with pytest.raises(BadOperation, match="Split: places must be pairs of names"):
        from_data(data)
    data["places"] = [["a", None], ["b", "a"]]
    assert from_data(data).to_data() == data
