"""Assignments of the groups of an optimizer to the parameters of a model, found by their shapes.

model:   (2,)  (3,)  (2,)  (3,)
groups:  [(2,)]  [(3,), (3,)]      either (2,) may be the first: two assignments
"""

from __future__ import annotations

import itertools
import resource

from hypothesis import given
from hypothesis import strategies as st

from anemoi_ckpt_migrate.state.infer_optimizer import Assignment, Shape, assignments

SHAPES = st.sampled_from([(2,), (3,), (2, 3)])


def all_of_them(shapes: list[Shape], groups: list[list[Shape | None]]) -> list[Assignment]:
    """Try every way to give each group ascending places of its own."""
    found: list[Assignment] = []
    for chosen in itertools.product(*(itertools.combinations(range(len(shapes)), len(group)) for group in groups)):
        places = [place for each in chosen for place in each]
        fits = all(
            wanted in (None, shapes[place])
            for group, each in zip(groups, chosen, strict=True)
            for wanted, place in zip(group, each, strict=True)
        )
        if fits and len(set(places)) == len(places):
            found.append([list(each) for each in chosen])
    return found


@given(
    st.lists(SHAPES, max_size=6),
    st.lists(st.lists(st.one_of(st.none(), SHAPES), max_size=3), min_size=1, max_size=3),
)
def test_one_assignment_is_found_and_several_are_told(shapes: list[Shape], groups: list[list[Shape | None]]) -> None:
    expected = all_of_them(shapes, groups)
    found = assignments(shapes, groups)
    assert len(found) == min(len(expected), 2)
    assert all(each in expected for each in found)


def test_too_many_possibilities_count_as_ambiguous() -> None:
    """Eight groups of forty alike could lie in more ways than anybody can list."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert assignments([(2,)] * 400, [[(2,)] * 40] * 8) == [[], []]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # in kilobytes
