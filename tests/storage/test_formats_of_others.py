"""A format that another package adds: the example of the page about such formats."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

np = pytest.importorskip("numpy")
torch = pytest.importorskip("torch")

import anemoi_ckpt_migrate as cm  # noqa: E402
from anemoi_ckpt_migrate.storage import formats  # noqa: E402
from tests.support.operations import declare  # noqa: E402
from tests.support.packages import publish  # noqa: E402
from tests.support.project import Folder, backups, digest  # noqa: E402

PAGE = Path(__file__).parents[2] / "docs" / "formats-of-others.md"
pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="the sources are not here")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    found = tmp_path / "site"
    found.mkdir()
    monkeypatch.syspath_prepend(found)
    formats._published.cache_clear()
    yield found
    formats._published.cache_clear()


@pytest.fixture
def weights(site: Path, project: Folder) -> Path:
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)[0]
    publish(site, "arrayformat", "formats", {"npz": code}, ".npz:Npz")
    path = project.path / "weights.npz"
    np.savez(path, **{"q.weight": np.arange(6.0).reshape(2, 3), "k.weight": np.ones((2, 3)), "steps": np.int64(7)})
    return path


OPERATIONS = {
    "rename": 'op.Rename("q.weight", "query.weight")',
    "fuse": 'op.Fuse(["q.weight", "k.weight"], "qk.weight", dim=0)',
    "transpose": 'op.Transpose("q.weight", 0, 1)',
    "drop": 'op.Drop("k.weight", keep=True)',
}


@pytest.mark.parametrize("kind", OPERATIONS)
def test_each_operation_and_back(project: Folder, weights: Path, kind: str) -> None:
    with np.load(weights) as arrays:
        before = {name: arrays[name] for name in arrays}
    declare(project, "a1", OPERATIONS[kind])
    project.ok("upgrade", "head", weights, "--check-rollback")
    with np.load(weights) as arrays:
        if kind == "fuse":
            assert (arrays["qk.weight"] == np.concatenate([before["q.weight"], before["k.weight"]])).all()
        if kind == "rename":
            assert (arrays["query.weight"] == before["q.weight"]).all()
        assert arrays["steps"] == 7
    assert project.ok("current", weights).out.split()[1:2] == ["a1"]
    assert len(backups(weights)) == 1
    project.ok("downgrade", "base", weights)
    with np.load(weights) as arrays:
        found = {name: arrays[name] for name in arrays if not name.startswith("ckpt_migrate")}
    assert found.keys() == before.keys()
    assert all((value == found[name]).all() and value.dtype == found[name].dtype for name, value in before.items())


def test_reading_commands(project: Folder, weights: Path) -> None:
    declare(project, "a1", OPERATIONS["rename"])
    assert "numpy (.npz)" in project.ok("inspect", weights).out
    torch.save({"q.weight": torch.arange(6.0).double().reshape(2, 3)}, "whole.pt")
    assert "k.weight" in project.run("diff", weights, "whole.pt").out
    assert torch.equal(cm.load(weights)["query.weight"], torch.arange(6.0).double().reshape(2, 3))


def refused(project: Folder, path: Path, code: int, says: str) -> None:
    before = digest(path)
    ran = project.run("upgrade", "head", path)
    assert (ran.code, ran.err.count("\n")) == (code, 1), ran.err
    assert says in ran.err
    assert digest(path) == before


def test_a_damaged_file_gets_the_format_s_own_sentence(project: Folder, weights: Path) -> None:
    declare(project, "a1", OPERATIONS["rename"])
    weights.write_bytes(weights.read_bytes()[:-20])
    refused(project, weights, 1, "it is damaged")


def test_without_the_package_the_file_is_refused(site: Path, project: Folder) -> None:
    declare(project, "a1", OPERATIONS["rename"])
    path = project.path / "weights.npz"
    np.savez(path, x=np.ones(2))
    refused(project, path, 1, "it is a file of numpy arrays (.npz)")


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("raise RuntimeError('no')", "the format brokenformat (brokenformat.npz:Npz) cannot be made: RuntimeError: no"),
        ("Npz = dict", "the format wrongformat (wrongformat.npz:Npz) is not a Format"),
    ],
)
def test_a_package_that_is_wrong(site: Path, project: Folder, code: str, says: str) -> None:
    publish(site, says.split()[2], "formats", {"npz": code}, ".npz:Npz")
    declare(project, "a1", OPERATIONS["rename"])
    path = project.path / "weights.npz"
    np.savez(path, x=np.ones(2))
    refused(project, path, 1, says)


def test_two_packages_that_know_the_same_file(site: Path, project: Folder, weights: Path) -> None:
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)[0]
    publish(site, "another", "formats", {"npz": code}, ".npz:Npz")
    formats._published.cache_clear()
    declare(project, "a1", OPERATIONS["rename"])
    refused(project, weights, 1, "the formats another and arrayformat both recognise")


def test_a_url_is_for_built_in_formats_only(project: Folder, weights: Path) -> None:
    """The message names the way out: a local copy."""
    fsspec = pytest.importorskip("fsspec")
    store = fsspec.filesystem("memory")
    store.pipe_file("memory://others/weights.npz", weights.read_bytes())
    ran = project.run("inspect", "memory://others/weights.npz")
    assert (ran.code, ran.err.count("\n")) == (1, 1), ran.err
    assert "if it is of a format that another package adds, copy it to a local file first" in ran.err
    store.get("memory://others/weights.npz", str(project.path / "copy.npz"))
    assert "numpy (.npz)" in project.ok("inspect", "copy.npz").out
    store.rm("memory://others", recursive=True)
