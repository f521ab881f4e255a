"""Preferences as files have them: pairs of answers for DPO, and answers with a thumb for KTO. Nothing here needs torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from deepwell.messages import Note
from deepwell.tuning.data.records import BadRecord, LineWriter, read_entries
from deepwell.tuning.data.shapes import ShapeError, decode_object, parse_messages, parse_tools

__all__ = [
    "Judged",
    "Pair",
    "VoteLike",
    "read_judged",
    "read_pairs",
    "votes_as_judged",
    "votes_as_pairs",
    "write_judged",
    "write_pairs",
]

Messages = tuple[dict[str, Any], ...]
_MOST_WEIGHT: Final = 1000.0
_LABELS: Final = {True: True, False: False, "true": True, "false": False}


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one prompt, of which one is preferred.

    Attributes:
        prompt: messages in front of the answers.
        preferred, rejected: the answers, a message of the assistant each.
        tools: tools that the assistant may call.
        line, source: place in the files.
    """

    prompt: Messages
    preferred: dict[str, Any]
    rejected: dict[str, Any]
    tools: Messages = ()
    line: int = 0
    source: str = ""


@dataclass(frozen=True, slots=True)
class Judged:
    """An answer that somebody found good, or bad.

    Attributes:
        prompt: messages in front of the answer.
        answer: message of the assistant.
        desirable: whether it was found good.
        tools: tools that the assistant may call.
        line, source: place in the files.
        weight: how much it counts beside the others.
    """

    prompt: Messages
    answer: dict[str, Any]
    desirable: bool
    tools: Messages = ()
    line: int = 0
    source: str = ""
    weight: float = 1.0


class VoteLike(Protocol):
    """The parts of a vote that training uses."""

    @property
    def prompt(self) -> tuple[dict[str, Any], ...]: ...
    @property
    def answer(self) -> str: ...
    @property
    def desirable(self) -> bool: ...
    @property
    def correction(self) -> str | None: ...


def read_pairs(paths: Sequence[Path]) -> Iterator[Pair | BadRecord]:
    """Yields the pairs of files in OpenAI's preference format, and what is wrong with lines that hold none.

    A line is `{"input": {"messages": [...]}, "preferred_output": [...], "non_preferred_output": [...]}`.

    Raises:
        OSError: a file cannot be read.
    """
    for path, line, fields in _objects(paths):
        if isinstance(fields, BadRecord):
            yield fields
            continue
        try:
            given = fields.get("input")
            if not isinstance(given, Mapping):
                raise ShapeError("input", Note("data_missing" if given is None else "align_input"))
            prompt = parse_messages(given, "messages", "input.")
            preferred = _answer(fields, "preferred_output")
            rejected = _answer(fields, "non_preferred_output")
            yield Pair(prompt, preferred, rejected, parse_tools(given), line, path)
        except ShapeError as error:
            yield BadRecord(line, error.field, error.note, path)


def read_judged(paths: Sequence[Path]) -> Iterator[Judged | BadRecord]:
    """Yields the judged answers of files, and what is wrong with lines that hold none.

    A line is `{"messages": [...], "label": true}`: the last message is the answer, the label tells whether it is good. A
    `weight`, above 0 and at most 1000, tells how much it counts beside the others, which count 1.

    Raises:
        OSError: a file cannot be read.
    """
    for path, line, fields in _objects(paths):
        if isinstance(fields, BadRecord):
            yield fields
            continue
        try:
            messages = parse_messages(fields, "messages")
            label = fields.get("label")
            if not isinstance(label, bool | str) or label not in _LABELS:
                raise ShapeError("label", Note("data_missing" if label is None else "align_label"))
            if len(messages) < 2 or messages[-1].get("role") != "assistant":
                raise ShapeError(f"messages[{len(messages) - 1}]", Note("align_answer"))
            tools, weight = parse_tools(fields), _weight(fields)
            yield Judged(messages[:-1], messages[-1], _LABELS[label], tools, line, path, weight)
        except ShapeError as error:
            yield BadRecord(line, error.field, error.note, path)


def _weight(fields: Mapping[str, Any]) -> float:
    given = fields.get("weight", 1)
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given <= _MOST_WEIGHT:
        raise ShapeError("weight", Note("align_weight"))
    return float(given)


def _objects(paths: Sequence[Path]) -> Iterator[tuple[str, int, dict[str, Any] | BadRecord]]:
    for path in paths:
        source = str(path)
        for line, raw in read_entries(path):
            try:
                if isinstance(raw, Note):
                    raise ShapeError("", raw)
                yield source, line, decode_object(raw)
            except ShapeError as error:
                yield source, line, BadRecord(line, error.field, error.note, source)


def _answer(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    messages = parse_messages(fields, name)
    if len(messages) != 1 or messages[0].get("role") != "assistant":
        raise ShapeError(name, Note("align_one_answer"))
    return messages[0]


def votes_as_judged(votes: Iterable[VoteLike]) -> list[Judged]:
    """Returns the answers of votes with their thumbs. A correction is a good answer of its own to the same prompt."""
    found: list[Judged] = []
    for vote in votes:
        found.append(Judged(vote.prompt, _said(vote.answer), vote.desirable))
        if vote.correction is not None:
            found.append(Judged(vote.prompt, _said(vote.correction), True))
    return found


def votes_as_pairs(votes: Iterable[VoteLike]) -> list[Pair]:
    """Returns a pair for every correction: it is preferred to the answer that it corrects."""
    return [
        Pair(vote.prompt, _said(vote.correction), _said(vote.answer))
        for vote in votes
        if vote.correction is not None and vote.correction != vote.answer
    ]


def _said(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def write_judged(path: Path, found: Iterable[Judged]) -> int:
    """Writes judged answers as JSON lines that `read_judged` reads, and returns their number."""
    return _write(
        path,
        (
            {
                "messages": [*one.prompt, one.answer],
                **_tools(one.tools),
                "label": one.desirable,
                **({} if one.weight == 1 else {"weight": one.weight}),
            }
            for one in found
        ),
    )


def write_pairs(path: Path, pairs: Iterable[Pair]) -> int:
    """Writes pairs as JSON lines that `read_pairs` reads, and returns their number."""
    return _write(
        path,
        (
            {
                "input": {"messages": list(one.prompt), **_tools(one.tools)},
                "preferred_output": [one.preferred],
                "non_preferred_output": [one.rejected],
            }
            for one in pairs
        ),
    )


def _tools(tools: Messages) -> dict[str, Any]:
    return {"tools": list(tools)} if tools else {}


def _write(path: Path, lines: Iterable[dict[str, Any]]) -> int:
    count = 0
    with LineWriter(path) as writer:
        for one in lines:
            writer.write(json.dumps(one, ensure_ascii=False))
            count += 1
    return count
