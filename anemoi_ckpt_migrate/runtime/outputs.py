"""Compare the outputs that the user's code computes from a checkpoint, before and after an upgrade."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.errors import (
    CannotRead,
    CannotWrite,
    MigrateError,
    MigrationFailed,
    OutputsDiffer,
    UsageError,
)
from anemoi_ckpt_migrate.project.user_function import importable, imported
from anemoi_ckpt_migrate.runtime import recorded_outputs
from anemoi_ckpt_migrate.runtime.output_options import OutputOptions, OutputProof, RecordedOutputs, shown_tolerance
from anemoi_ckpt_migrate.runtime.output_values import (
    BadOutputs,
    Comparison,
    Leaves,
    compared,
    leaves_of,
    structure_difference,
)
from anemoi_ckpt_migrate.scripts.load_functions import failure
from anemoi_ckpt_migrate.storage import Checkpoint, Pickled
from anemoi_ckpt_migrate.storage.tensors.torch_library import torch
from anemoi_ckpt_migrate.util.dataclass import dataclass
from anemoi_ckpt_migrate.util.gc_pause import resumed as gc_resumed
from anemoi_ckpt_migrate.util.lazy_regex import lazy_regex

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.revisions.planner import Plan

ARGUMENT = "revisions"
"""The name of the argument in which a function takes the heads of the checkpoint."""
_SEED = 0
_REFUSED_CLASS = lazy_regex(r"GLOBAL (\S+) was not an allowed global")

Content = tuple[Pickled, Mapping[str, bytes | None]]
"""Arguments for `Checkpoint.write`."""


def prove(options: OutputOptions, folder: Path, file: Checkpoint, content: Content | None, plan: Plan) -> OutputProof:
    """Check that the upgrade of a checkpoint leaves the outputs as they were; writes nothing but a temporary copy.

    Parameters
    ----------
    options : OutputOptions
        The function, the tolerance, and perhaps a file with the expected outputs.
    folder : Path
        The folder in which to look for modules that are not installed.
    file : Checkpoint
        The checkpoint.
    content : Content or None
        The upgraded checkpoint; None if the checkpoint needs no upgrade.
    plan : Plan
        The heads before and after.

    Raises
    ------
    OutputsDiffer
        The outputs differ by more than the tolerance.
    MigrationFailed
        The function raised, or returned no outputs.
    UsageError
        There is no such function, or it takes other arguments.
    """
    recorded = None if options.expected is None else recorded_outputs.read(options.expected)
    with _called(options, folder) as call:
        before = functools.partial(_before, call, file, plan.start)
        expected = before()[1] if recorded is None else recorded
        after = functools.partial(_after, call, file, content, plan.end)
        found = after()[1]
        wrong = structure_difference(expected, found)
        if wrong:
            raise OutputsDiffer(options.name, _other(options), wrong)
        result = compared(expected, found, options.tolerance)
        if result.wrong:
            again = (before() if recorded is None else after())[1]
            told = _told(result) + _unsteady(expected if recorded is None else found, again)
            raise OutputsDiffer(options.name, _other(options), told)
    against = "before" if recorded is None else "file"
    return OutputProof(
        os.fspath(file.path),
        options.name,
        plan.start,
        plan.end,
        against,
        result.tolerance,
        result.largest,
        result.relative,
        result.where,
        result.total,
    )


def record(options: OutputOptions, folder: Path, file: Checkpoint, heads: Sequence[str], path: str) -> RecordedOutputs:
    """Compute the outputs of a checkpoint as it is, and write them to a new file.

    Raises
    ------
    CannotWrite
        There is such a file, or it cannot be written.
    MigrateError
        As for `prove`.
    """
    recorded_outputs.check_new(path)
    with _called(options, folder) as call:
        outputs, leaves = _before(call, file, heads)
    recorded_outputs.save(path, options.name, heads, outputs)
    count = sum(value.numel() for value in leaves.values() if isinstance(value, torch.Tensor))
    return RecordedOutputs(os.fspath(file.path), options.name, tuple(heads), path, count)


@dataclass(frozen=True)
class _Call:
    """The user's function, ready to be called.

    Attributes
    ----------
    name, shown : str
        The function, and the file with its source.
    function : callable
        The function.
    wants_revisions : bool
        Whether it takes the heads of the checkpoint.
    """

    name: str
    shown: str
    function: Callable[..., Any]
    wants_revisions: bool

    def run(self, tree: Any, heads: Sequence[str], what: str, way: str = "") -> tuple[Any, Leaves]:
        """Return the outputs for a checkpoint, computed from the same seeds each time, and copies of their values."""
        short = self.name.rpartition(":")[2]
        given = {ARGUMENT: tuple(heads)} if self.wants_revisions else {}
        with _seeded(), gc_resumed():
            try:
                outputs = self.function(tree, **given)
                return outputs, leaves_of(outputs)
            except KeyboardInterrupt:
                raise
            except BadOutputs as error:
                line = getattr(getattr(self.function, "__code__", None), "co_firstlineno", None)
                raise MigrationFailed(self.shown, line, f"`{short}` returns {error}") from error
            except BaseException as error:  # the function is the user's
                failed = failure(error, self.shown, f"`{short}` on the checkpoint {what}", self.function)
                if way and isinstance(failed, MigrationFailed):
                    failed = MigrationFailed(failed.where, failed.line, f"{failed.what}; {way}")
                raise failed from error


@contextlib.contextmanager
def _called(options: OutputOptions, folder: Path) -> Iterator[_Call]:
    """Import the function. Output of the code goes to stderr, because stdout may carry JSON."""
    with importable(torch, folder), contextlib.redirect_stdout(sys.stderr):
        given = options.function
        function = imported(given, folder) if isinstance(given, str) else given
        yield _Call(options.name, _source(function), function, _wants_revisions(options.name, function))


def _source(function: Callable[..., Any]) -> str:
    """Return the file of a function."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    return str(getattr(code, "co_filename", None) or getattr(module, "__file__", None) or "<function>")


def _wants_revisions(name: str, function: Callable[..., Any]) -> bool:
    try:
        signature = inspect.signature(function)
    except ValueError:
        return False  # a function in C has no signature; calling it shows whether it works
    wants = ARGUMENT in signature.parameters
    try:
        signature.bind({}, **({ARGUMENT: ()} if wants else {}))
    except TypeError as error:
        way = f"it takes the checkpoint, and the heads if it has an argument `{ARGUMENT}`"
        raise UsageError(f"{name} cannot be called with a checkpoint: {error}; {way}") from error
    return wants


@contextlib.contextmanager
def _seeded() -> Iterator[None]:
    """Seed the generators of torch, numpy (if it is imported) and Python, and restore them afterwards."""
    numpy = sys.modules.get("numpy")
    before, earlier = random.getstate(), None if numpy is None else numpy.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(_SEED)
        random.seed(_SEED)
        if numpy is not None:
            numpy.random.seed(_SEED)
        try:
            yield
        finally:
            random.setstate(before)
            if numpy is not None:
                numpy.random.set_state(earlier)


def _before(call: _Call, file: Checkpoint, heads: Sequence[str]) -> tuple[Any, Leaves]:
    """Return the outputs of the checkpoint as it is."""
    way = (
        "if this code cannot run it, record its outputs with the code of that time (check --save-outputs), "
        "and compare with them (--expect-outputs)"
    )
    tree = _loaded(call, file, None)
    return call.run(tree, heads, f"as it is, at {', '.join(heads) or 'base'},", way)


def _after(call: _Call, file: Checkpoint, content: Content | None, heads: Sequence[str]) -> tuple[Any, Leaves]:
    """Return the outputs of the upgraded checkpoint."""
    upgraded = "upgraded to" if content is not None else "as it is, at"
    return call.run(_loaded(call, file, content), heads, f"{upgraded} {', '.join(heads) or 'base'},")


def _loaded(call: _Call, file: Checkpoint, content: Content | None) -> Any:
    """Load a checkpoint, or what an upgrade makes of it, as `load` does."""
    if not file.is_of_torch:
        return (file if content is None else file.draft(*content)).load_content()
    if content is None and isinstance(file.path, Path):
        return _torch_load(call, file.path)
    try:
        with tempfile.TemporaryDirectory(prefix="ckpt-migrate-") as folder:
            path = Path(folder, file.path.name)
            if content is None:
                file.copy(path)
            else:
                file.write(*content, path)
            return _torch_load(call, path)
    except (CannotWrite, OSError) as error:
        reason = error.sentence if isinstance(error, CannotWrite) else error.strerror
        where = "it goes to the folder of temporary files; set TMPDIR to use another"
        raise CannotWrite(f"a copy for {call.name} could not be written ({reason}); {where}") from error


def _torch_load(call: _Call, path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except MigrateError:
        raise
    except Exception as error:  # torch raises all kinds of errors
        found = _REFUSED_CLASS.search(str(error))
        why = f"it holds {found[1]}" if found else str(error).strip().partition("\n")[0]
        module = call.name.partition(":")[0]
        way = f"if you trust its classes, let {module} call torch.serialization.add_safe_globals with them"
        raise CannotRead(f"torch.load(weights_only=True) refuses it for {call.name}: {why}; {way}") from error


def _other(options: OutputOptions) -> str:
    return "before" if options.expected is None else f"in {options.expected}"


def _told(result: Comparison) -> str:
    """Return the largest difference, in words."""
    expected, found = result.values
    return (
        f"{result.where} is {found} instead of {expected}, and {result.wrong:,} of {result.total:,} values differ by "
        f"more than the tolerance, {shown_tolerance(result.tolerance)}; the largest difference is "
        f"{result.largest:.3g} (relative {result.relative:.3g})"
    )


def _unsteady(first: Any, again: Any) -> str:
    """Return a hint if the function returns other outputs for the same checkpoint."""
    if structure_difference(first, again) or compared(first, again, 0.0).wrong:
        return "; but two calls with the same checkpoint differ too, so the function has to fix its inputs and seeds"
    return ""
