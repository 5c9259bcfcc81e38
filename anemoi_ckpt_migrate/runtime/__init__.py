"""Run migrations on a file: session, executor, verification of rollbacks."""
