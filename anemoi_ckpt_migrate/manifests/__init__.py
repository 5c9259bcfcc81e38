"""The manifest: parameters of each model of a project, compared with its code."""
