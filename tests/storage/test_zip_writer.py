"""What is written into an archive: copied, new, or computed meanwhile; `zipfile` reads it, and finds every CRC right."""

from __future__ import annotations

import errno
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from anemoi_ckpt_migrate.errors import NotACheckpoint
from anemoi_ckpt_migrate.storage import zip_archive, zip_writer
from anemoi_ckpt_migrate.storage.members import Members
from anemoi_ckpt_migrate.storage.zip_archive import Archive
from anemoi_ckpt_migrate.storage.zip_writer import Content, Contents, Streamed

BYTES = bytes(range(256)) * 40
LARGE = 300_000


@contextmanager
def opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


def whole(descriptor: int) -> Members:
    return Members([(descriptor, os.fstat(descriptor).st_size)])


def written(path: Path, contents: Contents, source: Path | None = None, moved: list[int] | None = None) -> Path:
    """Write a file, and check that `zipfile` finds it whole."""
    with opened(source or path.with_name("nothing")) as old, opened(path) as new:
        zip_writer.write_new(contents, whole(old), new, None if moved is None else moved.append)
    assert zipfile.ZipFile(path).testzip() is None
    return path


def records(path: Path) -> dict[str, bytes]:
    """Return what each record holds, in the order of the file."""
    with zipfile.ZipFile(path) as archive:
        infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
        return {info.filename.removeprefix("model/"): archive.read(info) for info in infos}


def read(path: Path) -> Archive:
    with path.open("rb") as stream:
        return zip_archive.read_archive(stream)


def new(**content: Content) -> Contents:
    """Contents that are all new; ``data_0`` is the record data/0."""
    return Contents("model", [], {name.replace("_", "/"): value for name, value in content.items()})


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """data.pkl, version, and payload: small, large and empty."""
    small = {"data.pkl": b"pickle", "version": b"3\n"}
    payload = {"data/0": b"zero", "data/1": os.urandom(LARGE), "data/2": b"", "data/3": b"three"}
    return written(tmp_path / "old", Contents("model", [], {**small, **payload}))


class Computed(Streamed):
    """Content in pieces: stretches of the old file, or bytes that are computed; it notes what it is asked for."""

    def __init__(
        self,
        name: str = "",
        chunks: tuple[bytes, ...] = (),
        stretches: list[tuple[int, int, int | None]] | None = None,
        size: int | None = None,
        asked: list[str] | None = None,
    ) -> None:
        self._name, self._chunks, self._stretches, self._asked = name, chunks, stretches, asked
        there = sum(stop - start for start, stop, _ in stretches or ()) + sum(map(len, chunks))
        self._size = there if size is None else size

    def __len__(self) -> int:
        return self._size

    def prepare(self) -> None:
        self._note("prepare")

    def stretches(self) -> list[tuple[int, int, int | None]] | None:
        return self._stretches

    def chunks(self) -> Iterator[bytes]:
        self._note("compute")
        yield from self._chunks

    def _note(self, what: str) -> None:
        if self._asked is not None:
            self._asked.append(f"{what} {self._name}")


def test_small_records_come_first_and_payload_last(tmp_path: Path) -> None:
    path = written(
        tmp_path / "new", new(data_0=b"zero", version=b"3\n", data_1=memoryview(BYTES), **{"data.pkl": b"p"})
    )
    assert list(records(path).items()) == [
        ("version", b"3\n"), ("data.pkl", b"p"), ("data/0", b"zero"), ("data/1", BYTES)
    ]  # fmt: skip


def test_what_is_kept_is_copied_between_them(old: Path, tmp_path: Path) -> None:
    archive = read(old)
    before = records(old)
    contents = zip_writer.changed(
        archive, lambda: old.open("rb"), {"data.pkl": b"another", "data/4": b"four", "data/0": None}, ["data/3", "gone"]
    )
    moved: list[int] = []
    path = written(tmp_path / "new", contents, old, moved)
    after = records(path)
    assert list(after) == ["data.pkl", "version", "data/1", "data/2", "data/4"]
    assert (after["data.pkl"], after["data/4"]) == (b"another", b"four")
    assert {name: after[name] for name in ("version", "data/1", "data/2")} == {
        name: before[name] for name in ("version", "data/1", "data/2")
    }
    assert LARGE < sum(moved) < LARGE + 500  # only what was copied


def test_runs_stay_aligned_and_long_ones_can_share_blocks(old: Path, tmp_path: Path) -> None:
    """Modulo 64 a tensor can be mapped; modulo 4096 a file system can share what is long enough to be worth it."""
    archive = read(old)
    for gone, modulus in ((["data/1"], 64), ([], 4096)):
        contents = zip_writer.changed(archive, lambda: old.open("rb"), {"data.pkl": b"x" * 100}, gone)
        found = read(written(tmp_path / f"new {modulus}", contents, old))
        for name in {"data/0", "data/1", "data/3"} - {*gone}:
            shift = found.entries[name].offset - archive.entries[name].offset
            assert shift % modulus == 0
        assert (found.entries["data/0"].offset - archive.entries["data/0"].offset < 4096) or not gone
        assert found.dead == 0


def test_a_record_whose_header_is_damaged_is_not_copied(old: Path) -> None:
    archive = read(old)
    with opened(old) as descriptor:
        os.pwrite(descriptor, b"PK\7\7", archive.entries["data/3"].offset)
    with pytest.raises(NotACheckpoint, match="the header of record model/data/3 is damaged"):
        zip_writer.changed(archive, lambda: old.open("rb"), {}, [])
    zip_writer.changed(archive, lambda: old.open("rb"), {}, ["data/3"])  # nobody needs it


def test_what_has_no_header_gets_one(tmp_path: Path) -> None:
    """A file of torch before 1.6 holds payload alone, one after the other."""
    source = tmp_path / "legacy"
    source.write_bytes(b"...zero....." + BYTES)
    loose = {"data/0": (3, 7), "data/1": (12, 12 + len(BYTES)), "data/2": (0, 3), "data/3": (0, 3)}
    archive = Archive("model", {}, 0, 0, loose)
    new = {"data.pkl": b"pickle", "version": b"3\n", "data/2": b"new"}
    contents = zip_writer.changed(archive, lambda: source.open("rb"), new, ["data/3"])
    moved: list[int] = []
    path = written(tmp_path / "new", contents, source, moved)
    assert records(path) == {**new, "data/0": b"zero", "data/1": BYTES}
    assert read(path).dead == 0
    assert sum(moved) == 4 + len(BYTES)


def test_computed_content_may_come_from_several_places_of_the_old_file(tmp_path: Path) -> None:
    source = tmp_path / "old"
    source.write_bytes(BYTES)
    known = zlib.crc32(BYTES[100:300])
    joined = Computed(stretches=[(100, 300, known), (5, 6, None), (1000, 9000, None)], chunks=())
    path = written(tmp_path / "new", new(data_0=joined, data_1=b"behind"), source)
    assert records(path) == {"data/0": BYTES[100:300] + BYTES[5:6] + BYTES[1000:9000], "data/1": b"behind"}


def test_the_next_content_is_computed_while_one_is_written(tmp_path: Path) -> None:
    asked: list[str] = []
    made = {f"data/{name}": Computed(name, (name.encode(), BYTES), asked=asked) for name in "abc"}
    path = written(tmp_path / "new", Contents("model", [], {"data/0": b"first", **made, "data/9": b"last"}))
    assert records(path) == {"data/0": b"first", **{f"data/{n}": n.encode() + BYTES for n in "abc"}, "data/9": b"last"}
    assert asked == ["prepare a", "prepare b", "compute a", "prepare c", "compute b", "compute c"]


def test_content_without_bytes_is_not_computed(tmp_path: Path) -> None:
    asked: list[str] = []
    path = written(tmp_path / "new", new(data_0=Computed("empty", asked=asked), data_1=b"one"))
    assert (records(path), asked) == ({"data/0": b"", "data/1": b"one"}, [])


@pytest.mark.parametrize("size", [3, 5])
def test_content_of_another_size_than_it_said_is_refused(tmp_path: Path, size: int) -> None:
    with pytest.raises(OSError, match="a computed tensor has the wrong size") as refused:
        written(tmp_path / "new", new(data_0=Computed(chunks=(b"four",), size=size)))
    assert refused.value.errno == errno.EIO


def test_what_is_appended_leaves_the_old_bytes_where_they_are(old: Path) -> None:
    archive, before = read(old), old.read_bytes()
    contents = zip_writer.changed(archive, lambda: old.open("rb"), {"data.pkl": b"another", "data/4": b"four"}, [])
    with opened(old) as descriptor:
        zip_writer.append(contents, whole(descriptor), descriptor, len(before))
    assert old.read_bytes().startswith(before)
    assert zipfile.ZipFile(old).testzip() is None
    after = records(old)
    assert list(after) == ["version", "data/0", "data/1", "data/2", "data/3", "data.pkl", "data/4"]
    assert (after["data.pkl"], after["data/4"], after["data/3"]) == (b"another", b"four", b"three")
