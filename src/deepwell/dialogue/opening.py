"""From the settings to a loaded model: the store, the engine, and the text side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepwell.errors import InsufficientMemory, InvalidRequest
from deepwell.settings import Settings

if TYPE_CHECKING:
    from deepwell.dialogue.model import Task
    from deepwell.dialogue.text import Codec
    from deepwell.engine.core.loop import InProcessEngine
    from deepwell.engine.encoder.loop import EncoderEngine
    from deepwell.engine.hosting.process import EngineProcess
    from deepwell.engine.options import EngineOptions
    from deepwell.engine.plan import MemoryPlan
    from deepwell.models.formats.checkpoint import Checkpoint
    from deepwell.models.store.sampling import SamplingDefaults
    from deepwell.models.store.store import StoredModel

__all__ = [
    "OpenedModel",
    "Planned",
    "beyond_defaults",
    "check_servable",
    "embedder_settings",
    "for_encoder",
    "host_model",
    "open_embedder",
    "open_model",
    "plan_model",
    "plan_models",
]


@dataclass(frozen=True, slots=True)
class Planned:
    """A model that was found and fits, not loaded yet."""

    name: str
    path: Path
    checkpoint: Checkpoint
    options: EngineOptions
    memory: MemoryPlan
    defaults: SamplingDefaults
    tasks: tuple[Task, ...] = ("generate", "embed")


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """A running engine and its text side."""

    name: str
    engine: InProcessEngine | EncoderEngine
    codec: Codec
    defaults: SamplingDefaults

    def close(self) -> None:
        """Frees the model, and ends the process of a tokenizer that nothing vouches for."""
        if self.codec.process is not None:
            self.codec.process.close()
        self.engine.close()


def plan_model(
    settings: Settings, *, is_additional: bool = False, available_bytes: int | None = None
) -> Planned:
    """Finds the configured model and plans its memory.

    Args:
        is_additional: it is not the model that the flags are about; those that no encoder has are then no error for one.
        available_bytes: memory to plan for; None: what this machine and its cgroup have left.

    Raises:
        ModelNotFound: it is neither in the store nor a path.
        InsufficientMemory: it does not fit.
        InvalidModelFile, UnsupportedModel: as the reader says.
    """
    from deepwell.engine.options import EngineOptions
    from deepwell.engine.planning import plan_engine
    from deepwell.models.formats.checkpoint import open_checkpoint
    from deepwell.models.store.sampling import OPENAI
    from deepwell.models.store.store import ModelStore

    stored = ModelStore(settings.models_dir).resolve(settings.model)
    checkpoint = open_checkpoint(stored.path)
    if checkpoint.config.is_encoder and is_additional:
        settings = for_encoder(settings)
    options = EngineOptions.of(settings, name=stored.name)
    memory = plan_engine(checkpoint, options, available_bytes, joins=is_additional)
    metadata = checkpoint.metadata
    defaults = _sampling_defaults(settings, stored, metadata) if not checkpoint.config.is_encoder else OPENAI
    return Planned(stored.name, stored.path, checkpoint, options, memory, defaults)


def beyond_defaults(settings: Settings, stored: StoredModel) -> SamplingDefaults:
    """Returns the sampling parameters of a model whose weights may be elsewhere, for requests that do not give them.

    Raises:
        InvalidModelFile: the model declares values that no request may have.
    """
    from deepwell.models.formats.checkpoint import open_checkpoint

    is_file = stored.path.is_file()
    return _sampling_defaults(settings, stored, open_checkpoint(stored.path).metadata if is_file else {})


def _sampling_defaults(
    settings: Settings, stored: StoredModel, metadata: Mapping[str, Any]
) -> SamplingDefaults:
    """Returns the sampling parameters of requests that do not give them.

    Raises:
        InvalidModelFile: the model declares values that no request may have.
    """
    from deepwell.models.store.catalog import vouching_entry
    from deepwell.models.store.sampling import OPENAI, read_sampling_defaults

    if settings.sampling_defaults == "off":
        return OPENAI
    entry = vouching_entry(stored.manifest)
    return read_sampling_defaults(stored.path, metadata, entry.sampling if entry else None)


def check_servable(path: Path) -> None:
    """Refuses a text model that `deepwell serve` could not run, from its headers and its tokenizer alone.

    Raises:
        InvalidModelFile, UnsupportedModel: as the reader says.
    """
    from deepwell.dialogue.text import Codec
    from deepwell.models.formats.checkpoint import open_checkpoint

    open_checkpoint(path)
    Codec.load(path)


def open_model(planned: Planned, progress: Callable[[int, int], None] | None = None) -> OpenedModel:
    """Load the model and start its engine; `progress` gets bytes packed so far and bytes in all.

    Raises:
        MissingDependency: `isa` names no kernel table of this machine.
        InvalidModelFile, UnsupportedModel: the tokenizer is not sound.
    """
    from deepwell.dialogue.text import Codec
    from deepwell.engine.load import open_engine

    engine = open_engine(planned.checkpoint, planned.options, quiet=True, progress=progress)
    try:
        codec = Codec.load(planned.path)
    except BaseException:
        engine.close()
        raise
    return OpenedModel(planned.name, engine, codec, planned.defaults)


def host_model(
    settings: Settings,
    planned: Planned,
    progress: Callable[[int, int], None] | None = None,
    *,
    turns: Path | None = None,
) -> EngineProcess:
    """Begin to load the model in a process of its own; `progress` is called on another thread.

    Args:
        turns: file by which the engines of one server take turns (`process.turns.make_turns`); None: it has only this one.
    """
    from deepwell.engine.hosting.process import EngineProcess

    memory = planned.memory
    # As planned here: an engine that follows this one must not have less room than the requests that wait for it.
    options = replace(
        planned.options,
        precision=memory.precision,
        context=memory.context,
        kv_dtype=memory.kv_dtype,
        kv_tokens=memory.kv_cache_tokens or None,
        batch_size=memory.batch_size,
        turns=turns,
    )
    arguments = {"source": str(planned.path), "options": options.encode()}
    return EngineProcess(
        arguments,
        timeout_s=settings.engine_timeout_s,
        step_timeout_s=settings.step_timeout_s,
        on_progress=progress,
    )


def plan_models(settings: Settings, *, without_main: bool = False) -> list[Planned]:
    """Finds every configured model, the main one first, and plans the memory of all together.

    Args:
        without_main: the main model runs elsewhere and takes no memory here.

    Raises:
        ModelNotFound, InvalidModelFile, UnsupportedModel: as `plan_model` says.
        InvalidRequest: two of them have the same name.
        InsufficientMemory: one of them does not fit beside those before it.
    """
    planned = [] if without_main else [plan_model(settings)]
    planned += [
        plan_model(settings.with_model(name), is_additional=True) for name in settings.additional_models
    ]
    if (own := embedder_settings(settings)) is not None:
        planned.append(replace(plan_model(own, is_additional=True), tasks=("embed",)))
    names = [one.name for one in planned]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InvalidRequest.of("models_same_name", name=twice)
    _check_room(planned)
    return planned


def _check_room(planned: Sequence[Planned]) -> None:
    """Refuses models that fit one by one but not together."""
    available, used = planned[0].memory.available_bytes if planned else 0, 0
    for one in planned:
        used += one.memory.total_bytes
        if used > available:
            sizes = ", ".join(f"{other.name} {other.memory.total_bytes / 1e6:.0f} MB" for other in planned)
            raise InsufficientMemory.of(
                "models_do_not_fit",
                need=f"{sum(other.memory.total_bytes for other in planned) / 1e6:.0f} MB",
                have=f"{available / 1e6:.0f} MB",
                sizes=sizes,
            )


def embedder_settings(settings: Settings) -> Settings | None:
    """Returns the settings of `embedding_model`, if one is set."""
    if settings.embedding_model is None:
        return None
    return for_encoder(settings.with_model(settings.embedding_model))


def for_encoder(settings: Settings) -> Settings:
    """Returns the settings without those that are about the decoders alone."""
    return settings.model_copy(update={"precision": "auto", "context": None, "kv_tokens": None})


def open_embedder(settings: Settings) -> OpenedModel | None:
    """The model of `embedding_model`, if one is set."""
    own = embedder_settings(settings)
    return open_model(plan_model(own)) if own else None
