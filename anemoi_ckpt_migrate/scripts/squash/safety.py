"""What would mean something else in a function than it means in a module.

A script that holds any of it cannot become a part of another one; the message names the line, and the way out.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from anemoi_ckpt_migrate.errors import Refused
from anemoi_ckpt_migrate.scripts.squash.part import Part, cannot, is_bound

if TYPE_CHECKING:
    import symtable

# What a module has and a function has not, or not its own.
_OF_MODULES = frozenset({"__file__", "__doc__", "__spec__", "__loader__", "__package__", "globals", "locals"})
_OF_FUNCTIONS = frozenset({"__globals__", "f_globals", "f_locals"})
# With fewer arguments, these take the names around them.
_ARGUMENTS = {"exec": 2, "eval": 2, "vars": 1, "dir": 1}
# Annotations that are text are looked up in a module: by these, and by dataclasses that look for those.
_READERS = frozenset({"__annotations__", "get_annotations", "get_type_hints", "singledispatch", "singledispatchmethod"})
_MARKERS = frozenset({"ClassVar", "InitVar", "KW_ONLY"})
# Built in, but not in every Python that this package runs on.
_LATER = frozenset({"BaseExceptionGroup", "ExceptionGroup", "PythonFinalizationError"})

_Obstacle = tuple[int, str, str]  # in which line, what, the way out


def check(script: Part, textual: bool) -> None:
    """Refuse a script that would do something else.

    Parameters
    ----------
    script : Part
        The script.
    textual : bool
        Whether its annotations become text.

    Raises
    ------
    Refused
        With the first thing that would mean something else.
    """
    bound = script.bound
    if "replaces" in bound:
        raise Refused(f"revision {script.revision} is squashed already; squash what comes after it")
    nodes = list(ast.walk(script.module))
    obstacles = [*_of_modules(nodes), *_of_annotations(nodes, textual), *_of_builtins(nodes, script.shadowed)]
    obstacles += _of_classes(script.table, bound)
    if textual and "annotations" not in script.features:
        obstacles += _of_inner_classes(nodes)
    if obstacles:
        line, what, way = min(obstacles)
        raise cannot(script.revision, f"line {line} {what}", way)


def _of_modules(nodes: Iterable[ast.AST]) -> Iterator[_Obstacle]:
    """Find what only a module has, or can do."""
    calls = {node.func: node for node in nodes if isinstance(node, ast.Call)}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            yield node.lineno, f"imports * from {node.module}", "name what is imported"
        elif isinstance(node, ast.Global):
            yield node.lineno, f"has `global {', '.join(node.names)}`", "keep what changes in a dict"
        elif isinstance(node, ast.Attribute) and node.attr in _OF_FUNCTIONS:
            yield node.lineno, f"uses {node.attr}, where a part has nothing of its own", "name what is meant"
        elif isinstance(node, ast.Subscript) and _identifier(node.slice) == "__name__":
            yield node.lineno, "looks up its own module", "name what is meant"
        elif isinstance(node, ast.Name) and _asks_around(node, calls.get(node)):
            yield node.lineno, f"uses {node.id}, which is not the same in a function", "write out what is meant"


def _asks_around(name: ast.Name, call: ast.Call | None) -> bool:
    needed = _ARGUMENTS.get(name.id, 0)
    if call is None:
        return name.id in _OF_MODULES or needed > 1  # who passes eval on does not pass the names on
    return name.id in _OF_MODULES or len(call.args) + len(call.keywords) < needed


def _of_annotations(nodes: Iterable[ast.AST], textual: bool) -> Iterator[_Obstacle]:
    """Find what looks up annotations that are text: the names in them are no longer those of a module."""
    quoted = [(line, word) for node in nodes for line, word in _quoted(node)]
    words = {word for _, word in quoted}
    suspects = (_READERS if textual or words else frozenset()) | (_MARKERS if textual else _MARKERS & words)
    if suspects:
        named = [(getattr(node, "lineno", 1), _identifier(node)) for node in nodes]
        for line, word in named + quoted:
            if word in suspects:
                what = f"uses {word}, and annotations are text (in quotes, or by a __future__ import of any part)"
                yield line, what, "let them be none"


def _quoted(node: ast.AST) -> Iterator[tuple[int, str]]:
    for field in ("annotation", "returns"):
        for part in ast.walk(getattr(node, field, None) or ast.Pass()):
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                yield from ((part.lineno, word) for word in re.findall(r"\w+", part.value))


def _of_inner_classes(nodes: Iterable[ast.AST]) -> Iterator[_Obstacle]:
    """Find dataclasses that are made when a function runs: they then look for their module if annotations are text."""
    for function in nodes:
        for node in ast.walk(function) if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) else ():
            if isinstance(node, ast.ClassDef) and node.decorator_list:
                what = "decorates a class in a function, and another part makes annotations text"
                yield node.lineno, what, "move the class to the top level"


def _of_builtins(nodes: Iterable[ast.AST], shadowed: Iterable[str]) -> Iterator[_Obstacle]:
    """Find names that are to mean what is built in after they meant something else, or in some Pythons only."""
    for node in nodes:
        name = _identifier(node)
        gone = isinstance(node, ast.ExceptHandler) or isinstance(getattr(node, "ctx", None), ast.Del)
        if name in shadowed and (gone or name in _LATER):
            yield getattr(node, "lineno", 1), f"gives another meaning to {name}", "give it another name"


def _of_classes(table: symtable.SymbolTable, bound: set[str]) -> Iterator[_Obstacle]:
    """Find classes that take a name from the top level, and bind it anew: they would no longer find it."""
    for inner in table.get_children():
        for symbol in inner.get_symbols() if inner.get_type() == "class" else ():
            name = symbol.get_name()
            if name in bound and symbol.is_referenced() and is_bound(symbol):
                what = f"begins the class {inner.get_name()}, which has {name} and uses that of the script"
                yield inner.get_lineno(), what, "give one another name"
        yield from _of_classes(inner, bound)


def _identifier(node: ast.AST) -> str:
    found = getattr(node, "id", None) or getattr(node, "attr", None) or getattr(node, "name", None)
    return found if isinstance(found, str) else ""
