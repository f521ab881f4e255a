"""`deepwell keys`: API keys in the database."""

from __future__ import annotations

import re
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepwell.cli.options import Init
from deepwell.cli.output import JsonFlag, console, print_table, reported_errors, write_json
from deepwell.cli.usage import Verbs
from deepwell.errors import InvalidRequest
from deepwell.storage.clock import shared_time

if TYPE_CHECKING:
    from deepwell.settings import Settings
    from deepwell.storage.keys import ApiKey, KeyStore

__all__ = ["check_store", "has_stored_key", "register"]

_UNITS = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def register(app: typer.Typer) -> None:
    """Add the verb and its actions."""
    keys = typer.Typer(cls=Verbs, no_args_is_help=True, help="Create, list and revoke API keys.")
    keys.command()(create)
    keys.command("list")(list_keys)
    keys.command()(revoke)
    app.add_typer(keys, name="keys")


def check_store(settings: Settings, *, init: bool) -> None:
    """Refuses a database that was here before and is gone, before anything is loaded. With `init`, gives it up instead.

    Raises:
        StoreLost: it is gone or empty. What only its content tells is found out when it is opened.
        StorageDamaged: it holds bytes that nobody wrote.
    """
    from deepwell.storage.marker import Markers

    if init:
        from deepwell.storage.database import Database

        Database.of(settings, init=True).close()
    else:
        Markers.of(settings).require_file()
    from deepwell.storage.integrity import require_sound

    require_sound(settings)


def has_stored_key(settings: Settings) -> bool:
    """Tells whether the database holds a key that can be used now."""
    import asyncio

    with _store(settings) as store:
        return any(key.usable(shared_time()) for key in asyncio.run(store.list()))


@contextmanager
def _store(settings: Settings | None = None, *, init: bool = False) -> Generator[KeyStore]:
    from deepwell.settings import Settings
    from deepwell.storage.database import Database
    from deepwell.storage.keys import KeyStore

    settings = settings or Settings.load()
    database = Database.of(settings, init=init)
    try:
        yield KeyStore(database)
    finally:
        database.close()


def create(
    name: Annotated[str, typer.Argument(help="Name of the key, by which people know what it is for.")],
    tenant: Annotated[
        str | None,
        typer.Option(
            help="Tenant whose data the key opens; keys of one tenant share them. Unset: a tenant of its own."
        ),
    ] = None,
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help="Scope of the key: inference, files, adapters, metrics or admin; repeatable. Unset: inference and files."
        ),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(help="Lifetime of the key, such as 12h, 90d or 52w; unset: until it is revoked."),
    ] = None,
    requests_per_minute: Annotated[
        int | None,
        typer.Option(min=0, help="Requests a minute of this key; 0: no limit; unset: the tenant's limit."),
    ] = None,
    tokens_per_minute: Annotated[
        int | None,
        typer.Option(min=0, help="Tokens a minute of this key; 0: no limit; unset: the tenant's limit."),
    ] = None,
    audio_seconds_per_minute: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Seconds of sound that this key may have recognised or made in a minute; 0: no limit; unset: the tenant's"
            " limit.",
        ),
    ] = None,
    images_per_minute: Annotated[
        int | None,
        typer.Option(min=0, help="Images a minute of this key; 0: no limit; unset: the tenant's limit."),
    ] = None,
    init: Init = False,
    json: JsonFlag = False,
) -> None:
    """Create a key and print it. It is shown this once, because only its hash is kept."""
    with reported_errors(as_json=json):
        from deepwell.server.access.principal import SCOPES
        from deepwell.storage.database import Tenant
        from deepwell.storage.keys import new_tenant

        scopes = list(dict.fromkeys(scope or ("inference", "files")))
        unknown = [one for one in scopes if one not in SCOPES]
        if unknown:
            raise InvalidRequest.of("key_scope", scope=unknown[0], known=", ".join(SCOPES))
        lives = None if expires is None else _seconds(expires)
        with _store(init=init) as store:
            key, text = store.create(
                Tenant(tenant) if tenant is not None else new_tenant(),
                name,
                scopes,
                expires_at=None if lives is None else int(shared_time()) + lives,
                requests_per_minute=requests_per_minute,
                tokens_per_minute=tokens_per_minute,
                audio_seconds_per_minute=audio_seconds_per_minute,
                images_per_minute=images_per_minute,
            )
        if json:
            write_json(_plain(key) | {"key": text})
            return
        out = console()
        out.print(text, soft_wrap=True)
        out.print(f"{key.id}  tenant {key.tenant}  {', '.join(key.scopes)}", soft_wrap=True)
        out.print("It is not shown again: only its hash is kept.")


def list_keys(
    tenant: Annotated[str | None, typer.Option(help="List the keys of this tenant alone.")] = None,
    json: JsonFlag = False,
) -> None:
    """List all keys, those that were revoked or have expired too."""
    with reported_errors(as_json=json):
        import asyncio

        from deepwell.storage.database import Tenant

        with _store() as store:
            keys = asyncio.run(store.list(None if tenant is None else Tenant(tenant)))
        if json:
            write_json({"keys": [_plain(key) for key in keys]})
            return
        if not keys:
            console().print("There is no key yet: `deepwell keys create NAME` makes one.")
            return
        now = shared_time()
        rows = [
            (
                key.id,
                key.name,
                key.tenant,
                key.hint,
                " ".join(key.scopes),
                "never" if key.last_used_at is None else _day(key.last_used_at),
                _state(key, now),
            )
            for key in keys
        ]
        columns = ("id", "name", "tenant", "key", "scopes", "last used", "state")
        print_table(columns, rows, folded=("scopes", "last used", "state"))


def revoke(
    id: Annotated[str, typer.Argument(help="Id of the key, as `deepwell keys list` shows it.", metavar="ID")],
    json: JsonFlag = False,
) -> None:
    """Revoke a key for ever. Running servers refuse it within seconds."""
    with reported_errors(as_json=json):
        with _store() as store:
            key = store.revoke(id)
        if json:
            write_json(_plain(key))
            return
        console().print(
            f"{key.id} ({key.name}) is revoked; running servers refuse it within 5 seconds.", soft_wrap=True
        )


def _plain(key: ApiKey) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(key) | {"scopes": list(key.scopes)}


def _seconds(text: str) -> int:
    match = re.fullmatch(r"([1-9][0-9]{0,5})([mhdw])", text)
    if match is None:
        raise InvalidRequest.of("key_expires", text=text)
    return int(match[1]) * _UNITS[match[2]]


def _day(when: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(when))


def _state(key: ApiKey, now: float) -> str:
    if key.revoked_at is not None:
        return f"revoked {_day(key.revoked_at)}"
    if key.expires_at is None:
        return "valid"
    return f"{'valid until' if now < key.expires_at else 'expired'} {_day(key.expires_at)}"
