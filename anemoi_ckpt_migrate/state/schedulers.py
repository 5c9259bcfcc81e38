"""The saved states of learning rate schedulers: dicts with lists that have one entry for each group of an optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from anemoi_ckpt_migrate.state.find_parameters import dicts_of
from anemoi_ckpt_migrate.storage.tensors.refs import is_a
from anemoi_ckpt_migrate.storage.tensors.shape_rules import Mismatch

LAST, BASE = "_last_lr", "base_lrs"
_ENDINGS = ("lrs", "_lr", "lambdas", "momentums")  # names of lists by group, in torch's schedulers


class Scheduler(NamedTuple):
    """The saved state of a scheduler.

    Attributes
    ----------
    path : str
        Its path in the tree.
    content : dict
        The state.
    """

    path: str
    content: dict[Any, Any]

    def lists(self) -> dict[str, list[Any]]:
        """Return its lists by group."""
        found = {key: value for key, value in self.content.items() if is_a(value, (list, tuple)) and is_a(key, str)}
        return {key: list(value) for key, value in found.items() if key.endswith(_ENDINGS)}


def is_scheduler(value: Any) -> bool:
    """Return whether a value of a tree is the saved state of a scheduler: it lists learning rates by group."""
    return is_a(value, dict) and any(is_a(value.get(key), (list, tuple)) for key in (LAST, BASE))


def find_schedulers(tree: Any) -> list[Scheduler]:
    """Find all schedulers in a tree; those inside others, as `SequentialLR` has them, are schedulers too."""
    return [Scheduler(path, value) for path, value in dicts_of(tree).items() if path and is_scheduler(value)]


def schedulers_of(
    tree: Any,
    optimizers: Sequence[tuple[str, Sequence[Mapping[Any, Any]]]],
    number: int,
    chosen: Sequence[str] | None,
    same: Callable[[Any, Any], bool],
    strict: bool = True,
) -> list[Scheduler]:
    """Return the schedulers of an optimizer.

    Parameters
    ----------
    tree : object
        The checkpoint.
    optimizers : sequence of (str, sequence of mapping)
        The path and the groups of each optimizer.
    number : int
        The index of the optimizer.
    chosen : sequence of str, optional
        The paths of the schedulers; without it, those that have the learning rates of this optimizer only.
    same : callable
        Returns whether two values are the same.
    strict : bool
        Whether each chosen path must exist.

    Raises
    ------
    Mismatch
        A scheduler may belong to more than one optimizer, does not fit its groups, or does not exist.
    """
    every = find_schedulers(tree)
    roots = [each for each in every if not any(each.path.startswith(f"{other.path}.") for other in every)]
    if chosen is not None:
        lost = [path for path in chosen if path not in {each.path for each in roots}]
        if lost and strict:
            raise Mismatch(f"there is no scheduler at {lost[0]}")
        own = [each for each in roots if each.path in chosen]
    else:
        own = [each for each in roots if _belongs(each, optimizers, number, same)]
    found = [each for each in every if any(f"{each.path}.".startswith(f"{root.path}.") for root in own)]
    path, groups = optimizers[number]
    for each in found:
        for key, values in each.lists().items():
            if len(values) != len(groups):
                raise Mismatch(
                    f"the scheduler at {each.path} has {len(values)} {key} for {len(groups)} groups of the optimizer "
                    f"at {path}, so it cannot follow; choose others with schedulers=[...]"
                )
    return found


def _belongs(
    scheduler: Scheduler,
    optimizers: Sequence[tuple[str, Sequence[Mapping[Any, Any]]]],
    number: int,
    same: Callable[[Any, Any], bool],
) -> bool:
    if len(optimizers) == 1:
        return True
    lists = scheduler.lists()
    key, option = (LAST, "lr") if LAST in lists else (BASE, "initial_lr")
    fits = []
    for index, (_, groups) in enumerate(optimizers):
        rates = [group.get(option) for group in groups]
        if len(rates) == len(lists[key]) and all(map(same, rates, lists[key])):
            fits.append(index)
    if number not in fits and fits:
        return False
    if fits == [number]:
        return True
    one, other = [optimizers[index][0] for index in (fits or range(len(optimizers)))][:2]
    raise Mismatch(
        f"the scheduler at {scheduler.path} may belong to the optimizer at {one} or to that at {other}; "
        "name those of this one with schedulers=[...]"
    )
