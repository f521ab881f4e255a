"""Hostile headers: GGUF and safetensors files, config.json, and adapters, each wrong in one way."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["adapters", "configs", "gguf_headers", "safetensors_headers", "sound_model"]

_HUGE = (1 << 31, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
_HIDDEN, _INNER, _VOCAB, _HEADS = 64, 96, 64, 4


def _text(value: str | bytes) -> bytes:
    data = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(data)) + data


def _u32(key: str, value: int) -> bytes:
    return _text(key) + struct.pack("<II", 4, value)


def _u64(key: str, value: int) -> bytes:
    return _text(key) + struct.pack("<IQ", 10, value)


def _f32(key: str, value: float) -> bytes:
    return _text(key) + struct.pack("<If", 6, value)


def _string(key: str, value: str | bytes) -> bytes:
    return _text(key) + struct.pack("<I", 8) + _text(value)


def _array(key: str, kind: int, count: int, payload: bytes) -> bytes:
    return _text(key) + struct.pack("<IIQ", 9, kind, count) + payload


def _tensor(name: str | bytes, extents: Sequence[int], kind: int = 0, offset: int = 0) -> bytes:
    return _text(name) + struct.pack(f"<I{len(extents)}QIQ", len(extents), *extents, kind, offset)


_LLAMA = (
    _string("general.architecture", "llama"),
    _u32("llama.context_length", 128),
    _u32("llama.embedding_length", _HIDDEN),
    _u32("llama.block_count", 1),
    _u32("llama.feed_forward_length", _INNER),
    _u32("llama.attention.head_count", _HEADS),
    _u32("llama.attention.head_count_kv", 2),
    _f32("llama.rope.freq_base", 10_000.0),
    _f32("llama.attention.layer_norm_rms_epsilon", 1e-5),
)


@dataclass(frozen=True, slots=True)
class _Gguf:
    """A GGUF file in parts, each of which may be wrong."""

    entries: Sequence[bytes] = _LLAMA
    tensors: Sequence[bytes] = field(default_factory=lambda: (_tensor("token_embd.weight", [8]),))
    data: bytes = bytes(64)
    magic: bytes = b"GGUF"
    version: int = 3
    tensor_count: int | None = None
    entry_count: int | None = None

    def encode(self) -> bytes:
        tensors = len(self.tensors) if self.tensor_count is None else self.tensor_count
        entries = len(self.entries) if self.entry_count is None else self.entry_count
        header = self.magic + struct.pack("<IQQ", self.version, tensors, entries)
        header += b"".join(self.entries) + b"".join(self.tensors)
        return header + bytes(-len(header) % 32) + self.data


def gguf_headers() -> Iterator[tuple[str, bytes]]:
    """Yields names and contents of GGUF files."""
    sound = _Gguf().encode()
    for magic in (b"", b"GGML", b"\0\0\0\0", b"PK\x03\x04", b"\x80\x04\x95"):
        yield f"magic-{magic.hex() or 'none'}", _Gguf(magic=magic).encode()
    for version in (0, 1, 4, 3 << 24, 0xFFFFFFFF):
        yield f"version-{version}", _Gguf(version=version).encode()
    for size in (0, 1, 3, 8, 23, 24, 40, 80, 200, len(sound) - 70):
        yield f"cut-{size}", sound[:size]
    for count in _HUGE:
        yield f"tensors-{count}", _Gguf(tensor_count=count).encode()
        yield f"entries-{count}", _Gguf(entry_count=count).encode()
        yield f"key-{count}", _Gguf([struct.pack("<Q", count) + b"key"]).encode()
        yield f"string-{count}", _Gguf([_text("k") + struct.pack("<IQ", 8, count)]).encode()
        yield f"array-{count}", _Gguf([_array("k", 4, count, bytes(64))]).encode()
        yield f"strings-{count}", _Gguf([_array("k", 8, count, bytes(64))]).encode()
        yield f"extent-{count}", _Gguf(tensors=[_tensor("a", [count])]).encode()
        yield f"offset-{count}", _Gguf(tensors=[_tensor("a", [8], 0, count // 32 * 32)]).encode()
    for dims in (0, 5, 1 << 20):
        one = _text("a") + struct.pack("<I", dims) + bytes(64)
        yield f"dims-{dims}", _Gguf(tensors=[one]).encode()
    for kind in (4, 13, 255, 0xFFFFFFFF):
        yield f"value-type-{kind}", _Gguf([_text("k") + struct.pack("<I", kind) + bytes(16)]).encode()
        yield f"tensor-type-{kind}", _Gguf(tensors=[_tensor("a", [32], kind)]).encode()
    yield "product", _Gguf(tensors=[_tensor("a", [1 << 16] * 4)]).encode()
    yield "zero-extent", _Gguf(tensors=[_tensor("a", [0, 8])]).encode()
    yield "part-of-block", _Gguf(tensors=[_tensor("a", [33], 2)]).encode()
    yield "unaligned", _Gguf(tensors=[_tensor("a", [8], 0, 7)]).encode()
    yield "overlap", _Gguf(tensors=[_tensor("a", [8]), _tensor("b", [8])]).encode()
    yield "twice", _Gguf(tensors=[_tensor("a", [8]), _tensor("a", [8], 0, 32)]).encode()
    yield "key-twice", _Gguf([*_LLAMA, _LLAMA[1]]).encode()
    for name in (
        "../../etc/passwd",
        "/etc/passwd",
        "a\0b",
        "blk.-1.attn_q.weight",
        "blk.99999999999.attn_q.weight",
    ):
        yield f"name-{len(name)}", _Gguf(tensors=[_tensor(name, [8])]).encode()
    yield "name-long", _Gguf(tensors=[_tensor("a" * 70_000, [8])]).encode()
    yield "name-bytes", _Gguf(tensors=[_tensor(b"\xff\xfe", [8])]).encode()
    yield "key-bytes", _Gguf([_string("k", b"\xff\xfe\xfd")]).encode()
    yield "boolean-7", _Gguf([_text("k") + struct.pack("<IB", 7, 7)]).encode()
    deep = b"".join(struct.pack("<IQ", 9, 1) for _ in range(10_000))
    yield "deep-arrays", _Gguf([_text("k") + struct.pack("<I", 9) + deep]).encode()
    wide = b"".join(struct.pack("<IQ", 4, 0) for _ in range(1 << 18))
    yield "many-arrays", _Gguf([_array("k", 9, 1 << 18, wide)]).encode()
    yield "many-strings", _Gguf([_array("k", 8, 3 << 20, bytes(8 * (3 << 20)))]).encode()
    for alignment in (0, 3, 1 << 31):
        yield f"alignment-{alignment}", _Gguf([*_LLAMA, _u32("general.alignment", alignment)]).encode()
    for index, entry in enumerate(_LLAMA[1:8], 1):
        key = entry[8 : 8 + struct.unpack("<Q", entry[:8])[0]].decode()
        name = key.removeprefix("llama.").replace("_", "-")
        for value in (0, (1 << 64) - 1):
            yield f"{name}-{value}", _Gguf(_changed(index, _u64(key, value))).encode()
        yield f"{name}-text", _Gguf(_changed(index, _string(key, "x"))).encode()
    architecture = "general.architecture"
    yield "architecture-list", _Gguf(_changed(0, _array(architecture, 4, 2, bytes(8)))).encode()
    yield "architecture-path", _Gguf(_changed(0, _string(architecture, "../../llama"))).encode()
    for key, entry in (
        ("model", _array("tokenizer.ggml.model", 4, 2, bytes(8))),
        ("pre", _array("tokenizer.ggml.pre", 4, 2, bytes(8))),
        ("tokens", _array("tokenizer.ggml.tokens", 4, 2, bytes(8))),
        ("bos", _u64("tokenizer.ggml.bos_token_id", (1 << 64) - 1)),
        ("template", _array("tokenizer.chat_template", 8, 1, _text("x"))),
        ("split", _array("split.count", 4, 1, bytes(4))),
    ):
        yield f"odd-{key}", _Gguf([*_LLAMA, entry]).encode()


def _changed(index: int, entry: bytes) -> list[bytes]:
    return [entry if number == index else one for number, one in enumerate(_LLAMA)]


_CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": _VOCAB,
    "hidden_size": _HIDDEN,
    "intermediate_size": _INNER,
    "num_hidden_layers": 1,
    "num_attention_heads": _HEADS,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10_000.0,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_SHAPES: dict[str, tuple[int, ...]] = {
    "model.embed_tokens.weight": (_VOCAB, _HIDDEN),
    "model.layers.0.input_layernorm.weight": (_HIDDEN,),
    "model.layers.0.self_attn.q_proj.weight": (_HIDDEN, _HIDDEN),
    "model.layers.0.self_attn.k_proj.weight": (_HIDDEN // 2, _HIDDEN),
    "model.layers.0.self_attn.v_proj.weight": (_HIDDEN // 2, _HIDDEN),
    "model.layers.0.self_attn.o_proj.weight": (_HIDDEN, _HIDDEN),
    "model.layers.0.post_attention_layernorm.weight": (_HIDDEN,),
    "model.layers.0.mlp.gate_proj.weight": (_INNER, _HIDDEN),
    "model.layers.0.mlp.up_proj.weight": (_INNER, _HIDDEN),
    "model.layers.0.mlp.down_proj.weight": (_HIDDEN, _INNER),
    "model.norm.weight": (_HIDDEN,),
}


def _safetensors(header: Any, data: bytes = b"", header_bytes: int | None = None) -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded) if header_bytes is None else header_bytes) + encoded + data


def _packed(shapes: dict[str, tuple[int, ...]]) -> bytes:
    """Returns a safetensors file of zeros."""
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        size = 4
        for extent in shape:
            size *= extent
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    return _safetensors(header, bytes(end))


def sound_model(vocab: int = _VOCAB, context: int = 128) -> dict[str, bytes]:
    """Returns the files of a tiny sound model, whose parts the hostile ones change and adapters name."""
    config = _CONFIG | {"vocab_size": vocab, "max_position_embeddings": context}
    shapes = _SHAPES | {"model.embed_tokens.weight": (vocab, _HIDDEN)}
    return {"config.json": json.dumps(config).encode(), "model.safetensors": _packed(shapes)}


def _entry(**changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes


def safetensors_headers() -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yields names and files of models whose safetensors, or whose index of them, are wrong."""
    config = json.dumps(_CONFIG).encode()

    def model(name: str, weights: bytes) -> tuple[str, dict[str, bytes]]:
        return name, {"config.json": config, "model.safetensors": weights}

    for size in (0, 7, 9, 10):
        yield model(f"bytes-{size}", bytes(size))
    for size in (*_HUGE, 17 << 20):
        yield model(f"header-{size}", _safetensors({"a": _entry()}, bytes(8), size))
    for name, header in (
        ("not-json", b"{" + b"\xff" * 64),
        ("list", b"[]"),
        ("spaces", b" " * 64 + b"{}"),
        ("cut", b'{"a": {"dtype": "F32"'),
        ("deep", b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
        ("deep-objects", b'{"a": ' * 100_000 + b"1" + b"}" * 100_000),
        ("twice", b'{"a": {"dtype":"F32","shape":[2],"data_offsets":[0,8]}, "a": 1}'),
        ("big-number", b'{"a": ' + b"9" * 100_000 + b"}"),
        ("nan", b'{"a": {"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}'),
        ("infinite", b'{"a": {"dtype":"F32","shape":[2],"data_offsets":[0,1e999]}}'),
        ("empty-objects", b'{"a": [' + b"{}," * (4 << 20) + b"1]}"),
        ("surrogate", b'{"\\ud800": {"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'),
    ):
        yield model(f"json-{name}", _safetensors(header, bytes(8)))
    for name, entry in (
        ("no-object", 1),
        ("no-dtype", {"shape": [2], "data_offsets": [0, 8]}),
        ("dtype-unknown", _entry(dtype="F128")),
        ("dtype-list", _entry(dtype=["F32"])),
        ("dtype-long", _entry(dtype="F" * 1_000_000)),
        ("shape-text", _entry(shape="2")),
        ("shape-negative", _entry(shape=[-2])),
        ("shape-boolean", _entry(shape=[True, 2])),
        ("shape-float", _entry(shape=[2.0])),
        ("shape-large", _entry(shape=[1 << 62, 1 << 62, 4])),
        ("shape-zero", _entry(shape=[0], data_offsets=[0, 0])),
        ("shape-deep", _entry(shape=[1] * 9)),
        ("offsets-one", _entry(data_offsets=[0])),
        ("offsets-back", _entry(data_offsets=[8, 0])),
        ("offsets-negative", _entry(data_offsets=[-8, 0])),
        ("offsets-far", _entry(data_offsets=[1 << 62, (1 << 62) + 8])),
        ("offsets-hole", _entry(data_offsets=[8, 16])),
        ("offsets-text", _entry(data_offsets=["0", "8"])),
    ):
        yield model(f"tensor-{name}", _safetensors({"a": entry}, bytes(8)))
    yield model("overlap", _safetensors({"a": _entry(), "b": _entry()}, bytes(8)))
    yield model("behind", _safetensors({"a": _entry()}, bytes(8) + b"PK\x03\x04" * 64))
    for name, shard in (
        ("up", "../model.safetensors"),
        ("absolute", "/etc/passwd.safetensors"),
        ("hidden", ".hidden.safetensors"),
        ("drive", "C:\\model.safetensors"),
        ("null", "a\0.safetensors"),
        ("missing", "other.safetensors"),
        ("list", ["model.safetensors"]),
        ("number", 7),
    ):
        index = {"weight_map": {"model.norm.weight": shard}}
        yield (
            f"index-{name}",
            {
                "config.json": config,
                "model.safetensors.index.json": json.dumps(index).encode(),
                "model.safetensors": _packed(_SHAPES),
            },
        )
    yield model("missing-tensor", _packed({name: s for name, s in _SHAPES.items() if "norm" not in name}))
    yield model("other-shape", _packed(_SHAPES | {"model.norm.weight": (_HIDDEN + 1,)}))
    yield model("unknown-tensor", _packed(_SHAPES | {"model.extra.weight": (8,)}))


def configs() -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yields names and files of models whose config.json is wrong."""
    weights = _packed(_SHAPES)

    def model(name: str, config: bytes) -> tuple[str, dict[str, bytes]]:
        return name, {"config.json": config, "model.safetensors": weights}

    values: dict[str, Any] = {
        "zero": 0,
        "negative": -1,
        "large": 1 << 62,
        "endless": 10**400,
        "text": "x" * 100_000,
        "list": [1] * 1000,
        "float": 1e308,
    }
    for key in (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "max_position_embeddings",
    ):
        for name, value in values.items():
            yield model(f"{key}-{name}", json.dumps(_CONFIG | {key: value}).encode())
    for key, value in (
        ("rms_norm_eps", 10**400),
        ("rope_theta", -1),
        ("rope_theta", 10**400),
        ("rope_scaling", {"type": "yarn", "factor": 10**400}),
        ("rope_scaling", {"type": "x" * 100_000}),
        ("rope_scaling", [[]]),
        ("eos_token_id", [10**400]),
        ("eos_token_id", list(range(100_000))),
        ("architectures", {}),
        ("architectures", ["../../x"]),
        ("model_type", ["llama"]),
        ("hidden_act", "__import__('os').system('true')"),
        ("tie_word_embeddings", "yes"),
        ("quantization_config", {"quant_method": "fp8", "weight_block_size": [0, 0]}),
    ):
        yield model(f"{key}-{_short(value)}", json.dumps(_CONFIG | {key: value}).encode())
    for name, config in (
        ("empty", b""),
        ("list", b"[]"),
        ("bytes", b"\xff" * 64),
        ("deep", b'{"a":' * 100_000),
        ("twice", b'{"model_type": "llama", "model_type": "bert"}'),
        ("empty-lists", b'{"a": [' + b"[]," * (1 << 20) + b"1]}"),
    ):
        yield model(f"file-{name}", config)


def _short(value: object) -> str:
    text = json.dumps(value)
    return "".join(c if c.isalnum() else "-" for c in text[:24]).strip("-") + f"-{len(text)}"


def adapters() -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yields names and files of LoRA adapters for `sound_model`."""
    module = "base_model.model.model.layers.0.self_attn.q_proj"
    sound = {f"{module}.lora_A.weight": (2, _HIDDEN), f"{module}.lora_B.weight": (_HIDDEN, 2)}
    base: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}

    def adapter(name: str, weights: bytes | None = None, **changes: Any) -> tuple[str, dict[str, bytes]]:
        files = {"adapter_config.json": json.dumps(base | changes).encode()}
        return name, files | {"adapter_model.safetensors": _packed(sound) if weights is None else weights}

    for key, values in {
        "r": (0, -1, 1 << 62, 10**400, "2", [2], None, True),
        "lora_alpha": (10**400, "x", [4], {}, -1e308),
        "rank_pattern": ({"q_proj": 10**400}, {"(a+)+$": 2}, [1]),
        "alpha_pattern": ({"q_proj": 10**400}, {"q_proj": "x"}),
        "target_modules": ("(q_proj|x)*" * 2000 + "y", ["../../x"], [["q_proj"]], 7),
        "peft_type": ("PROMPT_TUNING", ["LORA"], "x" * 100_000),
        "bias": ("all", ["none"]),
        "use_dora": (True,),
        "modules_to_save": (["lm_head"],),
    }.items():
        for number, value in enumerate(values):
            yield adapter(f"{key}-{number}", **{key: value})
    yield adapter("no-weights", b"")
    yield adapter("unknown-module", _packed({"../../x.lora_A.weight": (2, _HIDDEN)}))
    yield adapter("half", _packed({f"{module}.lora_A.weight": (2, _HIDDEN)}))
    yield adapter("other-rank", _packed(sound | {f"{module}.lora_B.weight": (_HIDDEN, 3)}))
    yield adapter("other-size", _packed(sound | {f"{module}.lora_A.weight": (2, _HIDDEN + 1)}))
    yield adapter("pickle", b"\x80\x04\x95" + bytes(64))
    weights = _packed(sound)
    for name, config in (("bytes", b"\xff" * 64), ("list", b"[]"), ("deep", b'{"a":' * 100_000)):
        yield f"config-{name}", {"adapter_config.json": config, "adapter_model.safetensors": weights}
