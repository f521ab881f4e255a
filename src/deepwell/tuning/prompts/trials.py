"""`Trials`: asks questions within a budget, remembers every outcome, and counts what they cost.

Outcomes go into a journal of JSON lines. A search that was broken off finds them there and asks nothing twice; they count
against the budget nevertheless, so that it ends where it would have ended.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from deepwell.errors import InvalidFile
from deepwell.process.claim import locked_alone
from deepwell.tuning.prompts.candidates import Candidate
from deepwell.tuning.prompts.metrics import Metric, Outcome
from deepwell.tuning.prompts.rows import Row

__all__ = ["Cost", "Journal", "Standing", "Trials"]

_AT_ONCE: Final = 16
_FORM: Final = 1  # of the journal
_MOST_BYTES: Final = 1 << 30
_MOST_TOKENS: Final = 1 << 40


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of questions.

    Attributes:
        calls: questions put to the model; all labels of a question are one.
        prompt_tokens: tokens of the conversations, those in the prefix cache among them.
        answer_tokens: generated tokens, and tokens of scored labels.
        remembered: calls whose outcomes came from the journal of an earlier run.
    """

    calls: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    remembered: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.calls + other.calls,
            self.prompt_tokens + other.prompt_tokens,
            self.answer_tokens + other.answer_tokens,
            self.remembered + other.remembered,
        )


@dataclass(frozen=True, slots=True)
class Standing:
    """A candidate's mean over some rows.

    Attributes:
        chance: mean share of the right label among all labels; the score, where a metric has no labels. It says more of few
            rows than the score does.
        tokens: mean tokens of a conversation.
        refused: rows that did not fit the context.
    """

    score: float
    chance: float
    tokens: float
    rows: int
    refused: int = 0

    @property
    def rank(self) -> tuple[float, float, float]:
        """Sorting key of finalists: by score, then by chance, then by length. More is better."""
        return (self.score, self.chance, -self.tokens)

    @property
    def promise(self) -> tuple[float, float]:
        """Sorting key of earlier rounds, which see few rows: score and chance count alike."""
        return (self.score + self.chance, -self.tokens)


class Journal:
    """Lines of a search in a file; None: in memory alone.

    Args:
        config: what the outcomes depend on. A file of another configuration is refused.

    Raises:
        InvalidFile: the file is of another search, is damaged, or another process has it.
    """

    def __init__(self, path: Path | None, config: Mapping[str, Any]) -> None:
        self._kept: dict[str, dict[str, Any]] = {}
        self._file: BinaryIO | None = None
        if path is None:
            return
        head = {"form": _FORM, "config": dict(config)}
        self._file = path.open("a+b")
        try:
            self._read(head, path)
        except BaseException:
            self.close()
            raise

    def _read(self, head: Mapping[str, Any], path: Path) -> None:
        """Reads the lines that are there, cuts a torn one off, and writes the first if there is none."""
        assert self._file is not None
        if not locked_alone(self._file):
            raise InvalidFile.of("prompts_search_busy", path=path.parent)
        self._file.seek(0)
        raw = self._file.read(_MOST_BYTES + 1)
        if len(raw) > _MOST_BYTES:
            raise InvalidFile.of("prompts_folder_taken", path=path.parent)
        whole = raw.split(b"\n")[:-1]  # what follows the last line feed was cut
        read = [_line(one, path) for one in whole]
        if read and read[0] != json.loads(json.dumps(head)):
            raise InvalidFile.of("prompts_folder_taken", path=path.parent)
        for one in read[1:]:
            key = one.pop("key", None)
            if not isinstance(key, str) or not _is_sound(key, one):
                raise InvalidFile.of("prompts_folder_taken", path=path.parent)
            self._kept[key] = one
        self._file.truncate(sum(len(one) + 1 for one in whole))
        if not whole:
            self._write(head)

    def get(self, key: str) -> dict[str, Any] | None:
        """Returns the values that an earlier run kept under a key."""
        return self._kept.get(key)

    def put(self, key: str, values: Mapping[str, Any]) -> None:
        """Keeps values under a key."""
        self._kept[key] = dict(values)
        self._write({"key": key, **values})

    def count(self, start: str) -> int:
        """Returns the number of keys that begin so."""
        return sum(key.startswith(start) for key in self._kept)

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(line).encode() + b"\n")
            self._file.flush()


class Trials:
    """Outcomes of candidates on rows.

    Args:
        budget: most calls.
        counted: is told how many further calls are done.
    """

    def __init__(
        self, metric: Metric, journal: Journal, budget: int, counted: Callable[[int], None] = lambda _: None
    ) -> None:
        self.budget = budget
        self.cost = Cost()
        self._metric = metric
        self._journal = journal
        self._counted = counted
        self._known: dict[tuple[str, str], Outcome] = {}

    @property
    def left(self) -> int:
        """Calls that the budget still has."""
        return self.budget - self.cost.calls

    def outcomes(self, candidate: Candidate, rows: Sequence[Row]) -> list[Outcome]:
        """Returns the outcome of a candidate on each row. What is known already costs nothing.

        Raises:
            ValueError: the budget does not reach; callers look at `left` before.
        """
        key = candidate.key
        fresh = [row for row in rows if (key, row.key) not in self._known]
        if len(fresh) > self.left:
            raise ValueError(f"{len(fresh)} calls, and {self.left} are left")
        unasked: list[Row] = []
        for row in fresh:
            kept = self._journal.get(f"{key}:{row.key}")
            if kept is None:
                unasked.append(row)
            else:
                self._note(key, row, Outcome(**kept), remembered=1)
        for start in range(0, len(unasked), _AT_ONCE):
            some = unasked[start : start + _AT_ONCE]
            found = self._metric.ask([candidate.conversation(row) for row in some], some)
            for row, outcome in zip(some, found, strict=True):
                self._journal.put(f"{key}:{row.key}", asdict(outcome))
                self._note(key, row, outcome)
        return [self._known[key, row.key] for row in rows]

    def standing(self, candidate: Candidate, rows: Sequence[Row]) -> Standing:
        """Returns a candidate's mean over rows."""
        found = self.outcomes(candidate, rows)
        count = len(found)
        return Standing(
            sum(one.score for one in found) / count,
            sum(one.chance for one in found) / count,
            sum(one.prompt_tokens for one in found) / count,
            count,
            sum(one.refused for one in found),
        )

    def proposed(self, key: str, ask: Callable[[], tuple[str, int, int]]) -> str:
        """Returns a proposal of the model, which costs a call. The key names all that it depends on."""
        kept = self._journal.get(f"proposal:{key}")
        if kept is None:
            text, prompt_tokens, answer_tokens = ask()
            kept = {"text": text, "prompt_tokens": prompt_tokens, "answer_tokens": answer_tokens}
            self._journal.put(f"proposal:{key}", kept)
            remembered = 0
        else:
            remembered = 1
        self.cost += Cost(1, int(kept["prompt_tokens"]), int(kept["answer_tokens"]), remembered)
        self._counted(1)
        return str(kept["text"])

    def _note(self, key: str, row: Row, outcome: Outcome, remembered: int = 0) -> None:
        self._known[key, row.key] = outcome
        self.cost += Cost(1, outcome.prompt_tokens, outcome.answer_tokens, remembered)
        self._counted(1)


def _line(raw: bytes, path: Path) -> dict[str, Any]:
    try:
        read: object = json.loads(raw)
    except (ValueError, RecursionError):
        read = None
    if not isinstance(read, dict):
        raise InvalidFile.of("prompts_folder_taken", path=path.parent)
    return cast("dict[str, Any]", read)


def _is_sound(key: str, values: Mapping[str, Any]) -> bool:
    """Returns whether the values of a line are those of its kind of key: a look, a proposal or an outcome."""
    if key.startswith("look:"):
        checks: Mapping[str, Callable[[Any], bool]] = {"score": _is_share}
    elif key.startswith("proposal:"):
        checks = {"text": _is_text, "prompt_tokens": _is_count, "answer_tokens": _is_count}
    else:
        checks = _OUTCOME
    return values.keys() == checks.keys() and all(check(values[name]) for name, check in checks.items())


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1.000001


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_TOKENS


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


_OUTCOME: Final[Mapping[str, Callable[[Any], bool]]] = {
    "score": _is_share,
    "answer": _is_text,
    "passed": _is_flag,
    "prompt_tokens": _is_count,
    "answer_tokens": _is_count,
    "chance": _is_share,
    "refused": _is_flag,
}
