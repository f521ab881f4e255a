"""The tool `file_search` through the official SDK: search, grounded answer and citations, whole, streamed and kept.

The engine repeats the last user message, which holds the passages: its sentences are therefore those of the passages.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from tests.server.conftest import Live, start
from tests.server.fakes import FakeEngine, make_service
from tests.server.knowledge import use_hash_embedder

from deepwell.dialogue.text import Codec
from deepwell.storage.database import Database, Tenant
from deepwell.storage.keys import KeyStore

WHALE = "The blue whale is the largest animal. It eats krill in cold seas."
OAK = "An oak tree grows slowly from an acorn, and it can live for a thousand years."
QUESTION = "What is the largest animal, the blue whale or another?"
FAR = "Which interest rate did the bank set?"
DECLINED = "I did not find this in the documents."
FUNCTION: Any = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": False}


@pytest.fixture(scope="module")
def running(codec: Codec) -> Iterator[Live]:
    with pytest.MonkeyPatch.context() as patch:
        use_hash_embedder(patch)
        engine = FakeEngine(max_model_len=4096)
        running = start(make_service(engine, codec, model="toy"), engine)
        yield running
        running.stop()


def _given(running: Live) -> dict[str, Any]:
    return {
        "base_url": f"{running.url}/v1",
        "api_key": "none",
        "max_retries": 0,
        "_strict_response_validation": True,
    }


@pytest.fixture(scope="module")
def client(running: Live) -> Iterator[OpenAI]:
    with OpenAI(**_given(running)) as client:
        yield client


@pytest.fixture
async def aclient(running: Live) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(**_given(running)) as client:
        yield client


@pytest.fixture(scope="module")
def store(client: OpenAI) -> str:
    return filled(client)


def filled(client: OpenAI) -> str:
    store = client.vector_stores.create(name="nature").id
    for name, text in (("whale", WHALE), ("oak", OAK)):
        client.vector_stores.files.upload_and_poll(
            vector_store_id=store,
            file=(f"{name}.txt", text.encode()),
            attributes={"name": name},
            poll_interval_ms=20,
        )
    return store


def asking(store: str, text: Any = QUESTION, **more: Any) -> dict[str, Any]:
    tool = {"type": "file_search", "vector_store_ids": [store]} | more.pop("tool", {})
    return {"model": "toy", "input": text, "tools": [tool, *more.pop("tools", ())], "temperature": 0} | more


def search_of(response: Any) -> Any:
    (found,) = [item for item in response.output if item.type == "file_search_call"]
    return found


def cited(response: Any) -> list[Any]:
    (message,) = [item for item in response.output if item.type == "message"]
    return message.content[0].annotations


def prompts(running: Live) -> list[str]:
    return [bytes(token for token in one.prompt if token < 256).decode() for one in running.engine.seen]


def test_an_answer_rests_on_passages_and_cites_them(client: OpenAI, store: str) -> None:
    response = client.responses.create(**asking(store), include=["file_search_call.results"])
    assert [item.type for item in response.output] == ["file_search_call", "message"]
    search = search_of(response)
    assert (search.status, search.queries) == ("completed", [QUESTION])
    assert search.results[0].filename == "whale.txt" and search.results[0].text == WHALE
    assert search.results[0].attributes == {"name": "whale"} and search.results[0].file_id
    first, *_ = cited(response)
    assert (first.type, first.filename) == ("file_citation", "whale.txt")
    assert first.file_id == search.results[0].file_id
    text = response.output_text
    assert "The blue whale is the largest animal" in text
    assert all(text[one.index :].startswith("[1]") for one in cited(response))
    assert response.tools[0].type == "file_search" and response.tool_choice == "auto"


def test_results_are_shown_only_if_they_are_asked_for(client: OpenAI, store: str) -> None:
    assert search_of(client.responses.create(**asking(store))).results is None


def test_the_prompt_with_its_passages_is_what_is_counted(client: OpenAI, store: str, running: Live) -> None:
    running.engine.seen.clear()
    response = client.responses.create(**asking(store))
    (prompt,) = prompts(running)
    assert f"> {WHALE}" in prompt and QUESTION in prompt
    assert response.usage and response.usage.input_tokens == len(running.engine.seen[0].prompt)
    counted = client.responses.input_tokens.count(model="toy", input=QUESTION, tools=asking(store)["tools"])
    assert counted.input_tokens == response.usage.input_tokens


def test_what_the_stores_do_not_answer_is_declined(client: OpenAI, store: str, running: Live) -> None:
    running.engine.seen.clear()
    response = client.responses.create(**asking(store, FAR))
    assert response.output_text == DECLINED and cited(response) == [] and response.status == "completed"
    assert search_of(response).queries == [FAR]
    assert response.usage and response.usage.total_tokens == 0 and running.engine.seen == []


def test_the_tool_choice_decides_whether_there_is_a_search(client: OpenAI, store: str) -> None:
    def searches(choice: Any, **more: Any) -> bool:
        response = client.responses.create(**asking(store, tool_choice=choice, **more))
        return any(item.type == "file_search_call" for item in response.output)

    assert searches("auto") and searches("required") and searches({"type": "file_search"})
    assert not searches("none")
    some = {"type": "allowed_tools", "mode": "required"}
    assert searches(some | {"tools": [{"type": "file_search"}]}, tools=[FUNCTION])
    named = {"type": "function", "name": "weather"}
    assert not searches(some | {"tools": [named], "mode": "auto"}, tools=[FUNCTION])
    response = client.responses.create(**asking(store, tool_choice={"type": "file_search"}))
    assert getattr(response.tool_choice, "type", None) == "file_search"


def test_functions_work_beside_it(client: OpenAI, store: str) -> None:
    call = '<tool_call>\n{"name": "weather", "arguments": {}}\n</tool_call>'
    response = client.responses.create(**asking(store, call, tools=[FUNCTION]))
    assert [item.type for item in response.output] == ["file_search_call", "function_call"]
    named = client.responses.create(
        **asking(store, call, tools=[FUNCTION], tool_choice={"type": "function", "name": "weather"})
    )
    assert [item.type for item in named.output] == ["function_call"]
    results = [
        {"type": "function_call_output", "call_id": item.call_id, "output": "rain"}
        for item in response.output
        if item.type == "function_call"
    ]
    after = client.responses.create(
        **asking(store, results, tools=[FUNCTION], previous_response_id=response.id)
    )
    assert after.status == "completed" and search_of(after).queries == [call]


def test_filters_numbers_and_weights(client: OpenAI, store: str) -> None:
    def names(**tool: Any) -> list[str]:
        given = asking(store, tool=tool, include=["file_search_call.results"])
        return [one.filename for one in search_of(client.responses.create(**given)).results]

    assert names(filters={"type": "eq", "key": "name", "value": "oak"}) == ["oak.txt"]
    assert len(names(max_num_results=1)) == 1
    assert names(ranking_options={"hybrid_search": {"embedding_weight": 0, "text_weight": 1}})
    assert names(ranking_options={"hybrid_search": {"embedding_weight": 1, "text_weight": 0}})
    assert names(ranking_options={"ranker": "auto", "score_threshold": 1.0}) == []


def test_events_tell_of_the_search_and_of_every_citation(client: OpenAI, store: str) -> None:
    events = list(client.responses.create(**asking(store), stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    types = [event.type for event in events]
    begin = types.index("response.output_item.added")
    assert types[begin : begin + 5] == [
        "response.output_item.added",
        "response.file_search_call.in_progress",
        "response.file_search_call.searching",
        "response.file_search_call.completed",
        "response.output_item.done",
    ]
    last: Any = events[-1]
    assert last.type == "response.completed"
    added = [event for event in events if event.type == "response.output_text.annotation.added"]
    shown: list[Any] = [event.annotation for event in added]
    assert [(one.file_id, one.index) for one in shown] == [
        (one.file_id, one.index) for one in cited(last.response)
    ]
    assert [event.annotation_index for event in added] == list(range(len(added))) and added
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == last.response.output_text
    with client.responses.stream(**asking(store)) as stream:
        assert stream.get_final_response().output_text == text


def test_a_background_response_is_replayed_with_its_search(client: OpenAI, store: str) -> None:
    events = list(client.responses.create(**asking(store), background=True, stream=True))
    first: Any = events[0]
    again = list(client.responses.retrieve(first.response.id, stream=True, starting_after=2))
    assert [one.model_dump() for one in again] == [one.model_dump() for one in events[3:]]
    kept = client.responses.retrieve(first.response.id)
    assert search_of(kept).queries == [QUESTION] and cited(kept)


def test_a_chain_and_a_conversation_keep_the_search(client: OpenAI, store: str) -> None:
    first = client.responses.create(**asking(store))
    second = client.responses.create(model="toy", input="and?", previous_response_id=first.id)
    assert second.status == "completed"
    conversation = client.conversations.create()
    client.responses.create(**asking(store), conversation=conversation.id)
    kinds = [item.type for item in client.conversations.items.list(conversation.id, order="asc")]
    assert kinds == ["message", "file_search_call", "message"]
    reference: Any = {"type": "item_reference", "id": first.output[0].id}
    assert client.responses.create(model="toy", input=[reference, {"role": "user", "content": "hi"}]).output


def test_output_is_taken_back_as_input(client: OpenAI, store: str) -> None:
    first = client.responses.create(**asking(store), include=["file_search_call.results"])
    history: list[Any] = [
        {"role": "user", "content": QUESTION},
        *[item.model_dump(exclude_none=True) for item in first.output],
        {"role": "user", "content": "What grows from an acorn?"},
    ]
    second = client.responses.create(**asking(store, history))
    assert search_of(second).queries and second.status == "completed"
    items = client.responses.input_items.list(second.id, order="asc").data
    assert [item.type for item in items] == ["message", "file_search_call", "message", "message"]


def test_a_format_is_kept_and_not_cited(client: OpenAI, store: str) -> None:
    response = client.responses.create(**asking(store), text={"format": {"type": "json_object"}})
    assert cited(response) == [] and search_of(response).queries == [QUESTION]


def test_a_removed_file_is_in_no_answer(client: OpenAI) -> None:
    store = filled(client)
    asked = asking(store, include=["file_search_call.results"])
    found = search_of(client.responses.create(**asked)).results[0]
    client.files.delete(found.file_id)
    response = client.responses.create(**asked)
    assert found.file_id not in [one.file_id for one in search_of(response).results]
    assert "blue whale is" not in response.output_text


async def test_the_asynchronous_client(aclient: AsyncOpenAI, store: str) -> None:
    response = await aclient.responses.create(**asking(store))
    assert cited(response)
    stream = await aclient.responses.create(**asking(store), stream=True)
    assert [event async for event in stream][-1].type == "response.completed"


@pytest.mark.parametrize(
    ("tool", "named"),
    [
        ({"vector_store_ids": []}, "tools[0]"),
        ({"vector_store_ids": ["a"] * 9}, "tools[0]"),
        ({"vector_store_ids": "vs_1"}, "tools[0]"),
        ({"max_num_results": 51}, "tools[0]"),
        ({"filters": {"type": "near"}}, "tools"),
        ({"ranking_options": {"ranker": "none"}}, "tools[0]"),
        (
            {"ranking_options": {"hybrid_search": {"embedding_weight": 0.3, "text_weight": 0.7}}},
            "tools[0]",
        ),
        ({"ranking_options": {"hybrid_search": {"embedding_weight": 0, "text_weight": 0}}}, "tools"),
        ({"top_k": 5}, "tools[0]"),
    ],
)
def test_hostile_tools_are_refused_by_name(
    client: OpenAI, store: str, tool: dict[str, Any], named: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(**asking(store, tool=tool))
    assert (refused.value.param or "").startswith(named), refused.value


def test_what_does_not_go_together_is_refused(client: OpenAI, store: str) -> None:
    twice = asking(store)
    twice["tools"] *= 2
    with pytest.raises(openai.BadRequestError, match="two file_search tools"):
        client.responses.create(**twice)
    with pytest.raises(openai.BadRequestError, match="log probabilities"):
        client.responses.create(**asking(store), include=["message.output_text.logprobs"])
    with pytest.raises(openai.BadRequestError, match="not among the tools"):
        client.responses.create(model="toy", input="x", tool_choice={"type": "file_search"})
    with pytest.raises(openai.NotFoundError, match="there is no vector store"):
        client.responses.create(**asking("vs_none"))
    with pytest.raises(openai.BadRequestError, match="room for"):
        client.responses.create(**asking(store), max_output_tokens=3700)


def test_another_tenants_store_is_as_if_it_were_not(codec: Codec, tmp_path: Path) -> None:
    database = Database.open(tmp_path / "deepwell.db")
    keys = KeyStore(database)
    with pytest.MonkeyPatch.context() as patch:
        use_hash_embedder(patch)
        engine = FakeEngine(max_model_len=4096)
        running = start(make_service(engine, codec, model="toy", database=database), engine)
        try:
            clients = [
                OpenAI(**_given(running) | {"api_key": keys.create(Tenant(name), name, scopes)[1]})
                for name, scopes in (
                    ("a", ["inference", "files"]),
                    ("b", ["inference", "files"]),
                    ("a", ["inference"]),
                )
            ]
            a, b, reader = clients
            store = filled(a)
            assert a.responses.create(**asking(store)).output_text
            with pytest.raises(openai.NotFoundError) as theirs:
                b.responses.create(**asking(store))
            with pytest.raises(openai.NotFoundError) as none:
                b.responses.create(**asking("vs_none"))
            assert theirs.value.message.replace(store, "vs_none") == none.value.message
            with pytest.raises(openai.NotFoundError):
                b.vector_stores.search(store, query=QUESTION)
            own = b.vector_stores.create().id
            assert b.vector_stores.search(own, query=QUESTION).data == []
            with pytest.raises(openai.PermissionDeniedError, match="'files'"):
                reader.responses.create(**asking(store))
            for one in clients:
                one.close()
        finally:
            running.stop()
