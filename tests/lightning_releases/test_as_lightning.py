"""The chain beside Lightning's own migration, and Lightning going on from its results."""

from __future__ import annotations

import copy
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.chains import script
from tests.support.lightning_releases import OLDER, checkpoint_of, difference
from tests.support.project import Folder

torch = pytest.importorskip("torch")
lightning = pytest.importorskip("lightning.pytorch")

from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint  # noqa: E402
from lightning.pytorch.utilities import upgrade_checkpoint  # noqa: E402
from lightning.pytorch.utilities.migration import migrate_checkpoint, pl_legacy_patch  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
WITHOUT_VERSION, OTHER_LOOPS = ["0.7.6"], ["1.4.9-fault-tolerant", "1.5.10-fault-tolerant"]
OWN = [release for release in OLDER if release not in [*WITHOUT_VERSION, *OTHER_LOOPS]]
"""The releases whose files Lightning's own migration can read."""


def loaded(path: Path) -> dict[str, Any]:
    """Load a checkpoint as Lightning does, without our record."""
    with pl_legacy_patch():
        found: dict[str, Any] = torch.load(path, weights_only=False)
    found.pop("ckpt_migrate", None)
    return found


def plain(value: Any) -> Any:
    """Return a value with each tensor as its dtype and numbers, so that it can be compared."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), value.tolist()
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list) else value


def upgraded(project: Folder, release: str) -> Path:
    checkpoint = checkpoint_of(release, project.path)
    project.ok("--chain", "lightning", "upgrade", "head", checkpoint)
    return checkpoint


def by_lightning(content: dict[str, Any]) -> Any:
    """Migrate by Lightning, but for the version: Lightning writes its own, the chain that of the format."""
    return plain(migrate_checkpoint(copy.deepcopy(content))[0]) | {"pytorch-lightning_version": "2.0.0"}


@pytest.mark.parametrize("release", OWN)
def test_the_same_tree(project: Folder, release: str) -> None:
    before = loaded(checkpoint_of(release, project.path))
    assert plain(loaded(upgraded(project, release))) == by_lightning(before)


def test_without_a_version(project: Folder) -> None:
    """Releases before 0.8 wrote none, and Lightning refuses such a file."""
    before = loaded(checkpoint_of("0.7.6", project.path))
    with pytest.raises(KeyError, match="pytorch-lightning_version"):
        migrate_checkpoint(copy.deepcopy(before))
    expected = by_lightning(before | {"pytorch-lightning_version": "0.7.6"})
    assert plain(loaded(upgraded(project, "0.7.6"))) == expected


@pytest.mark.parametrize("release", OTHER_LOOPS)
def test_loops_that_lack_counts(project: Folder, release: str) -> None:
    """Fault-tolerant training saved loops before 1.6.0, which Lightning's own migration cannot read."""
    before = loaded(checkpoint_of(release, project.path))
    with pytest.raises(KeyError, match="epoch_loop"):
        migrate_checkpoint(copy.deepcopy(before))
    loop = loaded(upgraded(project, release))["loops"]["fit_loop"]
    assert loop["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]["total"]["completed"] == 7
    assert loop["epoch_loop.manual_optimization.optim_step_progress"]["total"]["completed"] == 7
    before_it = before["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    assert loop["epoch_loop.batch_progress"] == {"is_last_batch": False} | before_it


class Line(lightning.LightningModule):
    """The model of `write.py`."""

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(1, 1, bias=False)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return ((self.layer(batch[0]) - 2 * batch[0]) ** 2).mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), self.hparams.lr, momentum=0.5)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]


def resumed(path: Path) -> Any:
    """Train one more epoch, and return all that shows whether the state was taken up."""
    saver, stop = ModelCheckpoint(dirpath="saved", monitor="loss"), EarlyStopping("loss", patience=9)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "num_sanity_val_steps": 0}
    trainer = lightning.Trainer(max_epochs=3, accelerator="cpu", callbacks=[saver, stop], **quiet)
    inputs = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.tensor([[1.0], [0.5], [0.25]])))
    model = Line()
    trainer.fit(model, inputs, inputs, ckpt_path=path, weights_only=False)
    (optimizer,) = trainer.optimizers
    return {
        "weight": model.layer.weight.item(),
        "momentum": optimizer.state[model.layer.weight]["momentum_buffer"].item(),
        "rate": optimizer.param_groups[0]["lr"],
        "epoch": trainer.current_epoch,
        "steps": trainer.global_step,
        "stop": (stop.wait_count, stop.patience, float(stop.best_score)),
        "saved": float(saver.best_model_score),
    }


def assert_loads(checkpoint: Path) -> None:
    """The weight was 1 before training, and random in a new model."""
    weight = loaded(checkpoint)["state_dict"]["layer.weight"]
    assert torch.equal(Line.load_from_checkpoint(checkpoint, weights_only=False).layer.weight, weight)


@pytest.mark.parametrize("release", OWN)
def test_training_goes_on(project: Folder, release: str) -> None:
    """A run goes on from the result as from the old file, which Lightning then upgrades itself."""
    before = checkpoint_of(release, project.path)
    old = Path(shutil.copy(before, project.path / "old.ckpt"))
    checkpoint = upgraded(project, release)
    assert_loads(checkpoint)
    found = resumed(checkpoint)
    assert found == resumed(old)
    # Lightning counts epochs from 0 again if the file is of a release before 1.6.0: see docs/lightning.md.
    has_progress = "loops" in loaded(old)
    assert (found["epoch"], found["steps"]) == (3, 9 if has_progress else 7 + 9)


@pytest.mark.parametrize("release", OTHER_LOOPS)
def test_training_goes_on_where_lightning_fails(project: Folder, release: str) -> None:
    old = checkpoint_of(release, project.path)
    with pytest.raises(KeyError):
        resumed(old)
    checkpoint = upgraded(project, release)
    assert_loads(checkpoint)
    found = resumed(checkpoint)
    assert found["momentum"] != 0
    assert found["rate"] == pytest.approx(1e-4)
    assert (found["epoch"], found["steps"]) == (3, 10)


def test_0_7_goes_on_with_the_operation_of_the_page(project: Folder) -> None:
    """Its files hold less of both callbacks than Lightning reads today."""
    checkpoint = upgraded(project, "0.7.6")
    assert_loads(checkpoint)
    with pytest.raises(KeyError, match="stopped_epoch"):
        resumed(checkpoint)
    text = script("a1", None, "x", "y")
    text = re.sub(r"operations = .*", 'operations = [op.DropItem("callbacks")]', text)
    (project.path / "versions" / "a1_own.py").write_text(text)
    project.ok("upgrade", "head", checkpoint)
    found = resumed(checkpoint)
    assert (found["epoch"], found["steps"]) == (3, 7 + 9)
    assert found["momentum"] != 0
    assert found["rate"] == pytest.approx(1e-6)


@pytest.mark.parametrize("release", ["1.4.9", "1.5.10-fault-tolerant", "1.5.10", "1.9.5"])
def test_lightnings_own_command(project: Folder, monkeypatch: pytest.MonkeyPatch, release: str) -> None:
    """It leaves the same tree, but for files with classes: `torch.load` refuses them, and the chain does not."""
    old = checkpoint_of(release, project.path)
    own = Path(shutil.copy(old, project.path / "own.ckpt"))
    monkeypatch.setattr("sys.argv", ["upgrade_checkpoint", str(own)])
    project.ok("--chain", "lightning", "upgrade", "head", old)
    try:
        upgrade_checkpoint.main()
    except pickle.UnpicklingError:
        assert release in ("1.4.9", "1.5.10-fault-tolerant")
        return
    assert plain(loaded(own)) | {"pytorch-lightning_version": "2.0.0"} == plain(loaded(old))
    assert own.with_suffix(".bak").exists()


KEY = "ModelCheckpoint{'monitor': '%s', 'mode': 'min', 'every_n_epochs': 1%s}"
OPTION = ", 'save_on_train_epoch_end': True"


def states_of(name: str, option: str) -> dict[str, Any] | None:
    """Return other states of callbacks, for some of the variants."""
    average = {"n_averaged": 2, "average_model_state": {"layer.weight": torch.ones(1, 1)}}
    return {
        "two savers": {KEY % ("loss", option): {"a": 1}, KEY % ("mse", option): {"a": 2}, "Timer": {"b": 3}},
        "keys that would be one": {
            KEY % ("loss", OPTION): {"a": 1},
            KEY % ("loss", OPTION.replace("True", "None")): {"a": 2},
        },
        "no callbacks": {},
        "averages": {"StochasticWeightAveraging": average},
    }.get(name)


def variant(name: str, content: dict[str, Any]) -> dict[str, Any]:
    """Return the checkpoint of a release with something that its little model does not have."""
    fit_loop = content.get("loops", {}).get("fit_loop", {})
    states = states_of(name, OPTION if content["pytorch-lightning_version"] < "1.9" else "")
    if states is not None:
        content["callbacks"] = states
    if name == "apex":
        content["amp_scaling_state"] = {"loss_scaler0": {"loss_scale": 65536.0, "unskipped": 7}}
    elif name == "a batch loop of one's own":
        fit_loop["epoch_loop.batch_loop.state_dict"] = {"seen": 3}
    elif name == "averages":
        content["averaging_state"] = {"n_averaged": torch.tensor(2), "module.layer.weight": torch.ones(1, 1)}
    elif name == "second of two optimizers" and fit_loop:
        fit_loop["epoch_loop.batch_loop.optimizer_loop.optim_progress"]["optimizer_position"] = 1
    elif name == "weights only":
        for key in ("callbacks", "optimizer_states", "lr_schedulers"):
            content.pop(key, None)
    return content


VARIANTS = [
    "apex",
    "a batch loop of one's own",
    "two savers",
    "keys that would be one",
    "no callbacks",
    "weights only",
    "averages",
    "second of two optimizers",
]


@pytest.mark.parametrize("release", ["1.3.8", "1.5.10", "1.8.6", "1.9.5"])
@pytest.mark.parametrize("name", VARIANTS)
def test_more_of_them(project: Folder, name: str, release: str) -> None:
    checkpoint = checkpoint_of(release, project.path)
    torch.save(variant(name, loaded(checkpoint)), checkpoint)
    old, before = Path(shutil.copy(checkpoint, "old.ckpt")), loaded(checkpoint)
    project.ok("--chain", "lightning", "upgrade", "head", checkpoint, "--check-rollback")
    expected = by_lightning(before)
    assert plain(loaded(checkpoint)) == expected
    project.ok("--chain", "lightning", "downgrade", "base", checkpoint)
    assert difference(old, checkpoint) is None
    project.ok("--chain", "lightning", "upgrade", "head", checkpoint)
    assert plain(loaded(checkpoint)) == expected


def averaged(start: Path | None, epochs: int, result: Path) -> dict[str, Any]:
    """Train with an exponential moving average of the weights, and save."""
    averaging = pytest.importorskip("lightning.pytorch.callbacks.weight_averaging")  # from 2.6 on
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "num_sanity_val_steps": 0}
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", callbacks=[averaging.EMAWeightAveraging(decay=0.5)], **quiet
    )
    inputs = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.tensor([[1.0], [0.5], [0.25]])))
    torch.manual_seed(1)
    trainer.fit(Line(), inputs, ckpt_path=start, weights_only=False)
    trainer.save_checkpoint(result)
    return loaded(result)


def test_an_average_goes_there_and_back(project: Folder) -> None:
    """No release changed it: it stays in the loops of 1.9, and training goes on with it afterwards."""
    path = project.path / "average.ckpt"
    before = averaged(None, 2, path)
    assert {"averaging_state", "current_model_state"} <= set(before)
    old = Path(shutil.copy(path, project.path / "old.ckpt"))
    project.ok("--chain", "lightning", "downgrade", "pytorch-lightning==1.9.5", path)
    assert plain(loaded(path)["averaging_state"]) == plain(before["averaging_state"])
    project.ok("--chain", "lightning", "upgrade", "head", path)
    one, other = averaged(old, 3, project.path / "1.ckpt"), averaged(path, 3, project.path / "2.ckpt")
    assert plain(one["averaging_state"]) == plain(other["averaging_state"]) != plain(before["averaging_state"])
    assert plain(one["current_model_state"]) == plain(other["current_model_state"])
    assert plain(one["loops"]) == plain(other["loops"])
