"""`Sequence`: the state of one request inside the engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from deepwell.engine.batch import BLOCK_TOKENS, Memory
from deepwell.engine.core.blocks import Prefix
from deepwell.engine.core.sampler import GREEDY_BELOW
from deepwell.engine.core.speculation import DraftState
from deepwell.engine.grammar.masks import GrammarState
from deepwell.engine.protocol import FinishReason, SamplingParams, TokenLogprob, Window
from deepwell.engine.weights.adapters import LoadedAdapter

__all__ = ["Kind", "Sequence", "SequenceOutputs", "SequenceSpec"]

_NEVER = 1 << 62
Kind = Literal["generate", "score", "embed"]


@dataclass(frozen=True, slots=True, eq=False)
class SequenceSpec:
    """The parameters of a new sequence; see `protocol.GenerateRequest`.

    `prompt` is [num_prompt]. A "score" sequence is scored from `first_row` on. `adapter` is loaded, `grammar` is compiled,
    and `seed` is random if the request has none.
    """

    request_id: str
    prompt: NDArray[np.int32]
    params: SamplingParams
    kind: Kind = "generate"
    first_row: int = 0
    choice: int = 0
    salt: str = ""
    tenant: str = ""
    priority: int = 0
    adapter: LoadedAdapter | None = None
    grammar: GrammarState | None = None
    eos_token_ids: frozenset[int] = frozenset()
    seed: int = 0
    window: Window | None = None
    new_memory: Callable[[], Memory] | None = None  # None: forgotten tokens are lost


class SequenceOutputs:
    """The outputs of a sequence besides drawn tokens, until they are delivered."""

    __slots__ = ("hidden_sum", "prompt_logprobs", "scores")

    def __init__(self) -> None:
        self.prompt_logprobs: list[TokenLogprob | None] | None = None
        self.scores: NDArray[np.float32] | None = None  # [num_prompt - 1 - first_row]
        self.hidden_sum: NDArray[np.float64] | None = None  # [hidden_size], sum over the computed tokens


class Sequence:
    """The known tokens of a request, the number of computed ones, and the blocks that hold them.

    `computed` alone describes the progress of a request. While it is below `num_tokens` there is work: the prompt, tokens
    to recompute after a preemption, or the last drawn token.

    A sequence with a window forgets tokens as it slides. Those behind them lie `forgotten` places further down in the cache.
    """

    __slots__ = (
        "adapter",
        "blocks",
        "cached_tokens",
        "chain",
        "choice",
        "computed",
        "drafts",
        "first_row",
        "forgotten",
        "grammar",
        "kind",
        "last_token",
        "max_tokens",
        "memory",
        "near",
        "new_memory",
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
        "slides_at",
        "slow",
        "stop_ids",
        "table",
        "tenant",
        "tokens",
        "wants_prompt_rows",
        "window",
    )

    def __init__(self, spec: SequenceSpec) -> None:
        prompt, params, kind = spec.prompt, spec.params, spec.kind
        capacity = len(prompt) + (params.max_tokens if kind == "generate" else 0)
        self.request_id = spec.request_id
        self.kind: Kind = kind
        self.first_row = spec.first_row  # the rows before it have no output, so they may come from the cache
        self.params = params
        self.choice = spec.choice
        self.salt = spec.salt
        self.tenant = spec.tenant
        self.priority = spec.priority
        self.adapter = spec.adapter  # held to the end, even if its name is unloaded
        self.grammar = spec.grammar  # its state after the tokens drawn so far
        self.slow = False  # True: masks of the grammar are slow, as of the last schedule
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
        self.window = spec.window
        self.new_memory = spec.new_memory
        self.memory = spec.new_memory() if spec.new_memory else None  # of the forgotten tokens
        self.computed = 0
        self.forgotten = 0  # computed tokens that have left the window
        self.slides_at = _NEVER if spec.window is None else spec.window.tokens  # value of `computed`
        self.cached_tokens = 0  # tokens from the prefix cache at first admission
        self.preemptions = 0
        self.drafts = DraftState()
        self.blocks: list[int] = []
        self.near = range(0)  # indices of the blocks whose slots it holds; see `RecentSlots`
        held = min(capacity, self.slides_at)
        self.table = np.zeros(-(-held // BLOCK_TOKENS), np.int32)  # the same ids as an array, for copying
        self.root: Prefix | None = None
        self.chain: list[Prefix] = []  # one node per full block of known tokens
        self.registered = 0  # leading blocks already offered to the prefix cache
        self.outputs = SequenceOutputs()
        if params.prompt_logprobs is not None:
            self.outputs.prompt_logprobs = list[TokenLogprob | None]([None]) * len(prompt)
        self.wants_prompt_rows = kind != "generate" or params.prompt_logprobs is not None
        self.plain = (  # the next token is the argmax, once `min_tokens` are generated
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
        """Number of drafted tokens that were also drawn."""
        return self.drafts.accepted_tokens

    @property
    def num_generated(self) -> int:
        """Number of tokens drawn and kept."""
        return self.num_tokens - self.num_prompt

    @property
    def rank(self) -> int:
        """Place among sequences, higher first: the priority, and within it sequences without slow masks."""
        return 2 * self.priority + (not self.slow)

    @property
    def mask_ready(self) -> bool:
        """False while another thread computes the mask of the next token."""
        return self.grammar is None or self.grammar.ready

    @property
    def needs_logits(self) -> bool:
        """True if the next token needs the whole row of logits; otherwise its argmax is enough."""
        if self.kind != "generate":
            return False
        return (
            not self.plain
            or self.wants_prompt_rows
            or self.num_tokens - self.num_prompt < self.params.min_tokens
        )

    @property
    def decoding(self) -> bool:
        """True if the last drawn token is the only work left."""
        return self.computed == self.num_tokens - 1 and self.num_tokens > self.num_prompt

    @property
    def draws(self) -> bool:
        """True if the row of the last known token yields a new token."""
        return self.kind == "generate" and self.max_tokens > 0

    def scored(self, count: int) -> int:
        """Returns how many of the next `count` rows are prompt rows whose output is wanted."""
        wanted = count - max(0, self.first_row - self.computed)
        return max(0, wanted) if self.wants_prompt_rows else 0

    def drafted(self, count: int) -> int:
        """Returns how many of the next `count` rows are drafts, which follow the known tokens."""
        return max(0, self.computed + count - self.num_tokens)

    def assign(self, blocks: list[int]) -> None:
        """Appends blocks to the table."""
        have = len(self.blocks)
        self.table[have : have + len(blocks)] = blocks
        self.blocks += blocks

    def slide(self, blocks: list[int]) -> None:
        """Forgets the next tokens that leave the window; `blocks` are now those of the others, and empty ones."""
        assert self.window is not None
        self.blocks = []
        self.assign(blocks)
        self.forgotten += self.window.stride
        self.slides_at += self.window.stride
        self.drafts.forget()

    def restart(self) -> None:
        """Gives up all computed tokens. They are computed again, with the same slides."""
        if self.forgotten:
            self.slides_at -= self.forgotten
            self.drafts.forget()
            if self.new_memory:  # a move that is scheduled already writes to the old one
                self.memory = self.new_memory()
        self.computed = self.forgotten = 0

    def append(self, token: int) -> FinishReason | None:
        """Appends a drawn token and returns why the sequence ended, or None. A stop token is not kept."""
        if token in self.stop_ids:
            return "stop"
        self.tokens[self.num_tokens] = token
        self.num_tokens += 1
        self.last_token = token
        self.wants_prompt_rows = False  # they are done, so a recomputation may use the cache
        return "length" if self.num_tokens - self.num_prompt >= self.max_tokens else None
