"""Items by reference, chains with gaps, allowed tools, and reasoning that clients carry: what clients of the API rely on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.server.fakes import FakeEngine, make_service, write_tokenizer
from tests.server.test_responses import CALL, TOOL, post, respond, stream, texts
from tests.server.test_tools import QWEN

from deepwell.dialogue.text import Codec
from deepwell.models.text.chat_template import ChatTemplate
from deepwell.models.text.tokenizer import Tokenizer
from deepwell.server.app import create_app
from deepwell.server.families.responses.item_schema import Compacted, compaction_of
from deepwell.server.http.schema import MAX_ENTRIES


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(max_model_len=4096)


def prompt_of(engine: FakeEngine) -> str:
    return bytes(token for token in engine.seen[-1].prompt if token < 256).decode()


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


async def test_an_item_is_sent_again_by_its_id(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    first = await respond(http, [user("one")])
    (said,) = first["output"]
    reference = {"type": "item_reference", "id": said["id"]}
    second = await respond(http, [user("one"), reference, user("two")])
    assert prompt_of(engine) == "user\none\nassistant\none\nuser\ntwo\nassistant\n"
    items = (await http.get(f"/v1/responses/{second['id']}/input_items?order=asc")).json()["data"]
    assert [item["content"][0]["text"] for item in items] == ["one", "one", "two"]
    assert items[1]["id"] == said["id"]
    # Its type may be left out; items of an input are found as well; and one that the chain holds is read once.
    third = await respond(http, [{"id": items[2]["id"]}, {"id": said["id"]}, user("three")])
    assert prompt_of(engine) == "user\ntwo\nassistant\none\nuser\nthree\nassistant\n"
    await respond(http, [reference, user("four")], previous_response_id=second["id"])
    assert prompt_of(engine).count("assistant\none\n") == 1
    counted = await post(
        http, "/v1/responses/input_tokens", {"model": "toy", "input": [user("one"), reference, user("two")]}
    )
    assert counted["input_tokens"] == second["usage"]["input_tokens"]
    await http.delete(f"/v1/responses/{third['id']}")


async def test_a_call_is_referred_to_and_answered(http: httpx.AsyncClient) -> None:
    first = await respond(http, [user(CALL)], tools=[TOOL])
    (call,) = first["output"]
    again = await respond(
        http,
        [
            user(CALL),
            {"type": "item_reference", "id": call["id"]},
            {"type": "function_call_output", "call_id": call["call_id"], "output": "rain"},
            user("so?"),
        ],
        tools=[TOOL],
    )
    assert texts(again) == "so?"


async def test_items_by_reference_join_conversations(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    first = await respond(http, "one")
    reference = {"type": "item_reference", "id": first["output"][0]["id"]}
    made = await post(http, "/v1/conversations", {"items": [user("zero"), reference]})
    await respond(http, [reference, user("two")], conversation=made["id"])
    assert prompt_of(engine) == "user\nzero\nassistant\none\nuser\ntwo\nassistant\n"
    other = await post(http, "/v1/conversations", {})
    listed = await post(http, f"/v1/conversations/{other['id']}/items", {"items": [reference]})
    assert listed["data"][0]["id"] == reference["id"]


@pytest.mark.parametrize("id", ["msg_unknown", f"msg_{'0' * 32}o0", "rs_1", "x"])
async def test_an_item_that_is_not_kept_is_refused(http: httpx.AsyncClient, id: str) -> None:
    error = (await respond(http, [user("a"), {"type": "item_reference", "id": id}], 404))["error"]
    assert error["param"] == "input" and repr(id) in error["message"] and "store" in error["message"]


async def test_items_of_responses_that_were_not_stored_or_are_deleted_are_gone(
    http: httpx.AsyncClient,
) -> None:
    unstored = await respond(http, "one", store=False)
    deleted = await respond(http, "one")
    await http.delete(f"/v1/responses/{deleted['id']}")
    for response in (unstored, deleted):
        reference = {"type": "item_reference", "id": response["output"][0]["id"]}
        await respond(http, [reference, user("x")], 404)


async def test_an_unknown_previous_response_is_openais_400(http: httpx.AsyncClient) -> None:
    error = (await respond(http, "x", 400, previous_response_id="resp_none"))["error"]
    assert (error["code"], error["param"]) == ("previous_response_not_found", "previous_response_id")


@pytest.mark.parametrize("deleted", [0, 1])
async def test_a_call_and_its_result_leave_a_chain_together(
    http: httpx.AsyncClient, engine: FakeEngine, deleted: int
) -> None:
    first = await respond(http, CALL, tools=[TOOL])
    result = {
        "type": "function_call_output",
        "call_id": first["output"][0]["call_id"],
        "output": "it rains",
    }
    second = await respond(http, [result, user("so?")], previous_response_id=first["id"], tools=[TOOL])
    third = await respond(http, "and?", previous_response_id=second["id"])
    await http.delete(f"/v1/responses/{(first, second)[deleted]['id']}")
    assert texts(await respond(http, "go on", previous_response_id=third["id"])) == "go on"
    assert "it rains" not in prompt_of(engine)
    assert ("so?" in prompt_of(engine)) == (deleted == 0)


async def test_a_deleted_end_of_a_chain_cannot_be_continued(http: httpx.AsyncClient) -> None:
    first = await respond(http, "one")
    second = await respond(http, "two", previous_response_id=first["id"])
    await http.delete(f"/v1/responses/{second['id']}")
    await respond(http, "three", 400, previous_response_id=second["id"])


OTHER = {"type": "function", "name": "time", "parameters": {"type": "object"}}


def allowed(mode: str, *names: str) -> dict[str, Any]:
    return {
        "type": "allowed_tools",
        "mode": mode,
        "tools": [{"type": "function", "name": name} for name in names],
    }


async def test_some_of_the_tools_are_allowed(http: httpx.AsyncClient, engine: FakeEngine) -> None:
    tools = [TOOL, OTHER]
    response = await respond(http, "hi", tools=tools, tool_choice=allowed("auto", "time"))
    assert response["tool_choice"] == allowed("auto", "time")
    assert "weather" not in prompt_of(engine) and '"time"' in prompt_of(engine)
    await respond(http, "hi", tools=tools, tool_choice=allowed("required", "time"))
    grammar = engine.seen[-1].params.grammar
    assert grammar is not None and "weather" not in grammar.source and "time" in grammar.source
    assert "weather" in prompt_of(engine)
    for mode in ("auto", "required"):
        error = (await respond(http, "hi", 400, tools=tools, tool_choice=allowed(mode, "none")))["error"]
        assert error["param"] == "tool_choice" and "'none'" in error["message"]


@pytest.mark.parametrize("query", ["?beta=true", ""])
async def test_the_beta_surface_reads_and_deletes(http: httpx.AsyncClient, query: str) -> None:
    body = {"model": "toy", "input": "hi"}
    made = await post(http, f"/v1/responses{query}", body)
    path = f"/v1/responses/{made['id']}"
    assert (await http.get(f"{path}{query}")).json() == made
    assert (await http.get(f"{path}/input_items{query}")).status_code == 200
    assert (await http.delete(f"{path}{query}")).status_code == 200


@pytest.fixture
async def thinker(engine: FakeEngine, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A model that may reason: it repeats the user's words, tags included."""
    tokenizer = Tokenizer.load(write_tokenizer(tmp_path))
    template = ChatTemplate(QWEN, "<|im_start|>", "<|im_end|>")
    app = create_app(make_service(engine, Codec(tokenizer, template), model="toy"))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client


async def test_reasoning_comes_sealed_and_goes_back(thinker: httpx.AsyncClient) -> None:
    include = ["reasoning.encrypted_content"]
    asked = "<think>I wonder é</think>yes"
    response = await respond(thinker, asked, include=include, store=False)
    reasoning, _ = response["output"]
    assert reasoning["content"][0]["text"] == "I wonder é"
    sealed = reasoning["encrypted_content"]
    assert sealed and "wonder" not in sealed
    events = await stream(thinker, input=asked, include=include)
    done = next(event["item"] for event in events if event["type"] == "response.output_item.done")
    assert done["encrypted_content"] == sealed
    # A client that keeps nothing else sends it back alone.
    kept = {"type": "reasoning", "id": reasoning["id"], "summary": [], "encrypted_content": sealed}
    again = await respond(thinker, [user(asked), kept, {"role": "assistant", "content": "yes"}, user("so")])
    items = (await thinker.get(f"/v1/responses/{again['id']}/input_items?order=asc")).json()["data"]
    assert items[1]["content"] == reasoning["content"] and items[1]["encrypted_content"] == sealed
    plain = (await respond(thinker, asked))["output"][0]
    assert "encrypted_content" not in plain


@pytest.mark.parametrize("sealed", ["gAAAAABm", "dw1.???", "dw1._w=="])
async def test_reasoning_that_was_sealed_elsewhere_is_refused(http: httpx.AsyncClient, sealed: str) -> None:
    item = {"type": "reasoning", "summary": [], "encrypted_content": sealed}
    error = (await respond(http, [item, user("x")], 400))["error"]
    assert error["param"] == "input[0].encrypted_content" and "not made here" in error["message"]


async def test_a_list_of_includes_is_accepted_where_answers_are_read(http: httpx.AsyncClient) -> None:
    made = await respond(http, "hi", include=["reasoning.encrypted_content"])
    answer = await http.get(f"/v1/responses/{made['id']}?include[]=reasoning.encrypted_content")
    assert answer.status_code == 200


async def test_a_compaction_of_too_many_messages_is_refused(http: httpx.AsyncClient) -> None:
    item = {
        "type": "compaction",
        "encrypted_content": compaction_of([Compacted("user", "x")] * (MAX_ENTRIES + 1)),
    }
    error = (await respond(http, [item, user("x")], 400))["error"]
    assert error["param"] == "input[0].encrypted_content" and str(MAX_ENTRIES) in error["message"]
