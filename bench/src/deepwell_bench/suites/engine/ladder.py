"""One load, five ways to serve it: what each idea of the engine is worth, from plain numpy to reuse."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepwell.cli.bench.engine import Ours
from deepwell.cli.bench.load import CLIENTS, Asked
from deepwell.cli.bench.machine import machine
from deepwell.cli.bench.report import Report, rounded
from deepwell.dialogue.completion import Choice, complete
from deepwell.dialogue.text import Codec
from deepwell.engine.backends import native
from deepwell.engine.batch import BLOCK_TOKENS
from deepwell.engine.plan import kv_token_bytes
from deepwell.engine.weights.load import load_weights
from deepwell.errors import DeepwellError
from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell.server.caches.response_cache import AnswerKey, ResponseCache
from deepwell_bench.harness.assets import bench_cache
from deepwell_bench.suites.engine.unfused import Products, Unfused, blas_products, native_products
from deepwell_bench.workloads.repeating import (
    ANSWERS,
    CAPACITY,
    CYCLE,
    QUESTIONS,
    REPEATED,
    SYSTEM_TOKENS,
    Repeating,
    repeating_load,
)
from deepwell_bench.workloads.text import text_tokens

__all__ = ["bench_ladder"]

RESPONSE_CACHE_BYTES = 32 << 20  # the server's default


@dataclass(frozen=True, slots=True)
class _Done:
    """A timed run."""

    rate: float  # generated tokens a second
    outputs: tuple[tuple[int, ...], ...]


def _one_by_one(requests: Sequence[Asked], generate: Callable[[Asked], Sequence[int]]) -> _Done:
    start = time.perf_counter()
    outputs = tuple(tuple(generate(asked)) for asked in requests)
    return _Done(sum(map(len, outputs)) / (time.perf_counter() - start), outputs)


def _together(requests: Sequence[Asked], clients: int, generate: Callable[[Asked], Any]) -> _Done:
    """Runs `clients` requests at a time: whoever is done takes the next."""

    async def run() -> list[tuple[int, ...]]:
        queue = iter(enumerate(requests))
        outputs: list[tuple[int, ...]] = [()] * len(requests)

        async def client() -> None:
            for index, asked in queue:
                outputs[index] = tuple(await generate(asked))

        await asyncio.gather(*(client() for _ in range(clients)))
        return outputs

    start = time.perf_counter()
    outputs = asyncio.run(run())
    seconds = time.perf_counter() - start
    return _Done(sum(asked.max_tokens for asked in requests) / seconds, tuple(outputs))


class _Reuse:
    """The last step: one engine with its prefix cache, and the server's response cache in front."""

    def __init__(self, ours: Ours, codec: Codec, salt: str) -> None:
        self._ours = ours
        self._codec = codec
        self._salt = salt
        self._cache = ResponseCache(RESPONSE_CACHE_BYTES)
        self.prompt_tokens = self.cached_tokens = 0

    async def generate(self, asked: Asked) -> list[int]:
        choice = Choice(0, self._ours.request(asked.prompt, asked.max_tokens, self._salt))
        key = AnswerKey.of(choice, fingerprint="", adapter="")
        assert key is not None
        updates = self._cache.stream(key, 0, lambda: complete(self._ours.engine, self._codec, choice))
        produced = cached = 0
        async with aclosing(updates) as stream:
            async for update in stream:
                produced = update.counts.completion
                cached = update.counts.cached
        if produced != asked.max_tokens:
            raise DeepwellError(f"{asked.max_tokens} tokens were asked for, {produced} came")
        self.prompt_tokens += len(asked.prompt)
        self.cached_tokens += cached
        return []

    @property
    def answer_bytes(self) -> int:
        """Returns the memory of the answers kept."""
        return self._cache.store.nbytes


class _Ladder:
    """The steps, over what each of them runs on."""

    def __init__(self, fp32: Unfused, int8: Unfused, ours: Ours, codec: Codec, clients: int) -> None:
        self._fp32 = fp32
        self._int8 = int8
        self._ours = ours
        self._codec = codec
        self._clients = clients
        self.reuse: dict[str, list[_Reuse]] = {"shared": [], "apart": []}

    def steps(
        self, shared: Repeating, apart: Repeating, sample: Sequence[Asked], number: int
    ) -> dict[str, Callable[[], _Done]]:
        """Returns the steps of a round by name, from the slowest; the first three run a sample of its requests alone."""
        return {
            "fp32, unfused": lambda: _one_by_one(
                sample, lambda asked: self._fp32.generate(asked.prompt, asked.max_tokens)
            ),
            "int8, unfused": lambda: _one_by_one(
                sample, lambda asked: self._int8.generate(asked.prompt, asked.max_tokens)
            ),
            "+ fusion": lambda: _one_by_one(sample, self._fused),
            "+ continuous batching": lambda: _together(shared.requests, self._clients, self._batched),
            "+ prefix and response reuse": lambda: self._reused(shared, "shared", number),
            "the same, all requests distinct": lambda: self._reused(apart, "apart", number),
        }

    def bytes_held(self, weights: Mapping[str, int], token_bytes: int) -> tuple[int, ...]:
        """Returns the memory of every step: its weights, its cache, and the answers that are kept."""
        ours = self._ours.weights_bytes
        one, all_of_them = -(-CAPACITY // BLOCK_TOKENS) * BLOCK_TOKENS, self._clients * CAPACITY
        kept = max(made.answer_bytes for kind in self.reuse.values() for made in kind)
        return (
            weights["fp32"] + self._fp32.cache_bytes,
            weights["int8"] + self._int8.cache_bytes,
            ours + one * token_bytes,
            ours + all_of_them * token_bytes,
            ours + all_of_them * token_bytes + kept,
            ours + all_of_them * token_bytes + kept,
        )

    def _fused(self, asked: Asked) -> list[int]:
        deltas = self._ours.engine.generate_sync(self._ours.request(asked.prompt, asked.max_tokens))
        return [token for delta in deltas for token in delta.tokens]

    async def _batched(self, asked: Asked) -> list[int]:
        request = self._ours.request(asked.prompt, asked.max_tokens)
        return [token async for delta in self._ours.engine.generate(request) for token in delta.tokens]

    def _reused(self, load: Repeating, kind: str, number: int) -> _Done:
        self.reuse[kind].append(_Reuse(self._ours, self._codec, f"{kind}-{number}"))
        return _together(load.requests, self._clients, self.reuse[kind][-1].generate)


def bench_ladder(
    report: Report,
    model: Path,
    *,
    threads: int,
    rounds: int = 3,
    cycles: int = 4,
    clients: int = CLIENTS,
) -> dict[str, Any]:
    """Measures tokens a second of five steps on one load, in interleaved rounds; the slow steps run its first cycle only.

    Every step's text is held against the engine's own in the same weights before anything is timed.
    """
    facts = machine(threads)
    report.note(f"{facts['cpu']}, {threads} threads, {facts['system']}, {facts['date']}")
    report.note(
        f"load: {SYSTEM_TOKENS} tokens of system prompt that all share, questions of {QUESTIONS}, answers of {ANSWERS} tokens; "
        f"one request in {REPEATED} repeats an earlier one exactly"
    )
    native.select_backend("native")
    native.set_threads(threads)
    checkpoint = open_checkpoint(model)
    config, ids = checkpoint.config, text_tokens(model)
    embedding = checkpoint.tensor("model.embed_tokens.weight").float32()
    weights = {kind: load_weights(checkpoint, kind, bench_cache()) for kind in ("fp32", "int8")}

    def unfused(kind: str, products: Products) -> Unfused:
        return Unfused(config, weights[kind].vectors, embedding, products, capacity=CAPACITY)

    with ExitStack() as stack:
        fp32 = _faster(
            report,
            {
                "BLAS": unfused("fp32", blas_products(checkpoint)),
                "the compiled kernel": unfused("fp32", native_products(weights["fp32"])),
            },
            ids,
        )
        int8 = unfused("int8", native_products(weights["int8"]))
        ours = Ours(model, "int8", threads=threads, kv_tokens=(clients + 2) * CAPACITY)
        stack.callback(ours.close)
        agreement = {
            "fp32_agreement": _agreement(model, "fp32", fp32, ids, threads),
            "int8_agreement": _agreement(model, "int8", int8, ids, threads),
        }
        ladder = _Ladder(fp32, int8, ours, Codec.load(model), clients)
        rates: dict[str, list[float]] = {}
        for number in range(rounds + 1):  # the first one warms up, and is short
            count = CYCLE * (cycles if number else 1)
            shared, apart = (repeating_load(ids, count, number, shared=share) for share in (True, False))
            steps = ladder.steps(shared, apart, shared.requests[: CYCLE if number else 1], number)
            if number:
                rates = rates or {name: [] for name in steps}
            for name in steps if number % 2 else reversed(steps):
                done = steps[name]()
                if number:
                    rates[name].append(done.rate)
        kept = {kind: of_kind.nbytes for kind, of_kind in weights.items()}
        bytes_of = dict(
            zip(rates, ladder.bytes_held(kept, kv_token_bytes(config, ours.kv_dtype)), strict=True)
        )
        shares = {
            "distinct_requests": repeating_load(ids, CYCLE * cycles, 1).distinct / (CYCLE * cycles),
            "reused_prompt_tokens": statistics.median(
                made.cached_tokens / made.prompt_tokens for made in ladder.reuse["shared"][1:]
            ),
        }
    return (
        _report(report, rates, bytes_of, clients) | agreement | {k: rounded(v, 3) for k, v in shares.items()}
    )


def _report(
    report: Report, rates: dict[str, list[float]], bytes_of: dict[str, int], clients: int
) -> dict[str, Any]:
    names = list(bytes_of)

    def ratio(upper: str, lower: str) -> float:
        return statistics.median(a / b for a, b in zip(rates[upper], rates[lower], strict=True))

    rows: list[list[Any]] = []
    for number, name in enumerate(names):
        below = names[number - 1] if 0 < number < 5 else None
        rows.append(
            [
                name,
                statistics.median(rates[name]),
                bytes_of[name] / 1e6,
                rounded(ratio(name, below), 3) if below else "",
                rounded(ratio(name, names[0]), 3),
            ]
        )
    report.table(
        f"The ladder, {clients} clients", ["step", "tokens/s", "MB", "x the step before", "x the first"], rows
    )
    keys = ("fp32_unfused", "int8_unfused", "fusion", "continuous_batching", "reuse", "distinct")
    return {
        "ratio": rounded(ratio(names[4], names[0]), 3),
        "distinct_ratio": rounded(ratio(names[5], names[0]), 3),
        **{
            f"{key}_tokens_per_s": rounded(statistics.median(rates[n]))
            for key, n in zip(keys, names, strict=True)
        },
        **{f"{key}_mb": rounded(bytes_of[n] / 1e6) for key, n in zip(keys, names, strict=True)},
    }


def _faster(report: Report, candidates: dict[str, Unfused], ids: Sequence[int]) -> Unfused:
    """Picks the faster way to multiply, on a prompt and an answer of the load's own shape."""
    asked = repeating_load(ids, 1, 99).requests[0]
    rates: dict[str, float] = {}
    for name, candidate in candidates.items():
        candidate.generate(asked.prompt, 2)
        rates[name] = max(
            _one_by_one([asked], lambda a, c=candidate: c.generate(a.prompt, a.max_tokens)).rate
            for _ in range(2)
        )
    best = max(rates, key=rates.__getitem__)
    report.note(
        f"fp32 products in {best}: "
        + ", ".join(f"{name} {rate:.1f} tokens/s" for name, rate in rates.items())
    )
    return candidates[best]


def _agreement(model: Path, precision: Any, plain: Unfused, ids: Sequence[int], threads: int) -> float:
    """Returns the share of the engine's greedy tokens that the plain decoder finds most likely too, behind the same tokens.

    Behind its own tokens it would follow another text from the first near tie on.

    Raises:
        DeepwellError: they differ in more than one of ten: the plain decoder is wrong.
    """
    ours = Ours(model, precision, threads=threads, kv_tokens=2 * CAPACITY)
    try:
        equal = total = 0
        for asked in repeating_load(ids, 3, 98, shared=False).requests:
            deltas = ours.engine.generate_sync(ours.request(asked.prompt, asked.max_tokens))
            expected = [token for delta in deltas for token in delta.tokens]
            got = plain.generate(asked.prompt, asked.max_tokens, expected)
            equal += sum(a == b for a, b in zip(got, expected, strict=True))
            total += len(got)
    finally:
        ours.close()
    share = equal / total
    if share < 0.9:
        raise DeepwellError(
            f"the plain {precision} decoder and the engine agree on {share:.0%} of the tokens only"
        )
    return rounded(share, 3)
