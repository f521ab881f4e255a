"""`Decisions`: the policy's decision about one text, read now or before, with its metrics and its entry in the audit trail."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Final

from deepwell.errors import InvalidRequest
from deepwell.safety.audit.trail import AuditTrail, RequestFacts
from deepwell.safety.findings import Decision, Finding, Layer
from deepwell.safety.foreign import foreign
from deepwell.safety.guard import Guard
from deepwell.safety.policy import Policy
from deepwell.server.guarding.in_force import InForce, PolicyWatch
from deepwell.server.observe.metrics import Metrics
from deepwell.server.observe.record import Phase, current
from deepwell.server.options import GuardOptions
from deepwell.storage.database import Tenant

__all__ = ["INLINE", "Decisions"]

INLINE: Final = 8192
"""Characters that are read on the event loop; more are read in a thread."""

_in_time = asyncio.wait_for
_KNOWN: Final = 4096  # texts whose decisions are kept
_FEW: Final = 100  # findings of a decision that is kept: a text of 2 MB may have 300,000
_THREADS: Final = 2  # that read long texts


class Decisions:
    """Decides about texts. It belongs to one event loop.

    Texts that were read before are known by their digest, so that a long conversation is not read again.
    """

    def __init__(self, options: GuardOptions, metrics: Metrics, guard: Guard | None = None) -> None:
        self._options = options
        self._metrics = metrics
        self._watch = PolicyWatch(options, guard)
        self._threads = ThreadPoolExecutor(_THREADS, "guard")
        self.known: OrderedDict[tuple[str, Layer, str, bytes], Decision] = OrderedDict()
        self.audit: AuditTrail | None = None

    @property
    def guard(self) -> Guard:
        """The guard in force."""
        return self._watch.now.guard

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self.guard.policy

    @property
    def outside(self) -> bool:
        """True if a service outside reads answers."""
        return self._watch.now.services.wanted("output")

    async def close(self) -> None:
        """Closes the connections to services. Texts that are being read in threads are read to their end."""
        await self._watch.close()
        self._threads.shutdown(wait=False)

    def admit(self, characters: int, param: str) -> None:
        """Checks the length of what a request gives to read, before anything is read.

        Raises:
            InvalidRequest: it has more characters than the policy allows.
        """
        most = self.policy.max_characters
        if characters > most:
            raise InvalidRequest.of("guard_text_long", count=characters, most=most, param=param)

    async def decide(self, text: str, layer: Layer, tenant: str) -> Decision:
        """Returns the decision about a text, read now or before, and notes it."""
        force = await self._watch.current()
        begin = time.perf_counter()
        # What another tenant's text cost would tell whether it was this one.
        key = (
            force.guard.hash,
            layer,
            tenant,
            hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest(),
        )
        decision = self.known.get(key)
        if decision is None:
            decision = await self._read(force, text, layer, tenant)
            if not decision.failed and len(decision.findings) <= _FEW:
                self.known[key] = decision
                if len(self.known) > _KNOWN:
                    self.known.popitem(last=False)
            self._metrics.guard.read_seconds.labels(layer).observe(time.perf_counter() - begin)
            if (record := current()) is not None:
                attributes = {"layer": layer, "action": decision.action}
                record.phases.append(Phase("guard", begin, time.perf_counter(), attributes))
        else:
            self.known.move_to_end(key)
        await self.note(decision, text, tenant, key)
        return decision

    async def read(self, text: str, layer: Layer, tenant: str) -> Decision:
        """Returns the decision about a text that is read now. It is not noted."""
        return await self._read(self._watch.now, text, layer, tenant)

    async def note(self, decision: Decision, text: str, tenant: str, key: object = None) -> None:
        """Counts a decision and reports it to the audit trail, once for each request, even for a text that was read before.

        Args:
            key: names the text, if the request may read it twice.
        """
        record, facts = current(), RequestFacts()
        if record is not None and key is not None:
            noted = record.noted = record.noted or set()
            if key in noted:
                return
            noted.add(key)
        self._metrics.guard.decided(decision)
        if self.audit is None:
            return
        if record is not None:
            facts = RequestFacts(
                record.request_id, record.key_id, record.model, record.end_user, record.route
            )
        await self.audit.decided(Tenant(tenant), decision, facts, keep=self.policy.audit, text=text)

    async def _read(self, force: InForce, text: str, layer: Layer, tenant: str) -> Decision:
        guard, services = force.guard, force.services
        decision = await self._read_here(guard, text, layer, tenant)
        if decision.action == "block" or not services.wanted(layer):
            return decision
        asked = text if layer == "output" else foreign(text).text
        if text.strip() and not asked.strip():
            return decision
        async with force.used():
            answer = await services.check(asked, layer)
        if answer.findings or answer.failed:
            findings: Sequence[Finding] = [*(finding for finding, _ in decision.findings), *answer.findings]
            decision = guard.decide(findings, layer, tenant, (*decision.failed, *answer.failed))
        # What passed because a service did not answer is told in the trail, and is asked about again the next time.
        return replace(decision, failed=(*decision.failed, *answer.passed_over))

    async def _read_here(self, guard: Guard, text: str, layer: Layer, tenant: str) -> Decision:
        if len(text) > guard.policy.max_characters:
            return guard.failure(layer, tenant, "length")
        if len(text) <= INLINE:
            await asyncio.sleep(
                0
            )  # a request may have thousands of short texts, and others wait for the loop
            return guard.check(text, layer, tenant)
        try:
            return await _in_time(self._read_apart(guard, text, layer, tenant), self._options.timeout_s)
        except TimeoutError:
            return guard.failure(layer, tenant, "timeout")

    async def _read_apart(self, guard: Guard, text: str, layer: Layer, tenant: str) -> Decision:
        """Reads a long text in a thread of the guard's own. One that takes too long delays long texts alone."""
        until = time.monotonic() + self._options.timeout_s
        check = partial(guard.check, text, layer, tenant, until)
        return await asyncio.get_running_loop().run_in_executor(self._threads, check)
