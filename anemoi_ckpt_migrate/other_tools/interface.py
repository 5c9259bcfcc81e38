"""The interface of another tool that lists its own migrations in a checkpoint."""

from __future__ import annotations

import datetime
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from anemoi_ckpt_migrate.errors import Fault, UsageError
from anemoi_ckpt_migrate.record.record import Undo
from anemoi_ckpt_migrate.storage.tensors.refs import is_a
from anemoi_ckpt_migrate.util.dataclass import dataclass


class Entry(NamedTuple):
    """A migration that another tool lists in a checkpoint.

    Attributes
    ----------
    name, signature : str
        Its name, and a digest of its script; empty if the tool keeps none.
    versions : mapping of str to str
        The versions of packages that it belongs to.
    final : bool
        Whether it is a barrier.
    found : object
        The value in the list; None for an entry that is still to be made.
    """

    name: str
    signature: str = ""
    versions: Mapping[str, str] = {}
    final: bool = False
    found: Any = None


class Done(NamedTuple):
    """An entry of the history that another tool keeps beside its list.

    Attributes
    ----------
    kind : str
        ``migrate`` or ``rollback``; empty if the entry cannot be read.
    name, signature : str
        The name and signature of the migration.
    """

    kind: str
    name: str
    signature: str


@dataclass(frozen=True)
class ForeignScript(ABC):
    """A script of another tool.

    Attributes
    ----------
    path, name : str
        The file, and the name that the list has for it.
    title : str
        Its name in words.
    created : datetime
        Its time of creation.
    digests : mapping of str to str
        The signatures that the list may have for it, by the first Python that makes each.
    """

    path: str
    name: str
    title: str
    created: datetime.datetime
    digests: Mapping[str, str]

    @abstractmethod
    def converted(self, revision: str, parents: tuple[str, ...], next_version: str | None) -> tuple[str, list[str]]:
        """Return the script as one of ours, with `known_as`.

        Parameters
        ----------
        revision : str
            Its id.
        parents : tuple of str
            The revisions that it follows.
        next_version : str, optional
            The version of the next release, for a script that is not released yet.

        Returns
        -------
        tuple of str and list of str
            The text, and notes for the user.
        """

    def released_as(self, digests: Mapping[str, str]) -> str | None:
        """Return the version with which it was released, if only that differs from a script with these digests."""
        return None


class OtherTool(ABC):
    """Another tool that lists its own migrations in a checkpoint.

    A tool that keeps a list under a key of the checkpoint implements `entry` and `entries`. The tree has plain
    containers; objects of other classes are opaque, and tensors are stand-ins without content.

    Attributes
    ----------
    name : str
        The name of the tool in messages.
    key : str
        The key of the list in the checkpoint.
    """

    name: ClassVar[str]
    key: ClassVar[str]

    @abstractmethod
    def entry(self, found: Any) -> Entry:
        """Read a value in the list.

        Raises
        ------
        DamagedLedger
            It is no entry.
        """

    @abstractmethod
    def entries(
        self, wanted: Sequence[Entry], found: Mapping[str, Any], classes: Collection[tuple[str, str]]
    ) -> list[Any]:
        """Return the values of the list for some migrations, as the newest of their releases writes them.

        Parameters
        ----------
        wanted : sequence of Entry
            The migrations, in order.
        found : mapping of str to object
            By name, values that were in the list when it was first seen. These must come back as they are.
        classes : collection of tuple of str
            Module and name of all classes and functions that the checkpoint names.
        """

    def find(self, tree: Any) -> Any:
        """Return the list in a checkpoint; None if there is none."""
        return tree.get(self.key) if is_a(tree, dict) else None

    def put(self, tree: Any, values: list[Any] | None) -> None:
        """Replace the list in a checkpoint, or remove it if there are no values."""
        if values is None:
            tree.pop(self.key, None)
        else:
            tree[self.key] = values

    def history(self, tree: Any) -> tuple[Done, ...] | None:
        """Return the history beside the list; None if there is none."""
        return None

    def put_history(self, tree: Any, kept: int, more: Sequence[Done]) -> None:
        """Cut the history to its first entries, and add more. Called only if there is a history."""
        raise NotImplementedError

    def undo(self, tree: Any, entry: Entry) -> Undo:
        """Return the rollback of a migration that is in the list and that no script knows."""
        return Undo("", lost="its entry has no rollback")

    def script(self, path: str) -> tuple[ForeignScript | None, list[Fault]]:
        """Read one of the tool's scripts, without running it.

        Returns
        -------
        tuple of ForeignScript or None and list of Fault
            The script, and all faults in it.

        Raises
        ------
        UsageError
            Its scripts cannot be imported.
        """
        raise UsageError(f"scripts of {self.name} cannot be imported; write a revision for each, with `known_as`")
