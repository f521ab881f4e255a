"""Converts stored weights to float32: quantised GGUF blocks, half-precision floats, 8-bit and 4-bit floats.

Block formats use the vectorised functions of the `gguf` package, never its file reader.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "FLOAT_DTYPES",
    "MATRIX_DTYPES",
    "WeightDtype",
    "block_shape",
    "dequantize",
    "row_bytes",
    "source_bits",
]

WeightDtype = Literal[
    "F32",
    "F16",
    "BF16",
    "I64",
    "F8_E4M3",
    "F8_E8M0",
    "F4_E2M1",
    "Q8_0",
    "Q4_0",
    "Q4_1",
    "Q5_0",
    "Q5_1",
    "Q3_K",
    "Q4_K",
    "Q5_K",
    "Q6_K",
]
FLOAT_DTYPES: Final = ("F32", "F16", "BF16")
# F8_E8M0 holds scales alone, and I64 tables of numbers.
MATRIX_DTYPES: Final[tuple[str, ...]] = tuple(
    one for one in get_args(WeightDtype) if one not in ("I64", "F8_E8M0")
)

# dtype -> (values per block, bytes per block, precision in bits that the weights are worth running at).
_LAYOUT: Final[dict[WeightDtype, tuple[int, int, int]]] = {
    "F32": (1, 4, 32),
    "F16": (1, 2, 16),
    "BF16": (1, 2, 16),
    "I64": (1, 8, 32),
    "F8_E4M3": (1, 1, 8),
    "F8_E8M0": (1, 1, 8),
    "F4_E2M1": (2, 1, 4),
    "Q8_0": (32, 34, 8),
    "Q4_0": (32, 18, 4),
    "Q4_1": (32, 20, 4),
    "Q5_0": (32, 22, 4),
    "Q5_1": (32, 24, 4),
    "Q3_K": (256, 110, 4),
    "Q4_K": (256, 144, 4),
    "Q5_K": (256, 176, 4),
    "Q6_K": (256, 210, 8),
}
# Values converted at a time, which limits the temporaries of a block format to some MB
_CHUNK_VALUES: Final = 1 << 18


def block_shape(dtype: WeightDtype) -> tuple[int, int]:
    """Returns the number of values and of bytes in one block."""
    return _LAYOUT[dtype][:2]


def source_bits(dtype: WeightDtype) -> int:
    """Returns the precision class: 4 for 3- to 5-bit blocks and fp4, else 8, 16 or 32."""
    return _LAYOUT[dtype][2]


def row_bytes(dtype: WeightDtype, cols: int) -> int:
    """Returns the bytes of a row of `cols` values; `cols` is a multiple of the block."""
    values, nbytes = block_shape(dtype)
    return cols // values * nbytes


def dequantize(raw: NDArray[np.uint8], dtype: WeightDtype) -> NDArray[np.float32]:
    """Converts stored rows, uint8 [rows, row_bytes], to float32 [rows, cols]."""
    values, nbytes = block_shape(dtype)
    rows, width = raw.shape
    cols = width // nbytes * values
    if dtype == "F32":
        return np.array(raw.view(np.float32))
    if dtype == "F16":
        return raw.view(np.float16).astype(np.float32)
    if dtype == "BF16":
        return (raw.view(np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)
    if dtype == "I64":
        return raw.view("<i8").astype(np.float32)
    if dtype == "F8_E4M3":
        return _E4M3[raw]
    if dtype == "F8_E8M0":
        return _E8M0[raw]
    if dtype == "F4_E2M1":
        return _E2M1[raw].reshape(rows, cols)
    blocks = np.ascontiguousarray(raw).reshape(-1)
    out = np.empty(rows * cols, np.float32)
    step = _CHUNK_VALUES // values
    convert = _block_dequantizer(dtype)
    for start in range(0, blocks.size // nbytes, step):
        chunk = blocks[start * nbytes : (start + step) * nbytes]
        first = start * values
        out[first : first + chunk.size // nbytes * values] = convert(chunk.reshape(1, -1))[0]
    return out.reshape(rows, cols)


def _block_dequantizer(dtype: WeightDtype) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """Returns the `gguf` function for a block format. The import takes 0.1 s, so it happens on first use."""
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize as gguf_dequantize

    kind = GGMLQuantizationType[dtype]

    def convert(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
        with np.errstate(invalid="ignore", over="ignore"):
            return cast("NDArray[np.float32]", gguf_dequantize(blocks, kind))

    return convert


def _e4m3_table() -> NDArray[np.float32]:
    """Returns the 256 values of float8 e4m3fn: bias 7, no infinities, all ones is NaN (arXiv 2209.05433)."""
    codes = np.arange(256)
    exponent, mantissa = (codes >> 3) & 15, codes & 7
    magnitude = np.where(
        exponent == 0, mantissa / 8 * 2.0**-6, (1 + mantissa / 8) * 2.0 ** (exponent.astype(np.float64) - 7)
    )
    magnitude[(codes & 127) == 127] = np.nan
    return np.where(codes & 128, -magnitude, magnitude).astype(np.float32)


def _e8m0_table() -> NDArray[np.float32]:
    """Returns the 256 values of float8 e8m0fnu: 2^(b - 127), and NaN for 255 (OCP Microscaling Formats 1.0, 5.4.1)."""
    values = 2.0 ** (np.arange(256, dtype=np.float64) - 127)
    values[255] = np.nan
    return values.astype(np.float32)


def _e2m1_table() -> NDArray[np.float32]:
    """Returns the two float4 e2m1fn numbers of each byte, [256, 2], lower four bits first.

    Numbers: OCP Microscaling Formats 1.0, 5.3.3. Order: `inference/convert.py` of deepseek-ai/DeepSeek-V4-Flash.
    """
    magnitude = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
    numbers = np.concatenate([magnitude, -magnitude])
    codes = np.arange(256)
    return np.stack([numbers[codes & 15], numbers[codes >> 4]], axis=1)


_E4M3: Final = _e4m3_table()
_E8M0: Final = _e8m0_table()
_E2M1: Final = _e2m1_table()
