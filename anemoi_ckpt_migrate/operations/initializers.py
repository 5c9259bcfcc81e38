"""Initial values of parameters: functions of `torch.nn.init`, by name. This module does not import torch."""

from __future__ import annotations

from typing import Any

from anemoi_ckpt_migrate.errors import BadOperation

MEAN = "mean"
"""Name for the mean of the existing values, used for values added beside them."""

_ANY = range(65)
_DIMENSIONS = {
    "uniform_": _ANY,
    "normal_": _ANY,
    "trunc_normal_": _ANY,
    "constant_": _ANY,
    "ones_": _ANY,
    "zeros_": _ANY,
    "eye_": range(2, 3),
    "dirac_": range(3, 6),
    "xavier_uniform_": _ANY[2:],
    "xavier_normal_": _ANY[2:],
    "kaiming_uniform_": _ANY[2:],
    "kaiming_normal_": _ANY[2:],
    "orthogonal_": _ANY[2:],
    "sparse_": range(2, 3),
}
"""Functions of `torch.nn.init`, with the numbers of dimensions that they accept, from the documentation of torch."""

Initialiser = tuple[str, tuple[tuple[str, Any], ...]]
"""The name of a function and its keyword arguments."""


def initialiser(kind: str, init: Any, more: tuple[str, ...] = ()) -> Initialiser | None:
    """Read the argument `init`: a name, or a pair of a name and arguments.

    Parameters
    ----------
    kind : str
        The kind of operation, for messages.
    init : object
        The argument, or None.
    more : tuple of str
        Further names that this operation accepts, without arguments.

    Raises
    ------
    BadOperation
        The function does not exist.
    """
    if init is None:
        return None
    name, named = (init, {}) if isinstance(init, str) else init if _is_pair(init) else (None, {})
    if name not in _DIMENSIONS and not (name in more and not named):
        raise BadOperation(f"{kind}: init must be one of {', '.join((*more, *_DIMENSIONS))}, not {init!r:.60}")
    pairs = named.items() if isinstance(named, dict) else named
    return name, tuple(sorted((str(word), value) for word, value in pairs))


def fills(name: str, dimensions: int) -> bool:
    """Return whether a function can fill a tensor with this number of dimensions."""
    return name == MEAN or dimensions in _DIMENSIONS[name]


def _is_pair(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 2 and isinstance(value[1], (dict, tuple, list))
