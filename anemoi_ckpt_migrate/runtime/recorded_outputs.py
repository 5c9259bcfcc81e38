"""Outputs that were recorded earlier, in a file of torch with plain containers, tensors and text."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import Any

from anemoi_ckpt_migrate.errors import CannotRead, CannotWrite, UsageError, shown_path
from anemoi_ckpt_migrate.runtime.output_values import Leaves, leaves_of, plain_of
from anemoi_ckpt_migrate.storage.tensors.torch_library import torch

FORMAT = 1


def check_new(path: str) -> None:
    """Refuse a place where there is something.

    Raises
    ------
    CannotWrite
        There is.
    """
    if os.path.lexists(path):
        raise CannotWrite(f"{shown_path(path)} exists already; remove it, or give --save-outputs another name")


def save(path: str, function: str, heads: Sequence[str], outputs: Any) -> None:
    """Write outputs to a new file.

    Raises
    ------
    CannotWrite
        There is one already, or the system refused.
    """
    stream = io.BytesIO()
    torch.save({"format": FORMAT, "function": function, "heads": list(heads), "outputs": plain_of(outputs)}, stream)
    check_new(path)
    try:
        with open(path, "xb") as file:
            try:
                file.write(stream.getbuffer())
            except OSError:
                os.unlink(path)
                raise
    except OSError as error:
        raise CannotWrite(f"the outputs could not be written to {shown_path(path)} ({error.strerror})") from error


def read(path: str) -> Leaves:
    """Read recorded outputs.

    Raises
    ------
    CannotRead
        The file cannot be read.
    UsageError
        It holds something else.
    """
    if os.path.isdir(path):
        raise UsageError(f"{shown_path(path)} is a folder; --save-outputs writes a file")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        if found["format"] > FORMAT:
            raise CannotRead(f"{shown_path(path)} was written by a newer version; upgrade ckpt-migrate")
        return leaves_of(found["outputs"])
    except CannotRead:
        raise
    except OSError as error:
        raise CannotRead(f"{shown_path(path)} cannot be read ({error.strerror})") from error
    except Exception as error:  # torch raises all kinds of errors on a file of another kind
        raise UsageError(f"{shown_path(path)} holds no outputs; --save-outputs writes such a file") from error
