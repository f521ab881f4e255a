"""The roll-outs of the database that the settings name, and options that their verbs share."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from deepwell.fleet.promotion.rollout import Rollouts
    from deepwell.settings import Settings
    from deepwell.storage.database import Database
    from deepwell.storage.safety.anchors import Anchors

__all__ = ["Alias", "By", "Reason", "minute", "opened_database", "opened_rollouts"]

Alias = Annotated[str, typer.Argument(help="Name of the alias, such as smollm2@prod.", metavar="ALIAS")]
By = Annotated[str, typer.Option(help="Name of whoever does this, for the ledger.", metavar="NAME")]
Reason = Annotated[str, typer.Option(help="Reason, for the ledger.", metavar="TEXT")]


@contextmanager
def opened_database(alias: str | None = None) -> Generator[tuple[Database, Anchors]]:
    """Opens the database, with this host's anchors.

    Where a deployment of the alias runs that has a database of its own, it is that one.
    """
    from deepwell.storage.database import Database
    from deepwell.storage.safety.anchors import Anchors

    settings = _settings_of(alias)
    database = Database.of(settings)
    try:
        yield database, Anchors.of(settings)
    finally:
        database.close()


def _settings_of(alias: str | None) -> Settings:
    from deepwell.cli.rollout.stepped import deployment_of
    from deepwell.settings import Settings

    settings = Settings.load()
    deployed = None if alias is None else deployment_of(alias.partition("#")[0])
    place = None if deployed is None else deployed.get("database")
    if place is None:
        return settings
    from pydantic import SecretStr

    from deepwell.fleet.deploy.declaration import secret_of

    return settings.model_copy(update={"database_url": SecretStr(secret_of(place))})


@contextmanager
def opened_rollouts(alias: str | None = None) -> Generator[Rollouts]:
    """Opens the roll-outs of the database, as `opened_database` chooses it."""
    from deepwell.fleet.promotion.rollout import Rollouts

    with opened_database(alias) as (database, anchors):
        yield Rollouts(database, anchors)


def minute(at_ms: int) -> str:
    """Returns a time as people read it, to the minute."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at_ms / 1000))
