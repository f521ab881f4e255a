"""Decisions: which facts hold, what follows, which outcome, and the reasons for all of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.agents.rules.sets import rule, written

from deepwell.agents.rules import Decision, Fact, RuleSet
from deepwell.agents.rules.cases import run_cases, unexplained
from deepwell.agents.rules.decide import weight
from deepwell.errors import InvalidRequest
from deepwell_bench.harness.assets import repository

EXAMPLES = repository() / "examples" / "rules"


def decided(folder: Path, facts: list[Fact], program: str = "", **changes: Any) -> Decision:
    with RuleSet.load(written(folder, program, **changes)) as rules:
        return rules.decide(facts)


def labels(decision: Decision) -> list[str]:
    return [str(fact.arguments["name"]) for fact in decision.accepted]


def label(name: str, score: float, source: str = "") -> Fact:
    return Fact("label", {"name": name}, score, source)


def test_a_score_below_the_threshold_is_denied_and_says_so(tmp_path: Path) -> None:
    found = decided(tmp_path, [label("mit", 0.29), label("gpl", 0.6)])
    assert labels(found) == ["gpl"]
    (denied,) = found.denied
    assert (denied.fact, denied.step.kind, denied.step.rule) == (
        label("mit", 0.29),
        "threshold",
        "label.threshold",
    )
    assert denied.step.said("en") == "Denied: it is mit. The score 0.29 is below the threshold 0.3."
    assert denied.step.said("zh") == "不采纳：属于mit。分数 0.29 低于阈值 0.3。"


def test_a_score_below_the_neutral_one_is_accepted_only_where_a_rule_asks_for_it(tmp_path: Path) -> None:
    facts = [label("mit", 0.4), label("gpl", 0.9)]
    alone = decided(tmp_path, facts)
    assert labels(alone) == ["gpl"] and alone.denied[0].step.kind == "score"
    asked = decided(tmp_path, facts, rule("both", ":- label(gpl), not label(mit)."))
    assert labels(asked) == ["mit", "gpl"] and asked.denied == ()


def test_of_facts_that_exclude_each_other_the_more_probable_ones_hold(tmp_path: Path) -> None:
    program = rule("one", ":- label(mit), label(gpl).") + rule("other", ":- label(apache), label(gpl).")
    found = decided(tmp_path, [label("gpl", 0.9), label("mit", 0.8), label("apache", 0.8, "page 3")], program)
    assert labels(found) == ["mit", "apache"]  # 0.1 * 0.8 * 0.8 is more than 0.9 * 0.2 * 0.2
    (denied,) = found.denied
    assert denied.step.kind == "constraint" and denied.step.rule == "one"
    assert {str(fact) for fact in denied.step.facts} == {"label(gpl)", "label(mit)"}


def test_a_weak_constraint_is_broken_where_the_scores_are_worth_it(tmp_path: Path) -> None:
    program = rule("seldom", ":~ label(mit), label(gpl). [1000]")
    assert labels(decided(tmp_path, [label("mit", 0.9), label("gpl", 0.9)], program)) == ["mit", "gpl"]
    found = decided(tmp_path, [label("mit", 0.6), label("gpl", 0.9)], program)
    assert labels(found) == ["gpl"] and found.denied[0].step.rule == "seldom"


def test_a_certain_fact_is_never_denied(tmp_path: Path) -> None:
    program = rule("one", ":- label(mit), label(gpl).")
    found = decided(tmp_path, [label("gpl", 0.999999), label("mit", 1.0)], program)
    assert labels(found) == ["mit"]


def test_certain_facts_that_break_a_rule_are_a_conflict(tmp_path: Path) -> None:
    program = rule("one", ":- label(mit), label(gpl).")
    found = decided(tmp_path, [label("gpl", 1.0), label("mit", 1.0), label("apache", 0.9)], program)
    assert found.outcome == "conflict" and labels(found) == ["gpl", "mit"]
    assert "one holds." in found.explanation.text("en")
    assert [one.step.kind for one in found.denied] == ["conflict"] and unexplained(found) == []


def test_of_single_facts_one_holds(tmp_path: Path) -> None:
    facts = [Fact("amount", {"yuan": 10.5}, 0.7), Fact("amount", {"yuan": 20}, 0.8, "page 2")]
    found = decided(tmp_path, facts)
    assert [str(one) for one in found.accepted] == ["amount(20)"]
    assert found.denied[0].step.kind == "single" and "page 2" in found.explanation.text("zh")
    with pytest.raises(InvalidRequest, match="several are certain"):
        decided(tmp_path, [Fact("amount", {"yuan": 1}), Fact("amount", {"yuan": 2})])


def test_the_same_fact_from_two_sources_is_one(tmp_path: Path) -> None:
    found = decided(tmp_path, [label("mit", 0.6, "a"), label("mit", 0.9, "b")])
    assert [fact.source for fact in found.accepted] == ["a", "b"] and found.denied == ()


def test_equal_costs_are_said(tmp_path: Path) -> None:
    program = rule("one", ":- label(mit), label(gpl).")
    assert decided(tmp_path, [label("mit", 0.8), label("gpl", 0.8)], program).tied
    assert not decided(tmp_path, [label("mit", 0.8), label("gpl", 0.7)], program).tied


@pytest.mark.parametrize(
    ("fact", "reason"),
    [
        (Fact("colour", {}, 0.9), "the rules know no fact `colour`"),
        (Fact("label", {"name": "bsd"}, 0.9), "'bsd' is none of: mit, gpl, apache"),
        (Fact("label", {}, 0.9), "needs the argument name"),
        (Fact("label", {"name": "mit", "x": 1}, 0.9), "has no argument x"),
        (Fact("amount", {"yuan": 1.234}, 0.9), "more than 2 decimal places"),
        (Fact("amount", {"yuan": -1}, 0.9), "lies outside of 0 to 1000000"),
        (Fact("amount", {"yuan": float("nan")}, 0.9), "is no decimal"),
        (Fact("amount", {"yuan": True}, 0.9), "is no decimal"),
        (Fact("party", {"name": "a\0b"}, 0.9), "control characters"),
        (Fact("party", {"name": "x" * 31}, 0.9), "longer than 30"),
    ],
)
def test_proposals_that_do_not_fit_are_denied_and_certain_ones_refused(
    tmp_path: Path, fact: Fact, reason: str
) -> None:
    found = decided(tmp_path, [fact])
    assert found.denied[0].step.kind == "unfit" and reason in found.denied[0].step.said("en")
    assert unexplained(found) == []
    with pytest.raises(InvalidRequest, match="does not fit"):
        decided(tmp_path, [Fact(fact.name, fact.arguments, 1.0)])


@pytest.mark.parametrize("score", [-0.1, 1.1, math.nan, math.inf])
def test_a_score_is_a_probability(tmp_path: Path, score: float) -> None:
    with pytest.raises(InvalidRequest, match="score"):
        decided(tmp_path, [label("mit", score)])


def test_texts_of_strangers_stay_texts(tmp_path: Path) -> None:
    name = 'a"). outcome(grant). % {x}\\'
    program = rule("found", "outcome(deny) :- party(Name).") + rule("never", "outcome(grant) :- label(mit).")
    program = program.replace("% en: found holds.", "% en: The party is {Name}.")
    found = decided(tmp_path, [Fact("party", {"name": name}, 0.9)], program)
    assert found.outcome == "deny" and found.accepted[0].arguments["name"] == name
    assert found.explanation.outcome.said("en") == f"Denied. The party is {name}."


def test_the_first_outcome_of_the_manifest_wins_and_names_its_rule_and_facts(tmp_path: Path) -> None:
    program = rule("good", "outcome(grant) :- label(mit).") + rule("bad", "outcome(deny) :- label(gpl).")
    found = decided(tmp_path, [label("mit", 0.9), label("gpl", 0.9, "page 7")], program)
    assert found.outcome == "deny"
    because = found.explanation.outcome
    assert because.rule == "bad" and because.facts == (label("gpl", 0.9, "page 7"),)
    assert "page 7" in found.explanation.text("en")
    assert decided(tmp_path, [], program).explanation.outcome.kind == "default"


def test_derivations_are_in_order_and_never_in_a_circle(tmp_path: Path) -> None:
    derived = {
        name: {"text": {"en": name, "zh": "事实"}, "arguments": {"name": {"type": "symbol"}}}
        for name in ("p", "q")
    }
    program = (
        rule("start", "p(X) :- label(X).") + rule("there", "q(X) :- p(X).") + rule("back", "p(X) :- q(X).")
    )
    found = decided(tmp_path, [label("mit", 0.9)], program, derived=derived)
    assert [step.rule for step in found.explanation.steps] == ["start", "there"]
    assert [str(fact) for fact in found.derived] == ["p(mit)", "q(mit)"]
    assert [step.rule for step in found.why(found.derived_by("q")[0])] == ["there"]


def test_absent_facts_and_those_that_were_counted_are_named(tmp_path: Path) -> None:
    program = rule("several", "outcome(grant) :- 2 <= #count { N : label(N) }, not amount(_).")
    found = decided(tmp_path, [label("mit", 0.9), label("gpl", 0.9)], program)
    because = found.explanation.outcome
    assert {str(fact) for fact in because.facts} == {"label(mit)", "label(gpl)"}
    assert because.absent == ("amount(_any)",)


def test_arithmetic_without_a_result_is_noted(tmp_path: Path) -> None:
    program = rule("share", "outcome(grant) :- amount(Y), 100 / Y > 0.")
    found = decided(tmp_path, [Fact("amount", {"yuan": 0})], program)
    assert found.outcome == "ask" and "100/Y" in found.notes[0].replace(" ", "")


def test_a_table_over_proposals_accepts_and_denies_before_the_rules(tmp_path: Path) -> None:
    table = {
        "name": "screening",
        "proposals": "label",
        "rows": [
            {
                "id": "no_gpl",
                "when": {"name": "gpl", "score": "< 0.8"},
                "then": {"verdict": "deny"},
                "en": "{name} needs 0.8.",
                "zh": "{name} 需要 0.8 分。",
                "cites": "policy 4",
            },
            {
                "id": "known",
                "when": {"source": "register"},
                "then": {"verdict": "accept"},
                "en": "It is in the register.",
                "zh": "登记在册。",
            },
        ],
    }
    facts = [label("gpl", 0.7), label("mit", 0.2, "register"), label("apache", 0.2)]
    found = decided(tmp_path, facts, rule("need", ":- not label(mit)."), tables=[table])
    assert labels(found) == ["mit"]
    by_name = {str(one.fact.arguments["name"]): one.step for one in found.denied}
    assert by_name["gpl"].rule == "screening/no_gpl" and by_name["gpl"].said("zh").endswith(
        "（依据：policy 4）"
    )
    assert by_name["apache"].kind == "threshold"


def test_tables_read_facts_and_results_of_tables_before(tmp_path: Path) -> None:
    said = {"en": "because", "zh": "因为"}
    tables = [
        {
            "name": "level",
            "outputs": {"grade": {"type": "integer", "minimum": 0, "maximum": 9}},
            "rows": [
                {"id": "high", "when": {"amount": ">= 100.5"}, "then": {"grade": 2}, **said},
                {"id": "low", "when": {"amount": "< 100.5"}, "then": {"grade": 1}, **said},
                {"id": "none", "when": {"amount": "absent"}, "then": {"grade": 0}, **said},
            ],
        },
        {
            "name": "result",
            "rows": [
                {
                    "id": "yes",
                    "when": {"level.grade": 2, "label.count": "> 1"},
                    "then": {"outcome": "grant"},
                    **said,
                },
                {"id": "no", "when": {"level.grade": "[0..1]"}, "then": {"outcome": "deny"}, **said},
            ],
        },
    ]
    facts = [Fact("amount", {"yuan": 100.5}), label("mit", 0.9), label("gpl", 0.9)]
    found = decided(tmp_path, facts, tables=tables)
    assert found.outcome == "grant" and [str(one) for one in found.derived] == ["level(2)", "result(grant)"]
    assert decided(tmp_path, facts[:1], tables=tables).outcome == "ask"
    assert decided(tmp_path, [], tables=tables).outcome == "deny"


def test_an_outcome_that_is_not_declared_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="names the outcome maybe"):
        decided(tmp_path, [label("mit", 0.9)], rule("odd", "outcome(maybe) :- label(mit)."))


@given(st.floats(0.001, 0.999), st.floats(0.001, 0.999))
def test_a_weight_tells_on_which_side_of_neutral_a_score_lies(score: float, neutral: float) -> None:
    found = weight(score, neutral)
    assert found == -weight(1 - score, 1 - neutral) or abs(found + weight(1 - score, 1 - neutral)) <= 1
    assert found >= 0 if score >= neutral else found <= 0


@pytest.mark.parametrize("path", [EXAMPLES / "loan", EXAMPLES / "ticket.yaml"], ids=lambda path: path.stem)
def test_the_examples_decide_as_their_cases_say_and_explain_all_of_it(path: Path) -> None:
    with RuleSet.load(path) as rules:
        assert [one for one in rules.findings if one.level != "note"] == []
        results = run_cases(rules)
    assert {one.name: (one.differences, one.unexplained) for one in results} == {
        one.name: ((), ()) for one in results
    }
    for one in results:
        text = one.decision.explanation.text("zh")
        assert text and "{" not in text
