"""The tree of values in a checkpoint: items, paths, class names."""
