"""What the command line does, as functions with typed results. Nothing here prints."""
