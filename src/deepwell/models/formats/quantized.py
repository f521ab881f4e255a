"""Reads which weights of a folder are quantised in DeepSeek's formats, and the scales that lie beside them.

V3 stores e4m3 weights with a float32 scale per 128 x 128 block, named `<weight>_scale_inv`. V4 names the scale of
`<module>.weight` `<module>.scale` and stores powers of two, F8_E8M0. Except in the Base models, its routed experts are
fp4: a byte of type I8 holds two e2m1 numbers, the lower four bits first, and 32 columns of a row share a scale. Source:
`config.json` and `inference/convert.py` of deepseek-ai/DeepSeek-V4-Flash, as quoted in github.com/RobTand/prismaquant
issue 26 and github.com/radixark/miles pull request 2717; transformers' `integrations/finegrained_fp8.py` agrees.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from deepwell.errors import InvalidModelFile, UnsupportedModel
from deepwell.models.formats.dequantize import FLOAT_DTYPES
from deepwell.models.formats.safetensors import SafetensorsInfo

__all__ = ["Quantization", "Scales", "read_quantization"]

_SCALE_INV: Final = "_scale_inv"
_FP4_BLOCK: Final = (1, 32)
_MAX_BLOCK: Final = 1 << 20  # no matrix in use is larger
_ROUTED: Final = re.compile(r"(?:.+\.)?ffn\.experts\.[0-9]+\.w[123]\.weight")
_AGAIN: Final = "pull the model again"


@dataclass(frozen=True, slots=True)
class Scales:
    """Scales of a weight, and the rows and columns of weights that share one."""

    info: SafetensorsInfo
    block: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Quantization:
    """The formats of quantised weights that a configuration announces.

    Attributes:
        block: rows and columns of an fp8 weight that share a scale; None: no weight is fp8.
        released: scales may have the names of DeepSeek-V4's own files.
        fp4: routed experts stored as I8 are fp4.
    """

    block: tuple[int, int] | None
    released: bool
    fp4: bool

    def scales(self, infos: Mapping[str, SafetensorsInfo]) -> dict[str, SafetensorsInfo]:
        """Returns the scales of a file's tensors, by the name of the weight.

        Raises:
            InvalidModelFile: a weight has two of them, or is not quantised, or scales have no weight.
        """
        found: dict[str, SafetensorsInfo] = {}
        for name, info in infos.items():
            weight = self._weight_of(name)
            if not weight:
                continue
            if weight not in infos:
                raise InvalidModelFile(f"{_where(info)} holds the scales of a missing weight", fix=_AGAIN)
            if weight in found:
                raise InvalidModelFile(f"{_where(infos[weight])} has scales twice", fix=_AGAIN)
            if infos[weight].dtype not in ("F8_E4M3", "I8"):
                raise InvalidModelFile(
                    f"{_where(infos[weight])} is {infos[weight].dtype} and has scales beside it", fix=_AGAIN
                )
            found[weight] = info
        return found

    def _weight_of(self, name: str) -> str:
        if name.endswith(_SCALE_INV):
            return name.removesuffix(_SCALE_INV)
        return f"{name.removesuffix('.scale')}.weight" if self.released and name.endswith(".scale") else ""

    def is_fp4(self, info: SafetensorsInfo) -> bool:
        """Returns whether a tensor holds two numbers in a byte."""
        return self.fp4 and info.dtype == "I8" and _ROUTED.fullmatch(info.name) is not None

    def checked(self, info: SafetensorsInfo, scale: SafetensorsInfo | None) -> Scales:
        """Returns the scales of a quantised matrix after checking that they fit it.

        Raises:
            InvalidModelFile: they are missing beside fp4, or have another shape or type.
            UnsupportedModel: an fp8 weight is not scaled in blocks.
        """
        fp4 = self.is_fp4(info)
        block = _FP4_BLOCK if fp4 else self.block
        if scale is None and fp4:
            raise InvalidModelFile(f"{_where(info)} is fp4 without its scales", fix=_AGAIN)
        if block is None or scale is None:
            raise UnsupportedModel(
                f"{_where(info)} is F8_E4M3 without block scales", fix="use the unquantised model"
            )
        rows, cols = info.shape[0], info.shape[1] * (2 if fp4 else 1)
        expected = (-(-rows // block[0]), -(-cols // block[1]))
        allowed = ("F8_E8M0",) if fp4 else (*FLOAT_DTYPES, "F8_E8M0")
        if scale.shape != expected or scale.dtype not in allowed or (fp4 and cols % block[1]):
            raise InvalidModelFile(
                f"{_where(info)} has scales {scale.dtype} {scale.shape}, expected "
                f"{'F8_E8M0' if fp4 else 'F32 or F8_E8M0'} {expected}",
                fix=_AGAIN,
            )
        return Scales(scale, block)


def read_quantization(config: Mapping[str, Any], *, released: bool) -> Quantization:
    """Reads `quantization_config` and `expert_dtype` of a `config.json`.

    Args:
        released: the model is one whose own files name scales `.scale`.

    Raises:
        UnsupportedModel: another format, or fp8 without the size of its blocks.
    """
    quantization = config.get("quantization_config")
    if quantization is None:
        return Quantization(None, released, released and config.get("expert_dtype", "fp4") == "fp4")
    fields = cast("dict[str, Any]", quantization) if isinstance(quantization, dict) else {}
    if (method := fields.get("quant_method")) != "fp8":
        raise UnsupportedModel(
            f"config.json: quantised by {str(method)[:40]!r}",
            fix="use the unquantised model or a GGUF file of it",
        )
    sizes = fields.get("weight_block_size")
    block = cast("list[Any]", sizes) if isinstance(sizes, list) else []
    if len(block) != 2 or not all(type(size) is int and 0 < size <= _MAX_BLOCK for size in block):
        raise UnsupportedModel(
            "config.json: fp8 without block sizes", fix="fp8 needs weight_block_size, as [128, 128]"
        )
    experts = config.get("expert_dtype", fields.get("expert_dtype", "fp4"))
    return Quantization((block[0], block[1]), released, released and experts == "fp4")


def _where(info: SafetensorsInfo) -> str:
    return f"{info.path.name}: tensor {info.name[:80]!r}"
