"""The graph of revisions: targets, plans, drawings."""
