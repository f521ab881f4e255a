"""Writes tiny DeepSeek-V4 models in the formats of DeepSeek's own files, by an encoder of its own.

Numbers are rounded by searching a table of values that is built from the definitions of the formats, one code at a time.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tests.models.builders import safetensors_bytes

from deepwell.models.formats.config_reader import config_from_directory
from deepwell.models.store.layout import expected_tensors

BLOCK = 128
# The fields and spellings of DeepSeek-V4-Flash's config.json; matrices end within a block of 128.
CONFIG: dict[str, Any] = {
    "architectures": ["DeepseekV4ForCausalLM"],
    "model_type": "deepseek_v4",
    "vocab_size": 320,
    "hidden_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "qk_rope_head_dim": 16,
    "q_lora_rank": 64,
    "o_groups": 2,
    "o_lora_rank": 48,
    "moe_intermediate_size": 96,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "num_hash_layers": 1,
    "num_nextn_predict_layers": 1,
    "norm_topk_prob": True,
    "scoring_func": "sqrtsoftplus",
    "topk_method": "noaux_tc",
    "routed_scaling_factor": 1.5,
    "swiglu_limit": 10.0,
    "compress_ratios": [0, 4, 128, 0],
    "compress_rope_theta": 160_000,
    "index_n_heads": 24,  # with few, a score is often zero, and ties are broken differently
    "index_head_dim": 32,
    "index_topk": 8,
    "sliding_window": 16,
    "hc_mult": 2,
    "hc_sinkhorn_iters": 20,
    "hc_eps": 1e-6,
    "hidden_act": "silu",
    "attention_bias": False,
    "tie_word_embeddings": False,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000,
    "rope_scaling": {
        "type": "yarn",
        "factor": 16,
        "original_max_position_embeddings": 32,
        "beta_fast": 32,
        "beta_slow": 1,
    },
    "bos_token_id": 0,
    "eos_token_id": 1,
    "torch_dtype": "bfloat16",
    "expert_dtype": "fp4",
    "quantization_config": {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "scale_fmt": "ue8m0",
        "weight_block_size": [BLOCK, BLOCK],
    },
}
ROUTED = re.compile(r"layers\.\d+\.ffn\.experts\.\d+\.w[123]\.weight")
# What DeepSeek keeps in 8 bits: projections of attention and of the indexer, and shared experts.
FP8 = re.compile(
    r"layers\.\d+\.(attn\.(wq_a|wq_b|wkv|wo_a|wo_b|indexer\.wq_b)|ffn\.shared_experts\.w[123])\.weight"
)

Part = tuple[str, tuple[int, ...], bytes]


def e2m1(code: int) -> float:
    sign, exponent, mantissa = -1.0 if code & 8 else 1.0, code >> 1 & 3, code & 1
    return sign * (mantissa * 0.5 if exponent == 0 else (1 + mantissa / 2) * 2.0 ** (exponent - 1))


def e4m3(code: int) -> float:
    sign, exponent, mantissa = -1.0 if code & 128 else 1.0, code >> 3 & 15, code & 7
    if exponent == 15 and mantissa == 7:
        return float("nan")
    return sign * (mantissa * 2.0**-9 if exponent == 0 else (8 + mantissa) * 2.0 ** (exponent - 10))


def nearest(values: NDArray[np.floating[Any]], table: list[float]) -> NDArray[np.uint8]:
    """The code of the value in a table that is nearest to each number."""
    known = np.array(table)
    known[np.isnan(known)] = np.inf
    return np.abs(values[..., None] - known).argmin(-1).astype(np.uint8)


@dataclass
class Written:
    """A model: what is stored, by name, and the numbers that it stands for."""

    config: dict[str, Any]
    block: int = BLOCK
    parts: dict[str, Part] = field(default_factory=dict)
    values: dict[str, NDArray[Any]] = field(default_factory=dict)

    def save(self, directory: Path) -> Path:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "config.json").write_text(json.dumps(self.config))
        (directory / "model.safetensors").write_bytes(safetensors_bytes(self.parts))
        return directory

    def save_plain(self, directory: Path) -> Path:
        """The same model in float32, without a word of formats."""
        directory.mkdir(parents=True, exist_ok=True)
        config = {k: v for k, v in self.config.items() if k not in ("quantization_config", "expert_dtype")}
        (directory / "config.json").write_text(json.dumps(config))
        kinds = {np.dtype(np.float32): "F32", np.dtype(np.int64): "I64"}
        parts = {n: (kinds[v.dtype], v.shape, v.tobytes()) for n, v in self.values.items()}
        (directory / "model.safetensors").write_bytes(safetensors_bytes(parts))
        return directory

    def fp4(self, name: str, values: NDArray[np.float32]) -> None:
        rows, cols = values.shape
        groups = values.reshape(rows, cols // 32, 32)
        exponents = np.floor(np.log2(np.abs(groups).max(-1))).astype(int) - 2
        table = [e2m1(code) for code in range(16)]
        codes = nearest(groups / 2.0 ** exponents[..., None], table)
        pairs = codes.reshape(rows, cols // 2, 2)
        packed = pairs[..., 0] + 16 * pairs[..., 1]
        self.parts[name] = ("I8", packed.shape, packed.astype(np.uint8).tobytes())
        self._scale(name, (exponents + 127).astype(np.uint8))
        exact = np.array(table)[codes] * 2.0 ** exponents[..., None]
        self.values[name] = exact.reshape(rows, cols).astype(np.float32)

    def fp8(self, name: str, values: NDArray[np.float32], scale: str = "F8_E8M0") -> None:
        table = [e4m3(code) for code in range(256)]
        rows, cols = values.shape
        size = self.block
        exponents = np.zeros((-(-rows // size), -(-cols // size)), int)
        codes, exact = np.zeros(values.shape, np.uint8), np.zeros(values.shape, np.float32)
        for i, j in np.ndindex(*exponents.shape):
            block = slice(i * size, (i + 1) * size), slice(j * size, (j + 1) * size)
            exponents[i, j] = np.ceil(np.log2(np.abs(values[block]).max() / 448))
            codes[block] = nearest(values[block] / 2.0 ** exponents[i, j], table)
            exact[block] = np.array(table)[codes[block]] * 2.0 ** exponents[i, j]
        self.parts[name] = ("F8_E4M3", codes.shape, codes.tobytes())
        self.values[name] = exact
        if scale == "F8_E8M0":
            self._scale(name, (exponents + 127).astype(np.uint8))
        else:
            floats = (2.0**exponents).astype(np.float32)
            self.parts[name.replace(".weight", ".scale")] = ("F32", floats.shape, floats.tobytes())

    def _scale(self, name: str, codes: NDArray[np.uint8]) -> None:
        self.parts[name.replace(".weight", ".scale")] = ("F8_E8M0", codes.shape, codes.tobytes())

    def plain(self, name: str, values: NDArray[np.float32]) -> None:
        """Stores float32 where DeepSeek does, and bf16 for the rest."""
        if values.ndim == 1 or re.search(r"hc_|attn_sink|\.ape$", name):
            self.parts[name] = ("F32", values.shape, values.tobytes())
            self.values[name] = values
            return
        high = (values.view(np.uint32) >> 16).astype(np.uint16)
        self.parts[name] = ("BF16", values.shape, high.tobytes())
        self.values[name] = (high.astype(np.uint32) << 16).view(np.float32)


def released_v4(
    directory: Path, *, base: bool = False, scale: str = "F8_E8M0", block: int = BLOCK
) -> Written:
    """A random model as DeepSeek releases them. In a `base` model the experts are fp8, too.

    Blocks of 32 end where matrices end, those of 128 do not.
    """
    made = _made(base, scale, block)
    made = Written(json.loads(json.dumps(made.config)), block, dict(made.parts), dict(made.values))
    made.save(directory)
    return made


@cache
def _made(base: bool, scale: str, block: int) -> Written:
    quantization = CONFIG["quantization_config"] | {"weight_block_size": [block, block]}
    config = CONFIG | {"expert_dtype": "fp8" if base else "fp4", "quantization_config": quantization}
    made, rng = Written(config, block), np.random.default_rng(4)
    with TemporaryDirectory() as directory:
        (Path(directory) / "config.json").write_text(json.dumps(made.config))
        shapes = list(expected_tensors(config_from_directory(Path(directory))))
    for name, shape in shapes:
        if name.endswith(".tid2eid"):
            table = np.stack([rng.permutation(4)[:2] for _ in range(shape[0])]).astype(np.int64)
            made.parts[name], made.values[name] = ("I64", shape, table.tobytes()), table
            continue
        values = rng.standard_normal(shape).astype(np.float32) * np.float32(0.1)
        if "norm" in name:
            values += 1
        if ROUTED.fullmatch(name) and not base:
            made.fp4(name, values)
        elif ROUTED.fullmatch(name) or FP8.fullmatch(name):
            made.fp8(name, values, scale)
        else:
            made.plain(name, values)
    return made
