"""A replica with the paced engine: `replica MODEL PORT FIRST_MS TOKEN_MS TOKENS [HOW...]`, where HOW is one of

- `rate=20`: no more than so many first tokens a second;
- `fail=0.5`: that share of the requests fails in the engine;
- `say=TEXT`: the text that the tokens say;
- `host=0.0.0.0`: the address that it listens on, which is the loopback else;
- `cache=512`: a prefix cache of so many blocks of 16 tokens, which is counted and saves no time.

It is the server that `deepwell serve` runs, with its settings, its release, its database and its guard.
"""

from __future__ import annotations

import sys
import time
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from deepwell.dialogue.model import ServedModel
from deepwell.dialogue.text import Codec
from deepwell.engine.protocol import EngineStats, GenerateRequest
from deepwell.engine.streams import DeltaStream
from deepwell.errors import EngineUnavailable
from deepwell.models.text.tokenizer import Tokenizer
from deepwell.server.build import context_of
from deepwell.server.http.listen import bind
from deepwell.server.run import serve
from deepwell.settings import Settings
from deepwell_bench.workers.paced import PacedEngine

__all__ = ["BlockCache", "LimitedEngine", "main"]

BLOCK: Final = 16
"""Tokens of a block of the prefix cache."""


class BlockCache:
    """The hashes of the blocks of prompts, as a prefix cache keeps them.

    The least recently used go first, and of one prompt its end: a beginning is of use without its end, and no end without it.
    """

    def __init__(self, blocks: int) -> None:
        self._most = blocks
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def look(self, prompt: Sequence[int]) -> int:
        """Returns how many tokens of a prompt are known from its beginning, and keeps all its blocks."""
        chained, known, broken = 0, 0, False
        seen: list[int] = []
        for place in range(0, len(prompt) - BLOCK + 1, BLOCK):
            chained = hash((chained, tuple(prompt[place : place + BLOCK])))
            broken = broken or chained not in self._blocks
            known += 0 if broken else BLOCK
            seen.append(chained)
        for one in reversed(seen):
            self._blocks[one] = None
            self._blocks.move_to_end(one)
        while len(self._blocks) > self._most:
            self._blocks.popitem(last=False)
        return known


class LimitedEngine(PacedEngine):
    """The paced engine with a bound on its requests a second, and a share that fails."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        first_s: float,
        token_s: float,
        tokens: int,
        rate: float = 0.0,
        fail: float = 0.0,
        say: str = "",
        cache: int = 0,
    ) -> None:
        super().__init__(tokenizer, first_s=first_s, token_s=token_s, tokens=tokens)
        if say:
            self._text = tokenizer.encode(say)
        self._gap_s = 1 / rate if rate else 0.0
        self._fail = fail
        self._first = first_s
        self._free_at = 0.0
        self._asked = 0
        self._cache = BlockCache(cache)
        self._computed = self._cached = 0

    def generate(self, request: GenerateRequest) -> DeltaStream:
        """Hands tokens over on time, behind those that came before."""
        self._asked += 1
        known = self._cache.look(request.prompt)
        self._cached += known
        self._computed += len(request.prompt) - known
        if self._fail and (self._asked * self._fail) % 1 < self._fail:
            raise EngineUnavailable("this engine fails on purpose", fix="roll it back")
        if self._gap_s:
            now = time.perf_counter()
            self._free_at = max(self._free_at, now) + self._gap_s
            self._first_s = self._first + self._free_at - self._gap_s - now
        return super().generate(request)

    def stats(self) -> EngineStats:
        """Returns what the prefix cache has counted."""
        return EngineStats(prompt_tokens=self._computed, cached_tokens=self._cached)


def main(model: str, port: str, first_ms: str, token_ms: str, tokens: str, *how: str) -> None:
    """Serves until a signal comes, under the name of its release."""
    path, told = Path(model), dict(one.split("=", 1) for one in how)
    settings = Settings.load()
    engine = LimitedEngine(
        Tokenizer.load(path),
        first_s=float(first_ms) / 1e3,
        token_s=float(token_ms) / 1e3,
        tokens=int(tokens),
        rate=float(told.get("rate", 0)),
        fail=float(told.get("fail", 0)),
        say=told.get("say", ""),
        cache=int(told.get("cache", 0)),
    )
    [name] = settings.released().values()
    context = context_of(settings, [ServedModel(name, engine, Codec.load(path))])
    with bind(told.get("host", "127.0.0.1"), int(port)) as listener:
        serve(
            context,
            listener,
            log_level="warning",
            on_ready=lambda: None,
            drain_seconds=settings.drain_seconds,
        )
    engine.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
