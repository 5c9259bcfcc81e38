"""A file that was found, and not named, is touched only if something ties it to the project."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
import numpy as np  # noqa: E402

import anemoi_ckpt_migrate as cm  # noqa: E402
from anemoi_ckpt_migrate.batch.migrate_all import migrate_all  # noqa: E402
from anemoi_ckpt_migrate.batch.select import Selection  # noqa: E402
from anemoi_ckpt_migrate.errors import UnknownTarget  # noqa: E402
from tests.support import huggingface as hf  # noqa: E402
from tests.support import migrations_list  # noqa: E402
from tests.support.fleets import model, saved, statuses, written  # noqa: E402
from tests.support.models import FIRST, Models, begun  # noqa: E402
from tests.support.operations import declare  # noqa: E402
from tests.support.project import RENAME, Folder, digest  # noqa: E402

TRACE = "open('ran', 'a').write('x');"  # scripts that leave a trace


@pytest.fixture
def runs(project: Folder) -> Path:
    """Files of other kinds, as training leaves them."""
    folder = project.path / "runs"
    saved(folder / "dataset.pt", {"features": torch.ones(3, 4), "labels": torch.zeros(3)})
    saved(folder / "images.pt", [torch.ones(2), torch.ones(2)])
    saved(folder / "rng_state.pth", {"cpu": torch.get_rng_state(), "cuda": [torch.get_rng_state()]})
    saved(folder / "training_args.bin", {"lr": 0.1, "steps": 500})
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))])
    saved(folder / "optimizer.pt", optimizer.state_dict())
    saved(folder / "scheduler.pt", {"last_epoch": 3})
    saved(folder / "tensor.pt", torch.ones(3))
    np.savez(folder / "stats.npz", mean=np.ones(3))
    np.savez(folder / "stats", mean=np.ones(3))
    shutil.copy(folder / "stats.npz", folder / "arrays")
    written(folder / "firmware.bin", b"\x7fELF and so on")
    written(folder / "empty.bin")
    written(folder / "config.json", b"{}")
    with zipfile.ZipFile(folder / "code", "w") as archive:
        archive.writestr("a.py", "")
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): digest(path) for path in folder.rglob("*") if path.is_file()}


def run(folder: Path, *words: str, include: Sequence[str] = (), **options: Any) -> dict[str, str]:
    """Run a command on all below a folder; return the statuses by relative path."""
    selection = Selection((str(folder),), recursive=True, include=tuple(include))
    return statuses(migrate_all(selection, *words, **options), folder)


UNRELATED = dict.fromkeys(
    (
        *("arrays", "code", "dataset.pt", "empty.bin", "firmware.bin", "images.pt", "optimizer.pt", "rng_state.pth"),
        *("scheduler.pt", "tensor.pt", "training_args.bin"),
    ),
    "unrelated",
)


def test_operations_that_fit_tie_a_file(project: Folder, runs: Path) -> None:
    declare(project, "a", 'op.Rename("x.weight", "y.weight")')
    before = digests(runs)
    model(runs / "z.ckpt")
    assert run(runs) == UNRELATED | {"z.ckpt": "moved"}
    assert run(runs) == UNRELATED | {"z.ckpt": "same"}
    after = digests(runs)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"z.ckpt", "z.ckpt.bak"}


def test_functions_tell_nothing_and_are_not_run(project: Folder, runs: Path) -> None:
    project.script("a", None, f"{TRACE} {RENAME['migrate']}", RENAME["rollback"])
    model(runs / "z.ckpt")
    before = digests(runs)
    for command in ("upgrade", "sync"):
        assert run(runs, command=command) == UNRELATED | {"z.ckpt": "unrelated"}
    assert digests(runs) == before
    assert not Path("ran").exists()
    assert run(runs, include=("z.ckpt",))["z.ckpt"] == "moved"
    assert Path("ran").exists()


def test_the_reason_and_the_way_out(project: Folder, runs: Path) -> None:
    project.script("a", None)
    model(runs / "z.ckpt")
    found = {each.checkpoint: each.error for each in migrate_all(Selection((str(runs),), recursive=True))}
    assert str(found[str(runs / "z.ckpt")]) == (
        f"{runs}/z.ckpt: it has no record, and neither operations nor a manifest tell if it is of this project, so it "
        "was left alone; to migrate it, name it itself, or give --include with its name"
    )
    assert "no parameters that can be found" in str(found[str(runs / "optimizer.pt")])


def test_a_record_ties_a_file(project: Folder, runs: Path) -> None:
    project.script("a", None, **RENAME)
    project.script("b", "a")
    checkpoint = model(runs / "z.ckpt")
    cm.upgrade(checkpoint, "a", backup=False)
    assert run(runs) == UNRELATED | {"z.ckpt": "moved"}
    assert run(runs, "base", command="downgrade", backup=False) == UNRELATED | {"z.ckpt": "moved"}
    assert run(runs) == UNRELATED | {"z.ckpt": "moved"}


def test_a_damaged_record_is_an_error(project: Folder, runs: Path) -> None:
    project.script("a", None)
    saved(runs / "z.ckpt", {"state_dict": {"x.weight": torch.ones(2)}, "ckpt_migrate": "{"})
    cm.upgrade(model(runs / "y.ckpt"), backup=False)
    key = next(name for name in torch.load(runs / "y.ckpt") if "migrat" in name)
    saved(runs / "z.ckpt", {"state_dict": {"x.weight": torch.ones(2)}, key: "{"})
    assert run(runs)["z.ckpt"] == "failed"


@pytest.mark.parametrize(
    "operations",
    [
        ['op.Add("new.weight", shape=[2], init="zeros_")'],
        ['op.RenamePrefix("no.", "other.", optional=True)'],
        ['op.AddPrefix("model.")'],
        ['op.SetItem("version", 2)'],
        [],
    ],
)
def test_operations_that_fit_everything_tell_nothing(project: Folder, runs: Path, operations: list[str]) -> None:
    declare(project, "a", *operations)
    model(runs / "z.ckpt")
    before = digests(runs)
    assert run(runs) == UNRELATED | {"z.ckpt": "unrelated"}
    assert digests(runs) == before


def test_operations_tell_up_to_the_first_function(project: Folder, runs: Path) -> None:
    declare(project, "a", 'op.SetItem("version", 2)', 'op.Rename("x.weight", "y.weight")')
    project.script("b", "a", f"{TRACE} ckpt['state_dict']['z.weight'] = ckpt['state_dict'].pop('y.weight')")
    declare(project, "c", 'op.Rename("z.weight", "w.weight")', parents="b")
    model(runs / "z.ckpt")
    assert run(runs) == UNRELATED | {"z.ckpt": "moved"}
    assert Path("ran").read_text().strip("x") == ""
    Path("ran").unlink()
    saved(runs / "z.ckpt", {"state_dict": {"other.weight": torch.ones(2)}})
    assert run(runs)["z.ckpt"] == "unrelated"
    assert not Path("ran").exists()


def test_operations_after_a_function_tell_nothing(project: Folder, runs: Path) -> None:
    project.script("a", None, TRACE)
    declare(project, "b", 'op.Rename("x.weight", "y.weight")', parents="a")
    model(runs / "z.ckpt")
    assert run(runs) == UNRELATED | {"z.ckpt": "unrelated"}
    assert not Path("ran").exists()


def test_operations_look_where_the_configuration_says(project: Folder, runs: Path) -> None:
    (project.path / "ckpt-migrate.toml").write_text('package = "pkg"\nparameters = "net.weights"\n')
    declare(project, "a", 'op.Rename("x.weight", "y.weight")')
    other = {"state_dict": {"b.weight": torch.ones(2)}, "net": {"weights": {"x.weight": torch.ones(2)}}}
    saved(runs / "z.ckpt", other)
    assert run(runs) == UNRELATED | {"z.ckpt": "moved"}
    assert list(torch.load(runs / "z.ckpt")["net"]["weights"]) == ["y.weight"]


def test_a_barrier_is_no_refusal_of_files_of_others(project: Folder, runs: Path) -> None:
    project.script("a", None, final=True, version="2.0")
    assert run(runs) == UNRELATED
    model(runs / "z.ckpt")
    assert run(runs)["z.ckpt"] == "unrelated"
    assert run(runs, include=("z.ckpt",))["z.ckpt"] == "refused"


def test_a_target_that_does_not_exist_is_one_error(project: Folder, runs: Path) -> None:
    project.script("a", None)
    model(runs / "z.ckpt")
    with pytest.raises(UnknownTarget, match="typo"):
        run(runs, "typo")


@pytest.mark.parametrize("target", ["base", "a", "-1"])
def test_nothing_is_undone_in_a_file_without_a_record(project: Folder, runs: Path, target: str) -> None:
    project.script("a", None)
    model(runs / "z.ckpt")
    before = digests(runs)
    assert run(runs, target, command="downgrade") == UNRELATED | {"z.ckpt": "unrelated"}
    assert digests(runs) == before


RECOGNISE = """
def recognise(ckpt):
    open("asked", "a").write("x")
    return "a" if "y.weight" in ckpt["state_dict"] else None
"""


def test_recognised_files_are_tied(project: Folder, runs: Path) -> None:
    """It is asked about files with parameters only; if it fails on one of them, that file is of another project."""
    project.script("a", None, **RENAME)
    project.script("b", "a")
    (project.path / "versions" / "_recognise.py").write_text(RECOGNISE)
    model(runs / "old.ckpt")
    saved(runs / "new.ckpt", {"state_dict": {"y.weight": torch.ones(2)}})
    assert run(runs) == UNRELATED | {"old.ckpt": "unrelated", "new.ckpt": "moved"}
    assert len(Path("asked").read_text()) == 4  # these two, the data set, and the states of the random generators
    found = migrate_all(Selection((str(runs),), recursive=True))
    error = next(str(each.error) for each in found if each.checkpoint.endswith("dataset.pt"))
    assert "_recognise.py: `recognise` failed: there is no key 'state_dict'" in error


def test_recognise_that_fails_on_a_file_of_the_project_is_an_error(project: Folder, runs: Path) -> None:
    declare(project, "a", 'op.Rename("x.weight", "y.weight")')
    (project.path / "versions" / "_recognise.py").write_text("def recognise(ckpt):\n    return ckpt['epochs']\n")
    model(runs / "z.ckpt")
    assert run(runs) == UNRELATED | {"z.ckpt": "failed"}
    (project.path / "versions" / "_recognise.py").write_text("def recognise(ckpt)\n")
    assert run(runs)["dataset.pt"] == "failed"


def test_recognise_may_refuse(project: Folder, runs: Path) -> None:
    project.script("a", None)
    text = "from anemoi_ckpt_migrate import Refused\ndef recognise(ckpt):\n    raise Refused('too old')\n"
    (project.path / "versions" / "_recognise.py").write_text(text)
    model(runs / "z.ckpt")
    assert run(runs)["z.ckpt"] == "refused"


def test_stamp_needs_a_manifest(project: Folder, runs: Path) -> None:
    declare(project, "a", 'op.Rename("x.weight", "y.weight")')
    model(runs / "z.ckpt")
    before = digests(runs)
    assert run(runs, command="stamp") == UNRELATED | {"z.ckpt": "unrelated"}
    assert digests(runs) == before
    assert run(runs, command="stamp", include=("z.ckpt",)) == UNRELATED | {"z.ckpt": "moved"}


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Models:
    """A project with a manifest, whose scripts are functions: norm becomes layer_norm."""
    found = begun(tmp_path, monkeypatch, capsys)
    found.code(FIRST)
    found.ok("manifest", "--update")
    (tmp_path / "runs").mkdir()
    found.save("runs/old.ckpt")
    found.script(
        "a",
        None,
        TRACE + " ckpt['state_dict'] = {k.replace('norm', 'layer_norm'): v for k, v in ckpt['state_dict'].items()}",
    )
    found.code({"embed": FIRST["embed"], "layer_norm": FIRST["norm"], "head": FIRST["head"]})
    found.ok("manifest", "--update")
    found.save("runs/new.ckpt")
    saved(tmp_path / "runs" / "other.ckpt", {"state_dict": {"x.weight": torch.ones(2)}})
    saved(tmp_path / "runs" / "rng_state.pth", {"cpu": torch.get_rng_state()})
    return found


OTHERS = {"other.ckpt": "unrelated", "rng_state.pth": "unrelated"}


def test_a_manifest_ties_a_file(models: Models) -> None:
    """A checkpoint at a later revision is refused, as if it was named: it needs a stamp first."""
    runs = models.path / "runs"
    assert run(runs) == OTHERS | {"old.ckpt": "moved", "new.ckpt": "refused"}
    assert run(runs, "auto", command="stamp") == OTHERS | {"old.ckpt": "same", "new.ckpt": "moved"}
    assert run(runs) == OTHERS | {"old.ckpt": "same", "new.ckpt": "same"}


def test_a_stamp_has_to_fit_the_manifest(models: Models) -> None:
    runs = models.path / "runs"
    before = digest(runs / "old.ckpt")
    assert run(runs, "head", command="stamp") == OTHERS | {"old.ckpt": "refused", "new.ckpt": "moved"}
    assert digest(runs / "old.ckpt") == before
    assert run(runs, "base", command="stamp") == OTHERS | {"old.ckpt": "same", "new.ckpt": "refused"}
    assert not Path("ran").exists()


def test_cut_and_empty_checkpoints_are_failures(project: Folder) -> None:
    declare(project, "a", 'op.Rename("x.weight", "y.weight")')
    runs = project.path / "runs"
    whole = model(runs / "whole.ckpt").read_bytes()
    written(runs / "empty.ckpt")
    written(runs / "cut.pt", whole[: len(whole) // 2])
    written(runs / "pytorch_model.bin", whole[:-100])
    written(runs / "no-ending", whole[:-100])
    written(runs / "old", model(runs / "old", old=True).read_bytes()[:-5])
    written(runs / "text.safetensors", b"no header")
    written(runs / "json.ckpt", b'{"a": 1}')
    assert run(runs) == {
        "empty.ckpt": "failed",
        "cut.pt": "failed",
        "pytorch_model.bin": "failed",
        "no-ending": "failed",
        "old": "failed",
        "text.safetensors": "failed",
        "json.ckpt": "unrelated",
        "whole.ckpt": "moved",
    }


def test_sets_without_a_folder_are_refused_once(project: Folder) -> None:
    declare(project, "a", 'op.Rename("x.weight", "y.weight")')
    runs = project.path / "runs"
    for number in (1, 2):
        model(runs / f"net-0000{number}-of-00002.pt")
        saved(runs / "global_step1" / f"zero_pp_rank_{number}_mp_rank_00_optim_states.pt", {})
    assert run(runs) == {"net-00001-of-00002.pt": "refused", "global_step1": "refused"}


def test_a_folder_in_the_folder_of_another(project: Folder) -> None:
    hf.rename(project)
    declare(project, "a1", 'op.Rename("x.weight", "y.weight")')
    hf.made(project.path / "runs" / "hf")
    hf.made(project.path / "runs" / "hf" / "checkpoint-500")
    found = run(project.path / "runs", backup=False)
    assert list(found.items()) == [("hf/checkpoint-500", "moved"), ("hf", "moved")]
    assert set(hf.tensors_in(project.path / "runs" / "hf" / "checkpoint-500")) == {"y.weight", "z.weight"}
    assert set(hf.tensors_in(project.path / "runs" / "hf")) == {"y.weight", "z.weight"}
    assert set(run(project.path / "runs").values()) == {"same"}


def test_files_that_go_away_and_names_for_the_same_file(project: Folder) -> None:
    declare(project, "a", 'op.Rename("x.weight", "y.weight")')
    runs = project.path / "runs"
    for name in ("a.ckpt", "b.ckpt"):
        model(runs / name)
    (project.path / "link.ckpt").symlink_to("runs/a.ckpt")
    results = migrate_all(Selection((str(runs), "link.ckpt", str(runs / "a.ckpt")), recursive=True))
    first = next(results)
    (runs / "b.ckpt").unlink()
    rest = list(results)
    assert first.status == "moved"
    assert {(each.checkpoint, each.status) for each in rest} == {
        (str(runs / "b.ckpt"), "failed"),
        (str(runs / "a.ckpt"), "same"),
    }
    assert [each.same_as for each in rest if each.status == "same"] == ["link.ckpt"]
    assert rest[-1].to_data() == {"checkpoint": str(runs / "a.ckpt"), "status": "same", "same_as": "link.ckpt"}


@pytest.mark.parametrize(
    ("listed", "status"), [("ab", "moved"), ("abc", "same"), ("", "moved"), (None, "unrelated"), ("cb", "failed")]
)
def test_the_list_of_another_tool_ties_a_file(project: Folder, listed: str | None, status: str) -> None:
    """Even an empty one: the checkpoint is older than all migrations."""
    migrations_list.import_chain(project)
    entries = migrations_list.ABSENT if listed is None else [migrations_list.entry(letter) for letter in listed]
    checkpoint = migrations_list.make(project, entries, listed or "")
    saved(checkpoint.with_name("rng_state.pth"), {"cpu": torch.get_rng_state()})
    (project.path / "runs").mkdir()
    for name in ("last.ckpt", "rng_state.pth"):
        (project.path / name).rename(project.path / "runs" / name)
    assert run(project.path / "runs") == {"last.ckpt": status, "rng_state.pth": "unrelated"}
    if status == "moved":
        assert migrations_list.read(project.path / "runs" / "last.ckpt")["done"] == "abc"
