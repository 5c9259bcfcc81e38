"""The files of a new project, and the template of new scripts."""

from __future__ import annotations

import json
from pathlib import Path

from anemoi_ckpt_migrate.errors import CannotWrite, ConfigurationError
from anemoi_ckpt_migrate.project.config import OWN_FILE, SHARED_FILE, TABLE, TEMPLATE, Config, in_folder, read_toml
from anemoi_ckpt_migrate.util.dataclass import dataclass


@dataclass(frozen=True)
class CreatedPath:
    """The result of `lay_out` for one file or folder.

    Attributes
    ----------
    path : Path
        The file or folder.
    done : str
        ``created``, ``extended`` or ``kept``.
    """

    path: Path
    done: str


def lay_out(folder: Path, package: str | None = None) -> list[CreatedPath]:
    """Make a folder a project: configuration, ``versions/``, a copy of the template. Existing files are kept.

    Parameters
    ----------
    folder : Path
        The folder; created if it does not exist.
    package : str, optional
        The tracked package; by default the one that ``pyproject.toml`` describes, if any.

    Raises
    ------
    ConfigurationError
        The existing configuration or ``pyproject.toml`` is wrong.
    CannotWrite
        The files cannot be written.
    """
    existing = in_folder(folder)
    shared = folder / SHARED_FILE
    if package is None and existing is None and shared.is_file():
        described = read_toml(shared).get("project")
        package = described.get("name") if isinstance(described, dict) else None
    config = existing or config_of_new(folder)
    template = config.template or folder / "templates" / TEMPLATE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        laid = [CreatedPath(existing.path, "kept")] if existing else [_configure(folder, package)]
        for versions in config.versions:
            laid.append(CreatedPath(versions, "kept" if versions.is_dir() else "created"))
            versions.mkdir(parents=True, exist_ok=True)
        laid.append(CreatedPath(template, "kept" if template.exists() else "created"))
        if laid[-1].done == "created":
            template.parent.mkdir(parents=True, exist_ok=True)
            template.write_text(read_template(None), encoding="utf-8")
    except OSError as error:
        raise CannotWrite(f"the project could not be written to {folder} ({error.strerror})") from error
    return laid


def config_of_new(folder: Path) -> Config:
    """Return the configuration that `lay_out` writes to a folder without one."""
    return Config(folder / OWN_FILE, (folder / "versions",), folder / "templates" / TEMPLATE)


def read_template(path: Path | None) -> str:
    """Return the text of a template; without a path, of the one in this package.

    Raises
    ------
    ConfigurationError
        The template cannot be read.
    """
    from importlib import resources

    found = resources.files("anemoi_ckpt_migrate.templates") / TEMPLATE if path is None else path
    try:
        return found.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigurationError(f"the template {found} cannot be read ({reason})") from error


def _configure(folder: Path, package: str | None) -> CreatedPath:
    shared = folder / SHARED_FILE
    lines = ['versions = "versions"', f'template = "templates/{TEMPLATE}"']
    unset = '# package = "NAME"  # scripts note its version'
    lines.append(f"package = {json.dumps(str(package))}" if package else unset)
    if shared.is_file():
        before = shared.read_bytes()
        end = b"\r\n" if b"\r\n" in before else b"\n"
        gap = b"" if not before or before.endswith(end * 2) else end if before.endswith(end) else end * 2
        added = [line.encode() for line in (f"[tool.{TABLE}]", *lines, "")]
        shared.write_bytes(before + gap + end.join(added))
        return CreatedPath(shared, "extended")
    own = folder / OWN_FILE
    own.write_text("\n".join([*lines, ""]), encoding="utf-8")
    return CreatedPath(own, "created")
