"""What the README and the manual show works as it stands there."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from anemoi_ckpt_migrate import inspect
from tests.support.project import RENAME, Folder, digest, names

README = Path(__file__).parent.parent / "README.md"
MANUAL = README.parent / "docs" / "manual.md"
pytestmark = pytest.mark.skipif(not README.exists(), reason="the sources are not here")


def shown(page: str) -> list[str]:
    """Return the Python that a page of the manual shows."""
    return re.findall(r"```python\n(.*?)```", (README.parent / "docs" / page).read_text(), re.S)


def test_the_script_of_the_readme(project: Folder) -> None:
    script, call = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    project.script("91be07d2c4aa", None)
    (project.path / "versions" / "3f2a9c1b7d10_rename_x_to_y.py").write_text(script)
    checkpoint = project.copy()
    before = names(checkpoint)
    project.ok("upgrade", "head", checkpoint)
    assert names(checkpoint) == [name.replace("x.", "y.") for name in before]
    project.ok("downgrade", "base", checkpoint)
    assert names(checkpoint) == before
    (project.path / "runs").mkdir()
    project.copy(to="runs/last.ckpt")
    found: dict[str, object] = {}
    exec(call, found)
    assert found["result"].end == ("3f2a9c1b7d10",)  # type: ignore[attr-defined]


def test_the_loop_of_the_page_on_training(project: Folder) -> None:
    torch = pytest.importorskip("torch")
    project.script("a", None, **{name: text.replace("state_dict", "model") for name, text in RENAME.items()})
    model = torch.nn.ModuleDict({"x": torch.nn.Linear(2, 2, bias=False)})
    torch.save({"model": model.state_dict(), "epoch": 0}, "last.ckpt")
    model = torch.nn.ModuleDict({"y": torch.nn.Linear(2, 2, bias=False)})
    _, loop = shown("training.md")
    epochs: list[Any] = []
    exec(loop, {"resume": True, "model": model, "train": epochs.append})
    assert (len(epochs), torch.load("last.ckpt")["epoch"]) == (3, 2)
    assert [entry["command"] for entry in project.ok("current", "last.ckpt", "--json").lines[0]["log"]] == ["upgrade"]


@pytest.mark.filterwarnings("ignore")
def test_the_trainer_of_the_page_on_training(project: Folder) -> None:
    pytest.importorskip("lightning.pytorch")
    project.script("a", None)
    trainer, _ = shown("training.md")
    found: dict[str, Any] = {}
    exec(trainer, found)
    assert found["StampingCallback"] in [type(callback) for callback in found["trainer"].callbacks]


def test_the_errors_of_the_page_for_those_who_come_from_anemoi(
    project: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    project.script("a", None, final=True, version="2.0")
    checkpoint = project.copy(to="last.ckpt")
    before = digest(checkpoint)
    exec(shown("coming-from-anemoi.md")[0])
    assert capsys.readouterr().out == "too old, since 2.0\n"
    assert digest(checkpoint) == before


def test_the_names_of_the_page_for_those_who_come_from_anemoi(project: Folder) -> None:
    project.script("a", None, top=shown("coming-from-anemoi.md")[1])
    checkpoint = project.copy()
    project.ok("upgrade", "1755530253_initial", checkpoint)
    assert inspect(checkpoint).migrations == ("1755530253_initial",)


def test_the_setup_of_the_manual(project: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    (script,) = re.findall(r"```python\n(\"\"\"hardware is system.*?)```", MANUAL.read_text(), re.S)
    project.script("3f2a9c1b7d10", None)
    (project.path / "versions" / "5b1e0f2c9a44_hardware_is_system.py").write_text(script)
    monkeypatch.setitem(sys.modules, "weather", types.ModuleType("weather"))
    for module, name in (("hardware", "FilesSchema"), ("hardware", "PathsSchema"), ("training", "SWA")):
        made = sys.modules.get(f"weather.{module}") or types.ModuleType(f"weather.{module}")
        monkeypatch.setitem(sys.modules, made.__name__, made)
        setattr(made, name, type(name, (), {"__module__": made.__name__, "lr": None}))
    hardware, training = sys.modules["weather.hardware"], sys.modules["weather.training"]
    swa = training.SWA()
    swa.lr = 1e-4
    torch.save({"files": hardware.FilesSchema(), "paths": hardware.PathsSchema(), "swa": swa}, "last.ckpt")
    before = {name.name for name in inspect("last.ckpt").names}
    ran = project.ok("upgrade", "head", "last.ckpt", "--check-rollback")
    assert "weather.training.SWA was removed, and a placeholder replaces it at swa" in ran.err
    found = {name.name for name in inspect("last.ckpt").names}
    assert found == {"weather.system.InputSchema", "weather.system.PathsSchema", "types.SimpleNamespace"}
    project.ok("downgrade", "base", "last.ckpt")
    assert {name.name for name in inspect("last.ckpt").names} == before


def test_the_function_of_the_page_on_the_manifest(project: Folder) -> None:
    pytest.importorskip("torch")
    page = (README.parent / "docs" / "manifest.md").read_text()
    (code,) = shown("manifest.md")
    (project.path / "modelpage.py").write_text(f"from torch import nn\n\n{code}")
    (table,) = re.findall(r"```toml\n(.*?)```", page, re.S)
    (project.path / "ckpt-migrate.toml").unlink()
    (project.path / "pyproject.toml").write_text(table.replace("mypackage.models", "modelpage"))
    assert project.ok("manifest", "--update").out.startswith("net at base: 4 parameters")
    written = (project.path / "versions" / "manifest.json").read_text().splitlines()
    (example,) = re.findall(r"```json\n(.*?)```", page, re.S)
    assert set(example.splitlines()) - set(written) == {
        '      "revisions": ["3f2a9c1b7d10"],',
        '        "0.weight": {"after": null, "dtype": "float32", "shape": [64, 3]}',  # the last one there
    }


@pytest.mark.parametrize("number", range(3))
def test_the_optimizers_of_the_page_on_operations(project: Folder, number: int) -> None:
    torch = pytest.importorskip("torch")
    page = (README.parent / "docs" / "operations.md").read_text()
    section = page[page.index("## The optimizer changes") : page.index("## Pickled models")]
    layers = {name: torch.nn.Linear(2, 2) for name in ("q", "norm", "extra")}
    model = torch.nn.ModuleDict(layers)
    trained = [(name, value) for name, value in model.named_parameters() if not name.startswith("extra")]
    optimizer = torch.optim.Adam(trained)
    sum(value.square().sum() for _, value in trained).backward()
    optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, "last.pt")
    operations = re.findall(r"```python\n(.*?)```", section, re.S)[number]
    top = f"from anemoi_ckpt_migrate import op\n\n{operations}"
    script = project.script("a1", None, migrate=None, rollback=None, top=top)
    assert script.read_text().count("operations = [") == 1
    project.ok("upgrade", "head", "last.pt", "--check-rollback")
    groups = torch.load("last.pt")["optimizer"]["param_groups"]
    found = [[len(group["params"]), group["weight_decay"], group["fused"]] for group in groups]
    assert found == [[[1, 0.01, None], [3, 0.0, None]], [[4, 0, None]], [[4, 0.01, True]]][number]


def test_the_page_of_the_record_names_every_operation_that_only_records_hold() -> None:
    from anemoi_ckpt_migrate.operations.kinds import all_kinds

    page = (README.parent / "docs" / "record.md").read_text()
    table = page[page.index("| `op` | undoes") : page.index("## Values that JSON lacks")]
    first_cells = [line.split("|")[1] for line in table.splitlines()[2:] if line.startswith("|")]
    named = {name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)}
    assert named == {name for name, kind in all_kinds().items() if not kind.written}


def test_the_function_of_the_page_on_outputs(project: Folder) -> None:
    torch = pytest.importorskip("torch")
    (code,) = shown("outputs.md")
    (project.path / "proofpage.py").write_text(code.replace("mypackage.models", "outputpage"))
    (project.path / "outputpage.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Module):\n    def __init__(self, old_names):\n        super().__init__()\n"
        "        self.name = 'x' if old_names else 'y'\n        self.add_module(self.name, nn.Linear(4, 2, bias=False))\n\n"
        "    def forward(self, x):\n        return getattr(self, self.name)(x)\n"
    )
    project.script("a", None, **RENAME)
    torch.save({"state_dict": {"x.weight": torch.ones(2, 4)}}, "last.ckpt")
    commands = re.findall(r"^\$ ckpt-migrate (.*)$", (README.parent / "docs" / "outputs.md").read_text(), re.M)
    assert [command.split()[0] for command in commands] == ["check", "upgrade", "check", "check"]
    words = [command.replace("mypackage.proof", "proofpage").split() for command in commands]
    for each in (words[0], words[2], words[3], words[1], words[3]):
        project.ok(*each)
    assert list(torch.load("last.ckpt", weights_only=False)["state_dict"]) == ["y.weight"]
