"""The signature of a script: a digest of its behaviour, independent of its layout.

Comments, formatting, docstrings and the place in the graph (recorded beside it) do not count. The signature is the
same on every version of Python. `ast.dump` is not, so this module spells out the syntax tree and skips fields that
differ between versions.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

PLACE = frozenset({"revision", "down_revision", "branch_labels", "depends_on", "replaces", "known_as"})
_NO_MEANING = frozenset({"kind", "type_comment", "type_ignores", "ctx"})


def signature(module: ast.Module) -> str:
    """Return the signature of a parsed script.

    Parameters
    ----------
    module : ast.Module
        The script.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    import hashlib

    digest = hashlib.sha256()
    # Beside operations, `rollback = None` has no effect, so that it can still be added after a release.
    operations = any("operations" in assigned(statement) for statement in module.body)
    ignored = PLACE | {"rollback"} if operations else PLACE
    meaningful = [statement for statement in module.body if not ignored.issuperset(assigned(statement) or [""])]
    for word in _words(_without_docstring(meaningful)):
        digest.update(word.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()


def assigned(statement: ast.stmt) -> list[str]:
    """Return the names that a statement assigns to."""
    if isinstance(statement, ast.AnnAssign):
        targets: list[ast.expr] = [statement.target] if statement.value is not None else []
    else:
        targets = statement.targets if isinstance(statement, ast.Assign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _words(value: object) -> Iterator[str]:
    if isinstance(value, ast.JoinedStr):
        yield from _f_string(value)
    elif isinstance(value, ast.AST):
        yield f"({type(value).__name__}"
        for name, child in sorted(ast.iter_fields(value)):
            # A field that is new in a version of Python is None or empty if unused; skip it, as older versions lack it.
            if name in _NO_MEANING or child is None or child == []:
                continue
            yield f"{name}="
            if name == "body" and isinstance(value, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                child = _without_docstring(child)
            yield from _words(child)
        yield ")"
    elif isinstance(value, list):
        yield "["
        for child in value:
            yield from _words(child)
        yield "]"
    else:
        # ascii, because the escapes of repr depend on the Unicode version; hex, because repr refuses long numbers.
        yield hex(value) if type(value) is int else ascii(value)


def _f_string(value: ast.JoinedStr) -> Iterator[str]:
    """Spell out an f-string with joined constants, because versions of Python split them differently."""
    yield "(JoinedStr"
    text = ""
    for part in value.values:
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            text += part.value
            continue
        yield ascii(text)
        yield from _words(part)
        text = ""
    yield ascii(text)
    yield ")"


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    first = body[0] if body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        return body[1:]
    return body
