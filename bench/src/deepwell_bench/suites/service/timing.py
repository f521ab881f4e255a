"""A test of what the time of an answer tells a tenant about others: compiled grammars and the prefix cache."""

from __future__ import annotations

import http.client
import json
import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deepwell.cli.bench.report import Report, rounded
from deepwell_bench.harness.environments import PeerError
from deepwell_bench.harness.served import serve_command, served

__all__ = ["auc", "bench_timing"]

_SPY, _VICTIM = "bench-key-of-32-characters-00001", "bench-key-of-32-characters-00002"
_WARM_UP = 8  # requests of each kind and tenant before the first is timed
_WORDS = (
    "amber birch cedar delta ember fjord grove heron inlet jetty knoll larch marsh north otter plain".split()
)
_PREFIX_WORDS = 60
_CONTROL_SHARE = 8  # one control for so many pairs


@dataclass
class _Times:
    """Seconds of the spy's requests, by what had been asked before."""

    other: list[float] = field(default_factory=list[float])  # the same by the other tenant
    nobody: list[float] = field(default_factory=list[float])  # the same by nobody
    own: list[float] = field(
        default_factory=list[float]
    )  # the same by the spy: what a shared cache would show


def auc(hits: Sequence[float], misses: Sequence[float]) -> float:
    """Returns the area under the ROC curve of the best classifier by one threshold on the time: 0.5 is guessing.

    It is the share of pairs in which the hit is the faster one, ties counting half (Mann and Whitney 1947), or one less that
    share if hits are slower.
    """
    fast, slow = np.asarray(hits)[:, None], np.asarray(misses)[None, :]
    share = float((fast < slow).mean() + (fast == slow).mean() / 2)
    return max(share, 1 - share)


def bench_timing(report: Report, model: Path, *, pairs: int = 400, seed: int = 0) -> dict[str, Any]:
    """Times a spy's requests after another tenant has asked the same, and after nobody has: `pairs` of each, interleaved.

    `grammar_auc` and `prefix_auc` are those of a classifier that knows nothing but the time. `grammar_control` and
    `prefix_control` are those for what the spy itself has asked before: near 1, or the probe would see nothing at all.

    Raises:
        PeerError: the server did not start, or a request failed.
    """
    chance = random.Random(seed)  # noqa: S311 - reproducible, and guards nothing
    found: dict[str, _Times] = {}
    env = {"DEEPWELL_API_KEYS": f"{_SPY},{_VICTIM}", "DEEPWELL_RESPONSE_CACHE_MB": "0"}
    with served(serve_command(model), env=env) as port:
        spy, victim = _Client(port, _SPY), _Client(port, _VICTIM)
        for kind, body_of in (("grammar", _constrained), ("prefix", _long)):
            for _ in range(_WARM_UP):
                for client in (spy, victim):
                    client.seconds(body_of(chance))
            found[kind] = _probe(spy, victim, body_of, pairs, chance)
    value: dict[str, Any] = {"pairs": pairs, "auc_standard_error": rounded(_standard_error(pairs), 3)}
    rows: list[list[Any]] = []
    for kind, times in found.items():
        area, control = auc(times.other, times.nobody), auc(times.own, times.nobody)
        value |= {f"{kind}_auc": rounded(area, 4), f"{kind}_control": rounded(control, 4)}
        medians = (1e3 * statistics.median(one) for one in (times.other, times.nobody, times.own))
        rows.append([kind, *medians, area, control])
    report.table(
        f"A spy's requests, {pairs} pairs; medians in ms",
        ["cache", "the other asked it", "nobody did", "the spy did", "AUC", "AUC of the spy's own"],
        rows,
    )
    return value


def _probe(
    spy: _Client,
    victim: _Client,
    body_of: Callable[[random.Random], dict[str, Any]],
    pairs: int,
    chance: random.Random,
) -> _Times:
    times = _Times()
    for number in range(pairs):
        for asked in chance.sample((True, False), 2):
            body = body_of(chance)
            # The other tenant asks something in either case, so that the machine is in the same state.
            victim.seconds(body if asked else body_of(chance))
            (times.other if asked else times.nobody).append(spy.seconds(body))
            if asked and number % _CONTROL_SHARE == 0:
                times.own.append(spy.seconds(body))
    return times


def _standard_error(pairs: int) -> float:
    """Returns the standard error of the area where hits and misses do not differ."""
    return math.sqrt((2 * pairs + 1) / (12 * pairs * pairs))


def _constrained(chance: random.Random) -> dict[str, Any]:
    """Returns a request with a schema that nobody else sends."""
    # Large enough that compiling it takes many times what the machine's noise does.
    names = [f"{word}_{chance.getrandbits(32):08x}" for word in _WORDS * 3]
    schema = {
        "type": "object",
        "properties": {name: {"enum": [name, name[::-1]]} for name in names},
        "required": names,
        "additionalProperties": False,
    }
    return {
        "messages": [{"role": "user", "content": "Name the trees."}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "trees", "schema": schema}},
    }


def _long(chance: random.Random) -> dict[str, Any]:
    """Returns a request with a prompt that nobody else sends."""
    text = " ".join(chance.choice(_WORDS) for _ in range(_PREFIX_WORDS))
    return {"messages": [{"role": "user", "content": f"{chance.getrandbits(32):08x} {text}"}]}


class _Client:
    """One tenant on one connection."""

    def __init__(self, port: int, key: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        self._headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        self._model = ""

    def seconds(self, body: dict[str, Any]) -> float:
        """Sends a request for one token and returns the seconds until its answer."""
        if not self._model:
            self._model = self._ask("GET", "/v1/models", None)["data"][0]["id"]
        data = json.dumps({"model": self._model, "max_tokens": 1, **body})
        started = time.perf_counter()
        self._ask("POST", "/v1/chat/completions", data)
        return time.perf_counter() - started

    def _ask(self, method: str, path: str, data: str | None) -> Any:
        self._connection.request(method, path, data, self._headers)
        answer = self._connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise PeerError(
                f"{method} {path} answered {answer.status}: {body[:300].decode(errors='replace')}"
            )
        return json.loads(body)
