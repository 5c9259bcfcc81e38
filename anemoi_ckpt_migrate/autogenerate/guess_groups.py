"""Guess the parameters of an optimizer whose names neither the file nor shapes tell: the usual ways to make groups."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, pairwise

from anemoi_ckpt_migrate.autogenerate.name_similarity import parts_of
from anemoi_ckpt_migrate.autogenerate.optimizer_views import Names, OptimizerView, Parameters

_SURE = 0.8
_MOST = 50  # modules that are tried, for speed
_NORMS = ("norm", "ln", "bn", "batchnorm", "layernorm", "rmsnorm", "groupnorm")


def guess_groups(view: OptimizerView, mine: Sequence[str], model: Parameters) -> tuple[Names, float, str] | None:
    """Return the parameters of each group, how likely they are, and another possibility in words.

    Parameters
    ----------
    view : OptimizerView
        The optimizer.
    mine : sequence of str
        The parameters that the old optimizer has, in order.
    model : Parameters
        The parameters of the model.

    Returns
    -------
    tuple or None
        None if no usual way gives groups of these sizes and shapes.
    """
    sizes = [len(own) for own in view.moments]
    mine = [name for name in mine if name in model.shapes]
    for choices in ([list(mine)], [list(model.shapes)], list(_parts(list(model.shapes), model))):
        every = [found for names in choices if len(names) == sum(sizes) for found in _usual(names, sizes, model)]
        fit = list(dict.fromkeys(found for found in every if _fits(found, view, model)))
        if fit:
            one, *others = [{name: number for number, own in enumerate(each) for name in own} for each in fit]
            moved = [name for name, number in one.items() if any(other.get(name) != number for other in others)]
            return (
                fit[0],
                round(_SURE / len(fit), 2),
                f"{moved[0]} may be in another group, or in none" if moved else "",
            )
    return None


def _parts(names: list[str], model: Parameters) -> Iterator[list[str]]:
    """Yield the parameters that people train alone: parts of the model, or all but a part."""
    for test in _tests(names, model):
        yield [name for name in names if test(name)]
        yield [name for name in names if not test(name)]


def _usual(names: Sequence[str], sizes: Sequence[int], model: Parameters) -> Iterator[Names]:
    """Yield the groups that people make: decay and no decay, and parts of the model, in either order."""
    if len(sizes) == 1:
        yield (tuple(names),)
        return
    if len(sizes) == 2:
        for test in _tests(names, model):
            parts = tuple(name for name in names if test(name)), tuple(name for name in names if not test(name))
            yield parts[1], parts[0]
            yield parts
    bounds = [0, *accumulate(sizes)]
    yield tuple(tuple(names[begin:end]) for begin, end in pairwise(bounds))
    bounds = [0, *accumulate(reversed(sizes))]
    yield tuple(tuple(names[begin:end]) for begin, end in pairwise(bounds))[::-1]


def _tests(names: Sequence[str], model: Parameters) -> Iterator[Callable[[str], bool]]:
    yield lambda name: name.endswith("bias")
    yield lambda name: name.endswith("bias") or _is_of_norm(name)
    yield lambda name: len(model.shapes[name]) < 2
    yield lambda name: name.endswith("bias") or _is_of_norm(name) or "embed" in name.lower()
    for count in (1, 2):
        leads = dict.fromkeys(_module(name, count) for name in names)
        for lead in leads if len(leads) <= _MOST else ():
            if lead:
                yield lambda name, lead=lead, count=count: _module(name, count) == lead  # type: ignore[misc]


def _module(name: str, count: int) -> tuple[str, ...]:
    return tuple(parts_of(name)[:-1][:count])


def _is_of_norm(name: str) -> bool:
    """Return whether a name is that of a parameter of a normalisation, as names of modules tell."""
    parts = [part.lower().strip("_0123456789") for part in parts_of(name)[:-1]]
    return any(part in _NORMS or part.endswith("norm") or part.startswith("norm") for part in parts)


def _fits(found: Names, view: OptimizerView, model: Parameters) -> bool:
    """Return whether groups have the sizes and the shapes of the moments."""
    if [len(own) for own in found] != [len(own) for own in view.moments] or not all(found):
        return False
    pairs = [pair for own in zip(found, view.moments, strict=True) for pair in zip(*own, strict=True)]
    return all(shape is None or model.shapes.get(name) == shape for name, shape in pairs)
