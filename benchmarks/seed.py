"""The seed of this project, `anemoi-models migration sync`, in a throw-away environment."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

VERSION = "0.16.0"
# What `sync` imports and our environment lacks; the rest, torch above all, is borrowed from there.
PACKAGES = [f"anemoi-models=={VERSION}", "anemoi-utils==0.5.14"]

HEAD = f'''"""rename every key"""
from anemoi.models.migrations import MigrationMetadata

metadata = MigrationMetadata(versions={{"migration": "1.0.0", "anemoi-models": "{VERSION}"}})

'''


def install(folder: Path, migrate: str) -> Path:
    """Make the environment, or use the one that is there, with this migration alone.

    Parameters
    ----------
    folder : Path
        Where it is to be.
    migrate : str
        The source of the function `migrate`.

    Returns
    -------
    Path
        The folder of its programs.

    Raises
    ------
    subprocess.CalledProcessError
        Where it cannot be had.
    """
    python = folder / "bin" / "python"
    if not python.exists():
        _run(sys.executable, "-m", "venv", "--without-pip", str(folder))
    _run(sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", *PACKAGES)
    site = Path(_run(str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (site / "borrowed.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    _replace_scripts(site / "anemoi" / "models" / "migrations" / "scripts", migrate)
    # the command itself exits with 0 where it cannot import this
    _run(str(python), "-c", "import torch, anemoi.models.commands.migration")
    return python.parent


def _replace_scripts(folder: Path, migrate: str) -> None:
    for script in folder.glob("*.py"):
        script.unlink()
    (folder / "1_rename_every_key.py").write_text(HEAD + migrate)


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
