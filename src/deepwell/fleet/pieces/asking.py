"""`AskModel` and `SpreadLLM`: the answers and scores that evaluations need of a model, computed piece by piece."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import Struct

from deepwell.fleet.pieces.finish import finish
from deepwell.fleet.pieces.kept import KeptPieces
from deepwell.fleet.pieces.piece import Executor, Facts, Tally
from deepwell.llm import LLM, Completion, CompletionChoice, Score

__all__ = ["AskModel", "SpreadLLM"]

_ITEMS = 16  # of a piece: the choices of a few questions, which share their contexts


class _Asked(Struct):
    """Items of one call of `chat`, `generate` or `score`, with its arguments."""

    call: str
    items: list[Any]
    arguments: dict[str, Any]


class _Answer(Struct, array_like=True):
    """The parts of a completion, or of a score, that evaluations look at."""

    tokens: list[int]
    text: str = ""
    finish_reason: str = "stop"
    completion_tokens: int = 0
    prompt_tokens: int = 0
    logprobs: list[float] = []


_asked = msgspec.msgpack.Decoder(_Asked)
_answers = msgspec.msgpack.Decoder(list[_Answer])
_encode = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True, slots=True)
class AskModel:
    """Asks a model without adapters.

    Attributes:
        model: a name in the store, or an absolute path.
        threads: threads of the engine; they have no influence on results.
    """

    model: str
    precision: str | None = None
    context: int | None = None
    models_dir: str | None = None
    threads: int | None = None

    def spec(self) -> dict[str, str | int | float | bool | None]:
        """Returns every value that results depend on."""
        return {"kind": "asking", "model": self.model, "context": self.context}

    def open(self) -> _Asking:
        """Loads the model.

        Raises:
            DeepwellError: it is not here, or does not fit.
        """
        return _Asking(self)


class _Asking:
    """A model in this process."""

    def __init__(self, recipe: AskModel) -> None:
        from deepwell.version import deepwell_version

        given: dict[str, Any] = {
            "precision": recipe.precision,
            "context": recipe.context,
            "models_dir": recipe.models_dir,
            "threads": recipe.threads,
        }
        options: Any = {name: value for name, value in given.items() if value is not None}
        self._llm = LLM(recipe.model, **options)
        found = self._llm.capabilities
        self.facts = Facts(deepwell_version(), found.weights_hash, found.precision, found.isa)

    def run(self, payload: bytes) -> bytes:
        """Returns the answers or scores of a piece."""
        asked = _asked.decode(payload)
        if asked.call == "score":
            pairs = [(before, after) for before, after in asked.items]
            scores: Any = self._llm.score(pairs)
            return _encode(
                [
                    _Answer(list(one.tokens), prompt_tokens=one.prompt_tokens, logprobs=list(one.logprobs))
                    for one in scores
                ]
            )
        call: Any = self._llm.chat if asked.call == "chat" else self._llm.generate
        answers: Sequence[Completion] = call(asked.items, **asked.arguments)
        return _encode(
            [
                _Answer(
                    list(one.tokens),
                    one.text,
                    one.finish_reason,
                    one.choices[0].completion_tokens,
                    one.prompt_tokens,
                )
                for one in answers
            ]
        )

    def close(self) -> None:
        """Frees the model."""
        self._llm.close()


class SpreadLLM:
    """A model whose answers and scores are computed piece by piece. It tokenises by the model that is open here.

    Attributes:
        tally: counts of the pieces of all calls.
    """

    def __init__(self, llm: LLM, executor: Executor, recipe: AskModel, kept: KeptPieces) -> None:
        self._llm = llm
        self._executor = executor
        self._recipe = recipe
        self._kept = kept
        self.tally = Tally()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._llm, name)

    def chat(self, messages: Sequence[Any], *, adapter: str = "", **arguments: Any) -> list[Completion]:
        """Answers conversations, as `LLM.chat` does."""
        items = [[dict(message) for message in one] for one in messages]
        return self._completions("chat", items, arguments)

    def generate(self, prompt: Sequence[Any], *, adapter: str = "", **arguments: Any) -> Any:
        """Continues a prompt of tokens, or a list of texts, as `LLM.generate` does."""
        if prompt and isinstance(prompt[0], int):
            return self._completions("generate", [list(prompt)], arguments)[0]
        return self._completions("generate", list(prompt), arguments)

    def score(self, texts: Sequence[Any], *, adapter: str = "") -> list[Score]:
        """Scores continuations, as `LLM.score` does."""
        items = [(list(before), list(after)) for before, after in texts]
        return [
            Score(tuple(one.tokens), tuple(one.logprobs), one.prompt_tokens)
            for one in self._all("score", items, {})
        ]

    def _completions(self, call: str, items: Sequence[Any], arguments: dict[str, Any]) -> list[Completion]:
        return [
            Completion(
                (
                    CompletionChoice(
                        one.text, tuple(one.tokens), _reason(one.finish_reason), one.completion_tokens
                    ),
                ),
                one.prompt_tokens,
                0,
            )
            for one in self._all(call, items, arguments)
        ]

    def _all(self, call: str, items: Sequence[Any], arguments: dict[str, Any]) -> list[_Answer]:
        payloads = (
            _encode(_Asked(call, list(items[begin : begin + _ITEMS]), arguments))
            for begin in range(0, len(items), _ITEMS)
        )
        done = finish(self._executor, self._recipe, payloads, self._kept)
        self.tally = Tally.sum_of([self.tally, done.tally])
        return [answer for result in done.results() for answer in _answers.decode(result)]


def _reason(text: str) -> Any:
    return text
