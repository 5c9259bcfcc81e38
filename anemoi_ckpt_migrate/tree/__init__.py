"""The tree of values that a checkpoint holds: items, paths, class names."""
