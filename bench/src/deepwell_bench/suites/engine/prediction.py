"""The cost and the gain of a multi-token prediction layer's drafts: random weights whose layer is right more or less often.

A draft costs a pass of the layer and a row of the step; how many tokens it brings is a property of the weights, which
cannot be had here. So the layer's agreement is set by noise, and the table shows from which share of right drafts on
speculation pays, beside what the engine expects (`RowCost`).
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from deepwell.cli.bench.report import Report, rounded
from deepwell.engine.core.loop import InProcessEngine
from deepwell.engine.limits import Limits, RowCost
from deepwell.engine.load import open_engine
from deepwell.engine.options import EngineOptions
from deepwell.engine.protocol import GenerateRequest, SamplingParams
from deepwell.engine.row_cost import expected_row_cost
from deepwell.engine.weights.synth import shape_config, synthesize
from deepwell.models.formats.checkpoint import open_checkpoint

__all__ = ["bench_prediction"]

LAYERS: Final = 6  # of mixture-1b's ten
NOISE: Final = (0.0, 6.0, 12.0)
PROMPT_TOKENS: Final = 64
KV_TOKENS: Final = 2048
EAGER: Final = RowCost(0.0, 0.0)


@dataclass(frozen=True, slots=True)
class _Run:
    """One answer: its tokens, seconds a token and a step, and what was drafted."""

    tokens: tuple[int, ...]
    token_seconds: float
    step_seconds: float
    predicted: int
    accepted: int


class _TimedEngine:
    def __init__(self, path: Path, threads: int, limits: Limits) -> None:
        engine = open_engine(
            path,
            EngineOptions(precision="int8", threads=threads, kv_tokens=KV_TOKENS, limits=limits),
            quiet=True,
        )
        assert isinstance(engine, InProcessEngine)
        self.engine, self._count = engine, 0

    def run(self, prompt: list[int], tokens: int) -> _Run:
        """Times an answer from the first token to the last."""
        self._count += 1
        params = SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True)
        said: list[int] = []
        last = first = 0.0
        skipped = 0
        before = self.engine.stats()
        name = f"prediction-{self._count}"
        for delta in self.engine.generate_sync(GenerateRequest(name, prompt, params, cache_salt=name)):
            last = time.perf_counter()
            if not said:
                first, skipped = last, len(delta.tokens)
            said += delta.tokens
        after = self.engine.stats()
        return _Run(
            tuple(said),
            (last - first) / (len(said) - skipped),
            (last - first) / (after.steps - before.steps - 1),
            after.predicted_tokens - before.predicted_tokens,
            after.accepted_predictions - before.accepted_predictions,
        )


def _pairs(runs: dict[str, list[_Run]], name: str, figure: str) -> list[tuple[float, float]]:
    """Measures a figure of "off" and of another side, round by round; the first warms both."""
    pairs = list(zip(runs["off"], runs[name], strict=True))[1:]
    return [(getattr(off, figure), getattr(other, figure)) for off, other in pairs]


def bench_prediction(report: Report, *, threads: int, rounds: int = 5, tokens: int = 96) -> dict[str, Any]:
    """Times one sequence without drafts, with one in every step, and with as many as the engine thinks fit."""
    rows: list[list[Any]] = []
    value: dict[str, Any] = {"different": 0}
    costs: list[float] = []
    expected = RowCost()
    for noise in NOISE:
        with TemporaryDirectory(prefix="deepwell-prediction-") as folder:
            path = Path(folder) / "model"
            synthesize(path, shape_config("mixture-1b", LAYERS, prediction=True), predictable=noise)
            expected = expected_row_cost(open_checkpoint(path).config)
            sides = {
                "off": _TimedEngine(path, threads, Limits(draft_depth=0)),
                "one": _TimedEngine(path, threads, Limits(draft_depth=1, row_cost=EAGER)),
                "auto": _TimedEngine(path, threads, Limits()),
            }
            try:
                runs: dict[str, list[_Run]] = {name: [] for name in sides}
                for number in range(rounds + 1):
                    prompt = [(7 * number + i * 31) % 9000 for i in range(PROMPT_TOKENS)]
                    for name, side in sides.items():
                        runs[name].append(side.run(prompt, tokens))
            finally:
                for side in sides.values():
                    side.engine.close()
        value["different"] += sum(
            off.tokens != other.tokens
            for name in ("one", "auto")
            for off, other in zip(runs["off"], runs[name], strict=True)
        )

        cost = statistics.median(one / off for off, one in _pairs(runs, "one", "step_seconds"))
        costs.append(cost)
        one, auto = (
            statistics.median(off / other for off, other in _pairs(runs, name, "token_seconds"))
            for name in ("one", "auto")
        )
        made = sum(run.predicted for run in runs["one"])
        right = sum(run.accepted for run in runs["one"]) / max(1, made)
        predicted = sum(run.predicted for run in runs["auto"][1:]) / rounds / tokens
        rows.append([f"noise {noise:g}", right, cost, one, auto, predicted])
        value[f"share_{noise:g}"] = rounded(right, 3)
        value[f"one_{noise:g}"], value[f"auto_{noise:g}"] = rounded(one, 3), rounded(auto, 3)
    measured, planned = statistics.median(costs), 1 + expected.second + expected.predict
    report.table(
        f"one sequence, {LAYERS} layers of mixture-1b and a prediction layer, int8, medians of {rounds}",
        [
            "",
            "first drafts right",
            "step with a draft",
            "tokens/s, one",
            "tokens/s, auto",
            "drafts a token, auto",
        ],
        rows,
    )
    report.note(
        f"a step with one draft costs {measured:.2f} steps without, {planned:.2f} expected (a second row "
        f"{expected.second:.2f}, a pass of the layer {expected.predict:.2f}): it pays where more than "
        f"{measured - 1:.0%} of the drafts are right"
    )
    return value | {"step_with_draft": rounded(measured, 3), "step_expected": rounded(planned, 3)}
