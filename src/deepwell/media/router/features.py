"""Features of a request: its wordings, its runs of words and letters, as a whole and by clauses, and the vector of e5-small."""

from __future__ import annotations

import re
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from deepwell.media.router.clauses import clauses_of
from deepwell.media.router.masking import masked
from deepwell.media.router.patterns import Found, find_wordings, wordings

__all__ = ["ATTACHED", "BUCKETS", "Attachment", "Features", "encoded_text", "features_of"]

Attachment = Literal["audio", "image"]
ATTACHED: Final[tuple[Attachment, ...]] = get_args(Attachment)

BUCKETS: Final = 1 << 14
"""Numbers that runs are hashed to."""

_TOKEN: Final = re.compile(r"‹[qtw]›|[a-z]+(?:'[a-z]+)?|[0-9]+|[\u3400-\u9fff]|[^\sa-z0-9]")
_MOST_RUN: Final = 3
_MOST_RUN_ATTACHED: Final = 2
_WORD: Final = re.compile(r"[a-z']{1,40}")
_LETTERS: Final = (3, 4, 5)


@dataclass(frozen=True, slots=True)
class Features:
    """The input of the classifier for a request, but for the vector.

    Attributes:
        found: its wordings.
        wordings: their numbers; in the upper half of the numbers once more, by what is attached.
        runs: buckets of its runs.
        letters: buckets of the runs of letters of its Latin words, which survive a slip of the finger.
        clauses: buckets of the runs and letters of each of its clauses.
    """

    found: Sequence[Found]
    wordings: NDArray[np.int32]
    runs: NDArray[np.int32]
    letters: NDArray[np.int32]
    clauses: Sequence[NDArray[np.int32]]


def features_of(text: str, attached: Collection[str] = ()) -> Features:
    """Returns the features of a request."""
    told = masked(text)
    found = find_wordings(text, attached)
    places = {wording.name: place for place, wording in enumerate(wordings())}
    numbers = [places[one.wording.name] for one in found]
    numbers += [len(places) + place for place, has in enumerate(_shape(told)) if has]
    width, kind = wording_count(), _kind(attached)
    numbers += [width * (1 + kind) + number for number in numbers]
    buckets = {_bucket(run) for run in _runs(told, kind)}
    names = [one.wording.name for one in found]
    pairs = {f"{one} {other}" for place, one in enumerate(names) for other in names[:place]}
    buckets |= {_bucket(f"pair {pair}") for pair in pairs}
    letters = {_bucket(f"g{run}") for run in _letters(told)}
    parts = [{_bucket(f"c{run}") for run in _clause_runs(clause)} for clause in clauses_of(told)]
    return Features(
        found,
        np.array(numbers, np.int32),
        _sorted(buckets),
        _sorted(letters),
        [_sorted(part) for part in parts],
    )


def wording_count() -> int:
    """Returns the number of wordings, the shape of the request among them."""
    return len(wordings()) + len(_shape(""))


def encoded_text(text: str) -> str:
    """Returns the text whose vector the classifier reads: what a request quotes or dictates is left out."""
    return "query: " + masked(text).replace("‹q›", '"…"').replace("‹t›", "…").replace("‹w›", "…")


def _shape(told: str) -> tuple[bool, ...]:
    """Returns whether a masked request is short, quotes something, has content behind a colon, ends with a question."""
    return len(told) < 12, "‹q›" in told, "‹t›" in told, "‹w›" in told, told.endswith("?"), True


def _kind(attached: Collection[str]) -> int:
    """Returns 0 for no attachment, 1 for audio, 2 for an image alone."""
    return next((place for place, kind in enumerate(ATTACHED, 1) if kind in attached), 0)


def _runs(told: str, kind: int) -> Iterator[str]:
    tokens = ["0" if token.isdigit() else token for token in _TOKEN.findall(told)]
    for begin in range(len(tokens)):
        for length in range(1, min(_MOST_RUN, len(tokens) - begin) + 1):
            run = " ".join(tokens[begin : begin + length])
            yield run
            if length <= _MOST_RUN_ATTACHED:
                yield f"{kind} {run}"
            if begin == 0:
                yield f"^ {run}"
            if begin + length == len(tokens):
                yield f"{run} $"


def _clause_runs(clause: str) -> Iterator[str]:
    tokens = _TOKEN.findall(clause)
    for begin in range(len(tokens)):
        for length in range(1, min(_MOST_RUN, len(tokens) - begin) + 1):
            run = " ".join(tokens[begin : begin + length])
            yield run
            if begin == 0:
                yield f"^{run}"
            if begin + length == len(tokens):
                yield f"${run}"
    yield from _letters(clause)


def _letters(told: str) -> set[str]:
    """Returns the runs of letters of Latin words, their begins and ends marked."""
    found: set[str] = set()
    for word in _WORD.findall(told):
        marked = f"<{word}>"
        for length in _LETTERS:
            found.update(marked[place : place + length] for place in range(len(marked) - length + 1))
    return found


def _bucket(run: str) -> int:
    return zlib.crc32(run.encode()) % BUCKETS


def _sorted(buckets: Collection[int]) -> NDArray[np.int32]:
    return np.array(sorted(buckets), np.int32)
