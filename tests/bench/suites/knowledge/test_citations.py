"""Citations: what stands in for a removed passage, and what the fit makes of candidates that can be told apart."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from tests.knowledge.answer.fakes import WordEmbedder, passage

from deepwell.knowledge.answer.decline import calibration_of
from deepwell.knowledge.answer.features import Features
from deepwell.knowledge.answer.quoting import LEXICAL, QUOTING
from deepwell.knowledge.documents import Passage
from deepwell_bench.suites.knowledge.citations import HelpStore
from deepwell_bench.suites.knowledge.citations_fit import FitCase, fitted_case, quoting_cases
from deepwell_bench.suites.knowledge.quoting_fit import fitted_quoting, weights_of
from deepwell_bench.workloads.knowledge.answers import AnswerQuestion
from deepwell_bench.workloads.knowledge.libreoffice_help import HelpPassage


def help_passage(number: int, text: str) -> HelpPassage:
    return HelpPassage(f"page#{number}", "page", "Title", "标题", "", "", text, "中文")


async def test_a_removed_passage_gives_its_place_to_the_next() -> None:
    passages = [help_passage(number, f"The key number {number} opens the door.") for number in range(5)]
    embedder = WordEmbedder()
    vectors = await embedder.embed([f"Title\n{one.english}" for one in passages], "passage")
    store = HelpStore(passages, "en", vectors)
    whole = [one.file_id for one in await store.search("Which key opens the door?", 5, embedder)]
    without = await store.search("Which key opens the door?", 5, embedder, set(whole[:2]))
    assert [one.file_id for one in without] == whole[2:]


def questions(margin: float) -> Iterator[FitCase]:
    """Yields 40 questions with two candidates, the right one nearer by `margin`, and as many far ones."""
    for number in range(40):
        question = AnswerQuestion("en", (f"file-{number}",), f"Question {number}?", "x")
        near = 0.9 + 0.001 * (number % 7)
        wrong = candidate(f"Passage {number} wrong", 1000 + number, near - margin)
        right = candidate(f"Passage {number} right", number, near)
        name = "paraphrased" if number % 4 else "other"
        yield fit_case(name, question, "covered", right, wrong)
        yield fit_case(name, question, "near", wrong)
        far = AnswerQuestion("en", (), f"Far question {number}?", "")
        other = candidate("Other", 2000 + number, 0.75)
        yield fit_case(name, far, "far", other)


def fit_case(name: str, question: AnswerQuestion, kind: str, *shown: tuple[Passage, Features]) -> FitCase:
    return FitCase(name, question, kind, tuple(one for one, _ in shown), tuple(one for _, one in shown))


def candidate(text: str, key: int, cosine: float) -> tuple[Passage, Features]:
    return passage(text, key), Features(cosine, 0.5, 0, 0, 0, 1, "en")


def test_the_fit_tells_right_from_wrong() -> None:
    fitted = fitted_case("en", list(questions(0.08)))["en_cosine"]
    assert len(fitted["weights"]) == 7
    assert fitted["covered_declined"] < 0.1 < 0.5 < fitted["near_declined"]
    assert fitted["far_declined"] == 1


def test_quoting_is_tried_on_sets_that_were_left_out() -> None:
    fitted = fitted_quoting("en", quoting_cases("en", list(questions(0.08))))
    assert (len(fitted["order"]), len(fitted["sure"])) == (7, 9)
    assert fitted["order"][6] == fitted["sure"][6] == 0  # nobody read the passages
    for tried in (fitted["left_out_sets"], fitted["left_out_folds"]):
        assert tried.keys() == {"paraphrased", "other"}
        for own in tried.values():
            right, answered = map(int, own["precise"].split("/"))
            assert right == answered > 0
            assert own["far_declined"] == 1
            assert [share for share, *_ in own["curve"]] == [30, 40, 50, 60, 70, 80, 90]


def test_likelihoods_tell_what_words_do_not() -> None:
    cases = list(questions(0.0))
    gains = {
        (one.question.question, each.file_id): float(each.file_id in one.question.golds)
        for one in cases
        for each in one.passages
    }
    blind = fitted_quoting("en", quoting_cases("en", cases))
    told = fitted_quoting("en", quoting_cases("en", cases, gains), gain=True)
    assert blind["left_out_folds"]["other"]["chosen"] == told["left_out_folds"]["other"]["chosen"] == "10/10"
    assert told["order"][6] > 0
    assert told["left_out_folds"]["paraphrased"]["near_declined"] > 0.6


def test_a_candidate_that_was_not_read_is_no_candidate() -> None:
    first = next(questions(0.08))
    kept = quoting_cases("en", [first], {(first.question.question, "file-0"): 1.0})
    assert [one.file_id for one in kept[0].passages] == ["file-0"]
    assert quoting_cases("zh", [first]) == []


def test_questions_in_free_words_weigh_as_much_as_the_others() -> None:
    cases = list(questions(0.08))
    weights = weights_of(cases)
    free = np.array([one.questions == "paraphrased" for one in cases])
    assert weights[free].sum() == pytest.approx(weights[~free].sum())
    assert weights_of([one for one in cases if one.questions == "other"]).tolist() == [1.0] * 30


@pytest.mark.parametrize("name", ["e5-small-q4", "unknown"])
def test_every_calibration_has_a_weight_for_each_feature(name: str) -> None:
    embedder = WordEmbedder()
    embedder.name = name
    calibration = calibration_of(embedder)
    row = Features(0.9, 0.5, 0, 0, 0, 1, "en").row
    assert {len(weights) for weights in calibration.weights.values()} == {len(row)}
    assert np.isfinite(calibration.score(Features(*row, "cross")))
    quoting = QUOTING.get(name, LEXICAL)
    assert {len(weights) for weights in quoting.order.values()} == {len(row) + 1}
    assert {len(weights) for weights in quoting.sure.values()} == {len(row) + 3}
