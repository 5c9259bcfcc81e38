"""Outputs of a model: nested dicts, lists and tuples of tensors and numbers, and their comparison."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from anemoi_ckpt_migrate.storage.tensors.torch_library import torch

TOLERANCES = {
    "float16": (1e-5, 1e-3),
    "bfloat16": (1e-5, 1.6e-2),
    "float32": (1e-5, 1.3e-6),
    "float64": (1e-7, 1e-7),
    "complex32": (1e-5, 1e-3),
    "complex64": (1e-5, 1.3e-6),
    "complex128": (1e-7, 1e-7),
}
"""By dtype, the absolute and the relative tolerance, those of `torch.testing.assert_close`. Other dtypes have none."""

_NUMBERS = (
    (bool, torch.bool),
    (int, torch.int64),
    (float, torch.float64),
    (complex, torch.complex128),
)

_DEEPEST = 100

Key = tuple[Any, ...]
"""The path of a value: keys of dicts, and indices of lists as a tuple of one number."""
Leaves = Mapping[Key, Any]
"""The values of outputs by their paths: a tensor on the CPU, None, or the kind of an empty container."""


class BadOutputs(Exception):
    """A function returned something else than outputs; the message continues "it returns"."""


class Comparison(NamedTuple):
    """The comparison of two outputs with the same names, shapes and dtypes.

    Attributes
    ----------
    tolerance : dict of str to pair of float
        By dtype, the absolute and the relative tolerance.
    largest, relative : float
        The largest difference of two values, and the largest in relation to an expected value that is not 0.
    where : str
        The value that differs most; empty if none does.
    wrong, total : int
        The number of values that differ by more than the tolerance, and of all values.
    values : pair of str
        The expected value there, and the one found.
    """

    tolerance: dict[str, tuple[float, float]]
    largest: float
    relative: float
    where: str
    wrong: int
    total: int
    values: tuple[str, str]


def leaves_of(outputs: Any) -> dict[Key, Any]:
    """Return copies of the values in outputs.

    Raises
    ------
    BadOutputs
        They hold something else than tensors, numbers, None and containers of them, or no value at all.
    """
    found = dict(_walk(outputs, ()))
    if not any(isinstance(value, torch.Tensor) for value in found.values()):
        what = "None" if outputs is None else f"a {type(outputs).__name__} without a tensor or a number in it"
        raise BadOutputs(f"{what}; let it return tensors or numbers, or dicts, lists and tuples of them")
    return found


def plain_of(outputs: Any) -> Any:
    """Return outputs as plain dicts and lists of tensors on the CPU, numbers included, to store them."""
    if isinstance(outputs, Mapping):
        return {key: plain_of(value) for key, value in outputs.items()}
    if isinstance(outputs, (list, tuple)):
        return [plain_of(value) for value in outputs]
    return None if outputs is None else _tensor(outputs, ())


def structure_difference(expected: Leaves, found: Leaves) -> str:
    """Return how the names, shapes or dtypes of two outputs differ; empty if they do not."""
    for key, value in expected.items():
        if key not in found:
            return f"{shown(key)} is missing"
        differs = _form(value) != _form(found[key])
        if differs:
            return f"{shown(key)} is {_form(found[key])} instead of {_form(value)}"
    extra = next((key for key in found if key not in expected), None)
    return "" if extra is None else f"{shown(extra)} is left over"


def compared(expected: Leaves, found: Leaves, tolerance: float | None) -> Comparison:
    """Compare outputs that have the same names, shapes and dtypes. NaN equals NaN.

    Parameters
    ----------
    expected, found : Leaves
        The outputs.
    tolerance : float, optional
        The absolute and relative tolerance for floating point and complex values; by default, `TOLERANCES`.
    """
    used: dict[str, tuple[float, float]] = {}
    largest = relative = excess = 0.0
    where, values = "", ("", "")
    wrong = total = 0
    for key, value in expected.items():
        if not isinstance(value, torch.Tensor):
            continue
        dtype = str(value.dtype).removeprefix("torch.")
        floating = value.dtype.is_floating_point or value.dtype.is_complex
        given = TOLERANCES.get(dtype, (0.0, 0.0)) if tolerance is None else (tolerance, tolerance)
        used[dtype] = given if floating else (0.0, 0.0)
        total += value.numel()
        one = _difference(value, found[key], *used[dtype])
        wrong += one.wrong
        largest, relative = max(largest, one.largest), max(relative, one.relative)
        if one.excess > excess or (not where and one.largest > 0):
            excess, where = one.excess, shown(key) + one.place
            values = _text(value, one.flat), _text(found[key], one.flat)
    return Comparison(used, largest, relative, where, wrong, total, values)


def shown(key: Key) -> str:
    """Return the text of a path, such as ``hidden[0].scale``."""
    text = ""
    for step in key:
        text += f"[{step[0]}]" if isinstance(step, tuple) else f".{step}" if text else str(step)
    return text or "the output"


class _One(NamedTuple):
    """The comparison of two tensors: their largest differences, and the element that exceeds the tolerance most."""

    wrong: int
    largest: float
    relative: float
    excess: float
    flat: int
    place: str


def _difference(expected: Any, found: Any, absolute: float, relative: float) -> _One:
    if not expected.numel():
        return _One(0, 0.0, 0.0, 0.0, 0, "")
    wide = torch.complex128 if expected.dtype.is_complex else torch.float64
    exact = not (expected.dtype.is_floating_point or expected.dtype.is_complex)
    one, other = expected.reshape(-1), found.reshape(-1)
    if exact and not expected.dtype.is_signed:
        one, other = one.to(torch.int64), other.to(torch.int64)  # torch compares few unsigned numbers
    wide_one, wide_other = one.to(wide), other.to(wide)
    same = (one == other) if exact else (wide_one == wide_other) | (wide_one.isnan() & wide_other.isnan())
    away = (wide_other - wide_one).abs().nan_to_num(nan=math.inf, posinf=math.inf)
    away = torch.where(same, torch.zeros_like(away), away)
    scale = wide_one.abs().nan_to_num(nan=0.0, posinf=0.0)
    excess = torch.where(same, torch.zeros_like(away), away / (absolute + relative * scale))
    wrong = ~same & ~(excess <= 1.0)
    ratio = torch.where(scale > 0, away / scale, torch.zeros_like(away))
    flat = int(excess.argmax()) if bool((excess > 0).any()) else int(away.argmax())
    place = _place(flat, expected.shape)
    return _One(int(wrong.sum()), float(away.max()), float(ratio.max()), float(excess[flat]), flat, place)


def _place(flat: int, shape: Sequence[int]) -> str:
    """Return the index of an element by its number, such as ``[0, 3]``."""
    place = []
    for size in reversed(shape):
        flat, last = divmod(flat, size)
        place.append(last)
    return f"[{', '.join(map(str, reversed(place)))}]" if place else ""


def _text(tensor: Any, flat: int) -> str:
    value = tensor.reshape(-1)[flat].item()
    return f"{value:.7g}" if isinstance(value, float) else str(value)


def _walk(value: Any, key: Key) -> Iterator[tuple[Key, Any]]:
    if len(key) > _DEEPEST:
        raise BadOutputs(f"outputs that are nested more than {_DEEPEST} deep")
    if isinstance(value, Mapping):
        for name, each in value.items():
            if not isinstance(name, (str, int)):
                raise BadOutputs(f"a dict with the key {name!r:.40}; keys are strings or numbers")
            yield from _walk(each, (*key, name))
    elif isinstance(value, (list, tuple)):
        for number, each in enumerate(value):
            yield from _walk(each, (*key, (number,)))
    else:
        yield key, None if value is None else _tensor(value, key)
        return
    if not value:
        yield key, "an empty dict" if isinstance(value, Mapping) else "an empty list"


def _tensor(value: Any, key: Key) -> Any:
    """Return a copy of a tensor, an array or a number as a dense tensor on the CPU."""
    try:
        found = _dense(value)
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        why = str(error).strip().partition("\n")[0]
        raise BadOutputs(f"a {type(value).__name__} at {shown(key)} that cannot be compared ({why})") from error
    if found is None:
        raise BadOutputs(f"a {type(value).__name__} at {shown(key)}, which is no tensor and no number")
    return found


def _dense(value: Any) -> Any:
    """Return the copy; None if the value is no tensor, array or number."""
    if isinstance(value, torch.Tensor):
        if value.is_meta:
            raise ValueError("it has no values, because it is on the device `meta`")
        value = value.detach()
        value = value.dequantize() if value.is_quantized else value
        value = value if value.layout == torch.strided else value.to_dense()
        return torch.empty(value.shape, dtype=value.dtype).copy_(value)
    if hasattr(value, "__array__"):
        return torch.as_tensor(value).clone()
    for kind, dtype in _NUMBERS:
        if isinstance(value, kind):
            return torch.tensor(value, dtype=dtype)
    return None


def _form(value: Any) -> str:
    """Return the shape and the dtype of a value as text."""
    if not isinstance(value, torch.Tensor):
        return "None" if value is None else str(value)
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
