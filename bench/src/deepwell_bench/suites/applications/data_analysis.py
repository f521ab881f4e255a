"""`deepwell bench data-analysis`: questions over five tables become statements, and statements try to leave the sandbox."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import json
import random
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from deepwell.agents.analysis import (
    Analysis,
    Analyst,
    CheckedQuery,
    QueryProblem,
    Rows,
    Tables,
    check_query,
    load_tables,
    run_query,
)
from deepwell.agents.analysis.tables import ANALYSIS_LIMITS
from deepwell.agents.sandbox import Sandbox
from deepwell.cli.bench.report import Report, rounded
from deepwell.errors import InvalidRequest
from deepwell.llm import AsyncLLM

__all__ = ["HELD_OUT_SHA256", "bench_data_analysis", "make_tables", "statements", "try_to_leave"]

HELD_OUT_SHA256: Final = "6763bae0aeae2172b3515f10a1402859f352768e761d2ec9795fb8d073fdb6a0"
"""The held-out questions as they were written before any tuning."""

ORDERS_SHA256: Final = "2835988209aa39868a204fd05f6b27b919fcd4580b59acd623e03924ad8e4818"
"""The largest of the tables that the seeded script makes."""

_AT_ONCE: Final = 16
_MOST_TOKENS: Final = 160
_SAMPLES: Final = 10_000
_LONGEST_S: Final = 30.0  # of a statement, on a machine that others use


@dataclass(frozen=True, slots=True)
class _Question:
    id: str
    language: str
    question: str
    sql: str


def bench_data_analysis(
    report: Report, questions: Path, script: Path, model: str, embedder: str
) -> dict[str, Any]:
    """Returns execution accuracies, with their difference and its interval, and the statements that left the sandbox.

    Args:
        questions: JSON lines with gold statements. Held-out ones are checked by their hash.
        script: makes the tables in a folder: `make(folder)`.

    Raises:
        InvalidRequest: the held-out questions or the tables are others.
        SandboxUnavailable: there is no sandbox here.
    """
    data = questions.read_bytes()
    if "held_out" in questions.name and hashlib.sha256(data).hexdigest() != HELD_OUT_SHA256:
        raise InvalidRequest(f"{questions} is not the frozen file", fix="restore it from the repository")
    asked = [_Question(**json.loads(line)) for line in data.decode().splitlines()]
    with tempfile.TemporaryDirectory() as name:
        make_tables(script, Path(name))
        tables = asyncio.run(load_tables(Path(name)))
        if hashlib.sha256((Path(name) / "orders.csv").read_bytes()).hexdigest() != ORDERS_SHA256:
            raise InvalidRequest(f"{script} made other tables", fix="restore it from the repository")
    value = asyncio.run(_measure(report, asked, tables, model, embedder))
    left, tried = asyncio.run(try_to_leave(tables))
    report.note(f"{tried} statements tried to leave the sandbox; {', '.join(left) or 'none'} did")
    return value | {"left_attempts": tried, "left": len(left), "left_names": left}


def make_tables(script: Path, folder: Path) -> None:
    """Makes the tables of the example."""
    spec = importlib.util.spec_from_file_location("make_data", script)
    if spec is None or spec.loader is None:
        raise InvalidRequest(f"{script} is no program", fix="name the script of the example")
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_data"] = module
    spec.loader.exec_module(module)
    module.make(folder)


async def _measure(
    report: Report, asked: Sequence[_Question], tables: Tables, model: str, embedder: str
) -> dict[str, Any]:
    gold = {one.id: await run_query(check_query(one.sql, tables), tables) for one in asked}
    async with AsyncLLM(model) as llm, AsyncLLM(embedder) as encoder:

        async def write(messages: Sequence[Any]) -> str:
            return (await llm.chat(list(messages), max_tokens=_MOST_TOKENS, temperature=0)).text

        async def embed(texts: Sequence[str]) -> Sequence[Sequence[float]]:
            return [[float(one) for one in vector] for vector in await encoder.embed(list(texts))]

        plain = Analyst(tables, write, repairs=0, plain=True)
        whole = Analyst(tables, write, embed=embed)
        begin = time.monotonic()
        base = await _answers(plain, asked)
        between = time.monotonic()
        ours = await _answers(whole, asked)
        end = time.monotonic()
    base_right = [_same(one.rows, gold[q.id], q.sql) for one, q in zip(base, asked, strict=True)]
    right = [_same(one.rows, gold[q.id], q.sql) for one, q in zip(ours, asked, strict=True)]
    rows = [
        (name, sum(chosen), _share(base_right, chosen), _share(right, chosen))
        for name, chosen in {
            "all": [True] * len(asked),
            "zh": [one.language == "zh" for one in asked],
            "en": [one.language == "en" for one in asked],
            "joins": [" JOIN " in one.sql for one in asked],
        }.items()
    ]
    report.table(
        "Right results, in percent", ("questions", "number", "whole schema", "retrieved and mended"), rows
    )
    low, high = _interval([int(a) - int(b) for a, b in zip(right, base_right, strict=True)])
    return {
        "questions": len(asked),
        "baseline": rounded(sum(base_right) / len(asked)),
        "accuracy": rounded(sum(right) / len(asked)),
        "gain": rounded((sum(right) - sum(base_right)) / len(asked)),
        "gain_low": rounded(low),
        "gain_high": rounded(high),
        "accuracy_zh": rounded(rows[1][3] / 100),
        "accuracy_en": rounded(rows[2][3] / 100),
        "ran": rounded(sum(one.rows is not None for one in ours) / len(asked)),
        "ran_baseline": rounded(sum(one.rows is not None for one in base) / len(asked)),
        "statements": rounded(sum(one.attempts for one in ours) / len(asked)),
        "baseline_s": rounded(between - begin),
        "answer_s": rounded(end - between),
    }


async def _answers(analyst: Analyst, asked: Sequence[_Question]) -> list[Analysis]:
    turns = asyncio.Semaphore(_AT_ONCE)

    async def answer(one: _Question) -> Analysis:
        async with turns:
            return await analyst.ask(one.question)

    return await asyncio.gather(*map(answer, asked))


def _same(rows: Rows | None, gold: Rows, sql: str) -> bool:
    """Returns whether the rows are those of the gold statement: their order counts where it asks for several by rank."""
    if rows is None or rows.more:
        return False
    found, wanted = ([tuple(map(_plain, row)) for row in one.rows] for one in (rows, gold))
    if "LIMIT 3" in sql:
        return found == wanted
    return sorted(found, key=repr) == sorted(wanted, key=repr)


def _plain(cell: Any) -> Any:
    return round(float(cell), 4) if isinstance(cell, int | float) else cell


def _share(right: Sequence[bool], chosen: Sequence[bool]) -> float:
    kept = [one for one, take in zip(right, chosen, strict=True) if take]
    return 100 * sum(kept) / len(kept) if kept else 0.0


def _interval(differences: Sequence[int]) -> tuple[float, float]:
    """Returns the 95 % interval of the mean by a paired bootstrap over the questions."""
    draw = random.Random(7)  # noqa: S311
    count = len(differences)
    means = sorted(sum(draw.choices(differences, k=count)) / count for _ in range(_SAMPLES))
    return means[int(0.025 * _SAMPLES)], means[int(0.975 * _SAMPLES)]


def statements() -> dict[str, str]:
    """Returns the statements that try to leave, by name."""
    text = files("deepwell_bench.workloads").joinpath("statements.toml").read_text(encoding="utf-8")
    return {
        f"{group}_{name}": sql
        for group, all_of in tomllib.loads(text).items()
        for name, sql in all_of.items()
    }


async def try_to_leave(tables: Tables) -> tuple[list[str], int]:
    """Gives each statement to the check, then to SQLite without the check. Returns those that left, and their number."""
    left: list[str] = []
    sandbox = Sandbox(ANALYSIS_LIMITS)
    with tempfile.TemporaryDirectory() as name:
        secret, new = Path(name) / "secret.db", Path(name) / "new"
        secret.write_text(hashlib.sha256(name.encode()).hexdigest())
        for label, template in statements().items():
            sql = template.replace("FILE", str(secret)).replace("NEW", str(new))
            begin = time.monotonic()
            passed = False
            with suppress(QueryProblem):
                query = check_query(sql, tables)
                passed = not label.startswith("bombs")  # which only read: their results are bounded
                await run_query(query, tables, sandbox)
            rows: Rows | None = None
            with suppress(QueryProblem):
                rows = await run_query(CheckedQuery(sql, (), limited=False), tables, sandbox)
            told = repr(rows.rows) if rows else ""
            too_much = len(told) > 4 << 20 or time.monotonic() - begin > 2 * _LONGEST_S
            if passed or too_much or secret.read_text() in told or new.exists() or not _is_whole(rows, label):
                left.append(label)
            new.unlink(missing_ok=True)
    return left, len(statements())


def _is_whole(rows: Rows | None, label: str) -> bool:
    """Returns whether SQLite itself refused a statement that is not only a bomb, or found nothing to do in it."""
    return label.startswith("bombs") or rows is None or not rows.columns
