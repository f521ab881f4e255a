"""Podman as a benchmark uses it: images built from this checkout, containers that are gone afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import subprocess
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import httpx

from deepwell_bench.harness.assets import repository
from deepwell_bench.harness.environments import PeerError

__all__ = ["LOCAL_BASE", "build", "container", "image_bytes", "inspect", "needs_podman", "podman", "wait_for"]

LOCAL_BASE = "localhost/debian:trixie"
_BRING = "apt-get install --no-install-recommends podman buildah runc nftables"
_OFFLINE = (
    f"with no image registry in reach, make a base of Debian's packages: `debootstrap --variant=minbase trixie rootfs && "
    f"tar -C rootfs -c . | podman import - {LOCAL_BASE}`; --secret passes pip's configuration on"
)
_PIP_FILES = ("/etc/pip.conf", "~/.config/pip/pip.conf")
_QUIET = {"PODMAN_IGNORE_CGROUPSV1_WARNING": "1"}


def needs_podman() -> None:
    """Does nothing where podman is installed.

    Raises:
        PeerError: it is not.
    """
    if shutil.which("podman") is None:
        raise PeerError("podman is not installed", fix=_BRING)


def podman(*arguments: str | Path, check: bool = True, fix: str = "") -> subprocess.CompletedProcess[str]:
    """Runs podman to its end.

    Raises:
        PeerError: it fails, and `check` is set.
    """
    done = subprocess.run(
        ["podman", *map(str, arguments)],
        cwd=repository(),
        env={**os.environ, **_QUIET},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if check and done.returncode:
        told = (done.stdout + done.stderr).strip()[-800:]
        raise PeerError(f"`podman {' '.join(map(str, arguments[:2]))}` fails: {told}", fix=fix)
    return done


def build(target: str, image: str, *, base: str | None, secrets: Sequence[str]) -> float:
    """Builds a target of the Containerfile and returns the seconds it took.

    Args:
        base: image to build on; None: a local Debian if there is one, else that of the Containerfile.
        secrets: as `podman build --secret` takes them; empty: pip's configuration and the certificates of this machine.

    Raises:
        PeerError: it cannot be built.
    """
    if base is None and podman("image", "exists", LOCAL_BASE, check=False).returncode == 0:
        base = LOCAL_BASE
    arguments = ["--isolation=chroot", "--format=docker", f"--target={target}", f"--tag={image}"]
    arguments += _limits() + ([f"--build-arg=BASE={base}"] if base else [])
    arguments += [f"--secret={one}" for one in (secrets or _secrets())]
    start = time.monotonic()
    podman("build", *arguments, "--file=deploy/Containerfile", ".", fix=_OFFLINE)
    return time.monotonic() - start


def _limits() -> list[str]:
    """Returns the limits of this process as options: podman's own defaults may be above them, and then no step starts."""
    named = {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}
    hard = {name: resource.getrlimit(which)[1] for name, which in named.items()}
    return [f"--ulimit={name}={most}:{most}" for name, most in hard.items() if most != resource.RLIM_INFINITY]


def _secrets() -> list[str]:
    found = [Path(name).expanduser() for name in (os.environ.get("PIP_CONFIG_FILE"), *_PIP_FILES) if name]
    pip = next((path for path in found if path.is_file()), None)
    bundle = os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE")
    return [
        *([f"id=pip,src={pip}"] if pip else []),
        *([f"id=ca,src={bundle}"] if bundle and Path(bundle).is_file() else []),
    ]


def inspect(image: str) -> dict[str, Any]:
    """Returns what podman knows of an image."""
    return json.loads(podman("image", "inspect", image).stdout)[0]


def image_bytes(image: str) -> int:
    """Returns the size of an image with all its layers."""
    return int(inspect(image)["Size"])


@contextlib.contextmanager
def container(image: str, *command: str, options: Sequence[str]) -> Generator[str]:
    """Yields the id of a container that runs in the background; it and its unnamed volumes are gone afterwards."""
    started = podman("run", "--detach", *options, image, *command).stdout.strip()
    try:
        yield started
    finally:
        podman("rm", "--force", "--volumes", "--time=10", started, check=False)


def wait_for(url: str, running: str, *, seconds: float) -> float:
    """Waits until a URL answers with 200, and returns the seconds it took.

    Raises:
        PeerError: the container ends before, or the time is over.
    """
    start = time.monotonic()
    while True:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url, timeout=5, trust_env=False).status_code == httpx.codes.OK:
                return time.monotonic() - start
        state = podman("inspect", "--format={{.State.Running}}", running).stdout.strip()
        if state != "true" or time.monotonic() - start > seconds:
            logs = podman("logs", running, check=False)
            raise PeerError(f"{url} does not answer:\n{(logs.stdout + logs.stderr)[-800:]}")
        time.sleep(0.1)
