"""`read_table`: a table of a manifest, with its columns resolved to facts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, cast, get_args

from deepwell.agents.rules.facts import LARGEST, ArgumentType, FactType, Text
from deepwell.agents.rules.logic.wire import Finding
from deepwell.agents.rules.tables.table import MOST_ROWS, HitPolicy, Row, Table, row_of, rows_of_csv
from deepwell.messages import Language

__all__ = ["VERDICTS", "columns_of", "read_table"]

VERDICTS: Final = ("accept", "deny")
"""Results of the column `verdict` of a table over proposals."""

_NODES: Final = frozenset({"inputNode", "outputNode", "decisionTableNode", "expressionNode", "switchNode"})
_KEYS: Final = frozenset({"name", "file", "rows", "hit", "outputs", "inputs", "proposals", "texts"})

Known = tuple[Mapping[str, FactType], Sequence[Table], tuple[str, ...]]


def columns_of(
    facts: Mapping[str, FactType], derived: Mapping[str, FactType], tables: Sequence[Table]
) -> dict[str, ArgumentType]:
    """Returns the columns that a table over a case may have: facts, their arguments and numbers, results of tables before."""
    found = dict[str, ArgumentType]()
    for one in (*facts.values(), *derived.values()):
        found[f"{one.name}.count"] = ArgumentType("integer", Decimal(0), Decimal(LARGEST))
        if one.single:
            found |= {f"{one.name}.{name}": kind for name, kind in one.arguments.items()}
            if len(one.arguments) == 1:
                found[one.name] = next(iter(one.arguments.values()))
    for table in tables:
        if table.hit != "collect" and not table.proposals:
            found |= {f"{table.name}.{name}": kind for name, kind in table.outputs.items()}
    return found


def read_table(
    given: Mapping[str, Any],
    text: str,
    outputs: dict[str, ArgumentType],
    facts: Mapping[str, FactType],
    known: Known,
) -> tuple[Table, list[Finding]]:
    """Returns a table of a manifest, and what is wrong with it.

    Args:
        text: text of its file, CSV or a decision model in JSON; empty: the rows stand in the manifest.
        known: derived facts, tables before this one, and outcomes.
    """
    name, findings = str(given["name"]), list[Finding]()
    for key in sorted(given.keys() - _KEYS):
        values = {"key": key, "known": ", ".join(sorted(_KEYS))}
        findings.append(Finding("error", name, "rules_key_unknown", values))
    hit: Any = given.get("hit", "first")
    if hit not in get_args(HitPolicy):
        values = {"type": str(hit)[:40], "known": ", ".join(get_args(HitPolicy))}
        findings.append(Finding("error", name, "rules_type_unknown", values))
        hit = "first"
    proposals = str(given.get("proposals", ""))
    derived, before, outcomes = known
    if proposals and proposals not in facts:
        findings.append(Finding("error", name, "rules_column_unknown", {"column": proposals}))
    columns = (
        _proposal_columns(facts[proposals]) if proposals in facts else columns_of(facts, derived, before)
    )
    if proposals:
        outputs.setdefault("verdict", ArgumentType("symbol", values=VERDICTS))
    elif outcomes:
        outputs.setdefault("outcome", ArgumentType("symbol", values=outcomes))
    if str(given.get("file", "")).endswith(".json"):
        table = _model(name, hit, given, text, columns, outputs, findings)
        return table, findings
    rows, used = list[Row](), list[str]()
    if text:
        rows, used, found = rows_of_csv(text, columns, outputs, str(given["file"]))
        findings += found
    else:
        rows, used = _yaml_rows(name, given.get("rows"), columns, outputs, findings)
    findings += _row_findings(name, rows, outputs)
    inputs = {column: columns[column] for column in used if column in columns}
    results = {key: kind for key, kind in outputs.items() if any(key in row.outputs for row in rows)}
    return Table(name, hit, inputs, results, tuple(rows), proposals), findings


def _proposal_columns(fact: FactType) -> dict[str, ArgumentType]:
    score = ArgumentType("decimal", Decimal(0), Decimal(1), places=6)
    return {**fact.arguments, "score": score, "source": ArgumentType("string", max_length=4000)}


def _yaml_rows(
    name: str,
    given: Any,
    columns: Mapping[str, ArgumentType],
    outputs: Mapping[str, ArgumentType],
    findings: list[Finding],
) -> tuple[list[Row], list[str]]:
    rows, used = list[Row](), dict[str, None]()
    if not isinstance(given, list):
        findings.append(Finding("error", name, "rules_key_type", {"key": "rows", "type": "list"}))
        return [], []
    for number, one in enumerate(cast("list[Any]", given)):
        where = f"{name}, row {number + 1}"
        if not isinstance(one, dict) or not all(
            isinstance(one.get(key, {}), dict) for key in ("when", "then")
        ):
            findings.append(Finding("error", where, "rules_key_type", {"key": "row", "type": "mapping"}))
            continue
        row = cast("dict[str, Any]", one)
        for key in sorted(str(key) for key in row.keys() - {"id", "when", "then", "en", "zh", "cites"}):
            values = {"key": key, "known": "id, when, then, en, zh, cites"}
            findings.append(Finding("error", where, "rules_key_unknown", values))
        when: dict[str, Any] = row.get("when") or {}
        used |= dict.fromkeys(when)
        said = (_said(row), str(row.get("cites", "")))
        then: dict[str, Any] = row.get("then") or {}
        rows.append(row_of(str(row.get("id", "")), when, then, said, (columns, outputs), where, findings))
    return rows, [*used]


def _said(row: Mapping[str, Any]) -> Text:
    languages: Sequence[Language] = ("en", "zh")
    return {one: str(row[one]) for one in languages if row.get(one)}


def _row_findings(name: str, rows: Sequence[Row], outputs: Mapping[str, ArgumentType]) -> list[Finding]:
    findings, seen = list[Finding](), set[str]()
    if len(rows) > MOST_ROWS:
        findings.append(Finding("error", name, "rules_rows_many", {"most": MOST_ROWS}))
    if not rows:
        findings.append(Finding("warning", name, "rules_rows_none", {}))
    for number, row in enumerate(rows):
        where = f"{name}, row {row.id or number + 1}"
        if not row.id:
            findings.append(Finding("error", where, "rules_key_missing", {"key": "id"}))
        elif row.id in seen:
            findings.append(Finding("error", where, "rules_label_twice", {"label": row.id}))
        seen.add(row.id)
        if missing := [one for one in ("en", "zh") if one not in row.text]:
            values = {"label": row.id, "languages": ", ".join(missing)}
            findings.append(Finding("warning", where, "rules_text_missing", values))
        if not row.outputs:
            findings.append(Finding("warning", where, "rules_row_empty", {}))
    return findings


def _model(
    name: str,
    hit: HitPolicy,
    given: Mapping[str, Any],
    text: str,
    columns: Mapping[str, ArgumentType],
    outputs: Mapping[str, ArgumentType],
    findings: list[Finding],
) -> Table:
    """Returns a table whose author wrote a decision model. Nodes that run code, call others or load files are refused."""
    texts, used = dict[str, Row](), list[str]()
    try:
        model: Any = json.loads(text or "{}")
        nodes = [(str(node["type"]), str(node.get("name", ""))) for node in model["nodes"]]
        list(model["edges"])
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"[:200]
        findings.append(Finding("error", name, "rules_model_wrong", {"reason": reason}))
        return Table(name, hit, {}, {}, model='{"nodes": [], "edges": []}')
    for kind, label in nodes:
        if kind not in _NODES:
            values = {"construct": f"{kind} {label}"[:120]}
            findings.append(Finding("error", name, "rules_refused", values))
    given_inputs: Any = given.get("inputs") or []
    for column in given_inputs if isinstance(given_inputs, list) else []:
        if column in columns:
            used.append(str(column))
        else:
            findings.append(Finding("error", name, "rules_column_unknown", {"column": str(column)[:80]}))
    given_texts: Any = given.get("texts") or {}
    for key, one in (given_texts if isinstance(given_texts, dict) else {}).items():
        if isinstance(one, dict):
            texts[str(key)] = Row(str(key), {}, {}, _said(one), str(one.get("cites", "")))
    findings.append(Finding("note", name, "rules_model_opaque", {}))
    return Table(name, hit, {c: columns[c] for c in used}, outputs, model=text, texts=texts)
