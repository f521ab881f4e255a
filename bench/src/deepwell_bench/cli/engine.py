"""Verbs of `deepwell bench` on the engine: its speed against roofs, peers and itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from deepwell_bench.cli.options import (
    Json,
    Model,
    NoPeers,
    Precision,
    PromptTokens,
    Rounds,
    Row,
    Threads,
    known_precision,
    measure,
    model_path,
    usable_threads,
)

if TYPE_CHECKING:
    from deepwell.cli.bench.report import Report

__all__ = [
    "adapters",
    "arm",
    "batch",
    "decode",
    "embeddings",
    "ladder",
    "latent",
    "mixture",
    "prediction",
    "prefill",
    "prefix",
    "profile",
    "python",
    "roofline",
    "speculation",
    "versus",
]


def roofline(
    threads: Threads = None,
    phases: Annotated[
        bool, typer.Option("--phases", help="Hold the phases of real decode steps and a prompt against them.")
    ] = False,
    model: Model = None,
    row: Row = None,
    json: Json = False,
) -> None:
    """Measures the memory and arithmetic peaks of this machine, beside what its manual promises."""
    from deepwell.cli.bench.roofline import bench_roofline

    measure(
        "roofline",
        row,
        json,
        lambda report: bench_roofline(
            report, threads=usable_threads(threads), phases_of=model_path(model) if phases else None
        ),
    )


def arm(
    model: Model = None,
    threads: Annotated[
        int | None,
        typer.Option(
            help="Number of compilers that run side by side; unset: the cores that this process may use."
        ),
    ] = None,
    tokens: Annotated[
        int, typer.Option(min=1, help="Length of each greedy answer that is compared, in tokens.")
    ] = 24,
    row: Row = None,
    json: Json = False,
) -> None:
    """Tests the kernels of ARM processors under an emulator: cross-compiles them, checks every product, and decodes a model.

    Needs g++-aarch64-linux-gnu and qemu-user. What is emulated says nothing of speed.
    """
    from deepwell_bench.suites.engine.arm import bench_arm

    measure(
        "arm",
        row,
        json,
        lambda report: bench_arm(report, model_path(model), threads=usable_threads(threads), tokens=tokens),
    )


def decode(
    precision: Precision = "int8",
    model: Model = None,
    threads: Threads = None,
    rounds: Rounds = 7,
    prompt_tokens: PromptTokens = 128,
    tokens: Annotated[int, typer.Option(min=2, help="Length of each answer, in tokens.")] = 128,
    no_peers: NoPeers = False,
    row: Row = None,
    json: Json = False,
) -> None:
    """Measures tokens a second of one sequence, against the memory roof and llama.cpp, and what a token costs.

    A token costs processor seconds of all threads, bytes of weights and cache that are read, and joules of the processor
    packages where the kernel lets them be read; `deepwell doctor` says whether it does.
    """
    from deepwell_bench.suites.engine.decode import bench_decode

    measure(
        "decode",
        row,
        json,
        lambda report: bench_decode(
            report,
            model_path(model),
            precision=known_precision(precision),
            threads=usable_threads(threads),
            rounds=rounds,
            prompt_tokens=prompt_tokens,
            tokens=tokens,
            **({"peers": ()} if no_peers else {}),
        ),
    )


def adapters(
    model: Model = None,
    threads: Threads = None,
    rounds: Rounds = 15,
    rank: Annotated[int, typer.Option(min=1, help="Rank of the adapters.")] = 16,
    row: Row = None,
    json: Json = False,
) -> None:
    """Measures tokens a second of 16 sequences with 8 LoRA adapters among them, against the base alone."""
    from deepwell_bench.suites.engine.adapters import bench_adapters

    measure(
        "adapters",
        row,
        json,
        lambda report: bench_adapters(
            report, model_path(model), threads=usable_threads(threads), rounds=rounds, rank=rank
        ),
    )


def prefill(
    precision: Precision = "int8",
    model: Model = None,
    threads: Threads = None,
    rounds: Rounds = 7,
    prompt_tokens: PromptTokens = 512,
    no_peers: NoPeers = False,
    row: Row = None,
    json: Json = False,
) -> None:
    """Measures tokens of a prompt a second, against the arithmetic roof and llama.cpp."""
    from deepwell_bench.suites.engine.prefill import bench_prefill

    measure(
        "prefill",
        row,
        json,
        lambda report: bench_prefill(
            report,
            model_path(model),
            precision=known_precision(precision),
            threads=usable_threads(threads),
            rounds=rounds,
            prompt_tokens=prompt_tokens,
            **({"peers": ()} if no_peers else {}),
        ),
    )


def batch(
    sequences: Annotated[
        int, typer.Option(min=1, help="Number of sequences that are decoded together.")
    ] = 16,
    precision: Annotated[
        str,
        typer.Option(
            help="Format of the weights: int8, int4, int4-full or fp32; best: the fastest of the first three."
        ),
    ] = "int8",
    model: Model = None,
    threads: Threads = None,
    rounds: Rounds = 5,
    prompt_tokens: PromptTokens = 128,
    tokens: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Length of each answer, in tokens. Unless given, twice the sequences, at least 64: steps count once all"
            " prompts have joined, one in a step.",
        ),
    ] = None,
    no_peers: NoPeers = False,
    profiled: Annotated[
        bool, typer.Option("--profile", help="Time the phases of a step too, and say whether both agree.")
    ] = False,
    row: Row = None,
    json: Json = False,
) -> None:
    """Measures tokens a second of many sequences together, against llama.cpp."""
    from deepwell.cli.bench.engine import PRECISIONS
    from deepwell_bench.suites.engine.batch import bench_batch

    first, *also = PRECISIONS if precision == "best" else (known_precision(precision),)

    measure(
        "batch",
        row,
        json,
        lambda report: bench_batch(
            report,
            model_path(model),
            precision=first,
            also=also,
            threads=usable_threads(threads),
            sequences=sequences,
            rounds=rounds,
            prompt_tokens=prompt_tokens,
            tokens=tokens,
            profiled=profiled,
            **({"peers": ()} if no_peers else {}),
        ),
    )


def python(
    precision: Precision = "int4",
    model: Model = None,
    threads: Threads = None,
    rounds: Rounds = 5,
    sequences: Annotated[int, typer.Option(min=1, help="Number of prompts in one call.")] = 64,
    row: Row = None,
    json: Json = False,
) -> None:
    """Measures `LLM.generate` against the engine alone, the import of the package, and runs the tests of the Python API."""
    from deepwell_bench.suites.engine.python_api import bench_python_api

    measure(
        "python",
        row,
        json,
        lambda report: bench_python_api(
            report,
            model_path(model),
            precision=known_precision(precision),
            threads=usable_threads(threads),
            rounds=rounds,
            sequences=sequences,
        ),
    )


def profile(
    precision: Precision = "int4",
    model: Model = None,
    threads: Threads = None,
    rows: Annotated[int, typer.Option(min=1, help="Number of sequences that are decoded together.")] = 1,
    prefill: Annotated[
        int | None,
        typer.Option(
            min=1, help="Length of a prompt, in tokens, whose reading is profiled in place of decoding."
        ),
    ] = None,
    rounds: Rounds = 5,
    prompt_tokens: PromptTokens = 128,
    tokens: Annotated[int, typer.Option(min=3, help="Length of each answer, in tokens.")] = 64,
    row: Row = None,
    json: Json = False,
) -> None:
    """Splits the milliseconds of a decode step, or of a prompt, into phases."""
    from deepwell.cli.bench.phases import bench_profile

    measure(
        "profile",
        row,
        json,
        lambda report: bench_profile(
            report,
            model_path(model),
            precision=known_precision(precision),
            threads=usable_threads(threads),
            rows=rows,
            prefill=prefill,
            rounds=rounds,
            prompt_tokens=prompt_tokens,
            tokens=tokens,
        ),
    )


def ladder(
    model: Model = None,
    threads: Threads = None,
    rounds: Rounds = 3,
    cycles: Annotated[
        int, typer.Option(min=1, help="Number of requests in each round of the fast steps, in units of 12.")
    ] = 4,
    clients: Annotated[int, typer.Option(min=1, help="Number of clients at the same time.")] = 16,
    row: Row = None,
    json: Json = False,
) -> None:
    """Serves one load from plain numpy to reuse, step by step."""
    from deepwell_bench.suites.engine.ladder import bench_ladder

    measure(
        "ladder",
        row,
        json,
        lambda report: bench_ladder(
            report,
            model_path(model),
            threads=usable_threads(threads),
            rounds=rounds,
            cycles=cycles,
            clients=clients,
        ),
    )


def versus(
    peer: Annotated[
        list[str] | None,
        typer.Option(
            help="Engine to compare with: llama.cpp, transformers, openvino or vllm; repeatable. Unset: all."
        ),
    ] = None,
    model: Model = None,
    threads: Threads = None,
    rounds: Rounds = 5,
    minutes: Annotated[
        float,
        typer.Option(
            min=0.1, help="Longest time for measuring, in minutes; where it is short, there are fewer rounds."
        ),
    ] = 8.0,
    tune: Annotated[
        bool, typer.Option("--tune", help="Try the variants of every engine again, to find its best one.")
    ] = False,
    prepare: Annotated[
        bool,
        typer.Option(
            "--prepare", help="Only build the environments and models, and try the variants; compare nothing."
        ),
    ] = False,
    row: Row = None,
    json: Json = False,
) -> None:
    """Compares decode, prefill, batch 16, memory and perplexity with other engines, in environments built once."""
    from deepwell_bench.suites.engine.versus import PEER_NAMES, bench_versus

    measure(
        "versus",
        row,
        json,
        lambda report: bench_versus(
            report,
            model_path(model),
            threads=usable_threads(threads),
            peers=tuple(peer or PEER_NAMES),
            rounds=rounds,
            minutes=minutes,
            tune=tune,
            prepare=prepare,
        ),
    )


def prefix(
    precision: Precision = "int8",
    model: Model = None,
    threads: Threads = None,
    rounds: Rounds = 7,
    prefix_tokens: Annotated[int, typer.Option(min=16, help="Length of the prefix, in tokens.")] = 1024,
    row: Row = None,
    json: Json = False,
) -> None:
    """Measures the time to the first token with a long prefix cached, against cold."""
    from deepwell_bench.suites.engine.prefix import bench_prefix

    measure(
        "prefix",
        row,
        json,
        lambda report: bench_prefix(
            report,
            model_path(model),
            precision=known_precision(precision),
            threads=usable_threads(threads),
            rounds=rounds,
            prefix_tokens=prefix_tokens,
        ),
    )


def embeddings(
    model: Annotated[
        Path | None, typer.Option(help="Directory of an encoder; unset: minilm from the store.")
    ] = None,
    threads: Threads = None,
    rounds: Rounds = 9,
    sequences: Annotated[int, typer.Option(min=1, help="Number of texts that are embedded together.")] = 32,
    tokens: Annotated[int, typer.Option(min=3, help="Length of each text, in tokens.")] = 128,
    no_peers: Annotated[
        bool, typer.Option("--no-peers", help="Measure Deepwell alone, without onnxruntime.")
    ] = False,
    row: Row = None,
    json: Json = False,
) -> None:
    """Measures tokens a second of an encoder, against the int8 roof and onnxruntime int8."""
    from deepwell_bench.harness.assets import minilm
    from deepwell_bench.suites.engine.embeddings import bench_embeddings

    measure(
        "embeddings",
        row,
        json,
        lambda report: bench_embeddings(
            report,
            model or minilm(),
            threads=usable_threads(threads),
            rounds=rounds,
            sequences=sequences,
            tokens=tokens,
            with_peer=not no_peers,
        ),
    )


def latent(
    what: Annotated[
        Literal["size", "context", "sparse", "entries"],
        typer.Argument(
            help="Part to measure: size (bytes of the cache), context (decoding at 8k), sparse (V3.2's attention) or "
            "entries (V4's)."
        ),
    ],
    threads: Threads = None,
    rounds: Rounds = 5,
    row: Row = None,
    json: Json = False,
) -> None:
    """Measures latent attention: bytes of its cache, decoding at length, sparse against dense, V4's entries."""
    from deepwell_bench.suites.engine.latent import (
        bench_latent_context,
        bench_latent_size,
        bench_latent_sparse,
    )

    count = usable_threads(threads)

    def run(report: Report) -> dict[str, Any]:
        if what == "size":
            return bench_latent_size(report)
        if what == "context":
            return bench_latent_context(report, threads=count, rounds=rounds)
        if what == "entries":
            from deepwell_bench.suites.engine.compressed import bench_compressed

            return bench_compressed(report, threads=count, rounds=rounds)
        return bench_latent_sparse(report, threads=count, rounds=rounds)

    measure("latent", row, json, run)


def mixture(
    what: Annotated[
        Literal["dense", "roof", "peer", "load"],
        typer.Argument(
            help="Part to measure: dense (against a model as large), roof (against memory), peer (llama.cpp) or load (16 GB)."
        ),
    ],
    threads: Threads = None,
    rounds: Rounds = 5,
    layers: Annotated[
        int | None,
        typer.Option(
            min=2, help="Number of V2-Lite's 27 layers to use; unset: 8 (roof), 5 (peer), all (load)."
        ),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the model of `load` on the disk.")] = False,
    row: Row = None,
    json: Json = False,
) -> None:
    """Measures mixtures of experts, random weights in V2-Lite's shape."""
    from deepwell_bench.suites.engine import mixture

    count = usable_threads(threads)

    def run(report: Report) -> dict[str, Any]:
        if what == "dense":
            return mixture.bench_mixture_dense(report, threads=count, rounds=rounds)
        if what == "roof":
            return mixture.bench_mixture_roof(report, threads=count, rounds=rounds, layers=layers or 8)
        if what == "peer":
            return mixture.bench_mixture_peer(report, threads=count, rounds=rounds, layers=layers or 5)
        return mixture.bench_mixture_load(report, threads=count, layers=layers, keep=keep)

    measure("mixture", row, json, run)


def prediction(
    threads: Threads = None,
    rounds: Rounds = 5,
    tokens: Annotated[int, typer.Option(min=32, help="Length of each answer, in tokens.")] = 96,
    row: Row = None,
    json: Json = False,
) -> None:
    """Measures multi-token prediction: what a draft costs, and from which share of right ones on it pays."""
    from deepwell_bench.suites.engine.prediction import bench_prediction

    count = usable_threads(threads)
    measure(
        "prediction",
        row,
        json,
        lambda report: bench_prediction(report, threads=count, rounds=rounds, tokens=tokens),
    )


def speculation(
    model: Model = None,
    threads: Threads = None,
    rounds: Rounds = 3,
    tokens: Annotated[int, typer.Option(min=32, help="Longest answer, in tokens.")] = 128,
    row: Row = None,
    json: Json = False,
) -> None:
    """Compares speculation on with off: text that repeats, and chat."""

    def run(report: Report) -> dict[str, Any]:
        from deepwell_bench.suites.engine.speculation import bench_speculation, models_at_hand

        models = [model_path(model)] if model else models_at_hand(model_path(None))
        return bench_speculation(
            report, models, threads=usable_threads(threads), rounds=rounds, tokens=tokens
        )

    measure("speculation", row, json, run)
