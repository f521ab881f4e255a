"""`MeshDeployment`: applies the manifests of a declaration to a cluster, and drives its roll-outs by the ledger.

The cluster keeps the pods running, and goes on when this process ends. Whoever applies the declaration again goes on from
the ledger and from what is in the cluster.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import yaml
from sqlalchemy.exc import SQLAlchemyError

from deepwell.errors import DeepwellError, InvalidRequest
from deepwell.fleet.cluster.kubectl import (
    Live,
    LivePod,
    Side,
    apply_folder,
    delete_folder,
    live_of,
    metrics_of,
    pods_of,
)
from deepwell.fleet.deploy.analysis import Figures, parse_figures
from deepwell.fleet.deploy.declaration import Declaration
from deepwell.fleet.deploy.driver import Decision
from deepwell.fleet.deploy.manifests import checkout_base, render_mesh
from deepwell.fleet.deploy.pilot import Pilot, write_decision
from deepwell.fleet.deploy.release import Release, candidate_release, current_release
from deepwell.fleet.promotion.rollout import Rollouts
from deepwell.storage.aliases import AliasStore
from deepwell.storage.registry.story import Rollout, Story

__all__ = ["STEPPED_HERE", "MeshDeployment", "applied_folder", "check_mesh", "take_away"]

STEPPED_HERE: Final = ("gateway-api", "istio")
"""Controllers whose shares are stepped by the ledger; the others step roll-outs themselves, or have none."""

_BY: Final = "fleet"
_FOLDER: Final = "mesh"
_TICK_S: Final = 2.0
_ASKED_AT_ONCE: Final = 8  # each is a process of kubectl
_KEPT: Final = {
    "apiVersion": "kustomize.config.k8s.io/v1beta1",
    "kind": "Kustomization",
    "resources": [f"../{_FOLDER}"],
    "patches": [
        {
            "target": {"kind": "PersistentVolumeClaim"},
            "patch": "$patch: delete\napiVersion: v1\nkind: PersistentVolumeClaim\nmetadata:\n  name: deepwell-models\n",
        }
    ],
}


def applied_folder(folder: Path) -> Path | None:
    """Returns the overlay that was applied of the deployment with this folder; None: none was."""
    found = folder / _FOLDER
    return found if (found / "kustomization.yaml").is_file() else None


def check_mesh(declaration: Declaration) -> None:
    """Checks that a mesh can do what a declaration asks for.

    Raises:
        InvalidRequest: it cannot.
    """
    if declaration.rollout.gates.evaluation is not None and declaration.mesh.controller in STEPPED_HERE:
        raise InvalidRequest(
            "the gate `evaluation` asks the candidate by the front, and the grade mesh has none on this machine",
            fix="leave it out of deploy.yaml, and run `deepwell evaluate run` against the gateway",
        )


async def take_away(folder: Path) -> None:
    """Deletes what was applied of the deployment with this folder, but for the volume of the models.

    Raises:
        DeepwellError: kubectl is missing or fails.
    """
    overlay = folder / _FOLDER / "kustomization.yaml"
    down = folder / "down"
    down.mkdir(exist_ok=True)
    (down / "kustomization.yaml").write_text(yaml.safe_dump(_KEPT, sort_keys=False), "utf-8")
    await delete_folder(down)
    overlay.unlink()


class MeshDeployment:
    """Applies a declaration, and then follows the ledger until it is told to stop.

    Args:
        folder: folder of the deployment's state.
        on_facts: takes the state, for `deepwell deploy status`.
        tick_s: seconds between two looks.
    """

    def __init__(
        self,
        declaration: Declaration,
        rollouts: Rollouts,
        aliases: AliasStore,
        folder: Path,
        events: Callable[[Mapping[str, Any]], None],
        on_facts: Callable[[Mapping[str, Any]], None] = lambda _: None,
        *,
        tick_s: float = _TICK_S,
    ) -> None:
        check_mesh(declaration)
        self._declaration = declaration
        self._rollouts, self._aliases = rollouts, aliases
        self._folder = folder / _FOLDER
        self._events, self._on_facts = events, on_facts
        self._tick_s = tick_s
        self._began = time.time()
        self._story = Story()
        self._current: Release | None = None  # what the manifests have now
        self._candidate: Release | None = None
        self._placed = ""  # roll-out whose candidate is in the cluster
        self._settling = (
            False  # the candidate has all users until the pods of the current release are its own
        )
        self._serves = False
        self._live: dict[Side, Live] = {}
        self._pods: list[LivePod] = []
        self._pilot: Pilot | None = None
        self._decision = Decision("hold")
        self._trouble = ""
        self._stopping = asyncio.Event()
        self.began = False

    def stop(self) -> None:
        """Ends this process's part; what is in the cluster goes on."""
        self._stopping.set()

    async def run(self) -> None:
        """Applies the declaration and follows the ledger. Where the controller steps roll-outs itself, it applies alone.

        Raises:
            DeepwellError: kubectl is missing or refuses, or the release cannot be carried to a cluster.
        """
        controller = self._declaration.mesh.controller
        await self._look()
        await self._begin()
        self.began = True
        if controller not in STEPPED_HERE:
            how = "KServe has one release: name another `model` in deploy.yaml, and apply it again"
            if controller == "argo-rollouts":
                how = "Argo Rollouts steps them: name another `model` in deploy.yaml, and apply it again"
            self._tell("applied", f"roll-outs do not go by `deepwell rollout` here. {how}")
            return
        while not self._stopping.is_set():
            try:
                await self._tick()
                self._trouble = ""
            except (DeepwellError, SQLAlchemyError, OSError, ValueError) as error:
                if str(error) != self._trouble:  # the cluster goes on as it is, and no step is taken
                    self._trouble = str(error)
                    self._tell("trouble", self._trouble)
            self._on_facts(self.facts())
            try:
                await asyncio.wait_for(self._stopping.wait(), self._tick_s)
            except TimeoutError:
                continue

    async def _begin(self) -> None:
        """Applies what the ledger says now; a promotion that another process had begun to settle is gone on with."""
        declaration = self._declaration
        if declaration.mesh.controller not in STEPPED_HERE:
            self._current = Release(declaration.model, declaration.model, declaration.model)
            await self._apply(0.0)
            return
        release, rollout = await self._read()
        self._current = _carried(declaration, release)
        live, other = self._live.get("current"), self._live.get("candidate")
        if rollout is not None:
            await self._place(rollout)
        elif live is not None and other is not None and live.model != release.model == other.model:
            await self._settle(release)
        else:
            await self._apply(0.0)
        self._fly()

    def _fly(self) -> None:
        assert self._current is not None
        terms = self._declaration.rollout.gates
        self._pilot = Pilot(
            self._declaration.alias,
            self._rollouts,
            terms,
            self._scrape,
            self._shift,
            current=self._current.model,
            by=_BY,
        )

    async def _look(self) -> None:
        if self._declaration.mesh.controller in STEPPED_HERE:
            self._live, self._pods = await asyncio.gather(live_of(self._declaration.name), pods_of())

    async def _read(self) -> tuple[Release, Rollout | None]:
        alias = self._declaration.alias
        model = (await self._aliases.names()).models.get(alias)
        if model is None:
            raise InvalidRequest(
                f"there is no alias {alias!r} any more",
                fix=f"make it again: deepwell models alias set {alias} {self._declaration.model}",
            )
        self._story = await self._rollouts.registry.trusted_story(alias)
        return current_release(self._declaration, self._story, model), self._story.open_rollout(alias)

    async def _tick(self) -> None:
        await self._look()
        release, rollout = await self._read()
        assert self._current is not None and self._pilot is not None
        live = self._live.get("current")
        if live is not None and live.ready and not self._serves:
            self._serves = True
            self._tell("serves", f"{self._current.name} serves in the cluster", release=self._current.name)
        if self._settling:
            await self._settled()
        elif release.model != self._current.model:
            await self._settle(release)
        elif rollout is None:
            if self._candidate is not None:  # aborted
                name = self._candidate.name
                self._candidate, self._placed = None, ""
                await self._apply(0.0)
                self._tell("retires", f"{name} ends", release=name)
                self._fly()
        elif self._placed != rollout.id:
            await self._place(rollout)
        else:
            await self._drive(rollout)

    async def _place(self, rollout: Rollout) -> None:
        """Brings the pods of a candidate into the cluster, with the share that the ledger has."""
        try:
            candidate = _carried(
                self._declaration, candidate_release(self._declaration, self._story, rollout)
            )
        except InvalidRequest as error:
            await self._obey(rollout, Decision("abort", error.message))
            return
        self._candidate = candidate
        await self._apply(rollout.share)
        self._placed = rollout.id
        self._decision = Decision("hold", "the candidate's replicas start")
        self._tell("starts", f"{candidate.name} starts in the cluster", release=candidate.name)

    async def _drive(self, rollout: Rollout) -> None:
        live = self._live.get("candidate")
        if live is not None and live.failure:
            await self._obey(
                rollout, Decision("abort", f"no replica of the candidate starts: {live.failure}")
            )
        elif self._pilot is not None and live is not None and (live.ready or rollout.share > 0):
            self._decision = await self._pilot.tick()
            if self._decision.action != "hold":
                self._said(rollout, self._decision)

    async def _obey(self, rollout: Rollout, decision: Decision) -> None:
        if refused := await write_decision(self._rollouts, rollout, decision, _BY):
            self._tell("trouble", refused)
        else:
            self._said(rollout, decision)

    def _said(self, rollout: Rollout, decision: Decision) -> None:
        words = f"{100 * decision.share:g} % of the requests get {rollout.version}"
        if decision.action != "step":
            words = f"{decision.action}: {decision.reason}"
        self._tell(decision.action, words, share=decision.share, reason=decision.reason)

    async def _settle(self, release: Release) -> None:
        """Makes a promoted release the current one: its pods keep all requests until those of before have its model."""
        before, self._current = self._current, _carried(self._declaration, release)
        had = self._candidate or (before if self._live.get("candidate") else None)
        self._candidate = self._current if had is not None else None
        try:
            await self._apply(1.0 if self._candidate is not None else 0.0)
        except DeepwellError:
            self._current = before  # the next look tries again
            raise
        self._settling, self._placed = self._candidate is not None, ""
        self._tell("settles", f"{release.name} becomes the current release", release=release.name)
        self._fly()

    async def _settled(self) -> None:
        live = self._live.get("current")
        if self._current is None or live is None or not live.ready or live.model != self._current.model:
            return
        candidate, self._candidate = self._candidate, None
        try:
            await self._apply(0.0)
        except DeepwellError:
            self._candidate = candidate
            raise
        self._settling = False
        self._tell("serves", f"{self._current.name} serves all users", release=self._current.name)

    async def _shift(self, share: float, rollout: str) -> None:
        await self._apply(share)

    async def _apply(self, share: float) -> None:
        assert self._current is not None
        terms = self._declaration.mesh
        # What autoscalers have added stays: applying the declared number would take it away.
        render_mesh(
            self._declaration.model_copy(update={"model": self._current.model}),
            self._folder,
            base=checkout_base() if terms.base is None else terms.base,
            controller=terms.controller,
            image=terms.image,
            candidate=None if self._candidate is None else self._candidate.model,
            share=share,
            scaled={side: live.replicas for side, live in self._live.items()},
        )
        await apply_folder(self._folder)

    async def _scrape(self, side: Side) -> dict[str, Figures]:
        pods = [one for one in self._pods if one.side == side and one.ready]
        turn = asyncio.Semaphore(_ASKED_AT_ONCE)

        async def asked(pod: LivePod) -> str:
            async with turn:
                return await metrics_of(pod)

        texts = await asyncio.gather(*map(asked, pods))
        named = zip(pods, texts, strict=True)
        return {f"{pod.name}-{pod.restarts}": parse_figures(text) for pod, text in named}

    def _tell(self, event: str, text: str, **more: Any) -> None:
        self._events({"event": event, "text": text, **more})

    def facts(self) -> dict[str, Any]:
        """Returns the state in the form of the other grades."""
        declaration = self._declaration
        rollout = self._story.open_rollout(declaration.alias)
        local = declaration.host in ("127.0.0.1", "localhost", "::1")
        sides: tuple[tuple[Side, Release | None], ...] = (
            ("current", self._current),
            ("candidate", self._candidate),
        )
        return {
            "name": declaration.name,
            "alias": declaration.alias,
            "grade": declaration.grade,
            "began": self._began,
            "url": "http://GATEWAY" if local else f"http://{declaration.host}:{declaration.port}",
            "keys": True,
            "front": {"pid": None, "state": declaration.mesh.controller, "restarts": 0},
            "model": None if self._current is None else self._current.model,
            "current": "current" if self._serves else None,
            "slots": [
                {
                    "slot": side,
                    "phase": "free" if release is None else "serving",
                    "release": None if release is None else release.facts(),
                    "replicas": [one.facts() for one in self._pods if one.side == side],
                }
                for side, release in sides
            ],
            "terms": declaration.rollout.for_ledger().to_json(),
            "drain_s": 0.0,
            "rollout": None if rollout is None else self._rollout_facts(rollout),
        }

    def _rollout_facts(self, rollout: Rollout) -> dict[str, Any]:
        findings = () if self._pilot is None else self._pilot.findings
        return {
            "id": rollout.id,
            "version": rollout.version,
            "share": rollout.share,
            "steps": None if rollout.steps is None else list(rollout.steps.shares),
            "held_s": None if self._pilot is None else self._pilot.held_s,
            "next": self._trouble or self._decision.reason or "the next step is taken",
            "gates": [one.words for one in findings],
            "findings": [{"name": one.name, **one.facts()} for one in findings],
        }


def _carried(declaration: Declaration, release: Release) -> Release:
    """Returns a release that manifests can carry to a cluster.

    Raises:
        InvalidRequest: it has an adapter, a policy or a knowledge base of its own, which lie on this machine.
    """
    own = release.policy != declaration.policy or release.knowledge != declaration.knowledge
    if own or release.adapters != declaration.adapters or release.base != release.model:
        raise InvalidRequest(
            f"{release.name} has an adapter, a policy or a knowledge base of its own, which manifests do not carry",
            fix="register a model that the cluster's store has, and name policy and adapters in deploy.yaml",
        )
    return release
