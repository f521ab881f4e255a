"""`Painters`: the models of a server that draw, opened when a request first names them, and kept."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Final

from deepwell.errors import InvalidRequest, ModelNotFound
from deepwell.media.images.options import (
    DEFAULT_MODEL,
    ImageModel,
    find_safety,
    open_image_model,
    stored_image_models,
)
from deepwell.media.images.process import Painter, PainterLimits
from deepwell.media.images.provenance import Credential
from deepwell.models.formats.kinds import kind_of
from deepwell.models.store.store import ModelStore
from deepwell.server.options import ImageServing

__all__ = ["Painters"]

_ALIASES: Final = ("dall-e-", "gpt-image-", "chatgpt-image-")
"""Beginnings of OpenAI's names, which stand for the model of the setting."""


class Painters:
    """The models of one server that draw. It belongs to one event loop."""

    def __init__(self, options: ImageServing) -> None:
        self._options = options
        self._open: dict[tuple[Path, Path | None], Painter] = {}

    async def find(self, name: str | None) -> Painter:
        """Returns the model of a name; None: that of the setting. It is loaded by its first request.

        Raises:
            ModelNotFound: there is none, or the model that has to look at images is missing.
            InvalidRequest: the model draws nothing.
        """
        model, safety = await asyncio.to_thread(self._found, name)
        key = model.folder, safety
        painter = self._open.get(key)
        if painter is None:
            limits = PainterLimits(self._options.threads, self._options.guard_score)
            credential = Credential.of(self._options.certificate, self._options.certificate_key)
            painter = self._open[key] = Painter(model, safety, limits, credential)
        return painter

    async def close(self) -> None:
        """Ends all models and what they work on."""
        for painter in self._open.values():
            await painter.close()
        self._open.clear()

    def _found(self, name: str | None) -> tuple[ImageModel, Path | None]:
        options = self._options
        store = ModelStore(options.models_dir or Path(os.devnull))
        return self._model(name, store), find_safety(store, options.guard)

    def _model(self, name: str | None, store: ModelStore) -> ImageModel:
        own = self._options.model
        asked = own if name is None or name.startswith(_ALIASES) else name
        # A request names no path: the setting alone may.
        if asked in (own, Path(own).name) or asked == DEFAULT_MODEL:
            return open_image_model(store, DEFAULT_MODEL if asked == DEFAULT_MODEL else own)
        if not store.can_hold(asked) or asked not in store.names():
            known = ", ".join(stored_image_models(store) or [DEFAULT_MODEL])
            raise ModelNotFound.of("image_model_unknown", name=asked[:96], known=known, param="model")
        stored = store.get(asked)
        if kind_of(stored.path) != "image":
            raise InvalidRequest.of("image_model_kind", name=asked, fit=DEFAULT_MODEL, param="model")
        return ImageModel(stored.name, stored.path)
