"""The gain of an adapter as it is served: in int4 beside fp32, and a prompt with examples for the base beside both.

One adapter is trained once on topics of BBC News in chat form; the engine that serves measures it on the frozen held-out
articles, which training never sees.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from deepwell.cli.bench.report import Report, rounded
from deepwell.tuning.evaluate.likelihood import Scorer, choice_measures
from deepwell.tuning.evaluate.statistics import Measure, difference
from deepwell.tuning.evaluate.subjects import SubjectName, open_subjects
from deepwell.tuning.evaluate.tasks import Prompt
from deepwell_bench.harness.assets import bench_cache, repository
from deepwell_bench.harness.environments import PeerError, build_lock
from deepwell_bench.workloads.tuning.labelled import LabelledText, bbc_news

__all__ = ["bench_served_precision", "topic_adapter"]

_CHARACTERS: Final = 600  # of an article
_EXAMPLE: Final = 300  # of an article among the examples of a prompt
_TRAINED: Final = 600  # articles of the pool
_CLASSES: Final = ("business", "entertainment", "politics", "sports", "tech")
_ASK: Final = "Name the topic of this article in one word: {}.\n\n{}"


def bench_served_precision(report: Report, model: str, *, rows: int = 300) -> dict[str, Any]:
    """Returns the gains of accuracy and of loss in fp32 and in int4, and their ratios.

    Args:
        model: a name in the store, or a path.
        rows: held-out articles.

    Raises:
        PeerError: the adapter cannot be trained, for want of torch say.
    """
    adapter = topic_adapter(report, model)
    held_out = bbc_news().held_out[:rows]
    plain = [_prompt(number, one) for number, one in enumerate(held_out)]
    examples = _examples()
    shown = [_prompt(number, one, examples) for number, one in enumerate(held_out)]
    found: dict[tuple[str, str], dict[str, Measure]] = {}
    names = [SubjectName("base", model), SubjectName("adapter", model, adapter)]
    for precision in ("fp32", "int4"):
        with open_subjects(names, {"precision": precision, "context": 2048}) as (base, tuned):
            for side, subject, prompts in (
                ("base", base, plain),
                ("examples", base, shown),
                ("adapter", tuned, plain),
            ):
                scores = Scorer(subject, chat=True).choices(prompts, lambda _: None)
                found[precision, side] = {one.name: one for one in choice_measures(prompts, scores)}
    table: list[tuple[str, str, float, float]] = []
    value: dict[str, Any] = {"rows": len(held_out)}
    gains: dict[tuple[str, str], float] = {}
    for precision in ("fp32", "int4"):
        base = found[precision, "base"]
        for side in ("base", "examples", "adapter"):
            measures = found[precision, side]
            table.append((precision, side, measures["acc"].value, measures["choice_loss"].value))
            value[f"{precision}_{side}_acc"] = rounded(measures["acc"].value)
            value[f"{precision}_{side}_loss"] = rounded(measures["choice_loss"].value)
        for metric in ("acc", "choice_loss"):
            change = difference(base[metric], found[precision, "adapter"][metric])
            gains[precision, metric] = abs(change.value) if change.verdict == "better" else 0.0
    report.table("Topics of held-out articles", ("precision", "side", "accuracy", "choice loss"), table)
    for metric, name in (("acc", "accuracy_gain"), ("choice_loss", "loss_gain")):
        full, served = gains["fp32", metric], gains["int4", metric]
        value |= {f"{name}_fp32": rounded(full), f"{name}_int4": rounded(served)}
        value[f"{name}_kept"] = rounded(served / full) if full else 0.0
    return value


def topic_adapter(report: Report, model: str) -> Path:
    """Returns the folder of the adapter, trained once and kept in the cache.

    Raises:
        PeerError: there is no Python with torch and peft, or training fails.
    """
    examples = bbc_news().pool[:_TRAINED]
    lines = "".join(json.dumps(_record(one), ensure_ascii=False) + "\n" for one in examples)
    config = {
        "model": model,
        "validation": 0.05,
        "train": {"epochs": 1, "batch_tokens": 2048, "max_tokens": 512, "learning_rate": 5e-4, "patience": 0},
    }
    digest = hashlib.sha256((lines + json.dumps(config, sort_keys=True)).encode()).hexdigest()[:16]
    folder = bench_cache() / "tuning" / f"topics-{digest}"
    adapter = folder / "adapter"
    with build_lock(folder):
        if (adapter / "adapter_model.safetensors").exists():
            return adapter
        (folder / "train.jsonl").write_text(lines, encoding="utf-8")
        whole = config | {"data": [str(folder / "train.jsonl")], "output": str(folder)}
        (folder / "config.json").write_text(json.dumps(whole), encoding="utf-8")
        report.note(f"training an adapter on {len(examples)} articles in {folder}, once")
        _train(report, folder)
    return adapter


def _train(report: Report, folder: Path) -> None:
    command = [str(_tuning_python()), "-m", "deepwell.tuning.train.worker", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(repository() / "src")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            if event.get("event") in ("validation", "done"):
                report.note(json.dumps(event, ensure_ascii=False))
            if event.get("event") == "error":
                raise PeerError(str(event.get("message")), fix=str(event.get("fix")))
    if process.returncode:
        raise PeerError(f"training ended with {process.returncode}", fix=f"see {folder}")


def _tuning_python() -> Path:
    """Returns an interpreter with torch and peft: this one, or that of `make tune`."""
    if importlib.util.find_spec("torch") and importlib.util.find_spec("peft"):
        return Path(sys.executable)
    python = repository() / ".venv-tune" / "bin" / "python"
    if not python.exists():
        raise PeerError("there is no Python with torch to train with", fix="run `make tune`")
    return python


def _question(text: str) -> str:
    return _ASK.format(", ".join(_CLASSES), text[:_CHARACTERS])


def _record(one: LabelledText) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": _question(one.text)},
            {"role": "assistant", "content": one.label},
        ]
    }


def _examples() -> Sequence[LabelledText]:
    """Returns the first article of each class in the pool."""
    first = {one.label: one for one in reversed(bbc_news().pool)}
    return [first[name] for name in _CLASSES]


def _prompt(number: int, one: LabelledText, examples: Sequence[LabelledText] = ()) -> Prompt:
    turns = [
        message
        for example in examples
        for message in _record(LabelledText(example.text[:_EXAMPLE], example.label))["messages"]
    ]
    messages = (*turns, {"role": "user", "content": _question(one.text)})
    return Prompt(number, messages, "", _CLASSES, _CLASSES.index(one.label), "")
