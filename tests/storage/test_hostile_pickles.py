"""Files made to do harm: each attack is refused in one sentence or handled rightly, runs nothing, and costs little.

An attack runs in a process of its own, with little memory and time, so that a crash or a bomb is a failure here and no
disaster. What has its test elsewhere is not here a second time:

- ``test_pickles``: hostile pickles given to the unpickler itself (lengths, memo indices, extensions, opcodes out of
  place, brackets to the power of two in text and in persistent ids, copies of one set), and foreign classes one by one;
- ``test_bad_input``: damaged archives and records, two ``data.pkl``, a flipped bit, a file that changes meanwhile;
- ``test_downgrade``: code that the record of a checkpoint carries;
- ``test_fuzz``: random changes of all of this.
"""

from __future__ import annotations

import contextlib
import copyreg
import io
import json
import os
import pickle
import pickletools
import signal
import struct
import sys
import tarfile
import time
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anemoi_ckpt_migrate.storage.in_place import journal_of, mark
from anemoi_ckpt_migrate.storage.pickle.tree_pickle import TreePickler, TreeUnpickler
from anemoi_ckpt_migrate.storage.zip_archive import ZipEntry, directory, line, local_header, new_entry, read_archive
from tests.support.forks import Forks
from tests.support.pickle_bytes import HOOKS, ONES, STORAGE, TENSOR, call, checkpoint, name, text, tree
from tests.support.project import Folder, Ran, digest

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning"),
]

SECONDS, MEMORY = 10, 512 << 20  # processor time and memory that an attack may cost, beside those of the interpreter
UPGRADE = ["upgrade", "head"]
EVERY = (["current"], ["inspect"], UPGRADE, ["downgrade", "base"])


class Attacked(Folder):
    """A project, and from where the processes are forked that are attacked."""

    forks: Forks


@pytest.fixture
def chain(project: Folder, capsys: pytest.CaptureFixture[str], forks: Forks) -> Attacked:
    """One revision that moves the hostile thing, if there is a place where it lies."""
    script = 'if isinstance(ckpt, dict) and "{0}" in ckpt: ckpt["{1}"] = ckpt.pop("{0}")'
    project.script("a1", None, script.format("x", "moved"), script.format("moved", "x"))
    found = Attacked(project.path, capsys)
    found.forks = forks
    return found


def attempt(folder: Attacked, *words: object) -> Ran:
    """Run a command line in a process of its own, which may neither grow large nor take long."""
    ran = folder.forks.run(folder.path, *words, memory=MEMORY, seconds=SECONDS)
    assert ran.code >= 0, f"{words[0]} crashed with {signal.Signals(-ran.code).name}"
    assert "Traceback" not in ran.err, ran.err
    return ran


def refused(folder: Attacked, checkpoint: Path, says: str = "", commands: Any = (["current"], UPGRADE)) -> None:
    """Check that commands refuse a file in one sentence, and leave everything as it is."""
    before = snapshot(folder.path)
    for words in commands:
        ran = attempt(folder, *words, checkpoint)
        assert ran.code == 1, (words, ran)
        assert ran.err.startswith("ckpt-migrate: error: ")
        assert ran.err.endswith("\n")
        assert ran.err.removesuffix("\n").isprintable(), ran.err
        assert len(ran.err) < 1000
        assert "MemoryError" not in ran.err
        assert says in ran.err
        assert snapshot(folder.path) == before


def handled(folder: Attacked, checkpoint: Path) -> None:
    """Check that a file goes up and down again, runs nothing, and is left with the names that it had."""
    wanted = names(checkpoint)
    for words in EVERY:
        ran = attempt(folder, *words, checkpoint)
        assert ran.code == 0, (words, ran)
        assert names(checkpoint) == wanted
        assert not CANARY.exists()


def snapshot(folder: Path) -> dict[str, str]:
    found = {path for path in folder.rglob("*") if "__pycache__" not in path.parts}
    return {str(path): digest(path) if path.is_file() and path.stat().st_size < 1 << 20 else "" for path in found}


def names(checkpoint: Path) -> set[str]:
    """Return what a real unpickler would import."""
    with zipfile.ZipFile(checkpoint) as archive:
        data = archive.read(f"{checkpoint.stem}/data.pkl")
    words: list[str] = []
    found = set()
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name in ("GLOBAL", "INST"):
            found.add(argument)
        if opcode.name == "STACK_GLOBAL":
            found.add(" ".join(words[-2:]))
        if isinstance(argument, str):
            words.append(argument)
    return found


# ------------------------------------------------------------------------------------------ pickles, spelled by hand

CANARY = Path("canary")  # in the current folder, which is that of the project
PLANT = "touch canary"


def large(number: int) -> bytes:
    spelled = pickle.encode_long(number)
    return b"\x8b" + struct.pack("<I", len(spelled)) + spelled


def laughs(levels: int, level: bytes = b"h%ch%c\x86") -> bytes:
    """Spell a thing that holds two of a thing that holds two of a thing ..."""
    return b")q\0" + b"".join(b"0" + level % (index, index) + b"q%c" % (index + 1) for index in range(levels))


# ------------------------------------------------------------------------------------------------- code in a pickle

SYSTEM, PLANTED = name("os.system"), text(PLANT)
TEXTUAL = b"cos\nsystem\n(V" + PLANT.encode() + b"\ntR."
CODE = {
    "reduce": call("os.system", PLANTED),
    "reduce of eval": call("builtins.eval", text("open('canary', 'w')")),
    "reduce of exec": call("builtins.exec", text("open('canary', 'w')")),
    "process": call("subprocess.Popen", PLANTED, b"K\xff", b"N", b"N", b"N", b"N", b"N", b"\x88", b"\x88"),
    "getattr chain": call(
        call("builtins.getattr", call("builtins.getattr", call("builtins.__import__", text("os")), text("system")),
             text("__call__")),
        PLANTED,
    ),
    "dotted name": text("shutil") + text("os.system") + b"\x93" + PLANTED + b"\x85R",
    "instance": b"(" + PLANTED + b"ios\nsystem\n",
    "object": b"(" + SYSTEM + PLANTED + b"o",
    "state": name("argparse.Namespace") + b")\x81}" + text("a") + call("os.system", PLANTED) + b"sb",
    "state setter": call("pathlib.PosixPath", text("canary")) + b"q\0" + call("os.open", b"h\0", b"KA") + b"0",
    "map": call("collections.deque", call("builtins.map", SYSTEM, b"]" + PLANTED + b"a")),
    "partial": call("functools.partial", SYSTEM, PLANTED) + b")R",
    "attribute that is called": name("argparse.Namespace") + b")\x81}" + text("append") + SYSTEM + b"sb" + PLANTED
    + b"a",
    "key": b"}" + call("os.system", PLANTED) + b"K\1s",
    "method": call(call("builtins.getattr", call("pathlib.PosixPath", text("canary")), text("touch"))),
    "pickle in a pickle": call("pickle.loads", b"C%c" % len(TEXTUAL) + TEXTUAL),
}  # fmt: skip


@pytest.mark.parametrize("attack", CODE)
def test_code_in(chain: Attacked, attack: str) -> None:
    data = tree(CODE[attack], protocol=4)
    with contextlib.suppress(Exception):
        pickle.loads(data)
    deadline = time.monotonic() + 5
    while attack == "process" and not CANARY.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert CANARY.exists(), "it is no attack"
    CANARY.unlink()
    if attack == "attribute that is called":
        refused(chain, checkpoint(chain, data), "has attributes and no items")
    else:
        handled(chain, checkpoint(chain, data))


def test_code_in_a_default_of_a_dict(chain: Attacked) -> None:
    chain.script("a1", None, 'assert repr(ckpt["x"]["missing"]).startswith("<opaque")')
    factory = call("functools.partial", SYSTEM, PLANTED)
    handled(chain, checkpoint(chain, tree(call("collections.defaultdict", factory))))


@pytest.mark.parametrize(
    "value",
    [
        call("torch.storage._load_from_bytes", b"C\x05bytes"),
        call("torch._utils._rebuild_anything", SYSTEM, PLANTED),
        call("torch._tensor._rebuild_from_type_v2", SYSTEM, name("torch.Tensor"), PLANTED + b"\x85", b"}"),
        call("torch.Size", call("os.system", PLANTED) + b"\x85"),
        call("datetime.datetime", b"K\1", b"K\1", b"K\1", b"K\0", b"K\0", b"K\0", b"K\0", call("os.system", PLANTED)),
    ],
    ids=["storage of bytes", "unknown function of torch", "subclass of a tensor", "shape", "zone of a date"],
)
def test_code_in_what_torch_and_dates_are_made_of(chain: Attacked, value: bytes) -> None:
    handled(chain, checkpoint(chain, tree(value, protocol=4)))


def test_code_in_a_persistent_id(chain: Attacked) -> None:
    refused(chain, checkpoint(chain, tree(call("os.system", PLANTED) + b"Q")), "named in an unknown way")
    hidden = STORAGE.replace(text("cpu"), call("os.system", PLANTED))
    refused(chain, checkpoint(chain, tree(hidden)), "named in an unknown way")


def test_code_by_a_module_that_is_trusted(chain: Attacked) -> None:
    """To trust a module is not to trust all that it imports."""
    (chain.path / "ckpt-migrate.toml").write_text('trusted = ["configs"]\n')
    module = "import os\nfrom os import system as run\n\nopen('imported', 'w')\n\n\nclass Config:\n    pass\n"
    (chain.path / "configs.py").write_text(module)
    for path in ("os.system", "run", "Config.__init__.__globals__", "Config.__reduce__"):
        data = tree(text("configs") + text(path) + b"\x93" + PLANTED + b"\x85R", protocol=4)
        attempt(chain, *UPGRADE, checkpoint(chain, data))
        assert not CANARY.exists(), path
    assert Path("imported").exists()


def test_code_when_a_tensor_is_opened(chain: Attacked) -> None:
    """Real tensors are made then; nothing else is."""
    pytest.importorskip("torch")
    chain.script("a2", "a1", 'ckpt["w"].mul_(2)')
    for value in (
        *CODE.values(),
        call("torch._tensor._rebuild_from_type_v2", SYSTEM, name("torch.Tensor"), PLANTED + b"\x85", b"}"),
        call("torch._utils._rebuild_parameter", call("os.system", PLANTED), b"\x88", HOOKS),
        call("torch._utils._rebuild_parameter_with_state", TENSOR, b"\x88", HOOKS, b"}" + text("hook") + SYSTEM + b"s"),
        call("torch.storage._load_from_bytes", b"C\x05bytes"),
    ):
        data = tree(value)[:-2] + text("w") + TENSOR + b"u."
        ran = chain.run(*UPGRADE, checkpoint(chain, data), "--no-backup")
        assert ran.code in (0, 1)
        assert not CANARY.exists(), value


def test_new_code_by_a_name_of_several_lines(chain: Attacked) -> None:
    """Protocol 2 ends names with a newline: one that holds newlines would be written as other opcodes."""
    injected = f"builtins\nlist\n0cos\nsystem\n(X{chr(len(PLANT))}\0\0\0{PLANT}tR0cbuiltins"
    data = tree(text(injected) + text("list") + b"\x93)R")
    with pytest.raises(ImportError):
        pickle.loads(data)
    path = checkpoint(chain, data)
    attempt(chain, *UPGRADE, path)
    with contextlib.suppress(Exception), zipfile.ZipFile(path) as archive:
        pickle.loads(archive.read("x/data.pkl"))
    assert not CANARY.exists()


STAND_INS = {
    "a shape": (name("torch.Size"), "pickled_name"),
    "a container": (name("collections.OrderedDict"), "pickled_name"),
    "bytes": (name("_codecs.encode"), "pickled_name"),
    "a function of torch": (name("torch._utils._rebuild_tensor_v2"), "pickled_name"),
    "a storage": (STORAGE, "key"),
}


@pytest.mark.parametrize("stand_in", STAND_INS)
def test_a_state_set_on(chain: Attacked, stand_in: str) -> None:
    """What stands for a harmless name is not the pickle's to change; the next file may have it too."""
    value, slot = STAND_INS[stand_in]
    state = b"N}" + text(slot) + text("os") + text("system") + b"\x86s\x86b"
    first = checkpoint(chain, tree(value + state), stem="first")
    chain.script("a2", "a1", 'ckpt["shape"] = ckpt["t"].shape')
    second = checkpoint(chain, tree(b"N")[:-2] + text("t") + TENSOR + b"u.", stem="second")
    before = digest(first)
    ran = attempt(chain, "upgrade", "head", first, second)
    assert "os system" not in names(second)
    assert "data.pkl is damaged or hostile" in ran.err
    assert digest(first) == before


# -------------------------------------------------------------------------------------------- pickles without measure

COLLIDING = [b"\x8a\x0b" + (index * (2**61 - 1)).to_bytes(11, "little") for index in range(1, 60_000)]
MANY = 100_000

BOMBS = {
    "length of text": b"\x8d" + struct.pack("<Q", 1 << 60),
    "length of bytes": b"\x8e" + struct.pack("<Q", 1 << 40),
    "length of a bytearray": b"\x96" + struct.pack("<Q", 1 << 40),
    "length of an integer": b"\x8b" + struct.pack("<I", (1 << 31) - 1) + b"\x7f",
    "negative length": b"\x8b" + struct.pack("<i", -1),
    "frame": b"\x95" + struct.pack("<Q", 1 << 62) + b"N",
    "memo index": b"Nr" + struct.pack("<I", (1 << 32) - 1),
    "memo index as text": b"Np99999999999999\n",
    "digits": b"L" + b"9" * MANY + b"L\n",
    "extension": b"\x82\x01",
    "extension of four bytes": b"\x84\1\0\0\0",
    "buffer out of band": b"\x97",
    "tuples in tuples as a key": b"})" + b"\x85" * 1_000_000 + b"K\1s",
    "lists in lists": b"]" * 1_000_000 + b"a" * 999_999,
    "calls of calls": name("m.f") + b")R" * 1_000_000,
    "copies of a set": b"](" + b"K\1" * MANY + b"eq\0](" + call("builtins.set", b"h\0") * MANY + b"e\x86",
    "copies of a shape": b"(" + b"N" * MANY + b"tq\0](" + call("torch.Size", b"h\0") * MANY + b"e\x86",
    "bytearray of a length": call("builtins.bytearray", b"J\xff\xff\xff\x7f"),
    "list of a range": call("builtins.list", call("builtins.range", b"J\xff\xff\xff\x7f")),
    "laughs as a key": b"}" + laughs(100) + b"K\1s",
    "laughs in a set": call("builtins.set", b"]" + laughs(100) + b"a"),
    "laughs in a set of protocol 4": b"\x8f(" + laughs(100) + b"\x90",
    "laughs as text": call("builtins.str", laughs(100)),
    "laughs as a key of an object": name("m.C") + b")\x81" + laughs(100) + b"K\1s",
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_too_much(chain: Attacked, bomb: str) -> None:
    refused(chain, checkpoint(chain, tree(BOMBS[bomb], protocol=4)), "damaged or hostile")


@pytest.mark.parametrize(
    "value",
    [b"}(" + b"N".join(COLLIDING) + b"Nu", call("builtins.set", b"](" + b"".join(COLLIDING) + b"e")],
    ids=["keys of a dict", "members of a set"],
)
def test_hashes_that_collide(chain: Attacked, value: bytes) -> None:
    """Refused or not, but not in quadratic time: 60,000 would take half a minute, and ten times as many an hour."""
    assert attempt(chain, *UPGRADE, checkpoint(chain, tree(value))).code in (0, 1)


@pytest.mark.parametrize(
    "value",
    [
        laughs(200),
        laughs(200, b"](h%ch%ce"),
        laughs(200, b"}(K\1h%cK\2h%cu"),
        laughs(200, name("m.C") + b"(h%ch%ct\x81"),
    ],
    ids=["tuples", "lists", "dicts", "objects"],
)
def test_laughs_that_nobody_hashes(chain: Attacked, value: bytes) -> None:
    """A thing of two things of two things is small, as long as nobody walks all ways through it."""
    handled(chain, checkpoint(chain, tree(value)))


@pytest.mark.parametrize(
    "value",
    [
        b"]q\0h\0a",
        b"}q\0" + text("me") + b"h\0s",
        b"]q\0h\0\x85a",
        name("m.C") + b")\x81q\0}" + text("me") + b"h\0sb",
        name("m.C") + b")\x81q\0h\0a",
        name("m.C") + b")\x81q\0h\0h\0s",
        name("m.C") + b"]q\0h\0a\x85\x81q\1",
        call("collections.OrderedDict") + b"q\0" + text("me") + b"h\0s",
        call("collections.defaultdict", name("m.C")) + b"q\0" + text("me") + b"h\0s",
    ],
    ids=["list", "dict", "tuple", "attribute", "item", "key", "argument", "ordered dict", "dict with a default"],
)
def test_cycles(chain: Attacked, value: bytes) -> None:
    handled(chain, checkpoint(chain, tree(value)))


@pytest.mark.parametrize(
    "nested",
    [b"]" * 5000 + b"a" * 4999, b")" + b"\x85" * 5000, (name("m.C") + b"(") * 3000 + b"t\x81" * 3000],
    ids=["lists", "tuples", "objects"],
)
def test_deep_nesting_is_said_to_be_it(chain: Attacked, nested: bytes) -> None:
    refused(chain, checkpoint(chain, tree(nested)), "nested too deeply", commands=[UPGRADE])
    for words in (["current"], ["inspect"]):
        assert attempt(chain, *words, chain.path / "x.ckpt").code in (0, 1)


def test_a_pickle_that_is_not_there(chain: Attacked) -> None:
    """A file of holes takes no room on the disk, and 20 GB in memory."""
    for record in ("data.pkl", "byteorder", "ckpt_migrate/record.json"):
        path = with_a_hole(chain, record, 20 << 30)
        refused(chain, path, commands=[UPGRADE] if record == "byteorder" else [["current"], UPGRADE])


def with_a_hole(folder: Folder, hollow: str, size: int) -> Path:
    """Make a checkpoint in which one record is a hole."""
    records = {"data.pkl": b"\x80\2].", "version": b"3\n"}
    path, offset, entries = folder.path / "x.ckpt", 0, list[ZipEntry]()
    with path.open("wb") as stream:
        for word, content in {hollow: b"", **{word: data for word, data in records.items() if word != hollow}}.items():
            length = size if word == hollow else len(content)
            header = local_header(f"x/{word}", offset, length, zlib.crc32(content))
            stream.seek(offset)
            stream.write(header + content)
            end = offset + len(header) + length
            entries.append(ZipEntry(f"x/{word}", offset, end, length, zlib.crc32(content), 0x800))
            offset = end
        stream.seek(offset)
        stream.write(directory([line(entry) for entry in entries], offset))
    return path


@pytest.mark.parametrize(
    "letter",
    ["a\nb", "\x1b[31m", "\x07", "\u202e", "long" * 1_000_000],
    ids=["newline", "color", "bell", "right to left", "long"],
)
def test_words_that_do_not_fit_into_a_sentence(chain: Attacked, letter: str) -> None:
    """What a file calls its things is told in a message only as far as a line of text allows."""
    missing = STORAGE.replace(text("0"), text(letter))
    refused(chain, checkpoint(chain, tree(missing)))
    record = {"format": 1, "heads": [letter], "lineage": [], "log": []}
    refused(chain, checkpoint(chain, pickle.dumps({"epoch": 1, "ckpt_migrate": record}, 2)))
    twice = name("m.C") + b")\x81q\0" + call(text(letter) + text("f") + b"\x93", b"h\0", b"N") + b"0N}b"
    attempt(chain, *UPGRADE, checkpoint(chain, tree(twice)))


@pytest.mark.parametrize(
    "record",
    [
        call("m.Record"),
        b"}" + text("format") + large(1 << 200_000) + b"s",
        b"}" + text("format") + b"\x88s",
        b"}q\0" + text("format") + b"h\0s",
        TENSOR,
    ],
    ids=["object", "huge number", "boolean", "text of itself", "tensor"],
)
def test_a_record_of_odd_things(chain: Attacked, record: bytes) -> None:
    data = b"\x80\2}(" + text("epoch") + b"K\1" + text("ckpt_migrate") + record + b"u."
    refused(chain, checkpoint(chain, data))


@pytest.mark.parametrize(
    "record",
    ["[" * 200_000, '{"format": ' + "9" * 100_000 + "}", '{"format": NaN}', '"\\ud800"'],
    ids=["brackets", "digits", "not a number", "surrogate"],
)
def test_a_record_of_odd_json(chain: Attacked, record: str) -> None:
    path = checkpoint(chain, b"\x80\2].", {"ckpt_migrate/record.json": record.encode()})
    refused(chain, path)


# --------------------------------------------------------------------------------------------------------- archives

SOUND = tree(TENSOR)


@pytest.fixture
def sound(chain: Attacked) -> Path:
    """A checkpoint without a fault."""
    return checkpoint(chain, SOUND, {"data/1": ONES, "note": b"hello"})


LOCAL = {"flags": (6, "<H"), "method": (8, "<H"), "packed": (18, "<I"), "size": (22, "<I"), "extra": (28, "<H")}
CENTRAL = {
    "flags": (8, "<H"), "method": (10, "<H"), "crc": (16, "<I"), "packed": (20, "<I"), "size": (24, "<I"),
    "name": (28, "<H"), "offset": (42, "<I"),
}  # fmt: skip


def lie(path: Path, record: str, central: dict[str, int] | None = None, local: dict[str, int] | None = None) -> None:
    """Change fields of the two headers of a record."""
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        at, offsets = archive.start_dir, {}
        for info in archive.infolist():
            offsets[info.filename] = at, info.header_offset
            at += 46 + sum(struct.unpack_from("<HHH", content, at + 28))
    for fields, places, start in ((central, CENTRAL, 0), (local, LOCAL, 1)):
        for field, value in (fields or {}).items():
            place, kind = places[field]
            struct.pack_into(kind, content, offsets[f"x/{record}"][start] + place, value)
    path.write_bytes(content)


def offset_of(path: Path, record: str) -> int:
    with zipfile.ZipFile(path) as archive:
        return archive.getinfo(f"x/{record}").header_offset


@pytest.mark.parametrize("record", ["data.pkl", "data/0", "data/1", "version", "note"])
@pytest.mark.parametrize("flag", [0x1, 0x41], ids=["weakly", "strongly"])
def test_encrypted(chain: Attacked, sound: Path, record: str, flag: int) -> None:
    lie(sound, record, {"flags": flag})
    refused(chain, sound, "encrypted", commands=[UPGRADE])


def test_a_deflate_bomb(chain: Attacked, sound: Path) -> None:
    with zipfile.ZipFile(sound, "a", zipfile.ZIP_DEFLATED) as archive, archive.open("x/more", "w") as stream:
        for _ in range(300):
            stream.write(bytes(1 << 20))
    refused(chain, sound, "compressed")


def test_other_methods_of_compression(chain: Attacked, sound: Path) -> None:
    lie(sound, "data/0", {"method": 99})
    refused(chain, sound, "compressed")


@pytest.mark.parametrize("record", ["data/0", "data/1", "note", "version"])
def test_two_records_of_one_name(chain: Attacked, sound: Path, record: str) -> None:
    with zipfile.ZipFile(sound, "a") as archive:
        archive.writestr(f"x/{record}", b"another")
    refused(chain, sound, "two records named")


@pytest.mark.parametrize("record", ["DATA.pkl", "Data/0", "VERSION"])
def test_two_records_of_one_name_as_torch_sees_it(chain: Attacked, sound: Path, record: str) -> None:
    """To torch, capitals are small letters: it may read the other one."""
    with zipfile.ZipFile(sound, "a") as archive:
        archive.writestr(f"x/{record}", b"another")
    refused(chain, sound)


@pytest.mark.parametrize("where", ["../../evil", "/tmp/evil", "y/data.pkl", "\\\\host\\evil"])
def test_records_outside(chain: Attacked, sound: Path, where: str) -> None:
    with zipfile.ZipFile(sound, "a") as archive:
        archive.writestr(where, b"evil")
    refused(chain, sound, "lies outside the folder")


@pytest.mark.parametrize("where", ["x/../../evil", "x/data/../../../evil", "x//evil", "x/C:\\evil", "x/evil\n"])
def test_records_that_only_look_as_if_they_were_outside(chain: Attacked, sound: Path, where: str) -> None:
    """Nothing is ever unpacked: they are copied as they are."""
    with zipfile.ZipFile(sound, "a") as archive:
        archive.writestr(where, b"evil")
    handled(chain, sound)
    assert zipfile.ZipFile(sound).read(where) == b"evil"
    assert sorted(path.name for path in chain.path.glob("*evil*")) == []


def test_a_payload_elsewhere(chain: Attacked) -> None:
    for key in ("../../../etc/passwd", "/etc/passwd", "../version", ""):
        refused(chain, checkpoint(chain, tree(STORAGE.replace(text("0"), text(key)))), "is missing")


@pytest.mark.parametrize("record", ["data.pkl", "data/0"])
def test_records_that_overlap(chain: Attacked, sound: Path, record: str) -> None:
    lie(sound, record, {"offset": offset_of(sound, "data/1")})
    refused(chain, sound, "overlaps")


@pytest.mark.parametrize("beyond", [1, 1 << 20, 0xFFFFFFF0])
def test_records_beyond_the_end(chain: Attacked, sound: Path, beyond: int) -> None:
    lie(sound, "data/0", {"offset": min(0xFFFFFFF0, sound.stat().st_size + beyond)})
    refused(chain, sound)


def test_a_record_that_starts_within_another(chain: Attacked, sound: Path) -> None:
    lie(sound, "data/0", {"offset": offset_of(sound, "data/1") + 36})
    refused(chain, sound, commands=[UPGRADE])


@pytest.mark.parametrize("size", [5000, 0x7FFFFFFF, 0xFFFFFFFF])
def test_records_larger_than_the_file(chain: Attacked, sound: Path, size: int) -> None:
    for record in ("data.pkl", "data/0", "note"):
        path = checkpoint(chain, SOUND, {"data/1": ONES, "note": b"hello"})
        lie(path, record, {"size": size, "packed": size})
        refused(chain, path)


def test_a_local_header_with_another_name(chain: Attacked, sound: Path) -> None:
    content = sound.read_bytes()
    at = content.index(b"x/data/0")
    sound.write_bytes(content[:at] + b"x/data/7" + content[at + 8 :])
    refused(chain, sound, commands=[UPGRADE])


def test_a_local_header_with_other_sizes(chain: Attacked, sound: Path) -> None:
    lie(sound, "data/0", local={"size": 1 << 30, "packed": 1})
    assert attempt(chain, *UPGRADE, sound).code in (0, 1)


@pytest.mark.parametrize("words", [["upgrade", "head"], ["upgrade", "head", "--in-place"]], ids=["anew", "in place"])
def test_a_local_header_that_leads_into_another_record(chain: Attacked, sound: Path, words: list[str]) -> None:
    """By the length of its extra field, the content of one record would be that of another."""
    distance = offset_of(sound, "data/1") - offset_of(sound, "version")
    lie(sound, "version", local={"extra": distance})
    refused(chain, sound, commands=[words])


def test_a_wrong_crc_of_what_is_read(chain: Attacked, sound: Path) -> None:
    """A tensor that is changed is read: its CRC is not to be made right on the way."""
    pytest.importorskip("torch")
    chain.script("a2", "a1", 'ckpt["moved"].mul_(2)')
    lie(sound, "data/0", {"crc": 1234})
    before = digest(sound)
    ran = chain.run(*UPGRADE, sound)
    assert ran.code == 1
    assert "data/0 is damaged" in ran.err
    assert digest(sound) == before


def test_a_wrong_crc_of_anything_when_asked_to_verify(chain: Attacked, sound: Path) -> None:
    for record in ("data/0", "data/1", "note", "version"):
        path = checkpoint(chain, SOUND, {"data/1": ONES, "note": b"hello"})
        lie(path, record, {"crc": 1234})
        refused(chain, path, f"{record} is damaged", commands=[[*UPGRADE, "--verify"]])


def test_two_tables_of_contents(chain: Attacked, sound: Path) -> None:
    """The second lies in the comment of the first; only one of them may count, and it is the one that torch takes."""
    other = checkpoint(chain, tree(call("os.system", PLANTED)), stem="y")
    content = sound.read_bytes()
    inner = other.read_bytes()
    end = content.rindex(b"PK\5\6")
    content = content[: end + 20] + struct.pack("<H", len(inner)) + inner
    sound.write_bytes(content)
    ran = attempt(chain, *UPGRADE, sound)
    assert ran.code in (0, 1) or (ran.code, "it holds several archives" in ran.err) == (3, True)
    assert not CANARY.exists()


def test_a_program_in_front(chain: Attacked, sound: Path) -> None:
    sound.write_bytes(b"#!/bin/sh\ntouch canary\nexit\n" + sound.read_bytes())
    ran = attempt(chain, *UPGRADE, sound)
    assert ran.code in (0, 1)
    if ran.code == 0:
        assert sound.read_bytes().startswith(b"PK")


def test_a_name_as_long_as_they_get(chain: Attacked) -> None:
    path = checkpoint(chain, b"\x80\2].", stem="x")
    with zipfile.ZipFile(path) as archive:
        content = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for word, data in content.items():
            archive.writestr(word.replace("x/", f"{'x' * 65_500}/"), data)
    assert attempt(chain, *UPGRADE, path).code in (0, 1)


def test_a_tar_file(chain: Attacked) -> None:
    """As torch wrote them in its first year: pickles again, and code in them."""
    path = chain.path / "x.ckpt"
    with tarfile.open(path, "w") as archive:
        for member in ("sys_info", "pickle", "tensors", "storages"):
            info = tarfile.TarInfo(member)
            info.size = len(TEXTUAL)
            archive.addfile(info, io.BytesIO(TEXTUAL))
    refused(chain, path)
    assert not CANARY.exists()


# ------------------------------------------------------------------------------------------ what lies beside, or behind


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.mkdir(),
        os.mkfifo,
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: (path.touch(), os.truncate(path, 20 << 30)),
        lambda path: path.write_text("[" * 100_000),
        lambda path: path.write_text(json.dumps({"format": 1, "length": -5, "directory": -9, "crc": 0})),
        lambda path: path.write_text('{"format": 1, "length": ' + "9" * 5000 + ', "directory": 0, "crc": 0}'),
    ],
    ids=["directory", "pipe", "device", "holes", "brackets", "negative", "digits"],
)
def test_a_journal_that_is_none(chain: Attacked, sound: Path, make: Callable[[Path], Any]) -> None:
    make(journal_of(sound))
    before = digest(sound)
    for words in (["current"], UPGRADE, ["recover"]):
        ran = attempt(chain, *words, sound)
        assert ran.code == (0 if words == ["current"] else 1), ran.err
        assert digest(sound) == before


def test_a_thousand_ways_back(chain: Attacked) -> None:
    """Each state of a file that was written in place names the one before it; all share one large pickle here."""
    path = checkpoint(chain, tree(b"](" + b"K\1" * 100_000 + b"e"))
    chain.ok("upgrade", "head", path, "--in-place")
    with path.open("r+b") as stream:
        for _ in range(1000):
            archive, length = read_archive(stream), stream.seek(0, io.SEEK_END)
            archive.entries.pop("ckpt_migrate/previous.json", None)
            content = json.dumps({"format": 1, **vars(mark(stream.fileno(), length, archive.directory))}).encode()
            added = new_entry("x/ckpt_migrate/previous.json", length, content)
            header = local_header(added.name, length, len(content), added.crc)
            at = length + len(header) + len(content)
            stream.write(
                header + content + directory([line(entry) for entry in (*archive.entries.values(), added)], at)
            )
            stream.flush()
    assert attempt(chain, "downgrade", "base", path).code in (0, 1)


# ------------------------------------------------------------------------------------------- files before torch 1.6

MAGIC, VERSION = pickle.dumps(0x1950A86A20F9469CFC6C, 2), pickle.dumps(1001, 2)
MACHINE = pickle.dumps({"protocol_version": 1001, "little_endian": True, "type_sizes": {}}, 2)
PARTS = {"magic": MAGIC, "version": VERSION, "machine": MACHINE, "tree": SOUND.replace(b"K\4tQ", b"K\4NtQ"),
         "keys": pickle.dumps(["0"], 2), "payload": struct.pack("<q", 4) + ONES}  # fmt: skip


def legacy(folder: Folder, **parts: bytes) -> Path:
    """Put a file together as torch did before 1.6."""
    path = folder.path / "x.ckpt"
    path.write_bytes(b"".join((PARTS | parts).values()))
    return path


def test_a_sound_legacy_file(chain: Attacked) -> None:
    assert attempt(chain, *UPGRADE, legacy(chain)).code == 0


@pytest.mark.parametrize("part", ["magic", "version", "machine", "tree", "keys"])
def test_code_in_a_legacy_file(chain: Attacked, part: str) -> None:
    code = (
        MAGIC[:-1] + b"0" + call("os.system", PLANTED) + b"." if part == "magic" else b"\x80\2" + CODE["reduce"] + b"."
    )
    path = legacy(chain, **{part: code})
    for words in EVERY:
        assert attempt(chain, *words, path).code in (0, 1)
        assert not CANARY.exists()


def test_code_in_what_a_legacy_file_says_of_a_module(chain: Attacked) -> None:
    where = b"(" + text("module") + name("m.C") + call("os.system", PLANTED) + text("source") + b"tQ"
    attempt(chain, *UPGRADE, legacy(chain, tree=tree(where + b")\x81"), keys=b"\x80\2].", payload=b""))
    assert not CANARY.exists()


LIES = {
    "more elements than an integer has bits": {"payload": struct.pack("<q", 1 << 62) + ONES},
    "fewer than none": {"payload": struct.pack("<q", -4) + ONES},
    "fewer elements than the tensor": {"payload": struct.pack("<q", 3) + ONES},
    "more than the file has": {"payload": struct.pack("<q", 400) + ONES},
    "no payload": {"payload": b""},
    "half a length": {"payload": b"\4\0"},
    "no keys": {"keys": b"\x80\2]."},
    "a key twice": {"keys": pickle.dumps(["0", "0"], 2), "payload": 2 * PARTS["payload"]},
    "a key without a tensor": {"keys": pickle.dumps(["0", "1"], 2), "payload": 2 * PARTS["payload"]},
    "a key with a path": {"keys": pickle.dumps(["../0"], 2)},
    "a key that is a number": {"keys": pickle.dumps([0], 2)},
    "keys that are text": {"keys": pickle.dumps("0", 2)},
    "keys that laugh": {"keys": b"\x80\2}" + laughs(100) + b"K\1s."},
    "brackets": {"machine": b"\x80\2" + b"(" * 1_000_000 + b"t" * 1_000_000 + b"."},
    "a version of many digits": {"version": b"\x80\2" + large(1 << 200_000) + b"."},
    "a later version": {"version": pickle.dumps(1002, 2)},
    "a bomb for a tree": {"tree": b"\x80\2\x8e" + struct.pack("<Q", 1 << 60)},
    "a storage of no known kind": {"tree": PARTS["tree"].replace(b"FloatStorage", b"EvilsStorage")},
    "a view of a storage": {"tree": PARTS["tree"].replace(b"K\4NtQ", text("1") + b"K\0K\4\x87tQ")},
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_legacy_file_that_lies(chain: Attacked, lie: str) -> None:
    refused(chain, legacy(chain, **LIES[lie]))


# ----------------------------------------------------------------------------------------- tensors that are none


def test_an_index_outside_a_sparse_tensor(chain: Attacked) -> None:
    """Torch would write wherever the index says."""
    pytest.importorskip("torch")
    chain.script("a1", None, 'ckpt["dense"] = ckpt["x"].to_dense()')
    layout = call("torch.serialization._get_layout", text("torch.sparse_coo"))
    longs = STORAGE.replace(b"FloatStorage", b"LongStorage").replace(text("0"), text("1"))
    indices = call("torch._utils._rebuild_tensor_v2", longs, b"K\0", b"K\1K\4\x86", b"K\4K\1\x86", b"\x89", HOOKS)
    size = call("torch.Size", b"K\4\x85")
    sparse = call("torch._utils._rebuild_sparse_tensor", layout, b"(" + indices + TENSOR + size + b"t")
    far = struct.pack("<4q", 0, 1, 2, 1 << 40)
    path = checkpoint(chain, tree(sparse), {"data/1": far})
    before = digest(path)
    ran = in_another_interpreter(chain, *UPGRADE, path)
    assert ran.code == 1, ran
    assert ran.err.count("\n") == 1
    assert digest(path) == before


def in_another_interpreter(folder: Folder, *words: object) -> Ran:
    """Run a command line with torch, whose threads would not survive a fork."""
    import subprocess

    command = [sys.executable, "-m", "anemoi_ckpt_migrate", *map(str, words)]
    ran = subprocess.run(command, cwd=folder.path, capture_output=True, text=True, timeout=60)
    return Ran(ran.returncode, ran.stdout, ran.stderr)


def shaped(offset: int, size: int, stride: int, kind: str = "FloatStorage", elements: int = 4) -> bytes:
    storage = STORAGE.replace(b"FloatStorage", kind.encode()).replace(b"K\4tQ", large(elements) + b"tQ")
    numbers = [large(offset), large(size) + b"\x85", large(stride) + b"\x85"]
    return call("torch._utils._rebuild_tensor_v2", storage, *numbers, b"\x89", HOOKS)


NO_TENSORS = {
    "one element too many": shaped(0, 5, 1),
    "one element too late": shaped(1, 4, 1),
    "too wide a stride": shaped(0, 4, 2),
    "starts before": shaped(-1, 4, 1),
    "goes backwards": shaped(3, 4, -1),
    "less than nothing": shaped(0, -4, 1),
    "more than all memory": shaped(0, 1 << 62, 1),
    "starts behind all memory": shaped(1 << 62, 4, 1),
    "more than an integer": shaped(0, 1 << 90, 1),
    "of another kind": shaped(0, 4, 1, "DoubleStorage"),
    "longer than its record": shaped(0, 1 << 20, 1, elements=1 << 20),
    "of no kind": shaped(0, 4, 1, "EvilStorage"),
    "made of nothing": call("torch.Tensor", large(1 << 50)),
    "of no dtype": call("torch._utils._rebuild_meta_tensor_no_storage", SYSTEM, b"K\4\x85", b"K\1\x85", b"\x89"),
    "nested in itself": call("torch._utils._rebuild_nested_tensor", TENSOR, TENSOR, TENSOR, TENSOR),
    "quantized by nothing": call(
        "torch._utils._rebuild_qtensor", STORAGE, b"K\0", b"K\4\x85", b"K\1\x85", b"N", b"\x89", HOOKS
    ),
    "parameter of a number": call("torch._utils._rebuild_parameter", b"K\1", b"\x88", HOOKS),
    "without arguments": call("torch._utils._rebuild_tensor_v2"),
    "state that is set": TENSOR + b"}" + text("data") + b"Nsb",
}  # fmt: skip


@pytest.mark.parametrize("lie", NO_TENSORS)
def test_a_tensor_that_is_none(chain: Attacked, lie: str) -> None:
    """Opened, it is refused; only moved, it stays what it was."""
    pytest.importorskip("torch")
    chain.script("a2", "a1", 'ckpt["w"].mul_(2); float(ckpt["moved"].sum())')
    path = checkpoint(chain, tree(NO_TENSORS[lie])[:-2] + text("w") + TENSOR + b"u.")
    assert chain.run("upgrade", "a1", path, "--no-backup").code in (0, 1)
    before = digest(path)
    ran = chain.run(*UPGRADE, path)
    assert ran.code == 1
    assert ran.err.count("\n") == 1
    assert len(ran.err) < 1000
    assert digest(path) == before


# -------------------------------------------------------- objects of any class: written back, they are built as before


class Thing:
    """An object that notes how it was built, in any of the ways that ``__reduce_ex__`` knows."""

    how = "newobj"

    def __new__(cls, *args: Any, **kwargs: Any) -> Thing:
        made = object.__new__(cls)
        made.__dict__.update(args=args, kwargs=kwargs, items=[], pairs=[], state=None, setter=None)
        return made

    def append(self, item: Any) -> None:
        self.items.append(item)

    def extend(self, items: Any) -> None:
        self.items.extend(items)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.pairs.append((key, value))

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        function, args = {
            "newobj": (copyreg.__newobj__, (type(self), *self.args)),
            "newobj_ex": (copyreg.__newobj_ex__, (type(self), self.args, self.kwargs)),
            "call": (type(self), self.args),
            "function": (made_by_a_function, self.args),
        }[self.how]
        pairs = iter(self.pairs) if self.pairs else None
        reduced = function, args, self.state, iter(self.items) if self.items else None, pairs
        return reduced if self.setter is None else (*reduced, self.setter)

    class Inner:
        """Of a class in a class; protocols 2 and 3 spell that with getattr."""

        how = "newobj"


def made_by_a_function(*args: Any) -> Thing:
    made = Thing(*args)
    made.how = "function"
    return made


def set_state(thing: Thing, state: Any) -> None:
    thing.state, thing.setter = state, set_state


def seen(value: Any, known: dict[int, int] | None = None) -> Any:
    """Return all of a graph of things as something to compare: what is in it twice is so in both."""
    known = {} if known is None else known
    if isinstance(value, (list, dict, Thing)):
        if id(value) in known:
            return known[id(value)]
        known[id(value)] = len(known)
    if isinstance(value, Thing):
        parts = value.args, value.kwargs, value.items, value.pairs, value.state, value.setter is None
        return type(value), [seen(part, known) for part in parts]
    if isinstance(value, dict):
        return dict, [(key, seen(item, known)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value), [seen(item, known) for item in value]
    return type(value), value


LEAVES = st.sampled_from([None, True, 0, 7, 1 << 70, "", "text", b"\xff", (), 1.5, b"", ("a", 1)])


@st.composite
def graphs(draw: Any) -> list[Any]:
    """Draw lists, dicts and things that hold each other in any way."""
    makers = {
        "list": list,
        "dict": dict,
        "newobj": Thing,
        "newobj_ex": Thing,
        "call": Thing,
        "function": made_by_a_function,
    }
    nodes: list[Any] = []
    arguments: set[int] = set()  # a thing cannot be among its own arguments
    for _ in range(draw(st.integers(1, 5))):
        how = draw(st.sampled_from(sorted(makers)))
        if how in ("list", "dict"):
            nodes.append(makers[how]())
            continue
        args = draw(st.lists(st.one_of(LEAVES, *([st.sampled_from(nodes)] if nodes else [])), max_size=3))
        arguments.update(map(id, args))
        made = makers[how](*args)
        made.how = how
        if how == "newobj_ex":
            made.kwargs.update(draw(st.dictionaries(st.sampled_from("ab"), LEAVES, max_size=2)))
        nodes.append(made)
    for node in nodes:
        values = LEAVES if id(node) in arguments else st.one_of(LEAVES, st.sampled_from(nodes))
        if isinstance(node, list):
            node += draw(st.lists(values, max_size=3))
        elif isinstance(node, dict):
            node |= draw(st.dictionaries(st.sampled_from("abc"), values, max_size=3))
        else:
            node.items += draw(st.lists(values, max_size=2))
            keys = st.sampled_from("abc") if node.items else st.one_of(st.sampled_from("abc"), st.integers(0, 3))
            node.pairs += draw(st.dictionaries(keys, values, max_size=2)).items()
            node.state = draw(values)
            node.setter = set_state if node.state is not None and draw(st.booleans()) else None
    return nodes


def again(data: bytes, protocol: int, edit: Callable[[Any], None] = lambda tree: None) -> Any:
    """Read a pickle, edit the tree, write it, and build for real what was written."""
    found = TreeUnpickler(data).load()
    edit(found)
    stream = io.BytesIO()
    TreePickler(stream, protocol).dump(found)
    return pickle.loads(stream.getvalue())


@given(graphs(), st.integers(2, 5))
def test_graphs_of_things(nodes: list[Any], protocol: int) -> None:
    data = pickle.dumps(nodes, protocol)
    assert seen(again(data, protocol)) == seen(pickle.loads(data))


@given(graphs(), st.integers(2, 5))
def test_graphs_of_things_can_be_read(nodes: list[Any], protocol: int) -> None:
    """As the pickle gives them: items of both kinds, attributes of a state that is a dict, and the number of items."""
    data = pickle.dumps(nodes, protocol)
    for found, real in zip(TreeUnpickler(data).load(), pickle.loads(data), strict=True):
        if isinstance(real, Thing):
            if real.items or real.pairs:  # else they may be among the arguments
                assert len(found) == len(real.items) + len(real.pairs)
                assert len(list(found)) == len(real.pairs or real.items)
            assert all(key in found for key, _ in real.pairs)
            keys = list(real.state) if isinstance(real.state, dict) else []
            assert sorted(vars(found)) == sorted(keys)
            assert all(getattr(found, key) is vars(found)[key] for key in keys)


def test_things_can_be_edited() -> None:
    thing = Thing("argument")
    thing.items, thing.pairs, thing.state = [1, 2], [("a", 1)], {"b": [thing]}

    def edit(tree: Any) -> None:
        tree["a"], tree["new"] = "edited", 3
        tree.append(4)
        tree.b.append(5)
        tree.c = tree
        del tree[0]

    found = again(pickle.dumps(thing, 2), 2, edit)
    assert (found.args, found.items, found.pairs) == (("argument",), [2, 4], [("a", "edited"), ("new", 3)])
    assert (found.state["b"], found.state["c"]) == ([found, 5], found)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_things_of_a_class_in_a_class(protocol: int) -> None:
    """Torch saves with protocol 2, which has no other word for them than a call of getattr."""
    thing = Thing.Inner()
    thing.a = [1]
    found = again(pickle.dumps([thing, thing, Thing.Inner], protocol), protocol)
    assert (type(found[0]), found[0].a, found[0] is found[1], found[2]) == (Thing.Inner, [1], True, Thing.Inner)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("factory", [int, str, list, float, Thing, made_by_a_function, None])
def test_dicts_with_a_default_of(factory: Any, protocol: int) -> None:
    found = again(pickle.dumps(defaultdict(factory, a=1), protocol), protocol)
    assert (found, found.default_factory) == ({"a": 1}, factory)


@pytest.mark.parametrize("pairs", [[(0, "zero")], [("a", 1), ("a", 2)], [([], 1)], [(True, 1), (1, 2)]], ids=str)
def test_pairs_that_no_dict_would_hold(pairs: list[Any]) -> None:
    """The class says what its items mean: keys may be numbers beside list items, stand twice, or have no hash."""
    thing = Thing()
    thing.items, thing.pairs = [5, 6], pairs
    data = pickle.dumps(thing, 2)
    try:
        found = again(data, 2)
    except (pickle.UnpicklingError, TypeError):
        return  # refused, which is no loss
    assert seen(found) == seen(pickle.loads(data))


def test_a_thing_among_its_own_arguments() -> None:
    """Built twice, and the first one dropped: so does a pickler that meets it again while it writes its arguments."""
    arguments: list[Any] = []
    thing = Thing(arguments)
    thing.items = ["item"]
    arguments.append(thing)
    data = pickle.dumps(thing, 2)
    assert seen(again(data, 2)) == seen(pickle.loads(data))


def test_attributes_named_as_methods(chain: Attacked) -> None:
    """An instance may carry attributes of any name; ours does not ask it for its methods."""
    value = call("collections.OrderedDict") + text("a") + b"K\1s}" + text("items") + call("m.f") + b"sb"
    handled(chain, checkpoint(chain, tree(value)))
    with zipfile.ZipFile(chain.path / "x.ckpt") as archive:
        assert archive.read("x/data.pkl").count(text("a")) == 1


def mistaken(value: bytes) -> dict[str, bytes]:
    """Spell things made of an object that has the attribute by which we know names from a pickle."""
    thing = name("m.C") + b")\x81}" + text("pickled_name") + value + b"sb"
    rebuilt = name("torch._utils._rebuild_tensor_v2"), b"(" + STORAGE + b"K\0K\4\x85K\1\x85\x89" + HOOKS + b"t}"
    return {
        "a call of a partial": call(call("functools.partial", thing)),
        "an object without its class": call("copyreg._reconstructor", thing, name("builtins.object"), b"N"),
        "a tensor of a class": call("torch._tensor._rebuild_from_type_v2", rebuilt[0], thing, rebuilt[1]),
        "an argument of a tensor": call("torch._utils._rebuild_any", STORAGE, thing),
    }


@pytest.mark.parametrize("what", mistaken(b"N"))
@pytest.mark.parametrize("value", [b"K\5", b"]", text("ab"), text("os") + text("system") + b"\x86"])
def test_an_attribute_named_as_ours(chain: Attacked, what: str, value: bytes) -> None:
    handled(chain, checkpoint(chain, tree(mistaken(value)[what])))
    shown = attempt(chain, "inspect", "--depth", "9", chain.path / "x.ckpt")
    assert (shown.code, shown.err) == (0, "")
    assert "os.system" not in shown.out
