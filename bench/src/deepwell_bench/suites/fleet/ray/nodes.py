"""Two Ray nodes on this machine, which lose processes and a node, and the verbs of Deepwell that work on them."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepwell.fleet.ray.cluster import import_ray
from deepwell_bench.harness.environments import PeerError
from deepwell_bench.harness.ports import free_port

__all__ = ["Nodes", "Told", "kept_pieces", "run_verb", "surroundings", "two_nodes"]

_LOOK_S = 0.02
_LIMIT_S = 420
_WORKER_S = 60  # in which a process begins with a piece: it loads a model first
_STORE_BYTES = 256 << 20  # Ray's object store of each node


@dataclass(slots=True)
class Nodes:
    """A head and one further node of a processor each, as processes of this machine."""

    cluster: Any
    lost: int = 0
    other: Any = None
    environment: dict[str, str | None] = field(default_factory=dict[str, "str | None"])
    client_port: int = 0

    def grow(self) -> None:
        """Adds the second node."""
        self.other = self.cluster.add_node(num_cpus=1, object_store_memory=_STORE_BYTES)
        self.cluster.wait_for_nodes()

    def kill_node(self) -> None:
        """Ends the second node and all its processes by SIGKILL."""
        self.cluster.remove_node(self.other, allow_graceful=False)
        self.lost += 1

    def kill_worker(self) -> int:
        """Ends one process that computes a piece by SIGKILL, as soon as there is one; returns how many that were."""
        until = time.monotonic() + _WORKER_S
        while time.monotonic() < until:
            for pid, name in _processes():
                if name.startswith("ray::run_piece") and self._is_mine(pid):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                        return 1
            time.sleep(_LOOK_S / 10)
        return 0

    def _is_mine(self, pid: int) -> bool:
        """Tells a process of these nodes from that of another cluster on this machine: its parent works in their folder."""
        session: str = self.cluster.head_node.get_session_dir_path()
        try:
            parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
            return session in Path(f"/proc/{parent}/cmdline").read_bytes().decode(errors="replace")
        except OSError:
            return False


@dataclass(frozen=True, slots=True)
class Told:
    """The output of a verb, and the seconds that it took."""

    said: dict[str, Any]
    seconds: float


@contextmanager
def two_nodes(folder: Path, *, token: str = "", niceness: int | None = None) -> Iterator[Nodes]:
    """Starts a head and a second node, whose processes keep their data in a folder of the benchmark.

    Args:
        token: the token that they want; the verbs' environment does not have it. Ray must not be loaded before.
        niceness: niceness of their processes; None: Ray's own, 15.
    """
    own = {"DEEPWELL_DATA_DIR": str(folder / "data"), "DEEPWELL_STATE_DIR": str(folder / "state")}
    if niceness is not None:
        own["RAY_worker_niceness"] = str(niceness)
    if token:
        own |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    before = {name: os.environ.get(name) for name in own}
    os.environ.update(own)  # what Ray starts inherits it
    import_ray()
    from ray.cluster_utils import Cluster

    port = free_port()
    head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": _STORE_BYTES}
    made: Any = Cluster(initialize_head=True, head_node_args={**head, "ray_client_server_port": port})
    try:
        nodes = Nodes(made, client_port=port)
        nodes.environment = {"RAY_ADDRESS": str(made.address), "OMP_NUM_THREADS": "1"}
        if token:
            nodes.environment |= {"RAY_AUTH_MODE": None, "RAY_AUTH_TOKEN": None}
        nodes.grow()
        yield nodes
    finally:
        made.shutdown()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def run_verb(
    arguments: Sequence[str],
    environment: Mapping[str, str | None],
    *,
    faults: Sequence[tuple[Callable[[], int], int, Callable[[], None]]] = (),
    stop_at: tuple[Callable[[], int], int] | None = None,
) -> Told:
    """Runs a verb, and does to the cluster what is due at so many finished pieces. With `stop_at`, the verb is killed.

    Raises:
        PeerError: it fails, or takes too long.
    """
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "deepwell", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=surroundings(environment),
    )
    waiting = list(faults)
    while process.poll() is None:
        if stop_at is not None and stop_at[0]() >= stop_at[1]:
            process.kill()
            process.communicate()
            return Told({}, time.perf_counter() - begin)
        if waiting and waiting[0][0]() >= waiting[0][1]:
            waiting.pop(0)[2]()
        if time.perf_counter() - begin > _LIMIT_S:
            process.kill()
            raise PeerError(f"deepwell {arguments[0]} takes more than {_LIMIT_S} s")
        time.sleep(_LOOK_S)
    said, errors = process.communicate()
    if process.returncode:
        raise PeerError(f"deepwell {arguments[0]} failed: {(errors or said)[-500:]}")
    if waiting:
        raise PeerError(f"deepwell {arguments[0]} ended before {len(waiting)} faults were due")
    return Told(json.loads(said.splitlines()[-1]), round(time.perf_counter() - begin, 1))


def surroundings(changes: Mapping[str, str | None]) -> dict[str, str]:
    """Returns the environment of this process with changes; None removes a variable."""
    both: dict[str, str | None] = {**os.environ, **changes}
    return {name: value for name, value in both.items() if value is not None}


def kept_pieces(output: Path) -> Callable[[], int]:
    """Returns a function that counts the finished pieces of a work whose result is to be `output`."""
    folder = output.with_name(f"{output.name}.pieces")

    def count() -> int:
        try:
            return sum(1 for path in folder.iterdir() if path.suffix == ".piece")
        except FileNotFoundError:
            return 0

    return count


def _processes() -> Iterator[tuple[int, str]]:
    """Yields the processes of this machine with the names that they gave themselves."""
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with suppress(OSError):
                yield int(path.name), path.joinpath("cmdline").read_bytes().decode(errors="replace")
