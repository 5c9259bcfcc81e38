"""What the manifest costs: `check --model`, upgrades that are compared, `stamp auto`. Writes MANIFEST.md.

    python benchmarks/manifest.py [ROUNDS]

The model has the names and shapes of one with 70 billion parameters, built on the meta device. Beside `check` stands
what one would write by hand: import the model, build it, compare names and shapes with a JSON. Each row is a process of
its own; rows run in turns, so that whatever else the machine does meets all of them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from measuring import Row

HERE = Path(__file__).parent
PROGRAM = str(Path(sys.executable).parent / "ckpt-migrate")
LAYERS, TENSORS, REVISIONS = 80, 5000, 100
CODE = f"""
from torch import nn


class Block(nn.Module):
    def __init__(self, width=8192, inner=28672, keys=1024):
        super().__init__()
        self.q_proj, self.o_proj = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.k_proj, self.v_proj = nn.Linear(width, keys, bias=False), nn.Linear(width, keys, bias=False)
        self.gate_proj, self.up_proj = nn.Linear(width, inner, bias=False), nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)
        self.input_norm, self.output_norm = nn.RMSNorm(width), nn.RMSNorm(width)


def build():
    parts = dict(embed=nn.Embedding(128256, 8192), head=nn.Linear(8192, 128256, bias=False))
    return nn.ModuleDict(dict(layers=nn.ModuleList(Block() for _ in range({LAYERS})), norm=nn.RMSNorm(8192), **parts))
"""
IMPORT = "import torch, model\nwith torch.device('meta'):\n    found = model.build()\n"
BY_HAND = """
import json
wanted = json.load(open("by_hand.json"))
assert wanted == {name: [list(value.shape), str(value.dtype)] for name, value in found.state_dict().items()}
"""
REVISION = '''"""change {number}"""

from anemoi_ckpt_migrate import MigrationMetadata, op

revision = "r{number:04}"
down_revision = {parent!r}
metadata = MigrationMetadata(versions={{"migration": "1.0.0"}})
operations = [op.RenamePrefix("{old}", "{new}")]
'''


def prefix(number: int) -> str:
    """Return what names begin with after so many revisions."""
    return f"m{number}.layer."


def project(folder: Path) -> Path:
    """Make a project whose model has the names of so many tensors, and a history of so many revisions."""
    (folder / "versions").mkdir(parents=True)
    (folder / "ckpt-migrate.toml").write_text('[models]\nnet = "model:build"\n')
    return folder


def large(folder: Path) -> Path:
    """Make the project with the large model."""
    project(folder)
    (folder / "model.py").write_text(CODE)
    subprocess.run([PROGRAM, "manifest", "--update"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    facts = "{name: [list(value.shape), str(value.dtype)] for name, value in found.state_dict().items()}"
    dump = f"{IMPORT}import json\njson.dump({facts}, open('by_hand.json', 'w'))"
    subprocess.run([sys.executable, "-c", dump], cwd=folder, check=True)
    return folder


def long(folder: Path) -> Path:
    """Make the project with the long history, and a checkpoint in the middle of it."""
    project(folder)
    for number in range(REVISIONS):
        parent = f"r{number - 1:04}" if number else None
        text = REVISION.format(number=number, parent=parent, old=prefix(number), new=prefix(number + 1))
        (folder / "versions" / f"r{number:04}_change.py").write_text(text)
    for name, number in (("middle.ckpt", REVISIONS // 2), ("head.ckpt", REVISIONS), ("near.ckpt", REVISIONS - 1)):
        states = {f"{prefix(number)}{place}.weight": torch.zeros(8, 8) for place in range(TENSORS)}
        torch.save({"state_dict": states}, folder / name)
    words = ["manifest", "net", "--update", "--from", "head.ckpt", "--at", "head"]
    subprocess.run([PROGRAM, *words], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    subprocess.run([PROGRAM, "stamp", "head-1", "near.ckpt"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return folder


def measured(folder: Path, rows: list[Row], rounds: int) -> None:
    """Measure rows in turns, in a folder."""
    os.chdir(folder)
    for _ in range(rounds):
        for row in rows:
            row.measure()


def main() -> None:
    """Measure, and write the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory() as scratch:
        model = [
            Row("import torch and the model, build it on `meta`", [sys.executable, "-c", IMPORT]),
            Row("the same, and compare with a JSON by hand", [sys.executable, "-c", IMPORT + BY_HAND]),
            Row("`ckpt-migrate check --model`", [PROGRAM, "check", "--model"]),
        ]
        measured(large(Path(scratch, "large")), model, rounds)
        up = [PROGRAM, "upgrade", "head", "near.ckpt", "-o", "new.ckpt"]
        history = [
            Row(
                "`upgrade head`, not compared", [*up, "--no-check-model"], before=lambda: Path("new.ckpt").unlink(True)
            ),
            Row("`upgrade head`, compared with the manifest", up, before=lambda: Path("new.ckpt").unlink(True)),
            Row("`manifest --at base`", [PROGRAM, "manifest", "--at", "base", "--json"]),
            Row("`stamp auto`, dry run", [PROGRAM, "stamp", "auto", "middle.ckpt", "--dry-run"]),
        ]
        measured(long(Path(scratch, "long")), history, rounds)
        os.chdir(HERE)
    python = sys.version.split()[0]
    text = f"""# What the manifest costs

`make bench-manifest`; Python {python}, torch {torch.__version__}. Medians of {rounds} runs in turns, each a process
of its own, in parentheses the fastest and the slowest; the last column is the ratio to the first row.

A model with the names and shapes of one with 70 billion parameters, {LAYERS} layers:

{table(model)}
`check --model` takes {model[2].time - model[0].time:.2f} s beyond the model's own import.

A checkpoint of {TENSORS} small tensors, all renamed by each of {REVISIONS} revisions:

{table(history)}"""
    (HERE / "MANIFEST.md").write_text(text)


def table(rows: list[Row]) -> str:
    """Show rows beside the first."""
    found = "| | s | ratio |\n|---|---|---|\n"
    for row in rows:
        spread = f"{row.time:.2f} ({min(row.seconds):.2f} to {max(row.seconds):.2f})"
        found += f"| {row.name} | {spread} | {row.time / rows[0].time:.2f} |\n"
    return found


if __name__ == "__main__":
    main()
