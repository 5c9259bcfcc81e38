"""The operations of migration scripts."""
