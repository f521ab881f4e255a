"""The review of loan contracts: what is generated is true, what is stated is read, and every finding has a reason."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from examples.finance import generate, numerals, reading
from examples.finance.review import Proposals, review
from hypothesis import given
from hypothesis import strategies as st

from deepwell.agents.rules import RuleSet

TEMPLATES = Path(generate.__file__).parent / "templates"


@pytest.fixture(scope="module")
def rules():
    with RuleSet.load(reading.RULES) as found:
        yield found


def wordings(half: str) -> set[str]:
    families = tomllib.loads((TEMPLATES / f"{half}.toml").read_text(encoding="utf-8"))["family"]
    texts = [one for family in families for key, value in family.items() if key not in ("order", "numbering", "name")
             for one in (value if isinstance(value, list) else [value])]  # fmt: skip
    return {one for one in texts if len(one) > 12}


def test_held_out_contracts_are_those_that_were_frozen() -> None:
    assert generate.digest(generate.contracts("held_out")) == generate.HELD_OUT_SHA256


def test_halves_share_no_wording() -> None:
    assert not wordings("development") & wordings("held_out")


def test_findings_have_articles_and_contracts_have_only_known_findings() -> None:
    drawn = {one for contract in generate.contracts("development") for one in contract.findings}
    assert drawn == generate.FINDINGS.keys()


@given(st.integers(1, 99_999_999))
def test_numerals_are_read_as_they_are_written(number: int) -> None:
    assert reading.number(numerals.plain(number)) == number
    assert reading.amount(f"借款{numerals.large(number)}。") == number
    assert reading.amount(reading.tidy(f"借款人民币{numerals.fullwidth(f'{number:,}')}元")) == number


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("年利率12%", 12.0),
        ("月利率1.5%", 18.0),
        ("日利率0.05%", 18.25),
        ("月息一分二厘", 14.4),
        ("每月千分之八", 9.6),
        ("日息万分之三", 10.95),
        ("年息百分之八点五", 8.5),
        ("按约定计算", None),
    ],
)
def test_rates_become_rates_of_a_year(text: str, rate: float | None) -> None:
    found = reading.per_cent_a_year(text)
    assert found == (None if rate is None else pytest.approx(rate))


def test_rules_alone_find_what_development_templates_hide(rules: RuleSet) -> None:
    for contract in generate.contracts("development")[::32]:
        found = review(rules, contract.text)
        assert found.findings == contract.findings
        assert dict(found.fields) == pytest.approx(dict(contract.fields))


def test_a_model_finds_a_clause_in_other_words_and_rules_deny_what_states_no_rate(rules: RuleSet) -> None:
    text = "借款合同\n每用一个月付本金的百分之三\n每月另付一些辛苦费"
    assert "usurious-rate" not in review(rules, text).findings
    model = Proposals({("rate", 1): 0.9, ("fee", 2): 0.8}, {})
    found = review(rules, text, model)
    assert "usurious-rate" in found.findings
    assert found.fields["rate"] == pytest.approx(36.0)
    (denied,) = [one for one in found.decision.denied if one.fact.arguments.get("kind") == "fee"]
    assert denied.step.rule == "fee_needed"
    assert denied.step.said("zh") != denied.step.said("en")


def test_the_ceiling_is_a_parameter(rules: RuleSet) -> None:
    text = "借款合同\n本合同项下借款利率为年利率15%，按实际天数计息。"
    assert "usurious-rate" in review(rules, text, ceiling=12.0).findings
    assert "usurious-rate" not in review(rules, text, ceiling=15.4).findings


def test_a_name_that_is_not_in_the_text_is_no_party(rules: RuleSet) -> None:
    found = review(rules, "借款合同\n贷款人：甲公司，住上海市", Proposals({}, {("borrower", "乙公司"): 0.98}))
    assert found.fields == {"lender": "甲公司"}
    assert [one.step.rule for one in found.decision.denied] == ["not_written"]


@pytest.mark.parametrize(
    "text",
    ["", "。。。", "\x00\x01", "%" * 2000, "一" * 5000, "第 1 页 共 1 页", "2024年99月99日至2025年13月1日"],
)
def test_any_text_gets_a_review(rules: RuleSet, text: str) -> None:
    assert "missing-rate" in review(rules, text).findings
