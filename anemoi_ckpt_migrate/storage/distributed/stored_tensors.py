"""The tensors in the files of a distributed checkpoint, and those that are made of their chunks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anemoi_ckpt_migrate.storage.distributed import chunks as algebra
from anemoi_ckpt_migrate.storage.distributed.archives import Archives, ChunkSources
from anemoi_ckpt_migrate.storage.distributed.metadata import Chunk, TensorEntry, is_strided
from anemoi_ckpt_migrate.storage.tensors.deferred import TensorExpr, is_contiguous, known_dtype, plain_of, storage_of
from anemoi_ckpt_migrate.storage.tensors.refs import StoredTensor, reduced
from anemoi_ckpt_migrate.storage.tensors.shape_rules import Mismatch

Recipes = Mapping[str, TensorExpr]
"""Recipes of storages, by their keys."""


class StoredTensors:
    """The tensors in the files, each under the key of its storage.

    Parameters
    ----------
    archives : Archives
        The archives of their chunks.
    """

    def __init__(self, archives: Archives) -> None:
        self._archives = archives
        self._entries: dict[str, TensorEntry] = {}

    def add(self, name: str, key: str, entry: TensorEntry) -> TensorExpr:
        """Add a tensor, and return the recipe of its storage.

        Parameters
        ----------
        name : str
            Its name, for messages.
        key : str
            The key of its storage.
        entry : TensorEntry
            Its chunks.
        """
        self._entries[key] = entry
        dtype = entry.dtype
        sources = ChunkSources(self._archives, name, entry.chunks, dtype)
        return TensorExpr("chunks", tuple([chunk.offsets for chunk in entry.chunks]), sources, entry.shape, dtype)

    def entry_of(self, tensor: StoredTensor, recipes: Recipes) -> TensorEntry | None:
        """Return the chunks of a plain tensor that is made of whole chunks of the files; None for any other."""
        key, offset = storage_of(tensor).key, reduced(tensor)[1][1]
        recipe = recipes.get(key)
        if recipe is None or offset or tuple(tensor.shape) != tuple(recipe.shape) or not is_contiguous(tensor):
            return None
        if known_dtype(tensor) != recipe.dtype:
            return None
        if key in self._entries:
            return self._entries[key]
        if recipe.kind not in ("cat", "narrow", "clone"):
            return None
        parts = [self.entry_of(source, recipes) for source in recipe.sources]
        known = [part for part in parts if part is not None and is_strided(part)]
        if len(known) < len(parts):
            return None
        if recipe.kind == "clone":
            return known[0]
        dim = recipe.args[0] % len(recipe.shape)
        found: list[Chunk] | None
        if recipe.kind == "cat":
            found = algebra.joined([(part.shape, part.chunks) for part in known], dim)
        else:
            found = algebra.cut(known[0].chunks, dim, *recipe.args[1:])
        return None if found is None else known[0]._replace(shape=tuple(recipe.shape), chunks=tuple(found))

    def places_of(self, tensor: StoredTensor, recipes: Recipes) -> set[tuple[Any, ...]] | None:
        """Return all chunks of a tensor, each with its place in it; None if it has others than the files."""
        try:
            entry = self.entry_of(plain_of(tensor), recipes)
        except Mismatch:
            return None
        if entry is None:
            return None
        return {(*chunk[:2], *chunk.place[:3]) for chunk in entry.chunks if 0 not in chunk.sizes}

    def like(self, key: str, recipes: Recipes) -> TensorEntry | None:
        """Return the first tensor in the files that a storage is made from."""
        if key in self._entries:
            return self._entries[key]
        recipe = recipes.get(key)
        keys = (storage_of(source).key for source in (recipe.sources if recipe is not None else ()))
        return next((found for each in keys if (found := self.like(each, recipes)) is not None), None)
