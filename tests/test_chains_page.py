"""The page on chains of one's own works when followed, with each build tool, and its Python too."""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch")

from tests.support.own_chain import BACKENDS, CHAINS, Reader, page_of
from tests.support.tutorial import Block, Normal

pytestmark = [
    pytest.mark.skipif(not CHAINS.exists(), reason="the sources are not here"),
    pytest.mark.skipif(not shutil.which("bash"), reason="bash is not here"),
]


@pytest.fixture(scope="module", params=BACKENDS)
def followed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Reader, list[tuple[Block, str]]]:
    pytest.importorskip("pip")
    if importlib.util.find_spec(BACKENDS[request.param].partition(".")[0]) is None:
        pytest.skip(f"{request.param} is not here")
    reader = Reader(tmp_path_factory.mktemp("chain"), tmp_path_factory.mktemp("programs"))
    return reader, [(block, reader.play(block)) for block in page_of(request.param)]


def test_the_page_shows_what_is_printed(followed: tuple[Reader, list[tuple[Block, str]]]) -> None:
    shown, printed = Normal(), Normal()
    for block, result in followed[1]:
        assert printed(result) == shown(block.text), "`python -m tests.support.own_chain` writes the page anew"


def test_the_python_of_the_page(followed: tuple[Reader, list[tuple[Block, str]]]) -> None:
    """At the end of the page, the old checkpoint is back at base."""
    reader, _ = followed
    code = re.findall(r"```python\n(.*?)```", CHAINS.read_text(), re.S)[-1]
    (reader.folder / "use.py").write_text(code)
    assert reader.run("python use.py") == "['3f2a9c1b7d10'] True\n['embedding.weight']\n"


def test_an_editable_install_publishes_it_too(followed: tuple[Reader, list[tuple[Block, str]]], tmp_path: Path) -> None:
    """From the sources, where scripts are written: a new one is there at once."""
    reader = Reader(followed[0].folder, tmp_path)
    assert reader.run("pip install --quiet --no-deps --editable .") == ""
    assert reader.run("ckpt-migrate --chain weather heads").split()[0] == "3f2a9c1b7d10"
    made = reader.run("ckpt-migrate --config src/weathermodels/ckpts revision later --rev-id 99b1e0a2c3d4")
    assert made.startswith("created")
    assert reader.run("ckpt-migrate --chain weather heads").split()[0] == "99b1e0a2c3d4"
    (script,) = reader.folder.glob("src/weathermodels/ckpts/versions/99b1*.py")
    script.unlink()
