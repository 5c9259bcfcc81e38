"""Run migrations on a file: session, executor, proof of the way back."""
