"""squash of scripts that have operations or a setup: one list, and each part on its own for checkpoints in between."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import anemoi_ckpt_migrate as cm  # noqa: E402
from tests.support.operations import Old, declare, equal, without_record  # noqa: E402
from tests.support.project import Folder, digest  # noqa: E402

FIRST = '''"""fuse q, k and v

They were three layers, and are one:
it is faster.

Revision ID: a
"""

from anemoi_ckpt_migrate import MigrationMetadata, op

revision = "a"
down_revision = None
metadata = MigrationMetadata(versions={"migration": "1.0.0"})

operations = [
    # The weights, and the biases.
    op.Fuse(["q.{i}", "k.{i}", "v.{i}"], "qkv.{i}"),
    op.RenamePrefix("out.", "proj.")  # at last
]
'''
SECOND = '''"""another learning rate"""

from anemoi_ckpt_migrate import CkptType, MigrationMetadata
from anemoi_ckpt_migrate.op import Run, SetItem
import anemoi_ckpt_migrate.op as ops

revision = "b"
down_revision = "a"
metadata = MigrationMetadata(versions={"migration": "1.0.0"})

FACTOR = 2


def change(ckpt: CkptType) -> CkptType:
    ckpt["lr"] = ckpt["lr"] * FACTOR
    return ckpt


def back(ckpt: CkptType) -> CkptType:
    ckpt["lr"] = ckpt["lr"] / FACTOR
    return ckpt


operations = [ops.SetItem("note", "b"), Run(change, rollback="back"),
              ops.At(["hp.config"], [ops.Rewrite("doubled", "undoubled", "sizes"), ops.MoveItem("old", "new")]),
              SetItem("more", ["ü", 1])]


def doubled(sizes: dict, ckpt: CkptType) -> dict:
    return {name: size * FACTOR for name, size in sizes.items()}


def undoubled(sizes: dict, ckpt: CkptType) -> dict:
    return {name: size // FACTOR for name, size in sizes.items()}
'''
THIRD = '''"""three times the learning rate"""

from anemoi_ckpt_migrate import CkptType, MigrationMetadata

revision = "c"
down_revision = "b"
metadata = MigrationMetadata(versions={"migration": "1.0.0"})

FACTOR = 3


def migrate(ckpt: CkptType) -> CkptType:
    ckpt["lr"] *= FACTOR
    return ckpt


def rollback(ckpt: CkptType) -> CkptType:
    ckpt["lr"] /= FACTOR
    return ckpt
'''
FOURTH = '''"""the weather is the climate"""

from anemoi_ckpt_migrate import CkptType, MigrationContext, MigrationMetadata

revision = "d"
down_revision = "c"
metadata = MigrationMetadata(versions={"migration": "1.0.0"})


def migrate_setup(context: MigrationContext) -> None:
    """Names move."""
    context.move_module("collections", "climate")
    context.delete_attribute(path="fractions.Fraction")


def migrate(ckpt: CkptType) -> CkptType:
    ckpt["lr"] += FACTOR
    return ckpt


def rollback(ckpt: CkptType) -> CkptType:
    ckpt["lr"] -= FACTOR
    return ckpt


FACTOR = 1
'''
FIFTH = '''"""no more layers"""

from anemoi_ckpt_migrate import MigrationMetadata, op

revision = "e"
down_revision = "d"
metadata = MigrationMetadata(versions={"migration": "1.0.0"})

operations = [op.RenamePrefix("qkv.", "attention."), op.Drop("norm.num_batches_tracked", keep=True)]
'''
SCRIPTS = {"a": FIRST, "b": SECOND, "c": THIRD, "d": FOURTH, "e": FIFTH}


@pytest.fixture
def line(project: Folder) -> Folder:
    """a - b - c - d - e"""
    for revision, text in SCRIPTS.items():
        (project.path / "versions" / f"{revision}.py").write_text(text)
    return project


def save(folder: Folder, name: str = "x.pt") -> Path:
    """Save a checkpoint of all that the scripts are about."""
    import collections
    import fractions

    torch.manual_seed(1)
    model = Old()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(4, 8)).sum().backward()
    optimizer.step()
    tree = {
        "state_dict": model.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "hp": {"config": {"sizes": {"in": 1, "out": 2}, "old": True}},
        "counts": collections.Counter("abca"),
        "ratio": fractions.Fraction(1, 3),
        "lr": 1.0,
    }
    torch.save(tree, folder.path / name)
    return folder.path / name


def names_and_tree(path: Path) -> tuple[list[tuple[str, str]], Any]:
    """Return what a checkpoint names and holds, without the record, whether or not its classes are there."""
    from anemoi_ckpt_migrate.record import embed
    from anemoi_ckpt_migrate.storage import open_checkpoint

    with open_checkpoint(path) as opened:
        tree = opened.load()
        embed.take(tree, None)
        names = sorted(opened.names)
        moments = [opened.digest(each["exp_avg"]) for each in tree["optimizer_states"][0]["state"].values()]
        weights = {key: opened.digest(value) for key, value in tree["state_dict"].items()}
    plain = {key: tree[key] for key in ("lr", "note", "more", "hp") if key in tree}
    kinds = [type(tree[key]).__name__ for key in ("counts", "ratio")]
    return names, (copy.deepcopy(plain), kinds, weights, moments, list(tree), list(tree["state_dict"]))


def test_it_reads_like_a_script(line: Folder) -> None:
    path = Path(line.ok("squash", "a:d", "all of it", "--rev-id", "S", "--json").lines[0]["path"])
    text = path.read_text()
    _, head, rest = text.partition("metadata = MigrationMetadata")
    assert (
        head + rest
        == """metadata = MigrationMetadata(versions={"migration": "1.0.0"})

operations = [
    # a: fuse q, k and v
    # They were three layers, and are one:
    # it is faster.
    # The weights, and the biases.
    op.Fuse(["q.{i}", "k.{i}", "v.{i}"], "qkv.{i}"),
    op.RenamePrefix("out.", "proj."),  # at last
    # b: another learning rate
    op.SetItem("note", "b"), op.Run("_part_2_change", rollback="_part_2_back"),
    op.At(["hp.config"], [op.Rewrite("_part_2_doubled", "_part_2_undoubled", "sizes"), op.MoveItem("old", "new")]),
    op.SetItem("more", ["ü", 1]),
    # c: three times the learning rate
    op.Run("_part_3_migrate", rollback="_part_3_rollback"),
    # d: the weather is the climate
    op.MoveNames(modules=[["collections", "climate"]], spared=["fractions.Fraction"]),
    op.Run("_part_4_migrate", rollback="_part_4_rollback"),
    op.PutPlaceholders(["fractions.Fraction"]),
]


def _part_2():
    \"\"\"Revision b: another learning rate.\"\"\"

    from anemoi_ckpt_migrate.op import Run, SetItem
    import anemoi_ckpt_migrate.op as ops

    FACTOR = 2

    def change(ckpt: CkptType) -> CkptType:
        ckpt["lr"] = ckpt["lr"] * FACTOR
        return ckpt

    def back(ckpt: CkptType) -> CkptType:
        ckpt["lr"] = ckpt["lr"] / FACTOR
        return ckpt

    def doubled(sizes: dict, ckpt: CkptType) -> dict:
        return {name: size * FACTOR for name, size in sizes.items()}

    def undoubled(sizes: dict, ckpt: CkptType) -> dict:
        return {name: size // FACTOR for name, size in sizes.items()}

    return {"change": change, "back": back, "doubled": doubled, "undoubled": undoubled}


def _part_3():
    \"\"\"Revision c: three times the learning rate.\"\"\"

    FACTOR = 3

    def migrate(ckpt: CkptType) -> CkptType:
        ckpt["lr"] *= FACTOR
        return ckpt

    def rollback(ckpt: CkptType) -> CkptType:
        ckpt["lr"] /= FACTOR
        return ckpt

    return {"migrate": migrate, "rollback": rollback}


def _part_4():
    \"\"\"Revision d: the weather is the climate.\"\"\"

    from anemoi_ckpt_migrate import CkptType, MigrationContext, MigrationMetadata

    def migrate(ckpt: CkptType) -> CkptType:
        ckpt["lr"] += FACTOR
        return ckpt

    def rollback(ckpt: CkptType) -> CkptType:
        ckpt["lr"] -= FACTOR
        return ckpt

    FACTOR = 1

    return {"migrate": migrate, "rollback": rollback}


# The functions that the operations of each revision run: their new names, and their old ones.
PARTS = ({}, _part_2(), _part_3(), _part_4())
_part_2_change = PARTS[1]["change"]
_part_2_back = PARTS[1]["back"]
_part_2_doubled = PARTS[1]["doubled"]
_part_2_undoubled = PARTS[1]["undoubled"]
_part_3_migrate = PARTS[2]["migrate"]
_part_3_rollback = PARTS[2]["rollback"]
_part_4_migrate = PARTS[3]["migrate"]
_part_4_rollback = PARTS[3]["rollback"]
"""
    )
    assert "from anemoi_ckpt_migrate import CkptType, MigrationMetadata, op\n" in text
    line.ok("check")


def test_operations_alone_need_no_functions(project: Folder) -> None:
    declare(project, "a", 'op.RenamePrefix("q.", "r.")')
    declare(project, "b", 'op.RenamePrefix("r.", "s.")', parents="a")
    path = Path(project.ok("squash", "a:b", "both", "--json").lines[0]["path"])
    text = path.read_text()
    assert "from anemoi_ckpt_migrate import MigrationMetadata, op\n" in text
    assert text.endswith(
        'operations = [\n    # a: change a\n    op.RenamePrefix("q.", "r."),\n    # b: change b\n    op.RenamePrefix("r.", "s."),\n]\n'
    )


def test_a_tuple_is_a_list_too(project: Folder) -> None:
    for revision, parents, operations in (
        ("a", None, 'operations = op.SetItem("x", 1), op.SetItem("y", 2)'),
        ("b", "a", 'operations = (op.DropItem("x"),)'),
        ("c", "b", "operations = []"),
    ):
        path = declare(project, revision, parents=parents)
        path.write_text(path.read_text().replace("operations = [\n]", operations))
    text = Path(project.ok("squash", "a:c", "all of it", "--json").lines[0]["path"]).read_text()
    lines = [
        "# a: change a",
        'op.SetItem("x", 1), op.SetItem("y", 2),',
        "# b: change b",
        'op.DropItem("x"),',
        "# c: change c",
    ]
    assert "operations = [\n    " + "\n    ".join(lines) + "\n]\n" in text
    checkpoint = save(project)
    assert len(project.ok("upgrade", "head", checkpoint, "--json").lines[0]["steps"]) == 1
    assert torch.load(checkpoint, weights_only=False)["y"] == 2


@pytest.mark.parametrize("stretch", ["a:e", "b:d", "d:e"])
def test_a_checkpoint_at_every_place_finds_its_way(line: Folder, stretch: str) -> None:
    """What it is at each place is what it is without squashing, on the way up and down."""
    wanted, checkpoints = {}, {}
    for at in ("base", *SCRIPTS):
        checkpoints[at] = save(line, f"{at}.pt")
        line.ok("upgrade", at, checkpoints[at], "--no-backup")
        wanted[at] = names_and_tree(checkpoints[at])
    line.ok("squash", stretch, "all of it", "--rev-id", "S")
    line.ok("check")
    inside = "abcde"["abcde".index(stretch[0]) : "abcde".index(stretch[2]) + 1]
    for at, checkpoint in checkpoints.items():
        line.ok("check", "--rollback", checkpoint)
        steps = line.ok("upgrade", "head", checkpoint, "--no-backup", "--check-rollback", "--json").lines[0]["steps"]
        left = "abcde"["abcde".find(at) + 1 :] if at != "base" else "abcde"
        whole = left.replace(inside, "S")
        assert "".join(step["revision"] for step in steps) == whole
        assert names_and_tree(checkpoint) == wanted["e"]
        for place in reversed(("base", *SCRIPTS)):
            if place not in inside[:-1] or "S" not in whole:
                line.ok("downgrade", place, checkpoint, "--no-backup")
                assert names_and_tree(checkpoint) == wanted[place], (at, place)


def test_a_target_inside_of_it(line: Folder) -> None:
    line.ok("squash", "a:e", "all of it", "--rev-id", "S")
    checkpoint = save(line)
    first = line.ok("upgrade", "c", checkpoint, "--json").lines[0]["steps"]
    assert [step["revision"] for step in first] == ["a", "b", "c"]
    assert torch.load(checkpoint, weights_only=False)["lr"] == 6
    line.ok("downgrade", "-1", checkpoint)
    assert torch.load(checkpoint, weights_only=False)["lr"] == 2


@pytest.mark.parametrize("squashed", [False, True])
def test_the_checkpoint_carries_the_way_back(line: Folder, squashed: bool) -> None:
    """Of the whole, or of parts; by now or by then, as the scripts that it was upgraded with."""
    checkpoint = save(line)
    before = names_and_tree(checkpoint)
    line.ok("upgrade", "b", checkpoint)
    if squashed:
        line.ok("squash", "a:e", "all of it")
    line.ok("upgrade", "head", checkpoint)
    for script in (line.path / "versions").glob("*.py"):
        script.unlink()
    assert line.run("downgrade", "base", checkpoint).code == 3
    line.ok("downgrade", "base", checkpoint, "--trust-checkpoint-code")
    assert names_and_tree(checkpoint) == before


def test_scripts_of_then_know_what_parts_did(line: Folder) -> None:
    """A colleague has the old scripts still."""
    kept = {path: path.read_text() for path in (line.path / "versions").glob("*.py")}
    checkpoint = save(line)
    before = names_and_tree(checkpoint)
    line.ok("upgrade", "a", checkpoint)
    (squashed,) = line.ok("squash", "a:e", "all of it", "--json").lines
    line.ok("upgrade", "d", checkpoint)
    Path(squashed["path"]).unlink()
    for path, text in kept.items():
        path.write_text(text)
    line.ok("downgrade", "base", checkpoint)
    assert names_and_tree(checkpoint) == before


def test_what_was_stamped_goes_back(line: Folder) -> None:
    """By the plain inverses, in their order."""
    declare(line, "f", 'op.RenamePrefix("proj.", "end.")', 'op.MoveItem("lr", "rate")', parents="e")
    line.script("g", "f", 'ckpt["rate"] *= 2', 'ckpt["rate"] /= 2')
    checkpoint = save(line)
    line.ok("upgrade", "g", checkpoint)
    after = names_and_tree(checkpoint)
    line.ok("downgrade", "e", checkpoint)
    before = names_and_tree(checkpoint)
    line.ok("upgrade", "g", checkpoint)
    line.ok("stamp", "e", checkpoint)  # as if nobody knew how it came about
    line.ok("squash", "f:g", "both", "--rev-id", "S")
    line.ok("stamp", "S", checkpoint)
    assert names_and_tree(checkpoint) == after
    line.ok("downgrade", "e", checkpoint)
    assert names_and_tree(checkpoint)[1][0]["lr"] == before[1][0]["lr"] == 7
    assert names_and_tree(checkpoint)[1][2:4] == before[1][2:4]


def test_irreversible_parts(project: Folder) -> None:
    declare(project, "a", 'op.SetItem("lr", 2)')
    declare(project, "b", 'op.Drop("norm.num_batches_tracked")', parents="a")
    project.script("c", "b", 'ckpt["lr"] = 3', rollback=None, top="rollback = None")
    project.ok("squash", "a:c", "all of it", "--rev-id", "S")
    project.ok("check")
    assert cm.show("S").reversible is False
    checkpoint = save(project)
    project.ok("upgrade", "a", checkpoint)
    project.ok("upgrade", "head", checkpoint)
    assert torch.load(checkpoint, weights_only=False)["lr"] == 3
    assert project.run("downgrade", "-1", checkpoint).code == 3


def test_a_stretch_that_was_released_stays_released(line: Folder) -> None:
    line.ok("release")
    path = Path(line.ok("squash", "a:e", "all of it", "--rev-id", "S", "--json").lines[0]["path"])
    line.ok("check")
    line.ok("release")
    path.write_text(path.read_text().replace("FACTOR = 3", "FACTOR = 4"))
    assert "S (all of it) has changed since it was released" in line.run("check").out


def test_operations_that_were_added_since_belong_to_no_part(line: Folder) -> None:
    path = Path(line.ok("squash", "a:e", "all of it", "--json").lines[0]["path"])
    path.write_text(path.read_text().replace("operations = [\n", 'operations = [\n    op.SetItem("x", 1),\n'))
    ran = line.run("history")
    assert (ran.code, "replaces is not as `ckpt-migrate squash` wrote it" in ran.err) == (1, True)


SETUPS = {
    "for name in ('a', 'b'):\n        context.delete_module(name)": "cannot be read without running it",
    "context.delete_module(NAME)": "cannot be read without running it",
    "helper(context)": "cannot be read without running it",
    "return context.delete_module('a')": "cannot be read without running it",
    "context.deleted.append('a')": "cannot be read without running it",
    "context.delete_module('a', 'b')": "cannot be read without running it",
    "context.delete_module('a b')": "a name must be dotted, such as pkg.mod, not 'a b'",
    "context.move_module('a', 'b')\n    context.delete_module('b')": "is moved or the target of a move, so it cannot be deleted",
}


@pytest.mark.parametrize("body", SETUPS)
def test_a_setup_that_has_to_be_run(project: Folder, body: str) -> None:
    project.script("a")
    text = project.script("b", "a", migrate=None, rollback=None).read_text()
    path = project.path / "versions" / "b_change.py"
    path.write_text(f"{text}\n\ndef migrate_setup(context):\n    {body}\n")
    before = {each: digest(each) for each in (project.path / "versions").iterdir()}
    ran = project.run("squash", "a:b", "both")
    assert (ran.code, SETUPS[body] in ran.err) == (3, True), ran.err
    assert "revision b cannot be squashed" in ran.err
    assert "write one call with literal names on each line of migrate_setup" in ran.err
    assert {each: digest(each) for each in (project.path / "versions").iterdir()} == before


@pytest.mark.parametrize(
    "how",
    [
        "from elsewhere import migrate_setup",
        "def setup(context): pass\nmigrate_setup = setup",
        "import functools\n@functools.cache\ndef migrate_setup(context): pass",
        "if True:\n    def migrate_setup(context): pass",
    ],
)
def test_a_setup_that_comes_from_elsewhere(project: Folder, how: str) -> None:
    project.script("b", None, migrate=None, rollback=None, top=f"\n{how}\n")
    declare(project, "c", 'op.DropItem("x")', parents="b")
    ran = project.run("squash", "b:c", "both")
    assert ran.code in (1, 3)
    assert "migrate" in ran.err


@pytest.mark.parametrize(
    "operations",
    [
        'operations = [(op.SetItem("x", 1))]',
        'operations = (op.SetItem("x", 1)), (op.SetItem("y", 2))',
        'operations = [op.SetItem("x", """a\n b""",\n  True)]',
    ],
)
def test_what_cannot_be_moved_as_it_is(project: Folder, operations: str) -> None:
    """Nothing wrong is written: what is, is compared with what it was made of."""
    path = declare(project, "a")
    path.write_text(path.read_text().replace("operations = [\n]", operations))
    declare(project, "b", 'op.DropItem("x")', parents="a")
    ran = project.run("squash", "a:b", "both", "--rev-id", "S")
    assert (ran.code, "its operations cannot be copied as they are; format the script" in ran.err) == (3, True), ran.err
    assert sorted(each.name for each in (project.path / "versions").glob("*.py")) == ["a_change.py", "b_change.py"]


def test_functions_that_are_not_there(project: Folder) -> None:
    declare(project, "a", 'op.Run("gone")')
    declare(project, "b", 'op.DropItem("x")', parents="a")
    ran = project.run("squash", "a:b", "both")
    assert (ran.code, "its operations run gone, which it does not define; write it" in ran.err) == (3, True)


@pytest.mark.parametrize(
    ("operation", "says"),
    [
        ('op.MoveNames([["a.B"]])', "classes must be a list of pairs of names"),
        ('op.MoveNames(modules={"a": "b"})', "modules must be a list of pairs of names"),
        ('op.MoveNames([["a.B", "c.D"]], spared=["c.**"])', "a.B is moved to c.D, which is also deleted"),
        ("op.PutPlaceholders([])", "gone must be a list of 1 names or more"),
    ],
)
def test_what_setups_become_is_checked_as_operations_are(project: Folder, operation: str, says: str) -> None:
    declare(project, "a", operation)
    ran = project.run("check")
    assert (ran.code, says in ran.out) == (1, True), ran.out


def test_the_same_as_without(line: Folder) -> None:
    """What a whole does is what its parts do one by one, optimizer and all."""
    one, other = save(line, "one.pt"), save(line, "other.pt")
    line.ok("upgrade", "c", one)
    line.ok("squash", "a:c", "most of it")
    line.ok("upgrade", "c", other)
    assert equal(*(without_record(torch.load(path, weights_only=False)) for path in (one, other)))
