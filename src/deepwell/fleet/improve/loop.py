"""`Improver`: rounds from votes to a promoted adapter or a refused one. A killed run is followed by one that goes on.

The state file says which step comes next, and is replaced behind each. A step may therefore be done twice, and is harmless the
second time: votes are curated into the same folder, training goes on from its checkpoint, a version is looked up by its
artefact before it is registered, a roll-out by its version before it is started. Each gate is kept
as soon as it is measured. Decisions stand in the ledger alone.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from deepwell.errors import DeepwellError, InvalidRequest, NotFound
from deepwell.fleet.improve.parts import Parts, Say
from deepwell.fleet.improve.state import BY, Round, State, StateFile, replace_file
from deepwell.fleet.improve.training import settings_of
from deepwell.fleet.improve.weights import write_votes
from deepwell.fleet.promotion.artefact import artefact_hash, version_of
from deepwell.fleet.promotion.gates import Bars, GateResult
from deepwell.fleet.promotion.judge import Plan
from deepwell.fleet.promotion.rollout import Rollouts
from deepwell.messages import nearest
from deepwell.storage.aliases import AliasStore
from deepwell.storage.database import Database
from deepwell.storage.registry.story import Story, Version
from deepwell.tuning.align.votes import Curated, CurationLimits, Vote, curate
from deepwell.tuning.data.report import DataReport

__all__ = ["ImproveTerms", "Improver", "Progress"]

_DATA, _VOTES, _REPORT, _RUN = "train.jsonl", "votes.json", "gates.json", "run"
_PLAIN: Final = re.compile(r"[A-Za-z0-9.-]+@[A-Za-z0-9]+")  # the last hyphen of the stem is the @
_REPLAY, _JUDGED = "replay.jsonl", "judged.jsonl"


@dataclass(frozen=True, slots=True)
class ImproveTerms:
    """The terms of the rounds of one alias.

    Attributes:
        alias: the alias whose model is improved.
        base: the model that adapters are trained on: a name in the store, or a path.
        least_new: votes since the last round that start another.
        limits: of the curation; its salt is that of the state.
        share, plan: of the roll-out.
        bars: of the gates; `least_votes` is needed before a round begins.
        hashes: SHA-256 of the frozen sets, by name, for the ledger.
        tenants: tenants whose votes decide about a roll-out; empty: all.
    """

    alias: str
    base: str
    least_new: int = 50
    limits: CurationLimits = field(default_factory=CurationLimits)
    share: float = 0.1
    plan: Plan = field(default_factory=Plan)
    bars: Bars = field(default_factory=Bars)
    hashes: Mapping[str, str] = field(default_factory=dict[str, str])
    tenants: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """Place of a run: its round, and what it waits for; empty: nothing, the round has ended."""

    round: Round | None
    waiting: str = ""

    def to_json(self) -> dict[str, Any]:
        """Returns it as plain values."""
        return {"round": None if self.round is None else asdict(self.round), "waiting": self.waiting}


class Improver:
    """Improves the model of one alias, round by round.

    Args:
        folder: the state, and a folder for each round.
    """

    def __init__(
        self, terms: ImproveTerms, folder: Path, database: Database, rollouts: Rollouts, parts: Parts
    ) -> None:
        self._terms = terms
        self._file = StateFile(folder.absolute())
        self._database = database
        self._rollouts = rollouts
        self._parts = parts

    async def run(self, say: Say = lambda _: None) -> Progress:
        """Goes on with the round under way, or begins one, until it has ended or waits for votes.

        Raises:
            DeepwellError: a step cannot be done now; the next run tries it again. Or another process works here.
        """
        if self._file.read() is None:  # nothing is written for an alias that does not exist
            await self._meaning()
        with self._file.locked():
            state = self._file.begin()
            if state.round is None or state.round.stage == "ended":
                waiting = await self._begin(state, say)
                if waiting:
                    return Progress(state.round, waiting)
            found = state.round
            assert found is not None
            while found.stage != "ended":
                say({"event": "stage", "stage": found.stage, "round": found.number, "model": found.model})
                waiting = await getattr(self, f"_{found.stage}")(found, say)
                if waiting:
                    return Progress(found, waiting)
                if found.stage == "ended":
                    self._forget_votes(found)
                self._file.write(state)
            say({"event": "ended", "outcome": found.outcome, "reason": found.reason})
            return Progress(found)

    async def _begin(self, state: State, say: Say) -> str:
        """Collects and curates votes, and begins a round. Returns what there is to wait for, if it cannot begin."""
        terms, story = self._terms, await self._rollouts.registry.trusted_story(self._terms.alias)
        current = await self._meaning()
        self._adapter_of(story, current)
        if story.open_rollout(terms.alias) is not None:
            raise InvalidRequest.of("improve_rollout", alias=terms.alias)
        votes = await self._parts.collect()
        curated = await asyncio.to_thread(curate, votes, replace(terms.limits, salt=state.salt))
        used, kept = {*state.used}, [*curated.train, *curated.held_out]
        new = sum(one.source not in used for one in kept)
        counts = {
            "read": curated.report.read,
            "train": len(curated.train),
            "held_out": len(curated.held_out),
            "users": len({one.user for one in kept}),
            "new": new,
        }
        say({"event": "votes", **counts, "dropped": dict(curated.report.dropped)})
        least = max(terms.bars.least_votes, 1)
        if len(curated.train) < least:
            return f"{len(curated.train)} votes to train on, {least} are needed"
        judges, bars = len({one.user for one in curated.held_out}), terms.bars
        if (
            len(curated.held_out) < bars.least_held_out or judges < bars.least_users
        ):  # approval would refuse for sure
            least = f"{bars.least_held_out} of {bars.least_users} are needed"
            return f"{len(curated.held_out)} held-out votes of {judges} users, {least}"
        if new < terms.least_new:
            return f"{new} new votes, {terms.least_new} are needed"
        number = max(state.rounds, len(story.versions_of(terms.alias))) + 1
        model = f"{_stem(terms.alias)}-{number}"
        found = Round(number, terms.base, current, model, votes=counts)
        folder = self._folder(found)
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed before it wrote the state
        (folder / _RUN).mkdir(parents=True, mode=0o700)
        await self._write_votes(found, curated)
        state.round, state.rounds = found, number
        state.used = sorted(one.source for one in kept)
        self._file.write(state)
        return ""

    async def _train(self, found: Round, say: Say) -> str:
        folder = self._folder(found)
        run = folder / _RUN
        while not self._has_votes(found):
            left = await self._renew_votes(found)
            if left < max(self._terms.bars.least_votes, 1):
                _end(found, "aborted", f"votes were erased, and {left} are left to train on")
                return ""
        config = run / "config.json"
        if not config.is_file():  # the terms of another run do not change a training that has begun
            replay, judged = folder / _REPLAY, folder / _JUDGED
            if self._parts.rehearsal is not None and not replay.is_file():
                await asyncio.to_thread(self._parts.rehearsal, found.base, replay, judged)
            # Nothing is validated on held-out votes while it trains: they judge the result.
            values = {
                **settings_of(found.votes["train"]),
                "model": found.base,
                "data": [str(one) for one in (folder / _DATA, judged) if one.is_file()],
                "replay": [str(replay)] if replay.is_file() else [],
                "validation": 0,
                "output": str(run),
            }
            replace_file(config, json.dumps(values, ensure_ascii=False))
        try:
            adapter = await self._parts.train(run, say)
        except DeepwellError:
            if self._has_votes(found):
                raise
            return ""  # an erasure took the folder of the run
        if not self._has_votes(found):  # erased meanwhile: what was learnt from them is not used
            return ""
        found.adapter = adapter.name
        found.stage = "measure"
        return ""

    async def _measure(self, found: Round, say: Say) -> str:
        if not self._has_votes(found):
            found.stage = "train"
            return ""
        story = await self._rollouts.registry.trusted_story(self._terms.alias)
        current = self._adapter_of(story, found.current)
        found.sha256 = await asyncio.to_thread(artefact_hash, self._adapter(found))
        measured = self._measured(found)
        known = _gates_in(measured)

        def kept(event: dict[str, Any]) -> None:
            if event["event"] == "gate":
                # An erasure may have taken the folder.
                with suppress(FileNotFoundError), measured.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(event, ensure_ascii=False) + "\n")
            say(event)

        report = await asyncio.to_thread(
            self._parts.measure.measure,
            found.base,
            current,
            self._adapter(found),
            self._curated(found),
            kept,
            known,
        )
        if not self._has_votes(found):
            found.stage = "train"
            return ""
        replace_file(self._folder(found) / _REPORT, json.dumps(report.to_json(), ensure_ascii=False))
        measured.unlink(missing_ok=True)
        found.stage = "register"
        return ""

    async def _register(self, found: Round, say: Say) -> str:
        self._forget_votes(found)  # nothing reads them any more
        registry, alias, folder = self._rollouts.registry, self._terms.alias, self._adapter(found)
        report = self._report(found)
        versions = (await registry.trusted_story(alias)).versions_of(alias)
        version = next((one for one in versions if one.artefact == str(folder)), None)
        if version is None:
            if report is None or not folder.is_dir():  # somebody cleared the folder: all is made again
                found.stage = "train"
                return ""
            parents = [one.id for one in versions if one.model == found.current][-1:]
            told = await asyncio.to_thread(version_of, found.model, folder, parents)
            if found.sha256 not in ("", told.artefact_sha256):  # its gates saw other bytes
                found.stage = "train"
                return ""
            metrics = {**told.metrics, **{f"votes_{name}": count for name, count in found.votes.items()}}
            data = {**told.data, **{f"frozen {name}": one for name, one in self._terms.hashes.items()}}
            version = await registry.register(alias, replace(told, metrics=metrics, data=data), BY)
        if version.gates is None:
            if report is None:
                _end(found, "aborted", "the report of its gates is gone")
                return ""
            version = await registry.gate(version.id, report, BY)
        found.version = version.id
        if version.passed:
            found.stage = "serve"
        else:
            gates: Any = (version.gates or {}).get("gates") or ()
            refused = [one for one in gates if not one["passed"]]
            _end(found, "refused", "; ".join(f"{one['name']}: {one['reason']}" for one in refused))
        return ""

    async def _serve(self, found: Round, say: Say) -> str:
        await self._parts.publish(found.model, self._adapter(found))
        found.stage = "canary"
        return ""

    async def _canary(self, found: Round, say: Say) -> str:
        alias, story = self._terms.alias, await self._rollouts.registry.trusted_story(self._terms.alias)
        mine = [one for one in story.rollouts.values() if one.version == found.version]
        if mine and mine[-1].state != "canary":
            found.rollout = mine[-1].id
            _end(found, mine[-1].state, mine[-1].reason)
            return ""
        if not mine:
            meant = await self._meaning()
            if meant != found.current:
                _end(found, "aborted", f"{alias} means {meant} now, and its gates saw {found.current}")
                return ""
            terms = self._terms
            started = await self._rollouts.start(
                found.version, BY, share=terms.share, plan=terms.plan, tenants=terms.tenants
            )
            say({"event": "canary", "rollout": started.id, "share": started.share})
            return ""
        found.rollout = mine[-1].id
        status = await self._rollouts.judge(alias, BY)
        verdict = status.verdict
        say(
            {
                "event": "verdict",
                "action": verdict.action,
                "reason": verdict.reason,
                "numbers": verdict.numbers,
            }
        )
        return verdict.reason if verdict.action == "wait" else ""

    async def _meaning(self) -> str:
        names = await AliasStore(self._database).names()
        alias = self._terms.alias
        if (found := names.models.get(alias)) is None:
            if near := nearest(alias, names.models):
                raise NotFound.of("improve_alias_near", alias=alias, near=near, param="alias")
            raise NotFound.of("improve_alias", alias=alias, base=self._terms.base, param="alias")
        return found

    def _adapter_of(self, story: Story, model: str) -> Path | None:
        """Returns the adapter that a model of the alias is; None: it is the base.

        Raises:
            InvalidRequest: it is neither the base nor a version whose artefact is there.
        """
        versions: list[Version] = [one for one in story.versions_of(self._terms.alias) if one.model == model]
        if versions and (folder := Path(versions[-1].artefact)).is_dir():
            return folder
        base = Path(self._terms.base)
        if not versions and model in (self._terms.base, base.name, base.stem):
            return None
        raise InvalidRequest.of(
            "improve_current", alias=self._terms.alias, model=model, base=self._terms.base
        )

    def _curated(self, found: Round) -> Curated:
        told: dict[str, Any] = json.loads((self._folder(found) / _VOTES).read_text(encoding="utf-8"))
        train, held_out = (
            tuple(Vote(**{**one, "prompt": tuple(one["prompt"])}) for one in told[name])
            for name in ("train", "held_out")
        )
        return Curated(
            train, held_out, DataReport(read=len(train) + len(held_out), kept=len(train) + len(held_out))
        )

    def _report(self, found: Round) -> dict[str, Any] | None:
        """Returns the report of the gates; None: it is gone, or cut off."""
        try:
            return json.loads((self._folder(found) / _REPORT).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None

    def _measured(self, found: Round) -> Path:
        """Returns the file of the gates that are measured so far: of these bytes of the adapter, on these frozen sets."""
        of = json.dumps([found.sha256, found.current, sorted(self._terms.hashes.items())])
        return self._folder(found) / _RUN / f"measured-{sha256(of.encode()).hexdigest()[:16]}.jsonl"

    async def _write_votes(self, found: Round, curated: Curated) -> None:
        """Writes the copies of votes that a round works on. An erasure deletes them, if a vote that it erased is among them."""
        folder = self._folder(found)
        parts = {"train": curated.train, "held_out": curated.held_out}
        values = {name: [asdict(one) for one in part] for name, part in parts.items()}
        replace_file(folder / _VOTES, json.dumps(values, ensure_ascii=False))
        write_votes(folder / _DATA, curated.train)
        left = {one.source for one in await self._parts.collect()}
        if any(one.source not in left for part in parts.values() for one in part):
            self._forget_votes(found)  # erased while they were written

    def _has_votes(self, found: Round) -> bool:
        return all((self._folder(found) / name).is_file() for name in (_DATA, _VOTES))

    async def _renew_votes(self, found: Round) -> int:
        """Makes the copies anew from the votes that are left, forgets what was trained, and returns how many train."""
        state = self._file.begin()
        votes = await self._parts.collect()
        curated = await asyncio.to_thread(curate, votes, replace(self._terms.limits, salt=state.salt))
        run = self._folder(found) / _RUN
        shutil.rmtree(run, ignore_errors=True)
        run.mkdir(parents=True, mode=0o700)
        found.adapter = ""
        found.votes |= {"train": len(curated.train), "held_out": len(curated.held_out)}
        await self._write_votes(found, curated)
        return len(curated.train)

    def _folder(self, found: Round) -> Path:
        return self._file.folder / f"{found.number:04}"

    def _adapter(self, found: Round) -> Path:
        return self._folder(found) / _RUN / found.adapter

    def _forget_votes(self, found: Round) -> None:
        """Deletes the copies of what users said; the ledger keeps their hash."""
        folder = self._folder(found)
        for path in (folder / _DATA, folder / _VOTES):
            with suppress(FileNotFoundError):
                path.unlink()


def _gates_in(path: Path) -> list[GateResult]:
    """Returns the gates of an interrupted measurement. The last line of a process that was killed may be cut off."""
    found: dict[str, GateResult] = {}
    with suppress(FileNotFoundError):
        for line in path.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError, KeyError):
                one = GateResult.from_json(json.loads(line))
                found[one.name] = one
    return list(found.values())


def _stem(alias: str) -> str:
    """Returns the first part of the names of candidates: no two aliases have the same one."""
    if _PLAIN.fullmatch(alias):
        return alias.replace("@", "-")
    stem = re.sub(r"[^A-Za-z0-9.-]+", "-", alias).strip("-.")
    return f"{stem}-{sha256(alias.encode()).hexdigest()[:8]}"


def _end(found: Round, outcome: Any, reason: str) -> None:
    found.stage, found.outcome, found.reason = "ended", outcome, reason
