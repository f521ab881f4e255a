"""Metrics of a prompt: the likeliest label, an exact answer, or a grader's score. Each asks the model one question a row."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from deepwell.errors import ContextLengthExceeded, InvalidRequest
from deepwell.tuning.evaluate.graders import Grader, LabelModel, Multi, ScoreModel, run_grader, sample_of
from deepwell.tuning.evaluate.likelihood import ChoiceScore
from deepwell.tuning.prompts.rows import Row

if TYPE_CHECKING:
    from deepwell.llm import LLM

__all__ = [
    "Conversation",
    "ExactMetric",
    "GraderMetric",
    "LabelMetric",
    "Metric",
    "Outcome",
    "check_labels",
    "check_modelless",
    "plain",
]

Conversation = Sequence[dict[str, str]]
_ENDINGS: Final = frozenset(".!。！")


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one question.

    Attributes:
        score: from 0 to 1.
        chance: share of the right label among all labels; of other metrics the score.
        answer: the text of the answer, or the likeliest label.
        passed: whether the answer counts as right.
        prompt_tokens: tokens of the conversation.
        answer_tokens: tokens that were generated, or those of all labels that were scored.
        refused: whether the conversation did not fit the context, so that a server would refuse it. It scores 0.
    """

    score: float
    answer: str
    passed: bool
    prompt_tokens: int
    answer_tokens: int
    chance: float
    refused: bool = False


_REFUSED: Final = Outcome(0.0, "", False, 0, 0, 0.0, refused=True)


class Metric(Protocol):
    """A way to ask a model and to judge its answers."""

    @property
    def name(self) -> str:
        """Name in reports."""
        ...

    def ask(self, conversations: Sequence[Conversation], rows: Sequence[Row]) -> list[Outcome]:
        """Returns the outcome of each conversation, which asks the row at the same place."""
        ...


class LabelMetric:
    """The likeliest of all labels in the place of the answer, as `deepwell evaluate --chat` scores choices.

    Args:
        adapter: name of a loaded adapter; empty: the base model.
    """

    name = "label"

    def __init__(self, llm: LLM, labels: Sequence[str], *, adapter: str = "") -> None:
        check_labels(labels)
        self.labels = tuple(labels)
        self._llm = llm
        self._adapter = adapter
        self._tokens = [llm.unframed(llm.encode(one)) for one in labels]

    def ask(self, conversations: Sequence[Conversation], rows: Sequence[Row]) -> list[Outcome]:
        """Returns the outcome of each conversation. The first is scored alone, so that others find its head in the cache."""
        most = max(map(len, self._tokens))
        contexts = [_fitting(self._llm, one, most) for one in conversations]
        pairs = [(context, label) for context in contexts if context for label in self._tokens]
        scored = self._scored(pairs[:1]) + self._scored(pairs[1:])
        sums = iter(scored)
        return [
            self._outcome([next(sums) for _ in self.labels], row, len(context)) if context else _REFUSED
            for context, row in zip(contexts, rows, strict=True)
        ]

    def _scored(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[float]:
        return [one.sum for one in self._llm.score(list(pairs), adapter=self._adapter)] if pairs else []

    def _outcome(self, logprobs: Sequence[float], row: Row, prompt_tokens: int) -> Outcome:
        sizes = tuple(map(len, self._tokens))
        score = ChoiceScore(tuple(logprobs), sizes, sizes, sizes)
        chosen = self.labels[score.best()]
        known = row.answer in self.labels
        chance = math.exp(-score.loss(self.labels.index(row.answer))) if known else 0.0
        right = chosen == row.answer
        return Outcome(float(right), chosen, right, prompt_tokens, sum(sizes), chance)


class _Answering:
    """Greedy answers to conversations."""

    def __init__(self, llm: LLM, max_tokens: int, adapter: str) -> None:
        self._llm = llm
        self._max_tokens = max_tokens
        self._adapter = adapter

    def _answers(self, conversations: Sequence[Conversation]) -> list[Any]:
        """Returns a completion for each conversation; None where it does not fit the context."""
        fits = [bool(_fitting(self._llm, one, self._max_tokens)) for one in conversations]
        asked = [one for one, fit in zip(conversations, fits, strict=True) if fit]
        options: dict[str, Any] = {
            "adapter": self._adapter,
            "max_tokens": self._max_tokens,
            "temperature": 0,
        }
        found = [*self._llm.chat(asked[:1], **options)] if asked else []
        found += self._llm.chat(asked[1:], **options) if asked[1:] else []
        answers = iter(found)
        return [next(answers) if fit else None for fit in fits]


class ExactMetric(_Answering):
    """Exact match of the greedy answer. Case, blanks at the ends and a final full stop make no difference."""

    name = "exact"

    def __init__(self, llm: LLM, *, max_tokens: int = 32, adapter: str = "") -> None:
        super().__init__(llm, max_tokens, adapter)

    def ask(self, conversations: Sequence[Conversation], rows: Sequence[Row]) -> list[Outcome]:
        """Returns the outcome of each conversation."""
        found: list[Outcome] = []
        for one, row in zip(self._answers(conversations), rows, strict=True):
            if one is None:
                found.append(_REFUSED)
                continue
            right = plain(one.text) == plain(row.answer)
            found.append(
                Outcome(float(right), one.text, right, one.prompt_tokens, one.completion_tokens, float(right))
            )
        return found


class GraderMetric(_Answering):
    """The score of one of OpenAI's graders that needs no model: string_check, text_similarity, or a multi of them.

    Raises:
        InvalidRequest: the grader asks a model.
    """

    name = "grader"

    def __init__(self, llm: LLM, grader: Grader, *, max_tokens: int = 256, adapter: str = "") -> None:
        super().__init__(llm, max_tokens, adapter)
        check_modelless(grader)
        self._grader = grader

    def ask(self, conversations: Sequence[Conversation], rows: Sequence[Row]) -> list[Outcome]:
        """Returns the outcome of each conversation."""
        return asyncio.run(self._graded(self._answers(conversations), rows))

    async def _graded(self, answers: Sequence[Any], rows: Sequence[Row]) -> list[Outcome]:
        found: list[Outcome] = []
        for one, row in zip(answers, rows, strict=True):
            if one is None:
                found.append(_REFUSED)
                continue
            grade = await run_grader(self._grader, item=row.fields, sample=sample_of(one.text))
            # A field of the answer that is missing is the answer's fault; all else is the grader's.
            if grade.error and not grade.detail.startswith("{{ sample."):
                raise InvalidRequest.of("prompts_grader_failed", param="metric", reason=grade.detail)
            score = min(1.0, max(0.0, grade.score))
            found.append(
                Outcome(score, one.text, grade.passed, one.prompt_tokens, one.completion_tokens, score)
            )
        return found


def check_labels(labels: Sequence[str]) -> None:
    """Checks that there is a choice among labels.

    Raises:
        InvalidRequest: there is none.
    """
    if len(labels) < 2:
        raise InvalidRequest.of("prompts_labels", count=len(labels), param="metric")


def check_modelless(grader: Grader) -> None:
    """Checks that a grader asks no model.

    Raises:
        InvalidRequest: it does.
    """
    parts = grader.graders.values() if isinstance(grader, Multi) else [grader]
    for part in parts:
        if isinstance(part, LabelModel | ScoreModel):
            raise InvalidRequest.of("prompts_grader_model", type=part.type, param="metric")


def _fitting(llm: LLM, conversation: Conversation, most: int) -> list[int]:
    """Returns the tokens of a conversation; none where it does not fit the context with an answer of `most` tokens."""
    try:
        tokens = llm.tokenize(conversation)
    except ContextLengthExceeded:
        return []
    return tokens if len(tokens) + most <= llm.context else []


def plain(text: str) -> str:
    """Returns an answer without the differences that an exact match passes over."""
    end = len(text)
    while end and (text[end - 1] in _ENDINGS or text[end - 1].isspace()):
        end -= 1
    return text[:end].strip().casefold()
