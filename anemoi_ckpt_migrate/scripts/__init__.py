"""Migration scripts: read without being run, run, and written."""
