"""Anthropic's message batches through its SDK: made, run, read, cancelled, deleted, and kept apart from OpenAI's batches."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest
from anthropic import Anthropic
from openai import OpenAI
from tests.server.conftest import Live, start
from tests.server.fakes import FakeEngine, make_service
from tests.waiting import until_async

from deepwell.dialogue.text import Codec
from deepwell.server.access.principal import ANYONE
from deepwell.server.families.batches.source import conclude_cancelled, record_rest


@pytest.fixture(scope="module")
def live(codec: Codec) -> Iterator[Live]:
    engine = FakeEngine()
    running = start(make_service(engine, codec, model="toy"), engine)
    yield running
    running.stop()


@pytest.fixture
def client(live: Live) -> Iterator[Anthropic]:
    with Anthropic(
        base_url=live.url, api_key="none", max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


def asked(number: int, text: str = "hi", **changes: Any) -> Any:
    params = {"model": "toy", "max_tokens": 20, "messages": [{"role": "user", "content": text}]}
    return {"custom_id": f"request-{number}", "params": params | changes}


async def ended(client: Anthropic, id: str) -> Any:
    return await until_async(
        lambda: asyncio.to_thread(client.messages.batches.retrieve, id),
        lambda batch: batch.processing_status == "ended",
    )


async def test_every_request_has_a_result(client: Anthropic, live: Live) -> None:
    texts = [f"{number} 你好" for number in range(12)]
    requests = [asked(number, text) for number, text in enumerate(texts)]
    requests[3] = asked(3, "x", no_such=1)
    requests[5] = asked(5, "x", model="other")
    made = client.messages.batches.create(requests=requests)
    assert made.id.startswith("msgbatch_") and made.results_url is None
    assert made.request_counts.processing == 12 or made.processing_status == "ended"
    batch = await ended(client, made.id)
    counts = batch.request_counts
    assert (counts.processing, counts.succeeded, counts.errored) == (0, 10, 2)
    assert batch.results_url == f"{live.url}/v1/messages/batches/{batch.id}/results"
    assert batch.ended_at is not None and batch.ended_at >= batch.created_at
    results = list(client.messages.batches.results(batch.id))
    assert [one.custom_id for one in results] == [f"request-{number}" for number in range(12)]
    for number, one in enumerate(results):
        if one.result.type == "succeeded":
            (block,) = one.result.message.content
            assert block.type == "text" and block.text == texts[number]
        else:
            assert one.result.type == "errored" and number in (3, 5)
            kind = "invalid_request_error" if number == 3 else "not_found_error"
            assert one.result.error.error.type == kind
    assert {one.priority for one in live.engine.seen} == {-1}


async def test_batches_are_listed_in_pages_both_ways(client: Anthropic) -> None:
    made = [client.messages.batches.create(requests=[asked(0)]).id for _ in range(5)]
    newest = made[::-1]
    first = client.messages.batches.list(limit=2)
    assert [one.id for one in first.data] == newest[:2] and first.has_more
    assert [one.id for one in client.messages.batches.list(limit=2)][:5] == newest
    behind = client.messages.batches.list(limit=2, after_id=newest[1])
    assert [one.id for one in behind.data] == newest[2:4]
    before = client.messages.batches.list(limit=2, before_id=newest[3])
    assert [one.id for one in before.data] == newest[1:3] and before.has_more
    with pytest.raises(anthropic.BadRequestError):
        client.messages.batches.list(after_id=made[0], before_id=made[1])
    for id in made:
        await ended(client, id)


async def test_a_batch_is_deleted_when_it_has_ended(client: Anthropic) -> None:
    batch = await ended(client, client.messages.batches.create(requests=[asked(0)]).id)
    assert client.messages.batches.delete(batch.id).type == "message_batch_deleted"
    for method in (client.messages.batches.retrieve, client.messages.batches.delete):
        with pytest.raises(anthropic.NotFoundError):
            method(batch.id)


async def test_cancelled_requests_are_named_in_the_results(client: Anthropic) -> None:
    made = client.messages.batches.create(requests=[asked(number, "x" * 400) for number in range(400)])
    with pytest.raises(anthropic.BadRequestError):  # as long as it is under way
        client.messages.batches.delete(made.id)
    cancelled = client.messages.batches.cancel(made.id)
    assert cancelled.cancel_initiated_at is not None
    batch = await ended(client, made.id)
    counts = batch.request_counts
    assert counts.canceled > 0 and counts.canceled + counts.succeeded + counts.errored == 400
    results = list(client.messages.batches.results(made.id))
    assert sorted(one.custom_id for one in results) == sorted(f"request-{number}" for number in range(400))
    assert sum(one.result.type == "canceled" for one in results) == counts.canceled
    with pytest.raises(anthropic.BadRequestError):
        client.messages.batches.cancel(made.id)


@pytest.mark.parametrize(
    ("requests", "says"),
    [
        ([], "requests"),
        ([asked(1), asked(1)], "'request-1'"),
        ([asked(1, stream=True)], "leave stream out"),
        ([{"custom_id": "a b", "params": {}}], "custom_id"),
        ([{"custom_id": "a"}], "params"),
    ],
)
def test_what_cannot_be_a_batch_is_refused(client: Anthropic, requests: Any, says: str) -> None:
    with pytest.raises(anthropic.BadRequestError, match=says):
        client.messages.batches.create(requests=requests)


async def test_the_two_apis_see_their_own_batches_alone(client: Anthropic, live: Live) -> None:
    theirs = client.messages.batches.create(requests=[asked(0)])
    with OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as other:
        line = b'{"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"model": "toy", "prompt": "a"}}'
        source = other.files.create(file=("lines.jsonl", line), purpose="batch")
        ours = other.batches.create(
            input_file_id=source.id, endpoint="/v1/completions", completion_window="24h"
        )
        assert theirs.id not in [one.id for one in other.batches.list()]
        assert ours.id not in [one.id for one in client.messages.batches.list()]
        for method in (other.batches.retrieve, other.batches.cancel):
            with pytest.raises(openai.NotFoundError):
                method(theirs.id)
        for method in (client.messages.batches.retrieve, client.messages.batches.cancel):
            with pytest.raises(anthropic.NotFoundError):
                method(ours.id)
        with pytest.raises(openai.BadRequestError, match="'/v1/messages' is not supported"):
            other.batches.create(
                input_file_id=source.id, endpoint=cast_endpoint("/v1/messages"), completion_window="24h"
            )
    await ended(client, theirs.id)


def cast_endpoint(path: str) -> Any:
    return path


@pytest.mark.parametrize("code", ["batch_expired", "batch_cancelled"])
async def test_what_was_never_run_counts_as_neither_succeeded_nor_errored(
    engine: FakeEngine, codec: Codec, code: str
) -> None:
    """The last steps of a batch whose time is over, and of one that was cancelled, as the worker takes them."""
    service = make_service(engine, codec, model="toy")
    state, tenant = service.state, ANYONE.tenant
    draft = state.files.draft()
    for number in range(3):
        draft.write(b'{"custom_id": "r%d", "method": "POST", "url": "/v1/messages", "body": {}}\n' % number)
    draft.close()
    batch = await state.batches.create_without_files(tenant, endpoint="/v1/messages", lines=draft, total=3)
    if code == "batch_expired":
        await record_rest(state, tenant, batch, code)
        await state.batches.finalize(tenant, batch.id)
        batch = await state.batches.conclude(tenant, batch.id, "expired")
    else:
        batch = await conclude_cancelled(state, tenant, await state.batches.cancel(tenant, batch.id))
    assert (batch.total, batch.completed, batch.failed) == (3, 0, 0)
    rows = await state.batches.results(tenant, batch.id)
    kind = "expired" if code == "batch_expired" else "canceled"
    assert [body for _, body in rows] == [
        f'{{"custom_id":"r{number}","result":{{"type":"{kind}"}}}}' for number in range(3)
    ]
    assert batch.input_sha256 is None
    await service.close_background()
