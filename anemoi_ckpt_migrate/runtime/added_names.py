"""The names that a run adds to the pickle of a checkpoint: looked at before they are written, as `inspect` does."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from anemoi_ckpt_migrate.errors import DangerousNames
from anemoi_ckpt_migrate.storage import Checkpoint
from anemoi_ckpt_migrate.storage.pickle.class_safety import DANGEROUS, is_dangerous_throughout, standing
from anemoi_ckpt_migrate.tree.class_names import Name, covers


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
    """What a run may add to the names of a pickle.

    Attributes
    ----------
    file : Checkpoint
        The checkpoint as it is, loaded.
    trusted : collection of str
        Modules that the configuration trusts.
    allowed : bool
        Whether dangerous names may be added.
    spelled : callable
        Returns the patterns of names that the scripts of the run spell out: that is the word of the user. Asked only if
        a dangerous name is added, for some scripts have to be run to know.
    """

    file: Checkpoint
    trusted: Collection[str]
    allowed: bool
    spelled: Callable[[], Iterable[str]]

    def added(self, names: Mapping[Name, bool]) -> tuple[NewName, ...]:
        """Return the names that a pickle has beyond those of the file.

        Parameters
        ----------
        names : mapping of (str, str) to bool
            What the pickle names, and whether what each stands for is harmless.

        Raises
        ------
        DangerousNames
            One of them is dangerous, and neither a script nor the user said that it may be there.
        """
        # A name may be harmless in one place and not in another, as `getattr` is: so the standing counts too.
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
        """Tell whether who spells a pattern must have meant a name: a module has to be dangerous as a whole."""
        module, star, _ = pattern.partition(".*")
        return covers(pattern, name) and (not star or is_dangerous_throughout(module))
