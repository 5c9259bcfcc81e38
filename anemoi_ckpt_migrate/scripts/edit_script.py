"""Change one value in an existing script and leave the rest of its text alone."""

from __future__ import annotations

import ast
import io
import os
import re
import tokenize
from collections.abc import Sequence
from pathlib import Path

from anemoi_ckpt_migrate.errors import CannotWrite, ReadOnly, UsageError
from anemoi_ckpt_migrate.scripts.create import literal, one_or_several
from anemoi_ckpt_migrate.scripts.signature import assigned
from anemoi_ckpt_migrate.util.lazy_regex import lazy_regex

_LINE = lazy_regex(rb"[^\r\n]*(?:\r\n|\r|\n|$)")


def set_parents(path: Path, parents: Sequence[str]) -> None:
    """Give a script other parents: set ``down_revision``, and update the "Revises" line of the docstring.

    Comments, encoding, line ends and permissions stay.

    Parameters
    ----------
    path : Path
        The script. It must parse.
    parents : sequence of str
        The new parents.

    Raises
    ------
    CannotWrite
        The file cannot be read or written.
    ReadOnly
        The script is write-protected.
    UsageError
        The script does not set ``down_revision`` once, in a statement of its own.
    """
    try:
        path = path.resolve()  # a link stays one
        old = path.read_bytes()
        new = with_parents(old, parents)
        if new != old:
            if not path.stat().st_mode & 0o222:
                raise ReadOnly
            _replace(path, new)
    except OSError as error:
        raise CannotWrite(f"the script {path} could not be changed ({error.strerror})") from error
    except ValueError as error:
        raise UsageError(f"{path}: {error}; change down_revision by hand") from error


def with_parents(source: bytes, parents: Sequence[str]) -> bytes:
    """Return the source of a script with other parents.

    Raises
    ------
    ValueError
        It does not set ``down_revision`` once, in a statement of its own.
    """
    encoding, _ = tokenize.detect_encoding(io.BytesIO(source).readline)
    text = source.decode(encoding).encode()  # positions in a syntax tree count bytes of UTF-8
    module = ast.parse(source)
    setting = [node for node in module.body if "down_revision" in assigned(node)]
    if len(setting) != 1 or assigned(setting[0]) != ["down_revision"]:
        raise ValueError("down_revision is not set exactly once, in its own statement")
    value: ast.expr = setting[0].value  # type: ignore[attr-defined]
    changed = _put(text, value, literal(one_or_several(tuple(parents))).encode())
    first = module.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        changed = _revises(changed, first.end_lineno or 1, ", ".join(parents) or "nothing, this is a base")
    return changed.decode().encode(encoding)


def _put(text: bytes, node: ast.expr, value: bytes) -> bytes:
    """Replace the source of an expression."""
    assert node.end_lineno is not None and node.end_col_offset is not None  # noqa: PT018, S101  (a parser sets them)
    begin = _offset(text, node.lineno) + node.col_offset
    end = _offset(text, node.end_lineno) + node.end_col_offset
    return text[:begin] + value + text[end:]


def _offset(text: bytes, line: int) -> int:
    """Return the offset of the beginning of a line."""
    return sum(len(found) for found in _LINE.findall(text)[: line - 1])


def _revises(text: bytes, last: int, parents: str) -> bytes:
    """Update the "Revises" line of the docstring, which ends in line `last`."""
    end = _offset(text, last + 1)
    said = rb"(?m)^([ \t]*Revises:)[^\r\n]*"
    return re.sub(said, lambda found: found[1] + f" {parents}".encode(), text[:end], count=1) + text[end:]


def _replace(path: Path, content: bytes) -> None:
    """Replace a file atomically."""
    beside = path.with_name(f".{path.name}.tmp")
    beside.write_bytes(content)
    beside.chmod(path.stat().st_mode & 0o7777)
    os.replace(beside, path)
