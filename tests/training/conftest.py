"""A project of two revisions, for tests of training."""

from __future__ import annotations

import pytest

from tests.support.project import RENAME, Folder


@pytest.fixture
def named(project: Folder) -> Folder:
    """a renames x to y, by a function; b renames y to z, by an operation."""
    from tests.support.operations import declare  # needs torch

    project.script("a", None, **RENAME)
    declare(project, "b", 'op.Rename("y.weight", "z.weight")', parents="a")
    return project
