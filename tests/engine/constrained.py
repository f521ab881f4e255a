"""An engine over bytes that obeys grammars: the fake model with the vocabulary of the server's tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from tests.engine.fakes import FakeCache, fake_capabilities, logits_after
from tests.server.fakes import END, VOCAB

from deepwell.engine.backends.backend import KVCache
from deepwell.engine.batch import BLOCK_TOKENS, Batch
from deepwell.engine.core.loop import InProcessEngine, PagedModel
from deepwell.engine.grammar.compiler import GrammarCompiler
from deepwell.engine.limits import Limits
from deepwell.engine.protocol import Grammar

PADDED = VOCAB + 6  # an embedding with rows that no token has
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 6}, "age": {"type": "integer", "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def schema(value: object) -> Grammar:
    return Grammar("json_schema", json.dumps(value))


RECORDS = schema({"type": "array", "items": PERSON, "minItems": 3, "maxItems": 5})


class ByteModel:
    """Logits after each prefix as the engine tests' fake, over bytes."""

    vocab_size = PADDED
    hidden_size = 8
    expert_loads = np.zeros((0, 0), np.uint64)
    expert_reads = np.zeros(0, np.uint64)

    def __init__(self, before_step: Callable[[Batch], None] | None = None) -> None:
        self.before_step = before_step

    def forward(self, batch: Batch, cache: FakeCache, *, logits=None, argmax=None, **_: object) -> None:  # type: ignore[no-untyped-def]
        if self.before_step is not None:
            self.before_step(batch)
        output = 0
        for s in range(len(batch.seq_starts) - 1):
            rows = range(batch.seq_starts[s], batch.seq_starts[s + 1])
            for row in rows:
                place = int(batch.positions[row])
                block = batch.block_tables[s, place // BLOCK_TOKENS]
                cache.tokens[block, place % BLOCK_TOKENS] = batch.tokens[row]
            for row in rows:
                if output == len(batch.output_rows) or batch.output_rows[output] != row:
                    continue
                length = int(batch.positions[row]) + 1
                blocks = batch.block_tables[s, : -(-length // BLOCK_TOKENS)]
                seen = cache.tokens[blocks].reshape(-1)[max(0, length - 3) : length]  # repeats itself: drafts
                values = np.tile(logits_after(seen), 3)[:PADDED]
                if logits is not None:
                    logits[output] = values
                if argmax is not None:
                    argmax[output] = values.argmax()
                output += 1


def constrained_engine(
    compiler: GrammarCompiler | None,
    *,
    drafts: int = 8,
    blocks: int = 64,
    sequences: int = 64,
    model: ByteModel | None = None,
) -> InProcessEngine:
    cache: KVCache = FakeCache(blocks)  # type: ignore[assignment]
    about = fake_capabilities(256, blocks * BLOCK_TOKENS)
    return InProcessEngine(
        PagedModel(model or ByteModel(), cache),  # type: ignore[arg-type]
        replace(about, vocab_size=PADDED),
        eos_token_ids=(END,),
        limits=Limits(draft_depth=drafts, max_sequences=sequences),
        grammars=compiler,
    )
