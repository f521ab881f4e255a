"""`deepwell audit`: verifies, exports and prunes the audit trail of safety."""

from __future__ import annotations

import typer

from deepwell.cli.audit import verbs
from deepwell.cli.usage import Verbs

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb and its actions."""
    audit = typer.Typer(
        cls=Verbs,
        no_args_is_help=True,
        help="Verify, export and prune the audit trail: what was decided about which request, in a chain of hashes.",
    )
    audit.command()(verbs.verify)
    audit.command()(verbs.export)
    audit.command()(verbs.prune)
    app.add_typer(audit, name="audit")
