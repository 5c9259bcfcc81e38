"""The tutorial of the manual shows what happens, and what it claims holds, by plain torch."""

from __future__ import annotations

import re
import runpy
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from anemoi_ckpt_migrate import downgrade, stamp, upgrade  # noqa: E402
from tests.support.project import digest  # noqa: E402
from tests.support.same_trees import same  # noqa: E402
from tests.support.tutorial import PAGE, Block, Normal, Player, blocks  # noqa: E402

pytestmark = [
    pytest.mark.skipif(not PAGE.exists(), reason="the sources are not here"),
    pytest.mark.skipif(not (shutil.which("git") and shutil.which("bash")), reason="git and bash are not here"),
]

TOKENS = torch.arange(64).reshape(2, 32)


@dataclass(frozen=True)
class Commit:
    """What one of the ten commits made of the project, in a folder of its own."""

    number: int
    folder: Path

    def upgraded(self) -> Path:
        """Bring the checkpoint of the first commit here."""
        path = self.folder / "upgraded.ckpt"
        if not path.exists():
            upgrade(self.folder / "first.ckpt", "head", project=self.folder, output=path)
        return path

    def resumed(self) -> tuple[Any, Any]:
        """Return the model of this commit, with the upgraded checkpoint strictly loaded, and its optimizer."""
        checkpoint = torch.load(self.upgraded(), weights_only=True)
        model = runpy.run_path(str(self.folder / "model.py"))["Model"](**checkpoint["hyper_parameters"])
        model.load_state_dict(checkpoint["state_dict"], strict=True)
        optimizer = torch.optim.AdamW(model.parameters())
        optimizer.load_state_dict(checkpoint["optimizer"])
        return model, optimizer


@dataclass(frozen=True)
class Played:
    """The page, played.

    Attributes
    ----------
    folder : Path
        Where.
    results : list of (Block, str)
        Each block, and how it is to be.
    commits : list of Commit
        The ten.
    """

    folder: Path
    results: list[tuple[Block, str]]
    commits: list[Commit]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    folder = tmp_path_factory.mktemp("tutorial")
    player = Player(folder)
    results = [(block, player.play(block)) for block in blocks(PAGE.read_text())]
    ids = player.run("git rev-list --reverse HEAD").split()
    commits = [Commit(number, tmp_path_factory.mktemp(f"commit{number}-") / "it") for number in range(1, len(ids) + 1)]
    for commit, id_ in zip(commits, ids, strict=True):
        player.run(f"git worktree add -q --detach {commit.folder} {id_}")
    return Played(folder, results, commits)


CI = re.findall(r"- run: (ckpt-migrate .*|python .*)", PAGE.read_text() if PAGE.exists() else "")
"""What CI runs, but for the installation."""


def failing(folder: Path) -> str | None:
    """Run CI, and return the first of its commands that fails."""
    player = Player(folder)
    player.run("rm -f now.ckpt")
    for command in CI:
        player.run(command)
        if player.code:
            return command
    return None


def loss_of_next_step(folder: Path) -> str:
    """Upgrade the first checkpoint and train on, as CI does."""
    assert failing(folder) is None
    return Player(folder).run(CI[-1])


def test_the_page_shows_what_is_printed(played: Played) -> None:
    shown, printed = Normal(), Normal()
    for block, result in played.results:
        assert printed(result) == shown(block.text), "`python -m tests.support.tutorial` writes the page anew"


def test_there_are_ten_commits_and_eight_of_them_have_a_migration(played: Played) -> None:
    assert len(played.commits) == 10
    assert len(list(played.folder.glob("versions/c*.py"))) == 8


def test_ci_catches_each_of_the_eight(played: Played, tmp_path: Path) -> None:
    """With the migration it passes; without, `check` fails, or what loads the old checkpoint."""
    check, _, train = CI
    for before, commit in zip(played.commits, played.commits[1:], strict=False):
        late = tmp_path / str(commit.number)
        shutil.copytree(commit.folder, late, ignore=shutil.ignore_patterns("versions"))
        shutil.copytree(before.folder / "versions", late / "versions")
        assert failing(late) == {4: None, 6: train}.get(commit.number, check), commit
        assert failing(commit.folder) is None, commit


def test_the_first_checkpoint_predicts_the_same_at_each_commit(played: Played) -> None:
    """Strictly loaded; from commit 8 on without the bias of the head, as that commit says."""
    with torch.no_grad():
        first, _ = played.commits[0].resumed()
        wanted = first(TOKENS)
        for commit in played.commits:
            model, _ = commit.resumed()
            bias = first.head.bias if commit.number >= 8 else 0
            torch.testing.assert_close(model(TOKENS) + bias, wanted)


def test_the_optimizer_goes_on_as_it_would_have(played: Played) -> None:
    """After one more step, models predict the same that did so before: each moment is with its weight."""
    after = []
    for commit in played.commits:
        model, optimizer = commit.resumed()
        model(TOKENS).square().mean().backward()
        optimizer.step()
        with torch.no_grad():
            after.append(model(TOKENS))
    for one in after[:7]:
        torch.testing.assert_close(one, after[0])
    for one in after[7:]:
        torch.testing.assert_close(one, after[7])


def test_the_checkpoint_goes_back_from_each_commit_bit_for_bit(played: Played, tmp_path: Path) -> None:
    wanted = torch.load(played.folder / "first.ckpt", weights_only=True)
    for commit in played.commits:
        path = tmp_path / f"{commit.number}.ckpt"
        downgrade(commit.upgraded(), "base", project=commit.folder, output=path)
        found = torch.load(path, weights_only=True)
        found.pop("ckpt_migrate", None)
        assert same(found, wanted), commit
    last = torch.load(played.folder / "last.ckpt", weights_only=True)
    last.pop("ckpt_migrate")
    assert same(last, wanted)


def test_checkpoints_of_each_commit_are_found(played: Played, tmp_path: Path) -> None:
    for commit in played.commits:
        player = Player(commit.folder)
        player.run(f"python train.py --steps 1 --save {tmp_path / 'own.ckpt'}")
        (tmp_path / "own.ckpt").rename(path := tmp_path / f"{commit.number}.ckpt")
        found = stamp(path, "auto", project=played.folder)
        wanted = {1: (), 4: ("c03",)}.get(commit.number, (f"c{commit.number:02}",))
        assert found.end == wanted, commit


def with_names_swapped(
    played: Played, number: int, tmp_path: Path, right: tuple[str, str], wrong: tuple[str, str]
) -> Path:
    """Return a copy of a commit in whose script two names are mixed up."""
    folder = copied(played, number, tmp_path)
    (script,) = folder.glob(f"versions/c{number:02}_*.py")
    script.write_text(script.read_text().replace(right[0], "@").replace(right[1], wrong[1]).replace("@", wrong[0]))
    return folder


def test_blocks_mixed_up_are_refused(played: Played, tmp_path: Path) -> None:
    """Their parameters are in another order than the model's, by which the optimizer would take their moments."""
    swap = ('"blocks.0."', '"blocks.1."'), ('"blocks.1."', '"blocks.0."')
    assert failing(with_names_swapped(played, 3, tmp_path, *swap)) == CI[1]


def test_a_wrong_guess_loads_and_the_loss_tells(played: Played, tmp_path: Path) -> None:
    swap = ("{i}.q.weight", "{i}.k.weight"), ("{i}.k.weight", "{i}.q.weight")
    folder = with_names_swapped(played, 5, tmp_path, *swap)
    assert loss_of_next_step(folder) != loss_of_next_step(played.commits[4].folder)


def test_masks_of_zeros_load_and_the_loss_tells(played: Played, tmp_path: Path) -> None:
    folder = copied(played, 10, tmp_path)
    (script,) = folder.glob("versions/c10_*.py")
    script.unlink()
    shutil.copy(played.commits[8].folder / "versions" / "manifest.json", folder / "versions")
    Player(folder).run("ckpt-migrate revision masks --autogenerate --rev-id c10")
    assert loss_of_next_step(folder) != loss_of_next_step(played.commits[9].folder)


def test_a_function_that_forgets_a_mask_is_refused(played: Played, tmp_path: Path) -> None:
    folder = copied(played, 10, tmp_path)
    (script,) = folder.glob("versions/c10_*.py")
    script.write_text(script.read_text().replace('endswith(".ln1.weight")', 'endswith("0.ln1.weight")'))
    before = digest(folder / "first.ckpt")
    player = Player(folder)
    said = player.run("ckpt-migrate upgrade head first.ckpt")
    assert player.code == 3
    assert "backbone.blocks.1.mask is missing" in said
    assert digest(folder / "first.ckpt") == before


def copied(played: Played, number: int, to: Path) -> Path:
    """Copy the project of a commit, to change it."""
    return Path(shutil.copytree(played.commits[number - 1].folder, to / "copy", ignore=shutil.ignore_patterns("now.*")))
