"""Personal data, logs and labels: each check passes where it should, and fails where what it tries is broken."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
from tests.safety.compliance.conftest import Make

from deepwell.safety.compliance import labels, logs, person
from deepwell.safety.compliance.checks import Outcome, Words
from deepwell.storage.database import Database, Tenant
from deepwell.storage.safety.audit import AuditStore
from deepwell.storage.safety.chain import AuditRecord

LABELLED = "version: 1\nextends: standard\nlabel: true\nproducer: '0011911101'\n"


def value(outcome: Outcome, name: str) -> str:
    found = next(fact.value for fact in outcome.facts if fact.name.en.startswith(name))
    return found.en if isinstance(found, Words) else str(found)


def test_export_and_erasure_work(make: Make):
    export, erase = person.export_works(make()), person.erase_works(make())
    assert (export.status, erase.status) == ("pass", "pass")
    assert "audit_entries 1" in value(export, "rows and files")
    assert value(erase, "files with a trace") == "0"


def test_an_export_that_leaves_something_out_fails(make: Make, monkeypatch: pytest.MonkeyPatch):
    whole = person.export_person

    async def lossy(*given):
        counts = await whole(*given)
        (given[3] / "tables" / "conversations.jsonl").unlink()
        return counts

    monkeypatch.setattr(person, "export_person", lossy)
    outcome = person.export_works(make())
    assert outcome.status == "fail"
    assert value(outcome, "places without") == "conversations"


def test_an_erasure_that_leaves_something_behind_fails(make: Make, monkeypatch: pytest.MonkeyPatch):
    class Forgetful(person.Eraser):
        async def erase(self, subject):
            done = await super().erase(subject)
            await person._plant(self._database, self._files, Tenant("late"), planted[0])
            return done

    planted: list[str] = []
    plant = person._plant

    async def noted(database, files, tenant, secret):
        planted.append(secret)
        await plant(database, files, tenant, secret)

    monkeypatch.setattr(person, "_plant", noted)
    monkeypatch.setattr(person, "Eraser", Forgetful)
    outcome = person.erase_works(make())
    assert outcome.status == "fail"
    assert "responses" in value(outcome, "tables with a trace")
    assert "deepwell.db" in value(outcome, "files with a trace")


def test_retention_has_to_end(make: Make):
    names = ("completion", "conversation", "file", "batch")
    assert person.retention_is_finite(make()).status == "fail"
    finite = make(settings={f"{name}_retention_days": 90 for name in names})
    assert person.retention_is_finite(finite).status == "pass"
    assert value(person.retention_is_finite(make()), "file_retention_days") == "0 (default): for ever"


def test_a_table_that_is_not_listed_fails(make: Make, monkeypatch: pytest.MonkeyPatch):
    assert person.places_are_complete(make()).status == "pass"
    monkeypatch.setattr(person, "PLACES", person.PLACES[1:])
    outcome = person.places_are_complete(make())
    assert (outcome.status, value(outcome, "tables that are not")) == ("fail", "responses")


def test_decisions_are_recorded(make: Make):
    assert logs.events_are_recorded(make("standard")).status == "pass"
    assert logs.events_are_recorded(make("open")).status == "fail"
    assert (
        logs.events_are_recorded(make("version: 1\nextends: open\naudit: {decisions: all}\n")).status
        == "pass"
    )
    assert logs.events_are_recorded(make(None)).status == "fail"


def test_logs_are_kept_for_six_months(make: Make, monkeypatch: pytest.MonkeyPatch):
    assert logs.six_months(make()).status == "pass"

    async def anything(store, chain, before_s, **_options):
        return await whole(store, chain, before_s, force=True)

    whole = logs.prune
    monkeypatch.setattr(logs, "prune", anything)
    assert logs.six_months(make()).status == "fail"


def test_a_changed_entry_is_found(make: Make, monkeypatch: pytest.MonkeyPatch):
    assert logs.tampering_is_found(make()).status == "pass"
    whole = logs.verify_chain
    first: list[object] = []

    def blind(store, chain):
        first.append(whole(store, chain))
        return first[0]

    monkeypatch.setattr(logs, "verify_chain", blind)
    assert logs.tampering_is_found(make()).status == "fail"


def test_the_trails_of_the_installation_are_verified(make: Make, tmp_path: Path):
    assert logs.chains_hold(make()).status == "not_applicable"
    database = Database.open(tmp_path / "audit.db")
    store = AuditStore(database)
    assert logs.chains_hold(make(trails=store)).status == "not_applicable"
    records = [AuditRecord("decision", int(time.time() * 1000), {"action": "block"})] * 3
    asyncio.run(store.append(Tenant("acme"), records))
    holds = logs.chains_hold(make(trails=store))
    assert (holds.status, value(holds, "trails verified")) == ("pass", "1")
    statement = sa.text(
        "UPDATE audit_entries SET entry = replace(entry, 'block', 'allow') WHERE sequence = 2"
    )
    database.write_now(lambda connection: connection.execute(statement).rowcount)
    broken = logs.chains_hold(make(trails=store))
    assert broken.status == "fail"
    assert "changed" in str(broken.facts[-1].value)
    database.close()


@pytest.mark.parametrize("id", list(labels.FUNCTIONS))
def test_labels_pass_where_they_are_on(make: Make, id: str):
    assert labels.FUNCTIONS[id](make(LABELLED)).status == "pass"
    for policy in ("standard", None):
        assert labels.FUNCTIONS[id](make(policy)).status == "fail"


def test_labels_that_name_nobody_fail(make: Make):
    outcome = labels.labels_on(make("version: 1\nextends: standard\nlabel: true\n"))
    assert (outcome.status, value(outcome, "producer")) == ("fail", "not set")


@pytest.mark.parametrize(
    ("id", "name"),
    [
        ("label-text", "read_text_label"),
        ("label-image", "read_png_label"),
        ("label-audio", "read_audio_label"),
    ],
)
def test_a_label_that_cannot_be_read_back_fails(
    make: Make, monkeypatch: pytest.MonkeyPatch, id: str, name: str
):
    monkeypatch.setattr(labels, name, lambda _data: None)
    assert labels.FUNCTIONS[id](make(LABELLED)).status == "fail"
