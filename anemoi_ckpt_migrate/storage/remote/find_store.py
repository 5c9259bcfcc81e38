"""Find the store of a URL, with the library that reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anemoi_ckpt_migrate.errors import NoStoreLibrary
from anemoi_ckpt_migrate.storage.remote.azure_store import AzureStore
from anemoi_ckpt_migrate.storage.remote.hub_store import HubStore
from anemoi_ckpt_migrate.storage.remote.s3_store import S3Store
from anemoi_ckpt_migrate.storage.remote.store import Store, explained_reading

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.storage.url import Url

_LIBRARIES = {
    "s3": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "hf": "huggingface_hub",
}

_KINDS = {"s3": S3Store, "az": AzureStore, "abfs": AzureStore, "abfss": AzureStore, "hf": HubStore}


def store_of(url: Url) -> Store:
    """Return the store of a URL.

    Raises
    ------
    NoStoreLibrary
        The library of the store is missing.
    CannotRead
        The store cannot be used.
    """
    try:
        import fsspec

        kind = fsspec.get_filesystem_class(url.scheme)
    except ImportError as error:
        raise NoStoreLibrary(url.scheme, _LIBRARIES.get(url.scheme, "fsspec")) from error
    with explained_reading():
        filesystem = kind(**kind._get_kwargs_from_urls(str(url)), use_listings_cache=False)
    return _KINDS.get(url.scheme, Store)(url.scheme, filesystem)
