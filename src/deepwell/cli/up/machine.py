"""The machine as `deepwell up` finds it: GPUs, a container, free ports. An option that asks for more is refused."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from deepwell.errors import InvalidRequest, PortInUse
from deepwell.messages import Note

if TYPE_CHECKING:
    from deepwell.settings import Settings

__all__ = ["check_gpus", "check_tensor_parallel", "claim_port", "count_gpus", "has_modules", "is_container"]

_MARKS = (Path("/run/.containerenv"), Path("/.dockerenv"))  # of podman and of docker
_NVIDIA = re.compile(r"nvidia\d+")


def is_container(settings: Settings) -> bool:
    """Returns whether this process runs in a container: as the setting says, else by the marks of podman and docker."""
    return settings.container if settings.container is not None else any(one.exists() for one in _MARKS)


def count_gpus(devices: Path = Path("/dev")) -> int:
    """Returns the number of GPUs that this process can see: NVIDIA's devices, and the render nodes of others."""
    if not devices.is_dir():
        return 0
    nvidia = sum(bool(_NVIDIA.fullmatch(one.name)) for one in devices.iterdir())
    return nvidia or sum(1 for _ in (devices / "dri").glob("renderD*"))


def check_gpus(asked: str | None, present: int) -> tuple[Note, ...]:
    """Returns the warnings about `--gpus`. The engine computes on the processor.

    Raises:
        InvalidRequest: it is neither `all` nor a number, or asks for a number of GPUs that cannot be used.
    """
    if asked is None or asked == "0":
        return ()
    if asked == "all":
        return (Note("up_gpus_unused", {"count": present}) if present else Note("up_gpus_none"),)
    if not asked.isascii() or not asked.isdigit():
        raise InvalidRequest.of("option_value", option="--gpus", value=asked, values="all, 0, 1, 2")
    key = "gpus_missing" if int(asked) > present else "gpus_not_used"
    raise InvalidRequest.of(key, asked=asked, present=present)


def check_tensor_parallel(asked: str | None) -> None:
    """Refuses to split a model over several engines.

    Raises:
        InvalidRequest: it is neither 1 nor `auto`.
    """
    if asked in (None, "auto", "1"):
        return
    if not str(asked).isascii() or not str(asked).isdigit() or int(str(asked)) < 1:
        raise InvalidRequest.of("option_value", option="--tensor-parallel", value=asked, values="auto, 1")
    raise InvalidRequest.of("tensor_parallel", asked=asked)


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
