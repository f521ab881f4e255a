"""Results of the Python API: frozen dataclasses that print as what they hold."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from deepwell.errors import DeepwellError

__all__ = ["Completion", "CompletionChoice", "Parsed", "Piece", "Score", "TokenLogprob", "ToolCall"]

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]
_SHOWN_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The log probability of one generated token.

    Attributes:
        text: text of the token; the replacement character where it is part of a character.
        token: id of the token.
        logprob: natural logarithm of its probability.
        rank: place of the token among all tokens of the vocabulary; 1 is the most likely one.
        top: the most likely tokens with their log probabilities, best first; as many as were asked for.
    """

    text: str
    token: int
    logprob: float
    rank: int
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a function that the model asks for.

    Attributes:
        id: id of the call, which its result names.
        name: name of the function.
        arguments: JSON text, as in OpenAI's API.
    """

    id: str
    name: str
    arguments: str

    @property
    def kwargs(self) -> dict[str, Any]:
        """The arguments as a dictionary.

        Raises:
            DeepwellError: the call was cut, so that its arguments are no JSON object.
        """
        try:
            read = json.loads(self.arguments)
        except ValueError as error:
            raise DeepwellError(
                f"the arguments of {self.name} are no JSON: {error}", fix="raise max_tokens"
            ) from None
        if not isinstance(read, dict):
            raise DeepwellError(
                f"the arguments of {self.name} are no JSON object", fix="give the tool a schema"
            )
        return read


@dataclass(frozen=True, slots=True)
class Parsed:
    """The value that a constrained answer stands for, or the reason why there is none."""

    value: Any = None
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class CompletionChoice:
    """One of the `n` choices of a completion.

    Attributes:
        text: the answer, without its reasoning and its tool calls.
        tokens: generated token ids, up to the one that completed a stop string; the token that ends a sequence is left out.
        finish_reason: "stop" (the model or a stop string ended it), "length" (`max_tokens`), or "tool_calls".
        completion_tokens: number of generated tokens; a token that ended the sequence counts.
        logprobs: the log probability of each token that has text; None unless `logprobs` was given.
        reasoning: text before the answer, of a model that reasons.
        tool_calls: the calls that the model asks for.
        forgotten_tokens: tokens of the prompt and the answer that left the window; 0 without one.
    """

    text: str
    tokens: tuple[int, ...]
    finish_reason: FinishReason
    completion_tokens: int
    logprobs: tuple[TokenLogprob, ...] | None = None
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    outcome: Parsed | None = field(default=None, repr=False)
    forgotten_tokens: int = 0

    @property
    def parsed(self) -> Any:
        """The answer as an object of the class given as `schema`; a plain JSON value if that was a dictionary.

        Raises:
            DeepwellError: there was no schema, or the answer was cut before its end.
            pydantic.ValidationError: a validator of the class refuses the answer.
        """
        if self.outcome is None:
            raise DeepwellError("the answer has no schema", fix="call with schema=")
        if self.outcome.error is not None:
            raise self.outcome.error
        return self.outcome.value

    @property
    def message(self) -> dict[str, Any]:
        """The answer as an assistant message, to append to the conversation."""
        message: dict[str, Any] = {"role": "assistant", "content": self.text or None}
        if self.tool_calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in self.tool_calls
            ]
        else:
            message["content"] = self.text
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        return message

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"CompletionChoice({_about(self)}, {_counted(self.completion_tokens)})"


@dataclass(frozen=True, slots=True)
class Completion:
    """The answer to one prompt or conversation. Its properties are those of the first choice.

    Attributes:
        choices: the choices, as many as `n`.
        prompt_tokens: tokens of the prompt.
        cached_tokens: tokens of the prompt that came from the prefix cache.
    """

    choices: tuple[CompletionChoice, ...]
    prompt_tokens: int
    cached_tokens: int

    @property
    def _first(self) -> CompletionChoice:
        return next(iter(self.choices))

    @property
    def text(self) -> str:
        """Text of the first choice."""
        return self._first.text

    @property
    def tokens(self) -> tuple[int, ...]:
        """Generated token ids of the first choice."""
        return self._first.tokens

    @property
    def finish_reason(self) -> FinishReason:
        """Reason why the first choice ended."""
        return self._first.finish_reason

    @property
    def completion_tokens(self) -> int:
        """Number of generated tokens, of all choices together."""
        return sum(choice.completion_tokens for choice in self.choices)

    @property
    def forgotten_tokens(self) -> int:
        """Number of tokens that left the window of the first choice."""
        return self._first.forgotten_tokens

    @property
    def logprobs(self) -> tuple[TokenLogprob, ...] | None:
        """Log probabilities of the first choice; None unless they were asked for."""
        return self._first.logprobs

    @property
    def reasoning(self) -> str:
        """Text before the answer, of a model that reasons."""
        return self._first.reasoning

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """Calls that the first choice asks for."""
        return self._first.tool_calls

    @property
    def parsed(self) -> Any:
        """The first choice as an object of the class given as `schema`; see `CompletionChoice.parsed`."""
        return self._first.parsed

    @property
    def message(self) -> dict[str, Any]:
        """The first choice as an assistant message, to append to the conversation."""
        return self._first.message

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        more = f", {len(self.choices)} choices" if len(self.choices) > 1 else ""
        cached = f", {self.cached_tokens} of them cached" if self.cached_tokens else ""
        counts = f"{_counted(self.completion_tokens)} after {self.prompt_tokens} of prompt{cached}"
        return f"Completion({_about(self._first)}, {counts}{more})"


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a stream: the text that one step of one choice made final. `str(piece)` is its text.

    Attributes:
        text: text of the answer.
        index: number of the prompt or conversation, where several were given.
        choice: number of the choice, where `n` is more than 1.
        reasoning: reasoning that this step made final, of a model that reasons.
        finish_reason: set in the last piece of a choice.
        tool_calls: all calls of the choice, in its last piece.
        logprobs: log probabilities of the tokens whose text this is; None unless `logprobs` was given.
        prompt_tokens: tokens of the prompt.
        cached_tokens: tokens of the prompt that came from the prefix cache.
        completion_tokens: tokens of the choice so far.
        forgotten_tokens: tokens that have left the window; 0 without one.
    """

    text: str
    index: int = 0
    choice: int = 0
    reasoning: str = ""
    finish_reason: FinishReason | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    forgotten_tokens: int = 0

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Score:
    """Log probabilities of given text.

    Attributes:
        tokens: the tokens that are scored: all but the first of a text, or those of a continuation.
        logprobs: natural logarithm of each token's probability, given all tokens before it.
        prompt_tokens: tokens in front of the scored ones.
        forgotten_tokens: tokens that had left the window when the last one was scored; 0 without one.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    prompt_tokens: int
    forgotten_tokens: int = 0

    @property
    def sum(self) -> float:
        """Log probability of all scored tokens together."""
        return float(sum(self.logprobs))

    @property
    def mean(self) -> float:
        """Mean log probability of a token; 0 without tokens. `exp(-mean)` is the perplexity."""
        return self.sum / len(self.logprobs) if self.logprobs else 0.0

    def __repr__(self) -> str:
        return f"Score(sum={self.sum:.4f}, mean={self.mean:.4f}, {_counted(len(self.tokens))})"


def _about(choice: CompletionChoice) -> str:
    parts = [f"text={_short(choice.text)}"]
    if choice.reasoning:
        parts.append(f"reasoning={_short(choice.reasoning)}")
    if choice.tool_calls:
        parts.append(f"tool_calls=[{_calls(choice.tool_calls)}]")
    return ", ".join([*parts, f"finish_reason={choice.finish_reason!r}"])


def _calls(calls: Sequence[ToolCall]) -> str:
    return ", ".join(f"{call.name}({call.arguments})" for call in calls)


def _short(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}...")


def _counted(tokens: int) -> str:
    return "1 token" if tokens == 1 else f"{tokens} tokens"
