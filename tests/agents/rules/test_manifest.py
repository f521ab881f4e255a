"""Manifests: what they may say, and which files they may name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.agents.rules.sets import FACTS, OUTCOMES, written

from deepwell.agents.rules.facts import ArgumentType, DoesNotFit, FactType
from deepwell.agents.rules.logic.solve import solve
from deepwell.agents.rules.logic.wire import Candidate, Solve
from deepwell.agents.rules.manifest import load_manifest
from deepwell.agents.rules.ruleset import RuleSet
from deepwell.errors import InvalidFile
from deepwell.messages import render


def keys(path: Path) -> set[str]:
    """Returns the keys of the errors of a manifest, each of which has a text in both languages."""
    findings = load_manifest(path).findings
    assert all(render(one.key, "zh", one.values) for one in findings)
    return {one.key for one in findings if one.level == "error"}


def fact(**changes: Any) -> dict[str, Any]:
    return {"facts": {"thing": {"text": {"en": "a", "zh": "甲"}, "arguments": {"x": "integer"}, **changes}}}


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"unknown": 1}, "rules_key_unknown"),
        ({"name": "a b"}, "rules_name_wrong"),
        ({"version": ""}, "rules_key_missing"),
        ({"default": "other"}, "rules_default_wrong"),
        ({"outcomes": {**OUTCOMES, "conflict": {"en": "a", "zh": "甲"}}}, "rules_name_wrong"),
        ({"facts": {"Label": None}}, "rules_name_wrong"),
        ({"facts": {"outcome": None}}, "rules_name_wrong"),
        ({"facts": []}, "rules_key_type"),
        ({"derived": {"label": {"text": {"en": "a", "zh": "甲"}}}}, "rules_name_twice"),
        (fact(threshold=1.5), "rules_threshold_range"),
        (fact(threshold="high"), "rules_threshold_range"),
        (fact(threshold=True), "rules_threshold_range"),
        (fact(threshold=0.8, neutral=0.5), "rules_neutral_wrong"),
        (fact(neutral=1), "rules_neutral_wrong"),
        (fact(single="yes"), "rules_key_type"),
        (fact(text={"en": "{y}", "zh": "甲"}), "rules_placeholder"),
        (fact(arguments={"x": "float"}), "rules_type_unknown"),
        (fact(arguments={"x": {"type": "symbol", "values": ["Mit"]}}), "rules_symbol_wrong"),
        (fact(arguments={"x": {"type": "integer", "minimum": 5, "maximum": 1}}), "rules_limits_wrong"),
        (fact(arguments={"x": {"type": "decimal", "places": 2, "maximum": 100000000}}), "rules_limits_wrong"),
        (fact(arguments={"x": {"type": "decimal", "places": 9}}), "rules_key_type"),
        (fact(arguments={"x": {"type": "integer", "minimum": "much"}}), "rules_key_type"),
        ({"logic": "rules.lp", "program": "p."}, "rules_program_twice"),
        ({"logic": "../rules.lp"}, "rules_file_name"),
        ({"logic": "/etc/passwd"}, "rules_file_name"),
        ({"logic": ".hidden.lp"}, "rules_file_name"),
        ({"tables": [{"name": "t", "file": "../t.csv"}]}, "rules_file_name"),
        ({"tables": [{"name": "t"}]}, "rules_key_type"),
        ({"tables": [{"name": "label", "rows": []}]}, "rules_name_twice"),
        ({"tables": [{"name": "t", "rows": [], "hit": "any"}]}, "rules_type_unknown"),
        ({"tables": [{"name": "t", "rows": [], "proposals": "nothing"}]}, "rules_column_unknown"),
        ({"tables": [{"name": "t", "rows": [{"when": {}, "then": {}}]}]}, "rules_key_missing"),
        ({"tables": ["t"]}, "rules_name_wrong"),
        ({"cases": [{"facts": "none"}]}, "rules_key_type"),
        ({"cases": [1]}, "rules_key_type"),
    ],
)
def test_faults_are_found(tmp_path: Path, changes: dict[str, Any], key: str) -> None:
    assert key in keys(written(tmp_path, **changes))


def test_a_sound_manifest_has_no_faults(tmp_path: Path) -> None:
    assert keys(written(tmp_path)) == set()


@pytest.mark.parametrize(
    "text",
    [
        "a: &x [1]\nb: *x\n",
        "a: *a\n",
        "name: one\nname: two\n",
        "!!python/object/apply:os.system ['id']\n",
        "- a\n- b\n",
        "a: [",
        "\x00",
        "",
        "[" * 5000,
        "2024-01-01",
        "? [a, b]\n: 1\n",
        "name: {[1]: 2}\n",
        "name: !!int ''\n",
        "name: !!bool maybe\n",
        "name: !!timestamp never\n",
        "[" * 200_000,
        "{a: " * 100_000,
        "name: 1" + ":59" * 200_000,
        "name: " + "1:" * 5000 + "1.5",
        "name: 0x" + "f" * 900_000,
    ],
    ids=lambda text: text[:20],
)
def test_what_is_no_plain_mapping_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    with pytest.raises(InvalidFile):
        load_manifest(path)


def test_files_that_are_missing_large_or_links_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="no rule set"):
        load_manifest(tmp_path / "none")
    with pytest.raises(InvalidFile, match="no rule set"):
        load_manifest(written(tmp_path, logic="missing.lp"))
    (tmp_path / "secret").write_text("p.")
    (tmp_path / "link.lp").symlink_to(tmp_path / "secret")
    assert "rules_file_name" in keys(written(tmp_path, logic="link.lp"))
    (tmp_path / "large.lp").write_bytes(b" " * (2 << 20))
    with pytest.raises(InvalidFile, match="larger"):
        load_manifest(written(tmp_path, logic="large.lp"))
    (tmp_path / "bytes.lp").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidFile, match="cannot be read"):
        load_manifest(written(tmp_path, logic="bytes.lp"))


def test_loading_names_the_faults_and_inspecting_keeps_them(tmp_path: Path) -> None:
    path = written(tmp_path, "{ p }.", facts={**FACTS, "Wrong": None})
    with pytest.raises(InvalidFile, match="is no name"):
        RuleSet.load(path)
    with RuleSet.inspect(path) as rules:
        assert {one.key for one in rules.findings} >= {"rules_name_wrong", "rules_refused"}


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "name",
                        "facts",
                        "tables",
                        "rows",
                        "when",
                        "then",
                        "arguments",
                        "type",
                        "values",
                        "text",
                        "en",
                        "x",
                    ]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=20,
    )
)
def test_no_manifest_is_an_exception(tmp_path_factory: pytest.TempPathFactory, inner: Any) -> None:
    folder = tmp_path_factory.mktemp("manifest")
    for key in ("facts", "derived", "outcomes", "tables", "cases", "title", "program", "logic", "default"):
        path = folder / "rules.yaml"
        path.write_text(json.dumps({"name": "x", "version": "1", key: inner}, ensure_ascii=False))
        try:
            keys(path)
        except InvalidFile:
            continue


KINDS = st.sampled_from(
    [
        ArgumentType("integer"),
        ArgumentType("decimal", places=2),
        ArgumentType("boolean"),
        ArgumentType("string"),
        ArgumentType("date"),
    ]
)


@given(KINDS, st.data())
def test_a_value_comes_back_from_logic_as_it_was(kind: ArgumentType, data: st.DataObject) -> None:
    values: dict[str, st.SearchStrategy[Any]] = {
        "integer": st.integers(-(2**31) + 1, 2**31 - 1),
        "decimal": st.integers(-(2**31) + 1, 2**31 - 1).map(lambda cents: cents / 100),
        "boolean": st.booleans(),
        "string": st.text(min_size=1, max_size=200),
        "date": st.dates().map(lambda day: day.isoformat()),
    }
    try:
        value = kind.checked(data.draw(values[kind.type]))
    except DoesNotFit:  # control characters, or a number that 32 bits do not hold
        assert kind.type in ("string", "decimal")
        return
    fact = FactType("held", {"x": kind})
    solved = solve(Solve("seen(X) :- held(X).", [Candidate(fact.atom({"x": value}), 0, True)], []))
    (instance,) = solved.instances
    assert instance.head is not None and fact.values(instance.head.terms) == {"x": value}
