"""Starts the engines of a server: every model is planned before the first is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deepwell.cli.keys import has_stored_key
from deepwell.cli.output import console
from deepwell.errors import InvalidRequest
from deepwell.messages import language, say

if TYPE_CHECKING:
    from deepwell.cli.engines.opening import Beyond
    from deepwell.dialogue.model import Task
    from deepwell.dialogue.opening import Planned
    from deepwell.dialogue.text import Codec
    from deepwell.engine.hosting.process import EngineProcess, ProcessEngine
    from deepwell.engine.hosting.remote.engine import RemoteEngine
    from deepwell.engine.protocol import Capabilities
    from deepwell.models.store.sampling import SamplingDefaults
    from deepwell.server.residency.host import ModelHost
    from deepwell.settings import Settings

__all__ = ["Loaded", "LoadedModel", "ServerPlan", "load_models", "parse_adapters", "plan_server"]


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model whose engine runs in a process of its own, or on another machine.

    `codec` belongs to the one process that serves; None: each of several loads it.
    """

    name: str
    path: Path
    engine: ProcessEngine | RemoteEngine
    codec: Codec | None
    tasks: tuple[Task, ...]
    defaults: SamplingDefaults

    @property
    def capabilities(self) -> Capabilities:
        """The model that the engine runs and its limits."""
        return self.engine.capabilities()


@dataclass(frozen=True, slots=True)
class Loaded:
    """The models of a server, the main one first, and the host of those that are loaded on demand.

    Attributes:
        beyond: the main model, if its engine is beyond this machine, with the settings by which other processes reach it.
    """

    models: tuple[LoadedModel, ...]
    with_key: bool
    host: ModelHost | None = None
    beyond: Beyond | None = None

    @property
    def main(self) -> LoadedModel:
        """The model that the server was started for."""
        return self.models[0]

    def close(self) -> None:
        """Ends the engines."""
        for model in self.models:
            model.engine.close()
        if self.beyond is not None:
            self.beyond.close()
        if self.host is not None:
            self.host.close()

    @property
    def model_host(self) -> str:
        """Address of the host of models on demand; empty: there is none."""
        return self.host.address if self.host is not None else ""


def parse_adapters(given: Sequence[str]) -> dict[str, Path]:
    """Returns paths by name, from NAME=PATH or MODEL:NAME=PATH each."""
    adapters: dict[str, Path] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not (name and equals and path) or name in adapters:
            raise InvalidRequest.of("adapter_not_named", text=text)
        adapters[name] = Path(path)
    return adapters


@dataclass(frozen=True, slots=True)
class ServerPlan:
    """The models that a server loads at its start, and the bytes that are left for those on demand."""

    planned: Sequence[Planned]
    room: int


def plan_server(
    settings: Settings, adapters: Mapping[str, Path] | None = None, *, demo: bool = False
) -> ServerPlan:
    """Plans the models of a server, and refuses what it could not serve, before anything is loaded.

    Raises:
        DeepwellError: a model cannot be found, does not fit, or is none for its task.
    """
    from deepwell.cli.engines.opening import is_beyond, name_beyond
    from deepwell.dialogue.opening import plan_models

    elsewhere = is_beyond(settings)
    planned = [] if _loads_none(settings) else plan_models(settings, without_main=elsewhere)
    main = [name_beyond(settings)] if elsewhere else []
    names = [*main, *(one.name for one in planned)]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InvalidRequest.of("models_same_name", name=twice)
    if demo and not names:
        raise InvalidRequest("--demo has no model to ask", fix="name one: deepwell serve smollm2 --demo")
    if demo and not main and planned[0].checkpoint.config.is_encoder:
        raise InvalidRequest(
            f"{planned[0].name} embeds text and answers no question",
            fix="leave --demo out, or serve smollm2",
        )
    _check_bases(names, adapters or {})
    room = _room_on_demand(settings, planned) if settings.models_on_demand else 0
    _check_reranker(settings, planned, main, adapters or {})
    _check_semantic(settings, planned if elsewhere else planned[1:])
    return ServerPlan(planned, room)


def load_models(settings: Settings, adapters: Mapping[str, Path], *, demo: bool, as_json: bool) -> Loaded:
    """Plans the models, prints the plan, and starts their engines. If one fails, those that were started stop.

    Raises:
        DeepwellError: a model cannot be found, does not fit, or cannot be loaded.
    """
    from deepwell.cli.engines.opening import is_beyond, open_beyond
    from deepwell.cli.progress import packing
    from deepwell.dialogue.opening import host_model
    from deepwell.process.turns import make_turns

    plan = plan_server(settings, adapters, demo=demo)
    planned, room = plan.planned, plan.room
    elsewhere = is_beyond(settings)
    if not as_json:
        _print_plan(planned, room)
    with packing(shown=not as_json) as progress, ExitStack() as started:
        hosted: list[EngineProcess] = []
        turns = make_turns() if len(planned) > 1 or settings.models_on_demand else None
        for one in planned:
            process = host_model(settings, one, progress if one is planned[0] else None, turns=turns)
            started.callback(process.stop)
            hosted.append(process)
        # While they load. The tokenizers read the headers that the plan holds.
        codecs: list[Codec | None] = [None] * len(planned)
        if settings.workers == 1:
            from deepwell.dialogue.text import Codec

            codecs = [Codec.load(one.path) for one in planned]
        facts = [(one.name, one.path, one.tasks, one.defaults) for one in planned]
        beyond = None
        if elsewhere:
            beyond = open_beyond(settings, adapters=_takes_adapters(settings, adapters), as_json=as_json)
            started.callback(beyond.close)
        # What is known of the files takes megabytes, and the engines' processes read it for themselves.
        del plan, planned
        from deepwell.engine.hosting.process import ProcessEngine

        if settings.workers == 1:
            _import_server()
        with_key = bool(settings.api_keys) or has_stored_key(settings)
        if demo and with_key and not settings.api_keys:
            raise InvalidRequest(
                "--demo has no key to ask with: the database holds hashes of keys alone",
                fix="leave it out, or put a key into DEEPWELL_API_KEYS",
            )
        models = tuple(
            LoadedModel(
                name,
                path,
                ProcessEngine.start(process, wait_s=settings.engine_wait_s),
                codec,
                tasks,
                defaults,
            )
            for (name, path, tasks, defaults), process, codec in zip(facts, hosted, codecs, strict=True)
        )
        if beyond is not None:
            models = (_loaded(beyond, settings), *models)
        _load_adapters(models, adapters)
        host = _start_host(settings, models, room, turns) if settings.models_on_demand else None
        started.pop_all()
    return Loaded(models, with_key, host, beyond)


def _loaded(beyond: Beyond, settings: Settings) -> LoadedModel:
    """Returns a model whose engine is elsewhere, with its text side."""
    codec = None
    if settings.workers == 1:
        from deepwell.dialogue.text import Codec

        codec = Codec.load(beyond.path)
    return LoadedModel(beyond.name, beyond.path, beyond.engine, codec, beyond.tasks, beyond.defaults)


def _takes_adapters(settings: Settings, adapters: Mapping[str, Path]) -> bool:
    return bool(adapters) or settings.adapter_dir is not None


def _start_host(
    settings: Settings, models: Sequence[LoadedModel], room: int, turns: Path | None
) -> ModelHost:
    from deepwell.server.residency.host import ModelHost

    host = ModelHost(settings, served=[model.name for model in models], budget_bytes=room, turns=turns)
    host.start()
    return host


def _loads_none(settings: Settings) -> bool:
    """Returns whether no model is loaded at the start: models are loaded on demand, and nobody named one that stays."""
    if not settings.models_on_demand or settings.additional_models or settings.embedding_model:
        return False
    if settings.engine != "native":
        return False
    return settings.origins()["model"] == "default"


def _room_on_demand(settings: Settings, planned: Sequence[Planned]) -> int:
    """Returns the bytes that models on demand may have together.

    Raises:
        InsufficientMemory: the models that stay leave less than the setting asks for.
    """
    from deepwell.engine.machine import available_memory_bytes
    from deepwell.errors import InsufficientMemory

    left = available_memory_bytes() - sum(one.memory.total_bytes for one in planned)
    if settings.models_memory_mb is None:
        return left
    asked = settings.models_memory_mb * 1_000_000
    if asked > left:
        raise InsufficientMemory(
            f"models_memory_mb asks for {asked / 1e6:.0f} MB, and {max(left, 0) / 1e6:.0f} MB are left",
            fix=f"set DEEPWELL_MODELS_MEMORY_MB to {max(left, 0) // 1_000_000} or less",
        )
    return asked


def _import_server() -> None:
    """Imports the server. FastAPI's models of an OpenAPI document are built with the document, by the first request for it."""
    from pydantic import BaseModel

    BaseModel.model_config["defer_build"] = True
    try:
        import fastapi  # noqa: F401
    finally:
        del BaseModel.model_config["defer_build"]
    import deepwell.server.run  # noqa: F401


def _print_plan(planned: Sequence[Planned], room: int) -> None:
    out = console()
    for one in planned:
        out.print(f"{one.name}  {one.path}", soft_wrap=True)
        for line in one.memory.lines(language()):
            out.print(f"  {line}", soft_wrap=True)
    if len(planned) > 1:
        total = sum(one.memory.total_bytes for one in planned)
        available = planned[0].memory.available_bytes
        sizes = {"size": f"{total / 1e6:.1f} MB", "available": f"{available / 1e9:.1f} GB"}
        out.print(say("plan_all", **sizes), soft_wrap=True)
    if room:
        out.print(say("plan_on_demand", size=f"{room / 1e9:.1f} GB"), soft_wrap=True)


def _check_bases(served: Sequence[str], adapters: Iterable[str]) -> None:
    """Refuses adapters, NAME or MODEL:NAME each, whose base model is not loaded at the start."""
    for given in adapters:
        if not served:
            raise InvalidRequest(
                "an adapter needs a model that stays loaded",
                fix="name its base: deepwell serve smollm2 --adapter ...",
            )
        base, colon, own = given.partition(":")
        if colon and base not in served:
            raise InvalidRequest.of("adapter_base_not_served", name=own, base=base, served=" ".join(served))


def _check_reranker(
    settings: Settings, planned: Sequence[Planned], beyond: Sequence[str], adapters: Iterable[str]
) -> None:
    """Refuses a reranker that is not served, or generates no text. With models on demand, the first search finds out."""
    name = settings.knowledge_reranker
    writers = [*beyond, *(one.name for one in planned if not one.checkpoint.config.is_encoder)]
    if name is None or name in writers or name in {given.rpartition(":")[2] for given in adapters}:
        return
    if settings.models_on_demand and name not in {one.name for one in planned}:
        return
    there = " ".join(writers) or "none"
    raise InvalidRequest.of("reranker_not_served", name=name, there=there, there_zh=" ".join(writers) or "无")


def _check_semantic(settings: Settings, others: Sequence[Planned]) -> None:
    """Refuses a cache of similar questions without a model, beside the main one, that embeds them."""
    embeds = (one.checkpoint.config.is_encoder or "generate" not in one.tasks for one in others)
    if settings.semantic_cache == "on" and not any(embeds):
        raise InvalidRequest.of("semantic_without_embedder")


def _load_adapters(models: Sequence[LoadedModel], adapters: Mapping[str, Path]) -> None:
    """Loads LoRA adapters by name, for all tenants. A name belongs to the main model unless another's stands before it.

    Raises:
        InvalidRequest: a name is that of a served model, or is no name for an adapter.
        InvalidModelFile, UnsupportedModel: as the engine says.
    """
    from deepwell.server.access.adapter_names import check_name

    served = {model.name: model for model in models}
    for name, path in adapters.items():
        base, colon, own = name.partition(":")
        model, name = (served[base], own) if colon else (models[0], name)
        check_name(name, served, "adapter")
        model.engine.load_adapter(name, str(path))
