"""`/v1/catalog/updates`: the newest report on new revisions of stored models, and the jobs that make one."""

from __future__ import annotations

import asyncio
import json
import logging
from datetime import UTC, datetime
from typing import Final

from deepwell.errors import DeepwellError, InvalidModelFile
from deepwell.models.revisions.look import last_report
from deepwell.models.revisions.news import Change, ModelNews, Report, SourceNews
from deepwell.models.store.store import ModelStore
from deepwell.server.context import ServerContext
from deepwell.server.families.catalog.bodies import (
    FileUpdate,
    ModelUpdate,
    SourceUpdate,
    UpdateReport,
    ValueUpdate,
)
from deepwell.server.options import CatalogOptions
from deepwell.storage.database import LOCAL, Tenant
from deepwell.storage.jobs import Job

__all__ = ["UPDATES_JOB", "UpdateSchedule", "enqueue_updates", "update_report"]

UPDATES_JOB: Final = "model.updates"
"""Kind of the jobs that look for new revisions."""

_PAYLOAD: Final = json.dumps({"models": "all"})
_LOOK_S: Final = 3600.0  # between looks at the clock
_EVERY_S: Final = {"daily": 86_400.0, "weekly": 7 * 86_400.0}
_log = logging.getLogger("deepwell.server")


async def enqueue_updates(context: ServerContext, tenant: Tenant) -> Job:
    """Queues a look for new revisions, unless the tenant has one that has not ended."""
    return await context.state.jobs.enqueue_once(tenant, UPDATES_JOB, _PAYLOAD)


def update_report(store: ModelStore) -> UpdateReport:
    """Returns the newest report as the API shows it; one without a time if nobody has looked yet.

    Raises:
        InvalidModelFile: the report is damaged.
    """
    report = last_report(store)
    if report is None:
        return UpdateReport(None, [])
    return UpdateReport(_unix(report.checked), [_model(one) for one in report.models])


class UpdateSchedule:
    """Queues a look for new revisions whenever the setting `model_updates` says that one is due."""

    def __init__(self, context: ServerContext, options: CatalogOptions) -> None:
        self._context = context
        self._store = ModelStore(options.settings.models_dir)
        self._every_s = _EVERY_S.get(options.settings.model_updates)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Starts to look at the clock, in the first process of a server."""
        if self._every_s is not None and self._context.options.worker == 0:
            self._task = asyncio.create_task(self._run(self._every_s))

    async def stop(self) -> None:
        """Ends it. A job that is queued stays so."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def _run(self, every_s: float) -> None:
        while True:
            try:
                if await asyncio.to_thread(self._is_due, every_s):
                    await enqueue_updates(self._context, LOCAL)
            except DeepwellError as error:
                _log.warning("new revisions of models cannot be looked for: %s", error)
            await asyncio.sleep(_LOOK_S)

    def _is_due(self, every_s: float) -> bool:
        try:
            report = Report.read(self._store.root)
        except InvalidModelFile:  # the next report takes its place
            return True
        if report is None:
            return bool(self._store.names())
        return datetime.now(UTC).timestamp() - _unix(report.checked) >= every_s


def _unix(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


def _model(news: ModelNews) -> ModelUpdate:
    return ModelUpdate(id=news.name, state=news.state, sources=[_source(one) for one in news.sources])


def _source(news: SourceNews) -> SourceUpdate:
    return SourceUpdate(
        source=news.source,
        state=news.state,
        revision_before=news.before,
        revision_now=news.now,
        changed_at=None if news.changed is None else _unix(news.changed),
        files=[
            FileUpdate(f.name, f.kind, f.size_before, f.size_now, f.hash_before, f.hash_now)
            for f in news.files
        ],
        license=_value(news.licence),
        template=_value(news.template),
        not_told=list(news.unsaid),
        reason=news.reason or None,
        fix=news.fix or None,
        fetch=news.fetch or None,
    )


def _value(change: Change | None) -> ValueUpdate | None:
    return None if change is None else ValueUpdate(change.before, change.now)
