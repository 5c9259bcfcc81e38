"""Inference checkpoints of anemoi-models, whole pickled models: refused, with the way to make new ones."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from importlib import resources
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from tests.support.extra_records import FOLDER, add_records, beside  # noqa: E402
from tests.support.project import Folder, digest  # noqa: E402

CHAIN = Path(str(resources.files("anemoi_ckpt_migrate.versions")))
WAY = "`anemoi-training checkpoint inference -i TRAINING.ckpt -o NAME.ckpt`, which writes inference-NAME.ckpt"


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


PYTHON = os.environ.get("ANEMOI_PYTHON", "")
RELEASES = Path(os.environ.get("ANEMOI_RELEASES") or "nowhere")  # a folder for each release, unpacked
REAL = Path(os.environ.get("ANEMOI_CHECKPOINTS") or "nowhere")

LIBRARY = """
import inspect, sys
import numpy, torch
from anemoi.models.interface import AnemoiModelInterface
from anemoi.utils.checkpoints import load_metadata, save_metadata
what, path, training, forward = sys.argv[1:]
arrays = {"data": {"mask": numpy.array([True, False, True])}}
metadata = {"version": "1.0", "config": {"a": 0.1}}

class Holder(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

if what == "save":
    tree = torch.load(training, weights_only=False)
    given = tree["hyper_parameters"]
    wanted = inspect.signature(AnemoiModelInterface.__init__).parameters
    arguments = {name: given[name] for name in given if name in wanted}
    if "n_step_input" in wanted:
        task = given["config"]["task"]
        arguments.update(n_step_input=task["multistep_input"], n_step_output=task["multistep_output"])
    model = AnemoiModelInterface(**arguments)
    Holder(model).load_state_dict(tree["state_dict"])
    model.config = model.metadata = None
    torch.save(model.eval(), path)
    save_metadata(path, metadata, supporting_arrays=arrays)

model, saved = torch.load(path, weights_only=False), numpy.load(forward)
with torch.no_grad():
    y = model.model({"data": torch.from_numpy(saved["x"])})["data"]
assert (y.numpy().ravel() == saved["y"].ravel()).all()
found, loaded = load_metadata(path, supporting_arrays=True)
assert {key: found[key] for key in metadata} == metadata
assert (loaded["data"]["mask"] == arrays["data"]["mask"]).all()
"""


@pytest.mark.skipif(not (PYTHON and RELEASES.is_dir() and REAL.is_dir()), reason="anemoi-models is not here")
@pytest.mark.parametrize("kind", ["gt", "gnn"])
@pytest.mark.parametrize("release", ["0.13.0", "0.16.0", "0.19.0"])
def test_real_ones(anemoi: Folder, release: str, kind: str) -> None:
    """One is refused; what else may be done to it leaves a model that its release loads, and what lies beside it."""
    path = anemoi.path / f"inference-{release}.ckpt"

    def run(what: str) -> None:
        words = [
            PYTHON,
            "-c",
            LIBRARY,
            what,
            path,
            REAL / f"{release}_{kind}.ckpt",
            REAL / f"{release}_{kind}.forward.npz",
        ]
        environment = {**os.environ, "PYTHONPATH": str(RELEASES / release)}
        ran = subprocess.run(list(map(str, words)), env=environment, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr

    run("save")
    old = digest(path)
    refused = anemoi.run("upgrade", "head", path)
    assert (refused.code, WAY in refused.err, digest(path)) == (3, True, old)
    before = beside(path)
    anemoi.ok("stamp", f"anemoi-models=={release}", path)
    anemoi.ok("stamp", "base", path, "--in-place")
    anemoi.ok("compact", path)
    assert beside(path) == before
    run("read")
