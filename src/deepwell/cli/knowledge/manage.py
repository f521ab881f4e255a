"""`deepwell knowledge create|list|show|remove|rebuild`."""

from __future__ import annotations

import json as json_module
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepwell.cli.knowledge.options import EmbedderOption, Name, TenantOption, day, indexing, ingesting, run
from deepwell.cli.output import JsonFlag, console, print_table, reported_errors, write_json

if TYPE_CHECKING:
    from deepwell.knowledge.local import LocalKnowledge
    from deepwell.storage.knowledge.files import StoredStoreFile
    from deepwell.storage.knowledge.stores import StoredStore

__all__ = ["create", "list_bases", "rebuild", "remove", "show"]

_SHOWN_FILES = 50


def create(
    name: Annotated[str, typer.Argument(help="Name of the new knowledge base.", metavar="NAME")],
    embedder: EmbedderOption = None,
    chunk_tokens: Annotated[
        int | None,
        typer.Option(
            min=32,
            max=4096,
            help="Longest chunk in tokens; unset: what the embedder reads at once, about 510.",
        ),
    ] = None,
    overlap_tokens: Annotated[
        int | None, typer.Option(min=0, max=2048, help="Tokens that neighbouring chunks share; unset: 64.")
    ] = None,
    by_record: Annotated[
        bool,
        typer.Option(
            "--by-record", help="Make every row of a table and every JSONL record a chunk of its own."
        ),
    ] = False,
    tenant: TenantOption = None,
    json: JsonFlag = False,
) -> None:
    """Create an empty knowledge base."""
    with reported_errors(as_json=json):
        from deepwell.errors import InvalidRequest
        from deepwell.knowledge.ingest import ChunkingStrategy

        if chunk_tokens is not None and (overlap_tokens or 0) > chunk_tokens // 2:
            raise InvalidRequest(
                f"chunks of {chunk_tokens} tokens cannot share {overlap_tokens}",
                fix=f"give --overlap-tokens at most {chunk_tokens // 2}",
            )
        strategy = ChunkingStrategy(chunk_tokens, overlap_tokens, by_record).encoded()

        async def work(knowledge: LocalKnowledge) -> StoredStore:
            return await knowledge.create(name, embedder=embedder, chunking=strategy)

        store = run(tenant, work)
        if json:
            write_json(_plain(store, {}, 0))
            return
        console().print(
            f"{store.name} ({store.id}) is empty: `deepwell knowledge add {store.name} PATH` fills it.",
            soft_wrap=True,
        )


def list_bases(tenant: TenantOption = None, json: JsonFlag = False) -> None:
    """List the knowledge bases with their files, chunks and embedders."""
    with reported_errors(as_json=json):

        async def work(knowledge: LocalKnowledge) -> list[dict[str, Any]]:
            found: list[StoredStore] = []
            after = None
            while True:
                page = await knowledge.kept.stores.list(knowledge.tenant, limit=100, after=after, order="asc")
                found += page.data
                if not page.has_more:
                    break
                after = page.data[-1].id
            counts = await knowledge.kept.stores.counts(knowledge.tenant, [one.id for one in found])
            return [
                _plain(one, counts[one.id], await knowledge.kept.stores.chunk_count(knowledge.tenant, one.id))
                for one in found
            ]

        bases = run(tenant, work)
        if json:
            write_json({"knowledge": bases})
            return
        if not bases:
            console().print("There is no knowledge base yet: `deepwell knowledge create NAME` makes one.")
            return
        rows = [
            (
                one["name"],
                str(one["files"]["completed"]),
                str(one["files"]["failed"]),
                str(one["chunks"]),
                one["embedder"],
                "expired" if one["expired"] else day(one["last_active_at"]),
                one["id"],
            )
            for one in bases
        ]
        columns = ("name", "files", "failed", "chunks", "embedder", "last used", "id")
        print_table(columns, rows, folded=("last used",), optional=("id",))


def show(name: Name, tenant: TenantOption = None, json: JsonFlag = False) -> None:
    """Show one knowledge base: its sources, its files, and why some failed."""
    with reported_errors(as_json=json):

        async def work(knowledge: LocalKnowledge) -> dict[str, Any]:
            from deepwell.knowledge.sources.source import SourceSpec

            store = await knowledge.find(name)
            kept, owner = knowledge.kept, knowledge.tenant
            counts = (await kept.stores.counts(owner, [store.id]))[store.id]
            sources = await kept.sources.list(owner, store.id)
            page = await kept.files.list(owner, store.id, limit=10_000, order="asc")
            return {
                **_plain(store, counts, await kept.stores.chunk_count(owner, store.id)),
                "sources": [
                    {
                        "id": one.id,
                        **SourceSpec.from_json(json_module.loads(one.spec)).shown(),
                        "checked_at": one.checked_at,
                        "error": one.error,
                    }
                    for one in sources
                ],
                "documents": [await _file(knowledge, one) for one in page.data],
            }

        found = run(tenant, work)
        if json:
            write_json(found)
            return
        _print_base(found)


def remove(
    name: Name,
    file: Annotated[
        str | None,
        typer.Option(help="Remove only this file: its id, name or address.", metavar="FILE"),
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="Remove only this source, by its id, with its files.", metavar="SOURCE")
    ] = None,
    tenant: TenantOption = None,
    json: JsonFlag = False,
) -> None:
    """Remove a knowledge base, or one file or source of it. What is removed is found no more from this moment."""
    with reported_errors(as_json=json):

        async def work(knowledge: LocalKnowledge) -> tuple[str, int]:
            store = await knowledge.find(name)
            if file is None and source is None:
                files = await knowledge.remove(store)
                return f"{store.name} is gone, with {_files(files)}.", files
            count = 0
            if source is not None:
                count += await knowledge.remove_source(store, source)
            if file is not None:
                chosen = await knowledge.chosen(store, file=file)
                await knowledge.remove_files(store, chosen)
                count += len(chosen)
            if source is not None:
                return f"Source {source} is gone from {store.name}, with {_files(count)}.", count
            return f"Removed from {store.name}: {_files(count)}.", count

        said, count = run(tenant, work)
        if json:
            write_json({"removed": True, "files": count})
            return
        console().print(said, soft_wrap=True)


def rebuild(
    name: Name, embedder: EmbedderOption = None, tenant: TenantOption = None, json: JsonFlag = False
) -> None:
    """Embed all texts again, with another model if one is named, and build the search indexes anew."""
    with reported_errors(as_json=json):

        async def work(knowledge: LocalKnowledge) -> dict[str, Any]:
            store = await knowledge.find(name)
            await knowledge.queue_rebuild(store, embedder)
            failed = await ingesting(knowledge, store.id, shown=not json)
            await indexing(knowledge, store.id, shown=not json)
            store = await knowledge.find(store.id)
            counts = (await knowledge.kept.stores.counts(knowledge.tenant, [store.id]))[store.id]
            chunks = await knowledge.kept.stores.chunk_count(knowledge.tenant, store.id)
            return {**_plain(store, counts, chunks), "failures": len(failed)}

        found = run(tenant, work)
        if json:
            write_json(found)
            return
        console().print(f"{found['name']}: {found['chunks']} chunks by {found['embedder']}.", soft_wrap=True)
        if found["failures"]:
            console(stderr=True).print(
                f"not read: {_files(found['failures'])}; `deepwell knowledge show {found['name']}` says why",
                style="yellow",
                soft_wrap=True,
            )


def _plain(store: StoredStore, counts: dict[str, int], chunks: int) -> dict[str, Any]:
    return {
        "id": store.id,
        "name": store.name,
        "embedder": store.embedder,
        "dimensions": store.dimensions,
        "created_at": store.created_at,
        "last_active_at": store.last_active_at,
        "expired": store.expired(),
        "files": {
            status: counts.get(status, 0) for status in ("completed", "in_progress", "failed", "cancelled")
        },
        "bytes": counts.get("usage_bytes", 0),
        "chunks": chunks,
    }


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


async def _file(knowledge: LocalKnowledge, one: StoredStoreFile) -> dict[str, Any]:
    return {
        "id": one.file_id,
        "name": await knowledge.filename(one.file_id),
        "uri": one.uri,
        "status": one.status,
        "error": one.error,
        "attributes": json_module.loads(one.attributes),
    }


def _print_base(found: dict[str, Any]) -> None:
    out = console()
    files = found["files"]
    out.print(
        f"{found['name']} ({found['id']}): {found['chunks']} chunks of {_files(files['completed'])}, by {found['embedder']}",
        soft_wrap=True,
    )
    for one in found["sources"]:
        out.print(
            f"source {one['id']}  {one['kind']} {one['address']}  looked at {day(one['checked_at'])}",
            soft_wrap=True,
        )
        if one["error"]:
            out.print(f"  {one['error']}", style="yellow", soft_wrap=True)
    documents = sorted(found["documents"], key=lambda one: one["status"] == "completed")
    for one in documents[:_SHOWN_FILES]:
        out.print(f"{one['status']:<12} {one['name']}", soft_wrap=True)
        if one["error"]:
            out.print(f"  {one['error']}", style="yellow", soft_wrap=True)
    if len(documents) > _SHOWN_FILES:
        out.print(f"... and {len(documents) - _SHOWN_FILES} more: --json lists all", soft_wrap=True)
