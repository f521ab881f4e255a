"""Writes weights as GGUF for llama.cpp, in float32 or in blocks.

Vocabulary, template and sizes are those of the donor's own GGUF file, or are made of its folder; see `metadata`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
from numpy.typing import NDArray

from deepwell.errors import InvalidModelFile, UnsupportedModel
from deepwell.models.formats.checkpoint import Checkpoint
from deepwell.models.formats.config import ModelConfig
from deepwell.models.formats.config_reader import llama3_frequency_factors
from deepwell.models.text.tokenizer import Tokenizer
from deepwell.tuning.compress.metadata import ARCHITECTURES, Entry, donor_entries, folder_entries

__all__ = ["Blocks", "check_gguf", "write_gguf"]

_SHAPES = {
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.value_length": "head_dim",
    "rope.dimension_count": "head_dim",
}
_MOST_ITEMS: Final = 4 << 20
"""Items of a donor's arrays, as the reader takes some hundred bytes for each; the largest vocabularies have 1.1 million."""
_FILE_TYPES: Final = {
    "Q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
    "Q4_1": gguf.LlamaFileType.MOSTLY_Q4_1,
    "Q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "Q4_K": gguf.LlamaFileType.MOSTLY_Q4_K_S,
    "Q3_K": gguf.LlamaFileType.MOSTLY_Q3_K_S,
}


@dataclass(frozen=True, slots=True)
class Blocks:
    """A matrix in a block format: its name in GGUF, and uint8 [rows, row_bytes]."""

    kind: str
    rows: NDArray[np.uint8]


def check_gguf(donor: Checkpoint) -> None:
    """Checks that a donor has metadata that can be copied for llama.cpp.

    Raises:
        UnsupportedModel: it is no GGUF file, and its vocabulary is not in GGUF's form.
        InvalidModelFile: its metadata are beyond what any model has.
    """
    if donor.format != "gguf":
        raise UnsupportedModel.of("compress_gguf_donor", param="gguf")
    if reserved := next((key for key in donor.metadata if key.startswith("GGUF.")), None):
        raise InvalidModelFile(
            f"the metadata have the key {reserved[:80]!r}, which the format keeps for itself",
            fix="download the model again or from another source",
        )
    items = sum(len(one) for one in donor.metadata.values() if isinstance(one, list | np.ndarray))
    if items > _MOST_ITEMS:
        raise InvalidModelFile(
            f"the arrays of the metadata have {items} items, more than {_MOST_ITEMS}",
            fix="download the model again or from another source",
        )


def write_gguf(
    path: Path,
    donor: Checkpoint,
    config: ModelConfig,
    weights: Mapping[str, NDArray[np.float32] | Blocks],
    *,
    tokenizer: Tokenizer | None = None,
    extra: Iterable[Entry] = (),
) -> None:
    """Writes weights of a configuration, with the other metadata of the donor.

    Args:
        tokenizer: that of a donor which is a folder, from which metadata are then made.
        extra: further entries of the metadata.

    Raises:
        UnsupportedModel: see `check_gguf`, without a tokenizer, and `folder_entries`, with one.
    """
    if tokenizer is None or donor.format == "gguf":
        check_gguf(donor)
        architecture = str(donor.metadata["general.architecture"])
        entries = donor_entries(donor.paths[0])
    else:
        entries = folder_entries(config, tokenizer, path.stem)
        architecture = ARCHITECTURES.get(config.architecture, "")
    replaced = {f"{architecture}.{key}": int(getattr(config, name)) for key, name in _SHAPES.items()}
    kept = [one for one in entries if one.key not in replaced]  # before a file of the same name is begun
    names = gguf.get_tensor_name_map(_kind_of(architecture), config.num_hidden_layers)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    writer = gguf.GGUFWriter(partial, architecture)
    for one in (*kept, *extra):
        writer.add_key_value(one.key, one.value, one.kind, one.inner)
    for name, value in replaced.items():
        writer.add_uint32(name, value)
    writer.add_file_type(_file_type(weights))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    if config.rope_scaling is not None and config.rope_scaling.kind == "llama3":
        factors = llama3_frequency_factors(config.rope_scaling, config.head_dim, config.rope_theta)
        writer.add_tensor("rope_freqs.weight", factors)
    for name, values in weights.items():
        stored = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if stored is None:
            raise UnsupportedModel(f"GGUF has no name for {name}", fix="leave --gguf out")
        if isinstance(values, Blocks):
            rows = _permuted(name, values.rows, config, architecture)
            writer.add_tensor(stored, rows, raw_dtype=gguf.GGMLQuantizationType[values.kind])
        else:
            values = np.asarray(values, np.float32)
            writer.add_tensor(stored, _permuted(name, values, config, architecture))
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        partial.rename(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _kind_of(architecture: str) -> gguf.MODEL_ARCH:
    return next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == architecture)


def _file_type(weights: Mapping[str, NDArray[np.float32] | Blocks]) -> gguf.LlamaFileType:
    """Returns the type that most bytes of the layers have."""
    sizes: dict[str, int] = {}
    for name, values in weights.items():
        if isinstance(values, Blocks) and ".layers." in name:
            sizes[values.kind] = sizes.get(values.kind, 0) + values.rows.nbytes
    return _FILE_TYPES[max(sizes, key=sizes.__getitem__)] if sizes else gguf.LlamaFileType.ALL_F32


def _permuted(name: str, values: NDArray[Any], config: ModelConfig, architecture: str) -> NDArray[Any]:
    """Returns the rows as llama.cpp has them: for Llama, the halves that rotate together lie beside each other."""
    values = np.ascontiguousarray(values)
    heads = {".q_proj.": config.num_attention_heads, ".k_proj.": config.num_key_value_heads}
    count = next((one for part, one in heads.items() if part in name), 0)
    if architecture != "llama" or not count:
        return values
    parts = values.reshape(count, 2, len(values) // count // 2, *values.shape[1:])
    return np.ascontiguousarray(parts.swapaxes(1, 2).reshape(values.shape))
