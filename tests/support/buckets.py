"""Buckets of stores of several kinds, for tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from tests.support.emulators import azurite, google_cloud


class Bucket:
    """A bucket of a store, and plain fsspec to look into it."""

    def __init__(self, url: str, fs: Any) -> None:
        self.url, self.fs = url, fs

    def put(self, name: str, content: bytes) -> str:
        self.fs.pipe_file(f"{self.url}/{name}", content)
        return f"{self.url}/{name}"

    def get(self, name: str) -> bytes:
        return bytes(self.fs.cat_file(f"{self.url}/{name}"))

    def names(self) -> list[str]:
        self.fs.invalidate_cache()
        found = self.fs.find(self.url)
        return sorted(each.rpartition("/")[2] for each in found)


def _memory(tmp_path: Path, patch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    yield Bucket("memory://bucket", fs)
    fs.store.clear()


def _azure(tmp_path: Path, patch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    with azurite(tmp_path / "azurite", patch):
        fs = fsspec.filesystem("az", skip_instance_cache=True, use_listings_cache=False)
        type(fs).clear_instance_cache()
        fs.mkdir("bucket")
        yield Bucket("az://bucket", fs)
        type(fs).clear_instance_cache()


def _google(tmp_path: Path, patch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    with google_cloud(patch):
        fs = fsspec.filesystem("gs", skip_instance_cache=True, use_listings_cache=False)
        type(fs).clear_instance_cache()
        fs.mkdir("bucket")
        yield Bucket("gs://bucket", fs)
        type(fs).clear_instance_cache()


STORES = {"memory": _memory, "azure": _azure, "google": _google}
