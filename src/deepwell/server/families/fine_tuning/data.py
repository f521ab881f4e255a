"""Checks of training files, before a job is made and when its configuration is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from deepwell.dialogue.text import Codec
from deepwell.errors import DeepwellError, InvalidRequest

if TYPE_CHECKING:
    from deepwell.tuning.align.preferences import Pair
    from deepwell.tuning.data.records import BadRecord, Record

__all__ = ["Algorithm", "InvalidTrainingFile", "check_file", "tokens_of"]

Algorithm = Literal["supervised", "dpo", "reinforcement"]
"""Type of a method: a file has conversations, pairs of answers, or prompts."""

_FIXES: Final[Mapping[Algorithm, str]] = {
    "supervised": "correct the lines; `deepwell data check FILE` lists all of them",
    "dpo": "correct the lines: each has input, preferred_output and non_preferred_output",
    "reinforcement": "correct the lines: each has messages that end with a question, and the fields that the grader reads",
}

_SAMPLED = 64  # conversations that the length of a file is estimated from
_MOST_ARRAY_BYTES = 64 << 20
_MOST_PROBLEMS = 5  # shown for one file
_MOST_BAD = 1_000  # bad lines, behind which nothing is read


class InvalidTrainingFile(InvalidRequest):
    """Raised for a training or validation file with lines that cannot be trained on."""

    code = "invalid_training_file"


def check_file(
    path: Path, param: str, algorithm: Algorithm = "supervised", fields: Sequence[str] = ()
) -> int:
    """Reads a whole file and returns the number of its conversations, pairs or prompts. Takes some 10 us a line.

    Args:
        fields: variables of a grader, such as `item.answer`, that every prompt must have.

    Raises:
        InvalidTrainingFile: lines cannot be read, or have no answer to learn. The message names line and field.
    """
    _check_array(path, param)
    count = 0
    bad: list[tuple[int, str, str]] = []
    for problem in _problems(path, algorithm, fields):
        if problem is None:
            count += 1
            continue
        bad.append(problem)
        if len(bad) == _MOST_BAD:
            break
    if bad:
        shown = bad[:_MOST_PROBLEMS]
        told = [f"line {line}: {field + ': ' if field else ''}{what}" for line, field, what in shown]
        if len(bad) == _MOST_BAD:
            told.append(f"and more: nothing behind line {bad[-1][0]} was read")
        elif more := len(bad) - len(shown):
            told.append(f"and {more} more lines")
        raise InvalidTrainingFile(
            "; ".join(told),
            fix=_FIXES[algorithm],
            param=param,
        )
    if not count:
        raise InvalidTrainingFile.of("fine_tuning_empty", param=param)
    return count


def _check_array(path: Path, param: str) -> None:
    """Refuses a large JSON array, which, other than lines, is read as a whole: some requests would take all memory."""
    size = path.stat().st_size
    if size <= _MOST_ARRAY_BYTES:
        return
    with path.open("rb") as file:
        head = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    if head.startswith(b"["):
        raise InvalidTrainingFile(
            f"the file is one JSON array of {size} bytes, and one may have {_MOST_ARRAY_BYTES}",
            fix="write one JSON object a line",
            param=param,
        )


def tokens_of(path: Path, codec: Codec, algorithm: Algorithm = "supervised") -> tuple[int, int]:
    """Returns the number of conversations or pairs of a checked file, and their mean length in tokens, by a sample."""
    from deepwell.tuning.data.records import BadRecord

    sampled = [one for one in islice(_records(path, algorithm), _SAMPLED) if not isinstance(one, BadRecord)]
    lengths = [_length(one, codec) for one in sampled]
    count = sum(1 for one in _records(path, algorithm) if not isinstance(one, BadRecord))
    return count, max(1, sum(lengths) // max(len(lengths), 1))


def _length(one: Record | Pair, codec: Codec) -> int:
    from deepwell.tuning.data.records import Record, content_text

    tools: list[dict[str, Any]] | None = list(one.tools) or None
    if isinstance(one, Record):
        conversations = [list(one.messages)]
    else:
        conversations = [[*one.prompt, answer] for answer in (one.preferred, one.rejected)]
    try:
        return sum(len(codec.encode_chat(messages, tools=tools)) for messages in conversations)
    except DeepwellError:  # the training says what it cannot render
        return sum(len(content_text(message)) for messages in conversations for message in messages) // 3


def _records(path: Path, algorithm: Algorithm) -> Iterator[Record | Pair | BadRecord]:
    if algorithm == "dpo":
        from deepwell.tuning.align.preferences import read_pairs

        return read_pairs([path])
    from deepwell.tuning.data.records import read_records

    return read_records([path])


def _problems(
    path: Path, algorithm: Algorithm, fields: Sequence[str]
) -> Iterator[tuple[int, str, str] | None]:
    """Yields for each entry of a file what is wrong with it: line, field and problem; None: nothing."""
    if algorithm != "reinforcement":
        yield from map(_problem_of, _records(path, algorithm))
        return
    from deepwell.tuning.align.ppo.prompts import prompt_lines
    from deepwell.tuning.evaluate.templates import UnknownVariable, render

    for line, prompt in prompt_lines(path):
        if isinstance(prompt, str):
            yield line, "", prompt
            continue
        problem: tuple[int, str, str] | None = None
        for field in fields:
            try:
                render(f"{{{{ {field} }}}}", item=prompt.item)
            except UnknownVariable:
                problem = line, field, "the grader reads it, and the line does not have it"
                break
        yield problem


def _problem_of(found: Record | Pair | BadRecord) -> tuple[int, str, str] | None:
    from deepwell.tuning.data.records import BadRecord, Record

    if isinstance(found, BadRecord):
        return found.line, found.field, found.problem
    if not isinstance(found, Record):
        return None
    if found.format != "text" and all(one.get("role") != "assistant" for one in found.messages):
        return found.line, "messages", "there is no assistant message to learn from"
    return None
