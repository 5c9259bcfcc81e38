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

# Found by comparison. Review the operations, and try them: `upgrade --check-rollback`.
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
    """List the classes and modules that were moved or removed; nothing is imported."""
    # Fill in the lines that apply and remove the rest. A downgrade undoes them; you need not write a rollback.
    # context.move_attribute("package.module.Class", "package.elsewhere.Class")
    # context.move_module("package.module", "package.elsewhere")
    # context.delete_attribute("package.module.Class")  # or "package.module.*"
    # context.delete_module("package.module")


# Remove `migrate` if only names change.
% endif
def migrate(ckpt: CkptType) -> CkptType:
    """Convert a checkpoint of the old code into one for the new code."""
    return ckpt


# If the change can be undone, write `def rollback(ckpt: CkptType) -> CkptType`.
# If it cannot, write `rollback = None`, which declares this revision irreversible.
% endif
