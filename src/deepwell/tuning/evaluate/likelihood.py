"""Scores by likelihood: choices of a question, and the loss of a text.

The context of a question is tokenised together with each choice and cut where the context alone ends, as lm-eval does. All
choices of a context are scored at once, so that all but the first find the context in the engine's prefix cache.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from deepwell.errors import DeepwellError
from deepwell.tuning.evaluate.statistics import Measure, exponential, mean_of, ratio_of
from deepwell.tuning.evaluate.tasks import Prompt

if TYPE_CHECKING:
    from deepwell.tuning.evaluate.subjects import Subject

__all__ = [
    "ChoiceScore",
    "Scorer",
    "TextScore",
    "choice_measures",
    "pieces_of",
    "text_measures",
]

T = TypeVar("T")
_PIECE = 2000  # characters of a piece of text that is scored from an empty context

Counted = Callable[[int], None]
"""Function that is told how many more items are done."""


@dataclass(frozen=True, slots=True)
class ChoiceScore:
    """The log likelihoods of the choices of one question, with the lengths that they are normalised by."""

    logprobs: tuple[float, ...]
    tokens: tuple[int, ...]
    characters: tuple[int, ...]
    bytes: tuple[int, ...]

    def best(self, lengths: Sequence[int] | None = None) -> int:
        """Returns the likeliest choice, by the likelihood of all its tokens or for each unit of length."""
        scores = (
            self.logprobs if lengths is None else [a / b for a, b in zip(self.logprobs, lengths, strict=True)]
        )
        return max(range(len(scores)), key=scores.__getitem__)

    def loss(self, target: int) -> float:
        """Returns the negative log of the share of the right choice among all choices."""
        top = max(self.logprobs)
        return top - self.logprobs[target] + math.log(sum(math.exp(one - top) for one in self.logprobs))


@dataclass(frozen=True, slots=True)
class TextScore:
    """The log likelihood of one text."""

    logprob: float
    tokens: int
    bytes: int
    words: int


class Scorer:
    """Scores with one model or adapter.

    Args:
        chat: whether contexts are conversations in the model's chat template; else they are plain text.
    """

    def __init__(self, subject: Subject, *, chat: bool = False) -> None:
        self._subject = subject
        self._chat = chat

    def choices(self, prompts: Sequence[Prompt], counted: Counted) -> list[ChoiceScore]:
        """Returns the scores of the choices of each question.

        Raises:
            ContextLengthExceeded: a question does not fit the context; nothing is cut.
        """
        found: list[ChoiceScore] = []
        for some in _batches(prompts, self._subject.at_once):
            pairs = [self.pair(prompt, choice) for prompt in some for choice in prompt.choices]
            scores = iter(self._scored(pairs))
            for prompt in some:
                values = [next(scores) for _ in prompt.choices]
                found.append(
                    ChoiceScore(
                        tuple(sum(value) for value in values),
                        tuple(len(value) for value in values),
                        tuple(len(choice) for choice in prompt.choices),
                        tuple(len(choice.encode()) for choice in prompt.choices),
                    )
                )
            counted(len(some))
        return found

    def continuations(self, prompts: Sequence[Prompt], counted: Counted) -> list[tuple[TextScore, bool]]:
        """Returns the score of each target behind its context, and whether greedy decoding gives exactly this target."""
        found: list[tuple[TextScore, bool]] = []
        llm, adapter = self._subject.llm, self._subject.adapter
        for some in _batches(prompts, self._subject.at_once):
            pairs = [self._pair(prompt, str(prompt.target)) for prompt in some]
            for prompt, (context, target), scores in zip(some, pairs, self._scored(pairs), strict=True):
                drawn = llm.generate(
                    context, adapter=adapter, max_tokens=len(target), temperature=0, ignore_eos=True
                ).tokens
                text = TextScore(sum(scores), len(target), *_sizes(str(prompt.target)))
                found.append((text, list(drawn) == target))
            counted(len(some))
        return found

    def texts(self, texts: Sequence[str], counted: Counted) -> list[TextScore]:
        """Returns the score of each text from an empty context. A text longer than the context goes on in windows, each
        behind the last token of the one before.
        """
        found: list[TextScore] = []
        for some in _batches(texts, self._subject.at_once):
            windows = [self._windows(text) for text in some]
            scores = iter(self._scored([window for one in windows for window in one]))
            for text, one in zip(some, windows, strict=True):
                values = [value for _ in one for value in next(scores)]
                found.append(TextScore(sum(values), len(values), *_sizes(text)))
            counted(len(some))
        return found

    def pair(self, prompt: Prompt, choice: str) -> tuple[list[int], list[int]]:
        """Returns the tokens of a context, and of a choice behind it."""
        return self._pair(prompt, choice if self._chat else prompt.delimiter + choice)

    def _pair(self, prompt: Prompt, continuation: str) -> tuple[list[int], list[int]]:
        llm = self._subject.llm
        if self._chat:
            return llm.tokenize(prompt.messages), llm.unframed(llm.encode(continuation))
        context = prompt.context
        if not context:
            tokens = llm.unframed(llm.encode(continuation))
            first = self._first()
            return ([first], tokens) if tokens[:1] != [first] else (tokens[:1], tokens[1:])
        stripped = context.rstrip()
        continuation = context[len(stripped) :] + continuation
        before = llm.encode(stripped) or [self._first()]
        whole = llm.encode(stripped + continuation)
        return before, whole[len(before) :]

    def _windows(self, text: str) -> list[tuple[list[int], list[int]]]:
        llm = self._subject.llm
        tokens, size = llm.unframed(llm.encode(text)), llm.context - 1
        windows: list[tuple[list[int], list[int]]] = []
        before = [self._first()]
        for start in range(0, len(tokens), size):
            part = tokens[start : start + size]
            windows.append((before, part))
            before = part[-1:]
        return windows

    def _first(self) -> int:
        first = self._subject.llm.first_token
        if first is None:
            raise DeepwellError(
                "this model has no token to score a text behind", fix="give the task a prompt"
            )
        return first

    def _scored(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, ...]]:
        subject = self._subject
        scores = subject.llm.score(list(pairs), adapter=subject.adapter)
        return [score.logprobs for score in scores]


def choice_measures(prompts: Sequence[Prompt], scores: Sequence[ChoiceScore]) -> list[Measure]:
    """Returns accuracies by likelihood: of all tokens, for each token, character and byte, and the loss of the right choice.

    The first three are lm-eval's `acc`, `acc_norm` (characters) and `acc_bytes`.
    """
    keys = [str(prompt.number) for prompt in prompts]
    targets = [int(prompt.target) for prompt in prompts]
    both = list(zip(scores, targets, strict=True))
    hits = {
        "acc": [score.best() == target for score, target in both],
        "acc_norm": [score.best(score.characters) == target for score, target in both],
        "acc_bytes": [score.best(score.bytes) == target for score, target in both],
        "acc_tokens": [score.best(score.tokens) == target for score, target in both],
    }
    measures = [mean_of(name, values, share=True, keys=keys) for name, values in hits.items()]
    losses = [score.loss(target) for score, target in both]
    return [*measures, mean_of("choice_loss", losses, better="lower", keys=keys)]


def text_measures(scores: Sequence[TextScore], keys: Sequence[str]) -> list[Measure]:
    """Returns the loss for each token, and the perplexity for each token, byte and word, and bits for each byte."""
    losses = [-score.logprob for score in scores]
    sizes = {
        "tokens": [score.tokens for score in scores],
        "bytes": [score.bytes for score in scores],
        "words": [score.words for score in scores],
    }
    return [
        ratio_of("loss", losses, sizes["tokens"], keys=keys),
        ratio_of("perplexity", losses, sizes["tokens"], of=exponential, keys=keys),
        ratio_of("byte_perplexity", losses, sizes["bytes"], of=exponential, keys=keys),
        ratio_of("word_perplexity", losses, sizes["words"], of=exponential, keys=keys),
        ratio_of("bits_per_byte", [loss / math.log(2) for loss in losses], sizes["bytes"], keys=keys),
    ]


def pieces_of(text: str) -> list[str]:
    """Returns a text in pieces of about 2,000 characters that end with a line, or with a word where a line is longer.

    They are joined to the whole text again, and are the same for all models.
    """
    pieces: list[str] = []
    rest = text
    while len(rest) > _PIECE:
        end = rest.rfind("\n", _PIECE // 2, _PIECE)
        end = end if end > 0 else rest.rfind(" ", _PIECE // 2, _PIECE)
        end = end + 1 if end > 0 else _PIECE
        pieces.append(rest[:end])
        rest = rest[end:]
    return [piece for piece in (*pieces, rest) if piece.strip()]


def _sizes(text: str) -> tuple[int, int]:
    return len(text.encode()), len(re.split(r"\s+", text))


def _batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
