"""Prove what --autogenerate writes for a refactoring: on a checkpoint with a copy and an optimizer, trained on, and undone.

OLD --(script written from OLD and NEW)--> made == NEW by hand: parameters, copy, moments, two steps of training
 ^---------------- downgrade ----------------|
"""

from __future__ import annotations

import ast
import re
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from anemoi_ckpt_migrate import Refused, diff, downgrade, revision, upgrade
from tests.support.refactorings import Make, States
from tests.support.same_trees import same

_BUFFERS = re.compile(r"(^|\.)(running_mean|running_var|mask)$")


@dataclass(frozen=True)
class Proof:
    """The outcome.

    Attributes
    ----------
    operations, guesses : int
        How many operations were written, and how many of them are guesses.
    explained : bool
        Whether the result has the names, shapes, dtypes and order of NEW, in the parameters and in the copy.
    values : bool
        Whether all values are those of the refactoring by hand, in both, but for parameters that were added.
    trains : bool
        Whether the optimizer loads, and two steps are bit for bit those by hand.
    back : bool
        Whether the downgrade restores OLD, bit for bit.
    """

    operations: int
    guesses: int
    explained: bool
    values: bool
    trains: bool
    back: bool


def prove(make: Make, other: bool) -> Proof:
    """Write the script in the current folder, which is a new project, run it, and compare.

    Parameters
    ----------
    make : callable
        The refactoring.
    other : bool
        Whether NEW has other weights, so that contents tell nothing.
    """
    torch.save(_checkpoint(make, 0), "old.pt")
    torch.save(_checkpoint(make, 1, 10 if other else 0), "new.pt")
    found = diff("old.pt", "new.pt").explanation.operations
    written = Path(revision("refactored", autogenerate=("old.pt", "new.pt")).path)
    written.write_text(_keeping(written.read_text()))
    before = torch.load("old.pt")
    upgrade("old.pt", "head")
    made, wanted = torch.load("old.pt"), _checkpoint(make, 1)
    added = _added([each.operation for each in found], wanted["state_dict"])
    parts = [(made[part], wanted[part]) for part in ("state_dict", "ema")]
    explained = all(_facts(one) == _facts(other_) for one, other_ in parts)
    values = explained and all(
        torch.equal(one[name], right[name])
        for one, right in parts
        for name in right
        if name.removeprefix("module.") not in added
    )
    trains = explained and _trains_alike(made, wanted, added)
    try:
        downgrade("old.pt", "base")
    except Refused:
        back = False
    else:
        back = all(same(before[part], torch.load("old.pt")[part]) for part in before)
    return Proof(
        len(found),
        sum(guess.confidence < 1 for guess in found),
        explained,
        values,
        trains,
        back,
    )


def _keeping(script: str) -> str:
    """Return a script that loses no values: what `check` asks of its author."""
    lines = script.splitlines(keepends=True)
    calls = [each for each in ast.walk(ast.parse(script)) if isinstance(each, ast.Call)]
    for call in sorted(calls, key=lambda call: (call.end_lineno or 0, call.end_col_offset or 0), reverse=True):
        if getattr(call.func, "attr", "") in ("Drop", "Cast") and not any(each.arg == "keep" for each in call.keywords):
            line, column = (call.end_lineno or 0) - 1, (call.end_col_offset or 0) - 1
            comma = "" if lines[line][:column].rstrip().endswith((",", "(")) else ", "
            lines[line] = f"{lines[line][:column]}{comma}keep=True{lines[line][column:]}"
    return "".join(lines)


def _checkpoint(make: Make, side: int, seed: int = 0) -> dict[str, Any]:
    """Make a checkpoint: parameters, an average of them, and the state of AdamW."""
    states, average = make(seed)[side], make(seed + 3)[side]
    names = _trained(states)
    first, second = (make(seed + more)[side] for more in (1, 2))
    state = {
        place: {"step": torch.tensor(7.0), "exp_avg": first[name].clone(), "exp_avg_sq": second[name].abs()}
        for place, name in enumerate(names)
    }
    group = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))], lr=1e-3).state_dict()["param_groups"][0]
    return {
        "state_dict": states,
        "ema": OrderedDict((f"module.{name}", value) for name, value in average.items()),
        "optimizer_states": [
            {"state": state, "param_groups": [{**group, "params": list(state), "param_names": names}]}
        ],
    }


def _trained(states: States) -> list[str]:
    """Return the names of the parameters that an optimizer has: of tied ones the first, no buffers."""
    firsts = {value.data_ptr(): name for name, value in reversed(states.items())}
    return [
        name
        for name, value in states.items()
        if value.is_floating_point() and not _BUFFERS.search(name) and firsts[value.data_ptr()] == name
    ]


def _added(operations: list[Any], states: States) -> set[str]:
    """Return the parameters that operations add."""
    keys = [operation.key for operation in operations if type(operation).__name__ == "Add"]
    patterns = [re.compile(re.sub(r"\\\{\w+\\\}", r"[^.]+", re.escape(key))) for key in keys]
    return {name for name in states if any(each.fullmatch(name) for each in patterns)}


def _facts(states: States) -> list[object]:
    return [(name, value.shape, value.dtype) for name, value in states.items()]


def _trains_alike(made: dict[str, Any], wanted: dict[str, Any], added: set[str]) -> bool:
    """Return whether two steps of training change the parameters of both in the same way."""
    names, ends = _trained(wanted["state_dict"]), []
    for found in (made, wanted):
        optimizer_state = found["optimizer_states"][0]
        if found is wanted:  # an added parameter begins without moments
            kept = {place: own for place, own in optimizer_state["state"].items() if names[place] not in added}
            optimizer_state = {**optimizer_state, "state": kept}
        values = {**found["state_dict"], **{name: made["state_dict"][name] for name in added}}
        parameters = [torch.nn.Parameter(values[name].clone()) for name in names]
        optimizer = torch.optim.AdamW(parameters, lr=1e-3)
        optimizer.load_state_dict(optimizer_state)
        for step in range(2):
            for number, parameter in enumerate(parameters):
                # Not `torch.manual_seed`, which keeps the stack of each call in case a GPU is found, and takes 5 ms.
                numbers = torch.Generator().manual_seed(100 * number + step)
                parameter.grad = torch.randn(parameter.shape, dtype=parameter.dtype, generator=numbers)
            optimizer.step()
        ends.append(parameters)
    return all(torch.equal(one, other) for one, other in zip(*ends, strict=True))
