"""Requests without input, with which clients load a model and unload it (`keep_alive` 0)."""

from __future__ import annotations

from deepwell.server.access.principal import Principal
from deepwell.server.answering import Answering
from deepwell.server.context import ServerContext
from deepwell.server.families.models.unloading import unload_model
from deepwell.server.families.ollama.names import served_name
from deepwell.server.families.ollama.schema import OllamaRequest
from deepwell.server.residency.engine import OnDemandEngine

__all__ = ["load", "unload"]


async def load(answering: Answering) -> None:
    """Loads a model if it is loaded on demand; then its time without requests begins.

    Raises:
        DeepwellError: it cannot be loaded, or not in time.
    """
    engine = answering.model.engine
    if isinstance(engine, OnDemandEngine):
        await engine.load()


async def unload(context: ServerContext, body: OllamaRequest, principal: Principal) -> None:
    """Unloads the model of a request.

    Raises:
        DeepwellError: as `unload_model` says.
    """
    await unload_model(context, served_name(context, body.model), principal)
