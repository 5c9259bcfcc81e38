"""Files beside a checkpoint: none that is made there follows a link, or replaces or removes what is not ours."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from anemoi_ckpt_migrate import cli
from anemoi_ckpt_migrate.storage import in_place
from anemoi_ckpt_migrate.storage import lock as locking
from tests.support.project import RENAME, Folder, digest, names

PRECIOUS = b"precious content of another file\n"
Way = Callable[[Path], None]


def link(path: Path) -> None:
    path.symlink_to("precious")


def dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def link_to_a_folder(path: Path) -> None:
    path.symlink_to("versions")


def folder(path: Path) -> None:
    path.mkdir()


def fifo(path: Path) -> None:
    os.mkfifo(path)


def hard_link(path: Path) -> None:
    os.link("precious", path)


def other_content(path: Path) -> None:
    path.write_bytes(b"somebody's notes\n")


WAYS = [link, dangling, link_to_a_folder, folder, fifo, hard_link, other_content]
IN_PLACE = (["--in-place"], [])


@pytest.fixture
def checkpoint(project: Folder) -> Path:
    project.script("a1", None, **RENAME)
    Path("precious").write_bytes(PRECIOUS)
    return project.copy(to="c.ckpt")


def looks(path: Path) -> tuple[int, int, str]:
    """Return what stands at a path, a link not followed: the inode, the kind, and where a link leads."""
    found = path.lstat()
    return found.st_ino, found.st_mode, os.readlink(path) if path.is_symlink() else ""


def untouched(project: Folder, path: Path, before: tuple[int, int, str]) -> None:
    assert looks(path) == before
    assert Path("precious").read_bytes() == PRECIOUS
    assert not Path("nowhere").exists()
    assert sorted(path.name for path in Path("versions").glob("*.*")) == ["a1_change.py"]


def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.mark.parametrize(
    ("name", "locks", "says"),
    [
        (".c.ckpt.lock", True, ".c.ckpt.lock has the name of this checkpoint's lock"),
        (".c.ckpt.lock.held", False, "remove .c.ckpt.lock.held"),
    ],
    ids=["", "without locks"],
)
@pytest.mark.parametrize("words", IN_PLACE, ids=["in place", "beside"])
@pytest.mark.parametrize("way", WAYS)
def test_something_else_has_the_name_of_the_lock(
    project: Folder,
    checkpoint: Path,
    way: Way,
    words: list[str],
    name: str,
    locks: bool,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not locks:
        without_locks(monkeypatch)
    lock = Path(name)
    way(lock)
    before, old = looks(lock), digest(checkpoint)
    ran = project.run("upgrade", "head", checkpoint, *words)
    assert (ran.code, says in ran.err) == (1, True), ran.err
    untouched(project, lock, before)
    assert digest(checkpoint) == old
    os.replace(lock, "moved away") if not lock.is_dir() or lock.is_symlink() else lock.rmdir()
    project.ok("upgrade", "head", checkpoint, *words)
    assert not os.path.lexists(lock)


@pytest.mark.parametrize("words", [["upgrade", "head", "--in-place"], ["upgrade", "head"], ["recover"], ["compact"]])
@pytest.mark.parametrize("way", WAYS)
def test_something_else_has_the_name_of_the_journal(
    project: Folder, checkpoint: Path, way: Way, words: list[str]
) -> None:
    journal = in_place.journal_of(checkpoint)
    way(journal)
    before, old = looks(journal), digest(checkpoint)
    project.ok("inspect", checkpoint)
    ran = project.run(*words, checkpoint)
    assert (ran.code, "c.ckpt.journal is not the journal of an interrupted run" in ran.err) == (1, True), ran.err
    untouched(project, journal, before)
    assert digest(checkpoint) == old


@pytest.mark.parametrize("links", [True, False], ids=["", "without hard links"])
@pytest.mark.parametrize("way", WAYS)
def test_a_journal_that_appears_while_functions_run_stays(
    project: Folder, checkpoint: Path, way: Way, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, lock = in_place.journal_of(checkpoint), locking.locked

    def locked_late(target: Path) -> object:
        way(journal)
        return lock(target)

    monkeypatch.setattr(in_place, "locked", locked_late)
    if not links:
        without_links(monkeypatch)
    old = digest(checkpoint)
    ran = project.run("upgrade", "head", checkpoint, "--in-place")
    assert (ran.code, "c.ckpt.journal is not the journal of an interrupted run" in ran.err) == (1, True), ran.err
    untouched(project, journal, looks(journal))
    assert digest(checkpoint) == old
    assert list(Path().glob(".*")) == []


def without_links(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.link

    def refuse(source: object, target: object, *args: object, **options: object) -> None:
        if "precious" not in str(source):
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        real(source, target)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "link", refuse)


@pytest.mark.parametrize(
    ("taken", "words", "code"),
    [
        (Path("c.ckpt.bak"), [], 0),  # the next number is taken
        (Path("new.ckpt"), ["-o", "new.ckpt"], 1),
    ],
    ids=["backup", "output"],
)
@pytest.mark.parametrize("links", [True, False], ids=["", "without hard links"])
@pytest.mark.parametrize("way", WAYS)
def test_something_else_has_the_name_of_the_backup_or_the_output(
    project: Folder,
    checkpoint: Path,
    way: Way,
    links: bool,
    taken: Path,
    words: list[str],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    way(taken)
    before, old = looks(taken), digest(checkpoint)
    if not links:
        without_links(monkeypatch)
    ran = project.run("upgrade", "head", checkpoint, *words)
    assert (ran.code, "new.ckpt exists already" in ran.err) == (code, bool(code)), ran.err
    untouched(project, taken, before)
    assert digest(checkpoint if code else Path("c.ckpt.bak1")) == old


@pytest.mark.parametrize("way", [link, dangling, link_to_a_folder, folder, fifo])
def test_only_regular_files_are_tidied_up(project: Folder, checkpoint: Path, way: Way) -> None:
    left = Path(".c.ckpt.0123abcd.tmp")
    way(left)
    notes = Path(".c.ckpt.my-notes.tmp")
    notes.write_bytes(PRECIOUS)
    half = Path(".c.ckpt.fedcba98.tmp")
    half.write_bytes(b"PK\3\4half a file")
    before = looks(left)
    project.ok("upgrade", "head", checkpoint)
    untouched(project, left, before)
    assert notes.read_bytes() == PRECIOUS
    assert not half.exists()


def notes(path: Path) -> None:
    path.write_bytes(PRECIOUS)


def another_name(path: Path) -> None:
    Path("archive.zip").write_bytes(b"PK\3\4somebody's archive")
    os.link("archive.zip", path)


def of_somebody_else(path: Path) -> None:
    path.write_bytes(b"PK\3\4somebody's archive")
    try:
        os.chown(path, 12345, -1)
    except PermissionError:
        pytest.skip("only root can give a file away")


@pytest.mark.parametrize("way", [notes, another_name, of_somebody_else])
def test_what_no_writer_left_stays(project: Folder, checkpoint: Path, way: Way) -> None:
    """It has the name of what an interrupted run leaves, but not its owner, or not its first bytes, or another name."""
    left = Path(".c.ckpt.0123abcd.tmp")
    way(left)
    before = left.read_bytes()
    for words in ([], ["--in-place"]):
        project.ok("upgrade", "head", checkpoint, *words)
        project.ok("downgrade", "base", checkpoint, *words)
    project.ok("recover", checkpoint)
    assert left.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"\0" * 9, b"PK", b"PK\3\4 and more", b'{"format": 1'])
def test_what_a_writer_left_goes_under_its_lock_only(project: Folder, checkpoint: Path, content: bytes) -> None:
    left = Path(".c.ckpt.0123abcd.tmp")
    left.write_bytes(content)
    with open(".c.ckpt.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert project.run("upgrade", "head", checkpoint).code == 1
        assert left.exists()
    project.ok("upgrade", "head", checkpoint)
    assert not left.exists()


def test_a_new_file_that_got_its_name_before_the_writer_died(project: Folder, checkpoint: Path) -> None:
    left = Path(".c.ckpt.0123abcd.tmp")
    os.link(checkpoint, left)
    with locking.locked(checkpoint):
        assert not left.exists()
    assert checkpoint.exists()


@pytest.mark.parametrize("name", [".c.ckpt.lock", ".c.ckpt.lock.held"])
def test_what_took_the_name_of_a_lock_meanwhile_stays(
    project: Folder, checkpoint: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_locks(monkeypatch)
    with locking.locked(checkpoint):
        os.unlink(name)
        Path(name).write_bytes(PRECIOUS)
    assert Path(name).read_bytes() == PRECIOUS


class Stopping:
    """A call before which somebody presses Ctrl-C, once."""

    def __init__(self, real: Callable[..., object], moment: int) -> None:
        self.real, self.moment, self.calls = real, moment, 0

    def __call__(self, *args: object, **options: object) -> object:
        self.calls += 1
        if self.calls == self.moment:
            raise KeyboardInterrupt
        return self.real(*args, **options)


@pytest.mark.parametrize("words", IN_PLACE, ids=["in place", "beside"])
@pytest.mark.parametrize("call", ["fsync", "link", "unlink", "pwrite", "replace"])
def test_an_interruption_at_any_call_leaves_nothing_behind(
    project: Folder, checkpoint: Path, words: list[str], call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C comes before the first call, the second, and so on, until one run gets through."""
    old, real = digest(checkpoint), getattr(os, call)
    for moment in range(1, 40):
        stopping = Stopping(real, moment)
        with monkeypatch.context() as patch:
            patch.setattr(os, call, stopping)
            code = project.run("upgrade", "head", checkpoint, "--no-backup", *words).code
        left = [path.name for path in Path().glob(".*") if path.name != ".c.ckpt.lock"]
        assert len(left) <= (call == "unlink"), (moment, left)  # what cannot be removed is removed by the next run
        if stopping.calls < moment:
            assert code == 0
            break
        assert code == 130
        project.ok("recover", checkpoint)
        if digest(checkpoint) != old:
            assert "y.weight" in names(checkpoint)
            checkpoint = project.copy(to="c.ckpt")
    assert "y.weight" in names(checkpoint)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_tidies_up(project: Folder, checkpoint: Path, number: signal.Signals) -> None:
    old = digest(checkpoint)
    code = (
        "import os, signal, sys; from anemoi_ckpt_migrate import cli\n"
        f"signal.signal({int(number)}, signal.SIG_DFL)  # whoever runs the tests may ignore it, as nohup does\n"
        f"os.fsync = lambda file: os.kill(os.getpid(), {int(number)})\n"
        f"sys.argv[1:] = ['upgrade', 'head', 'c.ckpt', '--in-place']\nsys.exit(cli.entry())"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (128 + number, "interrupted; nothing more was changed\n")
    assert digest(checkpoint) == old
    assert list(Path().glob(".*")) == []
    assert not in_place.journal_of(checkpoint).exists()


def test_nohup_is_heard(project: Folder, checkpoint: Path) -> None:
    """Who has SIGHUP ignored wants the run to go on."""
    code = (
        "import os, signal, sys; from anemoi_ckpt_migrate import cli\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "real = os.fsync\n\ndef fsync(file):\n    os.kill(os.getpid(), signal.SIGHUP)\n    real(file)\n\nos.fsync = fsync\n"
        "sys.argv[1:] = ['upgrade', 'head', 'c.ckpt', '--in-place']\nsys.exit(cli.entry())"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert "y.weight" in names(checkpoint)


def test_a_signal_while_arguments_are_read(
    project: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No moment of a command line answers a signal with a traceback."""

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_parser", interrupted)
    assert cli.main(["current", "x.ckpt"]) == 130
    assert capsys.readouterr().err == "interrupted; nothing more was changed\n"
