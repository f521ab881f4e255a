"""`Trials`: asks questions within a budget, remembers every outcome, and counts what they cost.

Outcomes go into a journal of JSON lines. A search that was broken off finds them there and asks nothing twice; they count
against the budget nevertheless, so that it ends where it would have ended.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, cast

from deepwell.errors import InvalidFile
from deepwell.tuning.prompts.candidates import Candidate
from deepwell.tuning.prompts.metrics import Metric, Outcome
from deepwell.tuning.prompts.rows import Row

__all__ = ["Cost", "Journal", "Standing", "Trials"]

_AT_ONCE: Final = 16
_FORM: Final = 1  # of the journal


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
        InvalidFile: the file is of another search.
    """

    def __init__(self, path: Path | None, config: Mapping[str, Any]) -> None:
        self._kept: dict[str, dict[str, Any]] = {}
        self._file = None
        if path is None:
            return
        head = {"form": _FORM, "config": dict(config)}
        lines = path.read_bytes().split(b"\n") if path.is_file() else []
        whole = lines[:-1]  # what follows the last line feed was cut
        if whole:
            read = [_line(one, path) for one in whole]
            if read[0] != json.loads(json.dumps(head)):
                raise InvalidFile.of("prompts_folder_taken", path=path.parent)
            self._kept = {str(one.pop("key")): one for one in read[1:]}
            with path.open("r+b") as file:
                file.truncate(sum(len(one) + 1 for one in whole))
        self._file = path.open("a", encoding="utf-8")
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
            self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
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
        return cast("dict[str, Any]", json.loads(raw))
    except ValueError:
        raise InvalidFile.of("prompts_folder_taken", path=path.parent) from None
