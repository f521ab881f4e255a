"""`deepwell bench siege --part tenants`: whether two tenants ever meet, over HTTP, in every route, name and cache."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from string import Template
from typing import Any

from deepwell.cli.bench.report import Report
from deepwell.server.app import route_table
from deepwell_bench.harness.junit import run_pytest
from deepwell_bench.suites.security.besieged import Besieged, besieged
from deepwell_bench.workloads.attacks.objects import FOREIGN

__all__ = ["bench_tenants", "paths_with_ids"]

_ASKED = "the password of the guest is swordfish"
_ID_OF = {  # parameters of paths, by kind of object
    "file_id": "file",
    "completion_id": "completion",
    "response_id": "response",
    "conversation_id": "conversation",
    "upload_id": "upload",
    "batch_id": "batch",
}
_OLLAMA: dict[str, dict[str, Any]] = {  # operations of ollama's API that name a model
    "/api/chat": {"messages": [{"role": "user", "content": "Hi"}], "options": {"num_predict": 1}},
    "/api/generate": {"prompt": "Hi", "options": {"num_predict": 1}},
    "/api/embed": {"input": "Hi"},
    "/api/embeddings": {"prompt": "Hi"},
    "/api/show": {},
}


def bench_tenants(report: Report, model: Path) -> dict[str, Any]:
    """Lets one tenant ask every route of the API document for the other's objects, lists, names and cached answers.

    `crossings` are answers that differ from those for an object that nobody has, lists and adapters that show another
    tenant's, and answers that came from another tenant's cache. The suite of two tenants over the application runs as well.
    """
    with besieged(model, workers=2) as server:
        found = [*_foreign(server), *_listed(server), *_named(server), *_cached(server)]
    crossings = [why for _, why in found if why]
    report.table("Tenants", ["tried", "crossing"], [[what, why or "none"] for what, why in found])
    suite = run_pytest(["tests/server/test_tenants.py"]).counts()
    return {
        "tried": len(found),
        "crossings": len(crossings),
        "suite_passed": suite["passed"],
        "suite_failed": suite["failed"],
    }


def paths_with_ids(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields method and path of each operation of an OpenAPI document that names an object which a tenant has."""
    for path, operations in document["paths"].items():
        names = re.findall(r"\{(\w+)", path)
        if names and names[0] in _ID_OF:
            for method in operations:
                yield method.upper(), path


def _foreign(server: Besieged) -> Iterator[tuple[str, str]]:
    """Asks for the guest's objects and for objects that nobody has: both answers must be the same."""
    bodies = {(method, re.sub(r"\{\w+", "{", path)): body for method, path, body in FOREIGN}
    _, document = server.request("guest", "GET", "/openapi.json")
    for method, path in paths_with_ids(document):
        body = bodies.get((method, re.sub(r"\{\w+", "{", path)), {} if method == "POST" else None)
        answers: list[tuple[int, str]] = []
        for nobody in (False, True):
            ids = {name: _id(server.theirs.get(kind, "none"), nobody) for name, kind in _ID_OF.items()}
            ids |= {"item_id": "msg_0", "id": "none"}
            status, said = server.request("raider", method, path.format_map(ids), body)
            text = (
                said
                if isinstance(said, str)
                else json.dumps(said)
                if not isinstance(said, bytes)
                else said.hex()
            )
            for name in sorted(ids.values(), key=len, reverse=True):
                text = text.replace(name, "ID")
            answers.append((status, text))
        same = answers[0] == answers[1] and answers[0][0] in (400, 404)
        yield (
            f"{method} {path}",
            "" if same else f"{answers[0][0]} instead of {answers[1][0]}: {answers[0][1][:80]}",
        )


def _id(id: str, nobody: bool) -> str:
    return id[:-4] + ("0000" if id[-4:] != "0000" else "1111") if nobody else id


def _listed(server: Besieged) -> Iterator[tuple[str, str]]:
    for path in ("/v1/files", "/v1/batches", "/v1/chat/completions", "/v1/models", "/api/tags", "/api/ps"):
        _, said = server.request("raider", "GET", path)
        text = json.dumps(said)
        seen = [kind for kind, id in server.theirs.items() if id in text]
        yield f"GET {path}", f"lists the guest's {seen[0]}" if seen else ""


def _named(server: Besieged) -> Iterator[tuple[str, str]]:
    """Takes names that others are served by, and uses what the guest has loaded."""

    def load(who: str, name: str) -> int:
        return server.request(who, "POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": "lora"})[
            0
        ]

    def ask(who: str, model: str) -> int:
        chat = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
        return server.request(who, "POST", "/v1/chat/completions", chat)[0]

    served = [one["id"] for one in server.request("raider", "GET", "/v1/models")[1]["data"]]
    for name in served:
        yield (
            f"an adapter called {name}",
            "" if load("raider", name) >= 400 else "it took a name that is served",
        )
    if "adapter" in server.theirs:
        name = server.theirs["adapter"]
        for path, body in _examples(name):
            status, said = server.request("raider", "POST", path, body)
            yield f"the guest's adapter, {path}", "" if status == 404 else f"{status}: {str(said)[:80]}"
        for path, body in _OLLAMA.items():
            asked = {"model": f"{name}:latest", **body}
            status = server.request("raider", "POST", path, asked)[0]
            yield f"the guest's adapter with a tag, {path}", "" if status >= 400 else "it answered"
        status = server.request("raider", "POST", "/v1/unload_lora_adapter", {"lora_name": name})[0]
        yield (
            "the guest's adapter, unloaded",
            "" if status >= 400 and ask("guest", name) == 200 else "it was unloaded",
        )
        load("raider", name)
        server.request("raider", "POST", "/v1/unload_lora_adapter", {"lora_name": name})
        yield "an adapter of the same name", "" if ask("guest", name) == 200 else "the guest's is gone"


def _examples(model: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the path and a body of each operation that names a model."""
    for operation in route_table().operations.values():
        if operation.example is not None:
            yield operation.path, json.loads(Template(operation.example).substitute(model=model, text="Hi"))


def _cached(server: Besieged) -> Iterator[tuple[str, str]]:
    """Asks what the guest has asked until its answer is kept: nothing may tell so."""
    schema = {"type": "object", "properties": {"swordfish": {"type": "string", "maxLength": 4}}}
    limits: dict[str, Any] = {"model": server.model, "max_tokens": 4, "temperature": 0}
    # Each has words of its own from the start, so that the raider's own requests are not felt either.
    texts = [f"{number} {_ASKED} {'and so it is ' * 20}" for number in range(5)]
    messages = [[{"role": "user", "content": text}] for text in texts]
    asked: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": limits | {"messages": messages[0]},
        "/v1/completions": limits | {"prompt": texts[1]},
        "/v1/messages": limits | {"messages": messages[2]},
        "/v1/responses": {"model": server.model, "input": texts[3], "max_output_tokens": 4, "temperature": 0},
        "/v1/chat/completions ": limits | {"messages": messages[4], "structured_outputs": {"json": schema}},
    }
    for path, body in asked.items():
        for _ in range(3):
            server.request("guest", "POST", path.strip(), body)
        nobody = json.loads(json.dumps(body).replace(_ASKED, _ASKED[::-1]))
        found = [_reused(server.request("raider", "POST", path.strip(), one)[1]) for one in (body, nobody)]
        yield (
            f"the guest's question, {path.strip()}",
            ""
            if found[0] <= found[1] + 16
            else f"{found[0]} of its tokens were cached, and {found[1]} of another's",
        )


def _reused(answer: dict[str, Any]) -> int:
    """Returns how many tokens of the prompt came from a cache, as an answer tells."""
    usage = answer.get("usage", {})
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
    return int(details.get("cached_tokens") or usage.get("cache_read_input_tokens") or 0)
