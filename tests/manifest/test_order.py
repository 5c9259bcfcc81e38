"""The order of parameters: torch loads an optimizer by position, so another order of the model scrambles its moments."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from anemoi_ckpt_migrate import upgrade
from anemoi_ckpt_migrate.errors import OtherOrder
from tests.support.models import Models, begun
from tests.support.project import digest

torch = pytest.importorskip("torch")

LAYERS = {"first": "nn.Linear(4, 4)", "second": "nn.Linear(4, 4)", "norm": "nn.LayerNorm(4)"}
SWAPPED = {name: LAYERS[name] for name in ("second", "first", "norm")}
REORDER = 'op.Reorder(["second.*", "first.*"])'


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Models:
    """A project with a model of two layers that look alike, its manifest at the only revision, and a checkpoint."""
    found = begun(tmp_path, monkeypatch, capsys)
    found.code(LAYERS)
    found.operations("aaa", None)
    found.ok("manifest", "--update")
    found.save("old.ckpt")
    return found


def two_steps(path: Path, by_hand: bool = False) -> dict[str, Any]:
    """Load a checkpoint into the current model as torch does, or each moment by its name, and train two steps."""
    found = torch.load(path)
    model = runpy.run_path("net.py")["build"]()
    model.load_state_dict(found["state_dict"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    state = found["optimizer_states"][0]
    if by_hand:
        old = {name: state["state"][number] for number, name in enumerate(found["state_dict"])}
        state["state"] = {number: old[name] for number, (name, _) in enumerate(model.named_parameters())}
    optimizer.load_state_dict(state)
    for step in range(2):
        optimizer.zero_grad()
        sum((weight - step).square().sum() for weight in model.parameters()).backward()
        optimizer.step()
    return dict(model.state_dict())


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in other)


def test_a_model_in_another_order_without_a_revision(models: Models) -> None:
    """`check` says so and proposes a revision; after it, training goes on as with moments moved by hand."""
    models.code(SWAPPED)
    by_hand, scrambled = two_steps(Path("old.ckpt"), by_hand=True), two_steps(Path("old.ckpt"))
    assert not equal(scrambled, by_hand)  # without a word in torch
    ran = models.run("check")
    assert ran.code == 4
    assert (
        "the parameters of the model net are in another order than in the manifest (second.weight has the place of "
        "first.weight), and no revision reorders them, so the moments of optimizers, which are stored by position, "
        "would go to other parameters: `ckpt-migrate revision NAME --autogenerate --model net` writes one"
    ) in ran.out
    assert f"    {REORDER}\n" in ran.out
    assert models.run("check", "--model").code == 4
    models.ok("revision", "second first", "--autogenerate", "--model", "net")
    models.ok("check")
    assert not models.ok("upgrade", "head", "old.ckpt", "--check-rollback").err
    assert equal(two_steps(Path("old.ckpt")), by_hand)
    assert not models.ok("check", "old.ckpt").err


def test_an_upgrade_that_would_scramble_is_refused(models: Models) -> None:
    """The manifest was updated by hand, as if old checkpoints needed no migration."""
    models.code(SWAPPED)
    models.ok("manifest", "--update")
    by_hand, before = two_steps(Path("old.ckpt"), by_hand=True), digest(Path("old.ckpt"))
    for words in (["-n"], [], ["--in-place"], ["-o", "new.ckpt"]):
        ran = models.run("upgrade", "head", "old.ckpt", *words)
        assert ran.code == 3
        assert (
            "the parameters of the result would be in another order than those of the model net at aaa: number 0 of the "
            "optimizer at optimizer_states.0 is first.weight, and second.weight in the model, so moments would go to "
            f"other parameters; this operation, in a script on the way, puts both in order (--no-check-model skips "
            f"this comparison):\n    {REORDER}\n"
        ) in ran.err
    assert (digest(Path("old.ckpt")), sorted(path.name for path in Path().glob("*ckpt*"))) == (
        before,
        ["ckpt-migrate.toml", "old.ckpt"],
    )
    models.ok("upgrade", "head", "old.ckpt", "--no-check-model", "-o", "unchecked.ckpt")
    models.operations("bbb", "aaa", REORDER)  # the way out
    models.ok("upgrade", "head", "old.ckpt")
    assert equal(two_steps(Path("old.ckpt")), by_hand)


def test_the_error_from_python(models: Models) -> None:
    models.code(SWAPPED)
    models.ok("manifest", "--update")
    with pytest.raises(OtherOrder) as raised:
        upgrade("old.ckpt")
    assert (raised.value.model, raised.value.revision, raised.value.operations) == ("net", "aaa", (REORDER,))
    ran = models.run("upgrade", "head", "old.ckpt", "--json")
    assert json.loads(ran.out)["error"]["type"] == "OtherOrder"


def test_a_checkpoint_at_head_in_another_order(models: Models) -> None:
    """It was saved by the code before, and stamped."""
    models.code(SWAPPED)
    models.ok("manifest", "--update")
    models.ok("stamp", "head", "old.ckpt")
    by_hand = two_steps(Path("old.ckpt"), by_hand=True)
    ran = models.run("check", "old.ckpt")
    assert ran.code == 4
    assert (
        "old.ckpt: its parameters are in another order than those of the model net: number 0 of the optimizer at "
        "optimizer_states.0 is first.weight, and second.weight in the model, so moments would go to other parameters; a "
        f"revision with this operation puts both in order\n    {REORDER}\n"
    ) in ran.out
    (found,) = models.run("check", "old.ckpt", "--json").lines
    assert [(each["kind"], each["details"]) for each in found["problems"]] == [("order", [REORDER])]
    assert "1 problem" in models.run("check", "-q", "old.ckpt").out
    models.save("fresh.ckpt")
    models.ok("stamp", "head", "fresh.ckpt")
    fresh = two_steps(Path("fresh.ckpt"))
    models.ok("check", "fresh.ckpt")
    models.operations("bbb", "aaa", REORDER)  # the way out, also for a checkpoint that is in order
    models.ok("manifest", "--update")
    models.ok("upgrade", "head", "old.ckpt", "fresh.ckpt")
    models.ok("check", "old.ckpt", "fresh.ckpt")
    assert equal(two_steps(Path("old.ckpt")), by_hand)
    assert equal(two_steps(Path("fresh.ckpt")), fresh)


def _without_optimizer(tree: dict[str, Any]) -> None:
    del tree["optimizer_states"]


def _by_name(tree: dict[str, Any]) -> None:
    names = list(tree["state_dict"])
    optimizer = tree["optimizer_states"][0]
    optimizer["param_groups"][0]["params"] = names
    optimizer["state"] = {names[number]: state for number, state in optimizer["state"].items()}


def _without_moments(tree: dict[str, Any]) -> None:
    model = torch.nn.ParameterList([torch.nn.Parameter(value) for value in tree["state_dict"].values()])
    tree["optimizer_states"] = [torch.optim.SGD(model.parameters(), lr=0.1).state_dict()]


@pytest.mark.parametrize("change", [_without_optimizer, _by_name, _without_moments])
def test_where_nothing_depends_on_the_order_it_is_a_note(models: Models, change: Any) -> None:
    tree = torch.load("old.ckpt")
    change(tree)
    torch.save(tree, "old.ckpt")
    models.code(SWAPPED)
    models.ok("manifest", "--update")
    ran = models.ok("upgrade", "head", "old.ckpt")
    assert not ran.err
    ran = models.ok("check", "old.ckpt")
    note = "its parameters are in another order than those of the model net: no optimizer depends on it"
    assert f"old.ckpt: {note}\n" in ran.out
    assert models.ok("check", "old.ckpt", "--json").lines[0]["notes"] == [f"old.ckpt: {note}"]


def _decayed(model: Any) -> Any:
    """Return an optimizer that decays weights of layers, and nothing else."""
    weights = [value for value in model.parameters() if value.ndim == 2]
    others = [value for value in model.parameters() if value.ndim < 2]
    return torch.optim.AdamW([{"params": weights}, {"params": others, "weight_decay": 0.0}], lr=0.1)


def _save_decayed(path: str) -> None:
    model = runpy.run_path("net.py")["build"]()
    optimizer = _decayed(model)
    sum(value.square().sum() for value in model.parameters()).backward()
    optimizer.step()
    torch.save({"state_dict": model.state_dict(), "optimizer_states": [optimizer.state_dict()]}, path)


def _moments(path: str) -> dict[str, Any]:
    """Load a checkpoint into the current model as torch does, and return the moments by name."""
    found = torch.load(path)
    model = runpy.run_path("net.py")["build"]()
    optimizer = _decayed(model)
    optimizer.load_state_dict(found["optimizer_states"][0])
    return {name: optimizer.state[value]["exp_avg"] for name, value in model.named_parameters()}


def test_the_order_counts_within_a_group(models: Models) -> None:
    _save_decayed("old.ckpt")
    before = _moments("old.ckpt")
    models.code({name: LAYERS[name] for name in ("norm", "first", "second")})
    assert not equal(_moments("old.ckpt"), before)
    models.ok("manifest", "--update")
    ran = models.run("upgrade", "head", "old.ckpt")
    assert ran.code == 3
    assert "number 2 of the optimizer at optimizer_states.0 is first.bias, and norm.weight in the model" in ran.err
    models.operations("bbb", "aaa", 'op.Reorder(["norm.*", "first.*", "second.*"])')
    models.ok("upgrade", "head", "old.ckpt")
    assert equal(_moments("old.ckpt"), before)


def test_the_order_of_parameters_in_different_groups_does_not_count(models: Models) -> None:
    layers = {"first": "nn.Linear(4, 4, bias=False)", "norm": "nn.LayerNorm(4)"}
    models.code(layers)
    _save_decayed("old.ckpt")
    before = _moments("old.ckpt")
    models.code({name: layers[name] for name in ("norm", "first")})
    models.ok("manifest", "--update")
    assert not models.ok("upgrade", "head", "old.ckpt").err
    assert equal(_moments("old.ckpt"), before)


def test_an_optimizer_whose_parameters_are_not_known(models: Models) -> None:
    """It has one of two layers that look alike."""
    model = runpy.run_path("net.py")["build"]()
    optimizer = torch.optim.AdamW(model["second"].parameters())
    model["second"].weight.square().sum().backward()
    optimizer.step()
    torch.save({"state_dict": model.state_dict(), "optimizer_states": [optimizer.state_dict()]}, "old.ckpt")
    models.code(SWAPPED)
    models.ok("manifest", "--update")
    ran = models.ok("upgrade", "head", "old.ckpt")
    assert (
        "the order of the parameters differs from that of the model net: first.weight has the place of "
        "second.weight in the model, and the order in the optimizer at optimizer_states.0 is unknown: if it is that of "
        "the state dict, moments go to other parameters"
    ) in ran.err
    assert "the order in the optimizer at optimizer_states.0 is unknown" in models.ok("check", "old.ckpt").out


FUNCTION = """
def migrate(ckpt):
    states = ckpt["state_dict"]
    for part in ("weight", "bias"):
        states[f"new.{{part}}"] = states.pop(f"first.{{part}}"){touch}
    return ckpt

def rollback(ckpt):
    return ckpt
"""


def _function(models: Models, touch: str = "") -> None:
    head = '"""first is new"""\nfrom anemoi_ckpt_migrate import MigrationMetadata\nrevision = "bbb"\n'
    head += 'down_revision = "aaa"\nmetadata = MigrationMetadata(versions={"migration": "1.0.0"})\n'
    Path("versions", "bbb_change.py").write_text(head + FUNCTION.format(touch=touch))


def test_a_function_that_moves_a_name_to_the_end_of_the_state_dict(models: Models) -> None:
    """The optimizer is as it was, which is right for the new code: nothing is refused, and nothing said."""
    _function(models)
    models.code({"new": LAYERS["first"], "second": LAYERS["second"], "norm": LAYERS["norm"]})
    models.ok("manifest", "--update")
    before = torch.load("old.ckpt")["optimizer_states"]
    ran = models.ok("upgrade", "head", "old.ckpt")
    assert not ran.err
    found = torch.load("old.ckpt")
    assert list(found["state_dict"])[-2:] == ["new.weight", "new.bias"]
    assert str(found["optimizer_states"]) == str(before)
    ran = models.ok("check", "old.ckpt")
    assert "the order in the optimizer at optimizer_states.0 is unknown" in ran.out


def test_a_function_and_a_model_in_another_order(models: Models) -> None:
    """The tensors that the function left as they were tell which moments are theirs."""
    _function(models)
    models.code({"second": LAYERS["second"], "new": LAYERS["first"], "norm": LAYERS["norm"]})
    models.ok("manifest", "--update")
    before = digest(Path("old.ckpt"))
    ran = models.run("upgrade", "head", "old.ckpt")
    assert ran.code == 3
    assert "number 0 of the optimizer at optimizer_states.0 is new.weight, and second.weight in the model" in ran.err
    assert digest(Path("old.ckpt")) == before


def test_a_function_that_makes_new_tensors(models: Models) -> None:
    """Nothing tells any more which moments belong to them: a warning says so."""
    _function(models, " * 1")
    models.code({"new": LAYERS["first"], "second": LAYERS["second"], "norm": LAYERS["norm"]})
    models.ok("manifest", "--update")
    ran = models.ok("upgrade", "head", "old.ckpt")
    assert "second.weight has the place of new.weight in the model, and the order in the optimizer" in ran.err


def test_tied_weights_have_the_place_of_the_first(models: Models) -> None:
    """Two names of one parameter change their places: for an optimizer, the order is the same."""
    code = (
        "from torch import nn\n\ndef build():\n    made = nn.ModuleDict()\n    for name in {names!r}:\n"
        "        made[name] = nn.Linear(4, 4, bias=False)\n    made['head'].weight = made['embed'].weight\n    return made\n"
    )
    Path("net.py").write_text(code.format(names=["embed", "middle", "head"]))
    models.save("tied.ckpt")
    models.code({})
    Path("net.py").write_text(code.format(names=["head", "middle", "embed"]))
    models.ok("manifest", "--update")
    assert not models.ok("upgrade", "head", "tied.ckpt").err
    ran = models.ok("check", "tied.ckpt")
    assert "in another order than those of the model net: no optimizer depends on it" in ran.out
    assert equal(two_steps(Path("tied.ckpt")), two_steps(Path("tied.ckpt")))


def test_buffers_in_another_order(models: Models) -> None:
    code = (
        "import torch\nfrom torch import nn\n\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.layer = nn.Linear(2, 2)\n        for name in {names!r}:\n"
        "            self.register_buffer(name, torch.zeros(2))\n\ndef build():\n    return Net()\n"
    )
    Path("net.py").write_text(code.format(names=["mean", "std"]))
    models.ok("manifest", "--update")
    models.save("old.ckpt")
    models.code({})
    Path("net.py").write_text(code.format(names=["std", "mean"]))
    ran = models.run("check")
    assert (ran.code, "moments" in ran.out) == (4, False)
    assert "the model net differs from the manifest, and no revision explains the change" in ran.out
    models.ok("manifest", "--update")
    assert not models.ok("upgrade", "head", "old.ckpt").err


def test_of_several_models_the_one_in_the_same_order_counts(models: Models) -> None:
    models.code(SWAPPED, module="other")
    models.configure(another="other:build", net="net:build")
    models.ok("manifest", "--update")
    models.ok("upgrade", "head", "old.ckpt")
    assert "another order" not in models.ok("check", "old.ckpt").out


def test_names_of_the_optimizer_itself_count(models: Models) -> None:
    """torch notes names beside the numbers, and loads by number all the same."""
    model = runpy.run_path("net.py")["build"]()
    optimizer = torch.optim.AdamW(model.named_parameters())
    state = optimizer.state_dict()
    if "param_names" not in state["param_groups"][0]:
        pytest.skip("this torch notes no names")
    sum(value.square().sum() for value in model.parameters()).backward()
    optimizer.step()
    torch.save({"state_dict": model.state_dict(), "optimizer": optimizer.state_dict()}, "old.ckpt")
    models.code(SWAPPED)
    models.ok("manifest", "--update")
    ran = models.run("upgrade", "head", "old.ckpt")
    assert ran.code == 3
    assert "number 0 of the optimizer at optimizer is first.weight, and second.weight in the model" in ran.err
