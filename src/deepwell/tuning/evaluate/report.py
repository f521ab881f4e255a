"""The report of an evaluation: the table of differences, and a folder that keeps everything behind it."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from deepwell.tuning.evaluate.comparison import Comparison, plain_name
from deepwell.tuning.evaluate.run import Evaluation, Work
from deepwell.tuning.evaluate.statistics import Estimate, Measure, estimate
from deepwell.version import deepwell_version

__all__ = ["report_json", "save", "shown", "values_of"]

_PACKAGES = ("numpy", "tokenizers", "jinja2", "matplotlib", "tensorboard")


def values_of(evaluation: Evaluation) -> dict[str, dict[str, dict[str, Any]]]:
    """Returns the values of a model with their intervals, by task and metric."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for (task, name), measure in evaluation.measures.items():
        found.setdefault(task, {})[name] = {
            **asdict(estimate(measure)),
            "unit": measure.unit,
            "better": measure.better,
        }
    return found


def report_json(
    work: Work, evaluations: Sequence[Evaluation], comparisons: Sequence[Comparison]
) -> dict[str, Any]:
    """Returns the whole report but its samples as plain values."""
    return {
        "models": {one.label: {"facts": one.facts, "metrics": values_of(one)} for one in evaluations},
        "comparisons": [asdict(one) for one in comparisons],
        "config": config_of(work, evaluations),
    }


def config_of(work: Work, evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """Returns what the report was made of: tasks with their files' hashes, options, models and versions."""
    plan = work.plan
    return {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "tasks": [
            {
                "file": str(task.path),
                "rows": len(work.rows[task.name]),
                "data_sha256": task.data,
                **task.config.model_dump(exclude_defaults=True),
            }
            for task in plan.tasks
        ],
        "texts": [str(path) for path in plan.texts],
        "prompts": len(plan.prompts),
        "chat": plan.chat,
        "limit": plan.limit,
        "models": {one.label: one.facts for one in evaluations},
        "versions": {
            "deepwell": deepwell_version(),
            "python": platform.python_version(),
            **{name: found for name in _PACKAGES if (found := _installed(name))},
        },
    }


def save(
    folder: Path, work: Work, evaluations: Sequence[Evaluation], comparisons: Sequence[Comparison]
) -> list[str]:
    """Writes a report and returns the names of what was left out because a package is missing.

    The folder gets config.json, metrics.json and samples.jsonl; PNG plots with matplotlib, and TensorBoard's events with
    tensorboard, where these are installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", config_of(work, evaluations))
    whole = report_json(work, evaluations, comparisons)
    _write_json(folder / "metrics.json", {"models": whole["models"], "comparisons": whole["comparisons"]})
    with (folder / "samples.jsonl").open("w", encoding="utf-8") as file:
        for evaluation in evaluations:
            file.writelines(json.dumps(one, ensure_ascii=False) + "\n" for one in evaluation.samples)
    missing: list[str] = []
    try:
        from deepwell.tuning.evaluate.plots import plot

        plot(folder / "plots", evaluations, comparisons)
    except ModuleNotFoundError:
        missing.append("matplotlib")
    try:
        write_scalars(folder / "tensorboard", evaluations)
    except ModuleNotFoundError:
        missing.append("tensorboard")
    return missing


def write_scalars(folder: Path, evaluations: Sequence[Evaluation]) -> None:
    """Writes the values of each model as TensorBoard scalars, a run for each model.

    Raises:
        ModuleNotFoundError: tensorboard is not installed.
    """
    from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportMissingImports, reportMissingModuleSource, reportAttributeAccessIssue]
    from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportMissingImports, reportMissingModuleSource, reportAttributeAccessIssue]
    from tensorboard.summary.writer.event_file_writer import (  # pyright: ignore[reportMissingImports]
        EventFileWriter,
    )

    for evaluation in evaluations:
        writer = EventFileWriter(str(folder / plain_name(evaluation.label)))
        for (task, name), measure in evaluation.measures.items():
            value = Summary.Value(tag=f"{task}/{name}", simple_value=measure.value)
            writer.add_event(Event(step=0, summary=Summary(value=[value])))
        writer.close()


def shown(value: float, unit: str, *, signed: bool = False) -> str:
    """Returns a value as tables show it: shares in per cent, others with four digits, differences with three."""
    if unit == "share":
        return f"{100 * value:{'+' if signed else ''}.1f}"
    return f"{value:+.3g}" if signed else f"{value:.4g}"


def interval_of(measure: Measure) -> Estimate:
    """Returns the value of a measure with its interval."""
    return estimate(measure)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2, default=str) + "\n", encoding="utf-8")


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
