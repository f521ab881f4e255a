"""`run_mesh`: applies a declaration of the grade `mesh` and drives its roll-outs, with the claim that `deploy status` reads."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from pathlib import Path

from deepwell.errors import InvalidRequest
from deepwell.fleet.cluster.deployment import MeshDeployment, applied_folder, check_mesh, take_away
from deepwell.fleet.deploy.declaration import Declaration
from deepwell.fleet.deploy.machine import CLAIM, deployment_folder, settings_of
from deepwell.fleet.deploy.supervisor import Events, first_release
from deepwell.fleet.promotion.rollout import Rollouts
from deepwell.process.claim import Claim, read_claim
from deepwell.settings import Settings
from deepwell.storage.aliases import AliasStore
from deepwell.storage.database import Database
from deepwell.storage.safety.anchors import Anchors

__all__ = ["applied_meshes", "delete_mesh", "run_mesh"]


def run_mesh(declaration: Declaration, settings: Settings, events: Events) -> None:
    """Applies a declaration and follows the ledger until SIGINT, SIGTERM or SIGHUP; the cluster goes on after it.

    Raises:
        InvalidRequest: kubectl is missing, another process drives the deployment, or a mesh cannot do what is declared.
        EngineUnavailable: kubectl fails.
    """
    check_mesh(declaration)
    settings = settings_of(declaration, settings)
    folder = deployment_folder(settings, declaration.name)
    claim = Claim(folder, CLAIM)
    if not claim.take():
        facts = read_claim(folder, CLAIM) or {}
        raise InvalidRequest.of("deploy_running", name=declaration.name, pid=facts.get("pid", "?"))
    try:
        database = Database.of(settings)
        try:
            asyncio.run(_run(declaration, settings, database, folder, claim, events))
        finally:
            database.close()
    finally:
        claim.release()


async def _run(
    declaration: Declaration,
    settings: Settings,
    database: Database,
    folder: Path,
    claim: Claim,
    events: Events,
) -> None:
    rollouts = Rollouts(database, Anchors.of(settings))
    aliases = AliasStore(database, Anchors.of(settings))
    claim.tell({"name": declaration.name, "alias": declaration.alias, "grade": declaration.grade})
    await first_release(rollouts, aliases, declaration)
    made = MeshDeployment(declaration, rollouts, aliases, folder, events, claim.tell)
    running = asyncio.current_task()

    def stop() -> None:
        if made.began:
            made.stop()
        elif running is not None:
            running.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop)
    with suppress(asyncio.CancelledError):
        await made.run()


def applied_meshes(settings: Settings) -> list[str]:
    """Returns the deployments that were applied to a cluster from this machine, whether or not a process drives them."""
    root = settings.state_dir.absolute() / "deploy"
    names = sorted(one.name for one in root.iterdir()) if root.is_dir() else []
    return [name for name in names if applied_folder(root / name) is not None]


def delete_mesh(settings: Settings, name: str) -> bool:
    """Deletes a deployment from its cluster, and returns whether one had been applied from this machine.

    Raises:
        DeepwellError: kubectl is missing or fails.
    """
    folder = deployment_folder(settings, name)
    if applied_folder(folder) is None:
        return False
    asyncio.run(take_away(folder))
    return True
