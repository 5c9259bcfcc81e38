"""Find code whose meaning changes when a module becomes a function.

A script with such code cannot become a part of another one. The message names the line and a remedy.
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

# Names that a module has, and that a function lacks or shares with its module.
_OF_MODULES = frozenset({"__file__", "__doc__", "__spec__", "__loader__", "__package__", "globals", "locals"})
_OF_FUNCTIONS = frozenset({"__globals__", "f_globals", "f_locals"})
# With fewer arguments, these use the names of the scope that calls them.
_ARGUMENTS = {"exec": 2, "eval": 2, "vars": 1, "dir": 1}
# Textual annotations are looked up in a module by the readers, and by dataclasses, which look for the markers.
_READERS = frozenset({"__annotations__", "get_annotations", "get_type_hints", "singledispatch", "singledispatchmethod"})
_MARKERS = frozenset({"ClassVar", "InitVar", "KW_ONLY"})
# Builtins that only some supported versions of Python have.
_LATER = frozenset({"BaseExceptionGroup", "ExceptionGroup", "PythonFinalizationError"})

_Obstacle = tuple[int, str, str]  # line, description, remedy


def check(script: Part, textual: bool) -> None:
    """Refuse a script that would behave differently as a function.

    Parameters
    ----------
    script : Part
        The script.
    textual : bool
        Whether its annotations become text, by a ``__future__`` import of any part.

    Raises
    ------
    Refused
        The script has such code; the error names the first line with it.
    """
    bound = script.bound
    if "replaces" in bound:
        raise Refused(f"revision {script.revision} is already squashed; squash the revisions after it")
    nodes = list(ast.walk(script.module))
    obstacles = [*_of_modules(nodes), *_of_annotations(nodes, textual), *_of_builtins(nodes, script.shadowed)]
    obstacles += _of_classes(script.table, bound)
    if textual and "annotations" not in script.features:
        obstacles += _of_inner_classes(nodes)
    if obstacles:
        line, what, way = min(obstacles)
        raise cannot(script.revision, f"line {line} {what}", way)


def _of_modules(nodes: Iterable[ast.AST]) -> Iterator[_Obstacle]:
    """Yield uses of features that only a module has."""
    calls = {node.func: node for node in nodes if isinstance(node, ast.Call)}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            yield node.lineno, f"imports * from {node.module}", "import each name"
        elif isinstance(node, ast.Global):
            yield node.lineno, f"has `global {', '.join(node.names)}`", "keep the changing value in a dict"
        elif isinstance(node, ast.Attribute) and node.attr in _OF_FUNCTIONS:
            yield node.lineno, f"uses {node.attr}, which would be that of the whole script", "name the object itself"
        elif isinstance(node, ast.Subscript) and _identifier(node.slice) == "__name__":
            yield node.lineno, "looks up its own module", "name the object itself"
        elif isinstance(node, ast.Name) and _asks_around(node, calls.get(node)):
            yield node.lineno, f"uses {node.id}, which differs in a function", "write the value itself"


def _asks_around(name: ast.Name, call: ast.Call | None) -> bool:
    needed = _ARGUMENTS.get(name.id, 0)
    if call is None:
        return name.id in _OF_MODULES or needed > 1  # eval passed on as a value would not see the names of a part
    return name.id in _OF_MODULES or len(call.args) + len(call.keywords) < needed


def _of_annotations(nodes: Iterable[ast.AST], textual: bool) -> Iterator[_Obstacle]:
    """Yield lookups of textual annotations, because the names in these no longer belong to a module."""
    quoted = [(line, word) for node in nodes for line, word in _quoted(node)]
    words = {word for _, word in quoted}
    suspects = (_READERS if textual or words else frozenset()) | (_MARKERS if textual else _MARKERS & words)
    if suspects:
        named = [(getattr(node, "lineno", 1), _identifier(node)) for node in nodes]
        for line, word in named + quoted:
            if word in suspects:
                what = f"uses {word}, and annotations are text (in quotes, or by a __future__ import of any part)"
                yield line, what, "remove them"


def _quoted(node: ast.AST) -> Iterator[tuple[int, str]]:
    for field in ("annotation", "returns"):
        for part in ast.walk(getattr(node, field, None) or ast.Pass()):
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                yield from ((part.lineno, word) for word in re.findall(r"\w+", part.value))


def _of_inner_classes(nodes: Iterable[ast.AST]) -> Iterator[_Obstacle]:
    """Yield decorated classes in functions: a dataclass made there looks for its module if annotations are text."""
    for function in nodes:
        for node in ast.walk(function) if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) else ():
            if isinstance(node, ast.ClassDef) and node.decorator_list:
                what = "decorates a class in a function, and another part makes annotations text"
                yield node.lineno, what, "move the class to the top level"


def _of_builtins(nodes: Iterable[ast.AST], shadowed: Iterable[str]) -> Iterator[_Obstacle]:
    """Yield names that would lose their built-in meaning: rebound and deleted, or missing in some Pythons."""
    for node in nodes:
        name = _identifier(node)
        gone = isinstance(node, ast.ExceptHandler) or isinstance(getattr(node, "ctx", None), ast.Del)
        if name in shadowed and (gone or name in _LATER):
            yield getattr(node, "lineno", 1), f"redefines {name}", "choose another name"


def _of_classes(table: symtable.SymbolTable, bound: set[str]) -> Iterator[_Obstacle]:
    """Yield classes that read a top-level name and also bind it: in a function they would not find it."""
    for inner in table.get_children():
        for symbol in inner.get_symbols() if inner.get_type() == "class" else ():
            name = symbol.get_name()
            if name in bound and symbol.is_referenced() and is_bound(symbol):
                what = f"begins the class {inner.get_name()}, which defines {name} and also uses {name} of the script"
                yield inner.get_lineno(), what, "rename one of them"
        yield from _of_classes(inner, bound)


def _identifier(node: ast.AST) -> str:
    found = getattr(node, "id", None) or getattr(node, "attr", None) or getattr(node, "name", None)
    return found if isinstance(found, str) else ""
