"""The survival suite: a fact counts where its whole statement is left, and no method sees another's outcome."""

from __future__ import annotations

import pytest
from tests.knowledge.context.counting import WordTokens
from tests.knowledge.hashing import HashEmbedder

from deepwell.cli.bench.report import Report
from deepwell_bench.suites.context import survival
from deepwell_bench.suites.context.survival import SurvivalOptions, survived
from deepwell_bench.workloads.context.facts import Fact, Question


def test_a_fact_survives_word_for_word_or_not_at_all() -> None:
    facts = tuple(
        Fact("code", f"the {n} depot", str(n), f"The code of the {n} depot is {n}.") for n in (11, 22)
    )
    question = Question("What are the codes of the 11 depot and the 22 depot?", facts)
    assert survived("… The code of the 11 depot is 11. … The code of the 22 depot is 22.", question) == 2
    assert survived("The code of the 11 depot is … 11.", question) == 0
    assert question.answers == ("11", "22")


async def test_every_method_is_asked_the_same_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survival, "HAYSTACKS", {"abstracts": "en"})
    options = SurvivalOptions("development", (6000,), (500, 9000), every=5)
    report = Report(as_json=True)
    found, added = await survival._measured(report, options, WordTokens(), HashEmbedder(), None)
    methods = {one.method for one in found}
    assert methods == {"truncation", "words", "compress", "retrieve"}
    assert len(found) == 4 * 7  # a budget above the length measures nothing
    share = {name: survival._share([one for one in found if one.method == name]) for name in methods}
    assert share["truncation"] < 0.5 < min(share["words"], share["retrieve"])
    assert added.keys() == {6000}
    figures = survival._figures(options, found, added)
    assert figures["words_one_500"] >= figures["truncation_one_500"]
