"""Bytes of a conversation's history: exact pages, a window, compressed text, and text with vectors to recall from.

A conversation of a system message, a real text in turns of about 1,200 characters and a question is fitted by each policy, and
its prompt runs in an engine of a context of 4,096 tokens. The blocks that it holds are counted while it runs. A block has the
bytes that the cache really takes for it.

Turns that a mechanism keeps whole have exact pages as before. The bar is about the rest of the history: the tokens that are
shown for it with the marks between them, and what is kept to recall from, against the exact pages of all its tokens.
"""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from deepwell.cli.bench.report import Report, rounded
from deepwell.dialogue.text import Codec
from deepwell.engine.backends.native import select_backend
from deepwell.engine.batch import BLOCK_TOKENS
from deepwell.engine.core.loop import InProcessEngine
from deepwell.engine.layouts import KVDtype
from deepwell.engine.load import new_cache, open_engine
from deepwell.engine.options import EngineOptions
from deepwell.engine.protocol import GenerateRequest, SamplingParams
from deepwell.knowledge.context.fitting.ledger import Ledger
from deepwell.knowledge.context.fitting.local import LocalFitter
from deepwell.knowledge.context.fitting.policy import ContextPolicy
from deepwell.knowledge.context.history import History
from deepwell.knowledge.context.tokens import CodecTokens
from deepwell.knowledge.embedders import Embedders
from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell.models.store.store import ModelStore
from deepwell.settings import Settings
from deepwell_bench.harness.assets import bench_cache
from deepwell_bench.workloads.context.haystacks import haystack

__all__ = ["FURTHER", "Held", "MemoryCase", "MemoryOptions", "bench_context_memory"]

Messages = Sequence[Mapping[str, Any]]

_HAYSTACK: Final = "help"
_POLICIES: Final[tuple[ContextPolicy, ...]] = ("window", "compress", "retrieve")
_ANSWER: Final = 64
_DTYPES: Final[tuple[KVDtype, ...]] = ("bf16", "int8")
_POOL_BLOCKS: Final = 64  # of which the bytes of one block are taken


@dataclass(frozen=True, slots=True)
class MemoryOptions:
    """The cases to measure.

    Attributes:
        models: the first one's figures have no prefix.
        lengths: tokens of the history.
        context: tokens that the engine holds.
    """

    models: tuple[str, ...] = ("qwen2.5-coder-0.5b", "smollm2")
    lengths: tuple[int, ...] = (16_000, 64_000)
    context: int = 4_096


@dataclass(frozen=True, slots=True)
class MemoryCase:
    """One conversation for one model.

    Attributes:
        page_bytes: bytes of the pages of one token, bf16.
        history: tokens of the texts of the turns.
    """

    model: str
    messages: Messages
    codec: Codec
    page_bytes: float
    history: int


@dataclass(frozen=True, slots=True)
class Held:
    """The memory that stands for a history.

    Attributes:
        name: the mechanism.
        pages_bytes: pages of the whole prompt, by the blocks that the engine held.
        replaced: tokens of the history whose exact pages are gone.
        shown: tokens of the prompt that stand for those, with marks.
        rest_bytes: what is kept of them beside the pages.
    """

    name: str
    pages_bytes: float
    replaced: int
    shown: int
    rest_bytes: float = 0.0

    def share(self, page_bytes: float) -> float:
        """Returns the bytes that stand for the replaced tokens, against those of their exact pages."""
        return (self.shown * page_bytes + self.rest_bytes) / (max(self.replaced, 1) * page_bytes)


FURTHER: Final[tuple[Callable[[MemoryCase], Held], ...]] = ()
"""Further mechanisms to measure on each case. Low-rank memory and session adapters belong here."""


def bench_context_memory(report: Report, options: MemoryOptions) -> dict[str, Any]:
    """Returns bytes a token of every mechanism, and the share of the exact pages that compressed history takes."""
    value: dict[str, Any] = {"context": options.context}
    for number, model in enumerate(options.models):
        prefix = f"{model}_" if number else ""
        value |= {f"{prefix}{name}": found for name, found in _measured(report, options, model).items()}
    return value


def _measured(report: Report, options: MemoryOptions, model: str) -> dict[str, Any]:
    settings = Settings.load()
    path = ModelStore(settings.models_dir).get(model).path
    config, backend = open_checkpoint(path).config, select_backend()
    token_bytes: dict[KVDtype, float] = {
        dtype: new_cache(backend, config, _POOL_BLOCKS, dtype).nbytes / (_POOL_BLOCKS * BLOCK_TOKENS)
        for dtype in _DTYPES
    }
    value: dict[str, Any] = {f"{dtype}_page_bytes": rounded(token_bytes[dtype], 6) for dtype in _DTYPES}
    codec = Codec.load(path)
    made = EngineOptions(context=options.context, kv_tokens=options.context, cache_dir=bench_cache())
    with open_engine(path, made, quiet=True) as engine:
        assert isinstance(engine, InProcessEngine)
        for length in options.lengths:
            case = _case(model, codec, token_bytes["bf16"], length)
            rest = asyncio.run(_at_rest(settings, case))
            found = [_held(engine, settings, case, policy, rest) for policy in _POLICIES]
            found += [measure(case) for measure in FURTHER]
            value |= _figures(case, length, found, rest)
            _show(report, case, found, token_bytes, rest)
    return value


def _case(model: str, codec: Codec, page_bytes: float, length: int) -> MemoryCase:
    tokens = CodecTokens(codec)
    hay = haystack(_HAYSTACK, "evaluation", length, tokens.count)
    turns = hay.turns()
    messages: list[dict[str, str]] = [{"role": "system", "content": "Answer in a few words."}]
    for turn in turns:
        messages += [{"role": "user", "content": turn}, {"role": "assistant", "content": "Noted."}]
    messages.append({"role": "user", "content": hay.questions[0].text})
    history = sum(tokens.count(one["content"]) for one in messages[1:-1])
    return MemoryCase(model, messages, codec, page_bytes, history)


@dataclass(frozen=True, slots=True)
class _Rest:
    """Bytes that are kept of a history to recall from: of its text, of its vectors, and of everything else of its index."""

    text: int
    vectors: int
    index: int

    @property
    def total(self) -> int:
        return self.text + self.vectors + self.index


async def _at_rest(settings: Settings, case: MemoryCase) -> _Rest:
    """Returns the bytes of an index of the whole history, by the allocations that it keeps."""
    embedders = Embedders(settings.models_dir)
    try:
        embedder = await embedders.named(settings.knowledge_embedder)
        history = History(CodecTokens(case.codec), embedder)
        said = [str(one["content"]) for one in case.messages[1:-1]]
        await embedder.embed(said[:1], "passage")
        tracemalloc.start()
        try:
            for number, text in enumerate(said):
                await history.add(number, text)
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        vectors = len(history) * embedder.dimensions * 4
        return _Rest(sum(len(text.encode()) for text in said), vectors, max(kept - vectors, 0))
    finally:
        await embedders.close()


def _held(
    engine: InProcessEngine, settings: Settings, case: MemoryCase, policy: ContextPolicy, rest: _Rest
) -> Held:
    """Runs the fitted prompt, and returns the memory that it held."""
    context = engine.capabilities().max_model_len
    with LocalFitter(
        case.codec,
        context,
        embedder=settings.knowledge_embedder,
        models_dir=settings.models_dir,
        windows=True,
    ) as fitter:
        fitted = fitter.fit(case.messages, policy, max_tokens=_ANSWER)
    prompt = case.codec.encode_chat(fitted.messages)
    params = SamplingParams(max_tokens=2, temperature=0.0, ignore_eos=True)
    blocks = 0
    for _ in engine.generate_sync(
        GenerateRequest(f"{policy}-{case.history}", prompt, params, cache_salt=policy, window=fitted.window)
    ):
        blocks = max(blocks, engine.stats().blocks_used)
    pages = blocks * BLOCK_TOKENS * case.page_bytes
    replaced, shown = _fates(fitted.ledger)
    kept = rest.total * replaced / case.history if policy == "retrieve" else 0.0
    return Held(policy, pages, replaced, shown, kept)


def _fates(ledger: Ledger) -> tuple[int, int]:
    """Returns the tokens whose exact pages are gone, and those that stand for them."""
    fates = ledger.fates
    shown = fates.compressed + fates.recalled
    return shown + fates.dropped + fates.forgotten, shown + max(ledger.added, 0)


def _figures(case: MemoryCase, length: int, found: Sequence[Held], rest: _Rest) -> dict[str, Any]:
    name = f"{length // 1000}k"
    value: dict[str, Any] = {
        f"history_{name}": case.history,
        f"rest_bytes_{name}": rounded(rest.total / case.history),
    }
    for one in found:
        value[f"{one.name}_{name}"] = rounded(one.share(case.page_bytes))
        held = one.pages_bytes + one.rest_bytes
        value[f"{one.name}_bytes_{name}"] = rounded(held / case.history)
    return value


def _show(
    report: Report, case: MemoryCase, found: Sequence[Held], token_bytes: Mapping[KVDtype, float], rest: _Rest
) -> None:
    exact = token_bytes["bf16"]
    rows: list[list[Any]] = [
        [f"exact pages, {dtype}", f"{size:,.1f}", f"{size / exact:.1%}", "", ""]
        for dtype, size in token_bytes.items()
    ]
    for one in found:
        held = (one.pages_bytes + one.rest_bytes) / case.history
        rows.append(
            [
                one.name,
                f"{held:,.1f}",
                f"{held / exact:.1%}",
                f"{one.replaced:,}",
                f"{one.share(exact):.1%}",
            ]
        )
    parts = (
        ("text", rest.text),
        ("vectors", rest.vectors),
        ("words and places of its sentences", rest.index),
    )
    for label, size in parts:
        rows.append([f"  to recall from: {label}", f"{size / case.history:,.1f}", "", "", ""])
    report.table(
        f"{case.model}, history of {case.history:,} tokens",
        ["", "bytes a token", "of bf16 pages", "tokens replaced", "bytes of those"],
        rows,
    )
