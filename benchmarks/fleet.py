"""Measure many checkpoints in one call, beside what one would use instead, and write FLEET.md.

    make bench-fleet                     # FILES=10000 of 1 MB each, 3 turns
    FILES=200 FOUND=5000 make bench-fleet    # see that it runs

The checkpoints lie on a file system in memory (FLEET_DIR, or /dev/shm), so that processors are measured and no disk;
backups would double what they need there, so there are none. The same on the disk, with fsync, is in a table of its
own (BENCH_DIR, or the folder for temporary files). In the last turn, each row is followed by a check of its work.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import seed
from format_project import PROGRAM, RENAME, SCRATCH, write_script
from measuring import Row, bars, in_turns
from measuring import table as plain_table

HERE = Path(__file__).parent
MEMORY = os.environ.get("FLEET_DIR") or "/dev/shm"
FILES, FOUND = int(os.environ.get("FILES", "10000")), int(os.environ.get("FOUND", "100000"))
FEW, ON_DISK, SAMPLE = max(1, FILES // 10), min(500, FILES), min(50, FILES)
TENSORS, CONTENTS, IN_A_FOLDER = 65, 20, 100
_SUBREAPER = 36  # of prctl: processes whose parent ended become ours
MAKE = f"""
import sys, torch
numel = 2**20 // 4 // {TENSORS}
for number in range({CONTENTS}):
    state = {{f"layers.{{i}}.weight": torch.full((numel,), i + number / 100) for i in range({TENSORS})}}
    other = {{"pytorch-lightning_version": "1.9.0", "epoch": number, "global_step": 100 * number, "loops": {{}},
             "callbacks": {{}}, "optimizer_states": [], "lr_schedulers": [],
             "migrations": [], "hyper_parameters": {{"metadata": {{}}}}}}
    torch.save({{"state_dict": state, **other}}, f"{{number}}.content")
"""
CHECK = """
import sys, torch
from pathlib import Path
folder, count, step, prefix = sys.argv[1:]
files = sorted(Path(folder).rglob("*.ckpt"))
assert len(files) == int(count), len(files)
for file in files[::int(step)]:
    state = torch.load(file, weights_only=prefix == "blocks.")["state_dict"]
    assert len(state) == TENSORS and all(key.startswith(prefix) for key in state), file
    assert all((value == value[0]).all() for value in state.values()), file
"""
FIND = """
import sys
from anemoi_ckpt_migrate.batch.select import Selection
folder, count = sys.argv[1:]
assert sum(map(len, Selection((folder,), recursive=True).groups())) == int(count)
"""
SEED_RENAME = """
def migrate(ckpt):
    ckpt["state_dict"] = {key.replace("layers.", "blocks."): value for key, value in ckpt["state_dict"].items()}
    return ckpt
"""


@dataclass
class FleetRow(Row):
    """A command on many checkpoints.

    Attributes
    ----------
    count : int
        How many they are.
    own : list of float
        Processor time of the process that was started, without its workers; in seconds.
    workers : list of int
        The most memory of one of its workers; in kilobytes.
    """

    count: int = 1
    own: list[float] = field(default_factory=list)
    workers: list[int] = field(default_factory=list)

    @property
    def a_file(self) -> float:
        """Processor time for each file, workers included; in milliseconds."""
        return self.processor * 1000 / self.count

    @property
    def own_a_file(self) -> float:
        """Processor time for each file without workers; in milliseconds."""
        return statistics.median(self.own) * 1000 / self.count

    @property
    def worker(self) -> float:
        """The most memory of a worker, in megabytes; 0 if there is none."""
        return statistics.median(self.workers) / 1024

    def measure(self) -> None:
        """Run once, and wait for all processes that were started, also if their parents did not."""
        self.before()
        os.sync()
        before, start = _busy_of_children(), time.perf_counter()
        process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL)
        with _memory_of_workers(process.pid) as most:
            _, status, usage = os.wait4(process.pid, 0)
        self.seconds.append(time.perf_counter() - start)
        _wait_for_all()
        self.busy.append(_busy_of_children() - before)
        self.own.append(usage.ru_utime + usage.ru_stime)
        self.peaks.append(usage.ru_maxrss)
        self.workers.append(max(most.values(), default=0))
        if status:
            raise SystemExit(f"{self.name} failed: {self.command}")
        print(f"{self.seconds[-1]:8.3f} s  {self.busy[-1] * 1000 / self.count:8.2f} ms  {self.name}", file=sys.stderr)


class Fleet:
    """A folder of checkpoints: a fifth of them in one folder, the rest in folders of a hundred.

    Attributes
    ----------
    path : Path
        The folder.
    count : int
        How many they are.
    """

    def __init__(self, path: Path, count: int, contents: list[Path]) -> None:
        self.path, self.count, self._contents = path, count, contents

    def make(self) -> None:
        """Write all of them anew."""
        shutil.rmtree(self.path, ignore_errors=True)
        for number, place in enumerate(places(self.path, self.count)):
            shutil.copyfile(self._contents[number % CONTENTS], place)

    def row(self, name: str, *options: str, anew: bool = True) -> FleetRow:
        """Return the row of an upgrade with some options, of new files or of what is there."""
        command = [PROGRAM, "upgrade", "head", "-r", str(self.path), "-q", "--no-backup", *options]
        return FleetRow(name, command, self.check("blocks."), self.make if anew else lambda: None, count=self.count)

    def check(self, prefix: str, python: str = sys.executable) -> list[str]:
        """Return the command that fails unless all files are there, and keys in a hundred of them begin with this."""
        step = max(1, self.count // 100)
        code = CHECK.replace("TENSORS", str(TENSORS))
        return [python, "-c", code, str(self.path), str(self.count), str(step), prefix]


def places(folder: Path, count: int) -> Iterator[Path]:
    """Make folders, and yield the paths of so many checkpoints in them."""
    for number in range(count):
        within = "all" if number < count // 5 else f"run-{number // IN_A_FOLDER:05}"
        place = folder / within / f"step-{number:06}.ckpt"
        if number == 0 or number == count // 5 or number % IN_A_FOLDER == 0:
            place.parent.mkdir(parents=True, exist_ok=True)
        yield place


def of_all(folder: Path, contents: list[Path]) -> list[FleetRow]:
    """Return what is measured with all files."""
    fleet, few, one = (
        Fleet(folder / name, count, contents) for name, count in (("fleet", FILES), ("few", FEW), ("one", 1))
    )
    report = str(folder / "report.jsonl")
    return [
        fleet.row("`-j 1`", "-j", "1"),
        fleet.row("the same again: all are at head", "-j", "1", anew=False),
        fleet.row("`-j 2`", "-j", "2"),
        fleet.row("`-j 2 --report FILE`", "-j", "2", "--report", report),
        fleet.row("`--dask local -j 2`", "--dask", "local", "-j", "2"),
        one.row("`-j 2`, one file: start-up", "-j", "2"),
        one.row("`--dask local -j 2`, one file: start-up", "--dask", "local", "-j", "2"),
        few.row(f"`-j 1`, {FEW:,} files", "-j", "1"),
        few.row(f"`-j 2`, {FEW:,} files", "-j", "2"),
    ]


def of_finding(folder: Path) -> list[Row]:
    """Return what is measured with empty files that are only found."""
    found = folder / "found"
    for place in places(found, FOUND):
        place.touch()
    python = [sys.executable, "-c"]
    return [
        Row("`find FOLDER -type f`, and `wc -l`", ["sh", "-c", f"find {found} -type f | wc -l"]),
        Row("`Selection((FOLDER,), recursive=True).groups()`", [*python, FIND, str(found), str(FOUND)]),
        Row("start-up: the same with one file", [*python, FIND, str(next(found.rglob("*.ckpt"))), "1"]),
    ]


def of_sample(folder: Path, contents: list[Path]) -> list[FleetRow]:
    """Return what is measured with a few files, beside what else one would use."""
    sample = Fleet(folder / "sample", SAMPLE, contents)
    one_by_one = _for_each(sample.path, PROGRAM, "upgrade", "head", "--no-backup")
    rows = [
        sample.row("`ckpt-migrate upgrade head -r FOLDER`", "-j", "1"),
        FleetRow(
            "`ckpt-migrate upgrade head FILE` in a loop of the shell",
            one_by_one,
            sample.check("blocks."),
            sample.make,
            count=SAMPLE,
        ),
    ]
    lightning = [sys.executable, "-m", "lightning.pytorch.utilities.upgrade_checkpoint", str(sample.path)]
    if subprocess.run([*lightning[:-1], "--help"], capture_output=True).returncode == 0:
        name = "Lightning's `upgrade_checkpoint FOLDER`, which changes other things"
        rows.append(FleetRow(name, lightning, sample.check("layers."), sample.make, count=SAMPLE))
    programs = _seed()
    if programs is not None:
        sync = _for_each(sample.path, str(programs / "anemoi-models"), "migration", "sync")
        check = sample.check("blocks.", str(programs / "python"))
        check[2] = (
            check[2].replace('prefix == "blocks."', "False").replace('rglob("*.ckpt")', 'rglob("step-??????.ckpt")')
        )
        name = f"the seed's `anemoi-models migration sync FILE` {seed.VERSION} in a loop of the shell"
        rows.append(FleetRow(name, sync, check, sample.make, count=SAMPLE))
    return rows


def of_disk(folder: Path, contents: list[Path]) -> list[FleetRow]:
    """Return what is measured on a disk."""
    fleet = Fleet(folder / "fleet", ON_DISK, contents)
    return [fleet.row("`-j 1`", "-j", "1"), fleet.row("`-j 2`", "-j", "2")]


def table(rows: list[FleetRow]) -> list[str]:
    """Format one table."""
    lines = [
        "| | files | seconds | fastest to slowest | processor time a file | without workers | memory | of a worker |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        spread = f"{min(row.seconds):.2f} to {max(row.seconds):.2f}"
        times = f"{row.a_file:.2f} ms | {row.own_a_file:.2f} ms"
        worker = f"{row.worker:.0f} MB" if row.worker else ""
        lines.append(
            f"| {row.name} | {row.count:,} | {row.time:.2f} | {spread} | {times} | {row.peak:.0f} MB | {worker} |"
        )
    return lines


def limits(rows: list[FleetRow], finding: list[Row]) -> list[tuple[str, float, float]]:
    """Return what was to be reached."""
    alone, again, both, reported, dask, start, dask_start, few_alone, few = rows
    find, found, importing = finding
    return [
        ("`-j 1`: milliseconds of processor time a file", 25, alone.a_file),
        ("`-j 2`: milliseconds of processor time a file", 25, both.a_file),
        ("`-j 2`: milliseconds of it in the process that was started", 0.5, (sum_of(both) - sum_of(start)) / FILES),
        ("`-j 2`: its time, as a share of that of `-j 1` (1.7 times as fast)", 1 / 1.7, both.time / alone.time),
        ("`-j 2 --report`: the same", 1 / 1.7, reported.time / alone.time),
        ("again at head: milliseconds of processor time a file", 10, again.a_file),
        ("`--dask local`: its time less start-up, times `-j 2`", 1.5, (dask.time - dask_start.time) / both.time),
        (f"memory of `-j 1`: MB more with {FILES:,} files than with {FEW:,}", 20, alone.peak - few_alone.peak),
        (f"memory of `-j 2`: MB more with {FILES:,} files than with {FEW:,}", 20, both.peak - few.peak),
        (f"memory of a worker: MB more with {FILES:,} files than with {FEW:,}", 20, both.worker - few.worker),
        (f"finding {FOUND:,} files: seconds beyond `find`", 3, found.time - importing.time - find.time),
    ]


def sum_of(row: FleetRow) -> float:
    """Return the processor time without workers, in milliseconds."""
    return statistics.median(row.own) * 1000


def _for_each(folder: Path, *command: str) -> list[str]:
    """Return the shell's loop that runs a command for each checkpoint."""
    words = shlex.join(command)
    return [
        "sh",
        "-c",
        f'for file in {shlex.quote(str(folder))}/*/step-??????.ckpt; do {words} "$file" || exit 1; done',
    ]


def _seed() -> Path | None:
    """Return the folder of the seed's programs, if it can be had."""
    try:
        return seed.install(Path(SCRATCH) / "ckpt-migrate-seed", SEED_RENAME)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"the seed is left out, as it could not be installed: {error}", file=sys.stderr)
        return None


def _busy_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _wait_for_all() -> None:
    """Wait until no process that was started is left."""
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return


@contextlib.contextmanager
def _memory_of_workers(top: int) -> Iterator[dict[int, int]]:
    """Yield the most memory of each process below another one, in kilobytes, as far as it was seen twice a second."""
    most: dict[int, int] = {}
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.5):
            for process in _below(top):
                most[process] = _peak_of(process) or most.get(process, 0)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield most
    finally:
        ended.set()
        looking.join()


def _below(top: int) -> set[int]:
    """Return the processes below another one."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found, new = set[int](), {top}
    while new:
        new = {process for process, parent in parents.items() if parent in new} - found
        found |= new
    return found


def _peak_of(process: int) -> int:
    """Return the most memory that a process had, in kilobytes; 0 if it ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    return 0


def make_contents(folder: Path) -> list[Path]:
    """Make a few different checkpoints, and return their paths."""
    subprocess.run([sys.executable, "-c", MAKE], cwd=folder, check=True)
    return [folder / f"{number}.content" for number in range(CONTENTS)]


def begin(folder: Path) -> None:
    """Make a project of one script in a folder, and go there."""
    os.chdir(folder)
    (folder / "versions").mkdir()
    (folder / "ckpt-migrate.toml").write_text('versions = "versions"\n')
    write_script(folder, RENAME)


def main() -> None:
    """Measure, and write the tables."""
    repeat = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    if ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0):
        raise SystemExit("this system gives no processor time of workers")
    with tempfile.TemporaryDirectory(dir=MEMORY) as scratch:
        folder = Path(scratch)
        begin(folder)
        contents = make_contents(folder)
        needed = (FILES + FEW + SAMPLE + 50) * contents[0].stat().st_size
        if needed > shutil.disk_usage(folder).free:
            raise SystemExit(f"this needs {needed / 1e9:.0f} GB in {MEMORY}: set FILES, or FLEET_DIR to another folder")
        finding = in_turns(of_finding(folder), repeat, folder)
        shutil.rmtree(folder / "found")
        sample = in_turns(of_sample(folder, contents), repeat, folder)
        rows = in_turns(of_all(folder, contents), repeat, folder)
    with tempfile.TemporaryDirectory(dir=SCRATCH) as scratch:
        begin(Path(scratch))
        disk = in_turns(of_disk(Path(scratch), make_contents(Path(scratch))), repeat, Path(scratch))
    lines = [
        "# Many checkpoints in one call, measured",
        "",
        f"`ckpt-migrate upgrade head -r FOLDER -q --no-backup` on {FILES:,} checkpoints of 1 MB and {TENSORS} tensors, "
        "all of which are renamed; a fifth of the files in one folder, the rest in folders of a hundred. "
        f"They lie in memory ({MEMORY}), which has no room for backups beside them. "
        f"Medians of {repeat} runs in turns; {os.cpu_count()} cores, Python {platform.python_version()}. "
        "Processor time is that of all processes; without workers, only that of the one that was started. "
        "`make bench-fleet` writes this file.",
        "",
        *table(rows),
        "",
        *bars(limits(rows, finding)),
        "",
        f"## Finding {FOUND:,} files",
        "",
        *plain_table(finding),
        "",
        f"## On a disk, with fsync: {ON_DISK} files",
        "",
        *table(disk),
        "",
        f"## Beside others: {SAMPLE} files in memory",
        "",
        *table(sample),
        "",
    ]
    (HERE / "FLEET.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
