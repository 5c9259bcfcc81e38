"""What lies between two checkpoints, as operations. Pure: no files, no torch."""
