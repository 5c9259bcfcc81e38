"""The names that a run adds to the pickle of a checkpoint, checked before they are written, as `inspect` does."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from anemoi_ckpt_migrate.errors import DangerousNames
from anemoi_ckpt_migrate.storage.pickle.class_safety import DANGEROUS, is_dangerous_throughout, standing
from anemoi_ckpt_migrate.tree.class_names import Name, covers
from anemoi_ckpt_migrate.util.dataclass import dataclass

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.storage import Checkpoint


class NewName(NamedTuple):
    """A class or function that the new pickle names, and the old one does not.

    Attributes
    ----------
    name : str
        Module and name, joined by a dot.
    standing : str
        As in `PickledName`.
    """

    name: str
    standing: str

    @property
    def dangerous(self) -> bool:
        """Whether loading the file could run anything with it."""
        return self.standing == DANGEROUS


@dataclass(frozen=True)
class NameCheck:
    """Checks the names that a run adds to a pickle.

    Attributes
    ----------
    file : Checkpoint
        The loaded checkpoint, before the run.
    trusted : collection of str
        Modules that the configuration trusts.
    allowed : bool
        Whether dangerous names may be added.
    spelled : callable
        Returns the patterns of names that the scripts of the run spell out. The user has approved these names. Called
        only if a dangerous name is added, because some scripts must run to find out.
    """

    file: Checkpoint
    trusted: Collection[str]
    allowed: bool
    spelled: Callable[[], Iterable[str]]

    def added(self, names: Mapping[Name, bool]) -> tuple[NewName, ...]:
        """Return the names in a new pickle that the file does not name yet.

        Parameters
        ----------
        names : mapping of (str, str) to bool
            The names in the new pickle. True means that the object behind the name is known to be harmless.

        Raises
        ------
        DangerousNames
            A dangerous name is added, and neither a script nor the user allowed it.
        """
        # A name can be harmless in one place and dangerous in another, as `getattr` is, so compare the standing too.
        before = self._judged(self.file.names)
        found = {name: each for name, each in self._judged(names).items() if before.get(name) not in (each, DANGEROUS)}
        dangerous = sorted(name for name, each in found.items() if each == DANGEROUS)
        if dangerous and not self.allowed:
            spelled = list(self.spelled())
            strange = [name for name in dangerous if not any(self._means(pattern, name) for pattern in spelled)]
            if strange:
                raise DangerousNames([".".join(name) for name in strange])
        return tuple(NewName(".".join(name), each) for name, each in sorted(found.items()))

    def _judged(self, names: Mapping[Name, bool]) -> dict[Name, str]:
        return {name: standing(*name, known, self.trusted) for name, known in names.items()}

    def _means(self, pattern: str, name: Name) -> bool:
        """Return whether a pattern allows a dangerous name. `module.*` does only if the whole module is dangerous."""
        module, star, _ = pattern.partition(".*")
        return covers(pattern, name) and (not star or is_dangerous_throughout(module))
