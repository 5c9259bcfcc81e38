"""${docstring}

Revision ID: ${revision}
Revises: ${", ".join(parents) or "nothing, this is a base"}
Create Date: ${create_date}
"""
% if final:

from anemoi_ckpt_migrate import MigrationMetadata
% else:

from anemoi_ckpt_migrate import CkptType, MigrationMetadata
% endif

revision = ${repr_(revision)}
down_revision = ${repr_(down_revision)}
branch_labels = None
depends_on = None

% if final:
# A barrier: no checkpoint crosses it, upwards or downwards. It has no functions.
metadata = MigrationMetadata(versions=${repr_(versions)}, final=True)
% else:
metadata = MigrationMetadata(versions=${repr_(versions)})


def migrate(ckpt: CkptType) -> CkptType:
    """Turn a checkpoint made before the change into one that fits the code after it."""
    return ckpt


# Write `def rollback(ckpt: CkptType) -> CkptType`, the way back, if there is one.
# Without it this revision is irreversible, and every command says so.
% endif
