"""Every method of the served families, called through the official SDKs, which refuse what is not as documented."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

__all__ = ["ANTHROPIC", "CALL", "OPENAI", "Tour", "take_tour"]

CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
_CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Oslo", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
_JSON = '{"city": "Oslo"}'
_SCHEMA = {"name": "place", "schema": _CITY, "strict": True}
_TOOL = {"type": "function", "name": "weather", "parameters": _CITY, "strict": True}
_CHAT_TOOL = {"type": "function", "function": {"name": "weather", "parameters": _CITY}}
_FEW = 24  # tokens of an answer whose text does not matter
_LOOK_S, _LOOKS = 0.05, 1200  # a minute, for a batch to end
_SOME = 128  # of a call, whose tokens may be single bytes


class Tour:
    """One client's way through the API. `done` names each call that was answered as documented."""

    def __init__(self, client: Any, lenient: Any, model: str) -> None:
        self.client = client
        self.lenient = lenient  # for what the SDK's own types describe too narrowly
        self.model = model
        self.done: list[str] = []

    async def call(self, name: str, method: Callable[..., Any], /, *arguments: Any, **named: Any) -> Any:
        """Returns the method's result, awaited where it has to be."""
        result = method(*arguments, **named)
        if inspect.isawaitable(result):
            result = await result
        self.done.append(name)
        return result

    async def stream(
        self, name: str, method: Callable[..., Any], /, *arguments: Any, **named: Any
    ) -> list[Any]:
        """Collects every event of a streaming method."""
        result = method(*arguments, **named)
        if inspect.isawaitable(result):
            result = await result
        events = [event async for event in _each(result)]
        assert events, f"{name}: an empty stream"
        self.done.append(name)
        return events

    async def manager(self, name: str, manager: Any) -> list[Any]:
        """Collects every event of a `with client....stream()` block."""
        if hasattr(manager, "__aenter__"):
            async with manager as stream:
                events = [event async for event in stream]
        else:
            with manager as stream:
                events = list(stream)
        assert events, f"{name}: an empty stream"
        self.done.append(name)
        return events


async def _each(result: Any) -> AsyncIterator[Any]:
    if hasattr(result, "__aiter__"):
        async for one in result:
            yield one
    else:
        for one in result:
            yield one


def _user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


async def _chat(tour: Tour) -> None:
    create, model = tour.client.chat.completions.create, tour.model
    same: dict[str, Any] = {"model": model, "temperature": 0, "max_completion_tokens": _FEW}
    answer = await tour.call("chat.completions.create", create, messages=_user("hi"), n=2, **same)
    assert len(answer.choices) == 2 and answer.usage.total_tokens > 0
    options = {"include_usage": True}
    chunks = await tour.stream(
        "chat.completions.create stream",
        create,
        messages=_user("hi"),
        stream=True,
        stream_options=options,
        logprobs=True,
        top_logprobs=2,
        **same,
    )
    assert chunks[-1].usage and any(c.choices and c.choices[0].logprobs for c in chunks)
    called: dict[str, Any] = {"messages": _user(CALL), "tools": [_CHAT_TOOL], "tool_choice": "required"}
    same["max_completion_tokens"] = _SOME
    answer = await tour.call(
        "chat.completions.create tools", create, parallel_tool_calls=False, **called, **same
    )
    calls = answer.choices[0].message.tool_calls
    assert answer.choices[0].finish_reason == "tool_calls" and json.loads(calls[0].function.arguments)
    results = [{"role": "tool", "tool_call_id": one.id, "content": "rain"} for one in calls]
    history = [*_user(CALL), answer.choices[0].message, *results]
    await tour.call(
        "chat.completions.create tool results", create, messages=history, tools=[_CHAT_TOOL], **same
    )
    chunks = await tour.stream("chat.completions.create tools stream", create, stream=True, **called, **same)
    assert any(c.choices and c.choices[0].delta.tool_calls for c in chunks)
    for kind, format in (
        ("json_object", {"type": "json_object"}),
        ("json_schema", {"type": "json_schema", "json_schema": _SCHEMA}),
    ):
        named = same if kind == "json_schema" else {**same, "max_completion_tokens": _SOME}
        answer = await tour.call(
            f"chat.completions.create {kind}", create, messages=_user(_JSON), response_format=format, **named
        )
        if answer.choices[0].finish_reason == "stop":
            assert isinstance(json.loads(answer.choices[0].message.content), dict)
    events = await tour.manager(
        "chat.completions.stream", tour.client.chat.completions.stream(messages=_user("hi"), **same)
    )
    assert events[-1].type in ("content.done", "chunk")


async def _stored(tour: Tour) -> None:
    completions, model = tour.client.chat.completions, tour.model
    kept: list[str] = []
    for stream in (False, True):
        same: dict[str, Any] = {"model": model, "messages": _user("keep this"), "temperature": 0}
        same |= {"max_completion_tokens": _FEW, "store": True, "metadata": {"tour": model}}
        if stream:
            chunks = await tour.stream(
                "chat.completions.create store stream", completions.create, stream=True, **same
            )
            kept.append(chunks[0].id)
        else:
            kept.append((await tour.call("chat.completions.create store", completions.create, **same)).id)
    listed = await tour.call(
        "chat.completions.list", completions.list, metadata={"tour": model}, limit=1, order="desc"
    )
    assert [one.id for one in listed.data] == kept[1:] and listed.has_next_page()
    assert (await tour.call("chat.completions.retrieve", completions.retrieve, kept[0])).id == kept[0]
    updated = await tour.call("chat.completions.update", completions.update, kept[0], metadata={"a": "b"})
    assert updated.metadata == {"a": "b"}
    # The SDK's type says that every message is the assistant's; OpenAI lists those that were sent.
    messages = await tour.call(
        "chat.completions.messages.list", tour.lenient.chat.completions.messages.list, kept[0]
    )
    assert messages.data[0].content == "keep this"
    for id in kept:
        assert (await tour.call("chat.completions.delete", completions.delete, id)).deleted


async def _completions(tour: Tour) -> None:
    same: dict[str, Any] = {"model": tour.model, "prompt": "Once upon", "max_tokens": 8, "temperature": 0}
    answer = await tour.call("completions.create", tour.client.completions.create, logprobs=2, **same)
    # Its type has no null for a reason that is not there yet, which every chunk but the last of OpenAI's carries.
    chunks = await tour.stream(
        "completions.create stream", tour.lenient.completions.create, stream=True, **same
    )
    assert "".join(c.choices[0].text for c in chunks) == answer.choices[0].text


async def _responses(tour: Tour) -> None:
    responses = tour.client.responses
    same: dict[str, Any] = {"model": tour.model, "temperature": 0, "max_output_tokens": _FEW}
    first = await tour.call("responses.create", responses.create, input="hi", instructions="be brief", **same)
    assert first.output_text is not None and first.usage.output_tokens > 0
    events = await tour.stream("responses.create stream", responses.create, input="hi", stream=True, **same)
    assert events[0].type == "response.created" and events[-1].type in (
        "response.completed",
        "response.incomplete",
    )
    second = await tour.call(
        "responses.create previous_response_id",
        responses.create,
        input="and?",
        previous_response_id=first.id,
        **same,
    )
    same["max_output_tokens"] = _SOME
    called: dict[str, Any] = {"input": CALL, "tools": [_TOOL], "tool_choice": "required"}
    answer = await tour.call("responses.create tools", responses.create, **called, **same)
    calls = [item for item in answer.output if item.type == "function_call"]
    assert calls and json.loads(calls[0].arguments)
    results = [{"type": "function_call_output", "call_id": one.call_id, "output": "rain"} for one in calls]
    await tour.call(
        "responses.create tool results",
        responses.create,
        input=results,
        previous_response_id=answer.id,
        tools=[_TOOL],
        **same,
    )
    events = await tour.stream(
        "responses.create tools stream", responses.create, stream=True, **called, **same
    )
    assert any(event.type == "response.function_call_arguments.done" for event in events)
    format = {"format": {"type": "json_schema", **_SCHEMA}}
    answer = await tour.call(
        "responses.create json_schema", responses.create, input=_JSON, text=format, **same
    )
    assert json.loads(answer.output_text)["city"] in ("Oslo", "Rome")
    events = await tour.manager("responses.stream", responses.stream(input="hi", **same))
    assert events[-1].type == "response.completed" or events[-1].type == "response.incomplete"
    include = ["message.output_text.logprobs"]
    await tour.call(
        "responses.create logprobs", responses.create, input="hi", include=include, top_logprobs=2, **same
    )

    assert (
        await tour.call("responses.retrieve", responses.retrieve, first.id)
    ).output_text == first.output_text
    items = await tour.call("responses.input_items.list", responses.input_items.list, second.id)
    assert items.data[0].content[0].text == "and?"
    counted = await tour.call(
        "responses.input_tokens.count",
        responses.input_tokens.count,
        model=tour.model,
        input="hi",
        instructions="be brief",
    )
    assert counted.input_tokens == first.usage.input_tokens
    compacted = await tour.call("responses.compact", responses.compact, model=tour.model, input=_user("hi"))
    assert [one.type for one in compacted.output] == ["compaction"]
    reference = {"type": "item_reference", "id": first.output[0].id}
    await tour.call(
        "responses.create item_reference",
        responses.create,
        input=[*_user("hi"), reference, *_user("and?")],
        include=["reasoning.encrypted_content"],
        **same,
    )
    some = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "weather"}]}
    answer = await tour.call(
        "responses.create allowed_tools", responses.create, **called | {"tool_choice": some}, **same
    )
    assert any(item.type == "function_call" for item in answer.output)
    await tour.call("responses.delete", responses.delete, second.id)


async def _background_responses(tour: Tour) -> None:
    responses = tour.client.responses
    same: dict[str, Any] = {"model": tour.model, "temperature": 0, "max_output_tokens": _SOME}
    run = await tour.call(
        "responses.create background", responses.create, input="hi", background=True, **same
    )
    events = await tour.stream("responses.retrieve stream", responses.retrieve, run.id, stream=True)
    assert events[-1].type in ("response.completed", "response.incomplete")
    rest = await tour.stream(
        "responses.retrieve stream starting_after", responses.retrieve, run.id, stream=True, starting_after=1
    )
    assert [event.sequence_number for event in rest] == [event.sequence_number for event in events][2:]
    events = await tour.stream(
        "responses.create background stream",
        responses.create,
        input="hi",
        background=True,
        stream=True,
        **same,
    )
    run = await tour.call(
        "responses.create background", responses.create, input="tell all", background=True, **same
    )
    ended = await tour.call("responses.cancel", responses.cancel, run.id)
    assert ended.status in ("cancelled", "completed", "incomplete")


async def _conversations(tour: Tour) -> None:
    conversations = tour.client.conversations
    items = [{"type": "message", "role": "user", "content": "my name is Ada"}]
    made = await tour.call("conversations.create", conversations.create, items=items, metadata={"a": "b"})
    await tour.call(
        "responses.create conversation",
        tour.client.responses.create,
        model=tour.model,
        input="hi",
        conversation=made.id,
        max_output_tokens=_FEW,
    )
    assert (await tour.call("conversations.retrieve", conversations.retrieve, made.id)).metadata == {"a": "b"}
    updated = await tour.call("conversations.update", conversations.update, made.id, metadata={"c": "d"})
    assert updated.metadata == {"c": "d"}
    added = await tour.call(
        "conversations.items.create",
        conversations.items.create,
        made.id,
        items=[{"role": "user", "content": "x"}],
    )
    pages = await tour.stream(
        "conversations.items.list", conversations.items.list, made.id, limit=2, order="asc"
    )
    assert len(pages) == 4 and pages[-1].id == added.data[0].id
    one = await tour.call(
        "conversations.items.retrieve", conversations.items.retrieve, pages[0].id, conversation_id=made.id
    )
    assert one.content[0].text == "my name is Ada"
    await tour.call("conversations.items.delete", conversations.items.delete, one.id, conversation_id=made.id)
    assert (await tour.call("conversations.delete", conversations.delete, made.id)).deleted


async def _files(tour: Tour) -> None:
    files = tour.client.files
    same: dict[str, Any] = {"purpose": "user_data"}
    lasts = {"anchor": "created_at", "seconds": 3600}
    kept = [
        await tour.call("files.create", files.create, file=("a.txt", b"first"), **same),
        await tour.call("files.create expires_after", files.create, file=b"2", expires_after=lasts, **same),
    ]
    assert kept[1].expires_at == kept[1].created_at + 3600 and kept[0].expires_at is None
    pages = await tour.stream("files.list", files.list, purpose="user_data", order="asc", limit=1)
    assert [one.id for one in pages][-2:] == [one.id for one in kept]
    assert (await tour.call("files.retrieve", files.retrieve, kept[0].id)).filename == "a.txt"
    content = await tour.call("files.content", files.content, kept[0].id)
    assert content.content == b"first"
    assert (await tour.call("files.wait_for_processing", files.wait_for_processing, kept[0].id)).bytes == 5
    for one in kept:
        assert (await tour.call("files.delete", files.delete, one.id)).deleted


async def _uploads(tour: Tour) -> None:
    uploads = tour.client.uploads
    same: dict[str, Any] = {"filename": "parts.txt", "mime_type": "text/plain", "purpose": "user_data"}
    upload = await tour.call("uploads.create", uploads.create, bytes=6, **same)
    parts = [
        await tour.call("uploads.parts.create", uploads.parts.create, upload.id, data=data)
        for data in (b"def", b"abc")
    ]
    done = await tour.call(
        "uploads.complete",
        uploads.complete,
        upload.id,
        part_ids=[one.id for one in reversed(parts)],
        md5=hashlib.md5(b"abcdef", usedforsecurity=False).hexdigest(),
    )
    assert done.status == "completed" and done.file.bytes == 6
    content = await tour.call("files.content", tour.client.files.content, done.file.id)
    assert content.content == b"abcdef"
    upload = await tour.call("uploads.create", uploads.create, bytes=6, **same)
    ended = await tour.call("uploads.cancel", uploads.cancel, upload.id)
    assert ended.status == "cancelled"
    chunked = await tour.call(
        "uploads.upload_file_chunked",
        uploads.upload_file_chunked,
        file=b"0123456789",
        bytes=10,
        part_size=4,
        **same,
    )
    assert chunked.file.bytes == 10


def _line(number: int, endpoint: str, body: dict[str, Any]) -> str:
    return json.dumps({"custom_id": f"line-{number}", "method": "POST", "url": endpoint, "body": body})


async def _batches(tour: Tour) -> None:
    batches, files, model = tour.client.batches, tour.client.files, tour.model
    bodies: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"messages": _user("hi"), "max_completion_tokens": _FEW, "temperature": 0},
        "/v1/completions": {"prompt": "Once upon", "max_tokens": 8, "temperature": 0},
        "/v1/responses": {"input": "hi", "max_output_tokens": _FEW, "temperature": 0},
        "/v1/embeddings": {"input": ["a", "b"]},
    }
    made: list[Any] = []
    for endpoint, body in bodies.items():
        good = [_line(number, endpoint, body | {"model": model}) for number in range(3)]
        bad = _line(3, endpoint, {"model": model, "no_such_parameter": 1})
        source = await tour.call(
            "files.create batch",
            files.create,
            file=("lines.jsonl", "\n".join([*good, bad]).encode()),
            purpose="batch",
        )
        made.append(
            await tour.call(
                f"batches.create {endpoint}",
                batches.create,
                input_file_id=source.id,
                endpoint=endpoint,
                completion_window="24h",
                metadata={"tour": model},
                output_expires_after={"anchor": "created_at", "seconds": 3600},
            )
        )
    for batch in made:
        batch = await _ended(tour, batch.id)
        counts = batch.request_counts
        assert (batch.status, counts.completed, counts.failed) == ("completed", 3, 1), batch
        assert batch.usage.input_tokens > 0 and batch.model == model
        output = await tour.call("files.content", files.content, batch.output_file_id)
        answers = [json.loads(line) for line in output.text.splitlines()]
        assert [one["custom_id"] for one in answers] == ["line-0", "line-1", "line-2"]
        assert all(one["response"]["status_code"] == 200 for one in answers)
        errors = await tour.call("files.content", files.content, batch.error_file_id)
        assert json.loads(errors.text)["response"]["status_code"] == 400
    listed = await tour.stream("batches.list", batches.list, limit=3)
    assert [one.id for one in listed][:4] == [one.id for one in reversed(made)]
    source = await tour.call(
        "files.create batch", files.create, file=("bad.jsonl", b"no JSON"), purpose="batch"
    )
    batch = await tour.call(
        "batches.create invalid",
        batches.create,
        input_file_id=source.id,
        endpoint="/v1/embeddings",
        completion_window="24h",
    )
    batch = await _ended(tour, batch.id)
    assert batch.status == "failed" and batch.errors.data[0].line == 1
    lines = [_line(n, "/v1/completions", {"model": model, "prompt": "a"}) for n in range(2000)]
    source = await tour.call(
        "files.create batch", files.create, file=("long.jsonl", "\n".join(lines).encode()), purpose="batch"
    )
    batch = await tour.call(
        "batches.create to cancel",
        batches.create,
        input_file_id=source.id,
        endpoint="/v1/completions",
        completion_window="24h",
    )
    assert (await tour.call("batches.cancel", batches.cancel, batch.id)).cancelling_at
    batch = await _ended(tour, batch.id)
    assert batch.status == "cancelled" and batch.request_counts.completed < 2000


async def _ended(tour: Tour, id: str) -> Any:
    """Waits until nothing more happens to a batch; returns it."""
    for _ in range(_LOOKS):
        batch = await tour.call("batches.retrieve", tour.client.batches.retrieve, id)
        if batch.status in ("completed", "failed", "expired", "cancelled"):
            return batch
        tour.done.pop()  # it counts once
        await asyncio.sleep(_LOOK_S)
    raise AssertionError(f"the batch {id} does not end")


async def _rest(tour: Tour) -> None:
    vectors = await tour.call(
        "embeddings.create",
        tour.client.embeddings.create,
        model=tour.model,
        input=["a", "b"],
        encoding_format="float",
    )
    assert len(vectors.data) == 2
    models = await tour.stream("models.list", tour.client.models.list)
    assert tour.model in [one.id for one in models]
    assert (await tour.call("models.retrieve", tour.client.models.retrieve, tour.model)).id == tour.model


async def _messages(tour: Tour) -> None:
    messages = tour.client.messages
    same: dict[str, Any] = {"model": tour.model, "max_tokens": _SOME, "system": "be brief"}
    same["extra_body"] = {"temperature": 0}  # which this SDK has no name for
    answer = await tour.call(
        "messages.create", messages.create, messages=_user("hi"), stop_sequences=["@@"], **same
    )
    assert answer.content is not None and answer.usage.output_tokens > 0
    events = await tour.stream(
        "messages.create stream", messages.create, messages=_user("hi"), stream=True, **same
    )
    assert events[0].type == "message_start" and events[-1].type == "message_stop"
    events = await tour.manager("messages.stream", messages.stream(messages=_user("hi"), **same))
    tool = {"name": "weather", "input_schema": _CITY}
    called: dict[str, Any] = {"messages": _user(CALL), "tools": [tool], "tool_choice": {"type": "any"}}
    answer = await tour.call("messages.create tools", messages.create, **called, **same)
    (use,) = [block for block in answer.content if block.type == "tool_use"][:1]
    assert answer.stop_reason == "tool_use" and use.input["city"] in ("Oslo", "Rome")
    uses = [block for block in answer.content if block.type == "tool_use"]
    results = [{"type": "tool_result", "tool_use_id": block.id, "content": "rain"} for block in uses]
    history = [
        *_user(CALL),
        {"role": "assistant", "content": answer.content},
        {"role": "user", "content": results},
    ]
    await tour.call("messages.create tool results", messages.create, messages=history, tools=[tool], **same)
    events = await tour.stream("messages.create tools stream", messages.create, stream=True, **called, **same)
    assert any(getattr(getattr(event, "delta", None), "type", "") == "input_json_delta" for event in events)
    counted = await tour.call(
        "messages.count_tokens",
        messages.count_tokens,
        model=tour.model,
        messages=_user("hi"),
        system="be brief",
    )
    assert counted.input_tokens > 0


async def _message_batches(tour: Tour) -> None:
    batches = tour.client.messages.batches
    params: dict[str, Any] = {"model": tour.model, "max_tokens": _FEW, "messages": _user("hi")}
    requests = [{"custom_id": f"request-{number}", "params": params} for number in range(3)]
    requests.append({"custom_id": "bad", "params": params | {"no_such_parameter": 1}})
    made = await tour.call("messages.batches.create", batches.create, requests=requests)
    batch = await _message_batch_ended(tour, made.id)
    assert (batch.request_counts.succeeded, batch.request_counts.errored) == (3, 1), batch
    results = await tour.stream("messages.batches.results", batches.results, batch.id)
    assert [one.result.type for one in results] == ["succeeded"] * 3 + ["errored"]
    listed = await tour.call("messages.batches.list", batches.list, limit=1)
    assert listed.data[0].id == batch.id
    long = [{"custom_id": f"request-{number}", "params": params} for number in range(400)]
    made = await tour.call("messages.batches.create to cancel", batches.create, requests=long)
    assert (await tour.call("messages.batches.cancel", batches.cancel, made.id)).cancel_initiated_at
    ended = await _message_batch_ended(tour, made.id)
    assert ended.request_counts.canceled > 0 and ended.request_counts.succeeded < 400
    for id in (batch.id, made.id):
        deleted = await tour.call("messages.batches.delete", batches.delete, id)
        assert deleted.type == "message_batch_deleted"


async def _message_batch_ended(tour: Tour, id: str) -> Any:
    """Waits until nothing more happens to a message batch; returns it."""
    for _ in range(_LOOKS):
        batch = await tour.call("messages.batches.retrieve", tour.client.messages.batches.retrieve, id)
        if batch.processing_status == "ended":
            return batch
        tour.done.pop()  # it counts once
        await asyncio.sleep(_LOOK_S)
    raise AssertionError(f"the message batch {id} does not end")


OPENAI: tuple[Callable[[Tour], Coroutine[Any, Any, None]], ...] = (
    _chat,
    _stored,
    _completions,
    _responses,
    _background_responses,
    _conversations,
    _files,
    _uploads,
    _batches,
    _rest,
)
ANTHROPIC: tuple[Callable[[Tour], Coroutine[Any, Any, None]], ...] = (_messages, _message_batches)


async def _client(kind: str, url: str, key: str, *, strict: bool) -> Any:
    """Returns an SDK's client. They are development dependencies: who runs the tour has them."""
    import anthropic
    import openai

    given: dict[str, Any] = {"api_key": key, "max_retries": 0, "_strict_response_validation": strict}
    match kind:
        case "openai":
            return openai.OpenAI(base_url=f"{url}/v1", **given)
        case "async openai":
            return openai.AsyncOpenAI(base_url=f"{url}/v1", **given)
        case "anthropic":
            return anthropic.Anthropic(base_url=url, **given)
        case _:
            return anthropic.AsyncAnthropic(base_url=url, **given)


def take_tour(url: str, model: str, key: str = "none") -> dict[str, list[str]]:
    """Makes every call with every client; returns the calls by client.

    Raises:
        AssertionError, or an SDK's own error: an answer was not as documented.
    """

    async def one(kind: str) -> list[str]:
        client = await _client(kind, url, key, strict=True)
        lenient = await _client(kind, url, key, strict=False)
        tour = Tour(client, lenient, model)
        for stop in OPENAI if "openai" in kind else ANTHROPIC:
            await stop(tour)
        for each in (client, lenient):
            closing = each.close()
            if inspect.isawaitable(closing):
                await closing
        return tour.done

    return {
        kind: asyncio.run(one(kind)) for kind in ("openai", "async openai", "anthropic", "async anthropic")
    }
