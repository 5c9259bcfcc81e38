"""Templates that ship with ckpt-migrate. `ckpt-migrate init` copies them into a project."""
