"""Every operation does what torch would do, and its inverse undoes it, on real files."""

from __future__ import annotations

import math
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anemoi_ckpt_migrate import op
from anemoi_ckpt_migrate.operations.base import from_data
from tests.support.project import Folder, digest

torch = pytest.importorskip("torch")

from tests.support.operations import declare, equal, without_record  # noqa: E402
from tests.support.tensors import dtypes, slow, tensor, up_and_down  # noqa: E402


def weights(**shapes: Any) -> OrderedDict[str, Any]:
    generator = torch.Generator().manual_seed(len(shapes))
    return OrderedDict(
        (name.replace("__", "."), torch.randn(shape, generator=generator)) for name, shape in shapes.items()
    )


shapes = st.lists(st.integers(1, 5), min_size=1, max_size=4)


@slow
@given(shape=shapes, dtype=dtypes, count=st.integers(2, 4), data=st.data())
def test_fuse_is_cat_and_split_cuts(project: Folder, shape: list[int], dtype: Any, count: int, data: Any) -> None:
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    sizes = data.draw(st.lists(st.integers(0, 4), min_size=count, max_size=count))
    names = [f"w.{number}" for number in range(count)]
    parts = []
    for number, size in enumerate(sizes):
        own = list(shape)
        own[dim] = size
        parts.append(tensor(own, dtype, number))
    before = OrderedDict([("first", torch.ones(2)), *zip(names, parts, strict=True), ("last", torch.ones(1))])
    after = up_and_down(project, before, op.Fuse(names, "whole", dim))
    assert list(after) == ["first", "whole", "last"]
    whole = torch.cat([part.view(torch.uint8) if dtype.itemsize == 1 else part for part in parts], dim)
    assert equal(after["whole"], whole.view(dtype) if dtype.itemsize == 1 else whole)
    again = up_and_down(project, after, op.Split("whole", names, dim, sizes))
    assert equal(again, before)


@slow
@given(shape=shapes, dtype=dtypes, count=st.integers(1, 12), data=st.data())
def test_stack_counts_and_unstack_too(project: Folder, shape: list[int], dtype: Any, count: int, data: Any) -> None:
    """experts.0.w, experts.1.w, ... -> experts.w, by number: 10 comes after 9."""
    dim = data.draw(st.integers(-len(shape) - 1, len(shape)))
    parts = [tensor(shape, dtype, number) for number in range(count)]
    before = OrderedDict((f"experts.{number}.w", part) for number, part in enumerate(parts))
    after = up_and_down(project, before, op.Stack("experts.{i}.w", "experts.w", dim))
    assert equal(after["experts.w"], torch.stack(parts, dim))
    assert equal(up_and_down(project, after, op.Unstack("experts.w", "experts.{i}.w", dim)), before)


@slow
@given(shape=st.lists(st.integers(0, 5), min_size=2, max_size=4), dtype=dtypes, data=st.data())
def test_what_turns(project: Folder, shape: list[int], dtype: Any, data: Any) -> None:
    value = tensor(shape, dtype)
    dims = data.draw(st.permutations(range(len(shape))))
    before = OrderedDict(w=value, x=tensor([2, 3], torch.float32))
    assert equal(up_and_down(project, before, op.Permute("w", dims))["w"], value.permute(dims).contiguous())
    assert equal(up_and_down(project, before, op.Transpose("w"))["w"], value.transpose(0, 1).contiguous())
    flat = up_and_down(project, before, op.Reshape("w", [math.prod(shape)]))["w"]
    assert equal(flat, value.reshape(-1))


def test_tensors_that_are_views_or_not_contiguous(project: Folder) -> None:
    whole = torch.arange(24.0).reshape(4, 6)
    before = OrderedDict(a=whole[:2], b=whole[2:], t=torch.arange(6.0).reshape(2, 3).t(), z=torch.zeros(0, 3))
    after = up_and_down(project, before, op.Fuse(["b", "a"], "ba"), op.Transpose("t"))
    assert equal(after["ba"], torch.cat([whole[2:], whole[:2]]))
    assert equal(after["t"], torch.arange(6.0).reshape(2, 3))


def test_rows_for_rotary_embeddings(project: Folder) -> None:
    """As conversion scripts of Llama do it: view, transpose, reshape."""
    heads, size, width = 4, 6, 5
    w = torch.randn(heads * size, width)
    after = up_and_down(project, OrderedDict(w=w), op.PermuteForRope("w", heads))
    expected = w.view(heads, size // 2, 2, width).transpose(1, 2).reshape(heads * size, width)
    assert equal(after["w"], expected)


def test_what_is_interleaved(project: Folder) -> None:
    """q, k, v one behind the other -> head by head, as Megatron has them."""
    heads, size, width = 3, 2, 4
    w = torch.randn(3 * heads * size, width)
    after = up_and_down(project, OrderedDict(w=w), op.Interleave("w", 3, block=size))
    assert equal(after["w"], w.view(3, heads, size, width).transpose(0, 1).reshape(-1, width))


def test_casts(project: Folder) -> None:
    before = weights(a=(3, 4), b=(2,)) | OrderedDict(half=torch.randn(5).half(), steps=torch.tensor(3))
    after = up_and_down(project, before, op.Cast("half", "float64"))
    assert equal(after["half"], before["half"].double())
    after = up_and_down(project, before, op.Cast("*", "bfloat16", keep=True))
    assert [after[name].dtype for name in after] == [torch.bfloat16] * 3 + [torch.int64]
    assert equal(after["a"], before["a"].bfloat16())


def test_narrowing_is_irreversible_and_said_to_be(project: Folder) -> None:
    checkpoint = project.path / "x.pt"
    torch.save({"state_dict": weights(a=(3,))}, checkpoint)
    declare(project, "a1", 'op.Cast("a", "bfloat16")')
    assert "(irreversible)" in project.ok("upgrade", "head", checkpoint).out
    assert project.run("downgrade", "base", checkpoint).code == 3
    assert project.run("upgrade", "head", checkpoint, "--check-rollback").code == 0  # nothing to do


def test_narrowing_that_only_the_checkpoint_shows(project: Folder) -> None:
    """float32 may be wider or narrower than what is there: the record knows."""
    checkpoint = project.path / "x.pt"
    torch.save({"state_dict": OrderedDict(a=torch.randn(3, dtype=torch.float64))}, checkpoint)
    declare(project, "a1", 'op.Cast("a", "float32")')
    before = digest(checkpoint)
    assert project.run("upgrade", "head", checkpoint, "--check-rollback").code == 3
    assert digest(checkpoint) == before
    project.ok("upgrade", "head", checkpoint)
    ran = project.run("downgrade", "base", checkpoint)
    assert ran.code == 3


def test_what_is_added(project: Folder) -> None:
    before = weights(h__0__w=(3,), h__1__w=(3,), head=(2,))
    after = up_and_down(
        project,
        before,
        op.Add("h.{i}.b", [4], fill=0.5, after="h.{i}.w"),
        op.Add("seen", [], "int64", fill=7, buffer=True),
        op.Add("new", [4, 4], init=["normal_", {"std": 0.02}], index=1),
    )
    assert list(after) == ["h.0.w", "new", "h.0.b", "h.1.w", "h.1.b", "head", "seen"]
    assert torch.equal(after["h.1.b"], torch.full((4,), 0.5))
    assert 0 < after["new"].std() < 0.1
    assert after["seen"].item() == 7


def test_names_with_patterns(project: Folder) -> None:
    before = weights(h__0__q=(2,), h__0__k=(2,), h__1__q=(2,), h__1__k=(2,), h__10__q=(2,), h__10__k=(2,))
    after = up_and_down(project, before, op.Rename("h.{i}.q", "layers.{i}.query"))
    assert list(after)[:2] == ["layers.0.query", "h.0.k"]
    after = up_and_down(project, before, op.RenamePrefix("h.{i}.", "b{i}."))
    assert list(after)[-1] == "b10.k"
    after = up_and_down(project, before, op.RenameRegex(r"^h\.(\d+)\.(q|k)$", r"\2.\1"))
    assert list(after)[-1] == "k.10"
    after = up_and_down(project, before, op.Reorder(["h.{i}.k", "h.{i}.q"]))
    assert list(after) == ["h.0.k", "h.0.q", "h.1.k", "h.1.q", "h.10.k", "h.10.q"]


def test_prefixes_of_wrappers(project: Folder) -> None:
    before = OrderedDict((f"module.{name}", value) for name, value in weights(a=(2,), b__c=(2,)).items())
    assert list(up_and_down(project, before, op.StripPrefix("module."))) == ["a", "b.c"]
    inside = weights(a__w=(2,), b___orig_mod__w=(2,), _orig_mod__c=(1,))
    assert list(inside) == ["a.w", "b._orig_mod.w", "_orig_mod.c"]
    after = up_and_down(project, inside, op.StripPrefix("_orig_mod.", anywhere=True))
    assert not any("_orig_mod" in name for name in after)
    assert list(up_and_down(project, weights(a=(2,)), op.AddPrefix("model."))) == ["model.a"]


def test_every_copy_is_changed(project: Folder) -> None:
    """state_dict, ema, an AveragedModel, and Lightning's current_model_state; a buffer is not in the average."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    averaged = torch.optim.swa_utils.AveragedModel(model)
    states = model.state_dict()
    tree = {
        "state_dict": states,
        "ema_state_dict": {name: value.clone() for name, value in model.named_parameters()},
        "callbacks": {"Average": {"average_model": averaged.state_dict()}},
        "current_model_state": OrderedDict((f"model.{name}", value.clone()) for name, value in states.items()),
    }
    checkpoint = project.path / "x.pt"
    torch.save(tree, checkpoint)
    before = torch.load(checkpoint, weights_only=True)
    declare(project, "a1", 'op.RenamePrefix("0.", "linear.")', 'op.RenamePrefix("1.", "norm.")')
    project.ok("upgrade", "head", checkpoint, "--check-rollback")
    after = torch.load(checkpoint, weights_only=True)
    assert list(after["ema_state_dict"]) == ["linear.weight", "linear.bias", "norm.weight", "norm.bias"]
    assert list(after["callbacks"]["Average"]["average_model"])[:2] == ["n_averaged", "module.linear.weight"]
    assert next(iter(after["current_model_state"])) == "model.linear.weight"
    assert after["state_dict"]._metadata["norm"] == {"version": 2}
    project.ok("downgrade", "base", checkpoint)
    assert equal(without_record(torch.load(checkpoint, weights_only=True)), before)


@pytest.mark.parametrize("where", ["model", "model_state_dict", "net", ""])
def test_where_the_state_dict_is(project: Folder, where: str) -> None:
    states = torch.nn.Linear(2, 2).state_dict()
    checkpoint = project.path / "x.pt"
    torch.save({where: states, "epoch": 1} if where else states, checkpoint)
    declare(project, "a1", 'op.Rename("weight", "w")')
    project.ok("upgrade", "head", checkpoint)
    tree = torch.load(checkpoint, weights_only=True)
    assert list(tree[where] if where else tree) == ["w", "bias"]


def test_where_it_is_has_to_be_said(project: Folder) -> None:
    checkpoint = project.path / "x.pt"
    torch.save({"generator": weights(w=(2,)), "critic": weights(c=(3,))}, checkpoint)
    declare(project, "a1", 'op.Rename("w", "v")')
    ran = project.run("upgrade", "head", checkpoint)
    assert ran.code == 1
    assert "generator, critic could each be the state dict: set `parameters`" in ran.err
    (project.path / "ckpt-migrate.toml").write_text('parameters = "generator"\n')
    project.ok("upgrade", "head", checkpoint)
    (project.path / "ckpt-migrate.toml").write_text("")
    project.ok("downgrade", "base", checkpoint)  # the record knows where it was
    assert list(torch.load(checkpoint, weights_only=True)["generator"]) == ["w"]


def test_all_faults_at_once(project: Folder) -> None:
    """Of all steps, before a byte is written; what only follows from another fault is not said."""
    checkpoint = project.path / "x.pt"
    torch.save({"state_dict": weights(a=(2, 3), b=(2, 4), c=(5,))}, checkpoint)
    before = digest(checkpoint)
    declare(project, "a1", 'op.Rename("missing", "m")', 'op.Fuse(["a", "b"], "ab")', 'op.Rename("a", "c")')
    declare(
        project, "b2", 'op.Drop("m")', 'op.Split("c", ["c1", "c2"])', 'op.Reshape("c", [2, 2])', 'op.Drop("x.*")',
        parents="a1",
    )  # fmt: skip
    for words in (("-n",), ()):
        ran = project.run("upgrade", "head", checkpoint, *words)
        assert ran.code == 1
        assert "6 operations cannot be applied, and nothing was changed" in ran.err
        for sentence in (
            'a1_change.py: Rename("missing", "m"): there is no missing',
            "their shapes do not fit along dimension 0: [2, 3] and [2, 4]",
            "c would be added, but exists already",
            "5 is not a multiple of 2; set sizes=",
            "[5] cannot be reshaped to [2, 2]",
            "no name matches x.*",
        ):
            assert sentence in ran.err
    assert digest(checkpoint) == before


@pytest.mark.parametrize(
    ("operation", "says"),
    [
        ('op.Renam("a", "b")', "Renam is an unknown operation; the operations are Add, AddPrefix"),
        ('op.Rename("a")', "Rename needs new"),
        ('op.Rename("a", "b", True, "c")', "Rename takes at most 3 arguments, not 4"),
        ('op.Rename("a.{i}", "b.{j}")', "b.{j} has a placeholder that a.{i} does not have"),
        ('op.Cast("a", "float31")', "'float31' is not a dtype; choose one of float64"),
        ('op.Split("a", ["b", "c"], sizes=[1])', "2 targets need as many sizes, not 1"),
        ('op.RenameRegex("(", "b")', "RenameRegex: missing )"),
        ('op.Add("a", [2], init="normal")', "init must be one of uniform_, normal_"),
        ('op.Add("a", [-2])', "shape must be an integer from 0, not -2"),
        ('op.Drop(name)', "operations must be literal calls"),
        ('op.SetItem("", 1)', "path must be a path"),
        ('op.SetItem("a", {"b": [{1, 2}]})', "SetItem: value holds a set; use a function"),
        ('op.SetItem("a", b"x")', "SetItem: value holds a bytes; use a function"),
        ('op.MoveClass("A", "b.B")', "must be a class, as package.module.Class"),
        ('op.Fuse(["a"], "b")', "a is one source, but two are needed"),
        ('op.RestoreParameters([])', "RestoreParameters is an unknown operation"),
    ],
)  # fmt: skip
def test_operations_that_make_no_sense(project: Folder, operation: str, says: str) -> None:
    checkpoint = project.copy()
    before = digest(checkpoint)
    path = declare(project, "a1", operation)
    ran = project.run("upgrade", "head", checkpoint)
    assert ran.code == 1
    assert f"{path.name}:9: " in ran.err
    assert says in ran.err
    assert digest(checkpoint) == before


def test_operations_beside_functions(project: Folder) -> None:
    declare(project, "a1", 'op.Rename("a", "b")', top="def migrate(ckpt):\n    return ckpt\n")
    ran = project.run("heads")
    assert ran.code == 1
    assert "a script has operations or functions, not both; use op.Run for migrate" in ran.err


def test_two_names_that_become_one(project: Folder) -> None:
    checkpoint = project.path / "x.pt"
    torch.save({"state_dict": weights(a1=(2,), a2=(2,))}, checkpoint)
    before = digest(checkpoint)
    declare(project, "a1", r'op.RenameRegex(r"\d", "")')
    ran = project.run("upgrade", "head", checkpoint)
    assert ran.code == 1
    assert "a would be added, twice" in ran.err
    assert digest(checkpoint) == before


def test_an_unknown_operation_in_the_record(project: Folder) -> None:
    checkpoint = project.path / "x.pt"
    torch.save({"state_dict": weights(a=(2,))}, checkpoint)
    declare(project, "a1", 'op.Rename("a", "b")')
    project.ok("upgrade", "head", checkpoint)
    tree = torch.load(checkpoint, weights_only=True)
    tree["ckpt_migrate"]["lineage"][0]["undo"]["operations"][0]["op"] = "Levitate"
    torch.save(tree, checkpoint)
    before = digest(checkpoint)
    ran = project.run("downgrade", "base", checkpoint)
    assert ran.code == 1
    assert "Levitate is an unknown operation" in ran.err
    assert digest(checkpoint) == before


def test_what_is_not_a_parameter(project: Folder) -> None:
    before = {"state_dict": weights(a=(2,)), "hyper_parameters": {"lr": 0.1, "old": [1, {"x": 2}], "name": "m"}, "z": 1}
    checkpoint = project.path / "x.pt"
    torch.save(before, checkpoint)
    declare(
        project, "a1",
        'op.SetItem("hyper_parameters.lr", 0.2)', 'op.MoveItem("hyper_parameters.name", "hyper_parameters.title")',
        'op.SetItem("hyper_parameters.old.1.x", [3])', 'op.DropItem("z")', 'op.SetItem("hyper_parameters.new", None)',
    )  # fmt: skip
    project.ok("upgrade", "head", checkpoint, "--check-rollback")
    after = torch.load(checkpoint, weights_only=True)
    assert after["hyper_parameters"] == {"lr": 0.2, "old": [1, {"x": [3]}], "title": "m", "new": None}
    assert list(after["hyper_parameters"]) == ["lr", "old", "title", "new"]
    assert "z" not in after
    project.ok("downgrade", "base", checkpoint)
    back = without_record(torch.load(checkpoint, weights_only=True))
    assert equal(back, before)


def test_functions_among_operations(project: Folder) -> None:
    """A function that needs content, between operations: all of it up and down again."""
    top = (
        "def double(ckpt):\n    ckpt['state_dict']['ab'].mul_(2)\n    return ckpt\n"
        "def halve(ckpt):\n    ckpt['state_dict']['ab'].div_(2)\n    return ckpt\n"
    )
    checkpoint = project.path / "x.pt"
    before = weights(a=(2,), b=(3,), c=(1,))
    torch.save({"state_dict": before}, checkpoint)
    declare(project, "a1", 'op.Fuse(["a", "b"], "ab")', "op.Run(double, halve)", 'op.Rename("ab", "d")', top=top)
    project.ok("upgrade", "head", checkpoint, "--check-rollback")
    after = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert equal(after, OrderedDict(d=torch.cat([before["a"], before["b"]]) * 2, c=before["c"]))
    project.ok("downgrade", "base", checkpoint)
    assert equal(torch.load(checkpoint, weights_only=True)["state_dict"], before)


def test_a_rollback_that_is_none_is_found(project: Folder) -> None:
    """Of functions too: the key is named, and nothing was written."""
    checkpoint = project.copy()
    before = digest(checkpoint)
    project.script("a1", None, "ckpt['epoch'] += 1", "ckpt['epoch'] -= 1")
    project.script("b2", "a1", "ckpt['epoch'] *= 2", "ckpt['epoch'] -= 2")
    ran = project.run("upgrade", "head", checkpoint, "--check-rollback")
    assert ran.code == 3
    assert "the rollback of b2 is not the inverse of its migration: epoch: it was" in ran.err
    assert digest(checkpoint) == before
    project.ok("upgrade", "a1", checkpoint, "--check-rollback")
    log = torch.load(checkpoint, weights_only=False)["ckpt_migrate"]["log"]
    assert log[-1]["proven"] is True


def test_operations_are_data() -> None:
    one = op.Fuse(["h.{i}.q", "h.{i}.k"], "h.{i}.qk", dim=1)
    assert one == op.Fuse(("h.{i}.q", "h.{i}.k"), "h.{i}.qk", 1)
    assert repr(one) == 'Fuse(["h.{i}.q", "h.{i}.k"], "h.{i}.qk", dim=1)'
    assert from_data(one.to_data()) == one
    inverse = one.inverse()
    assert inverse is not None
    assert inverse.inverse() == one
    assert hash(one) == hash(from_data(one.to_data()))


def test_renames_of_many_revisions_are_written_once(project: Folder) -> None:
    checkpoint = project.path / "x.pt"
    torch.save({"state_dict": weights(w0=(2,), v=(2,))}, checkpoint)
    for number in range(50):
        parent = f"r{number - 1:02}" if number else None
        declare(project, f"r{number:02}", f'op.Rename("w{number}", "w{number + 1}")', parents=parent)
    project.ok("upgrade", "head", checkpoint)
    assert list(torch.load(checkpoint, weights_only=True)["state_dict"]) == ["w50", "v"]
    project.ok("downgrade", "-20", checkpoint)
    assert list(torch.load(checkpoint, weights_only=True)["state_dict"]) == ["w30", "v"]
    assert len(list(Path().glob("x.pt.bak*"))) == 2


def test_check_tries_the_way_back(project: Folder) -> None:
    """Nothing is written, whatever comes out of it."""
    checkpoint = project.copy()
    before = digest(checkpoint)
    project.script("a1", None, "ckpt['epoch'] += 1", "ckpt['epoch'] -= 1")
    project.ok("check", "--rollback", checkpoint)
    project.script("b2", "a1", "ckpt['epoch'] += 1", "pass")
    ran = project.run("check", "--rollback", checkpoint)
    assert ran.code == 1
    assert "the rollback of b2 is not the inverse of its migration: epoch" in ran.out
    assert digest(checkpoint) == before
    project.ok("upgrade", "head", checkpoint)
    ran = project.run("check", "--rollback", checkpoint)  # down from there, and up again
    assert ran.code == 1
    assert "the rollback of b2 is not the inverse of its migration: epoch" in ran.out


def test_what_was_kept_of_a_cast_is_the_parameter_s_own(project: Folder) -> None:
    """Beside it, an optimizer and an average that was never cast: neither takes what was put aside."""
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    average = OrderedDict((name, value.detach().bfloat16()) for name, value in model.named_parameters())
    tree = {"state_dict": model.state_dict(), "optimizer": optimizer.state_dict(), "ema": average}
    checkpoint = project.path / "x.pt"
    torch.save(tree, checkpoint)
    before = torch.load(checkpoint, weights_only=True)
    declare(project, "a1", 'op.Cast("*", "bfloat16", keep=True)')
    project.ok("upgrade", "head", checkpoint, "--check-rollback")
    project.ok("downgrade", "base", checkpoint)
    assert equal(without_record(torch.load(checkpoint, weights_only=True)), before)


@pytest.mark.parametrize(
    "operation",
    [
        'op.Pad("a.weight", 3)',
        'op.Transpose("a.weight", 0, 1)',
        'op.Interleave("a.weight", 2)',
        'op.Split("a.weight", ["a.up", "a.down"])',
        'op.Fuse(["a.weight", "c.weight"], "ac")',
        'op.Fuse(["a.weight", "b.weight"], "ab")',
        'op.Stack(["a.weight", "b.weight"], "ab")',
        'op.Cast("b.weight", "float64")',
    ],
)
def test_what_is_done_to_one_of_two_tied_parameters(project: Folder, operation: str) -> None:
    """On the way back they are tied again, in the state dict and in its copy."""
    tied, average = torch.randn(2, 4), torch.randn(2, 4)
    trees = [{"a.weight": each, "b.weight": each, "c.weight": torch.ones(2, 4)} for each in (tied, average)]
    checkpoint = project.path / "x.pt"
    torch.save({"state_dict": OrderedDict(trees[0]), "ema": OrderedDict(trees[1])}, checkpoint)
    declare(project, "a1", operation)
    project.ok("check", "--rollback", checkpoint)
    project.ok("upgrade", "head", checkpoint, "--no-backup")
    project.ok("downgrade", "base", checkpoint, "--no-backup")
    after = torch.load(checkpoint, weights_only=True)
    for name, before in (("state_dict", tied), ("ema", average)):
        assert after[name]["a.weight"].data_ptr() == after[name]["b.weight"].data_ptr()
        assert torch.equal(after[name]["a.weight"], before)


def test_tied_parameters_that_were_trained_apart_stay_apart(project: Folder) -> None:
    """They were one before the revision; what each learned since is its own."""
    tied = torch.randn(2, 4)
    checkpoint = project.path / "x.pt"
    torch.save({"state_dict": OrderedDict({"a": tied, "b": tied})}, checkpoint)
    declare(project, "a1", 'op.Transpose("a", 0, 1)')
    project.ok("upgrade", "head", checkpoint)
    tree = torch.load(checkpoint, weights_only=True)
    tree["state_dict"]["a"][0, 0] += 1
    torch.save(tree, checkpoint)
    project.ok("downgrade", "base", checkpoint)
    after = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert torch.equal(after["b"], tied)
    assert after["a"][0, 0] == tied[0, 0] + 1
