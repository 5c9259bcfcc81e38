"""The formats of a saved optimizer state: that of ``Optimizer.state_dict()``, and the flattened one.

A flattened state has one key for each entry of a parameter. It is converted to the usual format and back.
`torch.distributed.checkpoint.state_dict` makes it if ``flatten_optimizer_state_dict`` is set: ``state.NAME.exp_avg``,
``param_groups.NAME.lr``. It has no groups; parameters with the same settings count as one group.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from anemoi_ckpt_migrate.storage.tensors.refs import is_a

_STATE, _GROUPS, _NAMES = "state.", "param_groups.", "param_names"


def is_optimizer(value: Any) -> bool:
    """Return whether a value of a tree is a saved optimizer state, flattened or not."""
    if is_flattened(value):
        return True
    if not is_a(value, dict) or not is_a(value.get("state"), dict):
        return False
    groups = value.get("param_groups")
    if not is_a(groups, list) or not all(is_a(group, dict) and is_a(group.get("params"), list) for group in groups):
        return False
    return not any(is_a(each, (list, dict, set)) for group in groups for each in group["params"])


def is_flattened(value: Any) -> bool:
    """Return whether a value of a tree is a flattened optimizer state."""
    if not is_a(value, dict) or not all(is_a(key, str) and key.startswith((_STATE, _GROUPS)) for key in value):
        return False
    return any(_setting(key) is not None for key in value)


def unflattened(content: Mapping[str, Any], same: Callable[[Any, Any], bool]) -> dict[str, Any]:
    """Return the state in the form of an optimizer that lists its parameters by name.

    Parameters
    ----------
    content : mapping
        The flattened state. Keys that belong to no parameter with settings are left out.
    same : callable
        Returns whether two settings are the same.
    """
    settings: dict[str, dict[str, Any]] = {}
    for key, value in content.items():
        found = _setting(key)
        if found is not None:
            settings.setdefault(found[0], {})[found[1]] = value
    groups: list[dict[str, Any]] = []
    for name, own in settings.items():
        alike = groups_like(groups, own, same)
        if not alike:
            groups.append({**own, "params": []})
        groups[alike[0] if alike else -1]["params"].append(name)
    state: dict[str, dict[str, Any]] = {}
    for key, value in content.items():
        if (place := _place(key, settings)) is not None:
            state.setdefault(place[0], {})[place[1]] = value
    return {"state": state, "param_groups": groups}


def flattened(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state in flattened form."""
    found = {f"{_STATE}{name}.{key}": value for name, own in content["state"].items() for key, value in own.items()}
    for group in content["param_groups"]:
        for name in group["params"]:
            found |= {f"{_GROUPS}{name}.{key}": value for key, value in settings_of(group).items()}
    return found


def strays(content: Mapping[str, Any]) -> list[str]:
    """Return the keys that belong to no parameter with settings."""
    names = {found[0] for key in content if (found := _setting(key)) is not None}
    return [key for key in content if _setting(key) is None and _place(key, names) is None]


def groups_like(
    groups: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], same: Callable[[Any, Any], bool]
) -> list[int]:
    """Return the numbers of the groups that have these settings."""
    owns = map(settings_of, groups)
    return [
        number
        for number, own in enumerate(owns)
        if own.keys() == settings.keys() and all(same(own[key], settings[key]) for key in own)
    ]


def nameless(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return a group with an empty ``param_names``, because names come and go."""
    return {key: [] if key == _NAMES else value for key, value in group.items()}


def settings_of(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a group."""
    return {key: value for key, value in group.items() if key != "params"}


def _setting(key: str) -> tuple[str, str] | None:
    """Return the parameter and the setting that a key names; None if it names no setting."""
    name, _, word = key.removeprefix(_GROUPS).rpartition(".")
    return (name, word) if key.startswith(_GROUPS) and name and word else None


def _place(key: str, names: Collection[str]) -> tuple[str, str] | None:
    """Return the parameter and the state entry that a key names; None if it names none of these parameters."""
    if not key.startswith(_STATE):
        return None
    rest = key.removeprefix(_STATE)
    end = rest.rfind(".")
    while end > 0:
        if rest[:end] in names:
            return rest[:end], rest[end + 1 :]
        end = rest.rfind(".", 0, end)
    return None
