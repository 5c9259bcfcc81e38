"""Where modules went: learned from what is known already, to say where what is not known should have gone."""

from __future__ import annotations

from collections import Counter

from anemoi_ckpt_migrate.differences.names import NUMBER, Parts, common_end, filled, parts_of, template_of


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
