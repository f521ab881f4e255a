"""`Sequence`: the state of one request inside the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from deepwell.engine.core.batch import BLOCK_TOKENS
from deepwell.engine.core.blocks import Prefix
from deepwell.engine.core.sampler import GREEDY_BELOW
from deepwell.engine.core.speculation import Drafter, Odds
from deepwell.engine.protocol import FinishReason, SamplingParams, TokenLogprob

if TYPE_CHECKING:
    from deepwell.engine.core.prediction import Pending
    from deepwell.engine.grammar.compiler import GrammarState
    from deepwell.engine.weights.adapters import LoadedAdapter

__all__ = ["Kind", "Sequence"]

Kind = Literal["generate", "score", "embed"]


class Sequence:
    """Tokens known so far, how many of them are computed, and the blocks that hold them.

    `computed` is the one number that says where a request stands: below `num_tokens` there is work, whether
    prompt, tokens to recompute after a preemption, or the token drawn last.
    """

    __slots__ = (
        "accepted_tokens",
        "adapter",
        "blocks",
        "cached_tokens",
        "chain",
        "choice",
        "computed",
        "drafter",
        "grammar",
        "hidden_sum",
        "kind",
        "last_token",
        "max_tokens",
        "num_prompt",
        "num_tokens",
        "odds",
        "params",
        "pending",
        "plain",
        "preemptions",
        "priority",
        "prompt_logprobs",
        "registered",
        "request_id",
        "root",
        "salt",
        "scores",
        "seed",
        "stop_ids",
        "table",
        "tenant",
        "tokens",
        "wants_prompt_rows",
    )

    def __init__(
        self,
        request_id: str,
        prompt: NDArray[np.int32],
        params: SamplingParams,
        *,
        kind: Kind = "generate",
        choice: int = 0,
        salt: str = "",
        tenant: str = "",
        priority: int = 0,
        adapter: LoadedAdapter | None = None,
        grammar: GrammarState | None = None,
        eos_token_ids: frozenset[int] = frozenset(),
        seed: int = 0,
    ) -> None:
        capacity = len(prompt) + (params.max_tokens if kind == "generate" else 0)
        self.request_id = request_id
        self.kind: Kind = kind
        self.params = params
        self.choice = choice
        self.salt = salt
        self.tenant = tenant
        self.priority = priority
        self.adapter = adapter  # held to the end, whatever becomes of its name
        self.grammar = grammar  # behind the tokens drawn so far
        self.seed = seed
        self.stop_ids = frozenset(params.stop_token_ids).union(() if params.ignore_eos else eos_token_ids)
        self.max_tokens = params.max_tokens
        self.num_prompt = len(prompt)
        self.num_tokens = len(prompt)
        self.tokens = np.empty(capacity, np.int32)
        self.tokens[: len(prompt)] = prompt
        self.last_token = int(prompt[-1])
        self.computed = 0
        self.cached_tokens = 0  # of the prompt, at first admission
        self.preemptions = 0
        self.drafter: Drafter | None = None  # from the first draft on
        self.odds: Odds | None = None  # of predictions, from the first step on that could draft
        self.pending: Pending | None = None  # rows that the prediction layer has not read yet
        self.accepted_tokens = 0  # of drafts
        self.blocks: list[int] = []
        self.table = np.zeros(-(-capacity // BLOCK_TOKENS), np.int32)  # the same ids, as a row to copy
        self.root: Prefix | None = None
        self.chain: list[Prefix] = []  # one node a full block of known tokens
        self.registered = 0  # leading blocks already offered to the prefix cache
        self.prompt_logprobs: list[TokenLogprob | None] | None = None  # until they are delivered
        if params.prompt_logprobs is not None:
            self.prompt_logprobs = list[TokenLogprob | None]([None]) * len(prompt)
        self.scores: NDArray[np.float32] | None = None  # [num_prompt - 1]
        self.hidden_sum: NDArray[np.float64] | None = None  # [hidden_size], over the computed tokens
        self.wants_prompt_rows = kind != "generate" or params.prompt_logprobs is not None
        self.plain = (  # the next token is the argmax, once `min_tokens` are out
            params.temperature < GREEDY_BELOW
            and params.logprobs is None
            and params.presence_penalty == 0
            and params.frequency_penalty == 0
            and params.repetition_penalty == 1
            and not params.logit_bias
            and grammar is None
        )

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
