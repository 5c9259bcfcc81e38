"""Operations for a new script, from the difference between two checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from anemoi_ckpt_migrate import recorder
from anemoi_ckpt_migrate.commands.arguments import StrPath
from anemoi_ckpt_migrate.commands.drifting import Drift
from anemoi_ckpt_migrate.commands.parameters import items_of
from anemoi_ckpt_migrate.commands.project import Project
from anemoi_ckpt_migrate.commands.sides import Side, sides
from anemoi_ckpt_migrate.differences.explaining import Explanation, Guess
from anemoi_ckpt_migrate.differences.misfits import misfit
from anemoi_ckpt_migrate.errors import Refused, UsageError
from anemoi_ckpt_migrate.manifests import Snapshot
from anemoi_ckpt_migrate.op import Add
from anemoi_ckpt_migrate.operations.places import find_main
from anemoi_ckpt_migrate.operations.tensors import Tensors
from anemoi_ckpt_migrate.operations.world import World
from anemoi_ckpt_migrate.plain import plain

_RELATED = 0.05  # of the elements: below that, there is nothing to migrate
_SHOWN = 5


@dataclass(frozen=True)
class Generated:
    """What a new script is to hold.

    Attributes
    ----------
    lines : tuple of str
        The operations as they stand in the script, with comments about what is not certain.
    count, uncertain : int
        How many operations these are, and how many of them are not certain.
    warnings : tuple of str
        What could not be explained.
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
        There is no difference, or one of the two cannot be read.
    Refused
        They have nothing to do with each other.
    """
    with sides(old, new, project) as (one, other, explanation):
        return _generated(one, other, explanation, project.config.parameters)


def generate_of_models(drifts: Sequence[Drift], manifest: str) -> Generated:
    """Write operations that turn what the manifest says of models into what these are.

    Parameters
    ----------
    drifts : sequence of Drift
        The models, compared.
    manifest : str
        The file, for messages.

    Raises
    ------
    UsageError
        There is no difference, or it is not known what models are to be.
    Refused
        They have nothing to do with each other, or models changed in different ways.
    """
    changed = [each for each in drifts if not each.as_expected]
    for each in changed:
        if each.explanation is None:
            raise UsageError(each.trouble)
    if not changed:
        names = ", ".join(each.name for each in drifts)
        raise UsageError(f"{names}: what the manifest says is what the code makes, so there is nothing to migrate")
    found = {}
    for each in changed:
        if isinstance(each.expected, Snapshot) and each.explanation is not None:
            one, other = Side(manifest, list(each.expected.items)), Side(each.name, list(each.built.items))
            found[each.name] = _generated(one, other, each.explanation, None)
    first, *others = found.values()
    if any(made.lines != first.lines for made in others):
        way = "make a revision for each, with --model, on a branch of its own"
        raise Refused(f"{' and '.join(found)} changed in different ways, and one script cannot do for all: {way}")
    return first


def _generated(one: Side, other: Side, explanation: Explanation, parameters: str | None) -> Generated:
    old, new = one.shown, other.shown
    if explanation.related < _RELATED:
        raise Refused(
            f"{new} has next to nothing to do with {old}: only {explanation.related:.0%} of its elements can come "
            f"from there; `ckpt-migrate diff` shows what was compared"
        )
    if not explanation.operations:
        others = any(change.kind == "changed" for change in explanation.changes)
        only = ", and only other values, which no operation explains" if others else ""
        raise UsageError(f"{old} and {new} have the same parameters{only}: there is nothing to migrate")
    warnings = tuple(
        f"{plain(name)} of {side.shown} is no dense tensor, so nothing is said of it"
        for side in (one, other)
        for name in side.left_out
    )[:_SHOWN]
    warnings += _unexplained(one, other, explanation, parameters)
    lines = [line for guess in explanation.operations for line in _lines(guess, other.file is None)]
    uncertain = sum(guess.confidence < 1 for guess in explanation.operations)
    return Generated(tuple(lines), len(explanation.operations), uncertain, warnings)


def _lines(guess: Guess, of_model: bool) -> list[str]:
    comments = []
    if guess.confidence < 1:
        comments.append(f"# {guess.confidence:.0%} certain: look at it.")
    comments += [f"# {plain(text)}" for text in guess.alternatives]  # names come from a file
    if not guess.operation.reversible:
        comments.append("# There is no way back from this; with keep=True there is.")
    if isinstance(guess.operation, Add):
        unknown = "" if of_model else " A buffer needs buffer=True."  # which a model tells, and a file does not
        comments.append(f"# Filled with zeros; `fill` or `init` says what else.{unknown}")
    return [*comments, f"op.{guess.operation!r},"]


def _unexplained(one: Side, other: Side, explanation: Explanation, path: str | None) -> tuple[str, ...]:
    """Apply the operations to the old checkpoint as `upgrade` would, and say what is not as in the new one."""
    if one.file is None:
        return ()
    file = one.file
    tree, _ = recorder.unrecorded(file)
    tensors = Tensors(file.maker, file.same)
    world = World(tree, tensors, {}, path)
    operations = [guess.operation for guess in explanation.operations if guess.operation.on_parameters]
    world.apply("", operations, "<the new script>", _none, _none)
    world.close()
    if world.faults:
        return tuple(f"on {file.path} the script still needs a hand: {fault}" for fault in world.faults[:_SHOWN])
    place = find_main(world.tree, path)
    if isinstance(place, str):
        return (place,)
    own = items_of(place.table(), tensors)[0]
    return tuple(f"not explained: {what}" for what in misfit(own, other.items).sentences())[:_SHOWN]


def _none(name: str, tree: Any) -> Any:
    raise NotImplementedError(name)  # no function is ever guessed
