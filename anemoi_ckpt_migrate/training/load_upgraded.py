"""Loading of checkpoints as if they had been upgraded, with files unchanged."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from anemoi_ckpt_migrate.commands.upgrade import upgrade
from anemoi_ckpt_migrate.errors import CannotWrite, MigrateError, UsageError
from anemoi_ckpt_migrate.project.project import Project, opened_all
from anemoi_ckpt_migrate.revisions import planner, targets
from anemoi_ckpt_migrate.runtime.session import session_on
from anemoi_ckpt_migrate.runtime.write_options import WriteOptions
from anemoi_ckpt_migrate.storage import Checkpoint, check_whole, open_checkpoint
from anemoi_ckpt_migrate.storage.path_arguments import StrPath, annotate_errors
from anemoi_ckpt_migrate.storage.url import Location, url_of

_LOGGER = logging.getLogger(__name__)


def load(
    checkpoint: StrPath,
    target: str = "head",
    *,
    project: Project | StrPath | None = None,
    chain: str | Iterable[str] = (),
    trust_checkpoint_code: bool = False,
    **options: Any,
) -> Any:
    """Load a checkpoint as if it had been upgraded. The checkpoint stays unchanged.

    A file of torch is upgraded in a temporary copy (see ``TMPDIR``); for all other formats, nothing is written.

    Parameters
    ----------
    checkpoint : path
        The file.
    target : str
        As for `upgrade`.
    project, chain
        As for `Stamper`.
    trust_checkpoint_code : bool
        As for `upgrade`.
    **options
        Options of `torch.load`. For other formats, only `map_location` means something, and only a device.

    Returns
    -------
    object
        The upgraded checkpoint, with its record if that is part of the tree: what `torch.load` returns. For other
        formats, its tree, for example a dict of tensors; the content of a tensor is read when you use it.

    Raises
    ------
    MigrateError
        As for `upgrade`.
    """
    projects = list(opened_all(project, chain))
    with annotate_errors(checkpoint), open_checkpoint(checkpoint) as file:
        if not file.is_of_torch:
            check_whole(checkpoint)
            device = _device(options.get("map_location"))
            moved = _in_memory(file, checkpoint, target, projects, trust_checkpoint_code).load_content()
            return moved if device is None else _on(device, moved)
    with upgraded_by(projects, checkpoint, target, trust_checkpoint_code) as path, annotate_errors(checkpoint):
        from anemoi_ckpt_migrate.storage.tensors.torch_library import torch

        return torch.load(path, **options)


def _in_memory(
    file: Checkpoint, checkpoint: StrPath, target: str, projects: Iterable[Project], trusted: bool
) -> Checkpoint:
    """Return a checkpoint upgraded for each of several projects, without writing it."""
    wanted, options = targets.parse(target), WriteOptions(trust_checkpoint_code=trusted, copy_shared=True)
    for project in projects:
        with session_on(file, checkpoint, project, options) as session:
            graph = session.graph([wanted])
            plan = planner.plan_upgrade(graph, session.record, wanted, project.config.package)
            for warning in session.notes:
                _LOGGER.warning("%s: %s", checkpoint, warning)
            file = session.draft("upgrade", target, graph, plan)
    return file


def _device(given: Any) -> Any:
    """Return the device that a caller names; None if it names none."""
    from anemoi_ckpt_migrate.storage.tensors.torch_library import torch

    try:
        return None if given is None else torch.device(given)
    except (TypeError, RuntimeError):
        raise UsageError(f"map_location is one device for this format, such as 'cpu', not {given!r:.80}") from None


def _on(device: Any, tree: Any) -> Any:
    """Return a tree with its tensors on a device."""
    if isinstance(tree, dict):
        return {name: _on(device, each) for name, each in tree.items()}
    if isinstance(tree, list):
        return [_on(device, each) for each in tree]
    return tree.to(device) if hasattr(tree, "to") else tree


def upgraded(
    checkpoint: StrPath,
    target: str = "head",
    *,
    project: Project | StrPath | None = None,
    chain: str | Iterable[str] = (),
    trust_checkpoint_code: bool = False,
) -> AbstractContextManager[Path]:
    """Return a context manager with the path of an upgraded copy; the checkpoint's own path if there is nothing to do.

    The copy is a temporary file (see ``TMPDIR``), which is removed afterwards. A URL is always copied.

    Parameters
    ----------
    checkpoint, target, project, chain, trust_checkpoint_code
        As for `load`.

    Raises
    ------
    MigrateError
        As for `upgrade`.
    """
    return upgraded_by(opened_all(project, chain), checkpoint, target, trust_checkpoint_code)


@contextmanager
def upgraded_by(projects: Iterable[Project], checkpoint: StrPath, target: str, trusted: bool = False) -> Iterator[Path]:
    """Yield the path of a checkpoint that was upgraded for each of several projects, as `upgraded` does."""
    with ExitStack() as copies:
        path: Location = url_of(checkpoint) or Path(checkpoint)
        for project in projects:
            path = _upgraded(path, target, project, copies, checkpoint, trusted)
        yield Path(path)


def _upgraded(
    path: Location, target: str, project: Project, copies: ExitStack, checkpoint: StrPath, trusted: bool
) -> Path:
    """Return the path of a copy upgraded for one project; that of a local file itself, if there is nothing to do."""
    try:
        planned = upgrade(path, target, project=project, dry_run=True, trust_checkpoint_code=trusted, copy_shared=True)
        for warning in planned.warnings:
            _LOGGER.warning("%s: %s", checkpoint, warning)
        if not planned.steps and isinstance(path, Path):
            return path
        output = Path(copies.enter_context(tempfile.TemporaryDirectory(prefix="ckpt-migrate-")), path.name)
        upgrade(path, target, project=project, output=output, trust_checkpoint_code=trusted, copy_shared=True)
    except (CannotWrite, OSError) as error:
        reason = error.sentence if isinstance(error, CannotWrite) else error.strerror
        where = "it goes to the folder of temporary files; set TMPDIR to use another"
        raise CannotWrite(f"the upgraded copy could not be written ({reason}); {where}").about(checkpoint) from error
    except MigrateError as error:
        error.checkpoint = os.fspath(checkpoint)  # not the copy upgraded for the chain before
        raise
    return output
