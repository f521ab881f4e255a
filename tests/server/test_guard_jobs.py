"""Work that no request waits for passes the guard too: lines of batches, and background responses, whole and streamed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI
from tests.server.conftest import Live, start
from tests.server.fakes import FakeEngine, make_service
from tests.server.test_batches import begin, client_of, encoded, ended, lines_of, row
from tests.server.test_guard import REFUSAL, TERM, options
from tests.waiting import until_async

from deepwell.dialogue.text import Codec
from deepwell.server.context import ServerContext
from deepwell.storage.database import LOCAL, Database
from deepwell.storage.safety.audit import AuditStore
from deepwell.storage.safety.verify import verify_chain

CARD = "4111 1111 1111 1111"
RULES = "input: {rules: {terms: block}}\noutput: {rules: {personal: redact}}\naudit: {decisions: all}\n"
FINAL = ("completed", "incomplete", "failed", "cancelled")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("guarded")


@pytest.fixture(scope="module")
def live(codec: Codec, folder: Path) -> Iterator[Live]:
    """A server whose model repeats what it is told, and whose guard forbids a word and redacts numbers of cards in answers."""
    engine = FakeEngine()
    service: ServerContext = make_service(
        engine,
        codec,
        model="toy",
        guard=options(folder, RULES),
        database=Database.open(folder / "deepwell.db"),
    )
    running = start(service, engine)
    yield running
    running.stop()


@pytest.fixture
def client(live: Live) -> Iterator[OpenAI]:
    with client_of(live) as client:
        yield client


async def told_in_trail(folder: Path, layer: str, action: str) -> list[dict[str, Any]]:
    """Returns the decisions of a layer with an action, from a trail that holds."""
    database = Database.open(folder / "deepwell.db")
    try:
        store = AuditStore(database)
        [chain] = await store.chains(LOCAL)
        assert verify_chain(store, chain.id).holds
        _, rows = store.rows(chain.id, 0, 1000)
        entries = [json.loads(one[2]) for one in rows]
    finally:
        database.close()
    return [one for one in entries if (one.get("layer"), one.get("action")) == (layer, action)]


async def test_every_line_of_a_batch_passes_the_guard(client: OpenAI, live: Live, folder: Path) -> None:
    rows = [row(0, "hello"), row(1, f"about {TERM}"), row(2, f"no. {CARD} now")]
    live.engine.seen.clear()
    batch = await ended(client, begin(client, encoded(rows)).id)
    assert batch.request_counts is not None and batch.request_counts.completed == 3
    bodies = {one["custom_id"]: one["response"]["body"] for one in lines_of(client, batch.output_file_id)}
    choices = [bodies[f"line-{number}"]["choices"][0] for number in range(3)]
    assert [one["finish_reason"] for one in choices] == ["stop", "content_filter", "stop"]
    assert [one["message"]["content"] for one in choices] == ["hello", REFUSAL, "no. [bank card] now"]
    assert len(live.engine.seen) == 2, "the refused line was never generated"
    refused = await until_async(lambda: told_in_trail(folder, "input", "block"))
    redacted = await until_async(lambda: told_in_trail(folder, "output", "redact"))
    assert [one.get("model") for one in (*refused, *redacted)] == ["toy"] * 2, (refused, redacted)
    assert all(one["request_id"] for one in (*refused, *redacted))
    assert TERM not in json.dumps(refused) and CARD not in json.dumps(redacted)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("text", "status", "answer"),
    [
        ("hello", "completed", "hello"),
        (f"about {TERM}", "incomplete", REFUSAL),
        (f"no. {CARD} now", "completed", "no. [bank card] now"),
    ],
    ids=["allowed", "blocked", "redacted"],
)
async def test_a_background_response_passes_the_guard(
    client: OpenAI, text: str, status: str, answer: str, stream: bool
) -> None:
    if stream:
        events = list(client.responses.create(model="toy", input=text, background=True, stream=True))
        told: Any = events[-1]
        id = told.response.id
        if answer != text:
            deltas = "".join(one.delta for one in events if one.type == "response.output_text.delta")
            assert deltas == answer
    else:
        id = client.responses.create(model="toy", input=text, background=True).id
    response = await until_async(lambda: (one := client.responses.retrieve(id)).status in FINAL and one)
    assert (response.status, response.output_text) == (status, answer)
    if status == "incomplete":
        assert response.incomplete_details.reason == "content_filter"
    assert answer == text or text not in response.model_dump_json(exclude={"input"})


async def test_a_request_with_too_much_to_read_is_an_error_of_its_line_alone(
    client: OpenAI, folder: Path
) -> None:
    path = folder / "policy.yaml"
    assert "max_characters" not in path.read_text("utf-8")
    long = "a" * 500_001
    batch = await ended(client, begin(client, encoded([row(0, "hello"), row(1, long)])).id)
    assert batch.request_counts is not None
    assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 1)
    [error] = lines_of(client, batch.error_file_id)
    assert error["response"]["status_code"] == 400
    assert "max_characters" in error["response"]["body"]["error"]["message"]
