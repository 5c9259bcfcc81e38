"""Names that operations give, and take back: the way back gives each its own, in the state dict and in its copies."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from anemoi_ckpt_migrate.operations.base import from_data  # noqa: E402
from tests.support.operations import declare, equal, without_record  # noqa: E402
from tests.support.project import Folder, Ran, digest  # noqa: E402


def tensors(*names: str, shape: Iterable[int] = (4, 4)) -> OrderedDict[str, Any]:
    generator = torch.Generator().manual_seed(len(names))
    return OrderedDict((name, torch.randn(tuple(shape), generator=generator)) for name in names)


def up(project: Folder, tree: Any, *operations: str) -> Any:
    """Apply operations to a checkpoint, as ``x.pt``, and return what torch loads then."""
    torch.save(tree, project.path / "x.pt")
    declare(project, "a1", *operations)
    project.ok("upgrade", "head", "x.pt", "--no-backup")
    return without_record(torch.load(project.path / "x.pt", weights_only=True))


def down(project: Folder) -> Any:
    """Take ``x.pt`` back, and return what torch loads then."""
    project.ok("downgrade", "base", "x.pt", "--no-backup")
    return without_record(torch.load(project.path / "x.pt", weights_only=True))


def refused(project: Folder, tree: Any, *operations: str) -> Ran:
    """See to it that operations are refused, and that not a byte is changed."""
    path = project.path / "x.pt"
    torch.save(tree, path)
    declare(project, "a1", *operations)
    before = digest(path)
    ran = project.run("upgrade", "head", path)
    assert ran.code != 0
    assert digest(path) == before
    return ran


@pytest.mark.parametrize(
    ("names", "operation", "new"),
    [
        (["block_norm_1.w", "x_2.w"], 'op.Rename("{n}_{i}.w", "{i}_{n}.w")', ["1_block_norm.w", "2_x.w"]),
        (["a1b2bxd.w", "a3b.w"], 'op.RenamePrefix("a{i}b", "c{i}d")', ["c1b2dxd.w", "c3d.w"]),
        (["3.w", "4.w"], 'op.RenamePrefix("{i}.", "{i}")', ["3w", "4w"]),
        (["a_b_c.q", "a_b_c.k", "d_e.q", "d_e.k"], 'op.Fuse(["{n}_{i}.q", "{n}_{i}.k"], "{i}_{n}.w")', ["c_a_b.w", "e_d.w"]),
        (["a_b_c.w", "d_e.w"], 'op.Split("{n}_{i}.w", ["{i}_{n}.q", "{i}_{n}.k"])', ["c_a_b.q", "c_a_b.k", "e_d.q", "e_d.k"]),
        (["a.w", "b.w", "c.q"], 'op.Split("{n}.w", ["{n}.k", "{n}.q"])', ["a.k", "a.q", "b.k", "b.q", "c.q"]),
    ],
)  # fmt: skip
def test_each_name_comes_back_as_it_was(project: Folder, names: list[str], operation: str, new: list[str]) -> None:
    """Where a placeholder could stand for more than one thing, the record lists the names."""
    tree = {"state_dict": tensors(*names)}
    assert list(up(project, tree, operation)["state_dict"]) == new
    assert equal(down(project), tree)


def test_a_pattern_that_tells_names_in_two_ways_is_no_inverse_of_its_own(project: Folder) -> None:
    """A stamped revision is undone by plain inverses, if there are any."""
    torch.save({"state_dict": tensors("1_a_b.w")}, project.path / "x.pt")
    declare(project, "a1", 'op.Rename("{n}_{i}.w", "{i}_{n}.w")')
    project.ok("stamp", "head", "x.pt")
    ran = project.run("downgrade", "base", "x.pt")
    assert ran.code == 3
    assert "stamped, not applied" in ran.err


@pytest.mark.parametrize("names", [("x*", "xy"), ("a{i}", "ab"), ("{{}*", "{*"), ("*", "a.b")])
@pytest.mark.parametrize(
    "operation",
    [
        'op.Transpose("*")',
        'op.Reshape("*", [-1])',
        'op.Cast("*", "float64")',
        'op.RenameRegex("(?s)^", "p")',
        'op.Interleave("*", 2)',
    ],
)
def test_stars_and_braces_in_names_are_no_patterns(project: Folder, names: tuple[str, str], operation: str) -> None:
    """Of two parameters one has a name that could be read as a pattern for both, and they differ in shape."""
    one, other = names
    tree = {"state_dict": OrderedDict([(one, torch.randn(2, 3)), (other, torch.randn(4, 5)), ("#", torch.ones(2, 2))])}
    up(project, tree, operation.replace('"*", 2', f"[{one.translate(ESCAPED)!r}, {other.translate(ESCAPED)!r}], 2"))
    assert equal(down(project), tree)


ESCAPED = str.maketrans({"*": "{*}", "{": "{{}"})


def test_a_name_with_a_star_or_a_brace_can_be_written(project: Folder) -> None:
    """{*} and {{} stand for these themselves, wherever names and patterns do."""
    tree = {"state_dict": tensors("x*", "xy", "a{i}.q", "a{i}.k", "b.q", "b.k")}
    operations = [
        'op.Transpose("x{*}")',
        'op.Rename("x{*}", "y{{}i}")',
        'op.Fuse(["a{{}i}.q", "a{{}i}.k"], "a{*}")',
        'op.Split("a{*}", ["a{*}q", "a{*}k"])',
        'op.Add("{{}new}", [2])',
        'op.Stack(["{x}.q", "{x}.k"], "{x}{*}")',
        'op.RenamePrefix("y{{}", "z{*}{{}")',
        'op.Reorder(["z{*}*", "{{}new}", "a{*}q"])',
    ]
    after = up(project, tree, *operations)["state_dict"]
    assert list(after) == ["z*{i}", "xy", "{new}", "a*k", "b*", "a*q"]
    assert equal(after["z*{i}"], tree["state_dict"]["x*"].t().contiguous())
    assert equal(down(project), tree)


def test_groups_of_an_optimizer_are_told_by_names_with_stars(project: Folder) -> None:
    weights = [torch.nn.Parameter(weight) for weight in tensors("*", "a", "b").values()]
    optimizer = torch.optim.SGD(weights[:2], momentum=0.9)
    sum((weight * number).sum() for number, weight in enumerate(weights)).backward()  # type: ignore[union-attr]
    optimizer.step()
    values = [weight.detach() for weight in weights]
    tree = {"state_dict": OrderedDict(zip(["*", "a", "b"], values, strict=True)), "opt": optimizer.state_dict()}
    up(project, tree, 'op.ParameterGroups([["{*}", "a"]])', 'op.Rename("a", "c")')
    assert equal(down(project), tree)


@pytest.mark.parametrize(
    ("operation", "says"),
    [
        ('op.RenamePrefix("q.", "q.*")', "`*` is not allowed in q.*, because the matched text would be lost"),
        ('op.Fuse(["q.w", "k.w"], "*")', "`*` is not allowed"),
        ('op.Fuse(["*.w", "k.w"], "w")', "`*` is not allowed"),
        ('op.Stack("{i}.w", "*")', "`*` is not allowed"),
        ('op.Split("q.w", ["a*", "b*"])', "`*` is not allowed"),
        ('op.Unstack("q.w", "*{i}")', "`*` is not allowed"),
        ('op.Add("q.*", [1])', "`*` is not allowed"),
        ('op.Split("q.w", ["{x}.a", "b"])', "{x}.a has a placeholder that q.w does not have"),
        ('op.Unstack("q.w", ["{x}.a", "b", "c", "d"])', "{x}.a has a placeholder that q.w does not have"),
        ('op.Fuse("q.w", "w")', "q.w is one source, but two are needed"),
        ('op.RenameRegex("q", b"x")', "replacement must be text, not b'x'"),
        ('op.RenameRegex("q{99999999999999999999}", "x")', "repetition number is too large"),
    ],
)
def test_what_says_not_what_comes_about_is_refused_when_a_script_is_read(
    project: Folder, operation: str, says: str
) -> None:
    ran = refused(project, {"state_dict": tensors("q.w", "k.w")}, operation)
    assert says in ran.err
    assert "a1_change.py" in ran.err


def test_what_records_hold_is_still_read() -> None:
    """Records of earlier versions have stars in names that were seen on a checkpoint."""
    for data in (
        {"op": "Split", "source": "*", "targets": ["x*", "a{i}"], "sizes": [1, 1]},
        {"op": "Fuse", "sources": ["x*", "y"], "target": "{z"},
        {"op": "Transpose", "keys": ["*"]},
    ):
        assert from_data(data).to_data() == data


def test_one_layer_is_fused_and_split_as_several_are(project: Folder) -> None:
    tree = {"state_dict": tensors("h.0.w", "other")}
    assert list(up(project, tree, 'op.Fuse("h.{i}.w", "w")')["state_dict"]) == ["w", "other"]
    assert equal(down(project), tree)
    assert list(up(project, tree, 'op.Split("other", ["one"])')["state_dict"]) == ["h.0.w", "one"]
    assert equal(down(project), tree)


def test_what_has_no_size_is_not_unstacked(project: Folder) -> None:
    ran = refused(project, {"state_dict": {"w": torch.zeros(0, 2)}}, 'op.Unstack("w", "w.{i}")')
    assert "a1_change.py" in ran.err
    assert "w of the shape [0, 2] cannot be split: dimension 0 has the size 0, so nothing would remain" in ran.err


def test_digits_that_are_no_numbers_are_text(project: Folder) -> None:
    tree = {"state_dict": tensors("e.\u00b2.w", "e.1.w"), "a": {"b": 1}}
    assert list(up(project, tree, 'op.Stack("e.{i}.w", "w")', 'op.SetItem("a.\u00b2", 1)')["a"]) == ["b", "\u00b2"]
    assert equal(down(project), tree)


@pytest.mark.parametrize("operation", ['op.Transpose("w")', 'op.Split("w", ["a", "b"])', 'op.Reshape("w", [4])'])
def test_what_is_no_plain_tensor_is_called_what_it_is(project: Folder, operation: str) -> None:
    w = torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.qint8)
    ran = refused(project, {"state_dict": {"w": w, "x": torch.ones(1)}}, operation)
    assert "not a plain tensor" in ran.err
    assert "use op.Run to change it" in ran.err


def test_only_what_is_added_gets_into_optimizers_and_copies(project: Folder) -> None:
    """stem.scale matches the pattern too, but is a buffer that was there before."""
    linears = ["enc.weight", "mid.weight"]
    tree: dict[str, Any] = {"state_dict": tensors("stem.scale", *linears), "ema": tensors(*linears)}
    parameters = [torch.nn.Parameter(tree["state_dict"][name]) for name in linears]
    optimizer = torch.optim.SGD(zip(linears, parameters, strict=True))
    tree["opt"] = optimizer.state_dict()
    after = up(project, tree, 'op.Add("{i}.scale", [2], after="{i}.weight")')
    assert list(after["ema"]) == ["enc.weight", "enc.scale", "mid.weight", "mid.scale"]
    assert after["opt"]["param_groups"][0]["param_names"] == list(after["ema"])
    assert equal(down(project), tree)


def test_a_loose_tensor_does_not_make_the_whole_checkpoint_a_state_dict(project: Folder) -> None:
    tree = {"best": torch.tensor(0.5), "net": tensors("module.a", "module.b"), "epoch": 3}
    ran = refused(project, tree, 'op.StripPrefix("module.")')
    assert "the checkpoint itself, net could each be the state dict: set `parameters`" in ran.err
    config = project.path / "ckpt-migrate.toml"
    config.write_text('package = "pkg"\nparameters = "net"\n')
    assert list(up(project, tree, 'op.StripPrefix("module.")')["net"]) == ["a", "b"]
    assert equal(down(project), tree)


def test_a_state_dict_at_the_top_may_have_a_copy_beside_it(project: Folder) -> None:
    tree = {**tensors("a", "b"), "ema": dict(tensors("a", "b"))}
    assert '"" for the checkpoint itself' in refused(project, tree, 'op.Rename("a", "c")').err
    (project.path / "ckpt-migrate.toml").write_text('package = "pkg"\nparameters = ""\n')
    after = up(project, tree, 'op.Rename("a", "c")', 'op.AddPrefix("m.")')
    assert (list(after), list(after["ema"])) == (["m.c", "m.b", "ema"], ["m.c", "m.b"])
    assert equal(down(project), tree)


def test_what_a_module_saves_of_its_own_is_no_state_dict(project: Folder) -> None:
    tree = {**tensors("a", "b"), "fp8._extra_state": {"scale": torch.ones(1)}}
    assert list(up(project, tree, 'op.Rename("a", "c")')) == ["c", "b", "fp8._extra_state"]
    assert equal(down(project), tree)


@pytest.mark.parametrize(
    ("operations", "main", "ema"),
    [
        (['op.RenamePrefix("module.", "net.")'], ["net.q.w", "net.k.w", "net.b"], ["q.w", "k.w", "b"]),
        (['op.StripPrefix("module.")'], ["q.w", "k.w", "b"], ["q.w", "k.w", "b"]),
        (['op.AddPrefix("model.")'], ["model.module.q.w", "model.module.k.w", "model.module.b"], ["q.w", "k.w", "b"]),
        (['op.RenamePrefix("module.", "mod")'], ["modq.w", "modk.w", "modb"], ["q.w", "k.w", "b"]),
        (['op.Rename("module.b", "module.c")'], ["module.q.w", "module.k.w", "module.c"], ["q.w", "k.w", "c"]),
        (
            [
                'op.Rename("module.b", "module.c")',
                'op.StripPrefix("module.")',
                'op.Fuse(["q.w", "k.w"], "qk.w")',
                'op.AddPrefix("net.")',
            ],
            ["net.qk.w", "net.c"],
            ["net.qk.w", "net.c"],
        ),
        (
            ['op.Fuse(["module.q.w", "module.k.w"], "module.qk.w")', 'op.StripPrefix("module.")'],
            ["qk.w", "b"],
            ["qk.w", "b"],
        ),
    ],
)
def test_a_copy_keeps_lacking_what_the_state_dict_has_before_its_names(
    project: Folder, operations: list[str], main: list[str], ema: list[str]
) -> None:
    """Averages of the model that a wrapper wraps: what becomes of the wrapper's prefix is not their business."""
    average = tensors("q.w", "k.w", "b")
    average._metadata = {"": {"version": 1}, "q": {"version": 2}, "k": {"version": 2}}  # type: ignore[attr-defined]
    tree = {"state_dict": tensors("module.q.w", "module.k.w", "module.b"), "ema": average}
    after = up(project, tree, *operations)
    assert (list(after["state_dict"]), list(after["ema"])) == (main, ema)
    assert set(after["ema"]._metadata) == ({"", "q", "k"} if "q.w" in ema else {"", ema[0].removesuffix(".w")})
    assert equal(down(project), tree)


def test_what_a_copy_would_call_a_name_without_its_prefix_is_not_guessed(project: Folder) -> None:
    tree = {"state_dict": tensors("module.q", "module.k"), "ema": tensors("q", "k")}
    says = "in ema, names lack module., which the state dict has before them, so the source of q is unknown"
    assert says in refused(project, tree, 'op.Rename("module.q", "q")').err
    assert "is unknown" in refused(project, tree, 'op.Fuse(["module.q", "module.k"], "qk")').err
    assert "is unknown" in refused(project, tree, 'op.Add("new", [2])').err


def average(*names: str) -> dict[str, Any]:
    """An average with a counter and a number of its own."""
    return {"decay": torch.tensor(0.9), "num": torch.tensor(3), **tensors(*names)}


def test_a_copy_that_looks_like_none_afterwards_is_taken_back_too(project: Folder) -> None:
    """Of five tensors three are in the state dict, of what is made of them one of three."""
    tree = {"state_dict": tensors("q", "k", "v"), "ema": average("q", "k", "v")}
    after = up(project, tree, 'op.Fuse(["q", "k", "v"], "qkv")', 'op.SetItem("fused", True)')
    assert list(after["ema"]) == ["decay", "num", "qkv"]
    assert equal(down(project), tree)


def test_what_looks_like_a_copy_only_afterwards_is_left_alone(project: Folder) -> None:
    tree = {"state_dict": tensors("q", "k"), "fused": {"qk": torch.ones(8, 4)}}
    after = up(project, tree, 'op.Fuse(["q", "k"], "qk")')
    assert equal(after["fused"], tree["fused"])
    assert equal(down(project), tree)


def test_copies_are_taken_back_through_several_revisions(project: Folder) -> None:
    tree = {"state_dict": tensors("q", "k", "v"), "ema": average("q", "k", "v")}
    torch.save(tree, project.path / "x.pt")
    declare(project, "a1", 'op.Fuse(["q", "k", "v"], "qkv")')
    declare(project, "a2", 'op.Rename("qkv", "all")', parents="a1")
    project.ok("upgrade", "head", "x.pt", "--no-backup", "--check-rollback")
    assert list(torch.load(project.path / "x.pt")["ema"]) == ["decay", "num", "all"]
    assert equal(down(project), tree)
    project.ok("upgrade", "head", "x.pt", "--no-backup")
    project.ok("downgrade", "-1", "x.pt", "--no-backup")
    assert list(torch.load(project.path / "x.pt")["ema"]) == ["decay", "num", "qkv"]
    assert equal(down(project), tree)


@pytest.mark.parametrize("lead", ["", "module."])
def test_a_state_dict_without_tensors_is_filled_again(project: Folder, lead: str) -> None:
    tree = {"state_dict": tensors("a", "b"), "ema": tensors(f"{lead}a", f"{lead}b"), "x": 1}
    after = up(project, tree, 'op.Drop("*", keep=True)')
    assert (dict(after["state_dict"]), dict(after["ema"])) == ({}, {})
    assert equal(down(project), tree)


def test_a_copy_is_not_given_what_was_put_aside_of_another(project: Folder) -> None:
    """The average was at ema, where its v was put aside; at avg nothing was."""
    up(project, {"state_dict": tensors("v", "w", "x"), "ema": tensors("v", "w", "x")}, 'op.Drop("v", keep=True)')
    path = project.path / "x.pt"
    tree = torch.load(path)
    tree["avg"] = tree.pop("ema")
    torch.save(tree, path)
    before = digest(path)
    ran = project.run("downgrade", "base", path)
    assert (ran.code, digest(path)) == (1, before)
    assert "nothing was stashed for avg: at the upgrade it was no copy, or at another path" in ran.err


@pytest.mark.parametrize("between", ['op.SetItem("fused", True)', "op.Run(look, look)"])
def test_a_copy_is_followed_through_a_script(project: Folder, between: str) -> None:
    """What stands between operations on parameters has the copies looked for again."""
    tree = {"state_dict": tensors("q", "k", "v"), "ema": average("q", "k", "v")}
    torch.save(tree, project.path / "x.pt")
    operations = ['op.Fuse(["q", "k", "v"], "qkv")', between, 'op.Rename("qkv", "all")', between]
    declare(project, "a1", *operations, top="\n\ndef look(ckpt):\n    return ckpt\n")
    project.ok("upgrade", "head", "x.pt", "--no-backup", "--check-rollback")
    after = torch.load(project.path / "x.pt")
    assert (list(after["state_dict"]), list(after["ema"])) == (["all"], ["decay", "num", "all"])
    assert equal(down(project), tree)
