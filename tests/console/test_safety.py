"""The page of safety, over a real guard: its policy, a text, decisions with their findings, and a compliance report."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from playwright.sync_api import expect
from tests.console.browser import NARROW, Open
from tests.console.payloads import PAYLOADS, assert_nothing_ran
from tests.server.conftest import Live, start
from tests.server.fakes import FakeEngine, make_codec, make_service
from tests.server.test_catalog import options_of
from tests.server.test_guard import KEY, TERM, chat, options

from deepwell.settings import Settings
from deepwell.storage.database import Database
from deepwell.storage.tables import audit_entries

RULES = """
input: {rules: {terms: block, secret: {action: redact, min_score: 0.5}}, on_failure: allow}
label: true
producer: deepwell-test
audit: {decisions: all}
"""


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    database = Database.open(tmp_path_factory.mktemp("safety") / "deepwell.db")
    yield database
    database.close()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, database: Database) -> Iterator[Live]:
    """A server with a guard, and two requests that it decided about."""
    folder = tmp_path_factory.mktemp("guard")
    settings = Settings.load(data_dir=folder, models_dir=folder / "models")
    engine = FakeEngine()
    service = make_service(
        engine,
        make_codec(folder / "tokenizer"),
        model="toy",
        database=database,
        guard=options(folder, RULES),
        settings=settings,
        catalog=options_of(folder),
    )
    running = start(service, engine)
    for text in (f"eat {TERM}", f"my key {KEY}"):
        assert (
            httpx.post(f"{running.url}/v1/chat/completions", json=chat(text), timeout=30).status_code == 200
        )
    yield running
    running.stop()


def test_the_policy_in_force_is_shown(open_tab: Open, guarded: Live) -> None:
    console = open_tab(guarded.url, size=NARROW, locale="zh-CN", dark=True)
    page = console.open("#/safety")
    requests = page.get_by_role("region", name="请求")
    expect(requests.get_by_role("row").filter(has_text="terms")).to_contain_text("拦截")
    expect(requests.get_by_role("row").filter(has_text="secret")).to_contain_text("0.5")
    assert guarded.service.guard is not None
    expect(page.get_by_text(guarded.service.guard.policy.hash)).to_be_visible()
    expect(page.get_by_text("已启用，服务提供者 deepwell-test")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert console.accessibility() == []


def test_without_a_guard_the_page_says_how_to_get_one(open_tab: Open) -> None:
    page = open_tab().open("#/safety")
    expect(page.get_by_text("deepwell serve --guard standard")).to_be_visible()


def test_a_key_without_the_scope_is_told_what_to_do(open_tab: Open) -> None:
    console = open_tab()
    console.expected.append("status of 403")
    refusal = {"message": "this key lacks the scope admin; ask for one", "code": "insufficient_scope"}
    console.stub("/v1/guard", {"error": refusal}, status=403)
    page = console.open("#/safety")
    expect(page.get_by_role("alert")).to_contain_text("ask for one")


def test_a_text_is_scored(open_tab: Open, guarded: Live) -> None:
    console = open_tab(guarded.url)
    page = console.open("#/safety")
    page.get_by_role("tab", name="Policy").press("ArrowRight")
    page.get_by_label("Text", exact=True).fill("I will kill you and everyone you love.")
    page.get_by_role("button", name="Check the text").click()
    scores = page.get_by_role("list", name="Scores by category").get_by_role("listitem")
    expect(scores).to_have_count(13)
    expect(page.get_by_text("Flagged", exact=True)).to_be_visible()
    assert console.accessibility() == []


def test_decisions_are_filtered_and_opened_and_the_trail_verified(
    open_tab: Open, guarded: Live, database: Database
) -> None:
    console = open_tab(guarded.url)
    page = console.open("#/safety/decisions")
    page.get_by_label("Decision", exact=True).select_option("block")
    rows = page.get_by_role("region", name="Audit trail").get_by_role("row")
    expect(rows).to_have_count(2)
    assert console.accessibility() == []
    rows.nth(1).get_by_role("button").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("cell", name=f"4–{4 + len(TERM)}")).to_be_visible()
    assert console.accessibility() == []
    page.keyboard.press("Escape")
    page.get_by_label("From").fill("2999-01-01")
    expect(page.get_by_text("No entry matches the filters.")).to_be_visible()
    page.get_by_role("button", name="Verify the trail").click()
    expect(page.get_by_text("The trail holds")).to_be_visible()
    first = sa.update(audit_entries).where(audit_entries.c.sequence == 1).values(entry="{not json")
    database.write_now(lambda connection: connection.execute(first).rowcount)
    page.get_by_role("button", name="Verify the trail").click()
    expect(page.get_by_role("alert")).to_contain_text("entry 1: ")


def test_a_report_is_made_and_read(open_tab: Open, guarded: Live) -> None:
    console = open_tab(guarded.url)
    page = console.open("#/safety/compliance")
    page.get_by_label("China").uncheck()
    page.get_by_label("European Union").uncheck()
    page.get_by_role("button", name="Run the checks").click()
    expect(page.get_by_role("heading", name="OWASP")).to_be_visible(timeout=60_000)
    expect(page.get_by_text("Pass", exact=True).first).to_be_visible()
    page.locator("summary").filter(has_text="Due").first.click()
    expect(page.get_by_text("deepwell compliance answer").first).to_be_visible()
    assert console.accessibility() == []
    page.get_by_label("Show").select_option("open")
    expect(page.locator("summary .badge.good")).to_have_count(0)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download as JSON").click()
    assert download.value.suggested_filename.startswith("compliance-")


def test_rules_entries_and_reports_run_nothing(open_tab: Open) -> None:
    console = open_tab()
    rules = [{"detector": text, "action": text, "min_score": 0.5} for text in PAYLOADS]
    guard: dict[str, Any] = {"enabled": True, "name": PAYLOADS[0], "version": 1, "hash": PAYLOADS[1]}
    guard |= {
        "input": rules,
        "context": rules,
        "output": rules,
        "on_failure": PAYLOADS[2],
        "missing": PAYLOADS,
    }
    guard |= {"labels": {"enabled": True, "producer": PAYLOADS[3]}}
    console.stub("/v1/guard", guard)
    page = console.open("#/safety")
    expect(page.get_by_role("row")).to_have_count(3 * (len(PAYLOADS) + 1))
    assert_nothing_ran(page)
    entries = [entry(f"audit_{place + 1}", text) for place, text in enumerate(PAYLOADS)]
    console.stub("/v1/audit/entries", {"object": "list", "data": entries, "has_more": False})
    console.stub("/v1/audit/verify", {"holds": False, "entries": 1, "seconds": 0.1, "error": PAYLOADS[0]})
    page = console.open("#/safety/decisions")
    page.get_by_role("button", name="Verify the trail").click()
    expect(page.get_by_role("alert")).to_be_visible()
    assert_nothing_ran(page)
    page.get_by_role("row").nth(1).get_by_role("button").click()
    expect(page.get_by_role("dialog").get_by_role("row")).to_have_count(len(PAYLOADS) + 1)
    assert_nothing_ran(page)
    console.stub("/v1/jobs", {"object": "list", "data": [report()], "has_more": False})
    page = console.open("#/safety/compliance")
    expect(page.locator(".safety-check")).to_have_count(2 * len(PAYLOADS))
    assert_nothing_ran(page)


def entry(id: str, text: str) -> dict[str, Any]:
    found = {"layer": "input", "span": [0, 4], "score": 0.9}
    findings = [found | {"rule": one, "category": one, "action": one} for one in PAYLOADS]
    told = {
        "id": id,
        "at": 1_790_000_000.5,
        "event": "decision",
        "decision": text,
        "layer": text,
        "route": text,
    }
    told |= {"model": text, "findings": findings, "policy_hash": text, "user": text, "request_id": text}
    return {"object": "audit.entry", "hash": text} | told


def report() -> dict[str, Any]:
    def head(text: str) -> dict[str, Any]:
        words = {"en": text, "zh": text}
        rule = {"document": words, "clause": text, "read": False, "source": words}
        return {"id": text, "title": words, "rule": rule, "fix": words}

    checks = [
        head(text) | {"status": "fail", "evidence": [{"name": {"en": text, "zh": text}, "value": text}]}
        for text in PAYLOADS
    ]
    answer = {"answered_at": 1_790_000_000, "day": "2026-11-26"}
    questions = [
        head(text) | {"due": True, "answer": answer | {"answer": text, "evidence": text, "answered_by": text}}
        for text in PAYLOADS
    ]
    pack = {
        "pack": PAYLOADS[0],
        "title": {"en": PAYLOADS[0], "zh": PAYLOADS[0]},
        "counts": {"fail": 50},
        "due": 52,
    }
    result = {
        "made_at": PAYLOADS[0],
        "holds": False,
        "facts": dict.fromkeys(PAYLOADS, PAYLOADS[1]),
        "packs": [pack | {"checks": checks, "questions": questions}],
    }
    times = {"created_at": 1_790_000_000, "started_at": 1_790_000_000, "finished_at": 1_790_000_001}
    job = {
        "object": "job",
        "id": "job_1",
        "kind": "compliance.check",
        "status": "succeeded",
        "result": result,
    }
    return job | times | {"progress": None, "error": None, "attempts": 1, "cancel_requested": False}
