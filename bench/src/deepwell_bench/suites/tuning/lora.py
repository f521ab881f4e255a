"""LoRA on a real task: topics of BBC News as conversations. The held-out documents are frozen by hash and never trained on.

Loss and accuracy are measured on the engine that serves, with the adapter beside the base, and their gains have bootstrap
intervals over the held-out documents.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from deepwell.cli.bench.report import Report, rounded
from deepwell.dialogue.text import Codec
from deepwell.llm import LLM
from deepwell.tuning.data.records import Record
from deepwell.tuning.train.examples import Example, render
from deepwell_bench.suites.tuning.runs import TrainingRun, need_torch, train
from deepwell_bench.workloads.tuning.labelled import LabelledText, bbc_news

__all__ = ["bench_lora"]

WORDS: Final = 60  # of a document: its beginning names the topic
SETTINGS: Final = {
    "batch_tokens": 2048,
    "learning_rate": 5e-4,
    "max_tokens": 256,
    "evaluate_every": 1000,
    "patience": 0,
}
FULL_STEPS: Final = 6
_RESAMPLES: Final = 2000


def bench_lora(
    report: Report, model: Path, *, seeds: int = 3, examples: int = 400, held_out: int = 200
) -> dict[str, Any]:
    """Trains an adapter for each seed and compares it with the base; then a few steps of full fine-tuning.

    Args:
        examples: documents that each seed draws from the pool to train on.
        held_out: documents of the frozen held-out set that are measured.

    Raises:
        PeerError: this environment has no torch, or a run failed.
    """
    need_torch("lora")
    data = bbc_news()
    frozen = data.held_out[:held_out]
    codec = Codec.load(model)
    rendered = [render(Record(tuple(_messages(one, data.classes))), codec, 4 * WORDS + 100) for one in frozen]
    with tempfile.TemporaryDirectory() as folder:
        runs = [
            _run(Path(folder) / f"seed-{seed}", model, _drawn(data.pool, examples, seed), data.classes, seed)
            for seed in range(seeds)
        ]
        full = _full(Path(folder) / "full", model, _drawn(data.pool, examples, 0), data.classes)
        measured = _measured(model, [one.artefact for one in runs], frozen, rendered, data.classes)
    base_loss, base_right = measured[0]
    gains = [(base_loss - loss, right - base_right) for loss, right in measured[1:]]
    intervals = [tuple(_low(gain) for gain in pair) for pair in gains]
    plan = runs[0].plan
    value = {
        "trainable": plan["trainable"],
        "share": rounded(plan["trainable"] / plan["parameters"], 5),
        "seeds": seeds,
        "held_out": len(frozen),
        "base_loss": rounded(float(base_loss.mean()), 3),
        "loss": rounded(float(np.mean([loss.mean() for loss, _ in measured[1:]])), 3),
        "loss_gain_low": rounded(min(low for low, _ in intervals), 3),
        "base_accuracy": rounded(float(base_right.mean()), 3),
        "accuracy": rounded(float(np.mean([right.mean() for _, right in measured[1:]])), 3),
        "accuracy_gain_low": rounded(min(low for _, low in intervals), 3),
        "step_s": rounded(float(np.median([one.step_s for one in runs])), 2),
        "full_step_s": rounded(full.step_s, 2),
        "peak_mb": max(one.peak_bytes for one in runs) >> 20,
        "planned_mb": plan["peak_bytes"] >> 20,
        "full_peak_mb": full.peak_bytes >> 20,
        "full_planned_mb": full.plan["peak_bytes"] >> 20,
    }
    value["step_share"] = rounded(value["step_s"] / value["full_step_s"], 2)
    value["memory_share"] = rounded(value["peak_mb"] / value["full_peak_mb"], 2)
    _show(report, measured, intervals, value)
    return value


def _messages(one: LabelledText, classes: Sequence[str]) -> list[dict[str, str]]:
    text = " ".join(one.text.split()[:WORDS])
    ask = f"Which topic is this news about: {', '.join(classes)}? Answer with one word.\n\n{text}"
    return [{"role": "user", "content": ask}, {"role": "assistant", "content": one.label}]


def _drawn(pool: Sequence[LabelledText], count: int, seed: int) -> list[LabelledText]:
    return random.Random(seed).sample(list(pool), count)  # noqa: S311  # a draw of a benchmark


def _run(
    folder: Path,
    model: Path,
    texts: Sequence[LabelledText],
    classes: Sequence[str],
    seed: int,
    **changes: Any,
) -> TrainingRun:
    folder.mkdir(parents=True)
    lines = (json.dumps({"messages": _messages(one, classes)}) for one in texts)
    (folder / "data.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    config: dict[str, Any] = {"model": str(model), "data": "data.jsonl", "validation": 0, **changes}
    config["train"] = {**SETTINGS, "seed": seed, **changes.get("train", {})}
    return train(config, folder)


def _full(folder: Path, model: Path, texts: Sequence[LabelledText], classes: Sequence[str]) -> TrainingRun:
    """Trains every weight for a few steps, for their time and memory: pieces have the tokens of LoRA's."""
    changes = {
        "method": "full",
        "train": {"steps": FULL_STEPS, "learning_rate": 1e-5, "save_every": FULL_STEPS},
    }
    return _run(folder, model, texts, classes, 0, **changes)


def _measured(
    model: Path,
    adapters: Sequence[Path],
    texts: Sequence[LabelledText],
    rendered: Sequence[Example],
    classes: Sequence[str],
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns the loss and the rightness of each document, for the base and for each adapter."""
    found: list[tuple[np.ndarray, np.ndarray]] = []
    questions = [_messages(one, classes)[:1] for one in texts]
    with LLM(model, context=1024) as llm:
        for number, folder in enumerate((None, *adapters)):
            name = "" if folder is None else f"seed-{number}"
            if folder is not None:
                llm.load_adapter(name, folder)
            scores = llm.score([one.token_ids for one in rendered], adapter=name)
            losses = [
                -sum(p for p, marked in zip(score.logprobs, one.loss_mask[1:], strict=True) if marked)
                / one.labelled
                for score, one in zip(scores, rendered, strict=True)
            ]
            answers = llm.chat(questions, adapter=name, temperature=0, max_tokens=16, choice=list(classes))
            right = [float(answer.text == one.label) for answer, one in zip(answers, texts, strict=True)]
            found.append((np.array(losses), np.array(right)))
    return found


def _low(gains: np.ndarray) -> float:
    """Returns the lower end of the 95 % bootstrap interval of a mean gain over documents."""
    rng = np.random.default_rng(0)
    means = gains[rng.integers(0, len(gains), (_RESAMPLES, len(gains)))].mean(1)
    return float(np.quantile(means, 0.025))


def _show(
    report: Report, measured: Sequence[tuple[np.ndarray, np.ndarray]], lows: Sequence[Any], value: Any
) -> None:
    rows = [["base", f"{measured[0][0].mean():.3f}", "", f"{measured[0][1].mean():.1%}", ""]]
    for number, ((loss, right), (low_loss, low_right)) in enumerate(zip(measured[1:], lows, strict=True)):
        rows.append(
            [
                f"seed {number}",
                f"{loss.mean():.3f}",
                f"{low_loss:+.3f}",
                f"{right.mean():.1%}",
                f"{low_right:+.1%}",
            ]
        )
    report.table(
        f"Topics of BBC News, {value['held_out']} held-out documents, on the engine",
        ["model", "loss", "gain at least", "accuracy", "gain at least"],
        rows,
    )
    report.table(
        "A step of the same tokens, and the peak memory of the process",
        ["method", "trained", "s/step", "peak MB", "planned MB"],
        [
            ["LoRA", value["trainable"], value["step_s"], value["peak_mb"], value["planned_mb"]],
            ["full", "all", value["full_step_s"], value["full_peak_mb"], value["full_planned_mb"]],
        ],
    )
