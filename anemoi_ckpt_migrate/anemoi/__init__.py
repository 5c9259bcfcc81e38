"""The migrations of anemoi-models: its list in a checkpoint, its scripts, and the matching revisions."""
