"""Logits and greedy text equal those of transformers, from golden files that `make golden` writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engine import sequences
from tests.engine.backends import backend
from tests.golden import llamacpp

from deepwell.engine.architectures import build_model
from deepwell.engine.layouts import Precision
from deepwell.engine.weights.load import load_weights
from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell.models.formats.config import ModelConfig

TINY = ("llama-llama3", "llama-yarn", "llama-linear", "qwen2", "qwen3")
MAX_ERROR = {"reference": 1e-4, "native": 1e-3}


@pytest.mark.parametrize("chunk", [None, 7, 1], ids=["whole", "chunked", "token-by-token"])
@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("engine", ["reference", "native"])
def test_logits_are_those_of_transformers(engine: str, name: str, chunk: int | None, tmp_path: Path) -> None:
    run = backend(engine)
    arrays = sequences.golden(name)
    checkpoint = sequences.golden_checkpoint(name, tmp_path)
    weights = load_weights(checkpoint, "fp32")
    model = build_model(run, weights, checkpoint.config, max_positions=64)
    tokens = arrays["tokens"].tolist()
    cache = sequences.new_cache(run, checkpoint.config, len(tokens))

    computed = sequences.logits(model, cache, tokens, chunk)

    assert np.abs(computed - arrays["logits"]).max() < MAX_ERROR[engine]


@pytest.mark.parametrize("name", TINY)
def test_golden_models_have_what_they_are_for(name: str) -> None:
    """A golden file made with a careless change to the script would still pass the comparison."""
    config = sequences.config_of(name)
    rope = config.get("rope_parameters") or config["rope_scaling"] or {}
    arrays = sequences.golden(name)
    assert len(arrays["tokens"]) > 32  # beyond the original context of 16, and several cache blocks
    assert np.abs(arrays["logits"]).max() > 1  # an absolute error of 1e-4 means something
    kind = rope.get("rope_type", "default")
    assert kind == {"qwen2": "default", "qwen3": "default"}.get(name, name.removeprefix("llama-"))
    assert ("weight:model.layers.0.self_attn.q_norm.weight" in arrays) == (name == "qwen3")
    assert ("weight:model.layers.0.self_attn.q_proj.bias" in arrays) == (name == "qwen2")
    assert ("weight:lm_head.weight" in arrays) == (name == "llama-llama3")


@pytest.mark.parametrize("name", llamacpp.MODELS)
@pytest.mark.parametrize("engine", ["reference", "native"])
def test_logits_of_scaled_positions_are_those_of_llama_cpp(engine: str, name: str, tmp_path: Path) -> None:
    """A GGUF's yarn, beyond the original context; the file is that of llama-cpp-python 0.3.36."""
    run = backend(engine)
    checkpoint = open_checkpoint(llamacpp.write(name, tmp_path / "model.gguf"))
    model = build_model(run, load_weights(checkpoint, "fp32"), checkpoint.config, max_positions=128)
    cache = sequences.new_cache(run, checkpoint.config, llamacpp.TOKENS)
    computed = sequences.logits(model, cache, llamacpp.tokens().tolist(), None)[-llamacpp.KEPT :]
    with np.load(llamacpp.FILE) as file:
        expected = file[name]
    assert np.abs(expected).max() > 1
    assert np.abs(computed - expected).max() < 2 * MAX_ERROR[engine]


def packed(path: Path, precision: Precision) -> tuple[Any, ModelConfig]:
    checkpoint = open_checkpoint(path)
    weights = load_weights(checkpoint, precision)
    return build_model(backend("native"), weights, checkpoint.config, max_positions=128), checkpoint.config


@pytest.fixture(scope="module")
def in_fp32(smollm2_path: Path) -> tuple[Any, ModelConfig]:
    return packed(smollm2_path, "fp32")


def test_greedy_text_is_that_of_transformers(in_fp32: tuple[Any, ModelConfig]) -> None:
    run = backend("native")
    model, config = in_fp32
    rows = json.loads((sequences.GOLDEN / "greedy.json").read_text())
    assert len(rows) == 20
    prompts, expected = [row["prompt"] for row in rows], [row["completion"] for row in rows]
    count = len(expected[0])
    tokens = len(prompts) * (max(map(len, prompts)) + count + 16)
    cache = sequences.new_cache(run, config, tokens)

    assert sequences.greedy(model, cache, prompts, count) == expected


def test_text_in_16_bits_is_as_likely_as_in_fp32(
    smollm2_path: Path, in_fp32: tuple[Any, ModelConfig]
) -> None:
    """The perplexity of greedy text within 0.1 %, and another token only where two are nearly tied."""
    run = backend("native")
    rows = json.loads((sequences.GOLDEN / "greedy.json").read_text())[:8]

    def scored(precision: Precision) -> tuple[float, list[int]]:
        """The mean log probability of the golden completions, and the likeliest token at each of their places."""
        model, config = in_fp32 if precision == "fp32" else packed(smollm2_path, precision)
        chosen: list[float] = []
        best: list[int] = []
        for row in rows:
            tokens = row["prompt"] + row["completion"]
            cache = sequences.new_cache(run, config, len(tokens))
            logits = sequences.logits(model, cache, tokens)[len(row["prompt"]) - 1 : -1].astype(np.float64)
            log_sum = np.log(np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1))
            chosen += list(logits[range(len(logits)), row["completion"]] - logits.max(axis=1) - log_sum)
            best += logits.argmax(axis=1).tolist()
        return float(np.mean(chosen)), best

    expected, greedy = scored("fp32")
    assert greedy == [token for row in rows for token in row["completion"]]
    for precision, min_agreement in (("bf16", 0.97), ("fp16", 0.99)):
        mean, best = scored(precision)
        assert abs(mean - expected) < 1e-3
        assert np.mean(np.equal(best, greedy)) >= min_agreement
