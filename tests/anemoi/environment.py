"""Makes what tests against the releases of anemoi-models need: an interpreter, and each release unpacked.

    python environment.py DIR

Packages of anemoi are taken without what they say they need, whose pins on torch are narrower than what they run with.
"""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

from variants import EVERY

CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"
NEEDED = (
    "torch",
    "numpy",
    "torch_geometric",
    "einops",
    "hydra-core",
    "scipy",
    "cloudpickle",
    "pydantic",
    "aniso8601",
    "deprecation",
)
TRAINERS = ("0.6.3", "0.8.2", "0.9.0")
OWN = ("anemoi-utils==0.5.14", "anemoi-graphs==0.9.8")


def main(folder: str) -> None:
    """Make both, as far as they are not there."""
    root = Path(folder).resolve()
    python = root / "venv" / "bin" / "python"
    ready = root / "venv" / ".ready"
    if not ready.exists():
        venv.create(root / "venv", with_pip=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--constraint", str(CONSTRAINTS)]
        subprocess.run([*install, *NEEDED], check=True)
        subprocess.run([*install, "--no-deps", *OWN], check=True)
    for release in EVERY:
        unpack(python, root, "anemoi-models", release, release)
    for release in TRAINERS:
        unpack(python, root, "anemoi-training", release, f"training-{release}")
    ready.touch()


def unpack(python: Path, root: Path, package: str, release: str, name: str) -> None:
    """Unpack a release into a folder of its own, if that is not there."""
    folder = root / "releases" / name
    if folder.exists():
        return
    download = [str(python), "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(root / "wheels")]
    subprocess.run([*download, f"{package}=={release}"], check=True)
    (wheel,) = (root / "wheels").glob(f"{package.replace('-', '_')}-{release}-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder.with_name(f".{name}"))
    folder.with_name(f".{name}").rename(folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
