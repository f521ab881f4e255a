"""The configuration of haproxy as a front, which follows the rules of `routes`. Pure: text in, text out.

Files are named from the folder that it runs in (`-C`), so that no character of a path has a meaning for haproxy. What changes
while it runs is in two maps, which the runtime API sets: `routes` has one value with everything about releases, so
that they change at once, and `owners` the tenants of API keys. A haproxy that is killed reads both from their files again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final

from deepwell.fleet.front.routes import GENERATING, SLOTS, KeyOwner, Routes, Slot
from deepwell.storage.database import LOCAL

__all__ = [
    "BODY_BYTES",
    "ERRORS",
    "HaproxyTerms",
    "ServerLine",
    "config_text",
    "error_body",
    "owner_value",
    "owners_text",
    "routes_text",
    "routes_value",
]

BODY_BYTES: Final = 262_144
"""Bytes of a request that haproxy reads to find its user and its conversation; of a longer one, the beginning."""

_POINTS: Final = 1 << 32
_SEPARATOR: Final = "|"
_NONE: Final = "none"


@dataclass(frozen=True, slots=True)
class ServerLine:
    """One replica, and whether it takes requests: `ready`, `drain` (no new ones) or `maint` (none)."""

    name: str
    port: int
    state: str = "maint"
    host: str = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class HaproxyTerms:
    """Terms that stay as they are while haproxy runs.

    Attributes:
        folder: holds the configuration and the maps.
        routing: `prefix` sends requests that begin alike to one replica unless that has too much to do; `round_robin` does not.
        answer_s: longest silence within an answer.
        drain_s: longest time that it waits for answers when it is told to end.
        metrics_port: port with its figures for Prometheus; 0: none. `metrics_host`: its address.
        resolves: whether replicas are named, and looked up again and again by the system's name server.
    """

    folder: Path
    host: str
    port: int
    routing: str = "prefix"
    answer_s: float = 1810.0
    drain_s: float = 120.0
    most_connections: int = 2000
    metrics_port: int = 0
    metrics_host: str = "127.0.0.1"
    resolves: bool = False


def owner_value(owner: KeyOwner) -> str:
    """Returns the value of the map `owners` for a key."""
    return f"{len(owner.tenant)}:{owner.tenant}{_SEPARATOR}key:{owner.key_id}"


def owners_text(keys: Mapping[str, KeyOwner] | None) -> str:
    """Returns the file of the map `owners`: hashes of keys, and whose they are."""
    return "".join(f"{digest} {owner_value(owner)}\n" for digest, owner in (keys or {}).items())


def routes_value(routes: Routes) -> str:
    """Returns the value of the map `routes`."""
    open_tenant = f"{len(LOCAL)}:{LOCAL}" if routes.keys is None else _NONE
    fields = (
        routes.current,
        routes.candidate or _NONE,
        f"{len(routes.rollout)}:{routes.rollout}",
        str(_POINTS if routes.share >= 1 else math.ceil(routes.share * _POINTS)),
        "all" if routes.share >= 1 else _NONE,
        open_tenant,
        *(_kept(routes, slot) for slot in SLOTS),
        *(routes.releases.get(slot) or _NONE for slot in SLOTS),
    )
    return _SEPARATOR.join(fields)


def _kept(routes: Routes, slot: Slot) -> str:
    if slot not in routes.kept:
        return _NONE
    return "keep" if slot in (routes.current, routes.candidate) else "end"


def routes_text(routes: Routes) -> str:
    """Returns the file of the map `routes`."""
    return f"now {routes_value(routes)}\n"


def config_text(terms: HaproxyTerms, socket: Path, servers: Mapping[Slot, Sequence[ServerLine]]) -> str:
    """Returns the configuration. `socket` is the one of the runtime API: its path has less than 100 characters."""
    parts = [
        _global(terms, socket),
        *([_metrics(terms.metrics_host, terms.metrics_port)] if terms.metrics_port else []),
        *([_RESOLVERS] if terms.resolves else []),
        _frontend(terms),
        *(_backend(terms, slot, servers[slot]) for slot in SLOTS),
    ]
    return "\n".join(parts)


def _global(terms: HaproxyTerms, socket: Path) -> str:
    errors = "\n".join(
        f"    http-error status {status} content-type application/json string {_quoted(error_body(status))}"
        for status in ERRORS
    )
    return f"""# Written by `deepwell deploy apply`: changes are lost.
global
    maxconn {terms.most_connections}
    nbthread 1
    stats socket {_quoted(str(socket))} mode 600 level admin
    stats timeout 1h
    tune.bufsize {BODY_BYTES}
    tune.maxrewrite 8192
    hard-stop-after {max(1, round(terms.drain_s))}s

defaults
    mode http
    timeout connect 5s
    timeout check 20s
    timeout client {round(terms.answer_s)}s
    timeout server {round(terms.answer_s)}s
    timeout http-request 30s
    timeout http-keep-alive 75s
    timeout queue 30s
    option http-buffer-request
    # A token leaves at once: otherwise the kernel holds a small piece for up to 200 ms, in case more comes
    option http-no-delay
    option dontlognull
{errors}

# Conversations and the slot that each went to: 1 blue, 2 green
backend conversations
    stick-table type binary len 32 size 200k expire 30m store gpt0
"""


ERRORS: Final = {
    502: ("the replica ended before it answered", "send the request again"),
    503: (
        "no replica takes requests now",
        "send the request again in a while; `deepwell deploy status` shows why",
    ),
    504: ("the replica has not answered in time", "ask for fewer tokens, or send the request again"),
}


def error_body(status: int) -> str:
    """Returns the body of an error that a front itself answers."""
    message, fix = ERRORS[status]
    body = {"message": f"{message}; {fix}", "type": "server_error", "param": None, "code": f"front_{status}"}
    return json.dumps({"error": body})


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _frontend(terms: HaproxyTerms) -> str:
    host = f"[{terms.host}]" if ":" in terms.host else terms.host
    text = files("deepwell.fleet.front").joinpath("frontend.cfg").read_text(encoding="utf-8")
    text = text.replace("@BIND@", f"{host}:{terms.port}")
    return text.replace("@GENERATING@", " ".join(GENERATING))


_RESOLVERS: Final = """resolvers names
    parse-resolv-conf
    hold valid 5s
"""


def _metrics(host: str, port: int) -> str:
    return f"""frontend metrics
    bind {host}:{port}
    http-request use-service prometheus-exporter if {{ path /metrics }}
    http-request return status 404
"""


def _backend(terms: HaproxyTerms, slot: Slot, servers: Sequence[ServerLine]) -> str:
    if terms.routing == "round_robin":
        balance = "    balance roundrobin"
    else:
        # Load first: a replica with a quarter more than its part of the open requests is passed over
        balance = "    balance hash var(txn.affinity)\n    hash-type consistent\n    hash-balance-factor 125"
    lines = "\n".join(
        f"    server {one.name} {one.host}:{one.port}{'' if one.state == 'ready' else ' disabled'}"
        for one in servers
    )
    # A dead replica is noticed by its connections. Checks are patient: one that is busy answers late, and still answers.
    checks = "inter 2s fastinter 500ms downinter 200ms rise 1 fall 3"
    noticed = "observe layer4 error-limit 1 on-error mark-down"
    noticed += " resolvers names init-addr last,libc,none" if terms.resolves else ""
    return f"""backend {slot}
{balance}
    option httpchk GET /readyz
    http-check expect status 200
    option redispatch 1
    retries 3
    retry-on conn-failure empty-response
    default-server check {checks} {noticed}
{lines}
"""
