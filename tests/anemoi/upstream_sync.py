"""Brings a checkpoint to the end of a folder of scripts with the code of anemoi-models that is on the path.

    python upstream_sync.py FOLDER CHECKPOINT

Prints what the checkpoint then has, or the name of the error.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from anemoi.models.migrations import IncompatibleCheckpointException, Migrator


def main(folder: str, path: str) -> None:
    """Do it in memory: the file stays as it is."""
    sys.path.insert(0, str(Path(folder).parent))
    try:
        _, tree, _ = Migrator.from_path(Path(folder), Path(folder).name).sync(path)
    except IncompatibleCheckpointException as error:
        print(json.dumps(type(error).__name__))
        return
    listed = "".join(each["name"][-1] for each in tree["migrations"])
    print(json.dumps([*sorted(key for key in tree if len(key) == 1), f":{listed}"]))


if __name__ == "__main__":
    main(*sys.argv[1:])
