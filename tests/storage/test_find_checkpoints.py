"""The checkpoints below a folder: each one once, and no file that is part of another."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
import zipfile
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors.torch")

from safetensors.torch import save_file  # noqa: E402

from anemoi_ckpt_migrate.storage import find_checkpoints  # noqa: E402
from anemoi_ckpt_migrate.storage.find_checkpoints import BACKUP, Walk  # noqa: E402
from tests.support import huggingface as hf  # noqa: E402
from tests.support.fleets import found, model, not_root, saved, written  # noqa: E402


def safetensors(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"x.weight": torch.ones(2)}, path)
    return path


def distributed(folder: Path) -> Path:
    import torch.distributed.checkpoint as dcp

    dcp.save({"x.weight": torch.ones(2)}, checkpoint_id=folder, no_dist=True)
    return folder


def test_files_of_every_kind_in_the_order_of_names(tmp_path: Path) -> None:
    model(tmp_path / "b" / "last.ckpt")
    model(tmp_path / "b" / "old.pth", old=True)
    model(tmp_path / "a" / "no-ending")
    model(tmp_path / "a" / "no-ending-old", old=True)
    model(tmp_path / "a" / "epoch=3-loss=0.25")
    safetensors(tmp_path / "c" / "x.safetensors")
    assert found(tmp_path) == [
        ["a/epoch=3-loss=0.25"],
        ["a/no-ending"],
        ["a/no-ending-old"],
        ["b/last.ckpt"],
        ["b/old.pth"],
        ["c/x.safetensors"],
    ]


def test_other_files_are_passed_by(tmp_path: Path) -> None:
    for name in (
        "config.json",
        "train.log",
        "README.md",
        "x.npy",
        "Makefile",
        "events.out.tfevents.1.2",
        "empty",
        "x.TXT",
    ):
        written(tmp_path / name, b"text")
    with zipfile.ZipFile(tmp_path / "code.zip", "w") as archive:
        archive.writestr("a.py", "")
    assert found(tmp_path) == []


def test_an_empty_or_cut_file_is_found_by_its_name(tmp_path: Path) -> None:
    written(tmp_path / "empty.ckpt")
    whole = model(tmp_path / "whole.ckpt").read_bytes()
    written(tmp_path / "cut.ckpt", whole[: len(whole) // 2])
    assert found(tmp_path) == [["cut.ckpt"], ["empty.ckpt"], ["whole.ckpt"]]


def test_the_size_and_the_time_of_a_file_and_of_a_folder(tmp_path: Path) -> None:
    file = model(tmp_path / "a.ckpt")
    folder = hf.made(tmp_path / "hf")
    for path in folder.iterdir():
        os.utime(path, (1, 1000))
    os.utime(folder / hf.SHARDS[0], (1, 2000))
    one, other = (entry for group in Walk().below(str(tmp_path)) for entry in group)
    assert (one.size, one.modified) == (file.stat().st_size, file.stat().st_mtime)
    assert other.size == sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    assert other.modified == 2000


def test_the_output_of_a_trainer_of_hugging_face(tmp_path: Path) -> None:
    """A folder with shards, an earlier checkpoint in it, and the files that a trainer leaves."""
    hf.made(tmp_path / "out")
    hf.made(tmp_path / "out" / "checkpoint-500")
    saved(tmp_path / "out" / "training_args.bin", {"lr": 0.1})
    saved(tmp_path / "out" / "checkpoint-500" / "rng_state.pth", {"cpu": torch.ones(2)})
    assert found(tmp_path) == [
        ["out/training_args.bin", "out/checkpoint-500/rng_state.pth", "out/checkpoint-500", "out"],
    ]


def test_a_folder_with_a_single_file_of_weights(tmp_path: Path) -> None:
    """A single file of safetensors belongs to its folder; one of torch is a checkpoint by itself."""
    safetensors(tmp_path / "one" / "model.safetensors")
    model(tmp_path / "two" / "pytorch_model.bin")
    assert found(tmp_path) == [["one"], ["two/pytorch_model.bin"]]


def test_the_given_folder_may_be_the_checkpoint(tmp_path: Path) -> None:
    folder = hf.made(tmp_path / "hf")
    assert found(folder) == [[""]]
    (entry,) = next(iter(Walk().below(str(folder))))
    assert entry.path == str(folder)


def test_a_pipeline_of_diffusers_is_its_components(tmp_path: Path) -> None:
    written(tmp_path / "model_index.json", b'{"_class_name": "Pipeline"}')
    safetensors(tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    safetensors(tmp_path / "vae" / "diffusion_pytorch_model.safetensors")
    written(tmp_path / "scheduler" / "scheduler_config.json", b"{}")
    assert found(tmp_path) == [["unet"], ["vae"]]


def test_a_distributed_checkpoint_is_its_folder(tmp_path: Path) -> None:
    distributed(tmp_path / "step-1")
    saved(tmp_path / "step-1" / "meta.pt", {"epoch": 1})
    (tmp_path / "step-2").mkdir()
    shutil.copy(next((tmp_path / "step-1").glob("*.distcp")), tmp_path / "step-2")
    assert found(tmp_path) == [["step-1"], ["step-2"]]


def test_deepspeed_and_megatron_count_once_a_step(tmp_path: Path) -> None:
    for step in ("global_step1", "global_step2"):
        for rank in range(3):
            saved(tmp_path / "ds" / step / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt", {})
        saved(tmp_path / "ds" / step / "mp_rank_00_model_states.pt", {})
    written(tmp_path / "ds" / "zero_to_fp32.py")
    for rank in range(2):
        saved(tmp_path / "mg" / "iter_0000100" / f"mp_rank_0{rank}" / "model_optim_rng.pt", {})
    written(tmp_path / "mg" / "latest_checkpointed_iteration.txt", b"100")
    assert found(tmp_path) == [["ds/global_step1"], ["ds/global_step2"], ["mg/iter_0000100"]]


def test_a_checkpoint_of_megatron_in_the_format_of_torch_is_no_other(tmp_path: Path) -> None:
    written(tmp_path / "latest_checkpointed_iteration.txt", b"100")
    distributed(tmp_path / "iter_0000100")
    assert found(tmp_path) == [["iter_0000100"]]


def test_shards_without_an_index_count_once(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        model(tmp_path / f"net-0000{number}-of-00003.bin")
        model(tmp_path / f"other-0000{number}-of-00003.pt")
        model(tmp_path / f"x_rank{number}.pt")
    model(tmp_path / "alone-00001-of-00001.pt")
    model(tmp_path / "x_rank.pt")
    assert found(tmp_path) == [
        ["alone-00001-of-00001.pt"],
        ["net-00001-of-00003.bin"],
        ["other-00001-of-00003.pt"],
        ["x_rank.pt"],
        ["x_rank1.pt"],
    ]


def test_shards_that_an_index_of_another_kind_names_count_once(tmp_path: Path) -> None:
    model(tmp_path / "a.pt")
    model(tmp_path / "b.pt")
    model(tmp_path / "c.pt")
    written(tmp_path / "all.pt.index.json", json.dumps({"weight_map": {"x": "a.pt", "y": "b.pt"}}).encode())
    assert found(tmp_path) == [["a.pt"], ["c.pt"]]


def test_a_snapshot_of_the_hub_is_found_by_its_names(tmp_path: Path) -> None:
    """The files lie in ``blobs``, named by their digests; a snapshot is a folder of links."""
    top = tmp_path / "models--org--net"
    model(top / "blobs" / "0123abcd")
    safetensors(top / "blobs" / "4567cdef")
    for snapshot, blob, name in (("aaa", "0123abcd", "pytorch_model.bin"), ("bbb", "4567cdef", "model.safetensors")):
        (top / "snapshots" / snapshot).mkdir(parents=True)
        (top / "snapshots" / snapshot / name).symlink_to(f"../../blobs/{blob}")
    written(top / "refs" / "main", b"aaa")
    assert found(top) == [["snapshots/bbb"], ["snapshots/aaa/pytorch_model.bin"]]


def test_files_of_a_run_are_no_checkpoints(tmp_path: Path) -> None:
    model(tmp_path / "a.ckpt")
    model(tmp_path / "a.ckpt.bak")
    model(tmp_path / "a.ckpt.bak12")
    hf.made(tmp_path / "hf.bak")
    model(tmp_path / ".a.ckpt.0123abcd.tmp")
    written(tmp_path / ".a.ckpt.lock")
    written(tmp_path / "a.ckpt.journal", b'{"format": 1}')
    model(tmp_path / "b.ckpt")
    entries = [entry for group in Walk().below(str(tmp_path)) for entry in group]
    assert [(entry.relative, entry.left) for entry in entries] == [("a.ckpt", True), ("b.ckpt", False)]
    backups = [entry for group in Walk(backups=True).below(str(tmp_path)) for entry in group if entry.kind == BACKUP]
    assert [entry.relative for entry in backups] == ["a.ckpt.bak", "a.ckpt.bak12", "hf.bak"]
    assert backups[2].size == sum(each.stat().st_size for each in (tmp_path / "hf.bak").rglob("*") if each.is_file())


def test_a_folder_whose_exchange_was_interrupted_is_found_by_its_journal(tmp_path: Path) -> None:
    """The old folder had been renamed, and the new one had not got the name yet."""
    hf.made(tmp_path / ".hf.0123abcd.tmp")
    written(tmp_path / "hf.journal", b'{"format": 1}')
    written(tmp_path / "other.journal", b"my diary")
    entries = [entry for group in Walk().below(str(tmp_path)) for entry in group]
    assert [(entry.relative, entry.left) for entry in entries] == [("hf", True)]


def test_hidden_names_are_passed_by_unless_they_are_given(tmp_path: Path) -> None:
    model(tmp_path / ".cache" / "a.ckpt")
    model(tmp_path / ".b.ckpt")
    assert found(tmp_path) == []
    assert found(tmp_path / ".cache") == [["a.ckpt"]]


def test_a_link_counts_once_and_only_if_its_file_is_not_found(tmp_path: Path) -> None:
    model(tmp_path / "runs" / "a" / "step.ckpt")
    (tmp_path / "runs" / "a" / "last.ckpt").symlink_to("step.ckpt")
    model(tmp_path / "elsewhere" / "b.ckpt")
    (tmp_path / "runs" / "b.ckpt").symlink_to("../elsewhere/b.ckpt")
    (tmp_path / "runs" / "b-again.ckpt").symlink_to("../elsewhere/b.ckpt")
    (tmp_path / "runs" / "nowhere.ckpt").symlink_to("../elsewhere/c.ckpt")
    (tmp_path / "runs" / "itself.ckpt").symlink_to("itself.ckpt")
    assert found(tmp_path / "runs") == [["a/step.ckpt"], ["b-again.ckpt"]]


def test_cycles_of_links_to_folders(tmp_path: Path) -> None:
    model(tmp_path / "runs" / "a" / "x.ckpt")
    model(tmp_path / "elsewhere" / "y.ckpt")
    (tmp_path / "runs" / "a" / "up").symlink_to("../..")
    (tmp_path / "runs" / "far").symlink_to("../elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to("../runs")
    assert sorted(found(tmp_path / "runs")) == [["a/x.ckpt"], ["far/y.ckpt"]]
    (tmp_path / "link").symlink_to("runs")
    assert found(tmp_path / "link")[0] == ["a/x.ckpt"]


def test_names_with_a_newline_or_of_bytes_that_are_no_text(tmp_path: Path) -> None:
    names = ["a\nb.ckpt", os.fsdecode(b"\xff.ckpt"), "[x]*?.ckpt", "ü.ckpt"]
    for name in names:
        model(tmp_path / "good.ckpt").rename(tmp_path / name)
    assert sorted(found(tmp_path)) == sorted([name] for name in names)


def test_backups_and_rests_of_a_name_with_a_newline(tmp_path: Path) -> None:
    for name in ("a\nb.ckpt", "a\nb.ckpt.bak", "a\nb.ckpt.bak2", ".a\nb.ckpt.lock", ".a\nb.ckpt.0123abcd.tmp"):
        model(tmp_path / "good.ckpt").rename(tmp_path / name)
    assert found(tmp_path) == [["a\nb.ckpt"]]


def test_what_is_no_regular_file_blocks_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.ckpt")
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket.ckpt"))
    (tmp_path / "link.ckpt").symlink_to("pipe.ckpt")
    (tmp_path / "zero.ckpt").symlink_to("/dev/zero")
    (tmp_path / "zero").symlink_to("/dev/zero")
    assert found(tmp_path) == []


def test_a_folder_that_cannot_be_searched_is_an_error_of_its_own() -> None:
    with tempfile.TemporaryDirectory() as top:
        os.chmod(top, 0o755)
        model(Path(top) / "a" / "x.ckpt")
        model(Path(top) / "b" / "y.ckpt")
        (Path(top) / "a").chmod(0o000)
        with not_root():
            entries = [entry for group in Walk().below(top) for entry in group]
        (Path(top) / "a").chmod(0o755)
    assert [entry.relative for entry in entries] == ["a", "b/y.ckpt"]
    assert str(entries[0].error) == "it cannot be searched (permission denied)"


def test_a_file_that_cannot_be_opened_is_found_by_its_name_only() -> None:
    with tempfile.TemporaryDirectory() as top:
        os.chmod(top, 0o755)
        for name in ("x.ckpt", "no-ending"):
            model(Path(top) / name).chmod(0o000)
        with not_root():
            assert found(Path(top)) == [["x.ckpt"]]


def test_files_and_folders_that_go_away_meanwhile(tmp_path: Path) -> None:
    """Training removes its old checkpoints while they are searched."""
    for step in (1, 2, 3):
        model(tmp_path / f"step-{step}" / "x.ckpt")
    walk = Walk().below(str(tmp_path))
    assert [entry.relative for entry in next(walk)] == ["step-1/x.ckpt"]
    shutil.rmtree(tmp_path / "step-2")
    assert [entry.relative for group in walk for entry in group] == ["step-3/x.ckpt"]


def test_a_file_that_goes_away_while_its_folder_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.ckpt", "b.ckpt"):
        model(tmp_path / name)
    may_be = find_checkpoints._Folder.may_be_by_name

    def removing(folder: find_checkpoints._Folder, name: str) -> bool:
        (tmp_path / "a.ckpt").unlink(missing_ok=True)
        return may_be(folder, name)

    monkeypatch.setattr(find_checkpoints._Folder, "may_be_by_name", removing)
    assert found(tmp_path) == [["b.ckpt"]]


def test_a_folder_that_is_left_out(tmp_path: Path) -> None:
    model(tmp_path / "a" / "x.ckpt")
    model(tmp_path / "b" / "y.ckpt")
    (tmp_path / "link").symlink_to("b")
    walk = Walk()
    walk.leave_out(str(tmp_path / "b"))
    assert found(tmp_path, walk) == [["a/x.ckpt"]]


def test_a_file_that_is_included_needs_no_look(tmp_path: Path) -> None:
    written(tmp_path / "weights.dat", b"anything")
    written(tmp_path / "other.dat", b"anything")
    assert found(tmp_path, Walk(included=lambda relative: relative == "weights.dat")) == [["weights.dat"]]
