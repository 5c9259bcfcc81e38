"""Shared by tests: extra records."""

from __future__ import annotations

import json
import zipfile
from array import array
from pathlib import Path

FOLDER = "anemoi-metadata"
ARRAYS = {"data": {"mask": bytes([1, 0, 1, 1]), "grid/latitudes": array("d", [0.5, -1.25, 3e-9]).tobytes()}}


def add_records(path: Path, version: str = "1.0") -> dict[str, bytes]:
    """Write metadata and arrays into the archive, as anemoi-utils does, and return them as they are read again."""
    with zipfile.ZipFile(path, "a") as opened:
        root = opened.namelist()[0].partition("/")[0]
        paths = {name: {"path": f"{root}/{FOLDER}/data/{name}.numpy"} for name in ARRAYS["data"]}
        metadata = {"version": version, "café": ["°C", 0.1], "supporting_arrays_paths": {"data": paths}}
        opened.writestr(f"{root}/{FOLDER}/anemoi.json", json.dumps(metadata))
        for name, content in ARRAYS["data"].items():
            opened.writestr(paths[name]["path"], content)
    return records(path)


def records(path: Path) -> dict[str, bytes]:
    """Return the records as anemoi-utils finds them: by the names in the directory, and by the paths in the metadata."""
    with zipfile.ZipFile(path) as opened:
        assert opened.testzip() is None
        assert len({name.partition("/")[0] for name in opened.namelist()}) == 1
        found = beside(path)
        (metadata,) = (json.loads(content) for name, content in found.items() if name.endswith("/anemoi.json"))
        for name, entry in metadata["supporting_arrays_paths"]["data"].items():
            assert opened.read(entry["path"]) == ARRAYS["data"][name]
    return found


def beside(path: Path) -> dict[str, bytes]:
    """Return all records of the folder."""
    with zipfile.ZipFile(path) as opened:
        return {name: opened.read(name) for name in opened.namelist() if FOLDER in name}
