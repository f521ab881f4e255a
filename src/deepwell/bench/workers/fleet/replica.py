"""A replica with the paced engine: `replica MODEL PORT FIRST_MS TOKEN_MS TOKENS [HOW...]`, where HOW is one of

- `rate=20`: no more than so many first tokens a second;
- `fail=0.5`: that share of the requests fails in the engine;
- `say=TEXT`: the text that the tokens say.

It is the server that `deepwell serve` runs, with its settings, its release, its database and its guard.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from deepwell.bench.workers.paced import PacedEngine
from deepwell.dialogue.model import ServedModel
from deepwell.dialogue.text import Codec
from deepwell.engine.protocol import GenerateRequest
from deepwell.engine.streams import DeltaStream
from deepwell.errors import EngineUnavailable
from deepwell.models.text.tokenizer import Tokenizer
from deepwell.server.build import context_of
from deepwell.server.http.listen import bind
from deepwell.server.run import serve
from deepwell.settings import Settings

__all__ = ["LimitedEngine", "main"]


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
    ) -> None:
        super().__init__(tokenizer, first_s=first_s, token_s=token_s, tokens=tokens)
        if say:
            self._text = tokenizer.encode(say)
        self._gap_s = 1 / rate if rate else 0.0
        self._fail = fail
        self._first = first_s
        self._free_at = 0.0
        self._asked = 0

    def generate(self, request: GenerateRequest) -> DeltaStream:
        """Hands tokens over on time, behind those that came before."""
        self._asked += 1
        if self._fail and (self._asked * self._fail) % 1 < self._fail:
            raise EngineUnavailable("this engine fails on purpose", fix="roll it back")
        if self._gap_s:
            now = time.perf_counter()
            self._free_at = max(self._free_at, now) + self._gap_s
            self._first_s = self._first + self._free_at - self._gap_s - now
        return super().generate(request)


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
    )
    [name] = settings.released().values()
    context = context_of(settings, [ServedModel(name, engine, Codec.load(path))])
    with bind("127.0.0.1", int(port)) as listener:
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
