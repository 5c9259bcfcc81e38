"""The changes that `make mutants` makes, on a small module; and those that it leaves out are there."""

from __future__ import annotations

import pytest

from tests.mutants.__main__ import PACKAGE, RELATED, equivalent, sample
from tests.mutants.changes import changes
from tests.mutants.trial import ROOT

pytestmark = pytest.mark.skipif(not (ROOT / PACKAGE).is_dir(), reason="the sources are not here")

SOURCE = '''"""A module."""
LIMIT: int = 3


class Box:
    def fits(self, items, strict=True):
        """Return 1."""
        if not items and LIMIT > len(items):
            raise ValueError(f"{len(items) + 1}")
        self.seen = [one for one in items if one.ready]
        self.note(items[-1])
        for one, other in zip(items, self.seen, strict=True):
            strict -= 1
            continue
        return strict is None
'''


def test_each_change_is_small_and_told() -> None:
    assert [(change.line, change.function, change.before, change.after) for change in changes(SOURCE)] == [
        (2, "module", "LIMIT: int = 3", "LIMIT: int = 4"),
        (2, "module", "LIMIT: int = 3", "LIMIT: int = 2"),
        (6, "Box.fits", "True", "False"),
        (8, "Box.fits", "not items and LIMIT > len(items)", "not (not items and LIMIT > len(items))"),
        (8, "Box.fits", "not items and LIMIT > len(items)", "not items or LIMIT > len(items)"),
        (8, "Box.fits", "not items and LIMIT > len(items)", "items and LIMIT > len(items)"),
        (8, "Box.fits", "LIMIT > len(items)", "LIMIT >= len(items)"),
        (9, "Box.fits", "raise ValueError(f'{len(items) + 1}')", "pass"),
        (10, "Box.fits", "self.seen = [one for one in items if one.ready]", "pass"),
        (10, "Box.fits", "one.ready", "not one.ready"),
        (11, "Box.fits", "self.note(items[-1])", "pass"),
        (11, "Box.fits", "items[-1]", "items[-2]"),
        (11, "Box.fits", "items[-1]", "items[-0]"),
        (13, "Box.fits", "strict -= 1", "pass"),
        (13, "Box.fits", "strict -= 1", "strict += 1"),
        (13, "Box.fits", "strict -= 1", "strict -= 2"),
        (13, "Box.fits", "strict -= 1", "strict -= 0"),
        (14, "Box.fits", "continue", "pass"),
        (15, "Box.fits", "strict is None", "strict is not None"),
    ]


def test_one_change_at_a_time_is_made() -> None:
    found = changes(SOURCE)
    sources = [change.source() for change in found]
    assert len(set(sources)) == len(found)
    for source in sources:
        compile(source, "box", "exec")
    assert "LIMIT: int = 4" in sources[0]
    assert "LIMIT: int = 3" in sources[1] + sources[2]


@pytest.mark.parametrize("module", RELATED)
def test_a_sample_is_the_same_for_the_same_seed_and_grows(module: str) -> None:
    few = [change.key for change in sample(module, 5, 0)]
    assert few == [change.key for change in sample(module, 9, 0)][:5]
    assert few != [change.key for change in sample(module, 5, 1)]
    assert all((ROOT / "tests" / name.partition("::")[0]).exists() for name in RELATED[module])


def test_what_is_left_out_is_still_there() -> None:
    for module, left_out in equivalent().items():
        there = {change.key for change in changes((ROOT / PACKAGE / f"{module}.py").read_text())}
        assert left_out <= there, f"{module}: {left_out - there}"
