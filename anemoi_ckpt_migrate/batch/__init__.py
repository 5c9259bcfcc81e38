"""Many checkpoints in one call: which ones, how many at once, and a report of what became of each."""
