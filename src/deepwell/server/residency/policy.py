"""`Residency`: which models are in memory, who uses them, and which are loaded and unloaded next.

It runs no model and reads no clock. Every event returns the orders that its owner carries out, so that the policy can be
tested without engines and without time.

Loads are served in the order in which models were first asked for. A model with leases is never unloaded. If the first
load in the queue lacks room for longer than `patience_s`, the models that must give way for it take no new leases until it
has its room, so that a busy model cannot keep another one out for ever.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from deepwell.errors import DeepwellError, InsufficientMemory

__all__ = [
    "Grant",
    "Load",
    "ModelBusy",
    "NotLoadedInTime",
    "Order",
    "Refuse",
    "Residency",
    "Resident",
    "State",
    "TooManyLoads",
    "Unload",
    "Waiter",
]

State = Literal["absent", "loading", "ready", "unloading"]
_RATE_WINDOW_S: Final = 60.0


class NotLoadedInTime(DeepwellError):
    """Raised when a model could not be loaded before its request's deadline."""

    status = 503
    code = "model_not_loaded"


class TooManyLoads(DeepwellError):
    """Raised when a tenant's requests cause more loads than it may."""

    status = 429
    type = "rate_limit_error"
    code = "model_load_limit"


class ModelBusy(DeepwellError):
    """Raised when a model that has requests is to be unloaded."""

    status = 409
    type = "invalid_request_error"
    code = "model_busy"


@dataclass(frozen=True, slots=True)
class Waiter:
    """A request for a lease. `holder` is the user of the model that gets it; `number` tells its requests apart."""

    holder: Hashable
    number: int
    name: str
    tenant: str
    deadline: float  # in the clock's seconds; infinite: none


@dataclass(frozen=True, slots=True)
class Load:
    """Order: start the engine of a model."""

    name: str


@dataclass(frozen=True, slots=True)
class Unload:
    """Order: stop the engine of a model."""

    name: str


@dataclass(frozen=True, slots=True)
class Grant:
    """Order: tell a waiter that it has its lease."""

    waiter: Waiter


@dataclass(frozen=True, slots=True)
class Refuse:
    """Order: tell a waiter that it gets no lease."""

    waiter: Waiter
    error: DeepwellError


Order: TypeAlias = Load | Unload | Grant | Refuse


@dataclass(frozen=True, slots=True)
class Resident:
    """A model that takes room, as others see it."""

    name: str
    state: State
    size_bytes: int
    holders: int
    waiting: int
    expires_in_s: float  # infinite: it stays while there is room
    gives_way: bool = False  # it takes no new leases, because another model waits for its room


@dataclass(slots=True, eq=False)
class _Entry:
    """The state of one model."""

    name: str
    size_bytes: int
    state: State = "absent"
    holders: set[Hashable] = field(default_factory=set[Hashable])
    waiting: dict[Waiter, float] = field(default_factory=dict[Waiter, float])  # since when
    last_used: float = 0.0

    @property
    def takes_room(self) -> bool:
        return self.state != "absent"

    @property
    def is_idle(self) -> bool:
        return self.state == "ready" and not self.holders and not self.waiting


class Residency:
    """The models that share a budget of memory.

    Args:
        budget_bytes: memory for all of them together.
        keep_alive_s: time that a model without leases stays; negative: until its room is needed.
        patience_s: time that the first load in the queue waits for room before others give way.
        loads_per_minute: loads that a tenant may cause; 0: any number.
    """

    def __init__(
        self,
        budget_bytes: int,
        *,
        keep_alive_s: float = 300.0,
        patience_s: float = 2.0,
        loads_per_minute: int = 0,
    ) -> None:
        self.budget_bytes = budget_bytes
        self._keep_alive_s = keep_alive_s if keep_alive_s >= 0 else math.inf
        self._patience_s = patience_s
        self._loads_per_minute = loads_per_minute
        self._entries: dict[str, _Entry] = {}
        self._caused: dict[str, deque[float]] = {}  # times of the loads that a tenant caused
        self._blocked = ""  # the first model in the queue, if it lacks room
        self._giving_way: set[str] = set()  # models that take no new leases, for the room of that one

    # Events

    def acquire(self, waiter: Waiter, size_bytes: int, now: float) -> list[Order]:
        """Asks for a lease on a model that needs `size_bytes` once it is loaded. A grant or a refusal follows, now or later."""
        entry = self._entries.get(waiter.name)
        if entry is None:
            entry = self._entries[waiter.name] = _Entry(waiter.name, size_bytes)
        if entry.state == "absent":
            entry.size_bytes = size_bytes
        if entry.state in ("absent", "unloading") and not entry.waiting:
            error = self._never_fits(entry) or self._charge(waiter.tenant, now)
            if error is not None:
                return [Refuse(waiter, error)]
        entry.waiting[waiter] = now
        return self._advance(now)

    def release(self, holder: Hashable, name: str, now: float) -> list[Order]:
        """Ends the lease of a holder on a model, and its wait for one."""
        entry = self._entries.get(name)
        if entry is None:
            return []
        self._let_go(entry, holder, now)
        return self._advance(now)

    def drop(self, holder: Hashable, now: float) -> list[Order]:
        """Ends all leases and waits of a holder that is gone."""
        for entry in self._entries.values():
            self._let_go(entry, holder, now)
        return self._advance(now)

    def loaded(self, name: str, now: float) -> list[Order]:
        """Notes that a model's engine is ready."""
        entry = self._entries[name]
        entry.state, entry.last_used = "ready", now
        granted = self._grant(entry, now)  # first: it was loaded for them
        return granted + self._advance(now)

    def failed(self, name: str, error: DeepwellError, now: float) -> list[Order]:
        """Notes that a model could not be loaded. Everybody who waits for it is told why."""
        entry = self._entries[name]
        entry.state = "absent"
        refused: list[Order] = [Refuse(waiter, error) for waiter in entry.waiting]
        entry.waiting.clear()
        return refused + self._advance(now)

    def unloaded(self, name: str, now: float) -> list[Order]:
        """Notes that a model's engine has ended."""
        self._entries[name].state = "absent"
        return self._advance(now)

    def tick(self, now: float) -> list[Order]:
        """Notes the time: waits end at their deadlines, and idle models after their keep-alive."""
        orders: list[Order] = []
        for entry in self._entries.values():
            late = [waiter for waiter in entry.waiting if waiter.deadline <= now]
            if late:
                error = self._too_late(entry)
                for waiter in late:
                    del entry.waiting[waiter]
                    orders.append(Refuse(waiter, error))
        for entry in self._entries.values():
            if entry.is_idle and now - entry.last_used >= self._keep_alive_s:
                entry.state = "unloading"
                orders.append(Unload(entry.name))
        return orders + self._advance(now)

    def unload(self, name: str, now: float) -> list[Order]:
        """Unloads a model that nobody uses.

        Raises:
            ModelBusy: it has leases or waiters, or is being loaded.
        """
        entry = self._entries.get(name)
        if entry is None or entry.state in ("absent", "unloading"):
            return []
        if not entry.is_idle:
            raise ModelBusy(
                f"{name!r} is being {'loaded' if entry.state == 'loading' else 'used'}",
                fix="unload it when its requests have ended",
                param="model",
            )
        entry.state = "unloading"
        return [Unload(name), *self._advance(now)]

    # State

    def residents(self, now: float) -> list[Resident]:
        """Returns the models that take room, in the order in which they were first asked for."""
        return [
            Resident(
                entry.name,
                entry.state,
                entry.size_bytes,
                len(entry.holders),
                len(entry.waiting),
                math.inf if not entry.is_idle else max(0.0, entry.last_used + self._keep_alive_s - now),
                self._gives_way(entry),
            )
            for entry in self._entries.values()
            if entry.takes_room
        ]

    @property
    def used_bytes(self) -> int:
        """Memory of the models that are loaded, being loaded or being unloaded."""
        return sum(entry.size_bytes for entry in self._entries.values() if entry.takes_room)

    def next_tick(self, now: float) -> float:
        """Returns the time at which `tick` has something to do; infinite: not before another event."""
        times = [waiter.deadline for entry in self._entries.values() for waiter in entry.waiting]
        times += [e.last_used + self._keep_alive_s for e in self._entries.values() if e.is_idle]
        if (first := next(self._queue(), None)) is not None:
            patient_until = min(first.waiting.values()) + self._patience_s
            if patient_until > now:
                times.append(patient_until)
        return min(times, default=math.inf)

    # The next loads

    def _queue(self) -> Iterator[_Entry]:
        """Yields the models that wait to be loaded, the one asked for first in front."""
        waiting = [
            one for one in self._entries.values() if one.waiting and one.state in ("absent", "unloading")
        ]
        yield from sorted(waiting, key=lambda one: min(one.waiting.values()))

    def _advance(self, now: float) -> list[Order]:
        """Orders the loads and unloads that are possible, and grants the leases on loaded models."""
        orders: list[Order] = []
        blocked = ""
        for entry in self._queue():
            if entry.state == "unloading":
                break  # its own engine must end first, and the loads behind it keep their places
            if self.used_bytes + entry.size_bytes > self.budget_bytes:
                blocked = entry.name
                orders += self._make_room(entry, now)
                break
            entry.state = "loading"
            orders.append(Load(entry.name))
        if blocked != self._blocked:
            self._blocked = blocked
            self._giving_way.clear()
        for entry in self._entries.values():
            if entry.state == "ready" and entry.name not in self._giving_way:
                orders += self._grant(entry, now)
        return orders

    def _grant(self, entry: _Entry, now: float) -> list[Order]:
        granted: list[Order] = [Grant(waiter) for waiter in entry.waiting]
        if granted:
            entry.holders.update(waiter.holder for waiter in entry.waiting)
            entry.waiting.clear()
            entry.last_used = now
        return granted

    def _make_room(self, wanted: _Entry, now: float) -> list[Order]:
        """Unloads models that nobody uses, the least recently used first; chooses others to give way after a while."""
        if wanted.name != self._blocked:
            self._blocked = wanted.name
            self._giving_way.clear()
        others = self._entries.values()
        lacking = self.used_bytes + wanted.size_bytes - self.budget_bytes
        lacking -= sum(one.size_bytes for one in others if one.state == "unloading" or self._gives_way(one))
        if lacking > 0:
            ready = sorted((one for one in others if one.state == "ready"), key=lambda one: one.last_used)
            impatient = now - min(wanted.waiting.values()) >= self._patience_s
            chosen = [one for one in ready if one.is_idle]
            if impatient:
                chosen += [one for one in ready if not one.is_idle and not self._gives_way(one)]
            for one in chosen:
                if lacking <= 0:
                    break
                self._giving_way.add(one.name)
                lacking -= one.size_bytes
        orders: list[Order] = []
        for one in others:
            if self._gives_way(one) and not one.holders:
                one.state = "unloading"
                self._giving_way.discard(one.name)
                orders.append(Unload(one.name))
        return orders

    def _gives_way(self, entry: _Entry) -> bool:
        return entry.state == "ready" and entry.name in self._giving_way

    def _let_go(self, entry: _Entry, holder: Hashable, now: float) -> None:
        if holder in entry.holders:
            entry.holders.remove(holder)
            entry.last_used = now
        for waiter in [one for one in entry.waiting if one.holder == holder]:
            del entry.waiting[waiter]

    # Refusals

    def _never_fits(self, entry: _Entry) -> DeepwellError | None:
        if entry.size_bytes <= self.budget_bytes:
            return None
        return InsufficientMemory.of(
            "model_exceeds_on_demand",
            param="model",
            name=entry.name,
            need=_mb(entry.size_bytes),
            budget=_mb(self.budget_bytes),
        )

    def _charge(self, tenant: str, now: float) -> DeepwellError | None:
        """Counts a load that a tenant causes, unless it has caused too many."""
        if not self._loads_per_minute:
            return None
        times = self._caused.setdefault(tenant, deque())
        while times and now - times[0] >= _RATE_WINDOW_S:
            times.popleft()
        if len(times) < self._loads_per_minute:
            times.append(now)
            return None
        error = TooManyLoads(
            f"your requests have loaded {len(times)} models in the last minute, as many as are allowed",
            fix="use a model that is loaded (GET /v1/models), or send the request again later",
            param="model",
        )
        error.retry_after = max(1, math.ceil(times[0] + _RATE_WINDOW_S - now))
        return error

    def _too_late(self, entry: _Entry) -> DeepwellError:
        if entry.state == "loading":
            error = NotLoadedInTime(
                f"{entry.name!r} is still being loaded", fix="send the request again", param="model"
            )
            error.retry_after = 1
            return error
        others = [one for one in self._entries.values() if one.takes_room]
        held = ", ".join(f"{one.name!r} {_mb(one.size_bytes)}, {_use_of(one)}" for one in others)
        error = NotLoadedInTime(
            f"there is no room for {entry.name!r} ({_mb(entry.size_bytes)}): of {_mb(self.budget_bytes)} "
            f"for models on demand, {held or 'all is waited for by others'}",
            fix="send the request again later, or give them more memory: DEEPWELL_MODELS_MEMORY_MB",
            param="model",
        )
        error.retry_after = 5
        return error


def _use_of(entry: _Entry) -> str:
    if entry.state == "ready":
        return "in use" if entry.holders else "about to be used" if entry.waiting else "idle"
    return entry.state


def _mb(count: int) -> str:
    return f"{count / 1e6:.0f} MB"
