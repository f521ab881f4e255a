"""The end user of a batch's line, so that its result can be erased."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the column. Lines that were answered before name nobody."""
    op.add_column("batch_lines", sa.Column("end_user", sa.Text))


def downgrade() -> None:
    """Drops it."""
    op.drop_column("batch_lines", "end_user")
