"""The state of matching: links found so far, and parameters still to match."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from anemoi_ckpt_migrate.autogenerate.name_similarity import NUMBER, Parts, common_end, filled, parts_of, template_of
from anemoi_ckpt_migrate.autogenerate.parameter_info import Contents, Item, Link
from anemoi_ckpt_migrate.autogenerate.tensor_changes import Turned, turned


class Board:
    """The links found so far, and the parameters still to match.

    Parameters
    ----------
    old, new : sequence of Item
        The parameters to match.
    contents : Contents or None
        Answers questions about content.

    Attributes
    ----------
    old, new : dict of str to Item
        The unmatched parameters, by name, in order.
    links : list of Link
        The links found so far.
    modules : Modules
        The new places of modules.
    turning : bool
        Whether a parameter was transposed, so that others may be too.
    strict : bool
        Whether content decides matches, so that different content contradicts a match.
    """

    def __init__(self, old: Sequence[Item], new: Sequence[Item], contents: Contents | None) -> None:
        self.old = {item.name: item for item in old}
        self.new = {item.name: item for item in new}
        self.contents = contents
        self.links: list[Link] = []
        self.modules = Modules()
        self.strict = False
        self.turning = False

    def link(self, link: Link) -> None:
        """Add a link."""
        self.links.append(link)
        for name in link.old:
            del self.old[name]
        for name in link.new:
            del self.new[name]
        if link.kind == "one":
            self.modules.learn(link.old[0], link.new[0])

    def pair(self, old: str, new: str, confidence: float = 1.0, alternatives: Iterable[str] = ()) -> None:
        """Link two parameters without comparing their content."""
        self.link(Link((old,), (new,), confidence=confidence, alternatives=tuple(alternatives)))

    def turned(self, old: Item, new: Item, loose: bool = False) -> Turned | None:
        """Return the way one parameter became another; None if it cannot have."""
        return turned(old, new, self.contents, loose)

    def pair_turned(self, old: Item, new: Item, how: Turned, confidence: float, others: Sequence[str] = ()) -> None:
        """Link two parameters, with the way one became the other."""
        sure = 1.0 if how.proven else min(confidence, how.certain)
        if how.changed and old.name != new.name and self.strict:
            sure = min(sure, 0.8)
        others = () if how.proven else tuple(others)
        self.turning = self.turning or any(kind == "permute" for kind, _ in how.steps)
        self.strict = self.strict or (how.proven and any(kind == "permute" for kind, _ in how.steps))
        self.link(Link((old.name,), (new.name,), "one", 0, (), how.steps, sure, others, how.changed))


class Modules:
    """Remembers the new names of modules."""

    def __init__(self) -> None:
        self._exact: dict[Parts, Counter[Parts]] = {}
        self._templates: dict[Parts, Counter[Parts]] = {}

    def learn(self, old: str, new: str) -> None:
        """Remember the new name of a parameter, and so the new names of the modules around it."""
        self._note(self._exact, parts_of(old), parts_of(new))
        (one, numbers), (other, also) = template_of(old), template_of(new)
        if numbers == also:
            self._note(self._templates, one, other)

    def _note(self, votes: dict[Parts, Counter[Parts]], old: Parts, new: Parts) -> None:
        for count in range(1, max(common_end(old, new), 1) + 1):
            votes.setdefault(old[: len(old) - count], Counter())[new[: len(new) - count]] += 1

    def expected(self, name: str, same_block: bool = False) -> str | None:
        """Return the expected name of a parameter that moved along with its module.

        Parameters
        ----------
        name : str
            Its old name.
        same_block : bool
            Whether to consider only modules of the same numbered block.

        Returns
        -------
        str or None
            The expected name; None if nothing is known.
        """
        parts = parts_of(name)
        least = max((place for place, part in enumerate(parts[:-1]) if part.isdigit()), default=-1) + 1
        found, _ = self._found(self._exact, parts, least if same_block else 0)
        if found is not None or same_block:
            return None if found is None else ".".join(found)
        template, numbers = template_of(name)
        found, _ = self._found(self._templates, template)
        return filled(found, numbers) if found is not None and found.count(NUMBER) == len(numbers) else None

    def support(self, old: Parts, new: Parts) -> int:
        """Return the number of parameters that support the move of a template; 0 if another one has more support."""
        found, count = self._found(self._templates, old)
        return count if found == new else 0

    def _found(self, votes: dict[Parts, Counter[Parts]], parts: Parts, least: int = 0) -> tuple[Parts | None, int]:
        for count in range(1, len(parts) - least + 1):
            counted = votes.get(parts[: len(parts) - count])
            if counted:
                target, support = counted.most_common(1)[0]
                return target + parts[len(parts) - count :], support
        return None, 0
