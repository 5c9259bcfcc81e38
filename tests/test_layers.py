"""Who may know whom: data flows one way, and heavy things are imported where they are used."""

from __future__ import annotations

import ast
import configparser
import functools
import subprocess
import sys
from pathlib import Path

import networkx
import pytest

import anemoi_ckpt_migrate

PACKAGE = "anemoi_ckpt_migrate"
ROOT = Path(anemoi_ckpt_migrate.__file__).parent

# From the top down: a folder imports from itself and from lines below its own.
FOLDERS = """
__main__
cli
.
console training
batch
commands
runtime
manifests
project autogenerate anemoi
engine scripts other_tools
op
operations
state revisions
record
tree
storage
util
errors
_version _lazy_exports
"""
RANK = {folder: -line for line, folders in enumerate(FOLDERS.strip().splitlines()) for folder in folders.split()}

# Heavy things, and the modules that import each.
HEAVY = {
    "torch": "storage.tensors.torch_library",
    "lightning": "training.lightning",
    "pytorch_lightning": "training.lightning",
    "lightning_fabric": "training.lightning",
    "networkx": "revisions.graph revisions.validate",
    "mako": "scripts.create",
    "cloudpickle": "runtime.carried_code",
    "rich": "console.checkpoint_tree console.summary_table console.tables console.batch_progress",
    "packaging": "revisions.releases",
    "fsspec": "storage.remote.find_store storage.remote.s3_store storage.remote.azure_store",
    "azure": "storage.remote.azure_store",
    "distributed": "batch.dask_cluster",
    "dask": "batch.dask_cluster",
}


@functools.cache
def modules() -> dict[str, ast.Module]:
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if not parts[0].startswith(("versions", "templates")):
            name = ".".join(parts).removesuffix("__init__").rstrip(".") or "."
            found[name] = ast.parse(path.read_text())
    return found


@functools.cache
def imported(tree: ast.AST) -> list[str]:
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def strings(tree: ast.AST) -> list[str]:
    return [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def folder_of(module: str) -> str:
    return module.partition(".")[0] or "."


@functools.cache
def own(name: str) -> str | None:
    """Return the module of this package that an imported name belongs to."""
    if not name.startswith(f"{PACKAGE}."):
        return None
    inner = name.removeprefix(f"{PACKAGE}.")
    while inner and inner not in modules():
        inner = inner.rpartition(".")[0]
    return inner or "."


def test_every_folder_has_its_place() -> None:
    assert {folder_of(module) for module in modules()} == set(RANK)


def test_every_folder_is_in_the_wheel() -> None:
    if not (ROOT.parent / "setup.cfg").exists():
        pytest.skip("the package is installed")
    config = configparser.ConfigParser()
    config.read(ROOT.parent / "setup.cfg")
    folders = {path.parent.relative_to(ROOT.parent).as_posix().replace("/", ".") for path in ROOT.rglob("__init__.py")}
    assert folders <= set(config["options"]["packages"].split())


@pytest.mark.parametrize("folder", sorted(RANK))
def test_a_folder_knows_only_what_is_below_it(folder: str) -> None:
    upwards = [
        f"{name} imports {target}"
        for name, tree in modules().items()
        if folder_of(name) == folder
        for target in filter(None, map(own, imported(tree)))
        if folder_of(target) != folder and RANK[folder_of(target)] >= RANK[folder]
    ]
    assert upwards == []


def test_no_module_imports_itself_by_way_of_others() -> None:
    arrows = networkx.DiGraph(
        (name, target)
        for name, tree in modules().items()
        if name != "."
        for target in filter(None, map(own, imported(tree)))
        if target not in (name, ".")
    )
    assert list(networkx.simple_cycles(arrows)) == []


def test_only_the_search_for_other_tools_names_the_built_in_one() -> None:
    """The folder `anemoi` is known through the interface of `other_tools`, like a tool from an installed package."""
    built_in = f"{PACKAGE}.anemoi"
    namers = {
        name
        for name, tree in modules().items()
        if folder_of(name) != "anemoi" and any(text.startswith(built_in) for text in (*imported(tree), *strings(tree)))
    }
    assert namers == {"other_tools.find"}


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
