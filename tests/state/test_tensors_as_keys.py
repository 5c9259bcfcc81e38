"""Dicts whose keys are tensors: nothing looks at their content, wherever they stand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import anemoi_ckpt_migrate as cm  # noqa: E402
from tests.support.operations import declare  # noqa: E402
from tests.support.project import Folder  # noqa: E402

PLACES: dict[str, Any] = {
    "beside the state dict": lambda keyed: {"seen": keyed},
    "in a list": lambda keyed: {"seen": [keyed]},
    "in an optimizer": lambda keyed: {
        "optimizer": {"state": keyed, "param_groups": [{"params": [0], "lr": 0.1}]},
    },
    "as parameters of an optimizer": lambda keyed: {
        "optimizer": {"state": {}, "param_groups": [{"params": list(keyed), "lr": 0.1}]},
    },
    "as groups of an optimizer": lambda keyed: {"optimizer": {"state": {}, "param_groups": [keyed]}},
}


@pytest.mark.parametrize("place", PLACES)
def test_a_dict_with_tensors_as_keys(project: Folder, place: str) -> None:
    path = project.path / "last.pt"
    keyed = {torch.ones(1): torch.zeros(2)}
    torch.save({"state_dict": {"out.weight": torch.ones(2)}, **PLACES[place](keyed)}, path)
    assert cm.inspect(path).tensors
    declare(project, "a1", 'op.RenamePrefix("out.", "head.")')
    project.ok("upgrade", "head", path, "--check-rollback")
    assert list(torch.load(path, weights_only=False)["state_dict"]) == ["head.weight"]
    project.ok("diff", Path(f"{path}.bak"), path)
    project.ok("downgrade", "base", path)


def test_removing_a_class_beside_such_a_dict(project: Folder) -> None:
    import argparse

    path = project.path / "last.pt"
    torch.save({"args": argparse.Namespace(a=1), "seen": {torch.ones(1): 1}, "w": torch.ones(1)}, path)
    declare(project, "a1", 'op.DropClass("argparse.Namespace")')
    project.ok("upgrade", "head", path)
    project.ok("downgrade", "base", path)
    assert torch.load(path, weights_only=False)["args"] == argparse.Namespace(a=1)
