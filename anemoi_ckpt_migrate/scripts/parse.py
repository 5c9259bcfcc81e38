"""Read one script without running it."""

from __future__ import annotations

import ast
import os
from typing import Any

from anemoi_ckpt_migrate.errors import Fault
from anemoi_ckpt_migrate.revisions.graph import Revision
from anemoi_ckpt_migrate.revisions.targets import CURRENT, ID_PATTERN, LABEL_PATTERN, WORDS
from anemoi_ckpt_migrate.scripts.parse_header import FUNCTIONS, NAMES, Heading, heading
from anemoi_ckpt_migrate.scripts.signature import assigned
from anemoi_ckpt_migrate.scripts.source import tail
from anemoi_ckpt_migrate.util.dataclass import replace
from anemoi_ckpt_migrate.util.lazy_regex import lazy_regex

_ID, _LABEL = lazy_regex(ID_PATTERN), lazy_regex(LABEL_PATTERN)


def read_script(path: str, whole: bool = True) -> tuple[Revision | None, list[Fault]]:
    """Read the revision that a script defines.

    Parameters
    ----------
    path : str
        The script, as an absolute path.
    whole : bool
        Whether to parse all of it. Otherwise only the head is read where possible; faults in the rest show up when
        the script is run.

    Returns
    -------
    tuple of Revision or None and list of Fault
        The revision, if its id could be read, and all faults of the script.
    """
    try:
        with open(path, "rb", opener=_opener) as file:
            source = file.read()
    except OSError as error:
        return None, [Fault(path, 1, f"cannot be read ({error.strerror})")]
    return read_text(source, path, whole)


def read_text(source: bytes, path: str, whole: bool = True) -> tuple[Revision | None, list[Fault]]:
    """Read the revision from the text of a script. Like `read_script`, but the file need not exist yet."""
    try:
        found = None if whole else heading(source)
        return _Reader(found or _parsed(source, path), path).read()
    except SyntaxError as error:
        return None, [Fault(path, error.lineno or 1, f"syntax error: {error.msg}")]
    except (ValueError, RecursionError, MemoryError) as error:
        return None, [Fault(path, 1, f"cannot be parsed: {error}")]


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a named pipe without a writer would block


def _parsed(source: bytes, path: str) -> Heading:
    """Parse a script, and collect the names that it sets at its top level. The last assignment counts."""
    module = ast.parse(source, filename=path)
    first = module.body[0] if module.body else None
    text = getattr(getattr(first, "value", None), "value", None) if isinstance(first, ast.Expr) else None
    found = Heading(text if isinstance(text, str) else "", {}, {}, set())
    for statement in module.body:
        _note(statement, found)
    return found


def _note(statement: ast.stmt, found: Heading) -> None:
    value = getattr(statement, "value", None)
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
        names = [statement.name]
        if isinstance(statement, ast.AsyncFunctionDef):
            value = ast.Await(ast.Constant(None))  # marks an async function
    elif isinstance(statement, (ast.Import, ast.ImportFrom)):
        names = [alias.asname or alias.name for alias in statement.names]
    else:
        names = assigned(statement)
    for name in NAMES.intersection(names):
        found.lines[name] = statement.lineno
        if value is not None:
            found.values[name] = value
        if name in FUNCTIONS and not (isinstance(value, ast.Constant) and value.value is None):
            found.functions.add(name)


class _Reader:
    """Makes a revision from the names that a script sets at its top level, and collects their faults."""

    def __init__(self, found: Heading, shown: str) -> None:
        self._shown, self._docstring = shown, found.docstring
        self._values, self._lines, self._functions = found.values, found.lines, found.functions
        self._faults: list[Fault] = []

    def read(self) -> tuple[Revision | None, list[Fault]]:
        revision = self._revision()
        metadata = self._metadata()
        operations = self._operations()
        replaces = self._replaces(operations)
        if "down_revision" not in self._values:
            self._fault("revision", "no down_revision: set it to the parent of this revision, or None at the base")
        found = Revision(
            revision or "",
            parents=self._ids("down_revision"),
            name=self._name(),
            depends_on=self._ids("depends_on"),
            labels=self._labels(),
            versions=metadata["versions"],
            final=metadata["final"],
            migrates="migrate" in self._functions or operations is not None,
            reversible=self._reversible(operations),
            declared=self._declared(operations),
            path=self._shown,
            lines=self._lines,
            replaces=replaces,
            operations=operations,
            known_as={name: part.known_as[name] for part in replaces for name in part.known_as} | self._known_as(),
            sets_up="migrate_setup" in self._functions,
        )
        self._check_functions(found)
        return (found if revision else None), self._faults

    def _only_sets_up(self) -> bool:
        """Return whether the script has a `migrate_setup` only. Its rollback is known."""
        return self._functions == {"migrate_setup"}

    def _reversible(self, operations: tuple[Any, ...] | None) -> bool:
        if operations is not None:
            return all(operation.reversible for operation in operations)
        return "rollback" in self._functions or self._only_sets_up()

    def _declared(self, operations: tuple[Any, ...] | None) -> bool:
        """Return whether the script states whether it can be undone. Reversible operations count as a statement."""
        if "rollback" in self._lines or self._only_sets_up():
            return True
        return operations is not None and self._reversible(operations)

    def _fault(self, name: str, message: str, line: int | None = None) -> None:
        self._faults.append(Fault(self._shown, line or self._lines.get(name, 1), message))

    def _literal(self, name: str) -> Any:
        if name not in self._values:
            return None
        value = self._values[name]
        if isinstance(value, ast.Constant):  # the usual case, kept fast for thousands of scripts
            return value.value
        try:
            return ast.literal_eval(value)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            self._fault(name, f"{name} must be a literal: scripts are read without being run")
            return None

    def _revision(self) -> str | None:
        if "revision" not in self._values:
            self._fault("revision", 'no revision: set `revision = "..."` at the top level')
            return None
        before = len(self._faults)
        revision = self._literal("revision")
        if len(self._faults) > before:
            return None
        if not isinstance(revision, str) or not _ID.fullmatch(revision) or revision in WORDS:
            self._fault("revision", f"revision must be letters, digits, dots and underscores, not {revision!r:.60}")
            return None
        return revision

    def _words(self, name: str) -> tuple[str, ...]:
        value = self._literal(name)
        if value is None:
            return ()
        if isinstance(value, str) and value:
            return (value,)
        words = value
        if not isinstance(words, (tuple, list, set)) or not all(isinstance(word, str) and word for word in words):
            self._fault(name, f"{name} must be None, a string or a tuple of strings, not {value!r:.60}")
            return ()
        return tuple(sorted(words) if isinstance(words, set) else words)

    def _ids(self, name: str) -> tuple[str, ...]:
        ids = self._words(name)
        if len(ids) < 2:
            return ids
        if len(set(ids)) != len(ids):
            self._fault(name, f"{name} names a revision twice")
        return tuple(dict.fromkeys(ids))

    def _labels(self) -> tuple[str, ...]:
        labels = self._words("branch_labels")
        for label in labels:
            if label in (*WORDS, CURRENT.word) or not _LABEL.fullmatch(label):
                what = f"{label!r:.60} cannot be a label: use letters, digits, dashes, dots, underscores; not a target"
                self._fault("branch_labels", what)
        return labels

    def _replaces(self, operations: tuple[Any, ...] | None) -> tuple[Revision, ...]:
        """Read the revisions that a squashed one replaces."""
        facts = self._literal("replaces")
        if facts is None:
            return ()
        try:
            found = tuple(_part(fact, self._shown, place) for place, fact in enumerate(facts))
            return _with_operations(found, [fact.get("operations", 0) for fact in facts], operations)
        except (TypeError, KeyError, AttributeError, ValueError):
            self._fault("replaces", "replaces is not as `ckpt-migrate squash` wrote it; restore it")
            return ()

    def _known_as(self) -> dict[str, dict[str, str]]:
        """Read the migrations of another tool that correspond to this script."""
        names = self._literal("known_as")
        if names is None:
            return {}
        if not isinstance(names, dict) or not all(map(_is_text, names)) or not all(map(_are_digests, names.values())):
            what = "known_as must be a dict with the name of each migration and the digests of its script"
            self._fault("known_as", f"{what}, not {names!r:.60}")
            return {}
        return names

    def _operations(self) -> tuple[Any, ...] | None:
        value = self._values.get("operations")
        if value is None:
            return None
        from anemoi_ckpt_migrate.scripts.parse_operations import read_operations

        found, faults = read_operations(value)
        for line, message in faults:
            self._fault("operations", message, line)
        return tuple(found)

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
                self._fault("metadata", f"{name} of metadata must be a literal: scripts are read without being run")
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
        name = self._docstring.strip().partition("\n")[0].strip()
        return name or os.path.splitext(os.path.basename(self._shown))[0]

    def _check_functions(self, found: Revision) -> None:
        for name in sorted(self._functions):
            if found.final:
                self._fault(name, f"a barrier (final=True) cannot have {name}: no checkpoint crosses it")
        for name in FUNCTIONS:
            value = self._values.get(name)
            if isinstance(value, ast.Await):
                self._fault(name, f"{name} must not be async")
            if isinstance(value, ast.Constant) and value.value is not None:
                self._fault(name, f"{name} must be a function, not {value.value!r:.60}")
        if found.operations is not None:
            self._check_beside_operations(found.final)
        if self._functions == {"migrate_setup", "rollback"}:
            self._fault("rollback", "rollback has no migrate to undo; a downgrade undoes migrate_setup by itself")
        if not (found.final or found.migrates or found.sets_up):
            self._fault(
                "metadata",
                "no migrate function and no operations; write one, or make it a barrier with final=True",
            )

    def _check_beside_operations(self, final: bool) -> None:
        beside = next(iter(sorted(self._functions)), None)
        if beside == "migrate_setup":
            self._fault(beside, "a script has operations or functions, not both; use op.MoveClass or op.MoveModule")
        elif beside is not None:
            self._fault(beside, f"a script has operations or functions, not both; use op.Run for {beside}")
        if final:
            self._fault("operations", "a barrier (final=True) cannot have operations: no checkpoint crosses it")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _are_digests(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_text, (*value, *value.values())))


def _with_operations(
    parts: tuple[Revision, ...], counts: list[int], operations: tuple[Any, ...] | None
) -> tuple[Revision, ...]:
    """Assign to each replaced revision its own operations from the list of the squashed one."""
    if operations is None:
        return parts
    from anemoi_ckpt_migrate.operations.tree_operation import functions
    from anemoi_ckpt_migrate.scripts.squash.join_operations import own

    if sum(counts) != len(operations):
        raise ValueError("operations were added or removed")
    found, start = [], 0
    for place, (part, count) in enumerate(zip(parts, counts, strict=True)):
        mine = own(operations[start : start + count], place + 1)
        found.append(replace(part, operations=mine, tail=tail(place, declared=True) if functions(mine) else ""))
        start += count
    return tuple(found)


def _part(fact: dict[str, Any], path: str, place: int) -> Revision:
    """Return one replaced revision of a squashed one."""
    parents = fact["down_revision"]
    return Revision(
        str(fact["revision"]),
        parents=(parents,) if isinstance(parents, str) else tuple(map(str, parents or ())),
        name=str(fact["name"]),
        depends_on=tuple(map(str, fact["depends_on"])),
        labels=tuple(map(str, fact["branch_labels"])),
        versions=dict(fact["versions"]),
        reversible=bool(fact["reversible"]),
        declared=True,
        signature=str(fact["signature"]),
        path=path,
        tail=tail(place),
        known_as=dict(fact.get("known_as", {})),
    )
