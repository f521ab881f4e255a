"""The analysis of a step: figures of the candidate's replicas against those of the current release. Pure, but for the parser.

A figure fails its gate only if it is worse than the bound beyond chance (95 %, one-sided), so that one failed or slow request
among few aborts nothing, and a version that fails or delays every request is aborted within a handful.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from deepwell.errors import DeepwellError
from deepwell.fleet.deploy.declaration import Gates
from deepwell.fleet.front.routes import GENERATING
from deepwell.server.observe.semconv import (
    REQUEST_DURATION,
    TIME_TO_FIRST_TOKEN,
    Attribute,
    prometheus_label,
    prometheus_name,
)

__all__ = [
    "Counted",
    "Figures",
    "GateFinding",
    "above",
    "judge_gates",
    "lower_bound",
    "parse_figures",
    "quantile",
]

_Z: Final = 1.645  # one-sided 95 %
_QUANTILE: Final = 0.95  # of the time to the first token
_DURATION: Final = prometheus_name(*REQUEST_DURATION[:2])
_FIRST: Final = prometheus_name(*TIME_TO_FIRST_TOKEN[:2])
_ERROR: Final = prometheus_label(Attribute.ERROR_TYPE)
_DECISIONS: Final = "deepwell_guard_decisions"
_ANSWERED: Final = "deepwell_requests"
_COUNTERS: Final = (f"{_DURATION}_count", f"{_ANSWERED}_total", f"{_DECISIONS}_total", f"{_FIRST}_bucket")
# Keys, time-outs, limits, and clients that left: nothing that a version changes
_OF_CLIENTS_ALONE: Final = ("401", "403", "408", "429", "499")


@dataclass(frozen=True, slots=True)
class Figures:
    """Counts since some time.

    Attributes:
        requests: answers to requests that generate; `failed`: those that ended with an error of the server.
        asked: requests for an answer of the model, those among them that began none; `refused`: those that were answered with
            a status of 400 to 499. Errors of keys, of limits and of clients that left are not among them: no version causes
            them.
        answers: answers that the front passed on, of any kind; `broken`: those with a status of 500 or more.
        guarded: decisions of the guard other than to let through.
        first_token: counts of times to the first token, by upper bound in seconds, each bound for itself.
    """

    requests: float = 0
    failed: float = 0
    answers: float = 0
    broken: float = 0
    guarded: float = 0
    first_token: Mapping[float, float] = field(default_factory=dict[float, float])
    asked: float = 0
    refused: float = 0

    def __add__(self, other: Figures) -> Figures:
        bounds = {*self.first_token, *other.first_token}
        return Figures(
            self.requests + other.requests,
            self.failed + other.failed,
            self.answers + other.answers,
            self.broken + other.broken,
            self.guarded + other.guarded,
            {one: self.first_token.get(one, 0) + other.first_token.get(one, 0) for one in bounds},
            self.asked + other.asked,
            self.refused + other.refused,
        )

    def since(self, before: Figures) -> Figures:
        """Returns what was added since; a process that was started again counts from nothing."""
        now, then = ((one.requests, one.asked, one.answers) for one in (self, before))
        if any(early > late for early, late in zip(then, now, strict=True)):
            return self
        return Figures(
            self.requests - before.requests,
            self.failed - before.failed,
            self.answers - before.answers,
            self.broken - before.broken,
            self.guarded - before.guarded,
            {bound: count - before.first_token.get(bound, 0) for bound, count in self.first_token.items()},
            self.asked - before.asked,
            self.refused - before.refused,
        )

    @property
    def seen(self) -> float:
        """Requests, by whoever saw the most of them."""
        return max(self.requests, self.asked, self.answers)

    @property
    def error_rate(self) -> tuple[float, float]:
        """Failed requests and all, by whoever saw the larger part fail: the replicas or the front."""
        seen = [(self.failed, self.requests), (self.broken, self.answers)]
        return max(seen, key=lambda one: one[0] / one[1] if one[1] else 0.0)

    @property
    def first_token_p95_ms(self) -> float | None:
        """95th percentile of the time to the first token; None: there was none."""
        found = quantile(self.first_token, _QUANTILE)
        return None if found is None else 1000 * found


class Counted:
    """Figures of one side, added up over processes that come and go."""

    def __init__(self) -> None:
        self._last: dict[str, Figures] = {}
        self.total = Figures()

    def see(self, who: str, now: Figures) -> None:
        """Takes the counters of a process as they are now. What it had counted when it was first seen does not count."""
        before = self._last.get(who)
        if before is not None:
            self.total += now.since(before)
        self._last[who] = now


@dataclass(frozen=True, slots=True)
class GateFinding:
    """The finding of one gate. `bound` is the largest difference that it lets pass."""

    name: str
    current: float | None
    candidate: float | None
    bound: float
    holds: bool

    @property
    def words(self) -> str:
        """Returns it in words."""
        if self.candidate is None:
            return f"{self.name}: the candidate has no figure yet"
        unit, scale = (" ms", 1.0) if self.name.endswith("_ms") else (" %", 100.0)
        named = self.name.removesuffix("_ms").replace("_", " ")
        before = "nothing" if self.current is None else f"{scale * self.current:.3g}{unit}"
        said = f"{named} {scale * self.candidate:.3g}{unit} against {before}"
        return said if self.holds else f"{said}, more than {scale * self.bound:.3g}{unit} above"

    def facts(self) -> dict[str, Any]:
        """Returns it for the ledger."""
        return {
            "current": None if self.current is None else round(self.current, 6),
            "candidate": None if self.candidate is None else round(self.candidate, 6),
            "bound": self.bound,
            "holds": self.holds,
        }


def judge_gates(gates: Gates, current: Figures, candidate: Figures) -> list[GateFinding]:
    """Returns what the gates that are declared say."""
    found: list[GateFinding] = []
    if gates.error_rate is not None:
        found.append(_rate("error_rate", gates.error_rate, current.error_rate, candidate.error_rate))
    if gates.refusal_rate is not None:
        sides = [(one.refused, one.asked) for one in (current, candidate)]
        found.append(_rate("refusal_rate", gates.refusal_rate, *sides))
    if gates.guard_rate is not None:
        sides = [(one.guarded, max(one.requests, one.answers)) for one in (current, candidate)]
        found.append(_rate("guard_rate", gates.guard_rate, *sides))
    if gates.first_token_p95_ms is not None:
        before, now = current.first_token_p95_ms, candidate.first_token_p95_ms
        worse = before is not None and now is not None and now - before > gates.first_token_p95_ms
        if worse and before is not None:  # of few requests the slowest alone is the quantile
            late = above(candidate.first_token, (before + gates.first_token_p95_ms) / 1000)
            worse = lower_bound(late, sum(candidate.first_token.values())) > 1 - _QUANTILE
        found.append(GateFinding("first_token_p95_ms", before, now, gates.first_token_p95_ms, not worse))
    return found


def _rate(
    name: str, bound: float, current: tuple[float, float], candidate: tuple[float, float]
) -> GateFinding:
    before = current[0] / current[1] if current[1] else None
    now = candidate[0] / candidate[1] if candidate[1] else None
    holds = now is None or lower_bound(*candidate) - (before or 0.0) <= bound
    return GateFinding(name, before, now, bound, holds)


def lower_bound(count: float, total: float) -> float:
    """Returns the lower end of Wilson's one-sided 95 % interval of a rate."""
    if total <= 0:
        return 0.0
    rate = min(count / total, 1.0)
    centre = rate + _Z**2 / (2 * total)
    spread = _Z * math.sqrt(rate * (1 - rate) / total + _Z**2 / (4 * total**2))
    return max(0.0, (centre - spread) / (1 + _Z**2 / total))


def quantile(counts: Mapping[float, float], share: float) -> float | None:
    """Returns a quantile of a histogram, between the bounds of its bucket in proportion; None: it is empty.

    Args:
        counts: counts by upper bound, each bound for itself; the last may be infinite, and stands for the bound before it.
    """
    total = sum(counts.values())
    if total <= 0:
        return None
    wanted, below, low = share * total, 0.0, 0.0
    for bound in sorted(counts):
        if below + counts[bound] >= wanted and counts[bound]:
            if math.isinf(bound):
                return low
            return low + (bound - low) * (wanted - below) / counts[bound]
        below += counts[bound]
        low = bound if not math.isinf(bound) else low
    return low


def above(counts: Mapping[float, float], value: float) -> float:
    """Returns how many counts of a histogram lie above a value; of the value's own bucket, a part in proportion."""
    found, low = 0.0, 0.0
    for bound in sorted(counts):
        if low >= value or math.isinf(bound):
            found += counts[bound]
        elif bound > value:
            found += counts[bound] * (bound - value) / (bound - low)
        low = bound
    return found


def parse_figures(text: str) -> Figures:
    """Returns the figures that a replica's metrics tell.

    Raises:
        ValueError: they are no metrics.
    """
    from prometheus_client.parser import text_string_to_metric_families

    requests = failed = asked = refused = guarded = 0.0
    clients = _of_clients(DeepwellError) | {"", "cancelled"}
    cumulated: dict[tuple[tuple[str, str], ...], dict[float, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if not 0 <= sample.value < math.inf:  # which no counter is, and what compares with nothing
                if sample.name in _COUNTERS:
                    raise ValueError(f"{sample.name} is {sample.value}")
                continue
            if sample.name == f"{_DURATION}_count":
                requests += sample.value
                failed += 0 if sample.labels.get(_ERROR, "") in clients else sample.value
            elif sample.name == f"{_ANSWERED}_total" and sample.labels.get("route") in GENERATING:
                asked += sample.value
                refused += sample.value if _refuses(sample.labels.get("status", "")) else 0
            elif sample.name == f"{_DECISIONS}_total" and sample.labels.get("action") != "allow":
                guarded += sample.value
            elif sample.name == f"{_FIRST}_bucket":
                labels = tuple(sorted((name, one) for name, one in sample.labels.items() if name != "le"))
                cumulated.setdefault(labels, {})[_bound(sample.labels.get("le", ""))] = sample.value
    first_token = _apart(cumulated.values())
    return Figures(requests, failed, guarded=guarded, first_token=first_token, asked=asked, refused=refused)


def _refuses(status: str) -> bool:
    return status.startswith("4") and status not in _OF_CLIENTS_ALONE


def _bound(text: str) -> float:
    if math.isnan(bound := float(text)):
        raise ValueError("a bucket has no bound")
    return bound


def _of_clients(kind: type[DeepwellError]) -> set[str]:
    """Returns the error types, as metrics name them, that a client has brought about by what it asked."""
    found = {kind.code or kind.__name__} if kind.status < 500 else set[str]()
    return found.union(*map(_of_clients, kind.__subclasses__()))


def _apart(histograms: Iterable[Mapping[float, float]]) -> dict[float, float]:
    """Returns the sum of histograms whose buckets count everything below their bound, with each bucket for itself."""
    found: dict[float, float] = {}
    for one in histograms:
        below = 0.0
        bounds: Sequence[float] = sorted(one)
        for bound in bounds:
            found[bound] = found.get(bound, 0.0) + one[bound] - below
            below = one[bound]
    return found
