"""What files made to cost much cost, at two sizes, beside what else would read them. Writes COSTS.md.

    python benchmarks/costs.py [ROUNDS]

Each run is a process of its own, which may take 5 s of CPU and 8 GB; rows run in turns. CPU time is measured, not time
by the clock, so that other processes of the machine count less. Nothing large is imported here: the peak that the
system tells of a process is at least what its parent had when it was started.
"""

from __future__ import annotations

import os
import pickle
import platform
import resource
import statistics
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PROGRAM = str(Path(sys.executable).parent / "ckpt-migrate")
SECONDS, MEMORY = 5, 8 << 30
TORCH = "import sys, torch; torch.load(sys.argv[1], weights_only=True)"
TOOLS = (
    "import sys, zipfile, pickletools\n"
    "for _ in pickletools.genops(zipfile.ZipFile(sys.argv[1]).read('archive/data.pkl')): pass"
)
REGEX = "import re, sys; re.fullmatch(sys.argv[1], sys.argv[2])"


def text(value: str) -> bytes:
    """Spell a text."""
    spelled = value.encode()
    return b"X" + struct.pack("<I", len(spelled)) + spelled


def written(path: Path, value: bytes) -> Path:
    """Write a checkpoint that holds a value beside its state dict."""
    data = b"\x80\x02}(" + text("state_dict") + b"}" + text("w") + TENSOR + b"s" + value + b"u."
    with zipfile.ZipFile(path, "w") as opened:
        for name, content in {
            "data.pkl": data,
            "byteorder": b"little",
            "data/0": b"\0" * 16,
            "version": b"3\n",
        }.items():
            opened.writestr(f"archive/{name}", content)
    return path


TENSOR = (
    b"ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu")
    + b"K\4tQK\0K\4\x85K\1\x85\x89ccollections\nOrderedDict\n)RtR"
)  # fmt: skip


def copies(size: int) -> bytes:
    """Spell a call that makes `bytes` of a long text, as protocol 2 does, once for every hundred characters of it."""
    call = b"h\1h\2h\3\x86R"
    return (
        text("x") + b"](c_codecs\nencode\nq\1" + text("a" * size) + b"q\2" + text("latin1") + b"q\3"
        + call * (size // 100) + b"e"
    )  # fmt: skip


def references(size: int) -> bytes:
    """Spell a long key, below which one tensor stands once for every ten of its characters."""
    return text("a" * size) + b"](" + TENSOR + b"q\5" + b"h\5" * (size // 10) + b"e"


def nested(size: int) -> bytes:
    """Spell tuples in each other, as the key of a dict: hashing goes through all."""
    return text("x") + b"}" + b")" + b"\x85" * size + b"Ns"


def colliding(count: int) -> bytes:
    """Spell a dict whose keys all have one hash: tuples of -1 and -2, of which Python makes the same."""
    parts = b"h\1", b"h\2"
    keys = (b"(" + b"".join(parts[number >> place & 1] for place in range(14)) + b"t" for number in range(count))
    return text("x") + b"](J\xff\xff\xff\xffq\1J\xfe\xff\xff\xffq\2}(" + b"N".join(keys) + b"Nue"


def record(operation: dict[str, Any], name: str) -> bytes:
    """Spell a record whose one revision is undone by an operation, and a parameter of that name."""
    undo = {"source": "", "python": None, "pickle": None, "operations": [operation], "parameters": None}
    entry = {"revision": "zz", "parents": [], "depends_on": [], "name": "n", "signature": "", "versions": {},
             "final": False, "undo": undo}  # fmt: skip
    value = {"format": 2, "heads": ["zz"], "lineage": [entry], "log": []}
    inner = pickle.dumps(value, 2)[2:-1]  # without the protocol and the end
    return text("ckpt_migrate") + inner + text("model") + b"}" + text(name) + TENSOR + b"s"


@dataclass
class Run:
    """A command line at one size, and what it took."""

    command: Sequence[str]
    seconds: list[float] = field(default_factory=list)
    peaks: list[float] = field(default_factory=list)
    ends: set[str] = field(default_factory=set)

    def measure(self) -> None:
        """Run once, within limits."""
        process = subprocess.Popen(
            self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=_limited
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        self.seconds.append(usage.ru_utime + usage.ru_stime)
        self.peaks.append(usage.ru_maxrss / 1024)
        self.ends.add(_ended(process.returncode))

    @property
    def time(self) -> float:
        """The median, in seconds of CPU."""
        return statistics.median(self.seconds)

    @property
    def peak(self) -> float:
        """The median, in megabytes."""
        return statistics.median(self.peaks)

    def shown(self) -> str:
        """Return both, with the fastest and the slowest."""
        return f"{self.time:.2f} ({min(self.seconds):.2f} to {max(self.seconds):.2f}) s, {self.peak:.0f} MB"


def _limited() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _ended(code: int) -> str:
    if code < 0:
        return "stopped at the limit" if -code in (9, 24) else "crashed"
    return "error" if code else "done"


Command = Callable[[Path], list[str]]


def program(*words: str) -> Command:
    """Return what runs the tool on a checkpoint."""
    return lambda path: [PROGRAM, *words, str(path)]


def python(code: str, *words: str) -> Command:
    """Return what runs a line of Python on a checkpoint, or on some words."""
    return lambda path: [sys.executable, "-c", code, *(words or (str(path),))]


INSPECT, UPGRADE = program("inspect"), program("upgrade", "head", "--dry-run")
DOWN = program("downgrade", "base", "--dry-run")
STARS = "*a" * 30 + "*c"
Kind = tuple[str, tuple[str, str], tuple[bytes, bytes], dict[str, tuple[Command, Command]]]


def same(**commands: Command) -> dict[str, tuple[Command, Command]]:
    """Return commands that are the same at both sizes."""
    return {name: (command, command) for name, command in commands.items()}


def kinds() -> list[Kind]:
    """Return the hostile kinds: what each is, its two sizes in words and bytes, and the commands."""
    reading = {"inspect": INSPECT, "upgrade head --dry-run": UPGRADE}
    others = {"torch.load(weights_only=True)": python(TORCH), "pickletools.genops": python(TOOLS)}
    found: list[Kind] = [
        ("nothing hostile", ("", ""), (b"", b""), same(**reading, **others)),
        (
            "copies of one text by calls of `_codecs.encode`",
            ("200 kB, 2,000 calls", "400 kB, 4,000 calls"),
            (copies(200_000), copies(400_000)),
            same(**reading, **others),
        ),
        (
            "a long key over many references to one tensor",
            ("100 kB, 10,000 references", "200 kB, 20,000 references"),
            (references(100_000), references(200_000)),
            same(**reading, **others),
        ),
        (
            "tuples nested in a key",
            ("50,000 levels", "500,000 levels"),
            (nested(50_000), nested(500_000)),
            same(**reading, **others),
        ),
    ]
    found.append(
        (
            "keys of one dict that have one hash",
            ("230 kB, 8,000 keys", "460 kB, 16,000 keys"),
            (colliding(8000), colliding(16_000)),
            same(**reading, **others),
        )
    )
    for shown, operation in (
        ("Add", {"op": "Add", "key": "z", "shape": [10**12], "dtype": "float32"}),
        ("Pad", {"op": "Pad", "keys": ["w"], "size": 10**12}),
    ):
        larger = operation | ({"shape": [10**13]} if shown == "Add" else {"size": 10**13})
        found.append(
            (
                f"a record that asks for terabytes by `{shown}`",
                ("4 TB", "40 TB"),
                (record(operation, "w"), record(larger, "w")),
                same(**{"inspect": INSPECT, "downgrade base": program("downgrade", "base")}),
            )
        )
    names = "a" * 450, "a" * 900
    one, other = (record({"op": "Drop", "keys": [STARS]}, name) for name in names)
    regex = STARS.replace("*", ".*")
    found.append(
        (
            "a record with a pattern of thirty stars",
            ("a name of 450 characters", "of 900"),
            (one, other),
            {
                "downgrade base --dry-run": (DOWN, DOWN),
                "re.fullmatch of the same": (python(REGEX, regex, names[0]), python(REGEX, regex, names[1])),
            },
        )
    )
    regular = {"op": "RenameRegex", "pattern": "(a+)+$", "replacement": "b"}
    names = "a" * 22 + "b", "a" * 24 + "b"
    one, other = (record(regular, name) for name in names)
    found.append(
        (
            "a record with the regular expression `(a+)+$`",
            ("a name of 23 characters", "of 25"),
            (one, other),
            {
                "downgrade base --dry-run": (DOWN, DOWN),
                "re.fullmatch": (python(REGEX, "(a+)+$", names[0]), python(REGEX, "(a+)+$", names[1])),
            },
        )
    )
    return found


def main() -> None:
    """Measure, and write the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    sections: list[tuple[str, tuple[str, str], dict[str, tuple[Run, Run]]]] = []
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch, "versions").mkdir()
        Path(scratch, "ckpt-migrate.toml").touch()
        os.chdir(scratch)
        for number, (what, sizes, values, commands) in enumerate(kinds()):
            paths = [written(Path(f"{number}-{size}.ckpt"), value) for size, value in enumerate(values)]
            runs = {
                name: (Run(small(paths[0].absolute())), Run(large(paths[1].absolute())))
                for name, (small, large) in commands.items()
            }
            sections.append((what, sizes, runs))
        for _ in range(rounds):
            for _, _, runs in sections:
                for pair in runs.values():
                    for run in pair:
                        run.measure()
        os.chdir(HERE)
    (HERE / "COSTS.md").write_text("\n".join([*_head(rounds), *(line for each in sections for line in _shown(*each))]))


def _head(rounds: int) -> list[str]:
    return [
        "# What files made to cost much cost",
        "",
        f"`make bench-costs`; Python {platform.python_version()}, torch {version('torch')}. Seconds of CPU, and peak",
        f"memory, with what Python and torch need to start: medians of {rounds} runs in turns, each a process that may",
        f"take {SECONDS} s and {MEMORY >> 30} GB; in parentheses the fastest and the slowest. Ratios are those of the",
        "larger file to the smaller. `error` is a refusal, or an exception.",
        "",
    ]


def _shown(what: str, sizes: tuple[str, str], runs: dict[str, tuple[Run, Run]]) -> list[str]:
    lines = [
        f"## {what[0].upper()}{what[1:]}",
        "",
        f"| | {sizes[0]} | {sizes[1]} | time | memory | ended |",
        "|---|---|---|---|---|---|",
    ]
    for name, (small, large) in runs.items():
        ends = " then ".join(dict.fromkeys(["/".join(sorted(small.ends)), "/".join(sorted(large.ends))]))
        ratios = f"{large.time / small.time:.1f} | {large.peak / small.peak:.1f}"
        lines.append(f"| `{name}` | {small.shown()} | {large.shown()} | {ratios} | {ends} |")
    return [*lines, ""]


if __name__ == "__main__":
    main()
