"""`PromptContent`: everything that a version of a prompt says, and its form as bytes, which its hash is taken of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

import msgspec

from deepwell.dialogue.prompts.text import PromptText
from deepwell.errors import InvalidRequest

__all__ = [
    "INDUSTRIES",
    "MAX_CONTENT",
    "Industry",
    "PromptContent",
    "PromptExample",
    "PromptLanguage",
    "PromptReport",
    "decode_content",
    "encode_content",
]

Industry = Literal["finance", "law", "medicine", "support", "content", "other"]
PromptLanguage = Literal["en", "zh"]
INDUSTRIES: Final[tuple[Industry, ...]] = ("finance", "law", "medicine", "support", "content", "other")
"""Industries that a prompt may be for."""

MAX_CONTENT: Final = 262_144
"""Bytes of the largest content of a version, encoded."""


@dataclass(frozen=True, slots=True)
class PromptExample:
    """One use of a prompt: the input of the request, an answer, and the values of the variables."""

    input: str
    answer: str
    variables: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class PromptReport:
    """The measurement that a version was chosen by: held-out rows, asked once with the start and once with this version.

    Attributes:
        model: name of the model that was asked.
        metric: label, exact, or the name of a grader.
        rows: number of held-out rows.
        start, score: mean score of the start and of this version, from 0 to 1.
        low, high: 95 % interval of their difference, of a paired bootstrap.
        calls: questions that the search put to the model, before the held-out rows.
        tokens: tokens of the prompts and answers of these.
        seed: seed of the search.
        data_sha256: hash of the file of rows.
    """

    model: str
    metric: str
    rows: int
    start: float
    score: float
    low: float
    high: float
    calls: int
    tokens: int
    seed: int
    data_sha256: str


@dataclass(frozen=True, slots=True)
class PromptContent:
    """The content of a version.

    Attributes:
        text: the text, with variables.
        purpose: one sentence on what it is for.
        language: language of its text; None: it is not said.
        industry: industry that it is for; None: it is not said.
        license: SPDX identifier.
        example: one use of it.
        report: the measurement that it was chosen by; None: it was written by hand.
    """

    text: PromptText
    purpose: str = ""
    language: PromptLanguage | None = None
    industry: Industry | None = None
    license: str = ""
    example: PromptExample | None = None
    report: PromptReport | None = None


_decoder = msgspec.json.Decoder(PromptContent)


def encode_content(content: PromptContent) -> str:
    """Returns the content as JSON: the same content gives the same text, so that its hash tells whether it changed.

    The order of variables is kept, because error messages name them in it.

    Raises:
        InvalidRequest: it is too large.
    """
    told = msgspec.to_builtins(content)
    if content.report is None:  # a version without one has the hash that it always had
        del told["report"]
    body = msgspec.json.encode(told)
    if len(body) > MAX_CONTENT:  # lists hold a hundred of them
        raise InvalidRequest(
            f"the prompt has {len(body)} bytes, more than {MAX_CONTENT}",
            fix="shorten its texts, or use variables",
        )
    return body.decode()


def decode_content(body: str) -> PromptContent:
    """Returns the content of what `encode_content` wrote."""
    return _decoder.decode(body)
