"""The chain beside a project's own, from later releases back, and under the real LightningCLI."""

from __future__ import annotations

import itertools
import re
import shlex
import shutil
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import pytest

from anemoi_ckpt_migrate import upgraded
from anemoi_ckpt_migrate.commands.read_record import read_record
from tests.support.chains import script, tree
from tests.support.lightning_releases import HEAD, OLDER, RELEASES, checkpoint_of, difference
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


@pytest.mark.parametrize("release", RELEASES)
def test_the_release_is_recognised_beside_a_record(project: Folder, release: str) -> None:
    """A project wrote its record first: each release is found all the same, and nothing is done twice."""
    own_script(project, 'operations = [op.SetItem("mine", 1)]')
    checkpoint = checkpoint_of(release, project.path)
    at = project.ok("--chain", "lightning", "current", "--json", checkpoint).lines[0]["heads"]
    project.ok("upgrade", "head", checkpoint)
    assert project.ok("--chain", "lightning", "current", "--json", checkpoint).lines[0]["heads"] == at
    before = Path(shutil.copy(checkpoint, project.path / "before.ckpt"))
    if release not in OLDER:
        assert "nothing to do" in project.ok("--chain", "lightning", "upgrade", "head", checkpoint).out
        assert digest(checkpoint) == digest(before)
        return
    project.ok("--chain", "lightning", "upgrade", "head", checkpoint)
    assert tree(checkpoint)["pytorch-lightning_version"] == "2.0.0"
    project.ok("--chain", "lightning", "downgrade", "base", checkpoint)
    assert difference(before, checkpoint) is None


CONFLICTS = {
    "loops dropped": 'op.DropItem("loops")',
    "callbacks dropped": 'op.DropItem("callbacks")',
    "another version": 'op.SetItem("pytorch-lightning_version", "2.6.0")',
}


@pytest.mark.parametrize("name", CONFLICTS)
def test_the_chain_that_came_last_is_undone_first(project: Folder, name: str) -> None:
    """Both changed the same value: the other order is refused, and the message names the right one."""
    own_script(project, f"operations = [{CONFLICTS[name]}]")
    checkpoint = checkpoint_of("1.8.6", project.path)
    before = Path(shutil.copy(checkpoint, project.path / "before.ckpt"))
    project.ok("--chain", "lightning", "upgrade", "head", checkpoint)
    project.ok("upgrade", "head", checkpoint)
    now = digest(checkpoint)
    ran = project.run("--chain", "lightning", "downgrade", "base", checkpoint)
    assert (ran.code, digest(checkpoint)) == (1, now)
    (way,) = re.findall(r"changed the checkpoint last; if that is the reason, `ckpt-migrate (.*?)` undoes it", ran.err)
    project.ok(*shlex.split(way))
    project.ok("--chain", "lightning", "downgrade", "base", checkpoint)
    assert difference(before, checkpoint) is None


def test_the_project_came_first(project: Folder) -> None:
    """The other way round: the project dropped loops, and the chain made new ones."""
    own_script(project, 'operations = [op.DropItem("loops")]')
    checkpoint = checkpoint_of("1.5.10-fault-tolerant", project.path)
    before = Path(shutil.copy(checkpoint, project.path / "before.ckpt"))
    project.ok("upgrade", "head", checkpoint)
    project.ok("--chain", "lightning", "upgrade", "head", checkpoint)
    now = digest(checkpoint)
    ran = project.run("downgrade", "base", checkpoint)
    assert (ran.code, digest(checkpoint)) == (1, now)
    (way,) = re.findall(r"if that is the reason, `ckpt-migrate (.*?)` undoes it first", ran.err)
    project.ok(*shlex.split(way))
    project.ok("downgrade", "base", checkpoint)
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

    def test_step(self, batch, batch_idx):
        self.log("loss", self.training_step(batch, batch_idx))

    def test_dataloader(self):
        return self.train_dataloader()

    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.ones(3, 1))

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), 0.1, momentum=0.5)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]
"""


SPACE = "cli_of_the_page"


@pytest.fixture
def cli(project: Folder, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that runs a command line of a program with a model, with the plain CLI or the one of the page."""
    pytest.importorskip("lightning.pytorch")
    pytest.importorskip("jsonargparse")
    (page,) = re.findall(r"```python\n(from contextlib.*?)```", PAGE.read_text(), re.S)
    own_script(project, 'operations = [op.MoveItem("hyper_parameters.lr", "hyper_parameters.rate")]')
    module = types.ModuleType(SPACE)
    monkeypatch.setitem(sys.modules, SPACE, module)
    exec(compile(MAIN + page, f"{SPACE}.py", "exec"), vars(module))
    monkeypatch.setenv("TMPDIR", str(project.path / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    (project.path / "temporary").mkdir()

    def run(command: str, path: object, *, plain: bool = False) -> Any:
        (project.path / "config.yaml").unlink(missing_ok=True)  # which no run overwrites
        words = [command, "--ckpt_path", str(path), "--trainer.accelerator=cpu"]
        words += ["--trainer.max_epochs=3"] if command == "fit" else []
        words += ["--trainer.logger=false", *(f"--trainer.enable_{each}=false" for each in QUIET)]
        monkeypatch.setattr(sys, "argv", ["main.py", *words])
        return vars(module)["LightningCLI" if plain else "main"](vars(module)["Line"])

    return run


QUIET = ["progress_bar", "model_summary", "checkpointing"]


@pytest.mark.filterwarnings("ignore")
def test_the_real_cli_in_the_shell(project: Folder, cli: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """It reads hyper-parameters before any callback, so the file is upgraded before."""
    old = checkpoint_of("2.5.5", project.path)
    before = digest(old)
    with pytest.raises(SystemExit):
        cli("fit", old, plain=True)
    assert "Parsing of ckpt_path hyperparameters failed" in capsys.readouterr().err
    project.ok("upgrade", "head", old, "-o", "new.ckpt")
    with upgraded(old) as path:
        for each in (path, "new.ckpt"):
            ran = cli("fit", each, plain=True)
            assert ran.model.hparams.rate == 0.1
            assert (ran.trainer.current_epoch, ran.trainer.global_step) == (3, 9)
    assert digest(old) == before


@pytest.mark.filterwarnings("ignore")
def test_the_real_cli_by_the_hooks_of_the_page(project: Folder, cli: Any) -> None:
    old = checkpoint_of("2.5.5", project.path)
    before = digest(old)
    ran = cli("fit", old)
    assert ran.model.hparams.rate == 0.1
    assert (ran.trainer.current_epoch, ran.trainer.global_step) == (3, 9)
    assert f"\nckpt_path: {old}\n" in (project.path / "config.yaml").read_text()  # not the copy
    assert cli("test", old).model.hparams.rate == 0.1
    assert not list((project.path / "temporary").glob("ckpt-migrate-*"))
    assert digest(old) == before
    with pytest.raises(ValueError, match="ModelCheckpoint"):
        cli("test", "best")  # Lightning's own word, and its own error, as nothing is best here
