"""Needles and several facts: questions over texts of 4k to 64k tokens, answered by a language model, by each mechanism.

Each haystack holds 25 needles at five depths, with four distractors of the same form each, and ten of its questions need three
facts from different places. A haystack is asked about as a document in front of the question, and as the turns of a
conversation. The policies fit it to a context of 4,096 tokens; the full context is that of the model where the text fits it.
Answers are greedy. One that also states the value of a distractor is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median
from time import perf_counter
from typing import Any, Final, Literal

from deepwell.cli.bench.report import Report, rounded
from deepwell.errors import DeepwellError
from deepwell.knowledge.context.fitting.local import LocalFitter
from deepwell.knowledge.context.fitting.policy import ContextPolicy, fit_options
from deepwell.knowledge.context.tokens import CodecTokens
from deepwell.llm import LLM
from deepwell.settings import Settings
from deepwell_bench.harness.proportions import wilson
from deepwell_bench.workloads.context.facts import Question, Split
from deepwell_bench.workloads.context.haystacks import HAYSTACKS, Haystack, haystack
from deepwell_bench.workloads.context.judging import f1, holds

__all__ = ["MECHANISMS", "Mechanism", "NeedleOptions", "bench_needle"]

Mechanism = Literal["auto", "auto-turns", "compress", "retrieve", "window", "truncation", "full"]
"""`auto-turns` and `retrieve` read the haystack as turns of a conversation, the others as a document."""

MECHANISMS: Final[tuple[Mechanism, ...]] = (
    "auto",
    "auto-turns",
    "compress",
    "retrieve",
    "truncation",
    "full",
    "window",
)
_ANSWER_TOKENS: Final = 96
_AT_ONCE: Final = 16
_ROOM: Final = 1024  # tokens of a question, its frame and its answer, at most
_FRAME: Final = 64  # tokens of the chat template, at most
_NOTED: Final = {"en": "Noted.", "zh": "记下了。"}


@dataclass(frozen=True, slots=True)
class NeedleOptions:
    """The cases to measure.

    Attributes:
        split: development, on which choices are made, or the frozen evaluation.
        lengths: tokens of the haystacks.
        mechanisms: those to measure.
        every: asks every n-th question alone.
        window_every: asks every n-th of those questions of a window, which reads the whole text for each.
        context: tokens that the policies fit a haystack to.
    """

    split: Split = "evaluation"
    lengths: tuple[int, ...] = (4_000, 16_000, 64_000)
    mechanisms: tuple[Mechanism, ...] = MECHANISMS
    every: int = 1
    window_every: int = 7
    context: int = 4096


@dataclass(frozen=True, slots=True)
class _Answer:
    """The outcome of one question.

    Attributes:
        facts: number of facts that it needs.
        right: whether the answer states them, and no other.
        f1: F1 of the values that it states.
        read: tokens of the prompt.
    """

    haystack: str
    length: int
    mechanism: Mechanism
    facts: int
    right: bool
    f1: float
    read: int


def bench_needle(report: Report, model: str, options: NeedleOptions) -> dict[str, Any]:
    """Returns the share of needles found and the F1 of three facts by length and mechanism, and seconds a question."""
    settings = Settings.load()
    found: list[_Answer] = []
    seconds: dict[tuple[int, Mechanism], list[float]] = {}
    with LLM(model, context=options.context, models_dir=settings.models_dir) as llm:
        tokens = CodecTokens(llm.codec)
        cases = [
            (name, length, haystack(name, options.split, length, tokens.count))
            for name in HAYSTACKS
            for length in options.lengths
        ]
        with LocalFitter(
            llm.codec,
            llm.context,
            embedder=settings.knowledge_embedder,
            models_dir=settings.models_dir,
            windows=True,
            options=fit_options(llm.capabilities.weights_bytes),
        ) as fitter:
            for mechanism in options.mechanisms:
                if mechanism == "full":
                    continue
                for name, length, hay in cases:
                    asked = hay.questions[
                        :: options.every * (options.window_every if mechanism == "window" else 1)
                    ]
                    took, many = _asked(
                        llm, asked, _prompts(fitter, llm, tokens, hay, mechanism, options.context)
                    )
                    seconds.setdefault((length, mechanism), []).append(took)
                    found += _judged(hay, length, mechanism, asked, many)
                    _note(report, found, name, length, mechanism)
    if "full" in options.mechanisms:
        found += _full(report, model, settings, cases, options, seconds)
    _print(report, options, found, seconds, model)
    return _figures(options, found, seconds)


def _full(
    report: Report,
    model: str,
    settings: Settings,
    cases: Sequence[tuple[str, int, Haystack]],
    options: NeedleOptions,
    seconds: dict[tuple[int, Mechanism], list[float]],
) -> list[_Answer]:
    """Returns the answers from the whole text in the model's own context, where it fits. The text is read once."""
    found: list[_Answer] = []
    with _roomy(model, settings, options.lengths) as llm:
        for name, length, hay in cases:
            if length + _ROOM > llm.context:
                continue
            asked = hay.questions[:: options.every]
            took, many = _asked(llm, asked, lambda one, hay=hay: ([_turn(f"{hay.text}\n\n{one.text}")], None))
            seconds.setdefault((length, "full"), []).append(took)
            found += _judged(hay, length, "full", asked, many)
            _note(report, found, name, length, "full")
    return found


def _roomy(model: str, settings: Settings, lengths: Sequence[int]) -> LLM:
    """Returns the model with a context for the longest of the texts that it can hold."""
    for length in sorted(lengths, reverse=True):
        try:
            return LLM(model, context=length + _ROOM, models_dir=settings.models_dir)
        except DeepwellError:
            continue
    return LLM(model, models_dir=settings.models_dir)


Prompt = tuple[Sequence[Mapping[str, Any]], tuple[int, int] | None]
"""The messages that the model reads, and its window."""


def _prompts(
    fitter: LocalFitter, llm: LLM, tokens: CodecTokens, hay: Haystack, mechanism: Mechanism, context: int
) -> Callable[[Question], Prompt]:
    if mechanism == "truncation":
        # The same rest for every question, so that it is read once.
        starts = tokens.starts(hay.text)
        room = context - _ANSWER_TOKENS - _FRAME - max(tokens.count(one.text) for one in hay.questions)
        rest = hay.text[int(starts[-room]) if room < len(starts) else 0 :]

        def cut(one: Question) -> Prompt:
            return [_turn(f"{rest}\n\n{one.text}")], None

        return cut
    turns: list[dict[str, str]] = []
    for part in hay.turns():
        turns += [_turn(part), {"role": "assistant", "content": _NOTED[hay.language]}]
    policy: ContextPolicy = "auto" if mechanism in ("auto", "auto-turns") else mechanism  # pyright: ignore[reportAssignmentType]

    def fitted(one: Question) -> Prompt:
        if mechanism in ("auto-turns", "retrieve"):
            messages = [*turns, _turn(one.text)]
        else:
            messages = [_turn(f"{hay.text}\n\n{one.text}")]
        made = fitter.fit(messages, policy, max_tokens=_ANSWER_TOKENS)
        return made.messages, None if made.window is None else (made.window.sinks, made.window.recent)

    return fitted


def _turn(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _asked(
    llm: LLM, asked: Sequence[Question], prompt: Callable[[Question], Prompt]
) -> tuple[float, list[tuple[str, int]]]:
    """Returns the seconds of a question, from the text to the end of the answer, and the answers with their prompts' tokens."""
    began = perf_counter()
    found: list[tuple[str, int]] = []
    # The first alone, so that the others find in the prefix cache what their prompts share.
    edges = [0, *range(1, len(asked), _AT_ONCE), len(asked)]
    for start, end in pairwise(edges):
        made = [prompt(one) for one in asked[start:end]]
        window = next((window for _, window in made if window is not None), None)
        answers = llm.chat(
            [list(one) for one, _ in made], max_tokens=_ANSWER_TOKENS, temperature=0.0, window=window
        )
        found += [(one.text, one.prompt_tokens) for one in answers]
    return (perf_counter() - began) / len(asked), found


def _judged(
    hay: Haystack,
    length: int,
    mechanism: Mechanism,
    asked: Sequence[Question],
    answers: Sequence[tuple[str, int]],
) -> list[_Answer]:
    found: list[_Answer] = []
    for question, (answer, read) in zip(asked, answers, strict=True):
        wanted = question.answers
        others = [one for one in hay.values if one not in wanted]
        right = all(holds(answer, one) for one in wanted) and not any(holds(answer, one) for one in others)
        score = f1(answer, wanted, hay.values)
        found.append(_Answer(hay.name, length, mechanism, len(wanted), right, score, read))
    return found


def _note(report: Report, found: Sequence[_Answer], name: str, length: int, mechanism: Mechanism) -> None:
    mine = [one for one in found if (one.haystack, one.length, one.mechanism) == (name, length, mechanism)]
    single = [one.right for one in mine if one.facts == 1]
    several = [one.f1 for one in mine if one.facts > 1]
    report.note(
        f"{mechanism}, {name}, {length:,} tokens: {fmean(single):.0%} of {len(single)} needles"
        + (f", F1 of three facts {fmean(several):.2f}" if several else "")
    )


def _print(
    report: Report,
    options: NeedleOptions,
    found: Sequence[_Answer],
    seconds: Mapping[tuple[int, Mechanism], Sequence[float]],
    model: str,
) -> None:
    rows: list[tuple[Any, ...]] = []
    for length in options.lengths:
        for mechanism in options.mechanisms:
            mine = [one for one in found if (one.length, one.mechanism) == (length, mechanism)]
            single = [one.right for one in mine if one.facts == 1]
            if not single:
                continue
            several = [one.f1 for one in mine if one.facts > 1]
            low, high = wilson(sum(single), len(single))
            rows.append(
                (
                    f"{length:,}",
                    mechanism,
                    len(single),
                    f"{fmean(single):.1%}",
                    f"{low:.1%} to {high:.1%}",
                    f"{fmean(several):.3f}" if several else "",
                    f"{median(one.read for one in mine):,.0f}",
                    f"{fmean(seconds[length, mechanism]):.2f}",
                )
            )
    columns = (
        "tokens",
        "mechanism",
        "needles",
        "found",
        "95 % interval",
        "F1 of three",
        "tokens read",
        "s/question",
    )
    report.table(f"{model}, {options.split}", columns, rows)


def _figures(
    options: NeedleOptions, found: Sequence[_Answer], seconds: Mapping[tuple[int, Mechanism], Sequence[float]]
) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for length in options.lengths:
        for mechanism in options.mechanisms:
            mine = [one for one in found if (one.length, one.mechanism) == (length, mechanism)]
            name = f"{mechanism.replace('-', '_')}_{length // 1000}k"
            if single := [one.right for one in mine if one.facts == 1]:
                figures[name] = rounded(100 * fmean(single))
            if several := [one.f1 for one in mine if one.facts > 1]:
                figures[f"{name}_f1"] = rounded(100 * fmean(several))
    autos = [value for name, value in figures.items() if name.startswith("auto") and not name.endswith("_f1")]
    if autos:
        figures["auto_least"] = min(autos)
    longest = max(options.lengths)
    if (mean := seconds.get((longest, "auto"))) is not None:
        figures["auto_seconds"] = rounded(fmean(mean))
    for length in options.lengths:
        k = f"{length // 1000}k"
        if (full := figures.get(f"full_{k}_f1")) is not None and (
            auto := figures.get(f"auto_{k}_f1")
        ) is not None:
            figures[f"f1_over_full_{k}"] = rounded(auto - full)
    k = f"{longest // 1000}k"
    if (cut := figures.get(f"truncation_{k}")) is not None:
        for mechanism in options.mechanisms:
            name = mechanism.replace("-", "_")
            if mechanism != "truncation" and (mine := figures.get(f"{name}_{k}")) is not None:
                figures[f"{name}_over_truncation"] = rounded(mine - cut)
    if f"truncation_{k}_f1" in figures and f"auto_{k}_f1" in figures:
        figures["f1_over_truncation"] = rounded(figures[f"auto_{k}_f1"] - figures[f"truncation_{k}_f1"])
    return figures
