"""The schema of facts: what fits it fits the rules, and a model that is bound by it writes nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from tests.agents.rules.sets import rule, written

from deepwell.agents.rules import Fact, RuleSet, facts_from_json
from deepwell.agents.tools.rules import rules_tool
from deepwell.agents.tools.tool import ToolCallContext
from deepwell.engine.grammar.json_schema import schema_source
from deepwell.errors import InvalidRequest
from deepwell.llm import LLM
from deepwell_bench.harness.assets import repository

LOAN = repository() / "examples" / "rules" / "loan"


@pytest.mark.parametrize(
    ("facts", "fits"),
    [
        ([], True),
        ([{"name": "rate", "arguments": {"percent": 7.25}}], True),
        ([{"name": "employment", "arguments": {"kind": "student"}}], True),
        ([{"name": "rate", "arguments": {"percent": 7.253}}], False),
        ([{"name": "rate", "arguments": {"percent": 101}}], False),
        ([{"name": "rate", "arguments": {}}], False),
        ([{"name": "rate", "arguments": {"percent": 7, "more": 1}}], False),
        ([{"name": "employment", "arguments": {"kind": "retired"}}], False),
        ([{"name": "colour", "arguments": {}}], False),
        ([{"name": "rate", "arguments": {"percent": 7}, "score": 1}], False),
    ],
)
def test_the_schema_and_the_rules_know_the_same_facts(facts: list[Any], fits: bool) -> None:
    with RuleSet.load(LOAN) as rules:
        errors = [*jsonschema.Draft202012Validator(rules.facts_schema()).iter_errors({"facts": facts})]
        assert (errors == []) == fits
        if all("score" not in fact for fact in facts):
            decision = rules.decide(facts_from_json(facts, score=0.9))
            assert ("unfit" not in [one.step.kind for one in decision.denied]) == fits


def test_the_engine_enforces_all_of_the_schema() -> None:
    with RuleSet.load(LOAN) as rules:
        schema_source(
            json.dumps(rules.facts_schema(extra=("score", "source")))
        )  # refuses what it would not enforce
        only = rules.facts_schema(["rate"], most=1)
        assert [one["properties"]["name"] for one in only["properties"]["facts"]["items"]["anyOf"]] == [
            {"const": "rate"}
        ]
        assert rules.response_format()["json_schema"]["strict"] is True


@pytest.mark.parametrize("seed", range(2))
def test_a_model_can_propose_only_facts_that_the_rules_know(smollm2_path: Path, seed: int) -> None:
    text = "Ann earns 9,000 yuan a month, is unemployed and asks for 90,000 yuan at 24.5 % for 24 months."
    with LLM(smollm2_path, context=1024) as llm, RuleSet.load(LOAN) as rules:
        asked = f"List the facts as JSON.\n\n{text}"
        answer = llm.chat(
            [{"role": "user", "content": asked}],
            schema=rules.facts_schema(most=4),
            max_tokens=400,
            temperature=1.0,
            seed=seed,
        )
        assert answer.finish_reason == "stop"
        facts = facts_from_json(json.loads(answer.text), score=0.9)
        decision = rules.decide(facts)
        assert "unfit" not in [one.step.kind for one in decision.denied]
        assert len(decision.accepted) + len(decision.denied) == len(facts) <= 4


@pytest.mark.parametrize(
    "data",
    [
        1,
        {"facts": {}},
        [1],
        [{"arguments": {}}],
        [{"name": "a", "arguments": [1]}],
        [{"name": "a", "arguments": {"x": None}}],
        [{"name": "a", "score": "high"}],
        [{"name": "a", "score": True}],
        [{"name": "a", "weight": 1}],
        [{"name": "a", "source": 1}],
    ],
)
def test_facts_of_another_shape_are_refused(data: Any) -> None:
    with pytest.raises(InvalidRequest, match="has another form"):
        facts_from_json(data)


def test_facts_have_the_score_and_source_of_their_caller_unless_they_say_others() -> None:
    given = [{"name": "a"}, {"name": "b", "arguments": {"x": 1}, "score": 0.5, "source": "p. 2"}]
    assert facts_from_json({"facts": given}, score=0.9, source="model") == [
        Fact("a", {}, 0.9, "model"),
        Fact("b", {"x": 1}, 0.5, "p. 2"),
    ]


async def test_a_rule_set_is_a_tool_whose_caller_is_never_certain(tmp_path: Path) -> None:
    context = ToolCallContext("tenant", "run", "call-1", 10)
    program = rule("one", ":- label(mit), label(gpl).") + rule("yes", "outcome(grant) :- label(mit).")
    with RuleSet.load(written(tmp_path, program)) as rules:
        tool = rules_tool(rules, language="zh")
        assert tool.name == "decide_test" and tool.effects == "reads"
        labels = [{"name": "label", "arguments": {"name": name}} for name in ("mit", "gpl")]
        output = await tool.run({"facts": labels[:1]}, context)
        assert not output.failed and output.text.startswith("同意。") and "call-1" in output.text
        both = await tool.run({"facts": labels}, context)
        assert both.data["outcome"] != "conflict" and len(both.data["denied"]) == 1
        assert (await tool.run({"facts": 1}, context)).failed
        with pytest.raises(ValueError, match="between 0 and 1"):
            rules_tool(rules, score=1.0)
