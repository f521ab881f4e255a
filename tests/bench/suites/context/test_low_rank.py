"""The reader of the low-rank benchmark computes what the engine computes, and errors of attention fall with the rank."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.needs import NATIVE

from deepwell.engine.core.loop import InProcessEngine
from deepwell.engine.load import open_engine
from deepwell.engine.options import EngineOptions
from deepwell.engine.protocol import Window
from deepwell_bench.suites.context.attention_error import attention_errors
from deepwell_bench.suites.context.reader import Loaded, Reader
from deepwell_bench.workloads.text import text_tokens

pytestmark = [
    pytest.mark.model,
    pytest.mark.native,
    pytest.mark.needs(NATIVE),
]
WINDOW = Window(16, 96, rank=32)


def test_a_reader_scores_a_text_as_the_engine_does(smollm2_path: Path) -> None:
    text = text_tokens(smollm2_path)[:641]
    options = EngineOptions(context=512, kv_tokens=512, precision="int8")
    with open_engine(smollm2_path, options, quiet=True) as engine:
        assert isinstance(engine, InProcessEngine)
        expected = asyncio.run(engine.score(text, window=WINDOW))
        forgetting = asyncio.run(engine.score(text, window=replace(WINDOW, rank=0)))
    loaded = Loaded.open(smollm2_path, "int8", 512)
    assert np.array_equal(Reader(loaded, WINDOW).read(text[:640], score=True), expected[:639])
    assert np.array_equal(expected[: WINDOW.tokens - 1], forgetting[: WINDOW.tokens - 1])
    assert expected.mean() > forgetting.mean(), "what is remembered helps"


def test_questions_do_not_see_each_other(smollm2_path: Path) -> None:
    text = text_tokens(smollm2_path)[:405]
    loaded = Loaded.open(smollm2_path, "int8", 512)
    reader = Reader(loaded, WINDOW, questions=2)
    reader.read(text)
    together = reader.answers([[5, 6, 7], [8, 9]], 6)
    assert [len(one) for one in together] == [6, 6]
    assert together[1] == reader.answers([[8, 9]], 6)[0]


def test_the_error_of_attention_falls_with_the_rank(smollm2_path: Path) -> None:
    windows = [replace(WINDOW, rank=rank) for rank in (16, 32, 64)]
    errors = attention_errors(smollm2_path, text_tokens(smollm2_path)[:400], windows)
    assert 0.5 > errors[0] > errors[1] > errors[2] > 0
