"""The bodies that chat and plain completions share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from deepwell.dialogue.completion import Counts

__all__ = [
    "CompletionTokensDetails",
    "Finish",
    "PromptTokensDetails",
    "Usage",
    "usage",
]

Finish = Literal["stop", "length", "tool_calls"]


class PromptTokensDetails(Struct):
    """Details of the prompt: the tokens that were not computed but came from the prefix cache, or all of a reused answer."""

    cached_tokens: int


class CompletionTokensDetails(Struct):
    """Details of the completion: the tokens that speculation had guessed."""

    accepted_prediction_tokens: int


class Usage(Struct):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


def usage(counts: Sequence[Counts], n: int) -> Usage:
    """Sums the counts of a request's choices, in order. A prompt counts once, however many (`n`) choices continue it."""
    prompts = counts[::n]
    prompt = sum(count.prompt for count in prompts)
    completion = sum(count.completion for count in counts)
    cached = PromptTokensDetails(sum(count.cached for count in prompts))
    accepted = CompletionTokensDetails(sum(count.accepted for count in counts))
    return Usage(prompt, completion, prompt + completion, cached, accepted)
