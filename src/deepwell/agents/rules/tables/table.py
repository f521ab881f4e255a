"""`Table`: a decision table as its author wrote it, and the decision model (JDM) that zen-engine runs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, Literal

from deepwell.agents.rules.facts import ArgumentType, DoesNotFit, Text, Value
from deepwell.agents.rules.logic.wire import Finding
from deepwell.agents.rules.tables.cells import Cell, parse_cell
from deepwell.messages import Language

__all__ = ["MOST_ROWS", "HitPolicy", "Row", "Table", "column_value", "row_of", "rows_of_csv"]

MOST_ROWS: Final = 5000
"""Most rows of a table."""

_OUTPUT: Final = "=>"

HitPolicy = Literal["first", "collect", "unique"]


@dataclass(frozen=True, slots=True)
class Row:
    """A row: conditions by column, and what follows.

    Attributes:
        text: the reason in both languages, with columns and outputs as `{name}`.
        cites: a citation, such as an article of a law.
    """

    id: str
    cells: Mapping[str, Cell]
    outputs: Mapping[str, Value]
    text: Text = field(default_factory=dict[Language, str])
    cites: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A decision table.

    Attributes:
        hit: "first": the first row that fits counts; "collect": every one; "unique": rows exclude each other.
        proposals: name of the facts to each of which the table is applied before rules see it; empty: the case.
        inputs: columns with conditions: a fact, an argument as `fact.argument`, or the number of facts as `fact.count`.
        outputs: columns with results.
        model: a decision model in JSON that its author wrote; the table has no rows of its own then.
        texts: for a decision model, the reasons by the id of its rows.
    """

    name: str
    hit: HitPolicy
    inputs: Mapping[str, ArgumentType]
    outputs: Mapping[str, ArgumentType]
    rows: tuple[Row, ...] = ()
    proposals: str = ""
    model: str = ""
    texts: Mapping[str, Row] = field(default_factory=dict[str, Row])

    def decision(self) -> str:
        """Returns the decision model in JSON. Columns are called `c0`, `c1`, ... there: names are their author's."""
        if self.model:
            return self.model
        # A column without a field holds whole expressions, whose grammar zen-engine checks; cells of one with a field that it
        # cannot parse match nothing there, without a word.
        columns = [{"id": f"c{n}", "name": name, "field": ""} for n, name in enumerate(self.inputs)]
        rules = [
            {"_id": row.id, **self._conditions(row), "row": str(number)}
            for number, row in enumerate(self.rows)
        ]
        content = {
            "hitPolicy": "first" if self.hit == "first" else "collect",
            "inputs": columns,
            "outputs": [{"id": "row", "name": "row", "field": "row"}],
            "rules": rules,
        }
        nodes = [
            {"id": "in", "type": "inputNode", "name": "in"},
            {"id": "table", "type": "decisionTableNode", "name": self.name, "content": content},
            {"id": "out", "type": "outputNode", "name": "out"},
        ]
        edges = [
            {"id": "e1", "sourceId": "in", "targetId": "table", "type": "edge"},
            {"id": "e2", "sourceId": "table", "targetId": "out", "type": "edge"},
        ]
        placed = [{**node, "position": {"x": 0, "y": 0}} for node in nodes]
        return json.dumps({"nodes": placed, "edges": edges}, ensure_ascii=False)

    def _conditions(self, row: Row) -> dict[str, str]:
        return {
            f"c{n}": row.cells[name].expression(f"c{n}") if name in row.cells else ""
            for n, name in enumerate(self.inputs)
        }

    def context(self, values: Mapping[str, Value | None]) -> dict[str, Any]:
        """Returns what zen-engine reads, for the values of the columns."""
        return {
            f"c{n}": column_value(values.get(name), kind)
            for n, (name, kind) in enumerate(self.inputs.items())
        }


def column_value(value: Value | None, kind: ArgumentType) -> str | int | float | None:
    """Returns a value as tables compare it: truth values as texts, dates as numbers."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return int(str(value).replace("-", "")) if kind.type == "date" and value is not None else value


def rows_of_csv(
    text: str, inputs: Mapping[str, ArgumentType], outputs: Mapping[str, ArgumentType], name: str
) -> tuple[list[Row], list[str], list[Finding]]:
    """Returns the rows of a CSV file, the columns with conditions, and what is wrong.

    The first line names the columns: `id`, conditions, results as `=> name`, and `en`, `zh` and `cites`.
    """
    findings, rows = list[Finding](), list[Row]()
    reader = csv.DictReader(io.StringIO(text.lstrip("\ufeff")), strict=True)
    try:
        header = [one.strip() for one in reader.fieldnames or ()]
        reader.fieldnames = header
        for line in reader:
            where = f"{name}, line {reader.line_num}"
            if None in line or None in line.values():
                findings.append(Finding("error", where, "rules_row_length", {"columns": len(header)}))
                continue
            rows.append(_row(line, inputs, outputs, where, findings))
    except csv.Error as error:
        findings.append(Finding("error", name, "rules_csv", {"reason": str(error)}))
        return [], [], findings
    if len(set(header)) < len(header):
        findings.append(Finding("error", name, "rules_column_twice", {}))
    return rows, [one for one in header if _is_condition(one)], findings


def row_of(
    id: str,
    when: Mapping[str, Any],
    then: Mapping[str, Any],
    said: tuple[Text, str],
    kinds: tuple[Mapping[str, ArgumentType], Mapping[str, ArgumentType]],
    where: str,
    findings: list[Finding],
) -> Row:
    """Returns a row of the conditions and results that its author wrote; what is wrong is added to the findings."""
    inputs, outputs = kinds
    cells, results = dict[str, Cell](), dict[str, Value]()
    for column, cell in when.items():
        try:
            if column not in inputs:
                raise DoesNotFit("rules_column_unknown", column=column)
            cells[column] = parse_cell(_written(cell), inputs[column])
        except DoesNotFit as error:
            findings.append(Finding("error", f"{where}, {column}", error.note.key, dict(error.note.values)))
    for column, value in then.items():
        try:
            if column not in outputs:
                raise DoesNotFit("rules_column_unknown", column=column)
            results[column] = outputs[column].checked(_typed(value, outputs[column]))
        except DoesNotFit as error:
            findings.append(Finding("error", f"{where}, {column}", error.note.key, dict(error.note.values)))
    return Row(id, cells, results, said[0], said[1])


def _is_condition(column: str) -> bool:
    return column not in ("id", "en", "zh", "cites") and not column.startswith(_OUTPUT)


def _row(
    line: Mapping[str, str],
    inputs: Mapping[str, ArgumentType],
    outputs: Mapping[str, ArgumentType],
    where: str,
    findings: list[Finding],
) -> Row:
    when = {column: cell for column, cell in line.items() if _is_condition(column)}
    then = {
        column.removeprefix(_OUTPUT).strip(): cell.strip()
        for column, cell in line.items()
        if column.startswith(_OUTPUT) and cell.strip()
    }
    languages: Sequence[Language] = ("en", "zh")
    text: Text = {one: line[one].strip() for one in languages if line.get(one, "").strip()}
    said = (text, line.get("cites", "").strip())
    return row_of(line.get("id", "").strip(), when, then, said, (inputs, outputs), where, findings)


def _written(cell: Any) -> str:
    """Returns a cell of YAML, which may be a number, a truth value, a date or a list, as text."""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, list):
        return ", ".join(f'"{one}"' if isinstance(one, str) else _written(one) for one in cell)
    return "" if cell is None else str(cell)


def _typed(value: Any, kind: ArgumentType) -> Any:
    """Returns a result that CSV holds as text in its type."""
    if not isinstance(value, str):
        return value if isinstance(value, bool | int | float) else str(value)
    if kind.type == "boolean" and value in ("true", "false"):
        return value == "true"
    if kind.type in ("integer", "decimal"):
        try:
            exact = Decimal(value)
        except ArithmeticError:
            return value
        return int(exact) if exact.is_finite() and exact == exact.to_integral_value() else float(exact)
    return value
