"""Speculation on against off: how much faster text that repeats becomes, and what chat pays for it."""

from __future__ import annotations

import json
import statistics
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepwell.cli.bench.engine import Ours
from deepwell.cli.bench.report import Report, rounded
from deepwell.dialogue.text import Codec
from deepwell.engine.protocol import GenerateRequest, SamplingParams
from deepwell.errors import DeepwellError, ModelNotFound
from deepwell.models.store.store import ModelStore
from deepwell.settings import Settings
from deepwell_bench.harness.assets import repository
from deepwell_bench.harness.comparison import SETTLE_SECONDS

__all__ = ["bench_speculation", "models_at_hand"]

CODER = "qwen2.5-coder-0.5b-q4km"
SHORTEST = 24  # tokens: a shorter answer is too quick to time


@dataclass(frozen=True, slots=True)
class Case:
    """A prompt, drawn greedily or not."""

    kind: str
    name: str
    prompt: str
    temperature: float


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of one side, and the seconds from its first token to its last."""

    tokens: tuple[int, ...]
    seconds: float


def models_at_hand(default: Path) -> list[Path]:
    """Returns the default model, and the coder of `bench/assets.toml` if the store has it: it follows edits better."""
    try:
        return [default, ModelStore(Settings.load().models_dir).get(CODER).path]
    except ModelNotFound:
        return [default]


def cases() -> list[Case]:
    """Returns the prompts: edits and extraction greedy, as one would run them; chat greedy and drawn in turn."""
    text = (repository() / "bench" / "data" / "speculation.json").read_text(encoding="utf-8")
    return [
        Case(kind, entry["name"], entry["prompt"], 0.7 if kind == "chat" and number % 2 else 0.0)
        for kind, entries in json.loads(text).items()
        for number, entry in enumerate(entries)
    ]


def _answer(side: Ours, codec: Codec, case: Case, tokens: int, name: str) -> Answer:
    params = SamplingParams(max_tokens=tokens, temperature=case.temperature, seed=1)
    prompt = codec.encode_chat([{"role": "user", "content": case.prompt}])
    drawn: list[int] = []
    first = last = 0.0
    for delta in side.engine.generate_sync(GenerateRequest(name, prompt, params, cache_salt=name)):
        if delta.finish_reason in ("abort", "error"):
            raise DeepwellError(f"{case.name}: {delta.error or 'aborted'}")
        last = time.perf_counter()
        first = first or last
        drawn.extend(delta.tokens)
    return Answer(tuple(drawn), last - first)


def bench_speculation(
    report: Report, models: list[Path], *, threads: int, rounds: int = 3, tokens: int = 128
) -> dict[str, Any]:
    """Answers every prompt with speculation off and on, one at a time, in interleaved rounds.

    A ratio is the time without over the time with. The row's figures are the medians of the model that gains
    least; `different` counts the answers whose tokens differ in any round.
    """
    value: dict[str, Any] = {}
    for model in models:
        value[model.stem] = _one_model(report, model, threads, rounds, tokens)
    each = list(value.values())
    return {
        "repeating": min(figures["repeating"] for figures in each),
        "chat": min(figures["chat"] for figures in each),
        "different": sum(figures["different"] for figures in each),
        **value,
    }


def _one_model(report: Report, model: Path, threads: int, rounds: int, tokens: int) -> dict[str, Any]:
    codec = Codec.load(model)
    work = cases()
    ratios: dict[str, list[float]] = {case.name: [] for case in work}
    lengths: dict[str, int] = {}
    different: set[str] = set()
    depth: dict[str, tuple[int, int, int]] = {}  # tokens drafted, accepted, and steps they saved or not
    with ExitStack() as stack:
        sides: dict[str, Ours] = {}
        for speculation in ("off", "auto"):
            side = Ours(model, "int4", threads=threads, kv_tokens=2048, speculation=speculation)
            sides[speculation] = side
            stack.callback(side.close)
        for side in sides.values():
            _answer(side, codec, work[0], 16, "warm-up")
        for number in range(rounds):
            for position, case in enumerate(work):
                order = list(sides) if (number + position) % 2 else list(reversed(sides))
                answers: dict[str, Answer] = {}
                before = sides["auto"].engine.stats()
                for name in order:
                    time.sleep(SETTLE_SECONDS)
                    answers[name] = _answer(sides[name], codec, case, tokens, f"{case.name}-{number}-{name}")
                after = sides["auto"].engine.stats()
                if answers["off"].tokens != answers["auto"].tokens:
                    different.add(case.name)
                lengths[case.name] = len(answers["off"].tokens)
                if lengths[case.name] >= SHORTEST:
                    ratios[case.name].append(answers["off"].seconds / answers["auto"].seconds)
                depth[case.name] = (
                    after.drafted_tokens - before.drafted_tokens,
                    after.accepted_tokens - before.accepted_tokens,
                    after.steps - before.steps,
                )
    rows = [
        [
            case.kind,
            case.name,
            lengths[case.name],
            rounded(depth[case.name][1] / max(depth[case.name][0], 1), 2),
            rounded(depth[case.name][0] / max(depth[case.name][2], 1), 2),
            rounded(statistics.median(ratios[case.name]), 2) if ratios[case.name] else "too short",
        ]
        for case in work
    ]
    report.table(
        f"{model.stem}: seconds without speculation / with it, one sequence",
        ["kind", "prompt", "tokens", "accepted / drafted", "drafted a step", "ratio"],
        rows,
    )
    figures: dict[str, Any] = {"different": len(different)}
    for kind in ("repeating", "chat"):
        names = [case.name for case in work if case.kind == kind]
        timed = [statistics.median(ratios[name]) for name in names if ratios[name]]
        drafted, accepted, steps = (sum(depth[name][i] for name in names) for i in range(3))
        figures |= {
            kind: rounded(statistics.median(timed), 3),
            f"{kind}_range": [rounded(min(timed), 3), rounded(max(timed), 3)],
            f"{kind}_timed": len(timed),
            f"{kind}_accepted": rounded(accepted / max(drafted, 1), 3),
            f"{kind}_depth": rounded(drafted / max(steps, 1), 3),
        }
    return figures
