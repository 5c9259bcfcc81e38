"""Propose operations that turn one state dict into another."""
