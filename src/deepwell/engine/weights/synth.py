"""Writes packed models of random weights, to run and measure real shapes without real weights.

Every matrix is a shuffle of a few thousand packed blocks of Gaussian weights, scaled so that activations keep their size
from layer to layer. Norms are one, routers Gaussian. The tokens are therefore noise, but bytes, routing and arithmetic are
those of a trained model. Nothing is ever held in 16 bits: writing a model of 16 GB takes some tens of megabytes of memory.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from deepwell.engine.architectures import tensor_plan
from deepwell.engine.layouts import GROUP, PANEL, Precision, Scheme
from deepwell.engine.weights.load import Progress, weights_nbytes, write_packed
from deepwell.engine.weights.quantize import pack, packed_nbytes
from deepwell.errors import DeepwellError, InvalidRequest
from deepwell.models.formats.config import ModelConfig
from deepwell.models.formats.config_reader import config_from_directory

__all__ = ["SHAPES", "shape_config", "synthesize"]

PRECISIONS: Final = ("int8", "int4", "int4-full")
_POOL_BLOCKS: Final = 2048
_CHUNK_BLOCKS: Final = 8192  # about 17 MB
_END: Final = "<|endoftext|>"
_V4_CONTROL: Final = (
    "<｜end▁of▁sentence｜>",
    "<｜begin▁of▁sentence｜>",
    "<｜User｜>",
    "<｜Assistant｜>",
    "<think>",
    "</think>",
    "｜DSML｜",
)
_TEMPLATE: Final = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\\n' }}{% endfor %}assistant:"
)

_COMMON: Final[dict[str, Any]] = {
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "eos_token_id": 256,
}
_YARN: Final[dict[str, Any]] = {
    "type": "yarn",
    "factor": 40,
    "original_max_position_embeddings": 4096,
    "beta_fast": 32,
    "beta_slow": 1,
}
_V2_LITE: Final[dict[str, Any]] = {
    **_COMMON,
    "architectures": ["DeepseekV2ForCausalLM"],
    "model_type": "deepseek_v2",
    "vocab_size": 102400,
    "hidden_size": 2048,
    "intermediate_size": 10944,
    "moe_intermediate_size": 1408,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "num_experts_per_tok": 6,
    "first_k_dense_replace": 1,
    "q_lora_rank": None,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_group": 1,
    "topk_group": 1,
    "topk_method": "greedy",
    "scoring_func": "softmax",
    "norm_topk_prob": False,
    "routed_scaling_factor": 1.0,
    "max_position_embeddings": 163840,
    "rope_scaling": {**_YARN, "mscale": 0.707, "mscale_all_dim": 0.707},
}
_V3: Final[dict[str, Any]] = {
    **_V2_LITE,
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "vocab_size": 129280,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 8,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "first_k_dense_replace": 3,
    "q_lora_rank": 1536,
    "n_group": 8,
    "topk_group": 4,
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "rope_scaling": {**_YARN, "mscale": 1.0, "mscale_all_dim": 1.0},
}
# DeepSeek-V4-Flash (transformers' defaults): two layers with entries of 128 tokens, then 4 and 128 in turn.
_V4: Final[dict[str, Any]] = {
    **_COMMON,
    "architectures": ["DeepseekV4ForCausalLM"],
    "model_type": "deepseek_v4",
    "vocab_size": 129280,
    "hidden_size": 4096,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 43,
    "num_attention_heads": 64,
    "num_key_value_heads": 1,
    "head_dim": 512,
    "qk_rope_head_dim": 64,
    "q_lora_rank": 1024,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 6,
    "num_hash_layers": 3,
    "scoring_func": "sqrtsoftplus",
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.5,
    "swiglu_limit": 10.0,
    "sliding_window": 128,
    "compress_rope_theta": 160000.0,
    "o_groups": 8,
    "o_lora_rank": 1024,
    "index_n_heads": 64,
    "index_head_dim": 128,
    "index_topk": 512,
    "hc_mult": 4,
    "hc_sinkhorn_iters": 20,
    "hc_eps": 1e-6,
    "max_position_embeddings": 1048576,
    "rope_scaling": {**_YARN, "factor": 16, "original_max_position_embeddings": 65536},
}
# All of V4's parts, small enough for a laptop: layers of every kind, chosen experts, an indexer and four streams.
_V4_1B: Final[dict[str, Any]] = {
    **_V4,
    "vocab_size": 16384,
    "hidden_size": 1024,
    "moe_intermediate_size": 512,
    "num_hidden_layers": 8,
    "num_attention_heads": 16,
    "q_lora_rank": 512,
    "n_routed_experts": 64,
    "o_groups": 4,
    "o_lora_rank": 256,
    "index_n_heads": 16,
}
_QWEN3_MOE: Final[dict[str, Any]] = {
    **_COMMON,
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
    "rope_theta": 1000000.0,
    "max_position_embeddings": 40960,
}
# V2-Lite's proportions, small enough to compare with a dense twin: every layer is sparse, and all other bytes are equal.
_MIXTURE_1B: Final[dict[str, Any]] = {
    **_V2_LITE,
    "vocab_size": 16384,
    "hidden_size": 1024,
    "moe_intermediate_size": 704,
    "num_hidden_layers": 10,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "first_k_dense_replace": 0,
    "kv_lora_rank": 256,
}
SHAPES: Final[dict[str, dict[str, Any]]] = {
    "deepseek-v2-lite": _V2_LITE,
    "deepseek-v3-8layers": _V3,
    "deepseek-v4-flash": _V4,
    "deepseek-v4-1b": _V4_1B,
    "qwen3-moe-30b-a3b": _QWEN3_MOE,
    "mixture-1b": _MIXTURE_1B,
    # The same layers, each with one MLP as wide as all its experts together.
    "dense-1b": {**_MIXTURE_1B, "first_k_dense_replace": 10, "intermediate_size": 66 * 704},
}


def shape_config(shape: str, layers: int | None = None, *, prediction: bool = False) -> dict[str, Any]:
    """Returns the `config.json` of a shape of `SHAPES`, with `layers` layers (None: as many as the shape has).

    Args:
        prediction: add a multi-token prediction layer after them.

    Raises:
        InvalidRequest: the shape is unknown, `layers` is below 1, or the shape is not DeepSeek's and has no prediction layer.
    """
    if shape not in SHAPES:
        raise InvalidRequest(f"no shape {shape!r}", fix=f"use one of {', '.join(SHAPES)}")
    if layers is not None and layers < 1:
        raise InvalidRequest(f"a model of {layers} layers", fix="use --layers 1 or more")
    config = dict(SHAPES[shape])
    if prediction:
        if not config.keys() & {"kv_lora_rank", "hc_mult"}:
            raise InvalidRequest(f"{shape} has no prediction layer", fix="use a DeepSeek shape")
        config["num_nextn_predict_layers"] = 1
    if layers is not None:
        config["num_hidden_layers"] = layers
        if shape == "dense-1b":
            config["first_k_dense_replace"] = layers
    return config


def synthesize(
    directory: Path,
    config: dict[str, Any],
    precision: Precision = "int8",
    *,
    seed: int = 0,
    predictable: float | None = None,
    progress: Progress | None = None,
) -> int:
    """Writes `config.json`, a byte-level tokenizer and `model-PRECISION.dwpack` into `directory`.

    Args:
        predictable: if given, each token has a successor that the head prefers and that a prediction layer knows. The value
            is the deviation of noise in the matrix that joins embedding and state; the larger it is, the less the layer
            knows. Bytes and arithmetic are the same as for other weights. Embedding and head are held in memory.

    Returns:
        The bytes of the packed weights.

    Raises:
        InvalidRequest: the precision is not int8, int4 or int4-full, the directory is not empty, or the disk is too full.
        InvalidModelFile, UnsupportedModel: as for the reader of `config.json`.
    """
    if precision not in PRECISIONS:
        raise InvalidRequest(f"no random weights in {precision}", fix=f"use one of {', '.join(PRECISIONS)}")
    if directory.exists() and any(directory.iterdir()):
        raise InvalidRequest(f"{directory} is not empty", fix="name a new directory, or remove it")
    is_new = not directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(config, indent=2)
    try:
        (directory / "config.json").write_text(text, encoding="utf-8")
        model = config_from_directory(directory)
        _check_room(directory, weights_nbytes(model, precision))
    except DeepwellError:
        (directory / "config.json").unlink(missing_ok=True)
        if is_new:
            directory.rmdir()
        raise
    _write_tokenizer(directory, model)
    plan = tensor_plan(model)
    cols = {matrix.name: matrix.cols for matrix in plan.matrices}
    sizes = {vector.name: vector.size for vector in plan.vectors}
    rng = np.random.default_rng(seed)

    chosen: dict[str, NDArray[np.float32]] = {}
    if predictable is not None:
        chosen = _successors(model, predictable, rng)
    quiet = 1.0 if predictable is None else 0.1 * model.hidden_size**-0.5

    def generate(name: str, scheme: Scheme | None, nbytes: int) -> Iterator[NDArray[np.uint8]]:
        if scheme is None:
            yield _vector(name, sizes[name], model, rng).view(np.uint8)
        elif name in chosen:
            yield pack(chosen[name], scheme)
        else:
            adds = name.endswith((".o", ".o_b", "down"))  # its output is added to the residual stream
            yield from _matrix(cols[name], scheme, nbytes, rng, quiet if adds else 1.0)

    fingerprint = hashlib.sha256(f"synthetic|{seed}|{precision}|{predictable}|{text}".encode()).hexdigest()
    path = directory / f"model-{precision}.dwpack"
    return write_packed(path, model, precision, fingerprint, generate, progress=progress)


@cache
def _pool(cols: int, scheme: Scheme, scale: float = 1.0) -> NDArray[np.uint8]:
    """Returns packed blocks of Gaussian weights of deviation scale / sqrt(cols): [blocks, bytes]."""
    group = GROUP[scheme]
    weights = np.random.default_rng(cols).standard_normal((PANEL, _POOL_BLOCKS * group), dtype=np.float32)
    weights *= np.float32(scale * cols**-0.5)
    return pack(weights, scheme).reshape(_POOL_BLOCKS, -1)


def _successors(model: ModelConfig, noise: float, rng: np.random.Generator) -> dict[str, NDArray[np.float32]]:
    """Returns embedding and head of a cycle through all tokens, and a join that reads only the embedding, plus noise."""
    vocab, hidden = model.vocab_size, model.hidden_size
    embed = rng.standard_normal((vocab, hidden), dtype=np.float32) * np.float32(hidden**-0.5)
    cycle = rng.permutation(vocab)
    before = np.empty(vocab, np.intp)
    before[np.roll(cycle, -1)] = cycle
    join = noise * rng.standard_normal((hidden, 2 * hidden)) * hidden**-0.5
    join[:, :hidden] += np.eye(hidden)
    join = join.astype(np.float32)
    chosen = {"embed": embed, "head": embed[before]}
    if model.hyper is None:
        return chosen | {"join": join}
    halves = np.ascontiguousarray(join[:, :hidden]), np.ascontiguousarray(join[:, hidden:])
    return chosen | {"join": halves[0], "join_state": halves[1]}


def _matrix(
    cols: int, scheme: Scheme, nbytes: int, rng: np.random.Generator, scale: float = 1.0
) -> Iterator[NDArray[np.uint8]]:
    pool = _pool(cols, scheme, scale)
    left = nbytes // packed_nbytes(PANEL, GROUP[scheme], scheme)
    while left:
        count = min(left, _CHUNK_BLOCKS)
        yield pool[rng.integers(0, len(pool), count)].reshape(-1)
        left -= count


def _vector(name: str, size: int, model: ModelConfig, rng: np.random.Generator) -> NDArray[np.float32]:
    if "norm" in name or name.endswith("streams_scale"):
        return np.ones(size, np.float32)
    if "router" in name or "weights" in name or name.endswith("streams"):  # rows of hidden columns
        return rng.standard_normal(size, dtype=np.float32) * np.float32(model.hidden_size**-0.5)
    if name.endswith("token_experts"):
        experts = np.tile(np.arange(model.num_experts, dtype=np.float32), (model.vocab_size, 1))
        return rng.permuted(experts, axis=1)[:, : model.num_experts_per_tok].reshape(-1)
    return np.zeros(size, np.float32)


def _check_room(directory: Path, nbytes: int) -> None:
    import shutil

    free = shutil.disk_usage(directory).free
    if nbytes + (64 << 20) > free:
        raise InvalidRequest(
            f"the model takes {nbytes / 1e9:.1f} GB, the disk has {free / 1e9:.1f} GB left",
            fix="use --layers with fewer layers, --precision int4, or another disk",
        )


def _write_tokenizer(directory: Path, model: ModelConfig) -> None:
    """Writes a tokenizer with one token per byte, an end of text, and filler up to the size of the embedding.

    DeepSeek-V4 has its control tokens and its own template (`models.text.templates`) where the vocabulary has room.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {character: i for i, character in enumerate(alphabet)}
    about = {"eos_token": _END, "chat_template": _TEMPLATE}
    control = [_END]
    if model.compression is not None and model.vocab_size >= len(vocab) + len(_V4_CONTROL):
        control = list(_V4_CONTROL)
        about = {"eos_token": control[0], "bos_token": control[1]}
    vocab |= {token: len(alphabet) + i for i, token in enumerate(control)}
    vocab |= {f"_{i}": i for i in range(len(vocab), model.vocab_size)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(  # pyright: ignore[reportUnknownMemberType]
        [AddedToken(token, special=True) for token in control]
    )
    tokenizer.save(str(directory / "tokenizer.json"))  # pyright: ignore[reportUnknownMemberType]
    (directory / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")
