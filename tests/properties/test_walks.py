"""Random walks: a project that changes, and a checkpoint that is moved along it, with everything that commands may do.

What is applied is noted in the checkpoint by the scripts themselves, so that the record can be held against it.
"""

from __future__ import annotations

import itertools
import os
import random
from pathlib import Path

import pytest

import anemoi_ckpt_migrate as cm
from anemoi_ckpt_migrate.commands.read_record import read_record
from anemoi_ckpt_migrate.errors import HistoryConflict, UnknownRecorded
from anemoi_ckpt_migrate.revisions.planner import check_recorded
from tests.support.project import Folder, digest, load

WALKS, STEPS = int(os.environ.get("WALKS", "15")), 25

SCRIPT = '''"""change {rev}

Revises: x
"""
revision = "{rev}"
down_revision = {parents!r}
branch_labels = {labels!r}
depends_on = {depends!r}


def migrate(ckpt):
    assert "{rev}" not in ckpt["trace"]
    ckpt["trace"].append("{rev}")
    return ckpt


def rollback(ckpt):
    ckpt["trace"].remove("{rev}")
    return ckpt
'''


class Walk:
    """One project, one checkpoint, and what is true of them after each command."""

    def __init__(self, project: Folder, seed: int) -> None:
        self.random, self.kinds = random.Random(seed), itertools.cycle(("mermaid", "dot", "svg"))
        self.folder, self.count = project.path / "versions", 0
        self.checkpoint = project.copy()
        # A first script makes the list; nothing goes below it.
        self.write("r0", (), first=True)
        cm.upgrade(self.checkpoint, "r0", backup=False)

    def write(self, rev: str, parents: tuple[str, ...], first: bool = False) -> None:
        known = [revision.id for revision in self.graph()] if not first else []
        depends = (self.random.choice(known),) if known and self.random.random() < 0.15 else ()
        labels = (f"label{rev}",) if self.random.random() < 0.2 else ()
        text = SCRIPT.format(rev=rev, parents=parents, labels=labels, depends=depends)
        if first:
            text = text.replace('assert "r0" not in ckpt["trace"]\n', 'ckpt["trace"] = []\n')
        (self.folder / f"{rev}.py").write_text(text)

    def graph(self) -> cm.Project:
        return cm.open_project().graph  # type: ignore[return-value]

    def some(self) -> str:
        """Name a revision, or something else that a target may be."""
        graph = self.graph()
        ids = [revision.id for revision in graph] + list(graph.replaced)
        rev = self.random.choice(ids)
        label = self.random.choice([*graph.labels, rev])
        count = self.random.randint(1, 3)
        texts = [rev, rev, "head", "heads", f"{rev}+{count}", f"{rev}-{count}", f"change {rev}", label]
        texts += [f"{label}@{place}" for place in ("head", "heads", "base", rev, f"+{count}", f"-{count}", "base+1")]
        return self.random.choice([*texts, f"+{count}", f"-{count}", "barrier", "head-1"])

    def act(self) -> str:
        """Do something; a refusal is an answer, anything else that is raised is not."""
        rev = f"r{self.count + 1}"
        graph = self.graph()
        ids = [revision.id for revision in graph]
        what = self.random.choice(
            ["write", "write", "merge", "rebase", "squash", "up", "up", "down", "down", "stamp", "heads"]
        )
        if what == "write":
            self.count += 1
            parents = tuple(self.random.sample(ids, min(len(ids), self.random.choice([1, 1, 1, 2]))))
            self.write(rev, parents)
            return f"write {rev} {parents}"
        target, other = self.some(), self.some()
        do = {
            "merge": lambda: self.named(cm.merge(name=f"change {rev}", rev_id=rev).path, rev),
            "rebase": lambda: cm.rebase(self.random.choice(ids), onto=self.random.choice(ids)),
            "squash": lambda: cm.squash(
                f"{self.random.choice(ids)}:{self.random.choice(ids)}", f"change {rev}", rev_id=rev
            ),
            "up": lambda: cm.upgrade(self.checkpoint, target, backup=False),
            "heads": lambda: cm.upgrade(self.checkpoint, "heads", backup=False),
            "down": lambda: self.above_first(target),
            "stamp": lambda: cm.stamp(self.checkpoint, [target, other], dry_run=True),
        }[what]
        self.count += what in ("merge", "squash")
        before = self.files()
        try:
            do()
        except cm.MigrateError as error:
            assert str(error)
            assert self.files() == before
            return f"{what} {target}: {error}"
        return f"{what} {target}"

    def files(self) -> dict[Path, str]:
        """Return digests of the scripts and of the checkpoint."""
        return {path: digest(path) for path in (self.checkpoint, *self.folder.glob("*.py"))}

    def named(self, path: str, rev: str) -> None:
        """Let a merge note that it ran, as every other script does."""
        text = Path(path).read_text().replace("operations = []", 'operations = [op.Run("note", "forget")]')
        text = text.replace("import MigrationMetadata", "import MigrationMetadata, op")
        Path(path).write_text(
            f'{text}\n\ndef note(ckpt):\n    ckpt["trace"].append("{rev}")\n    return ckpt\n\n\n'
            f'def forget(ckpt):\n    ckpt["trace"].remove("{rev}")\n    return ckpt\n'
        )

    def above_first(self, target: str) -> None:
        """Go down, but not below the script that makes the list."""
        plan = cm.downgrade(self.checkpoint, target, dry_run=True)
        if not any("r0" in self.parts(step.revision) for step in plan.steps):
            cm.downgrade(self.checkpoint, target, backup=False)

    def parts(self, rev: str) -> list[str]:
        graph = self.graph()
        return [part.id for part in graph[rev].replaces] or [rev] if rev in graph else [rev]

    def check(self) -> None:
        """Hold the record against what the scripts noted."""
        record = read_record(self.checkpoint)
        assert record is not None
        has = [part for entry in record.lineage for part in self.parts(entry.revision)]
        assert sorted(load(self.checkpoint)["trace"]) == sorted(has)
        assert len(has) == len(set(has))
        cm.current(self.checkpoint)
        cm.history(self.checkpoint)
        cm.check([self.checkpoint])
        cm.branches()
        cm.draw(next(self.kinds), self.checkpoint)

    def finish(self) -> None:
        """Go all the way up, and down again."""
        record = read_record(self.checkpoint)
        assert record is not None
        seen = self.graph().seen_from([entry.revision for entry in record.lineage])
        try:
            check_recorded(seen, record)
        except (HistoryConflict, UnknownRecorded):
            with pytest.raises((HistoryConflict, UnknownRecorded)):
                cm.upgrade(self.checkpoint, "heads")
            return
        cm.upgrade(self.checkpoint, "heads", backup=False)
        assert cm.current(self.checkpoint).at_head
        self.check()
        below = cm.downgrade(self.checkpoint, "base", dry_run=True)
        assert len(below.steps) == len(read_record(self.checkpoint).lineage)  # type: ignore[union-attr]


@pytest.mark.parametrize("seed", range(WALKS))
def test_walk(project: Folder, seed: int) -> None:
    walk = Walk(project, seed)
    done = []
    try:
        for _ in range(STEPS):
            before = walk.files()
            done.append(walk.act())
            if walk.files() != before:
                walk.check()
        walk.finish()
    except BaseException:
        print(*done, sep="\n")
        raise
