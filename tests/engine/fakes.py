"""A model whose output depends on every token it reads through the block table, and on nothing else."""

from __future__ import annotations

import hashlib
import os
import signal
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepwell.engine.backends.specs import MemorySpec
from deepwell.engine.batch import BLOCK_TOKENS, Batch
from deepwell.engine.core.loop import InProcessEngine, PagedModel
from deepwell.engine.core.sampler import draw, uniform
from deepwell.engine.limits import Limits
from deepwell.engine.memory import memory_spec
from deepwell.engine.protocol import Capabilities, SamplingParams, Window
from deepwell.process.turns import Turn

VOCAB = 97
HIDDEN = 8
EOS = 96


class FakeCache:
    """Token ids in place of keys and values, with their positions; -1 where nothing was written."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.nbytes = num_blocks * BLOCK_TOKENS * 4
        self.tokens = np.full((num_blocks, BLOCK_TOKENS), -1, np.int32)
        self.positions = self.tokens.copy()


class FakeMemory:
    """Token ids in place of factors, oldest segment first."""

    def __init__(self, spec: MemorySpec) -> None:
        self.spec = spec
        self.segments: deque[NDArray[np.int32]] = deque(maxlen=spec.most)

    @property
    def tokens(self) -> int:
        return len(self.segments) * self.spec.tokens

    @property
    def nbytes(self) -> int:
        return 4 * self.tokens


def logits_after(tokens: NDArray[np.int32]) -> NDArray[np.float32]:
    """The fake's logits: noise seeded by all tokens so far."""
    digest = hashlib.blake2b(np.asarray(tokens, np.int32).tobytes(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest, "little")).normal(0, 2, VOCAB).astype(np.float32)


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


class FakeModel:
    """A wrong block, a stale page or a lost token changes what it says.

    `before_step` is called at the start of every forward pass, on the engine's thread, with the batch.
    """

    vocab_size = VOCAB
    hidden_size = HIDDEN
    expert_loads = np.zeros((0, 0), np.uint64)
    expert_reads = np.zeros(0, np.uint64)

    def __init__(self, before_step: Callable[[Batch], None] | None = None) -> None:
        self.before_step = before_step
        self.calls = 0

    def forward(
        self,
        batch: Batch,
        cache: FakeCache,
        *,
        logits: NDArray[np.float32] | None = None,
        argmax: NDArray[np.int32] | None = None,
        hidden: NDArray[np.float32] | None = None,
        targets: NDArray[np.int32] | None = None,
        target_logprobs: NDArray[np.float32] | None = None,
    ) -> None:
        self.calls += 1
        if self.before_step is not None:
            self.before_step(batch)
        assert batch.block_tables.flags.c_contiguous
        assert len(batch.tokens) == len(batch.positions) == batch.seq_starts[-1]
        output = 0
        written: set[tuple[int, int]] = set()
        for s in range(len(batch.seq_starts) - 1):
            rows = range(batch.seq_starts[s], batch.seq_starts[s + 1])
            assert len(rows) > 0
            for row in rows:
                position = int(batch.positions[row])
                slot = int(batch.block_tables[s, position // BLOCK_TOKENS]), position % BLOCK_TOKENS
                assert slot not in written, "two sequences write to one slot"
                written.add(slot)
                cache.tokens[slot], cache.positions[slot] = batch.tokens[row], position
            for row in rows:
                if output == len(batch.output_rows) or batch.output_rows[output] != row:
                    continue
                length = int(batch.positions[row]) + 1
                blocks = batch.block_tables[s, : -(-length // BLOCK_TOKENS)]
                seen = cache.tokens[blocks].reshape(-1)[:length]
                assert seen.min() >= 0, "read from a slot that nobody wrote"
                places = cache.positions[blocks].reshape(-1)[:length]
                assert places.tolist() == list(range(length)), "a key was not turned to its place"
                memory: Any = batch.memories[s] if batch.memories else None
                known = memory.segments if memory else ()
                values = logits_after(np.concatenate([*known, seen]))
                if logits is not None:
                    logits[output] = values
                if argmax is not None:
                    argmax[output] = values.argmax()
                if hidden is not None:
                    hidden[output] = values[:HIDDEN]
                if target_logprobs is not None:
                    assert targets is not None
                    target_logprobs[output] = log_softmax(values)[targets[output]]
                output += 1
        assert output == len(batch.output_rows)

    def shift_blocks(
        self, cache: FakeCache, sources: Sequence[int], targets: Sequence[int], positions: int
    ) -> None:
        of, to = list(sources), list(targets)
        assert len(set(to)) == len(to) == len(of)
        assert all(a == b or b not in of for a, b in zip(of, to, strict=True)), "a source is overwritten"
        cache.tokens[to] = cache.tokens[of]
        cache.positions[to] = cache.positions[of] - positions

    def memory(self, cache: FakeCache, spec: MemorySpec) -> FakeMemory:
        if spec.key_rank % 16:
            raise ValueError("no such rank")
        return FakeMemory(spec)

    def remember_blocks(self, cache: FakeCache, memory: FakeMemory, blocks: Sequence[int]) -> None:
        spec, of = memory.spec, list(blocks)
        assert len(of) * BLOCK_TOKENS == spec.tokens
        places = cache.positions[of].reshape(-1).tolist()
        assert places == list(range(spec.first, spec.first + spec.tokens)), "not the tokens that leave"
        memory.segments.append(cache.tokens[of].reshape(-1).copy())


def visible(tokens: Sequence[int], window: Window | None) -> list[int]:
    """The tokens that the last of `tokens` may look at: those of the memory come first."""
    gone = window.forgotten(len(tokens) - 1) if window else 0
    sinks = window.sinks if window else 0
    kept = min(gone, memory_spec(window, window.tokens).most * window.stride) if window and window.rank else 0
    return [*tokens[sinks + gone - kept : sinks + gone], *tokens[:sinks], *tokens[sinks + gone :]]


def continuation(
    prompt: Sequence[int],
    params: SamplingParams,
    *,
    choice: int = 0,
    eos: Sequence[int] = (EOS,),
    window: Window | None = None,
) -> tuple[list[int], str]:
    """What the fake model says after `prompt` when nothing is paged, batched, cached or chunked; and why it ends."""
    stop = frozenset(params.stop_token_ids) | (frozenset() if params.ignore_eos else frozenset(eos))
    tokens = list(prompt)
    while len(tokens) - len(prompt) < params.max_tokens:
        token = draw(
            logits_after(np.asarray(visible(tokens, window), np.int32)),
            params,
            tokens=np.asarray(tokens, np.int32),
            num_prompt=len(prompt),
            masked=stop,
            u=uniform(params.seed or 0, choice, len(tokens)),
        )
        if token in stop:
            return tokens[len(prompt) :], "stop"
        tokens.append(token)
    return tokens[len(prompt) :], "length"


def fake_capabilities(max_model_len: int, kv_cache_tokens: int) -> Capabilities:
    return Capabilities(
        model="fake",
        architecture="llama",
        precision="fp32",
        backend="reference",
        isa="numpy",
        threads=1,
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        max_model_len=max_model_len,
        kv_cache_tokens=kv_cache_tokens,
        weights_bytes=0,
        kv_cache_bytes=kv_cache_tokens * 4,
    )


def fake_engine(
    *,
    num_blocks: int = 64,
    max_model_len: int = 256,
    limits: Limits | None = None,
    model: FakeModel | None = None,
    turn: Turn | None = None,
) -> InProcessEngine:
    """An engine around the fake model; the caller closes it."""
    return InProcessEngine(
        PagedModel(model or FakeModel(), FakeCache(num_blocks)),
        fake_capabilities(max_model_len, num_blocks * BLOCK_TOKENS),
        eos_token_ids=(EOS,),
        limits=limits,
        turn=turn,
    )


KILLER = (
    13,
    13,
    13,
    13,
)  # a prompt that ends the process which reads it, where the model is hosted with `fatal`


def hosted(
    progress: Callable[[int, int], None], *, gate: str = "", fatal: bool = False, **options: int
) -> InProcessEngine:
    """`fake_engine` in a process of its own. Each step takes a byte from the pipe `gate`, where one is given."""
    pipe = os.open(gate, os.O_RDONLY) if gate else None

    def before_step(batch: Batch) -> None:
        if fatal and np.count_nonzero(batch.tokens == KILLER[0]) >= len(KILLER):
            os.kill(os.getpid(), signal.SIGKILL)
        if pipe is not None:
            os.read(pipe, 1)

    progress(1, 1)
    return fake_engine(model=FakeModel(before_step), **options)
