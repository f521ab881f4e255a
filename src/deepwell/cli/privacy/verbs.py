"""`deepwell privacy export|erase|places`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepwell.cli.output import JsonFlag, console, print_table, reported_errors, write_json
from deepwell.errors import InvalidRequest

if TYPE_CHECKING:
    from deepwell.safety.privacy.attribution import Subject
    from deepwell.safety.privacy.erase import Erased, Hooks, HostPlaces
    from deepwell.settings import Settings
    from deepwell.storage.database import Database, Tenant

__all__ = ["erase", "export", "places"]

TenantOption = Annotated[
    str,
    typer.Option(
        help="Tenant to take, as `deepwell keys list` shows it; `local` is that of a server without keys.",
        metavar="TENANT",
    ),
]
UserOption = Annotated[
    str | None,
    typer.Option(
        "--user",
        help="End user of the tenant, as requests name one: safety_identifier, user, or metadata. Unset: the whole tenant.",
        metavar="ID",
    ),
]


def export(
    tenant: TenantOption,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="New folder to write into.", metavar="FOLDER")
    ],
    user: UserOption = None,
    json: JsonFlag = False,
) -> None:
    """Write all that is kept of a person into a folder: JSON lines by table, files, and a manifest."""
    with reported_errors(as_json=json):
        from deepwell.safety.privacy.export import export_person
        from deepwell.settings import Settings
        from deepwell.storage.blobs import BlobPlace, open_blobs
        from deepwell.storage.database import Database
        from deepwell.storage.files import FileStore

        settings = Settings.load()
        database = Database.of(settings)
        try:
            files = FileStore(database, open_blobs(settings.data_dir / "files", BlobPlace.of(settings)))
            host = _host(settings)
            counts = asyncio.run(export_person(database, files, _subject(tenant, user), output, host))
        finally:
            database.close()
        if json:
            write_json({"folder": str(output), "counts": counts})
            return
        _print(
            counts,
            f"Written to {output}",
            "Nothing is kept of this person; manifest.json lists every place that was searched.",
        )


def erase(
    tenant: TenantOption,
    user: UserOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before erasing.")] = False,
    vacuum: Annotated[
        bool,
        typer.Option(
            help="Rewrite SQLite's file, so that nothing is left in free pages. Other writers wait: seconds a gigabyte."
        ),
    ] = True,
    json: JsonFlag = False,
) -> None:
    """Erase all that is kept of a person, for ever. An erasure that was interrupted is finished by the next call."""
    with reported_errors(as_json=json):
        subject = _subject(tenant, user)
        whom = (
            f"the end user {user!r} of {tenant}"
            if user
            else f"the whole tenant {tenant}, and revoke its keys"
        )
        if not yes:
            if json:
                raise InvalidRequest("an erasure cannot be undone", fix="add --yes")
            typer.confirm(f"Erase {whom}, for ever?", abort=True)
        done, overwritten = asyncio.run(_erase(subject, vacuum=vacuum))
        if json:
            told = {
                "id": done.id,
                "scope": done.scope,
                "counts": dict(done.counts),
                "overwritten": overwritten,
            }
            write_json(told | {"requested_at": done.requested_at, "finished_at": done.finished_at})
            return
        _print(done.counts, f"Erased ({done.id})", f"Nothing was kept of this person ({done.id}).")
        if not overwritten:
            console().print(
                "Freed space of the database is not overwritten: see the guide on audit and privacy.",
                soft_wrap=True,
            )


def places(json: JsonFlag = False) -> None:
    """List every table, blob, index, cache and log, with how a person's data there are exported and erased."""
    with reported_errors(as_json=json):
        from dataclasses import asdict

        from deepwell.safety.privacy.places import PLACES

        if json:
            write_json({"places": [asdict(place) for place in PLACES]})
            return
        rows = [(place.name, place.kind, place.tenant, place.person) for place in PLACES]
        print_table(("place", "kind", "tenant", "end user"), rows, folded=("tenant", "end user"))


async def _erase(subject: Subject, *, vacuum: bool) -> tuple[Erased, bool]:
    from deepwell.safety.privacy.erase import Eraser
    from deepwell.settings import Settings
    from deepwell.storage.blobs import BlobPlace, open_blobs
    from deepwell.storage.database import Database
    from deepwell.storage.files import FileStore

    settings = Settings.load()
    database = Database.of(settings)
    try:
        files = FileStore(database, open_blobs(settings.data_dir / "files", BlobPlace.of(settings)))
        hooks = _hooks(settings, database)
        eraser = Eraser(database, files, _host(settings), hooks, vacuum=vacuum)
        return await eraser.erase(subject), eraser.overwritten
    finally:
        database.close()


def _subject(tenant: str, user: str | None) -> Subject:
    from deepwell.safety.privacy.attribution import Subject
    from deepwell.storage.database import Tenant

    if user is not None and not user.strip():
        raise InvalidRequest("--user names nobody", fix="leave it out to take the whole tenant")
    return Subject(Tenant(tenant), user or "")


def _host(settings: Settings) -> HostPlaces:
    from deepwell.safety.privacy.erase import HostPlaces
    from deepwell.settings.sources import data_root

    folder = settings.data_dir
    history = data_root() / "chat_history"
    rounds = (settings.adapter_dir or settings.state_dir) / "improve"
    runs, models = folder / "fine_tuning", settings.models_dir
    return HostPlaces(folder / "knowledge", settings.access_log_file, history, runs, rounds, models)


def _hooks(settings: Settings, database: Database) -> Hooks:
    """Returns what other parts of the house do: indexes are made anew, and answers in Valkey deleted."""
    from deepwell.safety.privacy.erase import Hooks

    async def refresh_index(tenant: Tenant, store_id: str) -> None:
        from deepwell.knowledge.embedders import Embedders
        from deepwell.knowledge.search import Searcher, shared_vectors
        from deepwell.storage.knowledge import KnowledgeStorage

        if not (settings.data_dir / "knowledge" / store_id).exists():
            return
        kept = KnowledgeStorage(database)
        embedders = Embedders(settings.models_dir)
        searcher = Searcher(
            kept,
            settings.data_dir / "knowledge",
            embedders.of_store,
            shared=shared_vectors(kept, settings.knowledge_vectors),
        )
        try:
            await searcher.synchronise(tenant, store_id)
        finally:
            await searcher.close()
            await embedders.close()

    async def clear_caches() -> None:
        if settings.valkey_url is None:
            return
        from deepwell.server.caches.shared_answers import forget_answers
        from deepwell.server.valkey import ValkeyClient

        client = ValkeyClient(settings.valkey_url)
        try:
            await forget_answers(client)
        finally:
            await client.close()

    return Hooks(refresh_index, clear_caches)


def _print(counts: Mapping[str, Any], done: str, nothing: str) -> None:
    out = console()
    if not counts:
        out.print(nothing, soft_wrap=True)
        return
    print_table(("place", "rows or files"), [(name, str(count)) for name, count in sorted(counts.items())])
    out.print(f"{done}.", soft_wrap=True)
