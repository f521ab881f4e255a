"""Every front follows the rules of `routes`: the same request gets the same release, whoever stands before the replicas."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from typing import Any

import httpx
import pytest
from tests.fleet.front.conftest import Running
from tests.waiting import until_async

from deepwell.fleet.front.routes import KeyOwner, Routes, asked_by, choose
from deepwell.storage.registry.split import identity_of, takes_candidate

BOTH: dict[Any, str] = {"blue": "prod#1", "green": "prod#2"}
ROLLOUT = "rollout_0123456789abcdef01234567"


def canary(share: float, **changes: Any) -> Routes:
    return Routes(BOTH, candidate="green", rollout=ROLLOUT, share=share, **changes)


def chat(first: str, *more: str, **fields: Any) -> dict[str, Any]:
    roles = ("user", "assistant")
    said = [{"role": roles[number % 2], "content": text} for number, text in enumerate((first, *more))]
    return {"model": "prod", "messages": said, **fields}


async def test_without_a_candidate_everybody_gets_the_current_release(running: Running) -> None:
    for body in (chat("hi", user="lin"), {"input": "x"}, [], "text", None):
        assert await running.slot_of(body) == "blue"
    assert await running.slot_of(chat("hi"), x_deepwell_release="candidate") == "blue", (
        "there is none to preview"
    )


async def test_users_are_drawn_as_the_servers_draw_them(running: Running) -> None:
    await running.front.route(canary(0.4))
    for number in range(60):
        user = f"user-{number} 你"
        expected = takes_candidate(ROLLOUT, 0.4, "local", identity_of(user, ""))
        for name in ("user", "safety_identifier"):
            got = await running.slot_of(chat(f"question {number} {name}", **{name: user}))
            assert got == ("green" if expected else "blue"), user
        body = chat(f"to Anthropic {number}", metadata={"user_id": user})
        assert await running.slot_of(body, "/v1/messages") == ("green" if expected else "blue")
    assert {await running.slot_of(chat(f"nobody {number}")) for number in range(20)} == {"blue"}
    await running.front.route(canary(1.0))
    assert {await running.slot_of(chat(f"nobody now {number}")) for number in range(20)} == {"green"}


async def test_the_share_is_kept_within_chance(running: Running) -> None:
    await running.front.route(canary(0.25))
    taken = 0
    for number in range(400):
        taken += await running.slot_of({"prompt": "x", "user": f"u{number}"}, "/v1/completions") == "green"
    assert 60 <= taken <= 140, "100 are expected, and their standard deviation is 8.7"


async def test_keys_are_split_by_their_tenant_and_stand_for_users_without_a_name(running: Running) -> None:
    keys = [f"dw-{number:043}" for number in range(12)]
    owners = {
        hashlib.sha256(key.encode()).hexdigest(): KeyOwner(f"tenant-{number % 3}", f"key_{number}")
        for number, key in enumerate(keys)
    }
    await running.front.route(canary(0.5, keys=owners))
    for number, key in enumerate(keys):
        tenant, key_id = f"tenant-{number % 3}", f"key_{number}"
        for user in ("", "lin", "wang"):
            body = chat(f"hi from {key} {user}", **({"user": user} if user else {}))
            side = takes_candidate(ROLLOUT, 0.5, tenant, identity_of(user, key_id))
            expected = "green" if side else "blue"
            assert await running.slot_of(body, authorization=f"Bearer {key}") == expected
            assert await running.slot_of({**body, "n": 2}, "/v1/messages", x_api_key=key) == expected
    assert await running.slot_of(chat("hi", user="lin"), authorization="Bearer unknown") == "blue"
    assert await running.slot_of(chat("hi", user="lin")) == "blue"


async def test_a_conversation_keeps_its_version_while_shares_move(running: Running) -> None:
    def turn(number: int, length: int) -> dict[str, Any]:
        return chat(
            f"conversation {number}", *(f"turn {one}" for one in range(length)), user=f"user-{number}"
        )

    await running.front.route(canary(0.0))
    began = [await running.slot_of(turn(number, 0)) for number in range(20)]
    assert set(began) == {"blue"}
    await running.front.route(canary(1.0))
    assert [await running.slot_of(turn(number, 2)) for number in range(20)] == began
    assert {await running.slot_of(turn(number + 100, 0)) for number in range(20)} == {"green"}
    promoted = Routes(BOTH, current="green", kept=frozenset(("blue", "green")))
    await running.front.route(promoted)
    assert [await running.slot_of(turn(number, 4)) for number in range(20)] == began, "they are waited for"
    again = [await running.slot_of(turn(number, 0)) for number in range(3)]
    assert set(again) == {"green"}, (
        "the same first words begin another conversation, which would not be waited for"
    )
    assert {await running.slot_of(turn(number, 2)) for number in range(3)} == {"green"}
    assert [await running.slot_of(turn(number, 6)) for number in range(3, 20)] == began[3:]
    await running.front.route(Routes(BOTH, current="green", kept=frozenset(("green",))))
    assert {await running.slot_of(turn(number, 6)) for number in range(20)} == {"green"}, (
        "the old one has gone"
    )


async def test_a_system_message_is_not_the_whole_beginning_of_a_conversation(running: Running) -> None:
    def turn(first: str) -> dict[str, Any]:
        said = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": first}]
        return {"model": "prod", "messages": said}

    assert await running.slot_of(turn("one")) == "blue"
    await running.front.route(canary(1.0))
    assert await running.slot_of(turn("one")) == "blue"
    assert await running.slot_of(turn("two")) == "green", "another conversation"
    parts = [{"type": "text", "text": "one"}]
    assert await running.slot_of({"messages": [{"role": "user", "content": parts}]}) == "green"
    await running.front.route(canary(0.0))
    assert (
        await running.slot_of({"messages": [{"role": "user", "content": parts}, {"role": "assistant"}]})
        == "green"
    )


async def test_a_chain_of_responses_and_a_named_conversation_keep_their_version(running: Running) -> None:
    path = "/v1/responses"
    assert await running.slot_of({"input": "a", "user": "lin"}, path) == "blue"
    assert await running.slot_of({"input": "a", "conversation": "conv_1"}, path) == "blue"
    assert await running.slot_of({"input": "a", "conversation": {"id": "conv_2"}}, path) == "blue"
    await running.front.route(canary(1.0))
    assert await running.slot_of({"input": "b", "previous_response_id": "r", "user": "lin"}, path) == "blue"
    assert await running.slot_of({"input": "b", "conversation": {"id": "conv_1"}}, path) == "blue"
    assert await running.slot_of({"input": "b", "conversation": "conv_2"}, path) == "blue"
    assert await running.slot_of({"input": "b", "conversation": "conv_3"}, path) == "green"


async def test_a_preview_gets_the_candidate_and_binds_no_conversation(running: Running) -> None:
    await running.front.route(canary(0.0))
    body = chat("look at it", user="lin")
    assert await running.slot_of(body, x_deepwell_release="candidate") == "green"
    assert await running.slot_of(body) == "blue"
    assert await running.slot_of(body, x_deepwell_release="current") == "blue"
    assert await running.slot_of(body, x_deepwell_release="candidate") == "green"
    assert await running.slot_of(body, x_deepwell_release="prod#2") == "blue", "only the two words count"


async def test_headers_from_outside_are_stripped_and_the_release_and_the_trace_are_passed_on(
    running: Running,
) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await running.front.route(canary(0.0))
    answer = await running.ask(
        chat("hi"), x_deepwell_release="candidate", X_DeepWell_Tenant="root", traceparent=trace, x_other="1"
    )
    seen = answer.json()["headers"]
    assert answer.headers["x-deepwell-release"] == seen["x-deepwell-release"] == "prod#2"
    assert "x-deepwell-tenant" not in seen
    assert (seen["traceparent"], seen["x-other"]) == (trace, "1")


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b'{"user": "' + b"x" * 400_000,
        b'{"messages": [' + b"[" * 20_000,
        b'{"user": {"user": 7}, "messages": {"0": 1}, "conversation": [], "model": null}',
        b'{"user": "\xff\xfe", "messages": [null, 3]}',
        b'{"safety_identifier": "", "user": "lin", "messages": [{"content": {}}]}',
    ],
)
async def test_hostile_bodies_reach_a_replica_whole(running: Running, body: bytes) -> None:
    await running.front.route(canary(0.5))
    answer = await running.http.post(
        "/v1/chat/completions", content=body, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 200
    assert int(answer.json()["headers"]["content-length"]) == len(body)


async def test_a_request_with_two_lengths_is_forwarded_with_one_or_refused(running: Running) -> None:
    async def answers(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx-deepwell-release: forged\r\n\r\n")
        await writer.drain()
        writer.close()

    replicas = [one for slot in running.replicas.values() for one in slot]
    for one in replicas:
        one.script = answers
        one.requests.clear()
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 41\r\ntransfer-encoding: chunked\r\n"
    writer.write(head + b"connection: close\r\n\r\n0\r\n\r\nGET /admin HTTP/1.1\r\nhost: a\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    seen = [request for one in replicas for request in one.requests]
    assert answer.count(b"HTTP/1.1 ") == 1 and b"forged" not in answer
    assert [path for path, _ in seen] in ([], ["/v1/chat/completions"])
    assert all(not {"content-length", "transfer-encoding"} <= set(headers) for _, headers in seen)


async def test_a_dead_replica_is_noticed_by_its_connections_and_nothing_fails(running: Running) -> None:
    await running.replicas["blue"][0].stop()
    answers = [await running.ask(chat(f"question {number}")) for number in range(20)]
    assert {one.status_code for one in answers} == {200}
    assert {one.json()["name"] for one in answers} == {"blue1"}


async def test_a_replica_that_ends_before_a_token_is_retried_where_that_is_safe(running: Running) -> None:
    async def dies(writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    for one in running.replicas["blue"]:
        one.script = dies
    broken = await running.ask({"input_file_id": "f"}, "/v1/batches")
    assert broken.status_code == 502 and broken.json()["error"]["code"] == "front_502"
    assert sum(len(one.requests) for one in running.replicas["blue"]) == 2, (
        "the first of the start, and this one"
    )

    async def up() -> bool:
        running.replicas["blue"][1].script = None
        return (await running.ask(chat("anew"))).status_code == 200

    await until_async(up)
    answers = [await running.ask(chat(f"question {number}")) for number in range(10)]
    assert {one.status_code for one in answers} == {200}


async def test_a_stream_that_breaks_is_not_taken_for_a_whole_one(running: Running) -> None:
    async def breaks(writer: asyncio.StreamWriter) -> None:
        event = b'data: {"choices":[]}\n\n'
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        writer.write(head + b"%x\r\n%b\r\n" % (len(event), event))
        await writer.drain()
        writer.transport.abort()

    for one in running.replicas["blue"]:
        one.script = breaks
    text = b""
    cut = False
    try:
        async with running.http.stream(
            "POST", "/v1/chat/completions", json=chat("hi", stream=True)
        ) as answer:
            async for piece in answer.aiter_bytes():
                text += piece
    except httpx.RemoteProtocolError:
        cut = True
    assert text.startswith(b'data: {"choices":[]}') and b"[DONE]" not in text
    assert cut or b'"error"' in text


async def test_a_drained_replica_finishes_and_takes_no_more(running: Running) -> None:
    go_on = asyncio.Event()

    async def slow(writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nlate")
        await writer.drain()
        writer.close()

    for one in running.replicas["blue"]:
        one.script = slow
    asking = asyncio.create_task(running.ask(chat("take your time")))

    async def busy() -> bool:
        return any(one.open_requests for one in await running.front.stat() if one.server == "BACKEND")

    await until_async(busy)
    for number in (0, 1):
        await running.front.set_state("blue", number, "drain")
    refused = await running.ask(chat("another"))
    assert refused.status_code == 503 and refused.json()["error"]["code"] == "front_503"
    go_on.set()
    assert (await asking).text == "late"
    for number in (0, 1):
        running.replicas["blue"][number].script = None
        await running.front.set_state("blue", number, "ready")

    async def back() -> bool:
        return (await running.ask(chat("again"))).status_code == 200

    await until_async(back)


async def test_requests_that_begin_alike_go_to_one_replica(running: Running) -> None:
    at: dict[str, set[str]] = {}
    for turn in range(3):
        for number in range(12):
            body = chat(f"conversation {number}", *(f"turn {one}" for one in range(turn)))
            at.setdefault(f"{number}", set()).add((await running.ask(body)).json()["name"])
    assert all(len(one) == 1 for one in at.values()), at
    assert set.union(*at.values()) == {"blue0", "blue1"}, "and both have some"


async def test_load_comes_before_likeness(running: Running) -> None:
    go_on = asyncio.Event()

    async def slow(writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")
        await writer.drain()
        writer.close()

    for one in running.replicas["blue"]:
        one.requests.clear()
        one.script = slow
    asking = [asyncio.create_task(running.ask(chat("everybody asks this"))) for _ in range(10)]

    async def all_there() -> bool:
        return sum(len(one.requests) for one in running.replicas["blue"]) == 10

    await until_async(all_there)
    counts = sorted(len(one.requests) for one in running.replicas["blue"])
    go_on.set()
    assert all(one.status_code == 200 for one in await asyncio.gather(*asking))
    assert counts[0] >= 3, counts


async def test_the_rules_in_python_say_the_same(running: Running) -> None:
    chosen = random.Random(5)
    routes = canary(0.5)
    await running.front.route(routes)
    for number in range(60):
        body: dict[str, Any] = {"model": "prod", "prompt": f"p{number}"}
        name = chosen.choice(["user", "safety_identifier", "none"])
        if name != "none":
            body[name] = chosen.choice(["lin", "王", "", "a\tb", '"quoted"', "x" * 300])
        preview = chosen.choice(["", "", "candidate", "current", "other"])
        headers = {"x_deepwell_release": preview} if preview else {}
        asked = asked_by("/v1/completions", json.loads(json.dumps(body)), b"", preview, None)
        expected = choose(routes, asked, None)
        assert await running.slot_of(body, "/v1/completions", **headers) == expected, (body, preview)
