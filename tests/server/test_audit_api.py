"""The guard's policy and the audit trail over the API: pages, filters, verification, and tenants apart."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from tests.server.fakes import FakeEngine, make_service
from tests.server.test_guard import BLOCK_INPUT, KEY, TERM, chat, options, serving

from deepwell.dialogue.text import Codec
from deepwell.server.context import ServerContext
from deepwell.storage.database import Database, Tenant
from deepwell.storage.keys import KeyStore
from deepwell.storage.tables import audit_entries

RULES = """
input: {rules: {terms: block, secret: {action: redact, min_score: 0.5}}, on_failure: allow}
tenants: {ops: {input: {rules: {personal: flag}}}}
label: true
producer: deepwell-test
audit: {decisions: all}
"""


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database.open(tmp_path / "deepwell.db")
    yield database
    database.close()


@pytest.fixture
def service(engine: FakeEngine, codec: Codec, database: Database, tmp_path: Path) -> ServerContext:
    return make_service(engine, codec, model="toy", database=database, guard=options(tmp_path, RULES))


@pytest.fixture
async def http(service: ServerContext) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(service) as client:
        yield client
    await service.audit.close()


async def entries(http: httpx.AsyncClient, **query: Any) -> dict[str, Any]:
    answer = await http.get("/v1/audit/entries", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_the_policy_in_force_is_told(http: httpx.AsyncClient, service: ServerContext) -> None:
    told = (await http.get("/v1/guard")).json()
    assert service.guard is not None
    assert (told["enabled"], told["name"], told["version"]) == (True, "policy.yaml", 1)
    assert told["hash"] == service.guard.policy.hash
    assert told["input"] == [
        {"detector": "terms", "action": "block", "min_score": 0.0},
        {"detector": "secret", "action": "redact", "min_score": 0.5},
    ]
    assert told["output"] == [] and told["on_failure"] == "block"
    assert told["labels"] == {"enabled": True, "producer": "deepwell-test"} and told["missing"] == []


async def test_a_list_that_the_guard_lacks_is_told(engine: FakeEngine, codec: Codec, tmp_path: Path) -> None:
    lacking = options(tmp_path, BLOCK_INPUT, lists=False)
    async with serving(make_service(engine, codec, model="toy", guard=lacking)) as http:
        assert (await http.get("/v1/guard")).json()["missing"] == ["terms:own"]
    async with serving(make_service(engine, codec, model="toy")) as http:
        told = (await http.get("/v1/guard")).json()
        assert (told["enabled"], told["name"], told["input"]) == (False, None, [])
        assert (await entries(http))["data"] == []
        nothing = (await http.post("/v1/audit/verify")).json()
        assert (nothing["holds"], nothing["entries"], nothing["error"]) == (True, 0, None)


async def test_entries_come_from_the_newest_on_in_pages(http: httpx.AsyncClient) -> None:
    for number, text in enumerate((f"eat {TERM}", f"my key {KEY}", f"more {TERM} please")):
        headers = {"x-request-id": f"req_{number:032x}"}
        body = chat(text, safety_identifier="lin")
        assert (await http.post("/v1/chat/completions", json=body, headers=headers)).status_code == 200
    whole = (await entries(http, limit=100))["data"]
    blocked = [one for one in whole if one["decision"] == "block"]
    assert [one["request_id"] for one in blocked] == [f"req_{2:032x}", f"req_{0:032x}"]
    first = blocked[-1]
    (finding,) = first["findings"]
    assert (first["object"], first["layer"], first["event"]) == ("audit.entry", "input", "decision")
    assert finding["span"] == [4, 4 + len(TERM)] and finding["rule"].startswith("terms.")
    assert finding["layer"] == "input" and first["policy_hash"] == whole[0]["policy_hash"]
    assert first["user"].startswith("person_") and "lin" not in str(whole)
    assert TERM not in str(whole) and KEY not in str(whole)

    assert (await entries(http, decision="block"))["data"] == blocked
    (redacted,) = (await entries(http, decision="redact"))["data"]
    assert redacted["request_id"] == f"req_{1:032x}"
    paged, after = list[Any](), dict[str, Any]()
    while page := (await entries(http, limit=2, **after))["data"]:
        paged += page
        after = {"after": page[-1]["id"]}
    assert paged == whole
    now = whole[0]["at"]
    assert (await entries(http, since=now + 1))["data"] == (await entries(http, until=first["at"] - 1))[
        "data"
    ]
    assert (await entries(http, since=first["at"], until=now + 1, limit=100))["data"] == whole


@pytest.mark.parametrize(
    "query",
    [
        {"after": "audit_0"},
        {"after": "audit_99999999999999999999999"},
        {"after": "audit_1' OR 1=1 --"},
        {"decision": 'block"%'},
        {"since": "nan"},
        {"until": "-1"},
        {"limit": "0"},
        {"tenant": "ops"},
    ],
)
async def test_hostile_questions_are_refused(http: httpx.AsyncClient, query: dict[str, str]) -> None:
    refused = await http.get("/v1/audit/entries", params=query)
    assert refused.status_code == 400 and refused.json()["error"]["param"] == next(iter(query))


async def test_a_changed_entry_does_not_hold(http: httpx.AsyncClient, database: Database) -> None:
    for _ in range(3):
        await http.post("/v1/chat/completions", json=chat(f"eat {TERM}"))
    told = (await http.post("/v1/audit/verify")).json()
    assert told["object"] == "audit.verification" and told["holds"] and told["error"] is None
    assert told["entries"] >= 3 and told["seconds"] >= 0
    second = sa.update(audit_entries).where(audit_entries.c.sequence == 2).values(entry="{not json")
    database.write_now(lambda connection: connection.execute(second).rowcount)
    broken = (await http.post("/v1/audit/verify")).json()
    assert not broken["holds"] and broken["entries"] == told["entries"]
    assert broken["error"].startswith("entry 2: ")
    (damaged,) = [one for one in (await entries(http, limit=100))["data"] if one["id"] == "audit_2"]
    assert damaged["event"] == "unreadable" and damaged["decision"] is None


async def test_trails_and_rules_are_of_the_tenant(http: httpx.AsyncClient, database: Database) -> None:
    keys = KeyStore(database)
    ops, other = (
        {"authorization": f"Bearer {keys.create(Tenant(name), name, ['admin'])[1]}"}
        for name in ("ops", "other")
    )
    await http.post("/v1/chat/completions", json=chat(f"eat {TERM}"), headers=ops)
    rules = [(await http.get("/v1/guard", headers=who)).json()["input"] for who in (ops, other)]
    assert {"detector": "personal", "action": "flag", "min_score": 0.0} in rules[0]
    assert "personal" not in str(rules[1])
    mine, theirs = [(await http.get("/v1/audit/entries", headers=who)).json() for who in (ops, other)]
    assert mine["data"] and theirs["data"] == []
    assert (await http.post("/v1/audit/verify", headers=other)).json()["entries"] == 0
    user = {"authorization": f"Bearer {keys.create(Tenant('ops'), 'user', ['inference'])[1]}"}
    for method, path in (("GET", "guard"), ("GET", "audit/entries"), ("POST", "audit/verify")):
        assert (await http.request(method, f"/v1/{path}", headers=user)).status_code == 403
