"""How many hostile files `inspect` tells from harmless ones, beside picklescan. Writes DETECTION.md.

    python benchmarks/detection.py

The callables are those of `tests/data/dangerous_callables.txt`, a list from public sources that was fixed before
detection was tuned. A hash of its name says to which half a callable belongs: detection was tuned while looking at the
first, and only the second says how good it is. Each callable makes two files, in spellings that its name chooses among
those of `tests/support/hostile_files.py`. No file is loaded.

picklescan is no dependency; `pip install picklescan`, or `pip install --target .picklescan picklescan`.
"""

from __future__ import annotations

import io
import logging
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent)]
sys.path.append(str(HERE.parent / ".picklescan"))

from anemoi_ckpt_migrate import inspect  # noqa: E402
from anemoi_ckpt_migrate.errors import MigrateError  # noqa: E402
from tests.support.harmless_files import make  # noqa: E402
from tests.support.hostile_files import archive, gadgets, pickled, spellings  # noqa: E402

HEAD = """# Hostile files, detected

`python benchmarks/detection.py` says what is counted, and how. Refused: called damaged or hostile as a whole.

| | half that was tuned on | half that was not | false alarms |
|---|---|---|---|"""
BLIND = """\
Before detection was tuned, with the rule for Python, torch and numpy and a short list of other libraries, `inspect`
found 300 of 314 and 330 of 344; the libraries that the tuned half showed made that 314 and 333. Others of their kind
were added after that, so the figures above no longer say how much of other libraries is missed."""


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


def hostile(folder: Path) -> Iterator[tuple[str, str, Path]]:
    """Make the hostile files one by one: the half, what it is, and where."""
    path = folder / "hostile.pt"
    for gadget in gadgets():
        for spelling in spellings(gadget):
            path.write_bytes(archive(pickled(gadget, spelling)))
            yield gadget.half, f"{gadget.module}.{gadget.name} ({spelling})", path


def measure(ask: Callable[[Path], str], folder: Path, benign: list[Path]) -> tuple[str, dict[str, list[str]]]:
    """Return a row of the table, and what was told wrongly."""
    counted = {half: Counter[str]() for half in ("tune", "report", "benign")}
    wrong: dict[str, list[str]] = {half: [] for half in counted}
    for half, what, path in hostile(folder):
        found = ask(path)
        counted[half][found] += 1
        if found not in ("dangerous", "refused"):
            wrong[half].append(what)
    for path in benign:
        if ask(path) in ("dangerous", "refused"):
            wrong["benign"].append(path.stem)
    cells = [share(counted["tune"]), share(counted["report"]), f"{len(wrong['benign'])} of {len(benign)}"]
    return " | ".join(cells), wrong


def main() -> None:
    """Make the files, ask both, write the result."""
    lines = [HEAD]
    with tempfile.TemporaryDirectory() as folder:
        benign = make(Path(folder))
        row, wrong = measure(ours, Path(folder), benign)
        lines.append(f"| ckpt-migrate inspect | {row} |")
        other = theirs()
        row = "not installed | | " if other is None else measure(other, Path(folder), benign)[0]
        lines.append(f"| picklescan | {row} |")
    count = sum(1 for gadget in gadgets())
    lines.append(f"\n{count} callables. {BLIND}\n")
    for half, names in wrong.items():
        lines.append(f"`inspect`, told wrongly in {half} ({len(names)}): {', '.join(names) or 'none'}.\n")
    lines.append(f"The harmless files: {', '.join(path.stem for path in benign)}.")
    text = "\n".join(lines) + "\n"
    (HERE / "DETECTION.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
