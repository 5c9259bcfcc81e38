"""Make new scripts from the project's Mako template."""

from __future__ import annotations

import datetime
import errno
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from anemoi_ckpt_migrate.errors import CannotWrite, ConfigurationError, UsageError
from anemoi_ckpt_migrate.revisions.targets import CURRENT, ID_PATTERN, LABEL_PATTERN, WORDS
from anemoi_ckpt_migrate.util.dataclass import dataclass, field
from anemoi_ckpt_migrate.util.text import slug
from anemoi_ckpt_migrate.util.time_zones import zone


@dataclass(frozen=True)
class Draft:
    """The contents of a new script.

    Attributes
    ----------
    revision, name : str
        Its id, and a one-line description of the change.
    created : datetime.datetime
        The time of creation, in the project's time zone.
    parents, labels, depends_on : tuple of str
        As in `graph.Revision`.
    versions : mapping of str to str
        As in `MigrationMetadata`.
    final : bool
        Whether it is a barrier.
    operations : tuple of str
        The lines of its list of operations. Without them, the script has functions.
    setup : bool
        Whether it also has a ``migrate_setup``.
    """

    revision: str
    name: str
    created: datetime.datetime
    parents: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    depends_on: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    final: bool = False
    operations: tuple[str, ...] = ()
    setup: bool = False


def render(template: str, draft: Draft) -> str:
    """Return the text of a new script.

    Raises
    ------
    ConfigurationError
        The template is faulty.
    """
    text = _render(
        template,
        docstring=in_docstring(draft.name),
        revision=draft.revision,
        parents=list(draft.parents),
        down_revision=one_or_several(draft.parents),
        branch_labels=one_or_several(draft.labels),
        depends_on=one_or_several(draft.depends_on),
        create_date=draft.created.isoformat(" ", "seconds"),
        versions=dict(draft.versions),
        final=draft.final,
        operations=list(draft.operations),
        merge=len(draft.parents) > 1,
        setup=draft.setup,
        repr_=literal,
    )
    missing = "operations" if not all(line in text for line in draft.operations) else ""
    missing = "migrate_setup" if draft.setup and "\ndef migrate_setup(" not in text else missing
    if missing:
        raise ConfigurationError(
            f"the template of new scripts has no place for `{missing}`; compare it with that of `ckpt-migrate init`"
        )
    return text


def file_name(pattern: str, draft: Draft, slug_length: int) -> str:
    """Return the file name of a new script, from the pattern in the configuration."""
    now = draft.created
    dates = {word: getattr(now, word) for word in ("year", "month", "day", "hour", "minute", "second")}
    short = slug(draft.name)[:slug_length].rstrip("_")
    tokens = {"rev": draft.revision, "slug": short, "epoch": int(now.timestamp()), **dates}
    name: str = pattern % tokens
    return f"{name.rstrip('_')}.py"  # the slug may be empty


def write_new(path: Path, text: str) -> None:
    """Write a new script. An interrupted call leaves no half of it.

    Raises
    ------
    CannotWrite
        The file cannot be written, or a file of that name exists.
    """
    new = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        new.write_text(text, encoding="utf-8")
        new.replace(path)
    except OSError as error:
        raise CannotWrite(f"the script {path} could not be written ({error.strerror})") from error


def now(timezone: str) -> datetime.datetime:
    """Return the current time in a time zone."""
    return datetime.datetime.now(zone(timezone))


def new_id() -> str:
    """Return a random id for a revision."""
    return secrets.token_hex(6)


def check_id(revision: str) -> None:
    """Check an id that the user chose.

    Raises
    ------
    UsageError
        It would be mistaken for a target, or has other characters than ids may have.
    """
    _check_word(revision, "a revision id", ID_PATTERN, "letters, digits, dots and underscores")


def check_label(label: str) -> None:
    """Check a label that the user chose.

    Raises
    ------
    UsageError
        It would be mistaken for a target, or has other characters than labels may have.
    """
    _check_word(label, "a label", LABEL_PATTERN, "letters, digits, dashes, dots and underscores")


def _check_word(word: str, what: str, pattern: str, letters: str) -> None:
    if word in (*WORDS, CURRENT.word):
        raise UsageError(f"{word!r} cannot be {what}: it has a meaning as a target")
    if not re.fullmatch(pattern, word):
        raise UsageError(f"{word!r} cannot be {what}: use {letters}")


def check_name(name: str) -> None:
    """Check the name of a new revision.

    Raises
    ------
    UsageError
        It is empty, or has more than one line.
    """
    if not name.strip() or not name.isprintable():
        raise UsageError("the name of a revision must be one line of text that describes the change")


def in_docstring(name: str) -> str:
    """Return a name, escaped for a docstring."""
    return name.strip().replace("\\", "\\\\").replace('"', '\\"')


def one_or_several(words: tuple[str, ...]) -> str | tuple[str, ...] | None:
    """Return the value that a script sets for no, one or several revisions."""
    return words[0] if len(words) == 1 else words or None


def literal(value: object) -> str:
    """Return the source of a value with double quotes, as code formatters write it."""
    if isinstance(value, str):
        return repr(value) if '"' in value else '"' + repr("'" + value)[2:]  # with a ' in it, repr uses double quotes
    if isinstance(value, tuple):
        return f"({', '.join(map(literal, value))}{',' * (len(value) == 1)})"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{literal(key)}: {literal(item)}' for key, item in value.items())}}}"
    return repr(value)


def _render(template: str, **values: object) -> str:
    from mako import exceptions
    from mako.template import Template

    try:
        rendered: str = Template(template, strict_undefined=True).render(**values)  # noqa: S702  (Python, not HTML)
    except exceptions.MakoException as error:
        raise ConfigurationError(f"the template of new scripts has an error: {error}") from error
    except Exception as error:  # a template runs code of the project
        raise ConfigurationError(f"the template of new scripts failed with {type(error).__name__}: {error}") from error
    return rendered
