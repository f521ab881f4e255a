"""Structured output: what the mask costs a decode step, and whether every answer fits its schema."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from deepwell.cli.bench.engine import Ours
from deepwell.cli.bench.report import Report, rounded
from deepwell.dialogue.model import ServedModel
from deepwell.dialogue.text import Codec
from deepwell.engine.load import open_engine
from deepwell.engine.options import EngineOptions
from deepwell.engine.protocol import GenerateRequest, Grammar, SamplingParams
from deepwell.errors import DeepwellError, MissingDependency
from deepwell.server.app import create_app
from deepwell.server.build import build_context
from deepwell.server.context import ServerContext
from deepwell_bench.harness.assets import bench_cache
from deepwell_bench.harness.comparison import SETTLE_SECONDS
from deepwell_bench.workloads.schemas import Case, schemas

__all__ = ["bench_grammar"]

_TIMED_TOKENS = 160
_MAX_TOKENS = 1024  # of an answer: one that is cut off there counts as invalid
# Endless on purpose: every constrained answer has as many tokens as the plain one beside it.
_TIMED = {
    "free object": {"type": "object"},
    "records": {
        "type": "array",
        "minItems": 1000,
        "items": {
            "type": "object",
            "properties": {
                "name": {"type": "string", "maxLength": 24},
                "age": {"type": "integer", "minimum": 0, "maximum": 120},
                "role": {"enum": ["admin", "editor", "reader"]},
                "tags": {"type": "array", "items": {"type": "string", "maxLength": 12}, "maxItems": 3},
            },
            "required": ["name", "age", "role", "tags"],
            "additionalProperties": False,
        },
    },
}


def bench_grammar(
    report: Report, model: Path, *, threads: int, rounds: int = 5, count: int = 200
) -> dict[str, Any]:
    """Times constrained against plain decoding, then answers `count` schemas through the API.

    `overhead` is the median of the ratios of seconds a token, constrained over plain, both greedy, one sequence, less one; of
    the two timed schemas the worse. An answer is valid if it is complete and the jsonschema package finds that it fits.
    """
    overheads = _overheads(report, model, threads, rounds)
    return {
        "overhead": max(overheads.values()),
        "overheads": overheads,
        **_validity(report, model, threads, count),
    }


def _overheads(report: Report, model: Path, threads: int, rounds: int) -> dict[str, float]:
    side = Ours(model, "int4", threads=threads, kv_tokens=2048)
    codec = Codec.load(model)
    ask = "Write a list of records of people as JSON, with names, ages, roles and tags."
    prompt = codec.encode_chat([{"role": "user", "content": ask}])
    grammars = {name: Grammar("json_schema", json.dumps(schema)) for name, schema in _TIMED.items()}

    def per_token(grammar: Grammar | None, name: str) -> float:
        params = SamplingParams(
            max_tokens=_TIMED_TOKENS, temperature=0.0, ignore_eos=grammar is None, grammar=grammar
        )
        arrivals: list[float] = []
        for delta in side.engine.generate_sync(GenerateRequest(name, prompt, params)):
            if delta.finish_reason in ("abort", "error"):
                raise DeepwellError(f"generation failed: {delta.error}")
            arrivals.append(time.perf_counter())
        if len(arrivals) < _TIMED_TOKENS // 4:
            raise DeepwellError(f"only {len(arrivals)} tokens could be timed")
        return (arrivals[-1] - arrivals[0]) / (len(arrivals) - 1)

    ratios: dict[str, list[float]] = {name: [] for name in grammars}
    plain_ms: list[float] = []
    try:
        for name, grammar in grammars.items():
            per_token(grammar, f"warm-up {name}")
        for number in range(rounds):
            for name, grammar in grammars.items():
                order = [None, grammar] if number % 2 else [grammar, None]
                seconds: dict[bool, float] = {}
                for one in order:
                    time.sleep(SETTLE_SECONDS)
                    seconds[one is None] = per_token(one, f"{name}-{number}-{one is None}")
                plain_ms.append(1e3 * seconds[True])
                ratios[name].append(seconds[False] / seconds[True])
    finally:
        side.close()
    report.table(
        f"{model.stem}, int4, one sequence: a plain decode step takes {statistics.median(plain_ms):.2f} ms",
        ["schema", "constrained / plain", "least", "most"],
        [[name, statistics.median(found), min(found), max(found)] for name, found in ratios.items()],
    )
    return {name: rounded(statistics.median(found) - 1, 3) for name, found in ratios.items()}


def _validity(report: Report, model: Path, threads: int, count: int) -> dict[str, Any]:
    try:
        from jsonschema import Draft202012Validator
    except ImportError as error:
        raise MissingDependency(
            "checking answers needs the jsonschema package", fix="python -m pip install jsonschema"
        ) from error
    cases = schemas(count)
    engine = open_engine(
        model,
        EngineOptions(precision="int4", threads=threads, kv_tokens=16_384, cache_dir=bench_cache()),
        quiet=True,
    )
    context = build_context([ServedModel("model", engine, Codec.load(model))])
    start = time.perf_counter()
    try:
        answers = asyncio.run(_answer_all(context, cases))
    finally:
        engine.close()
    seconds = time.perf_counter() - start
    outcomes: dict[int, Counter[str]] = {case.level: Counter() for case in cases}
    failures: list[str] = []
    for case, (status, body) in zip(cases, answers, strict=True):
        outcome = _outcome(case, status, body, Draft202012Validator)
        outcomes[case.level][outcome] += 1
        if outcome in ("invalid", "cut off", "wrongly refused", "wrongly accepted"):
            failures.append(f"{case.name}: {outcome}: {json.dumps(body, ensure_ascii=False)[:300]}")
    columns = ("valid", "invalid", "cut off", "refused", "wrongly refused", "wrongly accepted")
    names = {case.level: case.kind for case in cases}
    report.table(
        f"{len(cases)} schemas through /v1/chat/completions in {seconds:.0f} s",
        ["level", *columns],
        [
            [f"{level} {names[level]}", *(found[column] for column in columns)]
            for level, found in sorted(outcomes.items())
        ],
    )
    for failure in failures[:10]:
        report.note(failure)
    total = sum(outcomes.values(), Counter[str]())
    supported = sum(case.supported for case in cases)
    return {
        "schemas": len(cases),
        "supported": supported,
        "valid": total["valid"],
        "valid_share": rounded(total["valid"] / max(supported, 1), 6),
        "unsupported": len(cases) - supported,
        "refused": total["refused"],
        "refused_share": rounded(total["refused"] / max(len(cases) - supported, 1), 6),
        "cut_off": total["cut off"],
    }


async def _answer_all(context: ServerContext, cases: Sequence[Case]) -> list[tuple[int, Any]]:
    """Returns the status and body for every case, eight at a time."""
    gate = asyncio.Semaphore(8)
    transport = httpx.ASGITransport(create_app(context))
    async with httpx.AsyncClient(transport=transport, base_url="http://bench", timeout=600) as client:

        async def ask(number: int, case: Case) -> tuple[int, Any]:
            request = {
                "model": "model",
                "messages": [{"role": "user", "content": f"Write {case.ask} as JSON. Be brief."}],
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "answer", "schema": case.schema, "strict": True},
                },
                "max_tokens": _MAX_TOKENS,
                "temperature": 0.0 if number % 2 else 0.8,
                "seed": number,
            }
            async with gate:
                response = await client.post("/v1/chat/completions", json=request)
            return response.status_code, response.json()

        return await asyncio.gather(*(ask(number, case) for number, case in enumerate(cases)))


def _outcome(case: Case, status: int, body: Any, validator: Any) -> str:
    if status == 400:
        named = case.unsupported in body["error"]["message"] if case.unsupported else False
        return "refused" if named else "wrongly refused"
    if status != 200:
        raise DeepwellError(f"{case.name}: status {status}: {body}")
    if not case.supported:
        return "wrongly accepted"
    choice = body["choices"][0]
    if choice["finish_reason"] != "stop":
        return "cut off"
    try:
        answer = json.loads(choice["message"]["content"])
    except ValueError:
        return "invalid"
    return "valid" if validator(case.schema).is_valid(answer) else "invalid"
