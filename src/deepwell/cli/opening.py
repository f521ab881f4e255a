"""From the settings to a loaded model: the store, the engine, and the text side."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deepwell.errors import InvalidRequest
from deepwell.settings import Settings

if TYPE_CHECKING:
    from deepwell.dialogue.text import Codec
    from deepwell.engine.core.loop import InProcessEngine
    from deepwell.engine.encoder.loop import EncoderEngine
    from deepwell.engine.hosting.process import EngineProcess
    from deepwell.engine.plan import MemoryPlan
    from deepwell.engine.protocol import Engine
    from deepwell.models.checkpoint import Checkpoint

__all__ = [
    "OpenedModel",
    "Planned",
    "embedder_settings",
    "host_model",
    "load_adapters",
    "open_embedder",
    "open_model",
    "plan_model",
]


@dataclass(frozen=True, slots=True)
class Planned:
    """A model that was found and fits, not loaded yet."""

    name: str
    path: Path
    checkpoint: Checkpoint
    memory: MemoryPlan


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """A running engine and its text side."""

    name: str
    engine: InProcessEngine | EncoderEngine
    codec: Codec


def plan_model(settings: Settings) -> Planned:
    """Find the configured model and plan its memory.

    Raises:
        ModelNotFound: it is neither in the store nor a path.
        InsufficientMemory: it does not fit.
        InvalidModelFile, UnsupportedModel: as the reader says.
    """
    from deepwell.engine.load import plan_engine
    from deepwell.models.checkpoint import open_checkpoint
    from deepwell.models.store import ModelStore

    stored = ModelStore(settings.models_dir).resolve(settings.model)
    checkpoint = open_checkpoint(stored.path)
    memory = plan_engine(
        checkpoint,
        precision=settings.precision,
        context=settings.context,
        kv_dtype=settings.kv_dtype,
        kv_tokens=settings.kv_tokens,
        speculation=settings.speculation,
    )
    return Planned(stored.name, stored.path, checkpoint, memory)


def open_model(
    settings: Settings, planned: Planned, progress: Callable[[int, int], None] | None = None
) -> OpenedModel:
    """Load the model and start its engine; `progress` gets bytes packed so far and bytes in all.

    Raises:
        MissingDependency: `isa` names no kernel table of this machine.
    """
    from deepwell.dialogue.text import Codec
    from deepwell.engine.load import open_engine

    if settings.isa:
        # The engine reads the variable; a flag or the file must win over it.
        os.environ["DEEPWELL_ISA"] = settings.isa
    engine = open_engine(
        planned.checkpoint,
        precision=settings.precision,
        context=settings.context,
        kv_dtype=settings.kv_dtype,
        kv_tokens=settings.kv_tokens,
        threads=settings.threads,
        speculation=settings.speculation,
        cache_dir=settings.models_dir.parent / "packed",
        name=planned.name,
        quiet=True,
        progress=progress,
    )
    return OpenedModel(planned.name, engine, Codec.load(planned.path))


def load_adapters(engine: Engine, model: str, adapters: Mapping[str, Path]) -> None:
    """Load LoRA adapters by name, beside the base model of that name.

    Raises:
        InvalidRequest: a name is the model's own.
        InvalidModelFile, UnsupportedModel: as the engine says.
    """
    for name, path in adapters.items():
        if name == model:
            raise InvalidRequest(f"{name!r} is the base model", fix="choose another name for the adapter")
        engine.load_adapter(name, str(path))


def host_model(
    settings: Settings, planned: Planned, progress: Callable[[int, int], None] | None = None
) -> EngineProcess:
    """Begin to load the model in a process of its own; `progress` is called on another thread."""
    from deepwell.engine.hosting.process import EngineProcess

    if settings.isa:
        os.environ["DEEPWELL_ISA"] = settings.isa
    memory = planned.memory
    arguments = {
        "source": str(planned.path),
        "precision": memory.precision,
        # As planned here: an engine that follows this one must not have less room than the requests that wait for it.
        "context": memory.context,
        "kv_dtype": memory.kv_dtype,
        "kv_tokens": memory.kv_cache_tokens or None,
        "threads": settings.threads,
        "speculation": settings.speculation,
        "cache_dir": str(settings.models_dir.parent / "packed"),
        "name": planned.name,
    }
    return EngineProcess(arguments, timeout_s=settings.engine_timeout_s, on_progress=progress)


def embedder_settings(settings: Settings) -> Settings | None:
    """The settings of `embedding_model`, if one is set; the flags of precision and context are the decoder's alone."""
    if settings.embedding_model is None:
        return None
    return settings.model_copy(
        update={"model": settings.embedding_model, "precision": "auto", "context": None, "kv_tokens": None}
    )


def open_embedder(settings: Settings) -> OpenedModel | None:
    """The model of `embedding_model`, if one is set."""
    own = embedder_settings(settings)
    return open_model(own, plan_model(own)) if own else None
