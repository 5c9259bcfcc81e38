"""Optimizers that change, as torch.distributed.checkpoint saves them: by name, and flattened; and in its folders."""

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
from torch.optim import SGD, Adam, AdamW, NAdam  # noqa: E402

from anemoi_ckpt_migrate.state.optimizer_classes import DEFAULTS  # noqa: E402
from tests.support.distributed import as_one_file, equal_unordered, save_trained  # noqa: E402
from tests.support.operations import Old, batches, declare, equal, train, trained, without_record  # noqa: E402
from tests.support.optimizers import assert_states, by_hand, options_of  # noqa: E402
from tests.support.project import Folder  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")

FORMS = {"flattened": StateDictOptions(flatten_optimizer_state_dict=True), "by name": StateDictOptions(strict=False)}


def made(kind: Any, *without: str, **options: Any) -> Any:
    def make(model: nn.Module) -> Any:
        return kind(
            [value for name, value in model.named_parameters() if not name.startswith(without or ("-",))], **options
        )

    return make


def decaying(kind: Any, **options: Any) -> Any:
    def make(model: nn.Module) -> Any:
        weights = [value for name, value in model.named_parameters() if name.endswith("weight")]
        others = [value for name, value in model.named_parameters() if not name.endswith("weight")]
        return kind([{"params": weights}, {"params": others, "weight_decay": 0.0}], **options)

    return make


def saved(path: Path, model: nn.Module, optimizer: Any, form: str) -> Any:
    state = get_optimizer_state_dict(model, optimizer, options=FORMS[form])
    torch.save({"model": model.state_dict(), "optimizer": state}, path)
    return load(path)


def load(path: Path) -> Any:
    return without_record(torch.load(path, weights_only=True))


def resumed(tree: Any, make: Any, form: str) -> tuple[nn.Module, Any]:
    torch.manual_seed(5)
    model = Old()
    model.load_state_dict(tree["model"])
    optimizer = make(model)
    set_optimizer_state_dict(model, optimizer, tree["optimizer"], options=FORMS[form])
    return model, optimizer


def same_entries(one: Any, other: Any) -> bool:
    return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)


DECAY = 'op.Regroup([["*.weight"], ["*"]], options=[{"weight_decay": 0.01}, {"weight_decay": 0.0}])'
ADAM = {"lr": 1e-2, "weight_decay": 0.1}
CASES: dict[str, tuple[Any, str, Any, Any]] = {
    # the old optimizer, the operation, the new optimizer, the options of its groups apart from those of the old one
    "regroup": (
        made(AdamW, **ADAM), 'op.Regroup([["*.weight"], ["*"]], options=[{}, {"weight_decay": 0.0}])',
        decaying(AdamW), [{}, {"weight_decay": 0.0}],
    ),
    "merge": (
        decaying(AdamW, **ADAM), 'op.Regroup([["*"]], options=[{"weight_decay": 0.2}])', made(AdamW),
        [{"weight_decay": 0.2}],
    ),
    "untrain": (made(AdamW, **ADAM), 'op.Untrain("k.*")', made(AdamW, "k"), [{}]),
    "train": (made(AdamW, "k", **ADAM), 'op.Train("k.*")', made(AdamW), [{}]),
    "Adam to AdamW": (made(Adam, **ADAM), 'op.ChangeOptimizer("AdamW")', made(AdamW), [{"decoupled_weight_decay": True}]),
    "SGD to Adam": (made(SGD, lr=0.1, momentum=0.9), 'op.ChangeOptimizer("Adam")', made(Adam), [{}]),
    "Adam to NAdam": (made(Adam, **ADAM), 'op.ChangeOptimizer("NAdam")', made(NAdam), [{}]),
    "AdamW to momentum": (
        made(AdamW, **ADAM), 'op.ChangeOptimizer("SGD", {"momentum": 0.9})', made(SGD), [{"momentum": 0.9}],
    ),
}  # fmt: skip


STARTS_ANEW = ("train", "SGD to Adam", "AdamW to momentum")


def carried(case: str) -> Any:
    """Return what becomes of the state of a parameter; the counter of NAdam is that of a real one."""
    if case in STARTS_ANEW[1:]:
        return lambda state: None
    if case != "Adam to NAdam":
        return lambda state: state
    counter = next(iter(trained(made(NAdam))[1].state.values()))["mu_product"]
    return lambda state: state | {"mu_product": counter.clone()}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", CASES)
def test_the_optimizer_changes(project: Folder, case: str, form: str) -> None:
    old, operation, new, changed = CASES[case]
    path = project.path / "last.pt"
    model, optimizer = trained(old)
    before = saved(path, model, optimizer, form)
    declare(project, "a1", operation)
    project.ok("upgrade", "head", path, "--check-rollback", "--no-backup")
    if form == "flattened" or case not in STARTS_ANEW:  # torch's loader makes no state by name
        run = resumed(load(path), new, form)
        kind = type(run[1]).__name__
        own = {key: value for key, value in options_of(optimizer).items() if key in DEFAULTS[kind]}
        own |= {"decoupled_weight_decay": False} if kind == "NAdam" else {}
        options = [DEFAULTS[kind] | own | each for each in changed]
        hand = by_hand(model, optimizer, new, options, carried(case))
        for each in (run, hand):
            train(*each, batches(2, seed=9))
        assert equal(run[0].state_dict(), hand[0].state_dict())
        assert_states(run[1], hand[1])
    project.ok("downgrade", "base", path, "--no-backup")
    after = load(path)
    assert equal(after["model"], before["model"])
    if form == "flattened":
        assert same_entries(after["optimizer"], before["optimizer"])
    else:
        assert all(map(same_entries, *(tree["optimizer"]["state"].values() for tree in (after, before))))
        assert equal(after["optimizer"]["param_groups"], before["optimizer"]["param_groups"])


def test_a_group_of_a_flattened_state_comes_back(project: Folder) -> None:
    """Without parameters, its settings are nowhere else."""
    path = project.path / "last.pt"
    before = saved(path, *trained(decaying(AdamW, **ADAM)), "flattened")
    declare(project, "a1", 'op.Untrain("*.bias")')
    project.ok("upgrade", "head", path, "--no-backup")
    assert {value for key, value in load(path)["optimizer"].items() if key.endswith(".weight_decay")} == {0.1}
    project.ok("downgrade", "base", path, "--no-backup")
    assert same_entries(load(path)["optimizer"], before["optimizer"])


def test_the_first_momentum_with_dampening_is_unknown(project: Folder) -> None:
    """torch's loader would take zeros for it."""
    path = project.path / "last.pt"
    saved(path, *trained(made(Adam)), "flattened")
    declare(project, "a1", 'op.ChangeOptimizer("SGD", {"momentum": 0.9, "dampening": 0.5})')
    ran = project.run("upgrade", "head", path)
    assert ran.code == 1
    assert "the initial momentum of q.weight is unknown with dampening" in ran.err


@pytest.mark.parametrize("flat", [False, True], ids=["by name", "flattened"])
def test_a_folder_of_torch_distributed(project: Folder, flat: bool) -> None:
    folder = save_trained(project.path / "step", flat)
    before = as_one_file(folder)
    declare(project, "a1", DECAY, 'op.Untrain("k.*")', 'op.ChangeOptimizer("NAdam")')
    project.ok("upgrade", "head", folder, "--no-backup")
    optimizer = as_one_file(folder)["optimizer"]
    if flat:
        assert {optimizer[f"param_groups.q.{leaf}.weight_decay"] for leaf in ("weight", "bias")} == {0.01, 0.0}
        assert "state.q.bias.mu_product" in optimizer
        assert not any("k." in key for key in optimizer)
    else:
        decays = [(group["weight_decay"], len(group["params"])) for group in optimizer["param_groups"]]
        assert decays == [(0.01, 4), (0.0, 4)]
        assert "mu_product" in optimizer["state"]["q.bias"]
    project.ok("downgrade", "base", folder, "--no-backup")
    assert equal_unordered(as_one_file(folder), before)
