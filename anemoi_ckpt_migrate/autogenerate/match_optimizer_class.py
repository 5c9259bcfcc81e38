"""Tell whether an optimizer became one of another class, and the operation for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from anemoi_ckpt_migrate.autogenerate.match_items import is_settable
from anemoi_ckpt_migrate.autogenerate.optimizer_views import OptimizerView
from anemoi_ckpt_migrate.op import ChangeOptimizer
from anemoi_ckpt_migrate.state import optimizer_classes as classes
from anemoi_ckpt_migrate.storage.tensors.refs import is_a
from anemoi_ckpt_migrate.storage.tensors.shape_rules import Mismatch
from anemoi_ckpt_migrate.util.dataclass import dataclass

RATES = ("lr", "initial_lr")
_DECOUPLED = "decoupled_weight_decay"


@dataclass(frozen=True)
class ClassChange:
    """How an optimizer changes its class.

    Attributes
    ----------
    operation : ChangeOptimizer or None
        The operation; None if the class stays.
    groups : tuple of dict
        The options of the old groups afterwards.
    source, to : str
        The classes.
    """

    operation: ChangeOptimizer | None
    groups: tuple[dict[Any, Any], ...]
    source: str = ""
    to: str = ""

    @property
    def shown(self) -> str:
        """The change in words."""
        if self.source != self.to:
            return f"{self.source} -> {self.to}"
        given = {} if self.operation is None else self.operation.defaults or {}
        return f"{self.to} with {', '.join(f'{name}={value!r:.40}' for name, value in given.items())}"


def class_change(
    mine: OptimizerView, its: OptimizerView, number: int, schedulers: tuple[str, ...] | None
) -> ClassChange | None:
    """Return how an optimizer takes the class of another one.

    Parameters
    ----------
    mine, its : OptimizerView
        The old optimizer and the new one.
    number : int
        Its index.
    schedulers : tuple of str or None
        The paths of its schedulers; None to find them.

    Returns
    -------
    ClassChange or None
        None if nothing tells the class, or if no operation makes it.
    """
    stays = ClassChange(None, mine.groups)
    families = [_family(view) for view in (mine, its)]
    if not all(families):
        return stays if _looks_alike(mine, its) else None
    source, to = (_exact(view, family) for view, family in zip((mine, its), families, strict=True))
    same = families[0] == families[1]
    if same and (not source or not to):
        return stays  # nothing tells Adam and AdamW apart
    if not to:
        return None
    if source == to and _carried(to, mine.groups) == _carried(to, its.groups):
        return stays
    made = [classes.new_options(to, families[0], group, {}) for group in mine.groups]
    starts_fresh = (families[0] == "SGD") is not (families[1] == "SGD")
    given = _given(to, made, its.groups, rates(mine.groups, its.groups) if starts_fresh else "")
    operation = ChangeOptimizer(
        to, given or None, number, schedulers if RATES[0] in given or RATES[1] in given else None
    )
    return ClassChange(operation, tuple(group | given for group in made), source or families[0], to)


def rates(*every: Sequence[Mapping[Any, Any]]) -> str:
    """Return the option by which learning rates are compared: the initial one, if all groups have one."""
    return RATES[1] if all(RATES[1] in group for groups in every for group in groups) else RATES[0]


def spelled(value: Any) -> str:
    """Return the spelling of an option that equal values share."""
    return repr(tuple(value)) if is_a(value, list) else repr(value)


def is_option(name: str, value: Any) -> bool:
    """Return whether a script can give a value for an option; learning rates may be tensors."""
    return is_settable(value) and (name not in RATES or type(value) in (int, float))


def _family(view: OptimizerView) -> str:
    try:
        return classes.class_of("", view.groups, view.states)
    except Mismatch:
        return ""


def _exact(view: OptimizerView, family: str) -> str:
    """Return the class, with Adam and AdamW told apart; empty if nothing tells them apart."""
    if family != "Adam":
        return family
    flags = [group.get(_DECOUPLED) for group in view.groups]
    return "AdamW" if all(flag is True for flag in flags) else "Adam" if all(flag is False for flag in flags) else ""


def _looks_alike(mine: OptimizerView, its: OptimizerView) -> bool:
    """Return whether two optimizers of unknown classes may be of the same: the same options, the same state."""
    options = [{key for group in view.groups for key in group} - {*classes.BY_SCHEDULERS} for view in (mine, its)]
    alike = len(options[0] & options[1]) > len(options[0] ^ options[1])
    return alike and (not mine.keys or not its.keys or mine.keys == its.keys)


def _carried(to: str, groups: Sequence[Mapping[Any, Any]]) -> set[frozenset[str]]:
    return {classes.carried(to, {"momentum": 0, **group}) for group in groups}


def _given(
    to: str, made: Sequence[Mapping[Any, Any]], wanted: Sequence[Mapping[Any, Any]], rate: str
) -> dict[str, Any]:
    """Return the options to give: those that all new groups share, and that the class would not have by itself."""
    found = {}
    for name in [*(name for name in classes.DEFAULTS[to] if name != RATES[0]), *([rate] if rate else [])]:
        values = [group[name] for group in wanted if name in group]
        if len(values) < len(wanted) or len(set(map(spelled, values))) != 1 or not is_option(name, values[0]):
            continue
        if any(name not in group or spelled(group[name]) != spelled(values[0]) for group in made):
            found[name] = values[0]
    return found
