"""The page on chains of one's own, followed as its reader does: wheels are built, installed and used, in real processes.

`python -m tests.support.own_chain` writes what the commands print into the page; read what has changed before you commit it.
"""

from __future__ import annotations

import os
import site
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from tests.support.tutorial import PAGE, Block, Normal, Player, blocks

CHAINS = PAGE.with_name("chains.md")
BACKENDS = {"setuptools": "setuptools.build_meta", "hatch": "hatchling.build", "poetry": "poetry.core.masonry.api"}


class Reader(Player):
    """A folder, and a Python environment that has ckpt-migrate and what the page installs.

    What builds wheels comes from the environment of the tests, so that nothing is downloaded.
    """

    def __init__(self, folder: Path, programs: Path) -> None:
        super().__init__(folder)
        self._programs = programs
        venv.create(programs / "venv")
        python = programs / "venv" / "bin" / "python"
        (packages,) = (programs / "venv").glob("lib/python*/site-packages")
        lines = [f"import site; site.addsitedir({folder!r})\n" for folder in site.getsitepackages()]
        (packages / "environment_of_the_tests.pth").write_text("".join(lines))
        self._program("pip", f'{sys.executable} -m pip --python {python} "$@"')
        self._program("python", f'{python} "$@"')
        self._program("ckpt-migrate", f'{python} -m anemoi_ckpt_migrate "$@"')

    def _program(self, name: str, line: str) -> None:
        path = self._programs / name
        path.write_text(f"#!/bin/sh\nexec {line}\n")
        path.chmod(0o755)

    def run(self, line: str) -> str:
        """Run a command line in a shell, and return what it prints."""
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=self.folder,
            env={
                **os.environ,
                "PATH": f"{self._programs}{os.pathsep}{os.environ['PATH']}",
                "PIP_NO_BUILD_ISOLATION": "0",  # pip's way to say that there is to be none
                "PIP_NO_INDEX": "1",
                "PIP_DISABLE_PIP_VERSION_CHECK": "1",
                "LC_ALL": "C",
            },
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        self.code = done.returncode
        return done.stdout


def page_of(backend: str) -> list[Block]:
    """Return what a reader of the page does who takes one of the build tools."""
    done = [block for block in blocks(CHAINS.read_text()) if block.title or block.kind == "console"]
    return [block for block in done if block.title != "pyproject.toml" or BACKENDS[backend] in block.text]


def main() -> None:
    """Write what the commands print into the page, where it is something else now."""
    shown, printed = Normal(), Normal()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as programs:
        reader = Reader(Path(folder), Path(programs))
        text = CHAINS.read_text()
        for block in page_of("setuptools"):
            played = reader.play(block)
            if printed(played) != shown(block.text):
                text = text.replace(block.text, played)
        CHAINS.write_text(text)


if __name__ == "__main__":
    main()
