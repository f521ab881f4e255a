"""OpenAI's document: every operation is served, every kind is accepted, or it is refused by name; and all are listed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI
from tests.server.fakes import FakeEngine

from deepwell.server.app import route_table
from deepwell.server.http.documented import DocumentedKinds, document

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "coverage.md").read_text(encoding="utf-8")
TABLE = route_table()
OPERATIONS = [one for family in document().families for one in family.operations]
KINDS = [(kinds, value) for kinds in document().kinds for value in kinds.values]
REFUSED = re.compile(r"(is|are) not supported|unknown purpose|only text comes out")


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(max_model_len=4096)


def test_the_document_has_the_operations_that_were_counted() -> None:
    assert len(OPERATIONS) == len(set(OPERATIONS)) == 104
    assert len(OPERATIONS) - len(TABLE.not_served) == 88
    assert "It serves 88 of these 104 operations" in PAGE


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_an_operation_is_served_or_refused_by_name_and_listed(
    http: httpx.AsyncClient, operation: str
) -> None:
    method, path = operation.split(" ")
    reason = TABLE.not_served.get((method.lower(), path))
    assert f"| `{operation}` | {'yes' if reason is None else 'no'} | {reason or ''}".rstrip() in PAGE
    answer = await http.request(method, re.sub(r"\{\w+\}", "some-id", path))
    if reason is None:
        assert answer.status_code != 405 and "operation_not_served" not in answer.text
        return
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (404, "operation_not_served")
    assert reason in error["message"] and len(reason) > 20


async def test_an_operation_of_a_newer_sdk_is_refused_by_name(http: httpx.AsyncClient) -> None:
    answer = await http.delete("/v1/audio/voices/voice_1")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (404, "operation_not_served")
    assert "no recording becomes a new one" in error["message"]


async def test_an_unknown_path_is_no_operation(http: httpx.AsyncClient) -> None:
    assert (await http.get("/v1/nothing")).json()["error"]["code"] is None
    wrong = await http.post("/v1/models")
    assert wrong.status_code == 405 and "use GET" in wrong.json()["error"]["message"]


def _chat(**more: Any) -> dict[str, Any]:
    return {"model": "toy", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4} | more


def _respond(**more: Any) -> dict[str, Any]:
    return {"model": "toy", "input": "hi", "max_output_tokens": 4} | more


FUNCTION = {"name": "f", "parameters": {"type": "object"}}
BODIES: dict[str, Any] = {
    "messages[].role": lambda kind: _chat(messages=[{"role": kind, "content": "hi"}]),
    "messages[].content[].type": lambda kind: _chat(
        messages=[{"role": "user", "content": [{"type": kind, "text": "hi"}]}]
    ),
    "tools[].type": lambda kind: _chat(tools=[{"type": kind, "function": FUNCTION}]),
    "tool_choice.type": lambda kind: _chat(tool_choice={"type": kind}),
    "response_format.type": lambda kind: _chat(response_format={"type": kind}),
    "responses input[].type": lambda kind: _respond(input=[{"type": kind, "id": "x"}]),
    "responses input[].content[].type": lambda kind: _respond(
        input=[{"role": "user", "content": [{"type": kind, "text": "hi"}]}]
    ),
    "responses tools[].type": lambda kind: _respond(tools=[{"type": kind, **FUNCTION}]),
    "responses tool_choice.type": lambda kind: _respond(tool_choice={"type": kind}),
    "responses text.format.type": lambda kind: _respond(text={"format": {"type": kind}}),
    "responses include[]": lambda kind: _respond(include=[kind]),
    "endpoint": lambda kind: {"input_file_id": "file-x", "endpoint": kind, "completion_window": "24h"},
}


@pytest.mark.parametrize(("kinds", "value"), KINDS, ids=[f"{kinds.place} {value}" for kinds, value in KINDS])
async def test_a_kind_is_accepted_or_refused_by_name_and_listed(
    http: httpx.AsyncClient, kinds: DocumentedKinds, value: str
) -> None:
    (row,) = [
        line
        for line in PAGE.splitlines()
        if line.startswith(f"| `{kinds.operation}` | `{kinds.parameter}` |")
    ]
    accepted, refused = (f"`{value}`" in cell for cell in row.split("|")[3:5])
    assert accepted != refused
    path = kinds.operation.split(" ")[1]
    if path == "/v1/files":
        answer = await http.post(path, files={"purpose": (None, value), "file": ("a.txt", b"a")})
    else:
        parameter = f"responses {kinds.parameter}" if path == "/v1/responses" else kinds.parameter
        answer = await http.post(path, json=BODIES[parameter](value))
    message = answer.json()["error"]["message"] if answer.status_code >= 400 else ""
    if accepted:
        assert not REFUSED.search(message)
    else:
        assert answer.status_code == 400 and REFUSED.search(message) and repr(value) in message


def test_a_refusal_reaches_the_sdk_as_its_own_error(sdk: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="checkpoints are their tenant's alone") as refused:
        sdk.fine_tuning.checkpoints.permissions.create("x", project_ids=["y"])
    assert refused.value.code == "operation_not_served"
