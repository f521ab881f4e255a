"""Throughput by replicas, and the prefix cache by the way that the front chooses between them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from deepwell.cli.bench.report import Report, rounded
from deepwell_bench.suites.fleet.running import Fleet, running_fleet

__all__ = ["bench_scaling"]

_CAP = 20.0  # requests a second of one replica
_WAY = (20, 5, 8)
_CACHE_BLOCKS = 1024  # of 16 tokens, in each replica: a quarter of all conversations fits, all of them do not


def bench_scaling(report: Report, model: Path, *, seconds: float = 15.0) -> dict[str, Any]:
    """Measures answers a second of 1, 2 and 4 replicas that are capped, and the hit rate of their prefix caches.

    The engine keeps time and runs no model; its prefix cache keeps the hashes of blocks as the real one does, and evicts the
    least recently used. Conversations of 8 turns come in the same way to a front that routes by prefix, load first, and to one
    that routes round robin.
    """
    value: dict[str, Any] = {}
    rows: list[list[Any]] = []
    for replicas in (1, 2, 4):
        with running_fleet(model, {"v1": (*_WAY, f"rate={_CAP:g}")}, replicas=replicas) as fleet:
            fleet.talk(3, clients=8 * replicas)
            load, _ = fleet.talk(seconds, clients=16 * replicas, turns=3)
        whole = [one for one in load.results if one["how"] == "whole"]
        value[f"answers_s_{replicas}"] = rounded(len(whole) / load.seconds, 2)
        value["failed"] = value.get("failed", 0) + len(load.failed)
        ratio = value[f"answers_s_{replicas}"] / value["answers_s_1"]
        value[f"ratio_{replicas}"] = rounded(ratio, 3)
        rows.append([replicas, value[f"answers_s_{replicas}"], rounded(ratio, 2), *load.figures().values()])
    report.table(
        f"Replicas capped at {_CAP:g} requests a second",
        ["replicas", "answers/s", "ratio", "busy", "client", "front", "replicas' cpu"],
        rows,
    )
    hits: dict[str, float] = {}
    for routing in ("prefix", "round_robin"):
        way = (*_WAY, f"cache={_CACHE_BLOCKS}")
        with running_fleet(model, {"v1": way}, replicas=4, routing=routing) as fleet:
            load, _ = fleet.talk(2 * seconds, rate=30, turns=8, open=48, words=24)
            hits[routing] = _hit_rate(fleet)
        value["failed"] += len(load.failed)
        value[f"hit_rate_{routing}"] = rounded(hits[routing], 4)
    value["hit_ratio"] = rounded(hits["prefix"] / max(hits["round_robin"], 1e-9), 3)
    report.table(
        f"Prefix cache of {_CACHE_BLOCKS} blocks in each of 4 replicas, 48 conversations at a time",
        ["routing", "hit rate"],
        [[name, rounded(one, 3)] for name, one in hits.items()],
    )
    return value


def _hit_rate(fleet: Fleet) -> float:
    """Returns the share of prompt tokens that the caches of all replicas had."""
    figures = {"deepwell_prompt_tokens_total": 0.0, "deepwell_cached_tokens_total": 0.0}
    for slot in fleet.facts["slots"]:
        for one in slot["replicas"]:
            text = httpx.get(f"http://127.0.0.1:{one['port']}/metrics", trust_env=False).text
            for line in text.splitlines():
                name = line.partition("{")[0]
                if name in figures:
                    figures[name] += float(line.rpartition(" ")[2])
    computed, cached = figures.values()
    return cached / max(computed + cached, 1.0)
