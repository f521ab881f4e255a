"""The key behind each vote."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the column. Of earlier votes no key is known."""
    op.add_column("feedback", sa.Column("key_id", sa.String(64), nullable=False, server_default=""))


def downgrade() -> None:
    """Drops it."""
    op.drop_column("feedback", "key_id")
