"""llama.cpp's own server as a peer: built once from the llama-cpp-python source package, started with its best flags."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from deepwell_bench.harness.assets import bench_cache
from deepwell_bench.harness.environments import PeerError

__all__ = ["flags", "llama_server"]

PACKAGE = "llama-cpp-python==0.3.36"
SOURCES = "vendor/llama.cpp"
# No network and no web page at build time; -march=native is its default.
CMAKE_FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DGGML_NATIVE=ON",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_BUILD_COMMON=ON",
    "-DLLAMA_BUILD_TOOLS=ON",
    "-DLLAMA_BUILD_SERVER=ON",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
)
_STEP = re.compile(r"\[\s*(\d+)(?:/(\d+)|%)\]")


def flags(*, threads: int, slots: int, slot_tokens: int, flash: bool) -> list[str]:
    """Returns the arguments of `llama-server` besides model and address.

    Prompt reuse is off, as for Deepwell; sampling is one step, since all requests are greedy.
    """
    return [
        *("-np", str(slots), "-c", str(slots * slot_tokens)),
        *("-t", str(threads), "-tb", str(threads), "--threads-http", str(slots + 2)),
        *("-b", "2048", "-ub", "512", "-fa", "on" if flash else "off", "-ngl", "0", "-fit", "off"),
        *("--cache-ram", "0", "--no-cache-prompt", "-ctxcp", "0", "-sps", "0"),
        *("--samplers", "temperature", "--temp", "0"),
        *("--no-slots", "--no-ui", "--offline", "-lv", "3", "--log-colors", "off"),
    ]


def llama_server(console: Console) -> Path:
    """Returns the executable: `DEEPWELL_BENCH_LLAMA_SERVER`, or one built on first use.

    Raises:
        PeerError: the build failed, or a tool that it needs is missing.
    """
    if named := os.environ.get("DEEPWELL_BENCH_LLAMA_SERVER"):
        path = Path(named)
        if not os.access(path, os.X_OK):
            raise PeerError(
                f"DEEPWELL_BENCH_LLAMA_SERVER names {path}, which cannot be run",
                fix="unset it, and llama-server is built from source",
            )
        return path
    home = bench_cache() / "llama-server"
    built = home / "llama-server"
    if not built.exists():
        _build(home, built, console)
    return built


def _build(home: Path, target: Path, console: Console) -> None:
    if shutil.which("cmake") is None or shutil.which("g++") is None:
        raise PeerError("llama-server is built with cmake and g++", fix="install them")
    console.print(
        f"Building llama-server for this CPU in {home}: 77 MB to download, 600 MB on disk, about 10 minutes on two cores, once."
    )
    work = home / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    log = home / "build.log"
    began = time.monotonic()
    with log.open("w") as stream:
        # A pattern of all packages would build the package's own build tools from source too.
        name = PACKAGE.partition("==")[0]
        _run(
            [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--no-deps",
                "--no-binary",
                name,
                PACKAGE,
                "-d",
                str(work),
            ],
            stream,
            log,
        )
        [archive] = work.glob("*.tar.gz")
        with tarfile.open(archive) as packed:
            packed.extractall(work, filter="data")
        source = archive.with_name(archive.name.removesuffix(".tar.gz")) / SOURCES
        ninja = ["-G", "Ninja"] if shutil.which("ninja") else []
        _run(["cmake", *ninja, "-S", str(source), "-B", str(work / "build"), *CMAKE_FLAGS], stream, log)
        command = ["cmake", "--build", str(work / "build"), "--target", "llama-server"]
        _show_build([*command, "--parallel", str(os.cpu_count() or 1)], stream, log, console)
    part = target.with_suffix(".part")
    shutil.copy2(work / "build" / "bin" / "llama-server", part)
    part.rename(target)
    shutil.rmtree(work)
    console.print(f"llama-server is built: {(time.monotonic() - began) / 60:.0f} minutes")


def _run(command: list[str], stream: IO[str], log: Path) -> None:
    done = subprocess.run(
        command,
        stdout=stream,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode:
        raise _failed(log)


def _show_build(command: list[str], stream: IO[str], log: Path, console: Console) -> None:
    """Runs the compiler, and shows how far it is."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
    )
    with (
        Progress(*columns, console=console) as progress,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True
        ) as process,
    ):
        task = progress.add_task("compiling", total=100)
        assert process.stdout is not None
        for line in process.stdout:
            stream.write(line)
            if step := _STEP.match(line):
                share = int(step[1]) / int(step[2]) if step[2] else int(step[1]) / 100
                progress.update(task, completed=100 * share)
    if process.returncode:
        raise _failed(log)


def _failed(log: Path) -> PeerError:
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
    return PeerError(f"building llama-server failed:\n{tail}", fix=f"see {log}; it needs g++ and cmake")
