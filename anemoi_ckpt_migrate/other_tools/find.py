"""Find the other tool whose migrations the scripts of a project stand for."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

from anemoi_ckpt_migrate.errors import ConfigurationError, MigrateError, OtherToolFailed
from anemoi_ckpt_migrate.other_tools.interface import OtherTool

GROUP = "ckpt_migrate.other_tools"
"""The group of entry points through which packages bring their own. The value is the class."""

# The only one that needs no entry point: looking for entry points would add 30 ms to each command.
_BUILT_IN = "anemoi_ckpt_migrate.anemoi.migrations_list:AnemoiModels"


@functools.cache
def find_tool(name: str) -> OtherTool:
    """Return a tool by the name of its entry point; the built-in one if the name is empty.

    Raises
    ------
    ConfigurationError
        No installed package brings a tool of that name, several do, or its entry point is wrong.
    """
    place = _published(name) if name else _BUILT_IN
    module, _, attribute = place.partition(":")
    try:
        found = getattr(import_module(module), attribute)()
    except Exception as error:  # the code is the package's
        raise ConfigurationError(
            f"the tool {name} ({place}) cannot be made: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(found, OtherTool):
        raise ConfigurationError(f"the tool {name} ({place}) is not an OtherTool")
    return found


@contextmanager
def code_of(tool: OtherTool) -> Iterator[None]:
    """Turn an exception in the code of a tool into an error that names the tool."""
    try:
        yield
    except (MigrateError, MemoryError):
        raise
    except Exception as error:
        what = f"failed with {type(error).__name__} ({error})"
        raise OtherToolFailed(tool.name, type(tool).__module__, what) from error


def _published(name: str) -> str:
    from importlib.metadata import entry_points

    known = {(point.name, point.value) for point in entry_points(group=GROUP)}
    places = sorted(value for each, value in known if each == name)
    if not places:
        there = f"; the tools are {', '.join(sorted({each for each, _ in known}))}" if known else ""
        raise ConfigurationError(f"other_tool is {name!r}, which no installed package has{there}")
    if len(places) > 1:
        raise ConfigurationError(f"two tools are called {name}, {' and '.join(places)}: uninstall one of them")
    return places[0]
