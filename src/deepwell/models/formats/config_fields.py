"""Typed access to the values of `config.json` and GGUF metadata. Values of the wrong type are refused."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any, Final, cast

import numpy as np

from deepwell.errors import InvalidModelFile, UnsupportedModel

__all__ = ["SUPPORTED", "Fields"]

SUPPORTED: Final = (
    "Llama, Qwen2, Qwen3, Qwen3-MoE and DeepSeek-V2, V3, V3.2 and V4 models are supported (LlamaForCausalLM,"
    " Qwen2ForCausalLM, Qwen3ForCausalLM, Qwen3MoeForCausalLM, DeepseekV2ForCausalLM, DeepseekV3ForCausalLM,"
    " DeepseekV32ForCausalLM, DeepseekV4ForCausalLM), and BERT and XLM-RoBERTa (BertModel, XLMRobertaModel) for"
    " embeddings"
)
_NO_TOKEN: Final = 0xFFFFFFFF


class Fields:
    """Typed access to a mapping of unknown origin; `where` names the file in errors."""

    def __init__(self, values: Mapping[str, Any], where: str, prefix: str = "") -> None:
        self.values = values
        self.where = where
        self.prefix = prefix

    def error(self, reason: str) -> InvalidModelFile:
        """Returns the error to raise about this file."""
        return InvalidModelFile(f"{self.where}: {reason}", fix="download it again or from another source")

    def get(self, key: str) -> Any:
        """Returns the raw value, or None if it is missing."""
        return self.values.get(self.prefix + key)

    def integer(self, key: str, default: int | None = None) -> int:
        """Returns an integer; the value is required if there is no default."""
        value = self.get(key)
        if value is None and default is not None:
            return default
        if value is None:
            raise self.error(f"{self.prefix}{key} is missing")
        if isinstance(value, list | np.ndarray):
            raise UnsupportedModel(
                f"{self.where}: {self.prefix}{key} differs from layer to layer", fix=SUPPORTED
            )
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.error(f"{self.prefix}{key} is {reprlib.repr(value)}, not an integer")
        return value

    def number(self, key: str, default: float) -> float:
        """Returns a finite number."""
        value = self.get(key)
        if value is None:
            return default
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300:
            return float(value)
        raise self.error(f"{self.prefix}{key} is {reprlib.repr(value)}, not a finite number")

    def text(self, key: str) -> str | None:
        """Returns a string, or None if it is missing."""
        value = self.get(key)
        if value is not None and not isinstance(value, str):
            raise self.error(f"{self.prefix}{key} is {reprlib.repr(value)}, not a string")
        return value

    def boolean(self, key: str, default: bool) -> bool:
        """Returns a boolean."""
        value = self.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(f"{self.prefix}{key} is {reprlib.repr(value)}, not a boolean")
        return value

    def section(self, key: str) -> Fields | None:
        """Returns a nested object, or None if it is missing."""
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.error(f"{self.prefix}{key} is not an object")
        return Fields(cast("dict[str, Any]", value), f"{self.where}: {key}")

    def token_ids(self, key: str) -> tuple[int, ...]:
        """Reads one token id or a list of them; none if the value is missing. -1 is an old way to write no token."""
        value = self.get(key)
        ids: list[Any] = cast("list[Any]", value) if isinstance(value, list) else [value]
        result: list[int] = []
        for token in ids:
            if token is None:
                continue
            if not isinstance(token, int) or isinstance(token, bool):
                raise self.error(f"{self.prefix}{key} is {reprlib.repr(ids)}, not token ids")
            if token not in (-1, _NO_TOKEN):
                result.append(token)
        return tuple(result)
