"""Recognise foreign formats by the start of a file, the names in a folder, or the spelling of a path."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from typing import BinaryIO, NoReturn

from anemoi_ckpt_migrate.errors import ForeignFile, NoCheckpointInFolder, NotACheckpoint, Refused, UnknownContent
from anemoi_ckpt_migrate.storage.url import SCHEMES
from anemoi_ckpt_migrate.util.lazy_regex import lazy_regex

_URL = lazy_regex(r"[A-Za-z][A-Za-z0-9+.-]+:/{1,2}[^/]")  # os.path.normpath turns two slashes into one


_SAVE_AGAIN = "load it and save it again with torch.save"
_UNPACK = "unpack it first"
_TAR_MAGIC = 257  # offset of the magic of POSIX tar
_OLD_TAR = (b"sys_info", b"pickle", b"tensors", b"storages")  # first members of the tar files of torch's first year

_ZIP = b"PK\3\4"
# The commands read FILE and write NEW by redirection: with a file name, most insist on an ending such as .gz.
_MAGICS: tuple[tuple[bytes, str], ...] = (
    (b"GGUF", "it is a GGUF file, made for inference; migrate the checkpoint that it was made from"),
    (b"\x89HDF\r\n\x1a\n", f"it is an HDF5 file; {_SAVE_AGAIN}"),
    (b"\x93NUMPY", f"it is an array of numpy (.npy); {_SAVE_AGAIN}"),
    (b"\x1f\x8b", f"it is compressed with gzip; {_UNPACK} with gunzip < FILE > NEW"),
    (b"BZh", f"it is compressed with bzip2; {_UNPACK} with bunzip2 < FILE > NEW"),
    (b"\xfd7zXZ\0", f"it is compressed with xz; {_UNPACK} with unxz < FILE > NEW"),
    (b"\x28\xb5\x2f\xfd", f"it is compressed with zstd; {_UNPACK} with unzstd < FILE > NEW"),
    (b"\x04\x22\x4d\x18", f"it is compressed with lz4; {_UNPACK} with unlz4 < FILE > NEW"),
    (b"7z\xbc\xaf\x27\x1c", f"it is a 7z archive; {_UNPACK}"),
    (b"version https://git-lfs", "it is a pointer of Git LFS, not the file itself; fetch that with `git lfs pull`"),
)


def refusal_of_file(stream: BinaryIO, length: int) -> NotACheckpoint:
    """Return the error for a file that is not a torch checkpoint, with a remedy if there is one.

    Parameters
    ----------
    stream : BinaryIO
        The file.
    length : int
        Its length, in bytes.
    """
    start = _start(stream)
    if not start:
        return UnknownContent("it is empty")
    if start.startswith(_ZIP):
        return NotACheckpoint("it starts as a torch checkpoint, but its end is missing or damaged (was it cut off?)")
    for magic, sentence in _MAGICS:
        if start.startswith(magic):
            return ForeignFile(sentence)
    for looks_so, sentence in _LOOKS:
        if looks_so(start, length):
            return ForeignFile(sentence)
    return UnknownContent("it is not a checkpoint that torch.save wrote")


def is_tar(stream: BinaryIO) -> bool:
    """Return whether a file is a tar archive, whatever its end."""
    return _is_tar(_start(stream), 0)


def _start(stream: BinaryIO) -> bytes:
    stream.seek(0)
    return stream.read(_TAR_MAGIC + 8)


def kind_of_archive(names: Collection[str]) -> str:
    """Describe a zip archive that torch.save did not write, by the names of its records."""
    if names and all(name.endswith(".npy") for name in names):
        return f"it is a file of numpy arrays (.npz); {_SAVE_AGAIN}"
    return "it is a zip archive without data.pkl, which no torch.save wrote"


def refuse_folder(names: Collection[str], in_store: bool = False) -> NoReturn:
    """Refuse a folder that is no checkpoint, or one of a foreign format.

    Parameters
    ----------
    names : collection of str
        The names in it.
    in_store : bool
        Whether it is a prefix of a store.

    Raises
    ------
    Refused
        It is a checkpoint of a foreign format.
    NoCheckpointInFolder
        It is no checkpoint.
    """
    kind = kind_of_folder(names)
    if kind:
        raise Refused(f"it is a directory, {kind}")
    raise NoCheckpointInFolder(in_store)


def kind_of_folder(names: Collection[str]) -> str:
    """Describe a folder that is a checkpoint of a foreign format, by the names in it; empty if it is none."""
    return next((kind for wanted, kind in _FOLDERS if any(map(wanted.fullmatch, names))), "")


def is_url(path: str) -> bool:
    """Return whether a path is a URL."""
    return _URL.match(path) is not None


def kind_of_url(path: str) -> str:
    """Describe a URL that names no object of a store, with a remedy."""
    if path.partition(":")[0] in SCHEMES:
        return "it is a URL that lost a slash, as in a pathlib.Path; give it as a string"
    return "it is a URL of a kind that is not opened; download the file first, and give the path of the copy"


def _is_onnx(start: bytes, length: int) -> bool:
    """Return whether a protobuf begins with a small version number and a field that comes next in ONNX."""
    return re.match(rb"\x08[\x01-\x20][\x12\x1a\x3a\x42]", start) is not None


def _is_old_tar(start: bytes, length: int) -> bool:
    return _is_tar(start, length) and start[:100].rstrip(b"\0").split(b"/")[-1] in _OLD_TAR


def _is_tar(start: bytes, length: int) -> bool:
    return start[_TAR_MAGIC:].startswith(b"ustar")


def _is_page(start: bytes, length: int) -> bool:
    return start.lstrip().lower().startswith((b"<!doctype html", b"<html"))


def _is_json(start: bytes, length: int) -> bool:
    return re.match(rb'\s*\{\s*"', start) is not None


def _is_pickle(start: bytes, length: int) -> bool:
    return start[:1] in b"\x80(c]}"


_LOOKS: tuple[tuple[Callable[[bytes, int], bool], str], ...] = (
    (
        _is_old_tar,
        "it is a tar file, the format of the first year of torch; if you trust it, load it with torch.load (which runs "
        "code in the file) and save it again with torch.save",
    ),
    (_is_tar, f"it is a tar archive; {_UNPACK} with tar -xf"),
    (_is_page, "it is an HTML page, perhaps an error page of a server; download the file again"),
    (_is_json, "it is a JSON file, not a checkpoint"),
    (
        _is_pickle,
        "it is a plain pickle, which torch.save did not write, though torch.load may run it; if you trust it, load "
        "it with pickle.load (which runs code in the file) and save it again with torch.save",
    ),
    (_is_onnx, "it is an ONNX model, made for inference; migrate the checkpoint that it was made from"),
)

_FOLDERS: Iterable[tuple[re.Pattern[str], str]] = (
    (
        lazy_regex(r"__\d+\.metadata"),
        "a distributed checkpoint (torch.distributed.checkpoint) without common metadata, as saved with "
        "use_collectives=False; load it, and save it again without that",
    ),
    (
        lazy_regex(r"\.metadata\.tmp|.*\.distcp"),
        "a distributed checkpoint (torch.distributed.checkpoint) that was not saved to its end: .metadata, which torch "
        "writes last, is missing; use an earlier one",
    ),
    (
        lazy_regex(r"zero_to_fp32\.py|.*_(model|optim)_states\.pt"),
        "a checkpoint of DeepSpeed; save the weights that deepspeed.utils.zero_to_fp32."
        "get_fp32_state_dict_from_zero_checkpoint returns with torch.save, and migrate that",
    ),
    (
        lazy_regex(r"latest_checkpointed_iteration\.txt|(mp|tp)_rank_\d+.*"),
        "a checkpoint of Megatron, one file for each rank; join them into one file, and migrate that",
    ),
)
