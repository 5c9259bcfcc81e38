"""Formats that are not ours are named, with the way out where there is one; every byte stays."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.support.project import RENAME, Folder, digest, names

np = pytest.importorskip("numpy")
torch = pytest.importorskip("torch")

# The beginning of a model that torch.onnx.export wrote: ir_version 10, producer_name "pytorch".
ONNX = b"\x08\x0a\x12\x07pytorch\x1a\x052.6.0:\x0b\x0a\x09Identity_0"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"

STARTS = {
    "model.gguf": (b"GGUF\3\0\0\0" + bytes(64), "it is a GGUF file"),
    "model.onnx": (ONNX, "it is an ONNX model"),
    "model.h5": (b"\x89HDF\r\n\x1a\n" + bytes(64), "it is an HDF5 file"),
    "model.zst": (b"\x28\xb5\x2f\xfd" + bytes(64), "it is compressed with zstd; unpack it first with unzstd"),
    "model.lz4": (b"\x04\x22\x4d\x18" + bytes(64), "it is compressed with lz4"),
    "model.7z": (b"7z\xbc\xaf\x27\x1c" + bytes(64), "it is a 7z archive"),
    "pointer.ckpt": (POINTER, "it is a pointer of Git LFS, not the file itself; fetch that with `git lfs pull`"),
    "page.ckpt": (b"\n<!DOCTYPE html><html><body>404</body></html>", "it is an HTML page"),
    "some.json": (json.dumps({"weight_map": {}}).encode(), "it is a JSON file"),
    "pickled.ckpt": (b"\x80\x04}.", "it is a plain pickle, which torch.save did not write"),
    "empty.ckpt": (b"", "it is empty"),
    "text.ckpt": (b"hello", "it is not a checkpoint that torch.save wrote"),
}


@pytest.fixture
def chain(project: Folder) -> Folder:
    project.script("a1", None, **RENAME)
    return project


def named(project: Folder, path: object, says: str, code: int = 1) -> None:
    for words in (["upgrade", "head"], ["stamp", "head"], ["compact"], ["inspect"], ["current"]):
        ran = project.run(*words, path)
        assert (ran.code, ran.err.count("\n")) == (code, 1), ran.err
        assert f"{path}: {says}" in ran.err


@pytest.mark.parametrize("name", STARTS)
def test_a_file_is_named_by_how_it_begins(chain: Folder, name: str) -> None:
    content, says = STARTS[name]
    Path(name).write_bytes(content)
    named(chain, name, says)
    assert Path(name).read_bytes() == content


@pytest.mark.parametrize(
    ("module", "says"),
    [(gzip, "gzip; unpack it first with gunzip"), (bz2, "bzip2"), (lzma, "xz; unpack it first with unxz")],
    ids=["gzip", "bzip2", "xz"],
)
def test_compressed_checkpoints(chain: Folder, module: object, says: str) -> None:
    """The way out is to unpack."""
    whole = chain.copy()
    Path("packed.ckpt").write_bytes(module.compress(whole.read_bytes()))  # type: ignore[attr-defined]
    named(chain, "packed.ckpt", f"it is compressed with {says}")
    whole.write_bytes(module.decompress(Path("packed.ckpt").read_bytes()))  # type: ignore[attr-defined]
    chain.ok("upgrade", "head", whole)


@pytest.mark.parametrize("pack", ["gzip", "bzip2", "xz", "zstd", "lz4", "tar"])
def test_the_command_that_unpacks(chain: Folder, pack: str) -> None:
    """What the message names is run as it stands there, whatever the file is called."""
    if shutil.which(pack) is None:
        pytest.skip(f"no {pack} here")
    whole, packed = chain.copy(), Path("last.ckpt")
    make = f"tar -cf {packed} {whole.name}" if pack == "tar" else f"{pack} < {whole.name} > {packed}"
    subprocess.run(make, shell=True, check=True, cwd=chain.path)
    whole.unlink()
    command = chain.run("upgrade", "head", packed).err.strip().partition("unpack it first with ")[2]
    if shutil.which(command.split()[0]) is None:
        pytest.skip(f"no {command.split()[0]} here")
    command = f"{command} {packed}" if pack == "tar" else command.replace("FILE", packed.name)
    subprocess.run(command.replace("NEW", whole.name), shell=True, check=True, cwd=chain.path)
    chain.ok("upgrade", "head", whole)


def test_the_way_out_for_a_pointer_of_git_lfs(chain: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clone without the files holds pointers; the command that the message names fetches them (run with git-lfs 3.3).

    The remote is a folder, whose files Git LFS copies.
    """
    if shutil.which("git-lfs") is None:
        pytest.skip("no git-lfs here")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(chain.path / "gitconfig"))
    author = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    remote = (chain.path / "remote.git").as_uri()

    def git(folder: str, *words: str, **environment: str) -> None:
        subprocess.run(
            ["git", *author, *words], cwd=folder, check=True, capture_output=True, env=os.environ | environment
        )

    git(".", "init", "--bare", "remote.git")
    git(".", "init", "trained")
    git("trained", "lfs", "install", "--local")
    git("trained", "lfs", "track", "*.ckpt")
    whole = chain.copy(to="trained/last.ckpt").read_bytes()
    git("trained", "add", ".")
    git("trained", "commit", "-m", "trained")
    git("trained", "push", remote, "HEAD:main")
    git(".", "lfs", "install", GIT_LFS_SKIP_SMUDGE="1")
    git(".", "clone", "--branch", "main", remote, "cloned", GIT_LFS_SKIP_SMUDGE="1")

    ran = chain.run("upgrade", "head", "cloned/last.ckpt")
    command = ran.err.partition("fetch that with `")[2].partition("`")[0]
    assert (ran.code, command) == (1, "git lfs pull")
    assert Path("cloned/last.ckpt").read_bytes().startswith(POINTER.splitlines()[0])
    subprocess.run(command, shell=True, check=True, cwd="cloned", capture_output=True)
    assert Path("cloned/last.ckpt").read_bytes() == whole
    chain.ok("upgrade", "head", "cloned/last.ckpt")


def test_the_way_out_for_deepspeed(chain: Folder) -> None:
    deepspeed = pytest.importorskip("deepspeed.utils.zero_to_fp32")
    saved = chain.copy(to="mp_rank_00_model_states.pt")
    name = "get_fp32_state_dict_from_zero_checkpoint"
    assert f"deepspeed.utils.zero_to_fp32.{name} " in chain.run("upgrade", "head", saved).err
    assert callable(getattr(deepspeed, name))


def test_arrays_and_archives(chain: Folder) -> None:
    np.save("one.npy", np.ones(3))
    np.savez("several.npz", w=np.ones(3))
    with zipfile.ZipFile("plain.zip", "w") as archive:
        archive.writestr("notes.txt", "hello")
    with tarfile.open("packed.tar", "w") as packed:
        packed.add(chain.copy(), "training.ckpt")
    with tarfile.open("model.tar", "w") as old:
        for part in ("sys_info", "pickle", "tensors", "storages"):
            old.addfile(tarfile.TarInfo(part))
    named(chain, "one.npy", "it is an array of numpy (.npy)")
    named(chain, "several.npz", "it is a file of numpy arrays (.npz)")
    named(chain, "plain.zip", "it is a zip archive without data.pkl")
    named(chain, "packed.tar", "it is a tar archive; unpack it first with tar -xf")
    named(chain, "model.tar", "it is a tar file, the format of the first year of torch")


def test_the_way_out_for_arrays(chain: Folder) -> None:
    np.savez("several.npz", **{"x.weight": np.ones(3)})
    with np.load("several.npz") as arrays:
        torch.save({"state_dict": {name: torch.from_numpy(arrays[name]) for name in arrays}}, "saved.ckpt")
    chain.ok("upgrade", "head", "saved.ckpt")
    assert names(Path("saved.ckpt")) == ["y.weight"]


@pytest.mark.parametrize(
    ("holds", "says", "code"),
    [
        (".metadata.tmp", "a distributed checkpoint (torch.distributed.checkpoint) that was not saved to its end", 3),
        ("__0_0.distcp", "a distributed checkpoint (torch.distributed.checkpoint) that was not saved to its end", 3),
        ("__0.metadata", "a distributed checkpoint (torch.distributed.checkpoint) without common metadata", 3),
        ("zero_to_fp32.py", "a checkpoint of DeepSpeed", 3),
        ("mp_rank_00_model_states.pt", "a checkpoint of DeepSpeed", 3),
        ("latest_checkpointed_iteration.txt", "a checkpoint of Megatron", 3),
        ("anything", "not a checkpoint; give --recursive for all checkpoints below it", 2),
    ],
)
def test_folders(chain: Folder, holds: str, says: str, code: int) -> None:
    os.mkdir("saved")
    Path("saved", holds).touch()
    named(chain, "saved", f"it is a directory, {says}", code)
    assert os.listdir("saved") == [holds]


@pytest.mark.parametrize("url", ["ftp://host/last.ckpt", "https://host/last.ckpt"])
def test_urls(chain: Folder, url: str) -> None:
    named(chain, url, "it is a URL of a kind that is not opened; download the file first")
    assert "it is a URL" in chain.run("recover", url).err
    before = digest(chain.copy())
    ran = chain.run("upgrade", "head", "training.ckpt", "-o", url)
    assert (ran.code, "is not written; write to a local file, and upload that" in ran.err) == (1, True)
    assert digest(chain.path / "training.ckpt") == before
