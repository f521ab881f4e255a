"""Deployments on this machine: from a declaration to a `Deployment` that runs, and the way to find one that does.

In the grade `machine` its parts are processes, in the grade `containers` they are containers of one pod.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from pydantic import SecretStr

from deepwell.errors import EngineUnavailable, InvalidRequest, PortInUse
from deepwell.fleet.deploy.declaration import Declaration, secret_of
from deepwell.fleet.deploy.owners import owners_of
from deepwell.fleet.deploy.release import current_release
from deepwell.fleet.deploy.replicas import MakeReplica, free_ports, served_replica
from deepwell.fleet.deploy.supervisor import Deployment, Events, first_release
from deepwell.fleet.front.front import Front, HaproxyFront, find_haproxy, write_whole
from deepwell.fleet.front.haproxy import HaproxyTerms
from deepwell.fleet.front.routes import SLOTS, Routes, Slot
from deepwell.fleet.pods.pod import ANY, Pod
from deepwell.fleet.pods.prometheus import write_targets
from deepwell.fleet.promotion.rollout import Rollouts
from deepwell.models.store.store import ModelStore
from deepwell.process.claim import Claim, read_claim
from deepwell.server.http.listen import bind, port_owner
from deepwell.settings import Settings
from deepwell.storage.aliases import AliasStore
from deepwell.storage.database import LOCAL, Database
from deepwell.storage.keys import KeyStore
from deepwell.storage.safety.anchors import Anchors

__all__ = [
    "CLAIM",
    "Opened",
    "deployment_folder",
    "front_of",
    "run_opened",
    "running_deployments",
    "settings_of",
    "told_claim",
    "wait_for_end",
]

CLAIM: Final = "deployment"
"""Name of the files of a deployment's claim, in its folder."""

_ANSWER_S: Final = 10.0
_STATES_S: Final = 5.0
_FIRST_KEY: Final = "first start of deepwell deploy"


def deployment_folder(settings: Settings, name: str) -> Path:
    """Returns the folder of a deployment's state."""
    return settings.state_dir.absolute() / "deploy" / name


def running_deployments(settings: Settings) -> dict[str, dict[str, Any]]:
    """Returns what the deployments tell that run on this machine, by name."""
    root = (settings.deployments_dir or settings.state_dir / "deploy").absolute()
    names = sorted(one.name for one in root.iterdir()) if root.is_dir() else []
    found = {name: read_claim(root / name, CLAIM) for name in names}
    return {name: facts for name, facts in found.items() if facts is not None}


def settings_of(declaration: Declaration, settings: Settings) -> Settings:
    """Returns the settings with the database that a declaration names."""
    if declaration.database is None:
        return settings
    return settings.model_copy(update={"database_url": SecretStr(secret_of(declaration.database))})


def front_of(declaration: Declaration) -> str:
    """Returns the front that a declaration means on this machine: `haproxy` or `own`.

    Raises:
        InvalidRequest: it asks for haproxy, which is not installed.
    """
    if declaration.grade == "containers":
        return "haproxy"
    if declaration.front == "own":
        return "own"
    if find_haproxy() is None:
        if declaration.front == "haproxy":
            raise InvalidRequest.of("deploy_no_haproxy")
        return "own"
    return "haproxy"


def _claim_port(declaration: Declaration) -> int:
    """Returns the port of the front, on which nobody listens; a free one for 0.

    Raises:
        PortInUse: another process listens there.
    """
    try:
        with bind(declaration.host, declaration.port) as listener:
            return int(listener.getsockname()[1])
    except PortInUse:
        port = declaration.port
        raise PortInUse.of(
            "deploy_port_taken", port=port, name=declaration.name, owner=port_owner(port), free=port + 1
        ) from None


def told_claim(folder: Path) -> Claim:
    """Takes the claim that the replicas of a pod read, as another user."""
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)
    claim = Claim(folder, CLAIM, mode=0o644)
    if not claim.take():
        raise EngineUnavailable(
            f"{folder} is locked by another program", fix="end what holds it, and apply the deployment again"
        )
    return claim


class Opened:
    """A deployment of this process, with what it holds: its claim, its database and its front.

    Args:
        make: makes replicas; None: `deepwell serve`.
        routing: how the front chooses between replicas; None: by prefix, load first.

    Raises:
        InvalidRequest: the grade is another, or the deployment runs already.
        PortInUse: another process listens on the port of the front.
    """

    def __init__(
        self,
        declaration: Declaration,
        settings: Settings,
        events: Events,
        *,
        make: MakeReplica | None = None,
        routing: str = "prefix",
    ) -> None:
        if declaration.grade == "mesh":
            raise InvalidRequest(
                "the grade mesh runs in a cluster, and not on this machine",
                fix="apply it: deepwell deploy apply FILE",
            )
        settings = settings_of(declaration, settings)
        self.folder = deployment_folder(settings, declaration.name)
        self.claim = Claim(self.folder, CLAIM)
        if not self.claim.take():
            facts = read_claim(self.folder, CLAIM) or {}
            raise InvalidRequest.of("deploy_running", name=declaration.name, pid=facts.get("pid", "?"))
        self.pod: Pod | None = None
        self._told_claim: Claim | None = None
        self._declaration = declaration
        self._events = events
        try:
            if declaration.grade == "containers":
                self.pod = Pod(declaration, self.folder, settings)
                self.pod.clear()
                self._told_claim = told_claim(self.pod.told_folder)
            self._port = _claim_port(declaration)
            self._ports = free_ports(2 * declaration.replicas, [self._port])
            if self.pod is not None:
                settings = self.pod.open(self._port, self._ports)
            self.database = Database.of(settings)
        except BaseException:
            self._give_back()
            raise
        self._place: dict[str, Any] = {"database": self._database_place()}
        self.claim.tell({"name": declaration.name, "alias": declaration.alias, "began": time.time()})
        self._keys = KeyStore(self.database)
        self._rollouts = Rollouts(self.database, Anchors.of(settings))
        self._aliases = AliasStore(self.database, Anchors.of(settings))
        self._settings = settings
        self._make, self._routing = make, routing
        self.deployment: Deployment | None = None
        self._told: Mapping[str, Any] = {}

    async def run(self) -> None:
        """Makes the first release where there is none, and runs the deployment until it is stopped.

        Raises:
            DeepwellError: the front or every replica cannot start.
        """
        declaration, given = self._declaration, list(self._settings.api_keys)
        if self._make is None and self.pod is None:
            await self._check_model()
        await first_release(self._rollouts, self._aliases, declaration)
        if self.pod is not None and not given and not await self._keys.any():
            self._first_key()
        key = ""
        if given or await self._keys.any():
            key = f"fleet-{secrets.token_urlsafe(32)}"
            given.append(SecretStr(key))
        by_slot: dict[Slot, list[int]] = {
            slot: self._ports[number :: len(SLOTS)] for number, slot in enumerate(SLOTS)
        }
        made = Deployment(
            declaration,
            self._rollouts,
            self._aliases,
            self._front,
            self._made([one.get_secret_value() for one in given]),
            self._events,
            ports=by_slot,
            key=key,
        )
        made.owners = lambda: owners_of(given, self._keys)
        made.on_facts = self._tell
        self.deployment = made
        watching = asyncio.create_task(self._watch(made))
        try:
            await made.run()
        finally:
            watching.cancel()

    async def _check_model(self) -> None:
        """Checks that the model which replicas would load first is on this machine.

        Raises:
            ModelNotFound: it is not.
        """
        alias = self._declaration.alias
        model = (await self._aliases.names()).models.get(alias, self._declaration.model)
        release = current_release(
            self._declaration, await self._rollouts.registry.trusted_story(alias), model
        )
        ModelStore(self._settings.models_dir).resolve(release.base)
        if model != self._declaration.model:
            said = f"{alias} means {model} by now; the declaration's model, {self._declaration.model}, is for a new alias"
            self._events({"event": "note", "text": said})

    def _made(self, keys: Sequence[str]) -> MakeReplica:
        """Returns the maker of replicas: the one that was given, processes, or containers."""
        if self.pod is not None:
            self.pod.keep_keys(keys)
        if self._make is not None:
            return self._make
        if self.pod is not None:
            return self.pod.replica
        return served_replica(self._declaration, Path.cwd(), keys)

    def _first_key(self) -> None:
        """Makes a key in a database that never had one, because containers listen to more than their own machine."""
        _, text = self._keys.create(LOCAL, _FIRST_KEY, ("inference", "files"))
        file = self.folder / "secrets" / "key"
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(file, f"{text}\n")
        self._events({"event": "key", "text": f"the first API key is in {file}", "file": str(file)})

    def _database_place(self) -> str | None:
        if self.pod is not None and self._declaration.database is None:
            return f"file:{self.pod.database_file}"
        return self._declaration.database

    async def _watch(self, made: Deployment) -> None:
        """Runs what a pod has besides, and looks now and then how its containers are."""
        if self.pod is None:
            return
        prometheus = self.pod.prometheus()
        if prometheus is not None:
            write_targets(self.folder / "prometheus", [])
            made.run_beside(prometheus)
        while True:
            self._place |= {"pod": self.pod.name, "containers": await asyncio.to_thread(self.pod.states)}
            await asyncio.sleep(_STATES_S)

    def _front(self, ports: Mapping[Slot, Sequence[int]], routes: Routes) -> Front:
        declaration = self._declaration
        answer_s = self._settings.request_timeout_s + _ANSWER_S
        terms = HaproxyTerms(
            self.folder if self.pod is None else self.folder / "front",
            declaration.host if self.pod is None else ANY,
            self._port,
            self._routing,
            answer_s if self._settings.request_timeout_s else 86_400.0,
            declaration.rollout.drain_seconds,
            metrics_port=0 if self.pod is None else self.pod.metrics_port,
        )
        if self.pod is not None:
            return HaproxyFront(terms, ports, routes, within=self.pod.front)
        if front_of(declaration) == "haproxy":
            return HaproxyFront(terms, ports, routes)
        from deepwell.fleet.front.own import OwnFront

        return OwnFront(terms, ports, routes)

    def _tell(self, found: Mapping[str, Any]) -> None:
        facts = {**found, **self._place}
        if facts != self._told:
            self._told = facts
            with suppress(OSError):  # a full disk: what runs goes on
                self.claim.tell(facts)
                if self._told_claim is not None:
                    self._told_claim.tell(facts)
                if self.pod is not None and self._declaration.containers.prometheus_port is not None:
                    write_targets(self.folder / "prometheus", facts["slots"])

    def close(self) -> None:
        """Gives everything back."""
        self.database.close()
        self._give_back()

    def _give_back(self) -> None:
        if self.pod is not None:
            self.pod.close()
        if self._told_claim is not None:
            self._told_claim.release()
        self.claim.release()


def wait_for_end(settings: Settings, name: str, pid: int, seconds: float) -> bool:
    """Waits until a deployment has ended, and returns whether it has."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        facts = read_claim(deployment_folder(settings, name), CLAIM)
        if facts is None or facts["pid"] not in (pid, 0):
            return True
        time.sleep(0.1)
    return False


def run_opened(opened: Opened) -> None:
    """Runs a deployment until SIGINT, SIGTERM or SIGHUP. A second signal cuts off answers under way.

    Raises:
        DeepwellError: the front or every replica cannot start.
    """
    import signal

    async def main() -> None:
        running = asyncio.create_task(opened.run())

        def stop() -> None:
            if opened.deployment is not None:
                opened.deployment.stop()
            else:
                running.cancel()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, stop)
        with suppress(asyncio.CancelledError):
            await running

    try:
        asyncio.run(main())
    finally:
        opened.close()
