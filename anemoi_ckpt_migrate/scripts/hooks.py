"""Post-write hooks: programs, such as a formatter, that run on each new script."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeGuard

from anemoi_ckpt_migrate.errors import ConfigurationError, MigrateError
from anemoi_ckpt_migrate.util.dataclass import dataclass
from anemoi_ckpt_migrate.util.text import plain

PLACEHOLDER = "REVISION_SCRIPT_FILENAME"
# The kinds of hooks, and the key that names the program of each.
_KINDS = {"console_script": "entrypoint", "module": "module", "executable": "executable"}
_SHOWN = 200  # characters of a hook's error output

# A console script does not import from the current folder when started by its name; neither does this code.
_CALL = """
import sys
sys.path[:1] = filter(None, sys.path[:1])
from importlib.metadata import EntryPoint
sys.argv[0] = {name!r}
sys.exit(EntryPoint({name!r}, {value!r}, "console_scripts").load()())
"""


@dataclass(frozen=True)
class Hook:
    """A program to run on a new script.

    Attributes
    ----------
    kind : str
        ``console_script``, ``module`` or ``executable``.
    target : str
        The name of the console script, module or executable.
    options : tuple of str
        Its arguments. `PLACEHOLDER` in them stands for the script; without it, the script becomes the last argument.
    folder : Path or None
        The folder to run it in; None for the current folder.
    """

    kind: str
    target: str
    options: tuple[str, ...] = ()
    folder: Path | None = None


def parse_hooks(config: Path, value: object) -> tuple[Hook, ...]:
    """Read hooks from the value in a configuration.

    Parameters
    ----------
    config : Path
        The configuration file. Paths are relative to its folder.
    value : object
        The value of ``hooks``, a list of tables.

    Raises
    ------
    ConfigurationError
        The value is not a list of valid tables.
    """
    if not isinstance(value, list):
        raise ConfigurationError(f"{config}: hooks must be a list of tables, not {value!r:.60}")
    return tuple(_parse(config, f"hook {number}", table) for number, table in enumerate(value, 1))


def run_hooks(hooks: Sequence[Hook], script: Path) -> None:
    """Run hooks on a script, one after the other. Their output goes to stderr.

    Raises
    ------
    MigrateError
        A hook cannot be found, or fails. The script stays.
    """
    import subprocess

    where = os.path.abspath(script)  # hooks have folders of their own
    for hook in hooks:
        words = [word.replace(PLACEHOLDER, where) for word in hook.options]
        if words == list(hook.options):
            words.append(where)
        command = [*_command(hook, script), *words]
        try:
            ran = subprocess.run(  # noqa: S603  (configured by the project)
                command,
                cwd=hook.folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
            )
        except OSError as error:
            raise _failed(hook, script, f"could not be started ({error.strerror})") from error
        sys.stderr.write(ran.stdout + ran.stderr)
        if ran.returncode:
            said = (ran.stderr.strip() or ran.stdout.strip()).rpartition("\n")[2][:_SHOWN]
            raise _failed(hook, script, f"ended with exit code {ran.returncode}{f': {plain(said)}' if said else ''}")


def _parse(config: Path, place: str, table: object) -> Hook:
    def wrong(what: str) -> ConfigurationError:
        return ConfigurationError(f"{config}: {place} {what}")

    if not isinstance(table, dict):
        raise wrong(f"must be a table, not {table!r:.60}")
    kind = table.get("type")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise wrong(f"must have a type: {', '.join(_KINDS)}")
    known = ("type", _KINDS[kind], "options", "cwd")
    for key in table:
        if key not in known:
            raise wrong(f"has an unknown key {key!r}; a {kind} has {', '.join(known)}")
    target, options, folder = table.get(_KINDS[kind]), table.get("options", []), table.get("cwd")
    if not _is_name(target):
        raise wrong(f"must name the program to run as `{_KINDS[kind]}`")
    if folder is not None and not _is_name(folder):
        raise wrong(f"must name a folder with cwd, not {folder!r:.60}")
    base = config.absolute().parent
    if kind == "executable" and (base / target).is_file():
        target = os.fspath(base / target)
    return Hook(kind, target, _words(options, wrong), None if folder is None else base / folder)


def _is_name(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and bool(value.strip()) and "\0" not in value


def _words(options: object, wrong: Callable[[str], ConfigurationError]) -> tuple[str, ...]:
    import shlex

    if isinstance(options, str):
        try:
            options = shlex.split(options)
        except ValueError as error:
            raise wrong(f"has options that cannot be split into words ({error})") from error
    if not isinstance(options, list) or not all(isinstance(word, str) and "\0" not in word for word in options):
        raise wrong(f"must have a string or a list of strings as options, not {options!r:.60}")
    return tuple(options)


def _command(hook: Hook, script: Path) -> list[str]:
    """Return the command that starts a hook."""
    from importlib import metadata

    if hook.kind == "executable":
        return [_executable(hook, script)]
    if hook.kind == "module":
        if not _is_module(hook):
            raise _failed(hook, script, "is not installed here")
        return [sys.executable, "-m", hook.target]
    for entry in metadata.entry_points(group="console_scripts", name=hook.target):
        return [sys.executable, "-c", _CALL.format(name=hook.target, value=entry.value)]
    raise _failed(hook, script, "is not installed here")


def _is_module(hook: Hook) -> bool:
    """Return whether ``python -m`` would find the package of a module.

    The module within the package is not checked, because that would import the package.
    """
    from importlib import machinery, util

    package = hook.target.partition(".")[0]
    try:
        found = util.find_spec(package)
    except ValueError:
        found = None
    return bool(package) and bool(found or machinery.PathFinder.find_spec(package, [os.fspath(hook.folder or Path())]))


def _executable(hook: Hook, script: Path) -> str:
    import shutil

    found = shutil.which(hook.target)
    if found is None:
        raise _failed(hook, script, "is not a program on this machine")
    return os.path.abspath(found)


def _failed(hook: Hook, script: Path, what: str) -> MigrateError:
    kind = hook.kind.replace("_", " ")
    return MigrateError(f"the hook {hook.target} ({kind}) {what}; the script was written anyway: {script}")
