"""Sampling defaults that a model's publisher declares, for requests that leave a parameter out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from deepwell.errors import InvalidModelFile
from deepwell.models.formats.safetensors import read_json

__all__ = ["OPENAI", "SamplingDefaults", "read_sampling_defaults"]

# Bounds of what a request may ask for: a file gets no further.
_BOUNDS: Final = {
    "temperature": (0.0, 2.0),
    "top_p": (0.0, 1.0),
    "top_k": (-1, 1 << 20),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (0.01, 10.0),
}
# The names under which llama.cpp writes them into a GGUF file.
_GGUF_KEYS: Final = {
    "temperature": "general.sampling.temp",
    "top_p": "general.sampling.top_p",
    "top_k": "general.sampling.top_k",
    "min_p": "general.sampling.min_p",
    "repetition_penalty": "general.sampling.penalty_repeat",
}


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """Sampling parameters of requests that do not give them. `source` says who declared them; the defaults are OpenAI's."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: off
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    source: str = "OpenAI"

    @classmethod
    def read(cls, declared: Any, source: str) -> SamplingDefaults:
        """Returns the known parameters among `declared`, or OpenAI's defaults if there is none.

        Raises:
            InvalidModelFile: a parameter is not a number within the bounds of a request.
        """
        if not isinstance(declared, dict):
            raise InvalidModelFile(f"{source} declares no table of sampling parameters")
        values: dict[str, Any] = {}
        for name, (low, high) in _BOUNDS.items():
            value = cast("dict[str, Any]", declared).get(name)
            if value is None:
                continue
            if not _is_number(value) or not low <= value <= high:
                raise InvalidModelFile(
                    f"{source} declares the {name} {str(value)[:40]}, which is not a number from {low:g} to {high:g}",
                    fix="correct it, or start with --sampling-defaults off",
                )
            values[name] = max(int(value), 0) if name == "top_k" else float(value)
        if "top_p" in values:  # 0 keeps only the most likely token, as any tiny top_p does
            values["top_p"] = max(values["top_p"], 1e-9)
        return cls(**values, source=source) if values else OPENAI

    def parameters(self) -> dict[str, Any]:
        """Returns the parameters by their names in a request."""
        return {name: getattr(self, name) for name in _BOUNDS}

    def shown(self) -> dict[str, Any]:
        """Returns the parameters and their source for people and programs."""
        return self.parameters() | {"source": self.source}


OPENAI: Final = SamplingDefaults()


def read_sampling_defaults(
    path: Path, metadata: Mapping[str, Any], listed: Mapping[str, float] | None = None
) -> SamplingDefaults:
    """Returns the defaults of a model: of its `generation_config.json`, its GGUF metadata, or its catalog entry.

    Args:
        path: the model's file or directory.
        metadata: GGUF metadata of the file; empty for a directory.
        listed: sampling defaults of the catalog entry that vouches for the model.

    Raises:
        InvalidModelFile: a parameter is not a number within the bounds of a request.
    """
    file = path / "generation_config.json"
    if path.is_dir() and file.is_file():
        found = SamplingDefaults.read(read_json(file), file.name)
    else:
        declared = {name: _plain(metadata.get(key)) for name, key in _GGUF_KEYS.items()}
        found = SamplingDefaults.read(declared, "GGUF metadata")
    return SamplingDefaults.read(dict(listed), "catalog") if found is OPENAI and listed else found


def _plain(value: Any) -> Any:
    # float32 0.95 reads as 0.949999988079071
    return float(f"{value:.6g}") if isinstance(value, float) and math.isfinite(value) else value


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, int) or math.isfinite(value)
