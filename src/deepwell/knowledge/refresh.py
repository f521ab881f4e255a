"""`Refresher`: brings a vector store in line with one of its sources, by queueing what changed for ingestion."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field

from deepwell.errors import DeepwellError, NotFound
from deepwell.knowledge.sources.opening import open_source
from deepwell.knowledge.sources.options import Access
from deepwell.knowledge.sources.source import Change, Fetched, SourceSpec
from deepwell.storage.database import Tenant
from deepwell.storage.files import FileStore
from deepwell.storage.jobs.runner import JobOutcome, JobRun
from deepwell.storage.knowledge import KnowledgeStorage
from deepwell.storage.knowledge.files import Attachment
from deepwell.storage.knowledge.sources import StoredSource

__all__ = ["PURPOSE", "Refresher", "Round"]

PURPOSE = "assistants"
"""Purpose of the files that sources bring, as OpenAI names it."""


@dataclass(slots=True)
class Round:
    """The outcome of one look at a source: numbers of documents, and the complaints by address."""

    added: int = 0
    changed: int = 0
    removed: int = 0
    unchanged: int = 0
    failed: dict[str, str] = field(default_factory=dict[str, str])
    skipped: dict[str, str] = field(default_factory=dict[str, str])


class Refresher:
    """Applies the changes of sources to their stores."""

    def __init__(self, kept: KnowledgeStorage, files: FileStore, access: Access | None = None) -> None:
        self._kept = kept
        self._files = files
        self._access = access

    async def refresh(self, tenant: Tenant, source: StoredSource) -> Round:
        """Looks at a source once, and queues what is new or changed. What is gone there is removed at once."""
        result = Round()
        known = await self._known(tenant, source)
        opened = open_source(SourceSpec.from_json(json.loads(source.spec)), self._access)
        try:
            async with aclosing(opened.scan(known)) as changes:
                async for change in changes:
                    await self._apply(tenant, source, change, result)
        except DeepwellError as error:
            await self._kept.sources.checked(tenant, source.id, str(error))
            raise
        complaint = next(iter(result.failed.values()), None)
        await self._kept.sources.checked(tenant, source.id, complaint)
        return result

    async def watch(self, tenant: Tenant, source: StoredSource) -> AsyncIterator[Change]:
        """Yields every change of a source after it was applied, without end."""
        known = await self._known(tenant, source)
        opened = open_source(SourceSpec.from_json(json.loads(source.spec)), self._access)
        async with aclosing(opened.watch(known)) as changes:
            async for change in changes:
                await self._apply(tenant, source, change, Round())
                yield change

    async def follow(self, run: JobRun, wake: Callable[[], None]) -> JobOutcome:
        """Follows the source of a job until the source is removed. `wake` is called when files were queued."""
        named = json.loads(run.job.payload)
        try:
            source = await self._kept.sources.get(run.job.tenant, named["store_id"], named["source_id"])
        except NotFound:
            return JobOutcome("cancelled")

        async def watch() -> None:
            async for _ in self.watch(run.job.tenant, source):
                wake()

        watching = asyncio.ensure_future(watch())
        ending = asyncio.ensure_future(run.cancelled.wait())
        try:
            await asyncio.wait((watching, ending), return_when=asyncio.FIRST_COMPLETED)
            if watching.done() and (error := watching.exception()) is not None:
                await self._kept.sources.checked(run.job.tenant, source.id, str(error))
                raise error
            return JobOutcome("cancelled")
        finally:
            watching.cancel()
            ending.cancel()
            await asyncio.wait((watching, ending))

    async def _known(self, tenant: Tenant, source: StoredSource) -> dict[str, str]:
        attached = await self._kept.files.of_source(tenant, source.store_id, source.id)
        # A document whose ingestion failed is read again only when it has changed.
        return {uri: one.version or "" for uri, one in attached.items()}

    async def _apply(self, tenant: Tenant, source: StoredSource, change: Change, result: Round) -> None:
        match change.kind:
            case "added" | "changed":
                assert change.fetched is not None
                await self._attach(tenant, source, change.fetched)
                if change.kind == "added":
                    result.added += 1
                else:
                    result.changed += 1
            case "removed":
                await self._remove(tenant, source, change.uri)
                result.removed += 1
            case "unchanged":
                result.unchanged += 1
                await self._kept.files.set_version(
                    tenant, source.store_id, source.id, change.uri, change.version
                )
            case "failed":
                result.failed[change.uri] = str(change.error)
            case "skipped":
                result.skipped[change.uri] = change.reason

    async def _attach(self, tenant: Tenant, source: StoredSource, fetched: Fetched) -> None:
        async def content() -> AsyncIterator[bytes]:
            yield fetched.content

        stored = await self._files.create(
            tenant, filename=_harmless(fetched.filename)[-256:], purpose=PURPOSE, content=content()
        )
        attachment = Attachment(
            file_id=stored.id,
            attributes=json.dumps(dict(fetched.metadata), ensure_ascii=False),
            source_id=source.id,
            uri=fetched.uri,
            version=fetched.version,
        )
        try:
            await self._kept.files.attach(tenant, source.store_id, [attachment])
        except DeepwellError:  # the source or its store was removed meanwhile
            await self._files.delete(tenant, stored.id)
            raise

    async def _remove(self, tenant: Tenant, source: StoredSource, uri: str) -> None:
        file_ids = await self._kept.files.at_address(tenant, source.store_id, source.id, uri)
        await self._kept.files.detach(tenant, source.store_id, file_ids)
        for file_id in await self._kept.files.unattached(tenant, file_ids):
            with suppress(NotFound):
                await self._files.delete(tenant, file_id)


def _harmless(name: str) -> str:
    """Returns a name of a document without characters that would break lines, or steer a terminal."""
    return "".join(one if one.isprintable() else "\ufffd" for one in name)
