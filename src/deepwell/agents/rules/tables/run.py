"""`run_table`: evaluates a decision model with zen-engine, in the confined child, and says which rows hit."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

import zen

from deepwell.agents.rules.logic.wire import Examined, Finding, ModelCheck, TableRun, TableRuns
from deepwell.errors import InvalidRequest

__all__ = ["check_model", "run_table", "warm_up"]

_VALUE: Final = r"""(?:[+-]?\d+(?:\.\d+)?|'[^']*'|"[^"]*"|true|false|null)"""
_PART: Final = rf"""(?:(?:<=|>=|<|>|==|!=)?\s*{_VALUE}|[\[(]\s*{_VALUE}\s*\.\.\s*{_VALUE}\s*[\])])"""
_CONDITION: Final = re.compile(rf"\s*{_PART}(?:\s*,\s*{_PART})*\s*\Z")
_EMPTY: Final = (
    '{"nodes": [{"id": "in", "type": "inputNode", "name": "in"}, {"id": "out", "type": "outputNode", "name": "out"}],'
    ' "edges": [{"id": "e", "sourceId": "in", "targetId": "out", "type": "edge"}]}'
)


def warm_up() -> None:
    """Evaluates an empty model. zen-engine makes a pair of sockets on first use, which a confined process cannot."""
    zen.ZenEngine().create_decision(_EMPTY).evaluate({})


def run_table(asked: TableRun) -> TableRuns:
    """Returns for every context the rows that hit and the result.

    Raises:
        InvalidRequest: zen-engine refuses the model, or cannot evaluate it.
    """
    tables = {
        node["id"] for node in json.loads(asked.decision)["nodes"] if node["type"] == "decisionTableNode"
    }
    hits, results = list[list[tuple[str, int, str]]](), list[Any]()
    try:
        decision = zen.ZenEngine().create_decision(asked.decision)
        for context in asked.contexts:
            found: Any = decision.evaluate(context, {"trace": True})
            hits.append(
                [hit for node in _in_order(found["trace"]) if node["id"] in tables for hit in _hits(node)]
            )
            results.append(found["result"])
    except RuntimeError as error:
        raise InvalidRequest.of("rules_table_failed", reason=str(error)[:300]) from None
    return TableRuns(hits, results)


def check_model(asked: ModelCheck) -> Examined:
    """Returns the expressions of a decision model that zen-engine cannot read: in a table they would never hold."""
    findings = list[Finding]()
    try:
        zen.ZenEngine().create_decision(asked.decision).validate()
        for where, expression, unary in _expressions(json.loads(asked.decision)):
            if not _readable(expression, unary=unary):
                values = {"cell": expression[:80]}
                findings.append(Finding("error", f"{asked.name}, {where}"[:200], "rules_cell", values))
    except (RuntimeError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0][:200]
        findings.append(Finding("error", asked.name, "rules_model_wrong", {"reason": reason}))
    return Examined([], findings)


def _expressions(model: Any) -> Iterator[tuple[str, str, bool]]:
    """Yields each expression with its place, and whether it is a condition on the field of its column."""
    for node in model["nodes"]:
        content, name = node.get("content") or {}, str(node.get("name", ""))
        match node["type"]:
            case "decisionTableNode":
                for number, rule in enumerate(content["rules"]):
                    for column in (*content["inputs"], *content["outputs"]):
                        unary = column in content["inputs"] and bool(column.get("field"))
                        yield f"{name} {number + 1}", str(rule.get(column["id"]) or ""), unary
                for column in content["inputs"]:
                    yield name, str(column.get("field") or ""), False
            case "expressionNode":
                yield from ((name, str(one["value"]), False) for one in content["expressions"])
            case "switchNode":
                yield from ((name, str(one.get("condition") or ""), False) for one in content["statements"])
            case _:
                pass


def _readable(expression: str, *, unary: bool) -> bool:
    if not expression.strip() or expression.strip() == "-":
        return True
    if unary:
        # zen's own check knows only conditions that begin with a value; its tables know these forms as well.
        return bool(_CONDITION.match(expression)) or zen.validate_unary_expression(expression) is None
    return zen.validate_expression(expression) is None


def _in_order(trace: Any) -> list[Any]:
    return sorted((trace or {}).values(), key=lambda node: node["order"])


def _hits(node: Any) -> list[tuple[str, int, str]]:
    data = node["traceData"] or []
    rows = data if isinstance(data, list) else [data]
    return [(node["name"], row["index"], row["rule"].get("_id", "")) for row in rows]
