"""A model on disk, GGUF, safetensors or E5S1: its configuration and memory-mapped tensors in Hugging Face naming.

Opening a model reads only headers. Every tensor that the architecture needs must be present, with the right shape
and a dtype that Deepwell converts. Unknown tensors are refused, because ignoring one would silently compute another
model.
"""

from __future__ import annotations

import hashlib
import math
import mmap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal, cast

import numpy as np
from numpy.typing import NDArray

from deepwell.errors import InvalidModelFile, ModelNotFound, UnsupportedModel
from deepwell.models.formats.config import ModelConfig
from deepwell.models.formats.config_reader import (
    SUPPORTED,
    config_from_directory,
    config_from_e5,
    config_from_gguf,
)
from deepwell.models.formats.dequantize import (
    FLOAT_DTYPES,
    MATRIX_DTYPES,
    WeightDtype,
    block_shape,
    dequantize,
    source_bits,
)
from deepwell.models.formats.e5 import e5_file_in, is_e5_file, read_e5_header
from deepwell.models.formats.gguf import GGUFHeader, read_gguf_header
from deepwell.models.formats.kinds import kind_of
from deepwell.models.formats.quantized import read_quantization
from deepwell.models.formats.safetensors import SafetensorsInfo, read_json, read_safetensors_index
from deepwell.models.store.layout import (
    expected_tensors,
    hugging_face_name,
    is_ignorable,
    is_shared_copy,
    prediction_layer_of,
)
from deepwell.models.store.layout_compressed import released_name

__all__ = ["Checkpoint", "StoredTensor", "open_checkpoint"]

Rows = slice | NDArray[np.intp] | None  # a range, indices, or all

_SAMPLE_BYTES: Final = 4096
_STACKED: Final = tuple(
    f".{module}_proj.weight" for module in ("experts.gate", "experts.up", "experts.down", "k_b", "v_b")
)  # GGUF tensors of three dimensions


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor as the file stores it: a view on the mapped bytes."""

    name: str
    shape: tuple[int, ...]
    dtype: WeightDtype
    data: NDArray[np.uint8] = field(repr=False)  # [rows, row_bytes] in file order; a vector has one row
    # Number of heads whose two halves a GGUF llama file interleaves; 0: not interleaved
    permuted_heads: int = 0
    # F8_E4M3 and F4_E2M1: one factor per block of weights, [blocks of rows, blocks of columns]
    scales: StoredTensor | None = field(default=None, repr=False)
    scale_block: tuple[int, int] = (0, 0)  # rows and columns of a block

    def raw_rows(self, rows: Rows = None) -> NDArray[np.uint8]:
        """Returns the stored bytes, uint8 [rows, row_bytes]; a vector has one row.

        The result is a view on the file, except for the permuted q and k of GGUF llama files, which are gathered into
        Hugging Face order. `rows` selects rows of a matrix.
        """
        if not self.permuted_heads:
            return self.data if rows is None else self.data[rows]
        order = _unpermuted_order(self.shape[0], self.permuted_heads)
        if len(self.shape) == 1:
            return self.data.reshape(self.shape[0], -1)[order].reshape(1, -1)
        return self.data[order if rows is None else order[rows]]

    def float32(self, rows: Rows = None) -> NDArray[np.float32]:
        """Returns the values in an array of `shape`, or only some rows of it (for a vector: some values)."""
        if len(self.shape) == 1:
            values = dequantize(self.raw_rows(), self.dtype)[0]
            return values if rows is None else values[rows]
        values = dequantize(self.raw_rows(rows), self.dtype)
        if self.scales is not None:
            block_rows, block_cols = self.scale_block
            index = np.arange(self.shape[0])[slice(None) if rows is None else rows]
            whole = self.shape[1] // block_cols  # blocks of columns that are not cut off
            factors = self.scales.float32(index // block_rows)
            blocks = values[:, : whole * block_cols].reshape(len(values), whole, block_cols)
            with np.errstate(over="ignore", invalid="ignore"):  # packing refuses what is not finite
                blocks *= factors[:, :whole, None]
                values[:, whole * block_cols :] *= factors[:, whole:]
        return values


@dataclass(frozen=True, slots=True)
class JoinedKvB(StoredTensor):
    """kv_b_proj of a GGUF file that stores it absorbed: k_b [heads x kv_lora_rank, nope], v_b [heads x v, kv_lora_rank].

    It is built from both, so it is dequantised before any other use.
    """

    k_b: StoredTensor = field(kw_only=True, repr=False)
    v_b: StoredTensor = field(kw_only=True, repr=False)
    heads: int = field(kw_only=True)

    def raw_rows(self, rows: Rows = None) -> NDArray[np.uint8]:
        """Returns the bytes of the float32 values."""
        return self.float32(rows).view(np.uint8)

    def float32(self, rows: Rows = None) -> NDArray[np.float32]:
        """Returns rows of [heads x (nope + v), kv_lora_rank]. A single key row needs its whole head dequantised."""
        heads, rank = self.heads, self.shape[1]
        nope, value = self.k_b.shape[1], self.v_b.shape[0] // heads
        index = np.arange(self.shape[0])[slice(None) if rows is None else rows]
        result = np.empty((len(index), rank), np.float32)
        head, inside = np.divmod(index, nope + value)
        for h in np.unique(head).tolist():
            keys = (head == h) & (inside < nope)
            if keys.any():
                whole = self.k_b.float32(slice(h * rank, (h + 1) * rank))  # [kv_lora_rank, nope]
                result[keys] = whole.T[inside[keys]]
        values = inside >= nope
        result[values] = self.v_b.float32(head[values] * value + inside[values] - nope)
        return result


class Checkpoint:
    """An open model. A tensor stays valid for as long as it is referenced, even after the checkpoint is gone."""

    def __init__(
        self,
        config: ModelConfig,
        kind: Literal["gguf", "safetensors", "e5", "packed"],
        tensors: Mapping[str, StoredTensor],
        maps: Mapping[Path, mmap.mmap],
        gguf: GGUFHeader | None,
        headers: Iterable[bytes],
    ) -> None:
        self.config = config
        self.format = kind
        self.metadata: Mapping[str, Any] = gguf.metadata if gguf else {}
        self._gguf = gguf  # held for others who read it: see `read_gguf_header`
        self.names = tuple(tensors)
        self.paths = tuple(maps)
        self._tensors = tensors
        self._maps = maps
        self._headers = tuple(headers)

    def tensor(self, name: str) -> StoredTensor:
        """Returns the tensor of a Hugging Face name, one of `names` (a tied model has no `lm_head.weight`)."""
        return self._tensors[name]

    @property
    def packed_precision(self) -> str | None:
        """Precision of the packed weights, for a model that exists only in the engine's own format; else None."""
        return self.paths[0].stem.rpartition("-")[2] if self.format == "packed" else None

    @property
    def nbytes(self) -> int:
        """Total bytes of the stored tensors and their scales."""
        scales = sum(one.scales.data.nbytes for one in self._tensors.values() if one.scales is not None)
        return scales + sum(tensor.data.nbytes for tensor in self._tensors.values())

    @cached_property
    def source_bits(self) -> int:
        """Precision class of most weights of the layers: 4 (3- to 5-bit blocks), 8, 16 or 32."""
        weights: dict[int, int] = {}
        for name, tensor in self._tensors.items():
            of_layer = name.startswith(("model.layers.", "encoder.layer.", "layers."))
            if len(tensor.shape) == 2 and of_layer and tensor.dtype != "I64":
                bits = source_bits(tensor.dtype)
                weights[bits] = weights.get(bits, 0) + tensor.shape[0] * tensor.shape[1]
        return max(weights, key=lambda bits: weights[bits])

    @cached_property
    def fingerprint(self) -> str:
        """A cheap identity of the weights, 64 hex digits, for caches of data derived from them.

        It is the SHA-256 of the headers, the file sizes and three samples of 4 KiB of every tensor. This tells apart any
        two models that were trained or converted differently, but does not detect tampering (`sha256` does).
        """
        digest = hashlib.sha256()
        for header in self._headers:
            digest.update(len(header).to_bytes(8, "little") + header)
        for mapped in self._maps.values():
            digest.update(len(mapped).to_bytes(8, "little"))
        for name, tensor in self._tensors.items():
            digest.update(name.encode())
            flat = tensor.data.reshape(-1)
            for start in (0, flat.size // 2, max(flat.size - _SAMPLE_BYTES, 0)):
                digest.update(flat[start : start + _SAMPLE_BYTES].data)
        return digest.hexdigest()

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the weights file, or of the shards' digests in name order; reads everything."""
        digests: list[str] = []
        for path in sorted(self.paths):
            with path.open("rb") as file:
                digests.append(hashlib.file_digest(file, "sha256").hexdigest())
        if len(digests) == 1:
            return digests[0]
        return hashlib.sha256("".join(digests).encode()).hexdigest()

    def release_pages(self) -> None:
        """Gives the mapped pages back to the system, which reads them again on use. This keeps the RSS of a load small."""
        for mapped in self._maps.values():
            mapped.madvise(mmap.MADV_DONTNEED)


def open_checkpoint(path: Path) -> Checkpoint:
    """Opens a `.gguf` or E5S1 file, a directory with `config.json` and safetensors, or one with a single such file.

    A directory with `config.json` and one `model-PRECISION.dwpack` has no tensors to convert; the engine reads the file.

    Raises:
        ModelNotFound: `path` does not exist.
        InvalidModelFile: the model is corrupt, truncated or hostile, or a needed tensor is missing or has the wrong shape.
        UnsupportedModel: the model is sound, but has an architecture, dtype or feature that Deepwell does not run.
    """
    if not path.exists():
        raise ModelNotFound(f"{path} does not exist")
    if path.is_file():
        if is_e5_file(path):
            return _open_e5(path)
        if path.suffix != ".gguf":
            raise UnsupportedModel.of("file_not_a_model", name=path.name)
        return _open_gguf(path)
    if (kind := kind_of(path)) != "text":
        raise UnsupportedModel.of(f"model_is_for_{kind.replace('-', '_')}", name=path.resolve().name)
    if (path / "config.json").is_file() and any(path.glob("*.safetensors*")):
        return _open_safetensors(path)
    if (path / "config.json").is_file() and len(packed := list(path.glob("*.dwpack"))) == 1:
        header = (path / "config.json").read_bytes()
        return Checkpoint(
            config_from_directory(path), "packed", {}, {packed[0]: _map(packed[0])}, None, [header]
        )
    found = sorted(file for file in path.glob("*.gguf") if file.is_file())
    if len(found) == 1:
        return _open_gguf(found[0])
    if not found and (file := e5_file_in(path)) is not None:
        return _open_e5(file)
    if not found:
        raise InvalidModelFile.of("folder_not_a_model", path=path)
    raise InvalidModelFile(f"{path} holds {len(found)} .gguf files", fix="give the path of one model")


def _open_gguf(path: Path) -> Checkpoint:
    header = read_gguf_header(path)
    split = header.metadata.get("split.count", 1)
    if not isinstance(split, int) or split > 1:
        raise UnsupportedModel(
            f"{path.name} is one of several parts", fix="join them: llama-gguf-split --merge"
        )
    mapped = _map(path)

    def view(offset: int, nbytes: int, rows: int) -> NDArray[np.uint8]:
        return np.frombuffer(mapped, np.uint8, nbytes, offset).reshape(rows, -1)

    rope_factors = None
    if (info := header.tensors.get("rope_freqs.weight")) is not None and info.ggml_type == "F32":
        rope_factors = view(info.offset, info.nbytes, 1).view(np.float32)[0]
    config = config_from_gguf(header, rope_factors, where=path.name)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    tensors: dict[str, StoredTensor] = {}
    stacked: dict[
        str, tuple[int, StoredTensor]
    ] = {}  # number of experts or heads, and their concatenated rows
    for gguf_name, info in header.tensors.items():
        if is_ignorable(gguf_name):
            continue
        name = hugging_face_name(gguf_name)
        if name is None:
            raise _unknown_tensor(path.name, gguf_name)
        if len(info.shape) == 3 and name.endswith(_STACKED):
            parts, rows, cols = info.shape
            _check_dtype(path.name, gguf_name, info.ggml_type, 2)
            kind = cast("WeightDtype", info.ggml_type)
            data = view(info.offset, info.nbytes, parts * rows)
            stacked[name] = parts, StoredTensor(name, (parts * rows, cols), kind, data)
            continue
        _check_dtype(path.name, gguf_name, info.ggml_type, len(info.shape))
        permuted = heads.get(name.split(".")[-2], 0) if config.architecture == "llama" else 0
        tensors[name] = StoredTensor(
            name,
            info.shape,
            cast("WeightDtype", info.ggml_type),
            view(info.offset, info.nbytes, info.shape[0] if len(info.shape) > 1 else 1),
            permuted_heads=permuted,
        )
    for name, (parts, tensor) in stacked.items():
        if ".experts." in name:
            tensors.update((expert.name, expert) for expert in _experts(tensor, parts))
        elif ".k_b_proj." in name:
            _, values = stacked.get(name.replace(".k_b_proj.", ".v_b_proj."), (0, None))
            joined = _joined(path.name, tensor, values, config)
            tensors[joined.name] = joined
    prefix = mapped[: header.data_offset]
    return Checkpoint(
        config, "gguf", _in_order(path.name, config, tensors), {path: mapped}, header, (prefix,)
    )


def _experts(stacked: StoredTensor, parts: int) -> Iterator[StoredTensor]:
    """Yields views on the parts of a stacked tensor, under the names of the separate tensors."""
    before, after = stacked.name.split(".experts.")
    rows = stacked.shape[0] // parts
    for expert in range(parts):
        yield replace(
            stacked,
            name=f"{before}.experts.{expert}.{after}",
            shape=(rows, stacked.shape[1]),
            data=stacked.data[expert * rows : (expert + 1) * rows],
        )


def _joined(where: str, keys: StoredTensor, values: StoredTensor | None, config: ModelConfig) -> StoredTensor:
    """Joins kv_b_proj from its absorbed halves, stacked heads of [kv_lora_rank, nope] and of [v, kv_lora_rank]."""
    heads, rank, nope = config.num_attention_heads, config.kv_lora_rank, config.qk_nope_head_dim
    name = keys.name.replace("k_b_proj", "kv_b_proj")
    expected = (heads * rank, nope), (heads * config.v_head_dim, rank)
    if values is None or (keys.shape, values.shape) != expected:
        raise InvalidModelFile(
            f"{where}: the absorbed halves of {name!r} are missing or of the wrong shape",
            fix="pull the model again",
        )
    shape = (heads * (nope + config.v_head_dim), rank)
    return JoinedKvB(name, shape, "F32", keys.data, k_b=keys, v_b=values, heads=heads)


def _open_safetensors(directory: Path) -> Checkpoint:
    config = config_from_directory(directory)
    infos = read_safetensors_index(directory)
    quantization = read_quantization(
        read_json(directory / "config.json"), released=config.compression is not None
    )
    scales = quantization.scales(infos)
    names_of_scales = {info.name for info in scales.values()}
    if not _has_prediction_layer(infos, config):
        config = replace(config, num_nextn_predict_layers=0)
    maps = {path: _map(path) for path in dict.fromkeys(info.path for info in infos.values())}

    def view(info: SafetensorsInfo) -> NDArray[np.uint8]:
        rows = info.shape[0] if len(info.shape) > 1 else 1
        return np.frombuffer(maps[info.path], np.uint8, info.nbytes, info.offset).reshape(rows, -1)

    tensors: dict[str, StoredTensor] = {}
    for stored, info in infos.items():
        name = stored if config.compression is None else released_name(stored)
        if is_ignorable(name) or (name == "lm_head.weight" and config.tie_word_embeddings):
            continue
        predicts = prediction_layer_of(name, config)
        runs = predicts == 0 and config.prediction_layer is not None
        if predicts is not None and (not runs or is_shared_copy(name)):
            continue
        if stored in names_of_scales:
            continue
        if name in tensors:
            raise InvalidModelFile(
                f"{info.path.name}: the tensor {name[:80]!r} is stored twice", fix="pull the model again"
            )
        kind = cast("WeightDtype", "F4_E2M1" if quantization.is_fp4(info) else info.dtype)
        _check_dtype(info.path.name, name, kind, len(info.shape))
        if 0 in info.shape:
            raise InvalidModelFile(f"{info.path.name}: tensor {name[:80]!r} is empty")
        tensor = StoredTensor(name, info.shape, kind, view(info))
        if kind in ("F8_E4M3", "F4_E2M1"):
            found = quantization.checked(info, scales.get(stored))
            of, values = found.info, block_shape(kind)[0]
            tensor = replace(
                tensor,
                shape=(info.shape[0], info.shape[1] * values),
                scales=StoredTensor(of.name, of.shape, cast("WeightDtype", of.dtype), view(of)),
                scale_block=found.block,
            )
        tensors[name] = tensor
    headers = [(directory / "config.json").read_bytes()]
    headers += [mapped[: 8 + int.from_bytes(mapped[:8], "little")] for mapped in maps.values()]
    return Checkpoint(config, "safetensors", _in_order(directory.name, config, tensors), maps, None, headers)


def _has_prediction_layer(names: Iterable[str], config: ModelConfig) -> bool:
    """Returns whether a file holds the layer that its configuration promises.

    transformers drops the layer and keeps the field. Later releases of DeepSeek-V4 store the blocks of a drafter of another
    kind under the layer's names, which lacks the layer's norms and is not run.
    """
    if config.compression is not None:
        return any(released_name(name) == "mtp.0.enorm.weight" for name in names)
    return any(prediction_layer_of(name, config) == 0 for name in names)


def _open_e5(path: Path) -> Checkpoint:
    header = read_e5_header(path)
    mapped = _map(path)
    config = config_from_e5(header, where=path.name)
    tensors: dict[str, StoredTensor] = {}
    for name, shape in expected_tensors(config):
        if (info := header.tensors.get(name)) is None:
            continue  # refused below
        _check_dtype(path.name, name, info.dtype, len(shape))
        rows = shape[0] if len(shape) > 1 else 1
        cols = math.prod(shape) // rows
        if rows * cols != info.values or cols % block_shape(info.dtype)[0]:
            raise InvalidModelFile(
                f"{path.name}: {name!r} has {info.values} values, the sizes say {shape}",
                fix="pull the model again",
            )
        data = np.frombuffer(mapped, np.uint8, info.nbytes, info.offset).reshape(rows, -1)
        tensors[name] = StoredTensor(name, shape, info.dtype, data)
    if unknown := header.tensors.keys() - tensors.keys():
        raise _unknown_tensor(path.name, min(unknown))
    prefix = mapped[: header.data_offset]
    return Checkpoint(config, "e5", _in_order(path.name, config, tensors), {path: mapped}, None, (prefix,))


def _in_order(where: str, config: ModelConfig, tensors: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Returns exactly the expected tensors, in the order of the forward pass."""
    result: dict[str, StoredTensor] = {}
    for name, shape in expected_tensors(config):
        tensor = tensors.pop(name, None)
        if tensor is None:
            raise InvalidModelFile(f"{where}: the tensor {name!r} is missing", fix="pull the model again")
        if tensor.shape != shape:
            raise InvalidModelFile(
                f"{where}: {name!r} has the shape {tensor.shape}, the configuration says {shape}",
                fix="pull the model again",
            )
        result[name] = tensor
    for name, tensor in tensors.items():
        if not _is_zero_output_bias(tensor, config):
            raise _unknown_tensor(where, name)
    return result


def _is_zero_output_bias(tensor: StoredTensor, config: ModelConfig) -> bool:
    """Returns whether a tensor is an `o_proj` bias of zeros.

    `attention_bias` of a Llama model covers `o_proj` too; Qwen models converted to Llama store zeros there.
    """
    if not tensor.name.endswith(".self_attn.o_proj.bias") or tensor.shape != (config.hidden_size,):
        return False
    return not tensor.float32().any()


def _map(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _unknown_tensor(where: str, name: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"{where}: the tensor {name[:80]!r} belongs to no model of this architecture",
        fix=SUPPORTED,
    )


def _check_dtype(where: str, name: str, dtype: str, dims: int) -> None:
    if not 1 <= dims <= 2:
        raise InvalidModelFile(f"{where}: the tensor {name[:80]!r} has {dims} dimensions, expected 1 or 2")
    # Tables of numbers stand beside the weights: the experts that a token chooses.
    allowed = ("I64",) if name.endswith(".tid2eid") else MATRIX_DTYPES if dims == 2 else FLOAT_DTYPES
    if dtype not in allowed:
        raise UnsupportedModel(
            f"{where}: the tensor {name[:80]!r} has the type {dtype}",
            fix=f"supported are {', '.join(allowed)}",
        )


def _unpermuted_order(rows: int, heads: int) -> NDArray[np.intp]:
    """Returns the stored row of each Hugging Face row. Converters store row (h, j, i) at (h, i, j), j in 0..1."""
    return np.arange(rows).reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)
