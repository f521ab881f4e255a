"""Wheels as their users meet them: built, examined, installed without a compiler, and asked what the source build is asked."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from deepwell.cli.bench.report import Report, rounded
from deepwell.engine.backends import native
from deepwell_bench.harness.assets import repository
from deepwell_bench.harness.environments import PeerError
from deepwell_bench.harness.served import served
from deepwell_bench.suites.repository.suites import clean_environment

__all__ = ["bench_wheel", "wheel_faults"]

COMPILERS = ("cc", "c++", "gcc", "g++", "clang", "clang++", "zig", "cmake", "ninja", "make", "ld")
QUESTION = {
    "messages": [
        {"role": "user", "content": "Name three colours of the rainbow, and say why you like them."}
    ],
    "max_tokens": 48,
    "temperature": 0,
    "logprobs": True,
    "top_logprobs": 3,
}
_STABLE_ABI = (3, 12)


@dataclass(frozen=True)
class Installed:
    """A wheel in an environment of its own.

    Attributes:
        seconds: time of `pip install` with a warm cache.
        cpu_seconds: time that it computed.
        kernels: what `deepwell doctor` says of the kernels.
    """

    venv: Path
    seconds: float
    cpu_seconds: float
    kernels: dict[str, Any]

    @property
    def env(self) -> dict[str, str]:
        """The environment of a user without a compiler."""
        return _bare(self.venv)


def bench_wheel(report: Report, *, model: str, pythons: Sequence[str]) -> dict[str, Any]:
    """Builds the wheels, installs each on its Python without a compiler, serves a model, and compares an answer.

    Args:
        model: name of a model in the store.
        pythons: versions to install on, such as "3.13".

    Raises:
        PeerError: a Python is missing, or a wheel does not build, install or start.
    """
    root = repository()
    interpreters = {version: _output([root / ".ci" / "python", version]) for version in pythons}
    start = time.monotonic()
    _output([root / ".ci" / "wheel"])
    build_seconds = time.monotonic() - start
    wheels = sorted((root / "dist").glob("*.whl"))
    faults = [
        f"{wheel.name}: {fault}" for wheel in wheels for fault in wheel_faults(wheel, (root, Path.home()))
    ]
    expected = _answer([sys.executable, "-m", "deepwell"], model, {})
    rows: list[list[Any]] = []
    different, seconds, cpu_seconds = 0, dict[str, float](), dict[str, float]()
    with tempfile.TemporaryDirectory(prefix="deepwell-wheel-") as folder:
        for version, python in interpreters.items():
            wheel = _wheel_for(wheels, version)
            done = _install(wheel, python, Path(folder) / version)
            if done.kernels["available"] != native.available_isas() or done.kernels["isa"] != native.isa():
                faults.append(f"{wheel.name}: kernels {done.kernels}, the source build has {native.isa()}")
            answer = _answer([str(done.venv / "bin" / "deepwell")], model, done.env)
            different += answer != expected
            seconds[version], cpu_seconds[version] = rounded(done.seconds, 3), rounded(done.cpu_seconds, 3)
            megabytes = rounded(wheel.stat().st_size / 1e6, 3)
            same = "yes" if answer == expected else "no"
            rows.append([version, megabytes, done.seconds, done.cpu_seconds, done.kernels["isa"], same])
    for fault in faults:
        report.note(f"FAULT {fault}")
    report.table(
        f"Wheels on machines without a compiler; built in {build_seconds:.0f} s",
        ["Python", "wheel MB", "install s", "of it computing", "kernels", "same answer"],
        rows,
    )
    return {
        "slowest_install_s": max(seconds.values()),
        "pythons": len(seconds),
        "different": different,
        "faults": len(faults),
        "install_seconds": seconds,
        "install_cpu_seconds": cpu_seconds,
        "build_seconds": rounded(build_seconds, 3),
        "tags": [_tag(wheel) for wheel in wheels],
    }


def wheel_faults(wheel: Path, private: Sequence[Path] = ()) -> list[str]:
    """Returns what is wrong with the content of a wheel.

    Args:
        private: folders of the machine that built it, which the compiled module must not name.
    """
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        faults = [
            f"no {what}"
            for what, end in {"py.typed": "deepwell/py.typed", "licence": "licenses/LICENSE"}.items()
            if not any(name.endswith(end) for name in names)
        ]
        faults += [f"{name} does not belong there" for name in names if _is_foreign(name)]
        modules = [name for name in names if name.endswith(".so")]
        if len(modules) != 1:
            return [*faults, f"{len(modules)} compiled modules instead of one"]
        code = archive.read(modules[0])
        faults += [f"{modules[0]} names {folder}" for folder in private if f"{folder}/".encode() in code]
        with tempfile.TemporaryDirectory() as folder:
            module = archive.extract(modules[0], folder)
            sections = _output(["readelf", "--wide", "--sections", "--dynamic", module])
    return faults + [
        f"{modules[0]} has {what}" for what in ("RPATH", "RUNPATH", ".symtab", ".debug_") if what in sections
    ]


def _is_foreign(name: str) -> bool:
    return "__pycache__" in name or not name.startswith(("deepwell/", "deepwell-"))


def _tag(wheel: Path) -> str:
    return wheel.stem.split("-", 2)[2]


def _wheel_for(wheels: Sequence[Path], version: str) -> Path:
    major, _, minor = version.partition(".")
    plain = f"-cp{major}{minor}-cp{major}{minor}-"
    abi = "-abi3-" if (int(major), int(minor)) >= _STABLE_ABI else plain
    found = [wheel for wheel in wheels if abi in wheel.name]
    if len(found) != 1:
        raise PeerError(f"{len(found)} wheels for Python {version} in {[wheel.name for wheel in wheels]}")
    return found[0]


def _bare(venv: Path) -> dict[str, str]:
    """Returns an environment whose PATH has this venv alone."""
    env = clean_environment(PATH=str(venv / "bin"))
    for name in ("CC", "CXX", "CFLAGS", "CXXFLAGS", "CMAKE_CXX_COMPILER_LAUNCHER"):
        env.pop(name, None)
    return env


def _install(wheel: Path, python: str, folder: Path) -> Installed:
    """Installs a wheel twice, each time into a fresh venv: the first fills pip's cache, the second is timed."""
    seconds = cpu_seconds = 0.0
    for number in ("warm", "timed"):
        venv = folder / number
        _output([python, "-m", "venv", venv])
        env = _bare(venv)
        if found := [name for name in COMPILERS if shutil.which(name, path=env["PATH"])]:
            raise PeerError(f"the environment without a compiler has {found}")
        start, spent = time.monotonic(), os.times()
        _output([venv / "bin" / "python", "-m", "pip", "install", "-q", "--only-binary", ":all:", wheel], env)
        done = os.times()
        seconds = time.monotonic() - start
        cpu_seconds = done.children_user + done.children_system - spent.children_user - spent.children_system
    doctor = subprocess.run(  # exits with 1 where a port is taken, which does not matter here
        [venv / "bin" / "deepwell", "doctor", "--json"],
        env=env,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        kernels = json.loads(doctor.stdout)["kernels"]
    except (ValueError, KeyError):
        raise PeerError(f"`deepwell doctor` fails: {(doctor.stdout + doctor.stderr)[-500:]}") from None
    return Installed(venv, seconds, cpu_seconds, kernels)


def _answer(program: Sequence[str], model: str, env: dict[str, str]) -> Any:
    """Returns the text and the log probabilities with which a server of this program answers the question."""
    cleared = {name: "" for name in ("PYTHONPATH", "VIRTUAL_ENV") if name in os.environ}
    with (
        served(lambda port: [*program, "serve", model, "--port", str(port)], env={**cleared, **env}) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as http,
    ):
        done = http.post("/v1/chat/completions", json={"model": model, **QUESTION})
        if done.status_code != httpx.codes.OK:
            raise PeerError(f"no answer: {done.text[:300]}")
        choice = done.json()["choices"][0]
        return choice["message"]["content"], choice["logprobs"]


def _output(command: Sequence[str | Path], env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command,
        env=env,
        cwd=repository(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise PeerError(
            f"`{' '.join(map(str, command))}` fails: {(done.stdout + done.stderr).strip()[-800:]}"
        )
    return done.stdout.strip()
