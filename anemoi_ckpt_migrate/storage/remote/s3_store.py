"""S3: reads of one version of an object, multipart uploads with ranges that the store copies, conditional writes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.errors import CannotWrite, UsageError
from anemoi_ckpt_migrate.storage.remote.parts import Part, Taken, parts_of
from anemoi_ckpt_migrate.storage.remote.store import CHANGED, RemoteObject, Store, explained_writing

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.storage.copy_range import Progress
    from anemoi_ckpt_migrate.storage.url import Url

_KEPT = ("ContentType", "ContentEncoding", "ContentLanguage", "ContentDisposition", "CacheControl", "Metadata")
_CONDITIONS = {"IfMatch", "IfNoneMatch"}
_STORAGE = "StorageClass"
_WHOLE_COPY = 5 << 30  # the most bytes that the store copies as one part
_AT_ONCE = 4

Read = Callable[[int, int], bytes]
"""Returns a range of the new object."""


class S3Store(Store):
    """S3, or a store that speaks its language."""

    copies_ranges = True
    reads_one_version = True
    never_copies_over = True

    def _look(self, url: Url) -> RemoteObject | None:
        place = self._place(url)
        try:
            if "Key" not in place:
                raise FileNotFoundError(str(url))
            found = self._fs.call_s3("head_object", **place)
        except FileNotFoundError:
            return super()._look(url)  # a prefix
        headers = {name: found[name] for name in (*_KEPT, _STORAGE) if found.get(name)}
        return RemoteObject(url, found["ContentLength"], found["ETag"], headers)

    def _read(self, found: RemoteObject, start: int, end: int) -> bytes:
        from fsspec.asyn import sync

        try:
            answer = self._fs.call_s3(
                "get_object", **self._place(found.url), Range=f"bytes={start}-{end - 1}", IfMatch=found.version
            )
        except Exception as error:
            if _is_conflict(error):
                return b""  # which is too short
            raise
        return sync(self._fs.loop, answer["Body"].read)  # type: ignore[no-any-return]

    def assemble(
        self,
        url: Url,
        size: int,
        ranges: Sequence[Taken],
        read: Read,
        before: RemoteObject | None,
        headers: dict[str, Any],
        progress: Progress | None = None,
    ) -> None:
        """Make an object, or replace one, from ranges of others and uploaded bytes; whole or not at all.

        Parameters
        ----------
        url : Url
            The object.
        size : int
            Its length, in bytes.
        ranges : sequence of Taken
            The ranges of other objects in it, in order.
        read : callable
            Returns a range of it, to be uploaded.
        before : RemoteObject or None
            The object that it replaces; None if there must be none.
        headers : dict of str to object
            Its properties.
        progress : callable, optional
            Called with the number of bytes copied, from time to time.

        Raises
        ------
        CannotWrite
            The object has changed in the meantime, or exists already; or the store refused.
        """
        with explained_writing(url):
            try:
                self._check_conditions()
                self._assemble(url, parts_of(size, ranges), read, before, headers, progress)
            except FileExistsError:
                raise
            except Exception as error:
                if _is_conflict(error):
                    raise CannotWrite(CHANGED) from error
                raise

    def _assemble(
        self,
        url: Url,
        parts: Sequence[Part],
        read: Read,
        before: RemoteObject | None,
        headers: dict[str, Any],
        progress: Progress | None,
    ) -> None:
        place = self._place(url)
        condition = {"IfNoneMatch": "*"} if before is None else {"IfMatch": before.version}
        if not any(part.taken for part in parts) and len(parts) < 2:
            self._fs.call_s3("put_object", **place, **headers, **condition, Body=read(0, parts[0].end if parts else 0))
            return
        upload = {**place, "UploadId": self._fs.call_s3("create_multipart_upload", **place, **headers)["UploadId"]}
        try:
            tags = self._transfer(upload, parts, read, progress)
            listed = [{"PartNumber": number, "ETag": tag} for number, tag in sorted(tags.items())]
            if before is not None:  # some stores that speak S3 ignore the condition of the next call
                self._check_version(before)
            self._fs.call_s3("complete_multipart_upload", **upload, MultipartUpload={"Parts": listed}, **condition)
        except BaseException:  # Ctrl-C too: the parts of an unfinished upload are paid for
            with contextlib.suppress(Exception):  # the first error is the one to report
                self._fs.call_s3("abort_multipart_upload", **upload)
            raise

    def _transfer(
        self, upload: dict[str, Any], parts: Sequence[Part], read: Read, progress: Progress | None
    ) -> dict[int, str]:
        """Transfer the parts, several at a time; return the ETag of each, by its number."""

        def transfer(number: int, part: Part) -> tuple[int, str]:
            if part.taken is None:
                answer = self._fs.call_s3("upload_part", **upload, PartNumber=number, Body=read(part.start, part.end))
                return number, answer["ETag"]
            answer = self._fs.call_s3("upload_part_copy", **upload, PartNumber=number, **self._copied(part.taken))
            return number, answer["CopyPartResult"]["ETag"]

        tags = {}
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            begun = {threads.submit(transfer, number, part): part for number, part in enumerate(parts, 1)}
            try:
                for done in as_completed(begun):
                    number, tag = done.result()
                    tags[number] = tag
                    if progress is not None:
                        progress(begun[done].end - begun[done].start)
            except BaseException:
                threads.shutdown(cancel_futures=True)
                raise
        return tags

    def _copied(self, taken: Taken) -> dict[str, Any]:
        place, version = self._place(taken.source.url), taken.source.version
        source: dict[str, Any] = {"CopySource": place, "CopySourceIfMatch": version}
        if (taken.start, taken.end) != (0, taken.source.size):
            source["CopySourceRange"] = f"bytes={taken.start}-{taken.end - 1}"
        return source

    def _copy(self, found: RemoteObject, new: Url) -> None:
        """Copy an object; a multipart upload, because more stores make that conditional than a plain copy."""
        if not found.size:
            self._assemble(new, [], lambda start, end: b"", None, found.headers, None)
            return
        whole = Taken(0, found, 0, found.size)
        parts = [Part(0, found.size, whole)] if found.size <= _WHOLE_COPY else parts_of(found.size, [whole])
        self._assemble(new, parts, lambda start, end: b"", None, found.headers, None)

    def _check_conditions(self) -> None:
        """Refuse a library that does not know the conditions: s3fs would leave them out without a word."""
        model = self._fs.s3.meta.service_model
        for name in ("PutObject", "CompleteMultipartUpload"):
            if not model.operation_model(name).input_shape.members.keys() >= _CONDITIONS:
                raise CannotWrite(
                    "the installed botocore knows no conditional writes, without which another program's object could "
                    "be overwritten; run `pip install --upgrade s3fs botocore`"
                )

    def _check_version(self, before: RemoteObject) -> None:
        try:
            now = self._look(before.url)
        except FileNotFoundError:
            now = None
        if now is None or now.version != before.version:
            raise CannotWrite(CHANGED)

    def _place(self, url: Url) -> dict[str, Any]:
        bucket, key, version = self._fs.split_path(self._path(url))
        if version is not None:
            raise UsageError(f"{url} names a version of an object; leave it out, and the latest one is taken")
        return {"Bucket": bucket, "Key": key} if key else {"Bucket": bucket}


def _is_conflict(error: Exception) -> bool:
    """Return whether the store refused a call because its condition does not hold."""
    response = getattr(error.__cause__ or error, "response", None) or {}
    return response.get("ResponseMetadata", {}).get("HTTPStatusCode") in (409, 412)
