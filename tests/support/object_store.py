"""Shared by tests: a real S3 server (moto's) on loopback, which counts requests and bytes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest

BUCKET = "weights"


class Request(NamedTuple):
    """A request that the server answered.

    Attributes
    ----------
    method, path, query : str
        The request.
    sent, received : int
        Bytes of its body, and of the answer.
    status : int
        The status of the answer.
    """

    method: str
    path: str
    query: str
    sent: int
    received: int
    status: int


class S3:
    """A server of S3, and a plain client of boto3.

    Attributes
    ----------
    client : botocore.client.S3
        The client.
    requests : list of Request
        The requests since the last `count`.
    before : callable or None
        Called with each request (as far as it is known) before it is answered; it may return the code of an error to
        answer instead.
    """

    def __init__(self, client: Any, requests: list[Request]) -> None:
        self.client, self.requests = client, requests
        self.before: Callable[[Request], str | None] | None = None

    def put(self, key: str, content: bytes, **more: Any) -> str:
        """Put an object, and return its URL."""
        self.client.put_object(Bucket=BUCKET, Key=key, Body=content, **more)
        return f"s3://{BUCKET}/{key}"

    def get(self, key: str) -> bytes:
        return bytes(self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read())

    def names(self) -> list[str]:
        return [each["Key"] for each in self.client.list_objects_v2(Bucket=BUCKET).get("Contents", ())]

    def uploads(self) -> list[Any]:
        """Unfinished uploads, whose parts would be paid for."""
        return list(self.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", ()))

    @contextmanager
    def count(self) -> Iterator[list[Request]]:
        """Count the requests in a block."""
        self.requests.clear()
        found: list[Request] = []
        yield found
        found += self.requests


@contextmanager
def s3_server(patch: pytest.MonkeyPatch) -> Iterator[S3]:
    """Run a server, and let boto3 and s3fs know it by their own variables."""
    boto3 = pytest.importorskip("boto3")
    s3fs = pytest.importorskip("s3fs")
    app = pytest.importorskip("moto.moto_server.werkzeug_app")
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002
            pass

    requests: list[Request] = []
    served = _Counted(app.DomainDispatcherApplication(app.create_backend_app), requests)
    server = make_server("127.0.0.1", 0, served, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        s3fs.S3FileSystem.clear_instance_cache()  # which keeps file systems, with the port of an earlier server
        client = boto3.client("s3")
        client.create_bucket(Bucket=BUCKET)
        found = S3(client, requests)
        served.s3 = found
        yield found
        for key in found.names():
            client.delete_object(Bucket=BUCKET, Key=key)
        client.delete_bucket(Bucket=BUCKET)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Counted:
    """The application of moto. Completing an upload honours If-Match, which moto ignores there, though S3 does not."""

    s3: S3 | None = None

    def __init__(self, app: Any, requests: list[Request]) -> None:
        self._app, self._requests = app, requests
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        method, query = environ["REQUEST_METHOD"], environ.get("QUERY_STRING", "")
        length = int(environ.get("CONTENT_LENGTH") or 0)
        code = None
        if self.s3 is not None and self.s3.before is not None:
            code = self.s3.before(Request(method, environ["PATH_INFO"], query, length, 0, 0))
        status: list[str] = []

        def start(line: str, headers: Any, *more: Any) -> Any:
            status.append(line)
            return start_response(line, headers, *more)

        with self._lock:  # the condition and the write are one
            wanted = environ.get("HTTP_IF_MATCH")
            if method == "POST" and "uploadId" in query and wanted and self._tag(environ) != wanted:
                code = "PreconditionFailed"
            if code is None:
                body = list(self._app(environ, start))
            else:
                environ["wsgi.input"].read(length)
                body = [
                    f"<Error><Code>{code}</Code><Message>The server of the tests says so</Message></Error>".encode()
                ]
                start("412 Precondition Failed" if code == "PreconditionFailed" else "403 Forbidden", [])
        received = 0 if method == "HEAD" else sum(map(len, body))
        self._requests.append(Request(method, environ["PATH_INFO"], query, length, received, int(status[0].split()[0])))
        return body

    def _tag(self, environ: dict[str, Any]) -> str | None:
        found: dict[str, str] = {}
        head = {**environ, "REQUEST_METHOD": "HEAD", "QUERY_STRING": "", "CONTENT_LENGTH": "0"}
        head.pop("HTTP_IF_MATCH")
        list(self._app(head, lambda line, headers, *more: found.update({k.lower(): v for k, v in headers})))
        return found.get("etag")
