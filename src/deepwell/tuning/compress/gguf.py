"""Writes pruned weights as GGUF for llama.cpp: vocabulary and template are those of the donor's own GGUF file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from deepwell.errors import UnsupportedModel
from deepwell.models.formats.checkpoint import Checkpoint
from deepwell.models.formats.config import ModelConfig

__all__ = ["check_gguf", "write_gguf"]

_SHAPES = {
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.value_length": "head_dim",
    "rope.dimension_count": "head_dim",
}


def check_gguf(donor: Checkpoint) -> None:
    """Checks that a donor has the metadata that llama.cpp needs.

    Raises:
        UnsupportedModel: it is no GGUF file, and its vocabulary is not in GGUF's form.
    """
    if donor.format != "gguf":
        raise UnsupportedModel.of("compress_gguf_donor", param="gguf")


def write_gguf(
    path: Path, donor: Checkpoint, config: ModelConfig, weights: Mapping[str, NDArray[np.float32]]
) -> None:
    """Writes weights of a smaller configuration in float32, with the other metadata of the donor's file.

    Raises:
        UnsupportedModel: see `check_gguf`.
    """
    check_gguf(donor)
    architecture = str(donor.metadata["general.architecture"])
    partial = path.with_suffix(".partial")
    writer = gguf.GGUFWriter(partial, architecture)
    replaced = {f"{architecture}.{key}": int(getattr(config, name)) for key, name in _SHAPES.items()}
    reader = gguf.GGUFReader(donor.paths[0])
    for name, one in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture" or name in replaced:
            continue
        if name in ("general.file_type", "general.quantization_version"):
            continue
        kind = one.types[0]
        inner = one.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        value: Any = one.contents()
        writer.add_key_value(name, value, kind, inner)
    for name, value in replaced.items():
        writer.add_uint32(name, value)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    kind = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == architecture)
    names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    for name, values in weights.items():
        stored = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if stored is None:
            raise UnsupportedModel(f"GGUF has no name for {name}", fix="leave --gguf out")
        writer.add_tensor(stored, _permuted(name, values, config, architecture))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.rename(path)


def _permuted(
    name: str, values: NDArray[np.float32], config: ModelConfig, architecture: str
) -> NDArray[np.float32]:
    """Returns the rows as llama.cpp has them: for Llama, the halves that rotate together lie beside each other."""
    values = np.ascontiguousarray(values, np.float32)
    heads = {".q_proj.": config.num_attention_heads, ".k_proj.": config.num_key_value_heads}
    count = next((one for part, one in heads.items() if part in name), 0)
    if architecture != "llama" or not count:
        return values
    parts = values.reshape(count, 2, len(values) // count // 2, *values.shape[1:])
    return np.ascontiguousarray(parts.swapaxes(1, 2).reshape(values.shape))
