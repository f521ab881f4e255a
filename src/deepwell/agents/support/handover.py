"""`Handover`: what a person needs to go on where the desk stopped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from deepwell.knowledge.answer.cite import Citation

__all__ = ["Exchange", "Handover", "Reason"]

Reason = Literal["asked", "unknown", "unsolved", "topic"]
Language = Literal["zh", "en"]

_REASONS = {
    "zh": {
        "asked": "客户要求与人沟通",
        "unknown": "资料里连续两次没有答案",
        "unsolved": "客户两次表示没有解决",
        "topic": "这类问题必须由人处理",
    },
    "en": {
        "asked": "the customer asked for a person",
        "unknown": "the documents had no answer twice in a row",
        "unsolved": "the customer said twice that the answers did not help",
        "topic": "questions of this kind are always for a person",
    },
}
_LABELS = {
    "zh": ("转人工原因", "客户想知道", "已经回答", "资料来源", "没有答案的问题", "客户的反馈"),
    "en": (
        "Handed over because",
        "The customer wants to know",
        "Answered so far",
        "Sources",
        "Without an answer",
        "The customer said",
    ),
}
_SHOWN = 300  # characters of one message in the summary


@dataclass(frozen=True, slots=True)
class Exchange:
    """A message of the customer and what the desk did with it.

    Attributes:
        message: the customer's words.
        kind: "question", or the signal that the message was.
        answer: the desk's answer; empty if it declined or did not answer.
        declined: whether the documents had no answer.
        citations: passages that the answer rests on.
    """

    message: str
    kind: Literal["question", "person", "unsolved"]
    answer: str = ""
    declined: bool = False
    citations: tuple[Citation, ...] = ()


@dataclass(frozen=True, slots=True)
class Handover:
    """A conversation as it is handed to a person.

    Attributes:
        reason: why it is handed over.
        language: language of the customer.
        exchanges: the whole conversation, in order.
    """

    reason: Reason
    language: Language
    exchanges: tuple[Exchange, ...]

    def summary(self) -> str:
        """Returns what a person reads first, made from the conversation alone; long messages are shown with an ellipsis."""
        labels = _LABELS[self.language]
        asked = [one for one in self.exchanges if one.kind == "question"]
        lines = [f"{labels[0]}: {_REASONS[self.language][self.reason]}"]
        lines += _listed(labels[1], list(dict.fromkeys(one.message for one in asked)))
        lines += _listed(labels[2], [one.answer for one in asked if one.answer])
        sources = [
            " > ".join((cited.filename, *cited.place.headings)) for one in asked for cited in one.citations
        ]
        lines += _listed(labels[3], list(dict.fromkeys(sources)))
        lines += _listed(labels[4], [one.message for one in asked if one.declined])
        lines += _listed(labels[5], [one.message for one in self.exchanges if one.kind != "question"])
        return "\n".join(lines)

    def record(self) -> dict[str, Any]:
        """Returns the hand-over as JSON, for a ticket."""
        return {
            "reason": self.reason,
            "language": self.language,
            "summary": self.summary(),
            "conversation": [
                {
                    "customer": one.message,
                    "kind": one.kind,
                    "answer": one.answer,
                    "declined": one.declined,
                    "sources": [
                        {"file": cited.filename, "headings": list(cited.place.headings), "quote": cited.quote}
                        for cited in one.citations
                    ],
                }
                for one in self.exchanges
            ],
        }


def _listed(label: str, texts: Sequence[str]) -> list[str]:
    if not texts:
        return []
    return [f"{label}:", *(f"- {one if len(one) <= _SHOWN else one[: _SHOWN - 1] + '…'}" for one in texts)]
