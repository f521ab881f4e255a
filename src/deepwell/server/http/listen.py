"""The server's socket. It is bound before the model loads. If its port is taken, the error names the owner."""

from __future__ import annotations

import errno
import ipaddress
import resource
import socket
from contextlib import suppress
from pathlib import Path

from deepwell.errors import PortInUse
from deepwell.settings import InvalidSettings

__all__ = ["bind", "local_url", "port_owner", "raise_descriptor_limit", "url_of"]

_LISTEN = "0A"  # the state column of /proc/net/tcp
_MOST_DESCRIPTORS = 65_536  # programs that are started inherit the limit, and some walk through all of it


def bind(host: str, port: int) -> socket.socket:
    """Returns a bound socket that does not listen yet: connections are refused until the server is ready.

    Raises:
        PortInUse: another process listens there. The message names it.
        InvalidSettings: `host` is not an address of this machine, or the port needs privileges.
    """
    try:
        family, _, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise InvalidSettings(f"{host!r} is not an address: {error}", fix="use --host 127.0.0.1") from None
    # The protocol must be named: asyncio sets TCP_NODELAY only on sockets that say TCP. Without it, the second write of
    # every response waits 40 ms for the client's delayed acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, protocol)
    # Otherwise a restart would have to wait until the last run's connections leave TIME_WAIT.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(
                f"port {port} of {host} is taken by {port_owner(port)}",
                fix=f"use another one: --port {port + 1}, or DEEPWELL_PORT={port + 1} in front of make",
            ) from None
        if error.errno == errno.EACCES:
            raise InvalidSettings(
                f"port {port} needs privileges", fix="use one above 1023: --port 8000"
            ) from None
        raise InvalidSettings(f"cannot bind {host}: {error.strerror}", fix="use --host 127.0.0.1") from None
    return listener


def raise_descriptor_limit() -> None:
    """Raises this process's limit of open files as far as the system lets it. Most systems start programs with 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def port_owner(port: int) -> str:
    """Returns the owner of a local TCP port: `pid 123 (command line)`, or `an unknown process` if /proc does not tell."""
    inodes = _listening_inodes(port)
    if inodes:
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # the process has ended, or is another user's
                for descriptor in (process / "fd").iterdir():
                    if str(descriptor.readlink()) in inodes:
                        command = (
                            (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                        )
                        return f"pid {process.name} ({command.strip()[:120]})"
    return "an unknown process"


def _listening_inodes(port: int) -> set[str]:
    inodes: set[str] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
    return inodes


def url_of(listener: socket.socket) -> str:
    """Returns the URL at which clients on this machine reach the listener."""
    host, port = listener.getsockname()[:2]
    return local_url(host, port)


def local_url(host: str, port: int) -> str:
    """Returns the URL at which clients on this machine reach a server that binds `host`."""
    with suppress(ValueError):
        if ipaddress.ip_address(host).is_unspecified:
            host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
