"""`Plan`: the walls around one confined process, and the commands that start such processes.

One launcher serves decoders of documents, images and sounds, tokenizers, rules, speech programs and agents' programs. A process
has user, process, mount, network and IPC namespaces of its own where the machine lets this one make them, directly or by
bubblewrap. Landlock and a list of allowed system calls hold in any case where the kernel has them.
"""

from __future__ import annotations

import base64
import ctypes
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import site
import stat
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Final, Literal

from deepwell.errors import InvalidRequest
from deepwell.process.confinement.filter import seccomp_filter

__all__ = [
    "DEVICES",
    "Plan",
    "Root",
    "Walls",
    "base_python",
    "bubblewrap_command",
    "child_command",
    "child_path",
    "end_program",
    "enter_command",
    "innermost",
    "program_command",
    "public_environment",
    "walls",
]

Access = Literal["list", "read", "write"]
Spaces = Literal["namespaces", "bubblewrap", "none"]

DEVICES: Final = ("/dev/null", "/dev/random", "/dev/urandom")
_ENTER: Final = Path(__file__).with_name("enter.py")
_PROBE_S: Final = 30.0
_OPEN_FILES: Final = 256
_THREADS: Final = 128
_SYSTEM: Final = (
    "/lib",
    "/lib32",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/nix/store",
    "/gnu/store",
    "/etc/ld.so.cache",
    "/usr/share/fonts",
    "/usr/share/zoneinfo",
    "/proc/cpuinfo",
    "/sys/devices/system/cpu",
)
"""Libraries and public facts of the machine that interpreters and native libraries read."""


@dataclass(frozen=True, slots=True)
class Root:
    """The file system that a confined process sees. All of it but `folder` is read-only.

    Attributes:
        binds: paths of this machine, and where they appear.
        links: symbolic links, as target and path.
        devices: device files that appear where they are.
        hidden: folders that are covered by an empty one.
        folder: path, bytes and number of files of a folder in memory that the process may write to.
    """

    binds: tuple[tuple[str, str], ...]
    links: tuple[tuple[str, str], ...] = ()
    devices: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    folder: tuple[str, int, int] | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """The walls around one process, as `enter.py` reads them.

    Attributes:
        command: the program, by its absolute path, and its arguments.
        root: what it sees of the file system; None: no namespaces are made.
        init: whether it runs below a process 1 that does nothing else. As process 1 it would outlive signals of its own timers.
        keep: descriptors that it has beside the standard ones. It ends when the peer of the first closes its connection;
            without any, when the thread ends that started it.
        keep_user: whether it runs under this process's user id even where that is root's.
        landlock: paths, and what it may do there; None: Landlock is left out.
        limits: resource limits by their names, soft and hard.
        filter: the filter of system calls in base64; empty: there is none.
        environ: its environment; None: that of this process.
    """

    command: list[str]
    root: Root | None
    init: bool = True
    keep: list[int] = field(default_factory=list[int])
    keep_user: bool = False
    landlock: list[tuple[str, Access]] | None = None
    limits: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    filter: str = ""
    environ: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Walls:
    """The walls that this machine gives to confined processes.

    Attributes:
        spaces: what makes namespaces: calls of this process, bubblewrap, or nothing.
        reason: why the walls are not whole; empty: they are.
        landlock: version of Landlock; 0: the kernel has none.
        filtered: whether the kernel enforces the list of allowed system calls.
    """

    spaces: Spaces
    reason: str
    landlock: int
    filtered: bool

    @property
    def names(self) -> tuple[str, str]:
        """The walls in words, in English and Chinese."""
        parts = [
            ("namespaces", "命名空间") if self.spaces != "none" else None,
            ("Landlock", "Landlock") if self.landlock else None,
            ("a list of allowed system calls", "系统调用白名单") if self.filtered else None,
        ]
        found = [one for one in parts if one is not None] or [("limits of resources", "资源限制")]
        *first, last = [one for one, _ in found]
        return f"{', '.join(first)} and {last}" if first else last, "、".join(one for _, one in found)

    def require(self) -> None:
        """Raises `InvalidRequest` unless the walls are whole."""
        if not self.whole:
            english, chinese = self.names
            raise InvalidRequest.of(
                "confinement_missing",
                walls=english,
                walls_zh=chinese,
                reason=self.reason,
            )

    @property
    def whole(self) -> bool:
        """True if a confined process can reach neither this process, nor its files, nor the network."""
        return self.spaces != "none" and self.filtered


@cache
def walls() -> Walls:
    """Returns the walls that this machine gives. The first call starts a process."""
    if sys.platform != "linux":
        return Walls("none", f"{platform.system()} has none", 0, False)
    plan = _confined([base_python(), "-I", "-S", "-c", "print(42)"], (), ())
    version, filtered, reasons = _landlock_version(), bool(plan.filter), list[str]()
    for spaces in ("namespaces", "bubblewrap") if shutil.which("bwrap") else ("namespaces",):
        failed = _failure(_command(spaces, plan))
        if failed is None:
            return Walls(spaces, "" if filtered else "no seccomp filters", version, filtered)
        reasons.append(failed)
    if filtered and _failure(_command("none", plan)) is not None:
        filtered = _failure(_command("none", replace(plan, filter=""))) is not None
    return Walls("none", "; ".join(reasons), version, filtered)


def child_command(
    module: str, arguments: Sequence[str], *, keep: Sequence[int], reads: Iterable[Path], forks: bool = False
) -> list[str]:
    """Returns the command that runs `python -m module arguments` confined, with this process's packages.

    Args:
        keep: descriptors that the child inherits.
        reads: files and folders that it may read beside its own code, such as those of its model.
        forks: whether it may start processes of its own.
    """
    command = [sys.executable, "-P", "-m", module, *arguments]
    plan = _confined(command, _code(module), reads, forks=forks)
    lists = [(one, "list") for one in child_path(module) if not _is_library(one)]
    plan = replace(plan, landlock=[*(plan.landlock or ()), *lists])
    return _walled(replace(plan, keep=list(keep)))


def program_command(
    command: list[str],
    memory_bytes: int,
    processor_s: int,
    reads: Iterable[Path] = (),
    environ: Mapping[str, str] | None = None,
) -> list[str]:
    """Returns the command that runs a program confined, until this process ends.

    Args:
        command: absolute path of the program, and its arguments.
        memory_bytes: memory for data that it may take.
        processor_s: processor time after which it is ended.
        reads: files and folders that it may read beside the system's libraries.
        environ: its environment; None: the public part of this process's.
    """
    plan = _confined(command, (), [Path(command[0]), *reads])
    limits = plan.limits | {"RLIMIT_DATA": (memory_bytes,) * 2, "RLIMIT_CPU": (processor_s, processor_s + 1)}
    environ = public_environment() if environ is None else environ
    return _walled(replace(plan, limits=limits, environ=environ))


def child_path(module: str) -> list[str]:
    """Returns the import path of a child: this process's, without folders in which it needs nothing."""
    return [one for one in _import_path() if _is_library(one) or any(_parts(one, module))]


def enter_command(plan: Plan) -> list[str]:
    """Returns the command that runs `enter.py`."""
    return [base_python(), "-I", "-S", "-B", str(_ENTER), json.dumps(asdict(plan))]


# Names may hold keys whatever they are called, and strangers' tokenizers and templates run beside the environment.
_PUBLIC = re.compile(
    r"PATH|ORT_DISABLE_TELEMETRY|HOME|TZ|LANG|LANGUAGE|LC_[A-Z]+|LD_LIBRARY_PATH|PYTHON(HOME|UTF8|DONTWRITEBYTECODE)"
    r"|DEEPWELL_(ISA|LANGUAGE)|(OPENBLAS|MKL|OMP)_[A-Z_]+"
)


def public_environment() -> dict[str, str]:
    """Returns the part of this process's environment that children need."""
    return {name: value for name, value in os.environ.items() if _PUBLIC.fullmatch(name)}


def innermost(pid: int) -> int:
    """Returns the process id of the program behind the walls, given that of its command."""
    while True:
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
        except OSError:
            return pid
        if not children or not _is_entering(pid):
            return pid
        pid = int(children[0])


def end_program(pid: int) -> None:
    """Ends the program behind the walls, by force. Its command ends once nothing is left of it."""
    with suppress(ProcessLookupError):
        os.kill(innermost(pid), signal.SIGKILL)


def _is_entering(pid: int) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return os.fsencode(_ENTER) in command[:6] or command[0].endswith(b"bwrap")


def base_python() -> str:
    """Returns the Python of which this environment was made: it needs no file of the environment."""
    return os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable)


def bubblewrap_command(program: str, root: Root, command: Sequence[str], options: Sequence[str]) -> list[str]:
    """Returns the command of bubblewrap that runs another in namespaces with a root of its own.

    Args:
        program: path of bubblewrap.
        options: further ones, before the mounts.
    """
    made = [program, "--unshare-all", "--unshare-user", "--uid", "1000", "--gid", "1000"]
    made += ["--hostname", "sandbox", "--die-with-parent", "--new-session", "--cap-drop", "ALL", *options]
    for source, target in root.binds:
        made += ["--ro-bind", source, target]
    for target, path in root.links:
        made += ["--symlink", target, path]
    for device in root.devices:
        made += ["--dev-bind", device, device]
    for target in root.hidden:
        made += ["--tmpfs", target, "--remount-ro", target]
    if root.folder is not None:
        made += ["--dir", root.folder[0]]
    return [*made, "--remount-ro", "/", "--chdir", "/", "--", *command]


def _walled(plan: Plan) -> list[str]:
    found = walls()
    return _command(found.spaces, plan if found.filtered else replace(plan, filter=""))


def _command(spaces: Spaces, plan: Plan) -> list[str]:
    if sys.platform != "linux":
        return plan.command
    if spaces == "namespaces":
        return enter_command(plan)
    # Outside of a user namespace, other processes of the user would count as threads.
    plain = replace(plan, root=None, limits=_without_threads(plan.limits))
    if spaces == "bubblewrap":
        program, root = shutil.which("bwrap"), plan.root
        assert program is not None and root is not None
        return bubblewrap_command(program, root, enter_command(plain), ())
    paths = [path for path, _ in plan.landlock or ()]
    reached = all(_others_may_reach(one) for one in map(Path, paths) if one.exists())
    if os.geteuid() == 0 and reached and not plan.keep_user:
        return enter_command(replace(plan, root=None))  # it gets a user id of its own
    return enter_command(replace(plain, keep_user=True))


def _confined(command: list[str], code: Iterable[str], reads: Iterable[Path], *, forks: bool = False) -> Plan:
    """Returns the plan of a process with every wall."""
    given = [str(one.absolute()) for one in reads]
    if "/" in given:
        raise ValueError("a confined process may not read the whole file system")
    shown = _shown([*_system(), *code, str(_ENTER), *_interpreter(), *_with_targets(given)])
    links = tuple((os.readlink(one), one) for one in _SYSTEM if os.path.islink(one))  # noqa: PTH114, PTH115
    root = Root(
        tuple((os.path.realpath(one), one) for one in shown),
        links,
        tuple(one for one in DEVICES if Path(one).exists()),
    )
    found = seccomp_filter(forks=forks, writes=False)
    return Plan(
        command,
        root,
        keep_user=not all(_others_may_read(Path(one)) for one in given),
        landlock=[
            *((one, "read") for one in shown),
            *((one, "write") for one in root.devices),
        ],
        limits={
            "RLIMIT_CORE": (0, 0),
            "RLIMIT_FSIZE": (0, 0),
            "RLIMIT_MEMLOCK": (0, 0),
            "RLIMIT_MSGQUEUE": (0, 0),
            "RLIMIT_NOFILE": (_OPEN_FILES, _OPEN_FILES),
            "RLIMIT_NPROC": (_THREADS, _THREADS),
            "RLIMIT_SIGPENDING": (64, 64),
        },
        filter="" if found is None else base64.b64encode(found).decode(),
    )


def _shown(paths: Iterable[str]) -> list[str]:
    """Returns those of some absolute paths that exist and do not lie in a folder among them."""
    found = list[str]()
    for one in sorted({os.path.normpath(path) for path in paths if Path(path).exists()}):
        if not (one in _SYSTEM and Path(one).is_symlink()) and not any(map(one.startswith, _inside(found))):
            found.append(one)
    return found


def _inside(folders: Iterable[str]) -> Iterator[str]:
    return (f"{one.rstrip('/')}/" for one in folders)


def _system() -> Iterator[str]:
    yield from _SYSTEM
    yield from filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(":"))


@cache
def _interpreter() -> tuple[str, ...]:
    """Returns the files of the interpreter: its program, its library, and what tells its environment."""
    programs = {sys.executable, os.path.realpath(sys.executable), base_python()}
    libraries = (f"{sys.base_prefix}/{name}" for name in ("lib", "lib64"))
    return (*programs, *libraries, f"{sys.prefix}/pyvenv.cfg")


@cache
def _libraries() -> tuple[str, ...]:
    """Returns the folders of the interpreter's library and of installed packages."""
    prefixes = {sys.prefix, sys.base_prefix, os.path.realpath(sys.prefix), os.path.realpath(sys.base_prefix)}
    folders = [f"{prefix}/{name}" for prefix in prefixes for name in ("lib", "lib64")]
    return (*folders, *site.getsitepackages(), site.getusersitepackages())


def _is_library(path: str) -> bool:
    return any(path == one or path.startswith(f"{one}/") for one in _libraries())


def _code(module: str) -> Iterator[str]:
    """Yields the paths of the code that a child imports."""
    yield from _libraries()
    spec = importlib.util.find_spec("deepwell")
    yield from (spec and spec.submodule_search_locations) or ()
    for entry in _import_path():
        if not _is_library(entry):
            yield from _parts(entry, module)


def _import_path() -> list[str]:
    return [str(Path(entry).absolute()) for entry in sys.path]


def _parts(folder: str, module: str) -> Iterator[str]:
    """Yields the parts of a folder of the import path that a child needs: this package, and that of its module."""
    for name in {"deepwell", module.partition(".")[0]}:
        for path in (f"{folder}/{name}", f"{folder}/{name}.py"):
            if Path(path).exists():
                yield path


def _with_targets(paths: Iterable[str]) -> Iterator[str]:
    """Yields paths, and where the symbolic links among them and in their folders lead."""
    for path in paths:
        yield path
        yield os.path.realpath(path)
        for folder, folders, names in os.walk(path):
            for one in (Path(folder, name) for name in (*folders, *names)):
                if one.is_symlink():
                    yield os.path.realpath(one)


def _others_may_read(path: Path) -> bool:
    """Returns whether any user may read a file, or a folder with all that lies in it, once it is in sight."""
    every = [path, *path.rglob("*")] if path.is_dir() else [path]
    return all(_is_open(one.stat().st_mode) for one in every if one.exists())


def _is_open(mode: int) -> bool:
    return bool(mode & stat.S_IROTH and (mode & stat.S_IXOTH or not stat.S_ISDIR(mode)))


def _without_threads(limits: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    return {name: value for name, value in limits.items() if name != "RLIMIT_NPROC"}


def _others_may_reach(path: Path) -> bool:
    """Returns whether any user may read a file or list a folder where it is. What lies in a folder is not looked at."""
    return _is_open(path.stat().st_mode) and all(one.stat().st_mode & stat.S_IXOTH for one in path.parents)


def _landlock_version() -> int:
    call = (ctypes.c_long(444), None, ctypes.c_size_t(0), ctypes.c_uint32(1))  # landlock_create_ruleset
    return max(ctypes.CDLL(None).syscall(*call), 0)


def _failure(command: list[str]) -> str | None:
    """Returns why a command that prints 42 failed, or None."""
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=_PROBE_S, text=True, cwd="/")
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    if done.stdout == "42\n":
        return None
    return done.stderr.strip()[-200:] or f"the program ended with {done.returncode}"
