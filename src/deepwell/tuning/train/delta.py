"""The gain of an artefact on held-out conversations, measured on the engine that serves: a small table of base and artefact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deepwell.tuning.data.records import Record
from deepwell.tuning.train.examples import Example

if TYPE_CHECKING:
    from deepwell.llm import LLM

__all__ = ["Delta", "Figures", "compare", "measure"]

ADAPTER: Final = "tuned"
MOST_SCORED: Final = 200  # conversations whose loss is measured
MOST_ANSWERED: Final = 32  # conversations that are answered
MOST_ANSWER_TOKENS: Final = 256


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures of one model on held-out conversations.

    Attributes:
        loss: mean negative log likelihood of the tokens of the right answers, in nats.
        exact: share of greedy answers that are the right one, but for blanks around it.
        ended: share of greedy answers that the model itself ends in time.
        answer_tokens: mean length of a greedy answer.
    """

    loss: float
    exact: float
    ended: float
    answer_tokens: float

    def to_json(self) -> dict[str, float]:
        """Returns plain values, the perplexity included."""
        return {
            "loss": round(self.loss, 4),
            "perplexity": round(exp(self.loss), 3),
            "exact": round(self.exact, 4),
            "ended": round(self.ended, 4),
            "answer_tokens": round(self.answer_tokens, 1),
        }


@dataclass(frozen=True, slots=True)
class Delta:
    """Figures of the base and of the artefact, and the precision that both were served in."""

    base: Figures
    tuned: Figures
    precision: str
    scored: int
    answered: int

    def to_json(self) -> dict[str, Any]:
        """Returns plain values."""
        return {
            "base": self.base.to_json(),
            "tuned": self.tuned.to_json(),
            "precision": self.precision,
            "scored": self.scored,
            "answered": self.answered,
        }


def compare(model: str, artefact: Path, examples: Sequence[Example], records: Sequence[Record]) -> Delta:
    """Measures base and artefact on the engine, with the settings that would serve them.

    Args:
        artefact: an adapter, or the folder of a whole model.
        examples: the held-out conversations as they were rendered for training.
        records: the same conversations.

    Raises:
        InsufficientMemory, InvalidModelFile, UnsupportedModel: the engine cannot load them.
    """
    from deepwell.llm import LLM

    asked = [one for one in records if one.messages and one.messages[-1].get("role") == "assistant"]
    scored, answered = list(examples[:MOST_SCORED]), asked[:MOST_ANSWERED]
    longest = max((sum(one.loss_mask) for one in scored), default=1)
    room = min(MOST_ANSWER_TOKENS, 2 * longest + 16)
    context = max((len(one.token_ids) for one in scored), default=1) + room
    with LLM(model, context=context) as llm:
        base = measure(llm, scored, answered, room)
        precision = llm.capabilities.precision
        if (artefact / "adapter_config.json").is_file():
            llm.load_adapter(ADAPTER, artefact)
            return Delta(
                base,
                measure(llm, scored, answered, room, adapter=ADAPTER),
                precision,
                len(scored),
                len(answered),
            )
    with LLM(artefact, context=context) as llm:
        return Delta(base, measure(llm, scored, answered, room), precision, len(scored), len(answered))


def measure(
    llm: LLM, examples: Sequence[Example], records: Sequence[Record], max_tokens: int, adapter: str = ""
) -> Figures:
    """Returns the figures of a model, or of one of its adapters. Answers have up to `max_tokens`."""
    total, count = 0.0, 0
    for example, score in zip(
        examples, llm.score([one.token_ids for one in examples], adapter=adapter), strict=True
    ):
        marked = [p for p, is_marked in zip(score.logprobs, example.loss_mask[1:], strict=True) if is_marked]
        total -= sum(marked)
        count += len(marked)
    loss = total / count if count else 0.0
    if not records:
        return Figures(loss, 0.0, 0.0, 0.0)
    questions: list[Sequence[Mapping[str, Any]]] = [one.messages[:-1] for one in records]
    right = [str(one.messages[-1].get("content") or "").strip() for one in records]
    answers = llm.chat(questions, adapter=adapter, temperature=0, max_tokens=max_tokens)
    choices = [one.choices[0] for one in answers]
    return Figures(
        loss,
        sum(one.text.strip() == wanted for one, wanted in zip(choices, right, strict=True)) / len(choices),
        sum(one.finish_reason == "stop" for one in choices) / len(choices),
        sum(one.completion_tokens for one in choices) / len(choices),
    )
