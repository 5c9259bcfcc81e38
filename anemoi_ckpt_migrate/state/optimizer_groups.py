"""The options of an optimizer's groups, and the entries of schedulers for them, as columns that are regrouped.

A column has all that belongs to one group. A key is a path and a name: an empty path for an option of the group, else
the path of a scheduler, whose list of that name has an entry for each group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from anemoi_ckpt_migrate.state.schedulers import BASE, LAST, Scheduler
from anemoi_ckpt_migrate.storage.tensors.shape_rules import Mismatch
from anemoi_ckpt_migrate.tree.optimizer_formats import nameless

Key = tuple[str, Any]
Column = dict[Key, Any]
Same = Callable[[Any, Any], bool]

_LR, _INITIAL = ("", "lr"), ("", "initial_lr")
_LIMITS = ("max_lr", "min_lr", "max_lrs")  # a schedule runs between these, whatever the learning rate is now
_RATES = ("lr", "initial_lr", LAST, BASE)


def columns_of(groups: Sequence[Mapping[Any, Any]], schedulers: Iterable[Scheduler]) -> list[Column]:
    """Return a column for each group."""
    found: list[Column] = []
    for group in groups:
        found.append({("", key): [] if key == "params" else value for key, value in nameless(group).items()})
    for each in schedulers:
        for key, values in each.lists().items():
            for column, value in zip(found, values, strict=True):
                column[each.path, key] = value
    return found


def group_of(column: Column) -> dict[Any, Any]:
    """Return the group of a column, without parameters."""
    return {name: [] if name == "params" else value for (path, name), value in column.items() if not path}


def write_lists(schedulers: Iterable[Scheduler], columns: Sequence[Column]) -> None:
    """Write the lists of schedulers. Schedulers inside another may share a list, and go on to share it."""
    old = [(each, key, each.content[key]) for each in schedulers for key in each.lists()]
    made: dict[tuple[int, str], Any] = {}
    for each, key, before in old:
        values = [column[each.path, key] for column in columns]
        if len(values) != len(before) or any(new is not one for new, one in zip(values, before, strict=True)):
            each.content[key] = made.setdefault((id(before), key), type(before)(values))


def regrouped(
    columns: Sequence[Column], sources: Sequence[Sequence[int]], given: Sequence[Mapping[str, Any]], same: Same
) -> list[Column]:
    """Return the columns of new groups.

    Parameters
    ----------
    columns : sequence of dict
        Those of the old groups.
    sources : sequence of sequence of int
        For each new group, the old groups of its parameters; it takes after the first.
    given : sequence of mapping
        For each new group, the options that a script gives.
    same : callable
        Returns whether two values are the same.

    Raises
    ------
    Mismatch
        Old groups differ in something that is not given, or a schedule cannot follow.
    """
    found = []
    for own, options in zip(sources, given, strict=True):
        first = own[0] if own else 0
        names = {*options, *(_RATES if {"lr", "initial_lr"} & options.keys() else ())}
        _check_alike(columns, own, names, same)
        found.append(with_options(columns[first], options))
    return found


def _check_alike(columns: Sequence[Column], own: Sequence[int], spared: Iterable[Any], same: Same) -> None:
    """Refuse old groups that differ, apart from some keys."""
    for other in own[1:]:
        one, two = columns[own[0]], columns[other]
        for key in (*one, *(key for key in two if key not in one)):
            path, name = key
            if key in spared or name in spared or _alike(_held(one, key), _held(two, key), same):
                continue
            groups = f"groups {own[0]} and {other}"
            if path:
                raise Mismatch(f"the scheduler at {path} differs in {name} between {groups}, so it cannot follow")
            values = " and ".join(repr(each[0]) if each else "none" for each in (_held(one, key), _held(two, key)))
            raise Mismatch(f"{groups} of the optimizer differ in {name} ({values:.80}); choose one with options=[...]")


def with_options(column: Column, options: Mapping[str, Any]) -> Column:
    """Return a column with other options: the learning rate and the initial one, and schedules, follow each other.

    Raises
    ------
    Mismatch
        They cannot follow.
    """
    new = column | {("", name): value for name, value in options.items()}
    if not {"lr", "initial_lr"} & options.keys():
        return new
    for path, name in column:
        if name in _LIMITS and name not in options:
            where = f"the scheduler at {path} has" if path else "a scheduler keeps"
            way = "change it with op.SetItem" if path else f"give {name} in options too"
            raise Mismatch(f"{where} {name}, which does not follow from the learning rate; {way}")
    if _INITIAL in column and "initial_lr" not in options:
        new[_INITIAL] = _scaled(column[_INITIAL], options["lr"], column[_LR])
    elif _INITIAL in column and "lr" not in options:
        new[_LR] = _scaled(column[_LR], options["initial_lr"], column[_INITIAL])
    for path, name in column:
        if path and name in (LAST, BASE):
            new[path, name] = new[_INITIAL] if name == BASE and _INITIAL in new else new[_LR]
    return new


def _scaled(value: Any, new: Any, old: Any) -> Any:
    numbers = all(type(each) in (int, float) for each in (value, new, old))
    if numbers and new == old:
        return value
    if not numbers or not old:
        raise Mismatch(f"a schedule cannot follow from {old!r:.40} to {new!r:.40}; give both lr and initial_lr")
    return value * (new / old)


Difference = list[Any]
"""Path, name, and lists of one or no value: the old one, and the new one that was found in its place."""


def differences(
    old: Sequence[Column], new: Sequence[Column], sources: Sequence[Sequence[int]], same: Same
) -> list[Any] | None:
    """Return what the way back needs to know; None if the rules of `regrouped` lead back.

    Parameters
    ----------
    old, new : sequence of dict
        The columns before and after.
    sources : sequence of sequence of int
        For each old group, the new groups of its parameters.
    same : callable
        Returns whether two values are the same.

    Returns
    -------
    list or None
        For each old group, its keys in order, and a list of `Difference`.
    """
    found = []
    for column, own in zip(old, sources, strict=True):
        every = [new[number] for number in own or (0,)]
        told: list[Difference] = []
        for key in {**column, **{key: None for each in every for key in each}}:
            values = [_held(column, key), *(_held(each, key) for each in every)]
            if any(not _alike(values[0], other, same) for other in values[1:]):
                told.append([*key, values[0], values[1]])
        found.append([[list(key) for key in column], told])
    return found if any(told for _, told in found) else None


def restored(
    columns: Sequence[Column], sources: Sequence[Sequence[int]], told: Sequence[Any], same: Same, discard: bool
) -> list[Column]:
    """Return the columns of the old groups, as far as training has not changed them since.

    Parameters
    ----------
    columns : sequence of dict
        The columns now.
    sources : sequence of sequence of int
        For each old group, the groups of its parameters now.
    told : sequence
        The result of `differences`.
    same : callable
        Returns whether two values are the same.
    discard : bool
        Whether changes made since may be discarded.

    Raises
    ------
    Mismatch
        An option has changed since, and nothing says how it was to go on.
    """
    found = []
    for own, (keys, own_told) in zip(sources, told, strict=True):
        noted = {(path, name): (old, new) for path, name, old, new in own_told}
        if not discard:
            _check_alike(columns, own, noted, same)
        column = dict(columns[own[0] if own else 0])
        for key, (old, new) in noted.items():
            if key[0] and key not in column and new:
                continue  # the scheduler is gone
            value = _taken_back(key, _held(column, key), old, new, same, discard)
            column.pop(key, None)
            if value:
                column[key] = value[0]
        order = [(path, name) for path, name in keys]
        found.append({key: column[key] for key in (*(key for key in order if key in column), *column)})
    return found


def _taken_back(key: Key, now: list[Any], old: list[Any], new: list[Any], same: Same, discard: bool) -> list[Any]:
    if _alike(now, new, same):
        return old
    if _alike(old, new, same):
        return now
    numbers = all(type(value) in (int, float) for each in (now, old, new) for value in each)
    if key[1] in _RATES and now and old and new and numbers and new[0]:
        return [_scaled(old[0], now[0], new[0])]  # the schedule has gone on
    if discard:
        return old
    raise Mismatch(f"{key[1]} of the optimizer's groups has changed since; --discard-changes takes the old value back")


def _held(column: Column, key: Key) -> list[Any]:
    return [column[key]] if key in column else []


def _alike(one: Sequence[Any], other: Sequence[Any], same: Same) -> bool:
    return len(one) == len(other) and all(map(same, one, other))
