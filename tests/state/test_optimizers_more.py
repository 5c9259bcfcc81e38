"""Optimizers that are told which parameters are theirs, and what is done before, behind and beside that."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from tests.support.operations import declare, equal, without_record  # noqa: E402
from tests.support.project import Folder, digest  # noqa: E402

C_AND_D = 'op.ParameterGroups([["c.*", "d.*"]])'


class Four(nn.Module):
    """Four layers of one shape: which of them an optimizer has, no shape tells."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.d(self.c(self.b(self.a(x))))


def step(model: nn.Module, optimizer: Any, seed: int = 0) -> None:
    torch.manual_seed(seed)
    optimizer.zero_grad()
    model(torch.randn(5, 4)).square().mean().backward()
    optimizer.step()


def saved(path: Path, model: nn.Module, optimizer: Any, **more: Any) -> dict[str, Any]:
    torch.save({"state_dict": model.state_dict(), "opt": optimizer.state_dict(), **more}, path)
    return load(path)


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def half_trained(path: Path) -> dict[str, Any]:
    """Save a model of which the optimizer has c and d only."""
    torch.manual_seed(0)
    model = Four()
    optimizer = torch.optim.AdamW([*model.c.parameters(), *model.d.parameters()], lr=1e-2)
    step(model, optimizer)
    return saved(path, model, optimizer)


def made(path: Path, names: Sequence[str], tensors: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Save a state dict, and the moments of those named: each moment is its parameter plus 100."""
    state = {
        place: {"step": torch.tensor(3.0), "exp_avg": tensors[name] + 100, "exp_avg_sq": tensors[name] + 200}
        for place, name in enumerate(names)
    }
    groups = [{"lr": 0.1, "params": list(range(len(names)))}]
    tree = {"state_dict": OrderedDict(tensors), "opt": {"state": state, "param_groups": groups}, **more}
    torch.save(tree, path)
    return load(path)


def square(*names: str) -> dict[str, Any]:
    return {name: torch.arange(16.0).view(4, 4) + 1000 * place for place, name in enumerate(names)}


def moments_of(tree: dict[str, Any], *names: str) -> bool:
    """Tell whether the optimizer has the moments of these, in this order."""
    state = tree["opt"]["state"]
    return list(state) == list(range(len(names))) and all(
        torch.equal(state[place]["exp_avg"], tree["state_dict"][name] + 100) for place, name in enumerate(names)
    )


def assert_goes_back(project: Folder, path: Path, before: dict[str, Any]) -> None:
    project.ok("downgrade", "base", path)
    assert equal(without_record(load(path)), before)


def test_said_twice_on_one_way_up(project: Folder) -> None:
    """Two scripts, each says whose moments these are: the second does not undo what the first did."""
    path = project.path / "last.ckpt"
    before = half_trained(path)
    declare(project, "a1", C_AND_D, 'op.Transpose("c.weight")')
    declare(project, "a2", C_AND_D, 'op.Transpose("d.weight")', parents="a1")
    project.ok("upgrade", "head", path, "--check-rollback")
    after = load(path)
    for place in (0, 2):
        for moment in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(after["opt"]["state"][place][moment], before["opt"]["state"][place][moment].T)
    assert_goes_back(project, path, before)


def test_said_once_on_one_way_down(project: Folder) -> None:
    """The record says it for each revision: going down two at once is going down one by one."""
    path = project.path / "last.ckpt"
    before = half_trained(path)
    declare(project, "a1", C_AND_D, 'op.Transpose("c.weight")')
    declare(project, "a2", 'op.Transpose("d.weight")', parents="a1")
    project.ok("upgrade", "head", path)
    assert_goes_back(project, path, before)


class Buffered(nn.Module):
    """Two layers around a batch norm, tied, with a buffer of its own and a frozen bias."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm, self.two = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)
        self.two.weight = self.one.weight
        self.register_buffer("mask", torch.ones(4, 4))
        self.register_buffer("steps", torch.zeros(4, dtype=torch.int64))
        self.two.bias.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(self.norm(self.one(x))) * self.mask[0]


@pytest.mark.parametrize(
    "groups",
    [
        '[["one.*", "norm.*", "two.weight"]]',
        '[["*"]], exclude=["mask", "two.bias"]',
        '[["*"]], exclude=["ma*", "two.bias"]',
    ],
)
def test_patterns_select_parameters_only(project: Folder, groups: str) -> None:
    path = project.path / "last.ckpt"
    model = Buffered()
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad])
    step(model, optimizer)
    before = saved(path, model, optimizer)
    declare(project, "a1", f"op.ParameterGroups({groups})", 'op.Drop("norm.*", keep=True)')
    project.ok("upgrade", "head", path, "--check-rollback")
    assert [tuple(each["exp_avg"].shape) for each in load(path)["opt"]["state"].values()] == [(4, 4), (4,)]
    assert_goes_back(project, path, before)


@pytest.mark.parametrize(
    ("groups", "says"),
    [
        ('[["*"]]', "has 4 parameters, but ParameterGroups lists 6 for it; use exclude=[...] for"),
        ('[["*"]], exclude=["mask", "two"]', "ParameterGroups excludes two, which the state dict does not have"),
        ('[["*"]], exclude=["mask", "x.*"]', "ParameterGroups excludes x.*, which the state dict does not have"),
        ('[["one.*", "norm.weight", "norm.running_mean"]]', "lists norm.running_mean, which is a buffer"),
        ('[["one.*", "norm.weight", "norm.num_batches_tracked"]]', "lists norm.num_batches_tracked, which is a buffer"),
        ('[["one.*"]], exclude=3', "ParameterGroups: exclude must be a name or a list of names, not 3"),
    ],
)
def test_groups_that_cannot_be(project: Folder, groups: str, says: str) -> None:
    path = project.path / "last.ckpt"
    model = Buffered()
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad])
    step(model, optimizer)
    saved(path, model, optimizer)
    before = digest(path)
    declare(project, "a1", f"op.ParameterGroups({groups})", 'op.Drop("norm.*", keep=True)')
    ran = project.run("upgrade", "head", path)
    assert ran.code == 1
    assert says in ran.err
    assert digest(path) == before


def test_said_late_it_is_about_what_is_there_by_then(project: Folder) -> None:
    """enc and mid, shapes tell; out.bias is gone before the script says it of what is left."""
    path = project.path / "last.ckpt"
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 4))
    optimizer = torch.optim.AdamW(model.parameters())
    step(model, optimizer)
    before = saved(path, model, optimizer)
    declare(project, "a1", 'op.Transpose("0.weight")', 'op.Drop("1.bias", keep=True)')
    declare(project, "a2", 'op.ParameterGroups([["*"]])', 'op.Transpose("1.weight")', parents="a1")
    project.ok("upgrade", "head", path, "--check-rollback")
    state = load(path)["opt"]["state"]
    assert [tuple(state[place]["exp_avg"].shape) for place in range(3)] == [(4, 6), (6,), (6, 4)]
    assert_goes_back(project, path, before)


@pytest.mark.parametrize(
    "between", ['op.SetItem("x", 1)', 'op.DropItem("epoch")', 'op.MoveItem("opt", "optim")', 'op.Run("look", "look")']
)
def test_names_swapped_and_something_else_in_between(project: Folder, between: str) -> None:
    """What was called b is called a now, and stays known as that while something else is done to the tree."""
    path = project.path / "last.ckpt"
    before = made(path, ["a", "b"], square("a", "b", "f"), epoch=3)
    swap = [f'op.Rename("{old}", "{new}")' for old, new in (("a", "t"), ("b", "a"), ("t", "b"))]
    declare(
        project,
        "a1",
        'op.ParameterGroups([["a", "b"]])',
        *swap,
        between,
        'op.Transpose("a")',
        top="def look(ckpt):\n    return ckpt\n",
    )
    project.ok("upgrade", "head", path, "--check-rollback")
    after = load(path)
    after["opt"] = after.get("opt", after.get("optim"))
    assert moments_of(after, "b", "a")
    assert torch.equal(after["state_dict"]["a"], before["state_dict"]["b"].T)
    assert_goes_back(project, path, before)


def test_what_was_said_does_not_outlive_a_function_that_makes_new_tensors(project: Folder) -> None:
    path = project.path / "last.ckpt"
    before = made(path, ["b", "a"], square("a", "b", "f"))
    top = (
        "def up(ckpt):\n"
        '    ckpt["state_dict"] = type(ckpt["state_dict"])((k, v + 0) for k, v in ckpt["state_dict"].items())\n'
        "    return ckpt\n"
    )
    said = 'op.ParameterGroups([["b", "a"]])'
    declare(project, "a1", said, 'op.Run("up", "up")', 'op.Transpose("a")', top=top)
    content = digest(path)
    ran = project.run("upgrade", "head", path)
    assert ran.code == 1
    assert "list them again after the function, with op.ParameterGroups" in ran.err
    assert digest(path) == content
    declare(project, "a1", said, 'op.Run("up", "up")', said, 'op.Transpose("a")', top=top)
    project.ok("upgrade", "head", path)
    assert torch.equal(load(path)["opt"]["state"][1]["exp_avg"], before["state_dict"]["a"].T + 100)
    assert_goes_back(project, path, before)


@pytest.mark.parametrize("by", ["position", "name"])
@pytest.mark.parametrize("further", [[], ['op.Rename("a", "c")']])
def test_the_order_changes_against_what_is_not_in_the_optimizer(project: Folder, by: str, further: list[str]) -> None:
    """buffer, a, b -> b, a, buffer: the new model gives its optimizer b first."""
    path = project.path / "last.ckpt"
    tree = made(path, ["a", "b"], square("buffer", "a", "b"))
    if by == "name":
        tree["opt"]["param_groups"][0]["param_names"] = ["a", "b"]
        torch.save(tree, path)
    declare(project, "a1", 'op.ParameterGroups([["a", "b"]])', 'op.Reorder(["b", "buffer"])', *further)
    project.ok("upgrade", "head", path, "--check-rollback")
    after = load(path)
    first, second, _ = after["state_dict"]
    assert (first, second) == ("b", "c" if further else "a")
    assert moments_of(after, first, second)
    assert after["opt"]["param_groups"][0].get("param_names", [first, second]) == [first, second]
    assert_goes_back(project, path, tree)


class Tied(nn.Module):
    """An embedding that is the head too, and a layer in between."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(6, 4)
        self.head = nn.Linear(4, 6, bias=False)
        self.body = nn.Linear(4, 4)
        self.head.weight = self.emb.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.emb(torch.arange(6))))


@pytest.mark.parametrize("kind", ["by position", "by name"])
def test_tied_weights_change_places(project: Folder, kind: str) -> None:
    """emb, head, one memory: the optimizer has them where the first of both stands."""
    path = project.path / "last.ckpt"
    torch.manual_seed(0)
    model = Tied()
    optimizer = torch.optim.AdamW(model.named_parameters() if kind == "by name" else model.parameters())
    step(model, optimizer)
    before = saved(path, model, optimizer)
    declare(project, "a1", 'op.Reorder(["head.weight", "emb.weight"])')
    declare(project, "a2", 'op.Add("scale", [4])', parents="a1")
    project.ok("upgrade", "head", path, "--check-rollback")
    assert list(load(path)["state_dict"])[:2] == ["head.weight", "emb.weight"]
    assert_goes_back(project, path, before)


A_AND_B = 'op.ParameterGroups([["a", "b"]])'


@pytest.mark.parametrize(
    "operations",
    [
        [A_AND_B, 'op.Add("x", [2], buffer=True)'],
        [A_AND_B, 'op.Drop("buffer", keep=True)'],
        [A_AND_B, 'op.Drop("frozen", keep=True)'],
        [A_AND_B, 'op.Cast("buffer", "bfloat16", keep=True)'],
        [A_AND_B, 'op.Transpose("buffer")'],
        [A_AND_B, 'op.Split("frozen", ["f1", "f2"])'],
        ['op.Add("x", [2], buffer=True)'],
        ['op.Add("x", [2], dtype="int64")'],
        ['op.Drop("n", keep=True)'],
        ['op.Cast("buffer", "bfloat16", keep=True)'],
        ['op.Cast("buffer", "float64")'],
        ['op.Rename("frozen", "f")'],
    ],
)
@pytest.mark.parametrize("average", [False, True])
def test_what_is_none_of_the_optimizers_goes_back(project: Folder, operations: list[str], average: bool) -> None:
    """The optimizer has a and b; what is done to the others needs not be said on the way back, where nobody could."""
    path = project.path / "last.ckpt"
    tensors = {"frozen": torch.randn(4, 4), **square("a", "buffer", "b"), "n": torch.tensor([3])}
    more = {"average": {f"module.{name}": value + 1 for name, value in tensors.items()}} if average else {}
    before = made(path, ["a", "b"], tensors, **more)
    declare(project, "a1", *operations)
    project.ok("upgrade", "head", path, "--check-rollback")
    assert moments_of(load(path), "a", "b")
    assert_goes_back(project, path, before)


def test_what_may_be_the_optimizers_is_still_refused(project: Folder) -> None:
    path = project.path / "last.ckpt"
    made(path, ["a", "b"], square("f", "a", "b"))
    for operation in ('op.Transpose("f")', 'op.Drop("f", keep=True)', 'op.Reorder(["a", "f"])', 'op.Add("x", [2])'):
        declare(project, "a1", operation)
        content = digest(path)
        ran = project.run("upgrade", "head", path)
        assert ran.code == 1
        assert "op.ParameterGroups" in ran.err
        assert digest(path) == content


def test_what_an_optimizer_remembers_of_no_parameter_stays(project: Folder) -> None:
    """torch saves and loads what stands in `optimizer.state` under keys of one's own."""
    path = project.path / "last.ckpt"
    torch.manual_seed(0)
    model = Four()
    optimizer = torch.optim.AdamW(model.parameters())
    step(model, optimizer)
    optimizer.state["ema"] = {"k": torch.ones(2)}
    before = saved(path, model, optimizer)
    declare(project, "a1", 'op.Transpose("a.weight")', 'op.Drop("d.*", keep=True)', 'op.Rename("b.bias", "b.shift")')
    project.ok("upgrade", "head", path, "--check-rollback")
    after = load(path)["opt"]["state"]
    assert list(after) == [*range(6), "ema"]
    assert torch.equal(after["ema"]["k"], torch.ones(2))
    assert_goes_back(project, path, before)


def test_a_position_that_is_no_parameter_is_refused(project: Folder) -> None:
    """Nobody knows what 9 is, and other positions may come to it."""
    path = project.path / "last.ckpt"
    tree = made(path, ["a", "b"], square("a", "b"))
    tree["opt"]["state"][9] = {"exp_avg": torch.ones(4, 4)}
    torch.save(tree, path)
    content = digest(path)
    declare(project, "a1", 'op.Transpose("a")')
    ran = project.run("upgrade", "head", path)
    assert ran.code == 1
    assert "does not number its parameters as torch does" in ran.err
    assert digest(path) == content


def test_moments_in_lists_and_dicts_go_along(project: Folder) -> None:
    """As an optimizer of one's own may keep them: a history of gradients."""
    path = project.path / "last.ckpt"
    torch.manual_seed(0)
    tensors = {name: torch.randn(4, 6) for name in ("a", "b", "c")}
    before = made(path, ["a", "b", "c"], tensors)
    for place, value in before["opt"]["state"].items():
        value["history"] = [tensors["abc"[place]] + 1, (torch.tensor(7), {"last": tensors["abc"[place]] + 2}), "x"]
    torch.save(before, path)
    declare(project, "a1", 'op.Fuse(["a", "b"], "ab")', 'op.Transpose("c")')
    project.ok("upgrade", "head", path, "--check-rollback")
    after = load(path)
    both, other = after["opt"]["state"][0]["history"], after["opt"]["state"][1]["history"]
    assert torch.equal(both[0], after["state_dict"]["ab"] + 1)
    assert torch.equal(both[1][1]["last"], after["state_dict"]["ab"] + 2)
    assert both[1][0] == 7
    assert both[2] == "x"
    assert torch.equal(other[0], tensors["c"].T + 1)
    assert_goes_back(project, path, before)


def test_lists_of_what_has_another_shape_are_refused(project: Folder) -> None:
    path = project.path / "last.ckpt"
    tree = made(path, ["a", "b"], square("a", "b"))
    for count, value in enumerate(tree["opt"]["state"].values(), 1):
        value["rows"] = [torch.ones(4)] * count
    torch.save(tree, path)
    content = digest(path)
    for operation, why in (
        ('op.Transpose("a")', "the optimizer's rows has the shape [4], not that of the parameter [4, 4]"),
        ('op.Fuse(["a", "b"], "c")', "the optimizer's rows differs between them"),
    ):
        declare(project, "a1", operation)
        ran = project.run("upgrade", "head", path)
        assert ran.code == 1
        assert why in ran.err
        assert digest(path) == content


@pytest.mark.parametrize("kind", [torch.optim.NAdam, torch.optim.ASGD, torch.optim.AdamW])
@pytest.mark.parametrize("operation", ['op.Stack(["s", "t"], "st")', 'op.Reshape(["s", "t"], [1])'])
def test_numbers_that_count_are_no_moments_of_parameters_without_dimensions(
    project: Folder, kind: Any, operation: str
) -> None:
    """s and t, each a number: their moments follow them, what is counted stays a number."""
    path = project.path / "last.ckpt"

    def trained(parameters: dict[str, Any], state: Any = None) -> Any:
        optimizer = kind(parameters.values(), lr=0.1)
        if state is not None:
            optimizer.load_state_dict(state)
        for _ in range(3):
            optimizer.zero_grad()
            sum((value - 1).square().sum() for value in parameters.values()).backward()
            optimizer.step()
        return optimizer

    old = {name: nn.Parameter(torch.tensor(value)) for name, value in (("s", 3.0), ("t", -2.0))}
    optimizer = trained(old)
    weights = OrderedDict((name, value.detach()) for name, value in old.items())
    torch.save({"state_dict": weights, "opt": optimizer.state_dict()}, path)
    before = load(path)
    declare(project, "a1", operation)
    project.ok("upgrade", "head", path, "--check-rollback")

    after = load(path)
    new = {name: nn.Parameter(value.clone()) for name, value in after["state_dict"].items()}
    trained(new, after["opt"])
    trained(old, optimizer.state_dict())
    assert torch.equal(torch.cat([value.flatten() for value in new.values()]), torch.stack([old["s"], old["t"]]))
    assert_goes_back(project, path, before)


def of_a_part(path: Path, lead: str, keyed: bool, other: str = "") -> dict[str, Any]:
    """Save a model whose optimizer was made for a part of it, and has names as they are there."""
    torch.manual_seed(0)
    model = Four()
    optimizer = torch.optim.AdamW(model.named_parameters())
    step(model, optimizer)
    state = optimizer.state_dict()
    if keyed:
        names = [name for name, _ in model.named_parameters()]
        state["state"] = {names[place]: value for place, value in state["state"].items()}
        state["param_groups"][0]["params"] = names
        del state["param_groups"][0]["param_names"]
    weights = OrderedDict((f"{lead}{name}", value) for name, value in model.state_dict().items())
    if other:
        weights |= {f"{other}{name}": value + 1 for name, value in model.state_dict().items()}
    torch.save({"state_dict": weights, "opt": state}, path)
    return load(path)


def names_of(tree: dict[str, Any], keyed: bool) -> list[str]:
    group = tree["opt"]["param_groups"][0]
    assert not keyed or list(tree["opt"]["state"]) == group["params"]
    return list(group["params"] if keyed else group["param_names"])


@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize(
    ("operations", "called"),
    [
        (['op.Transpose("model.net.a.weight")'], "a.weight"),
        (['op.Rename("model.net.a.weight", "model.net.enc.w")'], "enc.w"),
        (['op.StripPrefix("model.")', 'op.Rename("net.a.weight", "net.w")'], "w"),
        (['op.StripPrefix("model.net.")'], "a.weight"),
        (['op.RenamePrefix("model.", "m.")', 'op.SetItem("x", 1)', 'op.AddPrefix("module.")'], "a.weight"),
    ],
)
def test_an_optimizer_of_a_part_keeps_its_own_names(
    project: Folder, keyed: bool, operations: list[str], called: str
) -> None:
    """A Lightning module has `model.net.a.weight`, and AdamW(model.net.named_parameters()) says `a.weight`."""
    path = project.path / "last.ckpt"
    before = of_a_part(path, "model.net.", keyed)
    declare(project, "a1", *operations)
    project.ok("upgrade", "head", path, "--check-rollback")
    assert names_of(load(path), keyed) == [called, *names_of(before, keyed)[1:]]
    assert_goes_back(project, path, before)


@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize(
    "operation", ['op.Rename("net.a.weight", "head.weight")', 'op.Add("scale", [4])', 'op.RenamePrefix("net.", "n_")']
)
def test_what_an_optimizer_of_a_part_would_call_it_has_to_be_known(
    project: Folder, keyed: bool, operation: str
) -> None:
    path = project.path / "last.ckpt"
    of_a_part(path, "net.", keyed)
    content = digest(path)
    declare(project, "a1", operation)
    ran = project.run("upgrade", "head", path)
    assert ran.code == 1
    assert "leaves net. out of its names, so its name for" in ran.err
    assert digest(path) == content


@pytest.mark.parametrize("keyed", [False, True])
def test_an_optimizer_of_one_of_two_parts_has_to_be_told(project: Folder, keyed: bool) -> None:
    """gen and disc have the same names, and the optimizer says `a.weight`."""
    path = project.path / "last.ckpt"
    before = of_a_part(path, "gen.", keyed, "disc.")
    content = digest(path)
    operations = ['op.RenamePrefix("disc.a.", "disc.first.")', 'op.SetItem("x", 1)', 'op.Transpose("disc.b.weight")']
    declare(project, "a1", *operations)
    ran = project.run("upgrade", "head", path)
    assert ran.code == 1
    assert (
        "a.weight of the optimizer at opt may be gen.a.weight or disc.a.weight; list them with op.ParameterGroups"
        in ran.err
    )
    assert digest(path) == content
    declare(project, "a1", 'op.ParameterGroups([["disc.*"]])', *operations)
    project.ok("upgrade", "head", path, "--check-rollback")
    after = load(path)
    assert names_of(after, keyed)[:3] == ["first.weight", "first.bias", "b.weight"]
    places = names_of(after, keyed) if keyed else range(8)
    assert torch.equal(
        after["opt"]["state"][places[2]]["exp_avg"],
        before["opt"]["state"][names_of(before, keyed)[2] if keyed else 2]["exp_avg"].T,
    )
    assert_goes_back(project, path, before)


@pytest.mark.parametrize("keyed", [False, True])
def test_names_that_do_not_fit_are_not_left_behind(project: Folder, keyed: bool) -> None:
    """The optimizer says `b.weight`, which nothing is called: a rename might be of that."""
    path = project.path / "last.ckpt"
    tree = of_a_part(path, "", keyed)
    tree["state_dict"]["other.weight"] = tree["state_dict"].pop("b.weight")
    torch.save(tree, path)
    content = digest(path)
    declare(project, "a1", 'op.RenamePrefix("a.", "first.")')
    ran = project.run("upgrade", "head", path)
    assert ran.code == 1
    assert "the optimizer at opt names b.weight, which the state dict does not have" in ran.err
    assert digest(path) == content


@pytest.mark.parametrize("dropped", ["bias", "mask"])
def test_an_optimizer_that_was_not_there_when_something_was_put_aside(project: Folder, dropped: str) -> None:
    """A parameter without moments, or frozen? Nobody can tell; that a mask of booleans is no parameter, anybody."""
    path = project.path / "last.ckpt"
    weights = OrderedDict(weight=torch.randn(4, 4), bias=torch.randn(4), mask=torch.ones(4, dtype=torch.bool))
    torch.save({"state_dict": weights}, path)
    declare(project, "a1", f'op.Drop("{dropped}", keep=True)')
    project.ok("upgrade", "head", path)
    tree = load(path)
    trained = [name for name in ("weight", "bias") if name in tree["state_dict"]]
    state = {place: {"exp_avg": tree["state_dict"][name] + 100} for place, name in enumerate(trained)}
    tree["opt"] = {"state": state, "param_groups": [{"params": list(state)}]}
    torch.save(tree, path)
    content = digest(path)
    ran = project.run("downgrade", "base", path)
    if dropped == "bias":
        assert ran.code == 1
        assert "in opt, bias cannot be restored: the optimizer was added after it was stashed" in ran.err
        assert digest(path) == content
        del tree["opt"]
        torch.save(tree, path)
        project.ok("downgrade", "base", path)
    else:
        assert ran.code == 0
        assert moments_of(load(path), "weight", "bias")
    assert equal(load(path)["state_dict"], weights)


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize(
    "operation", ['op.Drop("c", keep=True)', 'op.Fuse(["a", "c"], "ac")', 'op.Stack(["b", "c", "a"], "all")']
)
@pytest.mark.parametrize("between", [[], ['op.SetItem("x", 1)']])
def test_an_order_of_its_own_comes_back(project: Folder, named: bool, operation: str, between: list[str]) -> None:
    """The optimizer has c, a, b. Without c, that is the order of the state dict; c comes back before a all the same."""
    path = project.path / "last.ckpt"
    before = made(path, ["c", "a", "b"], square("a", "b", "c"))
    if named:
        before["opt"]["param_groups"][0]["param_names"] = ["c", "a", "b"]
        torch.save(before, path)
    declare(project, "a1", 'op.ParameterGroups([["c", "a", "b"]])', operation, *between, 'op.AddPrefix("m.")')
    project.ok("upgrade", "head", path, "--check-rollback")
    assert_goes_back(project, path, before)


def test_tensors_that_only_functions_can_change(project: Folder) -> None:
    """A sparse parameter, a sparse moment: what is about others goes on, what is about these is refused."""
    path = project.path / "last.ckpt"
    tensors = {"a": torch.eye(3).to_sparse(), "b": torch.ones(3, 3), "c": torch.ones(3, 3)}
    groups = [{"params": [0, 1, 2]}]
    state = {0: {"exp_avg": torch.ones(3, 3)}, 1: {"exp_avg": torch.eye(3).to_sparse()}, 2: {"exp_avg": torch.eye(3)}}
    torch.save({"state_dict": OrderedDict(tensors), "opt": {"state": state, "param_groups": groups}}, path)
    content = digest(path)
    for operations, why in (
        (['op.Transpose("c")'], "the optimizer at opt may or may not have a, which is not a plain tensor"),
        (
            ['op.ParameterGroups([["*"]])', 'op.Transpose("b")'],
            "in opt, Transpose of b cannot be: it is not a plain tensor",
        ),
    ):
        declare(project, "a1", *operations)
        ran = project.run("upgrade", "head", path)
        assert ran.code == 1
        assert why in ran.err
        assert digest(path) == content
    declare(project, "a1", 'op.ParameterGroups([["*"]])', 'op.Rename("a", "z")', 'op.Drop("b", keep=True)')
    project.ok("upgrade", "head", path, "--check-rollback")
    after = load(path)["opt"]["state"]
    assert [value["exp_avg"].is_sparse for value in after.values()] == [False, False]
    project.ok("downgrade", "base", path)
    assert load(path)["opt"]["state"][1]["exp_avg"].is_sparse
