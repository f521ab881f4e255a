"""Mixtures of experts: against a dense model as large, against the roof, against llama.cpp, and what loading 15.7 B takes.

Weights are random (`engine/synth.py`), in V2-Lite's proportions: 64 routed experts of which a row takes 6, and 2
shared ones. Random rows spread evenly over the experts, which for several sequences is the costliest case: rows of
trained models meet more often.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from deepwell.cli.bench.engine import Ours, Run
from deepwell.cli.bench.machine import machine
from deepwell.cli.bench.report import Report, rounded
from deepwell.cli.bench.roofs import measure_roof
from deepwell.engine.architectures import tensor_plan
from deepwell.engine.plan import kv_token_bytes
from deepwell.engine.weights.quantize import packed_nbytes
from deepwell.engine.weights.synth import shape_config, synthesize
from deepwell.errors import DeepwellError
from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell.models.formats.config import ModelConfig
from deepwell_bench.harness.assets import bench_cache
from deepwell_bench.harness.comparison import Comparison, TimedEngine, compare
from deepwell_bench.peers.llama_cpp import LlamaCpp, llama_python
from deepwell_bench.peers.session import comparison_rows
from deepwell_bench.workloads.random_gguf import write_random_gguf

__all__ = [
    "Bytes",
    "bench_mixture_dense",
    "bench_mixture_load",
    "bench_mixture_peer",
    "bench_mixture_roof",
    "bytes_of",
    "random_prompts",
]

PREFILL_TOKENS: Final = 512
PROMPT_TOKENS: Final = 64
TOKENS: Final = 32
BATCH: Final = 8
KV_TOKENS: Final = 4096
PEER_Q_RANK: Final = 1536  # V2's own; llama.cpp takes queries without a low rank with 26 or 27 layers alone


def _directory(name: str, config: dict[str, Any], report: Report) -> Path:
    """Returns a packed model of random weights, made once."""
    path = bench_cache() / name
    if not (path / "model-int8.dwpack").exists():
        shutil.rmtree(path, ignore_errors=True)
        report.note(f"writing {path}")
        synthesize(path, config, "int8")
    return path


def random_prompts(vocab_size: int, length: int, number: int, count: int = 1) -> list[list[int]]:
    """Returns the `number`-th group of `count` prompts."""
    rng = np.random.default_rng([number, count, length])
    return [rng.integers(0, vocab_size, length).tolist() for _ in range(count)]


@dataclass(frozen=True, slots=True)
class Bytes:
    """The bytes that a decoding step of int8 weights reads."""

    fixed: int  # whatever the batch
    expert: int  # of one routed expert
    token: int  # of the cache, for each position

    def step(self, experts: float, positions: float) -> float:
        """Returns the bytes of a step with so many distinct experts in all layers and positions in all sequences."""
        return self.fixed + self.expert * experts + self.token * positions


def bytes_of(config: ModelConfig) -> Bytes:
    """Counts them from the shapes: k_up and the embedding are not read by a decoding step, routers are float32."""
    plan = tensor_plan(config)
    nbytes = {matrix.name: packed_nbytes(matrix.rows, matrix.cols, "int8") for matrix in plan.matrices}
    experts = sum(size for name, size in nbytes.items() if "experts_" in name and "shared" not in name)
    unread = sum(size for name, size in nbytes.items() if name == "embed" or name.endswith("k_up"))
    vectors = sum(4 * vector.size for vector in plan.vectors)
    mixtures = len(config.sparse_layers)
    return Bytes(
        fixed=sum(nbytes.values()) - experts - unread + vectors,
        expert=experts // max(1, mixtures * config.num_experts),
        token=kv_token_bytes(config, "bf16"),
    )


def _experts_a_step(side: Ours, vocab_size: int, sequences: int) -> float:
    """Returns the distinct experts of a decoding step over all layers, counted by the engine: a long run less its prompts."""

    def counted(tokens: int) -> tuple[int, int]:
        before = side.engine.stats()
        side.generate(random_prompts(vocab_size, PROMPT_TOKENS, 0, sequences), tokens)
        after = side.engine.stats()
        return after.expert_reads - before.expert_reads, after.steps - before.steps

    (long_reads, long_steps), (short_reads, short_steps) = counted(TOKENS), counted(2)
    return (long_reads - short_reads) / (long_steps - short_steps)


@contextmanager
def _opened(path: Path, threads: int, name: str = "") -> Iterator[Ours]:
    side = Ours(path, "int8", threads=threads, kv_tokens=KV_TOKENS)
    side.name = name or side.name
    try:
        yield side
    finally:
        side.close()


def _decode(side: TimedEngine, vocab_size: int, number: int, sequences: int) -> Run:
    return side.generate(random_prompts(vocab_size, PROMPT_TOKENS, number, sequences), TOKENS)


def _prefill(side: TimedEngine, vocab_size: int, number: int) -> Run:
    return side.prefill(random_prompts(vocab_size, PREFILL_TOKENS, number)[0])


def _compared(sides: Sequence[TimedEngine], vocab_size: int, rounds: int) -> dict[str, Comparison]:
    """Compares decoding of one and of eight sequences, and prefill."""

    def run(task: str) -> Comparison:
        def one(side: TimedEngine, number: int) -> Run:
            if task == "prefill":
                return _prefill(side, vocab_size, number)
            return _decode(side, vocab_size, number, 1 if task == "batch_1" else BATCH)

        return compare({s.name: lambda number, side=s: one(side, number) for s in sides}, rounds)

    return {task: run(task) for task in ("batch_1", "batch_8", "prefill")}


_TITLES: Final = {
    "batch_1": f"Decode, batch 1, {PROMPT_TOKENS} tokens of prompt, {TOKENS} generated",
    "batch_8": f"Decode, batch {BATCH}",
    "prefill": f"Prefill, {PREFILL_TOKENS} tokens",
}


def _tables(report: Report, results: dict[str, Comparison], ours: str, sides: Sequence[TimedEngine]) -> None:
    for task, result in results.items():
        columns = ["engine", "weights MB", "tokens/s", "spread", "ours / this"]
        report.table(_TITLES[task], columns, comparison_rows(result, ours, sides))


def bench_mixture_dense(report: Report, *, threads: int, rounds: int = 5) -> dict[str, Any]:
    """Compares a mixture of 1.5 B parameters, 64 experts top-6 and 2 shared, with a dense model of as many."""
    _note_machine(report, threads)
    paths = {
        name: _directory(f"{name}-int8", shape_config(name), report) for name in ("mixture-1b", "dense-1b")
    }
    with ExitStack() as stack:
        sides = [stack.enter_context(_opened(path, threads, name)) for name, path in paths.items()]
        vocab = open_checkpoint(paths["mixture-1b"]).config.vocab_size
        results = _compared(sides, vocab, rounds)
        mixture, dense = (side.name for side in sides)
        _tables(report, results, mixture, sides)
        value: dict[str, Any] = {}
        for task, result in results.items():
            value[f"{task}_ratio"] = rounded(result.ratio(mixture, dense), 3)
            value[f"{task}_tokens_per_s"] = rounded(result.median(mixture))
            value[f"{task}_dense_tokens_per_s"] = rounded(result.median(dense))
        return value | {"weights_mb": [rounded(side.weights_bytes / 1e6) for side in sides]}


def bench_mixture_roof(report: Report, *, threads: int, rounds: int = 7, layers: int = 8) -> dict[str, Any]:
    """Measures V2-Lite's shape: decoding against the memory roof over the bytes that are really read, prefill in GMAC/s."""
    _note_machine(report, threads)
    path = _directory(f"deepseek-v2-lite-{layers}-int8", shape_config("deepseek-v2-lite", layers), report)
    config = open_checkpoint(path).config
    need = bytes_of(config)
    with _opened(path, threads) as side:
        value: dict[str, Any] = {"layers": layers}
        rows: list[list[Any]] = []
        for sequences in (1, BATCH):
            experts = _experts_a_step(side, config.vocab_size, sequences)
            # Positions in the cache half way through the run, of all sequences.
            step = need.step(experts, sequences * (PROMPT_TOKENS + TOKENS / 2))
            shares: list[float] = []
            memory: list[float] = []
            rates: list[float] = []
            _decode(side, config.vocab_size, 0, sequences)
            for number in range(1, rounds + 1):
                before = measure_roof("memory", threads, nbytes=step)
                rates.append(_decode(side, config.vocab_size, number, sequences).rate)
                memory.append(statistics.mean((before, measure_roof("memory", threads, nbytes=step))))
                shares.append(rates[-1] / sequences * step / (memory[-1] * 1e9))
            share = statistics.median(shares)
            rows.append(
                [
                    f"batch {sequences}",
                    experts / len(config.sparse_layers),
                    step / 1e6,
                    statistics.median(rates),
                    statistics.median(memory),
                    share,
                ]
            )
            value |= {
                f"roof_batch_{sequences}": rounded(share, 3),
                f"batch_{sequences}_tokens_per_s": rounded(statistics.median(rates)),
                f"batch_{sequences}_mb_per_step": rounded(step / 1e6),
                f"batch_{sequences}_experts_per_layer": rounded(experts / len(config.sparse_layers), 3),
                f"batch_{sequences}_memory_gb_per_s": rounded(statistics.median(memory), 3),
            }
        prefill = compare({side.name: lambda n: _prefill(side, config.vocab_size, n)}, max(3, rounds // 2))
        macs = _macs(config)
        rate = prefill.median(side.name)
        int8 = measure_roof("int8", threads)
        report.table(
            f"Decode, V2-Lite's shape, {layers} layers, int8",
            ["", "experts a layer", "MB a step", "tokens/s", "memory GB/s", "of the roof"],
            rows,
        )
        report.note(
            f"Prefill of {PREFILL_TOKENS}: {rate:.0f} tokens/s, {rate * macs / 1e9:.0f} GMAC/s in products, "
            f"{rate * macs / 1e9 / int8:.2f} of the int8 peak of {int8:.0f}"
        )
        return value | {
            "prefill_tokens_per_s": rounded(rate),
            "prefill_gmac_per_s": rounded(rate * macs / 1e9),
            "int8_gmac_per_s": rounded(int8),
        }


def _macs(config: ModelConfig) -> float:
    """Returns the multiply-adds of a prompt's token in the layers' products; attention and the head aside."""
    share = config.num_experts_per_tok / max(1, config.num_experts)
    return sum(
        matrix.rows
        * matrix.cols
        * (share if "experts_" in matrix.name and "shared" not in matrix.name else 1)
        for matrix in tensor_plan(config).matrices
        if matrix.role == "body" and not matrix.name.endswith("k_absorb")
    )


def bench_mixture_peer(report: Report, *, threads: int, rounds: int = 5, layers: int = 5) -> dict[str, Any]:
    """Compares V2-Lite's shape in few layers with llama.cpp Q8_0, each with random weights of its own."""
    _note_machine(report, threads)
    config = {**shape_config("deepseek-v2-lite", layers), "q_lora_rank": PEER_Q_RANK}
    name = f"deepseek-v2-lite-{layers}-q{PEER_Q_RANK}"
    path = _directory(f"{name}-int8", config, report)
    file = bench_cache() / f"{name}.Q8_0.gguf"
    if not file.exists():
        report.note(f"writing {file}")
        write_random_gguf(file, config)
    vocab = int(config["vocab_size"])
    with _opened(path, threads) as ours, _peer(file, threads, report) as peer:
        sides: list[TimedEngine] = [ours, peer]
        results: dict[str, Comparison] = {}
        flash_of: dict[bool, float] = {}
        for flash in (False, True):
            peer.open(flash=flash, context=PREFILL_TOKENS + 2 * TOKENS, sequences=BATCH)
            _decode(peer, vocab, 0, 1)
            flash_of[flash] = _decode(peer, vocab, 0, 1).rate
        flash = flash_of[True] >= flash_of[False]
        report.note(f"llama.cpp: flash attention {'on' if flash else 'off'}")
        peer.open(flash=flash, context=PREFILL_TOKENS + 2 * TOKENS, sequences=BATCH)
        results = _compared(sides, vocab, rounds)
        _tables(report, results, ours.name, sides)
        value: dict[str, Any] = {"layers": layers}
        for task, result in results.items():
            value[f"{task}_ratio"] = rounded(result.ratio(ours.name, peer.name), 3)
            value[f"{task}_tokens_per_s"] = rounded(result.median(ours.name))
            value[f"{task}_peer_tokens_per_s"] = rounded(result.median(peer.name))
        return value


@contextmanager
def _peer(file: Path, threads: int, report: Report) -> Iterator[LlamaCpp]:
    peer = LlamaCpp(llama_python(report.console), threads=threads)
    try:
        report.note(f"llama.cpp in llama-cpp-python {peer.version}: {peer.system_info}")
        peer.weights_bytes = int(peer.call("load", path=str(file))["bytes"])
        peer.name = "llama.cpp Q8_0"
        yield peer
    finally:
        peer.close()


# Opens the model as a program would, and says what that took. Run apart: the peak of a process never falls.
_LOADER: Final = """
import json, resource, sys, time
from pathlib import Path
from deepwell.cli.bench.engine import Ours
from deepwell_bench.suites.engine import mixture
threads = int(sys.argv[2])
start = time.perf_counter()
side = Ours(Path(sys.argv[1]), "int8", threads=threads, kv_tokens=4096)
opened = time.perf_counter() - start
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
after_open = peak()
runs = [side.generate(mixture.random_prompts(102400, 64, n), 32).rate for n in range(4)]
print(json.dumps({"seconds": opened, "open_rss": after_open, "rss": peak(), "weights": side.weights_bytes, "rate": max(runs)}))
side.close()
"""


def bench_mixture_load(
    report: Report, *, threads: int, layers: int | None = None, keep: bool = False
) -> dict[str, Any]:
    """Writes V2-Lite's shape (15.7 B parameters, 16 GB), opens it in a process of its own, and deletes it."""
    _note_machine(report, threads)
    name = f"deepseek-v2-lite{f'-{layers}' if layers else ''}-int8"
    path = _directory(name, shape_config("deepseek-v2-lite", layers), report)
    try:
        done = subprocess.run(
            [sys.executable, "-c", _LOADER, str(path), str(threads)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            raise DeepwellError(
                f"the model did not open (status {done.returncode})", fix="read what it printed"
            )
        facts: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    finally:
        if not keep:
            shutil.rmtree(path)
    config = shape_config("deepseek-v2-lite", layers)
    report.table(
        f"Opening {name}",
        ["packed GB", "opened in s", "peak RSS GB, opened", "peak RSS GB, after decoding", "tokens/s"],
        [
            [
                facts["weights"] / 1e9,
                facts["seconds"],
                facts["open_rss"] / 1e9,
                facts["rss"] / 1e9,
                facts["rate"],
            ]
        ],
    )
    return {
        "layers": config["num_hidden_layers"],
        "packed_gb": rounded(facts["weights"] / 1e9),
        "open_seconds": rounded(facts["seconds"], 3),
        "rss_over_packed_gb": rounded((facts["rss"] - facts["weights"]) / 1e9, 3),
        "peak_rss_gb": rounded(facts["rss"] / 1e9),
        "tokens_per_s": rounded(facts["rate"]),
    }


def _note_machine(report: Report, threads: int) -> None:
    facts = machine(threads)
    report.note(f"{facts['cpu']}, {threads} threads, {facts['system']}, {facts['date']}")
