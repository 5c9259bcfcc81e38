"""The table of kinds: every operation is found by its name, and a start imports only those that a script names.

a name --> its module --> the kind
"""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from importlib import import_module
from types import ModuleType

import anemoi_ckpt_migrate.operations
from anemoi_ckpt_migrate import op
from anemoi_ckpt_migrate.operations.base import Operation
from anemoi_ckpt_migrate.operations.kinds import all_kinds, kind_of


def modules() -> list[ModuleType]:
    package = anemoi_ckpt_migrate.operations
    return [import_module(f"{package.__name__}.{each.name}") for each in pkgutil.iter_modules(package.__path__)]


def test_the_table_has_every_operation() -> None:
    found = {
        name: value
        for module in modules()
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Operation) and "__dataclass_params__" in vars(value)
    }
    code = "from anemoi_ckpt_migrate.operations.kinds import all_kinds; print(*sorted(all_kinds()))"
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout.split() == sorted(found)
    assert all(kind_of(name) is value for name, value in found.items())


def test_scripts_may_use_every_written_kind_and_no_other() -> None:
    written = {name for name, kind in all_kinds().items() if kind.written}
    assert written | {"Operation"} == set(op.__all__) == set(dir(op))
    assert all(getattr(op, name) is kind_of(name) for name in written)
    assert not hasattr(op, "RestoreParameters")
    assert not hasattr(op, "Nothing")


def test_an_operation_imports_no_other_that_it_does_not_need() -> None:
    code = "import sys; from anemoi_ckpt_migrate import op; op.Rename('a', 'b'); print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "anemoi_ckpt_migrate.operations.fuse" not in ran.stdout.split()
