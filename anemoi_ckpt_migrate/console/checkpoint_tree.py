"""Pictures on the terminal: the content of a checkpoint as a tree with bars, and a progress bar for copies."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.util import gc_pause
from anemoi_ckpt_migrate.util.text import plain, sized

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from anemoi_ckpt_migrate.commands.inspect import Inspection, PickledName
    from anemoi_ckpt_migrate.tree.summary import Node

# Smaller files are copied too quickly for a progress bar.
_LARGE = 1 << 30
_BAR = 16  # cells
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_MOST = 12  # children shown of one node; the others are counted
_COLOURS = {"known": "green", "trusted": "cyan", "opaque": "yellow", "dangerous": "bold red"}
_MEANING = {
    "known": "harmless: plain data and parts of tensors",
    "trusted": "imported and built, because the configuration trusts the module",
    "opaque": "not imported here; torch.load(weights_only=False) runs their code, so you have to trust their author",
    "dangerous": "torch.load(weights_only=False) can run any code with these: load the file only if you trust it",
}


@gc_pause.paused()
def picture(found: Inspection, depth: int) -> None:
    """Print the content of a checkpoint.

    Parameters
    ----------
    found : Inspection
        The result of `inspect`.
    depth : int
        The number of levels to show.
    """
    from rich.console import Console

    # In a pipe or a file, lines may be long.
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False, emoji=False, markup=False)
    console.print(_heading(found))
    console.print(_tree(found.tree, depth))
    for line in _below(found):
        console.print(line, soft_wrap=True)


@contextlib.contextmanager
def progress(path: str, quiet: bool) -> Iterator[Callable[[int], None] | None]:
    """Yield a callback that shows the progress of a large copy; None for a small file or without a terminal."""
    size = os.path.getsize(path) if os.path.isfile(path) else 0
    if quiet or size < _LARGE or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(
        *columns, TransferSpeedColumn(), TimeRemainingColumn(), console=Console(stderr=True), transient=True
    ) as bar:
        task = bar.add_task(os.path.basename(path), total=size)
        yield lambda count: bar.advance(task, count)


def _heading(found: Inspection) -> Table:
    from rich.table import Table

    dead = f", {sized(found.facts.dead)} unused" if found.facts.dead else ""
    unchecked = "no checksums" if found.facts.unchecked else "checksums"
    file = found.facts
    pickled = f"pickle protocol {file.protocol}, " if file.protocol else ""
    facts = {
        "file": found.checkpoint,
        "format": f"{file.format}, {file.byteorder}-endian, {pickled}{unchecked}",
        "size": f"{sized(found.facts.size)} in {len(found.tensors)} tensors{dead}",
        "record": _record(found),
    }
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column()
    for name, value in facts.items():
        table.add_row(name, plain(value))
    return table


def _record(found: Inspection) -> str:
    if found.record is None:
        return "none: the checkpoint is at base"
    names = {entry.revision: entry.name for entry in found.record.lineage}
    heads = ", ".join(plain(f"{head} ({names[head]})") for head in found.record.heads) or "base"
    return f"at {heads}, {len(found.record.lineage)} revisions applied"


def _tree(root: Node, depth: int) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("structure", no_wrap=True, overflow="ellipsis", ratio=3)
    table.add_column("content", no_wrap=True, overflow="ellipsis", ratio=2)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for lead, node in _lines(root, "", depth):
        table.add_row(_name(lead, node), plain(_what(node)), sized(node.size) if node.size else "", _bar(node, root))
    return table


def _lines(node: Node, lead: str, depth: int) -> Iterator[tuple[str, Node]]:
    """Yield the lines of the tree below a node, each with its guides."""
    children = _shown(_grouped(node))
    for child in children:
        last = child is children[-1]
        yield f"{lead}{'└─ ' if last else '├─ '}", child
        left = depth - (1 if child.size else 2)  # branches without tensors are shown less deeply
        if left > 0:
            yield from _lines(child, lead + ("   " if last else "│  "), left)


def _shown(node: Node) -> list[Node]:
    """Return the children of a node; if there are too many, the first ones, a count, and the last."""
    from anemoi_ckpt_migrate.tree.summary import Node

    children = node.children
    if len(children) <= _MOST:
        return children
    between = children[_MOST - 2 : -1]
    rest = Node(f"… {len(between)} more", "", size=sum(child.size for child in between))
    return [*children[: _MOST - 2], rest, children[-1]]


def _grouped(node: Node) -> Node:
    """Group the children of a node by the first part of dotted names, such as those of parameters."""
    from anemoi_ckpt_migrate.tree.summary import Node

    grouped = Node(node.name, node.what, node.tensor, [], node.size)
    groups: dict[str, Node] = {}
    for child in node.children:
        first, dot, rest = child.name.partition(".")
        if not (dot and first and rest and child.tensor):
            grouped.children.append(child)
            continue
        group = groups.get(first)
        if group is None:
            groups[first] = group = Node(first, "")
            grouped.children.append(group)
        group.children.append(Node(rest, child.what, child.tensor, child.children, child.size))
        group.size += child.size
    return grouped


def _name(lead: str, node: Node) -> Text:
    from rich.text import Text

    return Text.assemble((lead, "dim"), (plain(node.name), "" if node.tensor else "bold"))


def _what(node: Node) -> str:
    if node.tensor is None:
        return node.what
    shape = "shape unknown" if node.tensor.shape is None else "x".join(map(str, node.tensor.shape)) or "scalar"
    kind = "" if node.tensor.kind == "tensor" else f" {node.tensor.kind}"
    device = "" if node.tensor.location == "cpu" else f" ({node.tensor.location})"
    return f"{node.tensor.dtype or ''} {shape}{kind}{device}".strip()


def _bar(node: Node, root: Node) -> Text:
    from rich.text import Text

    eighths = round(8 * _BAR * node.size / root.size) if root.size else 0
    return Text("█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip(), "cyan" if node.tensor else "blue")


def _imported(name: PickledName) -> str:
    """Return a name; if torch imports another one for it, and that matters, with that name."""
    same = name.imported == name.name or name.standing == "known"
    return name.name if same else f"{name.name} (imported as {name.imported})"


def _noted(found: Inspection) -> Iterator[str]:
    """Yield the notes of another tool, a line each."""
    if found.migrations:
        yield plain(f"migrations {len(found.migrations)} noted by {found.noted_by}: {', '.join(found.migrations)}")
    for done in found.migration_history:
        yield plain(f"history    {done.kind} {done.name}")


def _below(found: Inspection) -> Iterator[Any]:
    """Yield the lines below the tree, with further facts."""
    from rich.text import Text

    for optimizer in found.optimizers:
        states = ", ".join(optimizer.states) or "nothing yet"
        groups = f"{optimizer.parameters} parameters in {optimizer.groups} group{'s' * (optimizer.groups != 1)}"
        yield plain(f"optimizer  {optimizer.path or 'the tree'}: {groups}, {sized(optimizer.size)} of {states}")
    for key, paths in found.shared.items():
        more = f" and {len(paths) - 4} more" if len(paths) > 4 else ""
        yield plain(f"shared     data/{key}: {', '.join(paths[:4])}{more}")
    for name, size in found.facts.attached.items():
        yield plain(f"attached   {name} ({sized(size)})")
    if found.facts.unused:
        yield plain(f"unused     {len(found.facts.unused)} payloads that no tensor uses, {found.facts.unused[0]} first")
    yield from _noted(found)
    for standing, meaning in _MEANING.items():
        names = plain(", ".join(_imported(name) for name in found.names if name.standing == standing))
        if names:
            yield Text.assemble((f"{standing:10} ", _COLOURS[standing]), names, (f"  ({meaning})", "dim"))
    if found.damaged is not None and not found.damaged:
        unchecked = found.facts.unchecked
        rest = f"{unchecked} entries have no checksum, all others match" if unchecked else "all checksums match"
        yield Text(f"verified   {rest}", "yellow" if unchecked else "green")
    for damage in found.damaged or ():
        tensors = f": {', '.join(damage.tensors)}" if damage.tensors else ""
        yield Text(plain(f"damaged    {damage.record}{tensors}"), "bold red")
