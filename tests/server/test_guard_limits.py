"""The guard under load: texts that are too long, a time for moderation, and a policy that changes while requests are read."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.server.fakes import FakeEngine, make_service
from tests.server.test_guard import BLOCK_INPUT, REFUSAL, TERM, chat, options, policy_file, said, serving
from tests.server.test_guard_holes import OWN, guard_of

from deepwell.dialogue.dialogue import Dialogue, Turn
from deepwell.dialogue.parsers.events import CallArguments, CallStart, Content
from deepwell.dialogue.text import Codec
from deepwell.errors import InvalidRequest
from deepwell.safety.external.services import ExternalServices
from deepwell.safety.guard import Guard
from deepwell.safety.policy import MAX_CHARACTERS, Policy
from deepwell.server.guarding.checked import Checked
from deepwell.server.guarding.in_force import InForce
from deepwell.storage.database import LOCAL, Database, Tenant
from deepwell.storage.keys import KeyStore

SHORT = f"max_characters: 1000\n{BLOCK_INPUT}"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a" * 1001}]}, "messages"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a" * 600}] * 2}, "messages"),
        ("/v1/responses", {"input": "a" * 1001}, "input"),
        ("/v1/completions", {"prompt": ["a" * 600, "b" * 600]}, "prompt"),
        ("/v1/messages", {"max_tokens": 1, "messages": [{"role": "user", "content": "a" * 1001}]}, None),
        ("/api/generate", {"prompt": "a" * 1001}, None),
    ],
)
async def test_a_request_with_too_much_to_read_is_refused_with_its_fix(
    path: str, body: dict[str, Any], param: str | None, engine: FakeEngine, codec: Codec, tmp_path: Path
) -> None:
    service = make_service(engine, codec, model="toy", guard=options(tmp_path, SHORT))
    async with serving(service) as http:
        answer = await http.post(path, json={"model": "toy", **body})
    assert answer.status_code == 400, answer.text
    assert "1,000" in answer.text and "max_characters" in answer.text
    if param is not None:
        assert answer.json()["error"]["param"] == param


async def test_what_the_guard_does_not_read_may_be_long(
    engine: FakeEngine, codec: Codec, tmp_path: Path
) -> None:
    guard = guard_of(make_service(engine, codec, model="toy", guard=options(tmp_path, SHORT)))
    long = {"role": "system", "content": "a" * 5000}
    _, checked = await guard.read(Dialogue([long, {"role": "user", "content": "hello"}]), "t")
    assert not checked.blocked
    for message in ({"role": "tool", "content": "a" * 1001}, {"role": "user", "content": "a" * 1001}):
        with pytest.raises(InvalidRequest, match="1,001") as error:
            await guard.read(Dialogue([message]), "t")
        assert "1,001" in error.value.said("zh")[0] and "max_characters" in error.value.said("zh")[1]


async def test_many_short_texts_of_a_request_let_others_run_in_between(
    engine: FakeEngine, codec: Codec, tmp_path: Path
) -> None:
    rules = f"reads: [user, system, assistant]\n{BLOCK_INPUT}"
    guard = guard_of(make_service(engine, codec, model="toy", guard=options(tmp_path, rules)))
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    said_before = [{"role": "user", "content": f"message {number}"} for number in range(60)]
    variables = {"documents": [{"text": f"document {number}"} for number in range(40)]}
    await guard.read(Dialogue(said_before, variables=variables), "t")
    task.cancel()
    assert turns >= 100


async def test_a_long_text_of_a_model_is_a_failure_and_no_error(
    engine: FakeEngine, codec: Codec, tmp_path: Path
) -> None:
    guard = guard_of(make_service(engine, codec, model="toy", guard=options(tmp_path, SHORT)))
    assert await guard.written("a" * 1001, Checked("t")) == "[withheld by the guard]"


async def test_moderation_has_the_limit_of_the_policy_or_the_usual_one(
    engine: FakeEngine, codec: Codec, tmp_path: Path
) -> None:
    guarded = make_service(engine, codec, model="toy", guard=options(tmp_path, SHORT))
    plain = make_service(engine, codec, model="toy")
    for service, count in ((guarded, 1001), (plain, MAX_CHARACTERS + 1)):
        async with serving(service) as http:
            answer = await http.post("/v1/moderations", json={"input": ["a" * (count - 1), "b"]})
            assert answer.status_code == 400, answer.text
            assert f"{count - 1:,}" in answer.text and answer.json()["error"]["param"] == "input"


@pytest.mark.parametrize("length", [10, 10_000])
async def test_moderation_ends_when_the_time_of_the_guard_is_over(
    length: int, engine: FakeEngine, codec: Codec, tmp_path: Path
) -> None:
    given = replace(options(tmp_path, ""), timeout_s=0.0)
    service = make_service(engine, codec, model="toy", guard=given)
    async with serving(service) as http:
        answer = await http.post("/v1/moderations", json={"input": "a" * length})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "moderation_late")
        assert answer.headers["retry-after"] == "1"


async def test_a_changed_policy_is_built_in_a_thread_while_others_are_read_under_the_old_one(
    engine: FakeEngine, codec: Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make_service(engine, codec, model="toy", guard=options(tmp_path, ""))
    monkeypatch.setattr("deepwell.server.guarding.in_force._STAT_S", 0.0)
    begun, may_end = asyncio.Event(), threading.Event()
    threads: list[str] = []
    loop, make = asyncio.get_running_loop(), Guard.of

    def slow(*given: Any) -> Guard:
        threads.append(threading.current_thread().name)
        loop.call_soon_threadsafe(begun.set)
        assert may_end.wait(30)
        return make(*given)

    async with serving(service) as http:

        async def answer() -> str:
            return said((await http.post("/v1/chat/completions", json=chat(TERM))).text)

        assert await answer() == TERM
        monkeypatch.setattr(Guard, "of", slow)
        policy_file(tmp_path, BLOCK_INPUT)
        first = asyncio.create_task(answer())
        await begun.wait()
        assert await answer() == TERM
        may_end.set()
        assert await first == REFUSAL
        assert await answer() == REFUSAL
    assert len(threads) == 1 and threads[0] != threading.main_thread().name


class Counted(ExternalServices):
    """Services that count how often they are closed."""

    closed = 0

    async def close(self) -> None:
        self.closed += 1
        await super().close()


async def test_services_are_closed_behind_their_last_use() -> None:
    guard = Guard({}, Policy.model_validate({"version": 1}))
    idle, busy = Counted({}, {}), Counted({}, {})
    await InForce(guard, idle).retire()
    assert idle.closed == 1
    force = InForce(guard, busy)
    async with force.used():
        async with force.used():
            await force.retire()
        assert busy.closed == 0
    assert busy.closed == 1


async def test_a_reload_and_the_end_of_a_server_close_the_services(
    engine: FakeEngine, codec: Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Counted] = []

    def counted(*given: Any) -> Counted:
        made.append(Counted(*given))
        return made[-1]

    monkeypatch.setattr("deepwell.server.guarding.in_force.ExternalServices", counted)
    monkeypatch.setattr("deepwell.server.guarding.in_force._STAT_S", 0.0)
    outside = f"{OWN}layers: [output], on_failure: allow}}}}\n"
    service = make_service(engine, codec, model="toy", guard=options(tmp_path, outside))
    async with serving(service) as http:
        await http.post("/v1/chat/completions", json=chat("hello"))
        policy_file(tmp_path, outside + BLOCK_INPUT)
        await http.post("/v1/chat/completions", json=chat("hello"))
        assert [one.closed for one in made] == [1, 0]
    await service.close_state()
    assert [one.closed for one in made] == [1, 1]


async def test_what_is_read_of_a_request_names_its_key_in_the_trail(
    engine: FakeEngine, codec: Codec, tmp_path: Path
) -> None:
    """The id of the key was once written down when the request had ended, behind all its entries."""
    database = Database.open(tmp_path / "deepwell.db")
    key, secret = KeyStore(database).create(Tenant("acme"), "k", ["inference"])
    service = make_service(
        engine, codec, model="toy", guard=options(tmp_path, BLOCK_INPUT), database=database
    )
    async with serving(service) as http:
        headers = {"authorization": f"Bearer {secret}"}
        answer = await http.post("/v1/chat/completions", json=chat(TERM), headers=headers)
        assert said(answer.text) == REFUSAL
    await service.audit.flush()
    [chain] = await service.audit.store.chains(Tenant("acme"))
    _, rows = service.audit.store.rows(chain.id, 0, 10)
    assert [json.loads(row[2])["key_id"] for row in rows] == [key.id]
    await service.close_state()


async def test_what_is_read_of_a_request_names_its_model_in_the_trail(
    engine: FakeEngine, codec: Codec, tmp_path: Path
) -> None:
    service = make_service(engine, codec, model="toy", guard=options(tmp_path, BLOCK_INPUT))
    bodies: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"messages": [{"role": "user", "content": TERM}]},
        "/v1/responses": {"input": TERM},
        "/v1/completions": {"prompt": TERM},
        "/api/generate": {"prompt": TERM},
    }
    async with serving(service) as http:
        for path, body in bodies.items():
            await http.post(path, json={"model": "toy", **body})
    await service.audit.flush()
    [chain] = await service.audit.store.chains(LOCAL)
    _, rows = service.audit.store.rows(chain.id, 0, 10)
    assert [json.loads(row[2])["model"] for row in rows] == ["toy"] * len(bodies)
    await service.close_state()


async def test_a_long_answer_that_comes_at_once_lets_others_run_in_between(
    engine: FakeEngine, codec: Codec, tmp_path: Path
) -> None:
    rules = "output: {rules: {terms: redact}}"
    guard = guard_of(make_service(engine, codec, model="toy", guard=options(tmp_path, rules)))
    ticks = 0

    async def other() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    text = f"plain words, {TERM}, " * 1000

    async def turns() -> AsyncGenerator[Turn, None]:
        yield Turn(0, (Content(text), CallStart(0, "look"), CallArguments(0, "{}")))
        yield Turn(0, (), finish_reason="stop")

    task = asyncio.create_task(other())
    read = [one async for one in guard.turns(Checked("t"), turns())]
    task.cancel()
    events = [event for one in read for event in one.events]
    told = "".join(one.text for one in events if isinstance(one, Content))
    assert told == text.replace(TERM, "[removed]")
    assert [one.text for one in events if isinstance(one, CallArguments)] == ["{}"]
    assert read[-1].finish_reason == "stop" and ticks > len(text) // 4096
