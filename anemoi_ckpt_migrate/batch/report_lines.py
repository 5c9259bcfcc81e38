"""The lines of a report: a header for each run, the paths that the run found, and the result for each checkpoint."""

from __future__ import annotations

import datetime
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from anemoi_ckpt_migrate._version import __version__
from anemoi_ckpt_migrate.batch.job import STATUSES, JobResult
from anemoi_ckpt_migrate.errors import CannotRead, DamagedReport, NotAReport

REPORT, FOUND, FOUND_ALL, CHECKPOINT = "ckpt-migrate report", "found", "found_all", "checkpoint"
"""The key that tells the kind of a line: a header, paths, the number of all paths, a result."""
FORMAT = 1
"""The value of `REPORT` in a header."""
MARK = f'{{"{REPORT}": '.encode()
"""The first bytes of a report."""
_DIGITS = 3  # of seconds: milliseconds


def header_line(header: Mapping[str, Any]) -> dict[str, Any]:
    """Return the first line of a run.

    Parameters
    ----------
    header : mapping
        What the run does: ``command``, ``target``, ``given`` (the choice of checkpoints) and ``part``, K and N.
    """
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="microseconds")
    facts = {"version": __version__, "time": now, "folder": os.getcwd()}
    return {REPORT: FORMAT, **facts, "command": None, "target": None, "given": None, "part": None, **header}


def result_line(result: JobResult) -> dict[str, Any]:
    """Return the line of a checkpoint, which is also the data that a `Summary` adds up."""
    found, error = result.result, result.error
    heads = {key: getattr(found, name, None) for key, name in (("from", "start"), ("to", "end"))}
    return {
        CHECKPOINT: result.checkpoint,
        "status": result.status,
        **{key: None if ids is None else list(ids) for key, ids in heads.items()},
        "steps": [step.revision for step in getattr(found, "steps", ())],
        "written": getattr(found, "written", None),
        "backup": getattr(found, "backup", None),
        "dry_run": bool(getattr(found, "dry_run", False)),
        "warnings": list(getattr(found, "warnings", ())),
        "error": None if error is None else {**error.to_data(), "exit_code": error.exit_code},
        "size": result.size,
        "seconds": round(result.seconds, _DIGITS),
    }


def read_lines(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the lines of a report, each after its kind. A last line that was not written to its end is left out.

    Parameters
    ----------
    path : str
        The report.

    Raises
    ------
    NotAReport
        The file is no report, or one of a newer version.
    DamagedReport
        A line is damaged.
    CannotRead
        The file cannot be read.

    Examples
    --------
    >>> for kind, line in read_lines("report.jsonl"):
    ...     if kind == CHECKPOINT:
    ...         print(line["checkpoint"], line["status"])
    """
    try:
        with Path(path).open("rb") as stream:
            if stream.peek(len(MARK))[: len(MARK)] != MARK:
                raise NotAReport("it is no report; give files that --report wrote").about(path)
            for number, line in enumerate(stream, 1):
                if line.endswith(b"\n"):
                    yield _parsed(line, path, number)
    except OSError as error:
        raise CannotRead(f"the report cannot be read ({_reason(error)})").about(path) from error


def check_format(header: Any, path: str) -> None:
    """Refuse the header of a report that a newer version wrote.

    Raises
    ------
    NotAReport
        This version cannot read the report.
    """
    if isinstance(header, int) and header > FORMAT:
        newer = f"it is a report of format {header:.6g}, this version reads {FORMAT}: upgrade ckpt-migrate"
        raise NotAReport(newer).about(path)


def _parsed(line: bytes, path: str, number: int) -> tuple[str, dict[str, Any]]:
    """Return a line after its kind."""
    try:
        data = json.loads(line)
        kind = next((kind for kind in _FIELDS if kind in data), None)
        if kind == REPORT:
            check_format(data[REPORT], path)
        if kind is not None and all(fits(data[name]) for name, fits in _FIELDS[kind].items()):
            return kind, data
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DamagedReport(number).about(path) from error
    raise DamagedReport(number).about(path)


def _reason(error: OSError) -> str:
    return os.strerror(error.errno or 0).lower()


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and b"\0" not in os.fsencode(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_text_or_none(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and value >= 0


def _is_duration(value: Any) -> bool:
    return isinstance(value, (int, float)) and 0 <= value < math.inf


def _is_list(value: Any, fits: Callable[[Any], bool] = _is_text) -> bool:
    return isinstance(value, list) and all(map(fits, value))


def _is_time(value: Any) -> bool:
    return datetime.datetime.fromisoformat(value).tzinfo is not None


def _is_part(value: Any) -> bool:
    return value is None or (_is_list(value, _is_count) and len(value) == 2 and 1 <= value[0] <= value[1])


def _is_error(value: Any) -> bool:
    return value is None or (_is_text(value["type"]) and _is_text(value["message"]) and _is_count(value["exit_code"]))


# The kinds of lines, and what their fields hold. Other fields may be there.
_FIELDS: dict[str, dict[str, Callable[[Any], bool]]] = {
    REPORT: {
        REPORT: _is_count,
        "time": _is_time,
        "folder": _is_path,
        "command": _is_text_or_none,
        "target": _is_text_or_none,
        "part": _is_part,
    },
    CHECKPOINT: {
        CHECKPOINT: _is_path,
        "status": STATUSES.__contains__,
        "from": lambda value: value is None or _is_list(value),
        "to": lambda value: value is None or _is_list(value),
        "dry_run": lambda value: isinstance(value, bool),
        "warnings": _is_list,
        "error": _is_error,
        "size": _is_count,
        "seconds": _is_duration,
        "after": _is_duration,
    },
    FOUND: {FOUND: lambda value: _is_list(value, _is_path)},
    FOUND_ALL: {FOUND_ALL: _is_count},
}
