"""Migration scripts: read, write, edit."""
