"""Learning rate schedulers follow regrouping: their lists have an entry for each group."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.optim import lr_scheduler as schedules  # noqa: E402

from tests.support.operations import Old, batches, declare, equal, train  # noqa: E402
from tests.support.optimizers import load, refused, saved, taken_back, upgraded  # noqa: E402
from tests.support.project import Folder  # noqa: E402

DECAY = 'op.Regroup([["*.weight"], ["*"]], options=[{"weight_decay": 0.01}, {"weight_decay": 0.0}])'


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def one_group(model: nn.Module) -> Any:
    return torch.optim.SGD(list(model.named_parameters()), lr=0.1, momentum=0.9, weight_decay=0.01)


def two_groups(model: nn.Module) -> Any:
    named = list(model.named_parameters())
    weights = [(name, value) for name, value in named if name.endswith("weight")]
    others = [(name, value) for name, value in named if not name.endswith("weight")]
    return torch.optim.SGD([{"params": weights}, {"params": others}], lr=0.1, momentum=0.9, weight_decay=0.01)


def sequence(optimizer: Any) -> Any:
    first, second = schedules.LinearLR(optimizer, 0.1), schedules.CosineAnnealingLR(optimizer, 20)
    return schedules.SequentialLR(optimizer, [first, second], milestones=[4])


SCHEDULES: dict[str, Callable[[Any], Any]] = {
    "lambda": lambda optimizer: schedules.LambdaLR(optimizer, lambda epoch: 0.9**epoch),
    "step": lambda optimizer: schedules.StepLR(optimizer, 2),
    "cosine": lambda optimizer: schedules.CosineAnnealingLR(optimizer, 20),
    "one cycle": lambda optimizer: schedules.OneCycleLR(optimizer, max_lr=0.5, total_steps=20),
    "cyclic": lambda optimizer: schedules.CyclicLR(optimizer, base_lr=0.01, max_lr=0.1),
    "sequence": sequence,
    "chain": lambda optimizer: schedules.ChainedScheduler([schedules.ConstantLR(optimizer), schedules.StepLR(optimizer, 3)]),
    "plateau": lambda optimizer: schedules.ReduceLROnPlateau(optimizer, patience=0, min_lr=1e-9),
}  # fmt: skip


def epochs(model: nn.Module, optimizer: Any, scheduler: Any, seed: int) -> list[Any]:
    """Train for some epochs, and return the learning rates of the groups."""
    found = []
    for x in batches(3, seed):
        train(model, optimizer, [x])
        scheduler.step(*([1.0] if isinstance(scheduler, schedules.ReduceLROnPlateau) else []))
        found.append([group["lr"] for group in optimizer.param_groups])
    return found


def resumed(tree: Any, make: Any, schedule: Any) -> tuple[Any, Any, Any]:
    model = Old()
    model.load_state_dict(tree["state_dict"])
    optimizer = make(model)
    scheduler = schedule(optimizer)
    optimizer.load_state_dict(tree["optimizer_states"][0])
    scheduler.load_state_dict(tree["lr_schedulers"][0])
    return model, optimizer, scheduler


@pytest.mark.parametrize("kind", SCHEDULES)
def test_schedules_go_on_in_both_groups(project: Folder, kind: str) -> None:
    path = project.path / "last.ckpt"
    torch.manual_seed(0)
    model = Old()
    optimizer = one_group(model)
    scheduler = SCHEDULES[kind](optimizer)
    epochs(model, optimizer, scheduler, 1)
    before = saved(path, model, optimizer, schedulers=[scheduler])
    declare(project, "a1", DECAY)
    run = resumed(upgraded(project, path), two_groups, SCHEDULES[kind])
    straight = epochs(model, optimizer, scheduler, 2)
    assert epochs(*run, 2) == [[lr, lr] for (lr,) in straight]
    taken_back(project, path, before)


@pytest.mark.parametrize("kind", ["lambda", "step", "cosine", "sequence", "chain", "plateau"])
def test_a_learning_rate_that_is_given_scales_its_schedule(project: Folder, kind: str) -> None:
    path = project.path / "last.ckpt"
    torch.manual_seed(0)
    model = Old()
    optimizer = one_group(model)
    scheduler = SCHEDULES[kind](optimizer)
    epochs(model, optimizer, scheduler, 1)
    before = saved(path, model, optimizer, schedulers=[scheduler])
    now = optimizer.param_groups[0]["lr"]
    declare(project, "a1", f'op.Regroup([["*.weight"], ["*"]], options=[{{}}, {{"lr": {now / 2}}}])')
    tree = upgraded(project, path)
    group = tree["optimizer_states"][0]["param_groups"][1]
    assert group["lr"] == now / 2
    assert kind == "plateau" or group["initial_lr"] == 0.05
    run = resumed(tree, two_groups, SCHEDULES[kind])
    rates = epochs(*run, 2)
    assert [low for _, low in rates] == pytest.approx([high / 2 for high, _ in rates])
    taken_back(project, path, before)


def test_the_initial_rate_scales_it_too(project: Folder) -> None:
    path = project.path / "last.ckpt"
    model = Old()
    optimizer = one_group(model)
    scheduler = schedules.LambdaLR(optimizer, lambda epoch: 0.5**epoch)
    epochs(model, optimizer, scheduler, 1)
    before = saved(path, model, optimizer, schedulers=[scheduler])
    declare(project, "a1", 'op.Regroup([["*"]], options=[{"initial_lr": 0.8}])')
    tree = upgraded(project, path)
    assert tree["lr_schedulers"][0]["base_lrs"] == [0.8]
    assert tree["lr_schedulers"][0]["_last_lr"] == [0.1]
    assert tree["optimizer_states"][0]["param_groups"][0]["lr"] == 0.1
    taken_back(project, path, before)
    declare(project, "a1", 'op.ChangeOptimizer("Adam", {"initial_lr": 0.8, "lr": 0.3})')
    tree = upgraded(project, path)
    assert (tree["lr_schedulers"][0]["base_lrs"], tree["lr_schedulers"][0]["_last_lr"]) == ([0.8], [0.3])
    taken_back(project, path, before)


def test_the_way_back_follows_a_schedule_that_has_gone_on(project: Folder) -> None:
    path = project.path / "last.ckpt"
    model = Old()
    optimizer = one_group(model)
    scheduler = schedules.LambdaLR(optimizer, lambda epoch: 0.5**epoch)
    saved(path, model, optimizer, schedulers=[scheduler])
    declare(project, "a1", 'op.Regroup([["*.weight"], ["*"]], options=[{"lr": 0.025}, {}])')
    project.ok("upgrade", "head", path, "--no-backup")
    tree = torch.load(path, weights_only=True)
    run = resumed(tree, two_groups, lambda optimizer: schedules.LambdaLR(optimizer, lambda epoch: 0.5**epoch))
    epochs(*run, 1)
    states = {"optimizer_states": [run[1].state_dict()], "lr_schedulers": [run[2].state_dict()]}
    torch.save(tree | states, path)
    project.ok("downgrade", "base", path, "--no-backup")
    tree = load(path)
    assert tree["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(0.1 / 8)
    assert (tree["lr_schedulers"][0]["base_lrs"], tree["lr_schedulers"][0]["_last_lr"]) == (
        [0.1],
        [pytest.approx(0.1 / 8)],
    )


def test_a_scheduler_in_a_plain_file(project: Folder) -> None:
    path = project.path / "last.pt"
    model = Old()
    optimizer = one_group(model)
    scheduler = schedules.StepLR(optimizer, 2)
    tree = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
    torch.save(tree, path)
    before = load(path)
    declare(project, "a1", DECAY)
    assert upgraded(project, path)["scheduler"]["base_lrs"] == [0.1, 0.1]
    taken_back(project, path, before)


def two_optimizers(path: Path, one: float = 0.1, other: float = 0.2) -> Any:
    model = Old()
    first = torch.optim.SGD(list(model.q.named_parameters("q")), lr=one)
    second = torch.optim.SGD(list(model.k.named_parameters("k")), lr=other)
    both = [schedules.StepLR(first, 2), schedules.StepLR(second, 2)]
    return saved(path, model, first, second, schedulers=both[::-1])


SPLIT = 'op.Regroup([["*.bias"], ["*"]], optimizer=1'


def test_a_scheduler_is_told_by_its_learning_rates(project: Folder) -> None:
    path = project.path / "last.ckpt"
    before = two_optimizers(path)
    declare(project, "a1", f"{SPLIT})")
    assert [each["base_lrs"] for each in upgraded(project, path)["lr_schedulers"]] == [[0.2, 0.2], [0.1]]
    taken_back(project, path, before)


def test_or_by_name_where_they_are_alike(project: Folder) -> None:
    path = project.path / "last.ckpt"
    before = two_optimizers(path, other=0.1)
    declare(project, "a1", f"{SPLIT})")
    says = (
        "the scheduler at lr_schedulers.0 may belong to the optimizer at optimizer_states.0 or to that at optimizer_st"
    )
    assert says in refused(project, path)
    declare(project, "a1", f'{SPLIT}, schedulers=["lr_schedulers.0"])')
    assert [each["base_lrs"] for each in upgraded(project, path)["lr_schedulers"]] == [[0.1, 0.1], [0.1]]
    taken_back(project, path, before)
    declare(project, "a1", f"{SPLIT}, schedulers=[])")
    assert equal(upgraded(project, path)["lr_schedulers"], before["lr_schedulers"])
    taken_back(project, path, before)
    declare(project, "a1", f'{SPLIT}, schedulers=["lr_schedulers.7"])')
    assert "there is no scheduler at lr_schedulers.7" in refused(project, path)


def saved_with(path: Path, make: Any, schedule: Any, change: Callable[[Any], None] = lambda tree: None) -> None:
    model = Old()
    optimizer = make(model)
    scheduler = schedule(optimizer)
    tree = saved(path, model, optimizer, schedulers=[scheduler])
    change(tree)
    torch.save(tree, path)


def other_length(tree: Any) -> None:
    tree["lr_schedulers"][0]["base_lrs"].append(1.0)


def other_bases(tree: Any) -> None:
    tree["lr_schedulers"][0]["base_lrs"][1] = 1.0


def other_limits(tree: Any) -> None:
    tree["lr_schedulers"][0]["min_lrs"][1] = 1.0


def rate_of_zero(tree: Any) -> None:
    tree["optimizer_states"][0]["param_groups"][0]["lr"] = 0.0


LR = 'op.Regroup([["*.weight"], ["*"]], options=[{"lr": 0.01}, {}])'
ONE = 'op.Regroup([["*"]])'


@pytest.mark.parametrize(
    ("make", "kind", "change", "operation", "says"),
    [
        (one_group, "step", other_length, DECAY, "at lr_schedulers.0 has 2 base_lrs for 1 groups of the optimizer at op"),
        (two_groups, "step", other_bases, ONE, "lr_schedulers.0 differs in base_lrs between groups 0 and 1, so it cannot"),
        (two_groups, "plateau", other_limits, ONE, "lr_schedulers.0 differs in min_lrs between groups 0 and 1, so it can"),
        (one_group, "step", rate_of_zero, LR, "a schedule cannot follow from 0.0 to 0.01; give both lr and initial_lr"),
        (one_group, "one cycle", None, LR, "a scheduler keeps max_lr, which does not follow from the learning rate; give"),
        (one_group, "cyclic", None, LR, "the scheduler at lr_schedulers.0 has max_lrs, which does not follow from the le"),
        (one_group, "one cycle", None, 'op.ChangeOptimizer("Adam")', "a scheduler cycles the momentum of the optimizer"),
    ],
)  # fmt: skip
def test_a_schedule_that_cannot_follow(
    project: Folder, make: Any, kind: str, change: Any, operation: str, says: str
) -> None:
    path = project.path / "last.ckpt"
    saved_with(path, make, SCHEDULES[kind], change or (lambda tree: None))
    declare(project, "a1", operation)
    assert says in refused(project, path)


@pytest.mark.parametrize(
    ("kind", "change", "operation"),
    [
        ("step", rate_of_zero, LR.replace('"lr"', '"initial_lr": 0.01, "lr"')),
        ("one cycle", None, LR.replace('"lr"', '"initial_lr": 0.01, "max_lr": 0.1, "min_lr": 1e-4, "lr"')),
        ("cyclic", None, 'op.Regroup([["*.weight"], ["*"]])'),
    ],
)
def test_what_the_messages_ask_for(project: Folder, kind: str, change: Any, operation: str) -> None:
    path = project.path / "last.ckpt"
    saved_with(path, one_group, SCHEDULES[kind], change or (lambda tree: None))
    before = load(path)
    items = [f'op.SetItem("lr_schedulers.0.max_lrs.{number}", 0.3)' for number in range(2) if kind == "cyclic"]
    declare(project, "a1", operation, *items)
    upgraded(project, path)
    taken_back(project, path, before)


def test_merged_groups_take_the_schedule_that_is_given(project: Folder) -> None:
    path = project.path / "last.ckpt"
    saved_with(path, two_groups, SCHEDULES["step"], other_bases)
    before = load(path)
    declare(project, "a1", 'op.Regroup([["*"]], options=[{"initial_lr": 0.1, "lr": 0.05}])')
    (scheduler,) = upgraded(project, path)["lr_schedulers"]
    assert (scheduler["base_lrs"], scheduler["_last_lr"]) == ([0.1], [0.05])
    taken_back(project, path, before)


def test_lightning_goes_on_with_other_groups(project: Folder) -> None:
    """Lightning itself loads model, optimizer and scheduler, and trains on."""
    lightning = pytest.importorskip("lightning.pytorch")

    class Module(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self, make: Any) -> None:
            super().__init__()
            self.net, self.make = Old(), make

        def training_step(self, batch: Any) -> Any:
            return self.net(batch).square().mean()

        def configure_optimizers(self) -> Any:
            optimizer = self.make(self.net)
            return [optimizer], [schedules.LambdaLR(optimizer, lambda epoch: 0.5**epoch)]

    def trainer(epochs: int) -> Any:
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
        return lightning.Trainer(max_epochs=epochs, accelerator="cpu", enable_checkpointing=False, **quiet)

    data = torch.utils.data.DataLoader(torch.cat(batches(2)), batch_size=6)
    path = project.path / "last.ckpt"
    torch.manual_seed(0)
    module, run = Module(one_group), trainer(1)
    run.fit(module, data)
    run.save_checkpoint(path)
    declare(project, "a1", 'op.Regroup([["*.weight"], ["*"]])')
    project.ok("upgrade", "head", path, "--check-rollback")
    rates, weights = [], []
    for make, source in ((one_group, f"{path}.bak"), (two_groups, path)):
        again, run = Module(make), trainer(3)
        run.fit(again, data, ckpt_path=source, weights_only=False)
        rates.append({group["lr"] for group in run.optimizers[0].param_groups})
        weights.append(again.state_dict())
    assert rates == [{0.0125}, {0.0125}]
    assert equal(*weights)
