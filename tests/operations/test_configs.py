"""Operations inside configurations, as OmegaConf and pydantic pickle them; neither is imported by a migration."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import enum
import sys
import types
from pathlib import Path
from typing import Any, ClassVar

import pytest

torch = pytest.importorskip("torch")
omegaconf = pytest.importorskip("omegaconf")
pydantic = pytest.importorskip("pydantic")

from tests.support.operations import declare  # noqa: E402
from tests.support.project import Folder, digest  # noqa: E402

CONFIG = {
    "hardware": {"accelerator": "cuda", "paths": {"data": "/d", "graph": None}},
    "data": {"one": {"freq": "6h"}, "two": {"freq": "1h"}},
    "layers": [1, "x", {"deep": 2.5}],
    "profiler": False,
}
MOVES = (
    'op.SetItem("hp.config.system", {}, overwrite=False, optional=True)',
    'op.MoveItem("hp.config.hardware.accelerator", "hp.config.system.accelerator", optional=True)',
    'op.MoveItem("hp.config.hardware.gone", "hp.config.system.gone", optional=True)',
    'op.MoveItem("hp.config.data.*.freq", "hp.config.data.*.frequency")',
    'op.SetItem("hp.config.model", {"kinds": ["a", {"b": None}]}, overwrite=False, optional=True)',
    'op.SetItem("hp.config.data.*.source", "era5", overwrite=False)',
    'op.DropItem("hp.config.profiler", optional=True)',
    'op.DropItem("hp.config.datamodule", optional=True)',
)
MOVED = {
    "hardware": {"paths": {"data": "/d", "graph": None}},
    "data": {"one": {"frequency": "6h", "source": "era5"}, "two": {"frequency": "1h", "source": "era5"}},
    "layers": [1, "x", {"deep": 2.5}],
    "system": {"accelerator": "cuda"},
    "model": {"kinds": ["a", {"b": None}]},
}


class DotDict(dict):  # type: ignore[type-arg]
    """A dict whose items are attributes too, all the way down, as many projects have one."""

    def __init__(self, items: Any = ()) -> None:
        super().__init__({key: self.nested(value) for key, value in dict(items).items()})

    @classmethod
    def nested(cls, value: Any) -> Any:
        if isinstance(value, list):
            return list(map(cls.nested, value))
        return cls(value) if isinstance(value, dict) else value

    def __getattr__(self, name: str) -> Any:
        return self[name]


def save(folder: Folder, config: Any) -> Path:
    path = folder.path / "x.ckpt"
    torch.save({"state_dict": {"w": torch.ones(2)}, "hp": {"config": config}}, path)
    return path


def config_in(path: Path) -> Any:
    return torch.load(path, weights_only=False)["hp"]["config"]


def pickled(path: Path) -> Any:
    """Return what the pickle says, record left out."""
    import pickletools
    import zipfile

    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        memo = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET", "GET")
        return [(code.name, arg) for code, arg, _ in pickletools.genops(archive.read(name)) if code.name not in memo]


class TestOmegaConf:
    def test_there_and_back(self, project: Folder) -> None:
        path = save(project, omegaconf.OmegaConf.create(CONFIG))
        before = pickled(path)
        declare(project, "a1", *MOVES)
        project.ok("upgrade", "head", path, "--check-rollback")
        config = config_in(path)
        assert isinstance(config, omegaconf.DictConfig)
        assert omegaconf.OmegaConf.to_container(config) == MOVED
        project.ok("downgrade", "base", path)
        assert omegaconf.OmegaConf.to_container(config_in(path)) == CONFIG
        torch.save({**torch.load(path, weights_only=False)}, path)
        assert config_in(path).layers[2].deep == 2.5
        assert before[0] == pickled(path)[0]

    def test_nodes_know_where_they_stand(self, project: Folder) -> None:
        """Interpolations, merging and messages of OmegaConf go by the key and the parent of each node."""
        path = save(project, omegaconf.OmegaConf.create({**CONFIG, "link": "${system.accelerator}"}))
        declare(project, "a1", *MOVES)
        project.ok("upgrade", "head", path)
        config = config_in(path)
        assert config.link == "cuda"
        assert config.system._get_node("accelerator")._get_full_key(None) == "system.accelerator"
        assert config.model.kinds[1]._get_full_key("b") == "model.kinds[1].b"
        config.model.kinds.append("c")
        assert omegaconf.OmegaConf.merge(config, {"model": {"more": 1}}).model == {
            "kinds": ["a", {"b": None}, "c"],
            "more": 1,
        }

    def test_flags_stay(self, project: Folder) -> None:
        config = omegaconf.OmegaConf.create(CONFIG)
        omegaconf.OmegaConf.set_readonly(config, True)
        path = save(project, config)
        declare(project, "a1", *MOVES)
        project.ok("upgrade", "head", path)
        with pytest.raises(omegaconf.errors.ReadonlyConfigError):
            config_in(path).system.accelerator = "cpu"

    def test_what_changed_since_is_not_overwritten(self, project: Folder) -> None:
        path = save(project, omegaconf.OmegaConf.create(CONFIG))
        declare(project, "a1", *MOVES)
        project.ok("upgrade", "head", path)
        tree = torch.load(path, weights_only=False)
        tree["hp"]["config"].system.accelerator = "mps"  # moved: comes back as it is now
        tree["hp"]["config"].system.more = 1  # what was made for it stays then
        torch.save(tree, path)
        project.ok("downgrade", "base", path)
        config = config_in(path)
        assert (config.hardware.accelerator, config.system) == ("mps", {"more": 1})
        project.ok("upgrade", "head", path)
        tree = torch.load(path, weights_only=False)
        tree["hp"]["config"].data.one.source = "mars"
        torch.save(tree, path)
        before = digest(path)
        ran = project.run("downgrade", "base", path)
        assert ran.code == 1
        assert "hp.config.data.one.source has changed since it was set" in ran.err
        assert digest(path) == before


class TestDictClasses:
    def test_a_new_dict_is_of_the_class_of_those_around_it(self, project: Folder) -> None:
        path = save(project, DotDict(CONFIG))
        before = pickled(path)
        declare(project, "a1", *MOVES)
        project.ok("upgrade", "head", path, "--check-rollback")
        config = config_in(path)
        assert config == MOVED
        assert config.system.accelerator == "cuda"
        assert type(config.model) is DotDict
        project.ok("downgrade", "base", path)
        assert config_in(path) == CONFIG
        assert type(config_in(path).hardware.paths) is DotDict
        assert len(pickled(path)) >= len(before)

    def test_what_is_only_moved_is_of_the_class_that_it_was_of(self, project: Folder) -> None:
        made = DotDict({})
        dict.__setitem__(made, "a", [{"b": 1}])
        path = save(project, made)
        declare(project, "a1", 'op.MoveItem("hp.config.a", "hp.config.c.d")')
        project.ok("upgrade", "head", path, "--check-rollback")
        assert type(config_in(path).c.d[0]) is dict
        assert type(config_in(path).c) is DotDict

    def test_plain_dicts_stay_plain(self, project: Folder) -> None:
        path = save(project, CONFIG)
        declare(project, "a1", *MOVES)
        project.ok("upgrade", "head", path)
        assert torch.load(path, weights_only=True)["hp"]["config"] == MOVED


class TestRearranging:
    OPERATIONS = (
        'op.NestItem("hp.config.layers", "datasets.data", optional=True)',
        'op.NestItem("hp.config.gone", "datasets.data", optional=True)',
        'op.CopyItem("hp.config.hardware.accelerator", "hp.config.data.one.on")',
        'op.CopyItem("hp.config.data.one.freq", "hp.config.data.two.freq")',
        'op.CopyItem("hp.config.data.one.freq", "hp.config.profiler", overwrite=False)',
        'op.MapItem("hp.config.hardware.*", {"cuda": "gpu"}, optional=True)',
    )

    @pytest.mark.parametrize("kind", [dict, DotDict, omegaconf.OmegaConf.create])
    def test_there_and_back(self, project: Folder, kind: Any) -> None:
        path = save(project, kind(CONFIG))
        declare(project, "a1", *self.OPERATIONS)
        project.ok("upgrade", "head", path, "--check-rollback")
        config = config_in(path)
        assert type(config) is type(kind({}))
        assert config == {
            **CONFIG,
            "hardware": {"accelerator": "gpu", "paths": {"data": "/d", "graph": None}},
            "layers": {"datasets": {"data": [1, "x", {"deep": 2.5}]}},
            "data": {"one": {"freq": "6h", "on": "cuda"}, "two": {"freq": "6h"}},
        }
        project.ok("downgrade", "base", path)
        assert config_in(path) == CONFIG

    def test_what_is_not_alone_is_not_taken_out(self, project: Folder) -> None:
        path = save(project, {"x": {"datasets": {"a": 1, "b": 2}}})
        before = digest(path)
        declare(project, "a1", 'op.NestItem("hp.config.x", "datasets.a")')
        project.ok("stamp", "head", path)
        stamped = digest(path)
        ran = project.run("downgrade", "base", path)
        assert ran.code == 1
        assert "hp.config.x.datasets holds b too" in ran.err
        assert digest(path) == stamped != before

    def test_two_that_became_one_have_no_way_back_but_the_record(self, project: Folder) -> None:
        path = save(project, {"x": "a"})
        declare(project, "a1", 'op.MapItem("hp.config.x", {"a": "c", "b": "c"})')
        project.ok("upgrade", "head", path)
        assert config_in(path) == {"x": "c"}
        project.ok("downgrade", "base", path)
        assert config_in(path) == {"x": "a"}
        project.ok("stamp", "a1", path)
        assert project.run("downgrade", "base", path).code == 3


SPLIT = """
from anemoi_ckpt_migrate import items

def split(model, ckpt):
    names = items.keys(ckpt, "hp.config.data")
    encoder = model.pop("encoder")
    model["encoders"] = {name: {"mapper": dict(encoder)} for name in names}
    return model


def join(model, ckpt):
    encoders = model.pop("encoders")
    model["encoder"] = next(iter(encoders.values()))["mapper"]
    return model
"""


class TestRewriting:
    CONFIG: ClassVar[Any] = {"data": {"one": {}, "two": {}}, "model": {"encoder": {"size": 1}, "n": [1, {"a": None}]}}
    REWRITE = 'op.Rewrite(split, join, "hp.config.model", optional=True)'

    @pytest.mark.parametrize("kind", [dict, DotDict, omegaconf.OmegaConf.create])
    def test_there_and_back(self, project: Folder, kind: Any) -> None:
        path = save(project, kind(self.CONFIG))
        before = pickled(path)
        declare(project, "a1", self.REWRITE, top=SPLIT)
        project.ok("upgrade", "head", path, "--check-rollback")
        config = config_in(path)
        assert type(config["model"]) is type(kind({}))
        encoders = {"one": {"mapper": {"size": 1}}, "two": {"mapper": {"size": 1}}}
        assert config["model"] == {"n": [1, {"a": None}], "encoders": encoders}
        assert type(config["model"]["n"][1]) is type(kind({}))
        project.ok("downgrade", "base", path)
        assert list(config_in(path)["model"]) == ["encoder", "n"]
        assert config_in(path) == self.CONFIG
        assert before[0] == pickled(path)[0]

    def test_what_changed_since_goes_through_the_function(self, project: Folder) -> None:
        path = save(project, omegaconf.OmegaConf.create(self.CONFIG))
        declare(project, "a1", self.REWRITE, top=SPLIT)
        project.ok("upgrade", "head", path)
        tree = torch.load(path, weights_only=False)
        tree["hp"]["config"].model.encoders.one.mapper.size = 7
        torch.save(tree, path)
        project.ok("downgrade", "base", path)
        assert config_in(path).model == {"encoder": {"size": 7}, "n": [1, {"a": None}]}

    def test_stamped(self, project: Folder) -> None:
        path = save(project, {"data": {"x": 1}, "model": {"encoders": {"x": {"mapper": {"size": 2}}}}})
        declare(project, "a1", self.REWRITE, top=SPLIT)
        project.ok("stamp", "head", path)
        project.ok("downgrade", "base", path)
        assert config_in(path)["model"] == {"encoder": {"size": 2}}

    def test_not_there(self, project: Folder) -> None:
        path = save(project, {})
        declare(project, "a1", self.REWRITE, top=SPLIT)
        project.ok("upgrade", "head", path)
        assert config_in(path) == {}

    @pytest.mark.parametrize(
        ("operation", "top", "said"),
        [
            ("op.Rewrite(split, join, 'hp.nope')", SPLIT, "there is no hp.nope"),
            (
                "op.Rewrite(split, join, 'state_dict.w')",
                "def split(m, c):\n    return {}\ndef join(m, c):\n    return m\n",
                "use ConvertItem",
            ),
            (
                "op.Rewrite(split, join, 'hp.config')",
                "def split(m, c):\n    return 3\ndef join(m, c):\n    return m\n",
                "`split` returned a int",
            ),
            ("op.Rewrite(split, None, 'hp.config')", SPLIT, "needs rollback"),
            ("op.Rewrite(split, join)", SPLIT, "path must be a path"),
        ],
    )
    def test_one_sentence(self, project: Folder, operation: str, top: str, said: str) -> None:
        path = save(project, {})
        before = digest(path)
        declare(project, "a1", operation, top=top)
        ran = project.run("upgrade", "head", path)
        assert (ran.code, said in ran.err, "Traceback" in ran.err) == (1, True, False), ran.err
        assert digest(path) == before


def test_what_functions_warn_of_is_said(project: Folder) -> None:
    path = save(project, {})
    top = "import warnings\n\ndef look(ckpt):\n    warnings.warn('the grid is not known')\n    return ckpt\n"
    declare(project, "a1", "op.Run(look, look)", top=top)
    ran = project.ok("upgrade", "head", path)
    assert "a1_change.py: the grid is not known" in ran.err
    assert ran.err.count("the grid is not known") == 1


class TestItems:
    """What functions of scripts look into configurations with."""

    TOP = """
def look(ckpt):
    from anemoi_ckpt_migrate import items
    assert items.get(ckpt, "hp.config.hardware.accelerator") == "cuda"
    assert items.get(ckpt, "hp.config.nope", 5) == 5
    assert items.keys(ckpt, "hp.config.data") == ["one", "two"]
    assert items.plain(items.get(ckpt, "hp.config.layers")) == [1, "x", {"deep": 2.5}]
    items.put(ckpt, ["hp", "config", "data", "one"], items.take(ckpt, "hp.config.hardware.paths"))
    for broken in (lambda: items.take(ckpt, "hp.nope.x"), lambda: items.put(ckpt, "hp.nope.x", 1)):
        try:
            broken()
        except KeyError:
            continue
        raise AssertionError
    return ckpt
"""

    @pytest.mark.parametrize("kind", [dict, DotDict, omegaconf.OmegaConf.create])
    def test_of_each_class(self, project: Folder, kind: Any) -> None:
        path = save(project, kind(CONFIG))
        declare(project, "a1", "op.Run(look)", top=self.TOP)
        project.ok("upgrade", "head", path)
        assert config_in(path)["data"]["one"] == {"data": "/d", "graph": None}


class TestNotApplied:
    """Stamped, not applied: the way back is what the operations say of themselves."""

    def test_what_was_never_there_is_left_alone(self, project: Folder) -> None:
        path = save(project, omegaconf.OmegaConf.create(MOVED))
        declare(project, "a1", *MOVES)
        project.ok("stamp", "head", path)
        project.ok("downgrade", "base", path)
        expected = {key: value for key, value in CONFIG.items() if key != "profiler"}
        assert omegaconf.OmegaConf.to_container(config_in(path)) == expected

    def test_what_the_release_before_cannot_say(self, project: Folder) -> None:
        path = save(project, DotDict({"model": {"glu": True}}))
        declare(project, "a1", 'op.SetItem("hp.config.model.glu", False, overwrite=False)')
        project.ok("stamp", "head", path)
        before = digest(path)
        ran = project.run("downgrade", "base", path)
        assert ran.code == 1
        assert "hp.config.model.glu has changed since it was set" in ran.err
        assert digest(path) == before

    @pytest.mark.parametrize("operation", ['op.SetItem("hp.n", 1)', 'op.DropItem("hp.n")'])
    def test_what_was_lost_is_not_known(self, project: Folder, operation: str) -> None:
        path = save(project, {})
        declare(project, "a1", operation)
        project.ok("stamp", "head", path)
        assert project.run("downgrade", "base", path).code == 3


class TestFaults:
    @pytest.mark.parametrize(
        ("operation", "said"),
        [
            ('op.MoveItem("hp.*.a", "hp.b")', "the same number of *"),
            ('op.MoveItem("hp.nope.*.a", "hp.*.a")', "there is no hp.nope.*.a"),
            ('op.SetItem("hp.nope.x", 1, overwrite=False)', "there is no hp.nope"),
            ('op.SetItem("hp.x", 1, optional="yes")', "optional must be True or False"),
            ('op.ConvertItem("hp.config", "yaml")', 'to must be "dict" or "omegaconf.DictConfig"'),
            ('op.ConvertItem("hp.config", "dict")', "hp.config is a dict"),
            ('op.ConvertItem("hp.nope", "dict")', "there is no hp.nope"),
            ('op.MapItem("hp.config.a", {"x": "y"})', "hp.config.a is not one of x"),
            ('op.MapItem("hp.config.a", {"x": 1})', "values must be a dict of text to text"),
            ('op.CopyItem("state_dict.w", "hp.w")', "state_dict.w is a"),
            ('op.UnnestItem("hp.config", "b")', "hp.config holds a too"),
        ],
    )
    def test_one_sentence(self, project: Folder, operation: str, said: str) -> None:
        path = save(project, {"a": 1})
        before = digest(path)
        declare(project, "a1", operation)
        ran = project.run("upgrade", "head", path)
        assert (ran.code, said in ran.err, "Traceback" in ran.err) == (1, True, False), ran.err
        assert digest(path) == before


@pytest.fixture
def schemas(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The module of a schema as projects have one; it can be taken away."""
    module = types.ModuleType("weather_schemas")

    class Kind(str, enum.Enum):
        GPU = "gpu"

    class Model(pydantic.BaseModel):
        target_: str = pydantic.Field("pkg.Model", alias="_target_")
        kind: Kind = Kind.GPU
        layers: list[Any] = pydantic.Field(default_factory=list)

    class Schema(pydantic.BaseModel, extra="allow"):
        model: Model = pydantic.Field(default_factory=Model)
        data: Any = None

    for made in (Kind, Model, Schema):
        made.__module__, made.__qualname__ = module.__name__, made.__name__
        setattr(module, made.__name__, made)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


class TestConverting:
    CONVERT = (
        'op.ConvertItem("hp.config", "omegaconf.DictConfig", classes=["weather_schemas.Schema"], '
        'aliases={"target_": "_target_"}, optional=True)'
    )

    def test_a_class_that_is_gone(self, project: Folder, schemas: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        made = schemas.Schema(
            model={"_target_": "pkg.Other", "layers": [1, {"a": None}]}, data=DotDict({"b": 2}), more=3
        )
        path = save(project, made)
        declare(project, "a1", self.CONVERT, 'op.SetItem("hp.config.model.glu", False)')
        project.ok("upgrade", "head", path, "--check-rollback")
        with monkeypatch.context() as gone:
            gone.delitem(sys.modules, "weather_schemas")
            config = config_in(path)
        assert isinstance(config, omegaconf.DictConfig)
        assert config == {
            "model": {"_target_": "pkg.Other", "kind": "gpu", "layers": [1, {"a": None}], "glu": False},
            "data": {"b": 2},
            "more": 3,
        }
        project.ok("downgrade", "base", path)
        assert config_in(path) == made

    def test_what_was_changed_since_keeps_its_class(self, project: Folder, schemas: Any) -> None:
        path = save(project, schemas.Schema())
        declare(project, "a1", self.CONVERT)
        project.ok("upgrade", "head", path)
        tree = torch.load(path, weights_only=False)
        tree["hp"]["config"].model.kind = "tpu"
        torch.save(tree, path)
        project.ok("downgrade", "base", path)
        assert config_in(path).model.kind == "tpu"

    def test_only_what_is_of_that_class(self, project: Folder) -> None:
        path = save(project, DotDict(CONFIG))
        declare(project, "a1", self.CONVERT)
        project.ok("upgrade", "head", path)
        assert type(config_in(path)) is DotDict

    def test_what_a_model_took_beyond_its_fields(self, project: Folder, schemas: Any) -> None:
        path = save(project, schemas.Schema(more={"n": 1}, data={"m": 2}))
        moves = ('op.MoveItem("hp.config.more.n", "hp.config.data.n")', 'op.SetItem("hp.config.data.m", 3)')
        declare(project, "a1", *moves)
        project.ok("upgrade", "head", path, "--check-rollback")
        config = config_in(path)
        assert (config.more, config.data) == ({}, {"m": 3, "n": 1})
        project.ok("downgrade", "base", path)
        assert config_in(path) == schemas.Schema(more={"n": 1}, data={"m": 2})

    def test_to_plain_dicts(self, project: Folder, schemas: Any) -> None:
        path = save(project, schemas.Schema(data=omegaconf.OmegaConf.create({"x": [1]})))
        declare(project, "a1", 'op.ConvertItem("hp.config", "dict")')
        project.ok("upgrade", "head", path)
        config = torch.load(path, weights_only=True)["hp"]["config"]
        assert config == {"model": {"target_": "pkg.Model", "kind": "gpu", "layers": []}, "data": {"x": [1]}}


@dataclasses.dataclass
class Layer:
    width: int = 8


@dataclasses.dataclass
class Settings:
    layers: list[Layer] = dataclasses.field(default_factory=lambda: [Layer(), Layer(4)])
    rate: float = 0.1


class Slotted:
    __slots__ = ("rate", "steps")

    def __init__(self) -> None:
        self.rate, self.steps = 0.1, [1]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Slotted) and (self.rate, self.steps) == (other.rate, other.steps)

    __hash__ = None  # type: ignore[assignment]


class Doubled(dict):  # type: ignore[type-arg]
    """A dict that keeps each item as an attribute too."""

    def __init__(self, **items: Any) -> None:
        for name, value in items.items():
            self[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        vars(self)[name] = value
        super().__setitem__(name, value)


class Updated(dict):  # type: ignore[type-arg]
    """A dict whose state is itself."""

    def __getstate__(self) -> Any:
        return self

    def __setstate__(self, state: Any) -> None:
        self.update(state)


Pair = collections.namedtuple("Pair", "a b")
HELD = {
    "omegaconf": (lambda: omegaconf.OmegaConf.create({"width": 8, "l": [1, {"a": None}]}), {"width": 8, "l": [1, {"a": None}]}),
    "list of omegaconf": (lambda: omegaconf.OmegaConf.create([1, {"a": 2}]), [1, {"a": 2}]),
    "namespace of arguments": (
        lambda: argparse.Namespace(rate=0.1, layers=[1, 2], inner=argparse.Namespace(x=None)),
        {"rate": 0.1, "layers": [1, 2], "inner": {"x": None}},
    ),
    "simple namespace": (
        lambda: types.SimpleNamespace(rate=0.1, inner=types.SimpleNamespace(x=1)),
        {"rate": 0.1, "inner": {"x": 1}},
    ),
    "dataclass": (Settings, {"layers": [{"width": 8}, {"width": 4}], "rate": 0.1}),
    "slots": (Slotted, {"rate": 0.1, "steps": [1]}),
    "dict with attributes": (lambda: DotDict({"a": {"b": 1}}), {"a": {"b": 1}}),
    "dict with each item twice": (lambda: Doubled(a=1, b=[2]), {"a": 1, "b": [2]}),
    "dict whose state is itself": (lambda: Updated(a=1), {"a": 1}),
    "with what stays of a class": (
        lambda: argparse.Namespace(rate=0.1, device=torch.device("cpu", 0)),
        {"rate": 0.1, "device": torch.device("cpu", 0)},
    ),
}  # fmt: skip


class TestAnyClass:
    @pytest.mark.parametrize("kind", HELD)
    def test_to_dicts_and_back(self, project: Folder, kind: str) -> None:
        make, plain = HELD[kind]
        path = save(project, make())
        declare(project, "a1", 'op.ConvertItem("hp.config", "dict")')
        project.ok("upgrade", "head", path, "--check-rollback")
        found = config_in(path)
        assert found == plain
        assert type(found) is type(plain)
        project.ok("downgrade", "base", path)
        back = config_in(path)
        assert type(back) is type(make())
        assert back == make()

    @pytest.mark.parametrize(
        "kind", [kind for kind in HELD if kind not in ("list of omegaconf", "dict with each item twice")]
    )
    def test_items_of_it(self, project: Folder, kind: str) -> None:
        make, plain = HELD[kind]
        first, *others = plain
        path = save(project, make())
        operations = [f'op.SetItem("hp.config.{first}", 7)', f'op.MoveItem("hp.config.{first}", "hp.config.moved")']
        operations += [f'op.DropItem("hp.config.{other}")' for other in others]
        if kind == "slots":
            operations[1] = 'op.SetItem("hp.config.rate", 7)'
        declare(project, "a1", *operations, 'op.ConvertItem("hp.config", "dict")')
        project.ok("upgrade", "head", path, "--check-rollback")
        assert config_in(path) == {"rate" if kind == "slots" else "moved": 7}
        project.ok("downgrade", "base", path)
        assert config_in(path) == make()

    def test_only_what_is_of_a_class(self, project: Folder) -> None:
        path = save(project, argparse.Namespace(rate=0.1))
        declare(project, "a1", 'op.ConvertItem("hp.config", "dict", classes=["types.SimpleNamespace"], optional=True)')
        declare(project, "a2", 'op.ConvertItem("hp.config", "dict", classes=["argparse.Namespace"])', parents="a1")
        project.ok("upgrade", "a1", path)
        assert config_in(path) == argparse.Namespace(rate=0.1)
        project.ok("upgrade", "a2", path)
        assert config_in(path) == {"rate": 0.1}

    def test_what_was_changed_since_stays(self, project: Folder) -> None:
        path = save(project, argparse.Namespace(rate=1, device=torch.device("cpu", 0)))
        declare(project, "a1", 'op.ConvertItem("hp.config", "dict")')
        project.ok("upgrade", "head", path)
        tree = torch.load(path, weights_only=False)
        tree["hp"]["config"]["rate"] = True  # equal to 1, and something else
        torch.save(tree, path)
        project.ok("downgrade", "base", path)
        assert config_in(path) == {"rate": True, "device": torch.device("cpu", 0)}

    @pytest.mark.parametrize(
        ("make", "says"),
        [
            (lambda: Pair(1, 2), "only its class knows the content of tests.operations.test_configs.Pair"),
            (lambda: torch.nn.Linear(1, 1), "only its class knows the content of torch.nn.modules.linear.Linear"),
            (lambda: torch.device("cpu"), "only its class knows the content of torch.device"),
        ],
    )
    def test_what_only_a_class_knows(self, project: Folder, make: Any, says: str) -> None:
        path = save(project, make())
        before = digest(path)
        declare(project, "a1", 'op.ConvertItem("hp.config", "dict")')
        ran = project.run("upgrade", "head", path)
        assert ran.code == 1
        assert says in ran.err
        assert digest(path) == before

    def test_what_holds_itself(self, project: Folder) -> None:
        made = argparse.Namespace(rate=1)
        made.again = made
        path = save(project, made)
        declare(project, "a1", 'op.ConvertItem("hp.config", "dict")')
        ran = project.run("upgrade", "head", path)
        assert ran.code == 1
        assert "a argparse.Namespace that holds itself cannot be a dict" in ran.err

    @pytest.mark.parametrize(
        "operation", ['SetItem("hp.config.a", 2)', 'SetItem("hp.config.n", 2)', 'DropItem("hp.config.a")']
    )
    def test_what_is_kept_twice(self, project: Folder, operation: str) -> None:
        """One of the two would stay as it was; behind ConvertItem there is one."""
        path = save(project, Doubled(a=1, b=[2]))
        declare(project, "a1", f"op.{operation}")
        ran = project.run("upgrade", "head", path)
        assert ran.code == 1
        assert "also stores each item as an attribute; convert it to a dict with ConvertItem first" in ran.err
        declare(project, "a1", 'op.ConvertItem("hp.config", "dict")', f"op.{operation}")
        project.ok("upgrade", "head", path, "--check-rollback")


class Gone:
    """A class that later code does not have."""

    def __init__(self) -> None:
        self.weight, self.again, self.shared = torch.arange(3.0), None, []


@pytest.mark.parametrize(
    "operation", ['op.DropClass("tests.operations.test_configs.Gone")', 'op.DropItem("hp.config")']
)
def test_what_is_put_aside_is_not_imported(project: Folder, operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Left in the pickle, it would keep the checkpoint from being loaded, which is why it was dropped."""
    made = Gone()
    made.again, made.shared = made.weight, ["here too"]
    path = project.path / "x.ckpt"
    torch.save({"state_dict": {"w": made.weight}, "hp": {"config": made}, "more": made.shared}, path)
    declare(project, "a1", operation)
    project.ok("upgrade", "head", path, "--check-rollback")
    with monkeypatch.context() as patch:
        patch.delattr(sys.modules[__name__], "Gone")
        assert torch.load(path, weights_only=False)["hp"] == {}
        assert torch.load(path, weights_only=True)["hp"] == {}
    project.ok("downgrade", "base", path)
    back = config_in(path)
    assert type(back) is Gone
    assert back.again is back.weight
    tree = torch.load(path, weights_only=False)
    assert tree["hp"]["config"].shared is tree["more"]
    assert tree["hp"]["config"].weight.data_ptr() == tree["state_dict"]["w"].data_ptr()
    assert back.weight.tolist() == [0, 1, 2]
