"""Opens the main model of a server whose engine is beyond it: the text side here, the weights there."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import SecretStr

from deepwell.cli.output import console
from deepwell.errors import InvalidRequest
from deepwell.messages import say

if TYPE_CHECKING:
    from deepwell.dialogue.model import Task
    from deepwell.engine.hosting.remote.engine import RemoteEngine
    from deepwell.models.store.sampling import SamplingDefaults
    from deepwell.models.store.store import StoredModel
    from deepwell.settings import Settings

__all__ = ["Beyond", "is_beyond", "name_beyond", "open_beyond"]

_START_S: Final = 1800.0  # for which vLLM may load a model and compile
_OF_VLLM: Final = ("top_k", "min_p", "repetition_penalty")


@dataclass(frozen=True, slots=True)
class Beyond:
    """A model whose engine is beyond this process.

    Attributes:
        settings: those with which another process of this server reaches the same engine.
        close: ends the engine, as far as it was started here.
    """

    name: str
    path: Path
    engine: RemoteEngine
    tasks: tuple[Task, ...]
    defaults: SamplingDefaults
    settings: Settings
    close: Callable[[], None]


def is_beyond(settings: Settings) -> bool:
    """Returns whether the main model runs elsewhere than on Deepwell's own engine."""
    return settings.engine != "native"


def name_beyond(settings: Settings) -> str:
    """Returns the name of the main model, whose text side is in the store or at a path.

    Raises:
        ModelNotFound: it is not here.
    """
    from deepwell.models.store.store import ModelStore

    return ModelStore(settings.models_dir).resolve(settings.model).name


def open_beyond(settings: Settings, *, adapters: bool, as_json: bool) -> Beyond:
    """Finds the model's text side, starts vLLM where that is asked for, and asks the server what it can.

    Args:
        adapters: whether LoRA adapters are to be loaded.

    Raises:
        DeepwellError: the model's files are not here, or the server cannot be reached, started or used.
    """
    from deepwell.engine.hosting.remote.address import RemoteAddress, RemoteOptions
    from deepwell.engine.hosting.remote.probe import open_remote
    from deepwell.models.store.store import ModelStore

    if settings.engine != "vllm":
        RemoteAddress.parse(settings.engine)  # a wrong one is told first
    stored = ModelStore(settings.models_dir).resolve(settings.model)
    with ExitStack() as started:
        if settings.engine != "vllm":
            options = RemoteOptions.of(settings, name=stored.name)
            engine = open_remote(options, stored.path)
        else:
            from deepwell.cli.engines.vllm import VllmChild

            if not (stored.path.is_dir() and any(stored.path.glob("*.safetensors"))):
                raise InvalidRequest.of("engine_vllm_model", name=stored.name, path=stored.path.name)
            if not as_json:
                console().print(say("engine_vllm_starts", name=stored.name), soft_wrap=True)
            child = VllmChild(settings, stored.name, stored.path, adapters=adapters, as_json=as_json)
            started.callback(child.stop)
            values = {
                "engine": f"vllm={child.url}",
                "engine_key": SecretStr(child.key),
                "engine_key_file": None,
            }
            settings = settings.model_copy(update=values | {"engine_model": stored.name})
            options = RemoteOptions.of(settings, name=stored.name)
            engine = open_remote(options, stored.path, alive=child.check, wait_s=_START_S)
        started.callback(engine.close)
        runs = engine.capabilities()
        defaults = _defaults(settings, stored, engine)
        tasks: tuple[Task, ...] = ("generate",) if "embed" in runs.lacks else ("generate", "embed")
        if not as_json:
            lacks = ", ".join(runs.lacks)
            console().print(
                say("engine_found", kind=runs.backend, url=engine.url, lacks=lacks), soft_wrap=True
            )
        close = started.pop_all().close
    return Beyond(stored.name, stored.path, engine, tasks, defaults, settings, close)


def _defaults(settings: Settings, stored: StoredModel, engine: RemoteEngine) -> SamplingDefaults:
    """Returns the sampling parameters of requests that do not give them.

    Raises:
        InvalidRequest: the publisher recommends some that the engine does not take.
    """
    from deepwell.dialogue.opening import beyond_defaults

    found = beyond_defaults(settings, stored)
    lacks = engine.capabilities().lacks
    neutral = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
    if "sampling" in lacks and (names := [n for n in _OF_VLLM if getattr(found, n) != neutral[n]]):
        raise InvalidRequest.of("engine_sampling", names=", ".join(names), url=engine.url)
    return found
