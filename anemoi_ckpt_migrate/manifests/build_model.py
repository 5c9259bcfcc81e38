"""Build a model with a user's function, on a device where weights need no memory, to read its parameters."""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from anemoi_ckpt_migrate.autogenerate.parameter_info import Item
from anemoi_ckpt_migrate.errors import NoLibrary, UsageError
from anemoi_ckpt_migrate.project.config import FACTORY
from anemoi_ckpt_migrate.project.user_function import importable, imported
from anemoi_ckpt_migrate.util.dataclass import dataclass
from anemoi_ckpt_migrate.util.gc_pause import resumed as gc_resumed

ARGUMENT = "hyper_parameters"
"""The name of the argument in which a function takes hyper-parameters."""


@dataclass(frozen=True)
class Built:
    """The parameters of a model that was built.

    Attributes
    ----------
    items : tuple of Item
        Names, shapes and dtypes of its state dict, in order.
    sized : bool
        Whether the function takes hyper-parameters, so that the parameters may depend on them.
    """

    items: tuple[Item, ...]
    sized: bool = False


def is_factory(text: object) -> bool:
    """Return whether a text is ``package.module:factory``, and not a file."""
    return isinstance(text, str) and not os.path.exists(text) and FACTORY.fullmatch(text) is not None


def built(text: str, hyper_parameters: Mapping[str, Any] | None = None, folder: Path | None = None) -> Built:
    """Build a model, and return the parameters in its state dict.

    Output of the code goes to stderr, because stdout may carry JSON.

    Parameters
    ----------
    text : str
        ``package.module:factory``, a function that returns a `torch.nn.Module`. It is called with ``meta`` as torch's
        default device, and with hyper-parameters if they are given and it has an argument `hyper_parameters`.
    hyper_parameters : mapping, optional
        The hyper-parameters of a checkpoint.
    folder : Path, optional
        The folder in which to look for modules that are not installed; by default the current folder.

    Raises
    ------
    UsageError
        The function cannot be imported, needs other arguments, fails, puts weights on a real device, or returns no
        model or one without parameters.
    """
    torch = _torch(text)
    where = folder or Path.cwd()
    with importable(torch, where), contextlib.redirect_stdout(sys.stderr):
        factory = imported(text, where)
        sized = _is_sized(text, factory, hyper_parameters is not None)
        given = {ARGUMENT: hyper_parameters} if sized and hyper_parameters is not None else {}
        try:
            with gc_resumed(), torch.device("meta"):
                model = factory(**given)
                states = model.state_dict(keep_vars=True) if isinstance(model, torch.nn.Module) else {}
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # the code is the user's
            raise UsageError(f"{text} failed with {type(error).__name__}: {error}{_hint(error)}") from error
    if not isinstance(model, torch.nn.Module):
        raise UsageError(f"{text} returns a {type(model).__name__}instead of a torch.nn.Module")
    _check_weights(text, model, torch)
    states = {key: value for key, value in states.items() if isinstance(value, torch.Tensor)}
    if not states:
        raise UsageError(f"{text} returns a model without any parameters")
    buffers = set(map(id, model.buffers()))
    items = [
        Item(key, tuple(value.shape), str(value.dtype).removeprefix("torch."), buffer=id(value) in buffers)
        for key, value in states.items()
    ]
    return Built(tuple(items), sized)


def _torch(text: str) -> Any:
    try:
        from anemoi_ckpt_migrate.storage.tensors.torch_library import torch
    except NoLibrary as error:
        raise UsageError(f"{text} cannot be called here, because torch cannot be imported: {error.why}") from error
    return torch


def _check_weights(text: str, model: Any, torch: Any) -> None:
    """Check that weights need no memory and have shapes."""
    for name, weight in (*model.named_parameters(), *model.named_buffers()):
        if torch.nn.parameter.is_lazy(weight):
            way = "call the model once in the function, or give its layers fixed sizes"
            raise UsageError(f"in the model of {text}, {name} has no shape before the first call: {way}")
    for name, weight in model.named_parameters():
        if not weight.is_meta:
            way = "use torch's default device, so that the weights need no memory here"
            raise UsageError(f"{text} puts {name} on {weight.device}: {way}")


def _hint(error: BaseException) -> str:
    """Return a hint for code that expects real weights."""
    if isinstance(error, NotImplementedError) and "meta tensor" in str(error):
        return " (ckpt-migrate builds it without weights, on torch's device `meta`: do not use devices or values here)"
    return ""


def _is_sized(text: str, factory: Callable[..., Any], have: bool) -> bool:
    """Return whether a function takes hyper-parameters; check that it can be called."""
    try:
        signature = inspect.signature(factory)
    except ValueError:
        return False  # a function in C has no signature; calling it shows whether it works
    sized = ARGUMENT in signature.parameters
    try:
        signature.bind(**({ARGUMENT: {}} if sized and have else {}))
    except TypeError as error:
        if sized and not have and _binds(signature):
            way = "give the argument a default, which the manifest then describes"
            raise UsageError(
                f"{text} needs hyper-parameters, but there is no checkpoint to take them from: {way}"
            ) from error
        raise UsageError(f"{text} cannot be called without arguments: {error}; give them defaults") from error
    return sized


def _binds(signature: inspect.Signature) -> bool:
    try:
        signature.bind(**{ARGUMENT: {}})
    except TypeError:
        return False
    return True
