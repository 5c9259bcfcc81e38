"""The callback for Lightning records revisions, goes on from what it loads, and upgrades that if asked."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import anemoi_ckpt_migrate as cm
from anemoi_ckpt_migrate.errors import NotAtTarget, NotUpgraded, UnknownRecorded
from tests.support.project import Folder, digest
from tests.support.ranks import Ranks

torch = pytest.importorskip("torch")
lightning = pytest.importorskip("lightning.pytorch")

from tests.support.training import forget_scripts, log_of  # noqa: E402

quietly = pytest.mark.filterwarnings("ignore")


def module(name: str = "z", package: Any = None) -> Any:
    base = (package or lightning).LightningModule

    class Module(base):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.add_module(name, torch.nn.Linear(2, 2, bias=False))

        def training_step(self, batch: Any) -> Any:
            return getattr(self, name)(batch).square().mean()

        validation_step = test_step = training_step

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters())

    return Module()


def trainer(*callbacks: Any, epochs: int = 1, package: Any = None, **options: Any) -> Any:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    options = {"enable_checkpointing": False, **quiet, **options}
    package = package or lightning
    return package.Trainer(max_epochs=epochs, accelerator="cpu", callbacks=list(callbacks), **options)


def data() -> Any:
    return torch.utils.data.DataLoader(torch.ones(4, 2), batch_size=2)


@pytest.fixture
def trained(named: Folder) -> Path:
    """What Lightning saved before there was any revision: a checkpoint without a record."""
    run = trainer()
    run.fit(module("x"), data())
    run.save_checkpoint(named.path / "old.ckpt")
    return named.path / "old.ckpt"


@quietly
def test_lightning_records_at_every_save(named: Folder) -> None:
    saving = lightning.callbacks.ModelCheckpoint(named.path / "runs", filename="{epoch}", save_top_k=-1)
    weights = lightning.callbacks.ModelCheckpoint(
        named.path / "weights", filename="{step}", save_top_k=-1, save_weights_only=True, every_n_train_steps=2
    )
    run = trainer(cm.StampingCallback(), saving, weights, epochs=2, enable_checkpointing=True)
    run.fit(module(), data())
    run.save_checkpoint(named.path / "by_hand.ckpt")
    files = [*named.path.glob("*/*.ckpt"), named.path / "by_hand.ckpt"]
    assert len(files) == 5
    for file in files:
        named.ok("current", file, "--check-heads")
        assert log_of(named, file) == ["stamp head b"]
    torch.load(files[-1], weights_only=True)
    forget_scripts(named)
    named.ok("history", files[-1])
    named.ok("downgrade", "-1", files[-1])
    assert list(torch.load(files[-1])["state_dict"]) == ["y.weight"]


@quietly
def test_lightning_goes_on_from_a_migrated_file(named: Folder, trained: Path) -> None:
    named.ok("upgrade", "head", trained)
    run = trainer(cm.StampingCallback(), epochs=2)
    run.fit(module(), data(), ckpt_path=trained)
    run.save_checkpoint(named.path / "next.ckpt")
    assert run.global_step == 4
    assert log_of(named, named.path / "next.ckpt") == ["upgrade head b"]
    last = trainer(cm.StampingCallback(), epochs=3)
    last.fit(module(), data(), ckpt_path=named.path / "next.ckpt")
    last.save_checkpoint(named.path / "last.ckpt")
    forget_scripts(named)
    assert log_of(named, named.path / "last.ckpt") == ["upgrade head b"]
    named.ok("downgrade", "base", named.path / "last.ckpt", "--trust-checkpoint-code")
    back = trainer(epochs=4)
    back.fit(module("x"), data(), ckpt_path=named.path / "last.ckpt")
    assert back.global_step == 8


@quietly
def test_lightning_upgrades_what_it_loads(named: Folder, trained: Path) -> None:
    before = digest(trained)
    run = trainer(cm.StampingCallback(upgrade=True), epochs=2)
    run.fit(module(), data(), ckpt_path=trained)
    run.save_checkpoint(named.path / "next.ckpt")
    assert (run.global_step, digest(trained)) == (4, before)
    assert log_of(named, named.path / "next.ckpt") == ["upgrade head b"]
    run.validate(module(), data(), ckpt_path=trained, verbose=False)
    with cm.upgraded(trained) as path:
        type(module()).load_from_checkpoint(path)


@quietly
def test_lightning_refuses_what_is_older_before_it_is_loaded(named: Folder, trained: Path) -> None:
    named.ok("upgrade", "a", trained)
    before = digest(trained)
    run = trainer(cm.StampingCallback(), epochs=2)
    with pytest.raises(NotAtTarget, match=r"old\.ckpt: the checkpoint lacks b"):
        run.fit(module(), data(), ckpt_path=trained)
    assert digest(trained) == before
    run.validate(module("y"), data(), ckpt_path=trained, verbose=False)  # nothing is saved then


@quietly
def test_lightning_refuses_what_is_newer(named: Folder, trained: Path) -> None:
    named.ok("upgrade", "head", trained)
    (named.path / "versions" / "b_change.py").unlink()
    with pytest.raises(UnknownRecorded, match=r"old\.ckpt: the checkpoint has b"):
        trainer(cm.StampingCallback(), epochs=2).fit(module(), data(), ckpt_path=trained)


@quietly
def test_lightning_with_plugins_that_read_and_write(named: Folder, trained: Path) -> None:
    plugin = lightning.plugins.io.AsyncCheckpointIO()
    run = trainer(cm.StampingCallback(upgrade=True), epochs=2, plugins=[plugin])
    run.fit(module(), data(), ckpt_path=trained)
    run.save_checkpoint(named.path / "next.ckpt")
    run.strategy.checkpoint_io.teardown()
    assert log_of(named, named.path / "next.ckpt") == ["upgrade head b"]


@quietly
def test_strategies_that_read_files_themselves(named: Folder, trained: Path) -> None:
    """As those do that shard models: nothing can be upgraded there, and nothing is taken for what it is not."""

    class Sharding(lightning.strategies.SingleDeviceStrategy):  # type: ignore[misc]
        def load_checkpoint(self, path: Any, weights_only: Any = None) -> Any:
            return torch.load(path)

    def run() -> Any:
        return trainer(cm.StampingCallback(upgrade=True), epochs=2, strategy=Sharding(torch.device("cpu")))

    with pytest.raises(NotUpgraded, match="the trainer's strategy reads the file itself"):
        run().fit(module("x"), data(), ckpt_path=trained)
    named.ok("upgrade", "a", trained)
    with pytest.raises(NotAtTarget):
        run().fit(module("y"), data(), ckpt_path=trained)
    named.ok("upgrade", "head", trained)
    whole = run()
    whole.fit(module(), data(), ckpt_path=trained)
    whole.save_checkpoint(named.path / "next.ckpt")
    assert log_of(named, named.path / "next.ckpt") == ["upgrade a a", "upgrade head b"]


@quietly
def test_what_is_no_local_file_is_not_upgraded(named: Folder, trained: Path) -> None:
    path = f"file://{trained}"
    with pytest.raises(NotUpgraded, match="it is not a local file"):
        trainer(cm.StampingCallback(upgrade=True), epochs=2).fit(module(), data(), ckpt_path=path)
    run = trainer(cm.StampingCallback(), epochs=2)
    run.fit(module("x"), data(), ckpt_path=path)
    assert run.global_step == 4


@quietly
def test_the_other_package_of_lightning(named: Folder, trained: Path) -> None:
    other = pytest.importorskip("pytorch_lightning")
    run = trainer(cm.StampingCallback(upgrade=True), epochs=2, package=other)
    run.fit(module(package=other), data(), ckpt_path=trained)
    run.save_checkpoint(named.path / "next.ckpt")
    assert log_of(named, named.path / "next.ckpt") == ["upgrade head b"]


def test_lightning_is_imported_for_its_callback_alone(named: Folder) -> None:
    code = """
        import sys, anemoi_ckpt_migrate as cm
        cm.Stamper().stamped({"epoch": 1, "model": {}}), cm.load
        print([name for name in ("lightning", "pytorch_lightning", "torch") if name in sys.modules])
        sys.modules |= dict.fromkeys(["lightning", "pytorch_lightning", "lightning_fabric"])
        try:
            cm.StampingCallback
        except ImportError as error:
            print(error)
    """
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines() == ["[]", "StampingCallback needs Lightning: `pip install lightning`"]


def train() -> None:
    """Go on with what one process saved, as one of two."""
    run = trainer(cm.StampingCallback(upgrade=True), epochs=2, strategy="ddp", devices=2)
    run.fit(module(), data(), ckpt_path="old.ckpt")
    run.save_checkpoint("next.ckpt")
    assert run.world_size == 2


@quietly
def test_several_processes(named: Folder, trained: Path, ranks: Ranks) -> None:
    """Each upgrades what it loads for itself; one writes."""
    before = digest(trained)
    ranks.run(2, f"{__name__}:train", folder=named.path)
    assert digest(trained) == before
    assert log_of(named, named.path / "next.ckpt") == ["upgrade head b"]
