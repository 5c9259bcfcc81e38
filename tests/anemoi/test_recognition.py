"""Where a checkpoint without a record stands, if its contents tell little: the list of migrations in it, and the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from anemoi_ckpt_migrate import open_chain
from tests.support.anemoi import torch
from tests.support.project import Folder, digest

GRAPH = open_chain("anemoi").graph
LISTED = [name for revision in GRAPH.order(each.id for each in GRAPH) for name in GRAPH[revision].known_as]
MODEL = {"_target_": "anemoi.models.models.AnemoiModelEncProcDec", "latent_skip": True}


def saved(project: Folder, count: int, model: dict[str, Any] = MODEL, **more: Any) -> Path:
    """Save a checkpoint whose list has the first migrations of anemoi-models."""
    path = project.path / "last.ckpt"
    listed = [{"name": name, "metadata": {"versions": {}, "final": False}, "signature": ""} for name in LISTED[:count]]
    kept = {"config": {"model": {"model": model}}}
    torch.save(
        {"state_dict": {"model.model.x": torch.ones(2)}, "hyper_parameters": kept, "migrations": listed, **more}, path
    )
    return path


def place(project: Folder, path: Path) -> str:
    """Return where a checkpoint is taken to be, if `current`, `history` and `check` agree."""
    (head,) = project.ok("--chain", "anemoi", "current", path, "--json").lines[0]["heads"]
    assert project.run("--chain", "anemoi", "current", path).out.count("recognised but not recorded") == 1
    history = project.ok("--chain", "anemoi", "history", path).out
    assert [line.split()[1] for line in history.splitlines() if "the checkpoint is here" in line] == [head["revision"]]
    return str(head["revision"])


@pytest.mark.parametrize(
    ("last", "revision"),
    [
        ("1762857427_deprecate_eda", "93d1f60c8a24"),
        ("1763479918_refactor_mapper", "f4c7150ea98d"),
        ("1773048851_fuse_multiple_perdataset_graphs", "2d9c40e7fb16"),
        ("1776237003_rename_swa_to_weight_averaging", "3b7a1e90c5d8"),
    ],
)
def test_the_list_tells_where_contents_do_not(project: Folder, last: str, revision: str) -> None:
    path = saved(project, LISTED.index(last) + 1)
    assert place(project, path) == revision


def test_a_validated_configuration_is_of_before_0_15(project: Folder) -> None:
    path = saved(project, 0, {**MODEL, "_convert_": "all"})
    assert place(project, path) == "2d9c40e7fb16"


def test_check_proposes_what_works(project: Folder) -> None:
    path = saved(project, LISTED.index("1776237003_rename_swa_to_weight_averaging") + 1)
    ran = project.run("--chain", "anemoi", "check", path)
    assert f"`ckpt-migrate --chain anemoi upgrade head {path}`" in ran.out + ran.err


def test_stamp_auto_goes_by_what_the_chain_recognises(project: Folder) -> None:
    path = saved(project, LISTED.index("1776237003_rename_swa_to_weight_averaging") + 1)
    project.ok("--chain", "anemoi", "stamp", "auto", path, "--no-backup")
    found = project.ok("--chain", "anemoi", "current", path, "--json").lines[0]
    assert (found["recorded"], [head["revision"] for head in found["heads"]]) == (True, ["3b7a1e90c5d8"])


def test_a_second_stamp_names_the_chain(project: Folder) -> None:
    path = saved(project, 0)
    project.ok("--chain", "anemoi", "stamp", "auto", path, "--no-backup")
    ran = project.run("--chain", "anemoi", "stamp", "auto", path)
    assert ran.code != 0
    assert "`ckpt-migrate " not in ran.err.replace("`ckpt-migrate --chain anemoi ", "")


# What 0.13 to 0.15 leave out.


def test_a_processor_that_was_left_out_is_refused_until_it_is_stamped(project: Folder) -> None:
    path = saved(
        project, LISTED.index("1776237003_rename_swa_to_weight_averaging") + 1, {**MODEL, "latent_skip": False}
    )
    before = digest(path)
    ran = project.run("--chain", "anemoi", "upgrade", "head", path)
    assert (ran.code, "leave the processor out of such models" in ran.err, "stamp it" in ran.err) == (3, True, True)
    assert digest(path) == before
    project.ok("--chain", "anemoi", "stamp", "anemoi-models==0.15.0", path, "--no-backup")
    project.ok("--chain", "anemoi", "upgrade", "head", path, "--no-backup")


def test_a_processor_that_never_was_left_out_is_not_refused(project: Folder) -> None:
    count = LISTED.index("1776237003_rename_swa_to_weight_averaging") + 1
    path = saved(project, count, {**MODEL, "latent_skip": False}, never_skipped_by_anemoi_migrations=True)
    assert place(project, path) == "3b7a1e90c5d8"
