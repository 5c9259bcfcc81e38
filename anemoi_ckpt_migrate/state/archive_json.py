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


class Document:
    """JSON that is changed, and keeps its layout.

    Parameters
    ----------
    name : str
        The record that it stands in.
    content : bytes
        What that holds.

    Attributes
    ----------
    holder : list
        What it says, as the only item of a list, so that all of it may be replaced.
    text : str
        How that was written last.

    Raises
    ------
    NotJson
        It is none, or would not be the same when it was written again.
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
                f"record {name} of the archive cannot be read as JSON ({error!s:.80}); replace it, or take it out"
            ) from error
        self._before, _, self._after = self.text.partition(body)

    def rewritten(self) -> str:
        """Return it as it is written by now: as it was, if it says the same.

        Raises
        ------
        NotJson
            It says what JSON cannot say.
        """
        try:
            spelled = json.dumps(self.holder[0], **self._layout)
            spelled.encode()
        except (TypeError, ValueError, RecursionError) as error:
            what = f"what record {self._name} of the archive would hold is no JSON ({error!s:.80})"
            raise NotJson(what) from error
        if spelled != self._spelled:
            self._spelled, self.text = spelled, f"{self._before}{spelled}{self._after}"
        return self.text


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


def _layouts(text: str) -> Iterator[dict[str, Any]]:
    """Give the ways in which JSON may have been laid out, the likeliest first."""
    found = re.match(r"\s*[\[{]\n([ \t]*)", text)
    indent = found[1] if found else None
    # Half of a pair of surrogates can be written as an escape only.
    escapes = (True, False) if text.isascii() else (True,) if re.search(r"\\u[dD][89a-fA-F]", text) else (False, True)
    for separators in ((",", ": "), (", ", ": "), (",", ":")) if found else ((", ", ": "), (",", ":")):
        for escaped in escapes:
            yield {"indent": indent, "separators": separators, "ensure_ascii": escaped}


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
        self._documents: dict[str, Document] = {}
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

    def document(self, name: str) -> Document | None:
        """Return the JSON of a record, which stays open; None if there is none of that name.

        Raises
        ------
        NotJson
            It is none, or too large.
        """
        if name not in self._documents:
            content = self.content(name)
            if content is None:
                return None
            self._documents[name] = Document(name, content)
        return self._documents[name]

    def put(self, name: str, text: str) -> None:
        """Have a record be written, as JSON that somebody wrote before.

        Raises
        ------
        NotJson
            It is none, or too large.
        """
        self.write(name, text)
        self._documents[name] = Document(name, self.changed[name])

    def write(self, name: str, text: str) -> None:
        """Have the text of a document be written.

        Raises
        ------
        NotJson
            It is too large to be read again.
        """
        content = text.encode()
        if len(content) > MOST:
            raise NotJson(
                f"record {name} of the archive would have {len(content):,} bytes; no more than {MOST:,} are read"
            )
        self.changed[name] = content
