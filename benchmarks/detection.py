"""How many hostile files `inspect` tells from harmless ones, beside picklescan. Writes DETECTION.md.

    python benchmarks/detection.py

The callables are those of `tests/data/dangerous_callables.txt`, a list from public sources that was fixed before
detection was tuned. A hash of its name says to which half a callable belongs: detection was tuned while looking at the
first, and only the second says how good it is. Each callable makes two files, in spellings that its name chooses among
those of `tests/hostile_files.py`. No file is loaded.

picklescan is no dependency; `pip install picklescan`, or `pip install --target .picklescan picklescan`.
"""

from __future__ import annotations

import io
import logging
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent)]
sys.path.append(str(HERE.parent / ".picklescan"))

from anemoi_ckpt_migrate import inspect  # noqa: E402
from anemoi_ckpt_migrate.errors import MigrateError  # noqa: E402
from tests.harmless_files import make  # noqa: E402
from tests.hostile_files import archive, gadgets, pickled, spellings  # noqa: E402


def ours(path: Path) -> str:
    """Return what `inspect` says of a file: dangerous, refused, opaque or harmless."""
    try:
        found = inspect(path)
    except MigrateError:
        return "refused"
    standings = {name.standing for name in found.names}
    return next((each for each in ("dangerous", "opaque") if each in standings), "harmless")


def theirs() -> Callable[[Path], str] | None:
    """Return what asks picklescan the same; None if it is not installed."""
    try:
        from picklescan.scanner import scan_file_path
    except ImportError:
        return None
    logging.getLogger("picklescan").setLevel(logging.CRITICAL + 1)

    def ask(path: Path) -> str:
        with redirect_stderr(io.StringIO()):
            found = scan_file_path(str(path))
        return "dangerous" if found.issues_count else "refused" if found.scan_err else "harmless"

    return ask


def share(counted: Counter[str]) -> str:
    """Return how much of it is detected, as a cell of a table."""
    detected = counted["dangerous"] + counted["refused"]
    return f"{detected} of {counted.total()} ({detected / counted.total():.1%}; {counted['refused']} refused)"


def main() -> None:
    """Make the files, ask both, write the result."""
    scanners: dict[str, Callable[[Path], str] | None] = {"ckpt-migrate inspect": ours, "picklescan": theirs()}
    found = {name: {half: Counter[str]() for half in ("tune", "report", "benign")} for name in scanners}
    missed: dict[str, list[str]] = {"tune": [], "report": []}
    alarms: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for gadget in gadgets():
            for spelling in spellings(gadget):
                path = Path(folder) / "hostile.pt"
                path.write_bytes(archive(pickled(gadget, spelling)))
                for name, ask in scanners.items():
                    if ask is not None:
                        found[name][gadget.half][ask(path)] += 1
                if ours(path) not in ("dangerous", "refused"):
                    missed[gadget.half].append(f"{gadget.module}.{gadget.name} ({spelling})")
        benign = make(Path(folder))
        for path in benign:
            for name, ask in scanners.items():
                if ask is not None:
                    found[name]["benign"][ask(path)] += 1
            if ours(path) in ("dangerous", "refused"):
                alarms.append(path.stem)
    lines = ["# Hostile files, detected\n", "`python benchmarks/detection.py`; what is counted, and how, is said there.\n"]
    lines += ["| | half that was tuned on | half that was not | false alarms |", "|---|---|---|---|"]
    for name, halves in found.items():
        if scanners[name] is None:
            lines.append(f"| {name} | not installed | | |")
            continue
        wrong = halves["benign"]["dangerous"] + halves["benign"]["refused"]
        cells = f"{share(halves['tune'])} | {share(halves['report'])} | {wrong} of {halves['benign'].total()}"
        lines.append(f"| {name} | {cells} |")
    lines.append(f"\n{len(gadgets())} callables. Refused: the file is called damaged or hostile as a whole.\n")
    for half, names in missed.items():
        lines.append(f"Missed in the {half} half ({len(names)}): {', '.join(names) or 'none'}.\n")
    lines.append(f"False alarms of inspect: {', '.join(alarms) or 'none'}, among {', '.join(p.stem for p in benign)}.")
    (HERE / "DETECTION.md").write_text("\n".join(lines) + "\n")
    shown = [line for line in lines if not ("--quiet-report" in sys.argv and "Missed in the report" in line)]
    print("\n".join(shown))


if __name__ == "__main__":
    main()
