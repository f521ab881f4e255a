"""Against transformers itself: other seeds and shapes than the golden files hold, and the real model.

Needs the `[tune]` extra; `make parity` runs it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.engine import sequences
from tests.engine.backends import backend
from tests.golden import encoder, make
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from deepwell.engine.architectures import build_encoder, build_model
from deepwell.engine.backends.rope import rope_tables
from deepwell.engine.weights.load import load_weights
from deepwell.models.formats.checkpoint import open_checkpoint
from deepwell.models.store.export import export_safetensors

pytestmark = pytest.mark.parity

MAX_ERROR = {"reference": 1e-4, "native": 1e-3}

# Wider than the golden models: more layers, odd shapes, every option of the rotary scalings.
WIDER: dict[str, Any] = {
    "vocab_size": 333,
    "hidden_size": 96,
    "intermediate_size": 200,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": [1, 2],
    "pad_token_id": None,
}
YARN = {
    "rope_type": "yarn",
    "factor": 8.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 16.0,
    "beta_slow": 2.0,
    "attention_factor": 1.2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 2.0,
    "original_max_position_embeddings": 32,
}
MODELS: dict[str, Any] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**WIDER, rms_norm_eps=1e-6)),
    "llama-llama3": lambda: LlamaForCausalLM(LlamaConfig(**WIDER, head_dim=24, rope_scaling=LLAMA3)),
    "llama-yarn": lambda: LlamaForCausalLM(LlamaConfig(**WIDER, rope_theta=5e5, rope_scaling=YARN)),
    "llama-one-kv-head": lambda: LlamaForCausalLM(LlamaConfig(**WIDER | {"num_key_value_heads": 1})),
    "qwen2-untied": lambda: Qwen2ForCausalLM(Qwen2Config(**WIDER, tie_word_embeddings=False)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**WIDER, head_dim=24, tie_word_embeddings=False)),
    "qwen3-yarn": lambda: Qwen3ForCausalLM(
        Qwen3Config(**WIDER | {"num_key_value_heads": 1}, head_dim=128, rope_scaling=YARN)
    ),
    "qwen2-yarn": lambda: Qwen2ForCausalLM(Qwen2Config(**WIDER, tie_word_embeddings=True, rope_scaling=YARN)),
}


def saved_model(name: str, directory: Path) -> Any:
    """A random model in transformers, saved as users have it."""
    torch.manual_seed(sum(map(ord, name)))
    model = MODELS[name]().eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape) * 0.1
            parameter.copy_(1 + noise if "norm" in parameter_name else noise)
    model.save_pretrained(directory)
    return model


@pytest.mark.parametrize("engine", ["reference", "native"])
@pytest.mark.parametrize("name", MODELS)
def test_logits(name: str, engine: str, tmp_path: Path) -> None:
    run = backend(engine)
    theirs = saved_model(name, tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    ours = build_model(run, load_weights(checkpoint, "fp32"), checkpoint.config, max_positions=128)
    tokens = torch.randint(0, WIDER["vocab_size"], (1, 100))

    expected = make.logits_of(theirs, tokens)
    cache = sequences.new_cache(run, checkpoint.config, 100)
    computed = sequences.logits(ours, cache, tokens[0].tolist(), chunk=33)

    assert np.abs(expected).max() > 0.5
    assert np.abs(computed - expected).max() < MAX_ERROR[engine]


@pytest.mark.parametrize("name", MODELS)
def test_rotary_tables(name: str, tmp_path: Path) -> None:
    theirs = saved_model(name, tmp_path)
    config = open_checkpoint(tmp_path).config
    cos, sin = theirs.model.rotary_emb(torch.zeros(1, 128, 1), torch.arange(128)[None])
    half = config.head_dim // 2
    ours = rope_tables(config, 128)
    assert np.allclose(ours[0], cos[0, :, :half].numpy(), atol=2e-5)
    assert np.allclose(ours[1], sin[0, :, :half].numpy(), atol=2e-5)


@pytest.mark.parametrize("name", make.TINY)
def test_golden_files_are_what_this_transformers_computes(name: str) -> None:
    arrays = sequences.golden(name)
    model = make.random_model(name)
    state = {
        key.removeprefix("weight:"): torch.from_numpy(value.astype(np.float32))
        for key, value in arrays.items()
        if key.startswith("weight:")
    }
    _, unexpected = model.load_state_dict(state, strict=False)
    model.tie_weights()
    assert not unexpected
    tokens = torch.from_numpy(arrays["tokens"].astype(np.int64))[None]
    assert np.abs(make.logits_of(model, tokens) - arrays["logits"]).max() < 1e-5


def test_the_golden_adapter_is_what_this_peft_computes(tmp_path: Path) -> None:
    arrays = sequences.golden("lora")
    model = make.peft_model(tmp_path)
    tokens = torch.from_numpy(arrays["tokens"].astype(np.int64))[None]
    assert np.abs(make.logits_of(model, tokens) - arrays["logits"]).max() < 1e-5


@pytest.mark.model
def test_golden_text_is_what_this_transformers_prefers(smollm2_path: Path) -> None:
    model = make.smollm2_in_transformers(smollm2_path)
    for row in json.loads((sequences.GOLDEN / "greedy.json").read_text()):
        tokens = row["prompt"] + row["completion"]
        logits = make.logits_of(model, torch.tensor([tokens]))
        assert logits[len(row["prompt"]) - 1 : -1].argmax(axis=1).tolist() == row["completion"]


@pytest.mark.model
def test_transformers_loads_an_export(smollm2_path: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(smollm2_path)
    export_safetensors(checkpoint, tmp_path / "export", "float32")
    theirs = LlamaForCausalLM.from_pretrained(tmp_path / "export").eval().to(torch.float32)
    tokens = json.loads((sequences.GOLDEN / "greedy.json").read_text())[0]["prompt"]

    run = backend("native")
    ours = build_model(run, load_weights(checkpoint, "fp32"), checkpoint.config, max_positions=64)
    computed = sequences.logits(ours, sequences.new_cache(run, checkpoint.config, 64), tokens)

    assert np.abs(computed - make.logits_of(theirs, torch.tensor([tokens]))).max() < 1e-3


@pytest.mark.parametrize("name", list(encoder.TINY_MODELS))
def test_golden_encoder_is_what_this_transformers_computes(name: str) -> None:
    arrays = sequences.golden(name)
    model = encoder.tiny_model(name)
    for name, value in model.state_dict().items():
        if f"weight:{name}" in arrays:
            assert np.array_equal(value.numpy(), arrays[f"weight:{name}"])
    hidden = np.concatenate([encoder.hidden_states(model, tokens) for tokens in encoder.tiny_tokens(name)])
    assert np.abs(hidden - arrays["hidden"]).max() < 1e-5


@pytest.mark.model
def test_golden_vectors_and_tokens_of_minilm_are_what_this_transformers_computes(minilm_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(minilm_path)
    model = BertModel.from_pretrained(minilm_path).eval().to(torch.float32)
    vectors = np.load(sequences.GOLDEN / "minilm.npz")["vectors"]
    for row, vector in zip(json.loads((sequences.GOLDEN / "minilm.json").read_text()), vectors, strict=True):
        assert tokenizer(row["text"])["input_ids"] == row["tokens"]
        assert np.abs(encoder.embedding(model, row["tokens"]) - vector).max() < 1e-5


@pytest.mark.parametrize("kind", ["bert", "xlm-roberta"])
@pytest.mark.parametrize("engine", ["reference", "native"])
def test_encoder_hidden_states(engine: str, kind: str, tmp_path: Path) -> None:
    torch.manual_seed(5)
    shape: dict[str, Any] = {
        "hidden_size": 160,
        "intermediate_size": 224,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
    }
    shape |= {"vocab_size": 333, "max_position_embeddings": 302}
    if kind == "bert":
        theirs = BertModel(BertConfig(**shape)).eval()
    else:
        theirs = XLMRobertaModel(XLMRobertaConfig(**shape, type_vocab_size=1, layer_norm_eps=1e-5)).eval()
    theirs.save_pretrained(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    ours = build_encoder(backend(engine), load_weights(checkpoint, "fp32"), checkpoint.config)
    tokens = torch.randint(2, 333, (290,))  # more than one piece of 256 tokens, and no padding
    hidden = np.empty((290, 160), np.float32)

    ours.forward(tokens.numpy().astype(np.int32), np.array([0, 290], np.int32), hidden=hidden)

    assert np.abs(hidden - encoder.hidden_states(theirs, tokens)).max() < MAX_ERROR[engine]
