"""Change some modules, one place at a time, and print which changes no test notices.

A library would have to draw a sample, take the tests of each module from us, and leave the working tree alone.
mutmut draws no sample, and finds the tests of each function by running all of them. cosmic-ray changes files in place.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import sys
import tempfile
from pathlib import Path

from tests.mutants.changes import Change, changes
from tests.mutants.trial import ROOT, Copy

PACKAGE = "anemoi_ckpt_migrate"
RELATED = {
    "revisions/planner": [
        "revisions/test_plans_by_example.py",
        "revisions/test_planner.py",
        "commands/test_stamp.py",
        "revisions/test_barriers.py",
        "commands/test_downgrade.py::test_of_several_steps_without_a_rollback_the_last_one_stops_first",
        "commands/test_downgrade.py::test_no_number_of_steps_is_named_that_would_undo_another_branch",
    ],
    "revisions/downgrade_set": [
        "revisions/test_downgrade_set.py",
        "revisions/test_lines.py",
        "revisions/test_barriers.py",
        "revisions/test_branch_plans.py",
    ],
    "revisions/graph": ["revisions/test_graph.py", "revisions/test_targets.py", "revisions/test_lines.py"],
    "record/record": ["record/test_damage.py"],
    "storage/atomic_replace": ["storage/test_atomic_replace.py"],
    "storage/in_place": ["storage/test_in_place.py", "storage/test_power_loss.py::test_the_power_goes[recover]"],
    "storage/zip_writer": ["storage/test_zip_writer.py"],
    "operations/fuse": ["operations/test_fuse.py", "operations/test_operations_plain.py"],
    "state/optimizer_state": [
        "state/test_optimizer_state.py",
        "state/test_optimizers_refused.py",
        "state/test_optimizers_more.py",
        "state/test_optimizers.py::test_names_as_keys",
    ],
    "state/infer_optimizer": [
        "state/test_infer_optimizer.py",
        "state/test_optimizers.py",
        "state/test_optimizers_refused.py",
        "state/test_optimizers_more.py",
        "state/test_optimizers_guarded.py",
        "state/test_optimizer_state.py",
    ],
    "state/name_patterns": [
        "state/test_name_patterns.py",
        "operations/test_names_of_operations.py",
        "operations/test_renames.py",
        "operations/test_operations_plain.py",
        "storage/test_size_limits.py",
    ],
    "storage/size_limits": ["storage/test_free_space.py", "storage/test_size_limits.py"],
    "tree/optimizer_formats": [
        "state/test_flattened_optimizers.py",
        "state/test_optimizers_remembered.py",
        "state/test_optimizers.py",
        "state/test_optimizers_more.py",
    ],
}
"""The modules, each with the tests that are about it, the quickest first."""

EQUIVALENT = Path(__file__).with_name("EQUIVALENT.md")


def equivalent() -> dict[str, set[tuple[str, str, str]]]:
    """Return the changes that change nothing, by module: the function, and the code before and after."""
    found: dict[str, set[tuple[str, str, str]]] = {}
    for line in EQUIVALENT.read_text().splitlines():
        if line.startswith("## "):
            module = found.setdefault(line.removeprefix("## "), set())
        elif line.startswith("- "):
            entry = re.fullmatch(r"- (\S+): `(.+)` → `(.+?)`: \S.*", line)
            assert entry, f"{EQUIVALENT.name}: {line}"
            module.add((entry[1], entry[2], entry[3]))
    return found


def sample(module: str, count: int, seed: int) -> list[Change]:
    """Return some changes to a module at random, without those that change nothing; more of them with a larger count."""
    same = equivalent().get(module, set())
    found = changes((ROOT / PACKAGE / f"{module}.py").read_text())
    random.Random(f"{seed} {module}").shuffle(found)
    return [change for change in found if change.key not in same][:count]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("count", type=int, nargs="?", default=15, help="changes of each module (15)")
    parser.add_argument("seed", type=int, nargs="?", default=0, help="which ones (0)")
    parser.add_argument("modules", nargs="*", help="only these, as revisions/planner")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the copy and the tests that run do not outlive it
    os.environ.setdefault("HYPOTHESIS_MAX_EXAMPLES", "25")
    noticed, tried = 0, 0
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Copy(Path(folder))
        for module in arguments.modules or RELATED:
            path, tests = f"{PACKAGE}/{module}.py", [f"tests/{name}" for name in RELATED[module]]
            unchanged = copy.run(path, (ROOT / path).read_text(), tests, 600)
            if not unchanged.passed:
                print(f"{module}: its tests fail without any change")
                return 1
            drawn = sample(module, arguments.count, arguments.seed)
            print(f"{module} ({unchanged.seconds:.0f} s a change)")
            missed = 0
            for change in sorted(drawn, key=lambda change: change.line):
                if copy.run(path, change.source(), tests, 3 * unchanged.seconds + 10).passed:
                    print(f"    {change.line} {change.function}: `{change.before}` → `{change.after}`", flush=True)
                    missed += 1
            print(f"    noticed: {len(drawn) - missed} of {len(drawn)}", flush=True)
            noticed, tried = noticed + len(drawn) - missed, tried + len(drawn)
    print(f"noticed: {noticed} of {tried}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
