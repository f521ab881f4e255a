"""`Check`, `Outcome` and `Pack`: the parts of a compliance pack, with their texts in English and Chinese."""

from __future__ import annotations

import logging
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final, Literal, NamedTuple, cast

from deepwell.errors import DeepwellError, InvalidRequest
from deepwell.messages import Language, nearest
from deepwell.safety.compliance.context import Context

__all__ = [
    "Check",
    "Fact",
    "Function",
    "Outcome",
    "Pack",
    "Result",
    "Rule",
    "Status",
    "Words",
    "failed",
    "not_applicable",
    "not_run",
    "pack_of",
    "passed",
    "run",
]

_log = logging.getLogger(__name__)

Status = Literal["pass", "fail", "not_applicable", "not_run"]
Kind = Literal["executable", "question"]


class Words(NamedTuple):
    """A text in both languages."""

    en: str
    zh: str

    def of(self, language: Language) -> str:
        """Returns the text in a language."""
        return self.zh if language == "zh" else self.en


@dataclass(frozen=True, slots=True)
class Fact:
    """One piece of evidence: what was measured or looked at, and the figure, hash, path or setting that was found."""

    name: Words
    value: str | int | float | Words


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of an executable check.

    Attributes:
        status: `not_run` where something that the operator has to give is missing, such as a model.
    """

    status: Status
    facts: Sequence[Fact]


Function = Callable[[Context], Outcome]


def passed(*facts: Fact) -> Outcome:
    """Returns the outcome of a check that holds."""
    return Outcome("pass", facts)


def failed(*facts: Fact) -> Outcome:
    """Returns the outcome of a check that does not hold."""
    return Outcome("fail", facts)


def not_applicable(*facts: Fact) -> Outcome:
    """Returns the outcome of a check that does not concern this installation."""
    return Outcome("not_applicable", facts)


def not_run(*facts: Fact) -> Outcome:
    """Returns the outcome of a check that lacks something to run. It counts as open, and never as passed."""
    return Outcome("not_run", facts)


@dataclass(frozen=True, slots=True)
class Rule:
    """The rule behind a check.

    Attributes:
        document: law, standard or list.
        clause: within the document.
        read: whether its text was read when the check was written.
        source: the text that was read, or the secondary sources that the check follows instead.
    """

    document: Words
    clause: str
    read: bool
    source: Words


@dataclass(frozen=True, slots=True)
class Check:
    """One check of a pack.

    Attributes:
        id: unique in its pack.
        title: what has to hold, or the question to a person.
        fix: what to do if it does not hold; empty for questions.
        function: runs the check; None: a person answers.
    """

    id: str
    title: Words
    rule: Rule
    fix: Words
    function: Function | None = None

    @property
    def kind(self) -> Kind:
        """Kind of the check: a machine runs it, or a person answers."""
        return "question" if self.function is None else "executable"


@dataclass(frozen=True, slots=True)
class Pack:
    """A list of checks for one jurisdiction or list of risks."""

    name: str
    title: Words
    checks: Sequence[Check]

    def question(self, id: str) -> Check:
        """Returns a question.

        Raises:
            InvalidRequest: the pack has no such question.
        """
        questions = {check.id: check for check in self.checks if check.kind == "question"}
        if id not in questions:
            right = nearest(id, questions)
            raise InvalidRequest(
                f"the pack {self.name!r} has no question {id!r}",
                fix=f"did you mean {right}?" if right else f"choose one of {', '.join(questions)}",
            )
        return questions[id]


@dataclass(frozen=True, slots=True)
class Result:
    """An executable check with its outcome."""

    check: Check
    outcome: Outcome


def pack_of(name: str, functions: Mapping[str, Function]) -> Pack:
    """Reads the pack of `data/NAME.toml`. A check that has a function is executable, and every other one a question.

    Raises:
        ValueError: a function has no check.
    """
    text = files("deepwell.safety.compliance").joinpath("data", f"{name}.toml").read_text(encoding="utf-8")
    data: dict[str, Any] = tomllib.loads(text)
    documents = cast("dict[str, dict[str, Any]]", data["documents"])
    checks = [_check(entry, documents[entry["document"]], functions) for entry in data["checks"]]
    if lost := functions.keys() - {check.id for check in checks}:
        raise ValueError(f"functions without a check: {', '.join(sorted(lost))}")
    return Pack(name, Words(data["title"], data["title_zh"]), checks)


def _check(entry: Mapping[str, Any], document: Mapping[str, Any], functions: Mapping[str, Function]) -> Check:
    rule = Rule(
        Words(document["title"], document["title_zh"]),
        entry["clause"],
        entry.get("read", document["read"]),
        Words(document["source"], document["source_zh"]),
    )
    fix = Words(entry.get("fix", ""), entry.get("fix_zh", ""))
    return Check(entry["id"], Words(entry["title"], entry["title_zh"]), rule, fix, functions.get(entry["id"]))


_ERROR: Final = Words("the check itself failed", "检查本身出错")


def run(checks: Iterable[Check], context: Context) -> Iterator[Result]:
    """Runs the executable checks, and yields each with its outcome. A check that raises has failed."""
    for check in checks:
        if check.function is None:
            continue
        try:
            outcome = check.function(context)
        except DeepwellError as error:
            outcome = failed(Fact(_ERROR, f"{error.message}; {error.fix}" if error.fix else error.message))
        except Exception as error:
            _log.exception("the check %s failed", check.id)
            outcome = failed(Fact(_ERROR, f"{type(error).__name__}: {error}"))
        yield Result(check, outcome)
