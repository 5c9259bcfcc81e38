"""Shared by tests: a checkpoint of each release of Lightning, written by the release itself."""

from __future__ import annotations

import tarfile
from pathlib import Path

from anemoi_ckpt_migrate.storage import open_checkpoint
from anemoi_ckpt_migrate.tree.first_difference import Difference, first_difference

ARCHIVE = Path(__file__).parents[1] / "lightning_releases" / "releases.tar.xz"  # made by `write.py` beside it

with tarfile.open(ARCHIVE) as archive:
    CONTENT = {Path(name).stem: archive.extractfile(name).read() for name in archive.getnames()}  # type: ignore[union-attr]

RELEASES = list(CONTENT)
AT = {
    "6b1d2f80c3e5": "0.10.0 1.0.8 1.1.8 1.2.10 1.3.8 1.4.9 1.4.9-fault-tolerant 1.5.10 1.5.10-fault-tolerant",
    "a84e07c5d219": "1.6.0",
    "c92f5b3e7d06": "1.6.5 1.6.5-fault-tolerant 1.7.7 1.8.6",
    "d47a19e6b08c": "1.9.5",
    "f3c85d0a7b61": "2.0.9 2.1.4 2.2.5 2.3.3 2.4.0 2.5.5 2.6.0",
    "base": "0.7.6 0.8.5 0.9.0",
}
"""The releases at each revision."""
HEAD = "f3c85d0a7b61"
OLDER = [release for release in RELEASES if release not in AT[HEAD].split()]


def checkpoint_of(release: str, folder: Path) -> Path:
    """Write the checkpoint of a release into a folder."""
    path = folder / f"{release}.ckpt"
    path.write_bytes(CONTENT[release])
    return path


def difference(one: Path, other: Path) -> Difference | None:
    """Return the first difference between two checkpoints, apart from their records, bit by bit."""
    with open_checkpoint(one) as before, open_checkpoint(other) as after:
        trees = [
            {key: value for key, value in file.load().items() if key != "ckpt_migrate"} for file in (before, after)
        ]
        return first_difference(*trees, lambda mine, its: before.same(mine, its, after))
