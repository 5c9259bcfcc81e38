"""The parameters of a model that a function makes: it is built where weights need no memory."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

from anemoi_ckpt_migrate.errors import UsageError

_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")

Described = tuple[str, tuple[int, ...], str]
"""Name, shape and dtype."""


def is_factory(text: object) -> bool:
    """Tell whether a text is ``package.module:factory``, and not a file."""
    return isinstance(text, str) and not os.path.exists(text) and _FACTORY.fullmatch(text) is not None


def described(text: str) -> list[Described]:
    """Return names, shapes and dtypes of the state dict of a model, in order.

    What the code prints goes to stderr: stdout may be somebody's JSON.

    Parameters
    ----------
    text : str
        ``package.module:factory``, a function without arguments that returns a `torch.nn.Module`; found from the
        current folder too. It is called with torch's default device being ``meta``.

    Raises
    ------
    UsageError
        It cannot be imported, fails, or returns no model, or one without parameters.
    """
    import torch

    with _from_here(), contextlib.redirect_stdout(sys.stderr):
        factory = _imported(text)
        try:
            with torch.device("meta"):
                model = factory()
        except (Exception, SystemExit) as error:  # the code is the user's
            raise UsageError(f"{text} failed with {type(error).__name__}: {error}") from error
    if not isinstance(model, torch.nn.Module):
        raise UsageError(f"{text} returns a {type(model).__name__}, where a torch.nn.Module is needed")
    states = {key: value for key, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    if not states:
        raise UsageError(f"{text} returns a model without any parameters")
    return [(key, tuple(value.shape), str(value.dtype).removeprefix("torch.")) for key, value in states.items()]


def _imported(text: str) -> Any:
    module, _, name = text.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except (Exception, SystemExit) as error:
        raise UsageError(f"{module} cannot be imported: {type(error).__name__}: {error}") from error
    for part in name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise UsageError(f"{module} has no function {name}")
    try:
        inspect.signature(found).bind()
    except TypeError as error:
        raise UsageError(f"{text} cannot be called without arguments: {error}; write a function that can") from error
    except ValueError:
        pass  # one in C has no signature to look at; calling it tells
    return found


@contextlib.contextmanager
def _from_here() -> Iterator[None]:
    before = list(sys.path)
    sys.path.insert(0, os.getcwd())
    try:
        yield
    finally:
        sys.path[:] = before
