"""The page on adopting old checkpoints shows what happens, and its end holds, by plain torch."""

from __future__ import annotations

import re
import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import anemoi_ckpt_migrate as cm  # noqa: E402
from tests.support.old_runs import save_all  # noqa: E402
from tests.support.tutorial import ADOPT, Block, Normal, Player, blocks  # noqa: E402

pytestmark = [
    pytest.mark.skipif(not ADOPT.exists(), reason="the sources are not here"),
    pytest.mark.skipif(not shutil.which("bash"), reason="bash is not here"),
]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[Block, str]]]:
    player = Player(tmp_path_factory.mktemp("adopt"))
    shown = [block for block in blocks(ADOPT.read_text()) if block.title or block.kind == "console"]
    return player.folder, [(block, player.play(block)) for block in shown]


def test_the_page_shows_what_is_printed(played: tuple[Path, list[tuple[Block, str]]]) -> None:
    shown, printed = Normal(), Normal()
    for block, result in played[1]:
        assert printed(result) == shown(block.text), "`python -m tests.support.tutorial` writes the page anew"


def test_all_thirty_load_strictly_and_train_on(
    played: tuple[Path, list[tuple[Block, str]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the script saves its files again
    code = runpy.run_path(str(played[0] / "two_years.py"))
    paths = sorted(played[0].glob("runs/*/run*/last.ckpt"))
    assert len(paths) == 30
    for path in paths:
        checkpoint = torch.load(path, weights_only=True)
        model = code["third"]()
        model.load_state_dict(checkpoint["state_dict"], strict=True)
        optimizer = torch.optim.AdamW(model.parameters())
        optimizer.load_state_dict(checkpoint["optimizer"])
        sum(weight.square().sum() for weight in model.parameters()).backward()
        optimizer.step()
        if "2025" not in path.parts:  # a norm that was never trained
            assert torch.equal(checkpoint["state_dict"]["norm.weight"], torch.ones(8))


def test_the_python_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_all(tmp_path / "runs", each=2)
    cm.init()
    (code,) = re.findall(r"```python\n(.*?)```", ADOPT.read_text(), re.S)
    found: dict[str, Any] = {}
    exec(code, found)
    assert "2 operations to check" in capsys.readouterr().out
    exec(code.replace("recursive=True)", "recursive=True), accept_guesses=True", 1), found)
    assert sorted(each.status for each in found["adopted"].stamped) == ["moved"] * 4 + ["same"] * 2
