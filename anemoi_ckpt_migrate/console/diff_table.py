"""Output of `diff`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anemoi_ckpt_migrate.autogenerate.wording import together
from anemoi_ckpt_migrate.console.output import print_json, say, warn

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.commands.diff import Diff
    from anemoi_ckpt_migrate.console.diff_folding import Line


def print_diff(found: Diff, as_json: bool, everything: bool = False) -> None:
    """Print the folded changes, and operations that make them."""
    lost = ", ".join(together(found.explanation.losses))
    warn([f"the operations would lose values of {found.old}: {lost}"] if lost else [])
    if as_json:
        print_json(found.to_data())
        return
    from anemoi_ckpt_migrate.console.diff_folding import folded

    lines = folded(found.changes)
    shown = [line for line in lines if everything or line.kind != "same"]
    rows = [(line.kind, _names(line), _rest(line)) for line in shown]
    widths = [max((len(row[column]) for row in rows), default=0) for column in (0, 1)]
    for kind, names, rest in rows:
        say(f"{kind:{widths[0]}}  {names:{widths[1]}}  {rest}".rstrip())
    same = sum(line.many for line in lines if line.kind == "same")
    if same and not everything:
        say(f"{'same':{widths[0]}}  {same} parameters (--all lists them)")
    _print_items(found)
    if not found.contents:
        say("compared by names, shapes, dtypes and order, because a model has no values to compare")
    if found.left_out:
        say(f"not compared, because they are not dense tensors: {', '.join(found.left_out)}")
    for sentence in found.rest:
        say(sentence)
    if found.explanation.operations:
        say("")
        say("as operations (`ckpt-migrate revision NAME --autogenerate` writes them into a script):")
        for guess in found.explanation.operations:
            sure = "" if guess.confidence == 1 else f"    # {guess.confidence:.0%} certain"
            say(f"    op.{guess.operation.as_written()}{sure}")


def _print_items(found: Diff) -> None:
    """Print the changes beside the parameters."""
    items = found.explanation.items
    width = max((len(change.kind) for change in items), default=0)
    for change in items:
        names = " -> ".join(dict.fromkeys(filter(None, (change.old, change.new))))
        sure = "" if change.confidence == 1 else f"{change.confidence:.0%} certain"
        say(f"{change.kind:{width}}  {'  '.join(filter(None, (names, change.detail, sure)))}")


def _names(line: Line) -> str:
    if line.old == line.new or not line.new:
        return line.old
    return line.new if not line.old else f"{line.old} -> {line.new}"


def _rest(line: Line) -> str:
    words = [line.detail] if line.detail else []
    if line.many > 1:
        words.append(f"{line.many} times")
    if line.confidence < 1:
        words.append(f"{line.confidence:.0%} certain")
    if line.alternatives:
        words.append(f"or {', '.join(line.alternatives[:3])}")
    return "; ".join(words)
