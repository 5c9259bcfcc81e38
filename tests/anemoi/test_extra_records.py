"""Records that others keep in the archive beside the pickle: they are carried along, to the last bit.

anemoi-utils keeps metadata so, and arrays whose paths the metadata name, root folder included; any project may.
"""

from __future__ import annotations

import os
import subprocess
import zipfile

import pytest

from tests.support.extra_records import ARRAYS, FOLDER, add_records, records
from tests.support.project import RENAME, Folder, digest, names

PYTHON = os.environ.get("ANEMOI_PYTHON", "")  # one that has anemoi-utils


@pytest.fixture
def chain(project: Folder) -> Folder:
    project.script("a1", None, **RENAME)
    project.script("a2", "a1", 'ckpt["note"] = "a2"', 'del ckpt["note"]')
    return project


@pytest.mark.parametrize("way", [[], ["--in-place"], ["--check-rollback"], ["--no-backup", "--verify"]])
@pytest.mark.parametrize("name", ["training.ckpt", "lightning.ckpt", "plain.pt"])
def test_up_and_down(project: Folder, name: str, way: list[str]) -> None:
    project.script("a1", None, "ckpt = dict(ckpt)", "ckpt = dict(ckpt)")
    checkpoint = project.copy(name)
    before = add_records(checkpoint)
    assert len(before) == 3
    project.ok("upgrade", "head", checkpoint, *way)
    assert records(checkpoint) == before
    back = [word for word in way if word != "--check-rollback"]
    project.ok("downgrade", "base", checkpoint, *back)
    assert records(checkpoint) == before


def test_whatever_else_writes(chain: Folder) -> None:
    checkpoint = chain.copy()
    before = add_records(checkpoint)
    chain.ok("stamp", "a1", checkpoint)
    assert records(checkpoint) == before
    chain.ok("stamp", "base", checkpoint, "--in-place")
    assert records(checkpoint) == before
    chain.ok("upgrade", "head", checkpoint, "--in-place")
    chain.ok("compact", checkpoint)
    assert records(checkpoint) == before
    chain.ok("downgrade", "a1", checkpoint, "-o", "elsewhere.ckpt")
    assert records(chain.path / "elsewhere.ckpt") == records(checkpoint) == before
    assert "y.weight" in names(checkpoint)


def test_what_an_operation_makes_lies_beside_them(project: Folder) -> None:
    """New payload gets records of its own, which do not run into those of others."""
    pytest.importorskip("torch")
    project.script("a1", None, top="from anemoi_ckpt_migrate import op", migrate=None, rollback=None)
    script = project.path / "versions" / "a1_change.py"
    script.write_text(script.read_text() + 'operations = [op.Cast("{any}.weight", "float64"), op.Add("z", [3])]\n')
    checkpoint = project.copy()
    before = add_records(checkpoint)
    project.ok("upgrade", "head", checkpoint)
    assert records(checkpoint) == before
    assert "z" in names(checkpoint)
    project.ok("downgrade", "base", checkpoint)
    assert records(checkpoint) == before


@pytest.mark.parametrize("way", [["--in-place"], []])
def test_what_was_added_since_is_not_cut_off(chain: Folder, way: list[str]) -> None:
    """The bytes of before the upgrade are still in the file, but lack what was written into it since."""
    checkpoint = chain.copy()
    chain.ok("upgrade", "head", checkpoint, "--in-place")
    before = add_records(checkpoint)
    ran = chain.ok("downgrade", "base", checkpoint, *way)
    assert "no rollback had to run" not in ran.out
    assert records(checkpoint) == before
    assert "x.weight" in names(checkpoint)


def test_what_was_there_before_can_still_be_gone_back_to(chain: Folder) -> None:
    checkpoint = chain.copy()
    before = add_records(checkpoint)
    old = digest(checkpoint)
    chain.ok("upgrade", "head", checkpoint, "--in-place")
    ran = chain.ok("downgrade", "base", checkpoint, "--in-place")
    assert "no rollback had to run" in ran.out
    assert (digest(checkpoint), records(checkpoint)) == (old, before)


def test_one_that_was_changed_since_stays_changed(chain: Folder) -> None:
    """By another program that writes the archive anew, as anemoi-utils does to replace metadata."""
    checkpoint = chain.copy()
    add_records(checkpoint)
    chain.ok("upgrade", "head", checkpoint, "--in-place")
    with zipfile.ZipFile(checkpoint) as old, zipfile.ZipFile(chain.path / "new.ckpt", "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name).replace(b'"1.0"', b'"2.0"'))
    changed = records(chain.path / "new.ckpt")
    assert any(b'"2.0"' in content for content in changed.values())
    os.replace(chain.path / "new.ckpt", checkpoint)
    chain.ok("downgrade", "base", checkpoint, "--in-place")
    assert records(checkpoint) == changed


def test_inspect_shows_them(chain: Folder) -> None:
    checkpoint = chain.copy()
    before = add_records(checkpoint)
    (found,) = chain.ok("inspect", checkpoint, "--json").lines
    sizes = {name.partition("/")[2]: len(content) for name, content in before.items()}
    assert found["attached"] == sizes
    shown = chain.ok("inspect", checkpoint).out
    assert f"attached   {FOLDER}/data/mask.numpy (4 B)" in shown


def test_a_damaged_one_is_found(chain: Folder) -> None:
    checkpoint = chain.copy()
    add_records(checkpoint)
    content = ARRAYS["data"]["grid/latitudes"]
    checkpoint.write_bytes(checkpoint.read_bytes().replace(content, content[:-1] + b"\0"))
    old = digest(checkpoint)
    refused = chain.run("upgrade", "head", checkpoint, "--verify")
    assert (refused.code, digest(checkpoint)) == (1, old)
    assert f"{FOLDER}/data/grid/latitudes.numpy" in refused.err


READ = """
import sys
from anemoi.utils.checkpoints import load_metadata, replace_metadata, save_metadata
import numpy, torch
what, path = sys.argv[1:]
arrays = {"data": {"mask": numpy.array([True, False, True]), "sub": {"latitudes": numpy.linspace(-90, 90, 181)}}}
metadata = {"version": "1.0", "config": {"a": 0.1}, "name": "caf\\u00e9"}
if what == "save":
    save_metadata(path, metadata, supporting_arrays=arrays)
if what == "replace":
    found = load_metadata(path)
    replace_metadata(path, {**found, "config": {"a": 0.2}})
found, loaded = load_metadata(path, supporting_arrays=True)
assert found.pop("supporting_arrays_paths")
assert found == {**metadata, "config": {"a": 0.2 if what.endswith("replace") else 0.1}}, found
assert (loaded["data"]["mask"] == arrays["data"]["mask"]).all() and loaded["data"]["mask"].dtype == bool
assert (loaded["data"]["sub"]["latitudes"] == arrays["data"]["sub"]["latitudes"]).all()
for mapped in (False, True):
    torch.load(path, weights_only=True, mmap=mapped)
"""


@pytest.mark.skipif(not PYTHON, reason="ANEMOI_PYTHON names no Python that has anemoi-utils")
def test_with_anemoi_utils_itself(chain: Folder) -> None:
    checkpoint = chain.copy()

    def anemoi(what: str) -> None:
        ran = subprocess.run([PYTHON, "-c", READ, what, str(checkpoint)], capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr

    anemoi("save")
    chain.ok("upgrade", "a1", checkpoint)
    anemoi("read")
    chain.ok("upgrade", "head", checkpoint, "--in-place")
    anemoi("read")
    anemoi("replace")
    chain.ok("downgrade", "a1", checkpoint, "--in-place")
    anemoi("after replace")
    chain.ok("downgrade", "base", checkpoint)
    chain.ok("compact", checkpoint)
    anemoi("after replace")
