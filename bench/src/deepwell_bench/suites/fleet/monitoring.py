"""Queries of the dashboard and the rules, asked of a real Prometheus that scrapes a deployment in containers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import httpx

from deepwell.cli.bench.report import Report
from deepwell.storage.registry.store import NewVersion
from deepwell_bench.harness.assets import repository
from deepwell_bench.harness.environments import PeerError
from deepwell_bench.harness.ports import free_port
from deepwell_bench.suites.fleet.running import Fleet, running_fleet

__all__ = ["bench_dashboard", "queries"]

_ALIAS: Final = "smollm2@prod"
_PATIENCE_S: Final = 90.0
_PAUSE_S: Final = 5.0
_VARIABLES: Final = {"$instance": ".+", "$__rate_interval": "1m"}


def queries(dashboard: Path) -> list[str]:
    """Returns the queries of all panels, with Grafana's variables replaced by what they mean for all instances."""
    found: list[str] = []
    for panel in json.loads(dashboard.read_text(encoding="utf-8"))["panels"]:
        for target in panel.get("targets", ()):
            text = str(target["expr"])
            for name, value in _VARIABLES.items():
                text = text.replace(name, value)
            found.append(text)
    return found


def bench_dashboard(report: Report, model: Path) -> dict[str, Any]:
    """Runs a deployment with Prometheus, does once whatever a panel shows, and asks each query.

    Raises:
        PeerError: the deployment does not start, or Prometheus does not answer.
    """
    port = free_port()
    declaration = {
        "alias": _ALIAS,
        "model": "smollm2",
        "replicas": 1,
        "containers": {"prometheus_port": port},
        "serve": {"threads": 1, "context": 1024, "response_cache_mb": 16},
    }
    asked = queries(repository() / "deploy" / "grafana" / "deepwell.json")
    with running_fleet(
        model, {"smollm2": ()}, grade="containers", declaration=declaration, plain=True
    ) as fleet:
        asyncio.run(_history(fleet))
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20) as prometheus:
            until = time.monotonic() + _PATIENCE_S
            missing: Sequence[str] = asked
            while missing and time.monotonic() < until:
                _use(fleet)
                time.sleep(_PAUSE_S)
                missing = [one for one in asked if not _series(prometheus, one)]
            rules = _rules(prometheus)
            while any(one["health"] == "unknown" for one in rules) and time.monotonic() < until:
                time.sleep(_PAUSE_S)  # they were not evaluated yet
                rules = _rules(prometheus)
            up = {one["metric"]["job"]: one["value"][1] for one in _series(prometheus, "up")}
    sick = [one["name"] for one in rules if one["health"] != "ok"]
    for one in missing:
        report.note(f"no series: {one}")
    figures = {
        "queries": len(asked),
        "without_series": len(missing),
        "rules": len(rules),
        "rules_not_ok": len(sick),
        "jobs_up": sorted(name for name, value in up.items() if value == "1"),
    }
    report.table(
        "The dashboard of Grafana", ["figure", "value"], [[name, str(one)] for name, one in figures.items()]
    )
    return figures


async def _history(fleet: Fleet) -> None:
    """Enters what panels about roll-outs show: one that ended, and a candidate of the loop that its gates refused."""
    made = await fleet.rollouts.register(_ALIAS, NewVersion("smollm2-next"), "bench")
    await fleet.rollouts.start(made.id, "bench", share=0.5, ungated="a benchmark")
    await fleet.rollouts.abort(_ALIAS, "bench", "a benchmark")
    looped = await fleet.rollouts.register(_ALIAS, NewVersion("smollm2-looped"), "improve")
    await fleet.rollouts.registry.gate(looped.id, {"passed": False, "gates": []}, "improve")


def _use(fleet: Fleet) -> None:
    """Asks, asks the same again, asks for too much, leaves within a stream, and rates an answer."""
    headers = {"authorization": f"Bearer {fleet.key}"}
    body: dict[str, Any] = {
        "model": _ALIAS,
        "messages": [{"role": "user", "content": "Say one, two, three, one, two, three."}],
        "max_tokens": 12,
        "temperature": 0,
        "user": "lin",
    }
    base = f"http://127.0.0.1:{fleet.port}"
    with httpx.Client(base_url=base, headers=headers, trust_env=False, timeout=60) as http:
        http.post("/v1/chat/completions", json=body)
        answer = http.post("/v1/chat/completions", json=body)
        if answer.status_code != httpx.codes.OK:
            raise PeerError(f"no answer: {answer.text[:300]}")
        http.post("/v1/chat/completions", json={**body, "max_tokens": 100_000})
        long = [{"role": "user", "content": "word " * 4000}]
        http.post("/v1/chat/completions", json={**body, "messages": long})
        told = {"target_id": answer.json()["id"], "rating": "up", "model": _ALIAS, "safety_identifier": "lin"}
        http.post("/v1/feedback", json=told)
        with (
            contextlib.suppress(httpx.HTTPError),
            http.stream(
                "POST", "/v1/chat/completions", json={**body, "stream": True, "max_tokens": 400}
            ) as stream,
        ):
            next(stream.iter_bytes())


def _rules(prometheus: httpx.Client) -> list[dict[str, Any]]:
    """Returns all rules and alerts with their health."""
    groups = prometheus.get("/api/v1/rules").json()["data"]["groups"]
    return [one for group in groups for one in group["rules"]]


def _series(prometheus: httpx.Client, query: str) -> list[dict[str, Any]]:
    """Returns the series of a query.

    Raises:
        PeerError: Prometheus refuses it.
    """
    answer = prometheus.get("/api/v1/query", params={"query": query})
    if answer.status_code != httpx.codes.OK:
        raise PeerError(f"Prometheus refuses {query!r}: {answer.text[:300]}")
    return list(answer.json()["data"]["result"])
