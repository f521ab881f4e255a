"""The loop: what feedback says beyond a thumb, and the registry of models with its roll-outs."""

from __future__ import annotations

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Creates the tables and columns."""
    _feedback()
    _registry()


def _feedback() -> None:
    """Columns of feedback."""


def _registry() -> None:
    """Tables of the registry and of roll-outs."""


def downgrade() -> None:
    """Drops them."""
