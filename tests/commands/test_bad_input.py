"""Bad input: one clear sentence, the documented exit code, and every byte where it was."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.support.project import RENAME, Folder, digest, leftovers

AS_ROOT = os.geteuid() == 0


@pytest.fixture
def chain(project: Folder) -> Folder:
    """a1 - a2 - a3"""
    project.script("a1", None, **RENAME)
    project.script("a2", "a1")
    project.script("a3", "a2")
    return project


def refused(project: Folder, *words: object, code: int = 1, says: str) -> None:
    """Check that a command fails with one sentence, and leaves the folder as it was."""
    before = snapshot(project.path)
    ran = project.run(*words)
    assert ran.code == code, ran.err
    assert says in ran.err
    assert ran.err.startswith(("ckpt-migrate: error: ", "usage: "))
    assert snapshot(project.path) == before


def snapshot(folder: Path) -> dict[str, str]:
    return {str(path): digest(path) for path in folder.rglob("*") if path.is_file() and not path.is_symlink()}


def damaged_zip(path: Path, change: dict[str, bytes | None]) -> None:
    """Write the records of a checkpoint again, with some replaced, added or left out."""
    with zipfile.ZipFile(path) as old:
        content = {info.filename: old.read(info) for info in old.infolist()}
    root = next(iter(content)).partition("/")[0]
    content |= {f"{root}/{name}": data for name, data in change.items()}
    with zipfile.ZipFile(path, "w") as new:
        for name, data in content.items():
            if data is not None:
                new.writestr(name, data)


@pytest.mark.parametrize("command", [["upgrade", "head"], ["downgrade", "base"], ["stamp", "head"], ["current"]])
def test_files_that_are_no_checkpoints(chain: Folder, command: list[str]) -> None:
    whole = chain.copy(to="whole.ckpt").read_bytes()
    cases = {
        "text.ckpt": (b"hello", "it is not a checkpoint that torch.save wrote"),
        "empty.ckpt": (b"", "it is empty"),
        "cut.ckpt": (whole[:3000], "was it cut off?"),
        "cut2.ckpt": (whole[:-10], "was it cut off?"),
        "cut3.ckpt": (whole[10:], "was its beginning cut off?"),
        "cut4.ckpt": (whole[:100] + whole[200:], "was its beginning cut off?"),
        "legacy.pt": (bytes.fromhex("80028a0a6cfc9c46f9206aa850192e80024de903"), "torch before 1.6 saved it"),
    }
    for name, (content, says) in cases.items():
        path = chain.path / name
        path.write_bytes(content)
        refused(chain, *command, path, says=f"{path}: {says}" if "cut" not in name else says)
    refused(chain, *command, chain.path, code=2, says="it is a directory, not a checkpoint")
    refused(chain, *command, chain.path / "missing.ckpt", says="there is no such file")
    os.mkfifo(chain.path / "fifo")
    refused(chain, *command, chain.path / "fifo", says="it is not a regular file")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"data.pkl": b"\x80\x02}q\x00(X"}, "its data.pkl is damaged or hostile"),
        ({"data.pkl": None}, "without data.pkl"),
        ({"version": None}, "lacks its version record"),
        ({"data/0": None}, "the payload data/0 is missing"),
        ({"constants.pkl": b""}, "TorchScript"),
    ],
)
def test_archives_that_are_no_checkpoints(chain: Folder, change: dict[str, bytes | None], says: str) -> None:
    checkpoint = chain.copy()
    damaged_zip(checkpoint, change)
    refused(chain, "upgrade", "head", checkpoint, says=says)


def test_a_flipped_bit_in_the_structure(chain: Folder) -> None:
    checkpoint = chain.copy()
    content = bytearray(checkpoint.read_bytes())
    content[content.index(b"state_dict")] ^= 1
    checkpoint.write_bytes(content)
    refused(chain, "upgrade", "head", checkpoint, says="its CRC does not match")


def test_two_records_of_one_name(chain: Folder) -> None:
    checkpoint = chain.copy()
    with zipfile.ZipFile(checkpoint, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("training/data.pkl", b"\x80\x02}.")
    refused(chain, "upgrade", "head", checkpoint, says="two records named training/data.pkl")


@pytest.mark.skipif(AS_ROOT, reason="root may read and write everything")
def test_permissions(chain: Folder) -> None:
    checkpoint = chain.copy()
    checkpoint.chmod(0)
    refused_without_reading = chain.run("upgrade", "head", checkpoint)
    assert refused_without_reading.code == 1
    assert "you may not read it" in refused_without_reading.err
    checkpoint.chmod(0o644)
    chain.path.chmod(0o555)
    refused(chain, "upgrade", "head", checkpoint, says="allow writing to")
    chain.path.chmod(0o755)


@pytest.mark.skipif(not AS_ROOT, reason="only root may become somebody else")
@pytest.mark.parametrize("what", ["file", "folder", "not ours"])
def test_permissions_as_somebody_else(chain: Folder, what: str) -> None:
    """As root, the same by a process that gives its rights up."""
    checkpoint = chain.copy()
    for folder in (*chain.path.parents, chain.path, chain.path / "versions"):
        if folder.stat().st_uid == 0 and str(folder).startswith("/tmp/"):
            folder.chmod(0o755)
    for path in (chain.path / "versions").iterdir():
        path.chmod(0o644)
    checkpoint.chmod({"file": 0o600, "folder": 0o666, "not ours": 0o644}[what])
    before = digest(checkpoint)
    words = ["-c", str(chain.path), "upgrade", "head", str(checkpoint)]
    # Everything is imported first: the interpreter may lie where nobody else may read.
    code = (
        "import os, sys, locale, hashlib, cloudpickle; from anemoi_ckpt_migrate import cli;"
        f"cli.main({[*words, '--dry-run']!r}); os.setgid(65534); os.setuid(65534); sys.exit(cli.main({words!r}))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")
    code, says = {
        "file": (1, "permission denied"),
        "folder": (1, "allow writing to"),
        "not ours": (3, "it is read-only; allow writing with `chmod u+w`"),
    }[what]
    assert (ran.returncode, says in ran.stderr) == (code, True), ran.stderr
    assert "Traceback" not in ran.stderr
    assert digest(checkpoint) == before


def upgraded_within(limit: int, amount: int, checkpoint: Path) -> subprocess.CompletedProcess[str]:
    """Upgrade a checkpoint in a process that may have so much of something."""
    return subprocess.run(
        [sys.executable, "-m", "anemoi_ckpt_migrate", "upgrade", "head", str(checkpoint)],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(limit, (amount, amount)),
    )


def test_a_disk_that_is_full(chain: Folder) -> None:
    """The kernel refuses to let any file grow past 4 KiB."""
    checkpoint = chain.copy()
    before = digest(checkpoint)
    ran = upgraded_within(resource.RLIMIT_FSIZE, 4096, checkpoint)
    assert ran.returncode == 1
    assert "4,096 bytes; write to another disk with --output, or raise the limit (nothing was written)" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert digest(checkpoint) == before
    assert leftovers(chain.path) == []


@pytest.mark.parametrize("call", ["copy_file_range", "pwrite", "fsync", "replace", "link"])
@pytest.mark.parametrize("code", ["ENOSPC", "EIO"])
def test_every_call_of_a_write_may_fail(chain: Folder, call: str, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    checkpoint = chain.copy()

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)))

    monkeypatch.setattr(os, call, fail)
    refused(chain, "upgrade", "head", checkpoint, says="nothing was changed")
    assert leftovers(chain.path) == []


def test_a_mounted_disk_that_is_full(chain: Folder, tmp_path_factory: pytest.TempPathFactory) -> None:
    mount = tmp_path_factory.mktemp("small")
    command = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(mount)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        checkpoint = Path(shutil.copy(chain.copy(), mount / "full.ckpt"))
        before = digest(checkpoint)
        ran = chain.run("upgrade", "head", checkpoint)
        assert ran.code == 1
        assert "no space left on device" in ran.err
        assert digest(checkpoint) == before
        assert leftovers(mount) == []
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_no_configuration(
    chain: Folder, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = chain.copy()
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    refused(chain, "upgrade", "head", checkpoint, says="no configuration found in")
    refused(chain, "heads", says="run `ckpt-migrate init` to write one")
    refused(chain, "heads", "--config", chain.path / "nowhere.toml", says="cannot be read")
    assert "a1" not in chain.ok("current", checkpoint).out  # needs no project


@pytest.mark.parametrize("command", [["upgrade", "head"], ["current"], ["inspect"], ["compact"], ["stamp", "head"]])
def test_one_bad_file_does_not_stop_the_others(chain: Folder, command: list[str]) -> None:
    """Whatever is wrong with it. The exit code is that of the worst."""
    (chain.path / "bad.ckpt").write_bytes(b"hello")
    os.mkfifo(chain.path / "fifo.ckpt")
    first, last = chain.copy(to="first.ckpt"), chain.copy(to="last.ckpt")
    ran = chain.run(*command, first, "bad.ckpt", "fifo.ckpt", "gone.ckpt", chain.path, last)
    assert (ran.code, ran.err.count("ckpt-migrate: error: ")) == (1, 4), ran.err
    assert "last.ckpt" in ran.out


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.EIO, os.strerror(errno.EIO))], ids=["memory", "disk"])
@pytest.mark.parametrize("command", [["upgrade", "head"], ["current"], ["inspect"]])
def test_what_the_system_denies_for_one_file(
    chain: Folder, command: list[str], error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory, or a disk that does not read: one sentence that names the file, and the next one is done."""
    first, last = chain.copy(to="first.ckpt"), chain.copy(to="last.ckpt")
    denied, real = os.stat(first).st_ino, os.preadv

    def preadv(descriptor: int, *args: Any) -> int:
        if os.fstat(descriptor).st_ino == denied:
            raise error
        return real(descriptor, *args)

    monkeypatch.setattr(os, "preadv", preadv)
    ran = chain.run(*command, first, last)
    assert (ran.code, ran.err.count("\n")) == (1, 1), ran.err
    assert f"{first}: " in ran.err
    assert "last.ckpt" in ran.out


def test_little_memory(chain: Folder) -> None:
    """torch does not fit into the memory that the process may have."""
    pytest.importorskip("torch")
    chain.script("a4", "a3", 'ckpt["state_dict"]["y.weight"] += 1')
    checkpoint = chain.copy()
    before = digest(checkpoint)
    ran = upgraded_within(resource.RLIMIT_AS, 300_000_000, checkpoint)
    assert (ran.returncode, ran.stderr.count("\n")) == (1, 1), ran.stderr
    assert f"{checkpoint}: not enough memory" in ran.stderr
    assert digest(checkpoint) == before


def test_a_current_folder_that_was_removed(chain: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = chain.copy()
    gone = chain.path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    for words in (["history"], ["upgrade", "head", checkpoint], ["heads"]):
        ran = chain.run(*words)
        assert (ran.code, ran.err.count("\n")) == (1, 1), ran.err
        assert "the current folder was removed; go to another folder, or use --config" in ran.err
    chain.ok("--config", chain.path, "upgrade", "head", checkpoint)


def test_several_that_are_refused_and_some_that_are_not(chain: Folder) -> None:
    chain.script("a3", "a2", final=True)
    old, new = chain.copy(to="old.ckpt"), chain.copy(to="new.ckpt")
    chain.ok("stamp", "head", new)
    assert chain.run("upgrade", "head", old, old).code == 3
    assert chain.run("upgrade", "head", old, new).code == 3
    assert chain.run("upgrade", "head", old, chain.path).code == 2
    assert chain.run("upgrade", "head", old, chain.path, "gone.ckpt").code == 1


def test_a_step_count_beyond_a_barrier_names_the_barrier(chain: Folder) -> None:
    chain.script("a3", "a2", final=True)
    refused(chain, "upgrade", "+9", chain.copy(), code=3, says="barrier a3 (change a3) is in the way")


def test_a_step_count_does_not_lead_into_another_branch(chain: Folder) -> None:
    """a1 - a2 - a3        r1"""
    chain.script("r1", None)
    checkpoint = chain.copy()
    chain.ok("upgrade", "a3", checkpoint)
    refused(chain, "upgrade", "+1", checkpoint, says="no revision is left in that direction")


def test_a_revision_that_became_a_barrier_is_one(chain: Folder) -> None:
    checkpoint = chain.copy()
    chain.ok("upgrade", "head", checkpoint)
    chain.script("a2", "a1", final=True)
    refused(chain, "downgrade", "base", checkpoint, code=3, says="barrier a2 (change a2) is in the way")


def test_names_that_are_no_file_names(chain: Folder) -> None:
    import anemoi_ckpt_migrate as cm

    with pytest.raises(cm.MigrateError, match="it is not a valid file name"):
        cm.upgrade("a\0b")
    long = chain.copy(to="x" * 246 + ".ckpt")
    chain.ok("upgrade", "head", long)
    assert [path.name for path in chain.path.glob(".*")] == []


@pytest.mark.skipif(not AS_ROOT, reason="only root may become somebody else")
def test_a_folder_of_scripts_that_cannot_be_read(chain: Folder) -> None:
    (chain.path / "versions").chmod(0)
    code = (
        f"import os, sys, locale; from anemoi_ckpt_migrate import cli; cli.main(['-c', {str(chain.path)!r}, 'heads']);"
        f"os.setuid(65534); sys.exit(cli.main(['-c', {str(chain.path)!r}, 'heads']))"
    )
    for folder in chain.path.parents:
        if str(folder).startswith("/tmp/"):
            folder.chmod(0o755)
    chain.path.chmod(0o755)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")
    assert ran.returncode == 1
    assert "cannot be read (Permission denied)" in ran.stderr


def test_output_is_where_it_was_said_to_be(chain: Folder) -> None:
    chain.script("a1", None, 'import os\nos.chdir("/")')
    chain.copy()
    chain.ok("upgrade", "head", "training.ckpt", "-o", "new.ckpt")
    assert (chain.path / "new.ckpt").exists()


def test_what_scripts_print_stays_out_of_json(chain: Folder) -> None:
    chain.script("a1", None, 'print("hello")')
    ran = chain.ok("upgrade", "head", chain.copy(), "--json")
    assert len(ran.lines) == 1
    assert ran.err == "hello\n"


@pytest.mark.parametrize("redirection", [">&-", ">/dev/full"])
def test_output_that_cannot_be_written(chain: Folder, redirection: str) -> None:
    checkpoint = chain.copy()
    command = f"{sys.executable} -m anemoi_ckpt_migrate upgrade head {checkpoint} {redirection}"
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert "Traceback" not in ran.stderr
    assert ran.returncode == (0 if "&" in redirection else 1)
    assert "a3" in chain.ok("current", checkpoint).out


def test_names_that_no_terminal_can_show(chain: Folder) -> None:
    chain.script("a1", None, name="red \\x1b[31m bell \\x07")
    checkpoint = chain.copy(to="ü ö.ckpt")
    variables = os.environ | {"PYTHONIOENCODING": "ascii"}
    for words in (
        ["upgrade", "a1", checkpoint],
        ["current", checkpoint],
        ["history"],
        ["show", "a1", "--from", checkpoint],
    ):
        ran = subprocess.run([sys.executable, "-m", "anemoi_ckpt_migrate", *words], capture_output=True, env=variables)
        assert ran.returncode == 0, ran.stderr
        assert b"\x1b" not in ran.stdout
        assert b"\x07" not in ran.stdout


def test_deep_nesting_is_no_reason_to_refuse(chain: Folder) -> None:
    from anemoi_ckpt_migrate.storage import open_checkpoint

    nested: object = 1
    for _ in range(900):
        nested = {"a": nested}
    checkpoint = chain.copy()
    with open_checkpoint(checkpoint) as file:
        file.write(file.pickled({**file.load(), "nested": nested}), {}, backup=False)
    chain.ok("upgrade", "head", checkpoint)
    for _ in range(10_000):
        nested = {"a": nested}
    with open_checkpoint(checkpoint) as file, pytest.raises(Exception, match="nested too deeply"):
        file.pickled({"nested": nested})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("versions = 3\n", "versions must be a string"),
        ("version = 'x'\n", "unknown key 'version'"),
        ("versions = \n", "cannot be read"),
        ("versions = 'nowhere'\n", "does not exist"),
        (b"\xff", "cannot be read"),
    ],
)
def test_a_wrong_configuration(chain: Folder, text: str | bytes, says: str) -> None:
    (chain.path / "ckpt-migrate.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(chain, "heads", says=says)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["upgrade", "a9"], 1, "no revision is called 'a9';"),
        (["upgrade", "zzz"], 1, "no revision is called 'zzz'; `ckpt-migrate history` lists all of them"),
        (["upgrade", "a"], 1, "'a' is ambiguous: it fits a1 (change a1), a2 (change a2), a3 (change a3)"),
        (["upgrade", "haed"], 1, "did you mean head"),
        (["upgrade", "+99"], 1, "+99 goes too far: only 3 revisions are left in that direction; write `upgrade head`"),
        (["downgrade", "-99"], 1, "-99 goes too far: no revision is left in that direction; write `downgrade base`"),
        (["downgrade", "a3"], 1, "the checkpoint does not have a3 (it is at base)"),
        (["upgrade", "-1"], 2, "write `downgrade -1`"),
        (["downgrade", "+1"], 2, "write `upgrade +1`"),
        (["upgrade", "+0"], 2, "a step count of 0 does nothing"),
        (["upgrade", "a b"], 1, "no revision is called 'a b'"),
        (["upgrade", "a1@"], 2, "expected a target: head, heads, base, barrier, +N, -N, a revision id"),
        (["stamp", "barrier"], 2, "stamp takes"),
    ],
)
def test_targets(chain: Folder, words: list[str], code: int, says: str) -> None:
    refused(chain, *words, chain.copy(), code=code, says=says)


def test_usage(chain: Folder) -> None:
    chain.copy()
    refused(chain, code=2, says="usage")
    refused(chain, "upgrade", "head", code=2, says="CKPT")
    refused(chain, "revision", " ", code=2, says="one line of text")
    refused(chain, "revision", "a\nb", code=2, says="one line of text")
    refused(chain, "revision", "x", "--rev-id", "head", code=2, says="it has a meaning as a target")
    refused(chain, "revision", "x", "--rev-id", "a-b", code=2, says="cannot be a revision id")
    refused(chain, "revision", "x", "--rev-id", "a1", says="a1 already exists")
    refused(chain, "show", "base", code=2, says="the target means no revision; name exactly one")


def test_two_heads(chain: Folder) -> None:
    r"""
    a1 - a2 - a3
      \
       - b2
    """
    chain.script("b2", "a1")
    checkpoint = chain.copy()
    says = "there are 2 heads: a3, b2; write `a3`, `b2`, or `heads` for all of them"
    refused(chain, "upgrade", "head", checkpoint, says=says)
    refused(chain, "upgrade", "+2", checkpoint, says="there are 2 heads")
    refused(chain, "revision", "x", code=2, says="choose one with --head")
    assert chain.ok("upgrade", "heads", checkpoint, "--json").lines[0]["to"] == ["a3", "b2"]


def test_output_that_exists(chain: Folder) -> None:
    checkpoint, other = chain.copy(), chain.copy(to="other.ckpt")
    refused(chain, "upgrade", "head", checkpoint, "-o", other, says="exists already")
    refused(chain, "upgrade", "head", checkpoint, "-o", chain.path, says="exists already")
    refused(chain, "upgrade", "head", checkpoint, "-n", "-o", other, says="exists already")
    refused(chain, "upgrade", "head", checkpoint, "-o", chain.path / "no" / "x.ckpt", says="does not exist; create it")


@pytest.mark.parametrize(
    ("body", "line", "says"),
    [
        ('ckpt["state_dict"].pop("nope")', 9, "`migrate` failed: there is no key 'nope'"),
        (
            "raise type('Odd', (BaseException,), {'__str__': lambda self: 1 / 0})",
            9,
            "`migrate` failed with Odd: (its message cannot",
        ),
        ('ckpt["me"] = ckpt; ckpt["f"] = lambda: 1', 8, "`migrate` left ckpt['f'], which cannot be saved"),
        ('raise ValueError("too old\\nreally")', 9, "`migrate` failed with ValueError: too old;"),
        ("def inner(d):\n    return d['no']\ninner(ckpt)", 10, "`migrate` failed: there is no key 'no'"),
        ("return", 8, "`migrate` returned None instead of the checkpoint; did you forget `return ckpt`?"),
        ("return [ckpt]", 8, "`migrate` returned a list instead of the checkpoint"),
        ('ckpt["hyper_parameters"]["f"] = lambda: 1', 8, "`migrate` left ckpt['hyper_parameters']['f'], which cannot"),
        ('ckpt["a"] = [1, __import__("threading").Lock()]', 8, "`migrate` left ckpt['a'][1], which cannot be saved"),
        ("import sys; sys.exit(0)", 9, "`migrate` failed with SystemExit"),
        ("import nowhere", 9, "`migrate` failed with ModuleNotFoundError"),
    ],
)
def test_scripts_that_fail(chain: Folder, body: str, line: int, says: str) -> None:
    chain.script("a2", "a1", body)
    refused(chain, "upgrade", "head", chain.copy(), says=f"versions/a2_change.py:{line}: {says}")


def test_a_script_that_fails_when_it_is_imported(chain: Folder) -> None:
    chain.script("a2", "a1", top="1 / 0")
    checkpoint = chain.copy()
    refused(chain, "upgrade", "head", checkpoint, says="versions/a2_change.py:3: importing the script failed with Zero")
    chain.ok("heads")  # is not imported
    chain.ok("upgrade", "a1", checkpoint)


def test_a_migration_that_swallows_everything_still_gets_tensors(chain: Folder) -> None:
    pytest.importorskip("torch")
    chain.script("a2", "a1", 'try:\n    ckpt["state_dict"]["x.bias"].zero_()\nexcept Exception:\n    pass')
    checkpoint = chain.copy()
    chain.ok("upgrade", "head", checkpoint)
    import torch

    assert torch.load(checkpoint)["state_dict"]["x.bias"].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("[]", "record is not a dict"),
        ("{'format': 'x'}", "format in record is not of type int"),
        ("{'format': 99}", "the migration record has format 99, this version reads 1: upgrade ckpt-migrate"),
        ("{'format': 1, 'heads': ['z'], 'lineage': [], 'log': []}", "head z is not in the lineage"),
        ("{'format': 1, 'heads': [3], 'lineage': [], 'log': []}", "is not a list of text"),
    ],
)
def test_a_damaged_record(chain: Folder, damage: str, says: str) -> None:
    from anemoi_ckpt_migrate.storage import open_checkpoint

    checkpoint = chain.copy()
    with open_checkpoint(checkpoint) as file:
        tree = file.load() | {"ckpt_migrate": eval(damage)}
        file.write(file.pickled(tree), {}, backup=False)
    refused(chain, "upgrade", "head", checkpoint, says=says)
    refused(chain, "current", checkpoint, says=says)
    if "99" not in says:
        chain.ok("stamp", "base", checkpoint)
        assert "base" in chain.ok("current", checkpoint).out
        chain.ok("stamp", "a1", checkpoint)
        assert "a1" in chain.ok("current", checkpoint).out


def test_a_record_that_contradicts_the_scripts(chain: Folder) -> None:
    """a1 - a2 - a3 was applied; since then somebody put n between a1 and a2."""
    checkpoint = chain.copy()
    chain.ok("upgrade", "head", checkpoint)
    chain.script("n", "a1")
    chain.script("a2", "n")
    refused(chain, "upgrade", "head", checkpoint, says="the checkpoint has a2 but not n, which comes before")


def test_a_checkpoint_that_changes_meanwhile(chain: Folder) -> None:
    checkpoint = chain.copy()
    chain.script("a1", None, f'open({str(checkpoint)!r}, "ab").write(b"x")')
    ran = chain.run("upgrade", "head", checkpoint)
    assert ran.code == 1
    assert "another program changed the file" in ran.err
    assert leftovers(chain.path) == []
    assert not list(chain.path.glob("*.bak*"))
