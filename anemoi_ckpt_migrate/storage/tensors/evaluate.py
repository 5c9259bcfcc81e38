"""Compute the tensors of recipes with torch, one at a time."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.storage.tensors.deferred import TensorExpr, check_alike, known_dtype, storage_of
from anemoi_ckpt_migrate.storage.tensors.nadam import momentum_product
from anemoi_ckpt_migrate.storage.tensors.refs import StoredTensor, reduced
from anemoi_ckpt_migrate.storage.tensors.shape_rules import Mismatch
from anemoi_ckpt_migrate.storage.tensors.torch_library import torch

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.storage.tensors.torch_content import Payloads


def computed(kind: str, args: Sequence[Any], sources: Sequence[torch.Tensor]) -> torch.Tensor:
    """Make a tensor from others by a recipe. The result may be a view of one of them.

    Raises
    ------
    Mismatch
        torch refuses.
    """
    try:
        return _computed(kind, args, sources)
    except (RuntimeError, TypeError, ValueError, OverflowError, AttributeError, IndexError) as error:
        raise Mismatch(str(error).partition("\n")[0]) from error


def finished(kind: str, args: Sequence[Any], sources: Sequence[torch.Tensor]) -> torch.Tensor:
    """Make a tensor with memory of its own; a parameter if all sources are, as `TensorBuilder` does."""
    kinds = [(isinstance(source, torch.nn.Parameter), source.requires_grad) for source in sources]
    check_alike(kinds)
    with torch.no_grad():
        made = computed(kind, args, sources).contiguous().clone()
    parameter, grad = kinds[0] if kinds else (False, False)
    grad = grad and (made.is_floating_point() or made.is_complex())
    return torch.nn.Parameter(made, grad) if parameter else made.requires_grad_(grad)


def _computed(kind: str, args: Sequence[Any], sources: Sequence[torch.Tensor]) -> torch.Tensor:
    if kind == "cat":
        return torch.cat(list(sources), args[0])
    if kind == "stack":
        return torch.stack(list(sources), args[0])
    if kind in ("fill", "init"):
        return _new(kind, *args)
    source = sources[0]
    if kind in ("narrow", "select"):
        return source.narrow(*args) if kind == "narrow" else source.select(*args)
    if kind == "pad":
        return _padded(source, *args[:4])
    if kind == "permute":
        return source.permute(*args[0])
    if kind == "reshape":
        return source.reshape(*args[0]) if args[0] else source.reshape(())
    if kind == "cast":
        return source.to(getattr(torch, args[0]))
    if kind == "mu_product":
        return torch.full_like(source, momentum_product(source.item(), *args))
    return source.clone()


def _padded(source: torch.Tensor, dim: int, at: int, size: int, how: Any) -> torch.Tensor:
    shape = list(source.shape)
    shape[dim] = size
    if not isinstance(how, (tuple, list)):
        new = source.new_full(shape, how)
    elif how[0] == "mean":
        new = source.mean(dim, keepdim=True).expand(shape) if source.shape[dim] else source.new_zeros(shape)
    else:
        new = _new("init", shape, str(source.dtype).removeprefix("torch."), *how)
    before, behind = source.narrow(dim, 0, at), source.narrow(dim, at, source.shape[dim] - at)
    return torch.cat([before, new, behind], dim)


_RANDOM = threading.Lock()
"""Guards torch's generator, which all threads share: two threads make tensors."""


def _new(kind: str, shape: Sequence[int], dtype: str, how: Any, named: Any = (), seed: str = "") -> torch.Tensor:
    if isinstance(how, (tuple, list)):
        return torch.tensor(how, dtype=getattr(torch, dtype)).reshape(tuple(shape))
    made = torch.empty(tuple(shape), dtype=getattr(torch, dtype))
    if kind == "fill":
        return made.fill_(how)
    with _RANDOM, torch.random.fork_rng(devices=()), torch.no_grad():
        torch.manual_seed(zlib.crc32(seed.encode()))
        getattr(torch.nn.init, how)(made, **dict(named))
    return made


Last = dict[str, torch.Tensor]
"""The last intermediate tensor, by the key of its storage: its parts often follow each other."""


def evaluated(tensor: StoredTensor, recipes: Mapping[str, TensorExpr], payloads: Payloads, last: Last) -> torch.Tensor:
    """Return the tensor of a stand-in: over the file, or made by its recipe."""
    args = reduced(tensor)[1]
    key, offset, size, stride = storage_of(tensor).key, args[1], tuple(args[2]), tuple(args[3])
    recipe = recipes.get(key)
    if recipe is None:
        made = torch.empty(0, dtype=getattr(torch, known_dtype(tensor)))
        return made.set_(payloads.storage(key), offset, size, stride)
    if key not in last:
        made = evaluated_recipe(recipe, recipes, payloads, last)
        last.clear()
        last[key] = made
    found = last[key]
    if (offset, size) != (0, tuple(found.shape)):
        found = found.as_strided(size, stride, found.storage_offset() + offset)
    return found


def evaluated_recipe(
    recipe: TensorExpr, recipes: Mapping[str, TensorExpr], payloads: Payloads, last: Last
) -> torch.Tensor:
    """Return the contiguous tensor of a recipe."""
    sources = [evaluated(source, recipes, payloads, last) for source in recipe.sources]
    if recipe.kind == "chunks":
        return _assembled(recipe, sources)
    return computed(recipe.kind, recipe.args, sources).contiguous()


def _assembled(recipe: TensorExpr, parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return a tensor from its parts; a single one is not copied."""
    if len(parts) == 1 and parts[0].shape == recipe.shape:
        return parts[0].contiguous()
    made = torch.empty(recipe.shape, dtype=getattr(torch, recipe.dtype))
    for offsets, part in zip(recipe.args, parts, strict=True):
        made[tuple(slice(at, at + size) for at, size in zip(offsets, part.shape, strict=True))] = part
    return made


def equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Return whether two tensors of the same shape and dtype have the same bits."""
    if one.layout != torch.strided or one.is_quantized:
        return torch.equal(one, other)
    return torch.equal(_bits(one), _bits(other))


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """Return the bytes of a tensor in the order of its elements."""
    ordered = tensor.detach().contiguous()
    return ordered.as_strided((ordered.numel(),), (1,), ordered.storage_offset()).view(torch.uint8)
