"""Run what needs no torch under other Pythons, in environments without torch.

    python tests/support/pythons.py python3.10 python3.12 python3.13

One file comes from this Python: a checkpoint that was upgraded here, whose rollback the others have to run.
"""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
WORK = ROOT / ".venv-pythons"
# About the kernel rather than about Python, and slow.
SAME_EVERYWHERE = ("test_faults.py", "test_copy_range.py", "test_concurrent_writes.py", "test_power_loss.py")
SCRIPT = '''"""rename x to y"""
import math
from anemoi_ckpt_migrate import CkptType, MigrationMetadata

revision = "a1"
down_revision = None
metadata = MigrationMetadata(versions={"migration": "1.0.0"})
OLD, NEW = "x.weight", "y.weight"


def migrate(ckpt: CkptType) -> CkptType:
    ckpt["state_dict"][NEW] = ckpt["state_dict"].pop(OLD)
    return ckpt


def rollback(ckpt: CkptType) -> CkptType:
    ckpt["state_dict"][OLD] = ckpt["state_dict"].pop(NEW)
    ckpt["by"] = math.floor(1.5)
    return ckpt
'''


def carried() -> Path:
    """Upgrade a checkpoint with this Python, and return it; its script is gone afterwards."""
    folder = WORK / "carried"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "versions").mkdir(parents=True)
    (folder / "ckpt-migrate.toml").touch()
    script = folder / "versions" / "a1.py"
    script.write_text(SCRIPT)
    checkpoint = shutil.copy(ROOT / "tests/data/training.ckpt", folder)
    command = [sys.executable, "-m", "anemoi_ckpt_migrate", "upgrade", "head", checkpoint]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    script.unlink()
    return Path(checkpoint)


def requirements() -> list[str]:
    """Return what the package needs, without torch."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    needed = config["options"]["install_requires"].split("\n")
    return [line for line in needed if line and not line.startswith("torch")]


def environment(name: str, python: str) -> Path:
    """Make an environment for a Python, once, and return its interpreter."""
    folder = WORK / name
    interpreter = folder / "bin" / "python"
    if not (folder / "ready").exists():
        subprocess.run([python, "-m", "venv", "--clear", folder], check=True)
        install = [interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, *requirements(), "pytest", "pytest-xdist", "hypothesis"], check=True)
        (folder / "ready").touch()
    install = [interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*install, "--force-reinstall", str(ROOT)], check=True)
    return interpreter


def find(name: str) -> str | None:
    """Return a Python that starts and is the version that its name says."""
    wanted = name.removeprefix("python")
    asked = "import sys; print('%d.%d' % sys.version_info[:2])"
    candidates = [shutil.which(name), *map(str, Path.home().glob(f".pyenv/versions/{wanted}.*/bin/python"))]
    for candidate in filter(None, candidates):
        answer = subprocess.run([candidate, "-c", asked], capture_output=True, text=True)
        if answer.returncode == 0 and answer.stdout.strip() == wanted:
            return candidate
    return None


def main() -> int:
    """Run the tests under each Python that is here."""
    checkpoint = carried()
    # Away from the sources: what is tested is the wheel.
    shutil.copytree(ROOT / "tests", WORK / "tests", dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    found = {name: find(name) for name in sys.argv[1:]}
    codes = []
    for name, python in found.items():
        if python is None:
            print(f"{name} is not on this machine: skipped")
            continue
        print(f"{name}, without torch:", flush=True)
        variables = os.environ | {
            "CARRIED_CHECKPOINT": str(checkpoint),
            "HYPOTHESIS_MAX_EXAMPLES": "25",
            "FUZZ_INPUTS": "200",
        }
        command = [environment(name, python), "-m", "pytest", "-p", "no:cacheprovider", "-n", "auto", "tests"]
        command += [f"--ignore=tests/storage/{name}" for name in SAME_EVERYWHERE]
        codes.append(subprocess.run(command, cwd=WORK, env=variables).returncode)
    return max(codes, default=0)


if __name__ == "__main__":
    sys.exit(main())
