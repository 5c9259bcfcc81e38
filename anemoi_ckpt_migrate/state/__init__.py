"""Parameters, copies of them and optimizers, found in the tree of a checkpoint."""
