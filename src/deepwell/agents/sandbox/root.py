"""The root of a sandbox: the parts of this machine that Python's standard library needs, and the commands that enter it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Literal

from deepwell.agents.sandbox.limits import SandboxLimits, SandboxUnavailable

__all__ = ["PROGRAM", "WAYS", "WORK", "Way", "enter_command", "program_environ"]

Way = Literal["bubblewrap", "namespaces"]

WAYS: Final[tuple[Way, ...]] = ("bubblewrap", "namespaces")
WORK: Final = "/work"
PROGRAM: Final = ("/python/bin/python", "-B", "-s", "-u", "-X", "utf8")
_INSIDE: Final = "/inside.py"
_HERE: Final = Path(__file__).parent
_DEVICES: Final = ("/dev/null", "/dev/random", "/dev/urandom")
_ZONES: Final = "/usr/share/zoneinfo"
_PROBE_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class _Root:
    """The parts of the new root.

    Attributes:
        binds: paths of this machine, and where they appear, read-only.
        hidden: folders of the new root that are covered by an empty one: packages that are not of the standard library.
        libraries: folders of the new root with shared libraries.
    """

    binds: tuple[tuple[str, str], ...]
    hidden: tuple[str, ...]
    libraries: str


def program_environ() -> dict[str, str]:
    """Returns the whole environment of a program in a sandbox."""
    return {
        "HOME": WORK,
        "LANG": "C.UTF-8",
        "LD_LIBRARY_PATH": _root().libraries,
        "PATH": "/python/bin",
        "PYTHONHOME": "/python",
        "TMPDIR": WORK,
    }


def enter_command(way: Way, limits: SandboxLimits) -> list[str]:
    """Returns the command that makes a sandbox and starts `inside.py` in it.

    Raises:
        SandboxUnavailable: the way needs what this machine does not have.
    """
    if sys.platform != "linux":
        raise SandboxUnavailable.of("sandbox_not_linux", system=platform.system())
    inside = [PROGRAM[0], "-I", "-S", "-B", _INSIDE]
    if way == "bubblewrap":
        program = shutil.which("bwrap")
        if program is None:
            raise SandboxUnavailable.of("sandbox_unavailable", reason="bubblewrap is not installed")
        if os.geteuid() == 0:
            raise SandboxUnavailable.of(
                "sandbox_unavailable", reason="under bubblewrap root's programs have no limit of threads"
            )
        return _bubblewrap(program, _root(), [*inside, str(limits.folder_bytes), str(limits.files)])
    root = _root()
    plan = {
        "binds": root.binds,
        "devices": _devices(),
        "hidden": root.hidden,
        "folder": (WORK, limits.folder_bytes, limits.files),
        "command": inside,
        "environ": {"LD_LIBRARY_PATH": root.libraries, "LANG": "C.UTF-8"},
    }
    return [_python(), "-I", "-S", "-B", str(_HERE / "spaces.py"), json.dumps(plan)]


def _bubblewrap(program: str, root: _Root, inside: list[str]) -> list[str]:
    command = [
        program,
        "--unshare-all",
        "--unshare-user",
        "--uid",
        "1000",
        "--gid",
        "1000",
        "--hostname",
        "sandbox",
    ]
    command += ["--die-with-parent", "--new-session", "--as-pid-1", "--cap-drop", "ALL"]
    command += [
        "--cap-add",
        "CAP_SYS_ADMIN",
    ]  # to mount the work folder with a bound on its files; dropped after that
    for source, target in root.binds:
        command += ["--ro-bind", source, target]
    for device in _devices():
        command += ["--dev-bind", device, device]
    for target in root.hidden:
        command += ["--tmpfs", target, "--remount-ro", target]
    command += ["--dir", WORK, "--remount-ro", "/", "--chdir", "/", "--clearenv"]
    command += ["--setenv", "LD_LIBRARY_PATH", root.libraries, "--setenv", "LANG", "C.UTF-8"]
    return [*command, "--", *inside]


def _placed(library: str) -> str:
    """Returns where a shared library appears: those of the system where they lie, for the loader has its path built in."""
    return library if library.startswith(("/lib", "/usr/lib")) else f"/python/shared/{Path(library).name}"


def _python() -> str:
    """Returns the Python of which this environment was made: it needs no file of the environment."""
    return os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable)


def _devices() -> list[str]:
    return [device for device in _DEVICES if Path(device).exists()]


@cache
def _root() -> _Root:
    command = [_python(), "-I", "-S", "-B", str(_HERE / "libraries.py")]
    try:
        told = subprocess.run(command, capture_output=True, check=True, env={}, timeout=_PROBE_S).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise SandboxUnavailable.of(
            "sandbox_unavailable", reason=f"Python cannot list its libraries: {error}"
        ) from error
    parts = json.loads(told)
    library = f"/python/{parts['target']}"
    binds = [(parts["program"], PROGRAM[0]), (parts["library"], library), (str(_HERE / "inside.py"), _INSIDE)]
    libraries = {_placed(target): source for target, source in parts["libraries"].items()}
    binds += [(source, target) for target, source in libraries.items()]
    if Path(_ZONES).is_dir():
        binds.append((os.path.realpath(_ZONES), _ZONES))
    hidden = [name for name in ("site-packages", "dist-packages") if (Path(parts["library"]) / name).is_dir()]
    folders = dict.fromkeys(str(Path(target).parent) for target in libraries)
    return _Root(tuple(binds), tuple(f"{library}/{name}" for name in hidden), ":".join(folders))
