"""Arguments that the actions of `deepwell knowledge` share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from deepwell.cli.output import console

if TYPE_CHECKING:
    from deepwell.knowledge.local import IngestProgress, LocalKnowledge, Spread
    from deepwell.knowledge.media.senses import Senses
    from deepwell.knowledge.search import Found
    from deepwell.settings import Settings

__all__ = [
    "EmbedderOption",
    "Name",
    "TenantOption",
    "day",
    "indexing",
    "ingesting",
    "require_base",
    "run",
    "senses_of",
    "tell_found",
]

T = TypeVar("T")

Name = Annotated[str, typer.Argument(help="Name or id of the knowledge base.", metavar="NAME")]
TenantOption = Annotated[
    str | None,
    typer.Option(
        help="Tenant whose knowledge bases to use; unset: those of a server without API keys.",
        metavar="TENANT",
    ),
]
EmbedderOption = Annotated[
    str | None,
    typer.Option(
        "--embedder",
        help="Embedding model, such as e5-small-q4 or minilm; unset: DEEPWELL_KNOWLEDGE_EMBEDDER, else e5-small-q4.",
    ),
]


def run(
    tenant: str | None, work: Callable[[LocalKnowledge], Awaitable[T]], spread: Spread | None = None
) -> T:
    """Runs work with the knowledge bases of a tenant, and closes them. `spread` embeds what is ingested."""
    from deepwell.knowledge.local import LocalKnowledge
    from deepwell.settings import Settings
    from deepwell.storage.database import LOCAL, Tenant

    async def whole() -> T:
        owner = LOCAL if tenant is None else Tenant(tenant)
        settings = Settings.load()
        senses = senses_of(settings)
        async with LocalKnowledge(settings, tenant=owner, senses=senses, spread=spread) as knowledge:
            return await work(knowledge)

    return asyncio.run(whole())


def senses_of(settings: Settings) -> Callable[[], Senses]:
    """Returns the function that opens what looks at pictures and listens to recordings that are added."""

    def opened() -> Senses:
        from deepwell.server.options import ImageServing, RecognitionServing
        from deepwell.server.senses.knowledge import knowledge_senses

        return knowledge_senses(ImageServing.of(settings), RecognitionServing.of(settings))

    return opened


def require_base(settings: Settings, name: str) -> None:
    """Checks that a server can ground its answers in a knowledge base, before anything is loaded.

    Raises:
        NotFound: there is none of this name.
        ModelNotFound: its embedder is not in the store of models.
    """
    from deepwell.models.store.store import ModelStore
    from deepwell.storage.database import LOCAL, Database
    from deepwell.storage.knowledge import KnowledgeStorage

    database = Database.of(settings)
    try:
        store = asyncio.run(KnowledgeStorage(database).stores.named(LOCAL, name))
    finally:
        database.close()
    ModelStore(settings.models_dir).get(store.embedder)


async def ingesting(knowledge: LocalKnowledge, store_id: str, *, shown: bool) -> list[Any]:
    """Ingests what is queued behind a progress bar on standard error, and returns the files that failed."""
    err = console(stderr=True)
    if not shown or not err.is_terminal:
        return await knowledge.ingest(store_id)
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("ingesting"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("files"),
        TextColumn("{task.fields[stage]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("", total=None, stage="")
        before: list[int] = []

        def tell(now: IngestProgress) -> None:
            ended = now.completed + now.failed
            if not before:
                before.append(ended)
            stage = now.stage and (f"{now.stage} {now.done}/{now.total}" if now.total > 1 else now.stage)
            bar.update(task, completed=ended - before[0], total=ended - before[0] + now.waiting, stage=stage)

        return await knowledge.ingest(store_id, tell)


async def indexing(knowledge: LocalKnowledge, store_id: str, *, shown: bool) -> None:
    """Brings the indexes up to date behind a spinner on standard error: a large store with two languages takes seconds."""
    err = console(stderr=True)
    with err.status("indexing") if shown and err.is_terminal else nullcontext():
        await knowledge.searcher.synchronise(knowledge.tenant, store_id)


def tell_found(found: Found) -> None:
    """Tells on standard error what a search has left out: live sources that did not answer, a reranker that failed."""
    from deepwell.messages import say

    said = [say("source_not_asked", source=source, reason=error) for source, error in found.errors.items()]
    if found.rerank_error is not None:
        said.append(say("not_reranked", reason=found.rerank_error))
    for line in said:
        console(stderr=True).print(line, style="yellow", soft_wrap=True)


def day(when: int | None) -> str:
    """Returns a time for people."""
    import time

    return "never" if when is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(when))
