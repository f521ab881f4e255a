"""The guard in the server: every route that generates passes it, streaming or not, and failures do what is declared."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from string import Template
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI
from tests.server.fakes import FakeEngine, make_service

from deepwell.dialogue.text import Codec
from deepwell.safety.external.services import ExternalAnswer, ExternalServices
from deepwell.safety.findings import Finding
from deepwell.safety.policy import Policy
from deepwell.safety.terms.lists import Term, TermList
from deepwell.server.answering import Answering
from deepwell.server.app import FAMILIES, create_app, route_table
from deepwell.server.context import ServerContext
from deepwell.server.guarding.checked import NotChecked
from deepwell.server.guarding.in_force import PolicyWatch
from deepwell.server.http.declaration import Operation
from deepwell.server.options import GuardOptions
from deepwell.storage.database import LOCAL, Database

TERM = "forbidden fruit"
KEY = "AKIA" + "IOSFODNN7EXAMPLF"
REFUSAL = "Against the rules."
GENERATES = {"chat", "text_completion"}
# Of those no text comes from a model, or tests of their own ask them with a recording or for sound or images
# (tests/server/audio, tests/server/images).
READS = {"embeddings", "rerank", "score", "moderation", "transcription", "translation", "speech"}
READS |= {"image_generation", "image_edit", "image_variation"}
# An agent asks its model through /v1/chat/completions (tests/server/agents).
READS |= {"invoke_agent"}
POLICY = """
version: 1
terms: [own]
refusal: {en: Against the rules., zh: 不符合规范。}
"""
BLOCK_INPUT = "input: {rules: {terms: block}}"
BLOCK_OUTPUT = "output: {rules: {terms: block}}"
REDACT_OUTPUT = "output: {rules: {terms: redact}}"


def operations() -> list[Operation]:
    """Returns every operation of which a model writes the answer."""
    found = [one for family in FAMILIES for one in family.declaration.operations if one.name in GENERATES]
    return [one for one in found if one.method == "post"]


def policy_file(folder: Path, rules: str) -> Path:
    path = folder / "policy.yaml"
    path.write_text(POLICY + rules, "utf-8")
    return path


def options(folder: Path, rules: str, *, lists: bool = True) -> GuardOptions:
    if lists:
        TermList("own", [Term(TERM, "politics", "block")], "test", "none", "0" * 64).write(folder / "terms")
    return GuardOptions(str(policy_file(folder, rules)), folder / "terms")


@asynccontextmanager
async def serving(service: ServerContext) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=60) as client:
        yield client


def chat(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "toy", "messages": [{"role": "user", "content": text}], "temperature": 0, **more}


def said(body: str) -> str:
    """Returns all strings of an answer, of a stream as of a whole, joined in their order."""
    found: list[str] = []

    def walk(value: Any) -> None:
        match value:
            case str():
                found.append(value)
            case list():
                for one in value:
                    walk(one)
            case dict():
                for key, one in value.items():
                    if key in ("content", "text", "delta", "response", "partial_json") or not isinstance(
                        one, str
                    ):
                        walk(one)
            case _:
                pass

    for line in body.splitlines():
        line = line.removeprefix("data: ")
        if line.startswith("{"):
            walk(json.loads(line))
    return "".join(found)


def test_every_computing_operation_is_known_to_be_read_or_not() -> None:
    names = {one.name for one in route_table().operations.values() if one.name is not None}
    assert names <= GENERATES | READS, "a new kind of operation: does the guard read it?"
    assert len(operations()) >= 6


@pytest.mark.parametrize("rules", [BLOCK_INPUT, BLOCK_OUTPUT], ids=["input", "output"])
@pytest.mark.parametrize(
    ("operation", "stream"),
    [(one, stream) for one in operations() for stream in ([False, True] if one.streams else [False])],
    ids=lambda one: ("whole", "stream")[one] if isinstance(one, bool) else one.path,
)
async def test_no_route_lets_a_forbidden_term_through(
    operation: Operation, rules: str, stream: bool, engine: FakeEngine, codec: Codec, tmp_path: Path
) -> None:
    assert operation.example is not None
    body = json.loads(Template(operation.example).substitute(model="toy", text=f"I like {TERM} a lot"))
    body["stream"] = stream
    service = make_service(engine, codec, model="toy", guard=options(tmp_path, rules))
    async with serving(service) as http:
        answer = await http.post(operation.path, json=body)
    assert answer.status_code == 200, answer.text
    assert TERM not in said(answer.text) and TERM not in answer.text
    assert REFUSAL in said(answer.text)
    assert bool(engine.seen) is (rules == BLOCK_OUTPUT)


@pytest.mark.parametrize("operation", operations(), ids=lambda one: one.path)
async def test_a_route_that_forgets_the_guard_answers_nothing(
    operation: Operation, engine: FakeEngine, codec: Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the note of the guard no answer leaves, whatever the route does."""
    service = make_service(engine, codec, model="toy", guard=options(tmp_path, BLOCK_INPUT))
    guard = service.main.guard
    assert guard is not None and operation.example is not None
    turns, updates = guard.turns, guard.updates
    monkeypatch.setattr(guard, "turns", lambda _, given: turns(None, given))
    monkeypatch.setattr(guard, "updates", lambda _, choices, given: updates(None, choices, given))
    async with serving(service) as http:
        body = json.loads(Template(operation.example).substitute(model="toy", text="hello"))
        answer = await http.post(operation.path, json={**body, "stream": False})
    assert answer.status_code == 500 and "hello" not in answer.text


async def test_answering_hands_out_no_text_around_the_guard(
    engine: FakeEngine, codec: Codec, tmp_path: Path
) -> None:
    service = make_service(engine, codec, model="toy", guard=options(tmp_path, BLOCK_INPUT))
    public = [name for name in vars(Answering) if not name.startswith("_")]
    assert sorted(public) == ["complete", "converse"]
    with pytest.raises(NotChecked):
        await anext(service.main.complete(None, []))


async def test_a_redacted_term_is_replaced_in_the_stream(
    engine: FakeEngine, codec: Codec, tmp_path: Path
) -> None:
    service = make_service(engine, codec, model="toy", guard=options(tmp_path, REDACT_OUTPUT))
    async with serving(service) as http:
        answer = await http.post(
            "/v1/chat/completions", json=chat(f"eat {TERM} now", stream=True, max_tokens=60)
        )
    text = said(answer.text)
    assert TERM not in text and text.startswith("eat [") and text.endswith("] now")
    assert '"finish_reason":"stop"' in answer.text


async def test_what_is_redacted_in_a_request_never_reaches_the_model(
    engine: FakeEngine, codec: Codec, tmp_path: Path
) -> None:
    service = make_service(
        engine, codec, model="toy", guard=options(tmp_path, "input: {rules: {secret: redact}}")
    )
    async with serving(service) as http:
        answer = await http.post("/v1/chat/completions", json=chat(f"my key is {KEY} ok", max_tokens=80))
        plain = await http.post(
            "/v1/completions", json={"model": "toy", "prompt": f"key {KEY}", "max_tokens": 80}
        )
    assert KEY not in answer.text and "[" in said(answer.text) and KEY not in plain.text
    for request in engine.seen:
        assert KEY not in codec.decode(list(request.prompt))


async def test_a_tool_result_is_withheld_and_the_conversation_goes_on(
    engine: FakeEngine, codec: Codec, tmp_path: Path
) -> None:
    service = make_service(
        engine, codec, model="toy", guard=options(tmp_path, "context: {rules: {terms: block}}")
    )
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "look"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": f"it says {TERM}"},
        {"role": "user", "content": "and?"},
    ]
    async with serving(service) as http:
        answer = await http.post(
            "/v1/chat/completions", json={**chat(""), "messages": messages, "max_tokens": 20}
        )
    assert answer.status_code == 200 and said(answer.text).startswith("and?")
    prompt = codec.decode(list(engine.seen[0].prompt))
    assert TERM not in prompt and "[withheld by the guard]" in prompt


async def test_the_refusal_speaks_the_language_of_the_request(
    engine: FakeEngine, codec: Codec, tmp_path: Path
) -> None:
    service = make_service(engine, codec, model="toy", guard=options(tmp_path, BLOCK_INPUT))
    async with serving(service) as http:
        answer = await http.post("/v1/chat/completions", json=chat(f"请你介绍一下 {TERM} 是什么东西好吗"))
    assert said(answer.text).startswith("不符合规范。")
    assert answer.json()["choices"][0]["finish_reason"] == "content_filter"


async def test_the_official_client_reads_a_refusal(engine: FakeEngine, codec: Codec, tmp_path: Path) -> None:
    service = make_service(engine, codec, model="toy", guard=options(tmp_path, BLOCK_INPUT))
    transport = httpx.ASGITransport(create_app(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        client = AsyncOpenAI(
            base_url="http://test/v1", api_key="-", http_client=http, _strict_response_validation=True
        )
        whole = await client.chat.completions.create(**chat(TERM))
        assert whole.choices[0].finish_reason == "content_filter"
        response = await client.responses.create(model="toy", input=TERM)
        assert response.status == "incomplete" and response.incomplete_details is not None
        assert response.incomplete_details.reason == "content_filter" and response.output_text == REFUSAL
        completion = await client.completions.create(model="toy", prompt=TERM)
        assert completion.choices[0].finish_reason == "content_filter"
        assert completion.choices[0].text == REFUSAL


@pytest.mark.parametrize("declared", ["allow", "block"])
@pytest.mark.parametrize("layer", ["input", "output"])
async def test_a_missing_list_does_what_the_policy_declares(
    layer: str, declared: str, engine: FakeEngine, codec: Codec, tmp_path: Path
) -> None:
    other = "output" if layer == "input" else "input"
    rules = f"{layer}: {{on_failure: {declared}}}\n{other}: {{on_failure: allow}}\n"
    service = make_service(engine, codec, model="toy", guard=options(tmp_path, rules, lists=False))
    async with serving(service) as http:
        answer = await http.post("/v1/chat/completions", json=chat("hello"))
    assert said(answer.text) == ("hello" if declared == "allow" else REFUSAL)


@pytest.mark.parametrize("declared", ["allow", "block"])
async def test_an_exception_and_a_late_detector_do_what_the_policy_declares(
    declared: str, engine: FakeEngine, codec: Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declares = f"{{on_failure: {declared}, rules: {{terms: block}}}}"
    rules = f"input: {declares}\noutput: {declares}\n"
    service = make_service(engine, codec, model="toy", guard=options(tmp_path, rules))
    guard = service.main.guard
    assert guard is not None
    expected = "hello" if declared == "allow" else REFUSAL
    detector = guard.decisions.guard.detectors["input"][0]

    def fails(_: Any) -> Any:
        raise RuntimeError("out of order")

    async def late(reading: Any, _: float) -> Any:
        reading.close()
        raise TimeoutError

    async with serving(service) as http:
        with monkeypatch.context() as patch:
            patch.setattr(detector, "scan", fails)
            assert said((await http.post("/v1/chat/completions", json=chat("hello"))).text) == expected
        with monkeypatch.context() as patch:
            patch.setattr("deepwell.server.guarding.decisions._in_time", late)
            patch.setattr("deepwell.server.guarding.decisions.INLINE", 1)
            assert said((await http.post("/v1/chat/completions", json=chat("hello"))).text) == expected
        assert said((await http.post("/v1/chat/completions", json=chat("hello"))).text) == "hello"


async def test_a_changed_policy_is_in_force_and_a_broken_one_is_not(
    engine: FakeEngine, codec: Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make_service(engine, codec, model="toy", guard=options(tmp_path, ""))
    monkeypatch.setattr("deepwell.server.guarding.in_force._STAT_S", 0.0)
    async with serving(service) as http:

        async def answer() -> str:
            return said((await http.post("/v1/chat/completions", json=chat(TERM))).text)

        assert await answer() == TERM
        policy_file(tmp_path, BLOCK_INPUT)
        assert await answer() == REFUSAL
        policy_file(tmp_path, "input: {rules: {nonsense: block}}  # broken")
        assert await answer() == REFUSAL


async def test_a_policy_that_changes_while_the_server_starts_is_in_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepwell.server.guarding.in_force._STAT_S", 0.0)
    given, read = options(tmp_path, ""), Policy.load

    def load(name: str | Path) -> Policy:
        found = read(name)
        policy_file(tmp_path, BLOCK_INPUT)  # somebody else writes it just now
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Policy, "load", load)
        watch = PolicyWatch(given)
    before = watch.now.guard.hash
    assert (await watch.current()).guard.hash != before
    await watch.close()


async def test_each_decision_is_counted_and_in_the_audit_trail_without_the_text(
    engine: FakeEngine, codec: Codec, tmp_path: Path
) -> None:
    database = Database.open(tmp_path / "data")
    service = make_service(
        engine, codec, model="toy", guard=options(tmp_path, BLOCK_INPUT), database=database
    )
    async with serving(service) as http:
        for _ in range(2):  # the second text is known already
            await http.post("/v1/chat/completions", json=chat(f"about {TERM}"))
        metrics = (await http.get("/metrics")).text
    [chain] = await service.audit.store.chains(LOCAL)
    _, rows = service.audit.store.rows(chain.id, 0, 10)
    entries = [str(row) for row in rows if "guard" in str(row) or "terms" in str(row)]
    assert len(entries) == 2
    for entry in entries:
        assert "terms.block.politics" in entry and TERM not in entry
        assert service.main.guard is not None and service.main.guard.policy.hash in entry
    assert 'deepwell_guard_decisions_total{action="block",layer="input"} 2.0' in metrics
    await service.close_state()


async def test_a_result_of_a_tool_stays_one_when_its_conversation_is_compacted(
    codec: Codec, tmp_path: Path
) -> None:
    # By this policy an assistant's messages are not read, and what tools return is.
    rules = "context: {rules: {terms: block}}"
    engine = FakeEngine()
    service = make_service(engine, codec, model="toy", guard=options(tmp_path, rules))
    call = {"type": "function_call", "call_id": "1", "name": "look", "arguments": "{}"}
    items = [
        {"role": "user", "content": "look it up"},
        call,
        {"type": "function_call_output", "call_id": "1", "output": f"it says {TERM}"},
        {"role": "user", "content": "and then"},
    ]
    async with serving(service) as http:
        answer = await http.post("/v1/responses/compact", json={"model": "toy", "input": items})
        assert answer.status_code == 200, answer.text
        kept = answer.json()["output"]
        for _ in range(2):  # compacted again, it is the same
            body = {"model": "toy", "input": [*kept, {"role": "user", "content": "go on"}]}
            answer = await http.post("/v1/responses", json=body)
            assert answer.status_code == 200, answer.text
            prompt = codec.decode(list(engine.seen[-1].prompt))
            assert "look it up" in prompt and "and then" in prompt and TERM not in prompt
            answer = await http.post("/v1/responses/compact", json={"model": "toy", "input": kept})
            kept = answer.json()["output"]


@pytest.mark.parametrize("place", ["system", "assistant", "call", "tool description"])
@pytest.mark.parametrize("reads", ["[user]", "[user, system, assistant]"], ids=["users", "all"])
async def test_what_else_a_client_says_is_read_where_the_policy_says_so(
    place: str, reads: str, engine: FakeEngine, codec: Codec, tmp_path: Path
) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": json.dumps({"q": TERM})}}
    tool = {
        "type": "function",
        "function": {"name": "look", "description": TERM, "parameters": {"type": "object", "properties": {}}},
    }
    before: dict[str, list[dict[str, Any]]] = {
        "system": [{"role": "system", "content": TERM}],
        "assistant": [{"role": "user", "content": "a"}, {"role": "assistant", "content": TERM}],
        "call": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "1", "content": "nothing"},
        ],
    }
    body = chat("hello", max_tokens=20)
    body["messages"] = [*before.get(place, []), {"role": "user", "content": "hello"}]
    if place == "tool description":
        body["tools"] = [tool]
    rules = f"{BLOCK_INPUT}\nreads: {reads}\n"
    service = make_service(FakeEngine(max_model_len=4096), codec, model="toy", guard=options(tmp_path, rules))
    async with serving(service) as http:
        answer = await http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    refused = answer.json()["choices"][0]["finish_reason"] == "content_filter"
    assert refused is (reads != "[user]")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_generated_text_ends_with_its_mark_and_structured_output_has_none(
    stream: bool, engine: FakeEngine, codec: Codec, tmp_path: Path
) -> None:
    service = make_service(engine, codec, model="toy", guard=options(tmp_path, "label: true"))
    async with serving(service) as http:
        answer = await http.post("/v1/chat/completions", json=chat("hello", stream=stream))
        json_only = {"response_format": {"type": "json_object"}}
        structured = await http.post("/v1/chat/completions", json=chat("hello", stream=stream, **json_only))
    assert said(answer.text) == "hello\n\n(This content was generated by AI.)"
    assert "generated by AI" not in structured.text


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_no_part_of_an_answer_leaves_before_services_outside_have_read_it(
    stream: bool, engine: FakeEngine, codec: Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service is replaced behind its client; what its client does on the wire has tests of its own."""
    rules = "output: {rules: {violence: block}}\n"
    rules += "external: {own: {kind: openai, url: 'http://127.0.0.1:9/v1/moderations', layers: [output]}}\n"
    service = make_service(engine, codec, model="toy", guard=options(tmp_path, rules))
    seen: list[str] = []

    async def check(_: Any, text: str, layer: str) -> ExternalAnswer:
        seen.append(text)
        bad = "nasty" in text
        return ExternalAnswer((Finding("external.own.violence", "violence", 0, 5, 0.9),) if bad else ())

    monkeypatch.setattr(ExternalServices, "check", check)
    async with serving(service) as http:
        bad = await http.post(
            "/v1/chat/completions", json=chat("begin nasty end", stream=stream, max_tokens=40)
        )
        good = await http.post("/v1/chat/completions", json=chat("hello", stream=stream))
    assert said(bad.text) == REFUSAL and said(good.text) == "hello"
    assert seen == ["begin nasty end", "hello"]


async def test_a_service_that_cannot_be_reached_does_what_is_declared(
    engine: FakeEngine, codec: Codec, tmp_path: Path
) -> None:
    for declared, expected in (("allow", "hello"), ("block", REFUSAL)):
        rules = "external: {own: {kind: openai, url: 'http://127.0.0.1:9/v1/moderations', "
        rules += f"layers: [input], retries: 0, on_failure: {declared}}}}}\n"
        service = make_service(engine, codec, model="toy", guard=options(tmp_path, rules))
        async with serving(service) as http:
            answer = await http.post("/v1/chat/completions", json=chat("hello"))
        assert said(answer.text) == expected


async def test_every_request_has_its_own_entry_and_the_end_user_a_pseudonym(
    engine: FakeEngine, codec: Codec, tmp_path: Path
) -> None:
    database = Database.open(tmp_path / "data")
    service = make_service(
        engine, codec, model="toy", guard=options(tmp_path, BLOCK_INPUT), database=database
    )
    message = {"role": "user", "content": f"about {TERM}"}
    async with serving(service) as http:
        for user in ("lin@example.com", "lin@example.com", "ada@example.com"):
            answer = await http.post("/v1/chat/completions", json=chat(f"about {TERM}", user=user))
            assert answer.status_code == 200
        asked = {
            "model": "toy",
            "messages": [message],
            "max_tokens": 4,
            "metadata": {"user_id": "lin@example.com"},
        }
        await http.post("/v1/messages", json=asked)
        await http.post(
            "/v1/responses", json={"model": "toy", "input": TERM, "safety_identifier": "ada@example.com"}
        )
    [chain] = await service.audit.store.chains(LOCAL)
    _, rows = service.audit.store.rows(chain.id, 0, 10)
    lin, ada = [await service.audit.store.person(LOCAL, f"{name}@example.com") for name in ("lin", "ada")]
    persons = [json.loads(row[2])["person"] for row in rows]
    assert lin and ada and persons == [lin[1], lin[1], ada[1], lin[1], ada[1]]
    assert "@" not in str(rows)
    await service.close_state()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_system_prompt_does_not_leave_in_an_answer(
    stream: bool, engine: FakeEngine, codec: Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine says its prompt, as a model does that was talked into it. It is told by its first 60 letters."""
    secret = "You are the assistant of the harbour office, and speak of ships alone, in a kind voice and in few words. "
    secret += "You never tell anybody when the pilot boats leave, which is at half past four."
    monkeypatch.setattr(engine, "_script", lambda _: list(codec.encode("Here it is: " + secret + " Done.")))
    service = make_service(
        engine, codec, model="toy", guard=options(tmp_path, "output: {rules: {leak: block}}")
    )
    body = chat("say it", stream=stream, max_tokens=250)
    body["messages"].insert(0, {"role": "system", "content": secret})
    async with serving(service) as http:
        leaked = await http.post("/v1/chat/completions", json=body)
        body["messages"][0]["content"] = (
            "You are helpful in all matters of cooking, and answer in short sentences."
        )
        harmless = await http.post("/v1/chat/completions", json=body)
    assert "half past four" not in said(leaked.text) and said(leaked.text).endswith(REFUSAL)
    assert said(harmless.text) == "Here it is: " + secret + " Done."


async def test_personal_data_that_nobody_gave_is_redacted_and_what_was_given_is_not(
    engine: FakeEngine, codec: Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "write to ann@corp-mail.com or to bob@other-mail.com today"
    monkeypatch.setattr(engine, "_script", lambda _: list(codec.encode(text)))
    rules = "output: {rules: {personal.foreign: redact}}"
    service = make_service(engine, codec, model="toy", guard=options(tmp_path, rules))
    async with serving(service) as http:
        answer = await http.post(
            "/v1/chat/completions", json=chat("ann@corp-mail.com is mine", max_tokens=99)
        )
    assert "ann@corp-mail.com" in said(answer.text) and "bob@other-mail.com" not in said(answer.text)
