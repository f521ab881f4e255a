"""The bodies of ollama's API."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from deepwell.server.families.generation_bodies import ChatLogprob

__all__ = [
    "DoneReason",
    "OllamaAnsweredCall",
    "OllamaAnsweredMessage",
    "OllamaCall",
    "OllamaChatAnswer",
    "OllamaDetails",
    "OllamaEmbeddingAnswer",
    "OllamaEmbeddingsAnswer",
    "OllamaGenerateAnswer",
    "OllamaModel",
    "OllamaModelShown",
    "OllamaModels",
    "OllamaRunning",
    "OllamaRunningModel",
    "OllamaVersion",
    "rfc3339",
]

DoneReason = Literal["stop", "length", "load", "unload"]


def rfc3339(seconds: float) -> str:
    """Returns a time since the epoch as ollama writes it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


class _Figures(Struct, kw_only=True):
    """The last object of an answer has these; durations are nanoseconds."""

    done_reason: DoneReason | UnsetType = UNSET
    total_duration: int | UnsetType = UNSET
    load_duration: int | UnsetType = UNSET
    prompt_eval_count: int | UnsetType = UNSET
    prompt_eval_duration: int | UnsetType = UNSET
    eval_count: int | UnsetType = UNSET
    eval_duration: int | UnsetType = UNSET
    logprobs: list[ChatLogprob] | UnsetType = UNSET


class OllamaCall(Struct):
    name: str
    arguments: dict[str, Any]
    index: int


class OllamaAnsweredCall(Struct):
    id: str
    function: OllamaCall


class OllamaAnsweredMessage(Struct):
    content: str = ""
    role: Literal["assistant"] = "assistant"
    thinking: str | UnsetType = UNSET
    tool_calls: list[OllamaAnsweredCall] | UnsetType = UNSET


class OllamaChatAnswer(_Figures):
    """An answer, or the next piece of one that is streamed."""

    model: str
    created_at: str
    message: OllamaAnsweredMessage
    done: bool


class OllamaGenerateAnswer(_Figures):
    """A text, or the next piece of one that is streamed."""

    model: str
    created_at: str
    response: str
    done: bool
    thinking: str | UnsetType = UNSET


class OllamaEmbeddingsAnswer(Struct):
    """Vectors of length 1, one for each input."""

    model: str
    embeddings: list[list[float]]
    total_duration: int
    load_duration: int
    prompt_eval_count: int


class OllamaEmbeddingAnswer(Struct):
    embedding: list[float]


class OllamaDetails(Struct):
    """`parameter_size` is empty: the server does not count parameters."""

    format: str
    family: str
    families: list[str]
    quantization_level: str
    parent_model: str = ""
    parameter_size: str = ""


class OllamaModel(Struct):
    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: OllamaDetails


class OllamaModels(Struct):
    models: list[OllamaModel]


class OllamaRunningModel(Struct):
    """`size` counts the weights and the KV cache."""

    name: str
    model: str
    size: int
    digest: str
    details: OllamaDetails
    expires_at: str
    context_length: int
    size_vram: int = 0


class OllamaRunning(Struct):
    models: list[OllamaRunningModel]


class OllamaModelShown(Struct):
    modelfile: str
    parameters: str
    template: str
    details: OllamaDetails
    model_info: dict[str, Any]
    capabilities: list[str]
    modified_at: str


class OllamaVersion(Struct):
    """The version of ollama's API whose shapes the answers have, and Deepwell's own."""

    version: str
    deepwell: str
