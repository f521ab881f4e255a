"""`Recognisers`: the recognition models of a server, opened when a request first names them, and kept."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Final

from deepwell.errors import InvalidRequest, ModelNotFound
from deepwell.media.recognition.model import RecognitionModel
from deepwell.media.recognition.process import Recogniser, RecogniserLimits
from deepwell.models.formats.kinds import kind_of
from deepwell.models.store.catalog import shipped_catalog
from deepwell.models.store.store import ModelStore
from deepwell.server.options import RecognitionServing

__all__ = ["Recognisers"]

_DEFAULT: Final = "whisper-1"
"""OpenAI's name, which stands for the model of the setting."""


class Recognisers:
    """The recognition models of one server. It belongs to one event loop."""

    def __init__(self, options: RecognitionServing) -> None:
        self._options = options
        self._limits = RecogniserLimits(options.threads, options.most_s)
        self._open: dict[Path, Recogniser] = {}

    async def find(self, name: str) -> Recogniser:
        """Returns the model of a name. It is loaded by its first recording.

        Raises:
            ModelNotFound: there is none; the fix is the command that fetches it, or names those that are here.
            InvalidRequest: the model is none for recognition.
        """
        model = await asyncio.to_thread(self._model, name)
        recogniser = self._open.get(model.folder)
        if recogniser is None:
            recogniser = self._open[model.folder] = Recogniser(model, self._limits)
        return recogniser

    async def close(self) -> None:
        """Ends all models and what they work on."""
        for recogniser in self._open.values():
            await recogniser.close()
        self._open.clear()

    def _model(self, name: str) -> RecognitionModel:
        asked = self._options.model if name == _DEFAULT else name
        store = ModelStore(self._options.models_dir or Path(os.devnull))
        # A request names no path: the setting alone may.
        own = asked == self._options.model or name == Path(self._options.model).name
        if own and not store.can_hold(self._options.model):
            stored = store.resolve(Path(self._options.model))
        elif store.can_hold(asked) and asked in store.names():
            stored = store.get(asked)
        else:
            raise self._missing(asked, store)
        if kind_of(stored.path) != "recognition":
            raise InvalidRequest.of("recognition_other_kind", name=asked, known=_listed(store), param="model")
        return RecognitionModel.of(stored.name, stored.path)

    def _missing(self, name: str, store: ModelStore) -> ModelNotFound:
        entry = shipped_catalog().get(name)
        if entry is not None and entry.kind == "recognition":
            return ModelNotFound.of("recognition_not_pulled", name=name, param="model")
        return ModelNotFound.of("recognition_not_here", name=name[:96], known=_listed(store), param="model")


def _listed(store: ModelStore) -> str:
    found = [name for name in store.names() if kind_of(store.root / name) == "recognition"]
    return ", ".join(found or [name for name, one in shipped_catalog().items() if one.kind == "recognition"])
