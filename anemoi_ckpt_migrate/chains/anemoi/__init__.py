"""The chain for training checkpoints of anemoi-models, 0.9.4 to 0.19.0: the scripts in ``versions``."""
