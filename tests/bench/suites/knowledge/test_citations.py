"""Citations: what stands in for a removed passage, and what the fit makes of candidates that can be told apart."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from tests.knowledge.answer.fakes import WordEmbedder, passage

from deepwell.bench.suites.knowledge.citations import HelpStore
from deepwell.bench.suites.knowledge.citations_fit import FitCase, fitted_case
from deepwell.bench.workloads.knowledge.answers import AnswerQuestion
from deepwell.bench.workloads.knowledge.libreoffice_help import HelpPassage
from deepwell.knowledge.answer.decline import calibration_of
from deepwell.knowledge.answer.features import Features


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


def candidates(margin: float) -> Iterator[FitCase]:
    """Yields two candidates of each of 40 questions, the right one nearer by `margin`, and one of each far question."""
    for number in range(40):
        question = AnswerQuestion("en", (f"file-{number}",), f"Question {number}?", "x")
        near = 0.9 + 0.001 * (number % 7)
        for kind in ("covered", "near"):
            shown = [(True, near), (False, near - margin)] if kind == "covered" else [(False, near - margin)]
            for gold, cosine in shown:
                one = passage(f"Passage {number} {'right' if gold else 'wrong'}", number)
                yield FitCase(question, kind, one, Features(cosine, 0.5, 0, 0, 0, "en"), gold)
        far = AnswerQuestion("en", (), f"Far question {number}?", "")
        yield FitCase(far, "far", passage("Other", number), Features(0.75, 0, 0, 0, 0, "en"), False)


def test_the_fit_tells_right_from_wrong_and_ties_from_both() -> None:
    fitted = fitted_case("en", list(candidates(0.08)))
    sure = fitted["en_cosine_crossed"]["0.0"]
    assert sure["precise"] in {f"{count}/{count}" for count in range(34, 41)}
    assert sure["far_declined"] == 1
    assert sure["near_declined"] > 0.6
    close = fitted_case("en", list(candidates(1e-4)))["en_cosine_own"]
    assert close["0.4"]["covered_declined"] == 1
    assert close["0.0"]["covered_declined"] < 0.2


@pytest.mark.parametrize("name", ["e5-small-q4", "unknown"])
def test_every_calibration_has_a_weight_for_each_feature(name: str) -> None:
    embedder = WordEmbedder()
    embedder.name = name
    calibration = calibration_of(embedder)
    row = Features(0.9, 0.5, 0, 0, 0, "en").row
    assert {len(weights) for weights in calibration.weights.values()} == {len(row)}
    assert calibration.tie.keys() == calibration.weights.keys()
    assert np.isfinite(calibration.score(Features(*row, "cross")))
