"""`answer_file`: answers a batch file of OpenAI's form without a server, piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Raw

from deepwell.errors import InvalidRequest, ModelNotFound
from deepwell.fleet.pieces.answers import (
    ENDPOINTS,
    AnswerLines,
    BatchLine,
    join_lines,
    read_answers,
)
from deepwell.fleet.pieces.finish import finish
from deepwell.fleet.pieces.kept import KeptPieces, folder_for
from deepwell.fleet.pieces.piece import Executor, Tally
from deepwell.server.families.batches.lines import check_input, read_lines
from deepwell.tuning.data.records import LineWriter

__all__ = ["Answered", "answer_file", "check_batch"]

_LINE_BYTES = 8 << 20
_SHOWN_ERRORS = 5


@dataclass(frozen=True, slots=True)
class Answered:
    """The result of a batch.

    Attributes:
        failed: lines whose answer is an error.
        tokens: tokens of all prompts and answers.
    """

    lines: int
    failed: int
    tokens: int
    tally: Tally


def check_batch(source: Path, model: str) -> tuple[str, int]:
    """Checks a whole batch file, and returns its endpoint and the number of its lines.

    Args:
        model: name that its lines must give, or none.

    Raises:
        InvalidRequest: lines cannot be run; the first of them are named.
        OSError: the file cannot be read.
    """
    endpoint = _endpoint_of(source)

    def require(name: str) -> None:
        if name != model:
            raise ModelNotFound.of("batch_model_differs", name=name, model=model)

    checked = check_input(source, endpoint, _LINE_BYTES, require)
    errors = [
        f"line {one.line}: {one.message}" if one.line else one.message
        for one in checked.errors[:_SHOWN_ERRORS]
    ]
    if errors:
        rest = len(checked.errors) - len(errors)
        told = "; ".join(errors) + (f"; and {rest} more" if rest else "")
        raise InvalidRequest.of("batch_lines_wrong", path=source, errors=told)
    return endpoint, checked.total


def answer_file(
    source: Path,
    output: Path,
    recipe: AnswerLines,
    executor: Executor,
    *,
    lines_per_piece: int,
    advance: Callable[[int], None] = lambda _: None,
) -> Answered:
    """Answers every line, and writes the answers in the order of the lines. A run that was broken off goes on.

    Args:
        advance: is told how many further lines have ended.

    Raises:
        DeepwellError: the model cannot be opened, or a line fails for a reason that is not its own.
        OSError: a file cannot be read or written.
    """
    kept = KeptPieces(folder_for(output))
    sizes: list[int] = []

    def payloads() -> Iterator[bytes]:
        for lines in _pieces(source, lines_per_piece):
            sizes.append(len(lines))
            yield join_lines(lines)

    done = finish(executor, recipe, payloads(), kept, lambda index: advance(sizes[index]))
    failed = tokens = written = 0
    with LineWriter(output) as writer:
        for result in done.results():
            for answer in read_answers(result):
                writer.write(bytes(answer.line).decode())
                failed += answer.failed
                tokens += answer.tokens
                written += 1
    kept.remove()
    return Answered(written, failed, tokens, done.tally)


def _pieces(source: Path, size: int) -> Iterator[list[BatchLine]]:
    lines: list[BatchLine] = []
    for line in read_lines(source, frozenset()):
        lines.append(BatchLine(line.number, line.custom_id, Raw(line.body)))
        if len(lines) == size:
            yield lines
            lines = []
    if lines:
        yield lines


def _endpoint_of(source: Path) -> str:
    """Returns the endpoint of the first line, which all others must have."""
    with source.open("rb") as file:
        for raw in file:
            if raw.strip():
                break
        else:
            raise InvalidRequest.of("batch_file_empty", path=source)
    try:
        first: Any = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        first = None
    url = first.get("url") if isinstance(first, dict) else None
    if not isinstance(url, str):  # the check of the lines says what is wrong with this one
        return ENDPOINTS[0]
    if url not in ENDPOINTS:
        raise InvalidRequest.of("batch_endpoint_unknown", path=source, endpoints=", ".join(ENDPOINTS))
    return url
