"""Grade 1 on this machine: from a declaration to a `Deployment` that runs, and the way to find one that does."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from pydantic import SecretStr

from deepwell.errors import InvalidRequest, PortInUse
from deepwell.fleet.deploy.declaration import Declaration, secret_of
from deepwell.fleet.deploy.owners import owners_of
from deepwell.fleet.deploy.replicas import MakeReplica, free_ports, served_replica
from deepwell.fleet.deploy.supervisor import Deployment, Events, first_release
from deepwell.fleet.front.front import Front, HaproxyFront, find_haproxy
from deepwell.fleet.front.haproxy import HaproxyTerms
from deepwell.fleet.front.routes import SLOTS, Routes, Slot
from deepwell.fleet.promotion.rollout import Rollouts
from deepwell.process.claim import Claim, read_claim
from deepwell.server.http.listen import bind, port_owner
from deepwell.settings import Settings
from deepwell.storage.aliases import AliasStore
from deepwell.storage.database import Database
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
    "wait_for_end",
]

CLAIM: Final = "deployment"
"""Name of the files of a deployment's claim, in its folder."""

_ANSWER_S: Final = 10.0


def deployment_folder(settings: Settings, name: str) -> Path:
    """Returns the folder of a deployment's state."""
    return settings.state_dir.absolute() / "deploy" / name


def running_deployments(settings: Settings) -> dict[str, dict[str, Any]]:
    """Returns what the deployments tell that run on this machine, by name."""
    root = settings.state_dir.absolute() / "deploy"
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
        if declaration.grade != "machine":
            raise InvalidRequest.of("deploy_grade", grade=declaration.grade)
        settings = settings_of(declaration, settings)
        self.folder = deployment_folder(settings, declaration.name)
        self.claim = Claim(self.folder, CLAIM)
        if not self.claim.take():
            facts = read_claim(self.folder, CLAIM) or {}
            raise InvalidRequest.of("deploy_running", name=declaration.name, pid=facts.get("pid", "?"))
        try:
            port = _claim_port(declaration)
            self.database = Database.of(settings)
        except BaseException:
            self.claim.release()
            raise
        self.claim.tell({"name": declaration.name, "alias": declaration.alias, "began": time.time()})
        self._declaration = declaration
        self._keys = KeyStore(self.database)
        self._rollouts = Rollouts(self.database, Anchors.of(settings))
        self._aliases = AliasStore(self.database, Anchors.of(settings))
        self._settings, self._port, self._events = settings, port, events
        self._make, self._routing = make, routing
        self.deployment: Deployment | None = None
        self._told: Mapping[str, Any] = {}

    async def run(self) -> None:
        """Makes the first release where there is none, and runs the deployment until it is stopped.

        Raises:
            DeepwellError: the front or every replica cannot start.
        """
        declaration, given = self._declaration, list(self._settings.api_keys)
        await first_release(self._rollouts, self._aliases, declaration)
        key = ""
        if given or await self._keys.any():
            key = f"fleet-{secrets.token_urlsafe(32)}"
            given.append(SecretStr(key))
        plain = [one.get_secret_value() for one in given]
        make = self._make or served_replica(declaration, Path.cwd(), plain)
        ports = free_ports(2 * declaration.replicas, [self._port])
        by_slot: dict[Slot, list[int]] = {
            slot: ports[number :: len(SLOTS)] for number, slot in enumerate(SLOTS)
        }
        made = Deployment(
            declaration,
            self._rollouts,
            self._aliases,
            self._front,
            make,
            self._events,
            ports=by_slot,
            key=key,
        )
        made.owners = lambda: owners_of(given, self._keys)
        made.on_facts = self._tell
        self.deployment = made
        await made.run()

    def _front(self, ports: Mapping[Slot, Sequence[int]], routes: Routes) -> Front:
        declaration = self._declaration
        terms = HaproxyTerms(
            self.folder,
            declaration.host,
            self._port,
            self._routing,
            self._settings.request_timeout_s + _ANSWER_S if self._settings.request_timeout_s else 86_400.0,
            declaration.rollout.drain_seconds,
        )
        if front_of(declaration) == "haproxy":
            return HaproxyFront(terms, ports, routes)
        from deepwell.fleet.front.own import OwnFront

        return OwnFront(terms, ports, routes)

    def _tell(self, facts: Mapping[str, Any]) -> None:
        if facts != self._told:
            self._told = facts
            with suppress(OSError):  # a full disk: what runs goes on
                self.claim.tell(facts)

    def close(self) -> None:
        """Gives everything back."""
        self.database.close()
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
