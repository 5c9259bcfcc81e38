"""A project: configuration, folders, chains of migrations."""
