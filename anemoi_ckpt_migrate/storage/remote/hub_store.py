"""The Hugging Face Hub, which is only read."""

from __future__ import annotations

from anemoi_ckpt_migrate.errors import Refused
from anemoi_ckpt_migrate.storage.remote.store import RemoteObject, Store


class HubStore(Store):
    """Repositories of the Hugging Face Hub."""

    def _read(self, found: RemoteObject, start: int, end: int) -> bytes:
        # Without a cache: it would read ahead by megabytes.
        return self._fs.cat_file(self._path(found.url), start=start, end=end, cache_type="none")  # type: ignore[no-any-return]

    def check_writable(self) -> None:
        """Refuse to write: a commit is a decision of people."""
        raise Refused(
            "repositories of the Hugging Face Hub are only read; write elsewhere with --output, "
            "and upload that with `hf upload`"
        )
