"""`Sequence`: the state of one request inside the engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from deepwell.engine.core.batch import BLOCK_TOKENS
from deepwell.engine.core.blocks import Prefix
from deepwell.engine.core.sampler import GREEDY_BELOW
from deepwell.engine.core.speculation import DraftState
from deepwell.engine.grammar.compiler import GrammarState
from deepwell.engine.protocol import FinishReason, SamplingParams, TokenLogprob
from deepwell.engine.weights.adapters import LoadedAdapter

__all__ = ["Kind", "Sequence", "SequenceOutputs", "SequenceSpec"]

Kind = Literal["generate", "score", "embed"]


@dataclass(frozen=True, slots=True, eq=False)
class SequenceSpec:
    """What a sequence is made from; see `protocol.GenerateRequest`.

    `prompt` is [num_prompt]; `adapter` and `grammar` are loaded and compiled, `seed` is drawn where none was given.
    """

    request_id: str
    prompt: NDArray[np.int32]
    params: SamplingParams
    kind: Kind = "generate"
    choice: int = 0
    salt: str = ""
    tenant: str = ""
    priority: int = 0
    adapter: LoadedAdapter | None = None
    grammar: GrammarState | None = None
    eos_token_ids: frozenset[int] = frozenset()
    seed: int = 0


class SequenceOutputs:
    """What a sequence gives beside drawn tokens, until it is delivered."""

    __slots__ = ("hidden_sum", "prompt_logprobs", "scores")

    def __init__(self) -> None:
        self.prompt_logprobs: list[TokenLogprob | None] | None = None
        self.scores: NDArray[np.float32] | None = None  # [num_prompt - 1]
        self.hidden_sum: NDArray[np.float64] | None = None  # [hidden_size], over the computed tokens


class Sequence:
    """Tokens known so far, how many of them are computed, and the blocks that hold them.

    `computed` is the one number that says where a request stands: below `num_tokens` there is work, whether
    prompt, tokens to recompute after a preemption, or the token drawn last.
    """

    __slots__ = (
        "adapter",
        "blocks",
        "cached_tokens",
        "chain",
        "choice",
        "computed",
        "drafts",
        "grammar",
        "kind",
        "last_token",
        "max_tokens",
        "num_prompt",
        "num_tokens",
        "outputs",
        "params",
        "plain",
        "preemptions",
        "priority",
        "registered",
        "request_id",
        "root",
        "salt",
        "seed",
        "stop_ids",
        "table",
        "tenant",
        "tokens",
        "wants_prompt_rows",
    )

    def __init__(self, spec: SequenceSpec) -> None:
        prompt, params, kind = spec.prompt, spec.params, spec.kind
        capacity = len(prompt) + (params.max_tokens if kind == "generate" else 0)
        self.request_id = spec.request_id
        self.kind: Kind = kind
        self.params = params
        self.choice = spec.choice
        self.salt = spec.salt
        self.tenant = spec.tenant
        self.priority = spec.priority
        self.adapter = spec.adapter  # held to the end, whatever becomes of its name
        self.grammar = spec.grammar  # behind the tokens drawn so far
        self.seed = spec.seed
        self.stop_ids = frozenset(params.stop_token_ids).union(
            () if params.ignore_eos else spec.eos_token_ids
        )
        self.max_tokens = params.max_tokens
        self.num_prompt = len(prompt)
        self.num_tokens = len(prompt)
        self.tokens = np.empty(capacity, np.int32)
        self.tokens[: len(prompt)] = prompt
        self.last_token = int(prompt[-1])
        self.computed = 0
        self.cached_tokens = 0  # of the prompt, at first admission
        self.preemptions = 0
        self.drafts = DraftState()
        self.blocks: list[int] = []
        self.table = np.zeros(-(-capacity // BLOCK_TOKENS), np.int32)  # the same ids, as a row to copy
        self.root: Prefix | None = None
        self.chain: list[Prefix] = []  # one node a full block of known tokens
        self.registered = 0  # leading blocks already offered to the prefix cache
        self.outputs = SequenceOutputs()
        if params.prompt_logprobs is not None:
            self.outputs.prompt_logprobs = list[TokenLogprob | None]([None]) * len(prompt)
        self.wants_prompt_rows = kind != "generate" or params.prompt_logprobs is not None
        self.plain = (  # the next token is the argmax, once `min_tokens` are out
            params.temperature < GREEDY_BELOW
            and params.logprobs is None
            and params.presence_penalty == 0
            and params.frequency_penalty == 0
            and params.repetition_penalty == 1
            and not params.logit_bias
            and spec.grammar is None
        )

    @property
    def accepted_tokens(self) -> int:
        """Tokens of drafts that were drawn as well."""
        return self.drafts.accepted_tokens

    @property
    def num_generated(self) -> int:
        """Tokens drawn and kept."""
        return self.num_tokens - self.num_prompt

    @property
    def needs_logits(self) -> bool:
        """Whether the whole row of logits is wanted for the next token; else its argmax will do."""
        if self.kind != "generate":
            return False
        return (
            not self.plain
            or self.wants_prompt_rows
            or self.num_tokens - self.num_prompt < self.params.min_tokens
        )

    @property
    def decoding(self) -> bool:
        """Whether the only work left is the token drawn last."""
        return self.computed == self.num_tokens - 1 and self.num_tokens > self.num_prompt

    @property
    def draws(self) -> bool:
        """Whether the row of the last known token yields a new one."""
        return self.kind == "generate" and self.max_tokens > 0

    def drafted(self, count: int) -> int:
        """Of the next `count` rows, how many are drafts; they lie behind the known tokens."""
        return max(0, self.computed + count - self.num_tokens)

    def assign(self, blocks: list[int]) -> None:
        """Append blocks to the table."""
        have = len(self.blocks)
        self.table[have : have + len(blocks)] = blocks
        self.blocks += blocks

    def append(self, token: int) -> FinishReason | None:
        """Take the drawn token in. A stop token ends the sequence and is not kept."""
        if token in self.stop_ids:
            return "stop"
        self.tokens[self.num_tokens] = token
        self.num_tokens += 1
        self.last_token = token
        self.wants_prompt_rows = False  # they came before: a recomputation may use the cache
        return "length" if self.num_tokens - self.num_prompt >= self.max_tokens else None
