"""Machines of a fleet as network namespaces of this one: each has an address of its own, and programs that run there."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

from deepwell_bench.harness.environments import PeerError

__all__ = ["NETWORK", "Machine", "machines"]

_T = TypeVar("_T")
_NEWNET: Final = 0x40000000  # CLONE_NEWNET
NETWORK: Final = "198.18.7"  # of the range that RFC 2544 keeps for benchmarks
START_SECONDS: Final = 120


class Machine:
    """One namespace. Programs that were started there end with it.

    Attributes:
        name: name of the namespace.
        address: its address in the network of the fleet.
    """

    def __init__(self, name: str, address: str, folder: Path, cable: tuple[str, str]) -> None:
        """Names a machine. `cable`: namespace of the bridge, and the end of the machine's cable there."""
        self.name = name
        self.address = address
        self._folder = folder
        self._cable = cable
        self._running: list[subprocess.Popen[bytes]] = []

    def start(
        self, command: Sequence[str | Path], *, log: str, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Starts a program there; what it prints goes into a file of the fleet's folder."""
        with (self._folder / f"{self.name}-{log}.log").open("wb") as stream:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self.name, *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
            )
        self._running.append(process)
        return process

    def inside(self, function: Callable[[], _T]) -> _T:
        """Runs a function in a thread of that namespace: sockets that it opens are there."""
        results: list[_T] = []
        errors: list[BaseException] = []

        def run() -> None:
            try:
                with Path("/run/netns", self.name).open() as handle:
                    libc = ctypes.CDLL(None, use_errno=True)
                    if libc.setns(handle.fileno(), _NEWNET):
                        raise OSError(ctypes.get_errno(), f"the namespace {self.name} cannot be entered")
                results.append(function())
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    def log(self, name: str) -> str:
        """Returns what a program that was started under this name has printed."""
        return (self._folder / f"{self.name}-{name}.log").read_text(errors="replace")

    def cut(self) -> None:
        """Takes the machine off the network: no connection is closed, and what is sent to or by it vanishes."""
        hub, end = self._cable
        _ip("-n", hub, "link", "set", end, "nomaster")

    def join(self) -> None:
        """Brings the machine back to the network."""
        hub, end = self._cable
        _ip("-n", hub, "link", "set", end, "master", "br0", "up")

    def wait(self, what: str, ready: Callable[[], bool]) -> None:
        """Waits until a function that runs there returns true.

        Raises:
            PeerError: it does not within a minute; the message has the end of the logs.
        """

        def polled() -> bool:
            start = time.monotonic()
            while time.monotonic() - start < START_SECONDS:
                with contextlib.suppress(OSError):
                    if ready():
                        return True
                time.sleep(0.05)
            return False

        if not self.inside(polled):
            logs = sorted(self._folder.glob(f"{self.name}-*.log"))
            told = "\n".join(f"{one.name}: {one.read_text(errors='replace')[-400:]}" for one in logs)
            raise PeerError(f"{what} does not start in {self.name}:\n{told}")

    def stop(self, process: subprocess.Popen[bytes], number: int = signal.SIGTERM) -> None:
        """Sends a signal to a program and waits for its end; `ip netns exec` has become the program itself."""
        process.send_signal(number)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._running.remove(process)

    def end(self) -> None:
        """Ends what still runs there."""
        for process in list(self._running):
            self.stop(process)


@contextlib.contextmanager
def machines(names: Sequence[str], folder: Path) -> Iterator[dict[str, Machine]]:
    """Yields machines by name, joined by a bridge that lies in a namespace of its own; all are gone afterwards.

    Raises:
        PeerError: this user may not make namespaces, or `ip` is missing.
    """
    if shutil.which("ip") is None:
        raise PeerError("`ip` is not installed", fix="apt-get install --no-install-recommends iproute2")
    prefix = f"dw{os.getpid()}"
    hub = f"{prefix}-hub"
    made: dict[str, Machine] = {}
    try:
        _ip("netns", "add", hub)
        _ip("-n", hub, "link", "add", "br0", "type", "bridge")
        _ip("-n", hub, "link", "set", "br0", "up")
        for number, name in enumerate(names, start=1):
            made[name] = Machine(f"{prefix}-{name}", f"{NETWORK}.{number}", folder, (hub, f"v{number}"))
            _join(made[name], hub, number)
        yield made
    finally:
        for one in made.values():
            one.end()
        for name in (*(one.name for one in made.values()), hub):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def _join(machine: Machine, hub: str, number: int) -> None:
    _ip("netns", "add", machine.name)
    _ip("-n", hub, "link", "add", f"v{number}", "type", "veth", "peer", "name", "eth0", "netns", machine.name)
    machine.join()
    _ip("-n", machine.name, "address", "add", f"{machine.address}/24", "dev", "eth0")
    for device in ("lo", "eth0"):
        _ip("-n", machine.name, "link", "set", device, "up")


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise PeerError(
            f"`ip {' '.join(arguments)}` fails: {done.stderr.strip()}",
            fix="run it as root, where namespaces are allowed",
        )
