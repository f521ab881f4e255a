"""`greet`: asks a port once, within seconds, whether a Ray cluster answers there and whether it wants its token.

Ray itself tries a wrong port for half a minute and longer, and says `connection timeout` where it was refused for want of a
token.
"""

# pyright: reportMissingImports=false, reportMissingTypeStubs=false, reportUnknownMemberType=false
from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

from deepwell.errors import DeepwellError

__all__ = ["CLIENT", "ClusterUnavailable", "greet", "token_of"]

CLIENT = "ray://"
"""Beginning of the address of a cluster that this machine is no part of."""

_GREET_S = 10.0
_MODE = "RAY_AUTH_MODE"
# One harmless question for each kind of port: the ping of Ray's client, and the question whether nodes are alive.
_CLIENT_PING = ("/ray.rpc.RayletDriver/ClusterInfo", b"\x08\x06")
_ALIVE = ("/ray.rpc.NodeInfoGcsService/CheckAlive", b"")


class ClusterUnavailable(DeepwellError):
    """Raised where a cluster cannot be reached, or cannot do a work."""

    status = 503


def greet(address: str) -> None:
    """Asks whether a cluster answers at an address; where it wants its token, makes Ray send it.

    The token is sent only to a cluster that refused a question without one. Other forms of addresses than HOST:PORT are
    left to Ray, and so are connections by TLS.

    Args:
        address: `ray://HOST:PORT`, or HOST:PORT of a head.

    Raises:
        ClusterUnavailable: nothing answers, something else than Ray, or a cluster that refuses the token or wants one.
    """
    where = address.removeprefix(CLIENT)
    host, colon, port = where.rpartition(":")
    if not (colon and port.isascii() and port.isdigit()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_GREET_S).close()
    except (OSError, OverflowError) as error:
        raise ClusterUnavailable.of("ray_unreachable", address=address, reason=error) from None
    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        return
    question = _CLIENT_PING if address.startswith(CLIENT) else _ALIVE
    mode = os.environ.get(_MODE, "").lower()
    token = token_of() if mode != "disabled" else ""
    said = _ask(where, question, token if mode == "token" else "")
    if said == "UNAUTHENTICATED" and not mode and token:
        said = _ask(where, question, token)
        if said == "OK":
            _send_token()
    if said == "UNAUTHENTICATED":
        raise ClusterUnavailable.of("ray_token_refused" if token else "ray_token_missing", address=address)
    if said != "OK":
        raise ClusterUnavailable.of("ray_port_wrong", address=address, reason=said)


def token_of() -> str:
    """Returns the token that Ray finds on this machine, where Ray looks for it; empty: there is none."""
    if given := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return given
    named = os.environ.get("RAY_AUTH_TOKEN_PATH", "")
    path = Path(named) if named else Path.home() / ".ray" / "auth_token"
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _ask(where: str, question: tuple[str, bytes], token: str) -> str:
    """Asks a question of gRPC and returns the word of its status."""
    import grpc

    method, body = question
    metadata = [("client_id", "deepwell-greeting")]
    if token:
        if not (token.isascii() and token.isprintable()):  # no header carries it
            return "UNAUTHENTICATED"
        metadata.append(("authorization", f"Bearer {token}"))
    options = [("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(where, options=options) as channel:
        call: Any = channel.unary_unary(method)
        try:
            call(body, timeout=_GREET_S, metadata=metadata)
        except grpc.RpcError as error:
            state: Any = error
            return str(state.code().name)
    return "OK"


def _send_token() -> None:
    """Makes Ray send its token, which it does by itself only to a cluster of the same machine."""
    os.environ[_MODE] = "token"
    if (loaded := sys.modules.get("ray._raylet")) is not None:
        config: Any = loaded
        config.Config.initialize("")  # it has read the mode already
