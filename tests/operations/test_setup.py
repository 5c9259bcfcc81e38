"""`migrate_setup`: names of classes and modules move before `migrate`, what is gone gets placeholders; and all comes back."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import anemoi_ckpt_migrate as cm  # noqa: E402
from anemoi_ckpt_migrate.record import embed  # noqa: E402
from anemoi_ckpt_migrate.storage import open_checkpoint  # noqa: E402
from anemoi_ckpt_migrate.storage.tensors.refs import StoredTensor  # noqa: E402
from anemoi_ckpt_migrate.tree.first_difference import first_difference  # noqa: E402
from tests.support.operations import declare  # noqa: E402
from tests.support.project import Folder, digest  # noqa: E402

CONFIG = """
import enum

class Kind(enum.Enum):
    A = "a"
    B = "b"

class Config:
    def __init__(self, **attributes):
        self.__dict__.update(attributes)

class Averaging:
    def __init__(self, lr):
        self.lr = lr

class Items(list):
    pass

class Pairs(dict):
    pass

class Slots:
    __slots__ = ("one", "two")
    def __init__(self, one, two):
        self.one, self.two = one, two

class Stateful:
    def __getstate__(self):
        return (1, 2)
    def __setstate__(self, state):
        self.state = state

class Keyword:
    def __new__(cls, *, width):
        made = object.__new__(cls)
        made.width = width
        return made
    def __getnewargs_ex__(self):
        return (), {"width": self.width}

class Reduced:
    def __reduce__(self):
        return build, (3,)

class Outer:
    class Inner:
        pass

def build(value=0):
    return [value]
"""


class Packages:
    """Modules that come and go, in a folder that Python looks into."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, source: str = CONFIG) -> None:
        path = self.folder / f"{name.replace('.', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source))
        self.forget()

    def remove(self, name: str) -> None:
        (self.folder / f"{name.replace('.', '/')}.py").unlink()
        self.forget()

    def forget(self) -> None:
        for name in self.loaded():
            del sys.modules[name]

    def loaded(self) -> list[str]:
        return [name for name in sys.modules if name.partition(".")[0] in ("weather", "anemoi")]


@pytest.fixture
def packages(project: Folder, monkeypatch: pytest.MonkeyPatch) -> Iterator[Packages]:
    folder = project.path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    made = Packages(folder)
    yield made
    made.forget()


@pytest.fixture
def checkpoint(packages: Packages) -> Path:
    """A checkpoint that names things of ``weather.config`` in every way there is."""
    import collections
    import functools
    import importlib

    packages.write("weather.config")
    config: Any = importlib.import_module("weather.config")
    weight = torch.arange(6.0)
    averaging = config.Averaging(0.1)
    averaging.weight, averaging.me = weight, averaging
    items = config.Items([1, weight])
    items.note = "of a list"
    inner = config.Outer.Inner()
    inner.kind = config.Kind.B
    tree = {
        "state_dict": {"weight": weight},
        "config": config.Config(averaging=averaging, kind=config.Kind.A, more=(1, averaging, [config.Averaging(2)])),
        "averaging": averaging,
        "items": items,
        "pairs": config.Pairs(a=averaging, b=weight),
        "slots": config.Slots(1, weight),
        "stateful": config.Stateful(),
        "keyword": config.Keyword(width=4),
        "reduced": config.Reduced(),
        "inner": inner,
        "class": config.Averaging,
        "several": [config.Averaging, (config.Averaging, config.build)],
        "partial": functools.partial(config.build, 3),
        "factory": collections.defaultdict(config.build, {"x": averaging}),
        "bare": config.Averaging.__new__(config.Averaging),
    }
    torch.save(tree, "last.ckpt")
    torch.save(tree, "original.ckpt")
    packages.forget()
    return Path("last.ckpt")


def script(
    project: Folder, revision: str, setup: str, migrate: str = "", rollback: str = "", parents: str | None = None
) -> Path:
    """Write a script with a setup; without `migrate`, names are all that changes."""
    text = f'"""change {revision}"""\nfrom anemoi_ckpt_migrate import MigrationContext, pickled_state\n'
    text += f"revision = {revision!r}\ndown_revision = {parents!r}\n"
    text += f"\ndef migrate_setup(context: MigrationContext) -> None:\n{textwrap.indent(setup, '    ')}\n"
    for name, body in (("migrate", migrate), ("rollback", rollback)):
        if body:
            text += f"\ndef {name}(ckpt):\n{textwrap.indent(body, '    ')}\n    return ckpt\n"
    path = project.path / "versions" / f"{revision}_change.py"
    path.write_text(text)
    return path


def load(path: Path | str) -> Any:
    """Load as a user does, who has the classes, or not."""
    return torch.load(path, weights_only=False)


def pickled(path: Path | str) -> set[str]:
    """Return the names in the pickle that are not torch's or Python's own."""
    return {name.name for name in cm.inspect(path).names if name.name.startswith(("weather", "anemoi"))}


def assert_as_before(path: Path | str, original: Path | str = "original.ckpt") -> None:
    """Compare with what it was: every object, what is shared, every bit."""
    with open_checkpoint(original) as one, open_checkpoint(path) as other:
        before, after = one.load(), other.load()
        embed.remove(after, None)

        def same(left: StoredTensor, right: StoredTensor) -> bool:
            return one.same(left, right, other)

        assert first_difference(before, after, same) is None


def test_a_module_moves(project: Folder, packages: Packages, checkpoint: Path) -> None:
    script(project, "a1", 'context.move_module("weather.config", "weather.schemas.training")')
    ran = project.ok("upgrade", "head", checkpoint)
    assert (ran.err, packages.loaded()) == ("", [])
    packages.remove("weather.config")
    packages.write("weather.schemas.training")
    found = load(checkpoint)
    new: Any = sys.modules["weather.schemas.training"]
    assert type(found["config"]) is new.Config
    assert found["config"].kind is new.Kind.A
    assert found["config"].averaging is found["averaging"] is found["averaging"].me is found["factory"]["x"]
    assert type(found["inner"]) is new.Outer.Inner
    assert found["several"] == [new.Averaging, (new.Averaging, new.build)]
    assert (found["partial"](), found["reduced"], found["factory"]["y"]) == ([3], [3], [0])
    assert (found["keyword"].width, found["slots"].one, found["stateful"].state) == (4, 1, (1, 2))
    assert found["pairs"]["b"].data_ptr() == found["state_dict"]["weight"].data_ptr()
    project.ok("downgrade", "base", checkpoint)
    assert_as_before(checkpoint)
    packages.write("weather.config")
    assert load(checkpoint)["config"].kind is sys.modules["weather.config"].Kind.A


def test_the_way_back_of_names_needs_no_script(project: Folder, checkpoint: Path) -> None:
    path = script(project, "a1", 'context.move_attribute("weather.config.Kind", "weather.kinds.Sort")')
    project.ok("upgrade", "head", checkpoint)
    path.unlink()
    project.ok("downgrade", "base", checkpoint)
    assert_as_before(checkpoint)


def test_the_way_back_of_functions_does(project: Folder, checkpoint: Path) -> None:
    moving = 'context.move_module("weather", "climate")'
    path = script(project, "a1", moving, 'ckpt["new"] = 1', 'del ckpt["new"]')
    project.ok("upgrade", "head", checkpoint, "--check-rollback")
    path.unlink()
    before = digest(checkpoint)
    assert project.run("downgrade", "base", checkpoint).code == 3
    assert digest(checkpoint) == before
    project.ok("downgrade", "base", checkpoint, "--trust-checkpoint-code")
    assert_as_before(checkpoint)


def test_migrate_and_rollback_see_the_new_names(project: Folder, checkpoint: Path) -> None:
    look = 'assert pickled_state(ckpt["config"]).name == "weather.schemas.Config"\n'
    script(
        project,
        "a1",
        'context.move_module("weather.config", "weather.schemas")',
        look + 'ckpt["config"].width = int(ckpt["state_dict"]["weight"].sum())',  # content, so that all is done twice
        look + "del ckpt['config'].width",
    )
    project.ok("upgrade", "head", checkpoint)
    with open_checkpoint(checkpoint) as file:
        assert file.load()["config"].width == 15
    project.ok("downgrade", "base", checkpoint)
    assert_as_before(checkpoint)


def test_without_a_rollback_it_is_irreversible(project: Folder, checkpoint: Path) -> None:
    script(project, "a1", 'context.move_module("weather", "climate")', 'ckpt["new"] = 1')
    assert project.ok("upgrade", "head", checkpoint).err == ""
    ran = project.run("downgrade", "base", checkpoint)
    assert (ran.code, "a1" in ran.err) == (3, True)
    assert "irreversible" in project.ok("history").out


MOVES = {
    "moves that follow each other are one": (
        """
        context.move_attribute("weather.config.Config", "weather.one.Config")
        context.move_attribute("weather.one.Config", "weather.two.Settings")
        """,
        {"weather.two.Settings"},
    ),
    "so are those of modules": (
        """
        context.move_module("weather.config", "weather.one")
        context.move_module("weather.one", "weather.two")
        """,
        {"weather.two.Config"},
    ),
    "and of a class to a module that moves then": (
        """
        context.move_attribute("weather.config.Config", "weather.one.Settings")
        context.move_module("weather.one", "weather.two")
        """,
        {"weather.two.Settings"},
    ),
    "and of a class in a module that has moved": (
        """
        context.move_module("weather.config", "weather.one")
        context.move_attribute("weather.one.Config", "weather.two.Settings")
        """,
        {"weather.two.Settings"},
    ),
    "a class goes its own way, whatever comes first": (
        """
        context.move_module("weather", "climate")
        context.move_attribute("weather.config.Config", "weather.Config")
        """,
        {"weather.Config"},
    ),
    "of two modules, the nearer one counts": (
        """
        context.move_module("weather", "climate")
        context.move_module("weather.config", "climate.schemas")
        """,
        {"climate.schemas.Config"},
    ),
    "names that only look alike stay": ('context.move_module("weather.conf", "climate")', {"weather.config.Config"}),
    "into a class": (
        'context.move_attribute("weather.config.Config", "weather.config:Outer.Config")',
        {"weather.config.Outer", "weather.config.Outer.Config"},
    ),
    "a class that is gone does not move with its module": (
        """
        context.move_module("weather", "climate")
        context.delete_attribute("weather.config.Config")
        """,
        set(),
    ),
    "a class that moved out of a module that is gone": (
        """
        context.delete_module("weather.config")
        context.move_attribute("weather.config.Config", "weather.schemas.Config")
        """,
        {"weather.schemas.Config"},
    ),
}


@pytest.mark.parametrize("what", sorted(MOVES))
def test_moves(project: Folder, packages: Packages, what: str) -> None:
    setup, expected = MOVES[what]
    packages.write("weather.config")
    from weather.config import Config  # type: ignore[import-not-found]

    torch.save({"config": Config(), "w": torch.ones(1)}, "last.ckpt")
    torch.save({"config": Config(), "w": torch.ones(1)}, "original.ckpt")
    script(project, "a1", textwrap.dedent(setup).strip())
    project.ok("upgrade", "head", "last.ckpt", "--check-rollback")
    assert pickled("last.ckpt") - {"climate"} == {name for name in expected if name.startswith("weather")}
    assert expected <= {name.name for name in cm.inspect("last.ckpt").names}
    project.ok("downgrade", "base", "last.ckpt")
    assert_as_before("last.ckpt")


def test_classes_within_a_class_move_with_it(project: Folder, packages: Packages, checkpoint: Path) -> None:
    script(project, "a1", 'context.move_attribute("weather.config.Outer", "weather.outer.Outermost")')
    project.ok("upgrade", "head", checkpoint)
    packages.write("weather.outer", "class Outermost:\n    class Inner:\n        pass")
    assert type(load(checkpoint)["inner"]).__qualname__ == "Outermost.Inner"


def test_two_names_may_change_places(project: Folder, checkpoint: Path) -> None:
    script(
        project,
        "a1",
        'context.move_attribute("weather.config.Items", "weather.config.Pairs")\n'
        'context.move_attribute("weather.config.Pairs", "weather.config.Items")',
    )
    # In this order it says: what was Items is Pairs, and all that is Pairs by then is Items.
    ran = project.ok("upgrade", "head", checkpoint, "--output", "other.ckpt")
    assert "cannot be undone here: the checkpoint had both" in ran.err
    script(
        project,
        "a1",
        'context.move_attribute("weather.config.Pairs", "weather.spare.Pairs")\n'
        'context.move_attribute("weather.config.Items", "weather.config.Pairs")\n'
        'context.move_attribute("weather.spare.Pairs", "weather.config.Items")',
    )
    project.ok("upgrade", "head", checkpoint)
    with open_checkpoint(checkpoint) as file:
        tree = file.load()
        assert [cm.pickled_state(tree[key]).name for key in ("items", "pairs")] == [  # type: ignore[union-attr]
            "weather.config.Pairs",
            "weather.config.Items",
        ]
    project.ok("downgrade", "base", checkpoint)
    assert_as_before(checkpoint)


def test_names_that_become_one_lose_the_way_back(project: Folder, checkpoint: Path) -> None:
    script(project, "a1", 'context.move_attribute("weather.config.Items", "weather.config.Pairs")')
    ran = project.run("upgrade", "head", checkpoint, "--check-rollback")
    assert (ran.code, "had both weather.config.Items and weather.config.Pairs" in ran.err) == (3, True)
    ran = project.ok("upgrade", "head", checkpoint)
    assert "a1 (change a1) cannot be undone here: the checkpoint had both" in ran.err
    ran = project.run("downgrade", "base", checkpoint)
    assert (ran.code, "a1" in ran.err) == (3, True)


def test_what_a_checkpoint_does_not_name_is_no_error(project: Folder) -> None:
    script(project, "a1", 'context.move_module("weather", "climate")\ncontext.delete_module("ocean")')
    checkpoint = project.copy()
    before = digest(checkpoint)
    project.ok("upgrade", "head", checkpoint)
    project.ok("downgrade", "base", checkpoint)
    assert_as_before(checkpoint, f"{checkpoint}.bak")
    assert digest(Path(f"{checkpoint}.bak")) == before


def test_what_is_put_aside_moves_too(project: Folder, packages: Packages, checkpoint: Path) -> None:
    declare(project, "a1", 'op.DropItem("averaging")', 'op.DropItem("config")')
    script(project, "b2", 'context.move_module("weather.config", "weather.schemas")', parents="a1")
    project.ok("upgrade", "head", checkpoint)
    packages.remove("weather.config")
    packages.write("weather.schemas")
    assert "config" not in load(checkpoint)
    project.ok("downgrade", "base", checkpoint)
    assert_as_before(checkpoint)


def test_a_stamped_checkpoint_goes_back_too(project: Folder, packages: Packages) -> None:
    setup = """
        context.move_attribute("weather.config.Config", "weather.schemas.Settings")
        context.move_module("weather.config", "weather.schemas")
        context.delete_attribute("weather.config.Averaging")
    """
    script(project, "a1", textwrap.dedent(setup).strip())
    packages.write("weather.schemas", "class Settings:\n    pass\n\ndef build():\n    pass")
    from weather.schemas import Settings, build  # type: ignore[import-not-found]

    torch.save({"config": Settings(), "build": build, "w": torch.ones(1)}, "last.ckpt")
    project.ok("stamp", "head", "last.ckpt")
    project.ok("downgrade", "base", "last.ckpt")
    assert pickled("last.ckpt") == {"weather.config.Config", "weather.config.build"}


def test_what_is_gone_gets_placeholders(project: Folder, packages: Packages, checkpoint: Path) -> None:
    script(project, "a1", 'context.delete_module("weather")')
    ran = project.ok("upgrade", "head", checkpoint, "--check-rollback")
    assert "weather.config.Config was removed, and a placeholder replaces it at config\n" in ran.err
    assert (
        "weather.config.Averaging was removed, and a placeholder replaces it at config.averaging, and 3 more" in ran.err
    )
    assert pickled(checkpoint) == set()
    packages.remove("weather.config")
    found = load(checkpoint)  # with nothing but torch and Python
    averaging = found["averaging"]
    assert (averaging.lr, averaging.missing_class) == (0.1, {"name": "weather.config:Averaging"})
    assert averaging is averaging.me is found["config"].averaging is found["config"].more[1]
    assert averaging.weight.data_ptr() == found["state_dict"]["weight"].data_ptr()
    assert found["items"].missing_class["items"][0] == 1
    assert found["class"]().missing_class["name"] == "weather.config:Averaging"
    assert found["factory"]["y"].missing_class["name"] == "weather.config:build"
    torch.save(found, "again.ckpt")  # as training does that goes on from it
    assert "placeholder for weather.config.Averaging" in project.ok("inspect", checkpoint).out
    for path in (checkpoint, "again.ckpt"):
        project.ok("downgrade", "base", path)
    assert_as_before(checkpoint)
    packages.write("weather.config")
    for path in (checkpoint, "again.ckpt"):
        found = load(path)
        assert (found["config"].averaging.lr, found["config"].kind) == (0.1, sys.modules["weather.config"].Kind.A)
        assert (found["items"][0], found["items"].note, found["slots"].one) == (1, "of a list", 1)
        assert (found["stateful"].state, found["keyword"].width, found["reduced"]) == ((1, 2), 4, [3])
        assert found["factory"]["y"] == [0]
        assert found["several"][1][0] is found["class"] is sys.modules["weather.config"].Averaging


def test_migrate_looks_at_what_is_gone(project: Folder, packages: Packages, checkpoint: Path) -> None:
    script(
        project,
        "a1",
        'context.delete_attribute("weather.config.Averaging")\ncontext.delete_attribute("weather.config.Pairs")',
        """
old = pickled_state(ckpt["averaging"])
assert (old.name, old.placeholder) == ("weather.config.Averaging", False)
ckpt["averaging"] = {"lr": old.attributes["lr"]}
assert list(pickled_state(ckpt["pairs"]).pairs) == ["a", "b"]
assert pickled_state(ckpt["config"].kind).args == ("a",)
assert list(pickled_state(ckpt["slots"]).attributes) == ["one", "two"]
assert pickled_state(ckpt["items"]).items[0] == 1
assert pickled_state(ckpt["class"]).name == "weather.config.Averaging"
assert pickled_state(ckpt["state_dict"]) is pickled_state(ckpt["state_dict"]["weight"]) is None
del ckpt["pairs"]
""",
    )
    script(
        project,
        "b2",
        "pass",
        """
later = pickled_state(ckpt["config"].averaging)
assert (later.name, later.placeholder, later.attributes["lr"]) == ("weather.config.Averaging", True, 0.1)
assert pickled_state(ckpt["class"]).placeholder
""",
        parents="a1",
    )
    project.ok("upgrade", "head", checkpoint)
    found = load(checkpoint)
    assert (found["averaging"], "pairs" in found) == ({"lr": 0.1}, False)


def test_all_of_a_module_and_of_those_below(project: Folder, packages: Packages) -> None:
    for name in ("weather.config", "weather.config.more"):
        packages.write(name, "class Config:\n    pass")
    (packages.folder / "weather" / "config.py").rename(packages.folder / "weather" / "config" / "__init__.py")
    from weather.config import Config
    from weather.config.more import Config as More  # type: ignore[import-not-found]

    for call, left in (
        ('delete_attribute("weather.config.*")', {"weather.config.more.Config"}),
        ('delete_module("weather.config")', set()),
    ):
        torch.save({"a": Config(), "b": More(), "w": torch.ones(1)}, "last.ckpt")
        script(project, "a1", f"context.{call}")
        project.ok("upgrade", "head", "last.ckpt", "--no-backup")
        assert pickled("last.ckpt") == left


@pytest.mark.parametrize(
    ("place", "what"),
    [
        ('{"keys": {Kind.A: 1}}', "is a key in keys"),
        ('{"set": {Kind.A}}', "is a member of a set in set"),
        ('{"kind": Kind.A, "deep": [{(1, Kind.A): 1}]}', "is a key in deep.0"),
    ],
)
def test_where_no_placeholder_can_stand(project: Folder, packages: Packages, place: str, what: str) -> None:
    packages.write("weather.config")
    from weather.config import Kind

    torch.save(eval(place, {"Kind": Kind}) | {"w": torch.ones(1)}, "last.ckpt")
    before = digest(Path("last.ckpt"))
    path = script(project, "a1", 'context.delete_attribute("weather.config.Kind")')
    ran = project.run("upgrade", "head", "last.ckpt")
    assert (ran.code, what in ran.err, "replace it in `migrate`" in ran.err) == (1, True, True)
    assert digest(Path("last.ckpt")) == before
    path.write_text(f"{path.read_text()}\ndef migrate(ckpt):\n    return {{'w': ckpt['w']}}\n")
    project.ok("upgrade", "head", "last.ckpt")


@pytest.mark.parametrize(
    "held", [{}, {"name": "weather"}, {"name": "weather:X", "args": 3}, {"name": "weather:X", "function": 3}]
)
def test_what_only_looks_like_a_placeholder(project: Folder, held: dict[str, Any]) -> None:
    import types

    script(project, "a1", 'context.delete_module("weather")')
    torch.save({"x": types.SimpleNamespace(missing_class=held), "w": torch.ones(1)}, "last.ckpt")
    torch.save({"x": types.SimpleNamespace(missing_class=held), "w": torch.ones(1)}, "original.ckpt")
    project.ok("stamp", "head", "last.ckpt")  # so that what undoes it is told by the script alone
    project.ok("downgrade", "base", "last.ckpt")
    assert_as_before("last.ckpt")


def test_a_dropped_class_is_not_needed_to_load(project: Folder, packages: Packages, checkpoint: Path) -> None:
    declare(project, "a1", 'op.DropClass("weather.config.Pairs")')
    project.ok("upgrade", "head", checkpoint)
    packages.write("weather.config", CONFIG.replace("class Pairs", "class Renamed"))
    assert "pairs" not in load(checkpoint)
    project.ok("downgrade", "base", checkpoint)
    assert_as_before(checkpoint)


FAULTS = {
    'context.move_attribute("Config", "weather.Config")': "a name must be dotted, such as pkg.mod.Class, not 'Config'",
    'context.move_attribute("weather.Config", 3)': "a name must be dotted, such as pkg.mod.Class, not 3",
    'context.move_module("weather.", "climate")': "a name must be dotted, such as pkg.mod, not 'weather.'",
    'context.delete_attribute("*")': "a name must be dotted, such as pkg.mod.Class or pkg.mod.*, not '*'",
    'context.delete_attribute("weather.con*")': "a name must be dotted",
    'context.move_module("weather", "weather")': "weather is moved to its own place",
    'context.move_module("a", "b")\n    context.move_module("a", "c")': "a is moved twice, to b and to c",
    'context.delete_module("a")\n    context.delete_module("a")': "a is deleted twice",
    'context.move_attribute("a.B", "a.C")\n    context.delete_attribute("a.B")': "a.B is moved or the target of a move, so",
    'context.move_attribute("a.B", "a.C")\n    context.delete_attribute("a.C")': "a.C is moved or the target of a move, so",
    'context.delete_module("a")\n    context.move_module("b", "a")': "a is deleted, so it cannot be moved or",
    'context.delete_module("a")\n    context.move_module("b", "a.c")': "b is moved to a.c, which is also deleted",
    'context.delete_module("a")\n    context.move_attribute("b.C", "a.C")': "b.C is moved to a.C, which is also",
    "context.rename()": "`migrate_setup` failed with AttributeError",
    "import weather": "`migrate_setup` failed with ModuleNotFoundError",
    "raise SystemExit(0)": "`migrate_setup` failed with SystemExit",
}


@pytest.mark.parametrize("setup", FAULTS)
def test_what_cannot_be_meant(project: Folder, setup: str) -> None:
    path = project.path / "versions" / "a1_change.py"
    path.write_text(f'revision = "a1"\ndown_revision = None\n\ndef migrate_setup(context):\n    {setup}\n')
    checkpoint = project.copy()
    before = digest(checkpoint)
    for ran in (project.run("upgrade", "head", checkpoint), project.run("check")):
        assert ran.code == 1
        assert FAULTS[setup] in ran.out + ran.err
        assert "versions/a1_change.py:" in ran.out + ran.err
    assert digest(checkpoint) == before


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        ("operations = []", "a script has operations or functions, not both; use op.MoveClass or op.MoveModule"),
        ("def rollback(ckpt):\n    return ckpt", "rollback has no migrate to undo"),
        ("metadata = MigrationMetadata(final=True)", "a barrier (final=True) cannot have migrate_setup"),
        ("async def migrate_setup(context):\n    pass", "migrate_setup must not be async"),
        ("migrate_setup = 3", "migrate_setup must be a function, not 3"),
    ],
)
def test_what_a_script_cannot_be(project: Folder, more: str, fault: str) -> None:
    path = script(project, "a1", "pass")
    path.write_text(f"{path.read_text()}\n{more}\n")
    ran = project.run("heads")
    assert (ran.code, fault in ran.err) == (1, True)


def test_a_new_script_with_a_setup(project: Folder, checkpoint: Path) -> None:
    (made,) = project.ok("revision", "hardware is system", "--with-setup", "--json").lines
    text = Path(made["path"]).read_text()
    assert "def migrate_setup(context: MigrationContext) -> None:" in text
    assert "\ndef rollback" not in text
    project.ok("upgrade", "head", checkpoint)  # it does nothing yet
    with open_checkpoint(checkpoint) as file, open_checkpoint("original.ckpt") as original:
        assert file.names.keys() == original.names.keys()
    assert project.run("downgrade", "base", checkpoint).code == 3  # and claims no way back
    Path(made["path"]).write_text(text.replace("# context.", "context."))
    assert (
        "moved or the target of a move, so it cannot be deleted" in project.run("check").out
    )  # examples, of which one is to be chosen


@pytest.mark.parametrize("other", [["--final"], ["--autogenerate", "original.ckpt", "original.ckpt"]])
def test_a_setup_goes_with_functions_only(project: Folder, checkpoint: Path, other: list[str]) -> None:
    ran = project.run("revision", "new", "--with-setup", *other)
    assert (ran.code, "leave out --with-setup" in ran.err) == (2, True)
    assert list(Path("versions").glob("*.py")) == []


def test_a_template_without_a_place_for_it(project: Folder) -> None:
    (project.path / "mine.mako").write_text('revision = "${revision}"\n')
    (project.path / "ckpt-migrate.toml").write_text('template = "mine.mako"\n')
    ran = project.run("revision", "new", "--with-setup")
    assert (ran.code, "no place for `migrate_setup`" in ran.err) == (1, True)


def test_commands_that_read_tell_of_it(project: Folder, checkpoint: Path) -> None:
    script(project, "a1", 'context.delete_module("weather")')
    assert "(head, setup)" in project.ok("history").out
    assert project.ok("history", "--json").lines[0][0]["sets_up"] is True
    assert "setup     migrate_setup: classes" in project.ok("show", "a1").out
    assert project.ok("show", "a1", "--json").lines[0]["sets_up"] is True
    assert project.ok("check").out == "1 revision: no problems\n"
    project.ok("upgrade", "head", checkpoint)
    assert 'op.ReplacePlaceholders(["weather.config.' in project.ok("show", "a1", "--from", checkpoint).out


def test_scripts_with_a_setup_are_moved_and_squashed(
    project: Folder, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.script("a1")
    project.script("b2", "a1")
    path = script(project, "c3", 'context.move_module("weather", "climate")', parents="a1")
    project.ok("rebase", "c3", "--onto", "b2")
    assert "def migrate_setup" in path.read_text()
    monkeypatch.setenv("EDITOR", "true")
    project.ok("edit", "c3")
    project.ok("squash", "b2:c3", "both", "--rev-id", "S")
    project.ok("upgrade", "head", checkpoint, "--check-rollback")
    with open_checkpoint(checkpoint) as opened:
        opened.load()
        modules = {module for module, _ in opened.names}
    assert "climate.config" in modules
    assert "weather.config" not in modules


def test_the_context_by_itself() -> None:
    context = cm.MigrationContext()
    context.move_attribute(path_start="a.B", path_end="a.C")
    context.move_attribute("a.C", "d.E")
    context.delete_attribute("f.*")
    context.delete_module("g")
    assert context.moved_attributes == {"a.B": "d.E", "a.C": "d.E"}
    assert context.deleted == ["f.*", "g.**"]


def test_a_dry_run_and_check_rollback(project: Folder, checkpoint: Path) -> None:
    script(project, "a1", 'context.delete_module("weather")', 'ckpt["new"] = 1', 'del ckpt["new"]')
    before = digest(checkpoint)
    project.ok("upgrade", "head", checkpoint, "--dry-run")
    project.ok("check", "--rollback", checkpoint)
    assert digest(checkpoint) == before


# What the scripts of anemoi-models say: 1762857427_deprecate_eda, 1763479917_hardware_schema_update and
# 1776237003_rename_swa_to_weight_averaging.
ANEMOI = {
    "deprecate_eda": 'context.delete_module("anemoi.training.schemas.datamodule")',
    "hardware_schema_update": """
context.move_attribute("anemoi.training.schemas.hardware.HardwareSchema", "anemoi.training.schemas.system.HardwareSchema")
context.move_attribute("anemoi.training.schemas.hardware.FilesSchema", "anemoi.training.schemas.system.InputSchema")
context.move_attribute("anemoi.training.schemas.hardware.PathsSchema", "anemoi.training.schemas.system.OutputSchema")
context.move_module("anemoi.training.schemas.hardware", "anemoi.training.schemas.system")
""",
    "rename_swa": 'context.delete_attribute("anemoi.training.schemas.training.SWA")',
}


def test_the_setups_of_anemoi_models(project: Folder, packages: Packages) -> None:
    schemas = "anemoi.training.schemas"
    kinds = "class {}Schema:\n    pass\n"
    packages.write(f"{schemas}.datamodule", "class Eda:\n    pass")
    packages.write(f"{schemas}.training", "class SWA:\n    pass\n\nclass Training:\n    pass")
    packages.write(f"{schemas}.hardware", "".join(map(kinds.format, ("Hardware", "Files", "Paths", "Slurm"))))
    from anemoi.training.schemas import datamodule, hardware, training  # type: ignore[import-not-found]

    config = training.Training()
    config.eda, config.swa = datamodule.Eda(), training.SWA()
    config.swa.lr = 1e-4
    config.hardware = hardware.HardwareSchema()
    config.hardware.files, config.hardware.paths = hardware.FilesSchema(), hardware.PathsSchema()
    config.hardware.slurm = hardware.SlurmSchema()
    tree = {"state_dict": {"w": torch.ones(1)}, "hyper_parameters": {"config": config}}
    for name in ("last.ckpt", "original.ckpt"):
        torch.save(tree, name)
    swa = 'config = ckpt["hyper_parameters"]["config"]\n'
    up = swa + 'ckpt["weight_averaging"] = pickled_state(config.swa).attributes["lr"]\ndel config.swa'
    script(project, "a1", ANEMOI["deprecate_eda"])
    script(project, "b2", ANEMOI["hardware_schema_update"].strip(), parents="a1")
    script(project, "c3", ANEMOI["rename_swa"], up, parents="b2")

    project.ok("upgrade", "b2", "last.ckpt", "--check-rollback")
    project.ok("upgrade", "head", "last.ckpt", "--output", "new.ckpt")
    for gone in ("datamodule", "hardware"):
        packages.remove(f"{schemas}.{gone}")
    packages.write(f"{schemas}.training", "class Training:\n    pass")
    packages.write(f"{schemas}.system", "".join(map(kinds.format, ("Hardware", "Input", "Output", "Slurm"))))
    found = load("new.ckpt")
    new = found["hyper_parameters"]["config"]
    assert [type(new.hardware.files).__name__, type(new.hardware.paths).__name__] == ["InputSchema", "OutputSchema"]
    assert type(new.hardware.slurm).__module__ == f"{schemas}.system"
    assert (new.eda.missing_class["name"], found["weight_averaging"]) == (f"{schemas}.datamodule:Eda", 1e-4)
    assert not hasattr(new, "swa")
    project.ok("downgrade", "base", "last.ckpt")
    assert_as_before("last.ckpt")
