"""Azure Blob Storage: conditional writes, and copies that never replace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.errors import CannotWrite
from anemoi_ckpt_migrate.storage.remote.store import CHANGED, RemoteObject, Store

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.storage.url import Url


class AzureStore(Store):
    """Azure Blob Storage."""

    never_copies_over = True

    def _put(self, path: str, url: Url, before: RemoteObject | None) -> None:
        from azure.core import MatchConditions
        from azure.core.exceptions import ResourceModifiedError

        if before is None:
            super()._put(path, url, None)
            return
        try:
            self._fs.put_file(path, self._path(url), etag=before.version, match_condition=MatchConditions.IfNotModified)
        except ResourceModifiedError as error:
            raise CannotWrite(CHANGED) from error

    def _copy(self, found: RemoteObject, new: Url) -> None:
        from azure.core import MatchConditions
        from azure.core.exceptions import ResourceExistsError, ResourceModifiedError
        from fsspec.asyn import sync

        old, target = self._blob(found.url), self._blob(new)
        conditions = {
            "source_etag": found.version,
            "source_match_condition": MatchConditions.IfNotModified,
            "match_condition": MatchConditions.IfMissing,
        }
        try:
            sync(self._fs.loop, target.start_copy_from_url, old.url, **conditions)
        except ResourceExistsError as error:
            raise FileExistsError(str(new)) from error
        except ResourceModifiedError as error:
            raise CannotWrite(CHANGED) from error

    def _blob(self, url: Url) -> Any:
        container, path, _ = self._fs.split_path(self._path(url))
        return self._fs.service_client.get_blob_client(container, path)
