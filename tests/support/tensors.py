"""Shared by tests: tensors."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from tests.support.operations import declare, equal
from tests.support.project import Folder

torch = pytest.importorskip("torch")

slow = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def up_and_down(project: Folder, before: Any, *operations: Any) -> Any:
    """Apply operations to a file, check that the way back restores it, and return what they made of it."""
    checkpoint = project.path / "x.pt"
    checkpoint.unlink(missing_ok=True)
    torch.save({"state_dict": before}, checkpoint)
    declare(project, "a1", *(one if isinstance(one, str) else f"op.{one!r}" for one in operations))
    project.ok("upgrade", "head", checkpoint, "--no-backup", "--check-rollback")
    after = torch.load(checkpoint, weights_only=True)["state_dict"]
    project.ok("downgrade", "base", checkpoint, "--no-backup")
    back = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert equal(back, before)
    return after


dtypes = st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.float64, torch.bool, torch.float8_e4m3fn])


def stored(storage: Any) -> bytes:
    """Return the bytes of a storage; the loop of torch's own `tolist` takes some microseconds for each."""
    return bytes(torch.empty(0, dtype=torch.uint8).set_(storage).numpy()) if storage.nbytes() else b""


def tensor(shape: list[int], dtype: Any, seed: int = 0) -> Any:
    numbers = torch.randint(0, 100, shape, generator=torch.Generator().manual_seed(seed))
    return numbers.to(dtype)
