"""Metrics of aliases, roll-outs and the loop: what was asked and voted on each side, and how candidates ended.

Requests and votes are counted by this server. How roll-outs ended is told by the ledger, whoever ended them.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from deepwell.server.observe.record import current
from deepwell.storage.aliases import AliasNames
from deepwell.storage.registry.ledger import Entry

if TYPE_CHECKING:
    from deepwell.server.rollouts import RolloutDesk

__all__ = ["Arm", "RolloutMetrics"]

Arm = Literal["current", "candidate", "unserved"]
"""Side of a request. `unserved`: its user is to get the candidate, which is not served here, so the model answered."""

_OUTCOMES: Final = ("promoted", "rolled_back", "aborted", "reverted")
_LOOP: Final = "improve"  # the author of the loop's versions, as the ledger has it


class _Aliases(Protocol):
    @property
    def known(self) -> AliasNames | None: ...


class RolloutMetrics:
    """Counters of this server, and figures that are read when somebody asks for metrics."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "deepwell_alias_requests",
            "Requests that named an alias, by the side of their user: current, candidate, or unserved.",
            ("alias", "arm"),
            registry=registry,
        )
        self._votes = Counter(
            "deepwell_alias_votes",
            "Ratings of answers of an alias, by side and rating; unknown: the rating names no user.",
            ("alias", "arm", "rating"),
            registry=registry,
        )
        self.collector = _Told()
        registry.register(self.collector)

    def asked(self, alias: str, arm: Arm) -> None:
        """Counts a request, once, however often its model is looked up, and notes the side in its record."""
        record = current()
        if record is not None:
            if record.alias:
                return
            record.alias, record.arm = alias, arm
        self._requests.labels(alias, arm).inc()

    def voted(self, alias: str, arm: str, rating: str) -> None:
        """Counts a rating."""
        self._votes.labels(alias, arm, rating).inc()

    def learn(self, entries: Sequence[Entry]) -> None:
        """Learns from the ledger how roll-outs and rounds have ended."""
        self.collector.learn(entries)

    def watch(self, aliases: _Aliases, desk: Callable[[], RolloutDesk | None]) -> None:
        """Names the aliases whose roll-outs are shown, and the desk that knows the loop."""
        self.collector.aliases, self.collector.desk = aliases, desk


class _Told(Collector):
    """Figures that the aliases, the ledger and the state of the loop tell."""

    def __init__(self) -> None:
        self.aliases: _Aliases | None = None
        self.desk: Callable[[], RolloutDesk | None] = lambda: None
        self._ended: Mapping[tuple[str, str], int] = {}
        self._rounds: Mapping[tuple[str, str], int] = {}

    def learn(self, entries: Sequence[Entry]) -> None:
        self._ended = Tally((one.alias, one.event) for one in entries if one.event in _OUTCOMES)
        self._rounds = _rounds(entries)

    def collect(self) -> Iterable[Metric]:
        share = GaugeMetricFamily(
            "deepwell_alias_canary_share",
            "Share of the users of an alias that get a candidate, 0 to 1; there while a roll-out is under way.",
            labels=("alias",),
        )
        known = None if self.aliases is None else self.aliases.known
        for alias, canary in ({} if known is None else known.canaries).items():
            share.add_metric((alias,), canary.share)
        yield share
        yield _counter(
            "deepwell_rollouts",
            "Roll-outs that ended, by outcome, and promotions that were undone.",
            self._ended,
        )
        yield _counter(
            "deepwell_improve_rounds", "Rounds of the loop whose candidate was decided about.", self._rounds
        )
        stage = GaugeMetricFamily(
            "deepwell_improve_stage", "1 for the stage of a round under way.", labels=("alias", "stage")
        )
        desk = self.desk()
        for labels in ({} if desk is None else desk.stages()).items():
            stage.add_metric(labels, 1)
        yield stage


def _counter(name: str, what: str, counts: Mapping[tuple[str, str], int]) -> CounterMetricFamily:
    counter = CounterMetricFamily(name, what, labels=("alias", "outcome"))
    for labels, count in sorted(counts.items()):
        counter.add_metric(labels, count)
    return counter


def _rounds(entries: Sequence[Entry]) -> Mapping[tuple[str, str], int]:
    """Counts how candidates of the loop ended: refused by gates, or as their last roll-out did."""
    mine: dict[Any, str] = {}
    rollouts: dict[Any, Any] = {}
    outcomes: dict[Any, str] = {}
    for one in entries:
        told = one.fields
        if one.event == "version" and one.by == _LOOP:
            mine[told.get("version")] = one.alias
        elif one.event == "gates" and told.get("version") in mine:
            report = told.get("report")
            passed = isinstance(report, dict) and report.get("passed") is True  # pyright: ignore[reportUnknownMemberType]
            if passed:
                outcomes.pop(told["version"], None)
            else:
                outcomes[told["version"]] = "refused"
        elif one.event == "canary":
            rollouts[told.get("rollout")] = told.get("version")
        elif one.event in ("promoted", "rolled_back", "aborted"):
            version = rollouts.get(told.get("rollout"))
            if version in mine:
                outcomes[version] = one.event
    return Tally((mine[version], outcome) for version, outcome in outcomes.items())
