"""${docstring}

Revision ID: ${revision}
Revises: ${", ".join(parents) or "nothing, this is a base"}
Create Date: ${create_date}
"""
% if final or merge:

from anemoi_ckpt_migrate import MigrationMetadata
% elif operations:

from anemoi_ckpt_migrate import MigrationMetadata, op
% elif setup:

from anemoi_ckpt_migrate import CkptType, MigrationContext, MigrationMetadata
% else:

from anemoi_ckpt_migrate import CkptType, MigrationMetadata
% endif

revision = ${repr_(revision)}
down_revision = ${repr_(down_revision)}
branch_labels = ${repr_(branch_labels)}
depends_on = ${repr_(depends_on)}

% if final:
# A barrier: no checkpoint crosses it, upwards or downwards. It has no functions.
metadata = MigrationMetadata(versions=${repr_(versions)}, final=True)
% elif operations:
metadata = MigrationMetadata(versions=${repr_(versions)})

# Found by comparison. Read it as you would read what a colleague wrote, and try it: `upgrade --check-rollback`.
operations = [
% for line in operations:
    ${line}
% endfor
]
% elif merge:
metadata = MigrationMetadata(versions=${repr_(versions)})

# A merge: it joins branches, and changes nothing itself.
operations = []
% else:
metadata = MigrationMetadata(versions=${repr_(versions)})


% if setup:
def migrate_setup(context: MigrationContext) -> None:
    """Say which of the classes and modules that a checkpoint names have moved or are gone; nothing is imported."""
    # Fill in what holds, and take out the rest. It is undone on the way down, with nothing to be written for that.
    # context.move_attribute("package.module.Class", "package.elsewhere.Class")
    # context.move_module("package.module", "package.elsewhere")
    # context.delete_attribute("package.module.Class")  # or "package.module.*"
    # context.delete_module("package.module")


# Take this out if names are all that changes.
% endif
def migrate(ckpt: CkptType) -> CkptType:
    """Turn a checkpoint made before the change into one that fits the code after it."""
    return ckpt


# Write `def rollback(ckpt: CkptType) -> CkptType`, the way back, if there is one.
# Without it this revision is irreversible, and every command says so; say so here too: `rollback = None`.
% endif
