"""Checkpoints in object stores: objects and prefixes that a URL names, read and written through fsspec."""
