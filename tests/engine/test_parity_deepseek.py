"""DeepSeek and Qwen3-MoE against transformers, from golden files that `make golden` writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engine import sequences
from tests.engine.backends import backend

from deepwell.engine.architectures import build_model
from deepwell.engine.weights.load import load_weights

TINY = ("deepseek-v2", "deepseek-v2-lite", "deepseek-v3", "deepseek-v32", "qwen3-moe", "deepseek-v4")
LATENT = TINY[:4]
MAX_ERROR = {"reference": 1e-4, "native": 1e-3}


def loaded(engine: str, name: str, directory: Path) -> tuple[Any, Any, Any]:
    """The backend, the model in fp32 and its configuration."""
    run = backend(engine)
    checkpoint = sequences.golden_checkpoint(name, directory)
    weights = load_weights(checkpoint, "fp32")
    return run, build_model(run, weights, checkpoint.config, max_positions=128), checkpoint.config


@pytest.mark.parametrize("chunk", [None, 7], ids=["whole", "chunked"])
@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("engine", ["reference", "native"])
def test_logits_are_those_of_transformers(engine: str, name: str, chunk: int | None, tmp_path: Path) -> None:
    run, model, config = loaded(engine, name, tmp_path)
    arrays = sequences.golden(name)
    tokens = arrays["tokens"].tolist()
    computed = sequences.logits(model, sequences.new_cache(run, config, len(tokens)), tokens, chunk)
    assert np.abs(computed - arrays["logits"]).max() < MAX_ERROR[engine]


@pytest.mark.parametrize("name", LATENT)
@pytest.mark.parametrize("engine", ["reference", "native"])
def test_absorbed_tokens_get_the_logits_of_expanded_ones(engine: str, name: str, tmp_path: Path) -> None:
    """Of 40 tokens none, some and all are generated ones: transformers always expands."""
    run, model, config = loaded(engine, name, tmp_path)
    arrays = sequences.golden(name)
    tokens = arrays["tokens"].tolist()
    for prompt in (0, 17):
        cache = sequences.new_cache(run, config, len(tokens))
        computed = sequences.logits(model, cache, tokens, 11, prompt)
        assert np.abs(computed - arrays["logits"]).max() < MAX_ERROR[engine]


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("engine", ["reference", "native"])
def test_greedy_tokens_are_those_of_transformers(engine: str, name: str, tmp_path: Path) -> None:
    run, model, config = loaded(engine, name, tmp_path)
    arrays = sequences.golden(name)
    prompt, expected = arrays["tokens"][: arrays["prompt"]].tolist(), arrays["completion"].tolist()
    assert len(expected) == 64
    cache = sequences.new_cache(run, config, len(prompt) + len(expected) + 16)
    assert sequences.greedy(model, cache, [prompt], len(expected)) == [expected]


@pytest.mark.parametrize("name", TINY[:5])
def test_golden_models_have_what_they_are_for(name: str, tmp_path: Path) -> None:
    """A golden file made with a careless change to the script would still pass the comparison."""
    arrays = sequences.golden(name)
    config = sequences.golden_checkpoint(name, tmp_path).config
    assert np.abs(arrays["logits"]).max() > 1  # an absolute error of 1e-4 means something
    assert config.sparse_layers == {1} and config.moe_intermediate_size % 16
    assert config.is_latent == (name != "qwen3-moe")
    assert (config.q_lora_rank > 0) == (name in ("deepseek-v2", "deepseek-v3", "deepseek-v32"))
    assert config.scoring_func == ("sigmoid" if name in ("deepseek-v3", "deepseek-v32") else "softmax")
    assert (config.n_group > 1) == (name in ("deepseek-v2", "deepseek-v3", "deepseek-v32"))
    assert (config.rope_scaling is not None) == (name in ("deepseek-v2", "deepseek-v3"))
    assert any(key.startswith("fp8:") for key in arrays) == (name == "deepseek-v3")
    assert (0 < config.index_topk < len(arrays["tokens"]) // 2) == (name == "deepseek-v32")


def test_the_golden_model_of_v4_has_every_kind_of_layer(tmp_path: Path) -> None:
    arrays = sequences.golden("deepseek-v4")
    config = sequences.golden_checkpoint("deepseek-v4", tmp_path).config
    assert np.abs(arrays["logits"]).max() > 1
    assert config.compression is not None and config.hyper is not None
    assert set(config.compression.kinds) == {"sliding", "sparse", "heavy"}
    tokens = len(arrays["tokens"])
    assert config.compression.window < tokens and config.compression.heavy_rate < tokens // 2
    assert config.index_topk < tokens // config.compression.sparse_rate
    assert config.hash_layers == (0,) and config.hyper.streams == 4
    assert config.compression.rope_scaling is not None and config.rope_scaling is None
