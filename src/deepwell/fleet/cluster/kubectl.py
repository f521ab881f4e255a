"""Kubectl as a deployment uses it: short commands, and what deployments and pods tell.

Nothing that it prints is trusted: the size is bounded, what it lists has a form, and names that stand in commands are names.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec

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
_MOST_BYTES: Final = 16 << 20  # of a list, or of the metrics of a pod
_MOST_ERROR_BYTES: Final = 64 << 10
_PIECE_BYTES: Final = 1 << 16
# Tokens, passwords in URLs, and values behind such words, as plug-ins that sign in may print them.
_SECRET: Final = re.compile(
    r"(?i)(bearer\s+|(?:token|password|secret|key)[\"']?\s*[=:]\s*[\"']?|://[^/@:\s]*:)[^\s\"'@,}]+|eyJ[\w-]{8,}[\w.-]*"
)
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
    for one in (await _listed(_Deployments, "get", "deployment", "-l", label)).items:
        side = _side(one.metadata)
        if side is not None:
            found[side] = _live(one)
    return found


async def pods_of() -> list[LivePod]:
    """Returns the pods of both releases."""
    found: list[LivePod] = []
    for one in (await _listed(_PodList, "get", "pods", "-l", "app.kubernetes.io/name=deepwell")).items:
        side, told = _side(one.metadata), one.metadata
        if side is None or told.deletion_timestamp is not None:
            continue
        conditions = {each.type: each.status for each in one.status.conditions or ()}
        restarts = sum(each.restart_count for each in one.status.container_statuses or ())
        ready = conditions.get("Ready") == "True"
        found.append(LivePod(told.name, told.namespace, side, ready, restarts))
    return found


async def metrics_of(pod: LivePod) -> str:
    """Returns the metrics of a pod, which it reads itself with a key that it has.

    The proxy of the API server passes no key on, and neither the network policy nor a strict mesh lets it in.
    """
    where = ("exec", "-n", pod.namespace, pod.name, "-c", "api")
    return await _kubectl(*where, "--", "python", "-c", _READ)


_Number = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
_Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?\Z")]


class _Metadata(msgspec.Struct, rename="camel"):
    labels: dict[str, str] | None = None
    generation: int = 0


class _PodMetadata(_Metadata, kw_only=True, rename="camel"):
    name: _Name
    namespace: _Name
    deletion_timestamp: str | None = None


class _Condition(msgspec.Struct):
    type: str
    status: str = ""
    reason: str = ""
    message: str = ""


class _Status(msgspec.Struct, rename="camel"):
    observed_generation: int = 0
    replicas: _Number = 0
    updated_replicas: _Number = 0
    available_replicas: _Number = 0
    conditions: list[_Condition] | None = None


class _ContainerStatus(msgspec.Struct, rename="camel"):
    restart_count: _Number = 0


class _PodStatus(msgspec.Struct, rename="camel"):
    conditions: list[_Condition] | None = None
    container_statuses: list[_ContainerStatus] | None = None


class _Container(msgspec.Struct):
    args: list[str] | None = None


class _Pods(msgspec.Struct):
    containers: Annotated[list[_Container], msgspec.Meta(min_length=1)]


class _Template(msgspec.Struct):
    spec: _Pods


class _Spec(msgspec.Struct):
    template: _Template
    replicas: _Number = 1


class _Deployment(msgspec.Struct):
    metadata: _Metadata
    spec: _Spec
    status: _Status = msgspec.field(default_factory=_Status)


class _Pod(msgspec.Struct):
    metadata: _PodMetadata
    status: _PodStatus = msgspec.field(default_factory=_PodStatus)


class _Deployments(msgspec.Struct):
    items: Annotated[list[_Deployment], msgspec.Meta(max_length=1000)]


class _PodList(msgspec.Struct):
    items: Annotated[list[_Pod], msgspec.Meta(max_length=1000)]


_T = TypeVar("_T")


def _side(metadata: _Metadata) -> Side | None:
    label = (metadata.labels or {}).get("deepwell-release")
    return label if label == "current" or label == "candidate" else None


def _live(item: _Deployment) -> Live:
    status, replicas = item.status, item.spec.replicas
    newest = status.observed_generation >= item.metadata.generation
    numbers = [status.replicas, status.updated_replicas, status.available_replicas]
    failures = [
        _plain(one.message or one.reason)
        for one in status.conditions or ()
        if newest and one.reason == "ProgressDeadlineExceeded"
    ]
    arguments = item.spec.template.spec.containers[0].args or ()
    return Live(
        arguments[1].replace("$$", "$") if len(arguments) > 1 else "",  # as manifests write it
        replicas,
        newest and replicas > 0 and numbers == [replicas] * 3,
        next(iter(failures), ""),
    )


async def _listed(kind: type[_T], *arguments: str) -> _T:
    text = await _kubectl(*arguments, "-o", "json")
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        reason = f"it printed no such list: {_plain(str(error))}"
        raise EngineUnavailable.of("deploy_kubectl", what=" ".join(arguments), reason=reason) from None


def _plain(text: str) -> str:
    """Returns a text of strangers as one line of printable characters, its end if it is long, without secrets."""
    line = " ".join("".join(one if one.isprintable() else " " for one in text[-8 * _SAID :]).split())
    return _SECRET.sub(lambda one: f"{one[1] or ''}***", line)[-_SAID:]


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
        start_new_session=True,  # so that its plug-ins, which hold its pipes, end with it
    )
    what = " ".join(arguments[: arguments.index("--")] if "--" in arguments else arguments)

    def end() -> None:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)

    def reading() -> Awaitable[tuple[bytes, bytes]]:
        return asyncio.gather(
            _read(child.stdout, _MOST_BYTES, end), _read(child.stderr, _MOST_ERROR_BYTES, end)
        )

    ended = False
    try:
        async with asyncio.timeout(_PATIENCE_S):
            out, said = await reading()
            await child.wait()
        ended = True
    except TimeoutError:
        reason = f"it has not ended after {_PATIENCE_S:g} s"
        raise EngineUnavailable.of("deploy_kubectl", what=what, reason=reason) from None
    finally:
        if not ended:
            end()
            await reading()  # an end that nobody reads is not noticed
            await child.wait()
    if len(out) > _MOST_BYTES or len(said) > _MOST_ERROR_BYTES:
        raise EngineUnavailable.of("deploy_kubectl", what=what, reason="it prints without an end")
    if child.returncode:
        raise _failed(what, said.decode(errors="replace"), child.returncode)
    return out.decode(errors="replace")


def _failed(what: str, said: str, code: int) -> EngineUnavailable:
    """Returns the error of a command that failed, without the lines of kubectl's own log."""
    lines = [one for line in said.splitlines() if (one := line.strip()) and not _LOGGED.match(one)]
    reason = _plain(os.linesep.join(lines)) or _plain(said) or f"exit {code}"
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


async def _read(stream: asyncio.StreamReader | None, most_bytes: int, end: Callable[[], None]) -> bytes:
    """Returns what a program prints; of more than `most_bytes`, somewhat more, after it was ended."""
    found = bytearray()
    while stream is not None and (piece := await stream.read(_PIECE_BYTES)):
        if len(found) <= most_bytes:
            found += piece
        if len(found) > most_bytes:
            end()
    return bytes(found)
