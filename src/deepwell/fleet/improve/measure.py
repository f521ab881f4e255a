"""`measure`: the numbers that gates decide by, of a candidate and of the current model, on the engine that serves them.

Approval has two judges of different kinds. The first is the reward that KTO is about: how much more likely than the current
model the candidate finds held-out answers that people liked, and how much less likely those that they disliked, in nats per
token. Both opinions weigh the same, so that a candidate which finds everything likelier gains nothing, and a long answer
counts like a short one. The second reads what both models answer now to the held-out prompts (`WordJudge`, or one that is
given). It counts only if it can tell held-out answers that people liked from those that they did not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from deepwell.errors import DeepwellError
from deepwell.fleet.improve.judges import AnswerJudge, HarmJudge, WordJudge, auc, refuses
from deepwell.fleet.improve.sets import FrozenSets
from deepwell.fleet.promotion import gates
from deepwell.fleet.promotion.gates import Bars, GateReport, GateResult, Rates
from deepwell.llm import LLM
from deepwell.tuning.align.votes import Curated, Vote
from deepwell.tuning.data.records import content_text
from deepwell.tuning.evaluate.likelihood import Scorer
from deepwell.tuning.evaluate.subjects import Subject, SubjectName
from deepwell.tuning.evaluate.tasks import Prompt

__all__ = ["EngineMeasure", "Judges", "Terms"]

LEAST_AUC: Final = 0.6
"""Least area under the curve, on held-out votes, of a second judge that counts."""

_AT_ONCE: Final = 32
_MOST_HELD_OUT: Final = 300  # held-out votes, the newest: both models answer their prompts
_TIMED_TOKENS: Final = 64
_TIMED: Final = (
    "Read the following note and answer in a few sentences. The harbour office opens at eight on weekdays, and boats that "
    "arrive in the night wait at the outer quay."
)
_CURRENT, _CANDIDATE = "current", "candidate"

Say = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Judges:
    """The judges of answers.

    Attributes:
        harm: tells unsafe answers.
        second_harm: the same by other features; None: an answer to a harmful request is unsafe unless it refuses.
        approval: second judge of approval; None: one that is fitted to the words of the votes to train on.
    """

    harm: HarmJudge
    second_harm: HarmJudge | None = None
    approval: AnswerJudge | None = None


@dataclass(frozen=True, slots=True)
class Terms:
    """Sizes of the measurement.

    Attributes:
        tokens: most tokens of an answer.
        rounds: pairs of timed answers.
    """

    tokens: int = 64
    rounds: int = 41


class EngineMeasure:
    """Measures on `deepwell.llm`, with both adapters beside each other on one copy of the model."""

    def __init__(
        self, sets: FrozenSets, judges: Judges, bars: Bars | None = None, terms: Terms | None = None
    ) -> None:
        self._sets = sets
        self._judges = judges
        self._bars = bars or Bars()
        self._terms = terms or Terms()

    def measure(
        self,
        base: str,
        current: Path | None,
        candidate: Path,
        curated: Curated,
        say: Say,
        known: Sequence[GateResult] = (),
    ) -> GateReport:
        """Returns the report of all gates. Blocks.

        Args:
            base: the model: a name in the store, or a path.
            current: folder of the adapter that serves now; None: the model serves without one.
            known: results of an earlier measurement that are not measured again.
        """
        adapters = {_CANDIDATE: candidate} | ({} if current is None else {_CURRENT: current})
        # Drafting makes time depend on how much an answer repeats itself; what is weighed is the cost of a token.
        with LLM(base, adapters=adapters, speculation="off") as llm:
            sides = (
                Subject(SubjectName(_CURRENT, base, current), llm, "" if current is None else _CURRENT),
                Subject(SubjectName(_CANDIDATE, base, candidate), llm, _CANDIDATE),
            )
            measurement = _Measurement(sides, self._sets, self._judges, self._bars, self._terms, say)
            return measurement.report(curated, known)


class _Measurement:
    """One measurement of two sides: the current model and the candidate."""

    def __init__(
        self,
        sides: tuple[Subject, Subject],
        sets: FrozenSets,
        judges: Judges,
        bars: Bars,
        terms: Terms,
        say: Say,
    ) -> None:
        self._sides = sides
        self._sets = sets
        self._judges = judges
        self._bars = bars
        self._terms = terms
        self._say = say

    def report(self, curated: Curated, known: Sequence[GateResult]) -> GateReport:
        results = {one.name: one for one in known}
        steps: dict[tuple[str, ...], Callable[[], list[GateResult]]] = {
            ("votes",): lambda: [self._votes(curated)],
            ("approval",): lambda: [self._approval(curated)],
            ("choices",): lambda: [self._choices()],
            ("loss",): lambda: [self._loss()],
            ("endings", "safety"): self._endings_and_safety,
            ("latency",): lambda: [self._latency()],
        }
        for names, step in steps.items():
            if results.keys() >= set(names):
                continue
            for result in step():
                results[result.name] = result
                self._say({"event": "gate", **result.to_json()})
        return GateReport.of(*results.values())

    def _votes(self, curated: Curated) -> GateResult:
        train, held_out = ([one.user for one in part] for part in (curated.train, curated.held_out))
        return gates.votes(train, held_out, self._bars)

    def _approval(self, curated: Curated) -> GateResult:
        fitting = [one for one in curated.held_out[-_MOST_HELD_OUT:] if self._fits(one)]
        likes = sum(one.desirable for one in fitting)
        if not 0 < likes < len(fitting):
            return _unmeasured("approval", "the held-out votes are all of one opinion, or there are none")
        judge, told = self._judges.approval, ""
        if judge is None:
            try:
                judge = WordJudge(curated.train)
            except ValueError as error:
                return _unmeasured("approval", f"there is no second judge: {error}")
        skill = auc(
            judge.scores([_prompt(one) for one in fitting], [one.answer for one in fitting]),
            [one.desirable for one in fitting],
        )
        if skill is None or skill < LEAST_AUC:
            told = f"the second judge tells good held-out answers from bad ones with {skill or 0:.2f}; {LEAST_AUC} is needed"
        before, after = (self._rewards(side, fitting) for side in self._sides)
        seconds = [self._judged(side, judge, fitting) for side in self._sides]
        found = gates.approval(
            before, after, [one.user for one in fitting], seconds[0], seconds[1], self._bars
        )
        more = {
            "second_auc": skill or 0.0,
            "left_out": len(curated.held_out) - len(fitting),
            "liked": likes,
        }
        found = replace(found, numbers={**found.numbers, **more})
        return replace(found, passed=False, reason=f"{found.reason}; {told}") if told else found

    def _rewards(self, side: Subject, votes: Sequence[Vote]) -> list[float]:
        """Returns the log likelihood of each answer per token, negative for disliked ones; both opinions weigh the same."""
        llm = side.llm
        likes = sum(one.desirable for one in votes)
        weights = {True: len(votes) / (2 * likes), False: -len(votes) / (2 * (len(votes) - likes))}
        found: list[float] = []
        for start in range(0, len(votes), _AT_ONCE):
            some = votes[start : start + _AT_ONCE]
            pairs = [(llm.tokenize(list(one.prompt)), llm.unframed(llm.encode(one.answer))) for one in some]
            scores = llm.score(pairs, adapter=side.adapter)
            found += [
                weights[one.desirable] * sum(score.logprobs) / max(len(score.logprobs), 1)
                for one, score in zip(some, scores, strict=True)
            ]
        return found

    def _judged(self, side: Subject, judge: AnswerJudge, votes: Sequence[Vote]) -> list[float]:
        """Returns what a judge says of the answer that a side gives now to the prompt of each vote."""
        prompts = {_prompt(one): one for one in votes}
        answers = self._answers(side, [list(one.prompt) for one in prompts.values()])
        scores = judge.scores(list(prompts), [text for text, _ in answers])
        found = dict(zip(prompts, scores, strict=True))
        return [found[_prompt(one)] for one in votes]

    def _choices(self) -> GateResult:
        if not self._sets.choices:
            return _unmeasured("choices", "there are no questions")
        prompts = [
            Prompt(
                number,
                ({"role": "user", "content": one.question},),
                one.question,
                one.choices,
                one.answer,
                " ",
            )
            for number, one in enumerate(self._sets.choices)
        ]
        hits = [
            [
                score.best(score.tokens) == one.answer
                for score, one in zip(
                    Scorer(side, chat=True).choices(prompts, _ignored), self._sets.choices, strict=True
                )
            ]
            for side in self._sides
        ]
        return gates.choices(hits[0], hits[1], self._bars)

    def _loss(self) -> GateResult:
        if not self._sets.texts:
            return _unmeasured("loss", "there are no texts")
        losses: list[float] = []
        for side in self._sides:
            scores = Scorer(side).texts(self._sets.texts, _ignored)
            losses.append(-sum(one.logprob for one in scores) / max(sum(one.tokens for one in scores), 1))
        return gates.loss(losses[0], losses[1], self._bars)

    def _endings_and_safety(self) -> list[GateResult]:
        if not self._sets.harmless:
            missing = "there are no harmless requests"
            return [_unmeasured("endings", missing), _unmeasured("safety", missing)]
        given = [self._answers(side, _asked(self._sets.harmless)) for side in self._sides]
        ended = [[one for _, one in answers] for answers in given]
        found = [gates.endings(ended[0], ended[1], self._bars)]
        if not self._sets.harmful:
            return [*found, _unmeasured("safety", "there are no harmful requests")]
        rates = [self._rates(side, answers) for side, answers in zip(self._sides, given, strict=True)]
        return [*found, gates.safety(rates[0], rates[1], self._bars)]

    def _rates(self, side: Subject, harmless: Sequence[tuple[str, bool]]) -> Rates:
        requests = self._sets.harmful
        answers = [text for text, _ in self._answers(side, _asked(requests))]
        second = self._judges.second_harm or _complies
        pairs = list(zip(requests, answers, strict=True))
        return Rates(
            attacks=len(requests),
            unsafe=sum(self._judges.harm(*one) for one in pairs),
            second=sum(second(*one) for one in pairs),
            harmless=len(harmless),
            refused=sum(refuses(text) for text, _ in harmless),
        )

    def _latency(self) -> GateResult:
        """Times answers of both sides in turns, in an order that alternates. The first round warms up and does not count."""
        seconds: tuple[list[float], list[float]] = ([], [])
        for number in range(self._terms.rounds + 1):
            order = (0, 1) if number % 2 else (1, 0)
            for place in order:
                side = self._sides[place]
                begin = time.perf_counter()
                side.llm.generate(
                    f"Note {number}. {_TIMED}",
                    adapter=side.adapter,
                    max_tokens=_TIMED_TOKENS,
                    temperature=0,
                    ignore_eos=True,
                )
                if number:
                    seconds[place].append(time.perf_counter() - begin)
        return gates.latency(seconds[0], seconds[1], self._bars)

    def _answers(
        self, side: Subject, conversations: Sequence[list[dict[str, Any]]]
    ) -> list[tuple[str, bool]]:
        """Returns the greedy answer to each conversation, and whether it ended by itself."""
        found: list[tuple[str, bool]] = []
        for start in range(0, len(conversations), _AT_ONCE):
            some = conversations[start : start + _AT_ONCE]
            given = side.llm.chat(some, adapter=side.adapter, max_tokens=self._terms.tokens, temperature=0)
            found += [(one.text, one.finish_reason != "length") for one in given]
        return found

    def _fits(self, vote: Vote) -> bool:
        """Tells whether a vote, and an answer to its prompt, fit the template and the context. Nothing is cut."""
        llm = self._sides[0].llm
        try:
            prompt = len(llm.tokenize(list(vote.prompt)))
        except (
            DeepwellError
        ):  # one vote that cannot be rendered, or is too long, must not end every measurement
            return False
        return prompt + max(len(llm.encode(vote.answer)), self._terms.tokens) <= llm.context


def _unmeasured(name: str, reason: str) -> GateResult:
    return GateResult(name, False, f"it was not measured: {reason}")


def _complies(request: str, answer: str) -> bool:
    return not refuses(answer)


def _asked(requests: Sequence[str]) -> list[list[dict[str, Any]]]:
    return [[{"role": "user", "content": one}] for one in requests]


def _prompt(vote: Vote) -> str:
    return "\n".join(f"{one.get('role', '')}: {content_text(one)}" for one in vote.prompt)


def _ignored(_: int) -> None:
    return
