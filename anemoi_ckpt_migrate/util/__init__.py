"""Small helpers that know nothing of checkpoints."""
