"""`deepwell bench fleet-mesh`: the data plane of the mesh grade, run for real by Envoys in network namespaces."""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import ssl
import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from deepwell.cli.bench.report import Report, percentile, rounded
from deepwell.fleet.deploy.certificates import Authority, Identity
from deepwell.fleet.deploy.mesh import Endpoint
from deepwell.storage.database import LOCAL
from deepwell.storage.registry.split import identity_of, takes_candidate
from deepwell_bench.harness.open_loop import FIRST_MS, TOKEN_MS, TOKENS, load_client, run_load
from deepwell_bench.harness.served import paced_command
from deepwell_bench.suites.fleet.envoys import EDGE_PORT, Mesh, ask, echo_command, mesh, paced_replica
from deepwell_bench.suites.fleet.load import Busy

__all__ = ["SHARES", "bench_fleet_mesh"]

SHARES: Final = (0.05, 0.25, 0.5, 0.75)
BARE_PORT: Final = 9000
_ROLLOUT: Final = "rollout-of-the-benchmark"
_KEY: Final = "Bearer dw-a-key-of-the-benchmark"
_HOSTILE: Final = {
    "x-deepwell-tenant": "other",
    "x-deepwell-bucket": "0",
    "X-DeepWell-Release": "nonsense",
    "x-tenant-id": "other",
    "x-forwarded-client-cert": "By=spiffe://deepwell/edge",
}


def bench_fleet_mesh(
    report: Report, model: Path, *, users: int = 1000, rate: float = 10.0, seconds: float = 40.0
) -> dict[str, Any]:
    """Asks a mesh of an edge and three replicas what it lets in, strips, splits and survives, and what it costs.

    Args:
        model: file whose tokenizer the paced engine has.
        users: users of each share; each is asked for once.
        rate: requests a second of the load.
        seconds: length of the load through the mesh; the bare engine is loaded for half of it before and behind it.

    Raises:
        PeerError: namespaces, openssl, Envoy or a C compiler are missing.
    """
    with (
        tempfile.TemporaryDirectory(prefix="dw-mesh-") as folder,
        mesh(Path(folder), echo_command) as running,
    ):
        value = _identities(running, Path(folder)) | _headers(running)
        value |= _weights(running, report, users) | _deaths(running)
        value["filter_errors"] = running.stat("http.edge.lua.errors")
        value |= _latency(running, report, model, Path(folder), rate, seconds)
    report.table("Mesh", ("figure", "value"), [(name, str(one)) for name, one in value.items()])
    return value


def _identities(running: Mesh, folder: Path) -> dict[str, Any]:
    """Knocks at a sidecar with every identity but the right one, and lets the edge meet a replica of the wrong one."""
    strangers = Authority(folder / "strangers")
    knocks: dict[str, Identity | None] = {
        "no certificate": None,
        "the edge of another authority": strangers.identity("edge"),
        "a replica": running.authority.identity("current"),
        "a name that nobody has": running.authority.identity("somebody"),
    }
    sidecar = running.nodes[0].endpoint
    let_in = [
        name for name, one in knocks.items() if running.outside.inside(lambda one=one: _knock(sidecar, one))
    ]
    if running.outside.inside(lambda: _plain(sidecar)):
        let_in.append("plain HTTP")
    # The right one is let in, so it is the identity that the others lack.
    control = running.outside.inside(lambda: _knock(sidecar, running.edge.identity))
    crossed = running.traffic(
        0, {"current": [running.nodes[0].endpoint], "candidate": [running.nodes[1].endpoint]}
    )
    running.set(crossed)
    met = running.outside.inside(lambda: _ask(running, "u", {"x-deepwell-release": "candidate"}).status)
    running.set(running.traffic(0))
    running.healthy(len(running.nodes))
    return {
        "wrong_identities": len(knocks) + 1,
        "wrong_identities_let_in": len(let_in),
        "right_identity_let_in": int(control),
        "replica_of_a_wrong_release_refused": int(met == http.client.SERVICE_UNAVAILABLE),
    }


def _knock(sidecar: Endpoint, identity: Identity | None) -> bool:
    """Returns whether a sidecar answers somebody; the sidecar's own certificate is not looked at."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if identity is not None:
        context.load_cert_chain(identity.certificate, identity.key)
    connection = http.client.HTTPSConnection(sidecar.host, sidecar.port, timeout=10, context=context)
    return _answers(connection)


def _plain(sidecar: Endpoint) -> bool:
    return _answers(http.client.HTTPConnection(sidecar.host, sidecar.port, timeout=10))


def _answers(connection: http.client.HTTPConnection) -> bool:
    with contextlib.closing(connection):
        try:
            connection.request("GET", "/v1/models")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False


def _ask(
    running: Mesh,
    user: str,
    headers: dict[str, str] | None = None,
    connection: http.client.HTTPConnection | None = None,
) -> Any:
    body = {"messages": [{"role": "user", "content": 'a "user": "b" \\'}], "user": user}
    to = Endpoint(running.front.address, EDGE_PORT)
    return ask(to, headers={"authorization": _KEY, **(headers or {})}, body=body, connection=connection)


def _headers(running: Mesh) -> dict[str, Any]:
    """Sends headers that only the edge may write, and looks at what reaches a replica."""
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    came = running.outside.inside(lambda: _ask(running, "u", {**_HOSTILE, "traceparent": trace})).told[
        "headers"
    ]
    preview = running.outside.inside(lambda: _ask(running, "u", {"x-deepwell-release": "candidate"})).told
    kept = [name for name, value in _HOSTILE.items() if came.get(name.lower()) == value]
    return {
        "outside_headers": len(_HOSTILE),
        "outside_headers_kept": len(kept),
        "release_passed_on": int(
            came.get("x-deepwell-release") == "current"
            and preview["headers"].get("x-deepwell-release") == "candidate"
        ),
        "trace_passed_on": int(came.get("traceparent") == trace),
        "preview_by_header": int(preview["name"].startswith("candidate")),
    }


def _weights(running: Mesh, report: Report, users: int) -> dict[str, Any]:
    """Sets shares one after the other; each user asks once a share, and stays with the candidate from then on."""
    rows: list[tuple[str, int, str]] = []
    outside = wrong = left = 0
    with_candidate: set[str] = set()
    for share in SHARES:
        running.set(replace(running.traffic(share), rollout=_ROLLOUT))
        sides = running.outside.inside(lambda: _sides(running, users))
        chosen = {user for user, candidate in sides.items() if candidate}
        wrong += sum(
            (takes_candidate(_ROLLOUT, share, LOCAL, identity_of(user, ""))) != candidate
            for user, candidate in sides.items()
        )
        left += len(with_candidate - chosen)
        with_candidate = chosen
        half = 1.96 * math.sqrt(users * share * (1 - share))
        low, high = users * share - half, users * share + half
        outside += not low <= len(chosen) <= high
        rows.append((f"{share:.0%}", len(chosen), f"{low:.0f} to {high:.0f}"))
    running.set(running.traffic(0))
    report.table(f"Users of {users} with the candidate", ("share", "users", "binomial interval"), rows)
    return {
        "shares": len(SHARES),
        "shares_outside_interval": outside,
        "users_on_another_side_than_computed": wrong,
        "users_that_left_the_candidate": left,
    }


def _sides(running: Mesh, users: int) -> dict[str, bool]:
    connection = http.client.HTTPConnection(running.front.address, EDGE_PORT, timeout=20)
    with contextlib.closing(connection):
        return {
            user: _ask(running, user, connection=connection).told["name"].startswith("candidate")
            for user in (f"user-{number}" for number in range(users))
        }


def _deaths(running: Mesh) -> dict[str, Any]:
    """Kills a machine, and then a replica behind its sidecar, while requests come; another replica answers them."""
    first, second = (node for node in running.nodes if node.release == "current")
    ejected = running.stat("cluster.current.outlier_detection.ejections_enforced_total")
    failed = running.outside.inside(lambda: _failed_while(running, lambda: second.kill(sidecar=True)))
    dead = running.stat("cluster.current.membership_healthy")
    ejected = running.stat("cluster.current.outlier_detection.ejections_enforced_total") - ejected
    running.start(second, echo_command)
    running.healthy(len(running.nodes))
    failed += running.outside.inside(lambda: _failed_while(running, lambda: first.kill(sidecar=False)))
    running.start(first, echo_command)
    running.healthy(len(running.nodes))
    return {
        "deaths": 2,
        "requests_failed_by_deaths": failed,
        "ejections": ejected,
        "healthy_of_2_with_one_dead": dead,
        "retries": running.stat("cluster.current.upstream_rq_retry"),
    }


def _failed_while(running: Mesh, kill: Callable[[], None], *, requests: int = 300, clients: int = 4) -> int:
    """Returns how many requests fail; a third of them is sent before the death."""
    begun = threading.Event()
    died = threading.Thread(target=lambda: (begun.wait(), kill()))
    died.start()
    failed = 0
    for number in range(requests):
        if number == requests // 3:
            begun.set()
        try:
            failed += _ask(running, f"user-{number % clients}").status != http.client.OK
        except (OSError, http.client.HTTPException):
            failed += 1
    died.join()
    return failed


def _latency(
    running: Mesh, report: Report, model: Path, folder: Path, rate: float, seconds: float
) -> dict[str, Any]:
    """Loads the paced engine alone, and behind edge, sidecar and server; returns the difference of the medians."""
    client = load_client()
    for node in running.nodes:
        node.kill(sidecar=False)
        running.start(node, paced_replica(model, folder, FIRST_MS, TOKEN_MS, TOKENS))
    running.healthy(len(running.nodes))
    body = folder / "body"
    request = {
        "model": "paced",
        "messages": [{"role": "user", "content": "Why is the sky blue?"}],
        "user": "u",
    }
    body.write_text(json.dumps({**request, "max_tokens": TOKENS, "stream": True}), encoding="utf-8")
    bare = paced_command(model, first_ms=FIRST_MS, token_ms=TOKEN_MS, tokens=TOKENS, how="bare")
    running.front.start(bare(BARE_PORT), log="bare")
    running.front.wait("the bare engine", lambda: ask(Endpoint("127.0.0.1", BARE_PORT), "/").status == 200)

    def load(port: int, duration: float) -> tuple[list[float], int]:
        return running.front.inside(lambda: run_load(client, port, rate, duration, body))

    times: dict[str, list[float]] = {"bare": [], "mesh": []}
    failed = 0
    for port in (BARE_PORT, EDGE_PORT):
        load(port, 2)  # connections made, code paths warm
    busy = Busy()
    for name, port, duration in (
        ("bare", BARE_PORT, seconds / 2),
        ("mesh", EDGE_PORT, seconds),
        ("bare", BARE_PORT, seconds / 2),
    ):
        came, lost = load(port, duration)
        times[name] += came
        failed += lost
    busy_share = busy.share()
    rows = [
        (name, *(f"{percentile(came, share):.2f}" for share in (0.5, 0.95, 0.99)))
        for name, came in times.items()
    ]
    report.table(
        f"First token at {rate:g} requests/s, ms (the engine takes {FIRST_MS:g})",
        ("", "p50", "p95", "p99"),
        rows,
    )
    p50 = percentile(times["mesh"], 0.5) - percentile(times["bare"], 0.5)
    return {
        "overhead_p50_ms": rounded(p50),
        "overhead_p95_ms": rounded(percentile(times["mesh"], 0.95) - percentile(times["bare"], 0.95)),
        "guide_p50_ms": 120,
        "requests_failed_under_load": failed,
        "cpu_busy": rounded(busy_share, 3),
    }
