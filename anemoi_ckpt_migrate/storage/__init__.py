"""Checkpoint files as trees."""

from typing import TYPE_CHECKING

from anemoi_ckpt_migrate._lazy_exports import exports

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.storage.atomic_replace import Written, opened
    from anemoi_ckpt_migrate.storage.checkpoint import FOLDER, RECORD_ENTRY, Checkpoint, FolderOptions, StoredAt
    from anemoi_ckpt_migrate.storage.file_info import ZIP, FileInfo, FileSize
    from anemoi_ckpt_migrate.storage.folder_names import FolderListings, folders_listed_once
    from anemoi_ckpt_migrate.storage.in_place import is_interrupted
    from anemoi_ckpt_migrate.storage.lock import remove_left
    from anemoi_ckpt_migrate.storage.open_file import open_checkpoint
    from anemoi_ckpt_migrate.storage.pickle.dump import Pickled
    from anemoi_ckpt_migrate.storage.record_copy import COPY_ENTRY, read_copy
    from anemoi_ckpt_migrate.storage.shard_sets import check_whole, membership

__all__ = [
    "COPY_ENTRY",
    "FOLDER",
    "RECORD_ENTRY",
    "ZIP",
    "Checkpoint",
    "FileInfo",
    "FileSize",
    "FolderListings",
    "FolderOptions",
    "Pickled",
    "StoredAt",
    "Written",
    "check_whole",
    "folders_listed_once",
    "is_interrupted",
    "membership",
    "open_checkpoint",
    "opened",
    "read_copy",
    "remove_left",
]

__getattr__ = exports(
    __name__,
    {
        "atomic_replace": "Written opened",
        "checkpoint": "FOLDER RECORD_ENTRY Checkpoint FolderOptions StoredAt",
        "file_info": "ZIP FileInfo FileSize",
        "folder_names": "FolderListings folders_listed_once",
        "in_place": "is_interrupted",
        "lock": "remove_left",
        "open_file": "open_checkpoint",
        "pickle.dump": "Pickled",
        "record_copy": "COPY_ENTRY read_copy",
        "shard_sets": "check_whole membership",
    },
)
