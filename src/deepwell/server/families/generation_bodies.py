"""The bodies that several families which generate share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from deepwell.dialogue.completion import Counts
from deepwell.dialogue.text import Codec, Entry
from deepwell.knowledge.context.fitting.ledger import Ledger

__all__ = [
    "ChatLogprob",
    "ChatTopLogprob",
    "CompletionTokensDetails",
    "Finish",
    "PromptTokensDetails",
    "Usage",
    "arguments_object",
    "context_detail",
    "logprobs_of",
    "usage",
]

Finish = Literal["stop", "length", "tool_calls", "content_filter"]


class ChatTopLogprob(Struct):
    """An alternative token."""

    token: str
    logprob: float
    bytes: list[int]


class ChatLogprob(Struct):
    """A drawn token; `bytes` is exact where `token` is half a character."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[ChatTopLogprob]


class PromptTokensDetails(Struct):
    """Details of the prompt: the tokens that were not computed but came from the prefix cache, or all of a reused answer."""

    cached_tokens: int
    context: dict[str, Any] | UnsetType = (
        UNSET  # what became of the prompt's tokens, unless the policy is strict and all are kept
    )


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


def usage(counts: Sequence[Counts], n: int, ledger: Ledger | None = None) -> Usage:
    """Sums the counts of a request's choices, in order. A prompt counts once, however many (`n`) choices continue it.

    `ledger` tells what became of the prompt's tokens.
    """
    prompts = counts[::n]
    prompt = sum(count.prompt for count in prompts)
    completion = sum(count.completion for count in counts)
    cached = PromptTokensDetails(sum(count.cached for count in prompts), context_detail(ledger))
    accepted = CompletionTokensDetails(sum(count.accepted for count in counts))
    return Usage(prompt, completion, prompt + completion, cached, accepted)


def context_detail(ledger: Ledger | None) -> dict[str, Any] | UnsetType:
    """Returns what usage details tell of a ledger: nothing where the policy is strict and the prompt is the conversation."""
    if ledger is None:
        return UNSET
    if ledger.policy == "strict" and ledger.mechanism == "none" and not ledger.added and not ledger.parts:
        return UNSET
    return ledger.as_dict()


def logprobs_of(entries: Sequence[Entry], codec: Codec) -> list[ChatLogprob]:
    """Returns the log probabilities of drawn tokens, each with its alternatives."""
    rows: list[ChatLogprob] = []
    for entry in entries:
        data = codec.token_bytes(entry.info.token)
        top: list[ChatTopLogprob] = []
        for token, logprob in entry.info.top:
            other = codec.token_bytes(token)
            top.append(ChatTopLogprob(other.decode("utf-8", "replace"), logprob, list(other)))
        rows.append(ChatLogprob(data.decode("utf-8", "replace"), entry.info.logprob, list(data), top))
    return rows


def arguments_object(arguments: str) -> dict[str, Any]:
    """Returns a call's arguments. Invalid JSON, of a model that failed or was cut off, is passed on under `_invalid_json`."""
    try:
        value = msgspec.json.decode(arguments)
    except msgspec.DecodeError:
        value = None
    return value if isinstance(value, dict) else {"_invalid_json": arguments}
