"""What is matched so far, and what is left: where the ways to match put down what they find."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from anemoi_ckpt_migrate.autogenerate.name_similarity import NUMBER, Parts, common_end, filled, parts_of, template_of
from anemoi_ckpt_migrate.autogenerate.parameter_info import Contents, Item, Link
from anemoi_ckpt_migrate.autogenerate.tensor_changes import Turned, turned


class Board:
    """What is matched, and what is left.

    Parameters
    ----------
    old, new : sequence of Item
        What is to be matched.
    contents : Contents or None
        What to ask.

    Attributes
    ----------
    old, new : dict of str to Item
        What is left, by name, in order.
    links : list of Link
        What was found.
    modules : Modules
        Where modules went.
    turning : bool
        Whether something was transposed, so that more may have been.
    strict : bool
        Whether content says what became of what, so that other content speaks against it.
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
        """Put down what became of what."""
        self.links.append(link)
        for name in link.old:
            del self.old[name]
        for name in link.new:
            del self.new[name]
        if link.kind == "one":
            self.modules.learn(link.old[0], link.new[0])

    def pair(self, old: str, new: str, confidence: float = 1.0, alternatives: Iterable[str] = ()) -> None:
        """Put down that one became another, without looking at the content."""
        self.link(Link((old,), (new,), confidence=confidence, alternatives=tuple(alternatives)))

    def turned(self, old: Item, new: Item, loose: bool = False) -> Turned | None:
        """Say how one became another; None if it cannot have."""
        return turned(old, new, self.contents, loose)

    def pair_turned(self, old: Item, new: Item, how: Turned, confidence: float, others: Sequence[str] = ()) -> None:
        """Put down that one became another, in some way."""
        sure = 1.0 if how.proven else min(confidence, how.certain)
        if how.changed and old.name != new.name and self.strict:
            sure = min(sure, 0.8)
        others = () if how.proven else tuple(others)
        self.turning = self.turning or any(kind == "permute" for kind, _ in how.steps)
        self.strict = self.strict or (how.proven and any(kind == "permute" for kind, _ in how.steps))
        self.link(Link((old.name,), (new.name,), "one", 0, (), how.steps, sure, others, how.changed))


class Modules:
    """Remembers which module became which."""

    def __init__(self) -> None:
        self._exact: dict[Parts, Counter[Parts]] = {}
        self._templates: dict[Parts, Counter[Parts]] = {}

    def learn(self, old: str, new: str) -> None:
        """Remember that a parameter went somewhere: so did what it is part of."""
        self._note(self._exact, parts_of(old), parts_of(new))
        (one, numbers), (other, also) = template_of(old), template_of(new)
        if numbers == also:
            self._note(self._templates, one, other)

    def _note(self, votes: dict[Parts, Counter[Parts]], old: Parts, new: Parts) -> None:
        for count in range(1, max(common_end(old, new), 1) + 1):
            votes.setdefault(old[: len(old) - count], Counter())[new[: len(new) - count]] += 1

    def expected(self, name: str, same_block: bool = False) -> str | None:
        """Return what a parameter should be called, if it went where its module went.

        Parameters
        ----------
        name : str
            What it is called.
        same_block : bool
            Whether only modules of the same numbered block count.

        Returns
        -------
        str or None
            None if nothing is known.
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
        """Return how many parameters say that a template became another."""
        found, count = self._found(self._templates, old)
        return count if found == new else 0

    def _found(self, votes: dict[Parts, Counter[Parts]], parts: Parts, least: int = 0) -> tuple[Parts | None, int]:
        for count in range(1, len(parts) - least + 1):
            counted = votes.get(parts[: len(parts) - count])
            if counted:
                target, support = counted.most_common(1)[0]
                return target + parts[len(parts) - count :], support
        return None, 0
