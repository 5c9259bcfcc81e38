"""Operations that change the dtype of parameters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from anemoi_ckpt_migrate.errors import BadOperation
from anemoi_ckpt_migrate.operations.base import Operation, flag_of, names_of, operation, set_fields
from anemoi_ckpt_migrate.state.dtypes import DTYPES, is_exact, is_floating
from anemoi_ckpt_migrate.state.name_patterns import literals, pattern

if TYPE_CHECKING:
    from anemoi_ckpt_migrate.state.parameter_context import ParameterContext


@operation
class Cast(Operation):
    """Cast parameters to another dtype.

    Parameters
    ----------
    keys : str or sequence of str
        Names or patterns. A pattern with a star casts only from floating point to floating point; other tensors that
        it selects stay as they are.
    dtype : str
        The dtype: ``"bfloat16"``.
    keep : bool
        Stash the old tensors in the checkpoint, if the new dtype cannot represent all their values.
    """

    makes = True
    concerns_optimizers = False  # moments keep their precision; torch casts them when it loads them
    remedy = "keep=True"
    keys: tuple[str, ...]
    dtype: str
    keep: bool = False

    def __post_init__(self) -> None:
        set_fields(self, keys=names_of(self, "keys", self.keys))
        if not isinstance(self.dtype, str) or self.dtype.removeprefix("torch.") not in DTYPES:
            raise BadOperation(f"Cast: {self.dtype!r:.60} is not a dtype; choose one of {', '.join(DTYPES)}")
        set_fields(self, dtype=self.dtype.removeprefix("torch."))
        flag_of(self, "keep", self.keep)

    @property
    def reversible(self) -> bool:
        """Whether the old tensors are stashed, or the dtype is usually wide enough; the checkpoint decides."""
        return self.keep or self.dtype in ("float32", "float64", "complex64", "complex128", "int64")

    def apply(self, context: ParameterContext) -> list[Any]:
        """Cast the parameters, and return the rollback."""
        undo: list[Any] = []
        exact: dict[str, list[str]] = {}
        stash: list[tuple[str, int]] = []
        for name, old in self._chosen(context):
            before = context.table[name]
            made = context.make("cast", (self.dtype,), [name], f"{name} cannot be cast")
            if made is None:
                continue
            if is_exact(old, self.dtype):
                exact.setdefault(old, []).append(name)
            elif self.keep:
                stash.append((name, context.stash(before)))
            else:
                context.lose(f"{name} is cast from {old} to {self.dtype}")
            context.table.set(name, made)
        undo += [CastBack(literals(names), old) for old, names in exact.items()]
        if stash:
            undo.append(RestoreCast(tuple(stash), self.dtype))
        return undo

    def _chosen(self, context: ParameterContext) -> Iterator[tuple[str, str]]:
        if context.optimizer:
            return
        for text in self.keys:
            names = [name for name, _ in pattern(text).among(context.table)]
            if not names:
                context.missing(text)
            for name in names:
                old = context.values.dtype(context.table[name]) if context.has_shape(name) else ""
                loose = pattern(text).stars and (not is_floating(old) or not is_floating(self.dtype))
                if old != self.dtype and not loose:
                    yield name, old


@operation
class CastBack(Operation):
    """Undo a cast to a wider dtype; exact, unless the parameters have changed since."""

    written = False
    concerns_optimizers = False
    keys: tuple[str, ...]
    dtype: str

    def __post_init__(self) -> None:
        set_fields(self, keys=names_of(self, "keys", self.keys))

    def apply(self, context: ParameterContext) -> list[Any]:
        """Cast the parameters back."""
        for name in () if context.optimizer else context.select(self.keys):
            made = context.make("cast", (self.dtype,), [name], f"{name} cannot be cast")
            if made is not None:
                context.table.set(name, made)
        return []


@operation
class RestoreCast(Operation):
    """Put back the tensors that `Cast` stashed."""

    written = False
    concerns_optimizers = False
    restores_stash = True
    items: tuple[tuple[str, int], ...]
    dtype: str

    def __post_init__(self) -> None:
        set_fields(self, items=tuple((name, number) for name, number in self.items))

    def apply(self, context: ParameterContext) -> list[Any]:
        """Put them back; a parameter that has changed since its cast is a fault, unless changes may be discarded."""
        for name, number in () if context.optimizer else self.items:
            if name not in context.table:
                context.missing(name)
                continue
            stash = context.stashed(number)
            if not context.discard_changes and not context.is_cast_of(name, stash, self.dtype):
                context.fault(
                    f"{name} has changed since it was cast to {self.dtype}; --discard-changes restores the old values"
                )
                continue
            context.table.set(name, stash)
        return []
