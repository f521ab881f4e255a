"""`deepwell bench`: speed, quality and size against roofs and peers; every promised figure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepwell.cli.bench_latent import latent
from deepwell.cli.bench_mixture import mixture
from deepwell.cli.bench_prediction import prediction
from deepwell.cli.output import JsonFlag as Json
from deepwell.cli.output import reported_errors

if TYPE_CHECKING:
    from deepwell.bench.harness.report import Report

__all__ = ["register"]

app = typer.Typer(help="Measure speed, quality and size against roofs and peers.", no_args_is_help=True)

Row = Annotated[str | None, typer.Option(help="Hold the figures against this row of targets.toml.")]
Threads = Annotated[int | None, typer.Option(help="Compute threads; unset: the cores this process may use.")]
Model = Annotated[
    str | None, typer.Option(help="A model in the store, or a GGUF file; unset: smollm2 from the store.")
]
PrecisionOption = Annotated[str, typer.Option(help="int8, int4 (8-bit head), int4-full, bf16, fp16 or fp32.")]
Rounds = Annotated[int, typer.Option(min=1, help="Interleaved rounds.")]
NoPeers = Annotated[bool, typer.Option("--no-peers", help="Leave llama.cpp out.")]


def register(parent: typer.Typer) -> None:
    """Add the verb."""
    from deepwell.cli import (  # noqa: F401 - they add their commands to `app`
        bench_api,
        bench_batches,
        bench_faults,
        bench_limits,
        bench_observe,
        bench_revisions,
        bench_service,
        bench_storage,
    )

    parent.add_typer(app, name="bench")


def _threads(given: int | None) -> int:
    from deepwell.bench.harness.machine import available_cores
    from deepwell.engine.backends.native import MAX_THREADS

    return min(given or available_cores(), MAX_THREADS)


def _model(given: str | None) -> Path:
    from deepwell.bench.harness.assets import smollm2
    from deepwell.models.store import ModelStore
    from deepwell.settings import Settings

    return ModelStore(Settings.load().models_dir).resolve(given).path if given else smollm2()


def _measure(name: str, row: str | None, as_json: bool, measure: Callable[[Report], dict[str, Any]]) -> None:
    """Run one benchmark and print its table and last line; exit 1 where it misses the bar."""
    with reported_errors(as_json=as_json):
        from deepwell.bench.harness.report import Outcome, Report
        from deepwell.bench.harness.targets import judge

        report = Report(as_json=as_json)
        value = measure(report)
        outcome = judge(row, value) if row else Outcome(name, value)
        report.finish(outcome)
    if outcome.holds is False:
        raise typer.Exit(1)


@app.command()
def roofline(threads: Threads = None, row: Row = None, json: Json = False) -> None:
    """Memory and arithmetic peaks of this machine."""

    def measure(report: Report) -> dict[str, Any]:
        from deepwell.bench.harness.report import rounded
        from deepwell.bench.harness.roofs import measure_roofs
        from deepwell.engine.backends.native import isa

        most = _threads(threads)
        value: dict[str, Any] = {"isa": isa()}
        rows: list[list[Any]] = []
        for count in sorted({1, most}):
            roofs = measure_roofs(count)
            rows.append([count, roofs.memory, roofs.int8, roofs.int4, roofs.bf16, roofs.fp32])
            value[f"threads_{count}"] = {
                "memory_gb_per_s": rounded(roofs.memory),
                **{
                    f"{kind}_gmac_per_s": rounded(getattr(roofs, kind))
                    for kind in ("int8", "int4", "bf16", "fp32")
                },
            }
        columns = ["threads", "memory GB/s", "int8 GMAC/s", "int4 GMAC/s", "bf16 GMAC/s", "fp32 GMAC/s"]
        report.table(f"Roofs, {isa()} kernels", columns, rows)
        return value

    _measure("roofline", row, json, measure)


@app.command()
def decode(
    precision: PrecisionOption = "int8",
    model: Model = None,
    threads: Threads = None,
    rounds: Rounds = 7,
    prompt_tokens: Annotated[int, typer.Option(min=1)] = 128,
    tokens: Annotated[int, typer.Option(min=2)] = 128,
    no_peers: NoPeers = False,
    row: Row = None,
    json: Json = False,
) -> None:
    """Tokens a second of one sequence, against the memory roof and llama.cpp."""
    from deepwell.bench.suites.engine.decode import bench_decode

    _measure(
        "decode",
        row,
        json,
        lambda report: bench_decode(
            report,
            _model(model),
            precision=_precision(precision),
            threads=_threads(threads),
            rounds=rounds,
            prompt_tokens=prompt_tokens,
            tokens=tokens,
            **({"peers": ()} if no_peers else {}),
        ),
    )


@app.command()
def adapters(
    model: Model = None,
    threads: Threads = None,
    rounds: Rounds = 7,
    rank: Annotated[int, typer.Option(min=1)] = 16,
    row: Row = None,
    json: Json = False,
) -> None:
    """Tokens a second of 16 sequences with 8 LoRA adapters among them, against the base alone."""
    from deepwell.bench.suites.engine.adapters import bench_adapters

    _measure(
        "adapters",
        row,
        json,
        lambda report: bench_adapters(
            report, _model(model), threads=_threads(threads), rounds=rounds, rank=rank
        ),
    )


@app.command()
def prefill(
    precision: PrecisionOption = "int8",
    model: Model = None,
    threads: Threads = None,
    rounds: Rounds = 7,
    prompt_tokens: Annotated[int, typer.Option(min=1)] = 512,
    no_peers: NoPeers = False,
    row: Row = None,
    json: Json = False,
) -> None:
    """Tokens of a prompt a second, against the arithmetic roof and llama.cpp."""
    from deepwell.bench.suites.engine.prefill import bench_prefill

    _measure(
        "prefill",
        row,
        json,
        lambda report: bench_prefill(
            report,
            _model(model),
            precision=_precision(precision),
            threads=_threads(threads),
            rounds=rounds,
            prompt_tokens=prompt_tokens,
            **({"peers": ()} if no_peers else {}),
        ),
    )


@app.command()
def batch(
    sequences: Annotated[int, typer.Option(min=1, help="Sequences decoded together.")] = 16,
    precision: Annotated[
        str, typer.Option(help="int8, int4, int4-full or fp32; best: the fastest of the first three.")
    ] = "int8",
    model: Model = None,
    threads: Threads = None,
    rounds: Rounds = 5,
    prompt_tokens: Annotated[int, typer.Option(min=1)] = 128,
    tokens: Annotated[int, typer.Option(min=2)] = 64,
    no_peers: NoPeers = False,
    row: Row = None,
    json: Json = False,
) -> None:
    """Tokens a second of many sequences together, against llama.cpp."""
    from deepwell.bench.peers.ours import PRECISIONS
    from deepwell.bench.suites.engine.batch import bench_batch

    first, *also = PRECISIONS if precision == "best" else (_precision(precision),)

    _measure(
        "batch",
        row,
        json,
        lambda report: bench_batch(
            report,
            _model(model),
            precision=first,
            also=also,
            threads=_threads(threads),
            sequences=sequences,
            rounds=rounds,
            prompt_tokens=prompt_tokens,
            tokens=tokens,
            **({"peers": ()} if no_peers else {}),
        ),
    )


@app.command()
def profile(
    precision: PrecisionOption = "int4",
    model: Model = None,
    threads: Threads = None,
    rows: Annotated[int, typer.Option(min=1, help="Sequences decoded together.")] = 1,
    prefill: Annotated[
        int | None, typer.Option(min=1, help="Profile a prompt of so many tokens instead of decoding.")
    ] = None,
    rounds: Rounds = 5,
    prompt_tokens: Annotated[int, typer.Option(min=1)] = 128,
    tokens: Annotated[int, typer.Option(min=3)] = 64,
    row: Row = None,
    json: Json = False,
) -> None:
    """Where the milliseconds of a decode step, or of a prompt, go."""
    from deepwell.bench.suites.engine.profile import bench_profile

    _measure(
        "profile",
        row,
        json,
        lambda report: bench_profile(
            report,
            _model(model),
            precision=_precision(precision),
            threads=_threads(threads),
            rows=rows,
            prefill=prefill,
            rounds=rounds,
            prompt_tokens=prompt_tokens,
            tokens=tokens,
        ),
    )


@app.command()
def load(
    precision: PrecisionOption = "int4",
    model: Model = None,
    threads: Threads = None,
    rounds: Rounds = 3,
    requests: Annotated[int, typer.Option(min=1, help="Requests of a round.")] = 64,
    clients: Annotated[int, typer.Option(min=1, help="Clients, each with one request open.")] = 16,
    no_peers: NoPeers = False,
    row: Row = None,
    json: Json = False,
) -> None:
    """Throughput and latency under a mixed load over HTTP, against llama-server."""
    from deepwell.bench.suites.service.load import bench_load

    _measure(
        "load",
        row,
        json,
        lambda report: bench_load(
            report,
            _model(model),
            precision=_precision(precision),
            threads=_threads(threads),
            rounds=rounds,
            requests=requests,
            clients=clients,
            **({"peers": ()} if no_peers else {}),
        ),
    )


@app.command()
def ladder(
    model: Model = None,
    threads: Threads = None,
    rounds: Rounds = 3,
    cycles: Annotated[int, typer.Option(min=1, help="Times 12 requests a round, of the fast steps.")] = 4,
    clients: Annotated[int, typer.Option(min=1)] = 16,
    row: Row = None,
    json: Json = False,
) -> None:
    """One load from plain numpy to reuse, step by step."""
    from deepwell.bench.suites.engine.ladder import bench_ladder

    _measure(
        "ladder",
        row,
        json,
        lambda report: bench_ladder(
            report,
            _model(model),
            threads=_threads(threads),
            rounds=rounds,
            cycles=cycles,
            clients=clients,
        ),
    )


@app.command()
def versus(
    peer: Annotated[
        list[str] | None,
        typer.Option(help="llama.cpp, transformers, openvino or vllm, as often as wanted; unset: all."),
    ] = None,
    model: Model = None,
    threads: Threads = None,
    rounds: Rounds = 5,
    minutes: Annotated[
        float, typer.Option(min=0.1, help="For measuring; rounds are fewer where less would fit.")
    ] = 8.0,
    tune: Annotated[bool, typer.Option("--tune", help="Try every engine's variants again.")] = False,
    prepare: Annotated[
        bool, typer.Option("--prepare", help="Build environments, models and trials; compare nothing.")
    ] = False,
    row: Row = None,
    json: Json = False,
) -> None:
    """Decode, prefill, batch 16, memory and perplexity beside other engines, in environments built once."""
    from deepwell.bench.suites.engine.versus import PEER_NAMES, bench_versus

    _measure(
        "versus",
        row,
        json,
        lambda report: bench_versus(
            report,
            _model(model),
            threads=_threads(threads),
            peers=tuple(peer or PEER_NAMES),
            rounds=rounds,
            minutes=minutes,
            tune=tune,
            prepare=prepare,
        ),
    )


@app.command()
def prefix(
    precision: PrecisionOption = "int8",
    model: Model = None,
    threads: Threads = None,
    rounds: Rounds = 7,
    prefix_tokens: Annotated[int, typer.Option(min=16)] = 1024,
    row: Row = None,
    json: Json = False,
) -> None:
    """Time to the first token with a long prefix cached, against cold."""
    from deepwell.bench.suites.engine.prefix import bench_prefix

    _measure(
        "prefix",
        row,
        json,
        lambda report: bench_prefix(
            report,
            _model(model),
            precision=_precision(precision),
            threads=_threads(threads),
            rounds=rounds,
            prefix_tokens=prefix_tokens,
        ),
    )


@app.command()
def embeddings(
    model: Annotated[
        Path | None, typer.Option(help="An encoder's directory; unset: minilm from the store.")
    ] = None,
    threads: Threads = None,
    rounds: Rounds = 9,
    sequences: Annotated[int, typer.Option(min=1, help="Texts embedded together.")] = 32,
    tokens: Annotated[int, typer.Option(min=3, help="Tokens of each text.")] = 128,
    no_peers: Annotated[bool, typer.Option("--no-peers", help="Leave onnxruntime out.")] = False,
    row: Row = None,
    json: Json = False,
) -> None:
    """Tokens a second of an encoder, against the int8 roof and onnxruntime int8."""
    from deepwell.bench.harness.assets import minilm
    from deepwell.bench.suites.engine.embeddings import bench_embeddings

    _measure(
        "embeddings",
        row,
        json,
        lambda report: bench_embeddings(
            report,
            model or minilm(),
            threads=_threads(threads),
            rounds=rounds,
            sequences=sequences,
            tokens=tokens,
            with_peer=not no_peers,
        ),
    )


@app.command()
def footprint(
    precision: PrecisionOption = "auto",
    model: Model = None,
    starts: Annotated[int, typer.Option(min=1, help="Warm starts; the median counts.")] = 5,
    row: Row = None,
    json: Json = False,
) -> None:
    """Server start, memory, idle CPU, and the size of the base install."""
    from deepwell.bench.suites.service.footprint import bench_footprint

    _measure(
        "footprint",
        row,
        json,
        lambda report: bench_footprint(
            report,
            _model(model),
            precision="auto" if precision == "auto" else _precision(precision),
            starts=starts,
        ),
    )


@app.command()
def size(model: Model = None, row: Row = None, json: Json = False) -> None:
    """Packed model files against fp32."""
    from deepwell.bench.suites.quality.size import bench_model_size

    _measure("size", row, json, lambda report: bench_model_size(report, _model(model)))


@app.command()
def quality(
    model: Model = None,
    tokens: Annotated[int, typer.Option(min=2, help="Tokens of the fixed text.")] = 20_480,
    window: Annotated[int, typer.Option(min=2)] = 512,
    row: Row = None,
    json: Json = False,
) -> None:
    """Perplexity, KL divergence and top-1 agreement of int8 and int4 against fp32."""
    from deepwell.bench.suites.quality.quality import bench_quality

    _measure(
        "quality",
        row,
        json,
        lambda report: bench_quality(report, _model(model), tokens=tokens, window=window),
    )


@app.command()
def kv(
    model: Model = None,
    tokens: Annotated[int, typer.Option(min=2, help="Tokens of the fixed text.")] = 20_480,
    window: Annotated[int, typer.Option(min=2)] = 512,
    row: Row = None,
    json: Json = False,
) -> None:
    """Perplexity and bytes of int8 pages of keys and values against bf16."""
    from deepwell.bench.suites.quality.kv_pages import bench_kv_pages

    _measure(
        "kv",
        row,
        json,
        lambda report: bench_kv_pages(report, _model(model), tokens=tokens, window=window),
    )


app.command("latent")(latent(_measure, _threads))
app.command("mixture")(mixture(_measure, _threads))
app.command("prediction")(prediction(_measure, _threads))


@app.command()
def determinism(
    model: Model = None,
    requests: Annotated[int, typer.Option(min=1)] = 200,
    deepseek: Annotated[
        bool, typer.Option("--deepseek", help="Tiny random V2, V3 and V3.2 in place of a model.")
    ] = False,
    seed: int = 7,
    row: Row = None,
    json: Json = False,
) -> None:
    """Bitwise equal logprobs whatever runs beside a request."""

    def measure(report: Report) -> dict[str, Any]:
        from deepwell.bench.suites.quality.deepseek_determinism import bench_deepseek_determinism
        from deepwell.bench.suites.quality.determinism import bench_determinism

        if deepseek:
            return bench_deepseek_determinism(report, requests=requests, seed=seed)
        return bench_determinism(report, _model(model), requests=requests, seed=seed)

    _measure("determinism", row, json, measure)


@app.command()
def speculation(
    model: Model = None,
    threads: Threads = None,
    rounds: Rounds = 3,
    tokens: Annotated[int, typer.Option(min=32, help="Tokens an answer may have.")] = 128,
    row: Row = None,
    json: Json = False,
) -> None:
    """Speculation on against off: text that repeats, and chat."""

    def measure(report: Report) -> dict[str, Any]:
        from deepwell.bench.suites.engine.speculation import bench_speculation, models_at_hand

        models = [_model(model)] if model else models_at_hand(_model(None))
        return bench_speculation(report, models, threads=_threads(threads), rounds=rounds, tokens=tokens)

    _measure("speculation", row, json, measure)


@app.command()
def parity(
    deepseek: Annotated[bool, typer.Option("--deepseek", help="DeepSeek and Qwen3-MoE alone.")] = False,
    row: Row = None,
    json: Json = False,
) -> None:
    """The parity suite against transformers, in its own environment."""
    from deepwell.bench.suites.repository.suites import bench_parity

    _measure("parity", row, json, lambda report: bench_parity(report, deepseek=deepseek))


@app.command()
def newcomer(
    python: Annotated[str, typer.Option(help="The interpreter that a newcomer has.")] = "python3",
    row: Row = None,
    json: Json = False,
) -> None:
    """A clean clone with an empty HOME: `make run`, then `make test`."""
    from deepwell.bench.suites.repository.suites import bench_newcomer

    _measure("newcomer", row, json, lambda report: bench_newcomer(report, python=python))


@app.command()
def targets(
    pattern: Annotated[
        str | None, typer.Argument(help="A regular expression on row names; unset: all.")
    ] = None,
    threads: Threads = None,
    list_only: Annotated[bool, typer.Option("--list", help="Show the rows, run nothing.")] = False,
    json: Json = False,
) -> None:
    """Run the rows of targets.toml, print which hold, and write docs/benchmarks.md."""
    with reported_errors(as_json=json):
        from deepwell.bench.harness.report import Outcome, Report
        from deepwell.bench.harness.targets import run_target, select, write_page

        report = Report(as_json=json)
        chosen = select(pattern)
        if list_only:
            columns = ["name", "bar", "minutes", "command"]
            report.table("Targets", columns, [[t.name, t.bar, t.minutes, t.command] for t in chosen])
            return
        outcomes: list[Outcome] = []
        for target in chosen:
            report.note(f"{target.name}: {target.command} (at most {target.minutes:g} minutes)")
            outcomes.append(run_target(target))
            report.finish(outcomes[-1])
        page = write_page(outcomes, _threads(threads))
    report.table(
        "Targets",
        ["name", "measured", "bar", "holds"],
        [
            [
                target.name,
                ", ".join(f"{key} {outcome.value.get(key)}" for key in target.limits),
                target.bar,
                "yes" if outcome.holds else "NO",
            ]
            for target, outcome in zip(chosen, outcomes, strict=True)
        ],
    )
    report.note(f"written: {page}")
    if not all(outcome.holds for outcome in outcomes):
        raise typer.Exit(1)


def _precision(text: str) -> Any:
    from deepwell.bench.peers.ours import PRECISIONS

    if text not in ("fp32", *PRECISIONS):
        raise typer.BadParameter(f"{text!r} is none of {', '.join(('fp32', *PRECISIONS))}")
    return text
