"""Written at the end of the file: what is large stays where it is, and the way back is to cut.

before    | data.pkl | data/0 ... | directory |
after     | data.pkl | data/0 ... | directory | data.pkl | previous.json | directory |
            (dead)                  (dead)
"""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

import anemoi_ckpt_migrate as cm
from anemoi_ckpt_migrate.storage import in_place, open_checkpoint
from tests.support.in_place import interrupted
from tests.support.project import RENAME, Folder, backups, digest, load, names


@pytest.fixture
def chain(project: Folder) -> Folder:
    project.script("a1", None, **RENAME)
    project.script("a2", "a1", 'ckpt["note"] = "a2"', 'del ckpt["note"]')
    return project


def test_up_and_back_to_the_same_bytes(chain: Folder) -> None:
    checkpoint = chain.copy()
    old, inode = digest(checkpoint), checkpoint.stat().st_ino
    before = checkpoint.read_bytes()
    ran = chain.ok("upgrade", "head", "--in-place", checkpoint)
    assert "a2" in ran.out
    assert "y.weight" in names(checkpoint)
    assert checkpoint.read_bytes().startswith(before)
    assert checkpoint.stat().st_ino == inode
    assert backups(checkpoint) == []
    ran = chain.ok("downgrade", "base", "--in-place", checkpoint)
    assert "no rollback had to run" in ran.out
    assert (digest(checkpoint), checkpoint.stat().st_ino) == (old, inode)
    assert [path.name for path in chain.path.glob(".*")] == []
    assert not in_place.journal_of(checkpoint).exists()


def test_back_without_in_place_gives_the_same_bytes_and_a_backup(chain: Folder) -> None:
    checkpoint = chain.copy()
    old = digest(checkpoint)
    chain.ok("upgrade", "head", "--in-place", checkpoint)
    new = digest(checkpoint)
    chain.ok("downgrade", "base", checkpoint, "-o", chain.path / "elsewhere.ckpt")
    assert (digest(chain.path / "elsewhere.ckpt"), digest(checkpoint)) == (old, new)
    chain.ok("downgrade", "base", checkpoint)
    assert digest(checkpoint) == old
    assert [digest(backup) for backup in backups(checkpoint)] == [new]


def test_one_step_at_a_time(chain: Folder) -> None:
    """Each change in place leaves a state to go back to; the one that fits the target is taken."""
    checkpoint = chain.copy()
    states = [digest(checkpoint)]
    for _ in range(2):
        chain.ok("upgrade", "+1", "--in-place", checkpoint)
        states.append(digest(checkpoint))
    for _ in range(2):
        chain.ok("downgrade", "-1", "--in-place", checkpoint)
        states.append(digest(checkpoint))
    assert states[::-1] == states


def test_irreversible_steps_can_be_undone_while_the_bytes_are_there(chain: Folder) -> None:
    chain.script("a3", "a2", 'ckpt["state_dict"].popitem()', None)
    checkpoint = chain.copy()
    old = digest(checkpoint)
    chain.ok("upgrade", "head", "--in-place", checkpoint)
    assert chain.run("downgrade", "a1", "--in-place", checkpoint).code == 3  # there was never a file at a1
    chain.ok("downgrade", "base", "--in-place", checkpoint)
    assert digest(checkpoint) == old


def test_a_way_back_needs_no_trust_while_the_bytes_are_there(chain: Folder) -> None:
    checkpoint = chain.copy()
    old = digest(checkpoint)
    chain.ok("upgrade", "head", "--in-place", checkpoint)
    for script in (chain.path / "versions").iterdir():
        script.unlink()
    chain.ok("downgrade", "base", checkpoint)
    assert digest(checkpoint) == old


def test_after_a_stamp_the_rollbacks_run(chain: Folder) -> None:
    """Stamping says that the file was another one than it seemed: its old bytes are not what a rollback would give."""
    checkpoint = chain.copy()
    chain.ok("stamp", "a1", "--in-place", checkpoint)
    chain.ok("upgrade", "head", "--in-place", checkpoint)
    assert "no rollback had to run" in chain.ok("downgrade", "a1", "--in-place", checkpoint).out
    assert "note" not in load(checkpoint)
    failed = chain.run("downgrade", "base", "--in-place", checkpoint)
    assert "there is no key 'y.weight'" in failed.err  # a1 was never applied to it


def test_after_a_rewrite_the_rollbacks_run(chain: Folder) -> None:
    checkpoint = chain.copy()
    old = names(checkpoint)
    chain.ok("upgrade", "head", "--in-place", checkpoint)
    chain.ok("compact", checkpoint)
    ran = chain.ok("downgrade", "base", "--in-place", checkpoint)
    assert "no rollback had to run" not in ran.out
    assert sorted(names(checkpoint)) == sorted(old)


def test_old_bytes_that_are_damaged_are_not_gone_back_to(chain: Folder) -> None:
    checkpoint = chain.copy()
    with open_checkpoint(checkpoint) as file:
        at = file._archive.directory + 60
    chain.ok("upgrade", "head", "--in-place", checkpoint)
    with checkpoint.open("r+b") as raw:
        raw.seek(at)
        byte = raw.read(1)
        raw.seek(at)
        raw.write(bytes([byte[0] ^ 1]))
    ran = chain.ok("downgrade", "base", "--in-place", checkpoint)
    assert "no rollback had to run" not in ran.out
    assert "x.weight" in names(checkpoint)


def test_tensors_that_change_are_written_and_the_others_are_not(project: Folder) -> None:
    torch = pytest.importorskip("torch")
    project.script("a1", None, 'ckpt["state_dict"]["w3"].mul_(2)', 'ckpt["state_dict"]["w3"].div_(2)')
    checkpoint = project.path / "last.ckpt"
    torch.save({"state_dict": {f"w{i}": torch.full((50_000,), float(i)) for i in range(8)}}, checkpoint)
    old, size = digest(checkpoint), checkpoint.stat().st_size
    project.ok("upgrade", "head", "--in-place", checkpoint)
    assert 200_000 < checkpoint.stat().st_size - size < 220_000
    for mmap in (True, False):
        found = torch.load(checkpoint, mmap=mmap)["state_dict"]
        assert [value[-1].item() for value in found.values()] == [0, 1, 2, 6, 4, 5, 6, 7]
    project.ok("downgrade", "base", "--in-place", checkpoint)
    assert digest(checkpoint) == old


def test_compact_removes_the_dead_bytes(chain: Folder) -> None:
    checkpoint = chain.copy()
    assert "nothing to gain" in chain.ok("compact", checkpoint).out
    chain.ok("upgrade", "head", "--in-place", checkpoint)
    before, tree = checkpoint.stat().st_size, names(checkpoint)
    ran = chain.ok("compact", "--json", checkpoint)
    assert ran.lines[0]["before"] == before > ran.lines[0]["after"] == checkpoint.stat().st_size
    assert names(checkpoint) == tree
    assert [backup.stat().st_size for backup in backups(checkpoint)] == [before]
    assert "nothing to gain" in chain.ok("compact", checkpoint).out
    assert cm.compact(checkpoint).written is None


def test_compact_elsewhere(chain: Folder) -> None:
    checkpoint = chain.copy()
    chain.ok("upgrade", "head", "--in-place", checkpoint)
    before = digest(checkpoint)
    chain.ok("compact", checkpoint, "-o", "small.ckpt", "--verify")
    assert digest(checkpoint) == before
    assert names(chain.path / "small.ckpt") == names(checkpoint)
    assert chain.run("compact", checkpoint, checkpoint, "-o", "small.ckpt").code == 2
    assert chain.run("compact", checkpoint, "-o", "small.ckpt").code == 1


def test_compact_makes_a_zip_file_of_one_from_before_torch_1_6(chain: Folder) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"w": torch.arange(5.0)}, "old.ckpt", _use_new_zipfile_serialization=False)
    chain.ok("compact", "old.ckpt", "-o", "new.ckpt")
    assert torch.load("new.ckpt", mmap=True)["w"].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "junk", [b"", b"half written", os.urandom(100_000)], ids=["none", "some", "more than torch searches"]
)
def test_recover(chain: Folder, junk: bytes) -> None:
    checkpoint = chain.copy()
    old = digest(checkpoint)
    journal = interrupted(checkpoint, junk)
    ran = chain.ok("recover", "--json", checkpoint)
    assert ran.lines == [{"checkpoint": str(checkpoint), "recovered": True, "removed": len(junk), "completed": False}]
    assert digest(checkpoint) == old
    assert not journal.exists()
    assert "nothing to recover" in chain.ok("recover", checkpoint).out
    assert cm.recover(checkpoint).removed is None


def test_reading_sees_the_old_file_and_writing_recovers_it_first(chain: Folder) -> None:
    checkpoint = chain.copy()
    old = digest(checkpoint)
    journal = interrupted(checkpoint, os.urandom(100_000))
    broken = digest(checkpoint)
    assert "base" in chain.ok("current", checkpoint).out
    chain.ok("upgrade", "head", checkpoint, "--dry-run")
    chain.ok("upgrade", "head", checkpoint, "-o", "elsewhere.ckpt")
    assert digest(checkpoint) == broken
    assert journal.exists()
    chain.ok("upgrade", "head", checkpoint)
    assert not journal.exists()
    assert "y.weight" in names(checkpoint)
    assert [digest(backup) for backup in backups(checkpoint)] == [old]
    assert names(chain.path / "elsewhere.ckpt") == names(checkpoint)


@pytest.mark.parametrize("command", [("recover",), ("upgrade", "head"), ("compact",)], ids=lambda words: words[0])
def test_a_journal_of_another_file(chain: Folder, command: tuple[str, ...]) -> None:
    """Somebody saved a new checkpoint over one on which a run had been interrupted."""
    checkpoint = chain.copy()
    journal = interrupted(checkpoint)
    chain.copy("plain.pt", to=checkpoint.name)
    before = digest(checkpoint)
    ran = chain.run(*command, checkpoint)
    assert ran.code == 1
    assert (
        "is not the journal of an interrupted run on this file as it is now; if the file has been replaced since"
        in ran.err
    )
    assert digest(checkpoint) == before
    chain.ok("current", checkpoint)
    journal.write_bytes(b"{}")
    assert chain.run("recover", checkpoint).code == 1
    journal.unlink()
    chain.ok("recover", checkpoint)


def test_recover_what_is_not_there(chain: Folder) -> None:
    ran = chain.run("recover", "gone.ckpt")
    assert (ran.code, "there is no such file" in ran.err) == (1, True)


@pytest.mark.parametrize("words", [("upgrade", "head"), ("stamp", "head"), ("upgrade", "head", "--in-place")])
def test_read_only_files_are_refused(chain: Folder, words: tuple[str, ...]) -> None:
    checkpoint = chain.copy()
    chain.script("a0", "a2", 'raise SystemExit("functions must not run")')
    checkpoint.chmod(0o444)
    before = digest(checkpoint)
    ran = chain.run(*words, checkpoint)
    assert ran.code == 3
    assert "it is read-only; allow writing with `chmod u+w`, or write elsewhere with --output" in ran.err
    assert digest(checkpoint) == before


def test_a_file_with_other_names_is_not_written_in_place(chain: Folder) -> None:
    checkpoint = chain.copy()
    other = chain.path / "best.ckpt"
    os.link(checkpoint, other)
    before = digest(checkpoint)
    ran = chain.run("upgrade", "head", "--in-place", checkpoint)
    assert (ran.code, "another name (hard links)" in ran.err) == (3, True)
    chain.ok("upgrade", "head", checkpoint)
    assert digest(other) == before != digest(checkpoint)


def test_in_place_and_elsewhere(chain: Folder) -> None:
    ran = chain.run("upgrade", "head", chain.copy(), "--in-place", "-o", "elsewhere.ckpt")
    assert (ran.code, "leave out one" in ran.err) == (2, True)


def test_a_symbolic_link_stays_one(chain: Folder) -> None:
    checkpoint = chain.copy()
    link = chain.path / "link.ckpt"
    link.symlink_to(checkpoint)
    chain.ok("upgrade", "head", "--in-place", link)
    assert link.is_symlink()
    assert "y.weight" in names(checkpoint)


@pytest.mark.parametrize("call", ["fsync", "pwrite", "link", "unlink"])
def test_a_failure_leaves_the_old_bytes(chain: Folder, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    checkpoint = chain.copy()
    old, real, wanted = digest(checkpoint), getattr(os, call), {"fsync": 3, "pwrite": 4, "unlink": 2}.get(call, 1)
    count = 0

    def failing(*args: Any) -> Any:
        nonlocal count
        count += 1
        if count == wanted:
            raise OSError(errno.EIO, "the disk is ill")
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing)
        ran = chain.run("upgrade", "head", "--in-place", checkpoint)
    assert count >= wanted
    assert (ran.code, "nothing was changed" in ran.err) == (1, True), ran.err
    assert digest(checkpoint) == old
    chain.ok("upgrade", "head", "--in-place", checkpoint)
    assert not in_place.journal_of(checkpoint).exists()


def test_a_failure_that_cannot_be_put_right(chain: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fails for good in the middle; later `recover` puts the old file back."""
    checkpoint = chain.copy()
    old, writes = digest(checkpoint), 0
    real = os.pwrite

    def failing(*args: Any) -> Any:
        nonlocal writes
        writes += 1
        if writes < 4:
            return real(*args)
        raise OSError(errno.EIO, "the disk is ill")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", failing)
        patch.setattr(os, "ftruncate", failing)
        ran = chain.run("upgrade", "head", "--in-place", "--json", checkpoint)
    assert json.loads(ran.out)["error"]["type"] == "HalfWritten"
    os.umask(mask := os.umask(0))
    assert in_place.journal_of(checkpoint).stat().st_mode & 0o7777 == 0o644 & ~mask  # whoever reads the file needs it
    assert "`ckpt-migrate recover`" in ran.err
    assert digest(checkpoint) != old
    chain.ok("recover", checkpoint)
    assert digest(checkpoint) == old


def test_a_name_as_long_as_can_be(chain: Folder) -> None:
    checkpoint = chain.copy(to="n" * 250 + ".ckpt")
    old = digest(checkpoint)
    chain.ok("upgrade", "head", "--in-place", checkpoint)
    chain.ok("downgrade", "base", "--in-place", checkpoint)
    assert digest(checkpoint) == old


def refusing(monkeypatch: pytest.MonkeyPatch, call: str, wanted: int) -> None:
    """Have a call fail once."""
    real, count = getattr(os, call), 0

    def fails(*args: Any) -> Any:
        nonlocal count
        count += 1
        if count == wanted:
            raise OSError(errno.EIO, "the disk is ill")
        return real(*args)

    monkeypatch.setattr(os, call, fails)


UP, DOWN = ("upgrade", "head", "--in-place"), ("downgrade", "base", "--in-place")


@pytest.mark.parametrize(
    ("words", "call", "wanted", "says"),
    [
        (UP, "fsync", 1, "nothing was changed"),  # of the journal
        (UP, "fsync", 2, "nothing was changed"),  # of the folder with the journal
        (UP, "fsync", 3, "nothing was changed"),  # of the file
        (DOWN, "fsync", 1, "nothing was changed"),
        (DOWN, "fsync", 2, "nothing was changed"),
        (DOWN, "ftruncate", 1, "nothing was changed"),
        (DOWN, "fsync", 3, "`ckpt-migrate recover`"),  # the cut is made, and not confirmed
        (DOWN, "unlink", 2, "`ckpt-migrate recover`"),  # of the journal, after that of its hidden name
        (UP, "fsync", 4, "the file is written, but syncing its folder failed (input/output error)"),
        (DOWN, "fsync", 4, "the file is written, but syncing its folder failed (input/output error)"),
    ],
)
def test_a_call_that_fails_is_told_as_far_as_it_matters(
    chain: Folder, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], call: str, wanted: int, says: str
) -> None:
    """The file is the old one or the new one, whichever is told, and the next run gets through."""
    checkpoint = chain.copy()
    base = digest(checkpoint)
    if words == DOWN:
        chain.ok(*UP, checkpoint)
    before = digest(checkpoint)
    with monkeypatch.context() as patch:
        refusing(patch, call, wanted)
        ran = chain.run(*words, checkpoint)
    assert (ran.code, says in ran.err) == (1, True), ran.err
    journal = in_place.journal_of(checkpoint)
    assert journal.exists() == ("recover" in says)
    assert (digest(checkpoint) == before) == ("nothing" in says)
    chain.ok("recover", checkpoint)
    chain.ok(*words, checkpoint)
    assert not journal.exists()
    assert (digest(checkpoint) == base) == (words == DOWN)


@pytest.mark.parametrize(("call", "wanted"), [("ftruncate", 1), ("fsync", 1), ("unlink", 1), ("fsync", 2)])
def test_a_recovery_that_fails_can_be_tried_again(
    chain: Folder, monkeypatch: pytest.MonkeyPatch, call: str, wanted: int
) -> None:
    checkpoint = chain.copy()
    old = digest(checkpoint)
    journal = interrupted(checkpoint)
    with monkeypatch.context() as patch:
        refusing(patch, call, wanted)
        ran = chain.run("recover", checkpoint)
    assert (ran.code, "input/output error" in ran.err) == (1, True), ran.err
    assert journal.exists() == (wanted == 1)  # else only its folder was not synced
    chain.ok("recover", checkpoint)
    assert (digest(checkpoint), journal.exists()) == (old, False)


def test_a_mark_fits_a_file_that_begins_with_the_marked_one(chain: Folder) -> None:
    path = chain.path / "x"
    path.write_bytes(b"payload, directory, and more")
    with path.open("rb") as file:
        descriptor = file.fileno()
        mark = in_place.mark(descriptor, 18, 9)
        assert (mark.length, mark.directory) == (18, 9)
        assert mark.fits(descriptor)
        assert in_place.mark(descriptor, 28, 0).fits(descriptor)
        for other in ((29, 9, mark.crc), (18, 18, 0), (18, -1, mark.crc), (18, 9, mark.crc + 1), (17, 9, mark.crc)):
            assert not in_place.JournalMark(*other).fits(descriptor)


@pytest.mark.parametrize(
    "journal",
    [
        b"",
        b"[]",
        b"3",
        b"[" * 900,
        b'{"format": 1, "length": 10, "directory": 3}',
        b'{"format": 2, "length": 10, "directory": 3, "crc": 7}',
        b'{"length": 10, "directory": 3, "crc": 7}',
        b'{"format": 1, "length": 10.0, "directory": 3, "crc": 7}',
        b'{"format": 1, "length": true, "directory": false, "crc": 7}',
        b'{"format": 1, "length": 10, "directory": 3, "crc": 7}' + b" " * 1000 + b"x",
    ],
)
def test_what_is_no_journal_is_not_followed(chain: Folder, journal: bytes) -> None:
    assert in_place.JournalMark.from_json(journal) is None
    checkpoint = chain.copy()
    before = digest(checkpoint)
    in_place.journal_of(checkpoint).write_bytes(journal)
    for words in (("recover",), UP):
        assert "is not the journal of an interrupted run" in chain.run(*words, checkpoint).err
    assert digest(checkpoint) == before
    assert in_place.journal_of(checkpoint).read_bytes() == journal


def test_a_journal_has_at_most_a_thousand_bytes(chain: Folder) -> None:
    checkpoint = chain.copy()
    old = digest(checkpoint)
    journal = interrupted(checkpoint)
    mark = journal.read_bytes()
    journal.write_bytes(mark[:-1].ljust(1000) + mark[-1:])
    assert "is not the journal of an interrupted run" in chain.run("recover", checkpoint).err
    journal.write_bytes(mark[:-1].ljust(999) + mark[-1:])
    chain.ok("recover", checkpoint)
    assert digest(checkpoint) == old


def test_a_journal_is_a_file_of_its_own(chain: Folder) -> None:
    """A link to one is not followed, and nobody waits for a pipe."""
    checkpoint = chain.copy()
    journal = interrupted(checkpoint)
    before = digest(checkpoint)
    journal.rename(chain.path / "elsewhere")
    journal.symlink_to("elsewhere")
    assert "is not the journal of an interrupted run" in chain.run("recover", checkpoint).err
    journal.unlink()
    os.mkfifo(journal)
    assert "is not the journal of an interrupted run" in chain.run("recover", checkpoint).err
    assert digest(checkpoint) == before
    journal.unlink()
    (chain.path / "elsewhere").rename(journal)
    chain.ok("recover", checkpoint)


def test_a_journal_is_read_as_it_is_written() -> None:
    mark = in_place.JournalMark(10, 3, 7)
    assert mark.to_json() == b'{"format": 1, "length": 10, "directory": 3, "crc": 7}'
    assert in_place.JournalMark.from_json(mark.to_json()) == mark


def test_a_journal_that_its_run_removes_meanwhile(chain: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run ends between our look at its journal and our lock."""
    checkpoint = chain.copy()
    before = digest(checkpoint)
    journal, lock = interrupted(checkpoint), in_place.locked

    def locked(target: Path) -> Any:
        os.truncate(checkpoint, checkpoint.stat().st_size - len(b"half written"))
        journal.unlink()
        return lock(target)

    monkeypatch.setattr(in_place, "locked", locked)
    assert "nothing to recover" in chain.ok("recover", checkpoint).out
    assert digest(checkpoint) == before


def test_how_many_other_names_there_are_is_told(chain: Folder) -> None:
    checkpoint = chain.copy()
    for name in ("best.ckpt", "latest.ckpt"):
        os.link(checkpoint, chain.path / name)
    ran = chain.run(*UP, checkpoint)
    assert (ran.code, "2 other names (hard links)" in ran.err) == (3, True), ran.err
