"""Answers that a model generates, and their metrics: matches, overlap with a reference, variety and endings."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deepwell.errors import InvalidRequest
from deepwell.llm import Completion
from deepwell.tuning.evaluate.likelihood import Counted
from deepwell.tuning.evaluate.similarity import METRICS, bleu_counts, bleu_of
from deepwell.tuning.evaluate.statistics import Floats, Measure, mean_of
from deepwell.tuning.evaluate.subjects import Subject
from deepwell.tuning.evaluate.tasks import Metric, Prompt, Task

__all__ = ["Answer", "answers_of", "distinct", "match_measures", "repetition", "style_measures"]

_REPEATED = 4  # tokens of a run that counts as repeated
_DEFAULT = ("exact_match", "rouge_l", "chrf", "bleu")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_DIGITS = str.maketrans("", "", string.digits)


@dataclass(frozen=True, slots=True)
class Answer:
    """A generated answer.

    Attributes:
        ended: whether the model, or a stop string, ended it; else it was cut at the most tokens.
    """

    text: str
    tokens: tuple[int, ...]
    ended: bool


def answers_of(
    subject: Subject,
    prompts: Sequence[Prompt],
    *,
    chat: bool,
    max_tokens: int,
    stop: Sequence[str],
    counted: Counted,
) -> list[Answer]:
    """Returns the greedy answer to each prompt, in the chat template or behind the plain context."""
    found: list[Answer] = []
    llm, adapter = subject.llm, subject.adapter
    for start in range(0, len(prompts), subject.at_once):
        some = prompts[start : start + subject.at_once]
        completions: list[Completion] = (
            llm.chat(
                [p.messages for p in some], adapter=adapter, max_tokens=max_tokens, temperature=0, stop=stop
            )
            if chat
            else llm.generate(
                [p.context for p in some], adapter=adapter, max_tokens=max_tokens, temperature=0, stop=stop
            )
        )
        found += [Answer(one.text, one.tokens, one.finish_reason != "length") for one in completions]
        counted(len(some))
    return found


def match_measures(task: Task, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> list[Measure]:
    """Returns the metrics of a task's `metric_list`; without one, exact match, ROUGE-L, chrF and the corpus's BLEU.

    Raises:
        InvalidRequest: there is no such metric.
    """
    keys = [str(prompt.number) for prompt in prompts]
    pairs = [
        (_filtered(answer.text, task), str(prompt.target))
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    measures: list[Measure] = []
    for metric in task.config.metric_list or [Metric(metric=name) for name in _DEFAULT]:
        name = {"rougeL": "rouge_l", "rouge1": "rouge_1", "rouge2": "rouge_2"}.get(
            metric.metric, metric.metric
        )
        if name == "exact_match":
            hits = [_plain(text, metric) == _plain(target, metric) for text, target in pairs]
            measures.append(mean_of(name, hits, share=True, keys=keys))
        elif name == "bleu":
            rows = np.array([bleu_counts(text, target) for text, target in pairs], np.float64)
            measures.append(Measure(name, rows, _bleu, "higher", "share", keys=tuple(keys)))
        elif name in METRICS:
            values = [METRICS[name](text, target) for text, target in pairs]
            measures.append(mean_of(name, values, share=True, keys=keys))
        else:
            known = ", ".join(["exact_match", *METRICS])
            raise InvalidRequest(
                f"there is no metric {metric.metric!r} of generated text", fix=f"use {known}"
            )
    return measures


def style_measures(answers: Sequence[Answer], keys: Sequence[str]) -> list[Measure]:
    """Returns variety (distinct-2), repetition, the share of answers that end by themselves, and their length."""
    return [
        mean_of("distinct_2", [distinct(one.text, 2) for one in answers], share=True, keys=keys),
        mean_of(
            "repetition", [repetition(one.tokens) for one in answers], better="lower", share=True, keys=keys
        ),
        mean_of("ended", [one.ended for one in answers], share=True, keys=keys),
        mean_of("answer_tokens", [len(one.tokens) for one in answers], better=None, keys=keys),
    ]


def distinct(text: str, order: int) -> float:
    """Returns the share of different n-grams among all of a text; 1 where it has none. A CJK character is a word."""
    words = re.findall(r"[\u3400-\u9fff\u3040-\u30ff\uac00-\ud7af]|[^\W_]+", text.lower())
    grams = [tuple(words[i : i + order]) for i in range(len(words) - order + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


def repetition(tokens: Sequence[int]) -> float:
    """Returns the share of runs of four tokens that occurred before."""
    runs = Counter(tuple(tokens[i : i + _REPEATED]) for i in range(len(tokens) - _REPEATED + 1))
    return 1 - len(runs) / runs.total() if runs else 0.0


def _bleu(sums: Floats) -> Floats:
    flat = sums.reshape(-1, sums.shape[-1])
    return np.array([bleu_of(row) for row in flat.tolist()], np.float64).reshape(sums.shape[:-1])


def _filtered(text: str, task: Task) -> str:
    for one in task.config.filter_list:
        for step in one.filter:
            match step.function:
                case "remove_whitespace":
                    text = text.lstrip()
                case "lowercase":
                    text = text.lower()
                case "uppercase":
                    text = text.upper()
                case "take_first":
                    pass
    return text


def _plain(text: str, metric: Metric) -> str:
    if metric.ignore_case:
        text = text.lower()
    if metric.ignore_punctuation:
        text = text.translate(_PUNCTUATION)
    return text.translate(_DIGITS) if metric.ignore_numbers else text
