"""Prompts of a reinforcement run, read from JSON lines: conversations to answer, or texts to continue."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from deepwell.dialogue.text import Codec
from deepwell.errors import DeepwellError, InvalidRequest
from deepwell.tuning.data.records import read_entries
from deepwell.tuning.data.report import DataReport, Example
from deepwell.tuning.data.shapes import ShapeError, decoded

__all__ = ["Prompt", "encode", "prompt_lines", "read_prompts", "split_prompts"]

_ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation to answer, or a text to continue.

    Attributes:
        messages: OpenAI chat messages that end in front of the answer; empty: `text` is continued as it is.
        text: text to continue.
        item: further fields of the line, which graders read as `item`.
    """

    messages: tuple[Mapping[str, Any], ...] = ()
    text: str = ""
    item: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def shown(self) -> str:
        """The text to continue, or the last message."""
        if not self.messages:
            return self.text
        content = self.messages[-1].get("content")
        return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)

    @property
    def key(self) -> str:
        """A digest of what the model sees: equal prompts have equal ones."""
        value = [list(self.messages), self.text]
        return sha256(
            json.dumps(value, sort_keys=True, ensure_ascii=False).encode("utf-8", "replace")
        ).hexdigest()


def read_prompts(paths: Sequence[Path]) -> tuple[list[Prompt], DataReport]:
    """Reads files of prompts, each once, with an account of every line.

    A line is `{"messages": [...]}`, whose last answer, if it ends with one, is left out, or `{"prompt": "text"}`.

    Raises:
        InvalidRequest: a file cannot be read.
    """
    report = DataReport()
    found: dict[str, Prompt] = {}
    for path in paths:
        try:
            for line, one in report.reading(prompt_lines(path)):
                if isinstance(one, str):
                    report.drop("unreadable", Example(line, str(path), one))
                elif one.key in found:
                    report.drop("duplicate", Example(line, str(path), one.shown[:80]))
                else:
                    found[one.key] = one
                    report.keep()
        except OSError as error:
            raise InvalidRequest.of("tune_file", path=error.filename, reason=error.strerror) from None
    report.check()
    return list(found.values()), report


def prompt_lines(path: Path) -> Iterator[tuple[int, Prompt | str]]:
    """Yields the prompts of a file with their lines; in place of one that cannot be read, what is wrong with it.

    Raises:
        OSError: the file cannot be read.
    """
    for line, raw in read_entries(path):
        yield line, _parsed(raw) if isinstance(raw, bytes) else raw.said("en")


def _parsed(raw: bytes) -> Prompt | str:
    """Returns the prompt of a line, or what is wrong with it."""
    try:
        value = decoded(raw)  # no deeper than templates bear
    except ShapeError as error:
        return error.note.said("en")
    if not isinstance(value, dict):
        return "it is no JSON object"
    item = {str(key): one for key, one in value.items() if key not in ("messages", "prompt")}
    if isinstance(value.get("prompt"), str):
        return Prompt(text=value["prompt"], item=item) if value["prompt"] else "prompt: it is empty"
    messages = value.get("messages")
    if not isinstance(messages, list):
        return "it has neither `messages` nor `prompt`"
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            return f"messages[{number}]: it has no known role"
        if not isinstance(message.get("content"), str | list | None):
            return f"messages[{number}].content: it is no text"
    if messages and messages[-1]["role"] == "assistant":
        messages = messages[:-1]
    if not messages:
        return "messages: there is no question"
    return Prompt(messages=tuple(messages), item=item)


def encode(
    prompts: Sequence[Prompt], codec: Codec, max_tokens: int, report: DataReport
) -> list[tuple[Prompt, tuple[int, ...]]]:
    """Returns prompts with the tokens that serving makes of them. Those that are too long or cannot be rendered are dropped.

    Raises:
        InvalidRequest: none is left.
    """
    found: list[tuple[Prompt, tuple[int, ...]]] = []
    for one in prompts:
        try:
            tokens = codec.encode_chat(list(one.messages)) if one.messages else codec.encode(one.text)
            reason = "" if len(tokens) <= max_tokens else f"it has {len(tokens)} tokens"
        except DeepwellError as error:
            tokens, reason = [], error.message
        if tokens and not reason:
            found.append((one, tuple(tokens)))
            continue
        report.kept -= 1
        report.drop("too_long" if tokens else "unrendered", Example(0, "", reason or "it has no token"))
    if not found:
        raise InvalidRequest.of(
            "tune_ppo_none_usable", read=report.read, line='{"messages": [...]}', text='{"prompt": "..."}'
        )
    return found


def split_prompts(prompts: Sequence[Prompt], share: float) -> tuple[list[Prompt], list[Prompt]]:
    """Returns prompts to train on and those held out, which their digests choose: the order of the file does not matter."""
    limit = int(share * (1 << 32))
    train: list[Prompt] = []
    held_out: list[Prompt] = []
    for one in prompts:
        (held_out if int(one.key[:8], 16) < limit else train).append(one)
    return train, held_out
