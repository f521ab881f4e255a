"""Facts of a model from the files that lie here: vocabulary, sizes and ends. The weights may be elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from deepwell.errors import InvalidModelFile
from deepwell.models.formats.config_fields import Fields
from deepwell.models.formats.safetensors import read_json

__all__ = ["ModelFacts", "facts_of"]


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model's facts.

    Attributes:
        path: its tokenizer and chat template.
        context: tokens that it was made for; 0: it does not say.
    """

    path: Path
    architecture: str
    vocab_size: int
    hidden_size: int
    context: int
    eos_token_ids: tuple[int, ...]


def facts_of(path: Path) -> ModelFacts:
    """Reads a model file, or a folder with `config.json` and `tokenizer.json`, of any architecture and without weights.

    Raises:
        InvalidModelFile, UnsupportedModel: a value is missing or absurd, or the file is none that Deepwell reads.
    """
    if path.is_file() or not (path / "config.json").is_file():
        from deepwell.models.formats.checkpoint import open_checkpoint

        config = open_checkpoint(path).config
        return ModelFacts(
            path,
            config.architecture,
            config.vocab_size,
            config.hidden_size,
            config.max_position_embeddings,
            config.eos_token_ids,
        )
    whole = Fields(read_json(path / "config.json"), "config.json")
    text = whole.section("text_config")  # of models that also see or hear
    fields = text if text is not None and text.get("vocab_size") is not None else whole
    generation = path / "generation_config.json"
    ends = Fields(read_json(generation) if generation.is_file() else {}, generation.name)
    names = whole.get("architectures")
    facts = ModelFacts(
        path,
        str(cast("list[Any]", names)[0])[:80] if isinstance(names, list) and names else "unknown",
        fields.integer("vocab_size"),
        fields.integer("hidden_size"),
        fields.integer("max_position_embeddings", 0),
        ends.token_ids("eos_token_id") or whole.token_ids("eos_token_id") or fields.token_ids("eos_token_id"),
    )
    if not 1 <= facts.vocab_size <= 1 << 24 or not 1 <= facts.hidden_size <= 1 << 20:
        raise InvalidModelFile(
            f"config.json: vocab_size {facts.vocab_size} and hidden_size {facts.hidden_size} cannot be",
            fix="download it again or from another source",
        )
    return facts
