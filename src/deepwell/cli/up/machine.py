"""The machine as `deepwell up` finds it: a container, modules, free ports."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from deepwell.errors import PortInUse

if TYPE_CHECKING:
    from deepwell.settings import Settings

__all__ = ["claim_port", "has_modules", "is_container"]

_MARKS = (Path("/run/.containerenv"), Path("/.dockerenv"))  # of podman and of docker


def is_container(settings: Settings) -> bool:
    """Returns whether this process runs in a container: as the setting says, else by the marks of podman and docker."""
    return settings.container if settings.container is not None else any(one.exists() for one in _MARKS)


def has_modules(*names: str) -> bool:
    """Returns whether modules can be imported, without importing them."""
    return all(find_spec(name) is not None for name in names)


def claim_port(title: str, host: str, port: int, option: str, leave_out: str = "") -> int:
    """Returns a port on which nobody listens: the one that was asked for, or any free one for 0.

    Args:
        title: name of the part in the error.
        option: the option that moves it.
        leave_out: the option that does without this part, if there is one.

    Raises:
        PortInUse: another process listens there. The message names it.
        InvalidSettings: as `bind` says.
    """
    from deepwell.server.http.listen import bind, port_owner

    try:
        with bind(host, port) as listener:
            return int(listener.getsockname()[1])
    except PortInUse:
        fixes = f"{option} {port + 1}"
        raise PortInUse.of(
            "up_port_taken",
            title=title,
            port=port,
            owner=port_owner(port),
            fixes=f"{fixes} or {leave_out}" if leave_out else fixes,
            fixes_zh=f"{fixes} 或 {leave_out}" if leave_out else fixes,
        ) from None
