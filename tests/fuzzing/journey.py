"""What is done with an input, and what must hold."""

from __future__ import annotations

import collections
import contextlib
import functools
import io
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anemoi_ckpt_migrate import cli
from anemoi_ckpt_migrate.errors import MigrateError, NotACheckpoint
from anemoi_ckpt_migrate.storage import open_checkpoint
from anemoi_ckpt_migrate.storage.pickle.opaque import Opaque, OpaqueName
from anemoi_ckpt_migrate.storage.pickle.tree_pickle import Builder
from anemoi_ckpt_migrate.storage.tensors.refs import RebuildFunction, StoredStorage, StoredTensor, reduced
from anemoi_ckpt_migrate.storage.zip_archive import Archive, payload_offset, read_archive

NOT_KEPT = ("data.pkl", ".format_version", "ckpt_migrate/previous.json")  # records that writing makes anew
# Trying an input out, in a process of its own.


class Wrong(Exception):
    """Something that must not happen."""


@dataclass(frozen=True)
class Tried:
    """What became of an input: "refused", "read", "rewritten", or "wrong" with what went wrong and where."""

    outcome: str
    what: str = ""
    details: str = ""
    slow: bool = False


# What is done with the copy of an input: its path, where to write, whether to load tensors; returns how far it went.
Walk = Callable[[Path, Path, bool], str]


def journey(source: Path, output: Path, tensors: bool) -> str:
    """Read a checkpoint, write it again, and read that; return how far it went.

    Raises
    ------
    Exception
        Whatever goes wrong. That the input is refused is right, at any point before it is written.
    """
    outcome, tree = "refused", None
    try:
        with open_checkpoint(source) as checkpoint:
            tree = checkpoint.load()
            outcome = "read"
            checkpoint.write(checkpoint.pickled(tree), {}, output)
        outcome = "rewritten"
    except MigrateError as error:
        check_memory(error)
    further: list[Callable[[Path], None]] = [_inspect]
    if outcome == "rewritten":
        _check_rewritten(tree, source, output)
        further.append(_write_in_place)
    if tensors and "torch" in sys.modules:
        further.append(functools.partial(_load_content, output if outcome == "rewritten" else None))
    for step in further:
        try:
            step(source)
        except MigrateError as error:
            check_memory(error)
    return outcome


def check_memory(error: BaseException | None) -> None:
    """An input that asked for more than there is was refused by luck."""
    while error is not None:
        if isinstance(error, MemoryError):
            raise Wrong("it asked for too much memory") from error
        error = error.__context__


def _check_rewritten(tree: Any, source: Path, output: Path) -> None:
    _check_same(tree, output)
    _check_records(source, output)


def _check_same(tree: Any, written: Path) -> None:
    try:
        with open_checkpoint(written) as checkpoint:
            again = checkpoint.load()
    except MigrateError as error:
        raise Wrong("what was written cannot be read") from error
    if difference := _difference(tree, again):
        raise Wrong(f"what was written is something else: {difference}")


def _check_records(source: Path, output: Path) -> None:
    """Every record of a zip archive stays as it is, but for what the pickle does not refer to."""
    with source.open("rb") as old, output.open("rb") as new:
        try:
            before = read_archive(old)
        except NotACheckpoint:  # of an older format
            return
        after = read_archive(new)
        for name in before.entries:
            if name in NOT_KEPT or (name.startswith("data/") and name not in after.entries):
                continue
            if name not in after.entries or _payload(old, before, name) != _payload(new, after, name):
                raise Wrong(f"the record {name!r} did not stay as it was")


def _payload(stream: Any, archive: Archive, name: str) -> bytes | None:
    try:
        stream.seek(payload_offset(stream, archive.entries[name]))
    except NotACheckpoint:
        return None
    return stream.read(archive.entries[name].size)


def _inspect(source: Path) -> None:
    """Show what is in it, as a picture and as data."""
    picture = _printed("inspect", "--verify", "--depth", "9", str(source))
    if not picture.replace("\n", "").isprintable():
        raise Wrong("what is printed could steer a terminal")
    data = _printed("inspect", "--json", str(source))
    try:
        json.loads(data)
    except ValueError as error:
        raise Wrong("what is printed is no JSON") from error


def _printed(*words: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = cli.main(list(words))
    several = code == 3 and "it holds several archives" in err.getvalue()
    if (code not in (0, 1) and not several) or "Traceback" in err.getvalue() or "MemoryError" in err.getvalue():
        raise Wrong(f"{words[0]} ended with {code}: {err.getvalue()}")
    return out.getvalue()


def _write_in_place(source: Path) -> None:
    """Write a copy in place, and take it back."""
    path = Path(shutil.copy(source, source.with_name("grown.ckpt")))
    try:
        with open_checkpoint(path) as checkpoint:
            checkpoint.check_writable(in_place=True)
            tree = checkpoint.load()
            checkpoint.write_in_place(checkpoint.pickled(tree), {})
        _check_same(tree, path)
        with open_checkpoint(path) as checkpoint:
            earlier = checkpoint.earlier()
            if earlier is None:
                raise Wrong("the way back from writing in place is lost")
            checkpoint.cut(earlier)
        if path.read_bytes() != source.read_bytes():
            raise Wrong("the way back from writing in place leads elsewhere")
    finally:
        path.unlink()


def _load_content(output: Path | None, source: Path) -> None:
    """Load real tensors, read them, and make a pickle of them; where the file was written anew, they are the same."""
    with open_checkpoint(source) as checkpoint:
        tree = checkpoint.load_content()
        read = list(_read_tensors(tree))
        checkpoint.pickled(tree)
    if output is not None:
        try:
            with open_checkpoint(output) as checkpoint:
                again = list(_read_tensors(checkpoint.load_content()))
        except MigrateError as error:
            raise Wrong("the tensors of what was written cannot be read") from error
        if read != again:
            raise Wrong("the tensors of what was written are not the same")


def _read_tensors(tree: Any) -> Iterator[tuple[Any, ...]]:
    """Give dtype, shape and bytes of the tensors that are not too large."""
    import torch

    for part in _walk(tree):
        # Not those in parts: torch believes what indices say, in its own files too.
        plain = issubclass(type(part), torch.Tensor) and str(part.layout) == "torch.strided" and not part.is_nested
        if plain and part.device.type == "cpu" and part.numel() < 10_000:
            tensor = part.detach().clone().contiguous()
            yield tensor.dtype, tensor.shape, bytes(tensor.untyped_storage()) if tensor.numel() else b""


def _walk(tree: Any) -> Iterator[Any]:
    seen, todo = dict[int, Any](), [tree]
    while todo:
        part = todo.pop()
        if id(part) not in seen:
            seen[id(part)] = part
            yield part
            todo += _parts(part)[1]


def _difference(one: Any, two: Any) -> str:
    """Compare two trees, as deep as they are, with what they share; return a difference if there is one."""
    seen, back, todo = dict[int, tuple[Any, Any]](), dict[int, Any](), [(one, two)]
    while todo:
        left, right = todo.pop()
        if id(left) in seen:
            if _is_mutable(left) and seen[id(left)][1] is not right:
                return f"a {type(left).__name__} is no longer shared"
            continue
        seen[id(left)] = left, right
        if _is_mutable(right) and back.setdefault(id(right), left) is not left:
            return f"a {type(right).__name__} is shared now"
        (label, children), (other, others) = _parts(left), _parts(right)
        if label != other or len(children) != len(others):
            return f"{_short(label)} became {_short(other)}"
        todo += zip(children, others, strict=True)
    return ""


def _short(value: Any) -> str:
    try:
        return repr(value)[:200]
    except ValueError:  # an integer of too many digits
        return "something"


def _is_mutable(value: Any) -> bool:
    return isinstance(type(value), OpaqueName) or type(value) in (list, dict, collections.OrderedDict, StoredTensor)


def _parts(value: Any) -> tuple[Any, list[Any]]:
    """Describe a part of a tree: what it is, and what it consists of. (Stand-ins lie to `isinstance`.)"""
    kind = type(value)
    if kind is StoredTensor:
        return kind, list(reduced(value))
    if isinstance(kind, OpaqueName) and issubclass(kind, Opaque):
        return _opaque_parts(value)
    if kind is StoredStorage:
        return kind, list(value.persistent_id)
    if kind in (OpaqueName, RebuildFunction, Builder):
        return (kind, value.pickled_name), []
    if issubclass(kind, dict):
        attributes = getattr(value, "__dict__", {})
        held = [*value, *value.values(), *attributes, *attributes.values(), getattr(value, "default_factory", None)]
        return (kind, len(value)), held
    if issubclass(kind, (list, tuple)):
        return (kind, len(value)), list(value)
    if issubclass(kind, (set, frozenset)):
        return (kind, len(value), sorted(repr(item) for item in value if type(item) in (str, bytes, bool, float))), []
    return (kind, repr(value) if kind in (float, complex) or kind.__module__ == "datetime" else value), []


def _opaque_parts(value: Any) -> tuple[Any, list[Any]]:
    function, args, state, items, pairs, *setter = value.__reduce_ex__(4)
    items, pairs = list(items or ()), [part for pair in pairs or () for part in pair]
    return (Opaque, len(items), len(pairs), len(setter)), [function, args, state, *items, *pairs, *setter]
