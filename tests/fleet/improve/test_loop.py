"""Rounds of improvement with fakes for training, measurement and servers: every way a round ends, and kills at every step."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from tests.fleet.promotion.tampering import TAMPERINGS, tamper

from deepwell.errors import DeepwellError, InvalidRequest, NotFound
from deepwell.fleet.improve import loop
from deepwell.fleet.improve.loop import Improver, ImproveTerms
from deepwell.fleet.improve.parts import Parts, Rehearsal
from deepwell.fleet.improve.state import Round, State, StateFile
from deepwell.fleet.promotion.artefact import version_of
from deepwell.fleet.promotion.check import check_ledger
from deepwell.fleet.promotion.gates import GATES, GateReport, GateResult
from deepwell.fleet.promotion.rollout import Rollouts
from deepwell.safety.privacy.rounds import drop_copies, forget_votes
from deepwell.storage.aliases import AliasStore
from deepwell.storage.database import Database, Tenant
from deepwell.storage.feedback import FeedbackStore, StoredFeedback
from deepwell.storage.registry.ledger import LedgerChanged
from deepwell.storage.registry.split import identity_of, takes_candidate
from deepwell.storage.registry.store import NewVersion, RegistryStore
from deepwell.storage.safety.anchors import Anchors
from deepwell.tuning.align.votes import Curated, CurationLimits, Vote

PROD = "smollm2@prod"
WORDS = "river bread tower winter garden letter candle window bridge forest morning pepper".split()


class Killed(BaseException):
    """A kill, as the code around it sees one: nothing catches it."""


def votes(count: int, *, users: int = 20, first: int = 0) -> list[Vote]:
    found: list[Vote] = []
    for number in range(first, first + count):
        words = " ".join(WORDS[(number * 7 + step * (1 + number % 5)) % 12] for step in range(9))
        asked = ({"role": "user", "content": f"question {number} about {words} {number * 31}"},)
        found.append(
            Vote(
                asked,
                f"{number} {words} {number}",
                number % 3 > 0,
                f"user-{number % users}",
                source=f"fb-{number}",
            )
        )
    return found


def report(*refused: str) -> GateReport:
    return GateReport(
        tuple(GateResult(one, one not in refused, f"{one} seen", {"number": 1.0}) for one in GATES)
    )


@dataclass
class World:
    """A database with the alias, and fakes that remember what they were asked for."""

    folder: Path
    database: Database
    votes: list[Vote] = field(default_factory=lambda: votes(150))
    report: GateReport = field(default_factory=report)
    trained: list[Path] = field(default_factory=list[Path])
    lines: list[str] = field(default_factory=list[str])
    measured: list[tuple[Path | None, Path, Curated]] = field(default_factory=list[Any])
    published: list[tuple[str, Path]] = field(default_factory=list[Any])
    gated: list[str] = field(default_factory=list[str])
    unserved: bool = False
    rehearsal: Rehearsal | None = None

    async def collect(self) -> list[Vote]:
        return self.votes

    async def train(self, folder: Path, say: Any) -> Path:
        self.trained.append(folder)
        self.lines.append((folder.parent / "train.jsonl").read_text())
        adapter = folder / "adapter"
        adapter.mkdir(exist_ok=True)
        (adapter / "adapter_config.json").write_text("{}")
        return adapter

    def measure(
        self, base: str, current: Path | None, candidate: Path, curated: Curated, say: Any, known: Any = ()
    ) -> GateReport:
        self.measured.append((current, candidate, curated))
        done = {one.name: one for one in known}
        for one in self.report.gates:
            if one.name not in done:
                self.gated.append(one.name)
                done[one.name] = one
                say({"event": "gate", **one.to_json()})
        return GateReport.of(*done.values())

    async def publish(self, name: str, folder: Path) -> None:
        if self.unserved:
            raise DeepwellError("nobody serves it", fix="serve it")
        self.published.append((name, folder))

    def improver(self, *, rollouts: Rollouts | None = None, **terms: Any) -> Improver:
        parts = Parts(self.collect, self.train, self, self.publish, self.rehearsal)
        terms = {"share": 0.5, **terms}
        return Improver(
            ImproveTerms(PROD, "smollm2", **terms),
            self.folder / "loop",
            self.database,
            rollouts or Rollouts(self.database),
            parts,
        )

    async def events(self) -> list[str]:
        return [one.event for one in await Rollouts(self.database).registry.ledger.entries(PROD)]

    async def vote(self, good: float, *, before: float = 0.5, users: int = 500) -> None:
        """Lets users of both sides vote: a share `good` of those of the candidate likes its answers."""
        story = await Rollouts(self.database).registry.story(PROD)
        rollout = story.open_rollout(PROD)
        assert rollout is not None
        given: list[StoredFeedback] = []
        sides = [0, 0]
        for number in range(users):
            name = f"voter {number}"
            side = takes_candidate(rollout.id, rollout.share, "local", identity_of(name, ""))
            sides[side] += 1
            liked = (sides[side] * (good if side else before)) % 1 < (good if side else before)
            rating: Any = "up" if liked else "down"
            at = rollout.started_ms // 1000 + 1
            given.append(
                StoredFeedback(
                    f"fb_{number}",
                    f"t{number}",
                    rating,
                    at,
                    model=PROD,
                    end_user=name,
                    voter=name,
                    verified=True,
                    key_id=name,
                )
            )
        await FeedbackStore(self.database).put_all(Tenant("local"), given)

    async def meaning(self) -> str:
        return (await AliasStore(self.database).names()).models[PROD]


@pytest.fixture
async def world(tmp_path: Path) -> Any:
    database = Database.open(tmp_path / "deepwell.db")
    await AliasStore(database).set(PROD, "smollm2", "cli")
    (tmp_path / "loop").mkdir()
    StateFile(tmp_path / "loop").write(State(salt="0"))  # a salt that holds some users out
    yield World(tmp_path, database)
    database.close()


async def test_what_the_base_says_is_written_once_for_a_round_and_trained_on(world: World) -> None:
    asked: list[str] = []

    def rehearsal(base: str, replay: Path, judged: Path) -> None:
        asked.append(base)
        judged.write_text("{}\n")
        if len(asked) == 1:
            raise Killed
        replay.write_text('{"text": "hello"}\n')

    world.rehearsal = rehearsal
    with pytest.raises(Killed):
        await world.improver().run()
    await world.improver().run()
    await world.improver().run()
    assert asked == ["smollm2"] * 2
    (folder,) = {*world.trained}
    config = json.loads((folder / "config.json").read_text())
    assert config["replay"] == [str(folder.parent / "replay.jsonl")]
    assert config["data"] == [str(folder.parent / name) for name in ("train.jsonl", "judged.jsonl")]


@pytest.fixture
def patched() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


STORY = ["alias", "version", "gates", "canary", "promoted"]


async def test_votes_become_a_promoted_version(world: World) -> None:
    first = await world.improver().run()
    assert first.waiting and first.round is not None and first.round.stage == "canary"
    [(current, candidate, curated)] = world.measured
    assert current is None and (candidate.parent, candidate.name) == (world.trained[0], "adapter")
    assert not {one.user for one in curated.train} & {one.user for one in curated.held_out}
    assert world.published == [("smollm2-prod-1", candidate)]
    await world.vote(0.95)
    last = await world.improver().run()
    assert last.round is not None and last.round.outcome == "promoted" and not last.waiting
    assert await world.meaning() == "smollm2-prod-1" and await world.events() == STORY
    assert check_ledger(world.database).holds


async def test_training_sees_no_held_out_vote_and_the_copies_are_deleted(world: World) -> None:
    await world.improver().run()
    config = json.loads((world.trained[0] / "config.json").read_text())
    data = world.trained[0].parent / "train.jsonl"
    assert config["data"] == [str(data)]
    [lines] = world.lines
    assert config["validation"] == 0 and config["model"] == "smollm2"
    _, _, curated = world.measured[0]
    assert curated.held_out and not any(one.answer in lines for one in curated.held_out)
    assert all(json.dumps(one.answer) in lines for one in curated.train)
    await world.vote(0.95)
    await world.improver().run()
    assert sorted(one.name for one in data.parent.iterdir()) == ["gates.json", "run"]


@pytest.mark.parametrize("gate", GATES)
async def test_a_refused_candidate_reaches_nobody_and_its_numbers_are_in_the_ledger(
    world: World, gate: str
) -> None:
    world.report = report(gate)
    found = await world.improver().run()
    assert found.round is not None and (found.round.outcome, found.round.reason) == (
        "refused",
        f"{gate}: {gate} seen",
    )
    assert await world.meaning() == "smollm2" and not world.published
    story = await Rollouts(world.database).registry.story(PROD)
    version = story.versions[found.round.version]
    assert version.passed is False and version.gates == world.report.to_json()
    assert version.metrics["votes_train"] == found.round.votes["train"]
    assert await world.events() == STORY[:3]


async def test_a_canary_that_regresses_is_rolled_back(world: World) -> None:
    await world.improver().run()
    await world.vote(0.2, before=0.9)
    found = await world.improver().run()
    assert (
        found.round is not None
        and found.round.outcome == "rolled_back"
        and "fewer users" in found.round.reason
    )
    assert await world.meaning() == "smollm2"


@pytest.mark.parametrize("how", TAMPERINGS)
async def test_no_round_goes_on_with_a_ledger_that_does_not_hold(world: World, how: str) -> None:
    anchors = Anchors(world.folder / "anchors")
    registry = Rollouts(world.database, anchors)
    await registry.register(PROD, NewVersion("v1"), "cli", report(*GATES))
    await registry.register(PROD, NewVersion("v2"), "cli")
    tamper(world.database, how)
    with pytest.raises(LedgerChanged):
        await world.improver(rollouts=registry).run()
    assert not world.trained and not world.published


async def test_a_round_needs_enough_new_votes(world: World) -> None:
    world.votes = votes(30)
    few = await world.improver().run()
    assert few.round is None and "50 are needed" in few.waiting and not world.trained
    world.votes, world.report = votes(150), report("approval")
    await world.improver().run()
    same = await world.improver().run()
    assert "0 new votes" in same.waiting and len(world.trained) == 1
    world.votes = votes(300)
    again = await world.improver().run()
    assert again.round is not None and again.round.number == 2 and len(world.trained) == 2


async def test_a_round_that_approval_must_refuse_does_not_begin(world: World) -> None:
    none = await world.improver(limits=CurationLimits(held_out_share=0)).run()
    assert none.round is None and not world.trained
    assert none.waiting == "0 held-out votes of 0 users, 20 of 5 are needed"


async def test_an_alias_that_does_not_exist_leaves_no_folder(world: World) -> None:
    await AliasStore(world.database).remove(PROD, "cli")
    (world.folder / "loop" / "state.json").unlink()
    with pytest.raises(NotFound):
        await world.improver().run()
    assert not list((world.folder / "loop").iterdir())


async def test_the_second_candidate_is_compared_with_the_first(world: World) -> None:
    await world.improver().run()
    await world.vote(0.95)
    await world.improver().run()
    world.votes, world.report = votes(300), report("approval")
    await world.improver().run()
    (_, first, _), (current, second, _) = world.measured
    assert current == first and second != first
    story = await Rollouts(world.database).registry.story(PROD)
    assert f"{PROD}#1" in story.versions[f"{PROD}#2"].parents
    assert await world.meaning() == "smollm2-prod-1"


async def test_the_same_users_are_held_out_in_every_round(world: World) -> None:
    world.report = report("approval")
    await world.improver().run()
    world.votes = votes(300)
    await world.improver().run()
    first, second = ({one.user for one in curated.held_out} for _, _, curated in world.measured)
    assert first and first <= second


async def test_a_candidate_that_no_server_serves_waits(world: World) -> None:
    world.unserved = True
    with pytest.raises(DeepwellError, match="nobody serves it"):
        await world.improver().run()
    assert await world.events() == STORY[:3]
    world.unserved = False
    await world.improver().run()
    assert await world.events() == STORY[:4] and len(world.trained) == 1 and len(world.measured) == 1


async def test_an_alias_that_was_changed_meanwhile_ends_the_round(world: World) -> None:
    world.unserved = True
    with pytest.raises(DeepwellError):
        await world.improver().run()
    await AliasStore(world.database).set(PROD, "other", "mei")
    world.unserved = False
    found = await world.improver().run()
    assert found.round is not None and found.round.outcome == "aborted" and "other" in found.round.reason
    assert await world.meaning() == "other"


async def test_what_cannot_be_improved_names_the_fix(world: World) -> None:
    await AliasStore(world.database).set(PROD, "unknown", "cli")
    with pytest.raises(InvalidRequest, match="neither 'smollm2' nor a version"):
        await world.improver().run()
    await AliasStore(world.database).remove(PROD, "cli")
    with pytest.raises(NotFound) as caught:
        await world.improver().run()
    assert caught.value.fix == f"make it: deepwell models alias set {PROD} smollm2"


async def test_two_runs_at_once_exclude_each_other(world: World) -> None:
    with (
        StateFile(world.folder / "loop").locked(),
        pytest.raises(DeepwellError, match="another process improves"),
    ):
        await world.improver().run()


@pytest.mark.parametrize("lost", ["0001", "0001/run", "0001/gates.json"])
async def test_a_round_whose_files_were_cleared_is_made_again(
    world: World, patched: pytest.MonkeyPatch, lost: str
) -> None:
    def cleared(*_: Any) -> Any:
        patched.undo()
        path = world.folder / "loop" / lost
        path.unlink() if path.is_file() else shutil.rmtree(path)
        raise Killed

    patched.setattr(loop, "version_of", cleared)
    with pytest.raises(Killed):
        await world.improver().run()
    found = await world.improver().run()
    assert found.round is not None and (found.round.stage, found.round.number) == ("canary", 1)
    assert len(world.trained) == 2 and await world.events() == ["alias", "version", "gates", "canary"]


@pytest.mark.parametrize("count", range(1, len(GATES)))
async def test_gates_that_were_measured_before_a_kill_are_kept(world: World, count: int) -> None:
    def killed(event: dict[str, Any]) -> None:
        if event["event"] == "gate" and len(world.gated) == count:
            raise Killed

    world.report = report(GATES[0])
    with pytest.raises(Killed):
        await world.improver().run(killed)
    found = await world.improver().run()
    assert world.gated == list(GATES) and len(world.trained) == 1
    assert found.round is not None and found.round.reason == f"{GATES[0]}: {GATES[0]} seen"


async def test_a_damaged_state_is_refused(world: World) -> None:
    sound = asdict(State("0", 1, Round(1, "b", "c", "m")))
    damaged = (
        {"used": 5},
        {"rounds": "1"},
        {"later": 1},
        *({"round": {**sound["round"], **one}} for one in ({"votes": None}, {"number": "1"}, {"later": 1})),
        {"round": {**sound["round"], "outcome": "won"}},
    )
    texts = [json.dumps({**sound, **one}) for one in damaged]
    for text in (
        "{",
        "[]",
        "[" * 100_000,
        '{"salt": 1, "round": null}',
        '{"salt": "", "round": {"stage": "x"}}',
        *texts,
    ):
        (world.folder / "loop" / "state.json").write_text(text)
        with pytest.raises(InvalidRequest, match="no state of this version"):
            await world.improver().run()


def killer(patch: pytest.MonkeyPatch, owner: Any, name: str, *, call: int, after: bool) -> list[int]:
    """Kills whoever calls a function the given time, before or after it has done its work."""
    real, calls = getattr(owner, name), [0]

    def due() -> bool:
        calls[0] += 1
        return calls[0] == call

    async def slow(*args: Any, **kwargs: Any) -> Any:
        now = due()
        if now and not after:
            raise Killed
        done = await real(*args, **kwargs)
        if now:
            raise Killed
        return done

    def quick(*args: Any, **kwargs: Any) -> Any:
        now = due()
        if now and not after:
            raise Killed
        done = real(*args, **kwargs)
        if now:
            raise Killed
        return done

    import inspect

    patch.setattr(owner, name, slow if inspect.iscoroutinefunction(real) else quick)
    return calls


POINTS = [
    *[(StateFile, "write", call) for call in range(1, 8)],
    *[(loop, "replace_file", call) for call in range(1, 4)],
    *[(RegistryStore, name, 1) for name in ("register", "gate", "start", "end")],
    *[(World, name, 1) for name in ("train", "measure", "publish")],
    (loop, "write_votes", 1),
]


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(("owner", "name", "call"), POINTS)
async def test_a_kill_anywhere_is_followed_by_a_run_that_goes_on(
    world: World, patched: pytest.MonkeyPatch, owner: Any, name: str, call: int, after: bool
) -> None:
    calls = killer(patched, owner, name, call=call, after=after)
    killed = False
    voted = False
    for _ in range(5):
        try:
            found = await world.improver().run()
        except Killed:
            killed = True
            continue
        if found.round is not None and found.round.outcome is not None:
            break
        if not voted:
            voted = True
            await world.vote(0.95)
    assert killed and calls[0] >= call
    story = await Rollouts(world.database).registry.story(PROD)
    assert await world.events() == STORY and check_ledger(world.database).holds
    assert len({*world.trained}) == 1 and await world.meaning() == "smollm2-prod-1"
    assert story.versions[f"{PROD}#1"].artefact == str(world.trained[0] / "adapter")


# ---- erasures


def _said(folder: Path) -> str:
    """Returns everything that the folders of rounds hold."""
    return "".join(
        one.read_text(errors="replace")
        for one in sorted(folder.rglob("*"))
        if one.is_file() and one.name != "state.json"
    )


async def _erase(world: World, user: str) -> set[str]:
    """Erases the votes of a user, as the eraser of the server does, and returns what they said."""
    gone = [one for one in world.votes if one.user == user]
    world.votes = [one for one in world.votes if one.user != user]
    assert drop_copies(world.folder, {one.source for one in world.votes}) == 1
    return {one.answer for one in gone}


async def test_a_person_who_is_erased_while_a_round_trains_is_in_none_of_its_files(world: World) -> None:
    said: set[str] = set()
    data: list[str] = []
    train = world.train

    async def erased_meanwhile(folder: Path, say: Any) -> Path:
        data.append((folder.parent / "train.jsonl").read_text())
        found = await train(folder, say)
        if len(data) == 1:
            said.update(await _erase(world, "user-3"))
        return found

    world.train = erased_meanwhile  # pyright: ignore[reportAttributeAccessIssue]
    await world.improver().run()
    assert len(data) == 2 and any(one in data[0] for one in said)
    assert not any(one in data[1] for one in said), "it was trained anew, from what is left"
    [(_, _, curated)] = world.measured
    assert "user-3" not in {one.user for one in (*curated.train, *curated.held_out)}
    assert not any(one in _said(world.folder / "loop") for one in said)
    assert await world.events() == ["alias", "version", "gates", "canary"]


async def test_a_person_who_is_erased_while_a_round_is_measured_is_unlearnt(world: World) -> None:
    measure, erased = world.measure, False

    def erased_meanwhile(*arguments: Any) -> GateReport:
        nonlocal erased
        if not erased:
            erased = True
            world.votes = [one for one in world.votes if one.user != "user-3"]
            drop_copies(world.folder, {one.source for one in world.votes})
        return measure(*arguments)

    world.measure = erased_meanwhile  # pyright: ignore[reportAttributeAccessIssue]
    await world.improver().run()
    assert len(world.trained) == len(world.measured) == 2
    assert "user-3" not in {one.user for one in (*world.measured[1][2].train, *world.measured[1][2].held_out)}


async def test_a_training_whose_folder_an_erasure_took_begins_again(world: World) -> None:
    train, failed = world.train, False

    async def fails(folder: Path, say: Any) -> Path:
        nonlocal failed
        if not failed:
            failed = True
            await _erase(world, "user-3")
            raise DeepwellError("the training died", fix="look")
        return await train(folder, say)

    world.train = fails  # pyright: ignore[reportAttributeAccessIssue]
    await world.improver().run()
    assert len(world.trained) == 1 and "canary" in await world.events()


async def test_a_round_without_enough_votes_after_an_erasure_is_given_up(world: World) -> None:
    train = world.train

    async def erased_meanwhile(folder: Path, say: Any) -> Path:
        found = await train(folder, say)
        world.votes = world.votes[:10]
        drop_copies(world.folder, {one.source for one in world.votes})
        return found

    world.train = erased_meanwhile  # pyright: ignore[reportAttributeAccessIssue]
    found = await world.improver().run()
    assert found.round is not None and found.round.outcome == "aborted"
    assert "votes were erased" in found.round.reason and await world.events() == ["alias"]


async def test_the_copies_of_votes_are_gone_before_a_candidate_serves(world: World) -> None:
    await world.improver().run()
    assert not any(one.name in ("train.jsonl", "votes.json") for one in (world.folder / "loop").rglob("*"))


def test_an_erasure_leaves_rounds_of_others_and_what_gates_have_judged(tmp_path: Path) -> None:
    for alias, source, stage in (("a", "fb-1", "train"), ("b", "fb-2", "measure"), ("c", "fb-1", "canary")):
        folder = tmp_path / alias / "0001"
        (folder / "run" / "adapter").mkdir(parents=True)
        (folder / "train.jsonl").write_text("{}")
        (folder / "votes.json").write_text(json.dumps({"train": [{"source": source}], "held_out": []}))
        StateFile(tmp_path / alias).write(State("s", 1, Round(1, "m", "m", "m-1", stage)))  # pyright: ignore
    (tmp_path / "d" / "0001").mkdir(parents=True)
    (tmp_path / "d" / "0001" / "votes.json").write_text("[" * 10_000)
    assert drop_copies(tmp_path, {"fb-2"}) == 3
    left = sorted(str(one.relative_to(tmp_path)) for one in tmp_path.rglob("*") if one.is_file())
    assert left == ["a/state.json", "b/0001/train.jsonl", "b/0001/votes.json", "b/state.json", "c/state.json"]
    assert (
        not (tmp_path / "a" / "0001" / "run").exists()
        and (tmp_path / "c" / "0001" / "run" / "adapter").is_dir()
    )


async def test_consent_that_is_withdrawn_counts_as_an_erasure(world: World, tmp_path: Path) -> None:
    store, given = (
        FeedbackStore(world.database),
        StoredFeedback("fb-1", "x", "up", 1, consent=True, voter="v"),
    )
    await store.put(Tenant("local"), given)
    folder = tmp_path / "improve" / "a" / "0001"
    folder.mkdir(parents=True)
    (folder / "votes.json").write_text(json.dumps({"train": [{"source": "fb-1"}], "held_out": []}))
    assert await forget_votes(world.database, folder.parents[1]) == 0
    await store.put(Tenant("local"), replace(given, consent=False))
    assert await forget_votes(world.database, folder.parents[1]) == 1
    assert not any(folder.iterdir())


async def test_only_the_bytes_that_the_gates_saw_are_registered(
    world: World, patched: pytest.MonkeyPatch
) -> None:
    def changed(*given: Any) -> Any:
        patched.undo()
        (world.trained[0] / "adapter" / "adapter_config.json").write_text("{ }")
        return version_of(*given)

    patched.setattr(loop, "version_of", changed)
    await world.improver().run()
    assert len(world.trained) == len(world.measured) == 2, "it was trained and measured anew"
    assert await world.events() == ["alias", "version", "gates", "canary"]


async def test_the_votes_of_the_tenants_that_train_decide(world: World) -> None:
    await world.improver(tenants=("acme",)).run()
    await world.vote(0.95)  # by users of another tenant
    found = await world.improver(tenants=("acme",)).run()
    assert found.waiting and await world.meaning() == "smollm2"


async def test_candidates_of_two_aliases_never_share_a_name(world: World) -> None:
    names: set[str] = set()
    aliases = ("smollm2@prod", "smollm2-prod", "smollm2:prod", "smollm2/prod", "smollm2@prod-")
    for alias in aliases:
        await AliasStore(world.database).set(alias, "smollm2", "cli")
        parts = Parts(world.collect, world.train, world, world.publish)
        place = world.folder / "loops" / alias.replace("/", "_")
        place.mkdir(parents=True)
        StateFile(place).write(State(salt="0"))
        terms = ImproveTerms(alias, "smollm2")
        found = await Improver(terms, place, world.database, Rollouts(world.database), parts).run()
        assert found.round is not None
        names.add(found.round.model)
    assert len(names) == len(aliases) and "smollm2-prod-1" in names
