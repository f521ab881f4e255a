"""The Responses and Conversations APIs: events, chains, background work, refusals."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from tests.server.fakes import FakeEngine

from deepwell.server.context import ServerContext

CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
TOOL = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(max_model_len=4096)  # room for tools: a token is a byte here


async def post(http: httpx.AsyncClient, path: str, body: Any, status: int = 200) -> dict[str, Any]:
    response = await http.post(path, json=body)
    assert response.status_code == status, response.text
    return response.json()


async def respond(
    http: httpx.AsyncClient, text: Any = "hello", status: int = 200, **more: Any
) -> dict[str, Any]:
    body = {"model": "toy", "input": text, "temperature": 0, **more}
    return await post(http, "/v1/responses", body, status)


def events_of(text: str) -> list[dict[str, Any]]:
    events = []
    for block in text.strip().split("\n\n"):
        name, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


async def stream(http: httpx.AsyncClient, **body: Any) -> list[dict[str, Any]]:
    response = await http.post(
        "/v1/responses", json={"model": "toy", "temperature": 0, "stream": True, **body}
    )
    assert response.status_code == 200, response.text
    return events_of(response.text)


def texts(response: dict[str, Any]) -> str:
    return "".join(
        part["text"] for item in response["output"] if item["type"] == "message" for part in item["content"]
    )


async def test_labels_of_a_coding_tool_change_nothing(http: httpx.AsyncClient) -> None:
    labels = {"thread_id": "t", "turn": {"number": 1}}
    plain, labelled = await respond(http, "hello"), await respond(http, "hello", client_metadata=labels)
    assert texts(labelled) == texts(plain) and "client_metadata" not in labelled


async def test_a_stream_tells_the_whole_story(http: httpx.AsyncClient) -> None:
    events = await stream(http, input="hé")
    types = [event["type"] for event in events]
    assert types[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert set(types[4:-4]) == {"response.output_text.delta"}
    assert types[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert "".join(event["delta"] for event in events if event["type"].endswith("text.delta")) == "hé"
    assert events[-4]["text"] == "hé"
    assert events[0]["response"]["output"] == [] and events[0]["response"]["status"] == "in_progress"
    assert events[2]["item"]["content"] == [] and events[2]["item"]["status"] == "in_progress"
    last = events[-1]["response"]
    assert texts(last) == "hé" and last["usage"]["output_tokens"] == 4
    assert (await http.get(f"/v1/responses/{last['id']}")).json() == last


async def test_a_call_streams_its_arguments(http: httpx.AsyncClient) -> None:
    events = await stream(http, input=CALL, tools=[TOOL])
    types = [event["type"] for event in events]
    assert "response.function_call_arguments.delta" in types
    done = next(event for event in events if event["type"] == "response.function_call_arguments.done")
    assert json.loads(done["arguments"]) == {"city": "Oslo"}
    pieces = [event["delta"] for event in events if event["type"] == "response.function_call_arguments.delta"]
    assert "".join(pieces) == done["arguments"]
    (item,) = events[-1]["response"]["output"]
    assert (item["type"], item["name"], item["status"]) == ("function_call", "weather", "completed")
    # The result goes back, by chain or by hand; the fake model repeats what the user said last.
    result = {"type": "function_call_output", "call_id": item["call_id"], "output": "rain"}
    chained = await respond(
        http,
        [result, {"role": "user", "content": "so?"}],
        previous_response_id=events[-1]["response"]["id"],
        tools=[TOOL],
    )
    assert texts(chained) == "so?"
    by_hand = await respond(
        http, [{"role": "user", "content": CALL}, item, result, {"role": "user", "content": "so?"}]
    )
    assert texts(by_hand) == "so?"
    error = await respond(http, [result], 400)
    assert error["error"]["param"] == "input"


async def test_a_chain_shows_the_model_what_was_said(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    first = await respond(http, "one", instructions="be brief")
    second = await respond(http, "two", previous_response_id=first["id"])
    assert second["previous_response_id"] == first["id"]
    prompt = bytes(token for token in engine.seen[-1].prompt if token < 256).decode()
    assert prompt == "user\none\nassistant\none\nuser\ntwo\nassistant\n"  # instructions are not carried over
    items = (await http.get(f"/v1/responses/{second['id']}/input_items")).json()
    assert [item["content"][0]["text"] for item in items["data"]] == ["two"]
    assert (await http.delete(f"/v1/responses/{first['id']}")).json()["deleted"] is True
    assert (await http.get(f"/v1/responses/{first['id']}")).status_code == 404
    # The chain goes on without what was deleted.
    await respond(http, "three", previous_response_id=second["id"])
    prompt = bytes(token for token in engine.seen[-1].prompt if token < 256).decode()
    assert prompt == "user\ntwo\nassistant\ntwo\nuser\nthree\nassistant\n"
    again = await http.delete(f"/v1/responses/{first['id']}")
    assert again.status_code == 404


async def test_what_is_not_stored_is_not_found(http: httpx.AsyncClient) -> None:
    response = await respond(http, store=False)
    assert response["store"] is False
    assert (await http.get(f"/v1/responses/{response['id']}")).status_code == 404


async def test_a_cut_answer_is_incomplete(http: httpx.AsyncClient) -> None:
    response = await respond(http, "abcdef", max_output_tokens=3)
    assert (response["status"], texts(response)) == ("incomplete", "abc")
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert (await stream(http, input="abcdef", max_output_tokens=3))[-1]["type"] == "response.incomplete"


async def test_an_engine_that_gives_up_fails_the_response(
    http: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.fail_at = 2
    response = await respond(http, "abcdef")
    assert response["status"] == "failed" and "the model broke" in response["error"]["message"]
    assert texts(response) == "ab"
    assert (await stream(http, input="abcdef"))[-1]["type"] == "response.failed"


async def test_logprobs_are_asked_for(http: httpx.AsyncClient) -> None:
    include = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    response = await respond(http, "é", **include)
    (part,) = response["output"][0]["content"]
    assert [entry["bytes"] for entry in part["logprobs"]] == [[0xC3], [0xA9]]
    assert all(len(entry["top_logprobs"]) == 2 for entry in part["logprobs"])
    error = await respond(http, "é", 400, top_logprobs=2)
    assert "include" in error["error"]["message"]


async def test_background_goes_on_alone_and_streams_from_anywhere(
    http: httpx.AsyncClient, service: ServerContext
) -> None:
    response = await respond(http, "abc", background=True)
    assert response["status"] == "queued" and response["background"] is True
    live = events_of((await http.get(f"/v1/responses/{response['id']}", params={"stream": True})).text)
    assert live[-1]["type"] == "response.completed"
    assert [event["type"] for event in live[:3]] == [
        "response.created",
        "response.queued",
        "response.in_progress",
    ]
    while (done := (await http.get(f"/v1/responses/{response['id']}")).json())["status"] in (
        "queued",
        "in_progress",
    ):
        await asyncio.sleep(0)
    assert texts(done) == "abc"
    # Once more from the store, from the middle on.
    rest = await http.get(f"/v1/responses/{response['id']}", params={"stream": True, "starting_after": 3})
    assert [json.loads(line[6:]) for line in rest.text.split("\n") if line.startswith("data: ")] == live[4:]
    cancelled = await post(http, f"/v1/responses/{response['id']}/cancel", None)
    assert cancelled == done  # too late: nothing changes
    await post(http, f"/v1/responses/{(await respond(http))['id']}/cancel", None, 400)


async def test_background_can_be_cancelled_and_deleted(
    http: httpx.AsyncClient, engine: FakeEngine, service: ServerContext
) -> None:
    engine.endless = True
    more = {"background": True, "max_output_tokens": 64}
    # Endless: what ends it is the cancellation alone.
    body = {"model": "toy", "input": "abc" * 50, "temperature": 0, **more}
    response = await post(http, "/v1/responses", body)
    cancelled = await post(http, f"/v1/responses/{response['id']}/cancel", None)
    assert cancelled["status"] == "cancelled"
    assert (await http.get(f"/v1/responses/{response['id']}")).json() == cancelled
    assert engine.aborted == 1
    again = await post(http, "/v1/responses", body)
    assert (await http.delete(f"/v1/responses/{again['id']}")).status_code == 200
    assert (await http.get(f"/v1/responses/{again['id']}")).status_code == 404
    assert engine.aborted == 2


async def test_a_server_that_stops_fails_what_is_unfinished(
    http: httpx.AsyncClient, service: ServerContext, tmp_path: Any
) -> None:
    response = await respond(http, "abc" * 50, background=True)
    await service.close_background()
    stopped = (await http.get(f"/v1/responses/{response['id']}")).json()
    assert stopped["status"] == "failed" and "stopped" in stopped["error"]["message"]


async def test_a_conversation_grows_with_its_responses(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    given = [{"role": "user", "content": "first"}, {"role": "assistant", "content": "yes"}]
    conversation = await post(http, "/v1/conversations", {"items": given, "metadata": {"a": "b"}})
    response = await respond(http, "second", conversation=conversation["id"])
    assert response["conversation"] == {"id": conversation["id"]}
    prompt = bytes(token for token in engine.seen[-1].prompt if token < 256).decode()
    assert prompt == "user\nfirst\nassistant\nyes\nuser\nsecond\nassistant\n"
    path = f"/v1/conversations/{conversation['id']}"
    items = (await http.get(f"{path}/items", params={"order": "asc"})).json()["data"]
    assert [item["content"][0]["text"] for item in items] == ["first", "yes", "second", "second"]
    assert [item["content"][0]["type"] for item in items] == [
        "input_text",
        "output_text",
        "input_text",
        "output_text",
    ]
    assert (await http.get(f"{path}/items/{items[0]['id']}")).json() == items[0]
    await http.delete(f"{path}/items/{items[0]['id']}")
    assert (await http.get(f"{path}/items/{items[0]['id']}")).status_code == 404
    added = await post(http, f"{path}/items", {"items": [{"role": "user", "content": "x"}]})
    assert len(added["data"]) == 1
    assert (await post(http, path, {"metadata": {"c": "d"}}))["metadata"] == {"c": "d"}
    assert (await http.delete(path)).json()["deleted"] is True
    assert (await http.get(path)).status_code == 404
    await respond(http, "x", 404, conversation=conversation["id"])


async def test_input_tokens_are_those_that_an_answer_reads(http: httpx.AsyncClient) -> None:
    body = {"model": "toy", "input": "hello", "instructions": "be brief", "tools": [TOOL]}
    counted = await post(http, "/v1/responses/input_tokens", body)
    response = await post(http, "/v1/responses", body)
    assert counted == {"object": "response.input_tokens", "input_tokens": response["usage"]["input_tokens"]}


@pytest.mark.parametrize(
    ("extra", "param", "says"),
    [
        ({"temprature": 1}, "temprature", "did you mean 'temperature'"),
        ({"truncation": "end"}, "truncation", "'auto'"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]", "web_search"),
        ({"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name", "pattern"),
        ({"tool_choice": "sometimes"}, "tool_choice", "'required'"),
        ({"tool_choice": "required"}, "tool_choice", "no tools"),
        ({"input": [{"type": "computer_call"}]}, "input[0]", "computer_call"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input[0].content[0].image_url",
            "image_url or file_id",
        ),
        ({"input": [{"role": "bot", "content": ""}]}, "input[0].role", "'user'"),
        ({"input": []}, "input", "nothing to answer"),
        ({"prompt": {"version": "1"}}, "prompt.id", "missing parameter"),
        ({"include": ["web_search_call.results"]}, "include[0]", "file_search is the one built-in tool"),
        ({"conversation": "c", "previous_response_id": "r"}, "previous_response_id", "exclude each other"),
        ({"background": True, "store": False}, "background", "store: true"),
        ({"reasoning": {"effort": "high"}}, "reasoning.effort", "leave it out"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format", "needs a name"),
        ({"metadata": {"k": "v" * 513}}, "metadata.k", "512"),
        ({"max_output_tokens": 100_000}, "input", "context length"),
        ({"stream_options": {}}, "stream_options", "stream: true"),
    ],
)
async def test_responses_refuse_by_name(
    http: httpx.AsyncClient, extra: dict[str, Any], param: str | None, says: str
) -> None:
    error = (await post(http, "/v1/responses", {"model": "toy", "input": "x"} | extra, 400))["error"]
    assert error["param"] == param and says in error["message"], error


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/responses/x"),
        ("DELETE", "/v1/responses/x"),
        ("POST", "/v1/responses/x/cancel"),
        ("GET", "/v1/responses/x/input_items"),
        ("GET", "/v1/conversations/x"),
        ("DELETE", "/v1/conversations/x"),
        ("GET", "/v1/conversations/x/items"),
        ("GET", "/v1/conversations/x/items/y"),
        ("DELETE", "/v1/conversations/x/items/y"),
        ("GET", "/v1/chat/completions/x"),
        ("GET", "/v1/chat/completions/x/messages"),
        ("DELETE", "/v1/chat/completions/x"),
    ],
)
async def test_what_is_missing_is_named(http: httpx.AsyncClient, method: str, path: str) -> None:
    response = await http.request(method, path)
    assert response.status_code == 404
    assert "'x'" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    "query", [{"limit": "0"}, {"limit": "101"}, {"after": "nobody"}, {"order": "up"}, {"lmit": "1"}]
)
@pytest.mark.parametrize(
    "path", ["/v1/responses/{}/input_items", "/v1/conversations/{}/items", "/v1/chat/completions"]
)
async def test_pages_refuse_by_name(http: httpx.AsyncClient, path: str, query: dict[str, str]) -> None:
    if "responses" in path:
        path = path.format((await respond(http))["id"])
    elif "conversations" in path:
        path = path.format((await post(http, "/v1/conversations", {}))["id"])
    response = await http.get(path, params=query)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == next(iter(query))


async def test_a_stored_completion_is_what_was_answered(http: httpx.AsyncClient) -> None:
    body = {
        "model": "toy",
        "messages": [{"role": "user", "content": CALL}],
        "store": True,
        "metadata": {"k": "v"},
    }
    tool = {"type": "function", "function": {"name": "weather", "parameters": TOOL["parameters"]}}
    whole = await post(http, "/v1/chat/completions", body | {"tools": [tool], "temperature": 0})
    stored = (await http.get(f"/v1/chat/completions/{whole['id']}")).json()
    assert stored == whole | {"metadata": {"k": "v"}}
    response = await http.post(
        "/v1/chat/completions", json=body | {"tools": [tool], "temperature": 0, "stream": True}
    )
    chunks = [json.loads(line[6:]) for line in response.text.split("\n") if line.startswith("data: {")]
    streamed = (await http.get(f"/v1/chat/completions/{chunks[0]['id']}")).json()
    calls = [call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls", ())]
    assert streamed["choices"][0]["message"]["tool_calls"][0]["id"] == calls[0]["id"]
    assert streamed["choices"][0]["finish_reason"] == "tool_calls"
    found = (await http.get("/v1/chat/completions", params={"metadata[k]": "v", "model": "toy"})).json()
    assert [one["id"] for one in found["data"]] == [whole["id"], streamed["id"]]
    assert (await http.get("/v1/chat/completions", params={"metadata[k]": "w"})).json()["data"] == []
    messages = (await http.get(f"/v1/chat/completions/{whole['id']}/messages")).json()["data"]
    assert [(message["role"], message["content"]) for message in messages] == [("user", CALL)]
    updated = await post(http, f"/v1/chat/completions/{whole['id']}", {"metadata": {"x": "y"}})
    assert updated["metadata"] == {"x": "y"}
    assert (await http.delete(f"/v1/chat/completions/{whole['id']}")).json()["deleted"] is True
