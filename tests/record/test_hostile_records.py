"""Records that somebody wrote who means harm: what undoes a revision is data, and runs nothing that no script names.

Each starts from a real checkpoint that was upgraded, whose record is then changed with the package's own reader and
writer: it is refused for what it says, and not for how it is spelled.

    data of the record --> operations --> functions that the script's operations name --> new names of the pickle, judged
    code of the record ------------------- only with --trust-checkpoint-code ----------->
"""

from __future__ import annotations

import base64
import hashlib
import io
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

torch = pytest.importorskip("torch")

from anemoi_ckpt_migrate import MigrateError, inspect, load, stamped  # noqa: E402
from anemoi_ckpt_migrate.operations.missing_classes import placeholders  # noqa: E402
from anemoi_ckpt_migrate.record.embed import ATTACHMENT, KEY  # noqa: E402
from anemoi_ckpt_migrate.runtime.carried_code import PYTHON  # noqa: E402
from anemoi_ckpt_migrate.state.stash import packed  # noqa: E402
from anemoi_ckpt_migrate.storage import COPY_ENTRY, open_checkpoint, torch_file  # noqa: E402
from anemoi_ckpt_migrate.storage.pickle.opaque import Calls, Opaque, opaque_name  # noqa: E402
from tests.support.operations import declare  # noqa: E402
from tests.support.project import Folder, digest  # noqa: E402

TRUST = "--trust-checkpoint-code"
# A script of its author's: it imports more than its operations name, as every script does.
TOP = """
from os import system
from pathlib import Path

def plant(ckpt, *more):
    Path("planted").touch()
    return ckpt

def double(ckpt, *more):
    return ckpt | {"doubled": True}

def halve(ckpt, *more):
    del ckpt["doubled"]
    return ckpt

def say(ckpt):
    return []
"""
SOURCE = TOP.replace("def plant", "def hidden")


@pytest.fixture
def checkpoint(project: Folder) -> Path:
    path = project.path / "a.ckpt"
    torch.save({"state_dict": {"l.weight": torch.ones(2)}, "hp": {"lr": 1}, "command": "touch planted"}, path)
    return path


def rewritten(path: Path, change: Callable[[dict[str, Any], Any], None]) -> Path:
    """Change the record of a checkpoint, and what else it holds."""
    with open_checkpoint(path) as file:
        tree = file.load()
        change(tree[KEY], tree)
        file.write(file.pickled(tree), {}, backup=False)
    return path


def with_undo(path: Path, *operations: dict[str, Any], **more: Any) -> Path:
    """Have the record say that something else undoes the last revision."""

    def change(record: dict[str, Any], tree: Any) -> None:
        record["format"] = 1
        undo = {"source": "", "python": None, "pickle": None, "operations": list(operations), "parameters": None}
        record["lineage"][-1]["undo"] = undo | more

    return rewritten(path, change)


def refused(project: Folder, path: Path, says: str, *words: object) -> None:
    """Check that a way down is refused with code 3, dry too, and neither runs anything nor changes the file."""
    before = digest(path)
    for more in ([], ["--dry-run"]):
        ran = project.run(*(words or ("downgrade", "base")), path, *more)
        assert (ran.code, says in ran.err) == (3, True), ran
    assert digest(path) == before
    assert not Path("planted").exists()


# ------------------------------------------------------------------------- functions under an id that a script has

CALLS = {
    "run": {"op": "Run", "migrate": "plant"},
    "imported": {"op": "Run", "migrate": "system"},
    "rewrite": {"op": "Rewrite", "migrate": "plant", "rollback": "plant", "path": ["hp"]},
    "derive": {"op": "Derive", "migrate": "plant", "rollback": "plant"},
    "within": {"op": "At", "paths": ["command"], "operations": [{"op": "Run", "migrate": "system"}]},
    "within, rewrite": {
        "op": "At",
        "paths": ["hp"],
        "operations": [{"op": "Rewrite", "migrate": "plant", "rollback": "plant", "path": ["x"], "optional": True}],
    },
    "beside the pickle": {
        "op": "RestoreEntry",
        "record": "about.json",
        "path": [],
        "number": 0,
        "digest": "",
        "operations": [{"op": "Run", "migrate": "plant"}],
    },
    "what goes up": {"op": "Run", "migrate": "double", "rollback": "halve"},
    "of another kind": {"op": "Derive", "migrate": "halve", "rollback": "double"},
}


@pytest.mark.parametrize("call", CALLS)
def test_functions_that_the_operations_of_the_script_do_not_name(project: Folder, checkpoint: Path, call: str) -> None:
    declare(project, "a1", "op.Run(double, halve)", top=TOP)
    project.ok("upgrade", "head", checkpoint)
    with_undo(checkpoint, CALLS[call])
    refused(project, checkpoint, "but the operations of its script do not, and the checkpoint has no rollback")
    assert project.run("downgrade", "base", checkpoint, TRUST).code == 3  # there is nothing to be trusted
    with_undo(checkpoint, CALLS[call], source=SOURCE)
    refused(project, checkpoint, f"runs only with {TRUST}; read it first with `ckpt-migrate show a1 --from")


def test_the_way_out_of_such_a_record(project: Folder, checkpoint: Path) -> None:
    declare(project, "a1", "op.Run(double, halve)", top=TOP)
    project.ok("upgrade", "head", checkpoint)
    with_undo(checkpoint, CALLS["run"])
    project.ok("stamp", "head", checkpoint)  # it takes what was recorded for what was applied
    assert "`ckpt-migrate stamp --purge TARGET CKPT`" in project.run("downgrade", "base", checkpoint).err
    project.ok("stamp", "--purge", "head", checkpoint)
    assert "nothing to do" in project.ok("stamp", "--purge", "head", checkpoint).out
    project.ok("downgrade", "base", checkpoint)
    assert "doubled" not in torch.load(checkpoint, weights_only=True)


def test_what_is_trusted_is_the_code_of_the_checkpoint(project: Folder, checkpoint: Path) -> None:
    """Not a function of the script here that happens to be called so; and the plan says whose code it is."""
    declare(project, "a1", "op.Run(double, halve)", top=TOP)
    project.ok("upgrade", "head", checkpoint)
    with_undo(checkpoint, CALLS["run"], source='def plant(ckpt):\n    ckpt["by"] = "the checkpoint"\n    return ckpt\n')
    ran = project.ok("downgrade", "base", checkpoint, TRUST)
    assert "downgrade a1  change a1  (code from the checkpoint)" in ran.out
    assert not Path("planted").exists()
    assert torch.load(checkpoint, weights_only=True)["by"] == "the checkpoint"


def test_functions_that_the_operations_name_need_no_trust(project: Folder, checkpoint: Path) -> None:
    operations = ("op.Run(double, halve)", "op.Rewrite(double, halve, 'hp')", "op.At(['hp'], [op.Run(double, halve)])")
    declare(project, "a1", operations[0], operations[1], "op.Derive(say, say)", top=TOP)
    before = torch.load(checkpoint, weights_only=True)
    project.ok("upgrade", "head", checkpoint)
    project.ok("downgrade", "base", checkpoint)
    after = torch.load(checkpoint, weights_only=True)
    assert (after["hp"], "doubled" in after) == (before["hp"], False)


LEFT_OUT = {
    "run": (["op.Run(double, halve)"], []),
    "one of two": (["op.Run(double, halve)", "op.Run(again, again)"], [0]),
    "run among data": (['op.SetItem("new", 1)', "op.Run(double, halve)"], [1]),
    "rewrite": (['op.Rewrite(same, same, "hp")'], []),
    "within": (['op.At(["hp"], [op.Run(same, same)])'], []),
    "one of two places": (['op.At(["hp", "more"], [op.Run(same, same)])'], [0]),
    "one place for another": (['op.At(["hp", "more"], [op.Run(same, same)])'], [0, 0]),
    "within, at any place": (['op.At(["more.*"], [op.Run(same, same)])'], []),
    "in another order": (['op.At(["hp"], [op.Run(same, same)])', "op.Run(double, halve)"], [1, 0]),
    "twice": (["op.Run(double, halve)"], [0, 0]),
}


@pytest.fixture
def larger(checkpoint: Path) -> Path:
    torch.save(torch.load(checkpoint, weights_only=True) | {"more": {"one": {}, "two": {}}}, checkpoint)
    return checkpoint


@pytest.mark.parametrize("case", LEFT_OUT)
def test_a_record_leaves_out_what_the_script_runs(project: Folder, larger: Path, case: str) -> None:
    operations, left = LEFT_OUT[case]
    top = f"{TOP}\ndef same(part, *more):\n    return part\n\ndef again(ckpt):\n    return ckpt\n"
    declare(project, "a1", *operations, top=top)
    project.ok("upgrade", "head", larger)
    sound = larger.read_bytes()

    def change(record: dict[str, Any], tree: Any) -> None:
        undo = record["lineage"][-1]["undo"]
        undo["operations"] = [undo["operations"][number] for number in left]

    rewritten(larger, change)
    refused(project, larger, "the record of a1 does not run ")
    assert "`ckpt-migrate stamp --purge TARGET CKPT`" in project.run("downgrade", "base", larger).err
    larger.write_bytes(sound)
    assert "changed since" not in project.ok("downgrade", "base", larger).err


def test_the_way_out_where_a_call_is_left_out(project: Folder, checkpoint: Path) -> None:
    declare(project, "a1", "op.Run(double, halve)", top=TOP)
    project.ok("upgrade", "head", checkpoint)
    with_undo(checkpoint)
    forged = checkpoint.read_bytes()
    project.ok("downgrade", "base", checkpoint, TRUST)
    assert "doubled" in torch.load(checkpoint, weights_only=True)  # as the record has it
    checkpoint.write_bytes(forged)
    project.ok("stamp", "--purge", "head", checkpoint)
    project.ok("downgrade", "base", checkpoint)
    assert "doubled" not in torch.load(checkpoint, weights_only=True)


def test_a_script_that_got_a_call_since(project: Folder, checkpoint: Path) -> None:
    """What an older script left is undone as it was applied, and never without a word."""
    declare(project, "a1", 'op.SetItem("new", 1)', top=TOP)
    project.ok("upgrade", "head", checkpoint)
    script = declare(project, "a1", 'op.SetItem("new", 1)', "op.Run(double, halve)", top=TOP)
    ran = project.ok("downgrade", "base", checkpoint, "--dry-run")
    assert "the script of a1 (change a1) has changed since it was applied" in ran.err
    project.ok("downgrade", "base", checkpoint)
    assert "new" not in torch.load(checkpoint, weights_only=True)
    # The signature is the attacker's too: what the record calls the text of the script has to be another one as well.
    project.ok("upgrade", "head", checkpoint)
    with_undo(checkpoint, source=script.read_text())
    rewritten(checkpoint, lambda record, tree: record["lineage"][-1].update(signature="0" * 64))
    refused(project, checkpoint, "the record of a1 does not run halve, which the rollback in its script does")


def test_what_the_script_leaves_to_the_checkpoint_may_be_missing(project: Folder, larger: Path) -> None:
    operations = (
        'op.Rewrite(double, halve, "nothing", optional=True)',
        'op.At(["nothing.*", "nothing"], [op.Run(double, halve)], optional=True)',
        'op.At(["more.*"], [op.Run(double, halve)])',
        'op.At(["more.*"], [op.Run(double, halve)], optional=True)',
        "op.Derive(say, say)",
        'op.At(["more.one"], [op.SetItem("x", 1)])',
    )
    top = TOP.replace("del ckpt", "ckpt = dict(ckpt)\n    ckpt.pop").replace('pop["doubled"]', 'pop("doubled", None)')
    declare(project, "a1", *operations, top=top)
    before = torch.load(larger, weights_only=True)
    project.ok("upgrade", "head", larger)
    assert torch.load(larger, weights_only=True)["more"]["two"] == {"doubled": True}
    ran = project.ok("downgrade", "base", larger)
    assert "changed since" not in ran.err
    assert torch.load(larger, weights_only=True)["more"] == before["more"]
    declare(project, "a1", *operations[:-1], top=top)
    project.ok("stamp", "head", larger)
    project.ok("downgrade", "base", larger)


def test_a_function_by_value(project: Folder, checkpoint: Path) -> None:
    declare(project, "a1", "op.Run(double, halve)", top=TOP)
    project.ok("upgrade", "head", checkpoint)
    module = types.ModuleType("_carried")
    exec(TOP, module.__dict__)
    pickled = base64.b64encode(cloudpickle.dumps(module.plant)).decode()
    with_undo(checkpoint, CALLS["run"], pickle=pickled, python=PYTHON)
    refused(project, checkpoint, "it is a pickle, which cannot be read first")


@pytest.mark.parametrize("operations", [(), (CALLS["run"],), ({"op": "SetItem", "path": ["hp"], "value": 0},)])
def test_a_script_of_functions_is_undone_by_its_own(
    project: Folder, checkpoint: Path, operations: tuple[dict[str, Any], ...]
) -> None:
    project.script("a1", None, "pass", 'ckpt["by"] = "the script"', top=TOP)
    project.ok("upgrade", "head", checkpoint)
    with_undo(checkpoint, *operations, source=SOURCE)
    project.ok("downgrade", "base", checkpoint)
    assert not Path("planted").exists()
    found = torch.load(checkpoint, weights_only=True)
    assert (found["by"], found["hp"]) == ("the script", {"lr": 1})


def test_a_record_cannot_say_that_such_a_script_has_no_way_back(project: Folder, checkpoint: Path) -> None:
    project.script("a1", None, "pass", 'ckpt["by"] = "the script"')
    project.ok("upgrade", "head", checkpoint)
    with_undo(checkpoint, operations=None, lost="nothing does")
    project.ok("downgrade", "base", checkpoint)
    assert torch.load(checkpoint, weights_only=True)["by"] == "the script"


def test_a_script_of_functions_without_a_way_back(project: Folder, checkpoint: Path) -> None:
    script = project.script("a1", None, "pass", 'ckpt["by"] = "the checkpoint"')
    project.ok("upgrade", "head", checkpoint)
    script.write_text(script.read_text().partition("def rollback")[0])
    refused(
        project, checkpoint, "the script of a1 has no rollback, and the rollback that the checkpoint carries runs only"
    )
    project.ok("downgrade", "base", checkpoint, TRUST)
    assert torch.load(checkpoint, weights_only=True)["by"] == "the checkpoint"


def test_data_does_not_stand_in_for_the_rollback_of_a_script_with_a_setup(project: Folder, checkpoint: Path) -> None:
    script = project.script("a1", None, "pass", 'ckpt["by"] = "the script"', top=TOP)
    script.write_text(script.read_text() + '\ndef migrate_setup(context):\n    context.delete_attribute("old.Thing")\n')
    project.ok("upgrade", "head", checkpoint)
    own = {"op": "Run", "migrate": "rollback", "rollback": "migrate"}
    for operations in ((), (CALLS["run"],), (own, CALLS["run"]), ({"op": "At", "paths": ["hp"], "operations": [own]},)):
        path = project.path / "b.ckpt"
        path.write_bytes(checkpoint.read_bytes())
        with_undo(path, *operations, source=SOURCE)
        project.ok("downgrade", "base", path)
        assert not Path("planted").exists()
        assert torch.load(path, weights_only=True)["by"] == "the script"


def test_parts_of_a_squashed_script(project: Folder, checkpoint: Path) -> None:
    declare(project, "a1", "op.Run(double, halve)", top=TOP)
    declare(project, "a2", 'op.SetItem("new", 1)', parents="a1")
    project.ok("upgrade", "a1", checkpoint)
    project.ok("squash", "a1:a2", "both")
    assert not (project.path / "versions" / "a1_change.py").exists()
    sound = checkpoint.read_bytes()
    for name in ("plant", "_part_1_plant", "_part_1_halve"):
        with_undo(checkpoint, {"op": "Run", "migrate": name})
        refused(project, checkpoint, f"the record of a1 runs {name}, but the operations of its script do not")
    checkpoint.write_bytes(sound)
    project.ok("downgrade", "base", checkpoint)
    assert "doubled" not in torch.load(checkpoint, weights_only=True)


def test_migrations_that_another_tool_noted(project: Folder, checkpoint: Path) -> None:
    """Nobody has to write a record: one is made of the list of the other tool, and code in that is code of the file."""
    script = project.script("a1", None, "pass", 'ckpt["by"] = "the script"', top=TOP)
    script.write_text(script.read_text() + '\nknown_as = {"1700000000_old": {"ours": "abc"}}\n')
    project.ok("upgrade", "head", checkpoint)
    with_undo(checkpoint, CALLS["run"], source=SOURCE)
    rewritten(checkpoint, lambda record, tree: record["lineage"][-1].update(known_as={"1700000000_old": "abc"}))
    project.ok("downgrade", "base", checkpoint)
    assert not Path("planted").exists()
    assert torch.load(checkpoint, weights_only=True)["by"] == "the script"


@pytest.mark.parametrize(
    "words",
    [
        ("current",),
        ("history",),
        ("inspect",),
        ("show", "a1", "--from"),
        ("check", "--rollback"),
        ("upgrade", "head"),
        ("upgrade", "head", "--check-rollback"),
        ("sync",),
        ("sync", "--dry-run"),
        ("stamp", "a1"),
    ],
)
@pytest.mark.parametrize("known", [True, False])
def test_no_other_command_runs_it(project: Folder, checkpoint: Path, words: tuple[str, ...], known: bool) -> None:
    script = declare(project, "a1", "op.Run(double, halve)", top=TOP)
    project.ok("upgrade", "head", checkpoint)
    source = f'open("planted", "w")\n{TOP}'
    with_undo(checkpoint, CALLS["run"], source=source, pickle="gASV", python=PYTHON)
    if not known:
        script.unlink()
    declare(project, "a2", 'op.SetItem("new", 1)', parents="a1" if known else None)
    ran = project.run(*words, checkpoint)
    assert ran.code in (0, 1, 3), ran
    assert not Path("planted").exists()
    if words[0] == "sync" and not known:
        assert (ran.code, TRUST in ran.err) == (3, True)


@pytest.mark.parametrize("broken", [{"op": "Tie", "groups": 3}, {"op": "Tie", "groups": [["a"], ["a"]]}])
def test_operations_that_cannot_be_read_are_shown_as_such(
    project: Folder, checkpoint: Path, broken: dict[str, Any]
) -> None:
    """Looking at what a record holds is what messages recommend: nothing in it stops that."""
    declare(project, "a1", 'op.SetItem("new", 1)')
    project.ok("upgrade", "head", checkpoint)
    with_undo(checkpoint, broken)
    assert "the rollback of a1: Tie: " in project.ok("show", "a1", "--from", checkpoint).out
    refused = project.run("downgrade", "base", checkpoint)
    assert (refused.code, "the migration record in the checkpoint is damaged" in refused.err) == (1, True)


def test_training_goes_on_without_running_it(project: Folder, checkpoint: Path) -> None:
    declare(project, "a1", "op.Run(double, halve)", top=TOP)
    project.ok("upgrade", "head", checkpoint)
    with_undo(checkpoint, CALLS["run"], source=f'open("planted", "w")\n{TOP}')
    tree = load(checkpoint, weights_only=True)
    torch.save(stamped({"state_dict": {}}, resumed=tree), "next.ckpt")
    assert not Path("planted").exists()
    refused(project, Path("next.ckpt"), "but the operations of its script do not")


# ---------------------------------------------------------------------- names that the pickle would have beyond its own


class Config:
    """What stands in a checkpoint, harmless: its name is all that is used of it."""

    def __init__(self, *args: Any) -> None:
        self.args = args

    def __reduce__(self) -> Any:
        return Config, ("touch planted",)


def harmless(path: Path, value: Any = None) -> Path:
    """Write a checkpoint that `inspect` calls harmless, at base, with an object of a class of its author's."""
    torch.save({"state_dict": {"l.weight": torch.ones(2)}, "x": Config() if value is None else value}, path)
    data = path.read_bytes()
    name = f"c{Config.__module__}\nConfig\n".encode()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.namelist():
            content = old.read(entry)
            new.writestr(
                entry, content.replace(name, b"cmy.models\nConfig\n") if entry.endswith("data.pkl") else content
            )
    return path


def standings(path: Path) -> dict[str, str]:
    return {name.name: name.standing for name in inspect(path).names}


def placeholder() -> Opaque:
    """Return a placeholder that stands for a call of what is no class at all."""
    made = opaque_name("types", "SimpleNamespace", Calls())()
    made.__setstate__({placeholders.KEY: {"name": "posix:system", "args": ("touch planted",), "called": True}})
    return made


def kept() -> list[Any]:
    return packed([opaque_name("posix", "system", Calls())("touch planted")], [])


LAUNDRY: dict[str, tuple[dict[str, Any], Callable[[dict[str, Any], Any], None]]] = {
    "MoveClass": ({"op": "MoveClass", "old": "my.models.Config", "new": "posix.system"}, lambda record, tree: None),
    "MoveModule": ({"op": "MoveModule", "old": "my.models", "new": "os"}, lambda record, tree: None),
    "MoveNames": ({"op": "MoveNames", "classes": [["my.models.Config", "posix.system"]]}, lambda record, tree: None),
    "ReplacePlaceholders": (
        {"op": "ReplacePlaceholders", "names": ["posix.system"]},
        lambda record, tree: tree.update(x=placeholder()),
    ),
    "what was put aside": (
        {"op": "RestoreItem", "path": ["x"], "number": 0, "before": None, "placed": False},
        lambda record, tree: record.update(stash={record["lineage"][-1]["revision"]: kept()}),
    ),
    "what was put aside, where a class is back": (
        {"op": "UnsetItem", "path": ["x"], "value": None, "had": True, "number": 0},
        lambda record, tree: (tree.update(x=None), record.update(stash={record["lineage"][-1]["revision"]: kept()})),
    ),
}


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("attack", LAUNDRY)
def test_no_name_becomes_one_that_runs_code(project: Folder, attack: str, known: bool) -> None:
    path = harmless(project.path / "a.ckpt")
    script = declare(project, "a1", 'op.SetItem("new", 1)')
    project.ok("upgrade", "head", path)
    operation, change = LAUNDRY[attack]
    name = "os.Config" if attack == "MoveModule" else "posix.system"
    rewritten(with_undo(path, operation), change)
    assert "dangerous" not in standings(path).values()
    if not known:
        script.unlink()
    refused(project, path, f"the file would newly name {name}")
    ran = project.run("downgrade", "base", path, "--dry-run", "--json")
    assert (ran.code, ran.lines[0]["error"]["type"]) == (3, "DangerousNames")
    plan = project.ok("downgrade", "base", path, "--dry-run", TRUST)
    assert "code from the checkpoint" not in plan.out
    assert f"the file will newly name {name}, which is dangerous: loading the file could run any code" in plan.out
    names = project.ok("downgrade", "base", path, "--dry-run", TRUST, "--json").lines[0]["new_names"]
    assert {"name": name, "standing": "dangerous"} in names
    project.ok("downgrade", "base", path, TRUST)
    assert "dangerous" in standings(path).values()
    assert not Path("planted").exists()


class Outer:
    class Inner:
        """What a pickle of protocol 2 spells with `getattr`, which is harmless there."""


def test_a_name_that_is_harmless_where_it_stands_is_not_so_elsewhere(project: Folder) -> None:
    path = harmless(project.path / "a.ckpt", [Config(), Outer.Inner])
    declare(project, "a1", 'op.SetItem("new", 1)')
    project.ok("upgrade", "head", path)
    assert standings(path)["__builtin__.getattr"] == "known"
    with_undo(path, {"op": "MoveClass", "old": "my.models.Config", "new": "__builtin__.getattr"})
    refused(project, path, "the file would newly name __builtin__.getattr")


def test_what_was_harmless_before_it_was_written_in_place_is_so_still(
    project: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file of before is judged by its own pickle, and each pickle is walked through once."""
    walked, real = [], torch_file.handed_on

    def counting(data: bytes, names: Any) -> bool:
        walked.append(data)
        return real(data, names)

    monkeypatch.setattr(torch_file, "handed_on", counting)
    path = harmless(project.path / "a.ckpt", [Config(), Outer.Inner])
    before = digest(path)
    declare(project, "a1", 'op.DropItem("x")')
    project.ok("upgrade", "head", path, "--in-place")
    del walked[:]
    project.ok("downgrade", "base", path, "--in-place")
    assert digest(path) == before
    assert walked
    assert len(walked) == len(set(walked))
    with open_checkpoint(path) as file:
        file.load()
        del walked[:]
        assert file.names == file.names
        assert len(walked) == 1


def test_a_name_within_another_is_one_name(project: Folder) -> None:
    """Protocol 2 spells it by way of the outer one, which the file need not name by itself."""
    path = harmless(project.path / "a.ckpt")
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.namelist():
            dotted = b"X\x06\0\0\0shutilX\x09\0\0\0os.system\x93"
            new.writestr(entry, old.read(entry).replace(b"cmy.models\nConfig\n", dotted))
    declare(project, "a1", 'op.SetItem("new", 1)')
    assert project.ok("upgrade", "head", path, "--json").lines[0]["new_names"] == []


def test_sync_does_not_let_one_through(project: Folder) -> None:
    path = harmless(project.path / "a.ckpt")
    script = declare(project, "a1", 'op.SetItem("new", 1)')
    project.ok("upgrade", "head", path)
    with_undo(path, LAUNDRY["MoveClass"][0])
    script.unlink()
    declare(project, "b1", 'op.SetItem("other", 1)')
    refused(project, path, "the file would newly name posix.system", "sync")
    project.ok("sync", path, TRUST)


def test_a_module_that_moves_does_not_take_others_along(project: Folder) -> None:
    """The script means `numpy`; that something dangerous lies below it, the file brings about."""
    path = harmless(project.path / "a.ckpt")
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.namelist():
            new.writestr(entry, old.read(entry).replace(b"cmy.models\nConfig\n", b"cmy.f2py\nConfig\n"))
    declare(project, "a1", 'op.MoveModule("my", "numpy")')
    refused(project, path, "the file would newly name numpy.f2py.Config", "upgrade", "head")
    with pytest.raises(MigrateError, match=r"numpy\.f2py\.Config"):
        load(path)
    project.ok("upgrade", "head", path, TRUST)
    assert standings(path)["numpy.f2py.Config"] == "dangerous"


@pytest.mark.parametrize(
    ("operation", "names"),
    [
        ('op.MoveClass("my.models.Config", "torch.distributed.tensor.Config")', "torch.distributed.tensor.Config"),
        ('op.MoveModule("my.models", "torch.distributed.tensor")', "torch.distributed.tensor.Config"),
    ],
)
def test_a_name_that_the_script_spells_out_is_the_word_of_its_author(
    project: Folder, operation: str, names: str
) -> None:
    path = harmless(project.path / "a.ckpt")
    declare(project, "a1", operation)
    ran = project.ok("upgrade", "head", path, "--json")
    assert ran.lines[0]["new_names"] == [{"name": names, "standing": "dangerous"}]
    project.ok("downgrade", "base", path)
    assert project.ok("upgrade", "head", path).out.count("which is dangerous") == 1


def test_a_dangerous_class_comes_back_where_the_script_dropped_it(project: Folder) -> None:
    path = harmless(project.path / "a.ckpt")
    declare(project, "a1", 'op.MoveClass("my.models.Config", "torch.distributed.tensor.Config")')
    declare(project, "a2", 'op.DropClass("torch.distributed.tensor.Config")', parents="a1")
    project.ok("upgrade", "head", path)
    assert "dangerous" not in standings(path).values()
    project.ok("downgrade", "a1", path)
    assert "dangerous" in standings(path).values()


def test_bytes_of_before_in_the_file(project: Folder) -> None:
    """A file can hold what it was before it was written in place: going back to that brings names too."""
    path = project.path / "a.ckpt"
    torch.save({"state_dict": {"l.weight": torch.ones(2)}, "x": Config()}, path)
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.namelist():
            name = f"c{Config.__module__}\nConfig\n".encode()
            new.writestr(entry, old.read(entry).replace(name, b"cposix\nsystem\n"))
    declare(project, "a1", 'op.DropItem("x")')
    project.ok("upgrade", "head", path, "--in-place")
    assert "dangerous" not in standings(path).values()
    refused(project, path, "the file would newly name posix.system")
    assert "restored" not in project.ok("downgrade", "base", path, TRUST).err
    assert standings(path)["posix.system"] == "dangerous"


def test_a_name_that_was_there_needs_nothing(project: Folder) -> None:
    path = harmless(project.path / "a.ckpt")
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.namelist():
            new.writestr(entry, old.read(entry).replace(b"cmy.models\nConfig\n", b"cposix\nsystem\n"))
    declare(project, "a1", 'op.MoveItem("x", "y")')
    assert project.ok("upgrade", "head", path, "--json").lines[0]["new_names"] == []
    project.ok("downgrade", "base", path)


# --------------------------------------------------------------------------------------------- records beside the pickle


def attached(project: Folder, path: Path, **records: bytes) -> Path:
    with zipfile.ZipFile(path, "a") as archive:
        root = archive.namelist()[0].partition("/")[0]
        for name, content in records.items():
            archive.writestr(f"{root}/{name}", content)
    return path


@pytest.mark.parametrize(
    "name", [ATTACHMENT, "ckpt_migrate/previous.json", COPY_ENTRY, "version", "data.pkl", "data/0", "../x"]
)
def test_only_what_others_keep_beside_the_pickle_is_changed(project: Folder, checkpoint: Path, name: str) -> None:
    declare(project, "a1", 'op.SetItem("new", 1)')
    project.ok("upgrade", "head", checkpoint)
    content = zipped(checkpoint).get(name, b'{"length": 1}')
    back = {"op": "RestoreEntry", "record": name, "path": [], "number": 0, "operations": [{"op": "NoOperation"}]}
    with_undo(checkpoint, back | {"digest": hashlib.sha256(content).hexdigest()})
    rewritten(checkpoint, lambda record, tree: record.update(stash={"a1": [[0, "{}", 0]]}))
    if name.startswith("ckpt_migrate/"):
        attached(project, checkpoint, **{name: content})
    before = zipped(checkpoint)
    ran = project.run("downgrade", "base", checkpoint)
    assert ran.code in (0, 1), ran
    assert {name for name, content in zipped(checkpoint).items() if before.get(name) != content} <= {
        "data.pkl",
        COPY_ENTRY,
    }


def test_what_is_put_back_beside_the_pickle_is_json(project: Folder, checkpoint: Path) -> None:
    declare(project, "a1", 'op.At([], [op.SetItem("lr", 2)], records={"about.json": ""})')
    attached(project, checkpoint, **{"about.json": b'{"lr": 1}'})
    project.ok("upgrade", "head", checkpoint)
    for aside in ([0, "import os", 0], [0, "", 1000], [-1, "x", 0]):
        rewritten(checkpoint, lambda record, tree, aside=aside: record.update(stash={"a1": [aside]}))  # type: ignore[misc]
        before = digest(checkpoint)
        assert project.run("downgrade", "base", checkpoint).code == 1
        assert digest(checkpoint) == before
    rewritten(checkpoint, lambda record, tree: record.update(stash={"a1": [[7, "1" * 1000, 1]]}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("anemoi_ckpt_migrate.state.archive_json.MOST", 1000)  # what it is, a test has no time to write
        assert "would have 1,008 bytes" in project.run("downgrade", "base", checkpoint).err
    rewritten(checkpoint, lambda record, tree: record.update(stash={"a1": [[7, "1", 1]]}))
    project.ok("downgrade", "base", checkpoint)
    assert zipped(checkpoint)["about.json"] == b'{"lr": 1}'


def zipped(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


# -------------------------------------------------------------------------------- what a script must not say, and fields


@pytest.mark.parametrize(
    "operation",
    [
        'op.ReplacePlaceholders(["a.B"])',
        'op.RestoreEntry("about.json", "", [op.NoOperation()], 0, "")',
        'op.Rewrite(double, halve, "hp", number=0)',
        'op.MoveItem("hp", "other", placed=True)',
        'op.Split("l.weight", ["a.weight", "b.weight"], places=[["a.weight", None]])',
        'op.ParameterGroups([["*"]], own_order=[0])',
        'op.At(["hp"], [op.UnsetItem("lr", 1, False)])',
        'op.At(["hp"], [op.Rewrite(double, halve, "lr", digest="x")])',
    ],
)
def test_what_only_a_record_holds_is_refused_in_a_script(project: Folder, checkpoint: Path, operation: str) -> None:
    declare(project, "a1", operation, top=TOP)
    before = digest(checkpoint)
    assert project.run("check").code == 1
    ran = project.run("upgrade", "head", checkpoint)
    assert (ran.code, digest(checkpoint)) == (1, before)


def laughs(levels: int) -> list[Any]:
    """Return a list of a few entries that would take two to the power of `levels` to be written out."""
    found: list[Any] = ["ha"]
    for _ in range(levels):
        found = [found, found]
    return found


def nested(levels: int, inner: Any) -> Any:
    for _ in range(levels):
        inner = {"op": "PerCopy", "operations": [inner], "others": {}}
    return inner


FIELDS: dict[str, dict[str, Any]] = {
    "no operation": {"op": "Explode"},
    "no name": {"op": ["Run"]},
    "a field that there is not": {"op": "NoOperation", "migrate": "plant"},
    "a function without a name": {"op": "Run", "migrate": ["plant"]},
    "a function of a module": {"op": "Run", "migrate": "os.system"},
    "a number that nothing has": {"op": "RestoreItem", "path": ["hp"], "number": 9, "before": None, "placed": False},
    "an endless number": {"op": "Unpad", "keys": ["l.weight"], "size": 10**5000, "dim": 0, "at": None, "fill": 0},
    "the place of the record": {"op": "SetItem", "path": [KEY], "value": 1},
    "stars that nothing stands for": {"op": "CopyItem", "path": ["hp"], "new": ["*"]},
    "an object": {"op": "SetItem", "path": ["hp"], "value": opaque_name("posix", "system", Calls())("touch planted")},
    "a class": {"op": "SetItem", "path": ["hp"], "value": opaque_name("posix", "system", Calls())},
    "brackets in brackets": {"op": "SetItem", "path": ["hp"], "value": laughs(90)},
    "deep": {"op": "SetItem", "path": ["hp"], "value": nested(400, 0)},
    "deep operations": nested(400, {"op": "NoOperation"}),
    "functions where there are none": nested(1, {"op": "Run", "migrate": "halve"}),
}


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("attack", FIELDS)
def test_fields_that_make_no_sense(project: Folder, checkpoint: Path, attack: str, known: bool) -> None:
    script = declare(project, "a1", "op.Run(double, halve)", top=TOP)
    project.ok("upgrade", "head", checkpoint)
    with_undo(checkpoint, FIELDS[attack], source=SOURCE)
    if not known:
        script.unlink()
    before = digest(checkpoint)
    for more in ([], ["--dry-run"]):
        ran = project.run("downgrade", "base", checkpoint, TRUST, *more)
        assert (ran.code, digest(checkpoint)) == (1, before), ran
        assert len(ran.err) < 1000
    assert not Path("planted").exists()


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "RestoreModules", "renamed": ["abc"], "removed": [], "restored": []},
        {"op": "Explode\noperations = []"},
        {"op": "MoveNames", "classes": 1},
    ],
)
def test_operations_that_make_no_sense_are_shown_as_such(
    project: Folder, checkpoint: Path, operation: dict[str, Any]
) -> None:
    declare(project, "a1", 'op.SetItem("new", 1)')
    project.ok("upgrade", "head", checkpoint)
    with_undo(checkpoint, operation)
    shown = project.ok("show", "a1", "--from", checkpoint).out
    assert shown.count("operations = [\n    # ") == 1
    assert "\noperations = []" not in shown
    assert project.run("downgrade", "base", checkpoint).code == 1


def test_a_tensor_among_fields(project: Folder, checkpoint: Path) -> None:
    declare(project, "a1", 'op.SetItem("new", 1)')
    project.ok("upgrade", "head", checkpoint)

    def change(record: dict[str, Any], tree: Any) -> None:
        record["lineage"][-1]["undo"]["operations"][0]["value"] = tree["state_dict"]["l.weight"]

    rewritten(checkpoint, change)
    assert "hold a StoredTensor, which is not plain data" in project.run("current", checkpoint).err
    assert project.run("downgrade", "base", checkpoint).code == 1
