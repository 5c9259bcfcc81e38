"""Who may know whom: data flows one way, and heavy things are imported where they are used."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

import anemoi_ckpt_migrate

PACKAGE = "anemoi_ckpt_migrate"
ROOT = Path(anemoi_ckpt_migrate.__file__).parent

# From the ground up; a module imports only from lines below its own.
LAYERS = """
_version collector errors.base
errors.files errors.operations errors.revisions
errors plain
checkpoints.harmless checkpoints.handed
metadata context releases record scripts.signature checkpoints.tensors checkpoints.copying checkpoints.locking checkpoints.scan checkpoints.names checkpoints.kinds checkpoints.sets checkpoints.checksums checkpoints.shapes operations operations.attached operations.base operations.dtypes operations.matching operations.patterns operations.table zones operations.initialisers
checkpoints.archive
targets graph scripts scripts.parts checkpoints.facts checkpoints.opaque checkpoints.publish checkpoints.layout scripts.hooks scripts.heading checkpoints.space
checkpoints.placeholders checkpoints.recipes operations.configs
operations.paths operations.pickled operations.flattened
resolving soundness entries scripts.obstacles scripts.writer scripts.sources config checkpoints.pickles
descent lanes scaffold chains scripts.digests scripts.editing scripts.headfile scripts.released scripts.functions checkpoints.content checkpoints.growing checkpoints.legacy checkpoints.survey checkpoints.dumping
checkpoints.computing
checkpoints.making operations.tensors
operations.names operations.places operations.slots
operations.aside operations.copies operations.ties
operations.groups operations.guessing operations.reaching
operations.casting operations.joining operations.modules operations.naming operations.optimizers operations.structure operations.turning operations.widening
operations.deriving operations.items operations.placeholders operations.presence operations.following
operations.setups
operations.classes operations.rewriting operations.converting operations.rearranging operations.within
operations.world
op comparing items
scripts.declared
scripts.joined
scripts.reader scripts.foreign scripts.squashing
differences differences.items differences.names
models manifests differences.misfits
differences.analogy differences.moving differences.numbering differences.selecting differences.simulating differences.turning differences.wording
differences.board differences.merging differences.ordering differences.rules
differences.families differences.growth differences.renaming
differences.joining differences.planning
differences.matching
differences.explaining
differences.folding
tracing
planner drawing diagrams rollbacks ledger scripts.loader checkpoints.store
checkpoints.opening adoption
checkpoints
recorder
executor
commands
commands.arguments commands.names
commands.trust
commands.parameters commands.project
commands.sides
commands.expecting
commands.remainder
commands.writing
commands.differing commands.drifting
commands.generating commands.manifesting
commands.authoring
commands.steps
commands.adopting commands.keeping
commands.recognising
commands.records
commands.importing commands.reading commands.mending commands.inspecting commands.rewriting
commands.placing commands.proving
commands.stamping
commands.moving commands.saving commands.syncing
commands.checking commands.histories commands.loading
callbacks
.
pictures
output
listing difftable
cli.common
cli.authoring cli.moving cli.reading
cli
__main__
"""
RANK = {module: rank for rank, line in enumerate(LAYERS.strip().splitlines()) for module in line.split()}

# Heavy things, and the modules that import each.
HEAVY = {
    "torch": "checkpoints.content checkpoints.computing commands.loading models",
    "lightning": "callbacks",
    "pytorch_lightning": "callbacks",
    "lightning_fabric": "callbacks",
    "networkx": "soundness",
    "mako": "scripts.writer",
    "cloudpickle": "rollbacks",
    "rich": "pictures",
    "packaging": "releases",
}


@functools.cache
def modules() -> dict[str, ast.Module]:
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[0] not in ("versions", "templates"):
            name = ".".join(parts).removesuffix("__init__").rstrip(".") or "."
            found[name] = ast.parse(path.read_text())
    return found


def imported(tree: ast.AST) -> list[str]:
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def own(name: str) -> str | None:
    """Return the module of this package that an imported name belongs to."""
    if not name.startswith(f"{PACKAGE}."):
        return None
    inner = name.removeprefix(f"{PACKAGE}.")
    while inner and inner not in RANK:
        inner = inner.rpartition(".")[0]
    return inner or "."


def test_every_module_has_its_layer() -> None:
    assert set(modules()) == set(RANK)


@pytest.mark.parametrize("name", sorted(RANK))
def test_modules_know_only_what_is_below_them(name: str) -> None:
    for target in filter(None, map(own, imported(modules()[name]))):
        assert RANK[target] < RANK[name], f"{name} imports {target}"


@pytest.mark.parametrize("heavy", sorted(HEAVY))
def test_heavy_things_are_imported_where_they_are_used(heavy: str) -> None:
    users = {
        name for name, tree in modules().items() if any(target.partition(".")[0] == heavy for target in imported(tree))
    }
    assert users == set(HEAVY[heavy].split())


def test_starting_imports_nothing_heavy() -> None:
    code = (
        "import sys; from anemoi_ckpt_migrate.cli import build_parser; build_parser().format_help();"
        f"print([name for name in {sorted(HEAVY)!r} if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout.strip() == "[]"
