"""`ContextMetrics`: what became of the tokens of prompts, by policy and fate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram

from deepwell.server.observe.record import current

if TYPE_CHECKING:
    from deepwell.knowledge.context.fitting.ledger import Ledger

__all__ = ["ContextMetrics", "context_headers", "note_ledger"]

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
_TRAIN_SECONDS = (3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 1000.0)


class ContextMetrics:
    """Counters of prompts and their tokens, and the time that fitting takes."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.prompts = Counter(
            "deepwell_context_prompts",
            "Prompts by the policy of their request and what was done to fit them into the context.",
            ("policy", "mechanism"),
            registry=registry,
        )
        self.tokens = Counter(
            "deepwell_context_tokens",
            "Tokens of prompts by policy and fate: kept, compressed, recalled, dropped, forgotten, added.",
            ("policy", "fate"),
            registry=registry,
        )
        self.seconds = Histogram(
            "deepwell_context_fit_seconds",
            "Time in which a conversation was fitted into the context.",
            ("mechanism",),
            buckets=_SECONDS,
            registry=registry,
        )

        self.adapters = Counter(
            "deepwell_context_adapters",
            "Prompts under the policy adapter that did not fit, by the state of the conversation's adapter.",
            ("state",),
            registry=registry,
        )
        self.adapter_seconds = Histogram(
            "deepwell_context_adapter_seconds",
            "Time in which an adapter was trained on a conversation.",
            buckets=_TRAIN_SECONDS,
            registry=registry,
        )

    def count(self, ledger: Ledger) -> None:
        """Counts a prompt."""
        self.prompts.labels(ledger.policy, ledger.mechanism).inc()
        for fate, count in ledger.totals().items():
            if count > 0:  # seams may join tokens, and a counter only rises
                self.tokens.labels(ledger.policy, fate).inc(count)


def note_ledger(ledger: Ledger, metrics: ContextMetrics) -> None:
    """Enters a ledger into the record of the current request, whose headers it becomes, and into the metrics."""
    metrics.count(ledger)
    if (record := current()) is not None:
        record.ledger = ledger


def context_headers(ledger: Ledger) -> list[tuple[bytes, bytes]]:
    """Returns the headers that tell what became of the tokens of a request's prompt."""
    words = {
        "policy": ledger.policy,
        "mechanism": ledger.mechanism,
        "tokens-original": ledger.original_tokens,
        "tokens-prompt": ledger.prompt_tokens,
        **{f"tokens-{name}": count for name, count in ledger.totals().items()},
    }
    if ledger.adapter is not None:
        words["adapter"] = ledger.adapter
    return [(f"x-context-{name}".encode(), str(value).encode()) for name, value in words.items()]
