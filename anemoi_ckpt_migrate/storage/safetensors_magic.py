"""Recognise a safetensors file by its name and by its first bytes."""

from __future__ import annotations

import re

SUFFIX = ".safetensors"
_LENGTH = 8  # bytes of the length before the header


def is_named_so(path: str) -> bool:
    """Return whether a file has the name of a safetensors file, or of a backup of one."""
    return re.search(rf"{re.escape(SUFFIX)}(\.bak\d*)?$", path) is not None


def is_safetensors(start: bytes, length: int) -> bool:
    """Return whether a file looks like one of safetensors, by its first nine bytes and its length."""
    return start[8:9] == b"{" and 2 <= int.from_bytes(start[:8], "little") <= length - _LENGTH
