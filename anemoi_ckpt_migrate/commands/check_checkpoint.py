"""The part of `check` that is about one checkpoint."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

from anemoi_ckpt_migrate.commands.check_result import Checked, Problem
from anemoi_ckpt_migrate.commands.current import current
from anemoi_ckpt_migrate.commands.prove_rollback import prove_rollback
from anemoi_ckpt_migrate.commands.upgrade import upgrade
from anemoi_ckpt_migrate.errors import USAGE, MigrateError, Unrelated, UsageError, shown_path
from anemoi_ckpt_migrate.manifests import manifest_file
from anemoi_ckpt_migrate.project.project import Project, resolve_project
from anemoi_ckpt_migrate.runtime.model_check import ModelCheck
from anemoi_ckpt_migrate.runtime.session import open_session
from anemoi_ckpt_migrate.runtime.write_options import WriteOptions
from anemoi_ckpt_migrate.util.dataclass import replace

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.runtime.output_options import Function, OutputOptions, RecordedOutputs
    from anemoi_ckpt_migrate.storage.path_arguments import StrPath


def check_checkpoint(
    checkpoint: StrPath,
    *,
    rollback: bool = False,
    known_only: bool = False,
    outputs: Function | None = None,
    save_outputs: StrPath | None = None,
    expect_outputs: StrPath | None = None,
    tolerance: float | None = None,
    project: Project | StrPath | None = None,
) -> Checked:
    """Check that a checkpoint is at head; or instead, that its rollbacks hold, or that upgrading keeps its outputs.

    Parameters
    ----------
    checkpoint : path
        The file.
    rollback : bool
        Try its rollbacks instead, as `prove_rollback` does. Nothing is written.
    known_only : bool
        Refuse a checkpoint without a record that nothing ties to the project.
    outputs, expect_outputs, tolerance
        Compare the outputs before and after an upgrade to the heads instead, as for `upgrade`. Nothing is written.
    save_outputs : path, optional
        Compare nothing, but write the outputs of the checkpoint as it is to this new file.
    project : Project or path, optional
        The project with the scripts; by default that of the current folder.

    Returns
    -------
    Checked
        Errors of the checkpoint are problems in it.

    Raises
    ------
    Unrelated
        Only with `known_only`.
    NoCheckpointInFolder
        It is a folder that is no checkpoint.
    UsageError
        The options make no sense, or the function does not exist.
    """
    found = resolve_project(project)
    compared = check_options(outputs, save_outputs, expect_outputs, tolerance)
    if compared is not None or rollback:
        return _tried(checkpoint, found, rollback, known_only, compared, save_outputs)
    try:
        place = current(checkpoint, project=found)
        if known_only and not place.recorded:
            _check_known(checkpoint, found)
    except Unrelated:
        raise
    except MigrateError as error:
        if error.exit_code == USAGE:
            raise
        return Checked(0, 1, (Problem("checkpoint", error.sentence, os.fspath(checkpoint), pending=False),))
    if place.at_head:
        return _ordered(checkpoint, found)
    if place.at_head is None:
        return Checked(0, 1, ())
    at = ", ".join(head.revision for head in place.heads) or "base"
    at += ", recognised but not recorded" * place.recognised
    way = _way_to_head(checkpoint, found)
    return Checked(0, 1, (Problem("checkpoint", f"it is at {at}, not at head; {way}", os.fspath(checkpoint)),))


def _ordered(checkpoint: StrPath, project: Project) -> Checked:
    """Compare the order of parameters in a checkpoint at head with that of its model."""
    if not (project.config.versions[0] / manifest_file.NAME).exists():
        return Checked(0, 1, ())
    shown = os.fspath(checkpoint)
    try:
        with open_session(checkpoint, project, WriteOptions(dry_run=True)) as session:
            graph, heads = session.graph(), session.record.heads
            order = ModelCheck(project, graph, heads, session.file, True, session.record).order_of(session.tree)
    except MigrateError as error:
        return Checked(0, 1, (Problem("checkpoint", error.sentence, shown, pending=False),))
    if order is None:
        return Checked(0, 1, ())
    moved = f"its parameters are in another order than those of the model {order.model}"
    wrong = [each for each in order.optimizers if each.number is not None]
    if wrong:
        way = "a revision with this operation puts both in order"
        message = f"{moved}: {wrong[0].sentence}; {way}"
        return Checked(0, 1, (Problem("order", message, shown, details=order.operations),))
    doubts = [each.sentence for each in order.optimizers] or ["no optimizer depends on it"]
    return Checked(0, 1, (), notes=(f"{shown_path(shown)}: {moved}: {doubts[0]}",))


def check_options(
    outputs: Function | None, saved: StrPath | None, expected: StrPath | None, tolerance: float | None
) -> OutputOptions | None:
    """Return the options of a comparison of outputs; None if there is none.

    Raises
    ------
    UsageError
        They make no sense.
    """
    if saved is not None and outputs is None:
        raise UsageError("--save-outputs needs --outputs, the function that computes the outputs")
    if saved is not None and (expected is not None or tolerance is not None):
        raise UsageError("--save-outputs compares nothing: leave out --expect-outputs and --tolerance")
    from anemoi_ckpt_migrate.runtime.output_options import output_options

    return output_options(outputs, tolerance, expected)


def _tried(
    checkpoint: StrPath,
    project: Project,
    rollback: bool,
    known_only: bool,
    compared: OutputOptions | None,
    saved: StrPath | None,
) -> Checked:
    """Try the rollbacks of a checkpoint, and compare its outputs, as far as this is wanted."""
    found, kind, shown = Checked(0, 1, ()), "rollback", os.fspath(checkpoint)
    try:
        if known_only:
            _check_known(checkpoint, project)
        if rollback:
            found = replace(found, proofs=(prove_rollback(checkpoint, project=project),))
        kind = "outputs"
        if compared is not None and saved is not None:
            found = replace(found, recorded=(_record(checkpoint, project, compared, os.fspath(saved)),))
        elif compared is not None:
            proof = upgrade(
                checkpoint,
                "heads",
                project=project,
                dry_run=True,
                outputs=compared.function,
                expect_outputs=compared.expected,
                tolerance=compared.tolerance,
            ).outputs
            nothing = f"{shown_path(shown)}: outputs were not compared, because it is at head"
            found = replace(found, notes=(nothing,)) if proof is None else replace(found, outputs=(proof,))
    except Unrelated:
        raise
    except MigrateError as error:
        if error.exit_code == USAGE:
            raise
        return replace(found, problems=(Problem(kind, error.sentence, shown, pending=False),))
    return found


def _record(checkpoint: StrPath, project: Project, options: OutputOptions, path: str) -> RecordedOutputs:
    """Compute the outputs of a checkpoint as it is, and write them to a file."""
    from anemoi_ckpt_migrate.runtime.outputs import record

    with open_session(checkpoint, project, WriteOptions(dry_run=True)) as session:
        return record(options, project.config.folder, session.file, session.record.heads, path)


def _way_to_head(path: StrPath, project: Project) -> str:
    target = "heads" if len(project.graph.heads) > 1 else "head"
    try:
        upgrade(path, target, project=project, dry_run=True)
    except MigrateError as error:
        return error.sentence
    chain = f"--chain {shlex.quote(project.config.chain)} " if project.config.chain else ""
    return f"`ckpt-migrate {chain}upgrade {target} {shlex.quote(os.fspath(path))}`"


def _check_known(path: StrPath, project: Project) -> None:
    """Raise Unrelated for a checkpoint that nothing ties to the project; other errors belong to the check itself."""
    try:
        upgrade(path, "heads", project=project, dry_run=True, known_only=True)
    except Unrelated:
        raise
    except MigrateError:
        return
