"""The migration record of a checkpoint."""
