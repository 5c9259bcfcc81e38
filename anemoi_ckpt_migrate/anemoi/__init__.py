"""The migrations of anemoi-models: its list in a checkpoint, its scripts, and the revisions that answer to them."""
