"""`ContextPolicy`, `FitOptions`: what may be done with a conversation that does not fit, and the sizes that decide it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

from deepwell.errors import ContextLengthExceeded

__all__ = [
    "FIT_OPTIONS",
    "POLICIES",
    "SMALL_MODEL_BYTES",
    "AdapterState",
    "ContextPolicy",
    "FitOptions",
    "Mechanism",
    "fit_options",
    "mechanism_of",
]

ContextPolicy = Literal["strict", "window", "compress", "retrieve", "adapter", "auto"]
"""Means that a request allows. `strict` refuses a conversation that does not fit."""

Mechanism = Literal["none", "window", "drop", "compress", "retrieve", "quote", "adapter"]
"""Means that were used.

none: everything fitted.
window: the engine read the whole, and forgot its middle.
drop: the oldest turns were left out, because the engine has no window, they have no text, no adapter has learnt them yet, or
    passages of a knowledge base took their room.
compress: sentences were chosen.
retrieve: passages of forgotten turns were put in front of their questions.
quote: the answer is a passage's own words, or that there is none, and no model has read the conversation.
adapter: the oldest turns were left out, and an adapter that was trained on them answers.
"""

AdapterState = Literal[
    "none", "ready", "training", "failed", "no_consent", "not_stored", "other_adapter", "not_resident"
]
"""State of the adapter under the policy `adapter`.

none: nothing trains adapters here.
ready: it is in use.
training: it is being trained; a later turn uses it.
failed: its training has failed.
no_consent: the request does not consent to training.
not_stored: the request is not to be stored, so nothing is trained on it.
other_adapter: the request names an adapter of its own, and a sequence has one.
not_resident: the model is loaded on demand, and adapters need one that stays.
"""

POLICIES: Final[tuple[ContextPolicy, ...]] = get_args(ContextPolicy)


@dataclass(frozen=True, slots=True)
class FitOptions:
    """Sizes of a fitted prompt.

    Attributes:
        answer_tokens: room for the answer of a request that names none, at most a quarter of the context.
        compress_up_to: `auto` compresses up to this multiple of the room, and retrieves beyond it.
        recent_share: most of the room that recent turns take as a whole, with the passages in front of their questions. When
            they exceed it, the oldest are forgotten until they take half of it; see `recent`.
        recall_tokens: most tokens of the passages for one question, at most a quarter of the room.
        part_tokens: most tokens of them for a question that asks for one thing; a second and a third add as many. On the
            development haystacks of 64k tokens 98 % of single facts are among them, and of three at once 98 % among 288.
        focus_tokens: tokens that suffice where a few sentences stand out for the question: those sentences, and what stands
            around them, unless they are clear enough by themselves. None: the room is filled.
        sparse_tokens: most tokens of what is compressed to less than 1 / `compress_up_to`; None: the room. Little of a text
            that long is about the question, and small models lose the thread in the rest.
        whole_share: most of the room that recent turns keep as a whole beside compressed ones.
        lookup_least: share of each part of a question that a sentence has to cover for the prompt to be a few sentences that
            stand out in the conversation, and no turn as a whole; twice that of a question of two words of meaning, of which
            one is found by chance. None: such questions are treated as others.
    """

    answer_tokens: int = 512
    compress_up_to: float = 2.0
    recent_share: float = 0.6
    recall_tokens: int = 512
    part_tokens: int = 96
    focus_tokens: int | None = None
    sparse_tokens: int | None = None
    whole_share: float = 0.25
    lookup_least: float | None = None

    def answer_room(self, max_tokens: int | None, context: int, policy: ContextPolicy) -> int:
        """Returns the number of tokens that are kept free for the answer: under `window` at most all, for it slides on.

        Raises:
            ContextLengthExceeded: `max_tokens` leaves no room for a conversation.
        """
        if max_tokens is None:
            return max(1, min(self.answer_tokens, context // 4))
        if policy == "window":
            return min(max_tokens, context)
        if max_tokens >= context:
            values = {"completion": max_tokens, "window": context, "most": context - 1}
            raise ContextLengthExceeded.of("completion_fills_context", param="max_tokens", **values)
        return max_tokens


FIT_OPTIONS: Final = FitOptions()
"""The sizes unless others are given."""

SMALL_MODEL_BYTES: Final = 2_000_000_000
"""Weights, as they are held in memory, below which a model reads little at once: about 2 billion parameters in int8."""

_SMALL: Final = FitOptions(focus_tokens=64, sparse_tokens=512, lookup_least=0.14)


def fit_options(weights_bytes: int) -> FitOptions:
    """Returns the sizes for a model whose weights take that many bytes; 0: unknown."""
    return _SMALL if 0 < weights_bytes < SMALL_MODEL_BYTES else FIT_OPTIONS


def mechanism_of(
    policy: ContextPolicy, tokens: int, room: int, options: FitOptions, *, windows: bool, remembers: bool
) -> Mechanism:
    """Returns what a policy does with a prompt of `tokens` tokens where there is room for `room`.

    Args:
        windows: whether the engine has windows.
        remembers: whether there is an embedder to recall passages with.
    """
    if tokens <= room:
        return "none"
    match policy:
        case "strict":
            return "none"
        case "window":
            return "window" if windows else "drop"
        case "adapter":
            return "drop"  # until there is an adapter, which the caller knows
        case "compress":
            return "compress"
        case "retrieve":
            return "retrieve"
        case "auto":
            return "retrieve" if remembers and tokens > options.compress_up_to * room else "compress"
