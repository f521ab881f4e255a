"""Renders conversations to tokens with the template and tokenizer that serve, with explicit masks of what is learnt.

A mask marks the tokens that the served model would have to write: those of the assistant's messages and the token that ends
each. It never follows from token ids, because SmolLM2 pads with its end token. What stands in front of an answer is, token for
token, the prompt that serving would build.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from deepwell.dialogue.text import Codec
from deepwell.errors import InvalidRequest

__all__ = ["Example", "RecordLike", "render", "render_all", "template_hash", "tokenizer_hash"]

_MESSAGE_KEYS: Final = ("weight",)  # OpenAI's mark of answers to leave out, which no template knows


class RecordLike(Protocol):
    """The parts of a record that are rendered."""

    @property
    def messages(self) -> Sequence[Mapping[str, Any]]: ...
    @property
    def tools(self) -> Sequence[Mapping[str, Any]]: ...


@dataclass(frozen=True, slots=True)
class Example:
    """A rendered conversation.

    Attributes:
        loss_mask: whether each token is one that the model learns to write.
        cut: number of tokens that were left off its end.
    """

    token_ids: list[int]
    loss_mask: list[bool]
    cut: int = 0

    def __post_init__(self) -> None:
        assert len(self.token_ids) == len(self.loss_mask)

    @property
    def labelled(self) -> int:
        """Number of tokens that are learnt. The first token has nothing in front of it to predict it from."""
        return sum(self.loss_mask[1:])


def render(record: RecordLike, codec: Codec, max_tokens: int) -> Example:
    """Renders a conversation whose turns all stand in one sequence.

    Raises:
        InvalidRequest: it cannot be rendered, or its template writes earlier answers differently; see `render_all`.
    """
    examples = render_all(record, codec, max_tokens)
    if len(examples) != 1:
        raise InvalidRequest(
            "the chat template rewrites earlier answers of this conversation",
            fix="render one example for each answer",
        )
    return examples[0]


def render_all(record: RecordLike, codec: Codec, max_tokens: int) -> list[Example]:
    """Renders a conversation to one example, or to one for each answer if its template rewrites earlier answers.

    Templates of reasoning models leave thoughts out of earlier answers, so that the sequence of the whole conversation is none
    that serving ever builds.

    Raises:
        InvalidRequest: the template refuses the messages, or there is nothing to learn from them.
    """
    messages = [{k: v for k, v in message.items() if k not in _MESSAGE_KEYS} for message in record.messages]
    learnt = [
        index
        for index, message in enumerate(record.messages)
        if message.get("role") == "assistant" and message.get("weight", 1) != 0
    ]
    if not learnt:
        raise InvalidRequest("the conversation has no answer of an assistant to learn", fix="add one")
    tools = list(record.tools) or None
    turns = [_Turn.of(codec, messages, index, tools) for index in learnt]
    last = turns[-1]
    if all(turn.is_in(last) for turn in turns[:-1]):
        return [_example(last.tokens, turns, max_tokens)]
    return [_example(turn.tokens, [turn], max_tokens) for turn in turns]


@dataclass(frozen=True, slots=True)
class _Turn:
    """An answer behind the prompt that serving would build for it."""

    tokens: list[int]
    start: int  # first token of the answer
    end: int  # behind the token that ends it

    @classmethod
    def of(
        cls,
        codec: Codec,
        messages: Sequence[Mapping[str, Any]],
        index: int,
        tools: Sequence[Mapping[str, Any]] | None,
    ) -> _Turn:
        prompt = codec.encode_chat(messages[:index], tools=tools)
        whole = codec.encode_chat(messages[: index + 1], tools=tools, add_generation_prompt=False)
        tokens = _joined(codec, prompt, whole)
        start = len(prompt)
        end = next(
            (i + 1 for i in range(len(tokens) - 1, start - 1, -1) if codec.is_end(tokens[i])), len(tokens)
        )
        if end == start:
            raise InvalidRequest(
                "the answer is empty", fix="give the assistant's message content or tool calls"
            )
        return cls(tokens, start, end)

    def is_in(self, later: _Turn) -> bool:
        """Returns whether a later turn repeats this prompt and answer token by token."""
        return later.tokens[: self.end] == self.tokens[: self.end]


def _joined(codec: Codec, prompt: list[int], whole: list[int]) -> list[int]:
    """Returns the tokens of a conversation with an answer, beginning with exactly those of the prompt.

    Raises:
        InvalidRequest: the prompt is no prefix of the conversation, so the template cannot be trained with masks.
    """
    if whole[: len(prompt)] == prompt:
        return whole
    # A token of the answer may have merged with the end of the prompt. It is cut where the prompt ends.
    wanted = b"".join(map(codec.token_bytes, prompt))
    held = b""
    for index, token in enumerate(whole):
        if len(held) >= len(wanted):
            break
        held += codec.token_bytes(token)
    else:
        index = len(whole)
    if not held.startswith(wanted):
        raise InvalidRequest(
            "the chat template does not continue its own prompt with the answer",
            fix="give answers in the form that the template writes, for example with its reasoning part",
        )
    over = held[len(wanted) :]
    try:
        text = over.decode()
    except UnicodeDecodeError:
        raise InvalidRequest(
            "a character of the answer has merged with the end of the prompt",
            fix="begin the answer with a letter",
        ) from None
    return [*prompt, *codec.encode_text(text), *whole[index:]]


def _example(tokens: list[int], turns: Sequence[_Turn], max_tokens: int) -> Example:
    end = max(turn.end for turn in turns)
    mask = [False] * end
    for turn in turns:
        mask[turn.start : turn.end] = [True] * (turn.end - turn.start)
    # Nothing behind the last answer is learnt or seen by what is.
    kept = tokens[:end]
    return Example(kept[:max_tokens], mask[:max_tokens], max(0, end - max_tokens))


def template_hash(codec: Codec) -> str:
    """Returns the SHA-256 of the chat template in hex, as `ChatTemplate.hash` and the store's manifests have it."""
    return hashlib.sha256(codec.template_source.encode("utf-8", "surrogatepass")).hexdigest()


def tokenizer_hash(codec: Codec) -> str:
    """Returns a SHA-256 in hex of the vocabulary: the bytes of every token, and which tokens end a sequence.

    It is the same for a GGUF file and a folder with `tokenizer.json` that hold the same vocabulary.
    """
    digest = hashlib.sha256()
    for token in range(codec.vocab_size):
        data = codec.token_bytes(token)
        digest.update(len(data).to_bytes(4, "little") + data + bytes([codec.is_end(token)]))
    return digest.hexdigest()
