"""Objects of classes that are not imported, changed by functions of a script; and values that older code needs."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from anemoi_ckpt_migrate import op  # noqa: E402
from anemoi_ckpt_migrate.errors import BadOperation  # noqa: E402
from tests.support.operations import declare, equal, without_record  # noqa: E402
from tests.support.project import Folder, digest  # noqa: E402
from tests.support.tensors import slow  # noqa: E402


class Graph:
    """Nodes by name, each with a tensor, which know the graph that they belong to."""

    def __init__(self, **nodes: Any) -> None:
        self.nodes = {name: Nodes(self, value) for name, value in nodes.items()}


class Nodes:
    def __init__(self, graph: Graph, x: Any) -> None:
        self.graph, self.x = graph, x


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module that nobody can import, but for `save` and `load`."""
    made = types.ModuleType("graphs_of_nobody")
    for kind in (Graph, Nodes):
        monkeypatch.setattr(kind, "__module__", made.__name__)
        setattr(made, kind.__name__, kind)
    return made


def save(project: Folder, module: types.ModuleType, tree: Any) -> Path:
    path = project.path / "x.ckpt"
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(sys.modules, module.__name__, module)
        torch.save(tree, path)
    return path


def load(path: Path, module: types.ModuleType) -> Any:
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(sys.modules, module.__name__, module)
        return torch.load(path, weights_only=False)


def described(path: Path, module: types.ModuleType) -> Any:
    """Return what a checkpoint holds, objects as dicts."""

    def plain(value: Any) -> Any:
        if isinstance(value, Graph):
            assert all(nodes.graph is value for nodes in value.nodes.values())
            return {"graph": {name: nodes.x for name, nodes in value.nodes.items()}, **own(value)}
        return {key: plain(inner) for key, inner in value.items()} if isinstance(value, dict) else value

    def own(value: Graph) -> dict[str, Any]:
        return {key: inner for key, inner in vars(value).items() if key != "nodes"}

    return plain(without_record(load(path, module)))


def checkpoint(**nodes: Any) -> dict[str, Any]:
    return {"state_dict": {"w": torch.ones(2)}, "hp": {"graph": Graph(**nodes), "scale": 2}}


TOP = """
def counted(graph, ckpt):
    graph.count = {name: nodes.x.shape[0] * ckpt["hp"]["scale"] for name, nodes in graph.nodes.items()}
    del graph.nodes["unused"]
    return graph


def uncounted(graph, ckpt):
    del graph.count
    return graph
"""
REWRITE = 'op.Rewrite(counted, uncounted, "hp.graph", optional=True, objects=True)'


class TestRewriting:
    @slow
    @given(rows=st.dictionaries(st.sampled_from("abcd"), st.integers(0, 3)))
    def test_there_and_back(self, project: Folder, module: types.ModuleType, rows: dict[str, int]) -> None:
        nodes = {name: torch.rand(count, 2) for name, count in {**rows, "unused": 1}.items()}
        path = save(project, module, checkpoint(**nodes))
        before = described(path, module)
        declare(project, "a1", REWRITE, top=TOP)
        project.ok("upgrade", "head", path, "--check-rollback", "--no-backup")
        graph = described(path, module)["hp"]["graph"]
        assert graph["count"] == {name: value.shape[0] * 2 for name, value in nodes.items()}
        assert list(graph["graph"]) == list(rows)
        project.ok("downgrade", "base", path, "--no-backup")
        assert equal(described(path, module), before)

    def test_no_function_runs_on_the_way_back(self, project: Folder, module: types.ModuleType) -> None:
        path = save(project, module, checkpoint(a=torch.ones(2), unused=torch.zeros(1)))
        before = described(path, module)
        declare(project, "a1", REWRITE, top=TOP)
        project.ok("upgrade", "head", path)
        declare(project, "a1", REWRITE, top=TOP.replace("del graph.count", "raise NotImplementedError"))
        project.ok("downgrade", "base", path)
        assert equal(described(path, module), before)

    def test_tensors_are_not_written_twice(self, project: Folder, module: types.ModuleType) -> None:
        path = save(project, module, checkpoint(a=torch.ones(100_000), unused=torch.zeros(1)))
        size = path.stat().st_size
        declare(project, "a1", REWRITE, top=TOP)
        project.ok("upgrade", "head", path)
        assert path.stat().st_size < 1.1 * size

    def test_what_changed_since_goes_through_the_function(self, project: Folder, module: types.ModuleType) -> None:
        path = save(project, module, checkpoint(a=torch.ones(2), unused=torch.zeros(1)))
        declare(project, "a1", REWRITE, top=TOP)
        project.ok("upgrade", "head", path)
        tree = load(path, module)
        tree["hp"]["graph"].color = "green"
        save(project, module, tree)
        project.ok("downgrade", "base", path)
        assert equal(described(path, module)["hp"]["graph"], {"graph": {"a": torch.ones(2)}, "color": "green"})

    def test_one_that_was_stamped(self, project: Folder, module: types.ModuleType) -> None:
        tree = checkpoint(a=torch.ones(2))
        tree["hp"]["graph"].count = {"a": 4}
        path = save(project, module, tree)
        declare(project, "a1", REWRITE, top=TOP)
        project.ok("stamp", "head", path)
        project.ok("downgrade", "base", path)
        assert equal(described(path, module)["hp"]["graph"], {"graph": {"a": torch.ones(2)}})

    def test_another_kind_of_value(self, project: Folder, module: types.ModuleType) -> None:
        """Two graphs become one, as where each dataset had one."""
        top = "def first(graphs, ckpt):\n    return graphs['one']\ndef each(graph, ckpt):\n    return {'one': graph}\n"
        graphs = {"one": Graph(a=torch.ones(2)), "two": Graph(b=torch.ones(3))}
        path = save(project, module, {"state_dict": {"w": torch.ones(2)}, "hp": {"graph": graphs}})
        before = described(path, module)
        declare(project, "a1", 'op.Rewrite(first, each, "hp.graph", objects=True)', top=top)
        project.ok("upgrade", "head", path, "--check-rollback")
        assert equal(described(path, module)["hp"]["graph"], {"graph": {"a": torch.ones(2)}})
        project.ok("downgrade", "base", path)
        assert equal(described(path, module), before)

    def test_the_content_of_tensors(self, project: Folder, module: types.ModuleType) -> None:
        top = "def up(graph, ckpt):\n    graph.total = graph.nodes['a'].x.sum().item()\n    return graph\n"
        path = save(project, module, checkpoint(a=torch.ones(3)))
        before = described(path, module)
        declare(project, "a1", 'op.Rewrite(up, up, "hp.graph", objects=True)', top=top)
        project.ok("upgrade", "head", path, "--check-rollback")
        assert described(path, module)["hp"]["graph"]["total"] == 3
        project.ok("downgrade", "base", path)
        assert equal(described(path, module), before)

    @pytest.mark.parametrize(
        ("operation", "body", "says"),
        [
            ('op.Rewrite(up, up, "hp.nope", objects=True)', "return value", "there is no hp.nope"),
            ('op.Rewrite(up, up, "hp.graph", objects=True)', "pass", "`up` returned None"),
            ('op.Rewrite(up, up, "hp.graph", objects=True)', "raise ValueError('no nodes')", "no nodes"),
            ('op.Rewrite(up, up, "hp.graph", objects=1)', "return value", "objects must be True or False"),
            ('op.Rewrite(up, up, "hp.graph")', "return {}", "use ConvertItem before"),
        ],
    )
    def test_one_sentence(
        self, project: Folder, module: types.ModuleType, operation: str, body: str, says: str
    ) -> None:
        path = save(project, module, checkpoint(a=torch.ones(2)))
        before = digest(path)
        declare(project, "a1", operation, top=f"def up(value, ckpt):\n    {body}\n")
        ran = project.run("upgrade", "head", path)
        assert (ran.code, says in ran.err, digest(path)) == (1, True, before), ran.err


class TestDefaults:
    """A dropped item without which older code does not work."""

    DROP = 'op.DropItem("hp.*.cache", optional=True, default={"size": 3})'

    def saved(self, project: Folder, hp: Any) -> Path:
        path = project.path / "x.pt"
        torch.save({"state_dict": {"w": torch.ones(2)}, "hp": hp}, path)
        return path

    def read(self, path: Path) -> Any:
        return without_record(torch.load(path, weights_only=True))["hp"]

    @slow
    @given(hp=st.dictionaries(st.sampled_from("abc"), st.dictionaries(st.sampled_from(["cache", "x"]), st.integers())))
    def test_what_was_migrated_comes_back_as_it_was(self, project: Folder, hp: Any) -> None:
        path = self.saved(project, hp)
        declare(project, "a1", self.DROP)
        project.ok("upgrade", "head", path, "--check-rollback", "--no-backup")
        assert not any("cache" in each for each in self.read(path).values())
        project.ok("downgrade", "base", path, "--no-backup")
        assert self.read(path) == hp

    def test_what_was_stamped_gets_the_default(self, project: Folder) -> None:
        path = self.saved(project, {"a": {"x": 1}, "b": {"cache": 7}, "c": 4})
        declare(project, "a1", self.DROP)
        project.ok("stamp", "head", path)
        project.ok("downgrade", "base", path)
        assert self.read(path) == {"a": {"x": 1, "cache": {"size": 3}}, "b": {"cache": 7}, "c": 4}

    def test_none_is_a_default_too(self) -> None:
        assert repr(op.DropItem("a.b", default=None).inverse()) == 'SetItem(["a", "b"], None, overwrite=False)'
        assert op.DropItem("a.b").inverse() is None

    def test_what_makes_no_sense(self, project: Folder) -> None:
        with pytest.raises(BadOperation, match="DropItem: default holds a set"):
            op.DropItem("a", default={1}).check_written()
        declare(project, "a1", 'op.DropItem("a", default=b"x")')
        ran = project.run("check")
        assert (ran.code, "DropItem: default holds a bytes" in ran.out) == (1, True), ran.out
