"""Apply operations to a checkpoint."""
