"""The arithmetic of NAdam's counter, as `torch.optim.NAdam` does it. No torch."""

from __future__ import annotations

import functools
import struct


@functools.lru_cache(maxsize=256)
def momentum_product(step: float, beta: float, decay: float) -> float:
    """Return the product of the momenta of all steps up to one, in single precision.

    Parameters
    ----------
    step : float
        The step.
    beta : float
        The first of the two betas.
    decay : float
        The option ``momentum_decay``.

    Examples
    --------
    >>> momentum_product(0, 0.9, 0.004)
    1.0
    """
    product, number = 1.0, 1
    while number <= step and product:
        product = _single(product * _single(beta * (1.0 - 0.5 * (0.96 ** (number * decay)))))
        number += 1
        if number > _MOST:
            break
    return product


_MOST = 1_000_000  # with a beta of 1, the product never ends


def _single(number: float) -> float:
    found: float = struct.unpack("f", struct.pack("f", number))[0]
    return found
