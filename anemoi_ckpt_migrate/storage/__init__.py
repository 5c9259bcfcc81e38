"""Checkpoint files as trees."""

from anemoi_ckpt_migrate.storage.atomic_replace import Written, opened
from anemoi_ckpt_migrate.storage.checkpoint import FOLDER, RECORD_ENTRY, Checkpoint, FolderOptions, StoredAt
from anemoi_ckpt_migrate.storage.file_info import FileInfo
from anemoi_ckpt_migrate.storage.folder_names import FolderListings, folders_listed_once
from anemoi_ckpt_migrate.storage.in_place import is_interrupted
from anemoi_ckpt_migrate.storage.lock import remove_left
from anemoi_ckpt_migrate.storage.open_file import open_checkpoint
from anemoi_ckpt_migrate.storage.pickle.dump import Pickled
from anemoi_ckpt_migrate.storage.recover import Recovery, is_folder, recover
from anemoi_ckpt_migrate.storage.shard_sets import check_whole, membership

__all__ = [
    "FOLDER",
    "RECORD_ENTRY",
    "Checkpoint",
    "FileInfo",
    "FolderListings",
    "FolderOptions",
    "Pickled",
    "Recovery",
    "StoredAt",
    "Written",
    "check_whole",
    "folders_listed_once",
    "is_folder",
    "is_interrupted",
    "membership",
    "open_checkpoint",
    "opened",
    "recover",
    "remove_left",
]
