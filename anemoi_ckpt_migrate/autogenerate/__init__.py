"""Propose operations that make one state dict of another."""
