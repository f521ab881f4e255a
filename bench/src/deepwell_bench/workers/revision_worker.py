"""The engine of one checkout as a worker of a comparison with another checkout, run by that checkout's interpreter.

It imports nothing but the engine's interface, so that it runs over any commit that has it.
"""

# pyright: basic, reportMissingImports=false
from __future__ import annotations

import asyncio
import itertools
import time
from pathlib import Path
from typing import Any

from loop import answer_stream, decode_span, serve

from deepwell.engine.load import open_engine
from deepwell.engine.protocol import GenerateRequest, SamplingParams


class Worker:
    """One loaded engine."""

    def __init__(self) -> None:
        self._ids = itertools.count()

    def load(self, path: str, threads: int, precision: Any, kv_tokens: int, cache: str) -> dict[str, Any]:
        """Opens the engine, without speculation: a figure would depend on how much a text repeats."""
        options: dict[str, Any] = {
            "precision": precision,
            "threads": threads,
            "kv_tokens": kv_tokens,
            "cache_dir": Path(cache),
            "speculation": "off",
        }
        try:
            from deepwell.engine.options import EngineOptions
        except ImportError:  # an earlier commit, whose engine takes them one by one
            self.engine: Any = open_engine(Path(path), **options)
        else:
            self.engine = open_engine(Path(path), EngineOptions(**options))
        about = self.engine.capabilities()
        if about.backend != "native":
            raise RuntimeError("the kernels are not compiled here: install g++ and reinstall the checkout")
        return {"bytes": about.weights_bytes}

    def _request(self, prompt: list[int], count: int) -> GenerateRequest:
        name = f"run-{next(self._ids)}"
        params = SamplingParams(max_tokens=count, temperature=0.0, ignore_eos=True)
        return GenerateRequest(name, prompt, params, cache_salt=name)

    def prefill(self, prompt: list[int]) -> dict[str, Any]:
        """Times a prompt from submission, with an empty cache, to the first token."""
        request = self._request(prompt, 1)
        start = time.perf_counter()
        tokens = [token for delta in self.engine.generate_sync(request) for token in delta.tokens]
        return {"seconds": time.perf_counter() - start, "work_tokens": len(prompt), "tokens": [tokens]}

    def generate(self, prompts: list[list[int]], count: int) -> dict[str, Any]:
        """Continues every prompt; timed from when all have begun to when the first is done."""
        requests = [self._request(prompt, count) for prompt in prompts]
        if len(requests) == 1:
            arrivals = [
                [
                    (time.perf_counter(), token)
                    for delta in self.engine.generate_sync(requests[0])
                    for token in delta.tokens
                ]
            ]
        else:
            arrivals = asyncio.run(self._all_arrivals(requests))
        span = decode_span([[moment for moment, _ in stream] for stream in arrivals])
        return span | {"tokens": [[token for _, token in stream] for stream in arrivals]}

    async def _all_arrivals(self, requests: list[GenerateRequest]) -> list[list[tuple[float, int]]]:
        async def one(request: GenerateRequest) -> list[tuple[float, int]]:
            return [
                (time.perf_counter(), token)
                async for delta in self.engine.generate(request)
                for token in delta.tokens
            ]

        return await asyncio.gather(*map(one, requests))


if __name__ == "__main__":
    serve(Worker(), answer_stream())
