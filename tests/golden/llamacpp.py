"""Write the golden file of llama.cpp: its logits for tiny GGUF files whose positions yarn scales.

    pip install llama-cpp-python && python -m tests.golden.llamacpp

Weights and tokens come from seeds, so that the file holds logits alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
from tests.models import test_mixture_checkpoint as mixtures
from tests.models.builders import TINY, random_tensors, write_model_gguf

from deepwell.models.formats.config import ModelConfig

FILE: Final = Path(__file__).with_name("llama-cpp.npz")
TOKENS: Final = 120
KEPT: Final = 8  # logits of the last tokens are stored

_YARN: Final[dict[str, Any]] = {"type": "yarn", "factor": 8.0, "original_context_length": 32}
_DENSE: Final = replace(TINY, tie_word_embeddings=False, max_position_embeddings=256, rope_theta=100.0)
_V2: Final = replace(mixtures.V2, max_position_embeddings=256)
_V3: Final = replace(mixtures.V3, max_position_embeddings=256)
MODELS: Final[Mapping[str, tuple[ModelConfig, Mapping[str, Any]]]] = {
    "llama": (_DENSE, _YARN),
    "llama-attn-factor": (_DENSE, _YARN | {"attn_factor": 0.9}),
    "qwen3-attn-factor": (replace(_DENSE, architecture="qwen3"), _YARN | {"attn_factor": 0.9}),
    "v2": (_V2, _YARN | {"yarn_log_multiplier": 0.0707}),
    "v2-one": (_V2, _YARN | {"yarn_log_multiplier": 0.1}),
    "v3": (_V3, _YARN | {"yarn_log_multiplier": 0.1}),
    "v3-half": (_V3, _YARN | {"yarn_log_multiplier": 0.05}),
}


def tokens() -> np.ndarray:
    """Token ids, [TOKENS]."""
    return np.random.default_rng(3).integers(3, TINY.vocab_size, TOKENS)


def write(name: str, path: Path) -> Path:
    """Writes the GGUF file of a model, its weights large enough for attention to prefer some tokens."""
    config, rope = MODELS[name]
    scaled = {key: _wide(key, values) for key, values in random_tensors(config).items()}
    metadata = {f"rope.scaling.{key}": value for key, value in rope.items()}
    if config.is_latent:
        return mixtures.write_gguf(path, config, scaled, absorbed=True, **metadata)
    return write_model_gguf(path, config, scaled, extra=_typed(config, metadata))


def _wide(name: str, values: np.ndarray) -> np.ndarray:
    if "norm" in name:
        return (1 + values).astype(np.float32)
    return (values * (4 if "self_attn" in name and "o_proj" not in name else 2)).astype(np.float32)


def _typed(config: ModelConfig, metadata: Mapping[str, Any]) -> dict[str, tuple[Any, gguf.GGUFValueType]]:
    kinds = {
        str: gguf.GGUFValueType.STRING,
        int: gguf.GGUFValueType.UINT32,
        float: gguf.GGUFValueType.FLOAT32,
    }
    sizes = {
        "rope.dimension_count": config.head_dim,
        "attention.value_length": config.head_dim,
        "vocab_size": config.vocab_size,
    }
    prefixed = {f"{config.architecture}.{key}": value for key, value in {**sizes, **metadata}.items()}
    return {
        key: (value, kinds[type(value)])
        for key, value in (prefixed | {"tokenizer.ggml.model": "no_vocab"}).items()
    }


def _llama_cpp(path: Path) -> np.ndarray:
    api: Any = import_module("llama_cpp")  # not a dependency

    model = api.llama_model_load_from_file(str(path).encode(), api.llama_model_default_params())
    parameters = api.llama_context_default_params()
    parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = 512
    parameters.type_k = parameters.type_v = 0  # float32
    parameters.flash_attn_type = 0
    context = api.llama_init_from_model(model, parameters)
    batch = api.llama_batch_init(TOKENS, 0, 1)
    batch.n_tokens = TOKENS
    for i, token in enumerate(tokens()):
        batch.token[i], batch.pos[i], batch.n_seq_id[i] = int(token), i, 1
        batch.seq_id[i][0], batch.logits[i] = 0, i >= TOKENS - KEPT
    if api.llama_decode(context, batch):
        raise RuntimeError(f"llama.cpp does not decode {path.name}")
    rows = [api.llama_get_logits_ith(context, i) for i in range(TOKENS - KEPT, TOKENS)]
    return np.stack([np.ctypeslib.as_array(row, shape=(TINY.vocab_size,)).copy() for row in rows])


def main() -> None:
    """Writes the file."""
    with tempfile.TemporaryDirectory() as directory:
        logits: dict[str, Any] = {
            name: _llama_cpp(write(name, Path(directory) / f"{name}.gguf")) for name in MODELS
        }
    np.savez_compressed(FILE, **logits)


if __name__ == "__main__":
    main()
