"""The command that shows the content of a checkpoint: inspect."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.errors import DamagedLedger, DamagedRecord, NewerRecord, NotACheckpoint
from anemoi_ckpt_migrate.other_tools.find import find_tool
from anemoi_ckpt_migrate.other_tools.read_list import history, listed
from anemoi_ckpt_migrate.project.project import Project, config_of
from anemoi_ckpt_migrate.record import embed
from anemoi_ckpt_migrate.record.record import Record, to_data
from anemoi_ckpt_migrate.storage import Checkpoint, FileInfo, membership, open_checkpoint
from anemoi_ckpt_migrate.storage.path_arguments import Progress, StrPath, annotate_errors
from anemoi_ckpt_migrate.storage.pickle.class_safety import meant, standing
from anemoi_ckpt_migrate.tree import summary
from anemoi_ckpt_migrate.util.dataclass import asdict, dataclass, replace

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.other_tools import Done, OtherTool
    from anemoi_ckpt_migrate.tree.summary import Node, Optimizer, Tensor


@dataclass(frozen=True)
class PickledName:
    """A class or function that the pickle names.

    Attributes
    ----------
    name : str
        Module and name, joined by a dot.
    standing : str
        ``known``, ``trusted``, ``opaque`` or ``dangerous``.
    imported : str
        The name that `torch.load` imports; it differs only for names of Python 2.
    """

    name: str
    standing: str
    imported: str


@dataclass(frozen=True)
class Damage:
    """A damaged entry of the archive.

    Attributes
    ----------
    record : str
        Its name in the archive.
    tensors : tuple of str
        The tensors stored in it.
    """

    record: str
    tensors: tuple[str, ...]


@dataclass(frozen=True)
class Inspection:
    """The content of a checkpoint.

    Attributes
    ----------
    checkpoint : str
        The file.
    facts : FileInfo
        FileInfo about the file: format, size, dead bytes and so on.
    tree : Node
        The structure.
    tensors : tuple of Tensor
        All tensors.
    shared : dict of str to list of str
        Storages that several tensors share, with the paths of these tensors.
    optimizers : tuple of Optimizer
        The states of its optimizers.
    record : Record or None
        Its record; None if it has none.
    names : tuple of PickledName
        All classes and functions that the pickle names.
    damaged : tuple of Damage or None
        The damaged entries; None if the file was not verified.
    warnings : tuple of str
        Warnings for the user.
    migrations : tuple of str or None
        The migrations that another tool noted in it; None if there is no such list.
    migration_history : tuple of Done
        The migrations that, by the history of that tool, were run on the file.
    noted_by : str
        The name of that tool.
    """

    checkpoint: str
    facts: FileInfo
    tree: Node
    tensors: tuple[Tensor, ...]
    shared: dict[str, list[str]]
    optimizers: tuple[Optimizer, ...]
    record: Record | None
    names: tuple[PickledName, ...]
    damaged: tuple[Damage, ...] | None
    warnings: tuple[str, ...]
    migrations: tuple[str, ...] | None = None
    migration_history: tuple[Done, ...] = ()
    noted_by: str = ""

    def to_data(self) -> dict[str, Any]:
        """Return the data that ``--json`` prints."""
        record = None
        if self.record is not None:
            record = to_data(replace(self.record, stash={}))
            # Stashed values can be of any type, so only their number per revision is shown.
            record["stash"] = {revision: len(values) for revision, values in self.record.stash.items()}
        return {
            "checkpoint": self.checkpoint,
            **asdict(self.facts),
            "shared": self.shared,
            "tensors": [asdict(tensor) for tensor in self.tensors],
            "optimizers": [asdict(optimizer) for optimizer in self.optimizers],
            "record": record,
            "classes": [asdict(name) for name in self.names],
            "tree": _tree_data(self.tree),
            "damaged": None if self.damaged is None else [asdict(damage) for damage in self.damaged],
            "warnings": list(self.warnings),
            "migrations": None if self.migrations is None else list(self.migrations),
            "migration_history": [
                {"type": done.kind, "name": done.name, "signature": done.signature} for done in self.migration_history
            ],
        }


def inspect(
    checkpoint: StrPath,
    *,
    verify: bool = False,
    project: Project | StrPath | None = None,
    chain: str | None = None,
    progress: Progress | None = None,
) -> Inspection:
    """Return the content of a checkpoint. Nothing that it names is imported or run; tensors are read only for `verify`.

    Parameters
    ----------
    checkpoint : path
        The file.
    verify : bool
        Read the whole file, and compare it with the CRCs of the archive.
    project : Project or path, optional
        The project whose configuration names trusted modules and the other tool; by default that of the current
        folder, if there is one.
    chain : str, optional
        The chain of an installed package to use in place of a project.
    progress : callable, optional
        Called from time to time with the number of bytes verified.

    Raises
    ------
    MigrateError
        The checkpoint or the configuration cannot be read.
    """
    config = config_of(project, chain)
    trusted = () if config is None else config.trusted
    tool = find_tool("" if config is None else config.other_tool)
    with annotate_errors(checkpoint), open_checkpoint(checkpoint) as opened:
        file, journal = _as_torch_reads(opened)
        tree = file.load()
        record, warnings = _record(tree, file.attachment(embed.ATTACHMENT))
        part = membership(checkpoint)
        root = summary.survey(tree)
        tensors = tuple(summary.tensors(root))
        names = (
            PickledName(".".join(name), standing(*name, known, trusted), ".".join(meant(*name)))
            for name, known in sorted(file.names.items())
        )
        return Inspection(
            os.fspath(checkpoint),
            replace(file.facts(), interrupted=bool(journal)),
            root,
            tensors,
            summary.shared(tensors),
            tuple(summary.optimizers(tree)),
            record,
            tuple(names),
            _damage(file.damaged(progress), tensors) if verify else None,
            (*journal, *warnings) if part is None else (*journal, *warnings, str(part)),
            _noted(tool, tree),
            tuple(done for done in history(tool, tree) or () if done.kind and done.name),
            tool.name,
        )


def _as_torch_reads(file: Checkpoint) -> tuple[Checkpoint, tuple[str, ...]]:
    """Return the file with all its bytes, if readable, and a warning if a journal beside it says that fewer count."""
    said = f"its journal shows that a run was interrupted; only the first {file.length:,} bytes are valid"
    try:
        whole = file.whole()
    except NotACheckpoint:
        return file, (f"{said} and shown, the rest cannot be read: `recover` the file before you load it",)
    if whole is None:
        left = "its journal shows that a run was interrupted; this is the file that `recover` restores: run it first"
        return file, (left,) if file.facts().interrupted else ()
    return whole, (f"{said}, but torch.load reads the whole file, as shown here: `recover` truncates it",)


def _record(tree: Any, attachment: bytes | None) -> tuple[Record | None, tuple[str, ...]]:
    try:
        return embed.find(tree, attachment), ()
    except (DamagedRecord, NewerRecord) as error:
        return None, (error.sentence,)


def _noted(tool: OtherTool, tree: Any) -> tuple[str, ...] | None:
    try:
        entries = listed(tool, tree)
    except DamagedLedger:  # another value with the same name
        return None
    return None if entries is None else tuple(entry.name for entry in entries)


def _damage(records: list[str], tensors: tuple[Tensor, ...]) -> tuple[Damage, ...]:
    found: dict[str, list[str]] = {f"data/{key}": [] for tensor in tensors for key in tensor.storages}
    for tensor in tensors:
        for key in tensor.storages:
            found[f"data/{key}"].append(tensor.path)
    return tuple(Damage(name, tuple(found.get(name, ()))) for name in records)


def _tree_data(node: Node) -> dict[str, Any]:
    found: dict[str, Any] = {"name": node.name, "what": node.what, "size": node.size}
    if node.tensor is not None:
        found |= {"dtype": node.tensor.dtype, "shape": node.tensor.shape}
    if node.children:
        found["children"] = [_tree_data(child) for child in node.children]
    return found
