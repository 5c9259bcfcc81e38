"""The optimizers of torch that can be changed into each other: their options and their state, as data.

A rename imports no torch, so the defaults are written down; a test compares them with the classes of torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from anemoi_ckpt_migrate.storage.tensors.nadam import momentum_product
from anemoi_ckpt_migrate.storage.tensors.refs import is_a, is_real, is_stored
from anemoi_ckpt_migrate.storage.tensors.shape_rules import Mismatch

_ADAM = {
    "lr": 1e-3,
    "betas": (0.9, 0.999),
    "eps": 1e-8,
    "weight_decay": 0,
    "amsgrad": False,
    "maximize": False,
    "foreach": None,
    "capturable": False,
    "differentiable": False,
    "fused": None,
    "decoupled_weight_decay": False,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "Adam": _ADAM,
    "AdamW": _ADAM | {"weight_decay": 1e-2, "decoupled_weight_decay": True},
    "NAdam": {
        "lr": 2e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0,
        "momentum_decay": 4e-3,
        "decoupled_weight_decay": False,
        "maximize": False,
        "foreach": None,
        "capturable": False,
        "differentiable": False,
    },
    "RAdam": {
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0,
        "maximize": False,
        "foreach": None,
        "capturable": False,
        "decoupled_weight_decay": False,
        "differentiable": False,
    },
    "SGD": {
        "lr": 1e-3,
        "momentum": 0,
        "dampening": 0,
        "weight_decay": 0,
        "nesterov": False,
        "maximize": False,
        "foreach": None,
        "differentiable": False,
        "fused": None,
    },
}
"""The options of each class, with their defaults."""

BY_SCHEDULERS = ("initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum", "swa_lr")
"""Options that torch's schedulers keep in the groups."""

_MOMENTS = frozenset({"step", "exp_avg", "exp_avg_sq"})
_STATE = {
    "Adam": _MOMENTS | {"max_exp_avg_sq"},
    "NAdam": _MOMENTS | {"mu_product"},
    "RAdam": _MOMENTS,
    "SGD": frozenset({"momentum_buffer"}),
}
_OTHERS = {
    "beta2_decay": "Adafactor",
    "row_var": "Adafactor",
    "exp_avg_sq_row": "Adafactor",
    "scale_parameter": "Adafactor",
    "exp_inf": "Adamax",
    "rho": "Adadelta",
    "alpha": "RMSprop",
    "lr_decay": "Adagrad",
    "etas": "Rprop",
}
_REASONS = {"Adafactor": "it has only the sums of rows and columns of the second moments"}


def refusal(name: str) -> str:
    """Return why an optimizer cannot be changed, or be the result of a change."""
    known = ", ".join(DEFAULTS)
    return f"only {known} can be changed into each other" + (f": {_REASONS[name]}" if name in _REASONS else "")


def class_of(path: str, groups: Iterable[Mapping[Any, Any]], states: Iterable[Mapping[Any, Any] | None]) -> str:
    """Return the class of an optimizer by its options and its state; ``Adam`` stands for AdamW too.

    Parameters
    ----------
    path : str
        The path of the optimizer, for messages.
    groups : iterable of mapping
        The options of its groups.
    states : iterable of mapping or None
        The state of each parameter.

    Raises
    ------
    Mismatch
        It is none of these that can be changed into each other.
    """
    options = {key for group in groups for key in group}
    keys = {key for state in states for key in state or () if (state or {})[key] is not None}
    other = next((name for key, name in _OTHERS.items() if key in options | keys), None)
    if other is not None:
        raise Mismatch(f"the optimizer at {path} seems to be {other}, and {refusal(other)}")
    found = "" if not keys else "?"
    if {"betas", "eps", "momentum_decay"} <= options:
        found = "NAdam"
    elif {"betas", "eps", "amsgrad"} <= options:
        found = "Adam"
    elif {"betas", "eps", "foreach"} <= options and ("decoupled_weight_decay" in options or keys):
        found = "RAdam"
    elif {"momentum", "dampening", "nesterov"} <= options:
        found = "SGD"
    strange = sorted(map(str, keys - _STATE.get(found, frozenset())))
    if found not in _STATE or strange:
        has = f" (it has {strange[0]} for each parameter)" if strange else ""
        raise Mismatch(f"the class of the optimizer at {path} is unknown{has}, and {refusal('')}")
    return found


def new_options(to: str, source: str, old: Mapping[Any, Any], given: Mapping[str, Any]) -> dict[Any, Any]:
    """Return the options of a group of another class: carried over where both have them, else the defaults.

    Parameters
    ----------
    to, source : str
        The new class and the old one.
    old : mapping
        The options of the group.
    given : mapping
        The options that a script gives.
    """
    family = {"AdamW": "Adam"}.get(to, to)
    found: dict[Any, Any] = {}
    for key, default in DEFAULTS[to].items():
        # Whether the decay is decoupled tells Adam and AdamW apart.
        own = key == "decoupled_weight_decay" and (family == "Adam" or source == "Adam")
        found[key] = old[key] if key in old and not own else default
    gone = DEFAULTS[source].keys()
    return found | {key: value for key, value in old.items() if key not in found and key not in gone} | dict(given)


def carried(to: str, options: Mapping[Any, Any]) -> frozenset[str]:
    """Return the state that a class keeps for each parameter, with these options of its group."""
    keys = _STATE[{"AdamW": "Adam"}.get(to, to)]
    gone = {"max_exp_avg_sq"} if not options.get("amsgrad") else set()
    return frozenset() if to == "SGD" and not options["momentum"] else keys - gone


Make = Callable[[str, tuple[Any, ...], list[Any]], Any]
"""Makes a tensor: a recipe, its arguments, its sources."""


def added(
    to: str, options: Mapping[Any, Any], state: Mapping[Any, Any], make: Make, like: Callable[[Any], Any]
) -> dict[str, Any]:
    """Return the entries that a class needs beside those that are carried over.

    Parameters
    ----------
    to : str
        The class.
    options : mapping
        The options of the group.
    state : mapping
        The entries that are carried over; none if the parameter starts anew.
    make : callable
        Makes a tensor.
    like : callable
        Returns a tensor of zeros like another.
    """
    if not state:
        return {}
    if to == "NAdam" and "mu_product" not in state:
        return {"mu_product": mu_product(state["step"], options, make)}
    if to in ("Adam", "AdamW") and options["amsgrad"] and "max_exp_avg_sq" not in state:
        return {"max_exp_avg_sq": like(state["exp_avg_sq"])}
    return {}


def mu_product(step: Any, options: Mapping[Any, Any], make: Make) -> Any:
    """Return the product of NAdam's momenta up to a step.

    Raises
    ------
    Mismatch
        It cannot be computed from these options.
    """
    beta, decay = options["betas"][0], options["momentum_decay"]
    if not all(type(number) in (int, float) for number in (beta, decay)) or not (0 <= beta < 1 and 0 <= decay < 1e6):
        raise Mismatch(f"mu_product of NAdam cannot be computed from {beta!r:.20} and {decay!r:.20}")
    if is_stored(step) or is_real(step):
        return make("mu_product", (float(beta), float(decay)), [step])
    if not is_a(step, (int, float)):
        raise Mismatch(f"its step is a {type(step).__name__}, not a number")
    return momentum_product(step, float(beta), float(decay))
