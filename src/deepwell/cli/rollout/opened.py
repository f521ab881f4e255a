"""The roll-outs of the database that the settings name, and options that their verbs share."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from deepwell.fleet.promotion.rollout import Rollouts
    from deepwell.storage.database import Database
    from deepwell.storage.safety.anchors import Anchors

__all__ = ["Alias", "By", "Reason", "minute", "opened_database", "opened_rollouts"]

Alias = Annotated[str, typer.Argument(help="Name of the alias, such as smollm2@prod.", metavar="ALIAS")]
By = Annotated[str, typer.Option(help="Name of whoever does this, for the ledger.", metavar="NAME")]
Reason = Annotated[str, typer.Option(help="Reason, for the ledger.", metavar="TEXT")]


@contextmanager
def opened_database() -> Generator[tuple[Database, Anchors]]:
    """Opens the database, with this host's anchors."""
    from deepwell.settings import Settings
    from deepwell.storage.database import Database
    from deepwell.storage.safety.anchors import Anchors

    settings = Settings.load()
    database = Database.of(settings)
    try:
        yield database, Anchors.of(settings)
    finally:
        database.close()


@contextmanager
def opened_rollouts() -> Generator[Rollouts]:
    """Opens the roll-outs of the database."""
    from deepwell.fleet.promotion.rollout import Rollouts

    with opened_database() as (database, anchors):
        yield Rollouts(database, anchors)


def minute(at_ms: int) -> str:
    """Returns a time as people read it, to the minute."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at_ms / 1000))
