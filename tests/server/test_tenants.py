"""Two tenants, every route: what is A's, B can neither see, list, change, delete, time nor count.

The routes come from the application itself; one that is not described here, or by its family's example, fails the first test.
"""

from __future__ import annotations

import ast
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

import httpx
import pytest
from tests.server.fakes import FakeEngine, make_service

import deepwell
from deepwell.dialogue.text import Codec
from deepwell.engine import machine
from deepwell.server.access.quota import RateLimits
from deepwell.server.app import FAMILIES, create_app, route_table
from deepwell.server.families.family import Family
from deepwell.server.families.site.bundle import Bundle
from deepwell.server.options import CatalogOptions, LimitsConfig, TuningOptions
from deepwell.settings import Settings
from deepwell.storage.aliases import AliasStore
from deepwell.storage.database import Database, Tenant
from deepwell.storage.keys import KeyStore

SECRET = "the-password-of-tenant-a"
CHAT: dict[str, Any] = {
    "model": "toy",
    "messages": [{"role": "user", "content": SECRET}],
    "max_tokens": 40,
    "temperature": 0,
}
RESPONSE: dict[str, Any] = {"model": "toy", "input": SECRET, "max_output_tokens": 40, "temperature": 0}

# Everybody gets the same, whoever asks.
COMMON = {
    "GET /",
    "GET /api/ps",
    "GET /api/tags",
    "GET /api/version",
    "GET /assets/{name}",
    "GET /docs",
    "GET /health",
    "GET /healthz",
    "GET /version",
    "GET /readyz",
    "GET /start",
    "GET /v1/models",
    "GET /v1/models/{id:path}",
    "GET /v1/aliases",
    "GET /v1/aliases/{name:path}/history",
    "GET /v1/catalog",
    "GET /v1/catalog/{id}/plan",
    "GET /openapi.json",
}
# Of what everybody gets the same, in paths.
NAMES = {"id": "smollm2", "name": "prod"}
# A tenant's key may not.
OPERATOR = {
    "GET /metrics",
    "GET /v1/audit/entries",
    "POST /v1/audit/verify",
    "POST /v1/compliance/reports",
    "GET /v1/guard",
    "GET /v1/keys",
    "GET /v1/stats",
    "POST /v1/load_lora_adapter",
    "POST /v1/unload_lora_adapter",
    "DELETE /v1/models/{model:path}",
    "POST /v1/aliases",
    "DELETE /v1/aliases/{name:path}",
    "POST /v1/catalog/pull",
    "GET /v1/catalog/updates",
    "POST /v1/catalog/updates",
    "GET /v1/registry/aliases",
    "GET /v1/registry/versions",
    "GET /v1/registry/log",
    "POST /v1/registry/verify",
    "POST /v1/registry/revert",
    "GET /v1/rollouts",
    "POST /v1/rollouts",
    "GET /v1/deployments",
    "GET /v1/rollouts/{rollout_id}",
    "POST /v1/rollouts/{rollout_id}/promote",
    "POST /v1/rollouts/{rollout_id}/abort",
    "GET /v1/improvements",
    "POST /v1/compression/jobs",
    "GET /v1/compression/jobs",
    "GET /v1/compression/jobs/{compression_job_id}",
    "GET /v1/compression/jobs/{compression_job_id}/events",
    "POST /v1/compression/jobs/{compression_job_id}/cancel",
}
# What of A's such a request could name.
NAMING: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "POST /v1/responses": [
        ("response_id", RESPONSE | {"previous_response_id": "{}"}),
        ("conversation_id", RESPONSE | {"conversation": "{}"}),
        ("answer_id", RESPONSE | {"input": [{"type": "item_reference", "id": "{}"}]}),
        ("prompt_id", RESPONSE | {"prompt": {"id": "{}"}}),
    ],
    "POST /v1/responses/compact": [
        ("response_id", {"model": "toy", "input": "x", "previous_response_id": "{}"}),
        ("conversation_id", {"model": "toy", "input": "x", "conversation": "{}"}),
        ("answer_id", {"model": "toy", "input": [{"type": "item_reference", "id": "{}"}]}),
    ],
    "POST /v1/responses/input_tokens": [
        ("response_id", {"model": "toy", "input": "x", "previous_response_id": "{}"}),
        ("conversation_id", {"model": "toy", "input": "x", "conversation": "{}"}),
    ],
    "POST /v1/batches": [
        (
            "file_id",
            {"input_file_id": "{}", "endpoint": "/v1/chat/completions", "completion_window": "24h"},
        )
    ],
    "POST /v1/vector_stores": [("file_id", {"file_ids": ["{}"]})],
    "POST /v1/fine_tuning/jobs": [
        ("train_id", {"model": "toy", "training_file": "{}"}),
    ],
    "POST /v1/prompt_optimisations": [
        ("prompt_id", {"model": "toy", "prompt": {"id": "{}"}, "data_file": "file-none"}),
    ],
    "POST /v1/labelling/projects": [("texts_id", {"file_id": "{}", "classes": ["a", "b"]})],
    "POST /v1/ratings/studies": [("pairs_id", {"file_id": "{}"})],
}
# Computes from the request alone.
COMPUTING = {
    *(f"POST /v1/fine_tuning/alpha/graders/{name}" for name in ("run", "validate")),
    *(f"POST /v1/audio/{name}" for name in ("transcriptions", "translations", "speech")),
    *(f"POST /v1/images/{name}" for name in ("generations", "edits", "variations")),
    "GET /v1/agents/tools",  # which name no object; whether the tenant has a vector store is its own
}
# Calls the other routes with the key that it is called with: tests/server/mcp/test_mcp_server.py.
CALLING = {"POST /mcp"}
# Is of the tenant by its own numbers: tests/server/test_usage.py.
COUNTING = {
    f"GET /v1/organization/usage/{name}"
    for name in ("completions", "audio_speeches", "audio_transcriptions", "images")
}
LISTS = {
    "GET /v1/chat/completions",
    "GET /v1/feedback",
    "GET /v1/files",
    "GET /v1/batches",
    "GET /v1/messages/batches",
    "GET /v1/vector_stores",
    "GET /v1/jobs",
    "GET /v1/fine_tuning/jobs",
    "GET /v1/prompt_optimisations",
    "GET /v1/evals",
    "GET /v1/agents/runs",
    "GET /v1/prompts",
    "GET /v1/labelling/projects",
    "GET /v1/ratings/studies",
}
# Makes an object of B's own, and names nothing.
CREATING = {
    "POST /v1/conversations",
    "POST /v1/feedback",
    "POST /v1/files",
    "POST /v1/uploads",
    "POST /v1/messages/batches",
    "POST /v1/vector_stores",
    "POST /v1/evals",
    "POST /v1/agents/runs",
    "POST /v1/prompts",
}
_STORE = "/v1/vector_stores/{vector_store_id}"
_TUNING = "/v1/fine_tuning/jobs/{fine_tuning_job_id}"
_SEARCH = "/v1/prompt_optimisations/{prompt_optimisation_id}"
_EVAL = "/v1/evals/{eval_id}"
GRADER: dict[str, Any] = {
    "type": "string_check",
    "name": "same",
    "operation": "eq",
    "input": "{{sample.output_text}}",
    "reference": "{{item.a}}",
}
EVAL: dict[str, Any] = {
    "data_source_config": {"type": "custom", "item_schema": {"type": "object"}},
    "testing_criteria": [GRADER],
}
EVAL_RUN: dict[str, Any] = {
    "data_source": {
        "type": "jsonl",
        "source": {
            "type": "file_content",
            "content": [{"item": {"a": SECRET}, "sample": {"output_text": "x"}}],
        },
    }
}
_AGENT_RUN = "/v1/agents/runs/{agent_run_id}"
AGENT_RUN: dict[str, Any] = {"model": "toy", "input": SECRET, "tools": []}
_PROMPT = "/v1/prompts/{prompt_id}"
PROMPT: dict[str, Any] = {"id": "greeting", "instructions": SECRET, "version": 10000}
_LABELLING = "/v1/labelling/projects/{labelling_project_id}"
_STUDY = "/v1/ratings/studies/{rating_study_id}"
MESSAGE_BATCH: dict[str, Any] = {"requests": [{"custom_id": "a", "params": CHAT}]}
# Has the id of an object in its path; with what body it is asked.
OBJECTS: dict[str, dict[str, Any] | None] = {
    "GET /v1/chat/completions/{completion_id}": None,
    "POST /v1/chat/completions/{completion_id}": {"metadata": {"mine": "now"}},
    "DELETE /v1/chat/completions/{completion_id}": None,
    "GET /v1/chat/completions/{completion_id}/messages": None,
    "GET /v1/responses/{response_id}": None,
    "DELETE /v1/responses/{response_id}": None,
    "POST /v1/responses/{response_id}/cancel": None,
    "GET /v1/responses/{response_id}/input_items": None,
    "GET /v1/conversations/{conversation_id}": None,
    "POST /v1/conversations/{conversation_id}": {"metadata": {"mine": "now"}},
    "DELETE /v1/conversations/{conversation_id}": None,
    "GET /v1/conversations/{conversation_id}/items": None,
    "POST /v1/conversations/{conversation_id}/items": {
        "items": [{"type": "message", "role": "user", "content": "mine now"}]
    },
    "GET /v1/conversations/{conversation_id}/items/{item_id}": None,
    "DELETE /v1/conversations/{conversation_id}/items/{item_id}": None,
    "DELETE /v1/feedback/{feedback_id}": None,
    "GET /v1/files/{file_id}": None,
    "DELETE /v1/files/{file_id}": None,
    "GET /v1/files/{file_id}/content": None,
    "POST /v1/uploads/{upload_id}/parts": {"multipart": {"data": b"mine now"}},
    "POST /v1/uploads/{upload_id}/complete": {"part_ids": ["{part_id}"]},
    "POST /v1/uploads/{upload_id}/cancel": None,
    "GET /v1/batches/{batch_id}": None,
    "POST /v1/batches/{batch_id}/cancel": None,
    "GET /v1/jobs/{job_id}": None,
    "POST /v1/jobs/{job_id}/cancel": None,
    "GET /v1/messages/batches/{message_batch_id}": None,
    "DELETE /v1/messages/batches/{message_batch_id}": None,
    "POST /v1/messages/batches/{message_batch_id}/cancel": None,
    "GET /v1/messages/batches/{message_batch_id}/results": None,
    f"GET {_STORE}": None,
    f"POST {_STORE}": {"name": "mine now"},
    f"DELETE {_STORE}": None,
    f"POST {_STORE}/search": {"query": SECRET},
    f"POST {_STORE}/files": {"file_id": "file-of-b"},
    f"GET {_STORE}/files": None,
    f"GET {_STORE}/files/{{file_id}}": None,
    f"POST {_STORE}/files/{{file_id}}": {"attributes": {"mine": "now"}},
    f"DELETE {_STORE}/files/{{file_id}}": None,
    f"GET {_STORE}/files/{{file_id}}/content": None,
    f"GET {_STORE}/files/{{file_id}}/chunks": None,
    f"POST {_STORE}/file_batches": {"file_ids": ["file-of-b"]},
    f"GET {_STORE}/file_batches/{{file_batch_id}}": None,
    f"POST {_STORE}/file_batches/{{file_batch_id}}/cancel": None,
    f"GET {_STORE}/file_batches/{{file_batch_id}}/files": None,
    f"GET {_TUNING}": None,
    f"POST {_TUNING}/cancel": None,
    f"POST {_TUNING}/pause": None,
    f"POST {_TUNING}/resume": None,
    f"GET {_TUNING}/events": None,
    f"GET {_TUNING}/checkpoints": None,
    f"GET {_SEARCH}": None,
    f"POST {_SEARCH}/cancel": None,
    f"GET {_EVAL}": None,
    f"POST {_EVAL}": {"name": "mine now"},
    f"DELETE {_EVAL}": None,
    f"GET {_EVAL}/runs": None,
    f"POST {_EVAL}/runs": EVAL_RUN,
    f"GET {_EVAL}/runs/{{run_id}}": None,
    f"POST {_EVAL}/runs/{{run_id}}": None,
    f"POST {_EVAL}/runs/{{run_id}}/cancel": None,
    f"DELETE {_EVAL}/runs/{{run_id}}": None,
    f"GET {_EVAL}/runs/{{run_id}}/output_items": None,
    f"GET {_EVAL}/runs/{{run_id}}/output_items/{{output_item_id}}": None,
    f"GET {_PROMPT}": None,
    f"POST {_PROMPT}": {"version": "10000"},
    f"DELETE {_PROMPT}": None,
    f"GET {_PROMPT}/versions": None,
    f"POST {_PROMPT}/versions": {"instructions": "mine now"},
    f"GET {_PROMPT}/versions/{{version}}": None,
    f"GET {_AGENT_RUN}": None,
    f"DELETE {_AGENT_RUN}": None,
    f"GET {_AGENT_RUN}/steps": None,
    f"POST {_AGENT_RUN}/cancel": None,
    f"POST {_AGENT_RUN}/approve": {},
    f"POST {_AGENT_RUN}/deny": {},
    f"POST {_AGENT_RUN}/submit_tool_outputs": {"outputs": [{"call_id": "a", "output": "b"}]},
    f"GET {_LABELLING}": None,
    f"DELETE {_LABELLING}": None,
    f"GET {_LABELLING}/next": None,
    f"POST {_LABELLING}/labels": {"index": 0, "label": "b"},
    f"POST {_LABELLING}/undo": None,
    f"GET {_LABELLING}/export": None,
    f"GET {_STUDY}": None,
    f"DELETE {_STUDY}": None,
    f"GET {_STUDY}/next": None,
    f"POST {_STUDY}/votes": {"index": 0, "rater": "b", "choice": "tie"},
    f"POST {_STUDY}/undo": {"rater": "a"},
    f"GET {_STUDY}/results": None,
    f"GET {_STUDY}/export": None,
}


def generating(families: Sequence[Family]) -> dict[str, dict[str, Any]]:
    """What generates or counts, with the example that its family declares: nothing that A asked before is felt."""
    return {
        f"{operation.method.upper()} {operation.path}": json.loads(
            Template(operation.example).substitute(model="toy", text=SECRET)
        )
        for operation in route_table(families).operations.values()
        if operation.example is not None
    }


def known(families: Sequence[Family]) -> set[str]:
    return (
        COMMON
        | OPERATOR
        | set(generating(families))
        | set(NAMING)
        | LISTS
        | COUNTING
        | COMPUTING
        | CALLING
        | CREATING
        | set(OBJECTS)
    )


GENERATING = generating(FAMILIES)
KNOWN = known(FAMILIES)


@dataclass
class World:
    """A server with two tenants, of which A has one of everything."""

    http: httpx.AsyncClient
    engine: FakeEngine
    routes: list[str]
    a: dict[str, str]
    b: dict[str, str]
    ids: dict[str, str] = field(default_factory=dict[str, str])  # A's, by the name that paths have for them

    async def ask(
        self, who: dict[str, str], route: str, ids: dict[str, str], body: dict[str, Any] | None = None
    ) -> httpx.Response:
        method, _, path = route.partition(" ")
        path = path.replace(":path}", "}").format_map(ids)
        if body is not None and "multipart" in body:
            return await self.http.request(method, path, headers=who, files=body["multipart"])
        if body is not None:
            body = json.loads(json.dumps(body).replace("{part_id}", ids.get("part_id", "")))
        return await self.http.request(method, path, headers=who, json=body)

    async def snapshot(self) -> dict[str, str]:
        """All that A can read of its own."""
        return {
            route: (await self.ask(self.a, route, self.ids)).text
            for route in self.routes
            if route.startswith("GET /v1/") and (route in OBJECTS or route in LISTS)
        }


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database.open(tmp_path / "deepwell.db")
    yield database
    database.close()


@pytest.fixture
async def world(engine: FakeEngine, codec: Codec, database: Database, tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(engine, codec, database, tmp_path) as opened:
        yield opened


@asynccontextmanager
async def open_world(
    engine: FakeEngine,
    codec: Codec,
    database: Database,
    tmp_path: Path,
    families: Sequence[Family] = FAMILIES,
) -> AsyncGenerator[World]:
    service = make_service(
        engine,
        codec,
        model="toy",
        database=database,
        adapter_dir=tmp_path,
        response_cache_bytes=1 << 20,
        limits=LimitsConfig(rates=RateLimits(1000, 100_000)),
        catalog=CatalogOptions(Settings.load(models_dir=tmp_path / "models")),
        tuning=TuningOptions(folder=tmp_path / "runs", command=("true",)),
    )
    await AliasStore(database).set("prod", "toy", "cli")
    app = create_app(service, families)
    routes = sorted(set(_routes(app)))
    keys = KeyStore(database)
    a, b = (
        {"authorization": f"Bearer {keys.create(Tenant(name), name, ['inference', 'files', 'tuning'])[1]}"}
        for name in ("tenant-a", "tenant-b")
    )
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        world = World(http, engine, routes, a, b)
        await _belongings(world)
        yield world
    await service.close_background()


def _routes(owner: Any) -> Iterator[str]:
    """Every method and path, of included routers too, documented or not."""
    for route in owner.routes:
        inner = getattr(route, "original_router", None) or getattr(route, "app", None)
        if hasattr(inner, "routes"):
            yield from _routes(inner)
        for method in getattr(route, "methods", None) or ():
            if method != "HEAD":
                yield f"{method} {route.path}"


async def _belongings(world: World) -> None:
    """Give A one of everything, and ask every question of A's until its answer is kept in all caches."""
    ids = world.ids

    async def made(route: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = await world.ask(world.a, route, ids, body)
        assert answer.status_code == 200, (route, answer.text)
        return answer.json()

    ids["completion_id"] = (await made("POST /v1/chat/completions", CHAT | {"store": True}))["id"]
    answer = await made("POST /v1/responses", RESPONSE)
    ids["response_id"], ids["answer_id"] = answer["id"], answer["output"][0]["id"]
    item = {"type": "message", "role": "user", "content": SECRET}
    ids["conversation_id"] = (await made("POST /v1/conversations", {"items": [item]}))["id"]
    items = await world.ask(world.a, "GET /v1/conversations/{conversation_id}/items", ids)
    ids["item_id"] = items.json()["data"][0]["id"]
    if "POST /v1/feedback" in world.routes:
        rating = {"target_id": ids["completion_id"], "rating": "down", "reason": SECRET}
        ids["feedback_id"] = (await made("POST /v1/feedback", rating))["id"]
    if "POST /v1/files" in world.routes:
        line = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": CHAT}
        form = {"purpose": (None, "batch"), "file": ("a.jsonl", json.dumps(line).encode())}
        ids["file_id"] = (await made("POST /v1/files", {"multipart": form}))["id"]
        upload = {"filename": "a.txt", "purpose": "user_data", "bytes": 4, "mime_type": "text/plain"}
        ids["upload_id"] = (await made("POST /v1/uploads", upload))["id"]
        part = {"multipart": {"data": ("part", b"abcd")}}
        ids["part_id"] = (await made("POST /v1/uploads/{upload_id}/parts", part))["id"]
        batch = NAMING["POST /v1/batches"][0][1] | {"input_file_id": ids["file_id"]}
        ids["batch_id"] = ids["job_id"] = (await made("POST /v1/batches", batch))["id"]
        ids["vector_store_id"] = (await made("POST /v1/vector_stores", {"name": SECRET}))["id"]
        attached = {"file_id": ids["file_id"], "attributes": {"of": SECRET}}
        await made(f"POST {_STORE}/files", attached)
        some = {"file_ids": [ids["file_id"]]}
        ids["file_batch_id"] = (await made(f"POST {_STORE}/file_batches", some))["id"]
        form = {"purpose": (None, "user_data"), "file": ("t.jsonl", json.dumps({"text": SECRET}).encode())}
        ids["texts_id"] = (await made("POST /v1/files", {"multipart": form}))["id"]
        project = {"file_id": ids["texts_id"], "classes": ["a", "b"], "name": SECRET}
        ids["labelling_project_id"] = (await made("POST /v1/labelling/projects", project))["id"]
        await made(f"POST {_LABELLING}/labels", {"index": 0, "label": "a"})
        pair = {"prompt": SECRET} | {
            side: {"model": SECRET, "answer": SECRET} for side in ("first", "second")
        }
        form = {"purpose": (None, "user_data"), "file": ("p.jsonl", json.dumps(pair).encode())}
        ids["pairs_id"] = (await made("POST /v1/files", {"multipart": form}))["id"]
        study = {"file_id": ids["pairs_id"], "name": SECRET}
        ids["rating_study_id"] = (await made("POST /v1/ratings/studies", study))["id"]
        await made(f"POST {_STUDY}/votes", {"index": 0, "rater": SECRET, "choice": "left"})
        form = {"purpose": (None, "fine-tune"), "file": ("t.jsonl", _conversation().encode())}
        ids["train_id"] = (await made("POST /v1/files", {"multipart": form}))["id"]
        tuning = {"model": "toy", "training_file": ids["train_id"], "metadata": {"of": SECRET}}
        ids["fine_tuning_job_id"] = (await made("POST /v1/fine_tuning/jobs", tuning))["id"]
        ids["eval_id"] = (await made("POST /v1/evals", EVAL | {"name": SECRET}))["id"]
        ids["run_id"] = (await made(f"POST {_EVAL}/runs", EVAL_RUN))["id"]
        ids["output_item_id"] = "outputitem_0"
        ids["agent_run_id"] = (await made("POST /v1/agents/runs", AGENT_RUN))["id"]
        ids["prompt_id"] = (await made("POST /v1/prompts", PROMPT))["id"]
        ids["version"] = "10000"
        lines = [json.dumps({"input": f"{SECRET} {one}", "label": "ab"[one % 2]}) for one in range(60)]
        form = {"purpose": (None, "user_data"), "file": ("r.jsonl", "\n".join(lines).encode())}
        ids["rows_id"] = (await made("POST /v1/files", {"multipart": form}))["id"]
        search = {"model": "toy", "prompt": {"id": "greeting"}, "data_file": ids["rows_id"]}
        ids["prompt_optimisation_id"] = (await made("POST /v1/prompt_optimisations", search))["id"]
        ids["message_batch_id"] = (await made("POST /v1/messages/batches", MESSAGE_BATCH))["id"]
    for route, body in GENERATING.items():
        for _ in range(3):
            await made(route, _of_its_own(route, body))


def _conversation() -> str:
    said = [{"role": "user", "content": SECRET}, {"role": "assistant", "content": SECRET}]
    return json.dumps({"messages": said})


def _of_its_own(route: str, body: dict[str, Any]) -> dict[str, Any]:
    """The same question in words that no other route is asked in."""
    return json.loads(json.dumps(body).replace(SECRET, f"{SECRET} {sorted(GENERATING).index(route)}"))


async def test_every_route_is_described_here(world: World) -> None:
    assert set(world.routes) - KNOWN == set()
    documented = (await world.http.get("/openapi.json", headers=world.a)).json()["paths"]
    described = {route.replace(":path}", "}") for route in world.routes}
    assert {f"{m.upper()} {path}" for path, methods in documented.items() for m in methods} <= described


async def test_what_everybody_gets_is_the_same_for_everybody(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 16 << 30  # which otherwise moves between two requests
    monkeypatch.setattr(machine, "available_memory_bytes", lambda: free)
    asset = Bundle().names[0]
    for route in sorted(COMMON & set(world.routes)):
        ids = NAMES if route.startswith("GET /v1/catalog") else {"id": "toy", "name": asset}
        if route.startswith("GET /v1/aliases"):
            ids = NAMES
        answers = [await world.ask(who, route, ids) for who in (world.a, world.b)]
        assert answers[0].status_code == answers[1].status_code == 200, route
        assert answers[0].text == answers[1].text
        assert "tenant-a" not in answers[0].text and SECRET not in answers[0].text


async def test_what_counts_everybody_is_not_for_tenants(world: World) -> None:
    for route in sorted(OPERATOR & set(world.routes)):
        answer = await world.ask(
            world.b,
            route,
            NAMES | {"model": "toy", "rollout_id": "rollout_1", "compression_job_id": "cmpjob-1"},
            {} if route.startswith("POST") else None,
        )
        assert answer.status_code == 403, route


async def test_objects_of_another_tenant_are_as_if_they_were_not(world: World) -> None:
    before = await world.snapshot()
    for route, body in OBJECTS.items():
        if route not in world.routes:
            continue
        nobody = {name: f"{id[: -len('0000')]}0000" for name, id in world.ids.items()}
        theirs = await world.ask(world.b, route, world.ids, body)
        none = await world.ask(world.b, route, nobody, body)
        assert theirs.status_code == none.status_code == 404, (route, theirs.text)
        told = theirs.text
        for name in world.ids:
            told = told.replace(world.ids[name], nobody[name])
        assert told == none.text, route
        assert SECRET not in theirs.text
    assert await world.snapshot() == before


async def test_requests_that_name_objects_of_another_tenant_are_as_if_they_were_not(world: World) -> None:
    before = await world.snapshot()
    asked = len(world.engine.seen)
    for route, bodies in NAMING.items():
        for name, body in bodies:
            if route not in world.routes:
                continue
            id = world.ids[name]
            nobody = f"{id[:-4]}0000"
            theirs, none = [
                await world.ask(world.b, route, {}, json.loads(json.dumps(body).replace("{}", one)))
                for one in (id, nobody)
            ]
            assert theirs.status_code == none.status_code in (400, 404), (route, theirs.text)
            assert theirs.text.replace(id, nobody) == none.text
    assert len(world.engine.seen) == asked
    assert await world.snapshot() == before


async def test_a_store_of_ones_own_takes_no_file_of_another_tenant(world: World) -> None:
    before = await world.snapshot()
    own = (await world.ask(world.b, "POST /v1/vector_stores", {}, {"name": "b"})).json()["id"]
    file = world.ids["file_id"]
    nobody = f"{file[:-4]}0000"
    for part, body in (
        ("files", {"file_id": "{}"}),
        ("file_batches", {"file_ids": ["{}"]}),
        ("file_batches", {"files": [{"file_id": "{}"}]}),
    ):
        theirs, none = [
            await world.ask(
                world.b,
                f"POST {_STORE}/{part}",
                {"vector_store_id": own},
                json.loads(json.dumps(body).replace("{}", one)),
            )
            for one in (file, nobody)
        ]
        assert theirs.status_code == none.status_code == 404, part
        assert theirs.text.replace(file, nobody) == none.text
    assert (await world.ask(world.b, f"GET {_STORE}/files", {"vector_store_id": own})).json()["data"] == []
    assert await world.snapshot() == before


async def test_lists_are_empty_of_another_tenants_objects(world: World) -> None:
    for route in sorted(LISTS & set(world.routes)):
        assert (await world.ask(world.a, route, {})).json()["data"], f"{route}: A has something there"
        assert (await world.ask(world.b, route, {})).json()["data"] == []


async def test_no_cache_tells_what_another_tenant_asked(world: World) -> None:
    def told(answer: httpx.Response) -> tuple[object, ...]:
        usage = answer.json().get("usage", {})
        cached = json.dumps([usage.get(name) for name in usage if "detail" in name or "cache" in name])
        return answer.status_code, answer.headers.get("x-deepwell-cache"), cached

    for route, question in GENERATING.items():
        body = _of_its_own(route, question)
        elsewhere = json.loads(json.dumps(body).replace(SECRET, "x" * len(SECRET)))
        seen = len(world.engine.seen)
        first = await world.ask(world.b, route, {}, body)
        fresh = await world.ask(world.b, route, {}, elsewhere)
        assert told(first) == told(fresh), route
        assert first.headers.get("x-deepwell-cache") in (None, "miss"), route
        mine = world.engine.seen[seen:]
        assert {request.cache_salt for request in mine} <= {"tenant-b"}
        if route in ("POST /v1/chat/completions", "POST /v1/completions", "POST /v1/messages"):
            assert len(mine) == 2, f"{route}: B's question was generated for B"


async def test_what_a_tenant_makes_is_its_own_alone(world: World) -> None:
    before = await world.snapshot()
    bodies: dict[str, dict[str, Any]] = {
        "POST /v1/conversations": {},
        "POST /v1/feedback": {"target_id": world.ids["completion_id"], "rating": "up"},
        "POST /v1/files": {"multipart": {"purpose": (None, "user_data"), "file": ("b.txt", b"b")}},
        "POST /v1/uploads": {
            "filename": "b.txt",
            "purpose": "user_data",
            "bytes": 1,
            "mime_type": "text/plain",
        },
        "POST /v1/messages/batches": MESSAGE_BATCH,
        "POST /v1/vector_stores": {"name": "b"},
        "POST /v1/evals": EVAL,
        "POST /v1/agents/runs": AGENT_RUN,
        "POST /v1/prompts": PROMPT | {"id": "own"},
    }
    assert set(bodies) == CREATING
    for route in sorted(CREATING & set(world.routes)):
        assert (await world.ask(world.b, route, {}, bodies[route])).status_code == 200, route
    assert await world.snapshot() == before


async def test_limits_count_each_tenant_by_itself(world: World) -> None:
    a, b = [(await world.ask(who, "GET /v1/models", {})).headers for who in (world.a, world.b)]
    assert b["x-ratelimit-remaining-requests"] == "999"
    assert b["x-ratelimit-remaining-tokens"] == "100000"
    assert int(a["x-ratelimit-remaining-requests"]) < 999


MEMOISED = {
    "agents.analysis.tables.sandbox_program": "names of our own programs",
    "agents.rules.logic.solve._prepared": "in a child of one tenant",
    "agents.world.simulated.shortest._move": "states of a simulated world",
    "agents.writing.sentences._loose": "one expression of one term, in microseconds",
    "engine.weights.synth._pool": "shapes of made-up weights",
    "fleet.promotion.sequential.difference_interval": "figures of a roll-out",
    "media.speech.programs.backends._espeak_voices": "a program's path",
    "models.text.chat_template._control_tokens": "tokenizers",
    "models.text.chat_template.starts": "templates of models",
    "safety.classifier.detector.shipped_detector": "a path",
    "safety.compliance.cn.banks._read": "a path",
    "safety.compliance.packs.load": "names of our own packs",
    "safety.redaction.label": "names of rules",
    "safety.secrets._compiled": "forms of our own detectors",
    "safety.streaming.forms._at_end": "forms of our own detectors",
    "safety.streaming.values._reading": "forms of our own detectors",
    "server.caches.wording._form": "has the tenant in its key",
    "server.families.fine_tuning.artefact._fingerprint": "a path",
    "server.observe.metrics.generation": "names of models",
    "server.senses.knowledge._hashed": "a path",
}
"""Functions whose results a process remembers for all tenants together, and why that tells nothing of what one has sent."""


def test_no_function_remembers_what_a_tenant_sent() -> None:
    root = Path(deepwell.__file__).parent
    found: set[str] = set()
    for path in root.rglob("*.py"):
        place = path.relative_to(root).with_suffix("")
        if place.parts[0] in ("bench", "cli", "tuning"):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.args.args:
                calls = [one.func if isinstance(one, ast.Call) else one for one in node.decorator_list]
                if any(isinstance(one, ast.Name) and one.id in ("cache", "lru_cache") for one in calls):
                    found.add(".".join((*place.parts, node.name)).replace(".__init__.", "."))
    assert found == set(MEMOISED)
