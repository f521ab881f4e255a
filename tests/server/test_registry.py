"""`/v1/registry`, `/v1/rollouts` and `/v1/improvements`: what an administrator sees and decides, over a real ledger."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from tests.fleet.promotion.tampering import TAMPERINGS, tamper
from tests.server.fakes import FakeEngine, make_service

from deepwell.dialogue.text import Codec
from deepwell.fleet.desk import Desk
from deepwell.fleet.improve.state import Round, State, StateFile, loop_folder
from deepwell.fleet.promotion.gates import Bars, GateReport, loss, votes
from deepwell.fleet.promotion.rollout import Rollouts
from deepwell.server.app import create_app
from deepwell.server.context import ServerContext
from deepwell.server.observe.access_log import fields_of
from deepwell.server.observe.observer import Observer
from deepwell.server.observe.record import Record
from deepwell.server.observe.tracing import Tracer
from deepwell.storage.aliases import AliasStore
from deepwell.storage.database import Database, Tenant
from deepwell.storage.feedback import FeedbackStore, StoredFeedback, voter_of
from deepwell.storage.registry.split import identity_of, takes_candidate
from deepwell.storage.registry.store import NewVersion
from deepwell.storage.registry.story import Rollout
from deepwell.storage.safety.anchors import Anchors

PROD = "toy@prod"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database.open(tmp_path / "deepwell.db")
    yield database
    database.close()


@pytest.fixture
def context(engine: FakeEngine, codec: Codec, database: Database, tmp_path: Path) -> ServerContext:
    made = make_service(engine, codec, model="toy", database=database)
    made.rollouts = Desk(lambda: database, Anchors(tmp_path / "anchors"), tmp_path / "adapters")
    return made


@asynccontextmanager
async def opened(context: ServerContext) -> AsyncGenerator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(context), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


@pytest.fixture
async def http(context: ServerContext) -> AsyncIterator[httpx.AsyncClient]:
    async with opened(context) as client:
        yield client


@pytest.fixture
async def under_way(database: Database, engine: FakeEngine) -> Rollout:
    engine.load_adapter("v1", "/v1")
    return await start(database)


async def start(database: Database) -> Rollout:
    await AliasStore(database).set(PROD, "toy", "lin")
    rollouts = Rollouts(database)
    report = GateReport.of(votes(["a", "b"], ["c"]), loss(2.0, 2.01))
    version = NewVersion("v1", parents=["toy"], data={"train": "ab" * 32}, metrics={"loss": 1.5})
    made = await rollouts.register(PROD, version, "lin", report)
    return await rollouts.start(made.id, "lin", share=0.5, ungated="a test")


def end_users(rollout: Rollout, count: int, *, candidate: bool) -> list[str]:
    names = (f"user-{number}" for number in range(10_000))
    taken = (
        one
        for one in names
        if takes_candidate(rollout.id, rollout.share, "local", identity_of(one, "")) is candidate
    )
    return [next(taken) for _ in range(count)]


async def vote(database: Database, users: list[str], rating: Any, *, at: int) -> None:
    store = FeedbackStore(database)
    for one in users:
        given = StoredFeedback(
            f"fb_{one}", f"chatcmpl-{one}", rating, at, model=PROD, end_user=one, voter=voter_of(one, "")
        )
        given = replace(given, verified=True, key_id=f"key-{one}")
        await store.put(Tenant("local"), given)


async def get(http: httpx.AsyncClient, path: str, **query: Any) -> dict[str, Any]:
    answer = await http.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_versions_tell_their_parents_and_each_gate_with_its_bar(
    http: httpx.AsyncClient, under_way: Rollout
) -> None:
    [version] = (await get(http, "/v1/registry/versions", alias=PROD))["data"]
    assert (version["id"], version["now"], version["parents"]) == (f"{PROD}#1", "canary", ["toy"])
    assert version["data"] == {"train": "ab" * 32} and version["metrics"] == {"loss": 1.5}
    gates = {one["name"]: one for one in version["gates"]["gates"]}
    assert not version["gates"]["passed"] and gates["loss"]["passed"] and not gates["votes"]["passed"]
    assert gates["votes"]["numbers"]["least_votes"] == Bars().least_votes
    assert gates["loss"]["numbers"]["most"] == Bars().most_loss
    assert gates["latency"]["reason"] == "it was not measured"
    assert (await get(http, "/v1/registry/versions", alias="other"))["data"] == []


async def test_a_canary_shows_its_votes_and_what_they_leave_possible(
    http: httpx.AsyncClient, database: Database, under_way: Rollout
) -> None:
    at = under_way.started_ms // 1000 + 1
    await vote(database, end_users(under_way, 8, candidate=True), "up", at=at)
    await vote(database, end_users(under_way, 6, candidate=False), "down", at=at)
    [rollout] = (await get(http, "/v1/rollouts", state="canary"))["data"]
    told = rollout["votes"]
    assert told["current"] == {"model": "toy", "users": 6, "good": 0}
    assert told["candidate"] == {"model": "v1", "users": 8, "good": 8}
    assert -1 <= told["low"] < told["high"] <= 1 and told["low"] > 0
    assert told["action"] == "promote"
    [alias] = (await get(http, "/v1/registry/aliases"))["data"]
    assert (alias["candidate"], alias["share"], alias["versions"]) == ("v1", 0.5, 1)


async def test_a_promotion_is_kept_with_its_numbers_and_can_be_undone(
    http: httpx.AsyncClient, under_way: Rollout
) -> None:
    path = f"/v1/rollouts/{under_way.id}"
    answer = await http.post(f"{path}/promote", json={"reason": "it is good"})
    assert (answer.json()["state"], answer.json()["ended_by"]) == ("promoted", "local")
    assert (await get(http, path))["votes"]["candidate"]["users"] == 0
    [alias] = (await get(http, "/v1/registry/aliases"))["data"]
    assert (alias["model"], alias["undo"]) == ("v1", "toy")
    again = await http.post(f"{path}/abort", json={})
    assert again.status_code == 400 and "has ended" in again.json()["error"]["message"]
    undone = await http.post("/v1/registry/revert", json={"alias": PROD})
    assert (undone.json()["model"], undone.json()["undo"]) == ("toy", None)
    log = (await get(http, "/v1/registry/log", alias=PROD, order="asc"))["data"]
    assert [one["event"] for one in log] == ["alias", "version", "gates", "canary", "promoted", "reverted"]
    assert "(it is good)" in log[4]["words"]


async def test_pages_follow_each_other(http: httpx.AsyncClient, under_way: Rollout) -> None:
    first = await get(http, "/v1/registry/log", limit=3)
    rest = await get(http, "/v1/registry/log", limit=3, after=first["last_id"])
    assert [one["sequence"] for one in [*first["data"], *rest["data"]]] == [4, 3, 2, 1]
    assert first["has_more"] and not rest["has_more"]
    assert (await http.get("/v1/registry/log", params={"after": "entry_9"})).status_code == 400


async def test_the_ledger_is_verified_and_damage_told_in_words(
    http: httpx.AsyncClient, database: Database, under_way: Rollout
) -> None:
    told = (await http.post("/v1/registry/verify")).json()
    assert told["holds"] and told["head"].startswith("4:")
    change = "UPDATE model_ledger SET entry = CAST(x'7bff' AS TEXT) WHERE sequence = 2"
    await database.write(lambda connection: connection.execute(sa.text(change)).rowcount)
    told = (await http.post("/v1/registry/verify")).json()
    assert not told["holds"] and any(one.startswith("entry 2: ") for one in told["problems"])
    assert [one["sequence"] for one in (await get(http, "/v1/registry/log"))["data"]] == [4, 3, 1]
    failed = await http.get("/v1/registry/versions")
    assert failed.status_code == 500 and "deepwell models log" in failed.json()["error"]["message"]


@pytest.mark.parametrize(
    ("sequence", "field", "value"),
    [
        (2, "data", '"x"'),
        (2, "metrics", "[1]"),
        (2, "metrics", '{"loss": 1' + "0" * 400 + "}"),
        (2, "parents", '"toy"'),
        (2, "number", "true"),
        (3, "report", "[]"),
        (3, "report", '{"gates": 5}'),
        (3, "report", '{"gates": [{"passed": false}]}'),
        (4, "rollout", "[]"),
        (4, "share", '"half"'),
        (4, "plan", '{"alpha": "x"}'),
        (4, "plan", "5"),
    ],
)
async def test_a_value_of_another_kind_is_damage_and_no_failure(
    http: httpx.AsyncClient, database: Database, under_way: Rollout, sequence: int, field: str, value: str
) -> None:
    which = {"sequence": sequence}
    read = sa.text("SELECT entry FROM model_ledger WHERE sequence = :sequence")
    text = await database.read(lambda connection: connection.execute(read, which).scalar_one())
    entry = json.loads(text) | {field: "@"}
    changed = {"sequence": sequence, "entry": json.dumps(entry).replace('"@"', value)}
    change = sa.text("UPDATE model_ledger SET entry = :entry WHERE sequence = :sequence")
    await database.write(lambda connection: connection.execute(change, changed).rowcount)
    for path in ("registry/versions", "rollouts", "improvements"):
        failed = await http.get(f"/v1/{path}")
        assert "the ledger of models was changed" in failed.json()["error"]["message"], path
    assert (await http.get("/v1/registry/log")).status_code == 200
    assert not (await http.post("/v1/registry/verify")).json()["holds"]


@pytest.mark.parametrize("how", TAMPERINGS)
@pytest.mark.parametrize("order", ["start", "promote", "revert"])
async def test_no_order_acts_on_a_ledger_that_does_not_hold(
    http: httpx.AsyncClient, database: Database, tmp_path: Path, order: str, how: str
) -> None:
    await AliasStore(database).set(PROD, "toy", "lin")
    rollouts = Rollouts(database, Anchors(tmp_path / "anchors"))
    await rollouts.register(PROD, NewVersion("v1"), "lin", GateReport.of())
    await rollouts.register(PROD, NewVersion("v2"), "lin")
    path, body = "/v1/rollouts", {"alias": PROD, "version": 1}
    if order != "start":
        made = await rollouts.start(f"{PROD}#2", "lin", ungated="a test")
        path, body = f"/v1/rollouts/{made.id}/promote", {}
    if order == "revert":
        await rollouts.promote(PROD, "lin")
        path, body = "/v1/registry/revert", {"alias": PROD}
    tamper(database, how)
    answer = await http.post(path, json=body)
    if how == "truncated with its head" and order == "promote" and answer.status_code == 404:
        return  # no roll-out of this id is told of, and nothing in the database says that there was one
    assert answer.status_code == 500, answer.text
    error = answer.json()["error"]
    assert error["code"] == "ledger_changed" and "deepwell models log" in error["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/rollouts/rollout_x/promote", {}),
        ("/v1/rollouts/rollout_x/abort", {"reason": "x"}),
        ("/v1/registry/revert", {"alias": "toy@other"}),
    ],
)
async def test_what_is_not_there_cannot_be_decided_about(
    http: httpx.AsyncClient, path: str, body: dict[str, Any]
) -> None:
    assert (await http.post(path, json=body)).status_code == 404


@pytest.mark.parametrize("body", [{"reason": 5}, {"reason": "x" * 501}, {"reason": "\x00"}, {"because": ""}])
async def test_decisions_are_strict(
    http: httpx.AsyncClient, under_way: Rollout, body: dict[str, Any]
) -> None:
    assert (await http.post(f"/v1/rollouts/{under_way.id}/abort", json=body)).status_code == 400


async def test_a_server_without_a_desk_says_so(engine: FakeEngine, codec: Codec, database: Database) -> None:
    async with opened(make_service(engine, codec, model="toy", database=database)) as http:
        answer = await http.get("/v1/improvements")
        deployments = (await get(http, "/v1/deployments"))["data"]
    assert answer.status_code == 404 and "deepwell serve" in answer.json()["error"]["message"]
    assert deployments == []


async def test_the_loop_is_told_round_by_round(
    http: httpx.AsyncClient, database: Database, tmp_path: Path
) -> None:
    await AliasStore(database).set(PROD, "toy", "lin")
    rollouts = Rollouts(database)
    refused = GateReport.of(loss(2.0, 3.0))
    counts = {"votes_train": 60, "votes_users": 9}
    await rollouts.register(PROD, NewVersion("toy-prod-1", metrics=counts), "improve", refused)
    state = StateFile(loop_folder(tmp_path / "adapters", PROD))
    found = Round(2, "toy", "toy", "toy-prod-2", votes={"train": 70, "users": 10})
    with state.locked():
        state.write(State("salt", 2, found))
    await vote(database, ["a"], "up", at=1_790_000_000)
    [told] = (await get(http, "/v1/improvements"))["data"]
    assert (told["id"], told["up"], told["down"], told["consent"]) == (PROD, 1, 0, 0)
    now, before = told["rounds"]
    assert (now["number"], now["stage"], now["outcome"], now["votes"]["train"]) == (2, "train", None, 70)
    assert (before["outcome"], before["votes"]) == ("refused", {"train": 60, "users": 9})
    assert before["reason"].startswith("votes: it was not measured") and not before["gates"]["passed"]
    (state.folder / "state.json").write_text("{")
    [told] = (await get(http, "/v1/improvements"))["data"]
    assert "state.json" in told["problem"]


async def test_metrics_tell_sides_votes_and_how_roll_outs_ended(
    http: httpx.AsyncClient, context: ServerContext, database: Database, under_way: Rollout
) -> None:
    [one], [other] = (end_users(under_way, 1, candidate=side) for side in (True, False))
    body = {"model": PROD, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    for user in (one, other):
        answer = await http.post("/v1/chat/completions", json=body | {"safety_identifier": user})
        assert answer.status_code == 200, answer.text
    rating = {"target_id": "chatcmpl-1", "rating": "up", "model": PROD, "safety_identifier": one}
    assert (await http.post("/v1/feedback", json=rating)).status_code == 200
    told = await metrics(http, 'deepwell_alias_canary_share{alias="toy@prod"} 0.5')
    for line in (
        'deepwell_alias_requests_total{alias="toy@prod",arm="candidate"} 1.0',
        'deepwell_alias_requests_total{alias="toy@prod",arm="current"} 1.0',
        'deepwell_alias_votes_total{alias="toy@prod",arm="candidate",rating="up"} 1.0',
    ):
        assert line in told
    await http.post(f"/v1/rollouts/{under_way.id}/abort", json={})
    context.metrics.rollouts.learn(await Rollouts(database).registry.ledger.readable())
    told = await metrics(http, 'deepwell_rollouts_total{alias="toy@prod",outcome="aborted"} 1.0')
    assert "deepwell_alias_canary_share{" not in told


async def test_the_side_of_a_request_is_in_its_record_and_its_span(
    engine: FakeEngine, codec: Codec, database: Database, under_way: Rollout
) -> None:
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, records = InMemorySpanExporter(), list[Record]()
    tracer = Tracer(exporter)
    observer = Observer([records.extend, tracer], traces=True, on_close=[tracer.close])
    made = make_service(engine, codec, model="toy", database=database, observer=observer)
    body = {"model": PROD, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    async with opened(made) as http:
        for side in (True, False):
            [user] = end_users(under_way, 1, candidate=side)
            await http.post("/v1/chat/completions", json=body | {"safety_identifier": user})
        await http.post("/v1/chat/completions", json=body | {"model": "toy"})
    await asyncio.to_thread(observer.close)
    assert [(one.alias, one.arm) for one in records] == [(PROD, "candidate"), (PROD, "current"), ("", "")]
    assert fields_of(records[0])["arm"] == "candidate" and "arm" not in fields_of(records[2])
    spans = [one for one in exporter.get_finished_spans() if one.name == "chat toy"]
    said = [dict(one.attributes or {}) for one in spans]
    assert [one.get("deepwell.arm") for one in said] == ["candidate", "current", None]
    assert said[0]["deepwell.alias"] == PROD


async def metrics(http: httpx.AsyncClient, line: str) -> str:
    told = (await http.get("/metrics")).text
    assert line in told
    return told


async def test_metrics_count_the_rounds_of_the_loop(
    http: httpx.AsyncClient, context: ServerContext, database: Database, tmp_path: Path
) -> None:
    await AliasStore(database).set(PROD, "toy", "lin")
    rollouts = Rollouts(database)
    await rollouts.register(PROD, NewVersion("r1"), "improve", GateReport.of(loss(2.0, 3.0)))
    passed = {"passed": True, "gates": []}
    made = await rollouts.register(PROD, NewVersion("r2"), "improve")
    await rollouts.registry.gate(made.id, passed, "improve")
    await rollouts.start(made.id, "improve")
    await rollouts.promote(PROD, "improve")
    state = StateFile(loop_folder(tmp_path / "adapters", PROD))
    with state.locked():
        state.write(State("salt", 3, Round(3, "toy", "r2", "r3", stage="measure")))
    context.metrics.rollouts.learn(await rollouts.registry.ledger.readable())
    told = (await http.get("/metrics")).text
    for line in (
        'deepwell_improve_rounds_total{alias="toy@prod",outcome="promoted"} 1.0',
        'deepwell_improve_rounds_total{alias="toy@prod",outcome="refused"} 1.0',
        'deepwell_improve_stage{alias="toy@prod",stage="measure"} 1.0',
    ):
        assert line in told


async def test_a_roll_out_is_started_by_the_terms_of_the_deployment_that_runs(
    context: ServerContext, database: Database, tmp_path: Path, engine: FakeEngine
) -> None:
    await AliasStore(database).set(PROD, "toy", "lin")
    made = await Rollouts(database).register(PROD, NewVersion("v1"), "lin", GateReport.of(loss(2.0, 2.01)))
    engine.load_adapter("v1", "/v1")
    told = {
        "prod": {
            "name": "prod",
            "alias": PROD,
            "terms": {"kind": "canary", "steps": [0.2, 1.0], "hold_seconds": 7},
        }
    }
    context.rollouts = Desk(lambda: database, Anchors(tmp_path / "anchors"), tmp_path, lambda: told)
    async with opened(context) as http:
        for wrong in ([0.5, 0.2], [0.5], [0.5, 0.5, 1.0]):
            body = {"alias": PROD, "version": made.number, "steps": wrong}
            assert (await http.post("/v1/rollouts", json=body)).status_code == 400, wrong
        for wrong in ({"share": 0.0}, {"steps": []}, {"hold_seconds": -1}, {"tenant": "x"}):
            body = {"alias": PROD, "version": made.number} | wrong
            assert (await http.post("/v1/rollouts", json=body)).status_code in (400, 422), wrong
        refused = await http.post("/v1/rollouts", json={"alias": PROD, "version": made.number})
        assert refused.status_code == 400  # not all gates were seen
        body = {"alias": PROD, "version": made.number, "ungated": "a test"}
        started = await http.post("/v1/rollouts", json=body)
        assert started.status_code == 200, started.text
        assert started.json()["share"] == 0  # the deployment takes the steps
        again = await http.post("/v1/rollouts", json=body)
        assert again.status_code == 400
    steps = (await Rollouts(database).registry.story(PROD)).rollouts[started.json()["id"]].steps
    assert steps is not None and (steps.shares, steps.hold_seconds) == ((0.2, 1.0), 7.0)


async def test_a_deployment_is_told_without_what_is_its_machine_s(
    context: ServerContext, database: Database, tmp_path: Path
) -> None:
    replica = {"name": "blue0", "port": 1, "pid": 2, "state": "ready", "restarts": 1}
    gate = {"name": "error_rate", "current": None, "candidate": 0.5, "bound": 0.02, "holds": False}
    serving = {
        "name": "prod",
        "alias": PROD,
        "grade": "machine",
        "began": 1.5,
        "url": "http://127.0.0.1:8000",
        "database": "file:/etc/secret",
        "front": {"pid": 3, "state": "ready", "restarts": 0},
        "model": "toy",
        "current": "blue",
        "slots": [
            {"slot": "blue", "phase": "serving", "release": {"name": "toy@prod#1"}, "replicas": [replica]},
            {"slot": "green", "phase": "starting", "release": {"name": "toy@prod#2"}, "replicas": []},
        ],
        "rollout": {"id": "r", "version": "toy@prod#2", "share": 0.2, "steps": [0.2, 1], "findings": [gate]},
    }
    odd = {
        "name": "odd",
        "slots": [3, None, {}],
        "rollout": {"steps": "x", "findings": 3},
        "front": {"name": "<img src=x onerror=alert(1)>", "restarts": float("inf")},
        "began": 10**400,
    }
    told: dict[str, Any] = {"prod": serving, "odd": odd, "starts": {"pid": 0, "here": False}}
    context.rollouts = Desk(lambda: database, Anchors(tmp_path / "anchors"), tmp_path, lambda: told)
    async with opened(context) as http:
        answer = await http.get("/v1/deployments")
    assert answer.status_code == 200
    assert "secret" not in answer.text and "pid" not in answer.text and "port" not in answer.text
    found = {one["id"]: one for one in answer.json()["data"]}
    assert set(found) == {"prod", "odd"}
    assert [one["role"] for one in found["prod"]["slots"]] == ["current", "candidate"]
    assert found["prod"]["slots"][0]["replicas"] == [{"name": "blue0", "state": "ready", "restarts": 1}]
    assert found["prod"]["rollout"]["gates"] == [gate]
    assert found["odd"]["rollout"]["steps"] is None
    assert (found["odd"]["started_at"], found["odd"]["front"]["restarts"]) == (0.0, 0)
