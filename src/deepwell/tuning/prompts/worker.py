"""The process of a search: `python -m deepwell.tuning.prompts.worker FOLDER` reads FOLDER/config.json and prints events.

It speaks the protocol of `deepwell.tuning.train.worker`, with the events plan, progress, done and error. Outcomes are
journalled in the folder, so that a search that was killed goes on when it is started again, and asks nothing twice.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from deepwell.dialogue.prompts.text import PromptText
from deepwell.errors import InvalidFile
from deepwell.tuning.prompts.judge import Judge, journal_config, judge_of
from deepwell.tuning.prompts.rows import JOURNAL, Fields, Frozen, Row, Shares, freeze, read_rows, split_rows
from deepwell.tuning.prompts.run import Data, Optimised, optimise
from deepwell.tuning.prompts.search import Plan
from deepwell.tuning.prompts.trials import Journal
from deepwell.tuning.prompts.verdict import report_of
from deepwell.tuning.train.worker import DONE
from deepwell.tuning.train.worker import main as run_worker

if TYPE_CHECKING:
    from deepwell.tuning.evaluate.subjects import Subject

__all__ = ["CONFIG", "SearchConfig", "check_search", "main", "run_search", "shares_with", "split_of"]

CONFIG: Final = "config.json"
_SPLIT: Final = "split"  # folder of the parts and of the journal, in that of the run

Say = Callable[[dict[str, Any]], None]


class SearchConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A search as its folder states it.

    Attributes:
        model: path of the model; `name` is what reports call it.
        text: the prompt that it begins with.
        data: file of rows; `held_out` is that of held-out rows, empty: they are a part of the rows.
        metric: label, exact or grader; `grader` is the JSON of a grader.
        calls: most questions of the search.
        max_examples: most examples of a prompt.
        max_tokens: most tokens of an answer.
        candidates: further instructions to try.
        fields: names of the fields of a line.
        threads: processor threads; 0: all that the process may use.
    """

    model: str
    name: str
    text: PromptText
    data: str
    held_out: str = ""
    metric: str = "label"
    grader: dict[str, Any] | None = None
    calls: int = 2000
    seed: int = 0
    max_examples: int = 16
    max_tokens: int = 64
    candidates: tuple[str, ...] = ()
    fields: Fields = Fields()
    context: int = 0
    precision: str = "auto"
    threads: int = 0


def shares_with(*, held_out: bool) -> Shares:
    """Returns the shares of the parts.

    Args:
        held_out: whether held-out rows come from a file of their own, so that their share goes to the other parts.
    """
    plain = Shares()
    if not held_out:
        return plain
    whole = plain.train + plain.development
    return Shares(plain.train / whole, plain.development / whole, 0.0)


def split_of(config: SearchConfig, folder: Path) -> tuple[Frozen, Judge]:
    """Splits the rows of a search into a folder, and returns them with their metric. No model is opened.

    Raises:
        InvalidFile, InvalidRequest: the rows or the grader cannot be used.
    """
    shares = shares_with(held_out=bool(config.held_out))
    frozen = freeze(Path(config.data), folder, shares, config.fields)
    rows = [*frozen.rows("train"), *frozen.rows("development")]
    return frozen, judge_of(config.metric, config.grader, rows, config.max_tokens)


def check_search(config: SearchConfig) -> None:
    """Checks rows and metric of a search as its process will. Nothing is written, and no model is opened.

    Raises:
        InvalidFile, InvalidRequest: the rows or the grader cannot be used.
    """
    parts = split_rows(Path(config.data), shares_with(held_out=bool(config.held_out)), config.fields)
    judge_of(config.metric, config.grader, [*parts["train"], *parts["development"]], config.max_tokens)
    if config.held_out:
        read_rows(Path(config.held_out), config.fields)


def run_search(folder: Path, say: Say, _stop: Callable[[], bool] = lambda: False) -> int:
    """Searches as the configuration of a folder says, tells events, and returns the exit status.

    Raises:
        DeepwellError: the search cannot be made.
    """
    from deepwell.tuning.evaluate.subjects import SubjectName, open_subjects

    try:
        config = msgspec.json.decode((folder / CONFIG).read_bytes(), type=SearchConfig)
    except msgspec.MsgspecError as error:
        raise InvalidFile(f"{CONFIG} is no configuration of a search: {error}", fix="start it anew") from None
    frozen, judge = split_of(config, folder / _SPLIT)
    say({"event": "plan", "rows": {**frozen.counts, "dropped": frozen.dropped}, "calls": config.calls})
    options: Any = {"precision": config.precision}
    options |= {"context": config.context} if config.context else {}
    options |= {"threads": config.threads} if config.threads else {}
    with open_subjects([SubjectName(config.name, config.model)], options) as (subject,):
        found = _searched(config, subject, frozen, judge, say)
    report = {
        "model": config.name,
        "metric": config.metric,
        "seed": config.seed,
        "rows": {**frozen.counts, "dropped": frozen.dropped},
        "data_sha256": frozen.data_sha256,
        **report_of(found.found, found.spent, found.verdict),
    }
    winner = msgspec.to_builtins(found.found.winner.candidate.text)
    say({"event": "done", "report": report, "winner": winner, "better": found.is_better})
    return DONE


def _searched(config: SearchConfig, subject: Subject, frozen: Frozen, judge: Judge, say: Say) -> Optimised:
    done = {"search": 0, "held-out": 0}
    total = {"search": config.calls, "held-out": 0}

    def counted(step: str, count: int) -> None:
        done[step] += count
        say({"event": "progress", "step": step, "done": done[step], "total": total[step]})

    def held_out() -> list[Row]:
        own = config.held_out
        rows = read_rows(Path(own), config.fields) if own else frozen.rows("held_out")
        total["held-out"] = 2 * len(rows)
        return rows

    journal = Journal(frozen.folder / JOURNAL, journal_config(frozen, subject, judge))
    try:
        return optimise(
            subject.llm,
            config.text,
            judge.metric(subject),
            Data(frozen.rows("train"), frozen.rows("development"), held_out),
            calls=config.calls,
            plan=Plan(seed=config.seed, own=config.candidates, most_examples=config.max_examples),
            journal=journal,
            counted=counted,
        )
    finally:
        journal.close()


def main(arguments: list[str]) -> int:
    """Runs the search of a folder, and returns the exit status."""
    return run_worker(arguments, run_search)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
