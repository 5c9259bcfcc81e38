"""Run once, when it is imported: what is imported where it is needed has been imported then, by whoever forks."""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
import shutil
import tempfile
import warnings
from pathlib import Path

from anemoi_ckpt_migrate import storage
from anemoi_ckpt_migrate.errors import NoLibrary
from tests.fuzzing.commands import KNOWN, run, write_projects
from tests.fuzzing.journey import journey
from tests.fuzzing.recipes import DATA

with tempfile.TemporaryDirectory(prefix="fuzz-") as made, warnings.catch_warnings():
    warnings.simplefilter("ignore")
    folder = Path(made, "work")
    folder.mkdir()
    with contextlib.suppress(ImportError):
        import torch

        torch.set_num_threads(1)
    for module in pkgutil.walk_packages(storage.__path__, f"{storage.__name__}."):
        with contextlib.suppress(NoLibrary):
            importlib.import_module(module.name)
    write_projects(folder.parent)
    for name in ("training.ckpt", "lightning.ckpt"):
        source = Path(shutil.copy(DATA / name, folder))
        journey(source, folder / f"{name}.output", True)
        for words in ("upgrade head", "history", "check --rollback", "show a1 --from", "sync", "downgrade base"):
            run("-c", str(folder.parent / KNOWN), *words.split(), str(source))
