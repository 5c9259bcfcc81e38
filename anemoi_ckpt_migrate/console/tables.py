"""Tables on the terminal, and as aligned text elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from anemoi_ckpt_migrate.console.output import printing
from anemoi_ckpt_migrate.util.text import plain

if TYPE_CHECKING:
    from rich.console import Console

_WIDE = 1 << 20  # cells of a line that no terminal shows


class Column(NamedTuple):
    """A column of a table: its title, and whether it holds numbers, which stand at the right."""

    title: str
    numbers: bool = False


def stdout_console() -> Console:
    """Return rich's view of the standard output: as wide as the terminal; elsewhere, no line is folded."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False, emoji=False, markup=False)


def counts(others: Mapping[str, int]) -> list[str]:
    """Return numbers of checkpoints by their status, in words."""
    return [f"{number:,} {status}" for status, number in sorted(others.items())]


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> None:
    """Print a table. On a terminal, long lines are folded; elsewhere each row is one line."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(column.title, justify="right" if column.numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(plain(cell)) for cell in row))
    if table.row_count:
        with printing():
            stdout_console().print(table)
