"""Delay of the first token by the guard: two servers side by side, one with the policy strict and one without a guard."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import httpx

from deepwell.cli.bench.report import Report, rounded
from deepwell_bench.harness.environments import PeerError
from deepwell_bench.harness.pairs import SETTLE_SECONDS, bootstrap_median
from deepwell_bench.harness.served import serve_command, served
from deepwell_bench.suites.safety.timing import texts_of

__all__ = ["bench_first_token"]

_POLICY: Final = "strict"
_SOURCES: Final = ("help, English", "manuals, English")
_BYTES: Final = {"short": 200, "long": 2048}
_WARM: Final = 6
_TOKENS: Final = 8
_PATIENCE_S: Final = 120.0


def bench_first_token(report: Report, model: Path, *, pairs: int = 100) -> dict[str, Any]:
    """Returns what the guard adds to the time to the first token, in milliseconds: the median over pairs of requests.

    Both servers answer the same text once, in alternating order, so that neither the prefix cache nor a decision that is kept
    helps. A short text has 200 bytes, a long one 2 kB.

    Raises:
        PeerError: a server does not start, or an answer has no token.
    """
    value: dict[str, Any] = {"pairs": pairs, "policy": _POLICY}
    rows: list[tuple[str, ...]] = []
    if os.environ.get("DEEPWELL_GUARD"):
        raise PeerError("DEEPWELL_GUARD is set, and both servers would have a guard: unset it")
    with _side(model, _POLICY) as guarded, _side(model, None) as plain:
        for name, size in _BYTES.items():
            texts = _texts(size, 2 * (pairs + _WARM))
            refused = 0
            for text in texts[:_WARM]:
                guarded.first(text)
                plain.first(text)
            found: list[tuple[float, float]] = []
            for number, text in enumerate(texts[_WARM:]):
                if len(found) == pairs:
                    break
                times: dict[str, float | None] = {}
                order = {"guarded": guarded, "plain": plain}
                for name_of in order if number % 2 else reversed(order):
                    time.sleep(SETTLE_SECONDS)
                    times[name_of] = order[name_of].first(text)
                if (ours := times["guarded"]) is None or (theirs := times["plain"]) is None:
                    refused += 1
                    continue
                found.append((ours, theirs))
            added = bootstrap_median([ours - theirs for ours, theirs in found])
            value |= {
                f"refused_{name}": refused,
                f"added_{name}_ms": rounded(added.median, 3),
                f"added_{name}_low_ms": rounded(added.low, 3),
                f"added_{name}_high_ms": rounded(added.high, 3),
                f"plain_{name}_ms": rounded(median(theirs for _, theirs in found), 3),
            }
            rows.append(
                (
                    f"{size} bytes",
                    f"{median(ours for ours, _ in found):.2f}",
                    f"{median(theirs for _, theirs in found):.2f}",
                    f"{added.median:.2f}",
                    f"{added.low:.2f} to {added.high:.2f}",
                )
            )
    report.table(
        f"First token, ms, medians of {pairs} pairs, policy {_POLICY}",
        ("text", "with the guard", "without", "added", "95 % of it"),
        rows,
    )
    return value


@dataclass(frozen=True, slots=True)
class _Side:
    """A server, and the name of its model."""

    client: httpx.Client
    model: str

    def first(self, text: str) -> float | None:
        """Returns the milliseconds until the first token of an answer; None: the guard refused the text, or its answer.

        A token that the guard holds back has not come.

        Raises:
            PeerError: the answer has none.
        """
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": _TOKENS,
            "temperature": 0,
            "stream": True,
        }
        took = 0.0
        begun = time.perf_counter()
        with self.client.stream("POST", "/v1/chat/completions", json=body) as response:
            for line in response.iter_lines():
                if not took and _content(line):
                    took = 1e3 * (time.perf_counter() - begun)
                if '"content_filter"' in line:
                    return None
        if not took:
            raise PeerError(f"no token came for: {text[:80]}")
        return took


@contextlib.contextmanager
def _side(model: Path, policy: str | None) -> Generator[_Side]:
    def command(port: int) -> list[str]:
        return [*serve_command(model)(port), *(["--guard", policy] if policy else [])]

    with (
        served(command) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=_PATIENCE_S) as client,
    ):
        yield _Side(client, client.get("/v1/models").json()["data"][0]["id"])


def _texts(size: int, number: int) -> list[str]:
    """Returns different texts of ordinary English; none begins as another, so that no prefix is shared."""
    sources = texts_of()
    passages = [text for source in _SOURCES for text in sources[source]]
    return [
        f"{at}: {passages[at % len(passages)].encode()[:size].decode('utf-8', 'ignore')}"
        for at in range(number)
    ]


def _content(line: str) -> bool:
    if not line.startswith("data: {"):
        return False
    choices: Sequence[Any] = json.loads(line.removeprefix("data: ")).get("choices", ())
    return any((one.get("delta") or {}).get("content") for one in choices)
