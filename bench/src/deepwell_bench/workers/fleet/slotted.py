"""A paced engine that answers a few requests at a time, behind the real server: others wait in the order of their arrival.

`python -m deepwell_bench.workers.fleet.slotted MODEL PORT FIRST_MS TOKEN_MS TOKENS SLOTS`
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

from deepwell.engine.protocol import Delta, GenerateRequest
from deepwell.models.text.tokenizer import Tokenizer
from deepwell_bench.workers.paced import PacedEngine

__all__ = ["SlottedEngine"]


class SlottedEngine(PacedEngine):
    """Keeps exact time for at most `slots` requests at once. All of them must come from one event loop."""

    def __init__(
        self, tokenizer: Tokenizer, *, first_s: float, token_s: float, tokens: int, slots: int
    ) -> None:
        super().__init__(tokenizer, first_s=first_s, token_s=token_s, tokens=tokens)
        self._slots = asyncio.Semaphore(slots)

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Delta]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Hands tokens over on time, once it is the request's turn."""
        return self._in_turn(request)

    async def _in_turn(self, request: GenerateRequest) -> AsyncGenerator[Delta]:
        async with self._slots:
            async for delta in super().generate(request):
                yield delta


def main(model: str, port: str, first_ms: str, token_ms: str, tokens: str, slots: str) -> None:
    """Serves until a signal comes."""
    from deepwell.dialogue.model import ServedModel
    from deepwell.dialogue.text import Codec
    from deepwell.server.build import build_context
    from deepwell.server.http.listen import bind
    from deepwell.server.run import serve

    path = Path(model)
    engine = SlottedEngine(
        Tokenizer.load(path),
        first_s=float(first_ms) / 1e3,
        token_s=float(token_ms) / 1e3,
        tokens=int(tokens),
        slots=int(slots),
    )
    context = build_context([ServedModel("paced", engine, Codec.load(path))])
    with bind("127.0.0.1", int(port)) as listener:
        serve(context, listener, log_level="warning", on_ready=lambda: None)
    engine.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
