"""Small model files: sound ones by the formats' own writers, unsound ones byte by byte."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import safetensors.numpy
from gguf.constants import GGMLQuantizationType as GGML
from numpy.typing import NDArray

from deepwell.models.formats.config import ModelConfig
from deepwell.models.store.layout import expected_tensors

TINY = ModelConfig(
    architecture="llama",
    vocab_size=48,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=128,
    rms_norm_eps=1e-5,
    rope_theta=10_000.0,
    tie_word_embeddings=True,
    bos_token_id=1,
    eos_token_ids=(2,),
    pad_token_id=2,
)

QUANTISABLE = (GGML.Q8_0, GGML.Q4_0, GGML.Q4_1, GGML.Q5_0, GGML.Q5_1)
K_QUANTS = {
    GGML.Q3_K: (108,),
    GGML.Q4_K: (0, 2),
    GGML.Q5_K: (0, 2),
    GGML.Q6_K: (208,),
}  # offsets of the float16 scales in a block

GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}

Tensors = dict[str, NDArray[np.float32]]


def random_tensors(config: ModelConfig, seed: int = 0) -> Tensors:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) * 0.1 for name, shape in expected_tensors(config)}


def gguf_name(name: str) -> str:
    stem, kind = name.rsplit(".", 1)
    if stem in GGUF_NAMES:
        return f"{GGUF_NAMES[stem]}.{kind}"
    _, _, layer, stem = stem.split(".", 3)
    return f"blk.{layer}.{GGUF_NAMES[stem]}.{kind}"


def interleave_halves(rows: NDArray[Any], heads: int) -> NDArray[Any]:
    """Row by row what llama.cpp's converter does: the halves (0, d/2), (1, d/2 + 1), ... of a head become pairs."""
    per_head = rows.shape[0] // heads
    order = [
        head * per_head + half * (per_head // 2) + i
        for head in range(heads)
        for i in range(per_head // 2)
        for half in range(2)
    ]
    return rows[order]


def write_model_gguf(
    path: Path,
    config: ModelConfig = TINY,
    tensors: Tensors | None = None,
    *,
    kind_of: Callable[[str], GGML] = lambda _: GGML.F32,
    extra: Mapping[str, tuple[Any, gguf.GGUFValueType]] | None = None,
    extra_tensors: Mapping[str, NDArray[np.float32]] | None = None,
) -> Path:
    """A GGUF model by the `gguf` package's writer; `kind_of(name)` is a matrix's type, `extra` replaces metadata."""
    tensors = random_tensors(config) if tensors is None else tensors
    kinds, arch = gguf.GGUFValueType, config.architecture
    metadata: dict[str, tuple[Any, gguf.GGUFValueType]] = {
        "general.architecture": (arch, kinds.STRING),
        f"{arch}.context_length": (config.max_position_embeddings, kinds.UINT32),
        f"{arch}.embedding_length": (config.hidden_size, kinds.UINT32),
        f"{arch}.block_count": (config.num_hidden_layers, kinds.UINT32),
        f"{arch}.feed_forward_length": (config.intermediate_size, kinds.UINT32),
        f"{arch}.attention.head_count": (config.num_attention_heads, kinds.UINT32),
        f"{arch}.attention.head_count_kv": (config.num_key_value_heads, kinds.UINT32),
        f"{arch}.attention.key_length": (config.head_dim, kinds.UINT32),
        f"{arch}.rope.freq_base": (config.rope_theta, kinds.FLOAT32),
        f"{arch}.attention.layer_norm_rms_epsilon": (config.rms_norm_eps, kinds.FLOAT32),
        "tokenizer.ggml.bos_token_id": (config.bos_token_id, kinds.UINT32),
        "tokenizer.ggml.eos_token_id": (config.eos_token_ids[0], kinds.UINT32),
        "tokenizer.ggml.padding_token_id": (config.pad_token_id, kinds.UINT32),
    } | dict(extra or {})
    writer = gguf.GGUFWriter(path, metadata.pop("general.architecture")[0])
    for key, (value, kind) in metadata.items():
        writer.add_key_value(key, value, kind)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, values in tensors.items():
        if config.architecture == "llama" and (count := heads.get(name.split(".")[-2])):
            values = interleave_halves(values, count)
        add_tensor(writer, gguf_name(name), values, kind_of(name) if values.ndim == 2 else GGML.F32)
    for name, values in (extra_tensors or {}).items():
        add_tensor(writer, name, values, GGML.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_tensor(writer: gguf.GGUFWriter, name: str, values: NDArray[np.float32], kind: GGML) -> None:
    if kind == GGML.F32:
        writer.add_tensor(name, np.ascontiguousarray(values))
        return
    raw = random_k_blocks(values.shape, kind) if kind in K_QUANTS else gguf.quants.quantize(values, kind)
    writer.add_tensor(name, raw, raw_dtype=kind)


def random_k_blocks(shape: tuple[int, ...], kind: GGML, seed: int = 0) -> NDArray[np.uint8]:
    """Random sound blocks of a type that the `gguf` package cannot quantise to: any bits, but small scales."""
    values, nbytes = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(seed)
    rows = shape[0]
    blocks = rng.integers(0, 256, (rows, shape[1] // values, nbytes), np.uint8)
    for offset in K_QUANTS[kind]:
        scale = rng.normal(size=blocks.shape[:2]).astype(np.float16) * np.float16(0.01)
        blocks[..., offset : offset + 2] = scale[..., None].view(np.uint8)
    return blocks.reshape(rows, -1)


# GGUF byte by byte.


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def u32_entry(key: str, value: int) -> bytes:
    return text(key) + struct.pack("<II", 4, value)


def string_entry(key: str, value: str) -> bytes:
    return text(key) + struct.pack("<I", 8) + text(value)


def array_entry(key: str, kind: int, count: int, payload: bytes) -> bytes:
    return text(key) + struct.pack("<IIQ", 9, kind, count) + payload


def tensor_entry(name: str, extents: Sequence[int], kind: int = 0, offset: int = 0) -> bytes:
    """`extents` with the fastest dimension first, as the file has them."""
    return text(name) + struct.pack(f"<I{len(extents)}QIQ", len(extents), *extents, kind, offset)


@dataclass
class GGUFBytes:
    """A GGUF file in parts, each of which a test may falsify."""

    entries: list[bytes] = field(default_factory=lambda: [string_entry("general.architecture", "llama")])
    tensors: list[bytes] = field(default_factory=lambda: [tensor_entry("a", [8])])
    data: bytes = bytes(64)
    magic: bytes = b"GGUF"
    version: int = 3
    tensor_count: int | None = None
    entry_count: int | None = None

    def write(self, path: Path) -> Path:
        counts = (
            len(self.tensors) if self.tensor_count is None else self.tensor_count,
            len(self.entries) if self.entry_count is None else self.entry_count,
        )
        header = self.magic + struct.pack("<IQQ", self.version, *counts)
        header += b"".join(self.entries) + b"".join(self.tensors)
        path.write_bytes(header + bytes(-len(header) % 32) + self.data)
        return path


# Safetensors.


def to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Truncation: exact for values that bfloat16 holds."""
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def safetensors_bytes(tensors: Mapping[str, tuple[str, tuple[int, ...], bytes]]) -> bytes:
    """A sound file: name -> (dtype, shape, data). Written here because numpy lacks bfloat16 and float8."""
    header, data = {}, b""
    for name, (dtype, shape, payload) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(payload)]}
        data += payload
    return crafted_safetensors(header, data)


def crafted_safetensors(header: Any, data: bytes = b"", *, header_bytes: int | None = None) -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded) if header_bytes is None else header_bytes) + encoded + data


def config_json(config: ModelConfig = TINY, **changes: Any) -> dict[str, Any]:
    """`config.json` of transformers 4; a change to None removes the key."""
    result = {
        "architectures": [config.architecture.capitalize() + "ForCausalLM"],
        "model_type": config.architecture,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim
        if config.head_dim != config.hidden_size // config.num_attention_heads
        else None,
        "hidden_act": "silu",
        "attention_bias": config.attention_bias,
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": None,
        "tie_word_embeddings": config.tie_word_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_ids[0],
        "pad_token_id": config.pad_token_id,
    } | changes
    return {key: value for key, value in result.items() if value is not None}


def write_model_directory(
    path: Path, config: ModelConfig = TINY, tensors: Tensors | None = None, *, shards: int = 1, **changes: Any
) -> Path:
    """A safetensors model in float32; with several shards an index beside them."""
    tensors = random_tensors(config) if tensors is None else tensors
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(config_json(config, **changes)))
    names, weight_map = list(tensors), {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors" if shards > 1 else "model.safetensors"
        part = {name: tensors[name] for name in names[shard::shards]}
        safetensors.numpy.save_file(part, path / file)
        weight_map |= dict.fromkeys(part, file)
    if shards > 1:
        (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return path
