"""What is matched so far, and what is left: where the ways to match put down what they find."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from anemoi_ckpt_migrate.differences.items import Contents, Item, Link
from anemoi_ckpt_migrate.differences.moving import Modules
from anemoi_ckpt_migrate.differences.turning import Turned, turned


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
