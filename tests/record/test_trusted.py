"""Classes of modules that the configuration trusts are built for real, where they can be imported."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.project import Folder, digest

torch = pytest.importorskip("torch")

MODULE = """
class Config(dict):
    def double(self):
        return 2 * self["width"]

class Outer:
    class Inner:
        def __init__(self, value):
            self.value = value

class Heavy:
    def __init__(self, weight):
        self.weight = weight
    def __setstate__(self, state):
        assert state["weight"].sum() == 6
        self.__dict__.update(state)

class Strict:
    def __setstate__(self, state):
        raise ValueError("this class has changed")
"""


@pytest.fixture
def trusting(project: Folder, monkeypatch: pytest.MonkeyPatch) -> Folder:
    (project.path / "mymodel").mkdir()
    (project.path / "mymodel" / "__init__.py").touch()
    (project.path / "mymodel" / "config.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(project.path))
    for name in ("mymodel", "mymodel.config"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (project.path / "ckpt-migrate.toml").write_text('trusted = ["mymodel"]\n')
    return project


def save(tree: object) -> Path:
    torch.save(tree, "last.ckpt")
    return Path("last.ckpt")


def test_methods_of_a_trusted_class_work(trusting: Folder) -> None:
    from mymodel.config import Config, Outer

    trusting.script("a1", None, 'ckpt["inner"].value = ckpt["config"].double()', None)
    checkpoint = save({"config": Config(width=4), "inner": Outer.Inner(1), "w": torch.ones(2)})
    trusting.ok("upgrade", "head", checkpoint)
    found = torch.load(checkpoint, weights_only=False)
    assert type(found["config"]) is Config
    assert found["inner"].value == 8


def test_without_trust_they_do_not(trusting: Folder) -> None:
    from mymodel.config import Config

    (trusting.path / "ckpt-migrate.toml").write_text("")
    trusting.script("a1", None, 'ckpt["config"].double()')
    checkpoint = save({"config": Config(width=4)})
    before = digest(checkpoint)
    ran = trusting.run("upgrade", "head", checkpoint)
    assert (ran.code, "carries no attribute 'double'" in ran.err) == (1, True)
    assert digest(checkpoint) == before


def test_what_is_gone_stays_opaque(trusting: Folder) -> None:
    from mymodel.config import Config

    trusting.script("a1", None, 'ckpt["config"]["width"] = 5')
    checkpoint = save({"config": Config(width=4)})
    module = trusting.path / "mymodel" / "config.py"
    module.write_text(MODULE.replace("class Config", "class Renamed"))
    del sys.modules["mymodel.config"]
    trusting.ok("upgrade", "head", checkpoint)
    module.write_text(MODULE)
    del sys.modules["mymodel.config"]
    assert torch.load(checkpoint, weights_only=False)["config"]["width"] == 5


def test_a_class_that_wants_its_tensors_gets_them(trusting: Folder) -> None:
    from mymodel.config import Heavy

    trusting.script("a1", None, 'ckpt["heavy"].weight.mul_(2)', 'ckpt["heavy"].weight.div_(2)')
    checkpoint = save({"heavy": Heavy(torch.arange(4.0))})
    trusting.ok("upgrade", "head", checkpoint)
    trusting.ok("current", checkpoint)
    (trusting.path / "mymodel" / "config.py").write_text(MODULE.replace("== 6", "== 12"))
    del sys.modules["mymodel.config"]
    assert torch.load(checkpoint, weights_only=False)["heavy"].weight.tolist() == [0, 2, 4, 6]


def test_a_class_that_refuses_its_state(trusting: Folder) -> None:
    from mymodel.config import Strict

    trusting.script("a1", None)
    strict = Strict()
    strict.x = 1
    checkpoint = save({"strict": strict})
    before = digest(checkpoint)
    ran = trusting.run("upgrade", "head", checkpoint)
    assert (ran.code, digest(checkpoint)) == (1, before)
    assert (
        "cannot build an object of a trusted module (ValueError: this class has changed); to keep it opaque, remove"
        in ran.err
    )
    trusting.ok("current", checkpoint)  # which builds nothing


@pytest.mark.parametrize("trusted", ["7", '"mymodel"', '["not a module"]', "[1]"])
def test_a_configuration_that_makes_no_sense(trusting: Folder, trusted: str) -> None:
    (trusting.path / "ckpt-migrate.toml").write_text(f"trusted = {trusted}\n")
    ran = trusting.run("heads")
    assert (ran.code, "trusted must" in ran.err) == (1, True)
