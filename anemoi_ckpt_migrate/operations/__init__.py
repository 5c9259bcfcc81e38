"""Declarative operations: what a migration does, as data, with an inverse that is known."""
