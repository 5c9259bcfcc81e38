"""Names that a package offers from its modules, which are imported when a name is first asked for (PEP 562)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def exports(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a package.

    Parameters
    ----------
    package : str
        The name of the package.
    modules : mapping of str to str
        For each module below the package the names that it offers, with spaces between them.

    Examples
    --------
    >>> __getattr__ = exports("json", {"decoder": "JSONDecoder scanstring"})
    >>> __getattr__("scanstring").__name__
    'scanstring'
    """
    homes = {name: module for module, names in modules.items() for name in names.split()}

    def __getattr__(name: str) -> Any:  # noqa: N807
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{homes[name]}"), name)

    return __getattr__
