"""A safetensors file changed in place: its header is written over, and the content of its tensors stays where it is.

before    | length | header, and spaces | q.weight | ... | z.weight |
after     | length | new header, spaces | q.weight | ... |                a tensor at the end goes away, or one is added
"""

from __future__ import annotations

import collections
import errno
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
library = pytest.importorskip("safetensors.torch")

import anemoi_ckpt_migrate as cm  # noqa: E402
from anemoi_ckpt_migrate.storage import in_place, open_checkpoint  # noqa: E402
from tests.storage.test_power_loss import Disk, lay_out, leaving_out, watch  # noqa: E402
from tests.storage.test_safetensors import equal, model, refused  # noqa: E402
from tests.support import faults  # noqa: E402
from tests.support.forks import Forks  # noqa: E402
from tests.support.operations import declare  # noqa: E402
from tests.support.project import Folder, backups, digest  # noqa: E402

OPERATIONS = {
    "rename": 'op.RenamePrefix("out.", "head.")',
    "drop at the end": 'op.Drop("z.weight", keep=True)',
    "add at the end": 'op.Add("new.weight", [3, 2], fill=1.5)',
}


def saved(project: Folder, room: int = 4096, name: str = "model.safetensors", **more: Any) -> Path:
    """Save a model whose last tensor is z.weight, with room in its header: spaces, as the format allows."""
    path = project.path / name
    library.save_file(model(**more, **{"z.weight": torch.ones(2, 2)}), path, metadata={"format": "pt"})
    content = path.read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")
    path.write_bytes((begin - 8 + room).to_bytes(8, "little") + content[8:begin] + b" " * room + content[begin:])
    assert list(library.load_file(path))
    return path


def state(path: Path) -> dict[str, Any]:
    """The tensors, as the library loads them."""
    return library.load(path.read_bytes())  # type: ignore[no-any-return]


def content(path: Path) -> bytes:
    """The bytes behind the header."""
    whole = path.read_bytes()
    return whole[8 + int.from_bytes(whole[:8], "little") :]


def journal_left_by(project: Folder, path: Path, share: float) -> Path:
    """Leave a file as a run does that was killed when it had written so much of the new header, with its journal."""
    other = project.path / "other.safetensors"
    shutil.copy(path, other)
    project.ok("upgrade", "head", other, "--in-place")
    begin = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    new = other.read_bytes()[:begin]
    old = path.read_bytes()
    other.unlink()
    journal = in_place.journal_of(path)
    journal.write_bytes(b"".join(in_place.HeaderMark(len(old), old[:begin], new).content()))
    part = int(begin * share)
    path.write_bytes(new[:part] + old[part:])
    return journal


@pytest.mark.parametrize("way", OPERATIONS)
def test_up_and_back_without_a_copy(project: Folder, way: str) -> None:
    path = saved(project)
    before, inode = state(path), path.stat().st_ino
    declare(project, "a1", OPERATIONS[way])
    payload = content(path)
    project.ok("upgrade", "head", path, "--in-place", "--check-rollback")
    expected = {
        "rename": {name.replace("out.", "head."): value for name, value in before.items()},
        "drop at the end": {name: value for name, value in before.items() if name != "z.weight"},
        "add at the end": {**before, "new.weight": torch.full((3, 2), 1.5)},
    }[way]
    assert equal(state(path), expected)
    assert content(path)[:60] == payload[:60]
    assert "a1" in project.ok("current", path).out
    project.ok("downgrade", "base", path, "--in-place")
    assert equal(state(path), before)
    assert content(path) == payload
    assert path.stat().st_ino == inode
    assert backups(path) == []
    assert sorted(each.name for each in project.path.iterdir()) == ["ckpt-migrate.toml", path.name, "versions"]


def test_what_else_stays_where_it_is(project: Folder) -> None:
    """Neighbours that are fused, and a tensor that is split along its first dimension, keep their bytes."""
    path = saved(project)
    payload = content(path)
    declare(project, "a1", 'op.Split("q.weight", ["q.upper", "q.lower"])')
    declare(project, "b2", 'op.Fuse(["q.upper", "q.lower"], "q.both")', parents="a1")
    for target in ("a1", "b2"):
        project.ok("upgrade", target, path, "--in-place")
        assert content(path) == payload
    assert torch.equal(state(path)["q.both"], model()["q.weight"])
    project.ok("stamp", "a1", path, "--in-place")
    assert content(path) == payload


def test_no_torch_is_needed(project: Folder) -> None:
    path = saved(project)
    declare(project, "a1", OPERATIONS["rename"], OPERATIONS["drop at the end"])
    code = f"""
import sys
from anemoi_ckpt_migrate import cli
assert cli.main(["upgrade", "head", {str(path)!r}, "--in-place"]) == 0
assert cli.main(["downgrade", "base", {str(path)!r}, "--in-place"]) == 0
print([name for name in ("torch", "safetensors", "numpy") if name in sys.modules])
"""
    ran = subprocess.run([sys.executable, "-c", code], cwd=project.path, capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "[]"


def test_a_new_file_leaves_room_for_the_next_change(project: Folder) -> None:
    """A file of the library has none; the way that the message tells leads to one that has."""
    path = saved(project, room=0, large=torch.arange(100_000.0))
    declare(project, "a1", OPERATIONS["rename"])
    declare(project, "b2", 'op.RenamePrefix("head.", "a.longer.name.for.the.head.")', parents="a1")
    room = "the header of the file has room for"
    refused(project, 3, room, "upgrade", "head", path, "--in-place")
    ran = project.run("upgrade", "head", path, "--in-place")
    assert "leave out --in-place, and a new file takes its place, with room for later changes" in ran.err
    project.ok("upgrade", "a1", path)
    inode = path.stat().st_ino
    project.ok("upgrade", "head", path, "--in-place")
    project.ok("downgrade", "base", path, "--in-place")
    assert path.stat().st_ino == inode
    assert torch.equal(state(path)["large"], torch.arange(100_000.0))
    assert "nothing to gain" in project.ok("compact", path).out


@pytest.mark.parametrize(
    ("operations", "says"),
    [
        (['op.Drop("k.weight", keep=True)'], "would have to move in the file"),
        (['op.Cast("q.weight", "float64")'], "would have to move in the file"),
        (['op.Fuse(["q.weight", "v.weight"], "qv")'], "would have to move in the file"),
        ([OPERATIONS["drop at the end"], OPERATIONS["add at the end"]], "would take the place of old ones"),
        (['op.Drop("y.*", keep=False)', 'op.Add("new", [], fill=1.0)'], "would have to move in the file"),
    ],
)
def test_what_cannot_be_done_in_place(project: Folder, operations: list[str], says: str) -> None:
    """The message tells the way out, which works."""
    path = saved(project, **{"y.bias": torch.ones(1)})
    declare(project, "a1", *operations, top="rollback = None" if "y.*" in operations[0] else "")
    refused(project, 3, says, "upgrade", "head", path, "--in-place")
    assert "leave out --in-place" in project.run("upgrade", "head", path, "--in-place").err
    project.ok("upgrade", "head", path)


def test_a_tensor_that_would_not_be_aligned(project: Folder) -> None:
    path = saved(project, odd=torch.ones(1, dtype=torch.uint8))
    declare(project, "a1", OPERATIONS["add at the end"])
    refused(project, 3, "new.weight would not be aligned at the end of the file", "upgrade", "head", path, "--in-place")
    project.ok("upgrade", "head", path)


def test_copies_of_shared_tensors_are_appended(project: Folder) -> None:
    path = saved(project)
    project.script("a1", None, 'ckpt["tied.weight"] = ckpt["q.weight"]', 'del ckpt["tied.weight"]')
    payload = content(path)
    project.ok("upgrade", "head", path, "--in-place", "--copy-shared")
    assert content(path) == payload + payload_of(model()["q.weight"])
    assert torch.equal(state(path)["tied.weight"], state(path)["q.weight"])
    project.ok("downgrade", "base", path, "--in-place")
    assert content(path) == payload


def payload_of(tensor: Any) -> bytes:
    return bytes(tensor.numpy().tobytes())


def test_a_changed_tensor_is_written_nowhere_in_place(project: Folder) -> None:
    """A function that changes content: a journal of the header could not bring the old content back."""
    path = saved(project)
    project.script("a1", None, 'ckpt["q.bias"].mul_(2)', 'ckpt["q.bias"].div_(2)')
    refused(project, 3, "would have to move in the file", "upgrade", "head", path, "--in-place")


def test_other_names_and_read_only_files(project: Folder) -> None:
    path = saved(project)
    declare(project, "a1", OPERATIONS["rename"])
    os.link(path, project.path / "best.safetensors")
    refused(project, 3, "has another name (hard links)", "upgrade", "head", path, "--in-place")
    (project.path / "best.safetensors").unlink()
    path.chmod(0o444)
    refused(project, 3, "it is read-only", "upgrade", "head", path, "--in-place")


# Interrupted runs


@pytest.mark.parametrize("share", [0, 0.001, 0.02, 0.5, 1])
def test_reading_sees_the_old_file_and_writing_recovers_it_first(project: Folder, share: float) -> None:
    path = saved(project)
    declare(project, "a1", OPERATIONS["rename"])
    old, before = digest(path), state(path)
    journal = journal_left_by(project, path, share)
    broken = digest(path)
    assert "base" in project.ok("current", path).out
    assert "this is the file that `recover` restores" in project.ok("current", path).err
    seen = project.ok("inspect", path, "--json").lines[0]
    assert seen["interrupted"]
    assert {each["path"] for each in seen["tensors"]} == set(before)
    assert "`recover` restores" in project.ok("inspect", path).err
    project.ok("upgrade", "head", path, "--dry-run")
    assert torch.equal(cm.load(path, project=project.path)["head.weight"], before["out.weight"])
    project.ok("upgrade", "head", path, "-o", "elsewhere.safetensors")
    assert torch.equal(state(project.path / "elsewhere.safetensors")["head.weight"], before["out.weight"])
    project.ok("downgrade", "base", path, "-o", "copied.safetensors")  # nothing to do: a copy
    assert equal(state(project.path / "copied.safetensors"), before)
    assert (digest(path), journal.exists()) == (broken, True)
    copy = project.path / "second.safetensors"
    shutil.copy(path, copy)
    shutil.copy(journal, in_place.journal_of(copy))
    assert "the file is whole again" in project.ok("recover", copy).out
    assert digest(copy) == old
    assert "nothing to recover" in project.ok("recover", copy).out
    project.ok("upgrade", "head", path)
    assert not journal.exists()
    assert [digest(backup) for backup in backups(path)] == [old]


def test_a_journal_of_another_file(project: Folder) -> None:
    """Somebody saved a new checkpoint over one on which a run had been interrupted."""
    path = saved(project)
    declare(project, "a1", OPERATIONS["rename"])
    journal_left_by(project, path, 0.5)
    saved(project, other=torch.ones(5))
    before = digest(path)
    for words in (("recover",), ("upgrade", "head"), ("upgrade", "head", "--in-place")):
        ran = project.run(*words, path)
        assert (ran.code, "is not the journal of an interrupted run on this file as it is now" in ran.err) == (1, True)
    assert digest(path) == before
    assert not project.ok("inspect", path, "--json").lines[0]["interrupted"]
    in_place.journal_of(path).unlink()
    project.ok("upgrade", "head", path, "--in-place")


def test_new_weights_under_the_same_names_are_left_alone(project: Folder) -> None:
    """Training saved over the file: `recover` restores the header, which is that of both, and no tensor."""
    path = saved(project)
    declare(project, "a1", OPERATIONS["rename"])
    journal_left_by(project, path, 0.5)
    whole = saved(project)
    trained = bytearray(whole.read_bytes())
    trained[-4:] = b"\1\2\3\4"
    path.write_bytes(trained)
    project.ok("recover", path)
    assert path.read_bytes() == trained


def damages(journal: bytes) -> dict[str, bytes]:
    line, _, rest = journal.partition(b"\n")
    said = json.loads(line)
    return {
        "empty": b"",
        "the line alone": line + b"\n",
        "no line": line + rest,
        "cut off": journal[:-1],
        "a byte more": journal + b"x",
        "a changed byte": journal[:-9] + b"x" + journal[-8:],
        "another format": json.dumps(said | {"format": 3}).encode() + b"\n" + rest,
        "a negative size": json.dumps(said | {"header": -said["header"]}).encode() + b"\n" + rest,
        "a size of nothing": json.dumps(said | {"header": 0, "crc": 0}).encode() + b"\n",
        "true for a number": json.dumps(said | {"length": True}).encode() + b"\n" + rest,
        "a header longer than the file": json.dumps(said | {"length": 10}).encode() + b"\n" + rest,
        "a file longer than this": json.dumps(said | {"length": 1 << 40}).encode() + b"\n" + rest,
        "a long line": line[:-1] + b" " * 1000 + b"}\n" + rest,
    }


@pytest.mark.parametrize("kind", damages(b'{"format": 2, "length": 1, "header": 1, "crc": 1}\n'))
def test_what_is_no_journal_is_not_followed(project: Folder, kind: str) -> None:
    path = saved(project)
    declare(project, "a1", OPERATIONS["rename"])
    journal = journal_left_by(project, path, 0)
    damaged = damages(journal.read_bytes())[kind]
    journal.write_bytes(damaged)
    before = digest(path)
    for words in (("recover",), ("upgrade", "head", "--in-place")):
        ran = project.run(*words, path)
        assert (ran.code, "is not the journal of an interrupted run" in ran.err) == (1, True), ran.err
    assert (digest(path), journal.read_bytes()) == (before, damaged)


@pytest.mark.parametrize("way", OPERATIONS)
@pytest.mark.parametrize("fault", ["error=ENOSPC", "error=EIO", "error=EINTR", faults.KILL])
def test_a_fault_at_every_call(project: Folder, request: pytest.FixtureRequest, fault: str, way: str) -> None:
    """The file is the old one or the new one, and the next run finishes; both ways."""
    forks = request.getfixturevalue("forks_with_torch" if way == "add at the end" else "forks")
    declare(project, "a1", OPERATIONS[way])
    up, down = ["upgrade", "head"], ["downgrade", "base"]
    forks.rehearse(project.path, *up, saved(project, name="first.safetensors"), "--in-place")
    for number, (words, back) in enumerate(((up, down), (down, up))):
        every_call(project, forks, fault, words, back, project.path / f"runs{number}")


def every_call(project: Folder, forks: Forks, fault: str, words: list[str], back: list[str], folder: Path) -> None:
    folder.mkdir()
    sound = saved(project, name=f"{folder.name}/model.safetensors")
    if words[0] == "downgrade":
        project.ok("upgrade", "head", sound, "--in-place")
    start, old = sound.read_bytes(), state(sound)
    calls = faults.sound(forks, folder, *words, sound, "--in-place")
    new = state(sound)
    assert {"flock", "pwrite64", "fsync", "link", "unlink"} <= {call.name for call in calls}
    outcomes = collections.Counter[str]()
    for call in faults.struck(calls, fault):
        shutil.rmtree(folder)
        folder.mkdir()
        victim = folder / "victim.safetensors"
        victim.write_bytes(start)
        ran = faults.strike(forks, call, fault, folder, *words, victim, "--in-place")
        if fault == faults.KILL:
            assert ran.code == -signal.SIGKILL
        with open_checkpoint(victim) as file:  # reading sees one of both, before the file is recovered
            seen = set(file.load())
        if in_place.journal_of(victim).exists():
            project.ok("recover", victim)
        found = state(victim)
        assert any(equal(found, each) for each in (old, new)), call
        assert seen == set(found)
        if "nothing was changed" in ran.err:
            assert (equal(found, old), ran.code) == (True, 1)
        outcomes["new" if equal(found, new) else "old"] += 1
        project.ok(*words, victim, "--in-place")
        assert equal(state(victim), new)
        project.ok(*back, victim, "--in-place")
        assert equal(state(victim), old)
        assert [path.name for path in folder.glob(".*")] == [], call
        assert not in_place.journal_of(victim).exists()
    assert outcomes["new"] > 0, outcomes
    if fault != "error=EINTR":
        assert outcomes["old"] > 0, outcomes


@pytest.mark.parametrize("way", OPERATIONS)
def test_a_disk_that_refuses_to_write_and_to_restore(
    project: Folder, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    path = saved(project)
    declare(project, "a1", OPERATIONS[way])
    old = digest(path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", failing(os.pwrite, 5, times=2))
        ran = project.run("upgrade", "head", path, "--in-place")
    assert (ran.code, "once the disk works again, `ckpt-migrate recover` makes the file whole" in ran.err) == (1, True)
    assert "the file is whole again" in project.ok("recover", path).out
    assert (digest(path) == old) == (way != "drop at the end")  # whose journal completes the run
    project.ok("upgrade", "head", path, "--in-place")


# The power goes


def watched_run(project: Folder, monkeypatch: pytest.MonkeyPatch, way: str, without_sync: int | None = None) -> Any:
    """Run a command, and watch; `without_sync` is the number of an fsync that is left out."""
    runs = project.path / "runs"
    shutil.rmtree(runs, ignore_errors=True)
    runs.mkdir()
    path = saved(project, name="runs/model.safetensors")
    old = path.read_bytes()
    words = ["upgrade", "head", "--in-place"]
    if way == "recover":
        journal_left_by(project, path, 0.3)
        words = ["recover"]
    disk = Disk(runs)
    disk.confirm_all()
    with monkeypatch.context() as patch:
        watch(disk, patch)
        if way.endswith("fails"):
            patch.setattr(os, "pwrite", failing(os.pwrite, 5))
        if without_sync is not None:
            patch.setattr(os, "fsync", leaving_out(os.fsync, without_sync))
        assert project.run(*words, path).code == (1 if way.endswith("fails") else 0)
    return disk, path, old, path.read_bytes()


def failing(real: Any, wanted: int, times: int = 1) -> Any:
    """Have a call write a half and fail, so many times."""
    calls = itertools.count(1)

    def call(descriptor: int, data: Any, offset: int) -> int:
        if wanted <= next(calls) < wanted + times:
            real(descriptor, memoryview(data)[: len(data) // 2], offset)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return int(real(descriptor, data, offset))

    return call


def hold(project: Folder, run: Any) -> set[bool]:
    """Check each way in which the folder may come back; return whether the file was the new one, or the old one."""
    disk, path, old, new = run
    final_names, final_content = disk.moments[-1][1][0]
    assert final_content.get(final_names.get(path.name, -1)) == new  # done means durable, before the lock goes
    assert in_place.journal_of(path).name not in final_names
    seen, unique = set(), {}
    for _, states in disk.moments:
        for kept, content in states:
            unique[tuple(sorted(kept.items())), tuple(sorted(content.items()))] = kept, content
    for kept, content in unique.values():
        lay_out(disk.folder, kept, content)
        project.ok("inspect", path)  # reading works at once
        if in_place.journal_of(path).exists():
            project.ok("recover", path)
        found = path.read_bytes()
        assert found in (old, new)
        seen.add(found == new)
    return seen


WAYS = {**OPERATIONS, "rename that fails": OPERATIONS["rename"], "recover": OPERATIONS["rename"]}


@pytest.mark.parametrize("way", WAYS)
def test_the_power_goes(project: Folder, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    declare(project, "a1", WAYS[way])
    run = watched_run(project, monkeypatch, way)
    assert len(run[0].moments) > 5
    assert hold(project, run) == ({True} if way in ("rename that fails", "recover") else {True, False})


@pytest.mark.parametrize("way", WAYS)
def test_every_sync_is_needed(project: Folder, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """With any one of them left out, there is a moment at which a power cut does harm."""
    declare(project, "a1", WAYS[way])
    whole = watched_run(project, monkeypatch, way)
    syncs = sum(call == "fsync" for call, _ in whole[0].moments)
    assert syncs >= 2
    for number in range(syncs):
        run = watched_run(project, monkeypatch, way, without_sync=number)
        with pytest.raises(AssertionError):
            hold(project, run)
            print(f"nobody notices that fsync {number} of {syncs} is missing")
