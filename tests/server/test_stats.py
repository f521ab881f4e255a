"""Live figures: quantiles, rates, memory, and sums over the HTTP workers of one server; and the list of keys."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.server.fakes import FakeEngine, make_service

from deepwell.dialogue.model import ServedModel
from deepwell.dialogue.text import Codec
from deepwell.engine.protocol import EngineStats
from deepwell.server.access.quota import RateLimits
from deepwell.server.app import create_app
from deepwell.server.observe.figures import TokenRates, quantile
from deepwell.server.observe.process_tree import age_s, memory_bytes
from deepwell.server.options import LimitsConfig, SemanticOptions
from deepwell.storage.database import Database, Tenant
from deepwell.storage.keys import KeyStore

CHAT = {"model": "toy", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8, "temperature": 0}
FEW = [(0.1, 2.0), (0.2, 6.0), (0.5, 8.0), (math.inf, 10.0)]


class CountingEngine(FakeEngine):
    """An engine whose counters a test sets."""

    told = EngineStats()

    def stats(self) -> EngineStats:
        return self.told


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database.open(tmp_path / "deepwell.db")
    yield database
    database.close()


@pytest.fixture
async def http(codec: Codec, database: Database) -> AsyncIterator[httpx.AsyncClient]:
    engine = CountingEngine(max_model_len=4096)
    engine.told = EngineStats(
        running=1,
        waiting=2,
        prompt_tokens=30,
        cached_tokens=10,
        blocks_total=64,
        blocks_used=5,
        expert_loads=((1, 2), (3, 4)),
    )
    service = make_service(
        engine,
        codec,
        model="toy",
        embedder=ServedModel("minilm", FakeEngine(), codec, tasks=("embed",)),
        database=database,
        response_cache_bytes=1 << 20,
        semantic=SemanticOptions(min_cosine=0.5),
        limits=LimitsConfig(rates=RateLimits(1000, 0)),
    )
    transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


@pytest.mark.parametrize(("at", "told"), [(0.2, 0.1), (0.4, 0.15), (0.6, 0.2), (0.7, 0.35), (0.99, 0.5)])
def test_a_quantile_lies_within_its_bucket(at: float, told: float) -> None:
    assert quantile(FEW, at) == pytest.approx(told)


def test_a_quantile_of_nothing_is_unknown_and_one_in_an_empty_bucket_is_in_the_next() -> None:
    assert quantile([], 0.5) is None and quantile([(0.1, 0.0), (math.inf, 0.0)], 0.5) is None
    assert quantile([(0.1, 0.0), (0.2, 4.0), (math.inf, 4.0)], 0.5) == pytest.approx(0.15)


def test_rates_are_of_the_last_seconds_and_survive_a_new_engine() -> None:
    engine = CountingEngine()
    rates = TokenRates({"toy": engine})

    def seen(now: float, count: int) -> float | None:
        engine.told = EngineStats(generated_tokens=count)
        rates.look(now)
        return rates.rate("toy")

    assert rates.rate("toy") is None and seen(0.0, 0) is None
    assert seen(2.0, 100) == 50.0
    assert seen(11.0, 190) == 10.0  # from the second look on: the first is too old
    assert seen(12.0, 3) is None
    assert seen(13.0, 5) == 2.0


def test_memory_counts_children_and_age_is_of_the_process() -> None:
    alone = memory_bytes(os.getpid())
    code = "import sys; data = bytearray(b'x') * (64 << 20); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None and child.stdout.readline()
        both, aged = memory_bytes(os.getpid()), age_s(child.pid)
        assert child.stdin is not None
        child.stdin.close()
    assert both - alone > 48 << 20
    assert 0 <= aged <= age_s(os.getpid())


async def test_the_figures_of_a_server(http: httpx.AsyncClient) -> None:
    for content in ("What is the boiling point of water?", "What is the boiling point of water?"):
        body = CHAT | {"messages": [{"role": "user", "content": content}]}
        assert (await http.post("/v1/chat/completions", json=body)).status_code == 200
    told: dict[str, Any] = (await http.get("/v1/stats")).json()
    assert told["object"] == "stats" and told["version"]
    assert told["uptime_s"] > 0 and told["memory_bytes"] > 1 << 20
    toy, minilm = told["models"]
    assert toy == {
        "id": "toy",
        "running": 1,
        "waiting": 2,
        "kv_used_blocks": 5,
        "kv_total_blocks": 64,
        "prefix_hit_tokens": 10,
        "prefix_query_tokens": 40,
        "tokens_per_s": None,
        "experts": [[1, 2], [3, 4]],
    }
    assert minilm["id"] == "minilm" and minilm["experts"] is None
    first = told["latency_ms"]["first_token"]
    assert 0 < first["p50"] <= first["p95"] <= first["p99"]
    assert told["requests"] == {"total": 2, "errors": 0, "open": 1}
    assert told["caches"]["response"]["misses"] >= 1
    assert told["caches"]["semantic"]["misses"] >= 1
    assert told["limits"] == {
        "requests_per_minute": 1000,
        "tokens_per_minute": 0,
        "audio_seconds_per_minute": 0,
        "images_per_minute": 0,
    }


async def test_a_server_without_caches_has_no_figures_of_them(engine: FakeEngine, codec: Codec) -> None:
    app = create_app(make_service(engine, codec, model="toy"))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        told = (await client.get("/v1/stats")).json()
    assert told["caches"] == {"response": None, "semantic": None}
    assert told["latency_ms"]["queue"] == {"p50": None, "p95": None, "p99": None}


def test_the_figures_of_several_workers_are_sums(tmp_path: Path) -> None:
    code = (
        "import json; from deepwell.server.observe.metrics import Metrics;"
        "from deepwell.server.observe.figures import Figures;"
        "metrics = Metrics({}); metrics.requests.labels('/r', '500').inc();"
        "metrics.queue.observe(0.02); metrics.semantic_misses.inc();"
        "figures = Figures(metrics.families());"
        "print(json.dumps([figures.total('deepwell_requests_total'),"
        "figures.total('deepwell_requests_total', lambda one: one['status'] == '200'),"
        "figures.total('deepwell_semantic_cache_misses_total'),"
        "figures.quantiles('deepwell_queue_seconds', [0.5])]))"
    )
    told = ""
    for _ in range(2):
        environment = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=True,
        )
        told = done.stdout
    total, fine, misses, (median,) = json.loads(told)
    assert (total, fine, misses) == (2, 0, 2) and median == pytest.approx(0.0175)


async def test_keys_are_listed_without_their_secrets(http: httpx.AsyncClient, database: Database) -> None:
    keys = KeyStore(database)
    admin, text = keys.create(Tenant("ops"), "console", ["admin"], requests_per_minute=5)
    made = [keys.create(Tenant("a"), f"key {i}", ["inference", "files"])[0] for i in range(3)]
    keys.revoke(made[0].id)
    who = {"authorization": f"Bearer {text}"}
    whole = (await http.get("/v1/keys", headers=who)).json()
    assert {one["id"] for one in whole["data"]} == {admin.id, *(one.id for one in made)}
    assert text not in json.dumps(whole) and admin.hint not in json.dumps(whole)
    (mine,) = (one for one in whole["data"] if one["id"] == admin.id)
    assert mine["object"] == "api_key" and (mine["tenant"], mine["requests_per_minute"]) == ("ops", 5)
    assert [one["id"] for one in whole["data"] if one["revoked"]] == [made[0].id]
    first = (await http.get("/v1/keys?limit=3", headers=who)).json()
    rest = (await http.get(f"/v1/keys?limit=3&after={first['last_id']}", headers=who)).json()
    assert first["has_more"] and not rest["has_more"]
    assert [one["id"] for one in first["data"] + rest["data"]] == [one["id"] for one in whole["data"]]
    refused = await http.get("/v1/keys?after=key_of_nobody", headers=who)
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "after"
