"""Podman as a deployment uses it: short commands that are run to their end."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import Any, Final

from deepwell.errors import EngineUnavailable, InvalidRequest

__all__ = ["ENVIRON", "container_states", "find_podman", "has_image", "podman"]

ENVIRON: Final = ("PATH", "HOME", "LANG", "TZ", "XDG_RUNTIME_DIR", "CONTAINERS_CONF", "TMPDIR")
"""Variables that podman needs of this process; no other is passed on."""

_PATIENCE_S: Final = 120.0
_SAID: Final = 500


def find_podman() -> str:
    """Returns the path of podman.

    Raises:
        InvalidRequest: it is not installed.
    """
    found = shutil.which("podman")
    if found is None:
        raise InvalidRequest.of("deploy_no_podman")
    return found


def environ_of_podman() -> dict[str, str]:
    """Returns the environment of its commands, with no secret of this process."""
    kept = {name: value for name in ENVIRON if (value := os.environ.get(name)) is not None}
    return {**kept, "PODMAN_IGNORE_CGROUPSV1_WARNING": "1"}


def podman(*arguments: str, given: str | None = None, seconds: float = _PATIENCE_S) -> str:
    """Runs podman and returns what it prints.

    Args:
        given: what it reads; a secret is passed on so, and in no argument.

    Raises:
        InvalidRequest: podman is not installed.
        EngineUnavailable: it fails, or takes too long.
    """
    command = [find_podman(), *arguments]
    try:
        done = subprocess.run(
            command,
            input=given or "",
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            env=environ_of_podman(),
        )
    except subprocess.TimeoutExpired:
        reason = f"it has not ended after {seconds:g} s"
        raise EngineUnavailable.of("deploy_podman", what=" ".join(arguments[:2]), reason=reason) from None
    if done.returncode:
        reason = done.stderr.strip()[-_SAID:] or f"exit {done.returncode}"
        raise EngineUnavailable.of("deploy_podman", what=" ".join(arguments[:2]), reason=reason)
    return done.stdout


def has_image(image: str) -> bool:
    """Returns whether an image is on this machine."""
    command = [find_podman(), "image", "exists", image]
    return subprocess.run(command, check=False, capture_output=True, env=environ_of_podman()).returncode == 0


def container_states(pod: str) -> dict[str, str]:
    """Returns the states of the containers of a pod by name, such as `running`.

    Raises:
        EngineUnavailable: podman does not tell.
    """
    found: list[dict[str, Any]] = json.loads(podman("ps", "--all", f"--filter=pod={pod}", "--format=json"))
    return {str(one["Names"][0]): str(one["State"]) for one in found if not one.get("IsInfra")}
