"""The project's configuration: ``[tool.ckpt-migrate]`` in ``pyproject.toml``, or ``ckpt-migrate.toml``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.errors import ConfigurationError, NoConfiguration
from anemoi_ckpt_migrate.util.dataclass import dataclass, field
from anemoi_ckpt_migrate.util.lazy_regex import lazy_regex

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.scripts.hooks import Hook

OWN_FILE, SHARED_FILE, TABLE = "ckpt-migrate.toml", "pyproject.toml", "ckpt-migrate"
TEMPLATE = "script.py.mako"
RECOGNISER = "_recognise.py"
"""A file beside the scripts with a function ``recognise(ckpt)``, which returns the id of a revision, or None."""
FILE_TOKENS = ("rev", "slug", "epoch", "year", "month", "day", "hour", "minute", "second")
FACTORY = lazy_regex(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
"""The pattern of ``package.module:function``."""
_LONGEST_SLUG, _LONGEST_NAME = 200, 240


@dataclass(frozen=True)
class Config:
    """The configuration of a project.

    Attributes
    ----------
    path : Path
        The configuration file.
    versions : tuple of Path
        Folders of the migration scripts; new ones go to the first.
    template : Path or None
        Mako template of new scripts; None for the one of this package.
    package : str or None
        The tracked package, whose version new scripts note.
    trusted : tuple of str
        Modules whose classes are really built if a checkpoint names them, with all submodules.
    recursive : bool
        Whether scripts in subfolders are read too.
    file_template : str
        The pattern for file names of new scripts, made of `FILE_TOKENS`, without the ending.
    timezone : str
        The time zone of dates in new scripts: a name of the tz database, in upper or lower case.
    slug_length : int
        The maximum length of the slug in the file name of a new script.
    hooks : tuple of Hook
        Commands that are run on each new script.
    parameters : str or None
        The path of the state dict in checkpoints, as keys joined by dots; None to find it.
    several_heads : bool
        Whether more than one head is allowed.
    head_file : bool
        Whether a file lists the heads too, so that version control reports a conflict if two people add one.
    models : mapping of str to str
        The project's models: a function that makes each, as ``package.module:factory``, by name.
    hyper_parameters : str
        The path of hyper-parameters in checkpoints, as keys joined by dots.
    other_tool : str
        The other tool whose migrations the scripts stand for: the name of an entry point; empty for the built-in one.
    chain : str
        The name of the published chain; empty for a project.
    """

    path: Path
    versions: tuple[Path, ...]
    template: Path | None
    package: str | None = None
    trusted: tuple[str, ...] = ()
    recursive: bool = False
    file_template: str = "%(rev)s_%(slug)s"
    timezone: str = "UTC"
    slug_length: int = 40
    hooks: tuple[Hook, ...] = ()
    parameters: str | None = None
    several_heads: bool = False
    head_file: bool = False
    models: Mapping[str, str] = field(default_factory=dict)
    hyper_parameters: str = "hyper_parameters"
    other_tool: str = ""
    chain: str = ""

    @property
    def recogniser(self) -> Path | None:
        """The file with `recognise`, which finds the revision of checkpoints without a record, if there is one."""
        path = self.versions[0] / RECOGNISER
        return path if path.is_file() else None

    @property
    def folder(self) -> Path:
        """The folder to which paths in the configuration are relative."""
        return self.path.absolute().parent


def find_config(given: Path | None = None) -> Config:
    """Find and read the configuration.

    Parameters
    ----------
    given : Path, optional
        The file, or its folder. By default the current folder and those above it are searched.

    Raises
    ------
    ConfigurationError
        There is no configuration, or it is wrong.
    """
    if given is not None:
        found = in_folder(given) if given.is_dir() else _from_file(given)
        if found is None:
            raise NoConfiguration(f"{given} has no configuration of ckpt-migrate; `ckpt-migrate init` writes one")
        return found
    try:
        here = Path.cwd()
    except FileNotFoundError:
        raise NoConfiguration("the current folder was removed; go to another folder, or use --config") from None
    for folder in (here, *here.parents):
        found = in_folder(folder)
        if found is not None:
            return found
    raise NoConfiguration(
        f"no configuration found in {here} or above ([tool.{TABLE}] in {SHARED_FILE}, or {OWN_FILE}); "
        "run `ckpt-migrate init` to write one, or name one with --config"
    )


def in_folder(folder: Path) -> Config | None:
    """Return the configuration in a folder, if there is one.

    Raises
    ------
    ConfigurationError
        It is wrong, or the folder has two.
    """
    paths = [folder / name for name in (SHARED_FILE, OWN_FILE) if (folder / name).is_file()]
    found = [config for config in map(_from_file, paths) if config is not None]
    if len(found) > 1:
        raise ConfigurationError(f"{folder} has two configurations, in {SHARED_FILE} and {OWN_FILE}; remove one")
    return found[0] if found else None


def _from_file(path: Path) -> Config | None:
    table = read_toml(path)
    if path.name == SHARED_FILE:
        tools = table.get("tool")
        if not isinstance(tools, dict) or TABLE not in tools:
            return None
        table = tools[TABLE]
    return _checked(path, table)


def _checked(path: Path, table: Any) -> Config:
    if not isinstance(table, dict):
        raise ConfigurationError(f"{path}: tool.{TABLE} must be a table")
    for key, value in table.items():
        if key not in _CHECKS:
            raise ConfigurationError(f"{path}: unknown key {key!r}; the keys are {', '.join(_CHECKS)}")
        wrong = _CHECKS[key](value)
        if wrong is not None:
            raise ConfigurationError(f"{path}: {key} must be {wrong}, not {value!r:.60}")
    if "/" in table.get("file_template", "") and not table.get("recursive", False):
        raise ConfigurationError(f"{path}: file_template names folders, which needs recursive = true")
    folder = path.absolute().parent
    versions = table.get("versions", "versions")
    template = folder / table.get("template", f"templates/{TEMPLATE}")
    found = {key: table[key] for key in _PLAIN if key in table}
    return Config(
        path,
        tuple(folder / name for name in ([versions] if isinstance(versions, str) else versions)),
        template if "template" in table or template.exists() else None,
        trusted=tuple(table.get("trusted", ())),
        hooks=_hooks(path, table["hooks"]) if "hooks" in table else (),
        **found,
    )


def _hooks(path: Path, table: Any) -> tuple[Hook, ...]:
    from anemoi_ckpt_migrate.scripts.hooks import parse_hooks

    return parse_hooks(path, table)


def _no_text(value: Any) -> str | None:
    return None if isinstance(value, str) and value else "a string"


def _no_truth(value: Any) -> str | None:
    return None if isinstance(value, bool) else "true or false"


def _no_folders(value: Any) -> str | None:
    many = isinstance(value, list) and value and all(isinstance(name, str) and name for name in value)
    return None if many or (isinstance(value, str) and value) else "a string, or a list of strings"


def _no_length(value: Any) -> str | None:
    right = isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _LONGEST_SLUG
    return None if right else f"a number of letters from 1 to {_LONGEST_SLUG}"


def _no_modules(value: Any) -> str | None:
    names = value if isinstance(value, list) else [None]
    right = all(isinstance(name, str) and all(part.isidentifier() for part in name.split(".")) for name in names)
    return None if right else 'a list of names of modules, such as ["mypackage.config"]'


def _no_models(value: Any) -> str | None:
    pairs = value.items() if isinstance(value, dict) else [("", "")]
    right = all(name and isinstance(text, str) and FACTORY.fullmatch(text) for name, text in pairs)
    return None if right else 'a table of functions that make models, such as gt = "mypackage.models:build_gt"'


def _no_zone(value: Any) -> str | None:
    from anemoi_ckpt_migrate.util.time_zones import zone

    known = isinstance(value, str) and zone(value) is not None
    return None if known else 'the name of a time zone, such as "Europe/Berlin"'


def _no_file_names(value: Any) -> str | None:
    tokens = dict.fromkeys(FILE_TOKENS, 1) | {"rev": "rev", "slug": "slug"}
    try:
        name = value % tokens
    except (KeyError, TypeError, ValueError, OverflowError, MemoryError):
        name = ""
    parts = name.split("/") if isinstance(name, str) else [""]
    right = isinstance(value, str) and all(part and part[0] not in "_." and len(part) < _LONGEST_NAME for part in parts)
    return None if right else 'a pattern such as "%(rev)s_%(slug)s", of ' + ", ".join(FILE_TOKENS)


# A check for the value of each key: returns a description of the right values, or None if the value is right.
_CHECKS: dict[str, Callable[[Any], str | None]] = {
    "versions": _no_folders,
    "recursive": _no_truth,
    "template": _no_text,
    "package": _no_text,
    "trusted": _no_modules,
    "file_template": _no_file_names,
    "timezone": _no_zone,
    "slug_length": _no_length,
    "hooks": lambda value: None,  # parse_hooks checks these in detail
    "parameters": lambda value: None if isinstance(value, str) else "a string",
    "several_heads": _no_truth,
    "head_file": _no_truth,
    "models": _no_models,
    "hyper_parameters": _no_text,
    "other_tool": _no_text,
}
_PLAIN = (
    "recursive",
    "package",
    "file_template",
    "timezone",
    "slug_length",
    "parameters",
    "several_heads",
    "head_file",
    "models",
    "hyper_parameters",
    "other_tool",
)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises
    ------
    ConfigurationError
        The file cannot be read.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        table: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"the configuration {path} cannot be read ({error.strerror})") from error
    except ValueError as error:  # not TOML, or not UTF-8
        raise ConfigurationError(f"the configuration {path} cannot be read: {error}") from error
    return table
