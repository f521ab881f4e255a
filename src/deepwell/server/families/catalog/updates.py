"""`/v1/catalog/updates`: the newest report on new revisions of stored models, and the jobs that make one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from deepwell.errors import InvalidModelFile
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
from deepwell.server.families.job_worker import Chore
from deepwell.server.options import CatalogOptions
from deepwell.storage.database import LOCAL, Tenant
from deepwell.storage.jobs import Job

__all__ = ["UPDATES_JOB", "enqueue_updates", "update_chores", "update_report"]

UPDATES_JOB: Final = "model.updates"
"""Kind of the jobs that look for new revisions."""

_PAYLOAD: Final = json.dumps({"models": "all"})
_LOOK_S: Final = 3600.0  # between looks at the clock
_EVERY_S: Final = {"daily": 86_400.0, "weekly": 7 * 86_400.0}


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


def update_chores(context: ServerContext, options: CatalogOptions) -> Sequence[Chore]:
    """Returns the chore that queues a look for new revisions whenever the setting `model_updates` says that one is due."""
    store, every_s = ModelStore(options.settings.models_dir), _EVERY_S.get(options.settings.model_updates)
    if every_s is None:
        return ()

    async def look() -> None:
        if await asyncio.to_thread(_is_due, store, every_s):
            await enqueue_updates(context, LOCAL)

    return (Chore("new revisions of models cannot be looked for", look, _LOOK_S),)


def _is_due(store: ModelStore, every_s: float) -> bool:
    try:
        report = Report.read(store.root)
    except InvalidModelFile:  # the next report takes its place
        return True
    if report is None:
        return bool(store.names())
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
