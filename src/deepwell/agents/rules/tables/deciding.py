"""`decide_tables`: runs the tables of a rule set on a case, and the tables over proposals on each of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from deepwell.agents.rules.decision import Step
from deepwell.agents.rules.facts import DoesNotFit, Fact, FactType, Text, Value, filled
from deepwell.agents.rules.logic.wire import TableRun, TableRuns
from deepwell.agents.rules.tables.table import Row, Table
from deepwell.errors import InvalidRequest
from deepwell.messages import Language, render

__all__ = ["TableRunner", "decide_table", "screened"]


class TableRunner(Protocol):
    """Runs decision models: the confined process, or zen-engine itself in tests."""

    def run_table(self, asked: TableRun) -> TableRuns:
        """Returns the rows that hit, and the results."""
        ...


def screened(runner: TableRunner, table: Table, facts: Sequence[Fact]) -> list[tuple[str, Step] | None]:
    """Returns for each proposal the verdict of a table over proposals with the row that gave it; None: no row did."""
    if not facts:
        return []
    values = [
        {**fact.arguments, "score": round(fact.score, 6), "source": fact.source or None} for fact in facts
    ]
    found = list[tuple[str, Step] | None]()
    for fact, columns, rows in zip(facts, values, _hit_rows(runner, table, values), strict=True):
        verdicts = [
            (str(row.outputs["verdict"]), _step(table, row, columns, (fact,), None))
            for row in rows
            if "verdict" in row.outputs
        ]
        # Of several rows one that denies counts.
        found.append(min(verdicts, key=lambda one: one[0] == "accept") if verdicts else None)
    return found


def decide_table(
    runner: TableRunner, table: Table, facts: Sequence[Fact], types: Mapping[str, FactType]
) -> list[Step]:
    """Returns a step for each row that hits on a case. Its conclusion is a fact named like the table.

    Raises:
        InvalidRequest: several rows of a table with unique rows hit, or a decision model lacks a fact or gives other results.
    """
    values = dict(_columns(facts, types))
    given = {name: values.get(name) for name in table.inputs}
    # Numbers of facts are known, if it be none.
    given |= {name: values.get(name, 0) for name in table.inputs if name.endswith(".count")}
    used = {name.partition(".")[0] for name in table.inputs}
    read = tuple(fact for fact in facts if fact.name in used)
    rows = _model_rows(runner, table, given) if table.model else _hit_rows(runner, table, [given])[0]
    if table.hit == "unique" and len(rows) > 1:
        raise InvalidRequest.of(
            "rules_several_hits", table=table.name, rows=", ".join(row.id for row in rows)
        )
    return [_step(table, row, given, read, Fact(table.name, dict(row.outputs))) for row in rows]


def _columns(facts: Sequence[Fact], types: Mapping[str, FactType]) -> Iterator[tuple[str, Value]]:
    counts = dict[str, int]()
    for fact in facts:
        counts[fact.name] = counts.get(fact.name, 0) + 1
        yield f"{fact.name}.count", counts[fact.name]
        for name, value in fact.arguments.items():
            yield f"{fact.name}.{name}", value
        kind = types.get(fact.name)
        if kind is not None and len(kind.arguments) == 1:
            yield fact.name, next(iter(fact.arguments.values()))


def _hit_rows(
    runner: TableRunner, table: Table, values: Sequence[Mapping[str, Value | None]]
) -> list[list[Row]]:
    answer = runner.run_table(TableRun(table.decision(), [table.context(one) for one in values]))
    return [[table.rows[index] for _, index, _ in hits] for hits in answer.hits]


def _model_rows(runner: TableRunner, table: Table, given: Mapping[str, Value | None]) -> list[Row]:
    """Returns the results of a decision model as rows, each named after the rows that hit."""
    context = dict[str, Any]()
    for name, value in given.items():
        if value is None:
            raise InvalidRequest.of("rules_input_missing", table=table.name, column=name)
        place, _, last = name.rpartition(".")
        (context.setdefault(place, {}) if place else context)[last] = value
    answer = runner.run_table(TableRun(table.decision(), [context]))
    hits, result = answer.hits[0], answer.results[0]
    results: list[Any] = result if isinstance(result, list) else [result]
    single = len(hits) == len(results)
    rows = list[Row]()
    for number, one in enumerate(results):
        named = [hits[number]] if single else hits
        ids = [id or str(index + 1) for _, index, id in named]
        texts = [table.texts[id] for id in ids if id in table.texts]
        outputs = _outputs(table, one)
        if outputs:
            said = texts[-1] if texts else Row("", {}, {})
            rows.append(Row("+".join(ids), {}, outputs, said.text, said.cites))
    return rows


def _outputs(table: Table, result: Any) -> dict[str, Value]:
    if not isinstance(result, dict) or result.keys() - table.outputs.keys():
        raise InvalidRequest.of("rules_table_failed", reason=f"{table.name}: {str(result)[:200]}")
    try:
        return {
            str(name): table.outputs[name].checked(value)
            for name, value in result.items()
            if value is not None
        }
    except DoesNotFit as error:
        raise InvalidRequest.of("rules_table_failed", reason=f"{table.name}: {error}") from None


def _step(
    table: Table, row: Row, given: Mapping[str, Value | None], facts: tuple[Fact, ...], concludes: Fact | None
) -> Step:
    languages: Sequence[Language] = ("en", "zh")
    text: Text = {
        one: filled(row.text[one], _shown(table, row, given, one))
        if one in row.text
        else render("rules_row_hit", one, {"values": _listed(_shown(table, row, given, one), one)})[0]
        for one in languages
    }
    return Step("row", f"{table.name}/{row.id}", text, facts, concludes, cites=row.cites)


def _shown(table: Table, row: Row, given: Mapping[str, Value | None], language: Language) -> dict[str, str]:
    kinds = {**table.inputs, **table.outputs}
    values = {**{name: value for name, value in given.items() if value is not None}, **row.outputs}
    return {
        name: kinds[name].shown(value, language) if name in kinds else str(value)
        for name, value in values.items()
    }


def _listed(values: Mapping[str, str], language: Language) -> str:
    return ("，" if language == "zh" else ", ").join(f"{name} = {value}" for name, value in values.items())
