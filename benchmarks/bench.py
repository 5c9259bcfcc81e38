"""Measure the main job beside what one would use instead, and write RESULTS.md beside this file.

    make bench

Everything is measured in one run, in turns, and reported as medians and ratios. In the last turn, each row is followed
by a check that the work was really done. This needs seven times the size of the main checkpoint on the disk, and five
times in memory.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import seed
from measuring import Row, bars, beside, in_turns, says, table

HERE = Path(__file__).parent
TOOL = [sys.executable, "-m", "anemoi_ckpt_migrate"]
TENSORS, MANY = 64, 100_000
SIZES = 0.1, 1, 4  # of the checkpoints that are changed in place, in sizes of the main one

RENAME = """
def migrate(ckpt):
    ckpt["state_dict"] = {f"model.{key}": value for key, value in ckpt["state_dict"].items()}
    return ckpt
"""

RENAME_BACK = """

def rollback(ckpt):
    ckpt["state_dict"] = {key[6:]: value for key, value in ckpt["state_dict"].items()}
    return ckpt
"""

CHANGE = """
def migrate(ckpt):
    ckpt["state_dict"]["layer0.weight"].mul_(2)
    return ckpt


def rollback(ckpt):
    ckpt["state_dict"]["layer0.weight"].div_(2)
    return ckpt
"""

# Beside the tensors there is what the seed demands of a checkpoint.
MAKE = """
import sys, torch
path, tensors, numel = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
state = {f"layer{i}.weight": torch.full((numel,), i + 1.0) for i in range(tensors)}
other = {"pytorch-lightning_version": "2.6.0", "migrations": [], "hyper_parameters": {"metadata": {}}}
torch.save({"state_dict": state, **other}, path)
"""

BY_HAND = """
import os, sys, torch
path = sys.argv[1]
ckpt = torch.load(path, mmap=True, weights_only=True)
ckpt["state_dict"] = {f"model.{key}": value for key, value in ckpt["state_dict"].items()}
with open(path + ".new", "wb") as file:
    torch.save(ckpt, file)
    file.flush()
    os.fsync(file.fileno())
"""

CHECK = """
import sys, torch
path, tensors, numel, prefix, first, kind = sys.argv[1:]
state = torch.load(path, mmap=True, weights_only=kind == "plain")["state_dict"]
assert len(state) == int(tensors)
for i, (key, value) in enumerate(state.items()):
    assert key == f"{prefix}layer{i}.weight" and value.shape == (int(numel),), key
    assert (value == (i + 1 if i else int(first))).all(), key
"""


@dataclass
class Checkpoint:
    """A file of equal tensors, each of them full of its number, counted from 1."""

    path: Path
    tensors: int
    numel: int

    def make(self) -> Checkpoint:
        """Save it."""
        subprocess.run([sys.executable, "-c", MAKE, self.path, str(self.tensors), str(self.numel)], check=True)
        return self

    def check(
        self, prefix: str = "", first: int = 1, path: Path | None = None, python: Path | None = None
    ) -> list[str]:
        """Give the command that fails unless keys begin with this, and the first tensor is full of that.

        The seed leaves objects of its own in the file: only its Python can read that.
        """
        shape = [str(self.tensors), str(self.numel)]
        kind = "objects" if python else "plain"
        return [str(python or sys.executable), "-c", CHECK, str(path or self.path), *shape, prefix, str(first), kind]


@dataclass
class Results:
    """All that was measured, in the order of the tables."""

    size: str
    rewriting: list[Row]
    changing: list[Row]
    seed: list[Row]
    many: list[Row]
    in_place: list[Row]
    starting: list[Row]


def main() -> None:
    """Measure and write the tables."""
    args = arguments()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        text = report(measure(Path(name), args), args)
    args.output.write_text(text)
    print(text)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=2.0, help="the size of the main checkpoint (default: 2)")
    parser.add_argument("--repeat", type=int, default=7, help="how many turns (default: 7)")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    parser.add_argument("--output", type=Path, default=HERE / "RESULTS.md", help="the file to write")
    parser.add_argument("--seed-folder", type=Path, help="keep the seed's environment there (default: made each time)")
    parser.add_argument("--no-seed", action="store_true", help="leave the seed out")
    return parser.parse_args()


def measure(folder: Path, args: argparse.Namespace) -> Results:
    """Measure everything; each part leaves the disk as it was."""
    renaming = project(folder / "rename", RENAME + RENAME_BACK)
    altering = project(folder / "change", CHANGE)
    programs = None if args.no_seed else install_seed(args.seed_folder or folder / "seed")
    with tempfile.TemporaryDirectory(dir=folder) as name:
        checkpoint = sized(Path(name) / "main.ckpt", args.gigabytes).make()
        size = f"{checkpoint.path.stat().st_size / 1e9:.2f} GB in {TENSORS} tensors"
        rewritten, changed = rewriting(checkpoint, renaming), changing(checkpoint, altering)
        synced = [by_seed(checkpoint, programs)] if programs else []
        in_turns([*rewritten, *changed, *synced], args.repeat, Path(name))
        started = in_turns(starting(checkpoint, renaming), 3 * args.repeat, Path(name))
    with tempfile.TemporaryDirectory(dir=folder) as name:
        many = Checkpoint(Path(name) / "many.ckpt", MANY, 8).make()
        manys = in_turns(rewriting(many, renaming), args.repeat, Path(name))
    with tempfile.TemporaryDirectory(dir=folder) as name:
        files = [sized(Path(name) / f"{factor}.ckpt", args.gigabytes * factor).make() for factor in SIZES]
        in_place = in_turns(rewriting_in_place(files, renaming), args.repeat, Path(name))
    return Results(size, rewritten, changed, synced, manys, in_place, started)


def project(folder: Path, functions: str) -> list[str]:
    """Make a project of one revision, named after the folder, and give the tool's command for it."""
    (folder / "versions").mkdir(parents=True)
    (folder / "ckpt-migrate.toml").touch()
    head = f'"""{folder.name}"""\nrevision = "{folder.name}"\ndown_revision = None\n\n'
    (folder / "versions" / f"{folder.name}.py").write_text(head + functions)
    return [*TOOL, "--config", str(folder)]


def install_seed(folder: Path) -> Path | None:
    """Give the folder of the seed's programs, if it can be had."""
    try:
        return seed.install(folder, RENAME)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"the seed is left out, as it could not be installed: {error}", file=sys.stderr)
        return None


def sized(path: Path, gigabytes: float) -> Checkpoint:
    """Describe a checkpoint of so many gigabytes."""
    return Checkpoint(path, TENSORS, int(gigabytes * 1e9 / 4 / TENSORS))


def copying(path: Path) -> Row:
    """Copy a file: the reference."""
    source, target = shlex.quote(str(path)), shlex.quote(f"{path}.copy")
    return Row(
        "`cp` + fsync", ["sh", "-c", f"cp {source} {target} && sync {target}"], ["cmp", str(path), f"{path}.copy"]
    )


def rewriting(checkpoint: Checkpoint, tool: list[str]) -> list[Row]:
    """Rename all keys in a new file. The reference comes first."""
    path = str(checkpoint.path)
    by_hand = checkpoint.check("model.", path=Path(path + ".new"))
    return [
        copying(checkpoint.path),
        Row("`upgrade head`, all keys renamed", [*tool, "upgrade", "head", path], checkpoint.check("model.")),
        Row("`downgrade base`, all keys renamed back", [*tool, "downgrade", "base", path], checkpoint.check()),
        Row("by hand: `torch.load(mmap=True)`, `torch.save`, fsync", [sys.executable, "-c", BY_HAND, path], by_hand),
    ]


def changing(checkpoint: Checkpoint, tool: list[str]) -> list[Row]:
    """Change the content of the first tensor."""
    path = str(checkpoint.path)
    return [
        Row("`upgrade head`, one tensor changed", [*tool, "upgrade", "head", path], checkpoint.check(first=2)),
        Row("`downgrade base`, changed back", [*tool, "downgrade", "base", path], checkpoint.check()),
        Row("`import torch`", [sys.executable, "-c", "import torch"]),
    ]


def by_seed(checkpoint: Checkpoint, programs: Path) -> Row:
    """Let the seed rename all keys, in a copy of the file as torch saved it."""
    path = checkpoint.path.with_name("seed.ckpt")
    backup = path.with_name("seed-v0.ckpt")  # where the seed puts the old file, which we put back each time
    subprocess.run(["cp", checkpoint.path, path], check=True)
    return Row(
        f"`anemoi-models migration sync` {seed.VERSION}",
        [str(programs / "anemoi-models"), "migration", "sync", str(path)],
        checkpoint.check("model.", path=path, python=programs / "python"),
        before=lambda: backup.exists() and backup.replace(path),
    )


def rewriting_in_place(checkpoints: list[Checkpoint], tool: list[str]) -> list[Row]:
    """Rename all keys where they are, in files of several sizes. The reference is to copy the one in the middle."""
    rows = [copying(checkpoints[1].path)]
    for checkpoint in checkpoints:
        path = str(checkpoint.path)
        current = [*tool, "current", path]
        size = f"{checkpoint.path.stat().st_size / 1e9:.2g} GB"
        rows += [
            Row(
                f"{size}: `upgrade head --in-place`",
                [*tool, "upgrade", "head", "--in-place", path],
                checkpoint.check("model."),
            ),
            Row(f"{size}: `current`", current, says("rename", *current, "--json")),
            Row(
                f"{size}: `downgrade base --in-place`",
                [*tool, "downgrade", "base", "--in-place", path],
                same_bytes(path),
            ),
        ]
    return rows


def same_bytes(path: str) -> list[str]:
    """Give the command that fails unless the file is again what it is now."""
    with open(path + ".sha256", "w") as sums:
        subprocess.run(["sha256sum", path], stdout=sums, check=True)
    return ["sha256sum", "--check", "--status", path + ".sha256"]


def starting(checkpoint: Checkpoint, tool: list[str]) -> list[Row]:
    """Only start up and read. The reference comes first."""
    helping, current, heads = [*TOOL, "--help"], [*tool, "current", str(checkpoint.path)], [*tool, "heads"]
    return [
        Row("`python -c pass`", [sys.executable, "-c", "pass"]),
        Row("`ckpt-migrate --help`", helping, says("upgrade", *helping)),
        Row("`ckpt-migrate current CKPT`", current, says("base", *current)),
        Row("`ckpt-migrate heads`", heads, says("rename", *heads)),
    ]


def report(results: Results, args: argparse.Namespace) -> str:
    """Write the page."""
    many, starts = f"{MANY:,} small tensors", f"Starting up, medians of {3 * args.repeat} runs"
    limits = "The limits are meant for a checkpoint of 2 GB. Of several rows, the one that needs most counts."
    change, back, torch = results.changing
    sections = [
        ("Results", [introduction(args)]),
        ("What was to be reached", [limits, "", *bars(reached(results))]),
        (
            f"Rewriting a checkpoint of {results.size}",
            table([*results.rewriting, torch, change, change.less(torch), back, back.less(torch)]),
        ),
        ("The same beside the seed", beside_seed(results, args)),
        ("Rewriting in place, all keys renamed", table(results.in_place)),
        (f"Rewriting a checkpoint of {many}", table(results.many)),
        (f"{starts} (`import torch`: {args.repeat})", table([*results.starting, torch])),
    ]
    pages = [
        "\n".join([f"{'##' if number else '#'} {title}", "", *lines, ""])
        for number, (title, lines) in enumerate(sections)
    ]
    return "\n".join(pages)


def introduction(args: argparse.Namespace) -> str:
    """Say how it was measured."""
    import torch

    folder = args.folder or tempfile.gettempdir()
    kind = subprocess.run(["stat", "-f", "-c", "%T", folder], capture_output=True, text=True).stdout.strip()
    return f"""\
`make bench`, {datetime.date.today()}: {os.cpu_count()} cores, Linux {platform.release()},
Python {platform.python_version()}, torch {torch.__version__}; {kind}, warm page cache.
Medians of {args.repeat} runs in turns; times are those of whole processes. Peak memory is the largest resident set,
pages of files that it maps included; a process that needs less than the one that starts it is shown with what that one
needs."""


def reached(results: Results) -> list[tuple[str, float, float]]:
    """Hold what was measured against what was to be reached; of several rows, the worst."""
    copy, up, down, _ = results.rewriting
    change, back, torch = results.changing
    _, many_up, many_down, many_by_hand = results.many
    in_place = [row.time for row in results.in_place[1:] if "in-place" in row.name]
    current = [row.time for row in results.in_place + results.starting if "current" in row.name]
    return [
        ("all keys renamed or renamed back: times `cp` + fsync", 1.15, max(up.time, down.time) / copy.time),
        ("the same: peak memory in MB", 64, max(up.peak, down.peak)),
        (
            f"one tensor of {TENSORS} changed or changed back, less `import torch`: times `cp` + fsync",
            1.5,
            (max(change.time, back.time) - torch.time) / copy.time,
        ),
        ("all keys renamed or renamed back in place, any size: seconds", 0.5, max(in_place)),
        ("`current`, any size: seconds", 0.15, max(current)),
        (f"{MANY:,} tensors renamed: times by hand", 1, max(many_up.time, many_down.time) / many_by_hand.time),
    ]


def beside_seed(results: Results, args: argparse.Namespace) -> list[str]:
    """Compare with the seed, or say why not."""
    if not results.seed:
        return [f"Not measured: {'left out' if args.no_seed else 'it could not be installed'}."]
    note = f"""\
`anemoi-models` {seed.VERSION} with the same renaming as its only script, on a copy of the same file. It loads the file
twice, copies the loaded tensors once more, copies the old file, and overwrites it where it stands, without fsync."""
    return [note, "", *beside([results.rewriting[1], results.rewriting[3], *results.seed])]


if __name__ == "__main__":
    main()
