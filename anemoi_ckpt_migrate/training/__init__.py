"""Checkpoints in a training run: stamp when saving, upgrade when loading."""
