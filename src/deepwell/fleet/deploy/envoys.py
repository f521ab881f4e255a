"""Files of a mesh on machines of your own, without Kubernetes: an edge, a sidecar for each release, and their certificates."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from deepwell.errors import InvalidRequest
from deepwell.fleet.deploy.certificates import Authority
from deepwell.fleet.deploy.manifests import Rendered
from deepwell.fleet.deploy.mesh import (
    RELEASES,
    Edge,
    Endpoint,
    Release,
    Sidecar,
    Traffic,
    write_edge,
    write_sidecar,
    write_traffic,
)

__all__ = ["SIDECAR_PORT", "parse_replicas", "render_envoys"]

SIDECAR_PORT: Final = 15006
"""Port of a sidecar where none is named."""
_EVERYWHERE: Final = "0.0.0.0"  # noqa: S104
_REPLICA: Final = re.compile(r"(current|candidate)=([0-9.]+|\[[0-9a-fA-F:]+\])(?::(\d{1,5}))?")


def parse_replicas(named: Sequence[str]) -> dict[Release, list[Endpoint]]:
    """Reads replicas as the command line names them: RELEASE=ADDRESS or RELEASE=ADDRESS:PORT, of their sidecars.

    Raises:
        InvalidRequest: one is written in another way, or the current release has none.
    """
    found: dict[Release, list[Endpoint]] = {"current": [], "candidate": []}
    for one in named:
        parts = _REPLICA.fullmatch(one)
        port = int(parts[3] or SIDECAR_PORT) if parts else 0
        if parts is None or not 0 < port < 1 << 16:
            raise InvalidRequest(
                f"{one!r} names no replica",
                fix="write current=ADDRESS:PORT or candidate=ADDRESS:PORT, of its sidecar",
            )
        release: Release = "current" if parts[1] == "current" else "candidate"
        found[release].append(Endpoint(parts[2].strip("[]"), port))
    if not found["current"]:
        raise InvalidRequest(
            "the current release has no replicas", fix="name each: --replica current=ADDRESS:PORT"
        )
    return found


def render_envoys(folder: Path, traffic: Traffic, *, port: int, replica_port: int = 8000) -> Rendered:
    """Writes the files of a mesh; where they are already, shares and replicas alone, which a running edge takes over.

    Args:
        folder: folder of the files. It has the key of the authority: it stays on one machine.
        port: port that the edge listens on.
        replica_port: port of a replica on the loopback interface of its machine.

    Raises:
        MissingDependency: openssl is not installed.
        InvalidRequest: the share is none.
    """
    folder = folder.absolute()
    running = (folder / "edge" / "edge.json").is_file()
    authority = folder / "authority"
    if running:
        edge = Edge(
            Endpoint(_EVERYWHERE, port), Authority(authority).known("edge"), folder / "edge" / "admin.sock"
        )
        names = write_traffic(edge, traffic, folder / "edge")
        return Rendered(tuple(folder / "edge" / f"{name}.json" for name in names), ())
    signing = Authority(authority)
    edge = Edge(Endpoint(_EVERYWHERE, port), signing.identity("edge"), folder / "edge" / "admin.sock")
    files = [write_edge(edge, traffic, folder / "edge")]
    for release in RELEASES:
        place = folder / release
        sidecar = Sidecar(
            Endpoint(_EVERYWHERE, SIDECAR_PORT),
            replica_port,
            signing.identity(release),
            place / "admin.sock",
        )
        files.append(write_sidecar(sidecar, place / "sidecar.json"))
    return Rendered(tuple(files), tuple(f"envoy -c {shlex.quote(str(file))}" for file in files))
