"""The command that brings a checkpoint up along its history: upgrade."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anemoi_ckpt_migrate.project.project import Project, resolve_project
from anemoi_ckpt_migrate.revisions import planner, targets
from anemoi_ckpt_migrate.runtime.session import open_session
from anemoi_ckpt_migrate.runtime.write_options import WriteOptions, folder_options
from anemoi_ckpt_migrate.storage.path_arguments import Progress, StrPath, checked_output

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.runtime.output_options import Function, OutputOptions
    from anemoi_ckpt_migrate.runtime.result import Result


def upgrade(
    checkpoint: StrPath,
    target: str = "head",
    *,
    project: Project | StrPath | None = None,
    chain: str | None = None,
    output: StrPath | None = None,
    backup: bool = True,
    in_place: bool = False,
    verify: bool = False,
    check_model: bool = True,
    dry_run: bool = False,
    check_rollback: bool = False,
    trust_checkpoint_code: bool = False,
    copy_shared: bool = False,
    hard_link: bool = False,
    max_shard_size: int | str | None = None,
    known_only: bool = False,
    outputs: Function | None = None,
    expect_outputs: StrPath | None = None,
    tolerance: float | None = None,
    progress: Progress | None = None,
) -> Result:
    """Bring a checkpoint up to a target.

    Parameters
    ----------
    checkpoint : path
        The file.
    target : str
        ``head``, ``heads``, ``barrier``, ``+N``, ``REV+N``, ``LABEL@TARGET``, a specifier of the tracked package, a
        full or partial revision id, a label or a name.
    project : Project or path, optional
        The project with the scripts; by default that of the current folder.
    chain : str, optional
        The chain of an installed package to use in place of a project.
    output : path, optional
        Write to this path, and leave the checkpoint unchanged.
    backup : bool
        Keep the old file beside the new one.
    in_place : bool
        Write into the file and move nothing, so that large files need no copy; there is no backup. To a file of torch
        the new data is appended. It contains the old file, which `downgrade` can restore, and unused bytes stay until
        `compact`. In a safetensors file the header is replaced, if the new one fits.
    verify : bool
        First check the CRC of every entry of the file.
    check_model : bool
        Before the result is written, compare it with the manifest's state of the target, or with the configured model.
        A checkpoint without a record is compared with the manifest's state at base before anything is run.
    dry_run : bool
        Only plan, and try operations on names, shapes and dtypes.
    check_rollback : bool
        Before anything is written, upgrade and downgrade this checkpoint, and compare the result with the original.
    trust_checkpoint_code : bool
        Let the pickle name functions that can run code when it is loaded, even if it named none before.
    copy_shared : bool
        Write tensors that share memory (tied weights) one by one into a safetensors file, which cannot share it. A file
        of torch shares it in any case.
    hard_link : bool
        For a folder of Hugging Face: share files that do not change with the backup, although whoever truncates the
        one then truncates the other.
    max_shard_size : int or str, optional
        For a folder of Hugging Face: the most bytes of tensors in a file, as a number or as ``5GB``. By default, no
        shard grows beyond the largest old one.
    known_only : bool
        Refuse a checkpoint without a record, unless the operations of the plan fit its parameters, or the manifest or
        the project's `recognise` knows it.
    outputs : str or callable, optional
        A function of the user's code, or its place as ``package.module:function``. It computes outputs from the loaded
        checkpoint: a tensor or a number, or dicts, lists and tuples of them. It is called with the checkpoint before
        and after the upgrade, from the same seeds, and, if it has an argument `revisions`, with a tuple of the heads.
        If the two outputs differ by more than the tolerance, nothing is written.
    expect_outputs : path, optional
        A file of outputs that `check` recorded earlier; take these for the outputs before the upgrade.
    tolerance : float, optional
        The absolute and the relative tolerance for floating point outputs; by default that of each dtype, as
        `torch.testing.assert_close` has it.
    progress : callable, optional
        Called from time to time with the number of bytes copied.

    Returns
    -------
    Result
        The result; it has no steps if the checkpoint was at the target already.

    Raises
    ------
    MigrateError
        Nothing was changed; the class of the error tells the reason.
    """
    found, wanted = resolve_project(project, chain), targets.parse(target)
    options = WriteOptions(
        output=checked_output(output),
        backup=backup,
        in_place=in_place,
        verify=verify,
        dry_run=dry_run,
        check_model=check_model,
        check_rollback=check_rollback,
        trust_checkpoint_code=trust_checkpoint_code,
        copy_shared=copy_shared,
        folder=folder_options(hard_link, max_shard_size),
        known_only=known_only,
        outputs=_output_options(outputs, tolerance, expect_outputs),
        progress=progress,
    )
    with open_session(checkpoint, found, options) as session:
        graph = session.graph([wanted])
        plan = session.planned(lambda: planner.plan_upgrade(graph, session.record, wanted, found.config.package))
        return session.run("upgrade", target, graph, plan)


def _output_options(
    outputs: Function | None, tolerance: float | None, expected: StrPath | None
) -> OutputOptions | None:
    """Return the options of a comparison of outputs. Most upgrades have none, and do not import them."""
    if outputs is None and tolerance is None and expected is None:
        return None
    from anemoi_ckpt_migrate.runtime.output_options import output_options

    return output_options(outputs, tolerance, expected)
