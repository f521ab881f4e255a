"""Kubectl as a deployment uses it: short commands, and what deployments and pods tell."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from deepwell.errors import EngineUnavailable, InvalidRequest

__all__ = [
    "Live",
    "LivePod",
    "Side",
    "apply_folder",
    "current_context",
    "delete_folder",
    "live_of",
    "metrics_of",
    "pods_of",
]

Side = Literal["current", "candidate"]
"""One of the two releases in a cluster, as the label `deepwell-release` names it."""

_PATIENCE_S: Final = 120.0
_SAID: Final = 500
_LOGGED: Final = re.compile(r"[EWIF]\d{4} \d\d:\d\d:")
_NOWHERE: Final = "server localhost:8080 was refused"  # where kubectl looks if it has no configuration
_PORT: Final = 8000  # of the pods, as deploy/kustomize/shared/config.yaml says
_READ: Final = f"""
import os, urllib.request as u
keys = os.environ.get("DEEPWELL_API_KEYS", "").replace(",", " ").split()
headers = {{"authorization": "Bearer " + keys[0]}} if keys else {{}}
asked = u.Request("http://127.0.0.1:{_PORT}/metrics", headers=headers)
print(u.build_opener(u.ProxyHandler({{}})).open(asked, timeout=4).read().decode())
"""


@dataclass(frozen=True, slots=True)
class Live:
    """A release as its Deployment in the cluster tells it.

    Attributes:
        model: model in its arguments.
        replicas: pods that are wanted; an autoscaler may want more than were declared.
        ready: whether all of them are of the newest manifest and available.
        failure: why it does not get there; empty: it may.
    """

    model: str
    replicas: int
    ready: bool
    failure: str


@dataclass(frozen=True, slots=True)
class LivePod:
    """A pod of a release that is not on its way out."""

    name: str
    namespace: str
    side: Side
    ready: bool
    restarts: int

    def facts(self) -> dict[str, Any]:
        """Returns the pod as a replica, for `deepwell deploy status`."""
        state = "ready" if self.ready else "starting"
        return {"name": self.name, "port": _PORT, "pid": None, "state": state, "restarts": self.restarts}


async def apply_folder(folder: Path) -> None:
    """Applies the overlay in a folder.

    Raises:
        InvalidRequest: kubectl is not installed.
        EngineUnavailable: it fails.
    """
    await _kubectl("apply", "-k", str(folder))


async def delete_folder(folder: Path) -> None:
    """Takes away what the overlay in a folder makes. Pods finish their answers meanwhile.

    Raises:
        InvalidRequest: kubectl is not installed.
        EngineUnavailable: it fails.
    """
    await _kubectl("delete", "-k", str(folder), "--ignore-not-found", "--wait=false")


async def live_of(name: str) -> dict[Side, Live]:
    """Returns the releases of a deployment that are in the cluster."""
    found: dict[Side, Live] = {}
    label = f"app.kubernetes.io/instance={name}"
    for one in await _items("get", "deployment", "-l", label, "-o", "json"):
        side = _side(one)
        if side is not None:
            found[side] = _live(one)
    return found


async def pods_of() -> list[LivePod]:
    """Returns the pods of both releases."""
    found: list[LivePod] = []
    for one in await _items("get", "pods", "-l", "app.kubernetes.io/name=deepwell", "-o", "json"):
        side, told = _side(one), one["metadata"]
        if side is None or "deletionTimestamp" in told:
            continue
        status = one.get("status", {})
        conditions = {each["type"]: each["status"] for each in status.get("conditions", ())}
        restarts = sum(each.get("restartCount", 0) for each in status.get("containerStatuses", ()))
        ready = conditions.get("Ready") == "True"
        found.append(LivePod(told["name"], told["namespace"], side, ready, restarts))
    return found


async def metrics_of(pod: LivePod) -> str:
    """Returns the metrics of a pod, which it reads itself with a key that it has.

    The proxy of the API server passes no key on, and neither the network policy nor a strict mesh lets it in.
    """
    where = ("exec", "-n", pod.namespace, pod.name, "-c", "api")
    return await _kubectl(*where, "--", "python", "-c", _READ)


def _side(item: Mapping[str, Any]) -> Side | None:
    label = item["metadata"].get("labels", {}).get("deepwell-release")
    return label if label in ("current", "candidate") else None


def _live(item: Mapping[str, Any]) -> Live:
    status: Mapping[str, Any] = item.get("status", {})
    replicas = item["spec"].get("replicas", 1)
    newest = status.get("observedGeneration", 0) >= item["metadata"].get("generation", 0)
    numbers = [status.get(one, 0) for one in ("replicas", "updatedReplicas", "availableReplicas")]
    failures = [
        one.get("message") or one.get("reason", "")
        for one in status.get("conditions", ())
        if newest and one.get("reason") == "ProgressDeadlineExceeded"
    ]
    arguments = item["spec"]["template"]["spec"]["containers"][0].get("args", ())
    return Live(
        arguments[1] if len(arguments) > 1 else "",
        replicas,
        newest and replicas > 0 and numbers == [replicas] * 3,
        next(iter(failures), ""),
    )


async def _items(*arguments: str) -> list[Any]:
    text = await _kubectl(*arguments)
    try:
        items = json.loads(text)["items"]
    except (ValueError, KeyError, TypeError) as error:
        reason = f"it printed no list: {error}"
        raise EngineUnavailable.of("deploy_kubectl", what=" ".join(arguments), reason=reason) from None
    return list(items)


async def _kubectl(*arguments: str) -> str:
    program = shutil.which("kubectl")
    if program is None:
        raise InvalidRequest.of("deploy_no_kubectl")
    # Plug-ins that sign in read variables of many names; those of Deepwell may hold secrets and are not theirs.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("DEEPWELL_")}
    child = await asyncio.create_subprocess_exec(
        program,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environ,
    )
    what = " ".join(arguments[: arguments.index("--")] if "--" in arguments else arguments)
    try:
        async with asyncio.timeout(_PATIENCE_S):
            out, said = await child.communicate()
    except TimeoutError:
        reason = f"it has not ended after {_PATIENCE_S:g} s"
        raise EngineUnavailable.of("deploy_kubectl", what=what, reason=reason) from None
    finally:
        if child.returncode is None:
            with suppress(ProcessLookupError):
                child.kill()
            await child.wait()
    if child.returncode:
        raise _failed(what, said.decode(errors="replace"), child.returncode)
    return out.decode(errors="replace")


def _failed(what: str, said: str, code: int) -> EngineUnavailable:
    """Returns the error of a command that failed, without the lines of kubectl's own log."""
    lines = [one for line in said.splitlines() if (one := line.strip()) and not _LOGGED.match(one)]
    reason = os.linesep.join(lines)[-_SAID:] or said.strip()[-_SAID:] or f"exit {code}"
    if _NOWHERE in reason:
        return EngineUnavailable.of("deploy_no_cluster", what=what)
    return EngineUnavailable.of("deploy_kubectl", what=what, reason=reason)


def current_context() -> str | None:
    """Returns the name of kubectl's current context; None: it has none, or is not installed. No cluster is asked."""
    program = shutil.which("kubectl")
    if program is None:
        return None
    command = [program, "config", "current-context"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
    except subprocess.TimeoutExpired:
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
