"""`Deployment`: keeps a front and the replicas of one or two releases running, and moves traffic.

The ledger of the registry is the one state of a roll-out; whoever changes it, this process follows. So it may be ended and
started again at any time: it starts what the ledger says, and goes on with the share that stands there. Its own decisions
(steps, promotion, abort) are entries of the ledger by `fleet`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

import httpx
from sqlalchemy.exc import SQLAlchemyError

from deepwell.errors import DeepwellError, EngineUnavailable, InvalidRequest, StorageUnavailable
from deepwell.fleet.deploy.analysis import Figures, parse_figures
from deepwell.fleet.deploy.declaration import Declaration
from deepwell.fleet.deploy.driver import Decision, Driver
from deepwell.fleet.deploy.evaluation import evaluate
from deepwell.fleet.deploy.pilot import write_decision
from deepwell.fleet.deploy.release import Release, candidate_release, check_artefact_of, current_release
from deepwell.fleet.deploy.replicas import MakeReplica, reported_error
from deepwell.fleet.deploy.slots import SlotKeeper
from deepwell.fleet.front.front import Front
from deepwell.fleet.front.routes import SLOTS, KeyOwner, Routes, Slot
from deepwell.fleet.promotion.rollout import Rollouts
from deepwell.process.programs import KeptProgram, Program, Programs
from deepwell.storage.aliases import AliasNames, AliasStore
from deepwell.storage.registry.store import NewVersion
from deepwell.storage.registry.story import Rollout, Story

__all__ = ["BY", "Deployment", "Events", "first_release"]

BY: Final = "fleet"
"""Author of the supervisor's entries in the ledger."""

Events = Callable[[Mapping[str, Any]], None]
"""Takes what happens: an object with `event`, and `text` for people."""

_TICK_S: Final = 0.25
_SCRAPE_S: Final = 1.0
_OWNERS_S: Final = 2.0
_MARGIN_S: Final = 15.0
_EVALUATE_AGAIN_S: Final = 5.0


async def first_release(rollouts: Rollouts, aliases: AliasStore, declaration: Declaration) -> None:
    """Makes the alias mean the declared model, as its first version, where there is no alias yet."""
    alias = declaration.alias
    if alias not in (await aliases.names()).models:
        await rollouts.register(alias, NewVersion(declaration.model), BY)
        await aliases.set(alias, declaration.model, BY)


class Deployment:
    """Runs a deployment until it is told to stop.

    Args:
        owners: returns the owners of API keys; None: the servers need none.
        key: an API key for probes, metrics and evaluations; empty: the servers need none.
    """

    def __init__(
        self,
        declaration: Declaration,
        rollouts: Rollouts,
        aliases: AliasStore,
        front: Callable[[Mapping[Slot, list[int]], Routes], Front],
        make: MakeReplica,
        events: Events,
        *,
        ports: Mapping[Slot, list[int]],
        key: str = "",
    ) -> None:
        self.declaration = declaration
        self._rollouts = rollouts
        self._aliases = aliases
        self._events = events
        self._key = key
        self.owners: Callable[[], Any] | None = None
        self.on_facts: Callable[[Mapping[str, Any]], None] = lambda _: None
        self._keys: Mapping[str, KeyOwner] | None = {} if key else None
        self._routes = Routes({}, keys=self._keys)
        self._front = front(ports, self._routes)
        contained = declaration.grade == "containers"
        self._programs = Programs((self._front.program,), self._line, self._changed, adopting=not contained)
        self._slots: dict[Slot, SlotKeeper] = {
            slot: SlotKeeper(slot, ports[slot], self._programs, make, self._front, key=key, tell=self._stuck)
            for slot in SLOTS
        }
        self._current: Slot | None = None
        self._names: AliasNames | None = None
        self._outdated = False  # the ledger has changed since the names were read
        self._said: dict[str, tuple[str, str]] = {}  # the last error of each replica, with its fix
        self._story = Story()
        self._driver: Driver | None = None
        self._decision = Decision("hold")
        self._evaluating: asyncio.Task[None] | None = None
        self._scraped = self._owned = float("-inf")
        self._front_came = False
        self._trouble = ""
        self._stopping = asyncio.Event()
        self._failure: DeepwellError | None = None
        self._began = time.time()
        self._http = httpx.AsyncClient(trust_env=False)

    async def run(self) -> None:
        """Runs until `stop`.

        Raises:
            DeepwellError: the front or every replica of the first release cannot start; all has ended.
        """
        running = asyncio.create_task(self._programs.run())
        following = asyncio.create_task(self._follow())
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({running, following, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            following.cancel()
            if self._evaluating is not None:
                self._evaluating.cancel()
            ended = (await asyncio.gather(following, return_exceptions=True))[0]
            await self._wind_up(running)
            await self._http.aclose()
        failed = running.result()
        if failed is not None:
            raise EngineUnavailable.of(
                "deploy_front_failed",
                name=self.declaration.name,
                how=failed.last_end,
                file=self._front.config_file,
            )
        if isinstance(ended, Exception):
            raise ended

    def run_beside(self, program: Program) -> None:
        """Keeps one more program running that no request needs."""
        self._programs.add(program)

    def stop(self, *, now: bool = False) -> None:
        """Ends the deployment: answers under way finish. With `now`, or asked again, they are cut off."""
        if now or self._stopping.is_set():
            self._programs.kill()
        self._stopping.set()

    async def _wind_up(self, running: asyncio.Task[KeptProgram | None]) -> None:
        """Lets the front finish its answers, and then ends the replicas."""
        front = self._programs.kept[0]
        front.stop()
        until = time.monotonic() + self.declaration.rollout.drain_seconds
        while front.state not in ("stopped", "failed") and time.monotonic() < until and not running.done():
            await asyncio.sleep(0.05)
        self._programs.stop()
        done, _ = await asyncio.wait({running}, timeout=_MARGIN_S + self.declaration.rollout.drain_seconds)
        if not done:
            self._programs.kill()
            await running

    async def _follow(self) -> None:
        while True:
            try:
                await self._tick()
                self._trouble = ""
            except (
                SQLAlchemyError,
                DeepwellError,
                httpx.HTTPError,
                OSError,
            ) as error:
                # A ledger that was changed, or an alias that was removed, ends nothing that serves
                known = (StorageUnavailable, EngineUnavailable)
                if (
                    self._current is None
                    and isinstance(error, DeepwellError)
                    and not isinstance(error, known)
                ):
                    raise
                if str(error) != self._trouble:  # what runs goes on as it is
                    self._trouble = str(error)
                    self._tell("trouble", self._trouble)
            if self._failure is not None:
                raise self._failure
            self.on_facts(self.facts())
            await asyncio.sleep(_TICK_S)

    async def _tick(self) -> None:
        if self._front_came:  # what it was told while it started may be lost
            self._front_came = False
            await self._front.refresh()
        await self._read()
        wanted, rollout = self._wanted()
        for release in list(wanted):
            try:
                self._place(release)
            except InvalidRequest as error:
                if rollout is None or release == wanted[0]:
                    raise
                await self._obey(
                    rollout, Decision("abort", f"{release.name} cannot be started: {error.message}")
                )
                wanted, rollout = wanted[:1], None
        for keeper in self._slots.values():
            await keeper.look(self._http, self.declaration.alias)
        await self._switch(wanted[0])
        await self._retire(wanted)
        await self._drive(rollout)
        await self._route(rollout)

    async def _read(self) -> None:
        """Reads the ledger if an alias has changed, and the owners of keys now and then."""
        names = await self._aliases.names(None if self._outdated else self._names)
        self._outdated = False
        if names is not self._names:
            self._story = await self._rollouts.registry.trusted_story(self.declaration.alias)
            self._names = names
        if self.owners is not None and time.monotonic() - self._owned >= _OWNERS_S:
            self._owned = time.monotonic()
            self._keys = await self.owners()

    def _wanted(self) -> tuple[list[Release], Rollout | None]:
        """Returns the current release, that of the candidate behind it, and the roll-out under way."""
        alias = self.declaration.alias
        assert self._names is not None
        model = self._names.models.get(alias)
        if model is None:
            raise InvalidRequest(
                f"there is no alias {alias!r} any more",
                fix=f"make it again: deepwell models alias set {alias} {self.declaration.model}",
            )
        wanted = [current_release(self.declaration, self._story, model)]
        rollout = self._story.open_rollout(alias)
        if rollout is not None:
            wanted.append(candidate_release(self.declaration, self._story, rollout))
        return wanted, rollout

    def _holding(self, release: Release) -> SlotKeeper | None:
        return next(
            (
                one
                for one in self._slots.values()
                if one.release == release and one.phase in ("starting", "serving")
            ),
            None,
        )

    def _place(self, release: Release) -> None:
        """Starts a release in a free slot, unless it has one."""
        if self._holding(release) is not None:
            return
        free = next((one for one in self._slots.values() if one.phase == "free"), None)
        if free is not None:
            self._said = {name: error for name, error in self._said.items() if not name.startswith(free.slot)}
            free.start(release)
            self._tell(
                "starts", f"{release.name} starts in {free.slot}", release=release.name, slot=free.slot
            )

    async def _switch(self, release: Release) -> None:
        """Makes the slot of the current release the current one, as soon as it is ready."""
        holding = self._holding(release)
        if holding is None or holding.slot == self._current:
            return
        if holding.unanswered and self._current is None:  # what nobody serves cannot become worse
            self._tell("trouble", f"{release.name} serves all the same: {holding.unanswered}")
            holding.accept_unanswered()
        if holding.is_ready:
            self._current, holding.was_current = holding.slot, True
            self._tell("serves", f"{release.name} serves all users", release=release.name, slot=holding.slot)
        elif holding.failure and self._current is None:
            reason, fix = self._why(holding)
            key = "deploy_release_says" if fix else "deploy_release_failed"
            command = " ".join(self._command(holding))
            self._failure = EngineUnavailable.of(
                key, release=release.name, how=reason, fix=fix, command=command
            )

    def _command(self, holding: SlotKeeper) -> tuple[str, ...]:
        return next(
            one.program.command for one in self._programs.kept if one.program.name.startswith(holding.slot)
        )

    def _why(self, holding: SlotKeeper) -> tuple[str, str]:
        """Returns why a release could not start: what a replica said, with its fix, or how it ended."""
        said = (error for name, error in self._said.items() if name.startswith(holding.slot))
        return next(said, (holding.failure, ""))

    async def _retire(self, wanted: list[Release]) -> None:
        """Ends the slots that nobody wants: the one of before with its conversations, that of a candidate at once."""
        terms = self.declaration.rollout
        for keeper in self._slots.values():
            unwanted = keeper.phase in ("starting", "serving") and keeper.release not in wanted
            if not unwanted or keeper.slot == self._current:
                continue
            conversations_s = terms.conversation_seconds if keeper.was_current else 0.0
            keeper.retire(conversations_s, terms.drain_seconds)
            assert keeper.release is not None
            self._tell(
                "retires", f"{keeper.release.name} ends", release=keeper.release.name, slot=keeper.slot
            )

    async def _route(self, rollout: Rollout | None) -> None:
        if self._current is None:
            return
        keeper: SlotKeeper | None = None
        if rollout is not None:
            keeper = self._holding(candidate_release(self.declaration, self._story, rollout))
        candidate = (
            keeper.slot if keeper is not None and keeper.is_ready and keeper.slot != self._current else None
        )
        kept: set[Slot] = {
            one.slot for one in self._slots.values() if one.phase == "retiring" and one.slot != self._current
        }
        releases: dict[Slot, str] = {
            slot: one.release.name for slot, one in self._slots.items() if one.release is not None
        }
        routes = Routes(
            releases,
            self._current,
            candidate,
            "" if rollout is None else rollout.id,
            0.0 if rollout is None or candidate is None else rollout.share,
            frozenset((self._current, *kept, *(() if candidate is None else (candidate,)))),
            self._keys,
        )
        if routes != self._routes:
            await self._front.route(routes)
            self._routes = routes

    async def _drive(self, rollout: Rollout | None) -> None:
        """Takes the next step of a roll-out, if its time has come and its figures let it."""
        if rollout is None or self._current is None:
            self._driver = None if rollout is None else self._driver
            return
        release = candidate_release(self.declaration, self._story, rollout)
        keeper = self._holding(release)
        if keeper is not None and keeper.failure:
            await self._obey(
                rollout, Decision("abort", f"no replica of {release.name} starts: {self._why(keeper)[0]}")
            )
            return
        if keeper is not None and keeper.slot != self._current and keeper.refused:
            said = f"{release.name} brings no token: {keeper.unanswered}"
            await self._obey(rollout, Decision("abort", said))
            return
        bound_s = self.declaration.rollout.start_seconds
        if keeper is not None and keeper.slot != self._current and (late := keeper.late(bound_s)):
            said = f"{release.name} is not ready {bound_s:g} s after its start (start_seconds): {late}"
            await self._obey(rollout, Decision("abort", said))
            return
        if keeper is None or not keeper.is_ready:
            return
        if self._driver is None or self._driver.rollout != rollout.id:
            self._driver = Driver(rollout, self.declaration.rollout.gates)
            if await self._refused(rollout, release):
                return
        await self._scrape(self._driver, keeper.slot)
        self._begin_evaluation(self._driver)
        self._decision = self._driver.decide(rollout)
        await self._obey(rollout, self._decision)

    async def _refused(self, rollout: Rollout, release: Release) -> bool:
        try:
            await asyncio.to_thread(check_artefact_of, self._story, release)
        except InvalidRequest as error:
            await self._obey(rollout, Decision("abort", error.message))
            return True
        self._tell(
            "preview", f"{release.name} is ready: see it with the header x-deepwell-release: candidate"
        )
        return False

    async def _obey(self, rollout: Rollout, decision: Decision) -> None:
        """Writes a decision into the ledger. Somebody else may have ended the roll-out meanwhile."""
        if decision.action == "hold":
            return
        if refused := await write_decision(self._rollouts, rollout, decision, BY):
            self._tell("trouble", refused)
            return
        words = {"step": f"{100 * decision.share:g} % of the users get {rollout.version}"}
        said = words.get(decision.action, f"{decision.action}: {decision.reason}")
        self._tell(decision.action, said, share=decision.share, reason=decision.reason)
        self._outdated = True  # read it at once

    async def _scrape(self, driver: Driver, candidate: Slot) -> None:
        if time.monotonic() - self._scraped < _SCRAPE_S or self._current is None:
            return
        self._scraped = time.monotonic()
        stats = {one.slot: one for one in await self._front.stat() if one.server == "BACKEND"}
        sides: tuple[tuple[Literal["current", "candidate"], Slot], ...] = (
            ("current", self._current),
            ("candidate", candidate),
        )
        for side, slot in sides:
            found: dict[str, Figures] = {}
            for who, text in await self._slots[slot].metrics(self._http):
                with contextlib.suppress(ValueError):
                    found[who] = parse_figures(text)
            if (stat := stats.get(slot)) is not None:
                found[f"front-{slot}"] = Figures(answers=stat.answers, broken=stat.failed)
            driver.see(side, found)

    def _begin_evaluation(self, driver: Driver) -> None:
        """Begins the evaluation beside everything else, once the front offers the candidate."""
        terms = self.declaration.rollout.gates.evaluation
        if terms is None or driver.evaluated is not None or self._routes.candidate is None:
            return
        if self._evaluating is not None and not self._evaluating.done():
            return

        async def run() -> None:
            headers = {"authorization": f"Bearer {self._key}"} if self._key else {}
            host, port = self._front.program.address
            base = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            try:
                async with httpx.AsyncClient(
                    base_url=base, headers=headers, trust_env=False, timeout=600
                ) as http:
                    driver.evaluated = await evaluate(http, self.declaration.alias, terms)
            except (httpx.HTTPError, InvalidRequest) as error:
                self._tell("trouble", f"the evaluation failed, and is begun again: {error}")
                await asyncio.sleep(_EVALUATE_AGAIN_S)
                return
            self._tell("evaluated", driver.evaluated.words)

        self._evaluating = asyncio.create_task(run())

    def _line(self, name: str, text: str) -> None:
        if (error := reported_error(text)) is not None:
            self._said[name] = error
        self._events({"event": "line", "part": name, "text": text})

    def _changed(self, one: KeptProgram) -> None:
        self._front_came = self._front_came or (one.state == "ready" and one.program.name == "front")
        if one.state in ("ready", "restarting", "failed"):
            how = f" ({one.last_end})" if one.state != "ready" and one.last_end else ""
            self._tell(
                "replica", f"{one.program.name} is {one.state}{how}", part=one.program.name, state=one.state
            )

    def _stuck(self, name: str, text: str) -> None:
        self._tell("stuck", text, part=name)

    def _tell(self, event: str, text: str, **more: Any) -> None:
        self._events({"event": event, "text": text, **more})

    def facts(self) -> dict[str, Any]:
        """Returns the state, for `deepwell deploy status`."""
        declaration, names = self.declaration, self._names
        rollout = self._story.open_rollout(declaration.alias)
        host, port = declaration.host, self._front.program.address[1]
        front = self._programs.kept[0]
        terms = declaration.rollout.for_ledger()
        return {
            "name": declaration.name,
            "alias": declaration.alias,
            "grade": declaration.grade,
            "began": self._began,
            "url": f"http://{host}:{port}",
            "keys": bool(self._key),
            "front": {"pid": front.pid, "state": front.state, "restarts": front.restarts},
            "model": None if names is None else names.models.get(declaration.alias),
            "current": self._current,
            "slots": [one.facts() for one in self._slots.values()],
            "terms": terms.to_json(),
            "drain_s": declaration.rollout.drain_seconds,
            "rollout": None if rollout is None else self._rollout_facts(rollout),
        }

    def _rollout_facts(self, rollout: Rollout) -> dict[str, Any]:
        driver = self._driver
        ready = driver is not None and driver.rollout == rollout.id
        return {
            "id": rollout.id,
            "version": rollout.version,
            "share": rollout.share,
            "steps": None if rollout.steps is None else list(rollout.steps.shares),
            "held_s": round(driver.held_s, 1) if driver is not None and ready else None,
            "next": (self._decision.reason or "the next step is taken")
            if ready
            else "the candidate's replicas start",
            "gates": [one.words for one in driver.findings] if driver is not None and ready else [],
            "findings": [{"name": one.name, **one.facts()} for one in driver.findings]
            if driver is not None and ready
            else [],
        }
