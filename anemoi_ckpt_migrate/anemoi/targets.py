"""Classes of anemoi-models that a configuration can name (``_target_``) and that only some releases have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from anemoi_ckpt_migrate.errors import Refused
from anemoi_ckpt_migrate.tree import items

PACKAGE = "anemoi.models."
CONFIG = "hyper_parameters.config"

ENDED: dict[str, tuple[str, ...]] = {
    "0.13.0": (
        "AnemoiModelEncProcDecInterpolator",
        "DynamicConstantImputer",
        "DynamicCopyImputer",
        "DynamicInputImputer",
    ),
    "0.14.0": ("AnemoiModelEncProcDecMultiOutInterpolator",),
    "0.19.0": ("AnemoiModelAutoEncoder", "AnemoiModelHierarchicalAutoEncoder"),
}
"""Classes without a successor, by the first release that lacks them. What is renamed is in the scripts of the chain."""

BEGUN: dict[str, tuple[str, ...]] = {
    "0.11.1": ("NoOpNoiseInjector",),
    "0.12.0": ("AnemoiModelAutoEncoder", "AnemoiModelHierarchicalAutoEncoder"),
    "0.13.0": ("NoOpProcessor",),
    "0.14.0": ("PointWiseForwardMapper", "PointWiseBackwardMapper"),
    "0.15.0": ("ScalarOrnsteinConnection", "SpectralOrnsteinConnection"),
}
"""Classes without a predecessor, by the first release that has them."""


def refuse_ended(ckpt: Any, release: str) -> None:
    """Refuse a checkpoint whose configuration names a class that a release no longer has.

    Parameters
    ----------
    ckpt : object
        The checkpoint.
    release : str
        The release of anemoi-models that it is upgraded to.

    Raises
    ------
    Refused
        The configuration names one.
    """
    for path, name in _named(ckpt, ENDED[release]):
        raise Refused(
            f"its {path} is {name}, which anemoi-models {release} no longer has, and no other class took its place: "
            f"go on with it in a release before {release}"
        )


def refuse_begun(ckpt: Any, release: str) -> None:
    """Refuse a checkpoint whose configuration names a class that releases before one do not have.

    Parameters
    ----------
    ckpt : object
        The checkpoint.
    release : str
        The release of anemoi-models that it is downgraded from.

    Raises
    ------
    Refused
        The configuration names one.
    """
    for path, name in _named(ckpt, BEGUN[release]):
        raise Refused(
            f"its {path} is {name}, which no release of anemoi-models before {release} has: go on with it in one from "
            f"{release} on"
        )


def _named(ckpt: Any, classes: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Return where the configuration names one of several classes, and which."""
    for path, target in targets(items.plain(items.get(ckpt, CONFIG))):
        name = target.rpartition(".")[2]
        if target.startswith(PACKAGE) and name in classes:
            yield path, name


def targets(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Return the classes that a configuration names, and where.

    Parameters
    ----------
    value : object
        The configuration, of plain containers.
    path : str
        The path to it.

    Examples
    --------
    >>> list(targets({"model": {"_target_": "anemoi.models.models.AnemoiModelEncProcDec"}}))
    [('model', 'anemoi.models.models.AnemoiModelEncProcDec')]
    """
    if isinstance(value, dict):
        for key in ("_target_", "target_"):
            if isinstance(value.get(key), str):
                yield path, value[key]
    inner: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield from targets(each, f"{path}.{key}" if path else str(key))
