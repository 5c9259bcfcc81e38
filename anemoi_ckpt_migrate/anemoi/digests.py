"""Compute the digests of a script as anemoi-models does: from `ast.dump`, whose output has three variants.

The variant in a checkpoint depends on the Python that saved it, so all three are computed here under any Python.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator

PYTHONS = ("3.9", "3.12", "3.13")
"""The first Python of each variant of `ast.dump`: without type parameters, with them, without empty lists."""

_WITH_TYPE_PARAMS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def digests(module: ast.Module) -> dict[str, str]:
    """Return the digest of a parsed script for each of `PYTHONS`.

    Parameters
    ----------
    module : ast.Module
        The script.
    """
    return {python: hashlib.sha256(_dumped(module, python).encode()).hexdigest() for python in PYTHONS}


def _dumped(value: object, python: str) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_dumped(item, python) for item in value)}]"
    if not isinstance(value, ast.AST):
        return repr(value)
    fields = (f"{name}={_dumped(child, python)}" for name, child in _fields(value, python))
    return f"{type(value).__name__}({', '.join(fields)})"


def _fields(node: ast.AST, python: str) -> Iterator[tuple[str, object]]:
    for name in (name for name in node._fields if name != "type_params"):
        child = getattr(node, name, None)
        # An optional field is None on the class and may be omitted; a constant whose value is None is not omitted.
        left_out = child is None and getattr(type(node), name, ...) is None
        if not left_out and not (python == "3.13" and child == []):
            yield name, child
    if python != "3.9" and isinstance(node, _WITH_TYPE_PARAMS):
        params = getattr(node, "type_params", [])
        if params or python == "3.12":
            yield "type_params", params
