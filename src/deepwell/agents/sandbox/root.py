"""The root of a sandbox: the parts of this machine that Python's standard library needs, and the commands that enter it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Final, Literal

from deepwell.agents.sandbox.limits import SandboxLimits, SandboxUnavailable
from deepwell.process.confinement.launch import (
    DEVICES,
    Plan,
    Root,
    base_python,
    bubblewrap_command,
    enter_command,
)

__all__ = ["PROGRAM", "WAYS", "WORK", "Way", "program_environ", "sandbox_command"]

Way = Literal["bubblewrap", "namespaces"]

WAYS: Final[tuple[Way, ...]] = ("bubblewrap", "namespaces")
WORK: Final = "/work"
PROGRAM: Final = ("/python/bin/python", "-B", "-s", "-u", "-X", "utf8")
_INSIDE: Final = "/inside.py"
_HERE: Final = Path(__file__).parent
_ZONES: Final = "/usr/share/zoneinfo"
_PROBE_S: Final = 30.0


def program_environ() -> dict[str, str]:
    """Returns the whole environment of a program in a sandbox."""
    return {
        "HOME": WORK,
        "LANG": "C.UTF-8",
        "LD_LIBRARY_PATH": _library_path(),
        "PATH": "/python/bin",
        "PYTHONHOME": "/python",
        "TMPDIR": WORK,
    }


def sandbox_command(way: Way, limits: SandboxLimits) -> list[str]:
    """Returns the command that makes a sandbox and starts `inside.py` in it.

    Raises:
        SandboxUnavailable: the way needs what this machine does not have.
    """
    if sys.platform != "linux":
        raise SandboxUnavailable.of("sandbox_not_linux", system=platform.system())
    inside = [PROGRAM[0], "-I", "-S", "-B", _INSIDE]
    root, environ = _root(), {"LD_LIBRARY_PATH": _library_path(), "LANG": "C.UTF-8"}
    if way == "bubblewrap":
        program = shutil.which("bwrap")
        if program is None:
            raise SandboxUnavailable.of("sandbox_unavailable", reason="bubblewrap is not installed")
        if os.geteuid() == 0:
            raise SandboxUnavailable.of(
                "sandbox_unavailable", reason="under bubblewrap root's programs have no limit of threads"
            )
        # The work folder is mounted from inside, with a bound on its files; the capability is dropped after that.
        options = ["--as-pid-1", "--cap-add", "CAP_SYS_ADMIN", "--clearenv"]
        for name, value in environ.items():
            options += ["--setenv", name, value]
        root = replace(root, folder=(WORK, 0, 0))
        return bubblewrap_command(
            program, root, [*inside, str(limits.folder_bytes), str(limits.files)], options
        )
    folder = (WORK, limits.folder_bytes, limits.files)
    plan = Plan(
        inside,
        replace(root, folder=folder),
        init=False,
        landlock=[("/", "read"), *((one, "write") for one in (WORK, *root.devices))],
        environ=environ,
    )
    return enter_command(plan)


def _placed(library: str) -> str:
    """Returns where a shared library appears: those of the system where they lie, for the loader has its path built in."""
    return library if library.startswith(("/lib", "/usr/lib")) else f"/python/shared/{Path(library).name}"


def _library_path() -> str:
    """Returns the folders of the new root with shared libraries."""
    shared = (target for _, target in _root().binds if not target.startswith((PROGRAM[0], _INSIDE, _ZONES)))
    return ":".join(dict.fromkeys(str(Path(target).parent) for target in shared if ".so" in target))


@cache
def _root() -> Root:
    command = [base_python(), "-I", "-S", "-B", str(_HERE / "libraries.py")]
    try:
        told = subprocess.run(command, capture_output=True, check=True, env={}, timeout=_PROBE_S).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise SandboxUnavailable.of(
            "sandbox_unavailable", reason=f"Python cannot list its libraries: {error}"
        ) from error
    parts = json.loads(told)
    library = f"/python/{parts['target']}"
    binds = [(parts["program"], PROGRAM[0]), (parts["library"], library), (str(_HERE / "inside.py"), _INSIDE)]
    binds += [(source, _placed(target)) for target, source in parts["libraries"].items()]
    if Path(_ZONES).is_dir():
        binds.append((os.path.realpath(_ZONES), _ZONES))
    hidden = [name for name in ("site-packages", "dist-packages") if (Path(parts["library"]) / name).is_dir()]
    return Root(
        tuple(dict.fromkeys(binds)),
        devices=tuple(one for one in DEVICES if Path(one).exists()),
        hidden=tuple(f"{library}/{name}" for name in hidden),
    )
