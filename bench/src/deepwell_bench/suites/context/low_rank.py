"""Low-rank memory of a window against rank: bytes, perplexity behind a compressed history, needles found, and its speed."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from deepwell.cli.bench.machine import machine
from deepwell.cli.bench.report import Report, rounded
from deepwell.cli.bench.roofs import measure_roof, work_of
from deepwell.engine.backends import native
from deepwell.engine.batch import BLOCK_TOKENS
from deepwell.engine.layouts import KVDtype
from deepwell.engine.plan import kv_token_bytes
from deepwell.engine.window import Window
from deepwell.models.text.tokenizer import Tokenizer
from deepwell_bench.suites.context.attention_error import attention_errors
from deepwell_bench.suites.context.curve import Curve, draw_curves
from deepwell_bench.suites.context.reader import Loaded, Reader
from deepwell_bench.workloads.context.facts import Split
from deepwell_bench.workloads.context.haystacks import HAYSTACKS, Haystack, haystack
from deepwell_bench.workloads.context.judging import holds
from deepwell_bench.workloads.long_text import long_document, long_text

__all__ = ["LowRankOptions", "bench_low_rank", "bench_low_rank_speed"]

_ANSWER_TOKENS: Final = 20
_NEEDLES: Final = 25  # of a haystack
_SCORED_TOKENS: Final = 1024
_TEXT_TOKENS: Final = 8000  # of the texts whose perplexity is taken, at most: reading takes most of the time
_ERROR_TOKENS: Final = 2688  # 64 sinks, 3 segments of 512 and a window of 1024
_SHARE: Final = 0.25  # of the bytes of bf16 pages
_WARM_STEPS: Final = 3
_END: Final = "<|im_end|>"  # both models speak ChatML
_HEAD: Final = f"<|im_start|>system\nYou are a helpful assistant.{_END}\n<|im_start|>user\n"
_TAIL: Final = f" Answer briefly.{_END}\n<|im_start|>assistant\n"


@dataclass(frozen=True, slots=True)
class LowRankOptions:
    """The cases to measure.

    Attributes:
        ranks: ranks of the factors.
        window: what stays exact.
        length: tokens of a haystack.
        split: development, on which choices are made, or the frozen evaluation.
        haystacks: those that are asked.
        full: whether to measure exact keys of the whole text beside it.
    """

    ranks: tuple[int, ...] = (16, 32, 48, 64)
    window: Window = field(default_factory=lambda: Window(64, 1024))
    length: int = 16_000
    split: Split = "evaluation"
    haystacks: tuple[str, ...] = tuple(HAYSTACKS)
    full: bool = True


@dataclass(slots=True)
class _Case:
    """A way to keep what has left the window, and what was measured of it.

    Attributes:
        token_bytes: of a forgotten token, all layers.
        needles: found in each haystack.
        perplexity: of the last tokens of mixed news.
        document: the same of one document, whose parts belong together.
        error: of attention; None where nothing is factored.
    """

    name: str
    window: Window
    token_bytes: float
    needles: list[int] = field(default_factory=list[int])
    perplexity: float = 0.0
    document: float = 0.0
    error: float | None = None

    @property
    def percent(self) -> float:
        """Share of the needles that are found."""
        return 100 * sum(self.needles) / (_NEEDLES * max(len(self.needles), 1))


def bench_low_rank(
    report: Report, model: Path, options: LowRankOptions, picture: Path | None = None
) -> dict[str, Any]:
    """Reads haystacks and a text in a window, and asks for their needles: with every rank, with nothing, with all keys.

    Args:
        picture: a PNG file that gets the curve.
    """
    positions = -(-(options.length + 2048) // BLOCK_TOKENS) * BLOCK_TOKENS
    tokenizer, loaded = Tokenizer.load(model), Loaded.open(model, "int8", positions)
    page = kv_token_bytes(loaded.config, "bf16")
    read = min(options.length, _TEXT_TOKENS)
    text, document = long_text(model, read), long_document(model, read)
    cases = [_Case("truncation", options.window, 0.0)]
    for rank in options.ranks:
        window = replace(options.window, rank=rank, remembered=options.length)
        cases.append(_Case(f"rank {rank}", window, _token_bytes(loaded, window)))
    if options.full:
        cases.append(_Case("exact keys", Window(0, positions), float(page)))
    for name in options.haystacks:
        hay = haystack(name, options.split, options.length, lambda text: len(tokenizer.encode(text)))
        for case in cases:
            case.needles.append(_needles(tokenizer, loaded, case.window, hay))
        found = {case.name: case.needles[-1] for case in cases}
        report.note(f"{name}: of {_asked(hay)} needles {found}")
    for case in cases:
        case.perplexity = _perplexity(loaded, case.window, text)
        case.document = _perplexity(loaded, case.window, document)
    kept = [case for case in cases if case.window.rank]
    errors = attention_errors(model, text[:_ERROR_TOKENS], [one.window for one in kept])
    for case, error in zip(kept, errors, strict=True):
        case.error = error
    _show(report, options, cases, page, kv_token_bytes(loaded.config, "int8"))
    if picture is not None:
        _draw(picture, cases, page)
    questions = _NEEDLES * len(options.haystacks)
    value: dict[str, Any] = {"tokens": options.length, "text_tokens": read, "page_bytes": page}
    value["questions"] = questions
    for case in cases:
        key = case.name.replace(" ", "_")
        value |= {
            f"{key}_bytes_ratio": rounded(case.token_bytes / page),
            f"{key}_needle_percent": rounded(case.percent),
            f"{key}_perplexity": rounded(case.perplexity, 5),
            f"{key}_document_perplexity": rounded(case.document, 5),
        }
        if case.error is not None:
            value[f"{key}_attention_error"] = rounded(case.error, 3)
    small = [case for case in kept if case.token_bytes <= _SHARE * page]
    if small:
        value["needle_over_truncation"] = rounded(max(case.percent for case in small) - cases[0].percent)
        value["perplexity_over_truncation"] = rounded(
            min(case.perplexity for case in small) / cases[0].perplexity
        )
        value["document_over_truncation"] = rounded(min(case.document for case in small) / cases[0].document)
    return value


def _show(report: Report, options: LowRankOptions, cases: Sequence[_Case], wide: int, narrow: int) -> None:
    read = min(options.length, _TEXT_TOKENS)
    sizes = f"window of {options.window.sinks} + {options.window.recent} tokens"
    report.table(
        f"{options.length:,} tokens, {sizes}, {options.split}; perplexity of {read:,} tokens",
        [
            "",
            "bytes a token",
            "of bf16 pages",
            "of int8 pages",
            "attention error",
            "needles",
            "of news",
            "of a document",
        ],
        [
            [
                case.name,
                f"{case.token_bytes:,.0f}",
                f"{case.token_bytes / wide:.1%}",
                f"{case.token_bytes / narrow:.1%}",
                "" if case.error is None else f"{case.error:.3f}",
                f"{case.percent:.0f} %",
                case.perplexity,
                case.document,
            ]
            for case in cases
        ],
    )


def _draw(picture: Path, cases: Sequence[_Case], page: int) -> None:
    kept, others = (
        [case for case in cases if case.window.rank],
        [case for case in cases if not case.window.rank],
    )
    read: dict[str, Callable[[_Case], float]] = {
        "perplexity, mixed news": lambda case: case.perplexity,
        "perplexity, one document": lambda case: case.document,
        "needles found, %": lambda case: case.percent,
    }
    curves = [Curve("error of attention", [case.error or 0.0 for case in kept])]
    curves += [
        Curve(name, [figure(case) for case in kept], {case.name: figure(case) for case in others})
        for name, figure in read.items()
    ]
    labels = [f"{case.window.rank}\n{100 * case.token_bytes / page:.0f} %" for case in kept]
    draw_curves(picture, labels, curves)


def _asked(hay: Haystack) -> int:
    return sum(len(one.needed) == 1 for one in hay.questions)


def _token_bytes(loaded: Loaded, window: Window) -> float:
    """Returns the bytes of a forgotten token, bases included."""
    reader = Reader(loaded, replace(window, recent=2 * window.stride))
    assert reader.memory is not None
    reader.read([1] * (window.tokens + BLOCK_TOKENS))
    return reader.memory.nbytes / reader.memory.tokens


def _needles(tokenizer: Tokenizer, loaded: Loaded, window: Window, hay: Haystack) -> int:
    """Returns how many needles are found."""
    asked = [one for one in hay.questions if len(one.needed) == 1]
    reader = Reader(loaded, window, questions=len(asked))
    reader.read(tokenizer.encode(_HEAD + hay.text))
    prompts = [tokenizer.encode(f"\n\n{one.text}{_TAIL}") for one in asked]
    end = tokenizer.control_token(_END)
    right = 0
    for one, said in zip(asked, reader.answers(prompts, _ANSWER_TOKENS), strict=True):
        answer = said[: said.index(end)] if end in said else said
        right += holds(tokenizer.decode(answer), one.answers[0])
    return right


def _perplexity(loaded: Loaded, window: Window, text: Sequence[int]) -> float:
    """Returns the perplexity of the last tokens of a text."""
    reader = Reader(loaded, window)
    reader.read(text[:-_SCORED_TOKENS])
    return float(np.exp(-reader.read(text[-_SCORED_TOKENS:], score=True).mean(dtype=np.float64)))


def bench_low_rank_speed(
    report: Report,
    model: Path,
    *,
    ranks: Sequence[int],
    threads: int,
    window: Window,
    history: int = 32_768,
    rounds: int = 5,
    steps: int = 24,
) -> dict[str, Any]:
    """Times decoding steps behind a long history: exact pages of bf16 and int8 against factors, in interleaved rounds."""
    facts = machine(threads)
    report.note(f"{facts['cpu']}, {threads} threads, {facts['system']}, {facts['date']}")
    native.set_threads(threads)
    loaded = Loaded.open(model, "int8", history + 2048)
    dtypes: tuple[KVDtype, ...] = ("bf16", "int8")
    readers = {f"{dtype} pages": _filled(loaded, Window(0, history), dtype) for dtype in dtypes}
    for rank in ranks:
        readers[f"rank {rank}"] = _remembering(
            loaded, replace(window, rank=rank, remembered=history), history
        )
    attention: dict[str, list[float]] = {name: [] for name in readers}
    whole: dict[str, list[float]] = {name: [] for name in readers}
    roofs: list[float] = []
    work = work_of(loaded.config, "int8", kv_dtype="bf16")
    for _ in range(rounds):
        roofs.append(measure_roof("memory", threads, seconds=0.2, nbytes=work.step_bytes))
        for name, reader in readers.items():
            inside, total = _timed(reader, steps)
            attention[name].append(inside)
            whole[name].append(total)
    value: dict[str, Any] = {"history": history, "threads": threads, "isa": native.isa()}
    rows: list[list[Any]] = []
    for name, reader in readers.items():
        pages = kv_token_bytes(loaded.config, "int8" if name.startswith("int8") else "bf16") * reader.position
        kept = pages + (reader.memory.nbytes if reader.memory else 0)
        roof = statistics.median(
            (work.step_bytes + kept) / (peak * 1e9) / spent
            for peak, spent in zip(roofs, whole[name], strict=True)
        )
        faster = statistics.median(
            exact / spent for exact, spent in zip(attention["bf16 pages"], attention[name], strict=True)
        )
        key = name.replace(" ", "_")
        value |= {f"{key}_attention_ratio": rounded(faster), f"{key}_decode_roof": rounded(roof)}
        times = statistics.median(attention[name]) * 1e3, statistics.median(whole[name]) * 1e3
        rows.append([name, f"{kept / 1e6:,.0f}", *times, faster, f"{roof:.0%}"])
    report.table(
        f"one row behind {history:,} tokens, int8 weights, {native.isa()} kernels, median of {rounds}",
        ["", "MB of history", "attention ms", "step ms", "x bf16 pages", "of what the bytes allow"],
        rows,
    )
    return value


def _timed(reader: Reader, steps: int) -> tuple[float, float]:
    """Returns the seconds of attention and of the whole of a step, each of the fastest one: neighbours slow the others."""
    for step in range(_WARM_STEPS):
        reader.step(step)
    times: list[tuple[float, float]] = []
    for step in range(steps):
        native.switch_profile(True)
        reader.step(step)
        profile, _ = native.switch_profile(False)
        inside = [spent for phase, spent in profile.seconds.items() if phase != "between"]
        times.append((profile.seconds["attention"], sum(inside)))
    return min(attention for attention, _ in times), min(whole for _, whole in times)


def _filled(loaded: Loaded, window: Window, dtype: KVDtype) -> Reader:
    reader = Reader(loaded, window, dtype=dtype)
    reader.fill(window.tokens)
    return reader


def _remembering(loaded: Loaded, window: Window, history: int) -> Reader:
    """Returns a reader whose window is full, and whose memory holds the rest of the history."""
    reader = Reader(loaded, window)
    reader.fill(window.tokens)
    assert reader.memory is not None
    while reader.memory.tokens + window.tokens < history:
        reader.remember()
    return reader
