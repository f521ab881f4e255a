"""Minutes of real load on the real server: is anything lost, does memory grow, and what of the engine's speed is left."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepwell.cli.bench.engine import Ours
from deepwell.cli.bench.machine import cpu_seconds, machine, process_tree
from deepwell.cli.bench.report import Report, percentile, rounded
from deepwell.dialogue.text import Codec
from deepwell.engine.layouts import Precision
from deepwell.models.text.tokenizer import Tokenizer
from deepwell_bench.harness.assets import WORKERS
from deepwell_bench.harness.environments import PeerError
from deepwell_bench.harness.open_loop import compiled_client
from deepwell_bench.harness.served import rss_bytes, serve_command, served_process
from deepwell_bench.workloads.chats import FEWEST, LONGEST, MOST, Work, work_of
from deepwell_bench.workloads.text import prompts, text_tokens

__all__ = ["Outcome", "bench_soak", "corrected", "outcomes_of", "slope"]

SOURCE = WORKERS / "soak.c"
WARM_S = 60.0  # after which memory must not grow
REFERENCE_ROUNDS = 2  # before the load, and as many behind it


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of one request; times in seconds since the start."""

    index: int
    how: str
    begin: float
    first: float
    last: float
    events: int
    tokens: int


def outcomes_of(output: str) -> tuple[list[Outcome], float]:
    """Reads what the client printed: one outcome a request, and its CPU seconds.

    Raises:
        PeerError: it did not come to its end.
    """
    *lines, last = output.splitlines() or [""]
    if not last.startswith("cpu "):
        raise PeerError("the load client did not come to its end")
    found: list[Outcome] = []
    for line in lines:
        index, how, begin, first, end, events, tokens = line.split()
        found.append(
            Outcome(int(index), how, float(begin), float(first), float(end), int(events), int(tokens))
        )
    return found, float(last.split()[1])


def slope(samples: Sequence[tuple[float, float]]) -> float:
    """Returns the growth a minute of (seconds, value), by least squares."""
    if len(samples) < 2:
        return 0.0
    return 60 * statistics.linear_regression([at for at, _ in samples], [value for _, value in samples]).slope


def corrected(rate: float, client_cpu_seconds: float, seconds: float, cores: int) -> float:
    """Returns the rate without the load's own share of the machine: rate / (1 - CPU / (seconds x cores))."""
    return rate / (1 - client_cpu_seconds / (seconds * cores))


def _gauge(port: int, name: str) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    found = [line for line in lines if line.startswith((f"deepwell_{name} ", f"deepwell_{name}{{"))]
    return sum(float(line.rpartition(" ")[2]) for line in found)


def bench_soak(
    report: Report,
    model: Path,
    *,
    precision: Precision,
    threads: int,
    clients: int = 64,
    minutes: float = 5.0,
) -> dict[str, Any]:
    """Runs clients that each keep one streamed chat open, against `deepwell serve`; the engine's batch as the reference.

    The reference is what `bench batch` runs, as many sequences as there are clients with the load's mean lengths, timed
    from the first prompt to the last token, so that it reads as many tokens of prompt for each it writes; once before and
    once behind the load, and not beside it. `batch_decode_tokens_per_s` leaves the prompts out, as `bench batch` does.

    Raises:
        PeerError: there is no C compiler, or the server or the load failed.
    """
    client = compiled_client(SOURCE)
    facts = machine(threads)
    report.note(f"{facts['cpu']}, {threads} threads, {facts['system']}, {facts['date']}")
    tokenizer = Tokenizer.load(model)
    work = work_of(text_tokens(model), int(minutes * 60 * 40) + 4 * clients)
    texts = [tokenizer.decode(one.prompt) for one in work]
    codec = Codec.load(model)
    # What the server reads: the same text behind the chat template.
    lengths = [len(codec.encode_chat([{"role": "user", "content": text}])) for text in texts[:500]]
    prompt_tokens, answer_tokens = round(statistics.mean(lengths)), (FEWEST + MOST) // 2
    kv_tokens = clients * (LONGEST + MOST + 64)
    before = _reference(model, precision, threads, kv_tokens, clients, prompt_tokens, answer_tokens, 0)
    command = [
        *("--precision", precision, "--threads", str(threads), "--kv-tokens", str(kv_tokens)),
        *("--response-cache-mb", "1"),  # full within the first minute: what it keeps is no leak
    ]
    with (
        tempfile.TemporaryDirectory() as folder,
        served_process(lambda port: [*serve_command(model)(port), *command]) as (port, pid),
    ):
        name = json.loads(urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=30).read())
        file = Path(folder) / "requests"
        with file.open("w", encoding="utf-8") as stream:
            for one, text in zip(work, texts, strict=True):
                stream.write(f"{one.leave} {_body(name['data'][0]['id'], text, one)}\n")

        def load(seconds: float) -> tuple[list[Outcome], float, list[tuple[float, float]], float]:
            arguments = [str(port), str(clients), str(seconds), str(file), "/v1/chat/completions"]
            pids = process_tree(pid)
            spent = cpu_seconds(pids)
            begin = time.monotonic()
            process = subprocess.Popen([str(client), *arguments], stdout=subprocess.PIPE, text=True)
            samples: list[tuple[float, float]] = []
            with tempfile.TemporaryFile("w+") as output:
                reader = threading.Thread(
                    target=lambda: output.write(process.stdout.read() if process.stdout else "")
                )
                reader.start()
                while process.poll() is None:
                    samples.append((time.monotonic() - begin, rss_bytes(process_tree(pid)) / 1e6))
                    time.sleep(1.0)
                reader.join()
                output.seek(0)
                outcomes, cpu = outcomes_of(output.read())
            return outcomes, cpu, samples, cpu_seconds(pids) - spent

        load(2.0)  # connections made, code paths warm
        outcomes, cpu, samples, server_cpu = load(minutes * 60)
        deadline = time.monotonic() + 10
        while (left := _gauge(port, "running") + _gauge(port, "waiting")) and time.monotonic() < deadline:
            time.sleep(0.1)
    after = _reference(model, precision, threads, kv_tokens, clients, prompt_tokens, answer_tokens, 1)
    return _judge(
        report, work, outcomes, cpu, samples, server_cpu, left, before, after, prompt_tokens, answer_tokens
    )


def _body(model: str, text: str, one: Work) -> str:
    return json.dumps(
        {
            "model": model,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": one.max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        },
        ensure_ascii=True,
    )


@dataclass(frozen=True, slots=True)
class _Reference:
    whole: float  # tokens generated a second, prompts included in the time
    decode: float  # the same from when all have begun


def _reference(
    model: Path,
    precision: Precision,
    threads: int,
    kv_tokens: int,
    sequences: int,
    prompt_tokens: int,
    tokens: int,
    number: int,
) -> _Reference:
    ours = Ours(model, precision, threads=threads, kv_tokens=kv_tokens)
    try:
        ours.generate(prompts(model, prompt_tokens, 9, sequences), 8)
        runs: list[_Reference] = []
        for turn in range(REFERENCE_ROUNDS):
            batch = prompts(model, prompt_tokens, number * REFERENCE_ROUNDS + turn, sequences)
            begin = time.perf_counter()
            run = ours.generate(batch, tokens)
            seconds = time.perf_counter() - begin
            runs.append(_Reference(sequences * tokens / seconds, run.rate))
    finally:
        ours.close()
    return _Reference(max(run.whole for run in runs), max(run.decode for run in runs))


def _judge(
    report: Report,
    work: Sequence[Work],
    outcomes: Sequence[Outcome],
    cpu: float,
    samples: Sequence[tuple[float, float]],
    server_cpu: float,
    left: float,
    before: _Reference,
    after: _Reference,
    prompt_tokens: int,
    answer_tokens: int,
) -> dict[str, Any]:
    cores = os.cpu_count() or 1
    done = [one for one in outcomes if one.how == "done"]
    short = [one for one in done if one.tokens != work[one.index].max_tokens]
    broken = [one for one in outcomes if one.how == "failed"]
    stuck = [one for one in outcomes if one.how == "stuck"]
    gone = [one for one in outcomes if one.how == "left"]
    if not done:
        raise PeerError("no request was answered", fix="see the server's log")
    # Between the first and the last moment at which every client was busy.
    end = max(one.begin for one in outcomes)
    generated = sum(_within(one, end) for one in outcomes if one.how in ("done", "left"))
    rate = generated / end
    net = corrected(rate, cpu, max(one.last for one in outcomes), cores)
    reference = _Reference((before.whole + after.whole) / 2, (before.decode + after.decode) / 2)
    warm = [sample for sample in samples if sample[0] >= min(WARM_S, samples[-1][0] / 2) and sample[0] <= end]
    firsts = [(one.first - one.begin) * 1e3 for one in outcomes if one.first]
    value: dict[str, Any] = {
        "requests": len(outcomes),
        "hung_up": len(gone),
        "lost": len(broken) + len(short),
        "stuck": len(stuck) + int(left),
        "tokens_per_s": rounded(rate),
        "client_cpu_share": rounded(cpu / (max(one.last for one in outcomes) * cores), 3),
        "corrected_tokens_per_s": rounded(net),
        "batch_tokens_per_s": rounded(reference.whole),
        "batch_before": rounded(before.whole),
        "batch_after": rounded(after.whole),
        "batch_decode_tokens_per_s": rounded(reference.decode),
        "ratio_raw": rounded(rate / reference.whole, 3),
        "ratio": rounded(net / reference.whole, 3),
        "ratio_to_decode_alone": rounded(net / reference.decode, 3),
        "rss_mb": rounded(samples[-1][1]),
        "rss_slope_mb_per_minute": rounded(slope(warm), 3),
        "first_token_p50_ms": rounded(percentile(firsts, 0.5)),
        "first_token_p99_ms": rounded(percentile(firsts, 0.99)),
        "server_cpu_seconds": rounded(server_cpu),
        "seconds_of_load": rounded(end),
        "prompt_tokens": prompt_tokens,
        "answer_tokens": answer_tokens,
    }
    report.table("Real load", ["figure", "value"], [[key, figure] for key, figure in value.items()])
    report.note(
        "corrected = raw / (1 - client CPU seconds / (seconds x cores)); ratio = corrected / batch, the same engine fed "
        "without HTTP with as many sequences of the same mean lengths, prompts included"
    )
    return value


def _within(one: Outcome, end: float) -> float:
    """Returns the tokens of a request that came before `end`; a token has an event, except for those that share one."""
    total = one.tokens if one.how == "done" else one.events
    if one.last <= end or one.first >= end:
        return float(total) if one.last <= end else 0.0
    return total * (end - one.first) / (one.last - one.first)
