"""What starting up costs beside bare Python, from an installed package. Writes STARTING.md.

    python benchmarks/starting.py [ROUNDS]

The package is installed as a wheel into an environment of its own, without its dependencies: none of these commands
needs one. The rows run in turns. Ratios are those of the medians, of time by the clock and of processor time: other
processes of the machine disturb the second one less.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from measuring import Row, bars, in_turns, says

HERE = Path(__file__).parent
MAKE = """
import sys, torch
def save(path, tensors, numel):
    torch.save({"state_dict": {f"layer{i}.weight": torch.full((numel,), 1.0) for i in range(tensors)}}, path)
save("small.ckpt", 4, 64)
save("megabyte.ckpt", 64, 4096)
"""
SCRIPT = '''"""step {number}

Revision ID: {id}
Revises: {parent}
Create Date: 2026-11-23 00:00:00+00:00
"""
from anemoi_ckpt_migrate import MigrationMetadata, op

revision = "{id}"
down_revision = {parent!r}
branch_labels = None
depends_on = None

metadata = MigrationMetadata(versions={{"migration": "1.0.0"}})

operations = [op.RenamePrefix("{old}", "{new}")]
'''


@dataclass
class Installed:
    """An environment with the package, and a project of three scripts beside a small checkpoint and one of 1 MB."""

    python: Path
    program: Path
    project: Path

    def row(self, name: str, *words: str) -> Row:
        """Return the row of a command of the program, in the project."""
        return Row(name, [str(self.program), "-c", str(self.project), *words])


def install(folder: Path) -> Installed:
    """Install the package, and make the project."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    left_out = shutil.ignore_patterns(".git", ".venv*", "build", "dist", "man", "*.egg-info", "__pycache__")
    shutil.copytree(HERE.parent, folder / "source", ignore=left_out)
    pip, options = [sys.executable, "-m", "pip"], ["--quiet", "--no-deps"]
    build = [*pip, "wheel", *options, "--no-build-isolation", "-w", folder, folder / "source"]
    subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "--python", python, "install", *options, wheel], check=True)
    project = folder / "project"
    program = python.with_name("ckpt-migrate")
    subprocess.run([program, "init", project], check=True, stdout=subprocess.DEVNULL)
    parent = None
    for number, (old, new) in enumerate((("layer", "block"), ("block", "part"), ("part", "piece"))):
        revision = f"{number}a2f9c1b7d10"
        text = SCRIPT.format(number=number, id=revision, parent=parent, old=old, new=new)
        (project / "versions" / f"{revision}_step.py").write_text(text)
        parent = revision
    subprocess.run([sys.executable, "-c", MAKE], cwd=project, check=True)
    small = project / "small.ckpt"
    subprocess.run([program, "-c", project, "upgrade", "head", small], check=True, stdout=subprocess.DEVNULL)
    return Installed(python, program, project)


def rows_of(installed: Installed) -> list[Row]:
    """Return what is measured; the reference comes first."""
    small, megabyte, work = (str(installed.project / f"{name}.ckpt") for name in ("small", "megabyte", "work"))
    upgrade = installed.row("`ckpt-migrate upgrade head` of 1 MB", "upgrade", "head", work)
    upgrade.before = lambda: shutil.copy(megabyte, work)
    rows = [
        Row("`python -c pass`", [str(installed.python), "-c", "pass"]),
        Row("`ckpt-migrate --help`", [str(installed.program), "--help"]),
        installed.row("`ckpt-migrate heads`", "heads"),
        installed.row("`ckpt-migrate current`", "current", small),
        upgrade,
    ]
    for row, word in zip(rows[1:4], ("upgrade", "2a2f9c1b7d10", "2a2f9c1b7d10"), strict=True):
        row.check = says(word, *row.command)
    return rows


def table(rows: list[Row]) -> list[str]:
    """Format one table; times are also given as multiples of the first row."""
    lines = [
        "| | seconds | fastest to slowest | times the first | processor seconds | times the first |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        spread = f"{min(row.seconds):.3f} to {max(row.seconds):.3f}"
        ratios = row.time / rows[0].time, row.processor / rows[0].processor
        lines.append(
            f"| {row.name} | {row.time:.3f} | {spread} | {ratios[0]:.1f} | {row.processor:.3f} | {ratios[1]:.1f} |"
        )
    return lines


def reached(rows: list[Row]) -> list[tuple[str, float, float]]:
    """Hold what was measured against what was to be reached."""
    bare, helped, heads, current, upgraded = rows
    return [
        ("`--help`: times bare Python", 3, helped.time / bare.time),
        ("`heads`: times bare Python", 5, heads.time / bare.time),
        ("`current`: times bare Python", 5, current.time / bare.time),
        ("`upgrade` of 1 MB: seconds", 0.2, upgraded.time),
    ]


def main() -> None:
    """Measure, and write the page."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 41
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stderr(open(os.devnull, "w")):
        installed = install(Path(scratch))
        rows = in_turns(rows_of(installed), rounds, installed.project)
    lines = [
        "# Starting up",
        "",
        f"`make bench-starting`, {datetime.date.today()}: {os.cpu_count()} cores, Python {platform.python_version()}.",
        f"Medians of {rounds} runs in turns, from an installed wheel; a project of three scripts, a checkpoint of",
        "3 kB, and one of 1 MB in 64 tensors, all of which are renamed three times.",
        "",
        *bars(reached(rows)),
        "",
        *table(rows),
        "",
    ]
    (HERE / "STARTING.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
