"""Folders that the Trainer of transformers and accelerate write, and training that goes on from them."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors.torch")
transformers = pytest.importorskip("transformers")
accelerate = pytest.importorskip("accelerate")

from tests.support import trainer  # noqa: E402
from tests.support.operations import declare  # noqa: E402
from tests.support.project import Folder  # noqa: E402


def trained(folder: Path, model: Any, steps: int, resume: Path | None = None) -> Any:
    """Train with the Trainer, and save after each second step."""
    options = transformers.TrainingArguments(
        folder, max_steps=steps, save_steps=2, per_device_train_batch_size=2, learning_rate=0.01, weight_decay=0.1,
        use_cpu=True, report_to=[], disable_tqdm=True, logging_steps=1, seed=3,
    )  # fmt: skip
    made = transformers.Trainer(model, options, train_dataset=trainer.batches(16))
    made.train(resume_from_checkpoint=None if resume is None else str(resume))
    return made


def migrated_by_hand(old: Path, new: Path) -> None:
    """Write what a folder of `Old` would be for `New`."""
    from safetensors.torch import save_file

    shutil.copytree(old, new)
    save_file(trainer.fused(trainer.weights(old)), new / "model.safetensors", metadata={"format": "pt"})
    torch.save(trainer.by_hand(trainer.optimizer_in(old)), new / "optimizer.pt")


def test_the_trainer_goes_on(project: Folder, tmp_path: Path) -> None:
    """Two steps with the old code, a migration, two steps with the new code: as after a migration by hand."""
    trained(tmp_path / "old", trainer.model(), 2)
    folder = tmp_path / "old" / "checkpoint-2"
    assert {"model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json", "rng_state.pth"} <= {
        each.name for each in folder.iterdir()
    }
    weights, optimizer = trainer.weights(folder), trainer.optimizer_in(folder)
    migrated_by_hand(folder, tmp_path / "by-hand" / "checkpoint-2")
    declare(project, "a1", trainer.GROUPS, *trainer.CHANGES)
    project.ok("upgrade", "head", folder, "--check-rollback")
    trainer.model(trainer.New, seed=9).load_state_dict(trainer.weights(folder), strict=True)
    ends = []
    for run in (folder, tmp_path / "by-hand" / "checkpoint-2"):
        made = trained(run.parent, trainer.model(trainer.New, seed=9), 4, run)
        assert made.state.global_step == 4
        last = run.parent / "checkpoint-4"
        ends.append(
            (
                trainer.weights(last),
                trainer.optimizer_in(last),
                torch.load(last / "scheduler.pt"),
                made.state.log_history[2:4],
            )
        )
    for history in (each[3] for each in ends):
        for step in history:
            step.pop("epoch")
    assert [step["step"] for step in ends[0][3]] == [3, 4]
    assert trainer.same(*ends)
    assert not trainer.same(ends[0][0]["proj.weight"], trainer.weights(folder)["proj.weight"])
    project.ok("downgrade", "base", folder)
    assert trainer.same((trainer.weights(folder), trainer.optimizer_in(folder)), (weights, optimizer))


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
def test_accelerate_goes_on(project: Folder, tmp_path: Path, safe: bool) -> None:
    def prepared(model: Any) -> tuple[Any, Any, Any, Any]:
        optimizer = trainer.optimizer_of(model)
        scheduler = torch.optim.lr_scheduler.LinearLR(optimizer)
        own = accelerate.Accelerator(cpu=True)
        return own, *own.prepare(model, optimizer, scheduler)

    folder = tmp_path / "state"
    own, model, optimizer, scheduler = prepared(trainer.model())
    trainer.trained(model, optimizer, trainer.batches(2), scheduler)
    own.save_state(str(folder), safe_serialization=safe)
    assert {"optimizer.bin", "scheduler.bin", "random_states_0.pkl"} <= {each.name for each in folder.iterdir()}
    weights, before = trainer.weights(folder), trainer.optimizer_in(folder)
    declare(project, "a1", *([trainer.GROUPS] if safe else []), *trainer.CHANGES)
    project.ok("upgrade", "head", folder, "--check-rollback")
    own, model, optimizer, scheduler = prepared(trainer.model(trainer.New, seed=9))
    own.load_state(str(folder), strict=True)
    hand = trainer.model(trainer.New, seed=8)
    hand.load_state_dict(trainer.fused(weights), strict=True)
    adam = trainer.optimizer_of(hand)
    adam.load_state_dict(copy.deepcopy(trainer.by_hand(before)))
    trainer.trained(model, optimizer, trainer.batches(2, seed=7))
    trainer.trained(hand, adam, trainer.batches(2, seed=7))
    assert trainer.same(own.unwrap_model(model).state_dict(), hand.state_dict())
    assert trainer.same(optimizer.state_dict(), adam.state_dict())
    project.ok("downgrade", "base", folder)
    assert trainer.same((trainer.weights(folder), trainer.optimizer_in(folder)), (weights, before))
