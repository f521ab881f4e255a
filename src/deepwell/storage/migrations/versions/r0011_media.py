"""Media: what requests use of models for sound and images, and the limits of keys on it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_LIMITS = ("audio_seconds_per_minute", "images_per_minute")


def upgrade() -> None:
    """Creates the table and the columns."""
    op.create_table(
        "media_usage",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("hour", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("key_id", sa.String(64), nullable=False),
        sa.Column("model", sa.String(256), nullable=False),
        sa.Column("source", sa.String(32), nullable=False),
        sa.Column("size", sa.String(16), nullable=False),
        *(
            sa.Column(name, sa.BigInteger, nullable=False)
            for name in ("requests", "characters", "milliseconds", "images")
        ),
        sa.PrimaryKeyConstraint("tenant", "hour", "key_id", "model", "source", "size", name="pk_media_usage"),
    )
    for name in _LIMITS:
        op.add_column("api_keys", sa.Column(name, sa.BigInteger))


def downgrade() -> None:
    """Drops them."""
    for name in _LIMITS:
        op.drop_column("api_keys", name)
    op.drop_table("media_usage")
