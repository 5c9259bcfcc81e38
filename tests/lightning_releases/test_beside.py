"""The chain beside a project's own, from later releases back, and under the real LightningCLI."""

from __future__ import annotations

import itertools
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from anemoi_ckpt_migrate import upgraded
from anemoi_ckpt_migrate.commands.read_record import read_record
from tests.support.chains import script, tree
from tests.support.lightning_releases import HEAD, checkpoint_of, difference
from tests.support.project import Folder, digest

PAGE = Path(__file__).parents[2] / "docs" / "lightning.md"


def own_script(project: Folder, operations: str) -> None:
    text = script("a1", None, "x", "y")
    (project.path / "versions" / "a1_own.py").write_text(re.sub(r"operations = .*", operations, text))


RENAME = 'operations = [op.MoveItem("hyper_parameters.lr", "hyper_parameters.rate"), op.MoveItem("epoch", "epochs")]'


@pytest.mark.parametrize("release", ["1.4.9", "1.9.5"])
@pytest.mark.parametrize(("up", "down"), list(itertools.product(["own first", "own last"], repeat=2)))
def test_two_chains_in_one_record(project: Folder, up: str, down: str, release: str) -> None:
    pytest.importorskip("torch")
    own_script(
        project, RENAME.replace(', op.MoveItem("epoch", "epochs")', ', op.Rename("layer.weight", "line.weight")')
    )
    checkpoint = checkpoint_of(release, project.path)
    before = Path(shutil.copy(checkpoint, project.path / "before.ckpt"))
    chains = {"own first": [[], ["--chain", "lightning"]], "own last": [["--chain", "lightning"], []]}
    for chain in chains[up]:
        project.ok(*chain, "upgrade", "head", checkpoint)
    record, now = read_record(checkpoint), tree(checkpoint)
    assert record is not None
    assert set(record.heads) == {"a1", HEAD}
    assert now["hyper_parameters"] == {"rate": 0.1}
    assert list(now["state_dict"]) == ["line.weight"]
    assert now["pytorch-lightning_version"] == "2.0.0"
    for chain in chains[down]:
        project.ok(*chain, "downgrade", "base", checkpoint)
    assert difference(before, checkpoint) is None


@pytest.mark.parametrize("release", ["2.0.9", "2.6.0"])
def test_back_from_a_later_release(project: Folder, release: str) -> None:
    """A file that was never older gets the loops of 1.9, and is the same after the way back."""
    checkpoint, real = checkpoint_of(release, project.path), tree(checkpoint_of("1.9.5", project.path))
    before = Path(shutil.copy(checkpoint, project.path / "before.ckpt"))
    project.ok("--chain", "lightning", "downgrade", "pytorch-lightning==1.9.5", checkpoint)
    now = tree(checkpoint)
    assert now["pytorch-lightning_version"] == "1.9.5"
    evaluation = "epoch_loop.val_loop."  # not even Lightning's own upgrade changes its names
    for loop, content in real["loops"].items():
        assert {each for each in now["loops"][loop] if not each.startswith(evaluation)} == {
            each for each in content if not each.startswith(evaluation)
        }
    project.ok("--chain", "lightning", "upgrade", "head", checkpoint)
    after = tree(checkpoint)
    assert after["pytorch-lightning_version"] == "2.0.0"
    assert after["loops"] == tree(before)["loops"]


def resumed(path: Path) -> tuple[int, int]:
    from lightning.pytorch import LightningModule, Trainer

    torch = pytest.importorskip("torch")

    class Line(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(1, 1, bias=False)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.layer(batch).square().mean()

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), 0.1, momentum=0.5)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

    quiet = {
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": False,
        "enable_checkpointing": False,
    }
    trainer = Trainer(max_epochs=3, accelerator="cpu", **quiet)
    trainer.fit(Line(), torch.utils.data.DataLoader(torch.ones(3, 1)), ckpt_path=path, weights_only=False)
    return trainer.current_epoch, trainer.global_step


@pytest.mark.filterwarnings("ignore")
def test_epochs_go_on_with_the_operations_of_the_page(project: Folder) -> None:
    pytest.importorskip("lightning.pytorch")
    (operations,) = re.findall(r"operations = \[\n.*?\n\]", PAGE.read_text(), re.S)
    own_script(project, operations)
    checkpoint = checkpoint_of("1.5.10", project.path)
    project.ok("--chain", "lightning", "upgrade", "head", checkpoint)
    project.ok("upgrade", "head", checkpoint)
    assert resumed(checkpoint) == (3, 7 + 3)


MAIN = """
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LightningCLI

class Line(LightningModule):
    def __init__(self, rate: float = 0.5):
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(1, 1, bias=False)

    def training_step(self, batch, batch_idx):
        return self.layer(batch).square().mean()

    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.ones(3, 1))

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), 0.1, momentum=0.5)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]
"""


@pytest.mark.filterwarnings("ignore")
def test_the_real_cli(project: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    """It reads hyper-parameters before any callback: the file is upgraded in the shell, or by the hook of the page."""
    pytest.importorskip("lightning.pytorch")
    pytest.importorskip("jsonargparse")
    (hook,) = re.findall(r"```python\n(from contextlib.*?)```", PAGE.read_text(), re.S)
    own_script(project, 'operations = [op.MoveItem("hyper_parameters.lr", "hyper_parameters.rate")]')
    old = checkpoint_of("2.5.5", project.path)
    before = digest(old)
    space: dict[str, Any] = {"__name__": "main"}
    sys.modules["main"] = type(sys)("main")
    exec(compile(MAIN + hook, "main.py", "exec"), space)
    vars(sys.modules["main"]).update(space)

    def run(cli: str, path: Path) -> Any:
        words = ["fit", "--ckpt_path", str(path), "--trainer.max_epochs=3", "--trainer.accelerator=cpu"]
        quiet = ["progress_bar", "model_summary", "checkpointing"]
        words += ["--trainer.logger=false", *(f"--trainer.enable_{each}=false" for each in quiet)]
        return space[cli](space["Line"], args=words, save_config_callback=None)

    with pytest.raises(SystemExit):
        run("LightningCLI", old)
    assert "Parsing of ckpt_path hyperparameters failed" in capsys.readouterr().err
    project.ok("upgrade", "head", old, "-o", "new.ckpt")
    for cli, path in (("LightningCLI", Path("new.ckpt")), ("UpgradedCLI", old)):
        ran = run(cli, path)
        assert ran.model.hparams.rate == 0.1
        assert (ran.trainer.current_epoch, ran.trainer.global_step) == (3, 9)
    with upgraded(old) as path:
        assert run("LightningCLI", Path(path)).model.hparams.rate == 0.1
    assert digest(old) == before
