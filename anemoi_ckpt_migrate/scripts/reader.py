"""One script, read without being run."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path
from typing import Any

from anemoi_ckpt_migrate.errors import Fault
from anemoi_ckpt_migrate.graph import Revision
from anemoi_ckpt_migrate.scripts.signature import assigned, signature
from anemoi_ckpt_migrate.targets import ID_PATTERN, WORDS

_FUNCTIONS = ("migrate", "rollback")


def read_script(path: Path) -> tuple[Revision | None, list[Fault]]:
    """Read what a script says about itself.

    Parameters
    ----------
    path : Path
        The script.

    Returns
    -------
    tuple of Revision or None and list of Fault
        The revision, if its id could be made out, and everything that is wrong with the script.
    """
    shown = os.path.abspath(path)
    try:
        module = ast.parse(path.read_bytes(), filename=shown)
    except OSError as error:
        return None, [Fault(shown, 1, f"cannot be read ({error.strerror})")]
    except SyntaxError as error:
        return None, [Fault(shown, error.lineno or 1, f"syntax error: {error.msg}")]
    except (ValueError, RecursionError, MemoryError) as error:
        return None, [Fault(shown, 1, f"cannot be parsed: {error}")]
    return _Reader(module, shown).read()


class _Reader:
    """Collects the names that a script sets at its top level, and what is wrong with them."""

    def __init__(self, module: ast.Module, shown: str) -> None:
        self._module, self._shown = module, shown
        self._values: dict[str, ast.expr] = {}
        self._lines: dict[str, int] = {}
        self._functions: set[str] = set()
        self._faults: list[Fault] = []

    def read(self) -> tuple[Revision | None, list[Fault]]:
        for statement in self._module.body:
            self._note(statement)
        revision = self._revision()
        metadata = self._metadata()
        if "down_revision" not in self._values:
            self._fault("revision", "no down_revision: a script names what it follows, None at the base")
        found = Revision(
            revision or "",
            parents=self._ids("down_revision"),
            name=self._name(),
            depends_on=self._ids("depends_on"),
            labels=self._words("branch_labels"),
            versions=metadata["versions"],
            final=metadata["final"],
            migrates="migrate" in self._functions,
            reversible="rollback" in self._functions,
            signature=signature(self._module),
            path=self._shown,
            lines=self._lines,
        )
        self._check_functions(found)
        return (found if revision else None), self._faults

    def _note(self, statement: ast.stmt) -> None:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
            names = [statement.name]
            if isinstance(statement, ast.AsyncFunctionDef) and statement.name in _FUNCTIONS:
                self._fault(statement.name, f"{statement.name} must not be async", statement.lineno)
        elif isinstance(statement, (ast.Import, ast.ImportFrom)):
            names = [alias.asname or alias.name for alias in statement.names]
        else:
            names = assigned(statement)
        value = getattr(statement, "value", None)
        for name in names:
            self._lines[name] = statement.lineno
            if value is not None:
                self._values[name] = value
            is_none = isinstance(value, ast.Constant) and value.value is None
            if name in _FUNCTIONS and not is_none:
                self._functions.add(name)

    def _fault(self, name: str, message: str, line: int | None = None) -> None:
        self._faults.append(Fault(self._shown, line or self._lines.get(name, 1), message))

    def _literal(self, name: str) -> Any:
        if name not in self._values:
            return None
        try:
            return ast.literal_eval(self._values[name])
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            self._fault(name, f"{name} must be written out: scripts are read without being run")
            return None

    def _revision(self) -> str | None:
        if "revision" not in self._values:
            self._fault("revision", 'no revision: a script sets `revision = "..."` at its top level')
            return None
        before = len(self._faults)
        revision = self._literal("revision")
        if len(self._faults) > before:
            return None
        if not isinstance(revision, str) or not re.fullmatch(ID_PATTERN, revision) or revision in WORDS:
            self._fault("revision", f"revision must be letters, digits, dots and underscores, not {revision!r:.60}")
            return None
        return revision

    def _words(self, name: str) -> tuple[str, ...]:
        value = self._literal(name)
        if value is None:
            return ()
        words = (value,) if isinstance(value, str) else value
        if not isinstance(words, (tuple, list, set)) or not all(isinstance(word, str) and word for word in words):
            self._fault(name, f"{name} must be None, a string or a tuple of strings, not {value!r:.60}")
            return ()
        return tuple(sorted(words) if isinstance(words, set) else words)

    def _ids(self, name: str) -> tuple[str, ...]:
        ids = self._words(name)
        if len(set(ids)) != len(ids):
            self._fault(name, f"{name} names a revision twice")
        return tuple(dict.fromkeys(ids))

    def _metadata(self) -> dict[str, Any]:
        found: dict[str, Any] = {"versions": {}, "final": False}
        call = self._values.get("metadata")
        if call is None:
            return found
        if not isinstance(call, ast.Call):
            self._fault("metadata", "metadata must be MigrationMetadata(...)")
            return found
        named = dict(zip(found, call.args, strict=False))
        named |= {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg in found}
        for keyword in call.keywords:
            if keyword.arg not in found:
                self._fault("metadata", f"MigrationMetadata takes versions and final, not {keyword.arg or '**'}")
        for name, expression in named.items():
            try:
                found[name] = ast.literal_eval(expression)
            except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
                self._fault("metadata", f"{name} of metadata must be written out: scripts are read without being run")
        return self._checked(found)

    def _checked(self, found: dict[str, Any]) -> dict[str, Any]:
        versions, final = found["versions"], found["final"]
        if not isinstance(versions, dict) or not all(isinstance(w, str) for pair in versions.items() for w in pair):
            self._fault("metadata", f"versions of metadata must be a dict of strings, not {versions!r:.60}")
            versions = {}
        if not isinstance(final, bool):
            self._fault("metadata", f"final of metadata must be True or False, not {final!r:.60}")
            final = False
        return {"versions": versions, "final": final}

    def _name(self) -> str:
        first = (ast.get_docstring(self._module) or "").strip().partition("\n")[0].strip()
        return first or os.path.splitext(os.path.basename(self._shown))[0]

    def _check_functions(self, found: Revision) -> None:
        for name in sorted(self._functions):
            if found.final:
                self._fault(name, f"a barrier (final=True) has no {name}: nothing crosses it")
        for name in _FUNCTIONS:
            value = self._values.get(name)
            if isinstance(value, ast.Constant) and value.value is not None:
                self._fault(name, f"{name} must be a function, not {value.value!r:.60}")
        if not found.final and not found.migrates:
            self._fault("metadata", "no migrate function; a revision without one is a barrier and says final=True")
