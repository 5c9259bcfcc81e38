"""Optimizer states as torch.distributed.checkpoint makes them, by name and flattened: migrated, loaded, trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.distributed.checkpoint.state_dict import (  # noqa: E402
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

import anemoi_ckpt_migrate as cm  # noqa: E402
from tests.support.operations import FUSING, New, Old, batches, declare, equal, train, trained, without_record  # noqa: E402
from tests.support.project import Folder, digest  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")

FORMS = {"flattened": StateDictOptions(flatten_optimizer_state_dict=True), "by name": StateDictOptions()}


def matrices_and_vectors(model: nn.Module) -> Any:
    """Two groups: matrices decay, vectors do not."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    return torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0}])


OPTIMIZERS = {
    "AdamW": lambda model: torch.optim.AdamW(model.parameters(), lr=1e-2),
    "AdamW, amsgrad": lambda model: torch.optim.AdamW(model.parameters(), lr=1e-2, amsgrad=True),
    "AdamW, lr in a tensor": lambda model: torch.optim.AdamW(model.parameters(), lr=torch.tensor(1e-2), foreach=False),
    "AdamW, two groups": matrices_and_vectors,
    "SGD, momentum": lambda model: torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9),
    "SGD": lambda model: torch.optim.SGD(model.parameters(), lr=1e-2),
    "Adagrad": lambda model: torch.optim.Adagrad(model.parameters(), lr=1e-2, initial_accumulator_value=0.5),
    "RMSprop": lambda model: torch.optim.RMSprop(model.parameters(), lr=1e-3, momentum=0.5, centered=True),
}


def saved(path: Path, model: nn.Module, optimizer: Any, form: str = "flattened") -> Any:
    state = get_optimizer_state_dict(model, optimizer, options=FORMS[form])
    torch.save({"model": model.state_dict(), "optimizer": state}, path)
    return load(path)


def load(path: Path) -> Any:
    return torch.load(path, weights_only=True)


def resumed(path: Path, model: nn.Module, make: Any, form: str = "flattened") -> Any:
    """Load a checkpoint into a new model and a new optimizer, as torch does."""
    tree = load(path)
    model.load_state_dict(tree["model"])
    optimizer = make(model)
    set_optimizer_state_dict(model, optimizer, tree["optimizer"], options=FORMS[form])
    return optimizer


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_training_goes_on_as_if_nothing_had_happened(project: Folder, kind: str, form: str) -> None:
    """q, k, v -> qkv with their moments, under their new names; and back, bit for bit."""
    make, path = OPTIMIZERS[kind], project.path / "last.pt"
    model, optimizer = trained(make)
    before = saved(path, model, optimizer, form)
    declare(project, "a1", *FUSING)
    project.ok("upgrade", "head", path, "--check-rollback")
    new = New()
    went_on = resumed(path, new, make, form)
    train(model, optimizer, batches(5, seed=1))
    train(new, went_on, batches(5, seed=1))
    assert torch.equal(new.qkv.weight, torch.cat([model.q.weight, model.k.weight, model.v.weight]))
    assert torch.equal(new.qkv.bias, torch.cat([model.q.bias, model.k.bias, model.v.bias]))
    assert torch.equal(new.proj.weight, model.out.weight)
    project.ok("downgrade", "base", path)
    after = without_record(load(path))
    assert after["optimizer"].keys() == before["optimizer"].keys()
    assert all(equal(value, before["optimizer"][key]) for key, value in after["optimizer"].items())
    assert equal(after["model"], before["model"])


OPERATIONS = {
    'op.RenamePrefix("out.", "head.")': ("out.weight", lambda moment: {"head.weight": moment}),
    'op.Split("out.weight", ["up.weight", "down.weight"])': (
        "out.weight", lambda moment: {"up.weight": moment[:4], "down.weight": moment[4:]},
    ),
    'op.Unstack("out.weight", ["row{i}.weight"])': (
        "out.weight", lambda moment: {f"row{i}.weight": moment[i] for i in range(8)},
    ),
    'op.Stack(["q.weight", "k.weight"], "qk")': (
        "q.weight", lambda moment: {"qk": moment},
    ),
    'op.Transpose("out.weight", 0, 1)': ("out.weight", lambda moment: {"out.weight": moment.t()}),
    'op.Reshape("out.weight", [4, 16])': ("out.weight", lambda moment: {"out.weight": moment.reshape(4, 16)}),
    'op.Cast("out.weight", "float16", keep=True)': ("out.weight", lambda moment: {"out.weight": moment}),
    'op.Pad("out.weight", 2)': (
        "out.weight", lambda moment: {"out.weight": torch.cat([moment, moment.new_zeros(2, 8)])},
    ),
    'op.Crop("out.weight", 3)': ("out.weight", lambda moment: {"out.weight": moment[:-3]}),
    'op.Drop(["out.weight", "out.bias"], keep=True)': ("out.weight", lambda moment: {}),
    'op.Drop(["*.bias"], keep=True)': ("out.weight", lambda moment: {"out.weight": moment}),
}  # fmt: skip
"""An operation, a parameter, and what becomes of its first moment."""


@pytest.mark.parametrize("make", [OPTIMIZERS["AdamW"], matrices_and_vectors], ids=["one group", "two groups"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_moments_follow(project: Folder, operation: str, make: Any) -> None:
    path = project.path / "last.pt"
    before = saved(path, *trained(make))
    declare(project, "a1", operation)
    project.ok("upgrade", "head", path, "--check-rollback")
    after = load(path)
    name, becomes = OPERATIONS[operation]
    moment = before["optimizer"][f"state.{name}.exp_avg"]
    if "Stack(" in operation:
        moment = torch.stack([moment, before["optimizer"]["state.k.weight.exp_avg"]])
    expected = {f"state.{new}.exp_avg": value for new, value in becomes(moment).items()}
    parts = {part for new in expected for part in [new]}
    for key in parts:
        assert equal(after["optimizer"][key], expected[key])
    names = {name for name, value in after["model"].items() if "norm" not in name}
    has = {
        key.removeprefix("state.").removesuffix(".exp_avg") for key in after["optimizer"] if key.endswith(".exp_avg")
    }
    assert {name for name in has if "norm" not in name} == names
    assert {key.split(".", 1)[1].rpartition(".")[0] for key in after["optimizer"] if key.endswith(".lr")} == has
    project.ok("downgrade", "base", path)
    back = without_record(load(path))
    assert back["optimizer"].keys() == before["optimizer"].keys()
    assert all(equal(value, before["optimizer"][key]) for key, value in back["optimizer"].items())


class Wider(Old):
    """The same, with a parameter more."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + self.scale * x


@pytest.mark.parametrize("kind", [kind for kind in OPTIMIZERS if "two" not in kind])
def test_what_is_added_begins_as_a_fresh_one(project: Folder, kind: str) -> None:
    """torch's loader asks for a state of every parameter: that of a fresh one, so that training is the same."""
    make, path = OPTIMIZERS[kind], project.path / "last.pt"
    model, optimizer = trained(make)
    saved(path, model, optimizer)
    declare(project, "a1", 'op.Add("scale", [8])')
    project.ok("upgrade", "head", path, "--check-rollback")
    loaded, expected = Wider(), Wider()
    went_on = resumed(path, loaded, make)

    expected.load_state_dict(load(path)["model"])
    fresh = make(expected)
    state = optimizer.state_dict()
    # parameters() gives `scale` first: numbers are one more than before
    state["state"] = {number + 1: value for number, value in state["state"].items()}
    state["param_groups"][0]["params"] = list(range(len(list(expected.parameters()))))
    fresh.load_state_dict(state)
    train(loaded, went_on, batches(3, seed=1))
    train(expected, fresh, batches(3, seed=1))
    for name, value in expected.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_what_a_fresh_one_has_may_not_be_known(project: Folder) -> None:
    """NAdam keeps a product that begins at one; nobody guesses it."""
    path = project.path / "last.pt"
    saved(path, *trained(lambda model: torch.optim.NAdam(model.parameters())))
    before = digest(path)
    declare(project, "a1", 'op.Add("scale", [8])')
    ran = project.run("upgrade", "head", path)
    assert (ran.code, digest(path)) == (1, before)
    assert "the initial mu_product of a new parameter is unknown; use op.Run to add it" in ran.err


def test_other_settings_are_another_group(project: Folder) -> None:
    """Flattened, each parameter has settings of its own: those that differ are not joined."""
    path = project.path / "last.pt"
    model = Old()
    optimizer = torch.optim.AdamW([{"params": model.q.parameters(), "lr": 0.1}, {"params": model.k.parameters()}])
    train(model, optimizer, batches(2))
    saved(path, model, optimizer)
    declare(project, "a1", 'op.Fuse(["q.weight", "k.weight"], "qk")')
    ran = project.run("upgrade", "head", path)
    assert ran.code == 1
    assert "they are in groups 0 and 1 of the optimizer" in ran.err


def test_groups_that_were_made_with_names(project: Folder) -> None:
    """Flattened, each parameter has the names of its whole group: one that comes back is in that group again."""
    path = project.path / "last.pt"
    model = Old()
    named = list(model.named_parameters())
    groups: list[dict[str, Any]] = [
        {"params": [each for each in named if each[1].ndim > 1]},
        {"params": [each for each in named if each[1].ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups)
    train(model, optimizer, batches(2))
    before = saved(path, model, optimizer)
    assert "param_groups.q.weight.param_names" in before["optimizer"]
    declare(project, "a1", 'op.RenamePrefix("out.", "head.")', 'op.Drop(["q.bias", "head.*"], keep=True)')
    declare(project, "b2", 'op.RenamePrefix("k.", "key.")', 'op.Drop(["v.bias", "norm.*"], keep=True)', parents="a1")
    project.ok("check", "--rollback", path)
    project.ok("upgrade", "head", path)
    assert load(path)["optimizer"]["param_groups.key.bias.param_names"] == ["key.bias"]
    project.ok("downgrade", "base", path)
    after = load(path)["optimizer"]
    assert after.keys() == before["optimizer"].keys()
    assert all(equal(value, before["optimizer"][key]) for key, value in after.items())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda state: state.update({"state.gone.exp_avg": torch.ones(3)}),
            "has state.gone.exp_avg, which belongs to no parameter",
        ),
        (lambda state: state.update({"param_groups.gone.lr": 0.1}), "names gone, which the state dict does not have"),
    ],
)
def test_names_that_do_not_fit_are_not_left_behind(project: Folder, change: Any, says: str) -> None:
    path = project.path / "last.pt"
    tree = saved(path, *trained(OPTIMIZERS["AdamW"]))
    change(tree["optimizer"])
    torch.save(tree, path)
    before = digest(path)
    declare(project, "a1", 'op.RenamePrefix("out.", "head.")')
    ran = project.run("upgrade", "head", path)
    assert (ran.code, digest(path)) == (1, before)
    assert says in ran.err


def test_a_flattened_state_is_not_taken_for_the_parameters(project: Folder) -> None:
    """Beside a state dict at a place of its own: that is the only one there is."""
    path = project.path / "last.pt"
    tree = saved(path, *trained(OPTIMIZERS["AdamW"]))
    torch.save({"weights": tree["model"], "optimizer": tree["optimizer"]}, path)
    declare(project, "a1", 'op.RenamePrefix("out.", "head.")')
    project.ok("upgrade", "head", path, "--check-rollback")
    assert "state.head.weight.exp_avg" in load(path)["optimizer"]


def test_names_without_the_wrapper_of_the_model_stay(project: Folder) -> None:
    """module.q | state.q.exp_avg: torch leaves the wrapper out of the names of optimizers."""
    path = project.path / "last.pt"
    tree = saved(path, *trained(OPTIMIZERS["AdamW"]))
    wrapped = {f"module.{name}": value for name, value in tree["model"].items()}
    torch.save({"model": wrapped, "optimizer": tree["optimizer"]}, path)
    declare(project, "a1", 'op.StripPrefix("module.")', 'op.RenamePrefix("out.", "head.")')
    project.ok("upgrade", "head", path, "--check-rollback")
    after = load(path)
    assert "head.weight" in after["model"]
    assert {key.replace(".head.", ".out.") for key in after["optimizer"]} == tree["optimizer"].keys()


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_inspect_shows_a_flattened_state_as_the_usual_one(tmp_path: Path, kind: str) -> None:
    """Of two files from one training, one per format, `inspect` says the same."""
    model, optimizer = trained(OPTIMIZERS[kind])
    saved(tmp_path / "flattened.pt", model, optimizer)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "usual.pt")
    (flattened,) = cm.inspect(tmp_path / "flattened.pt").optimizers
    (usual,) = cm.inspect(tmp_path / "usual.pt").optimizers
    assert (flattened.groups, flattened.parameters) == (usual.groups, usual.parameters)
    assert set(flattened.states) == set(usual.states)
