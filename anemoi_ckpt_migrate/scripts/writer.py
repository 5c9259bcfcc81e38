"""New scripts, from the project's Mako template."""

from __future__ import annotations

import datetime
import json
import re
import secrets
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

from anemoi_ckpt_migrate.errors import CannotWrite, ConfigurationError, UsageError
from anemoi_ckpt_migrate.targets import ID_PATTERN, WORDS

_SLUG_LENGTH = 40


def write_script(
    folder: Path,
    template: str,
    revision: str,
    name: str,
    parents: Sequence[str],
    versions: Mapping[str, str],
    final: bool,
) -> Path:
    """Write a new script into `folder`, and return its path.

    Raises
    ------
    ConfigurationError
        The template is faulty.
    CannotWrite
        The folder does not take the file, or there is one of that name.
    """
    path = folder / f"{'_'.join(filter(None, [revision, slug(name)]))}.py"
    text = _render(
        template,
        docstring=_in_docstring(name),
        revision=revision,
        parents=list(parents),
        down_revision=parents[0] if len(parents) == 1 else tuple(parents) or None,
        create_date=datetime.datetime.now(datetime.timezone.utc).isoformat(" ", "seconds"),
        versions=dict(versions),
        final=final,
        repr_=_literal,
    )
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise CannotWrite(f"the script {path} could not be written ({error.strerror})") from error
    return path


def new_id() -> str:
    """Return an id that no other revision has."""
    return secrets.token_hex(6)


def check_id(revision: str) -> None:
    """Check an id that the user chose.

    Raises
    ------
    UsageError
        It could not be told from a target.
    """
    if revision in WORDS:
        raise UsageError(f"{revision!r} cannot be a revision id: it is a target of its own")
    if not re.fullmatch(ID_PATTERN, revision):
        raise UsageError(f"{revision!r} cannot be a revision id: use letters, digits, dots and underscores")


def check_name(name: str) -> None:
    """Check the name of a new revision.

    Raises
    ------
    UsageError
        It is empty, or more than a line.
    """
    if not name.strip() or not name.isprintable():
        raise UsageError("the name of a revision is one line of text that says what changes")


def slug(name: str) -> str:
    """Turn a name into a part of a file name."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    words = re.findall(r"[a-z0-9]+", plain)
    found = "_".join(words)
    return found[:_SLUG_LENGTH].rstrip("_")


def _in_docstring(name: str) -> str:
    return name.strip().replace("\\", "\\\\").replace('"', '\\"')


def _literal(value: object) -> str:
    """Spell a value as the code formatters do, with double quotes."""
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, tuple):
        return f"({', '.join(map(_literal, value))})"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_literal(key)}: {_literal(item)}' for key, item in value.items())}}}"
    return repr(value)


def _render(template: str, **values: object) -> str:
    from mako import exceptions
    from mako.template import Template

    try:
        rendered: str = Template(template, strict_undefined=True).render(**values)  # noqa: S702  (Python, not HTML)
    except exceptions.MakoException as error:
        raise ConfigurationError(f"the template of new scripts is faulty: {error}") from error
    except Exception as error:  # a template runs the project's own code
        raise ConfigurationError(f"the template of new scripts failed with {type(error).__name__}: {error}") from error
    return rendered
