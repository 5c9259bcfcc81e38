"""Every release of anemoi-models: where its checkpoints are recognised, and what becomes of the classes that it knows.

Run by ``make test-anemoi``. ``python -m tests.anemoi.release_tables`` writes the page that these tests compare with.
"""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from anemoi_ckpt_migrate.anemoi.targets import BEGUN
from tests.anemoi import release_tables
from tests.anemoi.running import THERE
from tests.anemoi.variants import EVERY

pytestmark = pytest.mark.skipif(not THERE, reason="make test-anemoi makes what this needs")
NOTHING_CHANGES = {"0.11.0": "e06b93d7f218"}
"""A revision of a later release at which a checkpoint is taken to be, because it changes nothing there."""


@pytest.mark.parametrize("release", EVERY)
def test_where_a_release_is_recognised(release: str) -> None:
    revision = NOTHING_CHANGES.get(release, release_tables.expected(release))
    assert release_tables.recognised(release) == {revision}
    assert f"| {release} | `{revision}` |" in release_tables.PAGE.read_text()


def test_every_class_that_ends_is_carried_or_refused() -> None:
    assert [name for _, name, what in release_tables.ended() if what == "unknown"] == []
    assert release_tables.targets_table() in release_tables.PAGE.read_text()


def test_classes_are_refused_below_the_release_where_they_begin() -> None:
    begun = {(release, name) for release, names in BEGUN.items() for name in names}
    assert set(release_tables.begun({name for _, name in begun})) == begun
