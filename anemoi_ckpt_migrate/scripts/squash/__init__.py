"""Join the scripts of several revisions into one."""
