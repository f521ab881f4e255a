"""The ledger of answers that rest on passages: `serve --knowledge`, and `file_search`. The engine repeats the question."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from openai import OpenAI
from tests.server.conftest import Live, start
from tests.server.fakes import FakeEngine, make_service
from tests.server.knowledge import use_hash_embedder

from deepwell.dialogue.text import Codec
from deepwell.knowledge.context.fitting.ledger import FATES
from deepwell.server.options import KnowledgeOptions

WHALE = "The blue whale is the largest animal. It eats krill in cold seas."
QUESTION = "What is the largest animal, the blue whale or another?"
FAR = "Which interest rate did the bank set in the autumn of that year?"
NUMBERS = ("original", "prompt", *FATES, "added")

Serve = Callable[[int], Live]


@pytest.fixture
def serve(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    use_hash_embedder(monkeypatch)
    running: list[Live] = []

    def begin(context: int) -> Live:
        engine = FakeEngine(max_model_len=context)
        service = make_service(engine, codec, model="toy", knowledge=KnowledgeOptions(ground="nature"))
        running.append(start(service, engine))
        return running[-1]

    yield begin
    for one in running:
        one.stop()


def filled(live: Live) -> str:
    """Fills the knowledge base of the server, and returns its id."""
    with OpenAI(base_url=f"{live.url}/v1", api_key="-") as client:
        store = client.vector_stores.create(name="nature").id
        client.vector_stores.files.upload_and_poll(vector_store_id=store, file=("w.txt", WHALE.encode()))
        return store


def talk(turns: int, question: str = QUESTION) -> list[dict[str, str]]:
    found = [{"role": "system", "content": "Be brief."}]
    for number in range(turns):
        note = f"Note that ship {number} sails at noon from the western pier, with salt for the north. " * 2
        found.append({"role": "user", "content": note})
        found.append({"role": "assistant", "content": f"I noted ship {number}."})
    return [*found, {"role": "user", "content": question}]


def asked(live: Live, messages: list[Any], policy: str, **more: Any) -> httpx.Response:
    body = {"model": "toy", "messages": messages, "max_tokens": 64, "temperature": 0, **more}
    url = f"{live.url}/v1/chat/completions"
    return httpx.post(url, json=body, headers={"x-context-policy": policy}, timeout=60)


def numbers(answer: httpx.Response) -> dict[str, int]:
    found = {one: int(answer.headers[f"x-context-tokens-{one}"]) for one in NUMBERS}
    assert found["original"] == sum(found[one] for one in FATES)
    assert found["prompt"] == found["original"] - found["dropped"] + found["added"]
    return found


@pytest.mark.parametrize("stream", [False, True])
def test_passages_are_added_to_a_conversation_that_stays_whole(
    serve: Serve, codec: Codec, stream: bool
) -> None:
    live = serve(4096)
    filled(live)
    answer = asked(
        live, talk(3), "strict", stream=stream, stream_options={"include_usage": True} if stream else None
    )
    assert answer.status_code == 200, answer.text
    found = numbers(answer)
    assert found["original"] == found["kept"] == len(codec.encode_chat(talk(3)))
    assert found["prompt"] == len(live.engine.seen[-1].prompt)
    assert found["added"] >= len(WHALE)
    assert '"policy":"strict"' in answer.text and f'"added_tokens":{found["added"]}' in answer.text


def test_turns_that_passages_leave_no_room_for_are_dropped_and_named(serve: Serve) -> None:
    live = serve(1600)
    filled(live)
    answer = asked(live, talk(7), "auto")
    assert answer.status_code == 200, answer.text
    found = numbers(answer)
    assert answer.headers["x-context-mechanism"] == "drop"
    assert found["dropped"] > 0 and found["prompt"] == len(live.engine.seen[-1].prompt)
    details = answer.json()["usage"]["prompt_tokens_details"]["context"]
    assert {one: details[f"{one}_tokens"] for one in NUMBERS} == found
    rows = [*details["messages"], details["template"]]
    assert sum(row.get("dropped", 0) for row in rows) == found["dropped"]
    assert rows[0]["role"] == "system" and "dropped" not in rows[0]


def test_strict_drops_no_turn_for_a_passage(serve: Serve) -> None:
    live = serve(1600)
    filled(live)
    answer = asked(live, talk(7), "strict")
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["code"] == "context_length_exceeded"
    assert live.engine.seen == []


def test_an_answer_that_no_model_wrote_says_so(serve: Serve, codec: Codec) -> None:
    live = serve(4096)
    filled(live)
    answer = asked(live, talk(2, FAR), "auto")
    assert answer.headers["x-context-mechanism"] == "quote"
    found = numbers(answer)
    assert found["dropped"] == found["original"] == len(codec.encode_chat(talk(2, FAR)))
    assert found["prompt"] == found["added"] == 0


def test_several_choices_are_the_models_own(serve: Serve, codec: Codec) -> None:
    live = serve(4096)
    filled(live)
    answer = asked(live, talk(1), "auto", n=2)
    found = numbers(answer)
    assert found["kept"] == found["prompt"] == len(codec.encode_chat(talk(1)))
    details = answer.json()["usage"]["prompt_tokens_details"]["context"]
    assert {one: details[f"{one}_tokens"] for one in NUMBERS} == found


@pytest.mark.parametrize(("turns", "policy"), [(2, "strict"), (2, "auto"), (30, "auto")])
def test_a_search_of_files_adds_passages_to_what_is_kept(
    serve: Serve, codec: Codec, turns: int, policy: str
) -> None:
    live = serve(4096)
    store = filled(live)
    messages: Any = talk(turns)
    with OpenAI(base_url=f"{live.url}/v1", api_key="-", max_retries=0) as client:
        raw = client.responses.with_raw_response.create(
            model="toy",
            input=messages,
            tools=[{"type": "file_search", "vector_store_ids": [store]}],
            max_output_tokens=64,
            extra_headers={"x-context-policy": policy},
        )
    found = numbers(raw)  # type: ignore[arg-type]
    response: Any = raw.parse()
    assert found["original"] == len(codec.encode_chat(messages))
    assert found["prompt"] == len(live.engine.seen[-1].prompt) == response.usage.input_tokens
    assert found["added"] >= len(WHALE)
    assert (found["dropped"] > 0) == (turns > 2)
    details = response.usage.input_tokens_details.model_extra["context"]
    assert {one: details[f"{one}_tokens"] for one in NUMBERS} == found


NOTE = "The keeper of the Skerry lighthouse is called Mara Arvid."


def attached(route: str, question: str, data: bytes = NOTE.encode(), **more: Any) -> dict[str, Any]:
    """Returns a request with a file, as a route wants it."""
    encoded = base64.b64encode(data).decode()
    url = f"data:text/plain;base64,{encoded}"
    body: dict[str, Any] = {"model": "toy", "temperature": 0, **more}
    text = {"type": "text", "text": question}
    match route:
        case "/v1/responses":
            content = [
                {"type": "input_text", "text": question},
                {"type": "input_file", "filename": "keeper.txt", "file_data": url},
            ]
            return {**body, "input": [{"role": "user", "content": content}]}
        case _:
            content = [text, {"type": "file", "file": {"filename": "keeper.txt", "file_data": url}}]
    return {**body, "messages": [{"role": "user", "content": content}], "max_tokens": 400}


def read_by_the_model(live: Live) -> str:
    return bytes(one for one in live.engine.seen[-1].prompt if one < 256).decode()


@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/responses"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_an_attachment_is_read_beside_the_knowledge_base(serve: Serve, route: str, stream: bool) -> None:
    live = serve(4096)
    filled(live)
    answer = httpx.post(f"{live.url}{route}", json=attached(route, QUESTION, stream=stream), timeout=60)
    assert answer.status_code == 200, answer.text
    prompt = read_by_the_model(live)
    assert f"> {WHALE}" in prompt and f"> {NOTE}" in prompt and prompt.count(NOTE) == 1
    told = answer.text
    assert "Mara" in told and "whale" in told
    assert "w.txt" in told and "keeper.txt" in told  # both are cited


@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/responses"])
def test_an_attachment_is_read_where_the_knowledge_base_has_nothing(serve: Serve, route: str) -> None:
    live = serve(4096)
    filled(live)
    question = "Who keeps the Skerry lighthouse?"
    answer = httpx.post(f"{live.url}{route}", json=attached(route, question), timeout=60)
    assert answer.status_code == 200, answer.text
    assert "Mara Arvid" in answer.text and "keeper.txt" in answer.text


def test_a_search_of_files_reads_attachments_as_well(serve: Serve) -> None:
    live = serve(4096)
    tool = {"type": "file_search", "vector_store_ids": [filled(live)]}
    with OpenAI(base_url=f"{live.url}/v1", api_key="-", _strict_response_validation=True) as client:
        body = attached("/v1/responses", QUESTION, tools=[tool])
        made = client.responses.create(**body)
        prompt = read_by_the_model(live)
        assert f"> {WHALE}" in prompt and f"> {NOTE}" in prompt
        search, message = made.output
        assert search.type == "file_search_call" and search.queries == [QUESTION]
        assert message.type == "message" and message.content[0].type == "output_text"
        names = {one.filename for one in message.content[0].annotations if one.type == "file_citation"}
        assert names == {"w.txt", "keeper.txt"}
        alone = client.responses.create(
            **attached("/v1/responses", "Who keeps the Skerry lighthouse?", tools=[tool])
        )
        assert "Mara Arvid" in alone.output_text
        after = client.responses.create(
            model="toy",
            input="Who is the keeper of the Skerry lighthouse?",
            previous_response_id=alone.id,
            tools=[tool],  # pyright: ignore[reportArgumentType]
        )
        assert "Mara Arvid" in after.output_text


def test_of_a_long_attachment_the_nearest_parts_are_read(serve: Serve) -> None:
    live = serve(65_536)
    filled(live)
    far = "\n\n".join(
        f"On day {day} the harbour was calm and nothing happened there. " * 12 for day in range(30)
    )
    data = f"{far}\n\n{NOTE}\n\n{far}".encode()
    body = attached("/v1/chat/completions", "Who keeps the Skerry lighthouse?", data)
    answer = httpx.post(f"{live.url}/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    prompt = read_by_the_model(live)
    assert NOTE in prompt and len(prompt) < len(data) / 3
