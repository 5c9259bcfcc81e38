"""The arithmetic of NAdam's counter, as `torch.optim.NAdam` does it. No torch."""

from __future__ import annotations

import functools
import struct

_MOST = 100_000  # steps that are multiplied one by one; behind, the momentum hardly changes


def momentum_product(step: float, beta: float, decay: float) -> float:
    """Return the product of the momenta of all steps up to one, in single precision.

    Parameters
    ----------
    step : float
        The step.
    beta : float
        The first of the two betas, below 1.
    decay : float
        The option ``momentum_decay``.

    Examples
    --------
    >>> momentum_product(0, 0.9, 0.004)
    1.0
    """
    products = _products(beta, decay)
    last = len(products) - 1
    if step <= last:
        return products[max(0, int(step))]
    return _single(products[-1] * beta ** (step - last)) if products[-1] else 0.0


@functools.lru_cache(maxsize=16)
def _products(beta: float, decay: float) -> list[float]:
    """Return the product at each step, until it is 0."""
    found = [1.0]
    while found[-1] and len(found) <= _MOST:
        momentum = beta * (1.0 - 0.5 * (0.96 ** (len(found) * decay)))
        found.append(_single(found[-1] * _single(momentum)))
    return found


def _single(number: float) -> float:
    found: float = struct.unpack("f", struct.pack("f", number))[0]
    return found
