"""The chain of revisions that ships with ckpt-migrate, for checkpoints of Lightning."""
