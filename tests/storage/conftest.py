"""What the tests of the storage share: checkpoints that take long to save, and stores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.buckets import Bucket
    from tests.support.object_store import S3
    from tests.support.ranks import Ranks


@pytest.fixture(scope="session")
def of_lightning(tmp_path_factory: pytest.TempPathFactory, ranks: Ranks) -> Path:
    """A folder that Lightning saved from two processes: weights and optimizer by DCP, all else in meta.pt."""
    pytest.importorskip("lightning")
    from tests.support.distributed import run_lightning

    folder = tmp_path_factory.mktemp("of_lightning") / "run"
    run_lightning(ranks, folder, "Old")
    return folder


@pytest.fixture(
    params=["memory", pytest.param("azure", marks=pytest.mark.stores), pytest.param("google", marks=pytest.mark.stores)]
)
def bucket(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    from tests.support.buckets import STORES

    yield from STORES[request.param](tmp_path, monkeypatch)


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    from tests.support.buckets import STORES

    yield from STORES["memory"](tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def server() -> Iterator[S3]:
    from tests.support.object_store import s3_server

    with pytest.MonkeyPatch.context() as patch, s3_server(patch) as found:
        yield found


@pytest.fixture
def s3(server: S3) -> Iterator[S3]:
    yield server
    server.before = None
    assert server.uploads() == []
    from tests.support.object_store import BUCKET

    for key in server.names():
        server.client.delete_object(Bucket=BUCKET, Key=key)
