"""Small helpers, independent of checkpoints."""
