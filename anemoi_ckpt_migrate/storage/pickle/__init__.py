"""Read and write the pickle of a checkpoint without running it."""
