"""Tables: the notation of cells, agreement with zen-engine, and gaps, contradictions and rows that nothing reaches."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.agents.rules.sets import written

from deepwell.agents.rules import RuleSet
from deepwell.agents.rules.facts import ArgumentType, DoesNotFit
from deepwell.agents.rules.logic.wire import ModelCheck, TableRun
from deepwell.agents.rules.tables.cells import ANYTHING, Cell, parse_cell
from deepwell.agents.rules.tables.checks import check_table, matching_rows, regions_of
from deepwell.agents.rules.tables.run import check_model, run_table
from deepwell.agents.rules.tables.table import Row, Table, rows_of_csv

NUMBER = ArgumentType("decimal", Decimal(-10), Decimal(20), places=1)
TEXT = ArgumentType("string")
KIND = ArgumentType("symbol", values=("mit", "gpl", "apache"))
DATE = ArgumentType("date")
FLAG = ArgumentType("boolean")


@pytest.mark.parametrize(
    ("text", "kind", "inside", "outside"),
    [
        ("", NUMBER, [Decimal(1), None], []),
        ("18", NUMBER, [Decimal(18)], [Decimal("18.1"), None]),
        ("= -2.5", NUMBER, [Decimal("-2.5")], [Decimal(2)]),
        ("< 5, >= 10", NUMBER, [Decimal("4.9"), Decimal(10)], [Decimal(5), Decimal("9.9")]),
        ("[5..20)", NUMBER, [Decimal(5), Decimal("19.9")], [Decimal(20), Decimal("4.9"), None]),
        ("(5..20]", NUMBER, [Decimal(20)], [Decimal(5)]),
        ("not (5..20]", NUMBER, [Decimal(5)], [Decimal(6), None]),
        ("mit, apache", KIND, ["mit", "apache"], ["gpl", None]),
        ("not mit", KIND, ["gpl"], ["mit", None]),
        ('"a, b", 甲', TEXT, ["a, b", "甲"], ["a", "b"]),
        ("present", TEXT, ["x"], [None]),
        ("absent", TEXT, [None], ["x"]),
        ("true", FLAG, ["true"], ["false", None]),
        (">= 2024-02-01", DATE, [Decimal(20240201)], [Decimal(20240131)]),
    ],
)
def test_a_cell_says_which_values_fit(
    text: str, kind: ArgumentType, inside: list[Any], outside: list[Any]
) -> None:
    cell = parse_cell(text, kind)
    assert [cell.holds(value) for value in inside] == [True] * len(inside)
    assert [cell.holds(value) for value in outside] == [False] * len(outside)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("bsd", KIND),
        ("mit apache", KIND),
        (",", KIND),
        ("not ", KIND),
        ('"open', TEXT),
        ("a'b\"c", TEXT),
        ("x\\", TEXT),
        ("5..20", NUMBER),
        ("[20..5]", NUMBER),
        ("(5..5]", NUMBER),
        ("> x", NUMBER),
        ("1e9", NUMBER),
        ("= 2024-13-01", DATE),
        ("maybe", FLAG),
        ("$ > 1 or true", NUMBER),
        ("1); fetch('http://x')", NUMBER),
    ],
)
def test_other_notations_are_refused(text: str, kind: ArgumentType) -> None:
    with pytest.raises(DoesNotFit):
        parse_cell(text, kind)


numbers = st.integers(-30, 60).map(lambda tenths: Decimal(tenths) / 2)


@st.composite
def cells(draw: st.DrawFn, kind: ArgumentType) -> Cell:
    form = draw(st.sampled_from(["any", "absent", "present", "some", "some", "some", "not"]))
    if form == "any":
        return ANYTHING
    if form in ("absent", "present"):
        return parse_cell(form, kind)
    if kind is NUMBER:
        low, high = sorted((draw(numbers), draw(numbers)))
        written = [f"{draw(st.sampled_from(['<', '<=', '>', '>=', '=']))} {draw(numbers):f}"]
        if low < high:
            written.append(f"{draw(st.sampled_from('[('))}{low:f}..{high:f}{draw(st.sampled_from('])'))}")
        parts = draw(st.lists(st.sampled_from(written), min_size=1, max_size=2))
    else:
        parts = draw(st.lists(st.sampled_from(["甲", '"a, b"', "it's", "x"]), min_size=1, max_size=2))
    return parse_cell(("not " if form == "not" else "") + ", ".join(parts), kind)


@st.composite
def tables(draw: st.DrawFn) -> Table:
    inputs = {"amount": NUMBER, "who": TEXT}
    rows = [
        Row(f"r{n}", {"amount": draw(cells(NUMBER)), "who": draw(cells(TEXT))}, {})
        for n in range(draw(st.integers(1, 5)))
    ]
    return Table("t", draw(st.sampled_from(["first", "collect"])), inputs, {}, tuple(rows))


@given(
    tables(),
    st.lists(
        st.tuples(st.none() | numbers, st.sampled_from([None, "甲", "a, b", "it's", "x", "y"])), min_size=1
    ),
)
def test_the_rows_that_fit_are_those_that_zen_engine_hits(table: Table, cases: list[tuple[Any, Any]]) -> None:
    contexts = [table.context({"amount": None if n is None else float(n), "who": who}) for n, who in cases]
    answer = run_table(TableRun(table.decision(), contexts))
    hits = [[index for _, index, _ in one] for one in answer.hits]
    assert hits == [matching_rows(table, {"amount": number, "who": who}) for number, who in cases]
    assert check_model(ModelCheck("t", table.decision())).findings == []


@given(tables(), numbers, st.sampled_from(["甲", "a, b", "it's", "x", "y"]))
def test_all_values_of_a_region_fit_the_same_rows(table: Table, number: Decimal, who: str) -> None:
    """So that checking one value of each region checks all of them."""
    fitting = matching_rows(table, {"amount": number, "who": who})
    points = [one.value for one in regions_of(table, "amount") if isinstance(one.value, Decimal)]
    texts = [one.value for one in regions_of(table, "who") if one.value is not None]
    if min(points) <= number <= max(points):
        found = [matching_rows(table, {"amount": point, "who": text}) for point in points for text in texts]
        assert fitting in found


def table_of(text: str, hit: Any = "first", **kinds: ArgumentType) -> Table:
    outputs = {"outcome": ArgumentType("symbol", values=("yes", "no"))}
    rows, used, findings = rows_of_csv(text, kinds, outputs, "t.csv")
    assert findings == []
    return Table("t", hit, {name: kinds[name] for name in used}, outputs, tuple(rows))


def keys(table: Table) -> list[tuple[str, str]]:
    return [(one.where, one.key) for one in check_table(table)]


def test_a_gap_is_named() -> None:
    table = table_of(
        "id,n,k,=> outcome\na,< 5,,yes\nb,(5..20],not gpl,no\nc,absent,,no\nd,,absent,no\n", n=NUMBER, k=KIND
    )
    gaps = [one.values["where"] for one in check_table(table) if one.key == "rules_gap"]
    assert gaps == ["n 5, k mit", "n 5, k gpl", "n 5, k apache", "n (5..20), k gpl", "n 20, k gpl"]


def test_rows_that_nothing_reaches_are_found() -> None:
    covered = table_of("id,n,=> outcome\na,<= 7,yes\nb,> 7,no\nc,[1..3],no\nd,absent,no\n", n=NUMBER)
    assert keys(covered) == [("t, row c", "rules_row_covered")]
    outside = table_of("id,n,=> outcome\na,,yes\nb,> 20,no\n", "collect", n=NUMBER)
    assert keys(outside) == [("t, row b", "rules_row_unreachable")]


def test_rows_that_exclude_each_other_may_not_overlap() -> None:
    table = table_of("id,n,=> outcome\na,<= 7,yes\nb,>= 7,yes\nc,absent,yes\n", "unique", n=NUMBER)
    (found,) = check_table(table)
    assert (found.level, found.key) == ("error", "rules_rows_overlap")
    assert found.values == {"one": "a", "other": "b", "where": "n 7"}


def test_rows_that_disagree_are_found_where_all_count() -> None:
    table = table_of("id,n,=> outcome\na,<= 7,yes\nb,>= 7,no\nc,> 7,no\nd,absent,no\n", "collect", n=NUMBER)
    assert [one.values for one in check_table(table)] == [{"one": "a", "other": "b", "where": "n 7"}]


def test_a_table_that_says_nothing_of_a_missing_fact_is_noted() -> None:
    assert keys(table_of("id,n,=> outcome\na,< 5,yes\nb,>= 5,no\n", n=NUMBER)) == [("t", "rules_absence")]


def test_a_table_with_too_many_combinations_says_that_it_was_not_checked() -> None:
    kinds = {f"c{n}": NUMBER for n in range(6)}
    row = ",".join(["a", *(f"{n}" for n in range(6)), "yes"])
    text = f"id,{','.join(kinds)},=> outcome\n{row}\n" + row.replace("a,", "b,").replace(",0,", ",9,") + "\n"
    assert keys(table_of(text, **kinds)) == [] or keys(table_of(text, **kinds))  # six columns are checked
    many = {f"c{n}": NUMBER for n in range(9)}
    text = f"id,{','.join(many)},=> outcome\n" + ",".join(["a", *(f"{n}" for n in range(9)), "yes"]) + "\n"
    assert keys(table_of(text, **many)) == [("t", "rules_table_wide")]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("id,n,=> outcome\na,1\n", "rules_row_length"),
        ("id,n,=> outcome\na,1,yes,2\n", "rules_row_length"),
        ('id,n,=> outcome\na,"1,yes\n', "rules_csv"),
        ("id,n,n,=> outcome\na,1,2,yes\n", "rules_column_twice"),
        ("id,x,=> outcome\na,1,yes\n", "rules_column_unknown"),
        ("id,n,=> x\na,1,yes\n", "rules_column_unknown"),
        ("id,n,=> outcome\na,1,maybe\n", "rules_value_unknown"),
        ("id,n,=> outcome\na,x,yes\n", "rules_cell"),
    ],
)
def test_faults_of_csv_are_found(text: str, key: str) -> None:
    outputs = {"outcome": ArgumentType("symbol", values=("yes", "no"))}
    assert key in [one.key for one in rows_of_csv(text, {"n": NUMBER}, outputs, "t.csv")[2]]


def model(*, node: str = "decisionTableNode", cell: str = "> 10", output: str = "'grant'") -> dict[str, Any]:
    table = {
        "hitPolicy": "first",
        "inputs": [{"id": "a", "name": "a", "field": "amount"}],
        "outputs": [{"id": "o", "name": "o", "field": "outcome"}],
        "rules": [{"_id": "r1", "a": cell, "o": output}, {"_id": "r2", "a": "", "o": "'deny'"}],
    }
    nodes = [
        {"id": "in", "type": "inputNode", "name": "in"},
        {"id": "t", "type": node, "name": "t", "content": table},
        {"id": "out", "type": "outputNode", "name": "out"},
    ]
    edges = [
        {"id": "1", "type": "edge", "sourceId": "in", "targetId": "t"},
        {"id": "2", "type": "edge", "sourceId": "t", "targetId": "out"},
    ]
    return {"nodes": [{**one, "position": {"x": 0, "y": 0}} for one in nodes], "edges": edges}


def with_model(folder: Path, found: Any) -> Path:
    (folder / "model.json").write_text(found if isinstance(found, str) else json.dumps(found))
    texts = {"r1": {"en": "More than 10.", "zh": "超过 10。"}, "r2": {"en": "Otherwise.", "zh": "其他。"}}
    table = {"name": "judged", "file": "model.json", "inputs": ["amount"], "texts": texts}
    return written(folder, tables=[table])


def test_a_decision_model_is_run_and_its_rows_are_named(tmp_path: Path) -> None:
    from deepwell.agents.rules import Fact
    from deepwell.errors import InvalidRequest

    with RuleSet.load(with_model(tmp_path, model())) as rules:
        found = rules.decide([Fact("amount", {"yuan": 11}, 0.9)])
        assert found.outcome == "grant" and found.explanation.outcome.rule == "judged/r1"
        assert found.explanation.outcome.said("zh") == "同意。理由：超过 10。"
        assert rules.decide([Fact("amount", {"yuan": 9}, 0.9)]).outcome == "deny"
        with pytest.raises(InvalidRequest, match="needs amount"):
            rules.decide([])


@pytest.mark.parametrize(
    ("found", "key"),
    [
        (model(node="functionNode"), "rules_refused"),
        (model(node="customNode"), "rules_refused"),
        (model(node="decisionNode"), "rules_refused"),
        (model(cell="> ("), "rules_cell"),
        (model(cell="bogus (("), "rules_cell"),
        (model(output="'grant"), "rules_cell"),
        ("not json", "rules_model_wrong"),
        ("[1, 2]", "rules_model_wrong"),
        ("[" * 100_000, "rules_model_wrong"),
        ({"nodes": [{"type": "inputNode"}], "edges": []}, "rules_model_wrong"),
    ],
    ids=str,
)
def test_models_that_run_code_load_others_or_cannot_be_read_are_refused(
    tmp_path: Path, found: Any, key: str
) -> None:
    with RuleSet.inspect(with_model(tmp_path, found)) as rules:
        assert key in [one.key for one in rules.findings if one.level == "error"]
