"""The hunt for recipes that bring something wrong to light."""

from __future__ import annotations

import argparse
import collections
import hashlib
import random
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import HypothesisWarning

from tests.fuzzing.journey import Tried
from tests.fuzzing.places import Placed, placed
from tests.fuzzing.prefixes import Prefixed, prefixed
from tests.fuzzing.recipes import Recipe, recipes
from tests.fuzzing.records import Attack, attacks
from tests.fuzzing.workbench import Workbench

FAILURES = Path(__file__).parents[2] / "build" / "fuzz"
BATCH = 1000
AnyRecipe = Recipe | Attack | Placed | Prefixed
# The hunt.


def all_recipes() -> st.SearchStrategy[AnyRecipe]:
    """Draw recipes of all kinds: as many of damaged files as of the others together."""
    damaged, attack = recipes(), attacks()
    return st.one_of(damaged, damaged, damaged, damaged, attack, attack, placed(), prefixed())


class Found(Exception):
    """A recipe that brings something wrong to light."""


@dataclass(frozen=True)
class Finding:
    """Something wrong, and the smallest recipe that shows it."""

    recipe: AnyRecipe
    tried: Tried

    def __str__(self) -> str:
        return f"{self.tried.what}\n{self.recipe!r}\n{self.tried.details}"


@dataclass
class Hunt:
    """A search for inputs that bring something wrong to light.

    Attributes
    ----------
    start : int
        What the inputs follow from.
    counts : collections.Counter
        How many inputs had each outcome. Those that were tried to make a recipe smaller are not counted.
    kinds : collections.Counter
        How many inputs of each kind had each outcome, as ``"record: refused"``.
    findings : list of Finding
        One for each thing that went wrong.
    """

    workbench: Workbench
    start: int
    counts: collections.Counter[str] = field(default_factory=collections.Counter)
    kinds: collections.Counter[str] = field(default_factory=collections.Counter)
    findings: list[Finding] = field(default_factory=list)

    @property
    def tried(self) -> int:
        return sum(self.counts.values())

    def __str__(self) -> str:
        counts = ", ".join(f"{self.counts[outcome]} {outcome}" for outcome in ("refused", "read", "rewritten", "wrong"))
        kinds = "".join(f"\n  {self.kinds[kind]:6} {kind}" for kind in sorted(self.kinds))
        return f"{self.tried} inputs tried (seed {self.start}): {counts}{kinds}"

    def batches(self, count: int) -> Iterator[list[Finding]]:
        """Try so many inputs, without end if 0; gives what each batch of them brought to light."""
        number = 0
        while not count or self.tried < count:
            known = len(self.findings)
            self._batch(min(BATCH, count - self.tried) if count else BATCH, self.start * 1_000_003 + number)
            yield self.findings[known:]
            number += 1

    def _batch(self, count: int, start: int) -> None:
        known = {finding.tried.what for finding in self.findings}
        latest: list[Finding] = []

        @seed(start)
        @settings(
            max_examples=count,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
            database=None,
            deadline=None,
            derandomize=False,
            report_multiple_bugs=False,
        )
        @given(all_recipes())
        def judge(recipe: AnyRecipe) -> None:
            if latest and latest[0].tried.slow and recipe != latest[0].recipe:
                return  # to make it smaller would take too long
            tried = self.workbench.try_out(recipe.build(), recipe.tensors, recipe.walk, recipe.beside)
            if not latest:
                self.counts[tried.outcome] += 1
                self.kinds[f"{recipe.kind}: {tried.outcome}"] += 1
            # While a recipe is made smaller, another thing that is wrong does not count.
            if (
                tried.outcome == "wrong"
                and tried.what not in known
                and (not latest or tried.what == latest[0].tried.what)
            ):
                latest[:] = [Finding(recipe, tried)]
                raise Found

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", HypothesisWarning)  # about long representations
                judge()
        except Exception:  # Found; or that it did not happen again, which is to be told just as well
            if not latest:
                raise
        self.findings += latest


def save(finding: Finding) -> Path:
    """Keep an input that brings something wrong to light, and what was said, for later."""
    FAILURES.mkdir(parents=True, exist_ok=True)
    content = finding.recipe.build()
    path = FAILURES / f"{hashlib.sha256(content).hexdigest()[:12]}.ckpt"
    path.write_bytes(content)
    path.with_suffix(".txt").write_text(str(finding), errors="backslashreplace")
    return path


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzzing", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("count", type=int, help="how many inputs; 0: until it is interrupted")
    parser.add_argument("seed", type=int, nargs="?", help="what they follow from; a random number if left out")
    given_ = parser.parse_args()
    start = random.randrange(1 << 32) if given_.seed is None else given_.seed
    with Workbench() as workbench:
        hunt = Hunt(workbench, start)
        try:
            for findings in hunt.batches(given_.count):
                for finding in findings:
                    print(f"{finding.tried.what}: saved as {save(finding)}", flush=True)
                print(f"{hunt.tried} tried", flush=True)  # a run that is ended has said how far it came
        except KeyboardInterrupt:
            print("interrupted")
    print(hunt)
    return bool(hunt.findings)
