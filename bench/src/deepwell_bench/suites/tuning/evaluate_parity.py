"""Evaluation beside lm-eval: the same task files, the same model and engine, and the figures of both programs.

lm-eval reads the files, makes the prompts, cuts the tokens and computes its metrics by itself; only tokens, likelihoods and
answers come from the engine.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deepwell.cli.bench.report import Report, rounded
from deepwell.llm import LLM
from deepwell.tuning.evaluate.run import Plan, evaluate, work_of
from deepwell.tuning.evaluate.subjects import Subject, SubjectName
from deepwell.tuning.evaluate.tasks import Task, read_task
from deepwell_bench.harness.environments import Environment, Install, PeerError, environment_python
from deepwell_bench.workloads.tuning.labelled import LabelledSet, bbc_news, rotten_tomatoes

__all__ = ["LM_EVAL", "bench_evaluate_parity", "lm_eval_results"]

LM_EVAL = Environment(
    name="lm-eval",
    variable="DEEPWELL_LM_EVAL_PYTHON",
    installs=(Install(("lm_eval==0.4.13",)),),
    check="import lm_eval.evaluator",
    download_mb=120,
    disk_mb=600,
    minutes=2,
)

_WORKER = Path(__file__).parents[2] / "workers" / "tuning" / "lm_eval_worker.py"
_CHOICES = [{"metric": name} for name in ("acc", "acc_norm", "acc_bytes")]
_CHARACTERS = 800  # of a news text


def bench_evaluate_parity(report: Report, model: str | Path, *, rows: int = 200) -> dict[str, Any]:
    """Returns the largest difference between the figures of Deepwell and of lm-eval, and the figures.

    Args:
        rows: held-out rows of each task.
    """
    with tempfile.TemporaryDirectory() as folder:
        tasks = [read_task(path) for path in _task_files(Path(folder), rows)]
        with LLM(model, context=2048) as llm:
            subject = Subject(SubjectName("model", str(model)), llm)
            ours = _ours(subject, tasks)
            theirs = lm_eval_results(report, subject, tasks)
    table: list[tuple[str, str, float, float]] = []
    for task, values in theirs.items():
        for metric, value in values.items():
            if metric in ours[task]:
                table.append((task, metric, ours[task][metric], float(value)))
    report.table("Deepwell and lm-eval 0.4.13", ("task", "metric", "Deepwell", "lm-eval"), table)
    shares = [row for row in table if "perplexity" not in row[1] and "bits" not in row[1]]
    others = [row for row in table if row not in shares]
    return {
        "compared": len(table),
        "largest_share_difference": max(abs(mine - other) for _, _, mine, other in shares),
        "largest_relative_difference": rounded(max(abs(mine / other - 1) for _, _, mine, other in others)),
        "rows": rows,
        **{
            f"{task}_{metric}": rounded(mine)
            for task, metric, mine, _ in table
            if metric in ("acc", "exact_match")
        },
    }


def lm_eval_results(report: Report, subject: Subject, tasks: Sequence[Task]) -> dict[str, dict[str, float]]:
    """Returns lm-eval's figures of tasks on an open model, by task and metric.

    Raises:
        PeerError: lm-eval cannot be built, or fails.
    """
    python = environment_python(LM_EVAL, report.console)
    configs = [_config(task) for task in tasks]
    llm = subject.llm
    with subprocess.Popen(
        [str(python), str(_WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        first = {"tasks": configs, "first": llm.first_token, "context": llm.context, "limit": None}
        try:
            process.stdin.write(json.dumps(first) + "\n")
            process.stdin.flush()
            for line in process.stdout:
                asked = json.loads(line)
                if "done" in asked:
                    return asked["done"]
                process.stdin.write(json.dumps(_answer(subject, asked)) + "\n")
                process.stdin.flush()
        finally:
            process.kill()
    raise PeerError("lm-eval ended without results", fix="see what it printed above")


def _answer(subject: Subject, asked: Mapping[str, Any]) -> Any:
    llm, adapter = subject.llm, subject.adapter
    match asked["do"]:
        case "encode":
            tokens = llm.encode(asked["text"])
            return tokens if asked["framed"] else llm.unframed(tokens)
        case "score":
            pairs = [(list(context), list(continuation)) for context, continuation in asked["pairs"]]
            scores = llm.score(pairs, adapter=adapter)
            # Greedy or not is asked for by no metric of these tasks.
            return [(sum(score.logprobs), False) for score in scores]
        case _:
            return [
                llm.generate(
                    prompt,
                    adapter=adapter,
                    max_tokens=kwargs["max_gen_toks"],
                    temperature=0,
                    stop=kwargs["until"],
                ).text
                for prompt, kwargs in asked["prompts"]
            ]


def _ours(subject: Subject, tasks: Sequence[Task]) -> dict[str, dict[str, float]]:
    found = evaluate(subject, work_of(Plan(tuple(tasks))))
    values: dict[str, dict[str, float]] = {}
    for (task, name), measure in found.measures.items():
        values.setdefault(task, {})[name] = measure.value
    return values


def _config(task: Task) -> dict[str, Any]:
    config = task.config.model_dump(exclude_defaults=True, exclude_none=True)
    return {
        "doc_to_text": "",
        **config,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": task.files()},
    }


def _task_files(folder: Path, rows: int) -> list[Path]:
    """Writes five task files: choices without and with examples, sentiment, generation and the loss of texts."""
    _write_rows(folder / "bbc.jsonl", bbc_news(), rows)
    _write_rows(folder / "bbc_examples.jsonl", bbc_news(), 3, held_out=False)
    _write_rows(folder / "movies.jsonl", rotten_tomatoes(), rows)
    bbc = {"test": "bbc.jsonl", "train": "bbc_examples.jsonl"}
    topic = {
        "output_type": "multiple_choice",
        "doc_to_text": "{{text}}\nTopic of this article:",
        "doc_to_choice": list(bbc_news().classes),
        "doc_to_target": "{{number}}",
        "metric_list": _CHOICES,
    }
    tasks: list[dict[str, Any]] = [
        {"task": "topics", "dataset_kwargs": {"data_files": bbc}, **topic},
        {
            "task": "topics_examples",
            "dataset_kwargs": {"data_files": bbc},
            **topic,
            "description": "Name the topic of each article.\n\n",
            "num_fewshot": 2,
            "fewshot_split": "train",
            "fewshot_config": {"sampler": "first_n"},
        },
        {
            "task": "sentiment",
            "dataset_kwargs": {"data_files": {"test": "movies.jsonl"}},
            "output_type": "multiple_choice",
            "doc_to_text": "Review: {{text}}\nThis review is",
            "doc_to_choice": ["negative", "positive"],
            "doc_to_target": "label",
            "metric_list": _CHOICES,
        },
        {
            "task": "written_topics",
            "dataset_kwargs": {"data_files": bbc},
            "num_fewshot": 2,
            "fewshot_split": "train",
            "fewshot_config": {"sampler": "first_n"},
            "output_type": "generate_until",
            "doc_to_text": "{{text}}\nTopic of this article, one of business, entertainment, politics, sports and tech:",
            "doc_to_target": "label",
            "generation_kwargs": {"until": ["\n", "."], "max_gen_toks": 8},
            "filter_list": [
                {"name": "bare", "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}]}
            ],
            "metric_list": [
                {
                    "metric": "exact_match",
                    "aggregation": "mean",
                    "higher_is_better": True,
                    "ignore_case": True,
                }
            ],
        },
        {
            "task": "texts",
            "dataset_kwargs": {"data_files": {"test": "bbc.jsonl"}},
            "output_type": "loglikelihood_rolling",
            "doc_to_target": "{{text}}",
            "metric_list": [
                {"metric": name} for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")
            ],
        },
    ]
    paths: list[Path] = []
    for task in tasks:
        paths.append(folder / f"{task['task']}.json")
        paths[-1].write_text(
            json.dumps({"dataset_path": "json", "test_split": "test", **task}), encoding="utf-8"
        )
    return paths


def _write_rows(path: Path, data: LabelledSet, rows: int, *, held_out: bool = True) -> None:
    chosen = (data.held_out if held_out else data.pool)[:rows]
    numbers = data.numbers(chosen)
    with path.open("w", encoding="utf-8") as file:
        for one, number in zip(chosen, numbers, strict=True):
            row = {"text": one.text[:_CHARACTERS], "label": one.label, "number": number}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
