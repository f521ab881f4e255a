"""Verbs of `deepwell bench` on the server as its users see it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deepwell_bench.cli.options import (
    Json,
    Model,
    NoPeers,
    Precision,
    Rate,
    Rounds,
    Row,
    Seconds,
    Threads,
    known_precision,
    measure,
    model_path,
    usable_threads,
)

__all__ = [
    "cache",
    "clients",
    "footprint",
    "fuzz",
    "grammar",
    "latency",
    "load",
    "metrics",
    "parsing",
    "sdk",
    "semantic",
    "soak",
    "v4_serving",
]


def load(
    precision: Precision = "int4",
    model: Model = None,
    threads: Threads = None,
    rounds: Rounds = 3,
    requests: Annotated[int, typer.Option(min=1, help="Number of requests in each round.")] = 64,
    clients: Annotated[
        int, typer.Option(min=1, help="Number of clients, each with one request at a time.")
    ] = 16,
    no_peers: NoPeers = False,
    row: Row = None,
    json: Json = False,
) -> None:
    """Measures throughput and latency under a mixed load over HTTP, against llama-server."""
    from deepwell_bench.suites.service.load import bench_load

    measure(
        "load",
        row,
        json,
        lambda report: bench_load(
            report,
            model_path(model),
            precision=known_precision(precision),
            threads=usable_threads(threads),
            rounds=rounds,
            requests=requests,
            clients=clients,
            **({"peers": ()} if no_peers else {}),
        ),
    )


def footprint(
    precision: Precision = "auto",
    model: Model = None,
    starts: Annotated[int, typer.Option(min=1, help="Number of warm starts; the median counts.")] = 5,
    row: Row = None,
    json: Json = False,
) -> None:
    """Measures server start, memory, idle CPU, and the size of the base install."""
    from deepwell_bench.suites.service.footprint import bench_footprint

    measure(
        "footprint",
        row,
        json,
        lambda report: bench_footprint(
            report,
            model_path(model),
            precision="auto" if precision == "auto" else known_precision(precision),
            starts=starts,
        ),
    )


def start(
    model: Model = None,
    starts: Annotated[int, typer.Option(min=1, help="Number of warm starts; the median counts.")] = 15,
    row: Row = None,
    json: Json = False,
) -> None:
    """Measures the time from the start of `deepwell serve` until it is ready, and until its first token."""
    from deepwell_bench.suites.service.start import bench_start

    measure("start", row, json, lambda report: bench_start(report, model_path(model), starts=starts))


def parsing(
    streams: Annotated[int, typer.Option(min=1, help="Number of random streams.")] = 100_000,
    seed: Annotated[int, typer.Option(help="Seed of the random streams.")] = 0,
    row: Row = None,
    json: Json = False,
) -> None:
    """Parses golden transcripts of tool calls, cut everywhere, and random streams."""
    from deepwell_bench.suites.service.parsing import bench_parsing

    measure("parsing", row, json, lambda report: bench_parsing(report, streams=streams, seed=seed))


def grammar(
    model: Model = None,
    threads: Threads = None,
    rounds: Annotated[int, typer.Option(min=1, help="Number of interleaved rounds of the timing.")] = 5,
    count: Annotated[int, typer.Option(min=1, help="Number of schemas to answer.")] = 200,
    row: Row = None,
    json: Json = False,
) -> None:
    """Measures structured output: what masks cost a decode step, and whether answers fit their schemas."""
    from deepwell_bench.suites.service.grammar import bench_grammar

    measure(
        "grammar",
        row,
        json,
        lambda report: bench_grammar(
            report, model_path(model), threads=usable_threads(threads), rounds=rounds, count=count
        ),
    )


def timing(
    model: Model = None,
    pairs: Annotated[
        int,
        typer.Option(min=1, help="Number of requests that another tenant has sent, and of as many new ones."),
    ] = 400,
    seed: Annotated[int, typer.Option(help="Seed of the random requests.")] = 0,
    row: Row = None,
    json: Json = False,
) -> None:
    """Measures whether the time of an answer tells a tenant what another tenant has asked."""
    from deepwell_bench.suites.service.timing import bench_timing

    measure(
        "timing", row, json, lambda report: bench_timing(report, model_path(model), pairs=pairs, seed=seed)
    )


def clients(model: Model = None, threads: Threads = None, row: Row = None, json: Json = False) -> None:
    """Runs seven other projects' clients (LangChain, the AI SDK and others) against the server, in their own environments."""
    from deepwell_bench.suites.service.clients import bench_clients

    measure(
        "clients",
        row,
        json,
        lambda report: bench_clients(report, model_path(model), threads=usable_threads(threads)),
    )


def setups(row: Row = None, json: Json = False) -> None:
    """Stages broken set-ups for real: doctor has to find each, and what it says has to mend it."""
    from deepwell_bench.suites.service.broken_setups import bench_broken_setups

    measure("setups", row, json, bench_broken_setups)


def webui(row: Row = None, json: Json = False) -> None:
    """Sends the requests of Open WebUI's backend to the server, over its OpenAI connection."""
    from deepwell_bench.suites.service.open_webui import bench_open_webui

    measure("webui", row, json, bench_open_webui)


def ollama(row: Row = None, json: Json = False) -> None:
    """Runs ollama's own Python client and Open WebUI's requests against the server, which speaks ollama's API."""
    from deepwell_bench.suites.service.ollama_clients import bench_ollama_clients

    measure("ollama", row, json, bench_ollama_clients)


def soak(
    model: Model = None,
    precision: Precision = "int4",
    threads: Threads = None,
    clients: Annotated[
        int, typer.Option(min=1, help="Number of clients, each with one answer under way.")
    ] = 64,
    minutes: Annotated[float, typer.Option(min=0.1, help="Length of the load, in minutes.")] = 5.0,
    row: Row = None,
    json: Json = False,
) -> None:
    """Keeps many clients busy for minutes, some of which hang up: what is lost, what leaks, how much speed is left."""
    from deepwell_bench.suites.service.soak import bench_soak

    measure(
        "soak",
        row,
        json,
        lambda report: bench_soak(
            report,
            model_path(model),
            precision=known_precision(precision),
            threads=usable_threads(threads),
            clients=clients,
            minutes=minutes,
        ),
    )


def cache(
    model: Model = None,
    seconds: Annotated[float, typer.Option(min=1, help="Length of each run of wrk, in seconds.")] = 5.0,
    rounds: Annotated[int, typer.Option(min=1, help="Number of runs at each number of connections.")] = 3,
    row: Row = None,
    json: Json = False,
) -> None:
    """Times answers from the exact response cache, by wrk with keep-alive; sends two tenants over every route."""
    from deepwell_bench.suites.service.exact_cache import bench_exact_cache

    measure(
        "cache",
        row,
        json,
        lambda report: bench_exact_cache(report, model_path(model), seconds=seconds, rounds=rounds),
    )


def metrics(
    model: Model = None,
    rate: Rate = 100.0,
    seconds: Seconds = 60.0,
    row: Row = None,
    json: Json = False,
) -> None:
    """Times /metrics under load, and the lateness of the event loop."""
    from deepwell_bench.suites.service.scrape import bench_metrics

    measure(
        "metrics",
        row,
        json,
        lambda report: bench_metrics(report, model_path(model), rate=rate, seconds=seconds),
    )


def semantic(
    embedder: Annotated[str | None, typer.Option(help="Embedding model to use; unset: minilm.")] = None,
    each: Annotated[int, typer.Option(min=1, help="Number of swaps of each family.")] = 80,
    seed: Annotated[int, typer.Option(help="Seed of the swaps.")] = 0,
    min_cosine: Annotated[float, typer.Option(min=0, max=1, help="Least cosine for a hit.")] = 0.8,
    threads: Threads = None,
    row: Row = None,
    json: Json = False,
) -> None:
    """Counts false hits of the semantic cache on swaps of what counts, and hits on paraphrases; in English and Chinese."""
    from deepwell.server.options import SemanticOptions
    from deepwell_bench.suites.service.semantic import bench_semantic

    measure(
        "semantic",
        row,
        json,
        lambda report: bench_semantic(
            report,
            _embedder(embedder),
            threads=usable_threads(threads),
            each=each,
            seed=seed,
            options=SemanticOptions(min_cosine=min_cosine),
        ),
    )


def _embedder(given: str | None) -> Path:
    from deepwell_bench.harness.assets import minilm

    return model_path(given) if given else minilm()


def sdk(model: Model = None, row: Row = None, json: Json = False) -> None:
    """Calls every method of the served families through the official SDKs, with strict validation."""
    from deepwell_bench.suites.service.sdk import bench_sdk

    measure("sdk", row, json, lambda report: bench_sdk(report, model_path(model)))


def v4_serving(row: Row = None, json: Json = False) -> None:
    """Serves a V4-shaped model of random weights: chat, reasoning, calls, prefixes and an adapter by the OpenAI SDK."""
    from deepwell_bench.suites.engine.deepseek_v4 import bench_v4_serving

    measure("v4-serving", row, json, bench_v4_serving)


def fuzz(
    model: Model = None,
    minutes: Annotated[float, typer.Option(min=0.1, help="Length of the load, in minutes.")] = 5.0,
    seed: Annotated[int, typer.Option(help="Seed of the random requests.")] = 1,
    row: Row = None,
    json: Json = False,
) -> None:
    """Runs Schemathesis against the server's own OpenAPI document, in an environment of its own."""
    from deepwell_bench.suites.service.fuzz import bench_fuzz

    measure(
        "fuzz", row, json, lambda report: bench_fuzz(report, model_path(model), minutes=minutes, seed=seed)
    )


def latency(
    model: Model = None,
    rate: Rate = 100.0,
    seconds: Seconds = 60.0,
    full: Annotated[
        bool, typer.Option("--full", help="Measure with keys, limits and the access log.")
    ] = False,
    row: Row = None,
    json: Json = False,
) -> None:
    """Measures what the server adds to the time to the first token, over an engine that keeps exact time."""
    from deepwell_bench.suites.service.latency import bench_latency

    measure(
        "latency",
        row,
        json,
        lambda report: bench_latency(report, model_path(model), rate=rate, seconds=seconds, full=full),
    )
