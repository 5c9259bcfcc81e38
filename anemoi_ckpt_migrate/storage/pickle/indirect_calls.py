"""Detect whether a pickle only calls `getattr` and `type`, or passes them to other code that calls them unseen.

A call with its arguments in the pickle can be judged. `functools.partial(getattr, path, "write_text")` cannot, nor can
an item of a list that is called later. So such a pickle must be told apart from one that only calls them.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Collection, Mapping
from typing import Any, ClassVar


def callers(names: Mapping[tuple[str, str], bool]) -> frozenset[tuple[str, str]]:
    """Return the harmless names that could call others if a pickle hands them on.

    Parameters
    ----------
    names : mapping of (str, str) to bool
        Modules and names in the pickle, and whether they are harmless by themselves.
    """
    return frozenset(name for name, known in names.items() if known and name[1] in ("getattr", "type"))


def harmless_names(names: Mapping[tuple[str, str], bool], data: bytes) -> dict[tuple[str, str], bool]:
    """Return the names in a pickle, and whether they are harmless there. This may walk through the whole pickle.

    Parameters
    ----------
    names : mapping of (str, str) to bool
        As for `callers`.
    data : bytes
        The pickle.
    """
    called = callers(names)
    return {**names, **dict.fromkeys(called if called and handed_on(data, called) else (), False)}


def handed_on(data: bytes, names: Collection[tuple[str, str]]) -> bool:
    """Return whether one of these names is used for anything but a call. Nothing is imported or called.

    Parameters
    ----------
    data : bytes
        A pickle that loads without an error.
    names : collection of (str, str)
        Modules and names, as the pickle spells them.
    """
    unpickler = _Counter(io.BytesIO(data), names)
    try:
        unpickler.load()
    except Exception:  # the pickle depends on real values: assume the worst
        return True
    return unpickler.left != 0


class _Thing:
    """Represents every object in a pickle, and accepts every operation."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _Thing:
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, *args: Any) -> _Thing:
        return _Thing()

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        """Take an item."""

    def extend(self, items: Any) -> None:
        """Take items."""


# The pure Python unpickler: only that one shows its stack. The type checker takes it for the one in C.
_PythonUnpickler: Any = pickle._Unpickler


class _Counter(_PythonUnpickler):
    """Counts pushes of the names onto the stack, less the calls that take them off again."""

    dispatch: ClassVar[dict[int, Any]] = dict(_PythonUnpickler.dispatch)

    def __init__(self, stream: io.BytesIO, names: Collection[tuple[str, str]]) -> None:
        super().__init__(stream, fix_imports=False, encoding="utf-8")
        self._names, self._watched, self.left = names, _Thing(), 0

    def find_class(self, module: str, name: str) -> Any:
        """Return a dummy for a name."""
        if (module, name) not in self._names:
            return _Thing
        self.left += 1
        return self._watched

    def persistent_load(self, pid: Any) -> Any:
        """Return a dummy for a storage."""
        return _Thing()

    def load_again(self, load: Any) -> None:
        """Push an object that was loaded before."""
        load(self)
        self.left += self.stack[-1] is self._watched

    def load_reduce(self) -> None:
        """Call a function."""
        self.left -= self.stack[-2] is self._watched
        super().load_reduce()

    for _code in (pickle.GET, pickle.BINGET, pickle.LONG_BINGET, pickle.DUP):
        dispatch[_code[0]] = lambda self, load=dispatch[_code[0]]: self.load_again(load)
    dispatch[pickle.REDUCE[0]] = load_reduce
