"""The `Engine` protocol: the interface of anything that runs a model, in this process or elsewhere.

Engines take and return token ids. The tokenizer, the chat template and the detokenizer belong to the caller.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from deepwell.engine.window import Window
from deepwell.errors import InvalidRequest

__all__ = [
    "Ability",
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
    "Window",
    "check_params",
]

MAX_LOGPROBS = 100

FinishReason = Literal["stop", "length", "abort", "error"]

Ability = Literal[
    "token_ids",  # takes and gives token ids; without, text is exchanged, and tokenised here once more
    "logprobs",
    "score",  # log probabilities of a prompt's own tokens
    "embed",
    "grammar",  # regular expressions and Lark grammars besides JSON schemas
    "adapters",
    "window",
    "sampling",  # parameters besides OpenAI's: top_k, min_p, repetition_penalty, min_tokens, ignore_eos, stop_token_ids
    "seed",  # choices of one seed are reproducible
    "bits",  # log probabilities are the same to the last bit in any company
    "prefixes",  # cached tokens are counted and kept apart by salt
    "counters",  # steps and blocks of the cache are counted
]
"""A part of the protocol that an engine beyond this machine may lack."""


@dataclass(frozen=True, slots=True)
class Grammar:
    """Constraint on generated text: a JSON schema, a regular expression (Rust syntax) or a Lark grammar (llguidance's)."""

    kind: Literal["json_schema", "regex", "lark"]
    source: str


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Sampling parameters. Defaults are OpenAI's; `repetition_penalty`, `top_k` and `min_p` are vLLM's."""

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
    logprobs: int | None = None  # n: report the drawn token and the n most likely ones; None: report none
    prompt_logprobs: int | None = None  # the same for every prompt token but the first
    # First prompt token that they are reported for, at least 1. The tokens before it may come from the prefix cache.
    prompt_logprobs_start: int = 1
    stop_token_ids: tuple[int, ...] = ()  # end the sequence, in addition to the model's own EOS
    ignore_eos: bool = False
    # Excludes `ignore_eos` and `min_tokens`, because the sequence ends where the grammar does
    grammar: Grammar | None = None


def check_params(params: SamplingParams, vocab_size: int) -> None:
    """Refuses parameters that cannot be sampled with.

    Raises:
        InvalidRequest: a parameter is out of range; the error names it and its range.
    """

    def number(name: str, low: float, high: float = math.inf) -> None:
        value = getattr(params, name)
        if not low <= value <= high or math.isinf(value):  # a NaN fails as well
            upper = "" if math.isinf(high) else f" and at most {high:g}"
            raise InvalidRequest(
                f"{name} is {value}", fix=f"use a value of at least {low:g}{upper}", param=name
            )

    number("max_tokens", 0)
    number("min_tokens", 0)
    number("temperature", 0, 1e6)  # its inverse must not vanish in float32
    number("top_k", 0)
    number("top_p", 0, 1)
    number("min_p", 0, 1)
    number("presence_penalty", -2, 2)
    number("frequency_penalty", -2, 2)
    number("repetition_penalty", 1e-2, 100)
    for name in ("logprobs", "prompt_logprobs"):
        if getattr(params, name) is not None:
            number(name, 0, min(MAX_LOGPROBS, vocab_size))
    if params.grammar is not None and (params.ignore_eos or params.min_tokens):
        name = "ignore_eos" if params.ignore_eos else "min_tokens"
        raise InvalidRequest(
            f"{name} and a grammar exclude each other: where the grammar ends, nothing can follow",
            fix=f"leave {name} out",
            param=name,
        )
    for token in params.stop_token_ids:
        if not 0 <= token < vocab_size:
            raise InvalidRequest(
                f"stop_token_ids holds {token}",
                fix=f"use token ids from 0 to {vocab_size - 1}",
                param="stop_token_ids",
            )
    for token, bias in params.logit_bias.items():
        if not 0 <= token < vocab_size or not -100 <= bias <= 100:
            raise InvalidRequest(
                f"logit_bias maps token {token} to {bias}",
                fix=f"use token ids from 0 to {vocab_size - 1} and biases from -100 to 100",
                param="logit_bias",
            )


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One sequence to continue. `choice` distinguishes the n choices of one API request and enters the seed."""

    request_id: str
    prompt: Sequence[int]
    params: SamplingParams = SamplingParams()
    choice: int = 0
    cache_salt: str = (
        ""  # entries of the prefix cache and compiled grammars are shared only between equal salts
    )
    adapter: str = ""  # name of a loaded adapter; empty: the base model
    tenant: str = ""  # owner of the request
    priority: int = 0  # higher ones are served first; people have 0, batches -1
    window: Window | None = None  # None: nothing is forgotten, and the sequence must fit the context


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The log probability of one token, its rank (1: most likely) and the `top` alternatives, best first."""

    token: int
    logprob: float
    rank: int  # 0: a remote engine did not say, because it is not among the alternatives
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """The tokens that one engine step added to one request. The last delta has `finish_reason` and the counts."""

    request_id: str
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None  # first delta only
    finish_reason: FinishReason | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0  # prompt tokens served from the prefix cache
    completion_tokens: int = 0
    accepted_tokens: int = 0  # tokens of the completion so far that were accepted drafts
    error: str = ""
    error_code: str = ""  # code of an error for which the request is to blame: sent again, it fails again
    queue_seconds: float = 0.0  # first delta only: wait of the request for its first step
    forgotten_tokens: int = 0  # tokens that have left the request's window


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Counters since start, and current gauges."""

    running: int = 0
    waiting: int = 0
    # Number of waiting requests of priority 0 and above per tenant; tenants without any are left out.
    waiting_by_tenant: tuple[tuple[str, int], ...] = ()
    admitted: int = 0  # sequences that have left the queue for the batch
    steps: int = 0
    prompt_tokens: int = 0  # computed prompt tokens, without cached ones
    cached_tokens: int = 0
    generated_tokens: int = 0
    drafted_tokens: int = 0  # computed ahead by speculation
    accepted_tokens: int = 0  # drafted tokens that were also drawn
    predicted_tokens: int = 0  # drafted tokens from the model's own multi-token prediction layer
    accepted_predictions: int = 0  # predicted tokens that were also drawn
    preemptions: int = 0
    aborted: int = 0
    blocks_total: int = 0
    blocks_used: int = 0
    blocks_cached: int = 0
    busy_seconds: float = 0.0
    # For each mixture of experts, the rows that each expert has seen.
    expert_loads: tuple[tuple[int, ...], ...] = ()
    forgotten_tokens: int = 0  # tokens that have left the windows of their sequences
    expert_reads: int = 0  # reads of any expert's weights; a step reads them once for all rows of the expert
    available: bool = True  # False: the engine's process has ended and its successor is not ready yet
    restarts: int = 0  # processes that ended before this one

    @property
    def expert_imbalance(self) -> float:
        """Largest ratio, over all mixtures, of the busiest expert's load to the mean load; 0 without mixtures."""
        return max(
            (max(loads) * len(loads) / sum(loads) for loads in self.expert_loads if sum(loads)), default=0.0
        )


@dataclass(frozen=True, slots=True)
class AdapterInfo:
    """A loaded LoRA adapter."""

    name: str
    path: str
    digest: str  # digest of its effective weights, 32 hex digits
    rank: int  # largest rank of its projections


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The model that an engine runs and its limits."""

    model: str
    architecture: str
    precision: str
    backend: str  # "native" | "reference"; of an engine beyond this machine its kind, such as "vllm"
    isa: str  # kernel table, such as "avx512_bf16", "avx2" or "generic"; "numpy" | "remote"
    threads: int
    vocab_size: int
    hidden_size: int
    max_model_len: int  # tokens a sequence may hold, prompt and completion together
    kv_cache_tokens: int
    weights_bytes: int
    kv_cache_bytes: int
    generates: bool = True  # False: an encoder, which only embeds
    # Hash of source, configuration, precision and packing; equal hashes mean equal weights
    weights_hash: str = ""
    lacks: tuple[Ability, ...] = ()  # parts of the protocol that are refused, or hold in part; see `Ability`


class Engine(Protocol):
    """Runs one model. Every method may be called from any thread; a single owner thread uses the model."""

    def generate(self, request: GenerateRequest) -> AsyncIterator[Delta]:
        """Continues `request.prompt`. Closing the iterator aborts the request within one step.

        Raises:
            ContextLengthExceeded: the prompt and `max_tokens`, or the window, exceed `capabilities().max_model_len`.
        """
        ...

    async def score(
        self, tokens: Sequence[int], *, adapter: str = "", start: int = 1, window: Window | None = None
    ) -> NDArray[np.float32]:
        """Returns the log probability of each token from `start` on, given those before it: [len(tokens) - start].

        The tokens before `start` come from the prefix cache where they are in it. With a `window` there may be more tokens
        than the context holds, and those that have left the window do not count.

        Raises:
            InvalidRequest: `start` is no place behind the first token.
        """
        ...

    async def embed(self, tokens: Sequence[int], *, adapter: str = "") -> NDArray[np.float32]:
        """Returns the mean of the last hidden states over the tokens, L2-normalised: [hidden_size]."""
        ...

    async def prepare(self, grammar: Grammar, *, tenant: str = "", cache_salt: str = "") -> None:
        """Compiles a grammar off the event loop, so that `generate` finds it ready for requests of the same salt.

        Compilations take turns by tenant. Cancelling the call gives up its turn.

        Raises:
            InvalidRequest: the grammar does not compile, or uses an unsupported feature; `param` is "grammar".
        """
        ...

    def abort(self, request_id: str) -> None:
        """Aborts a request within one step. Unknown ids are ignored."""
        ...

    def load_adapter(self, name: str, path: str) -> AdapterInfo:
        """Loads a peft directory under a name, for later requests that use the name.

        A loaded name is replaced; running requests keep the old weights to their end. Reading takes a while, so call this off
        the event loop.

        Raises:
            InvalidModelFile, UnsupportedModel: the adapter is unsound, or does not fit the model.
        """
        ...

    def unload_adapter(self, name: str) -> None:
        """Unloads the adapter of a name; running requests keep the weights to their end.

        Raises:
            ModelNotFound: no adapter of this name is loaded.
        """
        ...

    def adapters(self) -> Sequence[AdapterInfo]:
        """Returns the loaded adapters, in order of first load."""
        ...

    def stats(self) -> EngineStats: ...

    def capabilities(self) -> Capabilities: ...

    def close(self) -> None:
        """Aborts all requests and frees the model."""
        ...
