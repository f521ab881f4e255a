"""Answers from passages under the guard: claims that nothing supports, what passages made known, and the embedded label."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator, Sequence
from pathlib import Path
from string import Template
from typing import Any, Literal

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from openai import OpenAI
from tests.server.conftest import start
from tests.server.fakes import FakeEngine, make_service
from tests.server.knowledge import HashEmbedder, use_hash_embedder
from tests.server.test_file_search import QUESTION, WHALE, asking, filled
from tests.server.test_guard import BLOCK_INPUT, REFUSAL, TERM, chat, operations, options, said, serving
from tests.server.test_guard_holes import guard_of

from deepwell.dialogue.dialogue import Turn
from deepwell.dialogue.parsers.events import Content, Reasoning
from deepwell.dialogue.text import Codec
from deepwell.knowledge.documents import Passage
from deepwell.safety.grounding import claims_of
from deepwell.safety.labels import AigcLabel
from deepwell.server.context import ServerContext
from deepwell.server.guarding.checked import Checked
from deepwell.server.guarding.grounds import Grounds
from deepwell.server.options import KnowledgeOptions
from deepwell.storage.database import Tenant

TRUE = "The blue whale is the largest animal."
FALSE = "The moon is made of green cheese."
LABEL = "label: true\nproducer: '00119111000000000X0000'\n"


def asks(action: str) -> str:
    return f"output: {{rules: {{ungrounded: {action}}}}}\n"


@pytest.fixture
def serve(codec: Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Starts servers whose model says what a test wants."""
    use_hash_embedder(monkeypatch)
    started: list[Any] = []

    def begin(rules: str, text: str, **more: Any) -> tuple[str, ServerContext]:
        engine = FakeEngine(max_model_len=4096)
        monkeypatch.setattr(engine, "_script", lambda _: list(codec.encode(text)))
        service = make_service(engine, codec, model="toy", guard=options(tmp_path, rules), **more)
        started.append(start(service, engine))
        return started[-1].url, service

    yield begin
    for one in started:
        one.stop()


def answered(url: str, *, stream: bool, **more: Any) -> str:
    """Returns all that a client is told of an answer from files."""
    with OpenAI(base_url=f"{url}/v1", api_key="-") as client:
        asked = asking(filled(client)) | more
        if stream:
            return "".join(str(one) for one in client.responses.create(**asked, stream=True))
        return client.responses.create(**asked).model_dump_json()


AS_JSON: dict[str, Any] = {
    "text": {"format": {"type": "json_object"}}
}  # its sentences are not checked one by one


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_claim_without_support_does_not_leave_where_the_policy_blocks(serve: Any, stream: bool) -> None:
    url, _ = serve(asks("block"), json.dumps({"answer": FALSE}))
    told = answered(url, stream=stream, **AS_JSON)
    assert "cheese" not in told and REFUSAL in told and "content_filter" in told


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_claim_without_support_is_flagged_and_counted(serve: Any, stream: bool) -> None:
    url, _ = serve(asks("flag"), json.dumps({"answer": FALSE}))
    assert "cheese" in answered(url, stream=stream, **AS_JSON)
    counted = httpx.get(f"{url}/metrics").text
    assert 'deepwell_guard_findings_total{action="flag",detector="grounding"} 1.0' in counted


@pytest.mark.parametrize("rules", [asks("block"), "", asks("flag")], ids=["block", "none", "flag"])
def test_an_answer_that_its_passages_support_leaves(serve: Any, rules: str) -> None:
    url, _ = serve(rules, json.dumps({"answer": TRUE}))
    assert "largest animal" in answered(url, stream=False, **AS_JSON)
    assert 'detector="grounding"' not in httpx.get(f"{url}/metrics").text


class Broken(HashEmbedder):
    async def embed(
        self, texts: Sequence[str], input_type: Literal["query", "passage"]
    ) -> NDArray[np.float32]:
        raise RuntimeError("out of order")


async def told_of(
    service: ServerContext, text: Sequence[str], embedder: HashEmbedder | None = None
) -> list[Turn]:
    """Returns the turns of an answer from a passage, which the model writes in these pieces."""
    guard = guard_of(service)
    checked = Checked("t")
    checked.grounds = Grounds(
        QUESTION, (Passage(1, "f", "whale.txt", 1.0, WHALE),), embedder or HashEmbedder()
    )

    async def turns() -> AsyncGenerator[Turn, None]:
        yield Turn(0, (Reasoning(f"{FALSE} I think."),))
        for piece in text:
            yield Turn(0, (Content(piece),))
        yield Turn(0, (), finish_reason="stop")

    return [one async for one in guard.turns(checked, turns())]


def content(turns: Sequence[Turn]) -> str:
    return "".join(one.text for turn in turns for one in turn.events if isinstance(one, Content))


async def test_a_claim_without_support_is_taken_out_where_the_policy_redacts(
    engine: FakeEngine, codec: Codec, tmp_path: Path
) -> None:
    service = make_service(engine, codec, model="toy", guard=options(tmp_path, asks("redact")))
    turns = await told_of(service, [TRUE, " ", *FALSE])
    assert content(turns) == f"{TRUE}[not in the sources]"
    assert turns[-1].finish_reason == "stop"


@pytest.mark.parametrize("action", ["flag", "block", "redact"])
@pytest.mark.parametrize("declared", ["allow", "block"])
async def test_a_check_that_fails_does_what_is_declared(
    action: str, declared: str, engine: FakeEngine, codec: Codec, tmp_path: Path
) -> None:
    rules = f"output: {{rules: {{ungrounded: {action}}}, on_failure: {declared}}}\n"
    service = make_service(engine, codec, model="toy", guard=options(tmp_path, rules))
    turns = await told_of(service, [TRUE], Broken())
    assert (content(turns) == TRUE) is (declared == "allow")
    assert (REFUSAL in content(turns)) is (declared == "block")


async def test_a_claim_without_support_is_in_the_trail_with_its_place(
    engine: FakeEngine, codec: Codec, tmp_path: Path
) -> None:
    rules = asks("flag") + "audit: {decisions: all}\n"
    service = make_service(engine, codec, model="toy", guard=options(tmp_path, rules))
    assert content(await told_of(service, [f"{TRUE} ", FALSE])) == f"{TRUE} {FALSE}"
    await service.audit.flush()
    [chain] = await service.audit.store.chains(Tenant("t"))
    _, rows = service.audit.store.rows(chain.id, 0, 10)
    [finding] = json.loads(rows[0][2])["findings"]
    assert (finding["rule"], finding["category"], finding["action"]) == (
        "grounding.unsupported",
        "ungrounded",
        "flag",
    )
    assert f"{TRUE} {FALSE}"[finding["start"] : finding["end"]].strip() == FALSE
    await service.close_state()


async def test_a_tenant_may_ask_for_the_check(engine: FakeEngine, codec: Codec, tmp_path: Path) -> None:
    rules = "tenants: {t: {output: {rules: {grounding.unsupported: block}}}}\n"
    service = make_service(engine, codec, model="toy", guard=options(tmp_path, rules))
    assert content(await told_of(service, [FALSE])) == REFUSAL


@pytest.mark.parametrize(
    ("answer", "claims"),
    [
        (f"{TRUE} [1]\n\n[1] Annual report of the whale for everyone.pdf, page 3\n[2] b.txt", [TRUE]),
        ("I did not find this in the documents.", ["I did not find this in the documents."]),
        ("Is it the whale, or what else is it?", []),
        ("\n\n[1] Annual report of the whale for everyone.pdf", []),
    ],
)
def test_the_list_of_sources_claims_nothing(answer: str, claims: list[str]) -> None:
    assert [answer[start:end].strip() for start, end in claims_of(answer)] == claims


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_what_a_passage_names_is_not_foreign_to_an_answer_that_rests_on_it(serve: Any, stream: bool) -> None:
    """Texts that a request knows were once taken before its search, so that no passage was among them."""
    text = "The keeper of the blue whale museum is reached at ann@corp-mail.com in the mornings."
    rules = "output: {rules: {personal.foreign: redact}}\n"
    url, _ = serve(rules, text, knowledge=KnowledgeOptions(ground="museum"))
    with OpenAI(base_url=f"{url}/v1", api_key="-") as client:
        store = client.vector_stores.create(name="museum").id
        client.vector_stores.files.upload_and_poll(vector_store_id=store, file=("k.txt", text.encode()))
        asked: dict[str, Any] = chat("How is the keeper of the blue whale museum reached in the mornings?")
        answer = httpx.post(f"{url}/v1/chat/completions", json={**asked, "stream": stream}, timeout=60)
    assert "ann@corp-mail.com" in said(answer.text), answer.text


@pytest.mark.parametrize("operation", operations(), ids=lambda one: one.path)
async def test_generated_content_has_its_embedded_label_in_a_header(
    operation: Any, engine: FakeEngine, codec: Codec, tmp_path: Path
) -> None:
    service = make_service(engine, codec, model="toy", guard=options(tmp_path, LABEL + BLOCK_INPUT))
    async with serving(service) as http:
        for stream in (False, True) if operation.streams else (False,):
            for text in ("hello", TERM):
                body = json.loads(Template(operation.example).substitute(model="toy", text=text))
                body["stream"] = stream
                answer = await http.post(operation.path, json=body, headers={"x-request-id": "req-7"})
                assert answer.status_code == 200
                found = answer.headers.get("x-aigc-label")
                if text == TERM:  # nobody generated a refusal
                    assert found is None
                else:
                    assert found is not None
                    assert AigcLabel.parse(found) == AigcLabel.first("00119111000000000X0000", "req-7")


@pytest.mark.parametrize("background", [False, True])
def test_a_response_keeps_its_label_in_its_metadata(serve: Any, background: bool) -> None:
    url, _ = serve(LABEL + BLOCK_INPUT, "hello there")
    with OpenAI(base_url=f"{url}/v1", api_key="-", _strict_response_validation=True) as client:
        made = client.responses.create(model="toy", input="hi", metadata={"mine": "1"}, background=background)
        refused = client.responses.create(model="toy", input=TERM)
        again = client.responses.retrieve(made.id)
    for response in (made, again):
        assert response.metadata is not None and response.metadata["mine"] == "1"
        assert AigcLabel.parse(response.metadata["AIGC"]).produce_id == made.id
    assert not refused.metadata


async def test_without_a_producer_there_is_no_embedded_label(
    engine: FakeEngine, codec: Codec, tmp_path: Path
) -> None:
    service = make_service(engine, codec, model="toy", guard=options(tmp_path, "label: true"))
    async with serving(service) as http:
        answer = await http.post("/v1/chat/completions", json=chat("hello"))
    assert "x-aigc-label" not in answer.headers
