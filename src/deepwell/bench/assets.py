"""What benchmarks and real-model tests read: the donor model, the fixed text, the facts of this machine."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from functools import cache
from pathlib import Path

from deepwell.errors import DeepwellError
from deepwell.models.store import ModelStore
from deepwell.settings import Settings

__all__ = [
    "available_cores",
    "bench_cache",
    "cpu_flags",
    "cpu_model",
    "cranfield_text",
    "machine",
    "minilm",
    "repository",
    "smollm2",
]


def smollm2() -> Path:
    """The GGUF of SmolLM2-135M-Instruct: `DEEPWELL_SMOLLM2` if set, else the one in the store.

    Raises:
        ModelNotFound: it has not been pulled.
    """
    if named := os.environ.get("DEEPWELL_SMOLLM2"):
        return Path(named)
    return ModelStore(Settings.load().models_dir).get("smollm2").path


def minilm() -> Path:
    """The directory of all-MiniLM-L6-v2: `DEEPWELL_MINILM` if set, else the one in the store.

    Raises:
        ModelNotFound: it has not been pulled.
    """
    if named := os.environ.get("DEEPWELL_MINILM"):
        return Path(named)
    return ModelStore(Settings.load().models_dir).get("minilm").path


def bench_cache() -> Path:
    """Where benchmarks keep what is expensive to make: beside the model store."""
    path = Settings.load().models_dir.parent / "bench"
    path.mkdir(parents=True, exist_ok=True)
    return path


def repository() -> Path:
    """The checkout this package runs from.

    Raises:
        DeepwellError: the package is installed without its repository.
    """
    root = Path(__file__).parents[3]
    if (root / "bench" / "data").is_dir():
        return root
    raise DeepwellError(
        "this benchmark reads files of the repository, which is not here",
        fix="run it from a clone, installed with `make bench`",
    )


@cache
def cranfield_text() -> str:
    """The fixed text of `bench/data/cranfield.txt`."""
    return (repository() / "bench" / "data" / "cranfield.txt").read_text(encoding="utf-8")


def _cpuinfo(field: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")


@cache
def cpu_flags() -> frozenset[str]:
    """Instruction sets in the names of /proc/cpuinfo."""
    return frozenset(_cpuinfo("flags").split())


def available_cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0))


def cpu_model() -> str:
    """The processor's name, with the vector extensions that matter here."""
    extensions = [
        name
        for name in ("avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8")
        if name in cpu_flags()
    ]
    return f"{_cpuinfo('model name') or platform.machine()} ({' '.join(extensions)})"


def machine(threads: int) -> dict[str, str | int]:
    """What a figure needs beside it: processor, threads, memory, date, versions."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count() or 0,
        "threads": threads,
        "memory_gib": round(memory / 2**30),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "deepwell": importlib.metadata.version("deepwell") if _is_installed() else "checkout",
        "system": platform.platform(terse=True),
    }


def _is_installed() -> bool:
    try:
        importlib.metadata.version("deepwell")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
