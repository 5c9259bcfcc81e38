"""Output of `adopt`: the history, and the checkpoints at each state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from anemoi_ckpt_migrate.batch.job import FAILED, INTERRUPTED, REFUSED, UNRELATED, JobResult
from anemoi_ckpt_migrate.commands.adopt_result import PROPOSED, AdoptedHistory, AdoptedStep
from anemoi_ckpt_migrate.console.output import flush, print_json, say, warn
from anemoi_ckpt_migrate.errors import shown_path
from anemoi_ckpt_migrate.manifests.manifest_file import BASE
from anemoi_ckpt_migrate.util.text import numbered

_MOST = 20  # paths of a kind that are listed
_WORDS = {
    UNRELATED: "unrelated",
    REFUSED: "fit no single state",
    FAILED: "failed",
    INTERRUPTED: "interrupted",
}


def print_history(history: AdoptedHistory, as_json: bool) -> None:
    """Print the states and the steps between them, as a line of JSON or as text; doubts and warnings on stderr."""
    warn(warning for step in history.steps for warning in step.warnings)
    warn(history.warnings)
    if as_json:
        print_json(history.to_data())
    else:
        steps: list[AdoptedStep | None] = [None, *history.steps]
        for state, step in zip(history.states, steps, strict=True):
            if step is not None:
                _print_step(step)
            say(f"{state.place}: {shown_path(state.checkpoint)}, {numbered(state.parameters, 'parameter')}")
    flush()
    warn(history.doubts)


def _print_step(step: AdoptedStep) -> None:
    operations = numbered(len(step.operations), "operation") if step.operations else "functions"
    unchecked = f", {step.unchecked} to check" if step.unchecked else ""
    place = ", ".join(map(shown_path, step.paths)) or step.name
    proof = "" if step.done == PROPOSED else "; it leads to the next example"
    say(f"  {step.done} {place}: {operations}{unchecked}{proof}")
    if step.done == PROPOSED:
        for operation in step.operations:
            say(f"    {operation}")


class AdoptTable:
    """Counts the checkpoints at each state, and lists the others."""

    def __init__(self, history: AdoptedHistory, dry_run: bool) -> None:
        self._history, self._dry_run = history, dry_run
        self._fit: Counter[tuple[str, ...]] = Counter()
        self._rest: dict[str, list[str]] = {}

    def add(self, result: JobResult) -> None:
        """Count the result for a checkpoint."""
        if result.same_as:
            return
        if result.result is not None:
            self._fit[tuple(result.result.end)] += 1
        else:
            self._rest.setdefault(result.status, []).append(result.checkpoint)

    def print(self, quiet: bool) -> None:
        """Print the table, or its last line."""
        fit, rest = sum(self._fit.values()), sum(map(len, self._rest.values()))
        for line in () if quiet else self._lines():
            say(line)
        dry = " (dry run, nothing written)" if self._dry_run else ""
        say(f"{numbered(fit, 'checkpoint')} at a known state, {rest} left alone{dry}")

    def _lines(self) -> Iterator[str]:
        states = [state.revisions or () for state in self._history.states]
        others = sorted(set(self._fit).difference(states))  # of other models, or between the examples
        for revisions in (*states, *others):
            count = self._fit[revisions]
            yield f"{', '.join(revisions) or BASE}: {numbered(count, 'checkpoint')}"
        for status, word in _WORDS.items():
            paths = sorted(self._rest.get(status, ()))
            if paths:
                yield f"{word}: {len(paths)}"
                yield from (f"  {shown_path(path)}" for path in paths[:_MOST])
                yield from [f"  and {len(paths) - _MOST} more, which --report lists"] if len(paths) > _MOST else []
