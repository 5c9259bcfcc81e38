"""The options of a comparison of outputs, and its result. Needs no torch."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.errors import UsageError
from anemoi_ckpt_migrate.project.config import FACTORY
from anemoi_ckpt_migrate.util.dataclass import dataclass

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.storage.path_arguments import StrPath

Function = str | Callable[..., Any]
"""A function that computes outputs from a checkpoint, or its place as ``package.module:function``."""


@dataclass(frozen=True)
class OutputOptions:
    """A comparison of the outputs before and after an upgrade.

    Attributes
    ----------
    function : str or callable
        Computes the outputs.
    tolerance : float or None
        The absolute and relative tolerance; None for that of each dtype.
    expected : str or None
        A file of recorded outputs to compare with; None for those of the checkpoint before the upgrade.
    """

    function: Function
    tolerance: float | None = None
    expected: str | None = None

    @property
    def name(self) -> str:
        """The function as ``package.module:function``."""
        if isinstance(self.function, str):
            return self.function
        kind = self.function if hasattr(self.function, "__qualname__") else type(self.function)
        return f"{kind.__module__}:{kind.__qualname__}"


@dataclass(frozen=True)
class OutputProof:
    """Outputs before and after an upgrade that are equal within the tolerance.

    Attributes
    ----------
    checkpoint : str
        The file.
    function : str
        The function that computed them.
    start, end : tuple of str
        The heads of the checkpoint before and after.
    against : str
        ``before``: outputs of the checkpoint before the upgrade; ``file``: recorded outputs.
    tolerance : mapping of str to pair of float
        By dtype, the absolute and the relative tolerance.
    largest, relative : float
        The largest difference of two values, and the largest in relation to an expected value that is not 0.
    where : str
        The value that differs most; empty if none does.
    count : int
        The number of values.
    """

    checkpoint: str
    function: str
    start: tuple[str, ...]
    end: tuple[str, ...]
    against: str
    tolerance: Mapping[str, tuple[float, float]]
    largest: float
    relative: float
    where: str
    count: int

    @property
    def facts(self) -> dict[str, Any]:
        """The facts for the log of the record, as plain data."""
        return {
            "function": self.function,
            "against": self.against,
            "tolerance": {dtype: list(pair) for dtype, pair in self.tolerance.items()},
            "largest": self.largest,
            "relative": self.relative,
            "where": self.where,
            "count": self.count,
        }

    @property
    def sentence(self) -> str:
        """The result in words."""
        other = "as recorded" if self.against == "file" else "as before"
        most = f"they differ by at most {self.largest:.3g} (relative {self.relative:.3g}), most of all at {self.where}"
        found = most if self.where else "no difference"
        return f"outputs of {self.function} {other}: {found}; tolerance {shown_tolerance(self.tolerance)}"


@dataclass(frozen=True)
class RecordedOutputs:
    """Outputs that were recorded in a file.

    Attributes
    ----------
    checkpoint, function : str
        The checkpoint, and the function that computed them.
    heads : tuple of str
        The heads of the checkpoint.
    file : str
        The file.
    count : int
        The number of values.
    """

    checkpoint: str
    function: str
    heads: tuple[str, ...]
    file: str
    count: int


def output_options(
    function: Function | None, tolerance: float | None = None, expected: StrPath | None = None
) -> OutputOptions | None:
    """Return the options of a comparison of outputs; None without a function.

    Raises
    ------
    UsageError
        They make no sense.
    """
    if function is None:
        if tolerance is not None or expected is not None:
            name = "--tolerance" if tolerance is not None else "--expect-outputs"
            raise UsageError(f"{name} needs --outputs, the function that computes the outputs")
        return None
    if isinstance(function, str) and not FACTORY.fullmatch(function):
        raise UsageError(f"--outputs {function!r:.80} is no function, as package.module:function")
    if tolerance is not None and not (tolerance >= 0 and math.isfinite(tolerance)):
        raise UsageError(f"{tolerance} is no tolerance; give a number that is 0 or more, such as 1e-6")
    return OutputOptions(function, tolerance, None if expected is None else os.fspath(expected))


def check_one_file(count: int, saved: StrPath | None, expected: StrPath | None) -> None:
    """Refuse a file of outputs for several checkpoints.

    Raises
    ------
    UsageError
        There are several checkpoints, or none.
    """
    for name, path in (("--save-outputs", saved), ("--expect-outputs", expected)):
        if path is not None and count != 1:
            raise UsageError(f"{name} {os.fspath(path)} is about one checkpoint: name just one")


def shown_tolerance(tolerance: Mapping[str, tuple[float, float]]) -> str:
    """Return the text of a tolerance, such as ``1e-05 + 1.3e-06 of the value (float32)``."""
    return ", ".join(
        f"{absolute:g} + {relative:g} of the value ({dtype})" if absolute or relative else f"0 ({dtype})"
        for dtype, (absolute, relative) in tolerance.items()
    )
