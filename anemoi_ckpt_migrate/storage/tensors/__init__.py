"""Tensors of a checkpoint: references, deferred tensors, their values."""
