"""`run_table`: evaluates a decision model with zen-engine, in the confined child, and says which rows hit."""

from __future__ import annotations

import json
from typing import Any

import zen

from deepwell.agents.rules.logic.wire import TableRun, TableRuns
from deepwell.errors import InvalidRequest

__all__ = ["run_table", "warm_up"]

_EMPTY = (
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


def _in_order(trace: Any) -> list[Any]:
    return sorted((trace or {}).values(), key=lambda node: node["order"])


def _hits(node: Any) -> list[tuple[str, int, str]]:
    data = node["traceData"] or []
    rows = data if isinstance(data, list) else [data]
    return [(node["name"], row["index"], row["rule"].get("_id", "")) for row in rows]
