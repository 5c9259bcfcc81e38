"""Edit JSON entries of the archive beside the pickle, which other tools wrote."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

MOST = 64 << 20
"""The largest size in bytes of an entry that is read into memory as JSON."""


class NotJson(ValueError):
    """An entry that cannot be edited as JSON; the message gives the reason."""


class Document:
    """An editable JSON document that keeps its layout.

    Parameters
    ----------
    name : str
        The name of the archive's entry.
    content : bytes
        The content of the entry.

    Attributes
    ----------
    holder : list
        The value, as the only item of a list, so that all of it may be replaced.
    text : str
        The text of the last version.

    Raises
    ------
    NotJson
        The content is not JSON, or would change when written again.
    """

    def __init__(self, name: str, content: bytes) -> None:
        self._name = name
        try:
            self.text = content.decode()
            self.holder = [json.loads(self.text, object_pairs_hook=_object, parse_float=_number)]
            body, layouts = self.text.strip(), list(_layouts(self.text))
            self._layout = next((each for each in layouts if json.dumps(self.holder[0], **each) == body), layouts[0])
            self._spelled = json.dumps(self.holder[0], **self._layout)
        except (ValueError, RecursionError) as error:
            raise NotJson(
                f"record {name} of the archive cannot be read as JSON ({error!s:.80}); replace it, or remove it"
            ) from error
        self._before, _, self._after = self.text.partition(body)

    def rewritten(self) -> str:
        """Return the current text; the last text if the value has not changed.

        Raises
        ------
        NotJson
            The value cannot be written as JSON.
        """
        try:
            spelled = json.dumps(self.holder[0], **self._layout)
            spelled.encode()
        except (TypeError, ValueError, RecursionError) as error:
            what = f"the new content of record {self._name} of the archive is not JSON ({error!s:.80})"
            raise NotJson(what) from error
        if spelled != self._spelled:
            self._spelled, self.text = spelled, f"{self._before}{spelled}{self._after}"
        return self.text


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has two values with the same name")
    return found


def _number(text: str) -> float:
    found = float(text)
    if math.isinf(found):
        raise ValueError(f"{text:.20} is too large a number")
    return found


def _layouts(text: str) -> Iterator[dict[str, Any]]:
    """Yield the possible layouts of a JSON text, the likeliest first."""
    found = re.match(r"\s*[\[{]\n([ \t]*)", text)
    indent = found[1] if found else None
    # A lone surrogate can only be written as an escape.
    escapes = (True, False) if text.isascii() else (True,) if re.search(r"\\u[dD][89a-fA-F]", text) else (False, True)
    for separators in ((",", ": "), (", ", ": "), (",", ":")) if found else ((", ", ": "), (",", ":")):
        for escaped in escapes:
            yield {"indent": indent, "separators": separators, "ensure_ascii": escaped}


class Attached:
    """Entries of the archive, as operations change them.

    Parameters
    ----------
    sizes : callable
        Returns the names and sizes in bytes of all entries that are not torch's own.
    read : callable
        Returns the content of an entry.

    Attributes
    ----------
    changed : dict of str to bytes
        The entries to write.
    """

    def __init__(
        self, sizes: Callable[[], Mapping[str, int]] = dict, read: Callable[[str], bytes | None] = lambda name: None
    ) -> None:
        self._sizes, self._read = sizes, read
        self._documents: dict[str, Document] = {}
        self.changed: dict[str, bytes] = {}

    def content(self, name: str) -> bytes | None:
        """Return the content of an entry; None if there is no entry with that name.

        Raises
        ------
        NotJson
            The entry is too large for JSON.
        """
        if name in self.changed:
            return self.changed[name]
        size = self._sizes().get(name)
        if size is not None and size > MOST:
            raise NotJson(f"record {name} of the archive has {size:,} bytes; at most {MOST:,} are read as JSON")
        return None if size is None else self._read(name)

    def document(self, name: str) -> Document | None:
        """Return the JSON document of an entry, which stays open; None if there is no entry with that name.

        Raises
        ------
        NotJson
            The entry is not JSON, or is too large.
        """
        if name not in self._documents:
            content = self.content(name)
            if content is None:
                return None
            self._documents[name] = Document(name, content)
        return self._documents[name]

    def put(self, name: str, text: str) -> None:
        """Set the text of a JSON entry, and open it again.

        Raises
        ------
        NotJson
            The text is not JSON, or is too large.
        """
        self.write(name, text)
        self._documents[name] = Document(name, self.changed[name])

    def write(self, name: str, text: str) -> None:
        """Set the text of an entry to write.

        Raises
        ------
        NotJson
            The text is too large to be read again.
        """
        content = text.encode()
        if len(content) > MOST:
            raise NotJson(f"record {name} of the archive would have {len(content):,} bytes; at most {MOST:,} are read")
        self.changed[name] = content
