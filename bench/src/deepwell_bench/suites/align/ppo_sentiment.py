"""PPO for the sentiment of continued film reviews, by a classifier of words; a judge of hidden states is never trained against.

The classifier, the judge and the prompts come from different sentences of the pool of Rotten Tomatoes. What is measured are the
beginnings of held-out sentences, which are frozen by hash.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from deepwell.cli.bench.report import Report, rounded
from deepwell_bench.suites.tuning.runs import need_torch
from deepwell_bench.workloads.tuning.labelled import LabelledText, rotten_tomatoes

__all__ = ["bench_ppo_sentiment"]

CLASSIFIER, JUDGE = 4000, 1000
BEGINNING: Final = "My honest opinion of this movie: "
WORDS: Final = 4
HELD_OUT: Final = 256
ITERATIONS: Final = 20
KL_BUDGET: Final = 0.2  # nats a token, 2.4 an answer
_RESAMPLES: Final = 2000
SETTINGS: Final[dict[str, Any]] = {
    "prompts": 192,
    "new_tokens": 12,
    "epochs": 1,
    "learning_rate": 1e-3,
    "save_every": ITERATIONS,
}
"""Many short answers: with 48 of 24 tokens, chance hid in five iterations what an answer owed to each of its words."""


def bench_ppo_sentiment(report: Report, model: Path, *, seed: int = 0) -> dict[str, Any]:
    """Runs 20 iterations of PPO and returns what they changed on held-out prompts.

    Raises:
        PeerError: this environment has no torch.
    """
    need_torch("ppo-sentiment")
    from deepwell.tuning.align.ppo.config import parse_config
    from deepwell.tuning.align.ppo.run import run_ppo

    data = rotten_tomatoes()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        pool = list(data.pool)
        parts = pool[:CLASSIFIER], pool[CLASSIFIER : CLASSIFIER + JUDGE], pool[CLASSIFIER + JUDGE :]
        _write(folder / "classifier.jsonl", [{"text": one.text, "label": one.label} for one in parts[0]])
        _write(folder / "judge.jsonl", [{"text": one.text, "label": one.label} for one in parts[1]])
        _write(folder / "prompts.jsonl", _prompts(parts[2]))
        _write(folder / "held_out.jsonl", _prompts(data.held_out)[:HELD_OUT])
        config = parse_config(
            {
                "model": str(model),
                "data": [str(folder / "prompts.jsonl")],
                "validation": [str(folder / "held_out.jsonl")],
                "reward": _reward("classifier", folder / "classifier.jsonl"),
                "judge": _reward("states", folder / "judge.jsonl"),
                "train": {"iterations": ITERATIONS, "kl_budget": KL_BUDGET, "seed": seed, **SETTINGS},
            }
        )
        steps: list[dict[str, Any]] = []
        began = time.perf_counter()

        def take(event: dict[str, Any]) -> None:
            if event["event"] == "step":
                steps.append(event)

        (folder / "run").mkdir()
        artefact = run_ppo(config, folder / "run", on_event=take)
        minutes = (time.perf_counter() - began) / 60
        metrics = json.loads((artefact / "deepwell.json").read_text(encoding="utf-8"))["metrics"]
        sides = json.loads((folder / "run" / "held_out.json").read_text(encoding="utf-8"))
    value = _value(metrics, sides, steps) | {"minutes": rounded(minutes, 1), "seed": seed}
    _show(report, metrics, sides, steps)
    return value


def _prompts(texts: Sequence[LabelledText]) -> list[dict[str, str]]:
    """Returns the beginnings of sentences that go on."""
    found = [one.text.split() for one in texts]
    return [{"prompt": BEGINNING + " ".join(words[:WORDS])} for words in found if len(words) > 2 * WORDS]


def _reward(kind: str, data: Path) -> dict[str, Any]:
    return {"type": kind, "data": [str(data)], "label": "positive"}


def _write(path: Path, lines: Sequence[Any]) -> None:
    path.write_text("".join(json.dumps(one) + "\n" for one in lines), encoding="utf-8")


def _value(metrics: Any, sides: Any, steps: Sequence[Any]) -> dict[str, Any]:
    base, tuned = metrics["base"], metrics["tuned"]
    gains = np.array(sides["tuned"]["reward"]) - np.array(sides["base"]["reward"])
    judged = np.array(sides["tuned"]["judge"]) - np.array(sides["base"]["judge"])
    return {
        "iterations": len(steps),
        "held_out": metrics["prompts"],
        "score_base": rounded(base["reward"], 3),
        "score": rounded(tuned["reward"], 3),
        "gain": rounded(float(gains.mean()), 3),
        "gain_low": rounded(_low(gains), 3),
        "judge_gain": rounded(float(judged.mean()), 3),
        "judge_gain_low": rounded(_low(judged), 3),
        "perplexity_base": rounded(base["perplexity"], 2),
        "perplexity_ratio": rounded(tuned["perplexity"] / base["perplexity"], 3),
        "distinct_2_ratio": rounded(tuned["distinct_2"] / base["distinct_2"], 3),
        "kl": rounded(tuned["kl"], 4),
        "kl_budget": KL_BUDGET,
        "kl_share": rounded(tuned["kl"] / KL_BUDGET, 3),
        "taken_back": metrics["taken_back"],
    }


def _low(gains: np.ndarray) -> float:
    """Returns the lower end of the 95 % bootstrap interval of a mean gain over prompts."""
    rng = np.random.default_rng(0)
    means = gains[rng.integers(0, len(gains), (_RESAMPLES, len(gains)))].mean(1)
    return float(np.quantile(means, 0.025))


def _show(report: Report, metrics: Any, sides: Any, steps: Sequence[Any]) -> None:
    names = ("reward", "judge", "perplexity", "distinct_2", "tokens", "ended", "kl")
    report.table(
        f"Answers to {metrics['prompts']} held-out prompts, the same seeds for both",
        ("", "base", "tuned"),
        [(name, f"{metrics['base'][name]:.3f}", f"{metrics['tuned'][name]:.3f}") for name in names],
    )
    report.table(
        "Iterations",
        ("iteration", "score", "judge", "divergence", "entropy"),
        [
            (one["step"], *(f"{one[name]:.3f}" for name in ("reward", "judge", "kl", "entropy")))
            for one in steps
            if one["step"] % 4 in (0, 1)
        ],
    )
    report.table(
        "The first answers",
        ("prompt", "base", "tuned"),
        [
            (one["prompt"], one["answer"][:60].replace("\n", " "), two["answer"][:60].replace("\n", " "))
            for one, two in zip(sides["base"]["samples"], sides["tuned"]["samples"], strict=True)
        ],
    )
