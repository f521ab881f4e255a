"""`Evaluation`: the measures of one model or adapter on tasks, texts and prompts, and how they are made."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepwell.errors import InvalidRequest
from deepwell.tuning.evaluate.generation import Answer, answers_of, match_measures, style_measures
from deepwell.tuning.evaluate.latency import peak_bytes, reset_peak
from deepwell.tuning.evaluate.likelihood import (
    Scorer,
    choice_measures,
    pieces_of,
    text_measures,
)
from deepwell.tuning.evaluate.statistics import Measure, exponential, mean_of, ratio_of
from deepwell.tuning.evaluate.subjects import Subject
from deepwell.tuning.evaluate.tasks import Prompt, Task, read_rows

__all__ = ["Evaluation", "Plan", "Work", "evaluate", "read_prompts", "work_of"]


@dataclass(frozen=True, slots=True)
class Plan:
    """The work of an evaluation.

    Attributes:
        texts: files whose loss is measured.
        prompts: conversations whose answers are looked at for variety, repetition and endings.
        chat: whether tasks are asked in the model's chat template.
        limit: most rows of a task, or pieces of a text.
        max_tokens: longest answer to one of `prompts`.
    """

    tasks: tuple[Task, ...] = ()
    texts: tuple[Path, ...] = ()
    prompts: tuple[Prompt, ...] = ()
    chat: bool = False
    limit: int | None = None
    max_tokens: int = 128


@dataclass(frozen=True, slots=True)
class Work:
    """The plan with its rows read, the same for every model."""

    plan: Plan
    rows: dict[str, list[Prompt]]
    pieces: dict[str, list[str]]

    @property
    def total(self) -> int:
        """Number of rows, pieces and prompts."""
        return sum(map(len, (*self.rows.values(), *self.pieces.values()))) + len(self.plan.prompts)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The measures of one model or adapter.

    Attributes:
        measures: by task and name, in order.
        samples: one object for each row and model: what was asked for, what came, and whether it is right.
        facts: the model, its precision and hash, the adapter's digest, seconds and peak memory.
    """

    label: str
    measures: dict[tuple[str, str], Measure]
    samples: list[dict[str, Any]]
    facts: dict[str, Any] = field(default_factory=dict[str, Any])


def work_of(plan: Plan) -> Work:
    """Reads the rows of a plan.

    Raises:
        InvalidRequest: there is nothing to do, two tasks have one name, or a template fails.
    """
    names = [task.name for task in plan.tasks] + [path.name for path in plan.texts]
    if not names and not plan.prompts:
        raise InvalidRequest.of("evaluate_nothing")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidRequest(f"two tasks are called {twice[0]!r}", fix="rename one of them")
    rows = {task.name: task.prompts(plan.limit) for task in plan.tasks}
    pieces = {
        path.name: pieces_of(path.read_text("utf-8", errors="replace"))[: plan.limit] for path in plan.texts
    }
    for name, some in pieces.items():
        if not some:
            raise InvalidRequest(f"{name} has no text", fix="give a text file")
    return Work(plan, rows, pieces)


def evaluate(subject: Subject, work: Work, counted: Callable[[int], None] = lambda _: None) -> Evaluation:
    """Measures one model or adapter.

    Args:
        counted: function that is told how many more rows are done.

    Raises:
        ContextLengthExceeded: a row does not fit the context; nothing is cut.
    """
    reset_peak()
    started = time.perf_counter()
    found = Evaluation(subject.name.label, {}, [])
    for task in work.plan.tasks:
        for sample in _task(subject, task, work.rows[task.name], found, work.plan, counted):
            found.samples.append({"model": found.label, "task": task.name, **sample})
    for name, pieces in work.pieces.items():
        scores = Scorer(subject).texts(pieces, counted)
        _keep(found, name, text_measures(scores, [str(number) for number in range(len(pieces))]))
        found.samples.extend(
            {
                "model": found.label,
                "task": name,
                "row": number,
                "logprob": score.logprob,
                "bytes": score.bytes,
            }
            for number, score in enumerate(scores)
        )
    if work.plan.prompts:
        answers = answers_of(
            subject, work.plan.prompts, chat=True, max_tokens=work.plan.max_tokens, stop=(), counted=counted
        )
        _keep(found, "prompts", style_measures(answers, [str(p.number) for p in work.plan.prompts]))
        for prompt, answer in zip(work.plan.prompts, answers, strict=True):
            found.samples.append({"model": found.label, "task": "prompts", **_said(prompt, answer)})
    capabilities = subject.llm.capabilities
    digests = {info.name: info.digest for info in subject.llm.adapters}
    found.facts.update(
        model=capabilities.model,
        precision=capabilities.precision,
        weights_hash=capabilities.weights_hash,
        adapter=str(subject.name.adapter) if subject.name.adapter else None,
        adapter_digest=digests.get(subject.adapter),
        context=subject.llm.context,
        threads=capabilities.threads,
        seconds=round(time.perf_counter() - started, 3),
        peak_bytes=peak_bytes(),
    )
    return found


def read_prompts(path: Path) -> tuple[Prompt, ...]:
    """Returns the prompts of a file: JSON lines with `prompt` or `messages`, or one prompt a line of text.

    Raises:
        InvalidRequest: a row has neither.
    """
    data = path.read_bytes()
    if path.suffix not in (".json", ".jsonl"):
        lines = data.decode("utf-8", "replace").splitlines()
        rows: list[dict[str, Any]] = [{"prompt": line} for line in lines if line.strip()]
    else:
        rows = read_rows(data, path)
    prompts: list[Prompt] = []
    for number, row in enumerate(rows):
        messages = row.get("messages", [{"role": "user", "content": row.get("prompt")}])
        while isinstance(messages, list) and messages and messages[-1].get("role") == "assistant":
            messages = messages[:-1]  # the answer of a training record
        if not isinstance(messages, list) or not messages or not isinstance(messages[-1].get("content"), str):
            raise InvalidRequest(
                f"row {number + 1} of {path} has no prompt",
                fix='give {"prompt": "..."} or {"messages": [...]}',
            )
        prompts.append(Prompt(number, tuple(messages), messages[-1]["content"], (), "", " "))
    if not prompts:
        raise InvalidRequest(f"{path} has no prompts", fix="give one prompt a line")
    return tuple(prompts)


def _task(
    subject: Subject,
    task: Task,
    prompts: Sequence[Prompt],
    found: Evaluation,
    plan: Plan,
    counted: Callable[[int], None],
) -> Iterator[dict[str, Any]]:
    keys = [str(prompt.number) for prompt in prompts]
    scorer = Scorer(subject, chat=plan.chat)
    match task.config.output_type:
        case "multiple_choice":
            scores = scorer.choices(prompts, counted)
            _keep(found, task.name, choice_measures(prompts, scores))
            for prompt, score in zip(prompts, scores, strict=True):
                best = score.best()
                yield {
                    "row": prompt.number,
                    "target": prompt.target,
                    "chosen": best,
                    "right": best == prompt.target,
                    "logprobs": list(score.logprobs),
                }
        case "generate_until":
            kwargs = task.config.generation_kwargs
            until = [kwargs.until] if isinstance(kwargs.until, str) else kwargs.until
            stop = [task.config.fewshot_delimiter] if until is None else [one for one in until if one]
            answers = answers_of(
                subject, prompts, chat=plan.chat, max_tokens=kwargs.max_gen_toks, stop=stop, counted=counted
            )
            _keep(found, task.name, [*match_measures(task, prompts, answers), *style_measures(answers, keys)])
            for prompt, answer in zip(prompts, answers, strict=True):
                yield {**_said(prompt, answer), "target": prompt.target}
        case "loglikelihood":
            pairs = scorer.continuations(prompts, counted)
            losses = [-text.logprob for text, _ in pairs]
            _keep(
                found,
                task.name,
                [
                    mean_of("acc", [greedy for _, greedy in pairs], share=True, keys=keys),
                    ratio_of("perplexity", losses, [1] * len(losses), of=exponential, keys=keys),
                ],
            )
            for prompt, (text, greedy) in zip(prompts, pairs, strict=True):
                yield {"row": prompt.number, "logprob": text.logprob, "right": greedy}
        case "loglikelihood_rolling":
            texts = scorer.texts([str(prompt.target) for prompt in prompts], counted)
            _keep(found, task.name, text_measures(texts, keys))
            for prompt, text in zip(prompts, texts, strict=True):
                yield {"row": prompt.number, "logprob": text.logprob, "bytes": text.bytes}


def _keep(found: Evaluation, task: str, measures: Sequence[Measure]) -> None:
    for measure in measures:
        found.measures[task, measure.name] = measure


def _said(prompt: Prompt, answer: Answer) -> dict[str, Any]:
    return {
        "row": prompt.number,
        "answer": answer.text,
        "tokens": len(answer.tokens),
        "ended": answer.ended,
    }
