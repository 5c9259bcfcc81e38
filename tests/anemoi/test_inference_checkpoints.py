"""Inference checkpoints of anemoi-models, whole pickled models: refused, with a way to make new ones that is followed here."""

from __future__ import annotations

import re
import sys
import types
from importlib import resources
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from tests.anemoi.running import THERE, run  # noqa: E402
from tests.anemoi.variants import RELEASES  # noqa: E402
from tests.support.anemoi import REAL  # noqa: E402
from tests.support.extra_records import FOLDER, add_records, beside  # noqa: E402
from tests.support.project import Folder, digest  # noqa: E402

CHAIN = Path(str(resources.files("anemoi_ckpt_migrate.versions")))
WAY = "by the two scripts in docs/anemoi.md (inference checkpoints)"


@pytest.fixture
def anemoi(project: Folder) -> Folder:
    """A project whose scripts are the chain."""
    (project.path / "ckpt-migrate.toml").write_text(f'versions = "{CHAIN}"\npackage = "anemoi-models"\n')
    return project


@pytest.fixture
def inference(anemoi: Folder, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of the class that anemoi-models pickles, which is not there when the file is read."""
    path = anemoi.path / "inference-last.ckpt"
    module = types.ModuleType("anemoi.models.interface")
    made = type("AnemoiModelInterface", (torch.nn.Module,), {"__module__": module.__name__})
    module.AnemoiModelInterface = made  # type: ignore[attr-defined]
    with monkeypatch.context() as patched:
        for name in ("anemoi", "anemoi.models", module.__name__):
            patched.setitem(sys.modules, name, module)
        model = made()
        model.config, model.model = None, torch.nn.Linear(2, 2)
        torch.save(model, path)
    add_records(path)
    return path


@pytest.mark.parametrize(
    "words",
    [["upgrade", "head"], ["upgrade", "head", "--in-place"], ["downgrade", "base"], ["upgrade", "+1", "--dry-run"]],
)
def test_refused_with_the_way_out(anemoi: Folder, inference: Path, words: list[str]) -> None:
    old = digest(inference)
    refused = anemoi.run(*words, inference)
    assert (refused.code, digest(inference)) == (3, old)
    (line,) = refused.err.splitlines()
    assert "inference-last.ckpt: this is an inference checkpoint of anemoi-models, a whole pickled model" in line
    assert line.endswith(WAY)
    assert sorted(path.name for path in anemoi.path.glob("*.ckpt*")) == [inference.name]


def test_refused_in_json_too(anemoi: Folder, inference: Path) -> None:
    refused = anemoi.run("upgrade", "head", "--json", inference)
    assert (refused.code, refused.lines[0]["error"]["type"]) == (3, "Refused")


def test_what_is_in_one_is_shown(anemoi: Folder, inference: Path) -> None:
    shown = anemoi.ok("inspect", inference).out
    assert "anemoi.models.interface.AnemoiModelInterface" in shown
    assert f"attached   {FOLDER}/anemoi.json" in shown


def test_any_script_may_refuse(project: Folder) -> None:
    """Its sentence is the whole message, and the exit code says that nothing is broken."""
    top = "from anemoi_ckpt_migrate import Refused"
    project.script("a1", None, 'raise Refused("ask the authors for a newer one")', "pass", top=top)
    checkpoint = project.copy()
    old = digest(checkpoint)
    refused = project.run("upgrade", "head", checkpoint)
    assert (refused.code, digest(checkpoint)) == (3, old)
    assert refused.err.strip() == f"ckpt-migrate: error: {checkpoint}: ask the authors for a newer one"


PAGE = Path(__file__).parents[2] / "docs" / "anemoi.md"
NEW = "0.19.0"


def predicts(release: str, what: str, *words: object) -> None:
    """Make an inference checkpoint as a release does, or compare what one predicts there with what it predicted before."""
    run("inference.py", [release], what, *words)


@pytest.mark.skipif(not (THERE and REAL.is_dir()), reason="anemoi-models is not here")
@pytest.mark.parametrize("kind", ["gt", "gnn"])
@pytest.mark.parametrize("release", ["0.13.0", "0.16.0", "0.19.0"])
def test_real_ones(anemoi: Folder, release: str, kind: str) -> None:
    """One is refused; what else may be done to it leaves a model that its release loads, and what lies beside it."""
    path = anemoi.path / f"inference-{release}.ckpt"
    predicts(release, "save", path, REAL / f"{release}_{kind}")
    old = digest(path)
    refused = anemoi.run("upgrade", "head", path)
    assert (refused.code, WAY in refused.err, digest(path)) == (3, True, old)
    before = beside(path)
    anemoi.ok("stamp", f"anemoi-models=={release}", path)
    anemoi.ok("stamp", "base", path, "--in-place")
    anemoi.ok("compact", path)
    assert beside(path) == before
    predicts(release, "compare_all", path, path)


@pytest.mark.skipif(not (THERE and REAL.is_dir() and PAGE.exists()), reason="anemoi-models is not here")
@pytest.mark.parametrize("kind", ["gt", "gnn"])
@pytest.mark.parametrize("release", [release for release in RELEASES if release != "0.11.0"])  # it needs triton
def test_the_way_of_the_page(anemoi: Folder, release: str, kind: str) -> None:
    """From the release that wrote it to the latest, which predicts the same, from raw values too."""
    inference, weights, new = (anemoi.path / name for name in ("inference-last.ckpt", "weights.ckpt", "new.ckpt"))
    for name, text in re.findall(r'```python title="([^"]+)"\n(.*?)```', PAGE.read_text(), re.S):
        (anemoi.path / name).write_text(text)
    predicts(release, "save", inference, REAL / f"{release}_{kind}")
    run(anemoi.path / "take_out.py", [release], inference, weights)
    anemoi.ok("upgrade", "head", weights)
    run(anemoi.path / "make_inference.py", [NEW], weights, new)
    predicts(NEW, "compare_all", new, inference)


@pytest.mark.skipif(not (THERE and REAL.is_dir() and PAGE.exists()), reason="anemoi-models is not here")
@pytest.mark.parametrize("kind", ["gt", "gnn"])
def test_one_of_a_migrated_training_checkpoint(anemoi: Folder, kind: str) -> None:
    """What `anemoi-training checkpoint inference` cannot make, the second script makes."""
    training, new = anemoi.path / "training.ckpt", anemoi.path / "new.ckpt"
    (text,) = re.findall(r'```python title="make_inference.py"\n(.*?)```', PAGE.read_text(), re.S)
    (anemoi.path / "make_inference.py").write_text(text)
    training.write_bytes((REAL / f"0.10.0_{kind}.ckpt").read_bytes())
    anemoi.ok("upgrade", "head", training)
    predicts("0.10.0", "save", anemoi.path / "inference-last.ckpt", REAL / f"0.10.0_{kind}")
    run(anemoi.path / "make_inference.py", [NEW], training, new)
    predicts(NEW, "compare", new, anemoi.path / "inference-last.ckpt")
