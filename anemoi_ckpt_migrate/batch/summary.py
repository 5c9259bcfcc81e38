"""Add up the results of a run, line by line, so that a hundred thousand take no more memory than ten."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from anemoi_ckpt_migrate.batch.job import FAILED, INTERRUPTED, MOVED, REFUSED, STATUSES, UNRELATED
from anemoi_ckpt_migrate.batch.report_lines import CHECKPOINT
from anemoi_ckpt_migrate.errors import ERROR, USAGE, Refused
from anemoi_ckpt_migrate.util.dataclass import dataclass
from anemoi_ckpt_migrate.util.lazy_regex import lazy_regex

UNREACHED = "unreached"
"""The status of a checkpoint that a run found, and for which it wrote no result: it was killed before."""
KINDS = (*STATUSES, UNREACHED)
_MOST = 200  # groups of a kind; further ones are added up as one
_LONGEST = 900  # letters of a message
# A text in quotes, or a word with its numbers: 1,000 is one.
_PART = lazy_regex(r"""(?<!\w)'[^']*'(?!\w)|"[^"]*"|`[^`]*`|[^\s(),;:]+(?:,\d[^\s(),;:]*)*""")
# The parts that differ from file to file: texts in quotes, paths, dotted names, ids and numbers.
_CHANGES = lazy_regex(r"""(['"`]).*\1$|.*?(\d|/|\w\.\w)""", re.DOTALL)
_LISTED = lazy_regex(r"(…[^,;:()]{0,200})(?:, \1)+")
_MORE = lazy_regex(r"(?:,| and|, and) … more")


@dataclass
class Move:
    """Checkpoints that went from the same revisions to the same revisions.

    Attributes
    ----------
    start, end : tuple of str or None
        The heads before and after; None if the command does not tell.
    count : int
        How many they are.
    """

    start: tuple[str, ...] | None
    end: tuple[str, ...] | None
    count: int = 0

    def to_data(self) -> dict[str, Any]:
        """Return the data that ``--json`` prints."""
        start, end = (None if heads is None else list(heads) for heads in (self.start, self.end))
        return {"from": start, "to": end, "count": self.count}


@dataclass
class Reason:
    """Checkpoints about which a run had the same to say.

    Attributes
    ----------
    status : str
        Their status; empty for a warning.
    type : str
        The class of the error; empty for a warning.
    reason : str
        The sentence, with ``…`` where it differs between them.
    example, message : str
        One of them, and the sentence about it.
    count : int
        How many they are.
    """

    status: str
    type: str
    reason: str
    example: str
    message: str
    count: int = 0


class Summary:
    """The sum of the results of a run, or of several.

    Attributes
    ----------
    command : str or None
        The command, which gives the words; None if there were several.
    counts : dict
        How many checkpoints have each status of `KINDS`.
    planned : int
        How many of these were only planned, with ``--dry-run``.
    size : int
        Bytes of all checkpoints, except of those that are unrelated.
    seconds : float
        How long the work on them took, added up.
    elapsed : float or None
        How long the run took, if that is known.

    Examples
    --------
    >>> summary = Summary("upgrade")
    >>> for result in migrate_all(["a.ckpt", "b.ckpt"]):
    ...     summary.add(result_line(result))
    """

    def __init__(self, command: str | None = None) -> None:
        self.command = command
        self.counts = dict.fromkeys(KINDS, 0)
        self.planned = 0
        self.size = 0
        self.seconds = 0.0
        self.elapsed: float | None = None
        self._moves: dict[Any, Move] = {}
        self._reasons: dict[Any, Reason] = {}
        self._warnings: dict[Any, Reason] = {}
        self._misused = False

    @property
    def moves(self) -> list[Move]:
        """Where the checkpoints that moved went, the most first."""
        return sorted(self._moves.values(), key=lambda move: -move.count)

    @property
    def reasons(self) -> list[Reason]:
        """Why others did not move, by status, the most first."""
        return sorted(self._reasons.values(), key=lambda reason: (KINDS.index(reason.status), -reason.count))

    @property
    def warnings(self) -> list[Reason]:
        """The warnings, the most first."""
        return sorted(self._warnings.values(), key=lambda warning: -warning.count)

    @property
    def total(self) -> int:
        """The number of checkpoints."""
        return sum(self.counts.values())

    @property
    def exit_code(self) -> int:
        """The exit code of a run with these results: that of the most serious one."""
        if any(self.counts[status] for status in (FAILED, INTERRUPTED, UNREACHED)):
            return ERROR
        if self._misused:
            return USAGE
        return Refused.exit_code if self.counts[REFUSED] else 0

    def add(self, line: Mapping[str, Any]) -> None:
        """Add the result for a checkpoint.

        Parameters
        ----------
        line : mapping
            The line of a report, as `result_line` and `read_lines` return it.
        """
        status, checkpoint, error = line["status"], line[CHECKPOINT], line["error"]
        self.counts[status] += 1
        self.size += 0 if status == UNRELATED else line["size"]
        self.seconds += line["seconds"]
        if status == MOVED:
            self.planned += line["dry_run"]
            self._move(line).count += 1
        if error is not None:
            self._count(self._reasons, status, error["type"], error["message"], checkpoint)
            self._misused |= status == REFUSED and error["exit_code"] == USAGE
        for warning in line["warnings"]:
            self._count(self._warnings, "", "", warning, checkpoint)

    def add_unreached(self, checkpoint: str) -> None:
        """Add a checkpoint that a run found and never reached."""
        self.counts[UNREACHED] += 1
        why = "the run ended before it reached this checkpoint"
        self._count(self._reasons, UNREACHED, "", why, checkpoint)

    def to_data(self) -> dict[str, Any]:
        """Return the data that ``--json`` prints."""
        warnings = self.warnings
        return {
            "command": self.command,
            "checkpoints": self.total,
            **self.counts,
            "planned": self.planned,
            "moves": [move.to_data() for move in self.moves],
            "reasons": [vars(reason) for reason in self.reasons],
            "warnings": [{"warning": each.message, "example": each.example, "count": each.count} for each in warnings],
            "bytes": self.size,
            "seconds": round(self.seconds, 3),
            "elapsed": None if self.elapsed is None else round(self.elapsed, 3),
        }

    def _move(self, line: Mapping[str, Any]) -> Move:
        start, end = (None if line[key] is None else tuple(line[key]) for key in ("from", "to"))
        if (start, end) not in self._moves and len(self._moves) >= _MOST:
            start = end = None
        return self._moves.setdefault((start, end), Move(start, end))

    def _count(self, groups: dict[Any, Reason], status: str, kind: str, message: str, checkpoint: str) -> None:
        reason = mask(message, checkpoint)
        if (status, kind, reason) not in groups and len(groups) >= _MOST:
            kind, reason = "", "…"
        new = Reason(status, kind, reason, checkpoint, message[:_LONGEST])
        groups.setdefault((status, kind, reason), new).count += 1


def mask(message: str, checkpoint: str = "") -> str:
    """Return a sentence with ``…`` in place of the parts that differ from file to file.

    Parameters
    ----------
    message : str
        The sentence.
    checkpoint : str
        A path that it may name.

    Examples
    --------
    >>> mask("the key 'x.weight' is missing at a1")
    'the key … is missing at …'
    """
    text = _without(message[:_LONGEST], checkpoint) if checkpoint else message[:_LONGEST]
    masked = _PART.sub(lambda part: "…" if _CHANGES.match(part[0]) else part[0], text)
    return _MORE.sub("", _LISTED.sub(r"\1", masked))


def _without(text: str, name: str) -> str:
    """Return a text with ``…`` in place of a name, except inside of words."""
    first, *others = text.split(name)
    for piece in others:
        is_inside = first[-1:].isalnum() or piece[:1].isalnum()
        first += (name if is_inside else "…") + piece
    return first
