"""What `inspect` calls harmless is harmless for `torch.load`: it speaks of what torch would read, and import."""

from __future__ import annotations

import collections
import functools
import io
import json
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

import anemoi_ckpt_migrate as cm
from anemoi_ckpt_migrate.storage.in_place import journal_of
from anemoi_ckpt_migrate.storage.pickle.class_safety import standing
from tests.support import harmless_files
from tests.support.hostile_files import (
    PROTO2,
    PROTO4,
    Gadget,
    archive,
    as_line,
    from_stack,
    gadgets,
    member,
    pickled,
    python2,
    spellings,
    text,
)
from tests.support.project import Folder

TUPLE1, REDUCE = pickle.TUPLE1, pickle.REDUCE
SYSTEM = as_line("posix", "system") + text("true") + TUPLE1 + REDUCE


def standings(path: Path) -> dict[str, str]:
    """Return what is said of each name in a file."""
    return {name.name: name.standing for name in cm.inspect(path).names}


def of(data: bytes, folder: Path) -> dict[str, str]:
    """Return what is said of each name in a pickle."""
    path = folder / "x.pt"
    path.write_bytes(archive(data))
    return standings(path)


def in_dict(opcodes: bytes, start: bytes = PROTO2) -> bytes:
    """Return a pickle of a dict with one value."""
    return start + pickle.EMPTY_DICT + text("x") + opcodes + pickle.SETITEM + pickle.STOP


# The public lists.


def test_the_list_is_long_enough() -> None:
    names = {(gadget.module, gadget.name) for gadget in gadgets()}
    assert len(names) == len(gadgets()) > 300
    assert {gadget.half for gadget in gadgets()} == {"tune", "report"}


@pytest.mark.parametrize("half", ["tune", "report"])
def test_callables_of_public_lists_are_dangerous(tmp_path: Path, half: str) -> None:
    tried, missed = 0, []
    for gadget in (gadget for gadget in gadgets() if gadget.half == half):
        for spelling in spellings(gadget):
            tried += 1
            if "dangerous" not in of(pickled(gadget, spelling), tmp_path).values():
                missed.append(f"{gadget.module}.{gadget.name} ({spelling})")
    assert tried > 300
    assert len(missed) < tried * 0.05, missed


@pytest.mark.parametrize("gadget", [gadget for gadget in gadgets() if gadget.digest % 7 == 0], ids=str)
def test_the_hostile_files_do_call_what_they_name(gadget: Gadget) -> None:
    torch = pytest.importorskip("torch")
    for spelling in spellings(gadget):
        assert [args[-1] for args in calls(pickled(gadget, spelling), gadget, torch.nn.Identity)] == ["true"], spelling


def calls(data: bytes, gadget: Gadget, layer: Any) -> list[Any]:
    """Load a hostile file with something in the place of the callable, and return what that is called with."""
    called: list[Any] = []

    class Target:
        def __new__(cls, *args: Any) -> Any:
            called.append(args)
            return args

    class Home(type):
        def __getattr__(cls, name: str) -> Any:
            return Target if name == gadget.name.rpartition(".")[2] else cls

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            spelled = (module, name)
            through = ("torch.storage", f"torch.{gadget.module}.{gadget.name}")
            if spelled in ((gadget.module, gadget.name), python2(gadget.module, gadget.name), through):
                return Target
            if spelled == (gadget.module, gadget.name.partition(".")[0]):
                return Home("Home", (), {})
            return {
                ("functools", "partial"): functools.partial,
                ("itertools", "imap"): map,
                ("collections", "deque"): collections.deque,
                ("__builtin__", "getattr"): getattr,
                ("torch.nn.modules.linear", "Identity"): layer,
            }[spelled]

    Unpickler(io.BytesIO(data)).load()
    return called


@pytest.fixture(scope="module")
def harmless(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Files of many kinds, as people save them."""
    for name in ("torch", "lightning", "omegaconf"):
        pytest.importorskip(name)
    return harmless_files.make(tmp_path_factory.mktemp("harmless"))


def test_harmless_files_are_not_called_dangerous(harmless: list[Path]) -> None:
    alarms = {
        path.name: [*name] for path in harmless if (name := [k for k, v in standings(path).items() if v == "dangerous"])
    }
    assert len(harmless) > 40
    assert alarms == {}


# Names.


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("torch.storage", "_load_from_bytes"),
        ("torch.storage", "torch.os.system"),
        ("torch.storage", "UntypedStorage.from_file"),
        ("torch.nn.parameter", "Parameter.__new__.__globals__"),
        ("torch.nn.modules.activation", "F.importlib.import_module"),
        ("torch.nn.functional", "importlib"),
        ("torch", "os.FloatStorage"),
        ("torch._utils", "_rebuild_anything"),
        ("torch.nn.modules.container", "OrderedDict.__init__.__globals__"),
        ("collections", "_sys.modules"),
        ("pathlib", "PosixPath.write_text"),
        ("datetime", "sys.modules"),
        ("omegaconf", "os.system"),
        ("omegaconf", "__builtins__"),
        ("some.project", "helper.__globals__.get"),
        ("some.project", "generator.gi_frame.f_globals"),
        ("some.project.__main__", "Settings"),
        ("test.support", "run_unittest"),
        ("distutils.spawn", "spawn"),
    ],
)
def test_names_that_lead_elsewhere(tmp_path: Path, module: str, name: str) -> None:
    assert of(in_dict(from_stack(module, name), PROTO4), tmp_path)[f"{module}.{name}"] == "dangerous"


@pytest.mark.parametrize(
    "name",
    [
        "some.project.Model",
        "some.project.Model.Inner",
        "__main__.Model",
        "torch.nn.modules.linear.Linear",
        "os_tools.X",
    ],
)
def test_classes_of_others_are_opaque(tmp_path: Path, name: str) -> None:
    module, _, rest = name.rpartition(".") if ".Inner" not in name else ("some.project", "", "Model.Inner")
    assert of(in_dict(from_stack(module, rest), PROTO4), tmp_path)[name] == "opaque"


@pytest.mark.parametrize(
    ("spelled", "imported"),
    [
        (("commands", "getoutput"), "subprocess.getoutput"),
        (("__builtin__", "eval"), "builtins.eval"),
        (("urllib", "urlopen"), "urllib.request.urlopen"),
        (("cPickle", "loads"), "pickle.loads"),
        (("torch.tensor", "torch"), "torch._tensor.torch"),
    ],
)
def test_names_of_python_2_are_those_that_torch_imports(
    project: Folder, spelled: tuple[str, str], imported: str
) -> None:
    (project.path / "old.pt").write_bytes(archive(in_dict(as_line(*spelled))))
    (found,) = project.ok("inspect", "--json", "old.pt").lines
    assert found["classes"] == [{"name": ".".join(spelled), "standing": "dangerous", "imported": imported}]
    assert f"{'.'.join(spelled)} (imported as {imported})" in project.ok("inspect", "old.pt").out


def test_harmless_names_of_python_2_stay_harmless(tmp_path: Path) -> None:
    rebuilt = as_line("copy_reg", "_reconstructor") + as_line("__builtin__", "xrange") + pickle.TUPLE2
    assert set(of(in_dict(rebuilt), tmp_path).values()) == {"known"}


@pytest.mark.parametrize(
    "opcodes",
    [
        member("torch.nn.parameter", "Parameter.__new__.__globals__"),
        member("some.project", "Model.os.system"),
        as_line("__builtin__", "getattr") + as_line("some.project", "f") + TUPLE1 + text("x") + pickle.TUPLE2 + REDUCE,
        as_line("__builtin__", "type") + text("Made") + pickle.EMPTY_TUPLE + pickle.EMPTY_DICT + pickle.TUPLE3 + REDUCE,
    ],
    ids=["what a method sees", "through a module", "of what is no class", "a class is made"],
)
def test_getattr_and_type_may_reach_anything(tmp_path: Path, opcodes: bytes) -> None:
    assert "dangerous" in of(in_dict(opcodes), tmp_path).values()


def test_a_method_of_an_object_is_as_harmless_as_the_object(tmp_path: Path) -> None:
    made = as_line("some.project", "Model") + pickle.EMPTY_TUPLE + pickle.NEWOBJ

    def method(name: str) -> dict[str, str]:
        called = as_line("__builtin__", "getattr") + made + text(name) + pickle.TUPLE2 + REDUCE
        return of(in_dict(called), tmp_path)

    assert set(method("forward").values()) == {"known", "opaque"}
    assert "dangerous" in method("__class__").values()
    assert "dangerous" in method("os").values()


@pytest.mark.parametrize("name", ["write_text", "unlink", "parent"])
def test_what_a_path_can_do_is_not_harmless(tmp_path: Path, name: str) -> None:
    path = as_line("pathlib", "PosixPath") + text("x") + TUPLE1 + REDUCE
    assert set(of(in_dict(path), tmp_path).values()) == {"known"}
    called = as_line("__builtin__", "getattr") + path + text(name) + pickle.TUPLE2 + REDUCE
    assert of(in_dict(called), tmp_path)["__builtin__.getattr"] == "dangerous"


GETATTR = as_line("__builtin__", "getattr")
INNER = as_line("some.project", "Model") + text("Inner") + pickle.TUPLE2


@pytest.mark.parametrize(
    "opcodes",
    [
        as_line("functools", "partial") + GETATTR + text("x") + pickle.TUPLE2 + REDUCE,
        as_line("functools", "partial") + GETATTR + b"q\x01" + INNER + REDUCE + b"0h\x01" + TUPLE1 + REDUCE,
        pickle.EMPTY_LIST + GETATTR + pickle.APPEND,
        GETATTR + pickle.DUP + INNER + REDUCE + pickle.TUPLE2,
        as_line("collections", "defaultdict") + as_line("__builtin__", "type") + TUPLE1 + REDUCE,
    ],
    ids=["to a partial", "after a call", "into a list", "a second time", "type, to a dict"],
)
def test_getattr_handed_on_is_dangerous(tmp_path: Path, opcodes: bytes) -> None:
    found = of(in_dict(opcodes), tmp_path)
    assert "dangerous" in (found.get("__builtin__.getattr"), found.get("__builtin__.type"))


def test_getattr_that_is_only_called_is_not(tmp_path: Path) -> None:
    called = GETATTR + b"q\x01" + INNER + REDUCE + b"h\x01" + INNER + REDUCE + pickle.TUPLE2
    assert set(of(in_dict(called), tmp_path).values()) == {"known", "opaque"}


def test_a_trusted_module_is_trusted_for_what_it_defines() -> None:
    assert standing("pathlib", "PosixPath", False, ["pathlib"]) == "trusted"
    assert standing("pathlib", "os.system", False, ["pathlib"]) == "dangerous"


def test_attributes_set_on_a_function_are_refused_and_the_names_are_said(project: Folder) -> None:
    # numpy.size would then look up what the pickle says in the place of its own globals.
    state = pickle.EMPTY_DICT + pickle.EMPTY_DICT + text("shape") + as_line("posix", "system") + pickle.SETITEM
    data = PROTO2 + as_line("numpy", "sum") + state + pickle.TUPLE2 + pickle.BUILD + pickle.STOP
    (project.path / "x.pt").write_bytes(archive(data))
    ran = project.run("inspect", "x.pt")
    assert ran.code == 1
    assert "it names posix.system, which torch.load could use to run any code" in ran.err


@pytest.mark.parametrize("opcode", [b"\x82\x01", b"\x83\x01\x00", b"\x84\x01\x00\x00\x00"], ids=["1", "2", "4"])
def test_names_by_number_are_refused(project: Folder, opcode: bytes) -> None:
    (project.path / "x.pt").write_bytes(archive(PROTO2 + opcode + pickle.STOP))
    assert project.run("inspect", "x.pt").code == 1


def test_what_opaque_and_dangerous_mean_is_said(project: Folder) -> None:
    pair = as_line("some.project", "Model") + SYSTEM + pickle.TUPLE2
    (project.path / "x.pt").write_bytes(archive(in_dict(pair)))
    out = project.ok("inspect", "x.pt").out
    assert "opaque     some.project.Model  (not imported here; torch.load(weights_only=False) runs their code, " in out
    assert "so you have to trust their author" in out
    assert "dangerous  posix.system  (torch.load(weights_only=False) can run any code with these" in out


# Files.


def test_a_pickle_in_front_of_the_archive(project: Folder, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    front = PROTO2 + as_line("posix", "mkdir") + text(str(tmp_path / "ran")) + TUPLE1 + REDUCE + pickle.STOP
    whole = io.BytesIO(front)
    whole.seek(0, io.SEEK_END)
    with zipfile.ZipFile(whole, "a") as opened:
        opened.writestr("archive/data.pkl", in_dict(pickle.NONE))
        opened.writestr("archive/version", b"3\n")
    path = project.path / "front.pt"
    path.write_bytes(whole.getvalue())
    ran = project.run("inspect", path)
    assert (ran.code, "bytes before its first record" in ran.err) == (1, True)
    with pytest.raises(RuntimeError, match="magic number"):
        torch.load(path, weights_only=False)
    assert (tmp_path / "ran").exists()  # so it was right to refuse


@pytest.mark.parametrize("claims", [False, True], ids=["plain", "that claims to have been written in place"])
def test_two_tables_of_contents(project: Folder, claims: bool) -> None:
    torch = pytest.importorskip("torch")

    def files(length: int) -> tuple[bytes, bytes]:
        mark = json.dumps({"format": 1, "length": length, "directory": 1, "crc": 0}).encode()
        more = {"ckpt_migrate/previous.json": mark} if claims else {}
        seen, hidden = (archive(in_dict(text(words)), **more) for words in ("torch sees this", "zip sees this !"))
        return seen, hidden

    length = 1000
    while (end := files(length)[0].rindex(b"PK\5\6")) != length:  # a number of as many digits is as long
        length = end
    seen, hidden = files(length)
    # The end tells of the first table; zipfile looks right before the end, and adds to each offset what that is off by.
    path = project.path / "two.pt"
    path.write_bytes(seen[:end] + hidden[: hidden.rindex(b"PK\5\6")] + seen[end:])
    if not claims:
        assert b"zip sees this !" in zipfile.ZipFile(path).read("archive/data.pkl")
        assert torch.load(path, weights_only=True)["x"] == "torch sees this"
    ran = project.run("inspect", path)
    if claims:
        assert (ran.code, "table of contents is not where the archive says" in ran.err) == (1, True)
    else:
        assert (ran.code, "several archives" in ran.err) == (3, True)


def test_the_pickles_around_the_tree_of_an_old_file(project: Folder) -> None:
    torch = pytest.importorskip("torch")
    stream = io.BytesIO()
    torch.save({"w": torch.ones(1)}, stream, _use_new_zipfile_serialization=False)
    first, second, _, rest = _pickles(stream.getvalue())
    path = project.path / "old.pt"
    path.write_bytes(first + second + PROTO2 + SYSTEM + pickle.STOP + rest)
    ran = project.run("inspect", path)
    assert (ran.code, "names posix.system outside of its tree" in ran.err) == (1, True)


def test_an_old_file_that_is_a_tar_file_too(project: Folder) -> None:
    torch = pytest.importorskip("torch")
    stream = io.BytesIO()
    torch.save({"w": torch.ones(1)}, stream, _use_new_zipfile_serialization=False)
    content = stream.getvalue()
    first, second, _, rest = _pickles(content)
    # The facts about the system hold bytes, in which the header of a tar file continues that starts with the file.
    start = first + second + PROTO2 + pickle.EMPTY_DICT + text("a") + pickle.BINBYTES
    filled = 512 - len(start) - 4 - 2
    header = bytearray(start + struct.pack("<I", filled) + b"\0" * filled + pickle.SETITEM + pickle.STOP)
    header[100:136] = b"\0".join([b"0000644", b"0000000", b"0000000", b"00000000000", b""])
    header[136:156] = b"00000000000\0" + b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path = project.path / "both.pt"
    path.write_bytes(bytes(header) + rest)
    assert tarfile.is_tarfile(path)
    ran = project.run("inspect", path)
    assert (ran.code, "it is also a tar file" in ran.err) == (1, True)


def _pickles(content: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    """Split a file of before torch 1.6: the three pickles before the tree, and the rest."""
    stream, parts = io.BytesIO(content), []
    for _ in range(3):
        start = stream.tell()
        pickle.load(stream)
        parts.append(content[start : stream.tell()])
    return parts[0], parts[1], parts[2], content[stream.tell() :]


def test_a_journal_that_says_less_than_torch_reads(project: Folder) -> None:
    torch = pytest.importorskip("torch")
    project.script("a1", None, 'ckpt["note"] = "new"')
    torch.save({"note": "old", "w": torch.ones(1)}, "x.pt")
    earlier = (project.path / "x.pt").stat().st_size
    project.ok("upgrade", "head", "--in-place", "x.pt")
    previous = zipfile.ZipFile("x.pt").read("x/ckpt_migrate/previous.json")
    journal_of(project.path / "x.pt").write_bytes(previous)
    ran = project.ok("inspect", "--json", "x.pt")
    assert ran.lines[0]["record"]["heads"] == ["a1"]  # as torch reads it
    assert ran.lines[0]["interrupted"]
    assert f"only the first {earlier:,} bytes are valid, but torch.load reads the whole file, as shown here" in ran.err
    project.ok("recover", "x.pt")
    assert project.ok("inspect", "--json", "x.pt").lines[0]["record"] is None


def test_entries_that_zipfile_and_torch_read_differently(project: Folder) -> None:
    content = archive(in_dict(pickle.NONE), x_y=b"1")
    longer = bytearray(content)
    struct.pack_into("<I", longer, content.index(b"PK\1\2") + 20, 1)
    for name, changed, says in (
        ("zero.pt", content.replace(b"x_y", b"x\0y"), "continues after a zero byte"),
        ("length.pt", bytes(longer), "has two different lengths"),
    ):
        (project.path / name).write_bytes(changed)
        ran = project.run("inspect", name)
        assert (ran.code, says in ran.err) == (1, True)
