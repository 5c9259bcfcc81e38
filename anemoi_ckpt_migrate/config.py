"""The project's configuration: ``[tool.ckpt-migrate]`` in ``pyproject.toml``, or ``ckpt-migrate.toml``."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anemoi_ckpt_migrate.errors import CannotWrite, ConfigurationError, NoConfiguration

OWN_FILE, SHARED_FILE, TABLE = "ckpt-migrate.toml", "pyproject.toml", "ckpt-migrate"
TEMPLATE = "script.py.mako"
_KEYS = ("versions", "template", "package", "trusted")


@dataclass(frozen=True)
class Config:
    """Where a project keeps what.

    Attributes
    ----------
    path : Path
        The file that says so.
    versions : Path
        Folder of the migration scripts.
    template : Path or None
        Mako template of a new script; None for the one that ships with this package.
    package : str or None
        The tracked package: whose versions the scripts note.
    trusted : tuple of str
        Modules whose classes are built for real where a checkpoint names them, with all that lies below.
    """

    path: Path
    versions: Path
    template: Path | None
    package: str | None = None
    trusted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Laid:
    """What `lay_out` did with one file or folder.

    Attributes
    ----------
    path : Path
        Which.
    done : str
        ``created``, ``extended`` or ``kept``.
    """

    path: Path
    done: str


def find_config(given: Path | None = None) -> Config:
    """Find and read the configuration.

    Parameters
    ----------
    given : Path, optional
        The file, or its folder. Without it the current folder and those above it are searched.

    Raises
    ------
    ConfigurationError
        There is none, or it is wrong.
    """
    if given is not None:
        found = _in_folder(given) if given.is_dir() else _from_file(given)
        if found is None:
            raise NoConfiguration(f"{given} holds no configuration of ckpt-migrate; `ckpt-migrate init` makes one")
        return found
    here = Path.cwd()
    for folder in (here, *here.parents):
        found = _in_folder(folder)
        if found is not None:
            return found
    raise NoConfiguration(
        f"no configuration found in {here} or above ([tool.{TABLE}] in {SHARED_FILE}, or {OWN_FILE}); "
        "`ckpt-migrate init` makes one, --config names one elsewhere"
    )


def lay_out(folder: Path, package: str | None = None) -> list[Laid]:
    """Make a folder a project: configuration, ``versions/``, a copy of the template. What is there is kept.

    Parameters
    ----------
    folder : Path
        Made if it does not exist.
    package : str, optional
        The tracked package; the project's own by default, where ``pyproject.toml`` names it.

    Raises
    ------
    ConfigurationError
        ``pyproject.toml`` cannot be read.
    CannotWrite
        The folder does not take the files.
    """
    existing = _in_folder(folder)
    shared = folder / SHARED_FILE
    if package is None and existing is None and shared.is_file():
        described = _parse(shared).get("project")
        package = described.get("name") if isinstance(described, dict) else None
    config = existing or Config(folder, folder / "versions", folder / "templates" / TEMPLATE)
    template = config.template or folder / "templates" / TEMPLATE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        laid = [Laid(existing.path, "kept")] if existing else [_configure(folder, package)]
        laid.append(Laid(config.versions, "kept" if config.versions.is_dir() else "created"))
        config.versions.mkdir(parents=True, exist_ok=True)
        laid.append(Laid(template, "kept" if template.exists() else "created"))
        if laid[-1].done == "created":
            template.parent.mkdir(parents=True, exist_ok=True)
            template.write_text(read_template(None), encoding="utf-8")
    except OSError as error:
        raise CannotWrite(f"the project could not be laid out in {folder} ({error.strerror})") from error
    return laid


def read_template(path: Path | None) -> str:
    """Return the text of a template; without a path, of the one that ships with this package.

    Raises
    ------
    ConfigurationError
        It cannot be read.
    """
    from importlib import resources

    found = resources.files("anemoi_ckpt_migrate.templates") / TEMPLATE if path is None else path
    try:
        return found.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigurationError(f"the template {found} cannot be read ({reason})") from error


def _configure(folder: Path, package: str | None) -> Laid:
    shared = folder / SHARED_FILE
    lines = ['versions = "versions"', f'template = "templates/{TEMPLATE}"']
    unset = '# package = "NAME"  # whose versions the scripts note'
    lines.append(f"package = {json.dumps(str(package))}" if package else unset)
    if shared.is_file():
        before = shared.read_bytes()
        end = b"\r\n" if b"\r\n" in before else b"\n"
        gap = b"" if not before or before.endswith(end * 2) else end if before.endswith(end) else end * 2
        added = [line.encode() for line in (f"[tool.{TABLE}]", *lines, "")]
        shared.write_bytes(before + gap + end.join(added))
        return Laid(shared, "extended")
    own = folder / OWN_FILE
    own.write_text("\n".join([*lines, ""]), encoding="utf-8")
    return Laid(own, "created")


def _in_folder(folder: Path) -> Config | None:
    paths = [folder / name for name in (SHARED_FILE, OWN_FILE) if (folder / name).is_file()]
    found = [config for config in map(_from_file, paths) if config is not None]
    if len(found) > 1:
        raise ConfigurationError(f"{folder} has two configurations, in {SHARED_FILE} and {OWN_FILE}; remove one")
    return found[0] if found else None


def _from_file(path: Path) -> Config | None:
    table = _parse(path)
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
        if key not in _KEYS:
            raise ConfigurationError(f"{path}: unknown key {key!r}; there are {', '.join(_KEYS)}")
        if key == "trusted":
            _check_modules(path, value)
        elif not isinstance(value, str) or not value:
            raise ConfigurationError(f"{path}: {key} must be a string, not {value!r:.60}")
    folder = path.absolute().parent
    versions = folder / table.get("versions", "versions")
    template: Path | None = folder / table.get("template", f"templates/{TEMPLATE}")
    if "template" not in table and template is not None and not template.exists():
        template = None
    return Config(path, versions, template, table.get("package"), tuple(table.get("trusted", ())))


def _check_modules(path: Path, value: Any) -> None:
    names = value if isinstance(value, list) else [value]
    for name in names:
        if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
            raise ConfigurationError(f"{path}: trusted must list names of modules, not {name!r:.60}")
    if names is not value:
        raise ConfigurationError(f'{path}: trusted must be a list: ["{value}"]')


def _parse(path: Path) -> dict[str, Any]:
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
