"""`AuditTrail`: takes events off a request's path, and writes them in groups.

NOTE: An event recorded with `durable` is on the disk when `record` returns. Refusals and redactions are recorded so, before
the answer leaves. All other events are written within `max_delay_s`. A process that is killed loses at most those of that
time, and never one from the middle: events are written in the order in which they were recorded.

A database that does not answer keeps events waiting, up to `most_pending`. Then the declared behaviour applies: "block"
refuses further requests, and "allow" counts what is dropped and writes the count as an event of its own (`gap`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Literal

from deepwell.errors import StorageError, StorageUnavailable
from deepwell.safety.findings import Decision
from deepwell.safety.policy import Audit
from deepwell.storage.clock import shared_time
from deepwell.storage.database import Tenant
from deepwell.storage.safety.audit import AuditStore
from deepwell.storage.safety.chain import AuditRecord

__all__ = ["AuditOptions", "AuditTrail", "RequestFacts", "decision_record", "now_ms"]

_log = logging.getLogger("deepwell.safety")
_GROUP: Final = 512  # events of one commit: some milliseconds
_RETRIED_AFTER_S: Final = 0.5
_TUNED: Final = "ft:"  # begins the names of fine-tuned models
_MOST_FINDINGS: Final = 100  # told one by one in an entry; the others are counted


@dataclass(frozen=True, slots=True)
class AuditOptions:
    """Bounds of a trail in memory.

    Attributes:
        max_delay_s: longest wait of an event that nobody waits for.
        most_pending: events that wait for a database which does not answer.
        on_failure: what happens to requests when more events wait than that.
    """

    max_delay_s: float = 0.25
    most_pending: int = 10_000
    on_failure: Literal["allow", "block"] = "block"


@dataclass(frozen=True, slots=True)
class RequestFacts:
    """The facts of a request that an entry tells. `route` is the template of its path, without the ids in it.

    `end_user` is the client's identifier, for which the entry holds a pseudonym; for an id that the client gave the request, it
    holds a hash.
    """

    request_id: str = ""
    key_id: str = ""
    model: str = ""
    end_user: str = ""
    route: str = ""


@dataclass(slots=True)
class _Pending:
    tenant: Tenant
    record: AuditRecord
    durable: bool
    done: asyncio.Future[None] | None  # of whoever waits for the commit


class AuditTrail:
    """The trails of all tenants in one process. It belongs to one event loop."""

    def __init__(self, store: AuditStore, options: AuditOptions | None = None) -> None:
        self.store = store
        self._options = options or AuditOptions()
        self._pending: list[_Pending] = []
        self._dropped: Counter[Tenant] = Counter()
        self._urgent = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def pending(self) -> int:
        """Number of events that are not written yet."""
        return len(self._pending)

    @property
    def dropped(self) -> int:
        """Number of events that were dropped and are not told of in the trail yet."""
        return self._dropped.total()

    async def decided(
        self,
        tenant: Tenant,
        decision: Decision,
        request: RequestFacts,
        *,
        keep: Audit | None = None,
        text: str = "",
    ) -> None:
        """Records a decision of the policy. One that changes what a client gets is durable when the call returns.

        Args:
            keep: the policy's section on the trail. Unless it keeps all, decisions that change nothing for the client are left
                out; one in which a detector failed stays. None: everything but the text is kept.
            text: the text that was decided about. It is recorded only where `keep` says so.

        Raises:
            StorageUnavailable: it cannot be written, and the request must not go on without it.
        """
        acted = decision.action in ("redact", "block")
        if keep is not None and keep.decisions == "acted" and not acted and not decision.failed:
            return
        record = decision_record(decision, request, text=text if keep is not None and keep.keep_text else "")
        await self.record(tenant, record, durable=acted)

    async def record(self, tenant: Tenant, record: AuditRecord, *, durable: bool = False) -> None:
        """Records an event.

        Raises:
            StorageUnavailable: a durable one was not written, or too many wait and the options say "block".
        """
        if self._closed:
            raise StorageUnavailable("the audit trail is closed", fix="send the request again a little later")
        if len(self._pending) >= self._options.most_pending:
            if durable or self._options.on_failure == "block":
                raise StorageUnavailable(
                    f"{len(self._pending)} events of the audit trail wait for the database",
                    fix="send the request again when the database is back",
                )
            self._dropped[tenant] += 1
            return
        done: asyncio.Future[None] | None = None
        if durable:
            done = asyncio.get_running_loop().create_future()
        self._pending.append(_Pending(tenant, record, durable, done))
        if self._task is None:
            self._task = asyncio.create_task(self._write_all())
        if durable or len(self._pending) >= _GROUP:
            self._urgent.set()
        if done is not None:
            await done

    async def flush(self) -> None:
        """Writes all that was recorded before the call.

        Raises:
            StorageUnavailable: the database does not answer.
        """
        if self._pending and not self._closed:
            last = self._pending[-1]
            if last.done is None:
                last.done = asyncio.get_running_loop().create_future()
            self._urgent.set()
            await asyncio.shield(last.done)

    async def close(self) -> None:
        """Writes what is pending, and ends. Events that cannot be written are reported in the log."""
        if self._closed:
            return
        self._closed = True
        self._urgent.set()
        if self._task is not None:
            await self._task

    async def _write_all(self) -> None:
        """Writes groups until nothing is pending. The next event then starts it again."""
        while self._pending:
            if not self._closed:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._urgent.wait(), self._options.max_delay_s)
            self._urgent.clear()
            group, self._pending = self._pending[:_GROUP], self._pending[_GROUP:]
            if self._pending or self._closed:
                self._urgent.set()
            try:
                await self._write(group)
            except StorageError as error:
                if not await self._put_back(group, error):
                    break
            except Exception as error:
                _log.exception("events cannot be written to the audit trail")
                self._dropped.update(one.tenant for one in group if not one.durable)
                self._fail(group, error)
            else:
                for one in group:
                    if one.done is not None and not one.done.done():
                        one.done.set_result(None)
        self._task = None

    async def _write(self, group: Sequence[_Pending]) -> None:
        records: dict[Tenant, list[AuditRecord]] = {}
        gaps, self._dropped = self._dropped, Counter()
        for tenant, count in gaps.items():
            records[tenant] = [AuditRecord("gap", now_ms(), {"dropped": count})]
        for one in group:
            records.setdefault(one.tenant, []).append(one.record)
        try:
            await self.store.append_all(records)
        except BaseException:
            self._dropped.update(gaps)
            raise

    async def _put_back(self, group: Sequence[_Pending], error: StorageError) -> bool:
        """Keeps the events that nobody waits for, for the next try. Returns False if there is none any more."""
        self._fail(group, error)
        kept = [one for one in group if not one.durable]
        if self._closed:
            lost = len(kept) + len(self._pending)
            self._fail(self._pending, error)
            self._pending = []
            if lost:
                _log.error("%d events of the audit trail are lost: %s", lost, error)
            return False
        self._pending = kept + self._pending
        await asyncio.sleep(_RETRIED_AFTER_S)
        return True

    @staticmethod
    def _fail(group: Sequence[_Pending], error: Exception) -> None:
        for one in group:
            if one.done is not None and not one.done.done():
                one.done.set_exception(error)
                one.done.exception()  # whoever waited may have left
            one.done = None


def decision_record(decision: Decision, request: RequestFacts, *, text: str = "") -> AuditRecord:
    """Returns the event of a decision: rules and spans of what was found, and the text only if it is given."""
    findings: list[dict[str, Any]] = [
        {
            "rule": finding.rule,
            "category": finding.category,
            "start": finding.start,
            "end": finding.end,
            "score": round(finding.score, 3),
            "view": finding.view,
            "action": action,
        }
        for finding, action in decision.findings[:_MOST_FINDINGS]
    ]
    fields: dict[str, Any] = {
        "layer": decision.layer,
        "action": decision.action,
        "findings": findings,
        "further_findings": max(0, len(decision.findings) - _MOST_FINDINGS) or None,
        "failed": list(decision.failed),
        "policy": decision.policy,
        "key_id": request.key_id,
        "route": request.route or None,
    }
    named = {"request_id": request.request_id}
    # The name of a tuned model has the suffix that a client chose
    (named if request.model.startswith(_TUNED) else fields)["model"] = request.model
    return AuditRecord("decision", now_ms(), fields, request.end_user, text, named)


def now_ms() -> int:
    """Returns the wall clock in milliseconds."""
    return int(shared_time() * 1000)
