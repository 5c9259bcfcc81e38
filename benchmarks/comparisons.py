"""What comparing many parameters costs: `diff`, `--autogenerate`, `check --model`, `manifest`, `stamp auto`.

    python benchmarks/comparisons.py [ROUNDS [COUNT ...]]

Writes COMPARISONS.md. A model of COUNT small parameters in blocks of ten was changed: modules renamed, queries, keys
and values fused, biases dropped, scales added. Each row is a process of its own; rows run in turns. Beside them stands
what they cannot do without: importing torch and building the model, and reading two checkpoints.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from measuring import Row

HERE = Path(__file__).parent
PROGRAM = str(Path(sys.executable).parent / "ckpt-migrate")
COUNTS = 10_000, 25_000, 50_000
SHAPES = {
    "attn.q.weight": (4, 4),
    "attn.k.weight": (4, 4),
    "attn.v.weight": (4, 4),
    "attn.out.weight": (4, 4),
    "attn.out.bias": (4,),
    "norm.weight": (4,),
    "norm.bias": (4,),
    "mlp.up.weight": (8, 4),
    "mlp.down.weight": (4, 8),
    "mlp.down.bias": (4,),
}
NEW_SHAPES = {
    "attn.qkv.weight": (12, 4),
    "attn.proj.weight": (4, 4),
    "norm.weight": (4,),
    "norm.bias": (4,),
    "mlp.fc1.weight": (8, 4),
    "mlp.fc2.weight": (4, 8),
    "mlp.fc2.bias": (4,),
    "gain.scale": (4,),
}
BAR = 5.0
"""The most seconds of the processor, imports included, at any number of parameters."""
RENAMED = {"attn.out": "attn.proj", "mlp.up": "mlp.fc1", "mlp.down": "mlp.fc2"}
MODEL = """
import torch
from torch import nn

SHAPES = {shapes!r}


def build():
    model = nn.Module()
    for block in range({blocks}):
        for name, shape in SHAPES.items():
            owner = model
            *modules, last = f"backbone.blocks.{{block}}.{{name}}".split(".")
            for part in modules:
                if part not in owner._modules:
                    owner.add_module(part, nn.Module())
                owner = owner._modules[part]
            owner.register_parameter(last, nn.Parameter(torch.empty(shape)))
    return model
"""
BUILD = "import torch, model\nwith torch.device('meta'):\n    model.build().state_dict()\n"
READ = """
from anemoi_ckpt_migrate.storage import open_checkpoint
for path in ("old.ckpt", "new.ckpt"):
    with open_checkpoint(path) as file:
        file.load()
"""
REVISION = '''"""fuse and rename"""

from anemoi_ckpt_migrate import MigrationMetadata, op

revision = "r1"
down_revision = None
metadata = MigrationMetadata(versions={"migration": "1.0.0"})
operations = [
    op.RenamePrefix("encoder.layers.", "backbone.blocks."),
    op.RenamePrefix("backbone.blocks.{i}.attn.out.", "backbone.blocks.{i}.attn.proj."),
    op.RenamePrefix("backbone.blocks.{i}.mlp.up.", "backbone.blocks.{i}.mlp.fc1."),
    op.RenamePrefix("backbone.blocks.{i}.mlp.down.", "backbone.blocks.{i}.mlp.fc2."),
    op.Fuse(
        [
            "backbone.blocks.{i}.attn.q.weight",
            "backbone.blocks.{i}.attn.k.weight",
            "backbone.blocks.{i}.attn.v.weight",
        ],
        "backbone.blocks.{i}.attn.qkv.weight",
    ),
]
'''


def old_states(blocks: int) -> dict[str, torch.Tensor]:
    """Return the parameters of the old model."""
    made = torch.Generator().manual_seed(0)
    names = ((f"encoder.layers.{block}.{name}", shape) for block in range(blocks) for name, shape in SHAPES.items())
    return {name: torch.randn(shape, generator=made) for name, shape in names}


def new_states(old: dict[str, torch.Tensor], blocks: int) -> dict[str, torch.Tensor]:
    """Return the parameters of the new model, with the same weights."""
    found = {}
    back = {new: name for name, new in RENAMED.items()}
    for block in range(blocks):
        before, after = f"encoder.layers.{block}.", f"backbone.blocks.{block}."
        for name, shape in NEW_SHAPES.items():
            module, _, leaf = name.rpartition(".")
            if name == "attn.qkv.weight":
                value = torch.cat([old[f"{before}attn.{part}.weight"] for part in "qkv"])
            elif name == "gain.scale":
                value = torch.full(shape, float(block))
            else:
                value = old[f"{before}{back.get(module, module)}.{leaf}"]
            found[after + name] = value
    return found


def with_optimizer(states: dict[str, torch.Tensor]) -> dict[str, object]:
    """Return a checkpoint with the state of AdamW."""
    state = {
        place: {"step": torch.tensor(1.0), "exp_avg": value * 0, "exp_avg_sq": value * value}
        for place, value in enumerate(states.values())
    }
    group = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01, "params": list(range(len(states)))}
    return {"state_dict": states, "optimizer_states": [{"state": state, "param_groups": [group]}]}


def project(folder: Path, count: int) -> Path:
    """Make a project of a model with so many parameters, a revision, a manifest, and the checkpoints."""
    (folder / "versions").mkdir(parents=True)
    (folder / "ckpt-migrate.toml").write_text('[models]\nnet = "model:build"\n')
    (folder / "versions" / "r1_fuse.py").write_text(REVISION)
    blocks = count // len(SHAPES)
    (folder / "model.py").write_text(MODEL.format(shapes=NEW_SHAPES, blocks=blocks))
    old = old_states(blocks)
    new = new_states(old, blocks)
    fused = {name: value for name, value in new.items() if not name.endswith(".scale")}
    kept = {name: value for name, value in old.items() if not name.endswith("attn.out.bias")}
    torch.save({"state_dict": old}, folder / "old.ckpt")
    torch.save({"state_dict": new}, folder / "new.ckpt")
    torch.save({"state_dict": fused}, folder / "fused.ckpt")
    torch.save({"state_dict": kept}, folder / "base.ckpt")
    torch.save(with_optimizer(old), folder / "old_trained.ckpt")
    torch.save(with_optimizer(new), folder / "new_trained.ckpt")
    words = ["manifest", "net", "--update", "--from", "fused.ckpt", "--at", "head"]
    subprocess.run([PROGRAM, *words], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return folder


def rows(folder: Path) -> list[Row]:
    """Return what is measured in a project."""

    def clear() -> None:
        for path in (folder / "versions").glob("*_measured.py"):
            path.unlink()

    autogenerate = [PROGRAM, "revision", "measured", "--autogenerate", "old.ckpt"]
    return [
        Row("import torch, build the model on `meta`", [sys.executable, "-c", BUILD]),
        Row("read two checkpoints", [sys.executable, "-c", READ]),
        Row("`diff`", [PROGRAM, "diff", "old.ckpt", "new.ckpt"]),
        Row("`diff`, with AdamW", [PROGRAM, "diff", "old_trained.ckpt", "new_trained.ckpt"]),
        Row("`revision --autogenerate`, two checkpoints", [*autogenerate, "new.ckpt"], before=clear),
        Row("`revision --autogenerate`, a model", [*autogenerate, "model:build"], before=clear),
        Row("`check --model`, which differs", ["sh", "-c", f"{PROGRAM} check --model; test $? = 4"], before=clear),
        Row("`manifest --at base`", [PROGRAM, "manifest", "--at", "base", "--json"], before=clear),
        Row("`stamp auto`, dry run", [PROGRAM, "stamp", "auto", "base.ckpt", "--dry-run"], before=clear),
    ]


def table(measured: dict[int, list[Row]]) -> Iterator[str]:
    """Show each row at each size, and its growth from the smallest size to the largest, by parameter."""
    counts = list(measured)
    yield f"| | {' | '.join(f'{count:,}' for count in counts)} | growth by parameter |"
    yield "|---" * (len(counts) + 2) + "|"
    for same in zip(*measured.values(), strict=True):
        times = [
            f"{row.time:.2f} ({min(row.seconds):.2f} to {max(row.seconds):.2f}), {row.processor:.2f}" for row in same
        ]
        growth = same[-1].processor / same[0].processor / (counts[-1] / counts[0])
        yield f"| {same[0].name} | {' | '.join(times)} | {growth:.2f} |"


def main() -> None:
    """Measure, and write the table."""
    words = list(map(int, sys.argv[1:]))
    rounds, counts = words[0] if words else 3, words[1:] or COUNTS
    measured = {}
    with tempfile.TemporaryDirectory() as scratch:
        for count in counts:
            folder = project(Path(scratch, str(count)), count)
            os.chdir(folder)
            measured[count] = rows(folder)
            for _ in range(rounds):
                for row in measured[count]:
                    row.measure()
            os.chdir(HERE)
            write(measured, rounds)


def write(measured: dict[int, list[Row]], rounds: int) -> None:
    """Write the page."""
    processor = statistics.median(row.processor / row.time for each in measured.values() for row in each)
    text = "\n".join(table(measured))
    missed = [
        f"{row.name} at {count:,} ({row.processor:.1f})"
        for count, each in measured.items()
        for row in each
        if row.processor > BAR
    ]
    held = f"It is not held by: {'; '.join(missed)}." if missed else "It is held by all."
    (HERE / "COMPARISONS.md").write_text(f"""# What comparing many parameters costs

`make bench-comparisons`; Python {sys.version.split()[0]}, torch {torch.__version__}. Seconds: medians of {rounds} runs
in turns, each a process of its own, in parentheses the fastest and the slowest, then the time of the processor; by the
number of parameters of the model. Growth is the time of the processor by parameter at the largest number, as a multiple
of that at the smallest. A process had {processor:.0%} of a processor (median): with less than 100 %, the machine did
other things too.

The bar is {BAR:g} s of the processor, imports included. {held}

{text}
""")


if __name__ == "__main__":
    main()
