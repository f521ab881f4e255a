"""The environments that other engines run in: built once into the cache, announced before, never mixed with Deepwell's own."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from deepwell.errors import DeepwellError
from deepwell_bench.harness.assets import bench_cache

__all__ = [
    "CPU_TORCH",
    "Environment",
    "Install",
    "PeerError",
    "build_lock",
    "build_step",
    "environment_python",
]

TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"


class PeerError(DeepwellError):
    """The peer cannot be built, run, or compared with fairly."""

    type = "peer_error"


@dataclass(frozen=True, slots=True)
class Install:
    """One `pip install`; where it fails and there is an `otherwise`, that is tried instead."""

    arguments: tuple[str, ...]
    otherwise: tuple[str, ...] = ()


def cpu_torch(version: str) -> Install:
    """Returns the CPU build of torch: from what pip is set up to see, else from the index of the PyTorch project.

    The default build of the package index brings gigabytes of CUDA libraries.
    """
    if sys.platform != "linux":
        return Install((f"torch=={version}",))
    wanted = f"torch=={version}+cpu"
    return Install((wanted,), (wanted, "--extra-index-url", TORCH_CPU_INDEX))


CPU_TORCH = cpu_torch("2.13.0")


@dataclass(frozen=True, slots=True)
class Environment:
    """The recipe of one engine's environment, and what it costs to make."""

    name: str
    variable: str  # names an interpreter that has the engine already
    installs: tuple[Install, ...]
    check: str  # a program that fails where the environment is not usable
    download_mb: int
    disk_mb: int
    minutes: float
    uninstall: tuple[str, ...] = ()
    folder: str = ""  # below the cache; unset: environments/NAME

    @property
    def home(self) -> Path:
        """Returns the folder it is built in."""
        return bench_cache() / (self.folder or f"environments/{self.name}")

    def recipe(self) -> str:
        """Returns the stamp of a finished build: another recipe, or another Python, means another build."""
        steps = [[*install.arguments, *install.otherwise] for install in self.installs]
        return json.dumps({"python": sys.version_info[:2], "installs": steps, "uninstall": self.uninstall})


def environment_python(environment: Environment, console: Console) -> Path:
    """Returns the interpreter that has the engine: the one named by the variable, or of the environment, built on first use.

    A build that was interrupted goes on where it stopped: what pip has installed stays, what it has fetched is in its cache.

    Raises:
        PeerError: the interpreter that the variable names is missing, or the build failed.
    """
    if named := os.environ.get(environment.variable):
        if not os.access(named, os.X_OK):
            raise PeerError(
                f"{environment.variable} is {named}, which cannot be run",
                fix=f"name a Python executable, or unset {environment.variable}",
            )
        return Path(named)
    home = environment.home
    stamp, python = home / "built", home / "bin" / "python"
    with build_lock(home):
        if stamp.exists() and stamp.read_text(encoding="utf-8") == environment.recipe() and python.exists():
            return python
        console.print(
            f"Building the {environment.name} environment in {home}: {environment.download_mb} MB to download, "
            f"{environment.disk_mb} MB on disk, about {environment.minutes:g} minutes, once.",
            markup=False,
            soft_wrap=True,
        )
        start = time.monotonic()
        _build(environment, python, console)
        stamp.write_text(environment.recipe(), encoding="utf-8")
        console.print(
            f"Built the {environment.name} environment in {(time.monotonic() - start) / 60:.1f} minutes."
        )
    return python


@contextlib.contextmanager
def build_lock(home: Path) -> Generator[None]:
    """Makes a folder and holds its lock: two benchmarks that start together must not build into one."""
    home.mkdir(parents=True, exist_ok=True)
    with home.with_name(f"{home.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(environment: Environment, python: Path, console: Console) -> None:
    log = environment.home / "build.log"
    log.unlink(missing_ok=True)
    recorded = environment.home / "python"
    version = json.dumps(sys.version_info[:2])
    if not python.exists() or not recorded.exists() or recorded.read_text(encoding="utf-8") != version:
        _step(environment, [sys.executable, "-m", "venv", "--clear", str(environment.home)], log, console)
        recorded.write_text(version, encoding="utf-8")
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input"]
    for install in environment.installs:
        try:
            _step(environment, [*pip, "install", *install.arguments], log, console)
        except PeerError:
            if not install.otherwise:
                raise
            _step(environment, [*pip, "install", *install.otherwise], log, console)
    if environment.uninstall:
        _step(environment, [*pip, "uninstall", "-y", *environment.uninstall], log, console)
    _step(environment, [str(python), "-c", environment.check], log, console)


def _step(environment: Environment, command: Sequence[str], log: Path, console: Console) -> None:
    fix = f"see {log}; run the command again to go on, or name a Python that has it in {environment.variable}"
    build_step(f"{environment.name} environment", command, log, console, fix=fix)


def build_step(
    name: str, command: Sequence[str], log: Path, console: Console, *, fix: str, cwd: Path | None = None
) -> None:
    """Runs one command of a build, its output in the log and, on a terminal, its last line beside a spinner.

    Raises:
        PeerError: it failed; the message ends with what it said last.
    """
    said: list[str] = []
    with (
        log.open("a", encoding="utf-8") as stream,
        console.status(f"{name}: {' '.join(command[-2:])}") as status,
    ):
        stream.write(f"$ {' '.join(command)}\n")
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                cwd=cwd,
            )
        except OSError as error:
            raise PeerError(f"building the {name} failed: {error}") from error
        with process:
            assert process.stdout is not None
            for line in process.stdout:
                stream.write(line)
                stream.flush()
                if text := line.strip():
                    said = [*said[-4:], text]
                    status.update(f"{name}: {re.sub(r'[^ -~]', '', text)[:90]}")
    if process.returncode:
        raise PeerError(f"building the {name} failed:\n" + "\n".join(said), fix=fix)
