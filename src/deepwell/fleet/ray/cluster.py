"""`Cluster`: a connection to a Ray cluster, or a cluster of this machine alone that lives as long as the connection."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from threading import Thread
from types import ModuleType
from typing import Any

from deepwell.errors import InvalidRequest, MissingDependency
from deepwell.fleet.ray.greeting import CLIENT, ClusterUnavailable, greet

__all__ = ["CLIENT", "Cluster", "ClusterUnavailable", "Node", "import_ray"]

_RECONNECT_S = "20"
_CONNECT_S = 90.0  # a cluster that is there begins a process for a client, which takes some seconds
_STARTS = 3  # attempts of a cluster to make this process: measured on two cores, 2 of some 30 died at once


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of the cluster.

    Attributes:
        memory_bytes: the memory that Ray gives to tasks there.
    """

    id: str
    cpus: float
    memory_bytes: float


def import_ray() -> ModuleType:
    """Imports Ray, which then tells nobody about its use.

    Raises:
        MissingDependency: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_CLIENT_RECONNECT_GRACE_PERIOD", _RECONNECT_S)
    try:
        import ray
    except ImportError:
        command = f"{sys.executable} -m pip install 'deepwell[ray]'"
        raise MissingDependency.of("ray_extra_missing", command=command) from None
    return ray


class Cluster:
    """A connection to a cluster.

    Args:
        address: `ray`: the cluster that `RAY_ADDRESS` names, else the one that runs on this machine, else one of this machine
            alone, which ends with the connection; or `ray://HOST:PORT`: a cluster elsewhere.
        must_run: whether it is an error that no cluster is named or runs here, instead of one being made.
        niceness: niceness of processes of a cluster that is made here; None: Ray's own, 15. `RAY_worker_niceness` overrides it.

    Raises:
        MissingDependency: Ray is not installed.
        InvalidRequest: there is no such form of address.
        ClusterUnavailable: nothing answers there.
    """

    def __init__(self, address: str = "ray", *, must_run: bool = False, niceness: int | None = None) -> None:
        if address != "ray" and not (address.startswith(CLIENT) and address != CLIENT):
            raise InvalidRequest.of("ray_address_wrong", address=address)
        self.ray: Any = import_ray()
        self.address = address
        self._must_run = must_run
        if niceness is not None:
            os.environ.setdefault("RAY_worker_niceness", str(niceness))
        named = address if address.startswith(CLIENT) else os.environ.get("RAY_ADDRESS", "")
        if named:
            greet(named)
        try:
            self._connect(named)
        except (OSError, RuntimeError, ValueError, self.ray.exceptions.RayError) as error:
            told = " ".join(str(error).split())[:300]
            raise ClusterUnavailable.of("ray_unreachable", address=named or address, reason=told) from None

    def _connect(self, named: str) -> None:
        """Connects to the cluster of an address, or to the one of this machine, or makes one."""
        quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
        if named:
            self._within(_CONNECT_S, lambda: self._named(named, quiet))
            return
        try:
            self.ray.init(address="auto", **quiet)
        except ConnectionError:
            if self._must_run:
                raise ClusterUnavailable.of("ray_none") from None
            # Nobody looks at the dashboard of a cluster that lives for one command.
            self.ray.init(address="local", include_dashboard=False, **quiet)

    def _named(self, address: str, quiet: dict[str, Any]) -> None:
        """Connects to the cluster of an address. It makes a process for each client, which now and then dies as it is made."""
        for attempt in range(1, _STARTS + 1):
            try:
                self.ray.init(address=address, **quiet)
                return
            except ConnectionAbortedError:
                if attempt == _STARTS:
                    raise
                with suppress(Exception):
                    self.ray.shutdown()

    @staticmethod
    def _within(seconds: float, connect: Callable[[], Any]) -> None:
        """Calls what connects, which may wait for a cluster for ever, and gives up after some time."""
        raised: list[BaseException] = []

        def work() -> None:
            try:
                connect()
            except BaseException as error:
                raised.append(error)

        thread = Thread(target=work, name="ray-connect", daemon=True)
        thread.start()
        thread.join(seconds)
        if thread.is_alive():
            raise TimeoutError(f"it takes connections, and was not ready within {seconds:.0f} s")
        if raised:
            raise raised[0]

    def nodes(self) -> list[Node]:
        """Returns the machines that are there now.

        Raises:
            ClusterUnavailable: the cluster does not answer any more.
        """
        try:
            found: list[dict[str, Any]] = self.ray.nodes()
        except Exception as error:  # Ray's client raises what gRPC raises
            raise self.lost(error) from None
        return [
            Node(one["NodeID"], one["Resources"].get("CPU", 0.0), one["Resources"].get("memory", 0.0))
            for one in found
            if one["Alive"]
        ]

    def lost(self, error: Exception) -> ClusterUnavailable:
        """Returns the error for a cluster that was there and is gone."""
        told = " ".join(str(error).split())[:300] or type(error).__name__
        return ClusterUnavailable.of("ray_lost", address=self.address, reason=told)

    def close(self) -> None:
        """Leaves the cluster, and ends one that was made for the connection."""
        with suppress(Exception):  # what is gone cannot be left
            self.ray.shutdown()
