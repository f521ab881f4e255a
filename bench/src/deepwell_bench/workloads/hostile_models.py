"""Model files that mean harm: at least 250 of them, each of a named kind, to show that every one is refused or harmless.

    for model in write_hostile_models(folder):
        outcome = try_model(model)  # "InvalidModelFile: ...", or "opened" for what is odd and sound

The kinds: headers of GGUF and safetensors (sizes, offsets, counts, nesting, types, names that leave the store), config.json,
adapters, tokenizers and chat templates. A file stays small; what it would cost its reader does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deepwell.errors import DeepwellError
from deepwell_bench.workloads.hostile_headers import (
    adapters,
    configs,
    gguf_headers,
    safetensors_headers,
    sound_model,
)
from deepwell_bench.workloads.hostile_texts import templates, tokenizers

__all__ = ["HostileModel", "Part", "try_model", "write_hostile_models"]

Part = Literal["weights", "text", "adapter"]
QUESTION = [{"role": "user", "content": "What is the capital of France? <|im_end|>"}]
TOOLS = [
    {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
]


@dataclass(frozen=True, slots=True)
class HostileModel:
    """A hostile model: its path is what a user would name. `part` is the reader that it is for."""

    name: str
    kind: str
    part: Part
    path: Path

    @property
    def size_bytes(self) -> int:
        """Bytes of the model's files."""
        files = [self.path] if self.path.is_file() else self.path.rglob("*")
        return sum(file.stat().st_size for file in files if file.is_file())


def write_hostile_models(folder: Path) -> Iterator[HostileModel]:
    """Writes hostile models below `folder`, some 250 MB in all, and yields each when it is there."""
    for name, data in gguf_headers():
        path = folder / "gguf" / f"{name}.gguf"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        yield HostileModel(name, "gguf", "weights", path)
    parts: tuple[tuple[str, Part, Iterator[tuple[str, dict[str, bytes]]]], ...] = (
        ("safetensors", "weights", safetensors_headers()),
        ("config", "weights", configs()),
        ("adapter", "adapter", adapters()),
        ("tokenizer", "text", tokenizers()),
        ("template", "text", templates()),
    )
    for kind, part, models in parts:
        for name, files in models:
            path = folder / kind / name
            path.mkdir(parents=True, exist_ok=True)
            for file, data in files.items():
                (path / file).write_bytes(data)
            yield HostileModel(name, kind, part, path)


def try_model(model: HostileModel) -> str:
    """Opens a model as a server does and uses its text side once. Returns "opened", or the refusal.

    Any other exception passes: it is a defect.
    """
    try:
        if model.part == "weights":
            _open_weights(model.path)
        elif model.part == "adapter":
            _open_adapter(model.path)
        else:
            _use_text(model.path)
    except DeepwellError as error:
        return f"{type(error).__name__}: {error}"
    return "opened"


def _open_weights(path: Path) -> None:
    from deepwell.engine.options import EngineOptions
    from deepwell.engine.planning import plan_engine
    from deepwell.models.formats.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(path)
    plan_engine(checkpoint, EngineOptions())
    for name in checkpoint.names:
        _ = checkpoint.tensor(name).shape


def _open_adapter(path: Path) -> None:
    from deepwell.engine.architectures import tensor_plan
    from deepwell.engine.weights.adapters import linears_of, read_adapter
    from deepwell.models.formats.checkpoint import open_checkpoint

    base = path.parent / "sound"
    base.mkdir(exist_ok=True)
    for name, data in sound_model().items():
        (base / name).write_bytes(data)
    checkpoint = open_checkpoint(base)
    read_adapter(path, linears_of(tensor_plan(checkpoint.config), checkpoint))


def _use_text(path: Path) -> None:
    from deepwell.dialogue.text import Codec

    codec = Codec.load(path)
    try:
        tokens = codec.encode("What is the capital of France? <|im_end|>")
        codec.decode(tokens)
        tokens = codec.encode_chat(QUESTION, tools=TOOLS)
        decoder = codec.decoder()
        decoder.push(tokens)
        decoder.finish()
    finally:
        if codec.process is not None:
            codec.process.close()
