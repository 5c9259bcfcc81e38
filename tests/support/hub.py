"""Shared by tests: an imitation of that part of the Hugging Face Hub's interface which reads files, on loopback."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlparse

import pytest

REPOSITORY = "org/model"


@contextmanager
def hub(patch: pytest.MonkeyPatch, files: dict[str, bytes]) -> Iterator[list[int]]:
    """Serve the files of one repository; yield the numbers of bytes that were read, one for each request."""
    fsspec = pytest.importorskip("fsspec")
    huggingface_hub = pytest.importorskip("huggingface_hub")
    read: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

        def answer(self, body: bytes, code: int = 200, **headers: str) -> None:
            self.send_response(code)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            path = urlparse(self.path).path
            if path.startswith(f"/{REPOSITORY}/resolve/main/"):
                content = files[unquote(path.partition("/resolve/main/")[2])]
                first, _, last = self.headers["Range"].partition("=")[2].partition("-")
                part = content[int(first) : int(last) + 1]
                read.append(len(part))
                self.answer(part, 206)
            elif path.startswith(f"/api/models/{REPOSITORY}/tree/main"):
                self.answer(json.dumps([_entry(name, each) for name, each in files.items()]).encode())
            elif path.startswith(f"/api/models/{REPOSITORY}"):
                self.answer(json.dumps({"id": REPOSITORY, "sha": "0" * 40, "siblings": []}).encode())
            else:
                self.answer(b"{}", 404, X_Error_Code="RepoNotFound")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        patch.setitem(fsspec.config.conf, "hf", {"endpoint": f"http://127.0.0.1:{server.server_port}"})
        huggingface_hub.HfFileSystem.clear_instance_cache()
        yield read
    finally:
        huggingface_hub.HfFileSystem.clear_instance_cache()
        server.shutdown()
        thread.join()
        server.server_close()


def _entry(name: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
