"""torch, or one sentence that says how to get it. All others import it from here, and only where they need it."""

from __future__ import annotations

from anemoi_ckpt_migrate.errors import denied

try:
    import torch as torch
except (ImportError, OSError) as error:  # OSError: a shared library of torch is missing
    raise denied(error, "torch") from error
