"""Shared by tests: emulators of stores on loopback, each a process: Azurite by Microsoft, and one of Google Cloud."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# The account that each Azurite has: https://learn.microsoft.com/azure/storage/common/storage-use-azurite
_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="  # gitleaks:allow


@contextmanager
def azurite(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run a server, and let adlfs know it by its own variable."""
    pytest.importorskip("adlfs")
    program = os.environ.get("AZURITE") or shutil.which("azurite-blob")
    if program is None:
        pytest.skip("azurite-blob is not installed (npm install azurite)")
    port = _free_port()
    words = [program, "--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder)]
    with _running([*words, "--silent", "--skipApiVersionCheck", "--disableTelemetry"], port):
        place = f"http://127.0.0.1:{port}/devstoreaccount1"
        said = f"DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey={_KEY};BlobEndpoint={place};"
        patch.setenv("AZURE_STORAGE_CONNECTION_STRING", said)
        yield


@contextmanager
def google_cloud(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run a server, and let gcsfs know it by its own variables."""
    pytest.importorskip("gcp_storage_emulator")
    patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # the emulator does not speak gRPC
    fsspec = pytest.importorskip("fsspec")
    pytest.importorskip("gcsfs")
    port = _free_port()
    words = [sys.executable, "-m", "gcp_storage_emulator", "start", "--host", "127.0.0.1", "--port", str(port)]
    with _running([*words, "--in-memory"], port):
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        for scheme in ("gs", "gcs"):
            patch.setitem(fsspec.config.conf, scheme, {"token": "anon", "project": "project"})
        yield


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def _running(words: list[str], port: int) -> Iterator[None]:
    """Run a server until the end of the block."""
    server = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.1)
        yield
    finally:
        server.terminate()
        server.wait()
