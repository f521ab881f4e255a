"""Windows on real kernels: a sequence that slides has the same bits alone and in company, cut, cached, drafted, preempted."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engine import sequences
from tests.engine.backends import backend
from tests.engine.test_roles import ALONE, COMPANIES, answers
from tests.parallel import every_processor

from deepwell.engine.backends import native
from deepwell.engine.core.loop import InProcessEngine
from deepwell.engine.limits import Limits
from deepwell.engine.load import open_engine
from deepwell.engine.options import EngineOptions
from deepwell.engine.protocol import EngineStats, GenerateRequest, SamplingParams, Window
from deepwell_bench.workloads.text import text_tokens

WINDOWS = (Window(16, 48), Window(0, 80), Window(32, 64))
REMEMBERING = (*WINDOWS, Window(16, 48, rank=16))


def requests(vocab: int, tokens: int, windows: tuple[Window, ...] = REMEMBERING) -> list[GenerateRequest]:
    """Prompts below and above their windows, some with a common head, drawn and greedy."""
    rng = np.random.default_rng(3)
    head = rng.integers(2, vocab, 70).tolist()
    made: list[GenerateRequest] = []
    for number in range(8):
        own = rng.integers(2, vocab, int(rng.integers(5, 30))).tolist()
        prompt = [*head, *(own * 3)] if number % 3 == 2 else own
        params = SamplingParams(
            max_tokens=tokens,
            temperature=[0.0, 0.8][number % 3 == 0],
            seed=number,
            logprobs=1,
            ignore_eos=True,
        )
        window = windows[number // 2 % len(windows)]
        made.append(GenerateRequest(f"r{number}", prompt, params, window=window))
    return made


def check(path: Path, asked: list[GenerateRequest], **options: Any) -> dict[str, EngineStats]:
    """Compares every company with each request alone on one thread."""
    expected, _ = answers(path, asked, ALONE, 2048, together=False, threads=1, **options)
    seen: dict[str, EngineStats] = {}
    for company, (limits, kv_tokens) in COMPANIES.items():
        with every_processor():
            computed, seen[company] = answers(
                path, asked, limits, kv_tokens, together=True, threads=2, **options
            )
        assert computed == expected, company
    assert seen["cached"].cached_tokens > 0
    assert seen["odd chunks"].drafted_tokens > 0
    assert seen["preempted"].preemptions > 0
    assert all(stats.forgotten_tokens > 0 for stats in seen.values())
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("kv_dtype", ["bf16", "int8"])
@pytest.mark.parametrize("name", ["deepseek-v2", "deepseek-v3-prediction", "deepseek-v32", "qwen3-moe"])
def test_a_window_gives_the_same_bits_in_any_company(name: str, kv_dtype: str, tmp_path: Path) -> None:
    backend("native")
    sequences.golden_checkpoint(name, tmp_path)
    windows = WINDOWS if name == "deepseek-v32" else REMEMBERING  # the keys of an indexer are not kept
    seen = check(tmp_path, requests(150, 70, windows), precision="int8", kv_dtype=kv_dtype)
    assert (seen["odd chunks"].predicted_tokens > 0) == (name == "deepseek-v3-prediction")


@pytest.mark.model
@pytest.mark.native
def test_smollm2_gives_the_same_bits_in_any_company(smollm2_path: Path, tmp_path: Path) -> None:
    backend("native")
    check(smollm2_path, requests(40_000, 50), cache_dir=tmp_path)


@pytest.mark.model
@pytest.mark.native
def test_scores_of_smollm2_do_not_depend_on_chunks_or_threads(smollm2_path: Path, tmp_path: Path) -> None:
    """A text of eight windows, cut at odd places and scored from its middle."""
    backend("native")
    text = np.random.default_rng(1).integers(2, 40_000, 600).tolist()
    found: list[np.ndarray[Any, Any]] = []
    for threads, prefill, start in ((1, 512, 1), (2, 512, 1), (2, 37, 1), (2, 512, 300)):
        options = EngineOptions(
            context=80,
            kv_tokens=80,
            threads=threads,
            cache_dir=tmp_path,
            limits=Limits(prefill_tokens=prefill, mixed_prefill_tokens=prefill),
        )
        with every_processor(), open_engine(smollm2_path, options, quiet=True) as engine:
            assert isinstance(engine, InProcessEngine)
            scores = asyncio.run(engine.score(text, start=start, window=Window(16, 64)))
            found.append(scores[-300:])
    assert all(np.array_equal(one, found[0]) for one in found)


@pytest.mark.model
@pytest.mark.native
def test_a_window_reads_on_as_a_fresh_one_would(
    smollm2_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind eleven slides real text is as likely as behind the last slide alone, and far less so if keys are not turned."""
    backend("native")
    window, text = Window(16, 240), text_tokens(smollm2_path)[:1600]
    options = EngineOptions(context=256, kv_tokens=512, cache_dir=tmp_path)
    with open_engine(smollm2_path, options, quiet=True) as engine:
        assert isinstance(engine, InProcessEngine)
        fresh = asyncio.run(engine.score(text[-656:], start=256, window=window))
        endless = asyncio.run(engine.score(text, start=1200, window=window))
        turned = native.Model.shift_blocks

        def unturned(model: Any, cache: Any, sources: list[int], targets: list[int], _: int) -> None:
            turned(model, cache, sources, targets, 1)

        monkeypatch.setattr(native.Model, "shift_blocks", unturned)
        wrong = asyncio.run(engine.score(text, start=1200, window=window))
    assert len(fresh) == len(endless) == 400
    assert endless.mean() > fresh.mean() - 0.05
    assert wrong.mean() < endless.mean() - 0.5
