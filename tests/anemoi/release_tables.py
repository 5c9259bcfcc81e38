"""The tables of docs/anemoi-releases.md, made from the releases themselves: where a checkpoint of each is recognised, and
what becomes of the classes that each knows.

    ANEMOI_PYTHON=... ANEMOI_RELEASES=... python -m tests.anemoi.release_tables   # writes them; tests compare
"""

from __future__ import annotations

import ast
import re
import tempfile
from pathlib import Path

from anemoi_ckpt_migrate import current, open_chain
from anemoi_ckpt_migrate.anemoi.targets import ENDED
from tests.anemoi.running import WHEELS, run
from tests.anemoi.variants import EVERY

PAGE = Path(__file__).parents[2] / "docs" / "anemoi-releases.md"
MADE = ("qk-norm", "no-trainables-gnn")
INTERNAL = (
    "distributed",
    "samplers",
    "triton",
    "transport",
    "migrations",
    "commands",
    "schemas",
    "layers.chunk",
    "truncation",
)
"""Parts of anemoi-models whose classes no configuration of a model names."""
PARTS = ("GraphEdgeMixin", "ForwardMapperPreProcessMixin", "BackwardMapperPostProcessMixin", "DynamicMixin", "SHT")
"""Parts of classes, and a transform that losses are given by its short name."""
GATES = ("GLU", "SwiGLU", "GEGLU", "ReGLU")
"""Refused at 0.16.0 by their weights."""


def recognised(release: str) -> set[str]:
    """Return where checkpoints that a release makes are recognised: transformers, and gnn without trainable edges."""
    chain = open_chain("anemoi")
    with tempfile.TemporaryDirectory() as folder:
        run("making.py", [release], "make", release, folder, *MADE)
        found = [current(Path(folder) / f"{release}_{name}.ckpt", project=chain) for name in MADE]
    assert all(each.recognised for each in found)
    return {head.revision for each in found for head in each.heads}


def expected(release: str) -> str:
    """Return the last revision of the chain that is of a release or of one before it."""
    from tests.anemoi.variants import number

    chain = open_chain("anemoi")
    order = chain.graph.order(rev.id for rev in chain.graph)
    there = [rev for rev in order if number(chain.graph[rev].versions["anemoi-models"]) <= number(release)]
    return there[-1] if there else order[0]


def classes(release: str) -> set[str]:
    """Return the classes of a release that a configuration can name, by their last name."""
    base = Path(WHEELS) / release / "anemoi" / "models"
    found = set()
    for path in base.rglob("*.py"):
        part = ".".join(path.relative_to(base).with_suffix("").parts)
        if not any(part.startswith(each) or f".{each}" in f".{part}" for each in INTERNAL):
            found |= {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)}
    return {name for name in found if not name.startswith(("_", "Base"))}


def renamed() -> dict[str, str]:
    """Return the models that the chain renames, by their last names."""
    text = "".join(Path(rev.path).read_text() for rev in open_chain("anemoi").graph if rev.path)
    pairs = re.findall(r'"anemoi\.models\.models\.([A-Za-z]+)":\s+"anemoi\.models\.models\.([A-Za-z]+)"', text)
    return dict(pairs)


def fate(name: str, ends: str) -> str:
    """Return what becomes of a class that a release no longer has."""
    if name in renamed():
        return f"carried: {renamed()[name]}"
    if name in ENDED.get(ends, ()):
        return "refused"
    if name in GATES and ends == "0.16.0":
        return "refused, by its weights"
    return "not named by configurations of models" if name in PARTS else "unknown"


def ended() -> list[tuple[str, str, str]]:
    """Return the classes that end: the release without them, the name, and what becomes of them."""
    found, before = [], classes(EVERY[0])
    for release in EVERY[1:]:
        now = classes(release)
        found += [(release, name, fate(name, release)) for name in sorted(before - now)]
        before = now
    return found


def begun(names: set[str]) -> list[tuple[str, str]]:
    """Return in which release some classes begin."""
    found, before = [], classes(EVERY[0])
    for release in EVERY[1:]:
        now = classes(release)
        found += [(release, name) for name in sorted((now - before) & names)]
        before = now
    return found


def targets_table() -> str:
    """Return the table of classes that end."""
    lines = ["| first release without it | class | a checkpoint that names it |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {release} | `{name}` | {what} |" for release, name, what in ended())])


def recognition_row(release: str) -> str:
    """Return the row of a release in the table of recognition."""
    (revision,) = recognised(release)
    return f"| {release} | `{revision}` |"


def main() -> None:
    """Write both tables into the page."""
    rows = ["| release | recognised at |", "|---|---|", *(recognition_row(release) for release in EVERY)]
    text = PAGE.read_text()
    for name, table in (("recognition", "\n".join(rows)), ("targets", targets_table())):
        text = re.sub(
            rf"(<!-- {name} -->\n)(?s:.*?)(<!-- end -->)", lambda found, t=table: f"{found[1]}{t}\n{found[2]}", text
        )
    PAGE.write_text(text)


if __name__ == "__main__":
    main()
