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
    from deepwell.engine.encoder_loop import EncoderEngine
    from deepwell.engine.loop import InProcessEngine
    from deepwell.engine.plan import MemoryPlan
    from deepwell.models.checkpoint import Checkpoint
    from deepwell.server.text import Codec

__all__ = ["OpenedModel", "Planned", "load_adapters", "open_embedder", "open_model", "plan_model"]


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
    )
    return Planned(stored.name, stored.path, checkpoint, memory)


def open_model(
    settings: Settings, planned: Planned, progress: Callable[[int, int], None] | None = None
) -> OpenedModel:
    """Load the model and start its engine; `progress` gets bytes packed so far and bytes in all.

    Raises:
        MissingDependency: `isa` names no kernel table of this machine.
    """
    from deepwell.engine.load import open_engine
    from deepwell.server.text import Codec

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


def load_adapters(opened: OpenedModel, adapters: Mapping[str, Path]) -> None:
    """Load LoRA adapters by name; where one is refused, the engine is closed.

    Raises:
        InvalidRequest: a name is the model's own.
        InvalidModelFile, UnsupportedModel: as the engine says.
    """
    try:
        for name, path in adapters.items():
            if name == opened.name:
                raise InvalidRequest(f"{name!r} is the base model", fix="choose another name for the adapter")
            opened.engine.load_adapter(name, str(path))
    except BaseException:
        opened.engine.close()
        raise


def open_embedder(settings: Settings) -> OpenedModel | None:
    """The model of `embedding_model`, if one is set. It keeps its own precision and context: those flags are the decoder's."""
    if settings.embedding_model is None:
        return None
    own = settings.model_copy(
        update={"model": settings.embedding_model, "precision": "auto", "context": None, "kv_tokens": None}
    )
    return open_model(own, plan_model(own))
