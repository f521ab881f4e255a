"""Roll-outs that users' votes end, and the check that finds every change of the ledger."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from tests.fleet.promotion.tampering import TAMPERINGS, tamper

from deepwell.errors import InvalidRequest
from deepwell.fleet.promotion.arms import Vote, count_votes
from deepwell.fleet.promotion.artefact import version_of
from deepwell.fleet.promotion.check import check_ledger
from deepwell.fleet.promotion.gates import GateReport
from deepwell.fleet.promotion.judge import Arms, Plan, decide
from deepwell.fleet.promotion.rollout import Rollouts
from deepwell.fleet.promotion.sequential import Counts
from deepwell.fleet.promotion.words import in_words
from deepwell.storage.aliases import AliasStore
from deepwell.storage.database import Database, Tenant
from deepwell.storage.feedback import FeedbackStore, StoredFeedback
from deepwell.storage.registry.ledger import Ledger, LedgerChanged
from deepwell.storage.registry.split import identity_of, takes_candidate
from deepwell.storage.registry.store import NewVersion
from deepwell.storage.registry.story import Rollout, Steps
from deepwell.storage.safety.anchors import Anchors
from deepwell.storage.tables import model_aliases, model_ledger, model_ledger_head

PROD = "smollm2@prod"
A, B = Tenant("a"), Tenant("b")
DAY_MS = 86_400_000


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database.open(tmp_path / "deepwell.db")
    yield database
    database.close()


class Clock:
    """Unix milliseconds that pass when they are told to."""

    def __init__(self) -> None:
        self.past_ms = 0

    def __call__(self) -> int:
        import time

        return int(time.time() * 1000) + self.past_ms


async def under_way(
    database: Database, *, share: float = 0.5, plan: Plan | None = None
) -> tuple[Rollouts, Clock]:
    clock = Clock()
    rollouts = Rollouts(database, clock_ms=clock)
    await AliasStore(database).set(PROD, "base", "cli")
    version = await rollouts.register(PROD, NewVersion("v1"), "loop")
    await rollouts.start(version.id, "lin", share=share, plan=plan, ungated="a test")
    return rollouts, clock


async def vote(
    database: Database, rollouts: Rollouts, count: int, liked: dict[bool, float], *, seed: int = 1
) -> None:
    """Gives votes of `count` users, who like the answers of their side with a probability."""
    status = await rollouts.status(PROD)
    assert status is not None
    draw, store = random.Random(seed), FeedbackStore(database)
    for number in range(count):
        tenant, user = (A, B)[number % 2], f"user-{number // 2}"  # names that both tenants have
        side = takes_candidate(status.rollout.id, status.rollout.share, tenant, identity_of(user, ""))
        up = draw.random() < liked[side]
        given = StoredFeedback(
            f"fb_{number}",
            f"resp_{number}",
            "up" if up else "down",
            Clock()() // 1000,
            model=PROD,
            end_user=user,
            verified=True,
            key_id=f"key of {user}",
        )
        await store.put(tenant, given)


async def test_a_canary_that_regresses_is_rolled_back_with_its_numbers(database: Database) -> None:
    rollouts, _ = await under_way(database)
    assert (await rollouts.judge(PROD)).verdict.action == "wait"
    await vote(database, rollouts, 120, {False: 0.9, True: 0.4})
    done = await rollouts.judge(PROD)
    assert done.rollout.state == "rolled_back" and "fewer users approve" in done.rollout.reason
    assert done.arms.current.users + done.arms.candidate.users == 120, "a name in two tenants is two users"
    assert done.rollout.numbers["log_evidence_worse"] >= done.rollout.numbers["needed"]
    assert (await AliasStore(database).names()).models == {PROD: "base"}
    with pytest.raises(InvalidRequest, match="no roll-out"):
        await rollouts.judge(PROD)
    assert check_ledger(database).holds


async def test_a_canary_that_holds_is_promoted(database: Database) -> None:
    rollouts, _ = await under_way(database, plan=Plan(margin=0.2))
    await vote(database, rollouts, 200, {False: 0.7, True: 0.85})
    done = await rollouts.judge(PROD, "loop")
    assert (done.rollout.state, done.rollout.ended_by) == ("promoted", "loop")
    assert (await AliasStore(database).names()).models == {PROD: "v1"}
    assert check_ledger(database).holds


async def test_votes_of_before_of_other_models_and_of_nobody_do_not_count(database: Database) -> None:
    rollouts, _ = await under_way(database)
    store, now_s = FeedbackStore(database), Clock()() // 1000
    given = StoredFeedback("fb_0", "r0", "up", now_s, model=PROD, end_user="lin", verified=True, key_id="key")
    for number, other in enumerate(
        (
            {},
            {"rating": "down"},
            {"end_user": "mei", "created_at": now_s - 3600},
            {"end_user": "mei", "model": "other"},
            {"end_user": None},
            {"end_user": "mei", "verified": False},
            {"end_user": "mei", "key_id": ""},
        )
    ):
        await store.put(A, replace(given, id=f"fb_{number}", target_id=f"r{number}", **other))
    status = await rollouts.status(PROD)
    assert status is not None
    sides = (status.arms.current, status.arms.candidate)
    assert sum(one.users for one in sides) == 1 and sum(one.good for one in sides) == 1, (
        "the first vote of a user"
    )
    assert (status.arms.unknown, status.arms.unverified) == (1, 2)


async def test_tenants_that_the_roll_out_does_not_name_do_not_decide(database: Database) -> None:
    """A tenant can invent any number of users, and tells their sides by the answers that they get."""
    rollouts = Rollouts(database)
    await AliasStore(database).set(PROD, "base", "cli")
    version = await rollouts.register(PROD, NewVersion("v1"), "loop")
    started = await rollouts.start(version.id, "lin", share=0.5, ungated="a test", tenants=[A])
    assert started.tenants == (A,)
    store, now_s = FeedbackStore(database), Clock()() // 1000
    for number in range(200):
        user = f"invented-{number}"
        rating = "up" if takes_candidate(started.id, 0.5, B, identity_of(user, "")) else "down"
        vote = StoredFeedback(
            f"fb_{number}", "t", rating, now_s, model=PROD, end_user=user, voter=user, verified=True
        )
        await store.put(B, vote)
    await store.put(
        A, StoredFeedback("fb_a", "t", "up", now_s, model=PROD, end_user="lin", voter="lin", verified=True)
    )
    judged = await rollouts.judge(PROD)
    assert judged.verdict.action == "wait"
    assert judged.arms.current.users + judged.arms.candidate.users == 1
    [*_, entry] = await Ledger(database).entries(PROD)
    assert in_words(entry).endswith("; votes of a decide; its gates were passed over: a test")
    assert check_ledger(database).holds


async def test_an_undecided_canary_ends_with_the_current_model(database: Database) -> None:
    rollouts, clock = await under_way(database, plan=Plan(most_days=2))
    clock.past_ms = 2 * DAY_MS
    done = await rollouts.judge(PROD)
    assert done.rollout.state == "rolled_back" and "undecided" in done.rollout.reason


async def test_orders_are_kept_with_who_gave_them_and_why(database: Database) -> None:
    rollouts, _ = await under_way(database)
    ended = await rollouts.abort(PROD, "mei", "wrong tone")
    assert (ended.state, ended.ended_by, ended.reason) == ("aborted", "mei", "wrong tone")
    await rollouts.start(f"{PROD}#1", "lin", ungated="again")
    await rollouts.promote(PROD, "lin")
    await rollouts.revert(PROD, "mei", "complaints")
    said = [in_words(entry) for entry in await Ledger(database).entries(PROD)]
    for words in (
        "smollm2@prod means base",
        "smollm2@prod#1 is v1",
        "50 % of the users of smollm2@prod get v1, the others base; its gates were passed over: a test",
        "roll-out aborted: smollm2@prod stays base (wrong tone)",
        "smollm2@prod means v1 now, and not base any more",
        "promotion undone: smollm2@prod means base again, and not v1 (complaints)",
    ):
        assert any(words in one for one in said), words


async def test_a_refused_report_is_told_with_its_reasons(database: Database) -> None:
    rollouts = Rollouts(database)
    version = await rollouts.register(PROD, NewVersion("v1"), "loop", GateReport.of())
    assert version.passed is False
    last = (await Ledger(database).entries())[-1]
    assert "refused by its gates: votes: it was not measured" in in_words(last)


def test_the_record_of_an_artefact_becomes_its_version(tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "deepwell.json").write_text(
        '{"format": 1, "base": "smollm2", "base_fingerprint": "f", "config": {"method": "lora"}, "metrics": {"loss": 1.5},'
        ' "data": {"sha256": {"votes.jsonl": "abc"}}}'
    )
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    version = version_of("v1", folder, parents=["smollm2@prod#1"])
    assert version.parents == ["smollm2@prod#1", "smollm2"]
    assert (version.data, version.metrics) == ({"votes.jsonl": "abc"}, {"loss": 1.5})
    (folder / "adapter_model.safetensors").write_bytes(b"Weights")
    assert version_of("v1", folder).artefact_sha256 != version.artefact_sha256
    with pytest.raises(InvalidRequest, match="no folder"):
        version_of("v1", tmp_path / "none")


@pytest.mark.parametrize(
    "fields",
    [
        '"config": [], "metrics": 3',
        '"data": [1]',
        '"data": {"sha256": [1]}',
        '"data": {"sha256": {"a": 1}}, "base": 7',
    ],
)
async def test_a_record_of_another_program_breaks_nothing(
    database: Database, tmp_path: Path, fields: str
) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "deepwell.json").write_text(f'{{"format": 1, "base_fingerprint": "f", {fields}}}')
    await Rollouts(database).register(PROD, version_of("v1", folder), "cli")
    [entry] = await Ledger(database).entries()
    assert in_words(entry).startswith(f"{PROD}#1 is v1")


def test_an_artefact_whose_bytes_lie_elsewhere_is_not_registered(tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (tmp_path / "weights").write_bytes(b"1")
    (folder / "adapter_model.safetensors").symlink_to(tmp_path / "weights")
    with pytest.raises(InvalidRequest, match="is a link"):
        version_of("v1", folder)


ROLLOUT = Rollout("r", PROD, f"{PROD}#1", "base", "v1", 0.3, "canary", 0, "lin", {})
VOTES = st.lists(
    st.builds(
        Vote,
        st.sampled_from(["a", "b"]),
        st.sampled_from(["", "x", "y", "z"]),
        st.sampled_from(["", "v", "w"]),
        st.booleans(),
        st.integers(0, 1000),
        st.sampled_from(["", "k", "l"]),
        st.sampled_from(["r1", "r2", "r3"]),
        st.booleans(),
    ),
    max_size=30,
)


@given(VOTES, st.sampled_from([(), ("a", "b")]))
def test_every_voter_and_every_answer_counts_once_and_what_does_not_count_is_told(
    given_votes: list[Vote], tenants: tuple[str, ...]
) -> None:
    arms = count_votes(given_votes, replace(ROLLOUT, tenants=tenants))
    counted = [one for one in given_votes if one.verified and (tenants or one.key_id)]
    assert arms.unverified == len(given_votes) - len(counted)
    assert arms.unknown == sum(not one.end_user for one in counted)
    named = [one for one in counted if one.end_user]
    keys = {(one.tenant, one.key_id) for one in named}
    people = {(one.tenant, one.voter or one.end_user, bool(one.voter)) for one in named}
    answers = {(one.tenant, one.key_id, one.target) for one in named}
    users = arms.current.users + arms.candidate.users
    assert users == len(keys) if not tenants else users <= min(len(people), len(answers))


def test_no_key_makes_voters_out_of_names() -> None:
    """A key can ask and vote under any names, and see by the answers which side each of them has."""
    votes = [Vote("a", f"user-{n}", f"user-{n}", True, 0, "key", f"r{n}", True) for n in range(500)]
    arms = count_votes(votes, ROLLOUT)
    assert arms.current.users + arms.candidate.users == 1
    trusted = replace(ROLLOUT, tenants=("a",))
    arms = count_votes(votes, trusted)
    assert arms.current.users + arms.candidate.users == 500, "whoever names a tenant trusts its names"
    one_answer = [vote._replace(target="r0") for vote in votes]
    arms = count_votes(one_answer, trusted)
    assert arms.current.users + arms.candidate.users == 1
    arms = count_votes([vote._replace(verified=False) for vote in votes], trusted)
    assert (arms.current.users, arms.candidate.users, arms.unverified) == (0, 0, 500)


def test_a_reviewer_of_many_conversations_is_one_voter() -> None:
    votes = [Vote("a", f"user-{n}", "reviewer", False, 0, "key", f"r{n}", True) for n in range(100)]
    other = Vote("b", "user-1", "reviewer", True, 0, "key", "r0", True)
    arms = count_votes([*votes, other], replace(ROLLOUT, tenants=("a", "b")))
    assert arms.current.users + arms.candidate.users == 2, "one in each tenant"


def test_a_vote_counts_on_the_side_that_its_user_had_then() -> None:
    stepped = replace(ROLLOUT, share=1.0, shares=((0, 0.0), (1000, 0.5), (2000, 1.0)))
    users = [f"user-{number}" for number in range(200)]

    def candidates(at_ms: int) -> int:
        votes = [Vote("a", user, "", True, at_ms, user, user, True) for user in users]
        return count_votes(votes, stepped).candidate.users

    half = sum(takes_candidate("r", 0.5, "a", identity_of(user, "")) for user in users)
    assert [candidates(at) for at in (999, 1000, 1999, 2000)] == [0, half, half, len(users)]


async def test_steps_go_into_the_ledger_and_the_alias_together(database: Database) -> None:
    rollouts = Rollouts(database)
    await AliasStore(database).set(PROD, "base", "cli")
    version = await rollouts.register(PROD, NewVersion("v1"), "loop")
    steps = Steps("canary", (0.05, 0.5, 1.0), 30.0)
    begun = await rollouts.start(version.id, "lin", steps=steps, ungated="a test")
    assert (begun.share, begun.steps) == (0.0, steps), "nobody has it before the first step"
    for share in (0.05, 0.5, 1.0, 0.05):
        stepped = await rollouts.registry.step(
            PROD, share, "fleet", rollout=begun.id, numbers={"requests": 9}
        )
        assert stepped.share == share == (await AliasStore(database).names()).canaries[PROD].share
        assert check_ledger(database).holds
    assert [share for _, share in stepped.shares] == [0.0, 0.05, 0.5, 1.0, 0.05]
    for share, rollout in ((0.05, begun.id), (1.5, begun.id), (0.5, "another")):
        with pytest.raises(InvalidRequest):
            await rollouts.registry.step(PROD, share, "fleet", rollout=rollout)
    ended = await rollouts.abort(PROD, "fleet", "too slow")
    assert (ended.state, ended.share) == ("aborted", 0.05)
    with pytest.raises(InvalidRequest):
        await rollouts.registry.step(PROD, 0.5, "fleet", rollout=begun.id)
    words = [in_words(entry) for entry in await rollouts.registry.ledger.entries(PROD)]
    assert any("steps of 5, 50, 100 %, 30 s each" in one for one in words)
    assert any("50 % of the users of smollm2@prod get the candidate, after 5 %" in one for one in words)


COUNTS = st.integers(0, 300).flatmap(lambda users: st.builds(Counts, st.just(users), st.integers(0, users)))


@given(COUNTS, COUNTS, st.integers(0, 40 * DAY_MS))
def test_the_verdict_follows_from_the_counts(current: Counts, candidate: Counts, age_ms: int) -> None:
    plan = Plan(most_users=200)
    verdict = decide(Arms(current, candidate), plan, age_ms)
    over = candidate.users >= plan.most_users or age_ms >= plan.most_days * DAY_MS
    if verdict.action == "wait":
        assert not over
    if verdict.action == "promote":
        assert candidate.share > current.share - plan.margin
    assert verdict == decide(Arms(current, candidate), plan, age_ms)


@pytest.mark.parametrize(
    "terms", [{"alpha": 0}, {"alpha": 1}, {"margin": 0}, {"most_users": 0}, {"most_days": 0}]
)
def test_terms_that_judge_nothing_are_refused(terms: dict[str, float]) -> None:
    with pytest.raises(InvalidRequest, match="cannot be judged"):
        Plan(**terms)  # pyright: ignore[reportArgumentType]


async def test_every_flipped_byte_of_a_story_is_found(database: Database, tmp_path: Path) -> None:
    rollouts, _ = await under_way(database)
    anchors = Anchors(tmp_path / "anchors")
    assert check_ledger(database, anchors).holds
    for table, key in ((model_ledger, "sequence"), (model_ledger_head, "id"), (model_aliases, "seq")):
        rows = database.read_now(
            lambda connection, table=table: connection.execute(sa.select(table)).mappings().all()
        )
        for row in rows:
            for name, value in row.items():
                if table is model_aliases and name in ("seq", "changed_at", "changed_by"):
                    continue
                for changed in _flipped(value):
                    await _write(database, table, key, row[key], name, changed)
                    assert not check_ledger(database, anchors).holds, (table.name, name, value, changed)
                    await _write(database, table, key, changed if name == key else row[key], name, value)
    assert check_ledger(database, anchors).holds
    await rollouts.abort(PROD, "lin")
    assert check_ledger(database, anchors).holds


def _flipped(value: object) -> list[object]:
    """Versions of a value with one bit changed: of a text, at places that lie seven apart."""
    if isinstance(value, int):
        return [value ^ 1 << 20]
    if isinstance(value, float):
        return [value * 1.0000001]
    assert isinstance(value, str)
    return [value[:at] + chr(ord(value[at]) ^ 1) + value[at + 1 :] for at in range(0, len(value), 7)]


async def _write(
    database: Database, table: sa.Table, key: str, place: object, name: str, value: object
) -> None:
    statement = sa.update(table).where(table.c[key] == place).values({name: value})
    await database.write(lambda connection: connection.execute(statement).rowcount)


async def test_a_tail_that_was_cut_off_is_found_by_its_head_and_by_the_anchor(
    database: Database, tmp_path: Path
) -> None:
    anchors = Anchors(tmp_path / "anchors")
    rollouts = Rollouts(database, anchors)
    for number in range(3):
        await rollouts.register(PROD, NewVersion(f"v{number}"), "loop")
    head = check_ledger(database, anchors).head
    columns = model_ledger.c

    def cut(connection: sa.Connection) -> None:
        connection.execute(sa.delete(model_ledger).where(columns.sequence == head.sequence))

    await database.write(cut)
    assert not check_ledger(database).holds

    def written_anew(connection: sa.Connection) -> None:
        hash = connection.scalar(sa.select(columns.hash).where(columns.sequence == head.sequence - 1))
        connection.execute(sa.update(model_ledger_head).values(sequence=head.sequence - 1, hash=hash))

    await database.write(written_anew)
    assert check_ledger(database).holds, "the database alone cannot tell"
    assert "anchor remembers" in check_ledger(database, anchors).problems[0]


async def test_an_older_copy_of_the_ledger_is_not_hidden_by_what_follows(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The head that this host remembers is replaced by none that does not continue it."""
    anchors = Anchors(tmp_path / "anchors")
    older = Rollouts(Database.open(tmp_path / "older.db"), anchors)
    rollouts, aliases = Rollouts(database, anchors), AliasStore(database, anchors)
    for one in (older, rollouts):
        await one.registry.register(PROD, NewVersion("v1"), "loop")
    anchors.forget("models")
    await aliases.set("staging", "v1", "cli")
    assert anchors.read("models") == check_ledger(database, anchors).head, "of a change of an alias too"
    for name in ("v2", "v3"):
        await older.registry.register(PROD, NewVersion(name), "loop")
    found = check_ledger(older._database, anchors)
    assert not found.holds and any("anchor" in one for one in found.problems)
    assert "or has another in its place" in caplog.text
    await aliases.remove("staging", "cli")
    assert check_ledger(database, anchors).holds
    anchors.path("models").write_text("damaged")
    await rollouts.registry.register(PROD, NewVersion("v4"), "loop")
    assert "has no anchor" in caplog.text, "what was changed is not told as a failure"
    older._database.close()


ACTIONS: dict[str, tuple[str, Callable[[Rollouts, str], Awaitable[object]]]] = {
    "start": ("registered", lambda one, _: one.start(f"{PROD}#1", "cli")),
    "start another": ("registered", lambda one, _: one.start(f"{PROD}#2", "cli", ungated="a test")),
    "step": ("under way", lambda one, id: one.registry.step(PROD, 1.0, "fleet", rollout=id)),
    "end": ("under way", lambda one, id: one.registry.end(PROD, "promoted", "fleet", rollout=id)),
    "promote": ("under way", lambda one, _: one.promote(PROD, "cli")),
    "revert": ("promoted", lambda one, _: one.revert(PROD, "cli")),
}


@pytest.mark.parametrize("action", [*ACTIONS, "names"])
@pytest.mark.parametrize("how", TAMPERINGS)
async def test_nobody_acts_on_a_version_of_a_ledger_that_does_not_hold(
    database: Database, tmp_path: Path, how: str, action: str
) -> None:
    anchors = Anchors(tmp_path / "anchors")
    rollouts, aliases = Rollouts(database, anchors), AliasStore(database, anchors)
    await aliases.set(PROD, "base", "cli")
    await rollouts.register(PROD, NewVersion("v1"), "loop", GateReport.of())
    await rollouts.register(PROD, NewVersion("v2"), "loop")
    state, act = ACTIONS.get(action, ("under way", None))
    if state != "registered":
        await rollouts.start(f"{PROD}#2", "cli", ungated="a test")
    if state == "promoted":
        await rollouts.promote(PROD, "cli")
    before = await aliases.look()
    rollout = before.canaries[PROD].rollout if state == "under way" else ""
    tamper(database, how)
    with pytest.raises(LedgerChanged) as raised:
        await (aliases.names() if act is None else act(rollouts, rollout))
    assert "alias" in raised.value.message or "entry" in raised.value.message
    assert "deepwell models log" in raised.value.fix and "backup" in raised.value.fix
    assert "账本" in raised.value.in_chinese() and "deepwell models log" in raised.value.in_chinese()
    if "alias" not in how:
        after = await aliases.look()
        assert (after.models, after.canaries) == (before.models, before.canaries), "nothing was changed"


async def test_a_candidate_is_taken_away_whatever_became_of_the_ledger(database: Database) -> None:
    rollouts, _ = await under_way(database)
    altered = "UPDATE model_ledger SET entry = replace(entry, 'base', 'bose') WHERE sequence = 1"
    await database.write(lambda connection: connection.execute(sa.text(altered)).rowcount)
    with pytest.raises(LedgerChanged, match="entry 1"):
        await rollouts.promote(PROD, "cli")
    assert (await rollouts.abort(PROD, "cli")).state == "aborted"


async def test_an_older_backup_is_accepted_once_the_host_forgets(database: Database, tmp_path: Path) -> None:
    anchors = Anchors(tmp_path / "anchors")
    rollouts, aliases = Rollouts(database, anchors), AliasStore(database, anchors)
    await aliases.set(PROD, "base", "cli")
    await rollouts.register(PROD, NewVersion("v1"), "loop", GateReport.of())
    await rollouts.register(PROD, NewVersion("v2"), "loop")
    tamper(database, "truncated with its head")  # as a backup from before the second version is
    with pytest.raises(LedgerChanged) as raised:
        await aliases.names()
    assert f"rm {anchors.path('models')}" in raised.value.fix
    anchors.path("models").unlink()
    assert (await aliases.names()).models == {PROD: "base"}
