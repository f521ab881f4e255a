"""The page of roll-outs, over a real ledger: gates with their limits, votes, decisions, rounds, and the change log."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from playwright.sync_api import expect
from tests.console.browser import NARROW, Open
from tests.console.payloads import PAYLOADS, assert_nothing_ran
from tests.server.conftest import Live, start
from tests.server.fakes import FakeEngine, make_codec, make_service
from tests.server.test_catalog import options_of

from deepwell.fleet.desk import Desk
from deepwell.fleet.improve.state import Round, State, StateFile, loop_folder
from deepwell.fleet.promotion.gates import (
    GateReport,
    Rates,
    approval,
    choices,
    endings,
    latency,
    loss,
    safety,
    votes,
)
from deepwell.fleet.promotion.rollout import Rollouts
from deepwell.storage.aliases import AliasStore
from deepwell.storage.database import Database, Tenant
from deepwell.storage.feedback import FeedbackStore, StoredFeedback, voter_of
from deepwell.storage.registry.split import identity_of, takes_candidate
from deepwell.storage.registry.store import NewVersion
from deepwell.storage.registry.story import Rollout

PROD, SPARE = "toy@prod", "toy@spare"


@dataclass
class World:
    """A server, its database, and the folder of its loops."""

    live: Live
    database: Database
    root: Path
    deployments: dict[str, dict[str, Any]]

    @property
    def url(self) -> str:
        return self.live.url


def done(work: Coroutine[Any, Any, Any]) -> Any:
    """Runs a coroutine on a thread of its own: Playwright's event loop runs on this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


def report(*, rise: float = 0.01) -> GateReport:
    """Returns a report in which every gate passes, but that of the loss if it rises by more than 2 %."""
    people = [f"user {number % 20}" for number in range(60)]
    rates = Rates(100, 4, 5, 100, 6)
    return GateReport.of(
        votes(people, ["other"]),
        approval([0.5] * 60, [0.6] * 60, people, [0.5] * 60, [0.55] * 60),
        choices([True] * 30 + [False] * 10, [True] * 31 + [False] * 9),
        loss(2.0, 2.0 * (1 + rise)),
        endings([True] * 50, [True] * 50),
        safety(rates, rates),
        latency([0.8] * 9, [0.81] * 9),
    )


def users_of(rollout: Rollout, count: int, *, candidate: bool) -> list[str]:
    names = (f"user-{number}" for number in range(100_000))
    side = (
        one
        for one in names
        if takes_candidate(rollout.id, rollout.share, "local", identity_of(one, "")) is candidate
    )
    return [next(side) for _ in range(count)]


async def vote(database: Database, rollout: Rollout, counts: tuple[int, int, int, int]) -> None:
    """Adds votes: up and down of the current side, up and down of the candidate's."""
    store, at = FeedbackStore(database), rollout.started_ms // 1000 + 1
    sides = [users_of(rollout, sum(counts[place : place + 2]), candidate=place == 2) for place in (0, 2)]
    for place, people in zip((0, 2), sides, strict=True):
        for number, one in enumerate(people):
            rating: Any = "up" if number < counts[place] else "down"
            given = StoredFeedback(
                f"fb_{rollout.id[-6:]}_{one}",
                f"chatcmpl-{one}",
                rating,
                at,
                model=rollout.alias,
                end_user=one,
                consent=number % 2 == 0,
                voter=voter_of(one, ""),
                verified=True,
                key_id=one,
            )
            await store.put(Tenant("local"), given)


async def seed(database: Database, root: Path) -> Rollout:
    """Makes a story: a version that serves, one that its gates refused, one under way, and a round that trains."""
    await AliasStore(database).set(PROD, "toy", "cli")
    rollouts = Rollouts(database)
    data, config = {"train.jsonl": "ab" * 32}, {"method": "kto", "train": {"epochs": 2}}
    metrics = {"loss": 1.4123, "votes_train": 60, "votes_held_out": 12, "votes_users": 20}
    first = NewVersion("toy-prod-1", "/runs/1", "cd" * 32, ["toy"], data, config, metrics)
    made = await rollouts.register(PROD, first, "improve", report())
    await rollouts.start(made.id, "improve", share=0.2)
    await rollouts.promote(PROD, "improve")
    second = NewVersion("toy-prod-2", parents=[made.id], metrics={"votes_train": 75, "votes_users": 25})
    await rollouts.register(PROD, second, "improve", report(rise=0.1))
    third = await rollouts.register(PROD, NewVersion("hand-made", parents=["toy"]), "cli", report())
    state = StateFile(loop_folder(root, PROD))
    with state.locked():
        counts = {"read": 130, "train": 90, "held_out": 18, "users": 30, "new": 52}
        state.write(State("salt", 3, Round(3, "toy", "toy-prod-1", "toy-prod-3", "measure", votes=counts)))
    started = await rollouts.start(third.id, "cli", share=0.25)
    await vote(database, started, (14, 6, 9, 1))
    return started


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    engine, database = FakeEngine(), Database.open(tmp_path / "deepwell.db")
    service = make_service(
        engine,
        make_codec(tmp_path / "tokenizer"),
        model="toy",
        database=database,
        catalog=options_of(tmp_path),
    )
    deployments: dict[str, dict[str, Any]] = {}
    service.rollouts = Desk(lambda: database, None, tmp_path, lambda: deployments)
    running = start(service, engine)
    yield World(running, database, tmp_path, deployments)
    running.stop()


@pytest.fixture
def told(world: World) -> World:
    done(seed(world.database, world.root))
    return world


def deploy(world: World, rollout: Rollout | None, waits: str = "the next step is in 12 s") -> None:
    """Lets the server find a deployment as its supervisor tells of it."""
    gates = [
        {"name": "error_rate", "current": 0.001, "candidate": 0.25, "bound": 0.02, "holds": False},
        {"name": "first_token_p95_ms", "current": 61.2, "candidate": None, "bound": 200, "holds": True},
    ]
    driven = None
    if rollout is not None:
        driven = {
            "id": rollout.id,
            "version": rollout.version,
            "share": 0.25,
            "steps": [0.05, 0.25, 1.0],
            "next": waits,
            "findings": gates,
        }
    slots = [
        {
            "slot": slot,
            "phase": "serving",
            "release": {"name": f"{PROD}#{number}"},
            "replicas": [
                {"name": f"{slot}{one}", "state": "ready" if one else "restarting", "restarts": 1 - one}
                for one in range(2)
            ],
        }
        for slot, number in (("blue", 1), ("green", 3))
    ]
    world.deployments["prod"] = {
        "name": "prod",
        "alias": PROD,
        "grade": "machine",
        "began": 1.0,
        "url": "http://127.0.0.1:8000",
        "model": "toy-prod-1",
        "current": "blue",
        "front": {"state": "ready", "restarts": 0},
        "slots": slots,
        "rollout": driven,
    }


def test_a_deployment_shows_parts_and_gates_and_its_roll_out_is_aborted_and_started(
    open_tab: Open, told: World
) -> None:
    console = open_tab(told.url)
    deploy(told, done(Rollouts(told.database).status(PROD)).rollout)
    page = console.open("#/rollouts/deployments")
    card = page.get_by_role("article", name="prod")
    expect(card.get_by_text(f"25 % of the users get {PROD}#3")).to_be_visible()
    expect(card.get_by_role("row", name="Failed answers")).to_contain_text("Refused")
    expect(card.get_by_role("row", name="green0")).to_contain_text("Restarting")
    expect(card.get_by_role("status")).to_have_text("Next: the next step is in 12 s")
    expect(card.get_by_role("row", name="First token, p95")).to_contain_text("No figure yet")
    assert console.accessibility() == []
    console.open("#/rollouts/now")
    canary = page.get_by_role("article", name=f"{PROD}#3")
    expect(canary.get_by_text("A deployment serves both sides")).to_be_visible()
    expect(canary.get_by_text("This server does not serve")).to_have_count(0)
    canary.get_by_role("link", name="Deployments").click()
    card.get_by_role("button", name="Abort").click()
    page.get_by_role("dialog").get_by_role("button", name="Abort", exact=True).click()
    expect(page.get_by_text("The roll-out was aborted")).to_be_visible()
    deploy(told, None)
    card.get_by_role("button", name="Start a roll-out").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Version").select_option(f"{PROD}#3")
    dialog.get_by_role("button", name="Start", exact=True).click()
    expect(page.get_by_text(f"The roll-out of {PROD}#3 has begun")).to_be_visible()
    assert done(Rollouts(told.database).status(PROD)).rollout.version == f"{PROD}#3"


def test_without_aliases_each_part_says_what_to_do_first(open_tab: Open, world: World) -> None:
    console = open_tab(world.url)
    for tab, command in (
        ("now", "deepwell models alias set smollm2@prod smollm2"),
        ("versions", "deepwell models register"),
        ("loop", "deepwell improve run smollm2@prod"),
        ("log", "deepwell models alias set"),
        ("deployments", "deepwell deploy apply deploy.yaml"),
    ):
        page = console.open(f"#/rollouts/{tab}")
        expect(page.get_by_role("tabpanel").get_by_text(command)).to_be_visible()
        assert console.accessibility() == [], tab


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_part_fits_a_small_screen_in_chinese(open_tab: Open, told: World, dark: bool) -> None:
    waits = "users have to get 1 more answer of the candidate before it goes on"  # as the supervisor says it
    deploy(told, done(Rollouts(told.database).status(PROD)).rollout, waits)
    console = open_tab(told.url, size=NARROW, locale="zh-CN", dark=dark)
    for tab, words in (
        ("now", "认可度之差"),
        ("versions", "hand-made"),
        ("loop", "门禁未通过：损失"),
        ("log", "未通过门禁：损失"),
        ("deployments", "首 token 延迟 p95"),
        ("deployments", "还需要候选版本的 1 个回答"),
    ):
        page = console.open(f"#/rollouts/{tab}")
        expect(page.get_by_role("tabpanel").get_by_text(words).first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), tab
        assert console.accessibility() == [], tab


def test_a_canary_shows_votes_and_interval_and_is_promoted_and_reverted(open_tab: Open, told: World) -> None:
    console = open_tab(told.url)
    page = console.open("#/rollouts")
    canary = page.get_by_role("article", name=f"{PROD}#3")
    expect(canary.get_by_role("row", name="Candidate (25 %)")).to_contain_text("90 %")
    expect(canary.get_by_role("row", name="Current (75 %)")).to_contain_text("70 %")
    expect(canary.get_by_role("status")).to_have_text("The votes do not decide yet.")
    expect(canary.get_by_text("This server does not serve hand-made")).to_be_visible()
    told.live.engine.load_adapter("hand-made", "/hand-made")
    expect(canary.get_by_text("This server does not serve hand-made")).to_have_count(0)
    expect(canary.get_by_text("points, however often you look")).to_be_visible()
    canary.get_by_role("button", name="Promote").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text(f"All users of {PROD} get hand-made at once")
    assert console.accessibility() == []
    dialog.get_by_label("Reason").fill("read by the team")
    dialog.get_by_role("button", name="Promote", exact=True).click()
    expect(canary).to_have_count(0)
    ended = page.get_by_role("region", name="Ended roll-outs").get_by_role("row", name=f"{PROD}#3")
    expect(ended).to_contain_text("read by the team")
    served = page.get_by_role("region", name="What is served").get_by_role("row", name=PROD)
    expect(served).to_contain_text("hand-made")
    served.get_by_role("button", name=f"Revert {PROD}").click()
    page.get_by_role("dialog").get_by_role("button", name="Revert", exact=True).click()
    expect(served).to_contain_text("toy-prod-1")
    expect(served.get_by_role("button")).to_have_count(0)


def test_a_canary_that_somebody_else_ended_says_so_in_words(open_tab: Open, told: World) -> None:
    console = open_tab(told.url)
    console.expected.append("status of 400")
    page = console.open("#/rollouts")
    page.get_by_role("button", name=f"Abort {PROD}#3").click()
    done(Rollouts(told.database).abort(PROD, "cli"))
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Abort", exact=True).click()
    expect(dialog.get_by_role("alert")).to_contain_text("deepwell models log")


def test_a_version_shows_each_gate_with_its_number_and_limit(open_tab: Open, told: World) -> None:
    console = open_tab(told.url)
    page = console.open("#/rollouts/versions")
    rows = page.get_by_role("region", name="Versions").get_by_role("row")
    expect(rows).to_have_count(4)
    expect(rows.filter(has_text=f"{PROD}#2").first).to_contain_text("Refused")
    page.get_by_role("button", name=f"{PROD}#2").click()
    dialog = page.get_by_role("dialog")
    gates = dialog.get_by_role("region", name="Gates")
    risen = gates.get_by_role("row", name="Loss")
    for words in ("Refused", "+10 %", "at most +2 %"):
        expect(risen).to_contain_text(words)
    expect(gates.get_by_role("row", name="Latency")).to_contain_text("at most 1.05")
    expect(gates.get_by_role("row", name="Votes to train on")).to_contain_text("at least 50")
    assert console.accessibility() == []
    page.keyboard.press("Escape")
    page.get_by_role("button", name=f"{PROD}#1").click()
    expect(dialog.get_by_text("cd" * 32)).to_be_visible()
    expect(dialog.get_by_text("1.4123")).to_be_visible()


def test_the_loop_tells_its_rounds_votes_and_why_a_candidate_was_refused(open_tab: Open, told: World) -> None:
    console = open_tab(told.url)
    page = console.open("#/rollouts/loop")
    expect(page.get_by_text("23 up, 7 down; 15 with consent")).to_be_visible()
    now = page.get_by_role("article", name="Round 3")
    expect(now.locator("[aria-current=step]")).to_have_text("Measure")
    expect(now).to_contain_text("90 votes to train on, 18 held out, of 30 users")
    refused = page.get_by_role("article", name="Round 2")
    expect(refused).to_contain_text("Refused by its gates: Loss")
    expect(refused.get_by_role("row", name="Loss")).to_contain_text("+10 %")
    expect(page.get_by_role("article", name="Round 1")).to_contain_text("Promoted")
    assert console.accessibility() == []
    refused.get_by_role("link", name="toy-prod-2").click()
    expect(page.get_by_role("dialog", name=f"Version {PROD}#2")).to_be_visible()


def test_the_log_is_read_by_alias_and_damage_is_told(open_tab: Open, told: World) -> None:
    done(AliasStore(told.database).set(SPARE, "toy", "cli"))
    console = open_tab(told.url)
    page = console.open("#/rollouts/log")
    page.get_by_label("Alias").select_option(SPARE)
    expect(page.get_by_role("cell", name=f"{SPARE} means toy")).to_be_visible()
    expect(page.get_by_role("row")).to_have_count(2)
    page.get_by_role("button", name="Verify the ledger").click()
    expect(page.get_by_text("The ledger holds: 11 entries")).to_be_visible()
    change = sa.text("UPDATE model_ledger SET entry = CAST(x'7bff' AS TEXT) WHERE sequence = 2")
    told.database.write_now(lambda connection: connection.execute(change).rowcount)
    page.get_by_role("button", name="Verify the ledger").click()
    expect(page.get_by_role("alert")).to_contain_text("entry 2: ")
    assert console.accessibility() == []


def test_a_key_without_the_scope_is_told_what_to_do(open_tab: Open, world: World) -> None:
    console = open_tab(world.url)
    console.expected.append("status of 403")
    refusal = {"message": "this key lacks the scope admin; ask for one", "code": "insufficient_scope"}
    for path in ("/v1/registry/aliases", "/v1/rollouts", "/v1/improvements"):
        console.stub(path, {"error": refusal}, status=403)
    for tab in ("now", "loop"):
        page = console.open(f"#/rollouts/{tab}")
        expect(page.get_by_role("alert")).to_contain_text("ask for one")


def test_nothing_from_the_server_becomes_markup(open_tab: Open, world: World) -> None:
    console = open_tab(world.url)
    side = {"users": 4, "good": 2}
    tallies = {
        "without_user": 1,
        "unverified": 0,
        "low": -0.5,
        "high": 0.5,
        "evidence_worse": 0,
        "evidence_not_worse": 0,
        "evidence_needed": 3,
        "days": 1,
    }
    gates = [{"name": text, "passed": False, "reason": text, "numbers": {"low": text}} for text in PAYLOADS]
    gates.append(
        {"name": "approval", "passed": False, "reason": PAYLOADS[0], "numbers": {"low": PAYLOADS[1]}}
    )

    def page_of(*rows: dict[str, Any]) -> dict[str, Any]:
        return {"object": "list", "data": list(rows), "has_more": False}

    def alias(text: str) -> dict[str, Any]:
        told = {"id": text, "model": text, "changed_at": 1_790_000_000, "changed_by": text}
        return told | {"candidate": text, "share": 0.1, "rollout": text, "versions": 1, "undo": text}

    def rollout(text: str, state: str) -> dict[str, Any]:
        told = {"id": f"{state}{text}", "alias": text, "version": text, "current": text, "candidate": text}
        told |= {"share": 0.1, "state": state, "started_at": 1_790_000_000, "started_by": text}
        told |= {"ended_at": 1_790_000_000, "ended_by": text, "reason": text, "plan": {"margin": 0.05}}
        sides = {"current": side | {"model": text}, "candidate": side | {"model": text}}
        return told | {"votes": sides | tallies | {"action": text, "reason": text}}

    report = {"passed": False, "gates": gates}
    version = {
        "id": "a#1",
        "alias": "a",
        "number": 1,
        "model": PAYLOADS[0],
        "created_at": 1_790_000_000,
        "created_by": PAYLOADS[0],
        "now": "serves",
        "parents": list(PAYLOADS),
        "artefact": PAYLOADS[1],
        "artefact_sha256": PAYLOADS[2],
        "data": dict.fromkeys(PAYLOADS, PAYLOADS[0]),
        "config": dict.fromkeys(PAYLOADS, PAYLOADS[0]),
        "metrics": dict.fromkeys(PAYLOADS, PAYLOADS[0]),
        "gates": report,
    }
    rounds = [
        {
            "number": place,
            "model": text,
            "stage": text,
            "outcome": text,
            "reason": text,
            "votes": {"train": 1},
        }
        | {"version": text, "rollout": text, "at": 1, "gates": report if place == 0 else None}
        for place, text in enumerate(PAYLOADS)
    ]
    entries = [
        {"id": f"entry_{place}", "sequence": place, "at": 1, "event": text, "alias": text, "by": text}
        | {"words": text, "fields": {"model": text}, "hash": text}
        for place, text in enumerate(PAYLOADS)
    ]
    aliases = page_of(*(alias(text) for text in PAYLOADS))
    console.stub("/v1/registry/aliases", aliases)
    states = ("canary", "promoted")
    console.stub(
        "/v1/rollouts", page_of(*(rollout(text, state) for text in PAYLOADS[:9] for state in states))
    )
    console.stub("/v1/registry/versions", page_of(version))
    loop = {"id": PAYLOADS[0], "up": 1, "down": 1, "consent": 1, "problem": PAYLOADS[0], "rounds": rounds}
    console.stub("/v1/improvements", page_of(loop))
    console.stub("/v1/registry/log", page_of(*entries))
    for address, words in (
        ("now", "What is served"),
        ("versions/a%231", "Configuration"),
        ("loop", "Round 1"),
        ("log", "What happened"),
    ):
        page = console.open(f"#/rollouts/{address}")
        expect(page.get_by_text(words).first).to_be_visible()
        assert_nothing_ran(page)
