"""Tensors of a checkpoint: references, deferred expressions, their values."""
