"""Requests without input, with which clients load and unload models."""

from __future__ import annotations

from deepwell.dialogue.model import ServedModel
from deepwell.errors import InvalidRequest
from deepwell.server.families.ollama.schema import OllamaRequest

__all__ = ["check_unload"]


def check_unload(model: ServedModel, body: OllamaRequest) -> None:
    """Checks that a request without input does not ask to unload the model (`keep_alive` 0).

    Raises:
        InvalidRequest: it does, and the server keeps the models that it was started for.
    """
    if body.unloads:
        raise InvalidRequest(
            f"{model.name!r} stays loaded: the server was started for it",
            fix="start the server without it to free its memory",
            param="keep_alive",
        )
