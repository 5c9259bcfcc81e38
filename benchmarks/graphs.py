"""Measure large graphs beside Alembic, and write GRAPHS.md beside this file.

    make bench-graphs

Both get the same revisions, as real files: a line, and diamonds all along (a - b, a - c, b and c merged into d, ...).
Each figure is the median of several processes, which take turns; time inside of them is taken without imports. Alembic
may keep byte code, and has it when it is measured. To list 10,000 diamonds takes it most of a minute, so that is
measured once.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
COUNT, GROWING = 10_000, (1_000, 3_000, 10_000, 30_000)

OURS = '''"""change number {number}

Revision ID: {rev}
Revises: {revises}
Create Date: 2026-11-23 00:00:00+00:00
"""

from anemoi_ckpt_migrate import CkptType, MigrationMetadata

revision = "{rev}"
down_revision = {down!r}
branch_labels = None
depends_on = None

metadata = MigrationMetadata(versions={{"migration": "1.0.0", "my-package": "0.8.1"}})


def migrate(ckpt: CkptType) -> CkptType:
    """Rename x{number} to y{number}."""
    ckpt["state_dict"]["y{number}"] = ckpt["state_dict"].pop("x{number}")
    return ckpt


def rollback(ckpt: CkptType) -> CkptType:
    """Rename y{number} to x{number}."""
    ckpt["state_dict"]["x{number}"] = ckpt["state_dict"].pop("y{number}")
    return ckpt
'''

THEIRS = '''"""change number {number}

Revision ID: {rev}
Revises: {revises}
Create Date: 2026-11-23 00:00:00+00:00
"""

from alembic import op

revision = "{rev}"
down_revision = {down!r}
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Rename x{number} to y{number}."""
    op.alter_column("state", "x{number}", new_column_name="y{number}")


def downgrade() -> None:
    """Rename y{number} to x{number}."""
    op.alter_column("state", "y{number}", new_column_name="x{number}")
'''

# Each prints a number of seconds, and what shows that the work was done.
LOAD_OURS = """
import sys, time
from pathlib import Path
from anemoi_ckpt_migrate.scripts import loader
start = time.perf_counter()
graph = loader.load([Path(sys.argv[1]) / "versions"])
heads = graph.heads
print(time.perf_counter() - start, len(graph))
"""

LOAD_THEIRS = """
import sys, time
from alembic.config import Config
from alembic.script import ScriptDirectory
config = Config()
config.set_main_option("script_location", sys.argv[1])
start = time.perf_counter()
script = ScriptDirectory.from_config(config)
heads = script.get_heads()
print(time.perf_counter() - start, len(script.revision_map._revision_map) - len({"base", ()}))
"""

PLAN_OURS = """
import sys, time
from pathlib import Path
from anemoi_ckpt_migrate import planner, record, targets
from anemoi_ckpt_migrate.scripts import loader
graph = loader.load([Path(sys.argv[1]) / "versions"])
start = time.perf_counter()
plan = planner.plan_upgrade(graph, record.Record(), targets.parse("heads"))
print(time.perf_counter() - start, len(plan.steps))
"""

PLAN_THEIRS = """
import sys, time
from alembic.config import Config
from alembic.script import ScriptDirectory
config = Config()
config.set_main_option("script_location", sys.argv[1])
script = ScriptDirectory.from_config(config)
script.get_heads()
start = time.perf_counter()
steps = list(script.revision_map.iterate_revisions("heads", "base"))
print(time.perf_counter() - start, len(steps))
"""

GROW = """
import sys, time
from anemoi_ckpt_migrate import planner, record, targets
from anemoi_ckpt_migrate.revisions.graph import Graph, Revision
sys.path.insert(0, sys.argv[3])
from graphs import shape
graph = Graph(Revision(rev, parents, reversible=True) for rev, parents in shape(sys.argv[1], int(sys.argv[2])))
start = time.perf_counter()
plan = planner.plan_upgrade(graph, record.Record(), targets.parse("heads"))
up = time.perf_counter() - start
lineage = tuple(record.Applied(step.revision, graph[step.revision].parents) for step in plan.steps)
applied = record.Record(plan.end, lineage)
start = time.perf_counter()
back = planner.plan_downgrade(graph, applied, targets.parse("base"))
down = time.perf_counter() - start
assert len(plan.steps) == len(back.steps) == int(sys.argv[2])
print(up, down)
"""


def shape(kind: str, count: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Give ids and parents of a line, or of diamonds."""
    ids = [f"{number:06x}abcdef" for number in range(count)]
    for number, rev in enumerate(ids):
        if number == 0:
            yield rev, ()
        elif kind == "line" or number % 3 == 1:
            yield rev, (ids[number - 1],)
        elif number % 3 == 2:
            yield rev, (ids[number - 2],)
        else:
            yield rev, (ids[number - 2], ids[number - 1])


def write(folder: Path, kind: str, template: str) -> Path:
    """Write a project of so many scripts."""
    versions = folder / "versions"
    versions.mkdir(parents=True)
    for number, (rev, parents) in enumerate(shape(kind, COUNT)):
        down = parents[0] if len(parents) == 1 else parents or None
        revises = ", ".join(parents)
        text = template.format(number=number, rev=rev, revises=revises, down=down)
        (versions / f"{rev}_change_number_{number}.py").write_text(text)
    (folder / "ckpt-migrate.toml").touch()
    (folder / "alembic.ini").write_text("[alembic]\nscript_location = .\n")
    (folder / "env.py").touch()
    return folder


def inside(code: str, *words: object, keeping: bool = True) -> float:
    """Run some code, and return the seconds that it counted itself."""
    command = [sys.executable, "-c", code, *map(str, words)]
    env = environment(keeping)
    answer = subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout.split()
    if int(answer[1]) != COUNT:
        raise SystemExit(f"{answer[1]} revisions, not {COUNT}")
    return float(answer[0])


def outside(*command: object, folder: Path) -> float:
    """Run a command, and return the seconds that all of it took."""
    start = time.perf_counter()
    ran = subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True, env=environment())
    took = time.perf_counter() - start
    if ran.returncode or f"{COUNT - 1:06x}abcdef" not in ran.stdout:
        raise SystemExit(f"{command} did not do its work: {ran.stderr}")
    return took


def environment(keeping: bool = True) -> dict[str, str]:
    """Let byte code be kept, as Alembic is used, or not."""
    left = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return left if keeping else {**left, "PYTHONDONTWRITEBYTECODE": "1"}


class Figures:
    """Measures in turns, and remembers medians."""

    def __init__(self, repeat: int) -> None:
        self._repeat = repeat
        self.seconds: dict[str, float] = {}

    def measure(self, **tasks: tuple[object, ...]) -> None:
        """Measure several tasks: each the name of a function of this module, and what it takes."""
        found: dict[str, list[float]] = {name: [] for name in tasks}
        for turn in range(self._repeat):
            for name, (do, *words) in tasks.items():
                once = name.endswith("_once")
                if turn == 0 or not once:
                    found[name].append(do(*words))  # type: ignore[operator]
                    print(f"{found[name][-1]:8.3f} s  {name}", file=sys.stderr)
        self.seconds |= {name: statistics.median(values) for name, values in found.items()}

    def row(self, words: str, ours: str, theirs: str, limit: float | None) -> str:
        """Format a comparison."""
        mine, yours = self.seconds[ours], self.seconds[theirs]
        ratio = mine / yours
        held = "" if limit is None else f"{limit:.2g} | {'yes' if ratio <= limit else '**no**'}"
        return f"| {words} | {mine:.3f} | {yours:.3f} | {ratio:.4f} | {held or ' | '} |"


def main() -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeat", type=int, default=5, help="how many turns (default: 5)")
    parser.add_argument("--output", type=Path, default=HERE / "GRAPHS.md", help="the file to write")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        figures = Figures(args.repeat)
        for kind in ("line", "diamonds"):
            ours = write(Path(name) / f"ours-{kind}", kind, OURS)
            theirs = write(Path(name) / f"theirs-{kind}", kind, THEIRS)
            compare(figures, kind, ours, theirs)
    grown = {kind: {count: grow(kind, count, args.repeat) for count in GROWING} for kind in ("line", "diamonds")}
    text = report(figures, grown, args.repeat)
    args.output.write_text(text)
    print(text)


def compare(figures: Figures, kind: str, ours: Path, theirs: Path) -> None:
    """Measure one shape of graph."""
    tools = Path(sys.executable).parent
    inside(LOAD_OURS, ours)
    once = "_once" if kind == "diamonds" else ""
    figures.measure(
        **{
            f"{kind}_fresh_ours": (inside, LOAD_OURS, ours),
            f"{kind}_fresh_theirs": (lambda *words: inside(*words, keeping=False), LOAD_THEIRS, theirs),
        }
    )
    inside(LOAD_THEIRS, theirs)  # makes the byte code
    figures.measure(
        **{
            f"{kind}_load_ours": (inside, LOAD_OURS, ours),
            f"{kind}_load_theirs": (inside, LOAD_THEIRS, theirs),
            f"{kind}_plan_ours": (inside, PLAN_OURS, ours),
            f"{kind}_plan_theirs{once}": (inside, PLAN_THEIRS, theirs),
        }
    )
    for command in ("heads", "history"):
        slow = once if command == "history" else ""
        figures.measure(
            **{
                f"{kind}_{command}_ours": (
                    lambda *words: outside(*words, folder=ours),
                    tools / "ckpt-migrate",
                    command,
                ),
                f"{kind}_{command}_theirs{slow}": (
                    lambda *words: outside(*words, folder=theirs),
                    tools / "alembic",
                    command,
                ),
            }
        )


def grow(kind: str, count: int, repeat: int) -> tuple[float, float]:
    """Return the seconds that a plan up, and one down again, take."""
    command = [sys.executable, "-c", GROW, kind, str(count), str(HERE)]
    runs = []
    for _ in range(repeat):
        answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        runs.append((float(answer[0]), float(answer[1])))
    return statistics.median(up for up, _ in runs), statistics.median(down for _, down in runs)


def report(figures: Figures, grown: dict[str, dict[int, tuple[float, float]]], repeat: int) -> str:
    """Write the page."""
    import alembic

    row, seconds = figures.row, figures.seconds
    bars = [
        row("planning base to head, diamonds", "diamonds_plan_ours", "diamonds_plan_theirs_once", 1 / 50),
        row("planning base to head, line", "line_plan_ours", "line_plan_theirs", 1),
        *(
            row(f"loading the folder, {kind}{note}", f"{kind}_{how}_ours", f"{kind}_{how}_theirs", 1 / 2)
            for how, note in (("fresh", ""), ("load", "; Alembic's byte code was kept"))
            for kind in ("diamonds", "line")
        ),
        row("`heads`, diamonds", "diamonds_heads_ours", "diamonds_heads_theirs", None),
        row("`heads`, line", "line_heads_ours", "line_heads_theirs", None),
        row("`history`, diamonds", "diamonds_history_ours", "diamonds_history_theirs_once", None),
        row("`history`, line", "line_history_ours", "line_history_theirs", None),
    ]
    whole = [
        f"| `{command}`, {kind} | 1.5 | {seconds[f'{kind}_{command}_ours']:.2f} | "
        f"{'yes' if seconds[f'{kind}_{command}_ours'] <= 1.5 else '**no**'} |"
        for command in ("heads", "history")
        for kind in ("diamonds", "line")
    ]
    growth = [
        f"| {kind}, {count:,} | {up:.4f} | {1e6 * up / count:.1f} | {down:.4f} | {1e6 * down / count:.1f} |"
        for kind, counts in grown.items()
        for count, (up, down) in counts.items()
    ]
    return "\n".join(
        [
            "# Large graphs, beside Alembic",
            "",
            f"""\
`make bench-graphs`, {datetime.date.today()}: {os.cpu_count()} cores, Linux {platform.release()},
Python {platform.python_version()}, Alembic {alembic.__version__}. {COUNT:,} revisions as real files, medians of
{repeat} runs in turns; listing diamonds takes Alembic so long that it is measured once. Planning and loading are
timed inside the process, without imports; commands are whole processes. Where nothing else is said, Alembic's byte
code was kept for it, but for loading: as in a fresh clone.""",
            "",
            "| | seconds | Alembic | ratio | at most | held |",
            "|---|---|---|---|---|---|",
            *bars,
            "",
            "| whole command | at most, in seconds | measured | held |",
            "|---|---|---|---|",
            *whole,
            "",
            "## What a plan costs as the graph grows",
            "",
            "From base to all heads, and from there back to base; microseconds for each revision beside the seconds.",
            "",
            "| | up, s | µs each | down, s | µs each |",
            "|---|---|---|---|---|",
            *growth,
            "",
        ]
    )


if __name__ == "__main__":
    main()
