"""The seals of API keys, the key behind each vote, and the end user of a batch's line."""

from __future__ import annotations

import hashlib
import json

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_SEALED = (
    *("id", "tenant", "name", "digest", "hint", "scopes"),
    *("requests_per_minute", "tokens_per_minute", "audio_seconds_per_minute", "images_per_minute"),
    *("created_at", "expires_at", "revoked_at"),
)


def upgrade() -> None:
    """Adds the columns, and seals the keys that there are. Earlier votes and lines name nobody."""
    op.add_column("batch_lines", sa.Column("end_user", sa.Text))
    op.add_column("feedback", sa.Column("key_id", sa.String(64), nullable=False, server_default=""))
    op.add_column("api_keys", sa.Column("seal", sa.String(64), nullable=False, server_default=""))
    keys = sa.table("api_keys", *(sa.column(name) for name in (*_SEALED, "seal")))
    connection = op.get_bind()
    for row in connection.execute(sa.select(*(keys.c[name] for name in _SEALED))).all():
        seal = hashlib.sha256(json.dumps(list(row)).encode()).hexdigest()
        connection.execute(sa.update(keys).where(keys.c.id == row.id).values(seal=seal))


def downgrade() -> None:
    """Drops them."""
    op.drop_column("batch_lines", "end_user")
    op.drop_column("feedback", "key_id")
    op.drop_column("api_keys", "seal")
