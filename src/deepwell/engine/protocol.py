"""The `Engine` protocol: what callers ask of whatever runs a model, in this process or elsewhere.

Token ids in, token ids out: the tokenizer, the chat template and the detokenizer live with the caller.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "AdapterInfo",
    "Capabilities",
    "Delta",
    "Engine",
    "EngineStats",
    "FinishReason",
    "GenerateRequest",
    "Grammar",
    "SamplingParams",
    "TokenLogprob",
]

FinishReason = Literal["stop", "length", "abort", "error"]


@dataclass(frozen=True, slots=True)
class Grammar:
    """What the generated text must be: a JSON schema, a regular expression (Rust's syntax) or a Lark grammar (llguidance's)."""

    kind: Literal["json_schema", "regex", "lark"]
    source: str


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are drawn. Defaults are OpenAI's; `repetition_penalty`, `top_k`, `min_p` are vLLM's."""

    max_tokens: int = 256
    min_tokens: int = 0
    temperature: float = 1.0  # 0: greedy
    top_k: int = 0  # 0: off
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict[int, float])
    seed: int | None = None
    logprobs: int | None = None  # None: none; n: the drawn token and the n most likely ones
    prompt_logprobs: int | None = None  # the same for every prompt token but the first
    stop_token_ids: tuple[int, ...] = ()  # end the sequence, besides the model's own EOS
    ignore_eos: bool = False
    grammar: Grammar | None = (
        None  # with neither `ignore_eos` nor `min_tokens`: where it ends, the sequence does
    )


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One sequence to continue. `choice` tells apart the n choices of one API request: it enters the seed."""

    request_id: str
    prompt: Sequence[int]
    params: SamplingParams = SamplingParams()
    choice: int = 0
    cache_salt: str = ""  # prefix cache entries are shared only between equal salts
    adapter: str = ""  # the name of a loaded adapter; empty: the base model
    tenant: str = ""  # whose request it is
    priority: int = 0  # lower ones wait for higher ones: people wait at 0, batches at -1


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The log probability of one token, its rank (1: most likely) and the `top` alternatives, best first."""

    token: int
    logprob: float
    rank: int
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """What one engine step added to one request. The last delta carries `finish_reason` and the counts."""

    request_id: str
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None  # first delta only
    finish_reason: FinishReason | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0  # of the prompt, served from the prefix cache
    completion_tokens: int = 0
    accepted_tokens: int = 0  # of the completion, so far: drafts that proved right
    error: str = ""
    queue_seconds: float = 0.0  # first delta only: how long the request waited for a step to take it in


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Counters since start, and gauges of now."""

    running: int = 0
    waiting: int = 0
    # Of those, at priority 0 and above, how many each tenant has; tenants with none are left out.
    waiting_by_tenant: tuple[tuple[str, int], ...] = ()
    admitted: int = 0  # sequences that have left the queue for the batch
    steps: int = 0
    prompt_tokens: int = 0  # computed, cached ones excluded
    cached_tokens: int = 0
    generated_tokens: int = 0
    drafted_tokens: int = 0  # computed ahead by speculation
    accepted_tokens: int = 0  # of those, the ones that were drawn as well
    predicted_tokens: int = 0  # of the drafted ones, those of the model's own multi-token prediction layer
    accepted_predictions: int = 0  # of those, the ones that were drawn as well
    preemptions: int = 0
    aborted: int = 0
    blocks_total: int = 0
    blocks_used: int = 0
    blocks_cached: int = 0
    busy_seconds: float = 0.0
    expert_loads: tuple[
        tuple[int, ...], ...
    ] = ()  # of each mixture of experts: rows that each expert has seen
    expert_reads: int = 0  # how often the weights of any expert were read: once a step for all of its rows
    available: bool = True  # False: its process has ended, and the successor is not ready yet
    restarts: int = 0  # processes that ended before this one

    @property
    def expert_imbalance(self) -> float:
        """Load of the busiest expert over the mean of its mixture, in the mixture where it is largest; 0 without any."""
        return max(
            (max(loads) * len(loads) / sum(loads) for loads in self.expert_loads if sum(loads)), default=0.0
        )


@dataclass(frozen=True, slots=True)
class AdapterInfo:
    """A loaded LoRA adapter."""

    name: str
    path: str
    digest: str  # of its effective weights, 32 hex digits
    rank: int  # the largest of its projections


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What this engine runs and within what limits."""

    model: str
    architecture: str
    precision: str
    backend: str  # "native" | "reference"
    isa: str  # kernel table: "avx512" | "avx2" | "generic" | "avx512_emulated" (a test aid) | "numpy"
    threads: int
    vocab_size: int
    hidden_size: int
    max_model_len: int  # tokens a sequence may hold, prompt and completion together
    kv_cache_tokens: int
    weights_bytes: int
    kv_cache_bytes: int
    generates: bool = True  # False: an encoder, which embeds and nothing else
    weights_hash: str = ""  # of source, configuration, precision and packing: equal hashes, equal weights


class Engine(Protocol):
    """Runs one model. Every method may be called from any thread; a single owner thread touches the model."""

    def generate(self, request: GenerateRequest) -> AsyncIterator[Delta]:
        """Continue `request.prompt`. Closing the iterator aborts the request within one step.

        Raises:
            ContextLengthExceeded: the prompt and `max_tokens` exceed `capabilities().max_model_len`.
        """
        ...

    async def score(self, tokens: Sequence[int], *, adapter: str = "") -> NDArray[np.float32]:
        """Log probability of every token given those before it: [len(tokens) - 1]."""
        ...

    async def embed(self, tokens: Sequence[int], *, adapter: str = "") -> NDArray[np.float32]:
        """Mean of the last hidden states over the tokens, L2-normalised: [hidden_size]."""
        ...

    async def prepare(self, grammar: Grammar) -> None:
        """Compile a grammar off the event loop, so that `generate` finds it ready.

        Raises:
            InvalidRequest: it does not compile, or holds what is not supported; `param` is "grammar".
        """
        ...

    def abort(self, request_id: str) -> None:
        """Stop a request within one step; unknown ids are ignored."""
        ...

    def load_adapter(self, name: str, path: str) -> AdapterInfo:
        """Load a peft directory under a name; requests that start later and name it use it.

        A name that is loaded already is swapped: running requests keep the old weights to their end. Reading
        takes a while; call it off the event loop.

        Raises:
            InvalidModelFile, UnsupportedModel: the adapter is unsound, or does not fit the model.
        """
        ...

    def unload_adapter(self, name: str) -> None:
        """Forget a name; running requests keep the weights to their end.

        Raises:
            ModelNotFound: no adapter of this name is loaded.
        """
        ...

    def adapters(self) -> Sequence[AdapterInfo]:
        """The loaded adapters, in order of first load."""
        ...

    def stats(self) -> EngineStats: ...

    def capabilities(self) -> Capabilities: ...

    def close(self) -> None:
        """Abort everything and free the model."""
        ...
