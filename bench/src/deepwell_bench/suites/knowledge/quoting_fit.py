"""Fits the weights by which a passage is quoted, and tries them on questions that took no part in the fit.

NOTE: honest figures. The sets of development were written at different times, in different words. What is fitted on two of
them, the least chance included, and tried on the third says what questions in yet other words will see; folds of questions,
which share their wording with the fit, say what they would see if the wording were known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from deepwell.knowledge.answer.features import Case, Features
from deepwell.knowledge.answer.quoting import lead_of
from deepwell.knowledge.documents import Passage
from deepwell_bench.workloads.knowledge.answers import AnswerQuestion

__all__ = ["QuotingCase", "QuotingFit", "fitted_quoting", "logistic", "weights_of"]

_SCALES: Final = np.array(
    [20.0, 3.0, 1.0, 2.0, 3.0, 1.0, 3.0, 1.0]
)  # of the features, the gain and the lead: brings them to one size, so that one penalty serves all
_GAIN, _LEAD = 6, 7  # columns
_PENALTY: Final = 1.0
_PRECISE: Final = 0.95  # least share of the answered covered questions that are answered from a gold passage
_DECLINED: Final = {"far": 0.9, "near": 0.6}  # least shares, whatever that costs
_FOLDS: Final = 5
_CLOSE: Final = 1e-6  # step of Newton's method that ends it
_ANSWERED: Final = (30, 40, 50, 60, 70, 80, 90)  # per cent of the covered questions, for the curve
_COLUMNS: Final[dict[Case, tuple[int, ...]]] = {
    "en": (1, 1, 1, 1, 1, 1, 1, 1),
    "zh": (1, 1, 1, 1, 1, 1, 1, 1),
}
"""Numbers that count, in the order of `Features.row`, the gain and the lead."""

_Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class QuotingCase:
    """The candidates of a question: searched with the gold passage, without it, or far from it."""

    questions: str
    question: AnswerQuestion
    kind: str
    passages: Sequence[Passage]
    features: Sequence[Features]
    gains: Sequence[float]

    @property
    def gold(self) -> NDArray[np.bool_]:
        """Bool [candidates]."""
        return np.array(
            [self.kind == "covered" and one.file_id in self.question.golds for one in self.passages]
        )

    @property
    def rows(self) -> _Array:
        """Float64 [candidates, 7]: the features and the gain."""
        return np.array([(*one.row, gain) for one, gain in zip(self.features, self.gains, strict=True)])


@dataclass(frozen=True, slots=True)
class QuotingFit:
    """Weights in the order of `Quoting`; `sure` has the constant last."""

    order: list[float]
    sure: list[float]

    def judged(self, one: QuotingCase) -> tuple[float, int]:
        """Returns the log-odds that the chosen candidate answers, and its index."""
        row, at = _chosen(one, np.array(self.order))
        return float(row @ np.array(self.sure[:-1]) + self.sure[-1]), at


@dataclass(frozen=True, slots=True)
class _Tried:
    """Questions beside what was judged of them, in three arrays of their number."""

    cases: Sequence[QuotingCase]
    scores: _Array
    right: NDArray[np.bool_]

    def of(self, kind: str) -> NDArray[np.bool_]:
        return np.array([one.kind == kind for one in self.cases], bool)


def fitted_quoting(
    case: Case, cases: Sequence[QuotingCase], *, cosine: bool = True, gain: bool = False
) -> dict[str, Any]:
    """Returns the constants of one case, and their effects on left-out sets and folds of questions.

    Args:
        cosine: false for embedders that nobody calibrated.
        gain: true if the gains of the cases count.
    """
    used = np.array(_COLUMNS[case], float)
    used[0] *= cosine
    used[_GAIN] *= gain
    fit, least = _calibrated(cases, used)
    value: dict[str, Any] = {
        "order": fit.order,
        "sure": [*fit.sure[:-1], round(fit.sure[-1] - least, 3)],
    }
    names = sorted({one.questions for one in cases})
    if len(names) > 1:
        tried = _left_out(cases, used, lambda one: one.questions)
        value["left_out_sets"] = {
            name: _effects(_part(tried, lambda one, name=name: one.questions == name)) for name in names
        }
    tried = _left_out(cases, used, lambda one: str(_fold(one)))
    value["left_out_folds"] = {
        name: _effects(_part(tried, lambda one, name=name: one.questions == name)) for name in names
    }
    return value


def logistic(rows: _Array, truth: _Array, weights: _Array | None = None) -> _Array:
    """Returns the weights of a ridge logistic regression, the constant term last, by Newton's method.

    Args:
        rows: float64 [cases, features], of about one size each.
        truth: float64 [cases], 0 or 1.
        weights: float64 [cases]: how often each counts; None: once.
    """
    x = np.c_[rows, np.ones(len(rows))]
    counts = np.ones(len(rows)) if weights is None else weights
    penalty = np.r_[np.full(x.shape[1] - 1, _PENALTY), 1e-6]
    found = np.zeros(x.shape[1])
    for _ in range(60):
        chance = 1 / (1 + np.exp(-np.clip(x @ found, -30, 30)))
        slope = x.T @ (counts * (chance - truth)) + penalty * found
        curve = (x * (counts * chance * (1 - chance))[:, None]).T @ x + np.diag(penalty)
        step = np.linalg.solve(curve, slope)
        found -= step
        if np.abs(step).max() < _CLOSE:
            break
    return found


class _Asked(Protocol):
    """A question of a set, of one kind."""

    @property
    def questions(self) -> str: ...
    @property
    def kind(self) -> str: ...


def weights_of(cases: Sequence[_Asked]) -> _Array:
    """Returns how much each question counts: those in free words together as much as all others of their kind."""
    free = np.array([one.questions == "paraphrased" for one in cases])
    found = np.ones(len(cases))
    for kind in {one.kind for one in cases}:
        own = np.array([one.kind == kind for one in cases])
        few, many = int((own & free).sum()), int((own & ~free).sum())
        if few and many:
            found[own & free] = many / few
    return found / found.mean()


def _calibrated(cases: Sequence[QuotingCase], used: _Array) -> tuple[QuotingFit, float]:
    """Returns weights, and the least log-odds, which folds of these same questions choose."""
    return _fitted(cases, used), _least(_tried(cases, used, _fold))


def _left_out(cases: Sequence[QuotingCase], used: _Array, group: Callable[[QuotingCase], str]) -> _Tried:
    """Returns every question as it is judged, above the least score, by what the other groups gave."""
    scores, right = np.zeros(len(cases)), np.zeros(len(cases), bool)
    groups = np.array([group(one) for one in cases])
    for name in sorted(set(groups.tolist())):
        fit, least = _calibrated([one for one, own in zip(cases, groups, strict=True) if own != name], used)
        for index in np.flatnonzero(groups == name).tolist():
            score, at = fit.judged(cases[index])
            scores[index], right[index] = score - least, cases[index].gold[at]
    return _Tried(cases, scores, right)


def _tried(cases: Sequence[QuotingCase], used: _Array, fold: Callable[[QuotingCase], int]) -> _Tried:
    scores, right = np.zeros(len(cases)), np.zeros(len(cases), bool)
    folds = np.array([fold(one) for one in cases])
    for number in range(_FOLDS):
        fit = _fitted([one for one, own in zip(cases, folds, strict=True) if own != number], used)
        for index in np.flatnonzero(folds == number).tolist():
            scores[index], at = fit.judged(cases[index])
            right[index] = cases[index].gold[at]
    return _Tried(cases, scores, right)


def _least(tried: _Tried) -> float:
    """Returns the least score at which answers are precise and the others declined; the sets weigh as in the fit."""
    covered, weights = tried.of("covered"), weights_of(tried.cases)
    order = np.argsort(-tried.scores[covered], kind="stable")
    right = np.cumsum((tried.right[covered] * weights[covered])[order])
    precise = np.flatnonzero(right >= _PRECISE * np.cumsum(weights[covered][order]))
    least = [float(tried.scores[covered][order][int(precise[-1]) if len(precise) else 0])]
    for kind, share in _DECLINED.items():
        if (own := tried.of(kind)).any():
            least.append(float(np.quantile(tried.scores[own], share)))
    return max(least)


def _fitted(cases: Sequence[QuotingCase], used: _Array) -> QuotingFit:
    weights = weights_of(cases)
    order = _conditional(cases, weights, _SCALES[:_LEAD] * used[:_LEAD])
    chosen = [_chosen(one, order) for one in cases]
    truth = np.array([one.gold[at] for one, (_, at) in zip(cases, chosen, strict=True)], float)
    sure = logistic(np.array([row for row, _ in chosen]) * _SCALES * used, truth, weights)
    return QuotingFit(
        order.round(3).tolist(), [*(sure[:-1] * _SCALES * used).round(3).tolist(), round(float(sure[-1]), 3)]
    )


def _conditional(cases: Sequence[QuotingCase], weights: _Array, scales: _Array) -> _Array:
    """Returns the weights that most likely put a gold candidate first, with a ridge penalty, by Newton's method."""
    known = [
        (one.rows * scales, one.gold, weight)
        for one, weight in zip(cases, weights.tolist(), strict=True)
        if one.gold.any()
    ]
    found = np.zeros(len(scales))
    for _ in range(100):
        slope, curve = _PENALTY * found, _PENALTY * np.eye(len(scales))
        for rows, gold, weight in known:
            scores = rows @ found
            chance = np.exp(scores - scores.max())
            chance /= chance.sum()
            given = chance * gold / (chance * gold).sum()
            slope += weight * ((chance - given) @ rows)
            middle = chance @ rows
            curve += weight * ((rows * chance[:, None]).T @ rows - np.outer(middle, middle))
        step = np.linalg.solve(curve, slope)
        found -= 0.7 * step
        if np.abs(step).max() < _CLOSE:
            break
    return found * scales


def _chosen(one: QuotingCase, order: _Array) -> tuple[_Array, int]:
    """Returns the numbers of the first candidate, its gain and lead among them, and its index."""
    rows = one.rows
    scores = (rows @ order).tolist()
    at = int(np.argmax(scores))
    return np.array([*rows[at], lead_of(one.passages, scores, at)]), at


def _fold(one: QuotingCase) -> int:
    return int(sha256(one.question.question.encode()).hexdigest(), 16) % _FOLDS


def _part(tried: _Tried, wanted: Callable[[QuotingCase], bool]) -> _Tried:
    kept = np.array([wanted(one) for one in tried.cases])
    cases = [one for one, own in zip(tried.cases, kept.tolist(), strict=True) if own]
    return _Tried(cases, tried.scores[kept], tried.right[kept])


def _effects(tried: _Tried) -> dict[str, Any]:
    """Returns shares at the fitted least score; and `curve`: per cent answered, precise, near declined and far declined."""
    covered = tried.of("covered")
    answered = covered & (tried.scores >= 0)
    value: dict[str, Any] = {
        f"{kind}_declined": round(float((tried.scores[tried.of(kind)] < 0).mean()), 3)
        for kind in ("covered", "near", "far")
        if tried.of(kind).any()
    }
    value["precise"] = f"{int(tried.right[answered].sum())}/{int(answered.sum())}"
    value["chosen"] = f"{int(tried.right[covered].sum())}/{int(covered.sum())}"
    value["curve"] = []
    for share in _ANSWERED:
        least = np.percentile(tried.scores[covered], 100 - share)
        taken = covered & (tried.scores >= least)
        shares = [tried.right[taken].mean()]
        shares += [
            (tried.scores[tried.of(kind)] < least).mean() for kind in ("near", "far") if tried.of(kind).any()
        ]
        value["curve"].append([share, *(round(100 * float(one)) for one in shares)])
    return value
