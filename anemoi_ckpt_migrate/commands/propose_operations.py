"""Operations for a new script, from the differences between two checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from anemoi_ckpt_migrate.autogenerate.wording import together
from anemoi_ckpt_migrate.commands.diff_sides import Side, sides
from anemoi_ckpt_migrate.commands.remaining_differences import remainder
from anemoi_ckpt_migrate.errors import Refused, UsageError
from anemoi_ckpt_migrate.manifests.manifest_file import Snapshot
from anemoi_ckpt_migrate.op import Add, Pad
from anemoi_ckpt_migrate.util.dataclass import dataclass
from anemoi_ckpt_migrate.util.text import plain

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.autogenerate.explain import Explanation, ProposedOperation
    from anemoi_ckpt_migrate.manifests.drift import Drift
    from anemoi_ckpt_migrate.project.project import Project
    from anemoi_ckpt_migrate.storage.path_arguments import StrPath

_RELATED = 0.05  # of the elements; with fewer, the two have nothing in common to migrate
_SHOWN = 5
_CHECK = "certain: check it."
_ZEROS = "Adds zeros;"
LOSES = "Loses values:"
"""The beginning of the comment above an operation that loses values."""


@dataclass(frozen=True)
class Generated:
    """The content of a new script.

    Attributes
    ----------
    lines : tuple of str
        The operations as lines of the script, with comments where they are uncertain.
    count, uncertain : int
        The number of operations, and of uncertain ones among them.
    warnings : tuple of str
        Differences that no operation explains, and lost values.
    """

    lines: tuple[str, ...]
    count: int
    uncertain: int
    warnings: tuple[str, ...]


def generate(old: StrPath, new: StrPath, project: Project) -> Generated:
    """Write operations that turn the parameters of one checkpoint into those of another, or of a model.

    Raises
    ------
    UsageError
        There is no difference, or one of the two is not usable.
    Refused
        The two have too little in common.
    """
    with sides(old, new, project) as (one, other, explanation):
        return _generated(one, other, explanation, project.config.parameters)


def generate_of_models(drifts: Sequence[Drift], manifest: str) -> Generated:
    """Write operations that turn models of the manifest into the models of the code.

    Parameters
    ----------
    drifts : sequence of Drift
        The comparisons of the models with the manifest.
    manifest : str
        The path of the manifest, for messages.

    Raises
    ------
    UsageError
        There is no difference, or the expected state of a model is unknown.
    Refused
        A model has too little in common with its manifest, or models changed in different ways.
    """
    changed = [each for each in drifts if not each.as_expected]
    for each in changed:
        if each.explanation is None:
            raise UsageError(each.trouble)
    if not changed:
        names = ", ".join(each.name for each in drifts)
        raise UsageError(f"{names}: the code matches the manifest, so there is nothing to migrate")
    found = {}
    for each in changed:
        if isinstance(each.expected, Snapshot) and each.explanation is not None:
            one, other = Side(manifest, list(each.expected.items)), Side(each.name, list(each.built.items))
            found[each.name] = _generated(one, other, each.explanation, None)
    first, *others = found.values()
    if any(made.lines != first.lines for made in others):
        way = "make a revision for each with --model, each on its own branch"
        raise Refused(f"{' and '.join(found)} changed in different ways, so one script cannot migrate them all: {way}")
    return first


def count_unchecked(lines: Iterable[str]) -> int:
    """Return how many operations have a comment that asks the author to check them: guesses, and new zeros.

    Parameters
    ----------
    lines : iterable of str
        The lines of a script. An author who has checked an operation removes the comment above it.
    """
    count, asked = 0, False
    for line in map(str.strip, lines):
        is_comment = line.startswith("#")
        count += asked and not is_comment
        asked = is_comment and (asked or _CHECK in line or line.startswith(f"# {_ZEROS}"))
    return count


def _generated(one: Side, other: Side, explanation: Explanation, parameters: str | None) -> Generated:
    old, new = one.shown, other.shown
    if explanation.related < _RELATED:
        raise Refused(
            f"{new} has almost nothing in common with {old}: only {explanation.related:.0%} of its elements can "
            f"come from there; `ckpt-migrate diff` shows the comparison"
        )
    rest = remainder(one, other, [guess.operation for guess in explanation.operations], parameters)
    if not explanation.operations:
        raise UsageError(_same(old, new, explanation, rest))
    warnings = tuple(
        f"{plain(name)} of {side.shown} is not a dense tensor and was not compared"
        for side in (one, other)
        for name in side.left_out
    )[:_SHOWN]
    warnings += (*_loss(explanation, one.keeps), *rest)
    lines = _lines(explanation.operations, other.file is None, one.keeps)
    uncertain = sum(guess.confidence < 1 for guess in explanation.operations)
    return Generated(tuple(lines), len(explanation.operations), uncertain, warnings)


def _same(old: str, new: str, explanation: Explanation, rest: Sequence[str]) -> str:
    """Return the message that there is nothing to migrate, with differences that operations cannot make."""
    others = any(change.kind == "changed" for change in explanation.changes)
    only = ", but other values, which no operation explains" if others else ""
    same = f"{old} and {new} have the same parameters{only}"
    if not rest:
        return f"{same}: there is nothing to migrate"
    way = "`ckpt-migrate revision NAME` makes a script with functions, which can change that"
    return f"{same}; operations cannot make the other differences: {'; '.join(rest)}; {way}"


def _loss(explanation: Explanation, keeps: bool) -> tuple[str, ...]:
    """Return a warning that names the lost values and the author's choices; none if nothing is lost."""
    lost = ", ".join(together(explanation.losses))
    ways = "`rollback = None` below `operations` if that is intended"
    store = (
        "set keep=True to store them in the checkpoint, or" if keeps else "the checkpoint has no place for them; set"
    )
    ways = f"{store} {ways}"
    return (f"the script loses values: {lost}; {ways}; until then `check` fails",) if lost else ()


def _lines(guesses: Sequence[ProposedOperation], of_model: bool, keeps: bool) -> list[str]:
    """Return the operations as lines of a script; a comment stands above the first operation that it is about."""
    lines: list[str] = []
    said: set[str] = set()
    unsure = [guess.confidence < 1 for guess in guesses]
    begin = unsure.index(True) if unsure == sorted(unsure) and any(unsure) else 0
    for number, guess in enumerate(guesses):
        if number and number == begin:
            lines.append("# Guesses:")
        lines += _comments(guess, of_model, keeps, said)
        lines.append(f"op.{guess.operation.as_written()},")
    return lines


def _comments(guess: ProposedOperation, of_model: bool, keeps: bool, said: set[str]) -> list[str]:
    """Return the doubts about an operation, one in each line; add to `said` what the author has to read only once."""
    about = {
        plain(text): text.partition(": ")[2] or text for text in guess.alternatives
    }  # plain: names come from a file
    doubts = [text for text, remark in about.items() if remark not in said]
    said.update(about.values())
    if guess.confidence < 1:
        doubts = [f"{guess.confidence:.0%} {_CHECK} {''.join(doubts[:1])}".rstrip(), *doubts[1:]]
    if not guess.operation.reversible:
        store = f"set {guess.operation.remedy}, or" if keeps else "there is no place to keep them, so set"
        doubts.append(f"{LOSES} {store} `rollback = None` below the list.")
    advice = ""
    if isinstance(guess.operation, Pad):
        advice = f'{_ZEROS} use `fill` or `init` for other values: init="mean".'
    if isinstance(guess.operation, Add):
        unknown = "" if of_model else " A buffer needs buffer=True."  # a model shows which are buffers, a file does not
        advice = f"{_ZEROS} use `fill` or `init` for other values.{unknown}"
    if advice and advice not in said:
        said.add(advice)
        doubts.append(advice)
    return [f"# {text}" for text in doubts]
