"""The registry of models on SQLite and PostgreSQL: versions, roll-outs, and the ledger that changes with them."""

import asyncio
import math

import pytest

from deepwell.errors import InvalidRequest, NotFound
from deepwell.storage.aliases import AliasStore
from deepwell.storage.registry.ledger import Ledger, append_entry
from deepwell.storage.registry.store import NewVersion, RegistryStore
from deepwell.storage.registry.story import AliasState

PROD = "smollm2@prod"
PASSED = {
    "passed": True,
    "gates": [{"name": "loss", "passed": True, "reason": "lower", "numbers": {"rise": -0.1}}],
}


async def made(database, *models, gates=PASSED):
    """A registry whose alias means `base`, and has a version of each model."""
    store = RegistryStore(database)
    await AliasStore(database).set(PROD, "base", "cli")
    for model in models:
        version = await store.register(
            PROD, NewVersion(model, parents=("base",), data={"votes": "ab" * 32}), "loop"
        )
        if gates is not None:
            await store.gate(version.id, gates, "loop")
    return store


async def alias(database):
    [found] = [one for one in (await AliasStore(database).list()).data if one.name == PROD]
    return AliasState(found.model, found.candidate, found.share, found.rollout)


async def test_versions_are_numbered_by_alias_and_keep_what_they_were_made_from(database):
    store = await made(database, "v1", "v2")
    other = await store.register("other@prod", NewVersion("v9"), "cli")
    assert other.id == "other@prod#1"
    story = await store.story(PROD)
    first, second = story.versions_of(PROD)
    assert (first.id, first.model, second.id) == (f"{PROD}#1", "v1", f"{PROD}#2")
    assert (first.parents, first.data, first.by, first.passed) == (
        ("base",),
        {"votes": "ab" * 32},
        "loop",
        True,
    )
    refused = await store.gate(first.id, {"passed": False, "gates": []}, "loop")
    assert refused.passed is False, "the newest report counts"
    with pytest.raises(NotFound, match="no version"):
        await store.gate(f"{PROD}#9", PASSED, "loop")
    with pytest.raises(InvalidRequest, match="cannot be an alias"):
        await store.register("../etc", NewVersion("v1"), "cli")


async def test_a_canary_is_promoted_and_the_promotion_undone(database):
    store = await made(database, "v1")
    rollout = await store.start(f"{PROD}#1", 0.25, {"alpha": 0.05}, "lin")
    assert await alias(database) == AliasState("base", "v1", 0.25, rollout.id)
    names = await AliasStore(database).names()
    assert names.models == {PROD: "base"} and names.canaries[PROD].model == "v1"
    ended = await store.end(PROD, "promoted", "votes", reason="liked", numbers={"users": 3})
    assert (ended.state, ended.ended_by, ended.reason, ended.numbers) == (
        "promoted",
        "votes",
        "liked",
        {"users": 3},
    )
    assert await alias(database) == AliasState("v1")
    assert (await AliasStore(database).names()).canaries == {}
    assert (await store.revert(PROD, "lin")).model == "base"
    with pytest.raises(InvalidRequest, match="no roll-out made"):
        await store.revert(PROD, "lin")
    events = [entry.event for entry in await store.ledger.entries(PROD)]
    assert events == ["alias", "version", "gates", "canary", "promoted", "reverted"]
    history = (await AliasStore(database).history(PROD, order="asc")).data
    assert [(one.model, one.candidate) for one in history] == [
        ("base", None),
        ("base", "v1"),
        ("v1", None),
        ("base", None),
    ]


@pytest.mark.parametrize("outcome", ["aborted", "rolled_back"])
async def test_a_canary_that_is_not_promoted_leaves_the_alias_as_it_was(database, outcome):
    store = await made(database, "v1", "v2")
    first = await store.start(f"{PROD}#1", 0.5, {}, "lin")
    await store.end(PROD, outcome, "lin")
    assert await alias(database) == AliasState("base")
    second = await store.start(f"{PROD}#2", 0.5, {}, "lin")
    assert first.id != second.id, "users are drawn anew"
    assert [one.state for one in (await store.story(PROD)).rollouts.values()] == [outcome, "canary"]


async def test_what_may_not_be_rolled_out_is_refused_and_leaves_no_entry(database):
    store = await made(database, "v1", "base", gates=None)
    await store.gate(f"{PROD}#2", PASSED, "loop")
    with pytest.raises(InvalidRequest, match="did not see"):
        await store.start(f"{PROD}#1", 0.5, {}, "lin")
    await store.gate(f"{PROD}#1", {"passed": False, "gates": []}, "loop")
    before = await store.ledger.entries()
    with pytest.raises(InvalidRequest, match="refused"):
        await store.start(f"{PROD}#1", 0.5, {}, "lin")
    with pytest.raises(InvalidRequest, match="means 'base' already"):
        await store.start(f"{PROD}#2", 0.5, {}, "lin")
    with pytest.raises(NotFound, match="no version"):
        await store.start(f"{PROD}#3", 0.5, {}, "lin")
    with pytest.raises(NotFound, match="no alias"):
        await store.start("none#1", 0.5, {}, "lin")
    for share in (0, 1, -1, math.nan):
        with pytest.raises(InvalidRequest, match="no part"):
            await store.start(f"{PROD}#1", share, {}, "lin")
    for outcome in ("promoted", "aborted"):
        with pytest.raises(InvalidRequest, match="under way"):
            await store.end(PROD, outcome, "lin")
    assert await store.ledger.entries() == before
    passed_over = await store.start(f"{PROD}#1", 0.5, {}, "lin", ungated="a demonstration")
    assert passed_over.reason == "a demonstration"


async def test_an_alias_is_not_changed_beneath_a_roll_out(database):
    store = await made(database, "v1", "v2")
    rollout = await store.start(f"{PROD}#1", 0.5, {}, "lin")
    aliases = AliasStore(database)
    for ask in (aliases.set(PROD, "v2", "cli"), aliases.remove(PROD, "cli")):
        with pytest.raises(InvalidRequest, match="rollout abort"):
            await ask
    with pytest.raises(InvalidRequest, match="alias 'smollm2@prod' means"):
        await aliases.set("v1", "base", "cli")
    with pytest.raises(InvalidRequest, match="being rolled out"):
        await store.start(f"{PROD}#2", 0.5, {}, "lin")
    with pytest.raises(InvalidRequest, match="rollout abort"):
        await store.revert(PROD, "lin")
    assert await alias(database) == AliasState("base", "v1", 0.5, rollout.id)


async def test_a_decision_about_a_roll_out_that_has_ended_hits_no_other(database):
    store = await made(database, "v1", "v2")
    first = await store.start(f"{PROD}#1", 0.5, {}, "lin")
    await store.end(PROD, "aborted", "lin")
    await store.start(f"{PROD}#2", 0.5, {}, "lin")
    with pytest.raises(InvalidRequest, match="has ended"):
        await store.end(PROD, "rolled_back", "votes", rollout=first.id)
    assert (await alias(database)).candidate == "v2"


async def test_a_promotion_is_not_undone_after_the_alias_was_set_by_hand(database):
    store = await made(database, "v1")
    await store.start(f"{PROD}#1", 0.5, {}, "lin")
    await store.end(PROD, "promoted", "lin")
    await AliasStore(database).set(PROD, "v7", "cli")
    with pytest.raises(InvalidRequest, match="deepwell models alias set"):
        await store.revert(PROD, "lin")


async def test_servers_that_write_at_once_keep_one_chain_and_one_roll_out(opened):
    databases = [opened(), opened()]
    try:
        stores = [RegistryStore(database) for database in databases]
        await made(databases[0], *(f"v{number}" for number in range(8)))

        async def start(number):
            try:
                await stores[number % 2].start(f"{PROD}#{number + 1}", 0.5, {}, "lin")
            except InvalidRequest:
                return 0
            return 1

        assert sum(await asyncio.gather(*(start(number) for number in range(8)))) == 1
        entries = await stores[0].ledger.entries()
        assert [entry.sequence for entry in entries] == list(range(1, len(entries) + 1))
        assert [entry.event for entry in entries].count("canary") == 1
    finally:
        for database in databases:
            database.close()


@pytest.mark.parametrize(
    ("by", "fields", "words"),
    [
        ("loop", {"report": {"gates": [math.nan]}}, "cannot hold the number nan"),
        ("loop", {"metrics": {"loss": math.inf}}, "cannot hold the number inf"),
        ("loop", {"config": {"text": "x" * (1 << 20)}}, "holds entries of"),
        ("", {}, "names who made a change"),
        ("a\nb", {}, "names who made a change"),
        ("x" * 65, {}, "names who made a change"),
    ],
)
async def test_what_the_ledger_cannot_hold_is_refused(database, by, fields, words):
    with pytest.raises(InvalidRequest, match=words):
        await database.write(lambda connection: append_entry(connection, "gates", PROD, by, fields))
    assert await Ledger(database).entries() == []


async def test_no_reason_is_cut_off(database):
    store = await made(database, "v1")
    with pytest.raises(InvalidRequest, match="names who made"):
        await store.start(f"{PROD}#1", 0.5, {}, "x" * 65)
    await store.start(f"{PROD}#1", 0.5, {}, "lin")
    with pytest.raises(InvalidRequest, match="at most 500"):
        await store.end(PROD, "aborted", "lin", reason="x" * 501)
    assert (await store.end(PROD, "aborted", "lin", reason="\0x" * 250)).reason == "\0x" * 250
