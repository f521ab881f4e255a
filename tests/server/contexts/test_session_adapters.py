"""The policy `adapter`: what leaves the context is trained into an adapter, for its tenant and its conversation alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.server.conftest import Live, start
from tests.server.fakes import FakeEngine, make_codec, make_service
from tests.server.tuning.jobs import COMMAND, TEMPLATE_HASH
from tests.waiting import until

from deepwell.dialogue.text import Codec
from deepwell.safety.privacy.attribution import Subject
from deepwell.safety.privacy.erase import Eraser
from deepwell.safety.privacy.export import export_person
from deepwell.server.families.fine_tuning import creating
from deepwell.server.families.fine_tuning.models import runs_folder
from deepwell.server.options import FileOptions, TuningOptions
from deepwell.storage.database import LOCAL, Database, Tenant
from deepwell.storage.keys import KeyStore
from deepwell.storage.tuning.sessions import SessionJob, SessionStore

ROOM = 2_000
SECRET = "The vault of Brno opens with 90417."


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    return make_codec(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(autouse=True)
def template(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_TEMPLATE", TEMPLATE_HASH)


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database.open(tmp_path / "deepwell.db")


def serve(codec: Codec, folder: Path, database: Database, **tuning: Any) -> Live:
    engine = FakeEngine(max_model_len=ROOM)
    options = {"folder": folder / "runs", "command": COMMAND, **tuning}
    service = make_service(
        engine,
        codec,
        model="toy",
        database=database,
        files=FileOptions(folder=folder / "files", job_lease_s=2.0),
        tuning=TuningOptions(**options),
        context_policy="adapter",
    )
    return start(service, engine)


@pytest.fixture
def live(codec: Codec, tmp_path: Path, database: Database) -> Iterator[Live]:
    running = serve(codec, tmp_path, database)
    yield running
    running.stop()


def talk(secret: str = SECRET) -> list[dict[str, str]]:
    messages = [{"role": "user", "content": secret}, {"role": "assistant", "content": "I noted it."}]
    for number in range(60):
        messages.append({"role": "user", "content": f"Ship {number} of Bergen sails at noon."})
        messages.append({"role": "assistant", "content": f"I noted ship {number}."})
    return [*messages, {"role": "user", "content": "How does the vault of Brno open?"}]


def ask(live: Live, *, key: str = "none", consent: bool = True, **body: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}", **({"x-context-consent": "true"} if consent else {})}
    sent = {"model": "toy", "messages": talk(), "max_tokens": 8, **body}
    answer = httpx.post(f"{live.url}/v1/chat/completions", json=sent, headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer


def sent(live: Live, method: str, path: str, key: str = "none") -> httpx.Response:
    return httpx.request(method, live.url + path, headers={"authorization": f"Bearer {key}"}, timeout=60)


def asked_of(live: Live, model: str, key: str) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "How does the vault of Brno open?"}]}
    headers = {"authorization": f"Bearer {key}"}
    return httpx.post(f"{live.url}/v1/chat/completions", json=body, headers=headers, timeout=60)


def state(answer: httpx.Response) -> str:
    return answer.headers["x-context-adapter"]


def ready(live: Live, **asked: Any) -> httpx.Response:
    return until(lambda: ask(live, **asked), lambda answer: state(answer) == "ready")


async def jobs(database: Database) -> list[SessionJob]:
    return await SessionStore(database).all()


async def test_a_later_turn_is_answered_by_an_adapter_of_what_was_forgotten(
    live: Live, database: Database
) -> None:
    first = ask(live)
    assert (state(first), first.headers["x-context-mechanism"]) == ("training", "drop")
    assert live.engine.seen[-1].adapter == ""
    answer = ready(live)
    assert answer.headers["x-context-mechanism"] == "adapter"
    used = live.engine.seen[-1].adapter
    assert used.startswith(f"{LOCAL}::session:") and used in live.engine.loaded
    told = answer.json()["usage"]["prompt_tokens_details"]["context"]
    assert told["adapter"] == "ready" and told["dropped_tokens"] > 0
    [job] = await jobs(database)
    assert job.status == "succeeded" and job.payload.records is None
    folder = runs_folder(live.service) / job.id
    assert [path.name for path in folder.iterdir()] == ["adapter"]  # the text is gone


async def test_the_records_are_of_the_forgotten_turns(live: Live, database: Database) -> None:
    ask(live, messages=talk("wait at 1: the vault of Brno opens with 90417."))
    [job] = await jobs(database)
    assert job.payload.records is not None
    said = str(job.payload.records)
    assert "90417" in said and "Ship 59" not in said  # which is still in the prompt


@pytest.mark.parametrize(
    ("more", "expected"), [({"consent": False}, "no_consent"), ({"store": False}, "not_stored")]
)
async def test_nothing_is_trained_without_leave(
    live: Live, database: Database, more: dict[str, Any], expected: str
) -> None:
    answer = ask(live, **more)
    assert (state(answer), answer.headers["x-context-mechanism"]) == (expected, "drop")
    assert await jobs(database) == []
    ready(live)
    assert state(ask(live, **more)) == expected
    assert live.engine.seen[-1].adapter == ""


async def test_another_conversation_has_no_part_in_it(live: Live, database: Database) -> None:
    ready(live)
    assert state(ask(live, messages=talk("The vault of Brno is open."))) == "training"
    assert live.engine.seen[-1].adapter == ""


async def test_an_adapter_belongs_to_one_tenant(codec: Codec, tmp_path: Path, database: Database) -> None:
    store = KeyStore(database)
    one, two = (store.create(Tenant(name), name, ["inference"])[1] for name in ("one", "two"))
    live = serve(codec, tmp_path, database)
    try:
        ready(live, key=one)
        assert state(ask(live, key=two)) == "training"  # the same text: it is trained anew
        assert live.engine.seen[-1].adapter == ""
        ready(live, key=two)
        assert live.engine.seen[-1].adapter.startswith("two::session:")
        found = await jobs(database)
        assert {job.tenant for job in found} == {"one", "two"}
        assert len({job.id for job in found}) == 2  # and so two folders
        for key in (one, two):
            assert "session:" not in sent(live, "GET", "/v1/models", key).text
    finally:
        live.stop()


async def test_nobody_asks_an_adapter_of_a_conversation_by_its_name(
    codec: Codec, tmp_path: Path, database: Database
) -> None:
    # Another person behind the same tenant would be told what the conversation said.
    key = KeyStore(database).create(Tenant("one"), "one", ["inference"])[1]
    live = serve(codec, tmp_path, database)
    try:
        ready(live, key=key)
        [name] = live.engine.loaded
        asked = name.removeprefix("one::")
        assert asked.startswith("session:")
        for model in (name, asked):
            found = sent(live, "GET", f"/v1/models/{model}", key)
            assert found.status_code == 404, found.text
            said = asked_of(live, model, key)
            assert said.status_code == 404, said.text
        assert state(ask(live, key=key)) == "ready"
    finally:
        live.stop()


async def test_it_is_dropped_with_its_conversation(live: Live, database: Database) -> None:
    kept = ask(live, store=True).json()["id"]
    until(lambda: ask(live, store=True), lambda answer: state(answer) == "ready")
    [job] = await jobs(database)
    assert sent(live, "DELETE", f"/v1/chat/completions/{kept}").status_code == 200
    assert await jobs(database) == []
    assert live.engine.loaded == {}
    assert not (runs_folder(live.service) / job.id).exists()


async def test_it_is_dropped_when_nobody_uses_it(live: Live, database: Database) -> None:
    ready(live)
    [job] = await jobs(database)
    assert live.service.sessions is not None
    assert job.finished_at is not None
    sweep: Any = live.service.sessions
    await sweep.sweep(3600.0, job.finished_at + 10)
    assert len(await jobs(database)) == 1
    await sweep.sweep(3600.0, job.finished_at + 4000)
    assert await jobs(database) == [] and live.engine.loaded == {}


async def test_it_goes_with_the_person_whose_words_it_learnt(
    live: Live, database: Database, tmp_path: Path
) -> None:
    until(lambda: ask(live, safety_identifier="ann"), lambda answer: state(answer) == "ready")
    files = live.service.state.files
    counts = await export_person(database, files, Subject(LOCAL, "ann"), tmp_path / "export")
    assert counts["jobs"] == 1
    await Eraser(database, files, vacuum=False, settle_s=0.0).erase(Subject(LOCAL, "bob"))
    assert len(await jobs(database)) == 1
    await Eraser(database, files, vacuum=False, settle_s=0.0).erase(Subject(LOCAL, "ann"))
    assert await jobs(database) == []


async def test_a_training_that_fails_is_told_and_keeps_no_text(live: Live, database: Database) -> None:
    messages = talk("refuse: the vault of Brno opens with 90417.")
    until(lambda: ask(live, messages=messages), lambda answer: state(answer) == "failed")
    [job] = await jobs(database)
    assert job.status == "failed" and job.payload.records is None
    assert not (runs_folder(live.service) / job.id).exists()


def test_a_server_that_cannot_train_names_the_extra(
    codec: Codec, tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deepwell.server.families.fine_tuning.sessions import adapters

    monkeypatch.setattr(adapters, "missing_packages", lambda: creating.NEEDED)
    live = serve(codec, tmp_path, database, command=None)
    try:
        sent = {"model": "toy", "messages": talk(), "max_tokens": 8}
        answer = httpx.post(f"{live.url}/v1/chat/completions", json=sent, timeout=60)
        assert answer.status_code == 501
        assert "pip install 'deepwell[tune]'" in answer.json()["error"]["message"]
    finally:
        live.stop()
