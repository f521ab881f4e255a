"""Runs single sequences through a model, for tests that compare backends, chunkings and golden files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tests.models.builders import safetensors_bytes

from deepwell.engine.architectures.deepseek_v4 import cache_pages
from deepwell.engine.batch import BLOCK_TOKENS, Batch
from deepwell.models.formats.checkpoint import Checkpoint, open_checkpoint
from deepwell.models.formats.config import ModelConfig

GOLDEN = Path(__file__).parents[1] / "golden"


def golden(name: str) -> dict[str, Any]:
    """The arrays of a golden file; `config` is the text of `config.json`."""
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def golden_checkpoint(name: str, directory: Path) -> Checkpoint:
    """The golden model, through a safetensors directory as users have it."""
    arrays = golden(name)
    prefix = "weight:"
    weights = {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}
    (directory / "config.json").write_text(str(arrays["config"]))
    codes = {key.removeprefix("fp8:"): value for key, value in arrays.items() if key.startswith("fp8:")}
    if codes:
        names = {np.dtype(np.float16): "F16", np.dtype(np.float32): "F32"}
        parts = {key: (names[value.dtype], value.shape, value.tobytes()) for key, value in weights.items()}
        parts |= {key: ("F8_E4M3", value.shape, value.tobytes()) for key, value in codes.items()}
        (directory / "model.safetensors").write_bytes(safetensors_bytes(parts))
    else:
        save_file(weights, directory / "model.safetensors")
    return open_checkpoint(directory)


def config_of(name: str) -> dict[str, Any]:
    return json.loads(str(golden(name)["config"]))


def new_cache(backend: Any, config: ModelConfig, tokens: int, dtype: str = "fp32") -> Any:
    blocks = -(-tokens // BLOCK_TOKENS) + 1
    if config.compression is not None:
        return backend.compressed_cache(cache_pages(config), blocks, dtype)
    if config.is_latent:
        return backend.latent_cache(
            config.num_hidden_layers,
            blocks,
            config.kv_lora_rank,
            config.qk_rope_head_dim,
            dtype,
            config.index_head_dim,
        )
    return backend.kv_cache(
        config.attention_layers, blocks, config.num_key_value_heads, config.head_dim, dtype
    )


def table_for(tokens: int) -> NDArray[np.int32]:
    """A block table in descending order: a backend that ignored it would read the wrong blocks."""
    blocks = -(-tokens // BLOCK_TOKENS)
    return np.arange(blocks, 0, -1, dtype=np.int32)[None]


def step(
    tokens: Sequence[int],
    first: int,
    table: NDArray[np.int32],
    outputs: Sequence[int],
    prompt: int | None = None,
) -> Batch:
    """A batch of one sequence: `tokens` at positions `first`...; `prompt` of all its tokens are given (None: all)."""
    count = len(tokens)
    return Batch(
        np.asarray(tokens, np.int32),
        np.arange(first, first + count, dtype=np.int32),
        np.array([0, count], np.int32),
        table,
        np.asarray(outputs, np.int32),
        prompt_lengths=None if prompt is None else np.array([prompt], np.int32),
    )


def logits(
    model: Any, cache: Any, tokens: Sequence[int], chunk: int | None = None, prompt: int | None = None
) -> NDArray[np.float32]:
    """Logits of every position, [tokens, vocab], computed `chunk` tokens at a time (None: all at once)."""
    table = table_for(len(tokens))
    chunk = chunk or len(tokens)
    out = np.empty((len(tokens), model.vocab_size), np.float32)
    for first in range(0, len(tokens), chunk):
        part = tokens[first : first + chunk]
        rows = out[first : first + len(part)]
        model.forward(step(part, first, table, range(len(part)), prompt), cache, logits=rows)
    return out


def greedy(model: Any, cache: Any, prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    """`count` greedy tokens after each prompt, all sequences in one batch."""
    blocks = max(-(-(len(prompt) + count) // BLOCK_TOKENS) for prompt in prompts)
    tables = np.arange(len(prompts) * blocks, dtype=np.int32).reshape(len(prompts), blocks)
    best = np.empty(len(prompts), np.int32)
    pending: list[list[int]] = [list(prompt) for prompt in prompts]
    first = [0] * len(prompts)
    completions: list[list[int]] = [[] for _ in prompts]
    for _ in range(count):
        starts = np.cumsum([0, *map(len, pending)], dtype=np.int32)
        positions = [np.arange(begin, begin + len(part)) for begin, part in zip(first, pending, strict=True)]
        tokens = np.concatenate(pending).astype(np.int32)
        batch = Batch(
            tokens,
            np.concatenate(positions).astype(np.int32),
            starts,
            tables,
            starts[1:] - 1,
            prompt_lengths=np.array([len(prompt) for prompt in prompts], np.int32),
        )
        model.forward(batch, cache, argmax=best)
        first = [begin + len(part) for begin, part in zip(first, pending, strict=True)]
        pending = [[int(token)] for token in best]
        for completion, token in zip(completions, best, strict=True):
            completion.append(int(token))
    return completions
