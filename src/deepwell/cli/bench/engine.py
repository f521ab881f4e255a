"""The engine as users run it, scheduler and sampler included, ready to be timed."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deepwell.engine.layouts import KVDtype, Precision
from deepwell.engine.load import open_engine
from deepwell.engine.options import EngineOptions
from deepwell.engine.plan import FULL_BATCH
from deepwell.engine.protocol import GenerateRequest, SamplingParams
from deepwell.errors import DeepwellError
from deepwell.process.energy import Cost, EnergyMeter, measured_cost
from deepwell.settings import Settings

__all__ = ["PRECISIONS", "Ours", "Run"]

PRECISIONS: tuple[Precision, ...] = ("bf16", "fp16", "int8", "int4", "int4-full")


@dataclass(frozen=True, slots=True)
class Run:
    """One timed run: the tokens whose work was timed, and what came out."""

    seconds: float
    work_tokens: int
    outputs: tuple[tuple[int, ...], ...]

    @property
    def rate(self) -> float:
        """Returns tokens a second."""
        return self.work_tokens / self.seconds


class Ours:
    """A loaded engine; between calls its threads sleep on a futex.

    Speculation is off unless it is what is measured: it would make a figure depend on how much a text repeats.

    Args:
        sequences: what a step must hold together.
        packed_in: folder of packed weights; None: that of `deepwell serve`.

    Raises:
        DeepwellError: the compiled extension is missing.
    """

    def __init__(
        self,
        model: Path,
        precision: Precision,
        *,
        threads: int,
        kv_tokens: int,
        sequences: int = 1,
        speculation: Literal["auto", "off"] = "off",
        packed_in: Path | None = None,
        kv_dtype: KVDtype | None = None,
    ) -> None:
        settings = Settings.load()
        self.kv_dtype: KVDtype = kv_dtype or settings.kv_dtype  # as `deepwell serve` would
        self.engine = open_engine(
            model,
            EngineOptions(
                precision=precision,
                threads=threads,
                kv_dtype=self.kv_dtype,
                kv_tokens=kv_tokens,
                batch_size=sequences if sequences > FULL_BATCH else None,
                cache_dir=packed_in or settings.packed_folder,
                speculation=speculation,
            ),
        )
        self.name = f"deepwell {precision}"
        about = self.engine.capabilities()
        if about.backend != "native":
            raise DeepwellError(
                "benchmarks do not run on the numpy reference", fix="install g++ and reinstall"
            )
        self.weights_bytes = about.weights_bytes
        self._ids = itertools.count()

    def request(self, prompt: Sequence[int], count: int, salt: str | None = None) -> GenerateRequest:
        """Returns a greedy request of exactly `count` tokens; without a `salt`, its prefix is shared with nobody."""
        name = f"bench-{next(self._ids)}"
        params = SamplingParams(max_tokens=count, temperature=0.0, ignore_eos=True)
        return GenerateRequest(name, prompt, params, cache_salt=name if salt is None else salt)

    def prefill(self, prompt: Sequence[int], salt: str | None = None) -> Run:
        """Times a prompt from submission to the first token."""
        start = time.perf_counter()
        outputs = tuple(
            token
            for delta in self.engine.generate_sync(self.request(prompt, 1, salt))
            for token in delta.tokens
        )
        return Run(time.perf_counter() - start, len(prompt), (outputs,))

    def generate(self, prompts: Sequence[Sequence[int]], count: int) -> Run:
        """Continues every prompt by `count` tokens; timed from when all have begun to when the first is done."""
        if len(prompts) == 1:
            arrivals = [self._arrivals(prompts[0], count)]
        else:
            arrivals = asyncio.run(self._all_arrivals(prompts, count))
        start = max(stream[0][0] for stream in arrivals)
        end = min(stream[-1][0] for stream in arrivals)
        timed = sum(1 for stream in arrivals for moment, _ in stream if start < moment <= end)
        return Run(end - start, timed, tuple(tuple(token for _, token in stream) for stream in arrivals))

    def _arrivals(self, prompt: Sequence[int], count: int) -> list[tuple[float, int]]:
        return [
            (time.perf_counter(), token)
            for delta in self.engine.generate_sync(self.request(prompt, count))
            for token in delta.tokens
        ]

    def decode_cost(self, prompt: Sequence[int], count: int, meter: EnergyMeter) -> tuple[Cost, int]:
        """Returns what the tokens behind the first one cost, and their number; the prompt is not in it."""
        stream = iter(self.engine.generate_sync(self.request(prompt, count)))
        for delta in stream:
            if delta.tokens:
                break
        with measured_cost(meter) as cost:
            timed = sum(len(delta.tokens) for delta in stream)
        return cost, timed

    async def _all_arrivals(
        self, prompts: Sequence[Sequence[int]], count: int
    ) -> list[list[tuple[float, int]]]:
        async def one(prompt: Sequence[int]) -> list[tuple[float, int]]:
            return [
                (time.perf_counter(), token)
                async for delta in self.engine.generate(self.request(prompt, count))
                for token in delta.tokens
            ]

        return await asyncio.gather(*(one(prompt) for prompt in prompts))

    def close(self) -> None:
        """Frees the model."""
        self.engine.close()
