"""llama.cpp as the peer to beat: built once from source, fed files made from the same donor, driven as a subprocess."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from deepwell.cli.bench.engine import Run
from deepwell.cli.bench.machine import cpu_flags
from deepwell_bench.harness.assets import WORKERS, bench_cache
from deepwell_bench.harness.environments import Environment, Install, PeerError, environment_python

__all__ = ["LlamaCpp", "PeerError", "llama_python", "peer_file"]

LLAMA_CPP = Environment(
    name="llama.cpp",
    variable="DEEPWELL_BENCH_LLAMA",
    installs=(Install(("--no-binary", "llama-cpp-python", "llama-cpp-python>=0.3.36", "numpy")),),
    check="import llama_cpp",
    download_mb=77,
    disk_mb=250,
    minutes=10,
    folder="llama.cpp",
)
WORKER = WORKERS / "llama_cpp_worker.py"
# What llama.cpp calls an instruction set, and what /proc/cpuinfo calls it.
INSTRUCTION_SETS = {
    "AVX2": "avx2",
    "FMA": "fma",
    "F16C": "f16c",
    "AVX512": "avx512f",
    "AVX512_VNNI": "avx512_vnni",
    "AVX512_BF16": "avx512_bf16",
}


def llama_python(console: Console) -> Path:
    """Returns the interpreter that has llama-cpp-python: `DEEPWELL_BENCH_LLAMA`, or an environment built on first use.

    Raises:
        PeerError: the build failed.
    """
    return environment_python(LLAMA_CPP, console)


def missing_instruction_sets(system_info: str) -> list[str]:
    """Lists what this CPU has and the peer was built without, by llama.cpp's names."""
    built = set(re.findall(r"(\w+) = 1", system_info))
    have = cpu_flags()
    return [name for name, flag in INSTRUCTION_SETS.items() if flag in have and name not in built]


def peer_file(donor: Path, file_type: str, worker: LlamaCpp) -> Path:
    """Returns the donor re-quantised by llama.cpp itself to `file_type` ("Q8_0", "Q4_0", "Q4_1"), made once."""
    target = bench_cache() / f"{donor.name.removesuffix('.gguf')}.as-{file_type}.gguf"
    if not target.exists():
        part = target.with_suffix(".part")
        worker.call("quantize", source=str(donor), target=str(part), ftype=file_type)
        part.rename(target)
    return target


class LlamaCpp:
    """A llama.cpp process holding one model. Between calls it waits on its stdin, using no CPU.

    Raises:
        PeerError: it was built without an instruction set that this CPU has.
    """

    def __init__(self, python: Path, *, threads: int) -> None:
        self.threads = threads
        self.name = "llama.cpp"
        self.weights_bytes = 0
        self._process = subprocess.Popen(
            [str(python), str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "PYTHONPATH"))
            },
        )
        about = self.call("info")
        self.version: str = about["version"]
        self.system_info: str = about["system_info"]
        if missing := missing_instruction_sets(self.system_info):
            self.close()
            raise PeerError(
                f"this llama.cpp was built without {', '.join(missing)}, which this CPU has ({self.system_info})",
                fix="rebuild it on this machine: unset DEEPWELL_BENCH_LLAMA, or reinstall llama-cpp-python from source",
            )

    def call(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Asks the worker for one thing and waits for its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise PeerError(f"the llama.cpp worker ended with status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise PeerError(f"llama.cpp {do}: {answer['error']}")
        return answer

    def load(self, donor: Path, file_type: str) -> None:
        """Loads the donor's weights in `file_type`."""
        answer = self.call("load", path=str(peer_file(donor, file_type, self)))
        self.name = f"llama.cpp {file_type}"
        self.weights_bytes = int(answer["bytes"])

    def open(self, *, flash: bool, context: int, sequences: int) -> None:
        """Makes a context for `sequences` sequences of `context` tokens each."""
        self.call("open", threads=self.threads, flash=flash, context=context, sequences=sequences)

    def prefill(self, prompt: Sequence[int]) -> Run:
        """Times a prompt from an empty cache to the first token."""
        return _run(self.call("prefill", prompt=list(prompt)), len(prompt))

    def generate(self, prompts: Sequence[Sequence[int]], count: int) -> Run:
        """Continues every prompt by `count` tokens, greedily; the decode steps are timed."""
        answer = self.call("generate", prompts=[list(prompt) for prompt in prompts], count=count)
        return _run(answer, len(prompts) * (count - 1))

    def score(self, windows: Sequence[Sequence[int]]) -> tuple[float, int]:
        """Sums the negative log probabilities of the windows' tokens; the sum and their number."""
        answer = self.call("score", windows=[list(window) for window in windows])
        return float(answer["loss"]), int(answer["tokens"])

    def peak_rss_bytes(self) -> int:
        """Returns the most memory the process has held."""
        return int(self.call("peak_rss")["bytes"])

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)


def _run(answer: dict[str, Any], work_tokens: int) -> Run:
    return Run(
        seconds=float(answer["seconds"]),
        work_tokens=work_tokens,
        outputs=tuple(tuple(tokens) for tokens in answer["tokens"]),
    )
