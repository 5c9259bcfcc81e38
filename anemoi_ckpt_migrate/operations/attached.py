"""What lies in the archive beside the pickle, as operations change it: JSON that others wrote."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

MOST = 64 << 20
"""How many bytes are taken for JSON that somebody may have written, and read into memory."""


class NotJson(ValueError):
    """A record that cannot be changed as JSON; the message says why."""


class Attached:
    """Records of the archive, as operations change them.

    Parameters
    ----------
    sizes : callable
        Returns which there are that are not torch's own, and how many bytes each has.
    read : callable
        Returns the content of one.

    Attributes
    ----------
    changed : dict of str to bytes
        What is to be written.
    """

    def __init__(
        self, sizes: Callable[[], Mapping[str, int]] = dict, read: Callable[[str], bytes | None] = lambda name: None
    ) -> None:
        self._sizes, self._read = sizes, read
        self.changed: dict[str, bytes] = {}

    def content(self, name: str) -> bytes | None:
        """Return the content of a record; None if there is none of that name.

        Raises
        ------
        NotJson
            It is too large to be JSON that somebody wrote.
        """
        if name in self.changed:
            return self.changed[name]
        size = self._sizes().get(name)
        if size is not None and size > MOST:
            raise NotJson(f"record {name} of the archive has {size:,} bytes; no more than {MOST:,} are read as JSON")
        return None if size is None else self._read(name)


def parsed(name: str, content: bytes) -> Any:
    """Return the JSON of a record.

    Raises
    ------
    NotJson
        It is none, or would not be the same when it was written again.
    """
    try:
        return json.loads(content.decode(), object_pairs_hook=_object, parse_float=_number)
    except (ValueError, RecursionError) as error:
        raise NotJson(
            f"record {name} of the archive cannot be read as JSON ({error!s:.80}); replace it, or take it out"
        ) from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has two values of one name")
    return found


def _number(text: str) -> float:
    found = float(text)
    if math.isinf(found):
        raise ValueError(f"{text:.20} is too large a number")
    return found


def written(name: str, tree: Any, like: bytes) -> bytes:
    """Return JSON as bytes, laid out as other JSON is.

    Raises
    ------
    NotJson
        It holds what JSON cannot hold.
    """
    text = like.decode()
    start, end = len(text) - len(text.lstrip()), len(text.rstrip())
    before, layouts = json.loads(text), list(_layouts(text))
    layout = next((each for each in layouts if json.dumps(before, **each) == text[start:end]), layouts[0])
    try:
        made = text[:start] + json.dumps(tree, **layout) + text[end:]
        return made.encode()
    except UnicodeEncodeError:  # half of a pair, which only an escape can be
        return (text[:start] + json.dumps(tree, **{**layout, "ensure_ascii": True}) + text[end:]).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise NotJson(f"what record {name} of the archive would hold is no JSON ({error!s:.80})") from error


def _layouts(text: str) -> Iterator[dict[str, Any]]:
    """Give the ways in which JSON may have been laid out, the likeliest first."""
    found = re.match(r"\s*[\[{]\n([ \t]*)", text)
    indent = found[1] if found else None
    for separators in ((",", ": "), (", ", ": "), (",", ":")) if found else ((", ", ": "), (",", ":")):
        for escaped in (True, False) if text.isascii() else (False, True):
            yield {"indent": indent, "separators": separators, "ensure_ascii": escaped}
